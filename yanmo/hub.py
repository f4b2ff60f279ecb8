"""Where a model lies: a path on this machine, or an id of the Hugging Face hub, downloaded into the hub's cache.

In: what a user typed. Out: the path of a folder or file on this machine, or one sentence (FileError, NetworkError).

    resolve         a path as it is; an id through the cache and, unless HF_HUB_OFFLINE is set, the hub
    _ask_hub        names, sizes and fingerprints of a repository's files: one request
    _fetch          one file: resumed by huggingface_hub if the connection breaks, then compared with its fingerprint
    _cached         the copy in the cache, if it is complete

huggingface_hub is imported when an id is resolved; it reads HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE, and
shows its progress on stderr.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

from yanmo.errors import Error, FileError, InputError, NetworkError, nearest
from yanmo.files import sha256_file
from yanmo.hubfiles import ADAPTER, CONFIG, INDEX, TOKENIZER, Want, is_tokenizer, needed, shard_names

ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
ATTEMPTS = 3


class _Unreachable(NetworkError):
    """The hub gave no answer: a copy in the cache may stand in."""


@dataclass(frozen=True)
class _Remote:
    """What the hub says of a file: `sha256` of its bytes, or `blob`, git's SHA-1 of them; None where it is silent."""

    size: int | None
    sha256: str | None
    blob: str | None


@dataclass(frozen=True)
class _Repository:
    """A model on the hub at one commit; `revision` is what the user asked for."""

    id: str
    revision: str
    commit: str
    files: dict[str, _Remote]


def resolve(path_or_id: str | Path, *, revision: str | None = None, want: Want = "model") -> Path:
    """Return the local path of a model: a folder, a file, a run folder's `model/`, or a downloaded snapshot.

    What exists on this machine is taken as it is, and so is what looks like a path; the rest is an id of the hub
    ("gpt2", "owner/name"; "owner/name:FILE" for one .gguf file of several, FILE being its name or what stands last in
    it, e.g. Q4_K_M) at `revision` (a branch, tag or commit; default: main). `want` bounds what is downloaded.
    """
    text = os.fspath(path_or_id)
    if not text or "\0" in text:
        raise InputError(f"a model is named by a path or a hub id, not by {text!r}")
    path = Path(os.path.expanduser(text))
    if os.path.exists(path):
        run = path.is_dir() and not (path / "config.json").exists() and (path / "model").is_dir()
        return path / "model" if run else path
    repo, colon, file = text.partition(":")
    if colon and file and "/" in repo and ID.fullmatch(repo) and not isinstance(path_or_id, Path):
        text = repo
    else:
        file = ""
    if isinstance(path_or_id, Path) or _looks_like_path(text):
        raise FileError(f"{path}: no such file or folder{_nearest_sibling(path)}; check the path")
    if not ID.fullmatch(text) or "--" in text or ".." in text:
        raise InputError(
            f"{text!r} is neither a path that exists nor a hub id (name or owner/name); check the spelling"
        )
    return _download(text, revision or "main", want, file)


def _looks_like_path(text: str) -> bool:
    return text[0] in "./~" or text.count("/") > 1 or "\\" in text or text[1:2] == ":" or text.endswith(("/", ".gguf"))


def _nearest_sibling(path: Path) -> str:
    try:
        return nearest(path.name, os.listdir(path.parent))
    except OSError:
        return ""


# The cache and the hub ---------------------------------------------------------------------------------------------


