"""The files behind the paths that a user names.

In: paths of files and folders. Out: a sorted list of files that can be read, each with its kind and a name that says
where it lies without saying where on this machine.

    find_sources              paths → sources, or one error for a path that does not exist or holds nothing readable
    arrived                   a source of a published corpus and where its file lies now → the source to read
    open_blocks               a source → the bytes inside it, unpacked, as a stream of blocks
    heads                     a file → its first kilobytes, as they lie and unpacked

Passed over and counted: hidden files and folders, other suffixes, and a file that was already met under another name,
so that links that lead round in a circle end.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from yanmo.corpus.documents import TEXT_COLUMNS, check_shard
from yanmo.corpus.encodings import BLOCK
from yanmo.corpus.ledger import ReadReport
from yanmo.errors import FileError, InputError, need
from yanmo.files import reason

if TYPE_CHECKING:  # what speaks HTTP is loaded where a name may want it
    from yanmo.corpus.download import Published

KINDS = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".html": "html",
    ".htm": "html",
}
PACKINGS = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ", ".zst": b"\x28\xb5\x2f\xfd"}  # how each begins
PARQUET = ".parquet"
PART = re.compile(r"\.xml-p[0-9]+p[0-9]+(-[a-z]+)?(?=$|\.)")  # a part of a dump: pages-articles1.xml-p1p41242.bz2
# Suffix → kind and how the file may be packed; their readers (readers.py) unpack them.
UNITS = {
    ".xml": ("wikipedia", (".gz", ".bz2", ".xz", ".7z")),
    ".warc": ("archive", (".gz", ".lz4")),
    ".wet": ("archive", (".gz", ".lz4")),
    ".arc": ("archive", (".gz", ".lz4")),
}
SUPPORTED = (
    "a .txt, .md, .jsonl, .csv, .tsv, .html or .htm file, one of these with .gz, .bz2, .xz or .zst, a .parquet file, a "
    "MediaWiki dump (.xml, .bz2, .gz, .xz, .7z), a web archive (.warc, .wet, .arc, also with .gz or .lz4), or a folder "
    "of them"
)
CARD = "card.json"  # beside Parquet shards it makes a folder a corpus: its card and README are no texts

HEAD = 2**14  # bytes that tell what a file is
MAX_EXPANSION = 200  # a text grows 3 to 20 times; what grows more is made to fill a disk
GRACE = 64 * 2**20  # bytes that any file may grow to
EXPECTED = 2**30  # bytes of a file whose size nobody publishes, until it is here


class Expansion(EOFError):
    """A packed file that grows beyond MAX_EXPANSION times its size."""


_LINES = re.compile(r"\.json(\.gz|\.bz2|\.xz|\.zst)?$")  # lines, or one value: its beginning says which

DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)

Key = tuple[Any, Any]  # what tells a file from others, however it is named
Tell = Callable[[bytes], str | None]  # the first bytes of a file, packed or not → a kind of UNITS


@dataclass(frozen=True)
class Source:
    """A file to read: `name` starts at the path that the user gave; `kind` is that of KINDS or UNITS, or parquet.

    published: what is to be fetched first; until then path, kind and size are what is expected.
    """

    path: Path
    name: str
    kind: str
    packed: bool
    size: int
    published: Published | None = None


def kind_of(name: str) -> tuple[str, bool] | None:
    """(kind, packed) of a file name, or None for a suffix that is not read."""
    name = name.lower()
    stem, suffix = os.path.splitext(name)
    if suffix == PARQUET and stem:
        return "parquet", False
    whole = PART.sub(".xml", name)
    for packing in ("", *PACKINGS, ".7z", ".lz4"):
        plain, inner = os.path.splitext(whole.removesuffix(packing)) if whole.endswith(packing) else ("", "")
        if plain and inner in UNITS and packing in ("", *UNITS[inner][1]):
            return UNITS[inner][0], False
    packed = suffix in PACKINGS
    stem, suffix = os.path.splitext(stem) if packed else (stem, suffix)
    return (KINDS[suffix], packed) if suffix in KINDS and stem else None


def heads(path: Path) -> tuple[bytes, bytes]:
    """The first kilobytes of a file as they lie on the disk, and the same unpacked, as far as they can be."""
    with open(path, "rb") as file:
        raw = file.read(4 * HEAD)
    try:
        if raw.startswith(PACKINGS[".gz"]):
            return raw, zlib.decompressobj(31).decompress(raw, HEAD)
        if raw.startswith(PACKINGS[".bz2"]):  # a block of bzip2 has up to 900 kB
            with open(path, "rb") as file:
                return raw, bz2.BZ2Decompressor().decompress(file.read(2**20), HEAD)
        if raw.startswith(PACKINGS[".xz"]):
            return raw, lzma.LZMADecompressor().decompress(raw, HEAD)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return raw, b""
    return raw, raw


@dataclass(frozen=True)
class _Asked:
    """How files are known: by contents (`tell`), and by the columns of texts that lines have."""

    tell: Tell
    columns: Sequence[str]


def _kind(path: Path, named: bool, asked: _Asked) -> tuple[str, bool] | None:
    """(kind, packed) of a file: what its content is, where that can be told, else what its name says.

    named: the user gave this very file, so that any text is taken as one.
    """
    by_name = kind_of(path.name)
    if by_name is not None and by_name[0] != "text":
        return by_name
    try:
        raw, inner = heads(path)
    except OSError:
        return by_name  # counted when the file is read
    if found := asked.tell(raw) or (asked.tell(inner) if inner is not raw else None):
        return found, False
    if by_name is not None:
        return by_name
    if raw.startswith(b"PAR1"):
        return "parquet", False
    packed = raw is not inner
    if _LINES.search(path.name.lower()) and _has_lines(inner, asked.columns):
        return "jsonl", packed
    if not named or is_container(inner) or not _is_utf8(inner):
        return None
    start = inner[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "html", packed
    return ("jsonl" if _has_lines(inner, asked.columns) else "text"), packed


def _has_lines(head: bytes, columns: Sequence[str]) -> bool:
    """Whether the first line is a JSON object with a text, as far as the line is there."""
    line, end, _ = head.removeprefix(b"\xef\xbb\xbf").partition(b"\n")
    if not end and len(head) >= HEAD:
        keys = [json.dumps(name, ensure_ascii=escaped).encode() for name in columns for escaped in (True, False)]
        return line.startswith(b"{") and any(key in line for key in keys)
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and any(isinstance(row.get(name), str) for name in columns)


def _is_utf8(head: bytes) -> bool:
    """Whether bytes begin a text in UTF-8: the only one that a file without a known name is taken for."""
    try:
        return bool(head) and "\0" not in codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False


def _passed_over(path: Path, corpus: bool) -> str:
    if corpus:
        return "part of a corpus folder"
    try:
        held = path.is_file() and any(map(is_container, heads(path)))
    except OSError:
        held = False
    return "zip or tar, to be unpacked first" if held else "another suffix"


def is_container(head: bytes) -> bool:
    """Whether a file holds other files: zip or tar, which are to be unpacked first."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06")) or head[257:262] == b"ustar"


