"""The unpacked bytes of a dump, whatever it is packed with, from any unit of it.

In: a unit of a .xml, .bz2, .gz, .xz or .7z file; what it is packed with is told by its first bytes. Out: blocks.

    packing       file → "plain", "bzip2", "gzip", "xz" or "7z"
    cut           file → the ranges of bytes that are units
    unpack        range → blocks, each with whether it begins inside the range; then what was damaged

A bzip2 file of many streams (Wikipedia's "multistream" dumps, pbzip2) is cut where streams begin: their first ten bytes
are found by looking for them, so no index file is needed. Reading goes on beyond the end of a range as long as the
caller asks, since a page may lie across it. After damage a bzip2 file is read from its next stream on; the others have
no such place, and end.
"""

from __future__ import annotations

import bz2
import lzma
import mmap
import re
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from yanmo.errors import FileError, need
from yanmo.files import reason

BLOCK = 1 << 20
UNIT_BYTES = 8 << 20  # packed: about 40 MB of XML, some seconds of work
EXPANSION = 1000  # a dump grows 4 to 20 times; what grows more than this is made to fill a disk
GRACE = 64 << 20  # bytes that any file may grow to

STREAM = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")  # the head of a stream and of its first block, or of its end
_MAGIC = (
    (b"BZh", "bzip2"),
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
)


@dataclass(frozen=True)
class Block:
    """Unpacked bytes; `inside`: they begin within the range that was asked for."""

    data: bytes
    inside: bool = True


@dataclass(frozen=True)
class Break:
    """Bytes were lost at `offset` of the packed file; what follows does not continue what came before."""

    reason: str
    what: str
    offset: int


def packing(path: Path) -> str:
    """What a file is packed with, by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(8)
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "plain")


def cut(path: Path, size: int) -> list[tuple[int, int | None]]:
    """The ranges of a file that can be read side by side; one (0, None) where there is only one."""
    kind = packing(path)
    if kind == "plain":
        starts = list(range(0, max(size, 1), 4 * UNIT_BYTES))
    elif kind == "bzip2" and size > UNIT_BYTES:
        starts = [0]
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            for found in STREAM.finditer(view):
                if found.start() - starts[-1] >= UNIT_BYTES:
                    starts.append(found.start())
    else:
        starts = [0]
    return list(zip(starts, [*starts[1:], None], strict=True))


def unpack(path: Path, start: int = 0, end: int | None = None) -> Iterator[Block | Break]:
    """Yield the bytes from `start` on, to the end of the file; the caller stops when it needs nothing beyond `end`."""
    kind = packing(path)
    if kind == "7z":
        yield from _seven(path)
        return
    with open(path, "rb") as file:
        file.seek(start)
        if kind == "plain":
            while data := file.read(BLOCK):
                at = file.tell() - len(data)
                if end is not None and at < end < at + len(data):  # a block lies on one side of the end
                    yield Block(data[: end - at])
                    yield Block(data[end - at :], False)
                else:
                    yield Block(data, end is None or at < end)
        elif kind == "bzip2":
            yield from _streams(file, start, end)
        else:
            yield from _whole(file, kind)


def _streams(file: BinaryIO, start: int, end: int | None) -> Iterator[Block | Break]:
    """The streams of a bzip2 file one after another; a damaged one is left at the next one's head."""
    fence = _Fence()
    at, waiting = start, b""  # where the stream begins that is read next; packed bytes that are at hand
    while True:
        waiting = waiting or file.read(BLOCK)
        if not waiting:
            return
        found = STREAM.match(waiting + (file.read(16) if len(waiting) < 16 else b""))
        begun, stream = at, bz2.BZ2Decompressor()
        inside = end is None or begun < end
        problem = None if waiting.startswith(b"BZh") or found else "no stream begins here"
        try:
            while problem is None and not stream.eof:
                data = stream.decompress(waiting, BLOCK)
                at += len(waiting)
                waiting = b""
                if data:
                    fence.check(len(data), at - start)
                    yield Block(data, inside)
                if stream.needs_input and not stream.eof:
                    waiting = file.read(BLOCK)
                    if not waiting:
                        yield Break("truncated", "the file ends within a stream", at)
                        return
        except (OSError, ValueError, EOFError) as error:
            problem = reason(error)
        except _TooMuch as error:
            yield Break("expansion", str(error), begun)
            return
        if problem is None:
            waiting = stream.unused_data
            at -= len(waiting)
            continue
        yield Break("damaged", f"the packed bytes cannot be read ({problem})", begun)
        at, waiting = _next_stream(file, begun + 1)
        if at < 0:
            return


