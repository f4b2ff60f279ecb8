"""An HTTP response as a crawler kept it → its status, type and payload.

In: the block of a response record. Out: a Response whose payload is free of chunks and compression.

    read_response             bytes → Response; raises Unusable
    media_type                a Content-Type header → (type, charset)

Crawlers keep headers that no longer tell the truth: `chunked` and `gzip` often describe what was undone before the
record was written. So both are undone where the bytes are like that, and passed over where they are not. Chunks that
begin well and then break are damage.
"""

from __future__ import annotations

import importlib
import re
import zlib
from dataclasses import dataclass

from yanmo.corpus.html import MAX_PAGE_BYTES, Unusable

MAX_HEADER = 2**17

_STATUS = re.compile(rb"\s*HTTP/?[0-9.]*[ \t]+([0-9]{3})[^\n]*\n", re.IGNORECASE)
_END = re.compile(rb"\r?\n[ \t]*\r?\n")
_CHUNK = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]{0,1000})?\r?\n")
_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([A-Za-z0-9_:.\-]{2,40})""", re.IGNORECASE)


@dataclass(frozen=True)
class Response:
    """status: of HTTP, 200 where the server sent none (HTTP/0.9); headers: names in small letters, the last value."""

    status: int
    headers: dict[str, str]
    payload: bytes
    raw: bytes  # the payload as it was kept: what digests are made of


def read_response(block: bytes, cut: bool = False) -> Response:
    """The parts of a response, which the crawler may have `cut`; raises Unusable for what is broken or too large."""
    status = _STATUS.match(block)
    if status is None:
        return Response(200, {}, block, block)
    start = status.end()
    end = _END.search(block, start - 2, start + MAX_HEADER)
    header = block[start : end.start()] if end and end.start() > start else (b"" if end else block[start:])
    raw = block[end.end() :] if end else b""
    headers = _headers(header)
    if len(raw) > MAX_PAGE_BYTES:
        raise Unusable("too_large", f"has a payload of more than {MAX_PAGE_BYTES:,} bytes")
    payload = raw
    if "chunked" in headers.get("transfer-encoding", "").lower():
        payload = _joined(raw, cut)
    for coding in reversed(headers.get("content-encoding", "").lower().split(",")):
        payload = _unpacked(payload, coding.strip(), cut)
    return Response(int(status[1]), headers, payload, raw)


def media_type(value: str) -> tuple[str, str]:
    """(type in small letters, charset or "") of a Content-Type."""
    charset = _CHARSET.search(value)
    return value.split(";")[0].split(",")[0].strip().lower(), charset.group(1) if charset else ""


def _headers(header: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    name = ""
    for line in header.decode("latin-1").split("\n"):
        if line[:1] in (" ", "\t") and name:
            headers[name] += " " + line.strip()
        elif ":" in line:
            name, value = line.split(":", 1)
            name = name.strip().lower()
            headers[name] = value.strip()
    return headers


def _joined(raw: bytes, cut: bool) -> bytes:
    """The chunks as one; bytes that do not begin like a chunk are taken as they are."""
    parts, at = [], 0
    first = True
    while at < len(raw):
        size = _CHUNK.match(raw, at)
        if size is None:
            if first:
                return raw
            raise Unusable("bad_chunks", f"has a broken chunk at byte {at:,} of its payload")
        length, at = int(size.group(1), 16), size.end()
        if length == 0:
            break
        if at + length > len(raw):
            if cut:
                parts.append(raw[at:])
                break
            raise Unusable("bad_chunks", f"has a chunk of {length:,} bytes where {len(raw) - at:,} follow")
        parts.append(raw[at : at + length])
        at += length
        if raw[at : at + 2] == b"\r\n":
            at += 2
        elif raw[at : at + 1] == b"\n":
            at += 1
        elif at < len(raw):
            raise Unusable("bad_chunks", f"has a chunk that does not end at byte {at:,} of its payload")
        first = False
    return b"".join(parts)


def _unpacked(data: bytes, coding: str, cut: bool) -> bytes:
    if coding in ("gzip", "x-gzip"):
        return _inflated(data, 31, cut) if data.startswith(b"\x1f\x8b") else data
    if coding == "deflate":
        for bits in (15, -15):
            try:
                return _inflated(data, bits, cut)
            except Unusable as error:
                if error.reason == "too_large" or error.reason == "cut_packing" and not _is_text(data):
                    raise
        return data
    if coding in ("br", "brotli"):
        return _brotli(data, cut)
    if coding == "zstd" and data.startswith(b"\x28\xb5\x2f\xfd"):
        raise Unusable("packed_unknown", "is packed with zstd, which is not read")
    return data


def _inflated(data: bytes, bits: int, cut: bool) -> bytes:
    inflate = zlib.decompressobj(wbits=bits)
    try:
        page = inflate.decompress(data, MAX_PAGE_BYTES + 1)
    except zlib.error:
        raise Unusable("bad_packing", "has a payload that does not inflate") from None
    if len(page) > MAX_PAGE_BYTES:
        raise Unusable("too_large", f"unpacks to more than {MAX_PAGE_BYTES:,} bytes")
    _check_end(inflate.eof or cut)
    return page


def _check_end(whole: bool) -> None:
    """A page that a crawler did not cut, and whose packing ends early, would be a part of a page without a word."""
    if not whole:
        raise Unusable("cut_packing", "has a payload whose packing ends early")


def _brotli(data: bytes, cut: bool) -> bytes:
    try:
        brotli = importlib.import_module("brotli")
    except ImportError:
        if _is_text(data):
            return data
        raise Unusable("packed_unknown", "is packed with Brotli; install brotli to read it") from None
    parts, size = [], 0
    inflate = brotli.Decompressor()
    try:
        for at in range(0, len(data), 2**12):
            parts.append(inflate.process(data[at : at + 2**12]))
            size += len(parts[-1])
            if size > MAX_PAGE_BYTES:
                raise Unusable("too_large", f"unpacks to more than {MAX_PAGE_BYTES:,} bytes")
    except brotli.error:
        if _is_text(data):
            return data
        raise Unusable("bad_packing", "has a payload that does not unpack") from None
    _check_end(inflate.is_finished() or cut)
    return b"".join(parts)


def _is_text(data: bytes) -> bool:
    return data[:512].lstrip()[:1] == b"<" and b"\0" not in data[:512]