def _nothing(head: bytes) -> None:
    return None


def find_sources(
    paths: Sequence[str | Path | Source],
    report: ReadReport,
    tell: Tell = _nothing,
    columns: Sequence[str] = TEXT_COLUMNS,
) -> list[Source]:
    """The readable files behind the paths, in the order of the paths and sorted within each; `tell` knows contents.

    columns: the names of columns of texts, of which a Parquet file that is named must have one. A Source stands for
    itself, and the name of a published corpus for its files, which are not fetched yet.
    """
    if isinstance(paths, str | Path):
        raise InputError(f"{paths}: a list of paths is needed, not one path")
    if not paths:
        raise InputError(f"no path is given; name {SUPPORTED}")
    met: set[Key] = set()
    asked = _Asked(tell, columns)
    found: list[Source] = []
    for path in paths:
        others = [path] if isinstance(path, Source) else _published(path)
        if others or isinstance(path, Source):
            found += [each for each in others if each.published is None or _new(each.published.key, met, report)]
            continue
        path = Path(path)
        passed_over, again = report.skipped.total(), report.skipped["met before"]
        here = list(_behind(path, met, report, asked))
        if not here and (not found or report.skipped["met before"] == again):
            skipped = report.skipped.total() - passed_over
            raise FileError(f"{path}: nothing to read ({skipped:,} entries passed over); name {SUPPORTED}")
        found += here
    report.bytes_total += sum(source.size for source in found)
    return found


def _published(path: str | Path) -> list[Source]:
    if ":" not in os.fspath(path):
        return []
    from yanmo.corpus.published import sources_of  # what speaks HTTP is loaded where a name may want it

    return sources_of(path)


def arrived(source: Source, path: Path, tell: Tell, columns: Sequence[str], strict: bool) -> Source:
    """A source whose file has been fetched to `path`; strict: FileError where it can only be a loss."""
    kind = _kind(path, True, _Asked(tell, columns))
    if strict and kind is None:
        raise FileError(f"{source.name}: cannot be read as a text; name {SUPPORTED}")
    if strict and kind is not None and kind[0] == "parquet":
        check_shard(path, columns)
    return Source(path, source.name, *(kind or ("text", False)), path.stat().st_size)


