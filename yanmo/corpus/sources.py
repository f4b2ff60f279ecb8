"""The files behind the paths that a user names.

In: paths of files and folders. Out: a sorted list of files that can be read, each with its kind and a name that says
where it lies without saying where on this machine.

    find_sources              paths → sources, or one error for a path that does not exist or holds nothing readable
    open_blocks               a source → the bytes inside it, unpacked, as a stream of blocks

Passed over and counted: hidden files and folders, other suffixes, and a file that was already met under another name,
so that links that lead round in a circle end.
"""

from __future__ import annotations

import gzip
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from yanmo.corpus.documents import check_shard
from yanmo.corpus.encodings import BLOCK
from yanmo.corpus.ledger import ReadReport
from yanmo.errors import FileError, InputError
from yanmo.files import reason

KINDS = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".html": "html",
    ".htm": "html",
}
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
    "a .txt, .md, .jsonl, .html or .htm file, one of these with .gz, a .parquet file, a MediaWiki dump (.xml, .bz2, "
    ".gz, .xz, .7z), a web archive (.warc, .wet, .arc, also with .gz or .lz4), or a folder of them"
)
CARD = "card.json"  # beside Parquet shards it makes a folder a corpus: its card and README are no texts

DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class Source:
    """A file to read: `name` starts at the path that the user gave; `kind` is that of KINDS or UNITS, or parquet."""

    path: Path
    name: str
    kind: str
    packed: bool
    size: int


def kind_of(name: str) -> tuple[str, bool] | None:
    """(kind, packed with gzip) of a file name, or None for a suffix that is not read."""
    name = name.lower()
    packed = name.endswith(".gz")
    stem, suffix = os.path.splitext(name.removesuffix(".gz"))
    if suffix == PARQUET and stem and not packed:
        return "parquet", False
    name = PART.sub(".xml", name)
    for packing in ("", ".gz", ".bz2", ".xz", ".7z", ".lz4"):
        plain, inner = os.path.splitext(name.removesuffix(packing)) if name.endswith(packing) else ("", "")
        if plain and inner in UNITS and packing in ("", *UNITS[inner][1]):
            return UNITS[inner][0], False
    return (KINDS[suffix], packed) if suffix in KINDS and stem else None


def find_sources(paths: Sequence[str | Path], report: ReadReport) -> list[Source]:
    """The readable files behind the paths, in the order of the paths and sorted within each."""
    if isinstance(paths, str | Path):
        raise InputError(f"{paths}: a list of paths is needed, not one path")
    if not paths:
        raise InputError(f"no path is given; name {SUPPORTED}")
    met: set[tuple[int, int]] = set()
    found: list[Source] = []
    for path in map(Path, paths):
        passed_over, again = report.skipped.total(), report.skipped["met before"]
        here = list(_behind(path, met, report))
        if not here and (not found or report.skipped["met before"] == again):
            skipped = report.skipped.total() - passed_over
            raise FileError(f"{path}: nothing to read ({skipped:,} entries passed over); name {SUPPORTED}")
        found += here
    report.bytes_total += sum(source.size for source in found)
    return found


def _behind(path: Path, met: set[tuple[int, int]], report: ReadReport) -> Iterator[Source]:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise FileError(f"{path}: cannot be read ({reason(error)}); name {SUPPORTED}") from None
    if stat.S_ISDIR(status.st_mode):
        yield from _walk(path, shown(path.resolve().name) or "folder", met, report)
        return
    kind = kind_of(path.name)
    if not stat.S_ISREG(status.st_mode) or kind is None:
        raise FileError(f"{path}: cannot be read as a text; name {SUPPORTED}")
    if kind[0] == "parquet":
        check_shard(path)
    if _new(status, met, report):
        yield Source(path, shown(path.name), *kind, status.st_size)


def _walk(folder: Path, name: str, met: set[tuple[int, int]], report: ReadReport) -> Iterator[Source]:
    """Depth first, names sorted, without recursion: a folder may be deeper than Python's stack."""
    waiting = [(folder, name)]
    while waiting:
        folder, name = waiting.pop()
        try:
            if not _new(folder.stat(), met, report):
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
                folders.append((Path(entry.path), inner))
                continue
            kind = kind_of(entry.name)
            if kind is None or not stat.S_ISREG(status.st_mode) or (corpus and kind[0] != "parquet"):
                report.skipped["part of a corpus folder" if corpus else "another suffix"] += 1
            elif _new(status, met, report):
                yield Source(Path(entry.path), inner, *kind, status.st_size)
        waiting += reversed(folders)


def _new(status: os.stat_result, met: set[tuple[int, int]], report: ReadReport) -> bool:
    """Whether this file or folder has not been met; systems without inode numbers (0) cannot tell."""
    key = (status.st_dev, status.st_ino)
    if status.st_ino and key in met:
        report.skipped["met before"] += 1
        return False
    met.add(key)
    return True


def shown(name: str) -> str:
    """A file name on one line and fit for UTF-8: systems allow any bytes in a name."""
    name = os.fsencode(name).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\ufffd" for character in name)


def open_source(source: Source) -> BinaryIO:
    """The bytes inside a source, unpacked."""
    if source.packed:
        return cast(BinaryIO, gzip.open(source.path, "rb"))
    return open(source.path, "rb")


def open_blocks(source: Source, size: int = BLOCK) -> Iterator[bytes]:
    """Yield the bytes inside a source, unpacked, in blocks of at most `size`."""
    with open_source(source) as file:
        while block := file.read(size):
            yield block
