"""Archives of web captures (WARC 0.18, 1.0, 1.1; WET; ARC) → documents, one for each page.

In: a file, gzip record by record or as a whole, LZ4, or plain. Out: documents, and a Loss for everything else.

    is_archive                the first bytes of a file → whether it is an archive
    READER                    split: ranges of the file where each record is packed alone, else the file; read

A response becomes a document if its status is 200 and its type is HTML or plain text; a resource and a conversion (the
text of a WET file) need no status. Everything else is removed with its reason, all that is damaged fails with its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mmap
import os
from collections.abc import Iterator
from typing import Any

from yanmo.corpus import warc_streams
from yanmo.corpus.documents import Document, new_document
from yanmo.corpus.encodings import Undecodable
from yanmo.corpus.extract import Page, Unwanted, main_text
from yanmo.corpus.html import Unusable
from yanmo.corpus.http import Response, media_type, read_response
from yanmo.corpus.sources import Source
from yanmo.corpus.units import Loss, Reader, Settings, Unit
from yanmo.corpus.warc_records import Record, loss, records

UNIT_BYTES = 64 * 2**20  # of the file, for a range of packed records
HTML = frozenset(["text/html", "application/xhtml+xml"])
SHOWN = 200  # characters of what was lost
NO_PAGES = {"request", "metadata", "revisit", "warcinfo", "continuation"}


def is_archive(head: bytes) -> bool:
    """Whether the first kilobytes of a file, unpacked or not, begin like a WARC or ARC record."""
    kind = warc_streams.packing(head)
    return warc_streams.starts_record(warc_streams.readable(head, kind, 0) if kind == "gzip" else head)


def split(source: Source) -> list[Unit]:
    """Ranges of some 64 MiB where every record is packed alone, else the whole file."""
    size = os.path.getsize(source.path)
    if size <= UNIT_BYTES * 3 // 2:
        return [Unit(source)]
    with open(source.path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        kind = warc_streams.packing(data[:8])
        if kind == "plain" or warc_streams.find_member(data, kind, 1, UNIT_BYTES) == UNIT_BYTES:
            return [Unit(source)]
    count = size // UNIT_BYTES
    edges = [i * UNIT_BYTES for i in range(count)]
    return [Unit(source, start, end) for start, end in zip(edges, [*edges[1:], None])]


def read(unit: Unit, settings: Settings) -> Iterator[Document | Loss]:
    """The pages of a unit; `settings`: those of extract.main_text."""
    size = os.path.getsize(unit.source.path)
    end = size if unit.end is None else min(unit.end, size)
    if size == 0:
        yield loss("empty", 0, what="is missing: the file has no bytes")
        return
    with open(unit.source.path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        kind = warc_streams.packing(data[:8])
        blocks = warc_streams.blocks(data, kind, unit.start, end)
        for found in records(blocks, kind == "plain", unit.start):
            yield found if isinstance(found, Loss) else _document(found, unit.source, settings)


READER = Reader(split, read)


def _document(record: Record, source: Source, settings: Settings) -> Document | Loss:
    kind = record.fields.get("warc-type", "").lower()
    try:
        if kind in NO_PAGES:
            raise Unwanted(kind, f"is a {kind}, no page")
        if kind not in ("response", "resource", "conversion"):
            raise Unusable("bad_header", "names no known type")
        page, response = _page(record, kind)
        if kind == "conversion":  # strict UTF-8 proves a text; that its digest is wrong is stated
            text = page.data.decode("utf-8").replace("\r\n", "\n").strip("\n")
            return _as_document(record, source, Page(text, "utf-8"), response)
        if not _digest_fits(record, response):
            raise Unusable("wrong_digest", "is not what its digest was made of")
        return _as_document(record, source, main_text(page.data, page.charset, page.html, settings), response)
    except Unwanted as why:
        return loss(why.reason, record.offset, record.url, why.what, failed=False, text=_shown(record))
    except Unusable as why:
        return loss(why.reason, record.offset, record.url, why.what, text=_shown(record))
    except (Undecodable, UnicodeDecodeError) as why:
        reason = why.reason if isinstance(why, Undecodable) else "invalid_bytes"
        return loss(reason, record.offset, record.url, "is in no encoding that is known", text=_shown(record))


class _Payload:
    """What the record captured: its bytes, the charset that HTTP states, whether it is HTML."""

    def __init__(self, data: bytes, charset: str, html: bool):
        self.data, self.charset, self.html = data, charset, html


def _page(record: Record, kind: str) -> tuple[_Payload, Response]:
    if kind == "response" and not record.url.lower().startswith(("dns:", "ftp:", "whois:")):
        response = read_response(record.body, "warc-truncated" in record.fields)
        stated = response.headers.get("content-type", record.fields.get("content-type", "") if record.arc else "")
    else:
        response = Response(200, {}, record.body, record.body)
        stated = record.fields.get("content-type", "")
    if response.status != 200:
        raise Unwanted("http_status", f"has the HTTP status {response.status}")
    media, charset = media_type(stated)
    start = response.payload[:1024].lstrip().lower()
    if not media:
        media = "text/html" if start.startswith((b"<!doctype html", b"<html", b"<head")) else "unknown"
    if kind != "conversion" and media not in HTML and media != "text/plain":
        raise Unwanted("media_type", f"has the type {media[:100]}, no page")
    if not response.payload.strip():
        raise Unwanted("empty_page", "has no payload")
    html = media in HTML or (kind == "response" and start.startswith((b"<!doctype html", b"<html")))
    return _Payload(response.payload, charset, html), response


def _digest_fits(record: Record, response: Response) -> bool:
    """Whether the SHA-1 of the block, if stated, is that of the block or, as some crawlers wrote, of the payload."""
    stated = record.fields.get("warc-block-digest", "")
    if not stated.lower().startswith("sha1:"):
        return True
    wanted = stated[5:].strip().upper()
    for data in (record.body, response.raw):
        digest = hashlib.sha1(data).digest()
        if wanted in (base64.b32encode(digest).decode(), digest.hex().upper()):
            return True
    return len(wanted) not in (32, 40) or "warc-truncated" in record.fields


def _as_document(record: Record, source: Source, page: Page, response: Response) -> Document:
    if not page.text.strip():
        raise Unwanted("no_text", "is a page without a main text")
    robots = ", ".join(filter(None, (response.headers.get("x-robots-tag", ""), page.robots)))
    meta: dict[str, Any] = {
        "offset": record.offset,
        "record": record.fields.get("warc-record-id", ""),
        "charset": page.charset,
        "replaced": page.replaced,
        "extractor": page.extractor,
        "robots": robots,
        "licenses": page.licenses,
        "truncated": record.fields.get("warc-truncated", ""),
        "digest": "" if _digest_fits(record, response) else "wrong",
    }
    return new_document(
        page.text,
        source.name,
        url=record.url,
        date=record.fields.get("warc-date", ""),
        title=page.title,
        license=page.licenses[0] if len(page.licenses) == 1 else "",
        meta=json.dumps({name: value for name, value in meta.items() if value not in ("", [], 0) or name == "offset"}),
    )


def _shown(record: Record) -> str:
    return record.body[:SHOWN].decode("utf-8", "replace")
