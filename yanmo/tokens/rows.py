"""How an epoch is laid out in rows, and the iterator over them that can be taken up again.

In: a layout (epoch → Plan) and a function that fills rows. Out: endless batches; `state` and `restore` give the
position as JSON.

    Draws         random numbers that follow from (seed, use, epoch, row) alone
    Plan          one epoch: which items stand in which row, and in which order the rows are drawn
    fill          documents → rows without gaps: what does not fit goes on in the next row
    pack          whole items → rows, each into the fullest row that still has room for it, in one size or in two
    RowBatches    the iterator

What stands in an epoch's rows, their order and every random choice inside a row follow from the seed, the epoch and
the row, so (epoch, row) is the whole position, and a new epoch gives new choices.
"""

from __future__ import annotations

import functools
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from yanmo.errors import FileError, InputError

T = TypeVar("T")
POOL = 1024  # items that are packed together; more would fill the rows better by less than a column each

ITEMS, ROWS, CELLS = range(3)  # what draws are used for


class Draws:
    """Philox's raw numbers, which unlike numpy's Generator are the same in every version of numpy."""

    def __init__(self, seed: int, use: int, epoch: int, row: int = 0) -> None:
        key = np.array([seed % 2**64, use], np.uint64)
        self._raw = np.random.Philox(key=key, counter=np.array([0, row, epoch, 0], np.uint64)).random_raw

    def uniform(self, count: int) -> np.ndarray:
        """Numbers in [0, 1)."""
        return (self._raw(count) >> np.uint64(11)) * 2.0**-53

    def below(self, limit: int, count: int) -> np.ndarray:
        """Whole numbers from 0 to limit − 1."""
        return (self.uniform(count) * limit).astype(np.int64)

    def order(self, count: int) -> np.ndarray:
        """A permutation."""
        return np.argsort(self._raw(count), kind="stable")


class Plan(NamedTuple):
    """One epoch: row r holds items[bounds[r] : bounds[r + 1]], and rows are drawn in `order`."""

    items: np.ndarray
    bounds: np.ndarray
    order: np.ndarray

    def row(self, place: int) -> tuple[int, np.ndarray]:
        """(its number, its items) of the row that is drawn at `place`."""
        number = int(self.order[place])
        return number, self.items[self.bounds[number] : self.bounds[number + 1]]


