"""Data sets of the Hugging Face hub, by huggingface_hub, into its cache.

In: owner/name, with @revision and :pattern. Out: its files of text, each downloaded when it is wanted, unless it is
there.

    files     a name → what the hub publishes of its files, in the order of their names
    get       one of them → its path
    here      the same where it is in the cache already
    remove    takes one out of the cache
    fetch     a name → all paths

Each file is a request of its own, resumed by the library and compared with the SHA-256 or git hash that the hub
publishes. With HF_HUB_OFFLINE set, or while the hub is silent, the snapshot in the cache is used; the list of files
that the hub gave is kept beside it, so that one that is missing is told. HF_ENDPOINT is a mirror, HF_HOME the cache,
HF_TOKEN a token for what is not public.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from yanmo.corpus.download import Published, Remote
from yanmo.errors import FileError, InputError, NetworkError
from yanmo.files import read_json_object, sha256_file, write_json

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
    """The paths of the files of a data set, all downloaded; see `files`."""
    return [here(file) or get(file) for file in files(name, choose)]


def files(name: str, choose: Chooser | None = None) -> list[Published]:
    """The files of a data set; NetworkError where their list does not arrive, InputError for a name that is none.

    choose: names of all its files → those that are wanted, in place of the pattern behind a colon.
    """
    repo, _, pattern = name.partition(":")
    repo, _, revision = repo.partition("@")
    choose = choose or (lambda names: _wanted(names, pattern, repo))
    if not NAME.fullmatch(repo) or ".." in repo:
        raise InputError(f"'hf:{name}' is no data set; write hf:owner/name, hf:owner/name@main:*.parquet")
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _cached(repo, revision, choose, "HF_HUB_OFFLINE is set")
    try:
        commit, listed = _listed(repo, revision or None)
    except NetworkError as error:
        if not getattr(error, "silent", False):
            raise
        found = _cached(repo, revision, choose, str(error))
        warnings.warn(f"{error}; until then its copy in the cache is used", stacklevel=2)
        return found
    with contextlib.suppress(OSError):  # a cache that cannot be written says so where a file is fetched
        _list_path(repo, commit).parent.mkdir(parents=True, exist_ok=True)
        write_json(_list_path(repo, commit), {file: [size, digest] for file, (size, digest) in listed.items()})
    found = [_published(repo, commit, revision, each, listed[each]) for each in choose(listed)]
    if here(found[0]):
        _remember(found[0])
    return found


About = tuple[int | None, str | None]  # size, digest


def _published(repo: str, commit: str, revision: str, name: str, about: About) -> Published:
    remote = Remote(f"hf:{repo}@{commit}", name, *about)
    return Published(remote, f"{repo.rpartition('/')[2]}/{name}", revision=revision or "main")


def _place(file: Published) -> tuple[str, str]:
    """Its repository and commit."""
    repo, _, commit = file.remote.url.removeprefix("hf:").partition("@")
    return repo, commit


def _wanted(names: Iterable[str], pattern: str, repo: str) -> list[str]:
    listed = sorted(names)
    texts = [n for n in listed if n.lower().endswith(TEXTS) and n.rpartition("/")[2].lower() not in NO_TEXTS]
    found = [n for n in (listed if pattern else texts) if not pattern or fnmatch.fnmatchcase(n, pattern)]
    if not found:
        what = f"that match {pattern!r}" if pattern else "of text (.parquet, .jsonl, .txt, .csv …)"
        some = ", ".join(listed[:5]) or "nothing"
        raise InputError(f"hf:{repo}: no files {what} in it, but {some}; give a pattern: hf:{repo}:data/*.parquet")
    return found


def _listed(repo: str, revision: str | None) -> tuple[str, dict[str, About]]:
    """The commit of a revision, and its files."""
    from huggingface_hub import HfApi, constants

    try:
        info = HfApi().dataset_info(repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # of a foreign library, whose classes differ between its versions
        raise _sentence(error, repo, "its list of files") from None
    if not info.sha or not info.siblings:
        raise NetworkError(f"hf:{repo}: {constants.ENDPOINT} answers without a commit and files; check HF_ENDPOINT")
    return info.sha, {file.rfilename: (file.size, _digest(file)) for file in info.siblings}


def _digest(about: Any) -> str | None:
    if about.lfs is not None:
        return f"sha256:{about.lfs.sha256}"
    return None if about.blob_id is None else f"git:{about.blob_id}"


def here(file: Published) -> Path | None:
    """Where a file lies in the cache."""
    from huggingface_hub import try_to_load_from_cache

    repo, commit = _place(file)
    cached = try_to_load_from_cache(repo, file.remote.name, revision=commit, repo_type="dataset")
    fits = isinstance(cached, str) and os.path.exists(cached) and file.remote.size in (None, os.path.getsize(cached))
    return Path(cached) if isinstance(cached, str) and fits else None


def remove(file: Published) -> None:
    """Take a file out of the cache; its bytes stay where another name or commit has the same."""
    if path := here(file):
        bytes_at = path.resolve()
        path.unlink(missing_ok=True)
        snapshots = _list_path(*_place(file)).parents[1] / "snapshots"
        if not any(link.resolve() == bytes_at for link in snapshots.rglob("*")):
            bytes_at.unlink(missing_ok=True)


def get(file: Published) -> Path:
    """Download a file into the cache; NetworkError where it does not arrive as it is published."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    (repo, commit), name = _place(file), file.remote.name
    cached = try_to_load_from_cache(repo, name, revision=commit, repo_type="dataset")
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
    wrong = _wrong(path, file.remote)
    if wrong:
        for damaged in {path.resolve(), path}:
            damaged.unlink(missing_ok=True)
        raise NetworkError(f"hf:{repo}: {name} arrived damaged ({wrong}) and was removed; try again")
    _remember(file)
    return path


