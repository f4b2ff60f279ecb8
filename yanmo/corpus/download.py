"""One file from a web server into a folder: resumed where it broke, checked, complete or absent.

In: a Remote (address, name, what is published of it). Out: the path of the file.

    fetch       a Remote → a file in the folder; NAME.part and NAME.part.json until it is complete

A part is only continued while the server says, by If-Range, that the file is still the same one.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yanmo.errors import FileError, NetworkError
from yanmo.files import inside, reason, write_json

AGENT = "yanmo (a corpus builder; one connection at a time)"
BLOCK = 1 << 18
LONGEST = 300.0  # seconds that one pause may take


@dataclass(frozen=True)
class Remote:
    """A file to fetch: `size` in bytes and `digest` as "sha1:…", "md5:…" or "sha256:…" where they are published."""

    url: str
    name: str
    size: int | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Manners:
    """How a server is treated: seconds without a byte, attempts without progress, first pause in seconds."""

    timeout: float = 60.0
    attempts: int = 6
    pause: float = 1.0


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
    if path.exists() and remote.size in (None, path.stat().st_size):
        return path
    part, failed = path.with_name(path.name + ".part"), 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _attempt(remote, part, manners)
            _check(remote, part)
            os.replace(part, path)
            part.with_name(part.name + ".json").unlink(missing_ok=True)
            return path
        except _Again as error:
            grown = part.exists() and part.stat().st_size > before
            failed = 0 if grown else failed + 1
            if failed >= manners.attempts:
                raise NetworkError(f"{remote.url}: did not arrive ({error}); run again to continue it") from None
            wait = max(error.wait, manners.pause * 2**failed)
            if error.wait > LONGEST:
                raise NetworkError(f"{remote.url}: the server asks for {error.wait:.0f} s; run again later") from None
            time.sleep(min(wait, LONGEST))
        except OSError as error:
            if isinstance(error, (NetworkError, FileError)):
                raise
            raise FileError(f"{part}: cannot be written ({reason(error)}); free some space") from None


def _attempt(remote: Remote, part: Path, manners: Manners) -> None:
    notes = part.with_name(part.name + ".json")
    known = _notes(notes)
    start = part.stat().st_size if part.exists() and known else 0
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": known}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(remote.url, headers=headers), timeout=manners.timeout
        ) as answer:
            if not answer.url.startswith(("http://", "https://")):
                raise NetworkError(f"{remote.url}: leads to {answer.url}, which is not fetched; check the address")
            if answer.status != 206 or not str(answer.headers["Content-Range"]).startswith(f"bytes {start}-"):
                if answer.status != 200:
                    part.unlink(missing_ok=True)
                    raise _Again(f"a range that was not asked for, HTTP {answer.status}")
                start = 0
            tag = answer.headers["ETag"] or ""
            write_json(notes, {"validator": tag if tag.startswith('"') else answer.headers["Last-Modified"] or ""})
            length = answer.headers["Content-Length"]
            goal = start + int(length) if str(length).isdecimal() else remote.size
            _receive(answer, part, start)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            part.unlink(missing_ok=True)
        elif error.code not in (408, 429) and error.code < 500:
            raise NetworkError(f"{remote.url}: HTTP {error.code}; check the name of the source") from None
        asked = error.headers.get("Retry-After") or ""
        raise _Again(f"HTTP {error.code}", float(asked) if asked.isdecimal() else 0.0) from None
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Again(str(error)[:200] or type(error).__name__) from None
    if goal is not None and part.stat().st_size < goal:
        raise _Again(f"{part.stat().st_size:,} of {goal:,} bytes")


def _receive(answer: Any, part: Path, start: int) -> None:
    with open(part, "r+b" if start else "wb") as file:
        file.seek(start)
        try:
            while block := answer.read1(BLOCK):
                file.write(block)
        finally:
            file.flush()
            os.fsync(file.fileno())


def _check(remote: Remote, part: Path) -> None:
    size, wrong = part.stat().st_size, ""
    if remote.size not in (None, size):
        wrong = f"{size:,} bytes instead of {remote.size:,}"
    elif remote.digest:
        kind, _, wanted = remote.digest.partition(":")
        with open(part, "rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
        wrong = "" if found == wanted else f"{kind} {found[:12]} instead of {wanted[:12]}"
    if wrong:
        part.unlink()
        raise NetworkError(f"{remote.url}: arrived damaged ({wrong}) and was removed; try again")


def _notes(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return str(json.loads(path.read_text("utf-8")).get("validator") or "")
    return ""
