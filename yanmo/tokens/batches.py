"""Token shards → batches of packed rows, without padding, without leaks, resumable.

In: TokenShards. Out: `Batch`es of int64 tensors (B, T): ids, targets, mask.

    PackedBatches         endless training batches; `state` and `restore` give the position as JSON
    validation_batches    finite: every token is a target exactly once, with at least half a row of context
    validation_windows    how many windows that takes

**Who predicts what.** A document of L stored ids d[0] … d[L-1], whose last id is the end of the document, is read as

    ids       start  d[0]  d[1]  …  d[L-2]
    targets   d[0]   d[1]  d[2]  …  d[L-1]

so each stored id, the end included, is a target exactly once, the first id is predicted from the start id alone, and
no target lies in another document. A document that outlasts its row goes on in another row, from its last id.

**Training rows.** An epoch is one stream of all documents in a seeded order. The stream is cut into rows of T tokens
(what is left over at an epoch's end opens the next epoch's first row, so nothing is dropped or padded), and the rows of
an epoch are drawn in a second seeded order: neighbouring rows of one long document would make a batch of near repeats.
Both orders follow from (seed, epoch) alone, so the number of rows drawn so far is the whole state.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from yanmo.errors import FileError, InputError
from yanmo.tokens.shards import TokenShards

NO_TARGET = -100  # the field's mark for a position without a target
POOL = 4096  # validation windows that are packed together; bounds the memory of a large validation set


class Batch(NamedTuple):
    """Rows of tokens, int64, each (B, T): `targets` has -100 where there is none, `mask` 0 where there is padding.

    `mask` is k for the k-th document of the row (docs/design.md).
    """

    ids: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor

    @property
    def n_targets(self) -> int:
        return int((self.targets != NO_TARGET).sum())

    def to(self, device: torch.device | str) -> Batch:
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class PackedBatches(Iterator[Batch]):
    """Endless batches of `rows` packed rows of `length` tokens; the same (shards, seed) give the same batches.

    A row is drawn once per epoch. `state()` is JSON and belongs to these shards, this seed and this length.
    """

    def __init__(self, shards: TokenShards, rows: int, length: int, seed: int = 0) -> None:
        for name, value in (("rows", rows), ("length", length)):
            if value < 1:
                raise InputError(f"{name} is {value}, at least 1 is needed")
        if shards.n_tokens < rows * length:
            raise InputError(
                f"{shards.folder}: {shards.n_tokens:,} tokens are fewer than one batch of {rows} rows x {length} "
                f"tokens = {rows * length:,}; lower the rows or the length, or add text"
            )
        self.shards, self.rows, self.length, self.seed = shards, rows, length, seed
        self.drawn = 0
        self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)  # two: a row may begin in the epoch before

    def __iter__(self) -> PackedBatches:
        return self

    def __next__(self) -> Batch:
        arrays = [self._row(self._drawn_row(self.drawn + row)) for row in range(self.rows)]
        self.drawn += self.rows
        return _stack(arrays)

    @property
    def epoch(self) -> float:
        """How many times the documents have been read, as a fraction."""
        return self.drawn * self.length / self.shards.n_tokens

    def state(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "seed": self.seed, "length": self.length, "shards": self.shards.sha256}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; a state of other shards, another seed or length is refused."""
        mine = self.state()
        for key in ("shards", "seed", "length"):
            if state.get(key) != mine[key]:
                raise FileError(
                    f"{self.shards.folder}: the saved data position has {key} {state.get(key)!r}, this run "
                    f"{mine[key]!r}; continue with the same data and settings, or start a new run"
                )
        drawn = state.get("drawn")
        if not isinstance(drawn, int) or drawn < 0:
            raise FileError(f"{self.shards.folder}: the saved data position {drawn!r} is no count of rows")
        self.drawn = drawn

    def _first_row(self, epoch: int) -> int:
        """The number of rows that lie wholly in the epochs before."""
        return epoch * self.shards.n_tokens // self.length

    def _drawn_row(self, number: int) -> int:
        """Which row of the stream is the `number`-th to be drawn."""
        epoch = number * self.length // self.shards.n_tokens
        while number >= self._first_row(epoch + 1):
            epoch += 1
        return self._first_row(epoch) + int(self._epoch(epoch)[2][number - self._first_row(epoch)])

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The epoch's order of documents, their ends in its stream, and the order of its rows."""
        order = _shuffled(self.shards.n_documents, self.seed, 2 * epoch)
        ends = np.cumsum(np.diff(self.shards.bounds)[order])
        return order, ends, _shuffled(self._first_row(epoch + 1) - self._first_row(epoch), self.seed, 2 * epoch + 1)

    def _row(self, number: int) -> np.ndarray:
        """Cut one row out of the stream: (3, T) ids, targets, mask."""
        row = np.empty((3, self.length), np.int64)
        column, document = 0, 0
        epoch, offset = divmod(number * self.length, self.shards.n_tokens)
        while column < self.length:
            order, ends, _ = self._epoch(epoch)
            place = int(np.searchsorted(ends, offset, side="right"))
            while column < self.length and place < len(order):
                begin = int(ends[place - 1]) if place else 0
                count = min(self.length - column, int(ends[place]) - offset)
                document += 1
                _fill(row[:, column : column + count], self.shards, int(order[place]), offset - begin, document)
                column, offset, place = column + count, offset + count, place + 1
            epoch, offset = epoch + 1, 0
        return row


