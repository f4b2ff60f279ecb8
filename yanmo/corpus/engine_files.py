"""The work folder of a corpus in the making: the only truth about what has been done.

In: results of tasks. Out: files that are complete or absent, and one manifest a task that says they are there.

    Plan, load_plan           what is to be done: recipe, sources, units, tasks; stage by stage, as sources come
    output                    one file: written aside, flushed to the disk, renamed
    finish, finished          the manifest of a task, written last; what it says, if its files are there
    TableWriter               tables → one Parquet file of row groups of even size
    lock                      one run at a time

A work folder lies beside the corpus as DIR.work/JOB, JOB being a hash of everything that the result depends on: a run
with other sources or another recipe finds nothing of this one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from yanmo.corpus.documents import COLUMNS, GROUP_BYTES, Document
from yanmo.corpus.settings import CorpusRecipe, absolute, from_values
from yanmo.corpus.sources import Source
from yanmo.corpus.units import Unit
from yanmo.errors import FileError, need
from yanmo.files import read_json_object, reason, write_atomic

PARTIAL = ".tmp-"


@dataclass(frozen=True)
class Plan:
    """What is to be done, or a stage of it: `tasks` are ranges of `units`, and a unit has the number of its source."""

    recipe: CorpusRecipe
    sources: tuple[Source, ...]
    units: tuple[tuple[int, int, int | None], ...]
    tasks: tuple[tuple[int, int], ...]

    def unit(self, number: int) -> Unit:
        source, start, end = self.units[number]
        return Unit(self.sources[source], start, end)

    def with_stage(self, stage: Plan) -> Plan:
        """The plan and its next stage, whose numbers go on from it."""
        parts = (self.sources + stage.sources, self.units + stage.units, self.tasks + stage.tasks)
        return Plan(self.recipe, *parts)


def job_name(identity: Mapping[str, Any]) -> str:
    """The name of a job: a hash of all that its result depends on."""
    data = json.dumps(identity, sort_keys=True).encode()
    return hashlib.blake2b(data, digest_size=10).hexdigest()


def stage_path(work: str | Path, stage: int) -> Path:
    """Where a stage of the plan lies."""
    return Path(work) / f"plan-{stage:06d}.json"


def write_stage(work: Path, number: int, stage: Plan) -> bool:
    """Write a stage into its work folder; False where another one lay there.

    Paths are made absolute, for a worker may stand elsewhere.
    """
    sources = [[s.name, os.path.abspath(s.path), s.kind, s.packed, s.size] for s in stage.sources]
    values = {
        "recipe": absolute(stage.recipe).model_dump(),
        "sources": sources,
        "units": stage.units,
        "tasks": stage.tasks,
    }
    path, text = stage_path(work, number), json.dumps(values)  # ASCII: names that are no UTF-8 pass as lone surrogates
    was = path.read_text("ascii") if path.exists() else text
    if was != text or not path.exists():
        write_atomic(path, text)
    return was == text


def load_plan(work: str) -> Plan:
    """The plan of a work folder, as far as its sources have come."""
    known = _known(work)
    if known.stages and _written(stage_path(work, known.stages - 1)) != known.last:  # `forget` takes all behind one
        known.plan, known.stages = None, 0
    while (last := _written(path := stage_path(work, known.stages))) is not None:
        stage = _read_stage(path)
        known.plan = stage if known.plan is None else known.plan.with_stage(stage)
        known.last, known.stages = last, known.stages + 1
    assert known.plan is not None, f"{work} has no plan"
    return known.plan


@dataclass
class _Known:
    """What this process has read of a plan."""

    plan: Plan | None = None
    stages: int = 0
    last: tuple[int, int] | None = None  # when its last stage was written


def _written(path: Path) -> tuple[int, int] | None:
    """What another file of this name would have otherwise; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


@functools.lru_cache(maxsize=2)
def _known(work: str) -> _Known:
    return _Known()


def _read_stage(path: Path) -> Plan:
    values = read_json_object(path, 2**34)
    sources = tuple(
        Source(Path(path), name, kind, packed, size) for name, path, kind, packed, size in values["sources"]
    )
    units = tuple((source, start, end) for source, start, end in values["units"])
    return Plan(from_values(values["recipe"]), sources, units, tuple((a, b) for a, b in values["tasks"]))


def forget(work: Path, step: str, first: int, stage: int) -> None:
    """Take back the stages behind one, and that tasks from this number on are done."""
    while (path := stage_path(work, stage := stage + 1)).exists():
        path.unlink()
    for path in (work / step).glob("*.json"):
        if int(path.name.partition(".")[0]) >= first:
            path.unlink()
    _known.cache_clear()


