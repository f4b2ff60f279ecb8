"""Pages out of the bytes of a MediaWiki export, each found by its own tags, so that damage costs one page.

In: blocks of unpacked bytes. Out: the bytes of each page, or what was damaged; a page's fields; what a dump says of
its site.

    utf8          blocks in another encoding that XML names → UTF-8
    spans         blocks → pages as bytes; a page belongs to the range in which its <page> begins
    parse         bytes → Page, or Damaged
    read_site     the first bytes → Site

An export escapes every "<" of its texts, so <page> and </page> stand nowhere else, and no XML parser is needed to find
them again after damage. The five entities of XML and numbers are read; an export that declares others is refused.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from yanmo.corpus.wikinative import check_utf8, without_entities
from yanmo.corpus.wikipedia_streams import Block, Break

Bytes = TypeVar("Bytes", str, bytes)

MAX_PAGE = 64 << 20  # bytes of one page's XML; MediaWiki itself stops at 2 MiB for a text
OPEN, CLOSE, END = b"<page>", b"</page>", b"</mediawiki>"
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|apos|#[0-9]{1,7}|#x[0-9a-fA-F]{1,6});")
_CONTROL = bytes([*range(9), 11, 12, *range(14, 32)])
_NONCHARACTERS = ("\ufffe".encode(), "\uffff".encode())
_DECLARED = re.compile(rb"""<\?xml[^>]{0,200}?encoding=["']([A-Za-z0-9._-]{2,40})["']""")
_NAMESPACE = re.compile(r'<namespace key="(-?\d+)"[^<>]*?(?:/>|>([^<]*)</namespace>)')
_TEXT = re.compile(rb"<text\b[^<>]*?(/?)>")


class Damaged(Exception):
    """A page that cannot be read: a reason for the books, a sentence's middle."""

    def __init__(self, reason: str, what: str):
        super().__init__(what)
        self.reason = reason


@dataclass
class Page:
    """One page with its newest revision in the file; `namespace` is empty where an old export does not state it."""

    title: str
    namespace: str
    id: str
    revision: str
    timestamp: str
    model: str
    data: bytes  # its wikitext in UTF-8
    redirect: bool

    @property
    def text(self) -> str:
        """Its wikitext."""
        return self.data.decode()

    @property
    def beginning(self) -> str:
        """The first 400 characters of it."""
        return self.data[:1600].decode("utf-8", "ignore")[:400]


@dataclass
class Site:
    """What the head of an export says of its wiki."""

    name: str = ""
    database: str = ""
    base: str = ""
    language: str = ""
    namespaces: dict[str, str] = field(default_factory=dict)  # number → local name


def read_site(head: bytes) -> Site:
    """The site of an export, from its first bytes in UTF-8."""
    text = head.partition(OPEN)[0].decode("utf-8", "replace")
    language = re.search(r'xml:lang="([A-Za-z-]{2,20})"', text)
    database = between(text, "<dbname>", "</dbname>")
    spoken = language[1] if language else database.removesuffix("wiki").replace("_", "-")
    names = {number: html.unescape(name) for number, name in _NAMESPACE.findall(text)}
    base = html.unescape(between(text, "<base>", "</base>"))
    return Site(html.unescape(between(text, "<sitename>", "</sitename>")), database, base, spoken, names)


def declares_entities(head: bytes) -> bool:
    """Whether an export begins with a document type, which no dump has and which bombs are made of."""
    start = head.partition(b"<mediawiki")[0]
    return b"<!DOCTYPE" in start or b"<!ENTITY" in start


def utf8(blocks: Iterable[Block | Break], head: bytes) -> Iterator[Block | Break]:
    """The same blocks in UTF-8; `head`: the first bytes of the file, which tell the encoding."""
    declared = _DECLARED.match(head)
    name = declared[1].decode().lower() if declared else "utf-8"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        name = "utf-16"
    elif head.startswith((b"<\0?\0", b"<\0m\0")):
        name = "utf-16-le"
    elif head.startswith((b"\0<\0?", b"\0<\0m")):
        name = "utf-16-be"
    if not re.fullmatch("utf-16(-[lb]e)?|iso-8859-[0-9]+|windows-125[0-8]|gb18030|gbk|big5|us-ascii", name):
        yield from blocks
        return
    decoder = codecs.getincrementaldecoder(name)("replace")
    for block in blocks:
        yield (
            Block(decoder.decode(block.data).encode("utf-8", "replace"), block.inside)
            if isinstance(block, Block)
            else block
        )


def spans(blocks: Iterable[Block | Break]) -> Iterator[bytes | Break]:
    """Yield each page's bytes; a Break for each damaged, endless or cut one, and for an export without its end."""
    held = b""
    finished = broken = started = False
    for block in blocks:
        if isinstance(block, Break):
            yield block
            held, broken = b"", True
            continue
        if not block.inside and OPEN not in held and not _begins(held):
            return
        edge = len(held) if not block.inside else None  # pages that begin from here on belong to the next range
        held += block.data
        started = started or OPEN in held
        position, held = yield from _pages(held, edge)
        finished = finished or END in held or END in block.data
        if edge is not None and position >= edge:
            return
        if len(held) > MAX_PAGE:
            yield Break("too_large", f"a page has more than {MAX_PAGE:,} bytes", 0)
            held = held[-len(CLOSE) :]
    if OPEN in held:
        yield Break("truncated", "the file ends within a page", 0)
    elif not finished and not broken:
        yield Break("truncated", "the file ends before </mediawiki>", 0)


def _begins(held: bytes) -> bool:
    return any(held.endswith(OPEN[:n]) for n in range(1, len(OPEN)))


def _pages(held: bytes, edge: int | None) -> Generator[bytes | Break, None, tuple[int, bytes]]:
    """Yield the complete pages of the bytes; returns (where reading stopped, what is left from there)."""
    position = 0
    while True:
        start = held.find(OPEN, position)
        if start < 0:
            keep = max(position, len(held) - len(END))
            return (keep if edge is None else max(edge, keep)), held[keep:]
        if edge is not None and start >= edge:
            return start, b""
        close = held.find(CLOSE, start)
        again = held.find(OPEN, start + 1, close if close >= 0 else len(held))
        if again >= 0:
            yield Break("damaged", "a page begins before the one before it ended", 0)
            position = again
        elif close < 0:
            return start, held[start:]
        else:
            position = close + len(CLOSE)
            if position - start > MAX_PAGE:
                yield Break("too_large", f"a page has {position - start:,} bytes, at most {MAX_PAGE:,} are read", 0)
            else:
                yield held[start:position]


def between(text: Bytes, start: Bytes, end: Bytes, begin: int = 0) -> Bytes:
    """What stands between two strings, or nothing."""
    at = text.find(start, begin)
    if at < 0:
        return text[:0]
    stop = text.find(end, at)
    return text[at + len(start) : stop] if stop >= 0 else text[:0]


def parse(page: bytes) -> Page:
    """One page's fields, of its newest revision; raises Damaged."""
    try:
        check_utf8(page)
    except UnicodeDecodeError as error:
        raise Damaged("invalid_bytes", f"byte {error.start:,} of the page is not UTF-8") from None
    if len(page.translate(None, _CONTROL)) != len(page) or any(mark in page for mark in _NONCHARACTERS):
        raise Damaged("damaged", "it holds a control character, which XML forbids")
    first = page.find(b"<revision>")
    head, revision = (page[:first], page[first:]) if first >= 0 else (page, b"")
    if page.count(b"<revision>") > 1:
        revision = max(revision.split(b"<revision>")[1:], key=lambda r: between(r, b"<timestamp>", b"</timestamp>"))
    title = between(head, b"<title>", b"</title>")
    if not title or b"<" in title:
        raise Damaged("damaged", "it has no title")
    text, tag = b"", _TEXT.search(revision)
    if tag is not None and not tag[1]:
        end = revision.find(b"</text>", tag.end())
        if end < 0:
            raise Damaged("damaged", "its text has no end")
        text = revision[tag.end() : end]
        if b"<" in text:
            raise Damaged("damaged", "its text holds a tag that is not escaped")

    def of(part: bytes, name: bytes) -> str:
        return between(part, b"<" + name + b">", b"</" + name + b">").decode()

    return Page(
        title=unescape(title).decode(),
        namespace=of(head, b"ns"),
        id=of(head, b"id"),
        revision=of(revision, b"id"),
        timestamp=of(revision, b"timestamp"),
        model=of(revision, b"model"),
        data=unescape(text),
        redirect=b"<redirect " in head,
    )


def unescape(text: bytes) -> bytes:
    """XML's own entities and numbers resolved; raises Damaged where another stands."""
    if b"&" not in text:
        return text
    found = without_entities(text)
    if found is not None:
        return found
    whole = text.decode()
    if len(_ENTITY.findall(whole)) != whole.count("&"):
        raise Damaged("damaged", "it holds an entity that XML does not know")
    return _ENTITY.sub(lambda match: html.unescape(match[0]), whole).encode()
