"""One file from a web server into a folder: resumed where it broke, checked, complete or absent, at a polite rate.

In: a Remote (address, name, what is published of it). Out: the path of the file.

    fetch       a Remote → a file in the folder; NAME.part and NAME.part.json until it is complete, NAME.seen.json after
    read        a small file (a list, a status) → its bytes
    known       the file where it is the one that was fetched and checked, without asking anybody
    remove      takes such a file away again

A part is only continued while the server says, by If-Range, that the file is still the same one. A file that is there
is taken where it is the one that was checked (size and time of NAME.seen.json); else it is checked again.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yanmo.errors import FileError, NetworkError
from yanmo.files import inside, read_json_object, reason, write_json

AGENT = "yanmo (a corpus builder; one connection at a time)"
BLOCK = 1 << 18
LONGEST = 300.0  # seconds that one pause may take
KINDS = ("sha256", "sha1", "md5")


@dataclass(frozen=True)
class Remote:
    """A file to fetch: `size` in bytes and `digest` as "sha1:…", "md5:…" or "sha256:…" where they are published."""

    url: str
    name: str
    size: int | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Published:
    """A file of a published corpus, here or not: plain values, which travel to another process.

    folder: of the cache, "" where the file is the hub's, whose `remote.url` is then hf:owner/name@COMMIT and whose
    digest may be "git:…" too; revision: what of the hub was asked for; source: its name in the books.
    """

    remote: Remote
    source: str
    folder: str = ""
    revision: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from others, by whatever names it was asked for."""
        return self.remote.url, self.remote.name


@dataclass(frozen=True)
class Manners:
    """How a server is treated: seconds without a byte, attempts without progress, first pause in seconds.

    least: bytes a second over `timeout` seconds, below which a connection counts as broken; an attempt made progress
    where it brought as much as `timeout` such seconds would. most: bytes a second that are taken at most, 0 for any.
    """

    timeout: float = 60.0
    attempts: int = 6
    pause: float = 1.0
    least: float = 2_000.0
    most: float = 0.0


