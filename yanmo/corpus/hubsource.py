"""Data sets of the Hugging Face hub, by huggingface_hub, into its cache.

In: owner/name, with @revision and :pattern. Out: the paths of its files of text, downloaded unless they are there.

    fetch     a name → paths, in the order of their names

Each file is a request of its own, resumed by the library and compared with the SHA-256 or git hash that the hub
publishes. With HF_HUB_OFFLINE set, or while the hub is silent, the snapshot in the cache is used. HF_ENDPOINT is a
mirror, HF_HOME the cache, HF_TOKEN a token for what is not public.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from yanmo.errors import InputError, NetworkError
from yanmo.files import sha256_file

NAME = re.compile(r"([\w.-]+/)?[\w.-]+")
TEXTS: tuple[str, ...] = (
    ".parquet",
    ".jsonl",
    ".jsonl.gz",
    ".json.gz",
    ".txt",
    ".txt.gz",
    ".csv",
    ".tsv",
    ".csv.gz",
    ".tsv.gz",
)
TEXTS += (".md", ".warc.gz", ".wet.gz", ".xml.bz2", ".jsonl.zst", ".txt.zst", ".jsonl.xz", ".txt.xz")
NO_TEXTS = ("readme.md", "license.txt", "requirements.txt", "license.md")
ATTEMPTS = 3


Chooser = Callable[[Iterable[str]], list[str]]


def fetch(name: str, choose: Chooser | None = None) -> list[Path]:
    """The files of a data set; NetworkError where they do not arrive, InputError for a name that is none.

    choose: names of all its files → those that are wanted, in place of the pattern behind a colon.
    """
    repo, _, pattern = name.partition(":")
    repo, _, revision = repo.partition("@")
    choose = choose or (lambda names: _wanted(names, pattern, repo))
    if not NAME.fullmatch(repo) or ".." in repo:
        raise InputError(f"'hf:{name}' is no data set; write hf:owner/name, hf:owner/name@main:*.parquet")
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _cached(repo, revision or None, choose, "HF_HUB_OFFLINE is set")
    try:
        commit, files = _listed(repo, revision or None)
    except NetworkError as error:
        if not getattr(error, "silent", False):
            raise
        found = _cached(repo, revision or None, choose, str(error))
        warnings.warn(f"{error}; until then its copy in the cache is used", stacklevel=2)
        return found
    wanted = choose(files)
    paths = [_file(repo, commit, chosen, files[chosen]) for chosen in wanted]
    _remember(repo, revision or "main", commit, wanted[0])
    return paths


def _wanted(names: Iterable[str], pattern: str, repo: str) -> list[str]:
    listed = sorted(names)
    texts = [n for n in listed if n.lower().endswith(TEXTS) and n.rpartition("/")[2].lower() not in NO_TEXTS]
    found = [n for n in (listed if pattern else texts) if not pattern or fnmatch.fnmatchcase(n, pattern)]
    if not found:
        what = f"that match {pattern!r}" if pattern else "of text (.parquet, .jsonl, .txt, .csv …)"
        some = ", ".join(listed[:5]) or "nothing"
        raise InputError(f"hf:{repo}: no files {what} in it, but {some}; give a pattern: hf:{repo}:data/*.parquet")
    return found


def _listed(repo: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """The commit of a revision, and its files."""
    from huggingface_hub import HfApi, constants

    try:
        info = HfApi().dataset_info(repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # of a foreign library, whose classes differ between its versions
        raise _sentence(error, repo, "its list of files") from None
    if not info.sha or not info.siblings:
        raise NetworkError(f"hf:{repo}: {constants.ENDPOINT} answers without a commit and files; check HF_ENDPOINT")
    return info.sha, {file.rfilename: file for file in info.siblings}


def _file(repo: str, commit: str, name: str, about: Any) -> Path:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repo, name, revision=commit, repo_type="dataset")
    if isinstance(cached, str) and about.size in (None, os.path.getsize(cached)):
        return Path(cached)
    for attempt in range(ATTEMPTS):
        try:
            path = Path(
                hf_hub_download(
                    repo,
                    name,
                    revision=commit,
                    repo_type="dataset",
                    force_download=isinstance(cached, str),
                    etag_timeout=constants.HF_HUB_ETAG_TIMEOUT,
                )
            )
            break
        except Exception as error:
            if type(error).__name__ == "ReadError" and attempt + 1 < ATTEMPTS:  # a reset, which it does not try again
                continue
            raise _sentence(error, repo, name) from None
    wrong = _wrong(path, about)
    if wrong:
        for damaged in {path.resolve(), path}:
            damaged.unlink(missing_ok=True)
        raise NetworkError(f"hf:{repo}: {name} arrived damaged ({wrong}) and was removed; try again")
    return path


def _remember(repo: str, revision: str, commit: str, name: str) -> None:
    """Note in the cache which commit the revision is, now that all its files are there: offline mode relies on it."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    known = try_to_load_from_cache(repo, name, revision=revision, repo_type="dataset")
    if revision == commit or (isinstance(known, str) and commit in Path(known).parts):
        return
    try:
        hf_hub_download(repo, name, revision=revision, repo_type="dataset")  # one HEAD request: the file is there
    except Exception as error:
        raise _sentence(error, repo, name) from None


def _wrong(path: Path, about: Any) -> str:
    """How a fresh download differs from what the hub says of it: the library compares the size alone."""
    size = path.stat().st_size
    if about.size not in (None, size):
        return f"{size:,} bytes instead of {about.size:,}"
    if about.lfs is not None:
        return "" if sha256_file(path) == about.lfs.sha256 else "its SHA-256 is another"
    if about.blob_id is None:
        return ""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return "" if digest.hexdigest() == about.blob_id else "its git hash is another"


def _cached(repo: str, revision: str | None, choose: Chooser, why: str) -> list[Path]:
    """The files of the snapshot in the cache."""
    from huggingface_hub import constants, snapshot_download

    try:
        folder = Path(snapshot_download(repo, revision=revision, repo_type="dataset", local_files_only=True))
    except Exception:
        raise NetworkError(
            f"hf:{repo}: {why}, and the cache {constants.HF_HUB_CACHE} has no copy; connect once to download"
        ) from None
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return [folder / name for name in choose(names)]


def _sentence(error: Exception, repo: str, what: str) -> NetworkError:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    hub = constants.ENDPOINT
    if isinstance(error, errors.RevisionNotFoundError):
        return NetworkError(f"hf:{repo}: no such revision at {hub}; check the branch, tag or commit")
    if isinstance(error, errors.GatedRepoError) or status in (401, 403):
        return NetworkError(
            f"hf:{repo}: not given to everybody by {hub}; accept its conditions there, set HF_TOKEN, check the spelling"
        )
    if status == 404:
        return NetworkError(f"hf:{repo}: no such data set at {hub} ({what}); check the spelling")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = (lines[0][:200] if lines else type(error).__name__).rstrip(".")
    found = NetworkError(f"hf:{repo}: {what} did not arrive from {hub} ({why}); check the connection and try again")
    found.silent = status is None or status >= 500 or status == 429  # type: ignore[attr-defined]
    return found
