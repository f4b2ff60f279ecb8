"""The second step of a corpus: which of all documents stay, and on which side, from rows and signatures alone.

In: the parts of WORK/read, and the index of old corpora. Out, in WORK/group: arrays with one entry for each document
(decision.npy; of.npy, who stands for one that goes; size.npy, how many a kept one stands for), the paragraphs that came
before (copies-N.npy), the books and the shards to be written (.json).

    decide            all of it
    Shard             a range of documents that is written as one file

Of equal documents the first stays, in the order of the sources; of near ones the longest (groups.py). What an old
corpus has goes in any case. The order of documents, and so everything here, is that of the plan: no worker changes it.
The arrays lie on the disk, and equal documents are found bucket by bucket (engine_spill.py): memory is that of one
bucket. With near duplicates it is 60 bytes a document, of old corpora too (groups.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from yanmo.corpus import engine_mix, groups
from yanmo.corpus.engine_files import Plan, array_on_disk, finish, finished, sync
from yanmo.corpus.engine_paragraphs import find_copies
from yanmo.corpus.engine_parts import part_path, rows_of, shape_of
from yanmo.corpus.engine_read import STEP
from yanmo.corpus.engine_spill import copies
from yanmo.corpus.folder import SPLITS
from yanmo.corpus.settings import DuplicatesSection
from yanmo.errors import FileError, InputError

GROUP = "group"
TRAIN, VALID, DUPLICATE, NEAR, OLD, OLD_NEAR, NOT_DRAWN = range(7)
REASONS = {
    DUPLICATE: "duplicate",
    NEAR: "near_duplicate",
    OLD: "old_duplicate",
    OLD_NEAR: "old_near_duplicate",
    NOT_DRAWN: "not_drawn",
}
TURNS = "turns.npy"
INDEX = "index"  # of a corpus folder: what a later corpus asks of it
ARRAYS = {"decision": np.uint8, "of": np.uint64, "size": np.uint32}


@dataclass(frozen=True)
class Shard:
    """The documents `first` to `last` whose decision is `split`, and that are drawn more than `turn` times.

    cut: the only document, in two halves.
    """

    split: int
    first: int
    last: int
    cut: bool = False
    turn: int = 0

    @property
    def name(self) -> str:
        return SPLITS[self.split]

    def has(self, rows: Any, decision: np.ndarray, turns: np.ndarray | None) -> np.ndarray:
        """Which of some rows (an index of both arrays) are of this kind, (n,) bool."""
        mine: np.ndarray = decision[rows] == self.split
        return mine if turns is None or self.split != TRAIN else mine & (turns[rows] > self.turn)


@dataclass(frozen=True)
class Rows:
    """The files of rows in their order, those of old corpora first, and where each begins: (files + 1,)."""

    paths: tuple[Path, ...]
    starts: np.ndarray
    n_old: int  # documents of old corpora

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each file's first place and its rows."""
        for path, start in zip(self.paths, self.starts.tolist()):
            yield start, rows_of(path)

    def new(self) -> Iterator[tuple[int, np.ndarray]]:
        """The same without the old ones, places counted from the first new document."""
        for start, rows in self:
            if start >= self.n_old and len(rows):
                yield start - self.n_old, rows


Arrays = dict[str, np.ndarray]


