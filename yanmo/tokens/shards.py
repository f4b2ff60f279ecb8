"""Token shards: the ids of a corpus on disk, with the boundaries of its documents.

In: documents as ids, without special tokens. Out: a folder that is complete or absent, read by a memory map.

    ids.bin      every document's ids and its closing end-of-document id, uint16 where the vocabulary fits, else uint32
    bounds.bin   int64, n_documents + 1 offsets into ids.bin: document i is ids[bounds[i] : bounds[i + 1]]
    meta.json    counts, bytes of the text, the tokenizer's hash, start and end id, SHA-256 of both files

    write_shards     documents → folder
    open_shards      folder → TokenShards; another tokenizer, a wrong size, a wrong boundary or id is refused
    start_and_end    which ids open and close a document

All numbers are little-endian, so a folder may move between machines.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from yanmo.errors import FileError, InputError
from yanmo.files import atomic_folder, read_json_object, reason, write_json

FORMAT = "yanmo-tokens"
VERSION = 1
BLOCK = 1 << 22  # ids that are checked at once, so that opening never holds the corpus in memory
META = {  # every key of meta.json and its type
    "format": str,
    "version": int,
    "tokenizer": str,
    "vocab_size": int,
    "start_id": int,
    "end_id": int,
    "dtype": str,
    "n_documents": int,
    "n_tokens": int,
    "n_bytes": int,
    "sha256": dict,
}


@dataclass(frozen=True)
class TokenShards:
    """An opened folder of token shards: `ids` (n_tokens,) and `bounds` (n_documents + 1,) are memory maps.

    `n_tokens` counts every stored id, the closing `end_id` of each document included; `n_bytes` are the bytes of the
    documents' UTF-8 text. `start_id` is not stored: it is the context from which a document's first id is predicted.
    """

    folder: Path
    ids: np.ndarray
    bounds: np.ndarray
    meta: dict[str, Any]

    @property
    def n_documents(self) -> int:
        return int(self.meta["n_documents"])

    @property
    def n_tokens(self) -> int:
        return int(self.meta["n_tokens"])

    @property
    def n_bytes(self) -> int:
        return int(self.meta["n_bytes"])

    @property
    def vocab_size(self) -> int:
        return int(self.meta["vocab_size"])

    @property
    def start_id(self) -> int:
        return int(self.meta["start_id"])

    @property
    def end_id(self) -> int:
        return int(self.meta["end_id"])

    @property
    def sha256(self) -> str:
        """The fingerprint of the ids; a data position is only valid for the shards that have it."""
        return str(self.meta["sha256"]["ids.bin"])

    def document(self, number: int) -> np.ndarray:
        """The ids of one document, its end id included (a view of the map)."""
        return self.ids[self.bounds[number] : self.bounds[number + 1]]


def start_and_end(bos_id: int | None, eos_id: int | None) -> tuple[int, int]:
    """Which ids open and close a document: BOS and EOS, or EOS for both where the vocabulary has one of them alone."""
    end = eos_id if eos_id is not None else bos_id
    if end is None:
        raise InputError(
            "the tokenizer has neither a bos nor an eos token, so documents cannot be told apart; add one to it"
        )
    return (bos_id if bos_id is not None else end), end


def id_type(vocab_size: int) -> np.dtype:
    """How ids of a vocabulary are stored."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def shards_meta(
    tokenizer_hash: str,
    vocab_size: int,
    ends: tuple[int, int],
    counts: tuple[int, int, int],
    digests: dict[str, str],
) -> dict[str, Any]:
    """meta.json; ends: the ids that open and close a document; counts: documents, ids, bytes of text."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "tokenizer": tokenizer_hash,
        "vocab_size": vocab_size,
        "start_id": ends[0],
        "end_id": ends[1],
        "dtype": id_type(vocab_size).name,
        "n_documents": counts[0],
        "n_tokens": counts[1],
        "n_bytes": counts[2],
        "sha256": digests,
    }


def write_shards(
    documents: Iterable[Sequence[int]],
    folder: str | Path,
    *,
    tokenizer_hash: str,
    vocab_size: int,
    n_bytes: int | Callable[[], int],
    start_id: int,
    end_id: int,
) -> TokenShards:
    """Write documents (ids without special tokens) as token shards, and open them.

    `end_id` is appended to each document. `n_bytes` may be a function: it is called after the last document, when a
    streaming reader knows the count. An id outside the vocabulary is an error, and nothing is left behind.
    """
    folder = Path(folder)
    dtype = id_type(vocab_size)
    for name, value in (("start_id", start_id), ("end_id", end_id)):
        if not 0 <= value < vocab_size:
            raise InputError(f"{name} is {value}, outside the vocabulary of {vocab_size} ids")
    with atomic_folder(folder) as partial:
        n_documents, n_tokens, digests = _write_arrays(documents, partial, dtype, vocab_size, end_id)
        counts = n_documents, n_tokens, n_bytes() if callable(n_bytes) else n_bytes
        write_json(partial / "meta.json", shards_meta(tokenizer_hash, vocab_size, (start_id, end_id), counts, digests))
    return open_shards(folder, tokenizer_hash, verify=False)


def _write_arrays(
    documents: Iterable[Sequence[int]], folder: Path, dtype: np.dtype, vocab_size: int, end_id: int
) -> tuple[int, int, dict[str, str]]:
    """Stream the documents into the two files; returns (documents, ids, SHA-256 by file name)."""
    digests = {"ids.bin": hashlib.sha256(), "bounds.bin": hashlib.sha256()}
    n_documents = n_tokens = 0

    with open(folder / "ids.bin", "wb") as ids_file, open(folder / "bounds.bin", "wb") as bounds_file:

        def put(file: BinaryIO, name: str, array: np.ndarray) -> None:
            data = array.tobytes()
            digests[name].update(data)
            file.write(data)

        put(bounds_file, "bounds.bin", np.zeros(1, "<i8"))
        for document in documents:
            ids = np.fromiter(document, np.int64, len(document))
            if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
                wrong = int(ids[(ids < 0) | (ids >= vocab_size)][0])
                raise InputError(
                    f"document {n_documents} has the id {wrong}, outside the vocabulary of {vocab_size} ids; "
                    "use the tokenizer that belongs to the model"
                )
            put(ids_file, "ids.bin", np.append(ids, end_id).astype(dtype))
            n_documents += 1
            n_tokens += ids.size + 1
            put(bounds_file, "bounds.bin", np.array([n_tokens], "<i8"))
    return n_documents, n_tokens, {name: digest.hexdigest() for name, digest in digests.items()}


def open_shards(folder: str | Path, tokenizer_hash: str | None = None, *, verify: bool = True) -> TokenShards:
    """Open a folder of token shards by a memory map.

    `tokenizer_hash` refuses ids of another tokenizer. `verify` reads both files once, in blocks, and refuses an id
    outside the vocabulary or content that is not what was written; sizes and boundaries are always checked.
    """
    folder = Path(folder)
    meta = _read_meta(folder)
    if tokenizer_hash is not None and meta["tokenizer"] != tokenizer_hash:
        raise FileError(
            f"{folder}: its ids come from the tokenizer {meta['tokenizer'][:12]}, not from {tokenizer_hash[:12]}; "
            "make the shards again with the tokenizer of this run"
        )
    ids = _map(folder / "ids.bin", np.dtype(meta["dtype"]).newbyteorder("<"), meta["n_tokens"])
    bounds = _map(folder / "bounds.bin", np.dtype("<i8"), meta["n_documents"] + 1)
    if bounds[0] != 0 or bounds[-1] != len(ids) or (len(bounds) > 1 and np.diff(bounds).min() < 1):
        raise FileError(f"{folder / 'bounds.bin'}: the document boundaries do not ascend; make the shards again")
    if verify:
        _verify(folder / "ids.bin", ids, meta["sha256"], meta["vocab_size"])
        _verify(folder / "bounds.bin", bounds, meta["sha256"], None)
    return TokenShards(folder, ids, bounds, meta)


def is_shards(folder: str | Path) -> bool:
    """Whether a folder says that it holds token shards."""
    try:
        return read_json_object(Path(folder) / "meta.json").get("format") == FORMAT
    except FileError:
        return False


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    meta = read_json_object(path)
    remedy = "make the shards again"
    if meta.get("format") != FORMAT or meta.get("version") != VERSION:
        raise FileError(f"{path}: not token shards of version {VERSION}; is it the right folder?")
    for key, kind in META.items():
        value = meta.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise FileError(f"{path}: {key} is {value!r}, a {kind.__name__} is needed; {remedy}")
        if isinstance(value, int) and not 0 <= value < 1 << 48:
            raise FileError(f"{path}: {key} is {value}, outside 0 to 2^48; {remedy}")
    if meta["dtype"] not in ("uint16", "uint32"):
        raise FileError(f"{path}: dtype is {meta['dtype']!r}, only uint16 and uint32 are read; {remedy}")
    if max(meta["start_id"], meta["end_id"]) >= meta["vocab_size"]:
        raise FileError(f"{path}: start_id or end_id lies outside the vocabulary of {meta['vocab_size']}; {remedy}")
    if not all(isinstance(meta["sha256"].get(name), str) for name in ("ids.bin", "bounds.bin")):
        raise FileError(f"{path}: sha256 lacks ids.bin or bounds.bin; {remedy}")
    return meta


def _map(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    """Map a file that must hold exactly `count` numbers (a shorter map would end in a bus error, not an exception)."""
    try:
        size = path.stat().st_size
        if size != count * dtype.itemsize:
            raise FileError(
                f"{path}: {size:,} bytes, {count * dtype.itemsize:,} are promised by meta.json; make the shards again"
            )
        return np.memmap(path, dtype, "r", shape=(count,)) if count else np.zeros(0, dtype)
    except FileError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: cannot be read ({reason(error)}); make the shards again") from None


def _verify(path: Path, array: np.ndarray, digests: dict[str, str], vocab_size: int | None) -> None:
    digest = hashlib.sha256()
    for block in range(math.ceil(len(array) / BLOCK)):
        part = array[block * BLOCK : (block + 1) * BLOCK]
        if vocab_size is not None and int(part.max()) >= vocab_size:
            raise FileError(
                f"{path}: has the id {int(part.max())}, outside the vocabulary of {vocab_size}; make the shards again"
            )
        digest.update(part.data)
    if digest.hexdigest() != digests[path.name]:
        raise FileError(f"{path}: its content is not what was written (SHA-256 differs); make the shards again")
