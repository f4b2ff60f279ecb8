"""A web page → its main text, by a cascade of two extractors.

In: the bytes of a page and the charset that its server states. Out: a Page: text, title, charset, robots, licences.

    main_text                 bytes → Page; raises Undecodable, Unusable or Unwanted
    decode_page               bytes → (text, codec, characters replaced)

The fast extractor (html.py) reads every page. Only a page that it finds worth the time, by length and language, goes
to the careful one in a child process of its own (extract_child.py), which has a limit of time and of memory. The
settings: `careful` ("auto": where trafilatura is installed, "on", "off"), `careful_from` (characters), `languages`
(codes to keep; all without), `seconds`, `memory` (bytes).
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, field, replace
from html import unescape

from yanmo.corpus.encodings import Undecodable, declared_charset, declared_codec, find_encoding
from yanmo.corpus.extract_child import careful_text
from yanmo.corpus.html import HEAD, MAX_NESTING, Unusable, decoded_text, nesting
from yanmo.corpus.language import identify
from yanmo.corpus.units import Settings
from yanmo.errors import need

MAX_REPLACED = 0.01  # share of characters that a page in its stated charset may lose; real pages mix charsets a little
CAREFUL_FROM = 100  # characters of the fast text; below, there is nothing to be careful about

_TITLE = re.compile(r"<title[^>]*>([^<]{0,1000})", re.IGNORECASE)
_META = re.compile(r"<meta\b[^>]{0,1000}>", re.IGNORECASE)
_NAME = re.compile(r"""\bname\s*=\s*["']?(?:robots|googlebot)\b""", re.IGNORECASE)
_CONTENT = re.compile(r"""\bcontent\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>]+))""", re.IGNORECASE)
_LINK = re.compile(r"<(?:a|link)\b[^>]{0,2000}>", re.IGNORECASE)
_HREF = re.compile(r"""\bhref\s*=\s*["']?([^"'\s>]{1,500})""", re.IGNORECASE)
_LICENSE = re.compile(r"""\brel\s*=\s*(?:"[^"]*\blicense\b|'[^']*\blicense\b|license\b)""", re.IGNORECASE)
_COMMONS = re.compile(r"(?:https?:)?//creativecommons\.org/(?:licenses|publicdomain)/", re.IGNORECASE)


class Unwanted(Exception):
    """What is left out on purpose: a reason for the books, and the middle of a sentence."""

    def __init__(self, reason: str, what: str):
        super().__init__(what)
        self.reason, self.what = reason, what


@dataclass(frozen=True)
class Page:
    """What a page says; replaced: characters that did not decode; extractor: "fast", "careful" or "" for plain text."""

    text: str
    charset: str
    replaced: int = 0
    title: str = ""
    robots: str = ""
    licenses: list[str] = field(default_factory=list)
    extractor: str = ""


def main_text(data: bytes, charset: str, html: bool, settings: Settings) -> Page:
    """The main text of a page, or the whole of a plain text; raises Undecodable, Unusable or Unwanted."""
    text, codec, replaced = decode_page(data, charset, html)
    if not html:
        return Page(text.replace("\r\n", "\n").replace("\r", "\n"), codec, replaced)
    deep = nesting(text)
    if deep > MAX_NESTING:
        raise Unusable("too_deep", f"nests {deep:,} elements, at most {MAX_NESTING:,} are read")
    fast = decoded_text(text)
    _check_language(fast, settings)
    page = Page(fast, codec, replaced, _title(text), _robots(text), _licenses(text), "fast")
    if not _careful(settings) or len(fast) < settings.get("careful_from", CAREFUL_FROM):
        return page
    careful = careful_text(text, settings)
    return replace(page, text=careful, extractor="careful") if careful.strip() else page


def _check_language(text: str, settings: Settings) -> None:
    """Raise Unwanted for a text that is surely in none of the wanted `languages`; one that cannot be told goes on."""
    wanted = settings.get("languages")
    if not wanted:
        return
    code, _ = identify(text)
    if code and code not in wanted:
        raise Unwanted("language", f"is in the language {code}, which is not wanted")


def decode_page(data: bytes, charset: str, html: bool) -> tuple[str, str, int]:
    """(text, codec, characters replaced) of a page: mark, UTF-8, what HTTP and the page state, detection."""
    stated = [codec for codec in (declared_codec(charset), declared_charset(data[:HEAD]) if html else None) if codec]
    try:
        codec = find_encoding(lambda: [data], stated[0] if stated else None)
        return data.decode(codec), codec, 0
    except Undecodable as why:
        refusal = why
    if refusal.reason == "binary":
        raise refusal
    for codec in [*stated, *([] if stated else _detected(data)), "utf-8"]:
        text = data.decode(codec, "replace")
        replaced = text.count("\ufffd")
        if replaced <= MAX_REPLACED * len(text):
            return text, codec, replaced
    raise refusal


def _detected(data: bytes) -> list[str]:
    detector = need("resiliparse.parse.encoding", "corpus", "reading HTML")
    name = detector.detect_encoding(data, max_len=2**17)
    codec = declared_codec(name or "")
    return [codec] if codec else []


def _careful(settings: Settings) -> bool:
    wanted = settings.get("careful", "auto")
    if wanted == "on":
        need("trafilatura", "extract", "the careful extractor")
        return True
    return wanted == "auto" and importlib.util.find_spec("trafilatura") is not None


def _title(page: str) -> str:
    found = _TITLE.search(page)
    return " ".join(unescape(found.group(1)).split()) if found else ""


def _robots(page: str) -> str:
    """The directives of robots metas, in the order in which they stand."""
    directives: list[str] = []
    for meta in _META.findall(page):
        content = _CONTENT.search(meta) if _NAME.search(meta) else None
        if content is not None:
            words = next(filter(None, content.groups()), "").lower().split(",")
            directives += [word.strip()[:100] for word in words if word.strip()]
    return ", ".join(dict.fromkeys(directives))


def _licenses(page: str) -> list[str]:
    """The addresses of rel=license links and of Creative Commons licences, each once."""
    found: list[str] = []
    for link in _LINK.findall(page):
        href = _HREF.search(link)
        if href is not None and (_LICENSE.search(link) or _COMMONS.match(href.group(1))):
            found.append(unescape(href.group(1)))
    return list(dict.fromkeys(found))[:20]