def _next_stream(file: BinaryIO, start: int) -> tuple[int, bytes]:
    """Where the next stream begins, and bytes from there on; (-1, b"") at the end of the file."""
    file.seek(start)
    kept, at = b"", start
    while data := file.read(BLOCK):
        data = kept + data
        if found := STREAM.search(data):
            return at + found.start(), data[found.start() :]
        kept = data[-16:]
        at += len(data) - len(kept)
    return -1, b""


class _TooMuch(Exception):
    """The bytes unpack to more than EXPANSION times their number."""


class _Fence:
    """Counts what was unpacked."""

    def __init__(self) -> None:
        self.unpacked = 0

    def check(self, size: int, packed: int) -> None:
        self.unpacked += size
        if self.unpacked > GRACE + EXPANSION * packed:
            raise _TooMuch(f"{packed:,} bytes unpack to more than {EXPANSION:,} times as many; do not trust the file")


def _whole(file: BinaryIO, kind: str) -> Iterator[Block | Break]:
    """gzip (members one after another) and xz."""
    fence = _Fence()

    def new() -> Any:
        return zlib.decompressobj(31) if kind == "gzip" else lzma.LZMADecompressor(memlimit=512 << 20)

    stream, waiting, ended = new(), b"", True
    try:
        while True:
            waiting = waiting or file.read(BLOCK)
            if not waiting and (kind == "gzip" or stream.needs_input or ended):
                break
            if ended:
                waiting = waiting.lstrip(b"\0")  # padding between members, which both formats allow
                if not waiting:
                    continue
                stream, ended = new(), False
            data = stream.decompress(waiting, BLOCK)
            if stream.eof:
                waiting, ended = stream.unused_data, True
            else:
                waiting = stream.unconsumed_tail if kind == "gzip" else b""
                if kind == "xz" and not stream.needs_input and not data:
                    raise EOFError("no progress")
            if data:
                fence.check(len(data), file.tell())
                yield Block(data)
            while kind == "xz" and not ended and not stream.needs_input and not stream.eof:
                data = stream.decompress(b"", BLOCK)
                fence.check(len(data), file.tell())
                if data:
                    yield Block(data)
                if stream.eof:
                    waiting, ended = stream.unused_data, True
        if not ended:
            yield Break("truncated", "the file ends before its packed bytes do", file.tell())
    except _TooMuch as error:
        yield Break("expansion", str(error), file.tell())
    except (zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
        yield Break("damaged", f"the packed bytes cannot be read ({reason(error)})", file.tell())


def _seven(path: Path) -> Iterator[Block | Break]:
    """A 7z archive, whose members are unpacked into a folder beside the temporary files first."""
    py7zr = need("py7zr", "sevenzip", "reading a .7z dump")
    try:
        with py7zr.SevenZipFile(path) as archive, tempfile.TemporaryDirectory() as place:
            size = sum(member.uncompressed for member in archive.list())
            if size > GRACE + EXPANSION * path.stat().st_size:
                yield Break("expansion", f"it unpacks to {size:,} bytes; do not trust the file", 0)
                return
            archive.extractall(place)
            for member in sorted(p for p in Path(place).rglob("*") if p.is_file() and not p.is_symlink()):
                with open(member, "rb") as file:
                    while data := file.read(BLOCK):
                        yield Block(data)
    except (FileError, GeneratorExit):
        raise
    except Exception as error:  # the package raises errors of many kinds for foreign bytes
        yield Break("damaged", f"the 7z archive cannot be read ({reason(error)})", 0)