def validation_batches(shards: TokenShards, rows: int, length: int) -> Iterator[Batch]:
    """Yield batches of at most `rows` rows in which every token of the shards is a target exactly once.

    A document that is longer than a row is read in windows that overlap by half a row: each window after the first
    scores its last `length - length // 2` tokens at most, so every token past the first row has at least half a row of
    context. Windows of several documents share a row where they fit whole; the rest of a row is padding.
    """
    if rows < 1 or length < 2:
        raise InputError(f"validation rows are {rows} x {length}, at least 1 x 2 are needed")
    pending: list[np.ndarray] = []
    windows = _windows(shards, length)
    while pool := [window for _, window in zip(range(POOL), windows)]:
        for row in _pack(pool, length):
            pending.append(_validation_row(shards, row, length))
            if len(pending) == rows:
                yield _stack(pending)
                pending = []
    if pending:
        yield _stack(pending)


def validation_windows(shards: TokenShards, length: int) -> int:
    """How many windows `validation_batches` reads: one per document, and one for each half row beyond the first row."""
    beyond = np.maximum(np.diff(shards.bounds) - length, 0)
    stride = length - length // 2
    return int(shards.n_documents + np.sum((beyond + stride - 1) // stride))


class _Window(NamedTuple):
    document: int
    begin: int  # first id of the document that the window predicts
    size: int
    context: int  # how many of these were scored by the window before


def _windows(shards: TokenShards, length: int) -> Iterator[_Window]:
    stride = length - length // 2
    for document in range(shards.n_documents):
        size = int(shards.bounds[document + 1] - shards.bounds[document])
        yield _Window(document, 0, min(size, length), 0)
        for scored in range(length, size, stride):
            begin = scored - length // 2
            yield _Window(document, begin, min(size - begin, length), scored - begin)


def _pack(windows: list[_Window], length: int) -> list[list[_Window]]:
    """Put windows into rows, longest first, each into the fullest row that still has room (best fit)."""
    rows: list[list[_Window]] = []
    room: list[tuple[int, int]] = []  # (free columns, row), ascending
    for window in sorted(windows, key=lambda window: -window.size):
        place = bisect.bisect_left(room, (window.size, 0))
        free, row = room.pop(place) if place < len(room) else (length, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(window)
        if free > window.size:
            bisect.insort(room, (free - window.size, row))
    return rows


def _validation_row(shards: TokenShards, windows: list[_Window], length: int) -> np.ndarray:
    row = np.empty((3, length), np.int64)
    column = 0
    for document, window in enumerate(windows, start=1):
        part = row[:, column : column + window.size]
        _fill(part, shards, window.document, window.begin, document)
        part[1, : window.context] = NO_TARGET
        column += window.size
    row[:, column:] = np.array([[shards.end_id], [NO_TARGET], [0]])
    return row


def _fill(part: np.ndarray, shards: TokenShards, document: int, begin: int, number: int) -> None:
    """Write a stretch of one document, predicting its ids from `begin` on, into (3, count) columns of a row."""
    count = part.shape[1]
    first = int(shards.bounds[document]) + begin
    part[1] = shards.ids[first : first + count]
    part[0, 1:] = part[1, :-1]
    part[0, 0] = shards.ids[first - 1] if begin else shards.start_id
    part[2] = number


def _stack(rows: list[np.ndarray]) -> Batch:
    block = torch.from_numpy(np.stack(rows, axis=1))  # (3, B, T)
    return Batch(block[0], block[1], block[2])


def _shuffled(count: int, seed: int, stream: int) -> np.ndarray:
    """A permutation out of Philox's raw numbers: unlike Generator.permutation, the same in every version of numpy."""
    raw = np.random.Philox(key=(seed << 64) | stream).random_raw(count)
    return np.argsort(raw, kind="stable")
