"""Wikipedia: MediaWiki XML dumps → one document for each article.

In: a dump, plain or packed (.gz, .bz2 of one or many streams, .xz, .7z). Out: units that are read side by side; from
each, documents and losses: every page is one of them.

    is_dump       whether bytes are the head of a MediaWiki export
    READER        split and read
    SETTINGS      what reading may be told

Settings: `variant` of Chinese (zh-cn), `namespaces` that are kept (0, articles), `tables` (kept as lines).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from urllib.parse import quote, urlsplit

from yanmo.corpus import wikinative, wikitext
from yanmo.corpus.documents import Document, document_id
from yanmo.corpus.sources import Source
from yanmo.corpus.units import Loss, Reader, Settings, Unit
from yanmo.corpus.wikipedia_pages import Damaged, Page, Site, declares_entities, parse, read_site, spans, utf8
from yanmo.corpus.wikipedia_streams import Block, Break, cut, unpack
from yanmo.errors import FileError
from yanmo.files import reason

SETTINGS: Settings = {"variant": "zh-cn", "namespaces": [0], "tables": True}
LICENSE = "CC BY-SA 4.0"  # of every Wikipedia's text since June 2023; other wikis state theirs elsewhere
HEAD = 4096
SITE_BYTES = 1 << 20  # where <siteinfo> must have ended


def is_dump(head: bytes) -> bool:
    """Whether the first, unpacked bytes of a file are those of a MediaWiki export, in UTF-8 or UTF-16."""
    narrow = head[:HEAD].removeprefix(b"\xef\xbb\xbf").replace(b"\0", b"").lstrip(b"\xff\xfe \t\r\n")
    return narrow.startswith(b"<mediawiki") or (narrow.startswith(b"<?xml") and b"<mediawiki" in narrow)


def split(source: Source) -> list[Unit]:
    """The units of a dump: ranges of whole bzip2 streams, or of the plain file; else the file itself."""
    try:
        return [Unit(source, start, end) for start, end in cut(source.path, source.size)]
    except OSError as error:
        raise FileError(f"{source.path}: cannot be read ({reason(error)}); check its permissions") from None


def read(unit: Unit, settings: Settings) -> Iterator[Document | Loss]:
    """Yield a document or a loss for each page that begins in the unit."""
    try:
        head, site = _head(unit.source, unit.source.path.stat().st_mtime_ns)
        if isinstance(head, Break):
            if unit.start == 0:
                yield Loss(head.reason, f"{head.what}; fetch it again", f"byte {head.offset:,}")
            return
        if not is_dump(head):
            if unit.start == 0:
                yield Loss("not_a_dump", "no MediaWiki export begins here; name another file", "byte 0")
            return
        if declares_entities(head):
            if unit.start == 0:
                what = "it declares entities, which no dump does; do not trust it"
                yield Loss("refused", what, "byte 0")
            return
        blocks = utf8(unpack(unit.source.path, unit.start, unit.end), head)
        for found in spans(blocks):
            if isinstance(found, Break):
                yield Loss(found.reason, f"{found.what}; fetch it again", f"byte {found.offset or unit.start:,}")
            else:
                yield _page(found, site, unit.source, SETTINGS | settings)
    except FileError:
        raise
    except OSError as error:
        yield Loss("unreadable", f"cannot be read ({reason(error)}); check its permissions")


READER = Reader(split, read)


@lru_cache(8)
def _head(source: Source, changed: int) -> tuple[bytes | Break, Site]:
    """The first unpacked bytes of a file, or why there are none, and its site; kept for the file's other units.

    changed: the file's time, so that another file of its name is read anew.
    """
    blocks = unpack(source.path)
    first = next(blocks, Block(b""))
    if isinstance(first, Break):
        return first, Site()
    head = first.data
    joined = b"".join(b.data for b in utf8(chain([first], _some(blocks, len(head))), head) if isinstance(b, Block))
    return head, read_site(joined[:SITE_BYTES])


def _some(blocks: Iterator[Block | Break], had: int) -> Iterator[Block]:
    for block in blocks:
        if had >= HEAD * 4 or not isinstance(block, Block):
            return
        had += len(block.data)
        yield block


def _page(data: bytes, site: Site, source: Source, settings: Settings) -> Document | Loss:
    try:
        page = parse(data)
    except Damaged as error:
        title = data[data.find(b"<title>") + 7 :][:80].partition(b"<")[0].decode("utf-8", "replace")
        title = " ".join(title.split())
        return Loss(error.reason, f"the page cannot be read: {error}", title)
    url = page_url(page.title, site.base)
    why = _removed(page, site, settings)
    text = ""
    if not why:
        prefixes = frozenset(site.namespaces[n].lower() for n in ("6", "14") if n in site.namespaces)
        text = wikinative.plain(page.data, settings["variant"], prefixes, tables=settings["tables"])
        why = () if text else ("empty", "has no text")
    if why:
        return Loss(why[0], why[1], page.title, failed=False, text=page.beginning[:200], url=url, id=page.id)
    meta = {"page": page.id, "revision": page.revision, "timestamp": page.timestamp, "namespace": page.namespace}
    host = urlsplit(site.base).hostname or ""
    return Document(
        document_id(f"{source.name}\0{page.id}", text),  # two pages of a dump may have one text
        text,
        source.name,
        title=page.title,
        url=url,
        language=site.language,
        license=LICENSE if host == "wikipedia.org" or host.endswith(".wikipedia.org") else "",
        date=page.timestamp,
        meta=json.dumps(meta, ensure_ascii=False),
    )


def _removed(page: Page, site: Site, settings: Settings) -> tuple[str, str] | tuple[()]:
    """Why a page is left out on purpose: (reason, sentence's end), or nothing."""
    kept = {str(number) for number in settings["namespaces"]}
    if page.namespace:
        outside = page.namespace not in kept
    else:
        prefix, colon, _ = page.title.partition(":")
        others = {name for number, name in site.namespaces.items() if number not in kept and name}
        outside = bool(colon) and prefix in others
    if outside:
        return "namespace", f"is a page of namespace {page.namespace or page.title.partition(':')[0]}"
    if page.redirect or wikitext.is_redirect(page.beginning):
        return "redirect", "leads to another page"
    if page.model and page.model != "wikitext":
        return "not_wikitext", f"is {page.model}"
    if wikinative.is_disambiguation(page.data, page.title):
        return "disambiguation", "lists pages of one name"
    return ()


def page_url(title: str, base: str) -> str:
    """The address of a page, from that of the main page; nothing where the dump names none."""
    if not re.match("https?://", base):
        return ""
    path, _, last = base.partition("?title=")
    root = f"{path}?title=" if last else base.rpartition("/")[0] + "/"
    return root + quote(title.replace(" ", "_"), safe="/:@!$&'()*,;")