class _Again(Exception):
    """This attempt failed; `wait`: seconds that the server asks for."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


def fetch(remote: Remote, folder: Path, manners: Manners = Manners()) -> Path:
    """Return the file in `folder`, downloaded unless it is there; NetworkError where it does not arrive."""
    path = inside(folder, remote.name, remote.url)
    if not remote.url.startswith(("http://", "https://")):
        raise NetworkError(f"{remote.url}: only http and https are fetched; check the address")
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_there(remote, path):
            return path
        with _alone(part):
            _arrive(remote, part, manners)
            os.replace(part, path)
        _notes_of(part).unlink(missing_ok=True)
        _remember(remote, path)
        return path
    except OSError as error:
        if isinstance(error, (NetworkError, FileError)):
            raise
        raise FileError(f"{part}: cannot be written ({reason(error)}); free some space") from None


def _arrive(remote: Remote, part: Path, manners: Manners) -> None:
    """Try until the part is the whole file."""
    failed = 0
    while True:
        before = _size(part)
        try:
            _attempt(remote, part, manners)
            _check(remote, part)
            return
        except _Again as error:
            grown = _size(part) - before
            failed = 0 if grown >= manners.least * manners.timeout else failed + 1
            if failed >= manners.attempts:
                raise NetworkError(f"{remote.url}: did not arrive ({error}); run again to continue it") from None
            if error.wait > LONGEST:
                raise NetworkError(f"{remote.url}: the server asks for {error.wait:.0f} s; run again later") from None
            time.sleep(min(max(error.wait, manners.pause * 2**failed), LONGEST))


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Keep other runs from a part: two that write one file leave holes in it. A run that is killed lets go."""
    try:
        import fcntl
    except ImportError:  # Windows, where an open file is not replaced
        yield
        return
    with open(part, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileError(f"{part}: another run downloads this file; wait until it ends") from None
        except OSError:  # a disk without locks
            pass
        try:
            yield
        finally:
            if part.exists() and not _size(part):
                part.unlink()


def read(url: str, folder: Path, manners: Manners = Manners(), limit: int = 64 * 2**20) -> bytes:
    """The bytes of a small file, asked for anew."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".asked-", dir=folder) as mine:  # another run may ask for the same
            path = fetch(Remote(url, "answer"), Path(mine), manners)
            if path.stat().st_size > limit:
                size = f"{path.stat().st_size:,} bytes, at most {limit:,} are read"
                raise NetworkError(f"{url}: {size}; check the address")
            return path.read_bytes()
    except OSError as error:
        if isinstance(error, (NetworkError, FileError)):
            raise
        raise FileError(f"{folder}: cannot be written ({reason(error)}); free some space") from None


def _attempt(remote: Remote, part: Path, manners: Manners) -> None:
    known = str(_object(_notes_of(part)).get("validator") or "")
    start = _size(part) if known else 0
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": known}
    request = urllib.request.Request(remote.url, headers=headers)
    try:
        with _network():
            opened = urllib.request.urlopen(request, timeout=manners.timeout)
        with opened as answer:
            start, goal = _beginning(answer, remote, part, start)
            _receive(answer, part, start, remote.size, manners)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            part.unlink(missing_ok=True)
        elif error.code not in (408, 425, 429) and error.code < 500:
            raise NetworkError(f"{remote.url}: HTTP {error.code}; check the name of the source") from None
        raise _Again(f"HTTP {error.code}", _seconds(error.headers.get("Retry-After") or "")) from None
    over = remote.size is not None and _size(part) > remote.size  # _check says so
    if goal is not None and _size(part) < goal and not over:
        raise _Again(f"{_size(part):,} of {goal:,} bytes")


def _beginning(answer: Any, remote: Remote, part: Path, start: int) -> tuple[int, int | None]:
    """Where the bytes of an answer belong, and how many the file then has, as far as the server says."""
    if not answer.url.startswith(("http://", "https://")):
        raise NetworkError(f"{remote.url}: leads to {answer.url}, which is not fetched; check the address")
    if answer.status != 206 or not str(answer.headers["Content-Range"]).startswith(f"bytes {start}-"):
        if answer.status != 200:
            part.unlink(missing_ok=True)
            raise _Again(f"a range that was not asked for, HTTP {answer.status}")
        start = 0
    tag = answer.headers["ETag"] or ""
    write_json(_notes_of(part), {"validator": tag if tag.startswith('"') else answer.headers["Last-Modified"] or ""})
    length = str(answer.headers["Content-Length"])
    return start, start + int(length) if length.isascii() and length.isdecimal() else remote.size


def _receive(answer: Any, part: Path, start: int, size: int | None, manners: Manners) -> None:
    """Write what arrives; ends at the end, at more than the published size, and where too little arrives."""
    with open(part, "r+b" if start else "wb") as file:
        file.seek(start)
        began = window = time.monotonic()
        taken = recent = 0
        try:
            while block := _next(answer):
                file.write(block)
                taken, recent, now = taken + len(block), recent + len(block), time.monotonic()
                if size is not None and start + taken > size:
                    return  # _check says so
                if now - window > manners.timeout:
                    if recent < manners.least * (now - window):
                        raise _Again(f"{recent:,} bytes in {now - window:.0f} s")
                    window, recent = now, 0
                if manners.most > 0:
                    time.sleep(max(0.0, taken / manners.most - (now - began)))
        finally:
            file.flush()
            os.fsync(file.fileno())


def _next(answer: Any) -> bytes:
    """What has arrived, b"" at the end."""
    with _network():
        return bytes(answer.read1(BLOCK))


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """What goes wrong in here is the network's, of whatever kind; outside, an OSError is the disk's."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _Again(str(error)[:200] or type(error).__name__) from None


def _seconds(text: str) -> float:
    """Retry-After: seconds, or a date."""
    if text.isascii() and text.isdecimal():
        return float(text)
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return 0.0


def known(remote: Remote, folder: Path) -> Path | None:
    """The file, where its size and time are those of when it was checked."""
    path = inside(folder, remote.name, remote.url)
    return path if path.is_file() and _is_known(remote, path) else None


def _is_known(remote: Remote, path: Path) -> bool:
    status, seen = path.stat(), _object(_seen_of(path))
    same = [seen.get("size"), seen.get("time")] == [status.st_size, status.st_mtime_ns]
    return same and seen.get("digest") == remote.digest and remote.size in (None, status.st_size)


def remove(remote: Remote, folder: Path) -> None:
    """Take a file out of the cache."""
    path = inside(folder, remote.name, remote.url)
    for each in (path, _seen_of(path)):
        each.unlink(missing_ok=True)


def _is_there(remote: Remote, path: Path) -> bool:
    """Whether a file is the one that is wanted; one that is not is removed."""
    if not path.exists():
        return False
    if not path.is_file():
        raise FileError(f"{path}: a folder, where a file is to be downloaded; remove it")
    if _is_known(remote, path):
        return True
    published = remote.digest is not None or remote.size is not None
    if published and _wrong(remote, path) == "":
        _remember(remote, path)
        return True
    path.unlink()
    return False


def _remember(remote: Remote, path: Path) -> None:
    status = path.stat()
    write_json(_seen_of(path), {"size": status.st_size, "time": status.st_mtime_ns, "digest": remote.digest})


def _check(remote: Remote, part: Path) -> None:
    if wrong := _wrong(remote, part):
        part.unlink()
        raise NetworkError(f"{remote.url}: arrived damaged ({wrong}) and was removed; try again")


def _wrong(remote: Remote, path: Path) -> str:
    """How a file differs from what is published of it, or nothing."""
    size = path.stat().st_size
    if remote.size not in (None, size):
        return f"{size:,} bytes instead of {remote.size:,}"
    if not remote.digest:
        return ""
    kind, _, wanted = remote.digest.partition(":")
    if kind not in KINDS:
        raise NetworkError(f"{remote.url}: its checksum is {remote.digest!r:.80}, of {', '.join(KINDS)} one is needed")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    return "" if found == wanted.lower() else f"{kind} {found[:12]} instead of {wanted[:12]}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _notes_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _seen_of(path: Path) -> Path:
    return path.with_name(path.name + ".seen.json")


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path, 2**16)
    except FileError:
        return {}
