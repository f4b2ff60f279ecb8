"""A text → its sentences, and the layout around them; translations → the same layout again.

In: a text as people write it: paragraphs, lists, headings, indented and hard-wrapped lines. Out: blocks of sentences.

    sentences    (begin, end) of each sentence of one paragraph; nothing but white space lies between them
    split        text → blocks; what is no sentence (blank lines, indentation, list marks) stands in them as it was
    joined       lines, or parts of a sentence → one line
    rebuild      the same blocks with other sentences → text

The boundaries are those of the sentencex library (Wikimedia), which cuts rarely where no sentence ends. It never cuts
before a digit, since "3. 5" may be a number, nor inside of what it takes for quotations, so places that are sure are
added here: after 。！？, and between a word too long for an abbreviation and a capital or a digit.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field

from yanmo.errors import need

HAN = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
SURE = re.compile(r"[。！？][”’」』）]*\s*(?=[\dA-Za-z])|(?<=[a-zäöüß]{5})[.!?][\"'”’“»)]*\s+(?=[\dA-ZÄÖÜ`\"“„‘«])")
# what a line may begin with and a translation keeps: bullets, numbers and letters of lists, quotation marks of mails,
# headings. A number counts only with a sign and a space behind it: "3. Oktober" is one too, which costs a cut there
MARK = re.compile(
    r"(?:(?:[-*+•·–—>]|#{1,6}|\(?(?:\d{1,3}|[a-zA-Z])[.)]|[（(]?[一二三四五六七八九十]{1,3}[)）、])[ \t\u3000]+)+"
)
LINE = re.compile(r"[^\n]*\n|[^\n]+$")
WRAPPED = 40  # characters that a line must have for its break to be taken for a wrapped one


@dataclass
class Block:
    """One paragraph or line. `before` is written as it is, then the sentences with `gaps` between them, then `after`.

    width: 0, or of hard-wrapped lines the longest, to which `rebuild` wraps again, behind `indent`.
    """

    before: str
    sentences: list[str]
    gaps: list[str] = field(default_factory=list)
    after: str = ""
    width: int = 0
    indent: str = ""


def sentences(text: str, language: str) -> list[tuple[int, int]]:
    """The sentences of a paragraph as (begin, end) in code points, without the white space around them.

    language: a code such as en, de or zh; one that the library does not know is cut by general rules.
    """
    need("sentencex", "tasks", "cutting a text into sentences")
    import sentencex

    plain = text.encode("utf-8", "replace").decode() if not text.isprintable() else text  # lone surrogates become ?
    ends = [found["end_index"] for found in sentencex.get_sentence_boundaries(language, plain)]
    ends += [match.end() for match in SURE.finditer(plain)]
    cuts = sorted({0, len(text), *ends})
    found = []
    for begin, end in zip(cuts, cuts[1:]):
        part = text[begin:end]
        if part.strip():
            found.append((begin + len(part) - len(part.lstrip()), begin + len(part.rstrip())))
    return found


def split(text: str, language: str) -> list[Block]:
    """Cut a text into blocks; `rebuild` of unchanged, unwrapped blocks is the text itself."""
    blocks: list[Block] = []
    kept = ""  # blank lines
    for lines in _paragraphs(text):
        if not lines[0].strip():
            kept += lines[0]
            continue
        body = "".join(lines)
        indent = body[: len(body) - len(body.lstrip())]
        mark = MARK.match(body, len(indent))
        begin = len(indent) if mark is None or not body[mark.end() :].strip() else mark.end()
        end = len(body.rstrip())
        width = max(len(line.rstrip()) for line in lines) if len(lines) > 1 else 0
        inner = body[begin:end]
        if width:  # the breaks are not the writer's
            inner = joined(inner.split("\n"))
        cut = sentences(inner, language)
        blocks.append(
            Block(
                before=kept + body[:begin],
                sentences=[inner[a:b] for a, b in cut],
                gaps=[inner[one[1] : two[0]] for one, two in zip(cut, cut[1:])],
                after=body[end:],
                width=width,
                indent=" " * len(body[:begin].expandtabs()) if mark else indent,
            )
        )
        kept = ""
    if kept:
        blocks.append(Block(before=kept, sentences=[]))
    return blocks


def _paragraphs(text: str) -> list[list[str]]:
    """The lines of a text, those together that are one wrapped paragraph."""
    groups: list[list[str]] = []
    open_, widest = False, 0
    for match in LINE.finditer(text):
        line = match.group()
        bare = line.strip()
        if open_ and bare and _goes_on(groups[-1], line, widest):
            groups[-1].append(line)
        else:
            groups.append([line])
            widest = 0
        widest = max(widest, len(line.rstrip()))
        open_ = len(bare) >= WRAPPED
    return groups


def _goes_on(lines: list[str], line: str, widest: int) -> bool:
    """Whether `line` continues a wrapped paragraph: no mark, the indentation of its text, a first word without room.

    A line that ends a sentence goes on only if the next word would not have fitted, as wrapping would have it.
    """
    bare, last = line.strip(), lines[-1].rstrip()
    first = lines[0]
    lead = len(first) - len(first.lstrip())
    mark = MARK.match(first, lead)
    wanted = {lead, mark.end()} if mark else {lead}
    if len(lines) > 1:
        wanted = {len(lines[-1]) - len(lines[-1].lstrip())}
    if MARK.match(bare) or (len(line) - len(line.lstrip())) not in wanted:
        return False
    if HAN.match(last[-1]) or HAN.match(bare[0]):  # such text is wrapped at a column, if at all, inside a sentence
        return last[-1] not in "。！？：；”」』）.!?" and len(line.rstrip()) <= len(last) >= WRAPPED
    word = bare.split(None, 1)[0]
    full = max(widest, len(line.rstrip()))
    return len(last) + 1 + len(word) > full - (0 if last[-1] in ".!?:;" else 8) and full <= 120


def joined(parts: Iterable[str]) -> str:
    """Lines or parts of a sentence as one; between Chinese characters nothing stands for a break."""
    whole = ""
    for part in filter(None, map(str.strip, parts)):
        tight = not whole or (HAN.match(whole[-1]) and HAN.match(part[0]))
        whole += part if tight else " " + part
    return whole


def rebuild(blocks: list[Block], wanted: list[list[str]]) -> str:
    """Write blocks with other sentences, `wanted[b][s]` for sentence s of block b, in the same layout.

    Between Chinese sentences no space is put, and between others one, whatever the source had.
    """
    written = []
    for block, texts in zip(blocks, wanted, strict=True):
        body = ""
        for number, text in enumerate(texts):
            body += ("" if number == 0 or not body else _gap(block.gaps[number - 1], body, text)) + text
        if block.width and not HAN.search(body):
            body = _wrapped(block, body)
        written.append(block.before + body + block.after)
    return "".join(written)


def _gap(gap: str, before: str, after: str) -> str:
    if not after:
        return ""
    if HAN.match(before[-1]) or HAN.match(after[0]):
        return "" if gap == " " else gap
    return gap or " "


def _wrapped(block: Block, body: str) -> str:
    lead = block.before.rpartition("\n")[2]
    lines = textwrap.wrap(
        body, block.width, initial_indent="x" * len(lead), subsequent_indent=block.indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return "\n".join(lines)[len(lead) :]