def _download(repo: str, revision: str, want: Want, file: str) -> Path:
    """Return the folder of a complete snapshot in the cache (or its .gguf file), after fetching what it lacks."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or COMMIT.fullmatch(revision):  # a commit never changes: no need to ask
        try:
            return _cached(repo, revision, want, file)
        except Error as error:
            if constants.HF_HUB_OFFLINE:
                raise NetworkError(
                    f"{repo}: HF_HUB_OFFLINE is set and the cache {constants.HF_HUB_CACHE} has no complete copy "
                    f"({error}); unset it once to download"
                ) from None
    try:
        repository = _ask_hub(repo, revision)
    except _Unreachable as error:
        try:
            folder = _cached(repo, revision, want, file)
        except Error:
            raise NetworkError(str(error)) from None
        warnings.warn(f"{error}; until then its copy in the cache is used", stacklevel=4)
        return folder
    names = needed(repository.files, want, f"{repo} at {constants.ENDPOINT}", file)
    _check_space(repository, names)
    paths = []
    for name in names:
        path = _fetch(repository, name)
        paths.append(path)
        if name.endswith(INDEX):
            shards = sorted(set(shard_names(path).values()))
            _check_space(repository, shards)
            for shard in shards:
                _fetch(repository, shard)
    _remember(repository, names[0])
    return paths[0] if names[0].endswith(".gguf") else paths[0].parent


def _cached(repo: str, revision: str, want: Want, file: str) -> Path:
    """The snapshot of `revision` in the cache, or its .gguf file; a FileError says what it lacks."""
    folder = _snapshot(repo, revision)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    wanted = needed(names, want, repo, file)
    for name in wanted:
        if name.endswith(INDEX):
            missing = [shard for shard in shard_names(folder / name).values() if shard not in names]
            if missing:
                raise FileError(f"{repo}: {missing[0]} is missing")
    if wanted[0].endswith(".gguf"):
        return folder / wanted[0]
    if want == "tokenizer" and not any(map(is_tokenizer, names)):
        raise FileError(f"{repo}: the tokenizer is missing")
    return folder


def _snapshot(repo: str, revision: str) -> Path:
    """Where the cache keeps the files of a revision, of which it has at least one."""
    from huggingface_hub import constants, try_to_load_from_cache

    for name in (*CONFIG, ADAPTER[0], *TOKENIZER):
        path = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(path, str):
            return Path(path).parent
    cache = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"  # .gguf files have names of their own
    known = cache / "refs" / revision
    folder = cache / "snapshots" / (known.read_text("utf-8").strip() if known.is_file() else revision)
    if not folder.is_dir():
        raise FileError(f"{repo}: nothing of it at the revision {revision!r}")
    return folder


def _ask_hub(repo: str, revision: str) -> _Repository:
    """Ask the hub for the commit of a revision and for the names, sizes and fingerprints of its files."""
    from huggingface_hub import HfApi, constants

    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        files = {
            file.rfilename: _Remote(file.size, file.lfs.sha256 if file.lfs else None, file.blob_id)
            for file in info.siblings or []
        }
        commit = info.sha
    except Exception as error:  # of a foreign library, whose classes differ between its versions
        sentence, status = _sentence(error, repo, revision, "its list of files"), _status(error)
        silent = isinstance(sentence, NetworkError) and (status is None or status >= 500 or status == 429)
        raise _Unreachable(str(sentence)) if silent else sentence from None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit) or not files:
        raise NetworkError(f"{repo}: {constants.ENDPOINT} answers without a commit and files; check HF_ENDPOINT")
    return _Repository(repo, revision, commit, files)


def _fetch(repository: _Repository, name: str) -> Path:
    """Return a file of the snapshot, downloaded unless it is there in full; a damaged download is removed again."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    if name not in repository.files:
        raise FileError(
            f"{repository.id}: its index names the shard {name}, which the repository lacks; tell its owner"
        )
    remote = repository.files[name]
    cached = try_to_load_from_cache(repository.id, name, revision=repository.commit)
    if isinstance(cached, str) and remote.size in (None, os.path.getsize(cached)):
        return Path(cached)
    for attempt in range(ATTEMPTS):
        try:
            path = hf_hub_download(
                repository.id,
                name,
                revision=repository.commit,
                force_download=isinstance(cached, str),
                etag_timeout=constants.HF_HUB_ETAG_TIMEOUT,
            )
            break
        except Exception as error:
            # A connection that is reset is the one break that the library neither resumes nor tries again.
            if type(error).__name__ == "ReadError" and attempt + 1 < ATTEMPTS:
                continue
            raise _sentence(error, repository.id, repository.revision, name) from None
    _verify(Path(path), remote, repository.id)
    return Path(path)


