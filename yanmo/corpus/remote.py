"""Corpora by the names under which they are published: Common Crawl, Wikipedia's dumps, data sets of the hub.

In: a name. Out: its files, each fetched into a cache when it is wanted, unless it is there, and checked where checksums
are published.

    cc:CC-MAIN-2024-22:10            the first ten archives of a crawl's own list; wet:10 of its texts; a pattern; 20-29
    wikipedia:zh, wikipedia:zh:20240601   the last complete dump of articles, or that of a day
    hf:owner/name, hf:owner/name@REVISION:PATTERN   files of a data set (hubsource.py)

    is_remote     whether a path is such a name
    published     a name → what is published of its files, without fetching them
    here          one of them → its path, where it has been fetched before
    Getter        fetches one after the other; keeps the pause between two
    discard       takes one out of the cache

One connection at a time, a pause between files. Settings of the environment: YANMO_CACHE is the folder of the cache,
YANMO_COMMONCRAWL and YANMO_WIKIMEDIA are the addresses of mirrors, YANMO_DOWNLOAD_RATE the most bytes a second;
YANMO_DOWNLOAD_KEEP=0 asks readers to discard what they fetched once it is read.
"""

from __future__ import annotations

import fnmatch
import functools
import gzip
import json
import math
import os
import re
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from yanmo.corpus import hubsource
from yanmo.corpus.download import Manners, Published, Remote, fetch, known, read, remove
from yanmo.errors import FileError, InputError, NetworkError

SCHEMES = ("cc", "wikipedia", "hf")
COMMONCRAWL, WIKIMEDIA = "https://data.commoncrawl.org", "https://dumps.wikimedia.org"
MANY = 100  # archives of about a gigabyte that nobody should get by leaving out a number
BETWEEN = 1.0  # seconds from one file to the next
JOB = "articlesmultistreamdump"
CRAWL = re.compile(r"CC-MAIN-\d{4}(?:-\d{2,3})?(?:-\d{2,4})?")
LISTED = {"warc": re.compile(r"\S+\.warc\.gz"), "wet": re.compile(r"\S+\.warc\.wet\.gz")}
MAX_LIST = 256 * 2**20  # bytes of an unpacked list of paths


def is_remote(path: str | Path) -> bool:
    """Whether a path is the name of a published corpus and not a file here."""
    text = os.fspath(path)
    scheme, colon, rest = text.partition(":")
    return bool(colon and rest) and scheme in SCHEMES and not os.path.exists(text)


@functools.cache
def published(name: str) -> tuple[Published, ...]:
    """The files of a name in their order; asked once in a process, so that all of a run sees the same.

    Raises InputError for an unknown name, NetworkError where the lists do not arrive.
    """
    scheme, _, rest = name.replace(os.sep, "/").partition(":")
    manners(), pause(), keeps()  # a setting that is wrong is said before anything is fetched
    if scheme == "hf":
        return tuple(hubsource.files(rest))
    folder, files = list_files(name)
    return tuple(Published(file, f"{folder.name}/{file.name}", str(folder)) for file in files)


def here(file: Published) -> Path | None:
    """Where a file lies that has been fetched and checked before; nobody is asked."""
    return known(file.remote, Path(file.folder)) if file.folder else hubsource.here(file)


def discard(file: Published) -> None:
    """Take a file out of the cache."""
    if file.folder:
        remove(file.remote, Path(file.folder))
    else:
        hubsource.remove(file)


class Getter:
    """Fetches files, one after the other, and waits between two from a web server."""

    def __init__(self) -> None:
        self._ended = -math.inf

    def get(self, file: Published) -> Path:
        """The path of a file, which is fetched unless it is here; NetworkError where it does not arrive."""
        if path := here(file):
            return path
        if not file.folder:
            return hubsource.get(file)
        time.sleep(max(0.0, self._ended + pause() - time.monotonic()))
        path = fetch(file.remote, Path(file.folder), manners())
        self._ended = time.monotonic()
        return path


