"""A tar or zip of labelled data → the files in it, in memory.

In: a path that ends as archives do. Out: (name, bytes) of its regular files by name, hidden ones passed over.
"""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from yanmo.errors import FileError
from yanmo.files import reason

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
MAX_FILES = 200_000
BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError)


def is_archive(path: Path) -> bool:
    """Whether a name ends as that of an archive."""
    return path.name.lower().endswith(SUFFIXES)


def members(path: Path, limit: int) -> list[tuple[str, bytes]]:
    """The files of an archive, sorted by name; at most `limit` bytes in all. Raises FileError."""
    try:
        opened = _zip(path, limit) if path.name.lower().endswith(".zip") else _tar(path, limit)
        return sorted((name, data) for name, data in opened if not _hidden(name))
    except FileError:
        raise
    except BROKEN as error:  # RuntimeError: a zip with a password
        raise FileError(
            f"{path}: no archive that can be read ({reason(error)}); unpack it, or fetch it again"
        ) from None


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _tar(path: Path, limit: int) -> Iterator[tuple[str, bytes]]:
    size = count = 0
    with tarfile.open(path) as archive:
        for member in archive:
            size, count = size + member.size, count + 1
            _within(path, size, count, limit)
            if member.isreg() and (held := archive.extractfile(member)) is not None:
                yield member.name, held.read()


def _zip(path: Path, limit: int) -> Iterator[tuple[str, bytes]]:
    size = count = 0
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            count += 1
            if member.is_dir():
                continue
            with archive.open(member) as held:  # what the header says of sizes need not be true
                data = held.read(limit - size + 1)
            size += len(data)
            _within(path, size, count, limit)
            yield member.filename, data


def _within(path: Path, size: int, count: int, limit: int) -> None:
    if size > limit or count > MAX_FILES:
        raise FileError(
            f"{path}: more than {limit:,} bytes or {MAX_FILES:,} files in it; unpack it, and name a part of it"
        )
