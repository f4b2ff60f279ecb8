"""HTML pages → their main text, by resiliparse.

In: the bytes of one page. Out: the text without navigation, scripts and image descriptions, one line for each block.

    page_text                 bytes → (text, name of the encoding)
    decoded_text              the same of a page that is text already
    nesting                   how deep the elements of a page lie in each other, at most

A page whose main part cannot be told from the rest gives the whole page's text. The extractor needs a time that grows
with the square of the nesting, so a page deeper than MAX_NESTING, which no browser shows either, is refused.
"""

from __future__ import annotations

import re

from yanmo.corpus.encodings import declared_charset, find_encoding
from yanmo.errors import need
from yanmo.files import reason

MAX_PAGE_BYTES = 64 * 2**20
MAX_NESTING = 1000  # browsers stop at 512
HEAD = 4096  # bytes in which the charset is looked for; the HTML standard says 1024, many pages need more

_TAG = re.compile(r"<!--|<(/?)([a-zA-Z][a-zA-Z0-9]*)(?:[^<>]*?(/?)>)?")
_RAW = frozenset(["script", "style", "textarea", "title", "xmp", "noframes", "iframe"])  # they hold text alone
_VOID = "area base br col embed hr img input link meta param source track wbr"
_ENDED_BY_THE_NEXT = "p li dt dd tr td th thead tbody tfoot option optgroup a"
_FLAT = frozenset(f"{_VOID} {_ENDED_BY_THE_NEXT}".split())
# Inside SVG and MathML a tag may close itself; these elements of HTML end such a part (HTML standard, 13.2.6.5).
_FOREIGN = frozenset(["svg", "math"])
_ENDING = (
    "b big blockquote body center code div dl em font h1 h2 h3 h4 h5 h6 head i listing menu nobr ol pre ruby s small "
    "span strong strike sub sup table tt u ul var"
)
_BREAKS_OUT = frozenset(_ENDING.split())


class Unusable(Exception):
    """A page without a text: a reason for the books, and the middle of a sentence."""

    def __init__(self, reason: str, what: str):
        super().__init__(what)
        self.reason, self.what = reason, what


def page_text(data: bytes) -> tuple[str, str]:
    """The main text of a page and the encoding it was in; raises Undecodable or Unusable."""
    need("resiliparse.extract.html2text", "corpus", "reading HTML")
    encoding = find_encoding(lambda: [data], declared_charset(data[:HEAD]))
    page = data.decode(encoding)
    deep = nesting(page)
    if deep > MAX_NESTING:
        raise Unusable("too_deep", f"nests {deep:,} elements, at most {MAX_NESTING:,} are read")
    return decoded_text(page), encoding


def decoded_text(page: str) -> str:
    """The main text of a decoded page that is not too deep; raises Unusable."""
    extractor = need("resiliparse.extract.html2text", "corpus", "reading HTML")
    try:
        text = extractor.extract_plain_text(page, main_content=True, alt_texts=False)
        if not text.strip():
            text = extractor.extract_plain_text(page, alt_texts=False)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the native parser is no Exception
        raise Unusable("html", f"is not usable HTML ({reason(Exception(str(error)))})") from None
    return text


def nesting(page: str) -> int:
    """The greatest number of elements that are open at once, counted from the tags alone; linear in the page."""
    depth = deepest = resume = 0
    foreign = False
    lower = page.lower()
    for tag in _TAG.finditer(lower):
        if tag.start() < resume:
            continue
        closing, name, itself = tag.group(1), tag.group(2), tag.group(3)
        if name is None or (name in _RAW and not closing):
            end = lower.find("-->" if name is None else f"</{name}", tag.end())
            resume = end if end >= 0 else len(lower)
        elif name in _FLAT or name in _RAW:
            continue
        elif closing:
            depth = max(depth - 1, 0)
            foreign = foreign and name not in _FOREIGN
        else:
            foreign = (foreign or name in _FOREIGN) and name not in _BREAKS_OUT
            depth += not (foreign and itself)
            deepest = max(deepest, depth)
    return deepest