def place(work: str | Path, step: str, number: int, ending: str) -> Path:
    """Where a file of one task lies."""
    return Path(work) / step / f"{number:06d}{ending}"


@contextlib.contextmanager
def output(path: Path) -> Iterator[Path]:
    """Yield a path to write to; at a clean exit the file takes its place, else it is removed."""
    partial = path.with_name(f"{path.name}{PARTIAL}{os.getpid()}-{threading.get_ident()}")
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            f"{path}: cannot be written ({reason(error)}); free some space, and the same command goes on"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def array_on_disk(path: Path, kind: Any, length: int) -> np.ndarray:
    """An array of zeros by memory map, with one entry at least; its room is taken now, so that a full disk is an error.

    Where a page of a map finds no room on the disk, the process is killed.
    """
    try:
        array = open_memmap(path, "w+", kind, (max(length, 1),))
        if hasattr(os, "posix_fallocate"):
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise FileError(
            f"{path}: cannot be written ({reason(error)}); free some space, and the same command goes on"
        ) from error
    return array


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def finish(work: str | Path, step: str, number: int, files: Sequence[Path], result: Mapping[str, Any]) -> None:
    """Say that a task is done: its files are on the disk, and `result` is what is to be known of it."""
    sizes = {os.path.relpath(path, work): path.stat().st_size for path in files}
    text = json.dumps({"files": sizes, "result": result}, ensure_ascii=False, sort_keys=True)
    write_atomic(place(work, step, number, ".json"), text.encode("utf-8", "replace"))


def finished(work: str | Path, step: str, number: int) -> dict[str, Any] | None:
    """The result of a task that is done; None where it is not, or where a file of it is missing or cut."""
    try:
        manifest = json.loads(place(work, step, number, ".json").read_bytes())
        for name, size in manifest["files"].items():
            if (Path(work) / name).stat().st_size != size:
                return None
        found: dict[str, Any] = manifest["result"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found


def schema(columns: Sequence[str] = COLUMNS) -> Any:
    """An Arrow schema of texts."""
    arrow = need("pyarrow", "corpus", "a corpus on disk")
    return arrow.schema([(name, arrow.string()) for name in columns])


def fit(text: str) -> str:
    """A text that UTF-8 can hold: half characters of a foreign name become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text


def table_of(documents: Sequence[Document]) -> Any:
    """Documents as an Arrow table."""
    arrow = need("pyarrow", "corpus", "a corpus on disk")
    columns = {name: [fit(getattr(document, name)) for document in documents] for name in COLUMNS}
    return arrow.table(columns, schema=schema())


class TableWriter:
    """Writes tables of one schema into a Parquet file; row groups have some GROUP_BYTES of `measured` each.

    The bytes of the file depend on the rows alone, not on how they came in tables.
    """

    def __init__(self, path: Path, columns: Sequence[str] = COLUMNS, level: int = 3, measured: str = "text"):
        self.arrow = need("pyarrow", "corpus", "a corpus on disk")
        parquet = need("pyarrow.parquet", "corpus", "a corpus on disk")
        self.schema, self.measured = schema(columns), measured
        self._file = parquet.ParquetWriter(path, self.schema, compression="zstd", compression_level=level)
        self._held: list[Any] = []
        self._size = 0
        self.rows = 0

    def add(self, table: Any) -> None:
        """Append rows; a group ends behind the row with which it reaches its size."""
        compute = need("pyarrow.compute", "corpus", "a corpus on disk")
        sizes = compute.binary_length(table.column(self.measured)).to_pylist()
        start = 0
        for number, size in enumerate(sizes):
            self._size += size or 0
            if self._size >= GROUP_BYTES:
                self._held.append(table.slice(start, number + 1 - start))
                self._flush()
                start = number + 1
        if start < len(table):
            self._held.append(table.slice(start))
        self.rows += len(table)

    def _flush(self) -> None:
        if self._held:
            whole = self.arrow.concat_tables(self._held).combine_chunks()
            self._file.write_table(whole, row_group_size=max(len(whole), 1))
        self._held, self._size = [], 0

    def close(self) -> None:
        """Write what is held and end the file."""
        self._flush()
        self._file.close()


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a file for one process; FileError where another holds it. A process that ends lets go."""
    try:
        import fcntl
    except ImportError:  # Windows: an open file cannot be replaced there, which is lock enough
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise FileError(f"{path.parent}: cannot be written ({reason(error)}); choose another -o") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FileError(
                f"{path.parent}: another run works here; wait until it ends, or choose another -o"
            ) from None
        yield
