"""A corpus folder → token shards, on several cores, and on from where it was stopped, with the same bytes.

In: a corpus (its Parquet shards), a tokenizer. Out: for a split one folder of shards.py (ids.bin, bounds.bin,
meta.json), the same whatever the number of workers and however often the work was killed.

    tokenise         corpus, split, tokenizer → TokenShards
    units_of         a split → its units: the row groups of its shards, about 8 MB of text each
    encode_unit      one unit → ids and lengths of its documents
    serve            the loop of a worker: units on its standard input, answers on its standard output

While it runs, a hidden folder beside the target holds what is finished: units are added in their order, each with a
line in `journal` once its bytes are on the disk. What stands after the last whole line is cut off before work goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from yanmo.corpus.build import Corpus
from yanmo.corpus.engine_files import lock
from yanmo.errors import FileError, InputError, need
from yanmo.files import inside, read_json, reason, write_json
from yanmo.system import cores
from yanmo.tokens.encoders import Encoders
from yanmo.tokens.shards import BLOCK, TokenShards, id_type, is_shards, open_shards, shards_meta
from yanmo.tokens.tokenizer import Tokenizer

AHEAD = 3  # units for each worker that may wait for their turn on the disk
MARK = ".tokenising-"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Unit:
    """A row group of a Parquet file."""

    path: Path
    group: int


@dataclass(frozen=True)
class Part:
    """A unit as ids: every document's, its end included, and how many each has; n_bytes: of their UTF-8."""

    ids: np.ndarray
    lengths: np.ndarray
    n_bytes: int


def tokenise(
    corpus: Corpus,
    split: str,
    tokenizer: Tokenizer,
    out: Path,
    *,
    ends: tuple[int, int],
    workers: int | None = None,
    progress: Progress | None = None,
) -> TokenShards:
    """Write the ids of a split ("train", "valid") to `out` and open them; a finished folder is opened as it is.

    ends: the ids that open and close a document. workers: processes; None: as many as this machine lets us use.
    progress(done, total) in bytes of text. A folder of another tokenizer or corpus is a FileError.
    """
    wanted = _identity(corpus, split, tokenizer, ends)
    if out.exists():
        return _finished(out, wanted)
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}, and must be at least 1")
    place = out.parent / f"{MARK}{out.name}"
    held = place.with_name(f"{place.name}.lock")
    with lock(held):
        if out.exists():  # another run has ended meanwhile
            return _finished(out, wanted)
        try:
            _write(corpus, split, tokenizer, place, wanted, workers, progress)
            os.replace(place, out)
            held.unlink(missing_ok=True)
        except OSError as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"{place}: cannot be written ({reason(error)}); free some space and run again") from None
    return open_shards(out, wanted["tokenizer"], verify=False)


def _write(
    corpus: Corpus,
    split: str,
    tokenizer: Tokenizer,
    place: Path,
    wanted: dict[str, Any],
    workers: int | None,
    progress: Progress | None,
) -> None:
    """Fill the folder `place`, or what is left of it."""
    units, ends = units_of(corpus, split), wanted["ends"]
    total = int(corpus.card["splits"][split]["bytes"])
    journal = _open(place, wanted, units)
    with Growing(place, wanted["dtype"], journal) as growing:
        done = growing.n_bytes
        left = units[len(journal) :]
        number = min(workers or cores().usable, max(1, len(left)))
        for part in _encoded(left, tokenizer, ends[1], place, number):
            growing.add(part)
            done += part.n_bytes
            if progress is not None:
                progress(done, total)
    meta = shards_meta(wanted["tokenizer"], tokenizer.vocab_size, ends, growing.counts(), growing.digests())
    write_json(place / "meta.json", meta | {"corpus": wanted["corpus"]})
    for name in ("journal", "state.json"):
        (place / name).unlink()
    shutil.rmtree(place / "tokenizer", ignore_errors=True)


def units_of(corpus: Corpus, split: str) -> list[Unit]:
    """The units of a split, in the order of its documents."""
    parquet = need("pyarrow.parquet", "corpus", "reading a corpus")
    arrow = need("pyarrow", "corpus", "reading a corpus")
    units: list[Unit] = []
    for shard in _shards(corpus, split):
        path = inside(corpus.folder, shard["name"], corpus.folder / "card.json")
        try:
            groups = parquet.read_metadata(path).num_row_groups
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise FileError(f"{path}: not a readable Parquet file ({reason(error)}); build the corpus again") from None
        units += [Unit(path, group) for group in range(groups)]
    return units