def _behind(path: Path, met: set[Key], report: ReadReport, asked: _Asked) -> Iterator[Source]:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise FileError(f"{path}: cannot be read ({reason(error)}); name {SUPPORTED}") from None
    if stat.S_ISDIR(status.st_mode):
        yield from _walk(path, shown(path.resolve().name) or "folder", met, report, asked)
        return
    kind = _kind(path, True, asked) if stat.S_ISREG(status.st_mode) else None
    if kind is None:
        if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK) and any(map(is_container, heads(path))):
            raise FileError(f"{path}: a zip or tar file holds other files; unpack it and name the folder")
        raise FileError(f"{path}: cannot be read as a text; name {SUPPORTED}")
    if kind[0] == "parquet":
        check_shard(path, asked.columns)
    if _new((status.st_dev, status.st_ino), met, report):
        yield Source(path, shown(path.name), *kind, status.st_size)


def _walk(folder: Path, name: str, met: set[Key], report: ReadReport, asked: _Asked) -> Iterator[Source]:
    """Depth first, names sorted, without recursion: a folder may be deeper than Python's stack."""
    waiting = [(folder, name)]
    while waiting:
        folder, name = waiting.pop()
        try:
            status = folder.stat()
            if not _new((status.st_dev, status.st_ino), met, report):
                continue
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            report.fail(name, "unreadable", f"{name}: cannot be read ({reason(error)}); check its permissions")
            continue
        corpus = any(e.name == CARD for e in entries) and any(e.name.endswith(PARQUET) for e in entries)
        folders = []
        for entry in entries:
            inner = f"{name}/{shown(entry.name)}"
            if entry.name.startswith("."):
                report.skipped["hidden"] += 1
                continue
            try:
                status = entry.stat()
            except OSError as error:  # a link to nowhere, or to itself
                report.fail(inner, "unreadable", f"{inner}: cannot be read ({reason(error)}); mend or remove the link")
                continue
            if stat.S_ISDIR(status.st_mode):
                if corpus:  # its fates and signatures
                    report.skipped["part of a corpus folder"] += 1
                else:
                    folders.append((Path(entry.path), inner))
                continue
            kind = _kind(Path(entry.path), False, asked) if stat.S_ISREG(status.st_mode) else None
            if kind is None or (corpus and kind[0] != "parquet"):
                report.skipped[_passed_over(Path(entry.path), corpus)] += 1
            elif _new((status.st_dev, status.st_ino), met, report):
                yield Source(Path(entry.path), inner, *kind, status.st_size)
        waiting += reversed(folders)


def _new(key: Key, met: set[Key], report: ReadReport) -> bool:
    """Whether this file or folder has not been met; systems without inode numbers (0) cannot tell."""
    if key[1] and key in met:
        report.skipped["met before"] += 1
        return False
    met.add(key)
    return True


def shown(name: str) -> str:
    """A file name on one line and fit for UTF-8: systems allow any bytes in a name."""
    name = os.fsencode(name).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\ufffd" for character in name)


def open_source(source: Source) -> BinaryIO:
    """The bytes inside a source, unpacked; reading more than MAX_EXPANSION allows raises Expansion."""
    if not source.packed:
        return open(source.path, "rb")
    file = open(source.path, "rb")  # noqa: SIM115 (closed with the stream around it)
    kind = next((name for name, mark in PACKINGS.items() if file.peek(8).startswith(mark)), ".gz")
    inner: Any
    if kind == ".bz2":
        inner = bz2.BZ2File(file)
    elif kind == ".xz":
        inner = lzma.LZMAFile(file)  # noqa: SIM115
    elif kind == ".zst":
        inner = _zstd(file)
    else:
        inner = gzip.GzipFile(fileobj=file)
    return cast(BinaryIO, io.BufferedReader(_Limited(inner, file), 2**16))


def _zstd(file: BinaryIO) -> Any:
    arrow = need("pyarrow", "corpus", "reading .zst files")
    return arrow.CompressedInputStream(arrow.PythonFile(file, "r"), "zstd")


class _Limited(io.RawIOBase):
    """A stream that unpacks, stopped where it grows too much; `packed` is the file on the disk."""

    def __init__(self, inner: Any, packed: BinaryIO):
        self.inner, self.packed, self.size = inner, packed, 0
        self.limit = max(GRACE, MAX_EXPANSION * os.fstat(packed.fileno()).st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.inner.read(len(buffer))
        except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError):
            raise
        except OSError as error:  # bzip2 and zstd tell damage so; a broken disk has a number
            if error.errno is not None:
                raise
            raise EOFError(str(error)) from None
        self.size += len(data)
        if self.size > self.limit:
            raise Expansion(f"grows to more than {self.limit:,} bytes")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self.inner.close()
            self.packed.close()
        super().close()


def open_blocks(source: Source, size: int = BLOCK) -> Iterator[bytes]:
    """Yield the bytes inside a source, unpacked, in blocks of at most `size`."""
    with open_source(source) as file:
        while block := file.read(size):
            yield block


def position(file: Any, source: Source) -> int:
    """How far the file on the disk has been read, packed or not."""
    return int(file.raw.packed.tell() if source.packed else file.tell())