def _remember(file: Published) -> None:
    """Note in the cache which commit the revision is, now that a file of it is there: offline mode relies on it."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    (repo, commit), name, revision = _place(file), file.remote.name, file.revision
    known = try_to_load_from_cache(repo, name, revision=revision, repo_type="dataset")
    if revision == commit or (isinstance(known, str) and commit in Path(known).parts):
        return
    try:
        hf_hub_download(repo, name, revision=revision, repo_type="dataset")  # one HEAD request: the file is there
    except Exception as error:
        raise _sentence(error, repo, name) from None


def _wrong(path: Path, remote: Remote) -> str:
    """How a fresh download differs from what the hub says of it: the library compares the size alone."""
    size = path.stat().st_size
    if remote.size not in (None, size):
        return f"{size:,} bytes instead of {remote.size:,}"
    kind, _, wanted = (remote.digest or "").partition(":")
    if kind == "sha256":
        return "" if sha256_file(path) == wanted else "its SHA-256 is another"
    if not kind:
        return ""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return "" if digest.hexdigest() == wanted else "its git hash is another"


def _list_path(repo: str, commit: str) -> Path:
    """Where the hub's list of files is kept, beside the snapshot."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"datasets--{repo.replace('/', '--')}" / ".yanmo" / f"{commit}.json"


def _cached(repo: str, revision: str, choose: Chooser, why: str) -> list[Published]:
    """The files of the snapshot in the cache, which must have all that are wanted."""
    from huggingface_hub import constants, snapshot_download

    try:
        folder = Path(snapshot_download(repo, revision=revision or None, repo_type="dataset", local_files_only=True))
    except Exception:
        raise NetworkError(
            f"hf:{repo}: {why}, and the cache {constants.HF_HUB_CACHE} has no copy; connect once to download"
        ) from None
    there = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    try:
        listed = {name: about[0] for name, about in read_json_object(_list_path(repo, folder.name), 2**28).items()}
    except (FileError, TypeError, IndexError):
        listed = {}
    wanted = choose(listed or there)
    missing = [name for name in wanted if name not in there]
    if missing:
        raise NetworkError(
            f"hf:{repo}: {why}, and {len(missing):,} of {len(wanted):,} files are not in the cache, such as "
            f"{missing[0]}; connect to download them, or name those that are there by a pattern"
        )
    if not listed:
        what = f"which files it has on the hub is not known here, {len(wanted):,} in the cache are taken for all"
        warnings.warn(f"hf:{repo}: {what}; connect once to learn it", stacklevel=3)
    return [_published(repo, folder.name, revision, name, (there[name], None)) for name in wanted]


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
