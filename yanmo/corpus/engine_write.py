"""The third step of a corpus: the documents that stay → shards, and what became of all others → fates.

In: WORK/read and WORK/group. Out, in WORK/out, which becomes the corpus: shards (train-00000.parquet), their index
(index/train-00000.sig, .rows.npy), fates (fates/00000.parquet).

    run           one shard
    fates         the fates of some tasks of the first step
    FATES_TASKS   how many

A kept document that stands for others says so in its meta, as "copies": how many equal or near ones it is one of.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from yanmo.corpus import groups
from yanmo.corpus.card import UNSTATED
from yanmo.corpus.clean import clean, reject
from yanmo.corpus.documents import COLUMNS, Document
from yanmo.corpus.engine_files import Plan, TableWriter, finish, finished, load_plan, output, place, table_of
from yanmo.corpus.engine_group import ARRAYS, GROUP, INDEX, REASONS, TURNS, VALID, Shard, old_files
from yanmo.corpus.engine_paragraphs import copies_of
from yanmo.corpus.engine_parts import ROW, Fates, part_path, rows_of
from yanmo.corpus.engine_read import STEP as READ
from yanmo.corpus.engine_read import where_of
from yanmo.corpus.folder import cut_in_two
from yanmo.corpus.paragraphs import without
from yanmo.corpus.script import SCRIPTS
from yanmo.errors import FileError, need

STEP = "write"
FATES = "fates"
OUT = "out"
FATES_TASKS = 16
TALLIES = ("language", "license", "domain", "year", "script", "encoding", "source")
Tally = dict[str, list[int]]  # name → documents, bytes, characters, words


@dataclass(frozen=True)
class Decided:
    """What the second step found, opened once in a worker."""

    decision: np.ndarray
    of: np.ndarray  # places among all documents, those of old corpora first
    size: np.ndarray
    turns: np.ndarray | None  # how often each is drawn, where there is a mix
    old: int  # documents of old corpora
    parts: list[tuple[int, int]]  # task and number of each part
    starts: np.ndarray  # (parts + 1,): the first place of each part
    shards: list[Shard]
    held: frozenset[int]  # documents that stay as they are


@functools.lru_cache(maxsize=1)
def decided(work: str) -> Decided:
    """Open the decisions; FileError where they are missing."""
    values = finished(work, GROUP, 0)
    if values is None:
        raise FileError(f"{work}: nothing is decided yet; run the same command again")
    old = int(values["old"])
    total = sum(count for *_, count in values["parts"])
    decision, of, size = (
        np.load(Path(work) / GROUP / f"{name}.npy", "r", allow_pickle=False)[old : old + total] for name in ARRAYS
    )
    starts = np.cumsum([0, *(count for *_, count in values["parts"])])
    parts = [(task, part) for task, part, _ in values["parts"]]
    shards = [Shard(*each) for each in values["shards"]]
    turns = np.load(Path(work) / GROUP / TURNS, "r", allow_pickle=False) if values["mix"] else None
    return Decided(decision, of, size, turns, old, parts, starts, shards, frozenset(values["held"]))


def shard_path(work: str, number: int) -> Path:
    """Where a shard is written: its number counts the shards of its split."""
    shards = decided(work).shards
    mine = sum(shard.split == shards[number].split for shard in shards[:number])
    return Path(work) / OUT / f"{shards[number].name}-{mine:05d}.parquet"


@dataclass
class Written:
    """What one shard holds."""

    documents: int = 0
    bytes: int = 0
    characters: int = 0
    words: int = 0
    tallies: dict[str, Tally] = field(default_factory=lambda: {name: {} for name in TALLIES})
    paragraphs: int = 0  # taken out
    emptied: list[int] = field(default_factory=list)  # rows of documents of which nothing was left

    def count(self, names: dict[str, str], sizes: list[int], whole: bool = True) -> None:
        """Count one document under its language, licence and so on; not `whole`: the second half of one."""
        for kind, name in names.items():
            row = self.tallies[kind].setdefault(name, [0, 0, 0, 0])
            for place_of, more in enumerate([int(whole), *sizes]):
                row[place_of] += more
        self.documents += 1
        self.bytes, self.characters, self.words = (
            old + more for old, more in zip((self.bytes, self.characters, self.words), sizes)
        )


def run(work: str, number: int) -> None:
    """Write one shard and its index."""
    plan, found = load_plan(work), decided(work)
    shard, path = found.shards[number], shard_path(work, number)
    written, rows, files = Written(), [], [path]
    asked = plan.recipe.duplicates
    again = shard.turn > 0 or (shard.cut and shard.split == VALID)  # its documents have been counted
    index = groups.Writer(index_path(path, ".sig")) if asked.near and asked.index and not again else None
    with output(path) as partial, contextlib.closing(TableWriter(partial)) as writer:
        for part in _parts(found, shard):
            for table, places in _tables(work, found, shard, part):
                table, places = _changed(work, found, table, places, (part, written, shard))
                writer.add(table)
                here = rows_of(_read_path(work, found, part, ".rows.npy"))[places - found.starts[part]]
                _count(written, table, here, (plan, shard))
                rows.append(here)
                if index is not None:
                    signatures = groups.SignatureFile(_read_path(work, found, part, ".sig"), check=False)
                    index.shape = signatures.shape
                    index.add_rows(signatures, places - found.starts[part])
    if asked.index and not again:
        files.append(index_path(path, ".rows.npy"))
        with output(files[-1]) as partial, open(partial, "wb") as file:
            np.save(file, np.concatenate([np.zeros(0, ROW), *rows]), allow_pickle=False)
    if index is not None:
        index.close()
        files.append(index_path(path, ".sig"))
    if shard.turn:
        written.emptied, written.paragraphs = [], 0
    finish(work, STEP, number, files, {"split": shard.name, "name": path.name, **vars(written)})


def index_path(shard: Path, ending: str) -> Path:
    """Where the index of a shard lies."""
    return shard.parent / INDEX / f"{shard.stem}{ending}"


def _read_path(work: str, found: Decided, part: int, ending: str) -> Path:
    return part_path(Path(work) / READ, *found.parts[part], ending)


def _parts(found: Decided, shard: Shard) -> range:
    first = int(np.searchsorted(found.starts, shard.first, side="right")) - 1
    last = int(np.searchsorted(found.starts, shard.last, side="left"))
    return range(first, last)


def _tables(work: str, found: Decided, shard: Shard, part: int) -> Iterator[tuple[Any, np.ndarray]]:
    """The rows of one part that belong to a shard: tables, and the places of their rows among all documents."""
    arrow = need("pyarrow", "corpus", "a corpus on disk")
    parquet = need("pyarrow.parquet", "corpus", "a corpus on disk")
    with parquet.ParquetFile(_read_path(work, found, part, ".parquet")) as file:
        start = int(found.starts[part])
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            places = np.arange(max(start, shard.first), min(end, shard.last))
            if not shard.cut:
                places = places[shard.has(places, found.decision, found.turns)]
            if len(places):
                yield file.read_row_group(group).take(arrow.array(places - start)), places
            start = end


def _changed(
    work: str, found: Decided, table: Any, places: np.ndarray, of: tuple[int, Written, Shard]
) -> tuple[Any, np.ndarray]:
    """The table with copies counted, paragraphs taken out, and the only document cut."""
    part, written, shard = of
    again = _copies(work, part)
    many = found.size[places] > 1
    if not (many.any() or again is not None or shard.cut):
        return table, places
    documents, stay = [], []
    for number, (values, row) in enumerate(zip(table.to_pylist(), places.tolist())):
        document = Document(**values)
        if many[number]:
            meta = json.loads(document.meta) if document.meta.startswith("{") else {}
            document = replace(document, meta=json.dumps(meta | {"copies": int(found.size[row])}, ensure_ascii=False))
        if again is not None and row not in found.held:
            text, gone = without(document.text, again[row - found.starts[part]])
            text = clean(text)
            written.paragraphs += gone
            if gone and reject(text) is not None:
                written.emptied.append(row)
                continue
            document = replace(document, text=text)
        if shard.cut:
            document = cut_in_two(document, load_plan(work).recipe.out.valid_share)[shard.split]
        stay.append(number)
        documents.append(document)
    return table_of(documents), places[stay]


@functools.lru_cache(maxsize=1)
def _copies(work: str, part: int) -> list[np.ndarray] | None:
    """Of each document of a part, which of its paragraphs came before."""
    path = Path(work) / GROUP / f"copies-{part:06d}.npy"
    return copies_of(_read_path(work, decided(work), part, ".marks"), path) if path.is_file() else None


def _count(written: Written, table: Any, rows: np.ndarray, of: tuple[Plan, Shard]) -> None:
    plan, shard = of
    whole = not shard.cut or shard.split != VALID
    compute = need("pyarrow.compute", "corpus", "a corpus on disk")
    columns = {name: table.column(name).to_pylist() for name in COLUMNS if name not in ("text", "id", "title")}
    sizes = [
        compute.binary_length(table.column("text")).to_pylist(),
        compute.utf8_length(table.column("text")).to_pylist(),
        rows["words"].tolist(),
    ]
    for number, row in enumerate(rows):
        encoding = ""
        if '"charset"' in columns["meta"][number]:
            with contextlib.suppress(ValueError):
                encoding = str(json.loads(columns["meta"][number]).get("charset", ""))
        names = {
            "language": columns["language"][number] or UNSTATED,
            "license": columns["license"][number] or UNSTATED,
            "domain": domain(columns["url"][number]),
            "year": year(columns["date"][number]),
            "script": SCRIPTS[row["script"]],
            "encoding": encoding,
            "source": plan.sources[row["source"]].name,
        }
        named = {kind: name for kind, name in names.items() if name and not shard.turn}
        written.count(named, [int(size[number]) for size in sizes], whole)


def domain(url: str) -> str:
    """The host of an address, without www."""
    try:
        return (urlsplit(url).hostname or "").removeprefix("www.")
    except ValueError:
        return ""


def year(date: str) -> str:
    """The year with which a date begins."""
    return date[:4] if date[:4].isdecimal() and date[:4].isascii() and not date[4:5].isdigit() else ""


def files_of_fates(plan: Plan) -> int:
    """How many files of fates there are to be."""
    return -(-len(plan.tasks) // FATES_TASKS)


def fates(work: str, number: int) -> None:
    """Gather what became of the documents of FATES_TASKS tasks that are not in the corpus."""
    plan, found = load_plan(work), decided(work)
    path = Path(work) / OUT / FATES / f"{number:05d}.parquet"
    with Fates(path) as gathered:
        for task in range(number * FATES_TASKS, min((number + 1) * FATES_TASKS, len(plan.tasks))):
            gathered.add_file(place(work, READ, task, ".fates.parquet"))
            first, last = (bisect.bisect_left(found.parts, (owner, 0)) for owner in (task, task + 1))
            for part in range(first, last):
                _late(work, found, part, gathered)
    finish(work, FATES, number, [path], {})


def _late(work: str, found: Decided, part: int, gathered: Fates) -> None:
    """The fates of documents of one part that the second or third step left out."""
    parquet = need("pyarrow.parquet", "corpus", "a corpus on disk")
    places = np.arange(found.starts[part], found.starts[part + 1])
    gone = (found.decision[places] > VALID) | np.isin(places, list(_emptied(work)))
    if not gone.any():
        return
    plan = load_plan(work)
    sources = rows_of(_read_path(work, found, part, ".rows.npy"))["source"]
    table = parquet.read_table(
        _read_path(work, found, part, ".parquet"), columns=["id", "url", "title", "meta"], use_threads=False
    )
    for number in np.flatnonzero(gone).tolist():
        row = {name: table.column(name)[number].as_py() for name in table.schema.names}
        code = int(found.decision[places[number]])
        why = REASONS.get(code, "only_repeated")
        what = f"of {_id_of(work, found, int(found.of[places[number]]))}" if code > VALID else ""
        named = (row["id"], row["url"], row["title"], plan.sources[sources[number]].name, where_of(row["meta"]))
        gathered.add(*named, "removed", why, what)


def _id_of(work: str, found: Decided, place_of: int) -> str:
    """The id of the document at a place among all, those of old corpora first."""
    if place_of < found.old:
        paths, starts = _old_starts(work)
        owner = int(np.searchsorted(starts, place_of, side="right")) - 1
        return rows_of(paths[owner])["id"][place_of - starts[owner]].tobytes().hex()
    place_of -= found.old
    part = int(np.searchsorted(found.starts, place_of, side="right")) - 1
    rows = rows_of(_read_path(work, found, part, ".rows.npy"))
    return rows["id"][place_of - found.starts[part]].tobytes().hex()


@functools.lru_cache(maxsize=1)
def _old_starts(work: str) -> tuple[list[Path], np.ndarray]:
    """The rows of old corpora, and where each file begins: counted once, not for every duplicate."""
    paths, _ = old_files(load_plan(work).recipe.duplicates.against)
    return paths, np.cumsum([0, *(len(rows_of(path)) for path in paths)])


@functools.lru_cache(maxsize=1)
def _emptied(work: str) -> frozenset[int]:
    results = [finished(work, STEP, number) or {} for number in range(len(decided(work).shards))]
    return frozenset(row for result in results for row in result.get("emptied", ()))
