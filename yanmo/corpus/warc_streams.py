"""The bytes inside an archive of web captures, unpacked: gzip or LZ4 member by member, or plain.

In: a file and a range of its bytes. Out: Blocks in order; a block says where it came from and whether bytes before it
were lost.

    packing                   the first bytes of a file → "gzip", "lz4" or "plain"
    blocks                    the members that start within a range → Blocks
    starts_record             whether bytes begin like a WARC or ARC record
    find_member               the next place where a packed record begins

A member that does not inflate, or whose checksum is wrong, is one loss; reading goes on at the next place where the
mark of a member is followed by bytes that inflate to the beginning of a record. A member that grows more than
MAX_EXPANSION times beyond GRACE bytes is left there: Deflate can grow a thousandfold, web pages grow about fivefold.
"""

from __future__ import annotations

import mmap
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from yanmo.errors import need

WINDOW = 2**17  # compressed bytes given to the decompressor at once
BLOCK = 2**20  # unpacked bytes of a block at most
MAX_EXPANSION = 200
GRACE = 64 * 2**20
MARKS = {"gzip": b"\x1f\x8b\x08", "lz4": b"\x04\x22\x4d\x18"}
PROBE = 4096  # compressed bytes that are unpacked to see what a member holds

Map = mmap.mmap | bytes
WARC_LINE = rb"WARC/[0-9]\.[0-9]{1,2}[ \t]*\r?\n"
# URL, IP address, date, type, and in version 2 status, checksum, location, offset and file; then the length.
ARC_LINE = (
    rb"(?P<url>[a-zA-Z][a-zA-Z0-9+.\-]*:[^\n]*?) (?P<ip>[0-9]{1,3}(?:[.][0-9]{1,3}){3}|[0-9a-fA-F]*:[0-9a-fA-F:.]+|-) "
    rb"(?P<date>[0-9]{8,20}) "
    rb"(?P<type>[^\n]*?)(?P<more> (?:[0-9]{3}|-) \S+ \S+ [0-9\-]+ \S+)? (?P<length>-?[0-9a-zA-Z]+)[ \t]*\r?\n"
)
_RECORD = re.compile(rb"\s{0,16}(?:%b|%b)" % (WARC_LINE, ARC_LINE))


@dataclass(frozen=True)
class Block:
    """Unpacked bytes; offset: of their member in the file, or of themselves where the file is plain.

    fresh: the first of a member; lost: why bytes between the block before and this one are missing, at `lost_at`.
    An empty block only carries a loss.
    """

    offset: int
    data: bytes
    fresh: bool = False
    lost: str = ""


def packing(head: bytes) -> str:
    """How a file is packed, from its first bytes."""
    return next((name for name, mark in MARKS.items() if head.startswith(mark)), "plain")


def starts_record(data: bytes) -> bool:
    """Whether bytes begin with the first line of a WARC or ARC record."""
    return _RECORD.match(data[:PROBE]) is not None


def blocks(data: Map, kind: str, start: int, end: int) -> Iterator[Block]:
    """The members that start in [start, end), or the bytes of that range of a plain file."""
    if kind == "plain":
        for at in range(start, end, BLOCK):
            yield Block(at, data[at : min(at + BLOCK, end)], fresh=at == start)
        return
    position = start if start == 0 else find_member(data, kind, start, end)
    while position < end:
        member, broken, first = position, "", True
        for piece in _member(data, kind, member):
            if isinstance(piece, Block):
                yield Block(member, piece.data, fresh=first)
                first = False
            else:
                broken, position = piece
        if broken:
            yield Block(member, b"", lost=broken)
            position = find_member(data, kind, position, len(data))
        elif end <= position < len(data) and not _is_member(data, kind, position):
            yield Block(position, b"", lost="damaged")  # the range behind begins at the next whole member


def find_member(data: Map, kind: str, start: int, end: int) -> int:
    """The first place in [start, end) where a member with the beginning of a record starts, or `end`."""
    mark = MARKS[kind]
    at = data.find(mark, start, end + len(mark))
    while 0 <= at < end:
        if _is_member(data, kind, at):
            return at
        at = data.find(mark, at + 1, end + len(mark))
    return end


def _is_member(data: Map, kind: str, at: int) -> bool:
    return data[at : at + 4].startswith(MARKS[kind]) and starts_record(readable(data, kind, at))


def readable(data: Map, kind: str, at: int, size: int = PROBE) -> bytes:
    """What can be unpacked of the beginning of a member, damaged or not: `size` bytes at most."""
    inflate, found = _decompressor(kind), b""
    for place in range(at, min(at + PROBE, len(data)), 64):
        try:
            found += inflate.decompress(data[place : place + 64], size)
        except (zlib.error, RuntimeError, ValueError, EOFError):
            break
        if inflate.eof or len(found) >= size:
            break
    return found[:size]


def _decompressor(kind: str) -> Any:
    if kind == "gzip":
        return zlib.decompressobj(wbits=31)
    return need("lz4.frame", "corpus", "reading LZ4").LZ4FrameDecompressor()


def _member(data: Map, kind: str, at: int) -> Iterator[Block | tuple[str, int]]:
    """The blocks of one member, then (reason or "", where to go on)."""
    inflate = _decompressor(kind)
    place, given, grown = at, b"", 0
    try:
        while not inflate.eof:
            if not given and getattr(inflate, "needs_input", True):  # LZ4 keeps for itself what it has not unpacked
                given = data[place : place + WINDOW]
                place += len(given)
                if not given:
                    yield "truncated", len(data)
                    return
            out = inflate.decompress(given, BLOCK)
            given = inflate.unconsumed_tail if kind == "gzip" else b""
            grown += len(out)
            if out:
                yield Block(at, out)
            if grown > GRACE + MAX_EXPANSION * (place - at):
                yield "expansion", place - len(given)
                return
    except (zlib.error, RuntimeError, ValueError, EOFError):
        yield "damaged", at + 1
        return
    yield "", place - len(inflate.unused_data or b"")
