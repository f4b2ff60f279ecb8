"""Files, read with limits and written so that they are complete or absent.

In: paths that a user or a foreign folder names. Out: text, JSON, bytes, or a FileError of one sentence.

    read_text, read_json      bounded reading; invalid UTF-8 and JSON are named with file and position
    write_atomic              one file: written aside, flushed to the disk, renamed
    atomic_folder             one folder, the same way
    inside                    a name out of a foreign file, refused where it leaves its folder
    sha256_file               a fingerprint
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yanmo.errors import FileError

MAX_JSON_BYTES = 256 * 2**20  # the largest tokenizer.json in public use is about 35 MB
PREFIX = ".partial-"


def read_bytes(path: str | Path, limit: int = MAX_JSON_BYTES) -> bytes:
    """Read a whole file of at most `limit` bytes."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > limit:
            raise FileError(f"{path}: {size:,} bytes, at most {limit:,} are read; is it the right file?")
        return path.read_bytes()
    except FileError:
        raise
    except FileNotFoundError:
        raise FileError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise FileError(f"{path}: a folder, where a file is needed") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise FileError(f"{path}: cannot be read ({reason(error)}); check the path and its permissions") from None


def reason(error: Exception) -> str:
    """The shortest true description of a system error."""
    return getattr(error, "strerror", None) or str(error).splitlines()[0] if str(error) else type(error).__name__


def read_text(path: str | Path, limit: int = MAX_JSON_BYTES) -> str:
    """Read a UTF-8 file; a byte-order mark is dropped, an invalid byte is an error that names its position."""
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path}: byte {data[error.start]:#04x} at offset {error.start} is not UTF-8; convert the file to UTF-8"
        ) from None


def read_json(path: str | Path, limit: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file; damage is an error that names line and column."""
    text = read_text(path, limit)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise FileError(
            f"{path}: not JSON at line {error.lineno}, column {error.colno} ({error.msg}); fetch the file again"
        ) from None
    except (RecursionError, ValueError) as error:  # nesting too deep; an integer of too many digits
        raise FileError(f"{path}: not usable JSON ({reason(error)}); fetch the file again") from None


def read_json_object(path: str | Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON file whose top level must be an object."""
    value = read_json(path, limit)
    if not isinstance(value, dict):
        raise FileError(f"{path}: a JSON object is needed, found {type(value).__name__}; is it the right file?")
    return value


def write_atomic(path: str | Path, data: str | bytes) -> None:
    """Write a file so that a reader or a crash sees the old content or the new one, never a part."""
    path = Path(path)
    payload = data.encode("utf-8") if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=PREFIX)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, 0o666 & ~_umask())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise FileError(
            f"{path}: cannot be written ({reason(error)}); free some space or choose another place"
        ) from error


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON (indented, keys in the given order, non-ASCII kept) atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; at a clean exit it takes the place of `path`, else it is removed.

    An existing folder at `path` is replaced as a whole; it stays as it was if anything fails before.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=PREFIX))
        os.chmod(partial, 0o777 & ~_umask())
    except OSError as error:
        raise FileError(
            f"{path}: cannot be written ({reason(error)}); free some space or choose another place"
        ) from error
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _sync(file)
        old = None
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=PREFIX)) / "old"
            os.rename(path, old)
        os.rename(partial, path)
        _sync_folder(path.parent)
        if old is not None:
            shutil.rmtree(old.parent, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, FileError):
            raise
        raise FileError(
            f"{path}: cannot be written ({reason(error)}); free some space or choose another place"
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def inside(folder: str | Path, name: object, source: str | Path) -> Path:
    """Join a file name that `source` gives to its folder; anything but a plain file name is refused."""
    plain = isinstance(name, str) and name not in ("", ".", "..") and not any(c in name for c in "/\\:\0")
    if not plain:
        raise FileError(f"{source}: names the file {name!r}, not a plain name inside {folder}; do not trust it")
    return Path(folder) / str(name)


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file, as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make a rename durable; systems that cannot open a folder (Windows) do not need it."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