def _verify(path: Path, remote: _Remote, repo: str) -> None:
    """Compare a fresh download with what the hub says of it: the library compares the size alone."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        wrong = f"{size:,} bytes instead of {remote.size:,}"
    elif remote.sha256 is not None and (found := sha256_file(path)) != remote.sha256:
        wrong = f"SHA-256 {found[:12]}… instead of {remote.sha256[:12]}…"
    elif remote.sha256 is None and remote.blob is not None and (found := _git_blob(path, size)) != remote.blob:
        wrong = f"git hash {found[:12]}… instead of {remote.blob[:12]}…"
    else:
        return
    for damaged in {path.resolve(), path}:
        damaged.unlink(missing_ok=True)
    raise NetworkError(f"{repo}: {path.name} arrived damaged ({wrong}) and was removed; try again")


def _git_blob(path: Path, size: int) -> str:
    """The name that git gives to the content of a file."""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _check_space(repository: _Repository, names: list[str]) -> None:
    """Refuse a download that the disk cannot hold, before it begins."""
    from huggingface_hub import constants, try_to_load_from_cache

    def missing(name: str) -> bool:
        return not isinstance(try_to_load_from_cache(repository.id, name, revision=repository.commit), str)

    listed = [name for name in names if name in repository.files]
    total = sum(repository.files[name].size or 0 for name in listed if missing(name))
    place = Path(constants.HF_HUB_CACHE).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if total > free:
        raise FileError(
            f"{repository.id}: needs {total:,} bytes and {place} has {free:,} free; free some space or set HF_HOME"
        )


def _remember(repository: _Repository, name: str) -> None:
    """Note in the cache which commit the revision is, now that the snapshot is complete; offline mode relies on it."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    known = try_to_load_from_cache(repository.id, name, revision=repository.revision)
    if COMMIT.fullmatch(repository.revision) or (isinstance(known, str) and repository.commit in Path(known).parts):
        return
    try:
        hf_hub_download(repository.id, name, revision=repository.revision)  # one HEAD request: the file is there
    except Exception as error:
        raise _sentence(error, repository.id, repository.revision, name) from None


def _sentence(error: Exception, repo: str, revision: str, what: str) -> Error:
    """Turn whatever huggingface_hub raised into one sentence of ours."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # "not in the cache either": the reason is underneath
    hub = constants.ENDPOINT
    status = _status(error)
    if isinstance(error, errors.RevisionNotFoundError):
        return NetworkError(f"{repo}: no revision {revision!r} at {hub}; check the name of the branch, tag or commit")
    if isinstance(error, errors.GatedRepoError):
        return NetworkError(f"{repo}: gated; accept its conditions at {hub}/{repo} and set HF_TOKEN to your token")
    if status == 404:
        return NetworkError(f"{repo}: no such model at {hub} ({what}), and no such path here; check the spelling")
    if status in (401, 403) or isinstance(error, errors.RepositoryNotFoundError):
        return NetworkError(
            f"{repo}: {hub} gives it to nobody unknown (HTTP {status}), and there is no such path here; check the "
            "spelling, and for a private or gated model set HF_TOKEN to a token that may read it"
        )
    if isinstance(error, OSError) and error.errno is not None and status is None:
        return FileError(
            f"{constants.HF_HUB_CACHE}: {what} of {repo} cannot be written there ({error.strerror}); "
            "free some space or set HF_HOME to another place"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = (lines[0][:200] if lines else type(error).__name__).rstrip(".")
    return NetworkError(
        f"{repo}: no such path here, and {what} did not arrive from {hub} ({why}); check the spelling of a path, or "
        "check the connection and try again"
    )


def _status(error: Exception) -> int | None:
    """The HTTP status of an answer of the hub; None where there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)