def old_files(folders: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Rows and signatures of old corpora; FileError for a folder that keeps none."""
    rows: list[Path] = []
    for folder in map(Path, folders):
        here = sorted((folder / INDEX).glob("*.rows.npy"))
        if not here:
            raise FileError(f"{folder}: keeps no {INDEX}/ to compare with; make it with duplicates.index=true")
        rows += here
    return rows, [path.with_name(path.name.removesuffix(".rows.npy") + ".sig") for path in rows]


def check_old(asked: DuplicatesSection) -> None:
    """Say before anything is read what would stop the search later: an old corpus of another kind, or a damaged one."""
    rows, signatures = old_files(asked.against)
    for path in rows:
        rows_of(path)
    for path in signatures if asked.near else ():
        made, wanted = groups.SignatureFile(path, check=False).shape, shape_of(asked)
        if made != wanted:
            raise InputError(
                f"{path}: made with {made}, [duplicates] asks for {wanted}; take the same, or make it anew"
            )


def parts_of(work: str, plan: Plan) -> list[tuple[int, int, int]]:
    """(task, part, documents) of every part, in their order."""
    found = []
    for task in range(len(plan.tasks)):
        done = finished(work, STEP, task)
        assert done is not None, f"{STEP} {task} is not done"
        found += [(task, number, count) for number, count in enumerate(done["rows"])]
    return found


def decide(work: str, plan: Plan) -> dict[str, Any]:
    """Do the step, unless it is done."""
    if (done := finished(work, GROUP, 0)) is not None:
        return done
    asked = plan.recipe.duplicates
    folder, read = Path(work) / GROUP, Path(work) / STEP
    folder.mkdir(exist_ok=True)
    parts = parts_of(work, plan)
    old_rows, old_signatures = old_files(asked.against)
    counts = [len(rows_of(path)) for path in old_rows] + [count for *_, count in parts]
    paths = [*old_rows, *(part_path(read, task, part, ".rows.npy") for task, part, _ in parts)]
    rows = Rows(tuple(paths), np.cumsum([0, *counts]), sum(counts[: len(old_rows)]))
    found = _arrays(folder, int(rows.starts[-1]))
    _equal(rows, found, folder)
    pairs = {"candidates": 0, "pairs": 0}
    if asked.near and len(found["decision"]) > rows.n_old:
        signatures = [part_path(read, task, part, ".sig") for task, part, _ in parts]
        pairs = _near(rows.n_old, (old_signatures, signatures), asked.threshold, found)
    decision = found["decision"][rows.n_old :]
    held = _sides(decision, rows, plan)
    written = [folder / f"{name}.npy" for name in ARRAYS]
    turns, mixed = None, {}
    if len(held) == 2 and engine_mix.wanted(plan.recipe):
        written.append(folder / TURNS)
        mixed = engine_mix.draw(written[-1], decision, [rows.new(), rows.new()], plan, (TRAIN, NOT_DRAWN), set(held))
        turns = np.load(written[-1], "r", allow_pickle=False)
    shards = [*_shards(decision, rows, plan, held, turns)]
    for path in written:
        sync(path)
    if asked.paragraphs:
        marks = [part_path(read, task, part, ".marks") for task, part, _ in parts]
        written += find_copies(marks, decision > VALID, folder)
    kept, removed = _counts(decision, rows)
    values = {
        "parts": parts,
        "old": rows.n_old,
        "kept": kept,
        "removed": removed,
        "held": held,
        "mix": mixed,
        "shards": [astuple(shard) for shard in shards],
        **pairs,
    }
    finish(work, GROUP, 0, written, values)
    return values


def _arrays(folder: Path, total: int) -> Arrays:
    """The arrays of the step on the disk, over all documents, the old ones first."""
    found = {name: array_on_disk(folder / f"{name}.npy", kind, total)[:total] for name, kind in ARRAYS.items()}
    found["size"][:] = 1
    return found


def _equal(rows: Rows, found: Arrays, folder: Path) -> None:
    """Enter documents whose texts are equal."""
    blocks = ((part["mark"], np.arange(start, start + len(part), dtype=np.uint64)) for start, part in rows)
    old = np.uint64(rows.n_old)
    for goes, stays in copies(blocks, len(found["decision"]), folder):
        goes, stays = goes[goes >= old], stays[goes >= old]  # an old corpus keeps what it has
        found["decision"][goes] = np.where(stays < old, OLD, DUPLICATE)
        found["of"][goes] = stays
        np.add.at(found["size"], stays, 1)


def _near(n_old: int, signatures: tuple[list[Path], list[Path]], threshold: float, found: Arrays) -> dict[str, int]:
    old, new = signatures
    gone = found["decision"] > VALID
    result = groups.group(new, old, threshold=threshold, without=gone, check=False)
    if len(result.ids) != len(gone):
        raise FileError(f"{len(result.ids):,} signatures for {len(gone):,} documents; make the old corpora again")
    goes = np.flatnonzero(~result.keep & ~gone)
    stays = result.of[goes]
    found["decision"][goes] = np.where(stays < n_old, OLD_NEAR, NEAR)
    found["of"][goes] = stays
    np.add.at(found["size"], stays, found["size"][goes])
    return {"candidates": result.candidates, "pairs": result.pairs}


def _sides(decision: np.ndarray, rows: Rows, plan: Plan) -> list[int]:
    """Draw the validation documents into `decision`, and return the two that must not go, or the only one, or none."""
    limit = np.uint64(int(plan.recipe.out.valid_share * 2**64))
    lowest = highest = (0, -1)
    for start, part in rows.new():
        kept = np.flatnonzero(decision[start : start + len(part)] == TRAIN)
        lots = part["lot"][kept]
        decision[start + kept[lots < limit]] = VALID
        for at in {int(np.argmin(lots)), int(np.argmax(lots))} if len(kept) else ():
            entry = (int(lots[at]), start + int(kept[at]))
            lowest = min(lowest, entry) if lowest[1] >= 0 else entry
            highest = max(highest, entry) if highest[1] >= 0 else entry
    if lowest[1] == highest[1]:
        only = [lowest[1]] if lowest[1] >= 0 else []
        decision[only] = TRAIN
        return only
    decision[lowest[1]], decision[highest[1]] = VALID, TRAIN  # both sides get one at least
    return [lowest[1], highest[1]]


def _shards(decision: np.ndarray, rows: Rows, plan: Plan, held: list[int], turns: np.ndarray | None) -> Iterator[Shard]:
    """What is to be written: the training documents as often as they are drawn, turn after turn, then the others."""
    if len(held) == 1:
        yield from (Shard(split, held[0], held[0] + 1, True) for split in (TRAIN, VALID))
        return
    most = int(plan.recipe.out.shard_mb * 2**20)
    for turn in range(1 if turns is None else int(turns.max())):
        yield from _cut(decision, rows, Shard(TRAIN, 0, 0, turn=turn), most, turns)
    yield from _cut(decision, rows, Shard(VALID, 0, 0), most, None)


def _cut(decision: np.ndarray, rows: Rows, kind: Shard, most: int, turns: np.ndarray | None) -> Iterator[Shard]:
    """Shards of one side and turn, each ending with the document that reaches `most` bytes."""
    first = last = -1
    size = 0
    for start, part in rows.new():
        mine = np.flatnonzero(kind.has(slice(start, start + len(part)), decision, turns))
        for row, n_bytes in zip((mine + start).tolist(), part["bytes"][mine].tolist()):
            first, last, size = (row if first < 0 else first), row, size + n_bytes
            if size >= most:
                yield replace(kind, first=first, last=last + 1)
                first, size = -1, 0
    if first >= 0:
        yield replace(kind, first=first, last=last + 1)


def _counts(decision: np.ndarray, rows: Rows) -> tuple[int, dict[str, dict[int, int]]]:
    """How many stay; and reason → source → how many go."""
    kept = 0
    removed: dict[str, Counter[int]] = {}
    for start, part in rows.new():
        here = decision[start : start + len(part)]
        kept += int((here <= VALID).sum())
        for code in np.unique(here[here > VALID]).tolist():
            numbers, counts = np.unique(part["source"][here == code], return_counts=True)
            removed.setdefault(REASONS[code], Counter()).update(dict(zip(numbers.tolist(), counts.tolist())))
    return kept, {why: dict(sorted(counter.items())) for why, counter in sorted(removed.items())}


def nothing_left(counts: dict[str, Counter[str]], offered: int, first: str) -> InputError:
    """The sentence for a corpus without documents."""
    reasons = [f"{count:,} {why}" for side in counts.values() for why, count in side.items()]
    said = f"; the first problem: {first}" if first else ""
    return InputError(
        f"no text is left of {offered:,} documents ({', '.join(reasons) or 'none came'}); give more text{said}"
    )