def encode_unit(unit: Unit, tokenizer: Tokenizer, end_id: int) -> Part:
    """The ids of a unit's documents."""
    texts = _texts(unit)
    arrays = tokenizer.encode_arrays(texts)
    dtype = id_type(tokenizer.vocab_size)
    end = np.array([end_id], np.uint32)
    joined = [piece for ids in arrays for piece in (ids, end)]
    ids = np.concatenate(joined).astype(dtype) if joined else np.zeros(0, dtype)
    lengths = np.array([len(ids) + 1 for ids in arrays], "<i8")
    return Part(ids, lengths, sum(len(text.encode()) for text in texts))


def _texts(unit: Unit) -> list[str]:
    arrow = need("pyarrow", "corpus", "reading a corpus")
    parquet = need("pyarrow.parquet", "corpus", "reading a corpus")
    try:
        with parquet.ParquetFile(unit.path) as file:
            column = file.read_row_group(unit.group, columns=["text"])["text"]
            return [text or "" for text in column.to_pylist()]
    except (arrow.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        raise FileError(f"{unit.path}: not a readable Parquet file ({reason(error)}); build the corpus again") from None


def _encoded(units: Sequence[Unit], tokenizer: Tokenizer, end_id: int, place: Path, workers: int) -> Iterator[Part]:
    """The parts of units in their order; several processes work ahead."""
    if workers == 1:
        for unit in units:
            yield encode_unit(unit, tokenizer, end_id)
        return
    folder = place / "tokenizer"
    if not folder.is_dir():
        tokenizer.save(folder)
    waiting: deque[Future[Part]] = deque()
    rest: Iterator[Unit] = iter(units)
    with Encoders(folder, tokenizer.hash, end_id) as encoders, ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(waiting) < workers * AHEAD and (following := next(rest, None)) is not None:
                    waiting.append(pool.submit(_ask, encoders, following))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _ask(encoders: Encoders, unit: Unit) -> Part:
    head, ids, lengths = encoders.ask({"path": str(unit.path), "group": unit.group})
    return Part(np.frombuffer(ids, head["dtype"]), np.frombuffer(lengths, "<i8"), head["bytes"])


class Growing:
    """The two files of token shards while they grow, unit by unit."""

    def __init__(self, place: Path, dtype: str, journal: list[dict[str, int]]) -> None:
        self.place, self.dtype = place, np.dtype(dtype).newbyteorder("<")
        self.n_documents = sum(line["documents"] for line in journal)
        self.n_tokens = sum(line["tokens"] for line in journal)
        self.n_bytes = sum(line["bytes"] for line in journal)
        self._digests = {"ids.bin": hashlib.sha256(), "bounds.bin": hashlib.sha256()}
        sizes = (self.n_tokens * self.dtype.itemsize, 8 * (self.n_documents + 1))
        self._files = [self._continued(name, size) for name, size in zip(self._digests, sizes, strict=True)]
        self._journal = open(place / "journal", "a", encoding="ascii")  # noqa: SIM115
        if not self.n_documents:
            self._put(1, np.zeros(1, "<i8"))

    def __enter__(self) -> Growing:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()
        self._journal.close()

    def add(self, part: Part) -> None:
        """Append a unit; it counts once its line stands in the journal."""
        self._put(0, part.ids)
        self._put(1, (self.n_tokens + np.cumsum(part.lengths)).astype("<i8"))
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        self.n_documents += len(part.lengths)
        self.n_tokens += len(part.ids)
        self.n_bytes += part.n_bytes
        line = {"documents": len(part.lengths), "tokens": len(part.ids), "bytes": part.n_bytes}
        self._journal.write(json.dumps(line | {"crc": zlib.crc32(part.ids.tobytes())}) + "\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def counts(self) -> tuple[int, int, int]:
        """Documents, ids, bytes of text."""
        return self.n_documents, self.n_tokens, self.n_bytes

    def digests(self) -> dict[str, str]:
        """SHA-256 by file name."""
        return {name: digest.hexdigest() for name, digest in self._digests.items()}

    def _continued(self, name: str, size: int) -> BinaryIO:
        """Open a file at the end of what counts, which its digest has read again."""
        path = self.place / name
        path.touch()
        file = open(path, "r+b")  # noqa: SIM115
        file.truncate(size if self.n_documents else 0)
        while block := file.read(BLOCK):
            self._digests[name].update(block)
        return file

    def _put(self, which: int, array: np.ndarray) -> None:
        data = array.tobytes()
        list(self._digests.values())[which].update(data)
        self._files[which].write(data)


def _shards(corpus: Corpus, split: str) -> list[dict[str, Any]]:
    return [shard for shard in corpus.card["shards"] if shard["split"] == split]


def _identity(corpus: Corpus, split: str, tokenizer: Tokenizer, ends: tuple[int, int]) -> dict[str, Any]:
    """What decides the bytes of the shards."""
    marks = json.dumps([shard["sha256"] for shard in _shards(corpus, split)])
    return {
        "corpus": hashlib.sha256(marks.encode()).hexdigest(),
        "tokenizer": tokenizer.hash,
        "ends": list(ends),
        "dtype": id_type(tokenizer.vocab_size).name,
    }


def _finished(out: Path, wanted: dict[str, Any]) -> TokenShards:
    if not is_shards(out):
        raise FileError(f"{out}: exists and holds no token shards; choose another folder")
    found = open_shards(out, wanted["tokenizer"])
    if found.meta.get("corpus", wanted["corpus"]) != wanted["corpus"]:
        raise FileError(f"{out}: token shards of another corpus; choose another folder, or remove this one")
    return found


def _open(place: Path, wanted: dict[str, Any], units: Sequence[Unit]) -> list[dict[str, int]]:
    """The journal of work begun before; of another corpus or tokenizer, or damaged, it is begun anew."""
    try:
        if read_json(place / "state.json") == wanted:
            journal = list(_lines(place / "journal"))
            if len(journal) <= len(units) and _sound(place, wanted["dtype"], journal):
                text = "".join(json.dumps(line) + "\n" for line in journal)
                (place / "journal").write_text(text, encoding="ascii")
                return journal
    except FileError:
        pass
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    write_json(place / "state.json", wanted)
    return []


def _lines(path: Path) -> Iterator[dict[str, int]]:
    """The whole lines of a journal; the last one may have been cut off."""
    if not path.exists():
        return
    for text in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(text)
        except ValueError:
            return
        if not isinstance(line, dict) or {type(line.get(k)) for k in ("documents", "tokens", "bytes", "crc")} != {int}:
            return
        yield line


def _sound(place: Path, dtype: str, journal: list[dict[str, int]]) -> bool:
    """Whether the ids on the disk are those that the journal has seen."""
    width = np.dtype(dtype).itemsize
    n_documents = sum(line["documents"] for line in journal)
    try:
        with open(place / "ids.bin", "rb") as file:
            if any(zlib.crc32(file.read(line["tokens"] * width)) != line["crc"] for line in journal):
                return False
        return (place / "bounds.bin").stat().st_size >= 8 * (n_documents + 1) if journal else True
    except OSError:
        return not journal


def serve(folder: str, end_id: str, source: BinaryIO, sink: BinaryIO) -> None:
    """Answer each line {"path", "group"} with a line of JSON and the bytes that it announces; ends with its input."""
    from yanmo.errors import Error
    from yanmo.tokens.tokenizer import load_tokenizer

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which ends its workers
    tokenizer = load_tokenizer(folder)
    sink.write(json.dumps({"hash": tokenizer.hash}).encode() + b"\n")
    sink.flush()
    for line in source:
        asked = json.loads(line)
        try:
            part = encode_unit(Unit(Path(asked["path"]), asked["group"]), tokenizer, int(end_id))
        except Error as error:
            answer = json.dumps({"error": str(error)}).encode() + b"\n"
        else:
            ids, lengths = part.ids.tobytes(), part.lengths.tobytes()
            head = {"dtype": part.ids.dtype.str, "bytes": part.n_bytes, "sizes": [len(ids), len(lengths)]}
            answer = json.dumps(head).encode() + b"\n" + ids + lengths
        try:
            sink.write(answer)
            sink.flush()
        except BrokenPipeError:  # the run that asked was killed
            os._exit(0)