def pause() -> float:
    """Seconds between two files."""
    return _setting("YANMO_DOWNLOAD_PAUSE", BETWEEN, "seconds, such as 2")


def keeps() -> bool:
    """Whether what is fetched stays."""
    return _setting("YANMO_DOWNLOAD_KEEP", 1.0, "1, or 0 to remove each file once it is read") > 0


def list_files(name: str) -> tuple[Path, list[Remote]]:
    """The folder of the cache for a name, and its files in their order; an unknown name is an InputError."""
    scheme, _, rest = name.partition(":")
    if scheme == "cc":
        return _crawl(rest)
    if scheme == "wikipedia":
        return _wikipedia(rest)
    raise InputError(f"{name!r} names no published corpus that is listed here; known are cc: and wikipedia:")


def cache() -> Path:
    """The folder for what is downloaded."""
    given = os.environ.get("YANMO_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(given or os.path.join(base, "yanmo")).expanduser() / "sources"


def manners() -> Manners:
    """How servers are treated, with the user's limit of bytes a second."""
    most = _setting("YANMO_DOWNLOAD_RATE", 0.0, "bytes a second, such as 5000000")
    wait = _setting("YANMO_DOWNLOAD_TIMEOUT", 60.0, "seconds, such as 60")
    return replace(Manners(), most=most, timeout=wait, pause=min(1.0, wait / 10))


def _setting(name: str, default: float, wanted: str) -> float:
    """A number of the environment."""
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise InputError(f"{name} is {text!r}; give {wanted}")
    return value


# --- Common Crawl


def _crawl(name: str) -> tuple[Path, list[Remote]]:
    """cc:CRAWL[:warc|wet][:N | A-B | PATTERN]"""
    crawl, *rest = name.split(":")
    kind = rest.pop(0) if rest and rest[0] in LISTED else "warc"
    if not CRAWL.fullmatch(crawl) or len(rest) > 1:
        raise InputError(
            f"'cc:{name}' is no crawl; write cc:CC-MAIN-2024-22:10 for ten archives, or cc:CC-MAIN-2024-22:wet:10"
        )
    base = os.environ.get("YANMO_COMMONCRAWL", COMMONCRAWL).rstrip("/")
    folder = cache() / crawl
    url = f"{base}/crawl-data/{crawl}/{kind}.paths.gz"
    paths = _list_of(fetch(Remote(url, f"{kind}.paths.gz"), folder, manners()), crawl, kind)
    chosen = _chosen(paths, rest[0] if rest else "", f"cc:{name}")
    return folder, [Remote(f"{base}/{path}", path.rpartition("/")[2]) for path in chosen]


def _list_of(path: Path, crawl: str, kind: str) -> list[str]:
    """The paths of a list, all of which must lie in the crawl that was asked for."""
    try:
        with gzip.open(path) as file:
            text = file.read(MAX_LIST + 1).decode("ascii")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        path.unlink(missing_ok=True)
        raise NetworkError(f"{path.name} of {crawl} is not a list of paths packed with gzip; try again") from None
    lines = text.split()
    wrong = next((line for line in lines if not _belongs(line, crawl, kind)), None)
    if wrong is not None or not lines or len(text) > MAX_LIST:
        path.unlink(missing_ok=True)
        raise NetworkError(
            f"{path.name} of {crawl} lists {(wrong or 'nothing')[:80]!r}, where paths of "
            f"crawl-data/{crawl}/….{LISTED[kind].pattern[4:].replace(chr(92), '')} are needed; check the mirror"
        )
    return lines


def _belongs(line: str, crawl: str, kind: str) -> bool:
    parts = line.split("/")
    return line.startswith(f"crawl-data/{crawl}/") and ".." not in parts and bool(LISTED[kind].fullmatch(parts[-1]))


def _chosen(paths: list[str], which: str, name: str) -> list[str]:
    """The first N, A to B (from 0, both included), or those that a pattern matches."""
    if not which and len(paths) > MANY:
        raise InputError(
            f"{name} lists {len(paths):,} archives of about a gigabyte; say which, such as {name}:10 for the first "
            f"ten, {name}:20-29, or a pattern"
        )
    if match := re.fullmatch(r"(\d+)(?:-(\d+))?", which):
        first, last = (int(match[1]), int(match[2])) if match[2] else (0, int(match[1]) - 1)
        found = paths[first : last + 1]
    else:
        found = [path for path in paths if not which or fnmatch.fnmatchcase(path, f"*{which}*")]
    if not found:
        raise InputError(f"{name}: none of the {len(paths):,} archives is that; give a number, or another pattern")
    return found


# --- Wikipedia


def _wikipedia(name: str) -> tuple[Path, list[Remote]]:
    """wikipedia:LANGUAGE[:DATE]"""
    language, _, date = name.partition(":")
    if not re.fullmatch(r"[a-z][a-z-]{1,40}", language) or (date and not re.fullmatch(r"\d{8}", date)):
        raise InputError(
            f"'wikipedia:{name}' is no dump; write wikipedia:zh, or wikipedia:zh:20240601 for that of a day"
        )
    base = os.environ.get("YANMO_WIKIMEDIA", WIKIMEDIA).rstrip("/")
    wiki = language.replace("-", "_") + "wiki"
    folder = cache() / wiki
    for day in [date] if date else _days(f"{base}/{wiki}/", folder):
        files = _dump(base, wiki, day, folder, bool(date))
        if files:
            return folder, files
    raise NetworkError(f"wikipedia:{name}: no dump of articles at {base}/{wiki}/ is complete; name a date")


def _days(url: str, folder: Path) -> list[str]:
    """The days of the dumps that a server lists, the last one first."""
    text = read(url, folder, manners()).decode("utf-8", "replace")
    return sorted(set(re.findall(r'href="(\d{8})/?"', text)), reverse=True)


def _dump(base: str, wiki: str, day: str, folder: Path, named: bool) -> list[Remote]:
    """The files of a day's dump of articles; [] where it is not complete, an error where the user named the day."""
    url = f"{base}/{wiki}/{day}/dumpstatus.json"
    try:
        status: Any = json.loads(read(url, folder, manners()))
        job = status["jobs"][JOB]
        done, files = job["status"] == "done", job.get("files") or {}
        if not done:
            if named:
                raise NetworkError(f"{url}: the dump of articles is {str(job['status'])[:40]!r}, not done; wait")
            return []
        found = [_file(base, wiki, day, file, files[file]) for file in sorted(files, key=_order)]
    except NetworkError as error:
        if named or "HTTP 404" not in str(error):
            raise
        return []  # a dump that has just begun
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NetworkError(f"{url}: not the status of a dump; check the mirror") from None
    kept = [remote for remote in found if remote is not None]
    if not kept:
        raise NetworkError(f"{url}: the dump of articles names no .xml.bz2 file; check the mirror")
    return kept


def _file(base: str, wiki: str, day: str, name: str, about: dict[str, Any]) -> Remote | None:
    """A file of the pages; None for the index beside it."""
    if not re.fullmatch(r"[\w.-]+", name) or not name.startswith(f"{wiki}-{day}-"):
        raise FileError(f"{name!r:.80} does not belong to the dump {wiki} of {day}; check the mirror")
    if "multistream-index" in name or not re.search(r"\.xml(-p\d+p\d+)?\.bz2$", name):
        return None
    digest = next((f"{kind}:{about[kind]}" for kind in ("sha1", "md5") if isinstance(about.get(kind), str)), None)
    size = about.get("size")
    return Remote(f"{base}/{wiki}/{day}/{name}", name, size if isinstance(size, int) else None, digest)


def _order(name: str) -> tuple[int, ...]:
    """Parts of a dump by the numbers of their pages."""
    return tuple(int(number) for number in re.findall(r"\d+", name))