def fill(
    order: np.ndarray, sizes: Sequence[int], costs: Sequence[Sequence[int]], lengths: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Lay documents of `sizes` tokens into rows, in `order`; returns items (P, 3): document, begin, size, and bounds.

    costs[k][n] are the columns that n tokens take on side k, ascending from costs[k][0] = 0, and lengths[k] the columns
    of a row there. A row ends where not one more token fits; an empty document takes no place.
    """
    items, bounds = array("q"), array("q", [0])
    rooms = list(lengths)
    for document in order.tolist():
        begin, size = 0, int(sizes[document])
        while begin < size:
            count = size - begin
            for cost, room in zip(costs, rooms):
                count = min(count, bisect_right(cost, room) - 1)
            if count < 1:
                if rooms == list(lengths):
                    raise InputError(f"rows of {lengths[0]} columns cannot hold one token in its frame; lengthen them")
                bounds.append(len(items) // 3)
                rooms = list(lengths)
                continue
            items.extend((document, begin, count))
            rooms = [room - cost[count] for cost, room in zip(costs, rooms)]
            begin += count
    if len(items) // 3 > bounds[-1]:
        bounds.append(len(items) // 3)
    return np.array(items, np.int64).reshape(-1, 3), np.array(bounds, np.int64)


def pack(order: np.ndarray, sizes: np.ndarray, lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Put whole items of `sizes` (N, K) into rows of `lengths` (K,); returns the items (P,) and the bounds of the rows.

    Items are taken in pools of 1,024 in `order`; in a pool the largest goes first, into the row that it fills most.
    """
    limits = np.array(lengths, np.int64)
    rows: list[list[int]] = []
    for begin in range(0, len(order), POOL):
        pool = order[begin : begin + POOL]
        pool = pool[np.argsort(-(sizes[pool] / limits).max(1), kind="stable")]
        free = np.empty((len(pool), len(limits)), np.int64)
        first = len(rows)
        for item in pool.tolist():
            opened = len(rows) - first
            left = free[:opened] - sizes[item]
            slack = np.where((left >= 0).all(1), (left / limits).max(1), np.inf)
            place = int(slack.argmin()) if opened else 0
            if not opened or slack[place] == np.inf:
                place = opened
                free[place] = limits
                rows.append([])
            rows[first + place].append(item)
            free[place] -= sizes[item]
    bounds = np.cumsum([0, *map(len, rows)])
    return np.array([item for row in rows for item in row], np.int64), bounds


class RowBatches(Iterator[T], Generic[T]):
    """Endless batches of `rows` rows; the same data, seed and settings give the same batches.

    `layout` gives items and bounds of an epoch from a permutation's draws, `make` fills rows: it gets (items, draws) of
    each. `identity` are the JSON values that a saved position must share with this iterator, such as a fingerprint of
    the data; `source` names the data in errors.
    """

    def __init__(
        self,
        layout: Callable[[Draws], tuple[np.ndarray, np.ndarray]],
        make: Callable[[list[tuple[np.ndarray, Draws]]], T],
        *,
        rows: int,
        seed: int,
        identity: dict[str, Any],
        source: str,
    ) -> None:
        if rows < 1:
            raise InputError(f"rows is {rows}, at least 1 is needed")
        self._layout, self._make = layout, make
        self.rows, self.seed, self.source = rows, seed, source
        self._identity = {"seed": seed, **identity}
        self._plan = functools.lru_cache(maxsize=2)(self._make_plan)
        self._epoch = self._row = 0
        filled = len(self._plan(0).order)
        if filled < rows:
            remedy = f"set train.rows to {filled} at most, lower train.length" if filled else "lower train.length"
            raise InputError(
                f"{source}: the data fill {filled} rows, fewer than one batch of {rows}; {remedy}, or add data"
            )

    def __iter__(self) -> RowBatches[T]:
        return self

    def __next__(self) -> T:
        drawn = []
        for _ in range(self.rows):
            while self._row >= len(self._plan(self._epoch).order):
                self._epoch, self._row = self._epoch + 1, 0
            drawn.append(self._drawn(self._epoch, self._row))
            self._row += 1
        return self._make(drawn)

    def once(self, epoch: int = 0, rows: int = 0) -> Iterator[T]:
        """Every row of one epoch, in batches of which the last may be smaller; the position stays where it is.

        For evaluation: the same epoch gives the same rows with the same random choices each time. rows: of a batch, by
        default as many as in training; a set that fills fewer is then no error.
        """
        count, rows = len(self._plan(epoch).order), rows or self.rows
        for begin in range(0, count, rows):
            yield self._make([self._drawn(epoch, row) for row in range(begin, min(begin + rows, count))])

    @property
    def epoch(self) -> float:
        """How many times the data have been read, as a fraction."""
        return self._epoch + self._row / len(self._plan(self._epoch).order)

    @property
    def rows_per_epoch(self) -> int:
        """Rows of the present epoch; the next may differ by a few."""
        return len(self._plan(self._epoch).order)

    def state(self) -> dict[str, Any]:
        """The position, as JSON."""
        return {"epoch": self._epoch, "row": self._row, **self._identity}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; a state of other data, another seed or other settings is refused."""
        for key, mine in self._identity.items():
            if state.get(key) != mine:
                raise FileError(
                    f"{self.source}: the saved data position has {key} {state.get(key)!r}, this run {mine!r}; "
                    "continue with the same data and settings, or start a new run"
                )
        epoch, row = state.get("epoch"), state.get("row")
        if not all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in (epoch, row)):
            raise FileError(
                f"{self.source}: the saved data position, epoch {epoch!r} and row {row!r}, is none; "
                "continue from another checkpoint"
            )
        self._epoch, self._row = int(epoch), int(row)  # type: ignore[arg-type]

    def _make_plan(self, epoch: int) -> Plan:
        items, bounds = self._layout(Draws(self.seed, ITEMS, epoch))
        return Plan(items, bounds, Draws(self.seed, ROWS, epoch).order(len(bounds) - 1))

    def _drawn(self, epoch: int, place: int) -> tuple[np.ndarray, Draws]:
        number, items = self._plan(epoch).row(place)
        return items, Draws(self.seed, CELLS, epoch, number)
