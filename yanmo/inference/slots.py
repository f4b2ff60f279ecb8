"""What a network remembers of the texts that it writes side by side, and how texts join and leave.

    B rows, K key heads, S columns, D head width, L layers, M columns of the memory

    Slots           keys and values of attention: a cache over the first rows of larger tensors
    StateSlots      the states of a recurrent network
    new_slots       the one for a network
    Cost            bytes of a text, by its length
    taken, given    a part of a row's cache → tensors of its own, and back

A row joins at the end, and the last row takes the place of one that leaves, so that nothing but one row is copied.
`cache` is what `decode` takes; a network that is given ids (B, T) reads the rows in the order in which they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from yanmo.models.cache import Cache
from yanmo.models.protocol import LanguageModel
from yanmo.models.recurrent import RecurrentCache

STEP = 64  # columns by which a cache grows at least


@dataclass(frozen=True)
class Cost:
    """Bytes of a text's cache: a share whatever its length, one for each token, and one for each of its source."""

    row: int
    token: int
    source: int = 0

    @staticmethod
    def of(network: LanguageModel) -> Cost:
        """Measure it on two empty caches."""
        one, two = (network.new_cache(1, length).nbytes for length in (1, 2))
        config, source = network.config, 0
        if config.kind == "encoder-decoder":  # what is computed of the source is held as it is computed
            vector = config.n_kv_heads * config.head_width * network.dtype.itemsize  # type: ignore[union-attr, attr-defined]
            source = 2 * config.decoder_layers * vector  # type: ignore[union-attr]
        return Cost(one - (two - one), two - one, source)

    def bytes(self, rows: int, tokens: int, source: int = 0) -> int:
        """Of a batch whose rows have so many columns, and so many of their sources."""
        return rows * (self.row + self.token * tokens + self.source * source)


class Slots:
    """Rows of keys and values, never of more than `most_bytes` where the caller joins what fits into them.

    `most`: the columns that the rows may come to have, and those of their memories.
    """

    def __init__(self, network: LanguageModel, most_bytes: int) -> None:
        self._network, self._most_bytes = network, most_bytes
        self.memory: Tensor | None = None  # says that there is one; its keys and values are in the cache
        self.memory_mask: Tensor | None = None
        self.clear()

    def clear(self) -> None:
        """Forget everything and give the memory back."""
        self.cache: Cache = self._network.new_cache(0, 1)  # type: ignore[assignment]
        self._wanted = 0  # rows for which there is to be room
        self._lengths: list[int] = []
        self._sources: list[int] = []  # columns of each row's memory
        cache = self.cache
        self._tensors = [*cache.keys, *cache.values]  # (rows held, K, columns held, W), 2 L of them; see held.py
        self._memories = [t.new_zeros((0, t.shape[1], 0, cache.width), dtype=cache.dtype) for t in self._tensors]
        self.memory = self.memory_mask = None

    @property
    def rows(self) -> int:
        """The texts side by side."""
        return len(self._lengths)

    @property
    def nbytes(self) -> int:
        """Bytes held, rows to come included."""
        return sum(t.nbytes for t in (*self._tensors, *self._memories))

    def join(self, one: Cache, rows: int, most: tuple[int, int]) -> None:
        """Add the only row of `one`; there is to be room for `rows` rows, of at most `most` columns each."""
        length, place = one.longest, self.rows
        source = one.memory[0][0].shape[2] if one.memory and one.memory[0] else 0
        self._wanted = max(rows, place + 1)
        tight = self._worst(most) > self._most_bytes
        self._widen(self._tensors, max(length, *self._lengths, 0) + 1, most[0], tight)
        self._widen(self._memories, max([source, *self._sources]), most[1], tight)
        for held, given in zip(self._tensors, (*one.keys, *one.values), strict=True):
            held[place, :, :length] = given[0, :, :length]
        if source:
            pairs = [pair for pair in one.memory if pair]
            for held, given in zip(self._memories, (*(k for k, _ in pairs), *(v for _, v in pairs)), strict=True):
                held[place, :, :source] = given[0]
        self._lengths.append(length)
        self._sources.append(source)
        self._show()

    def leave(self, places: Sequence[int]) -> list[int]:
        """Drop rows; returns which of the old rows stands at each place now."""
        order = list(range(self.rows))
        for place in sorted(places, reverse=True):
            last = len(order) - 1
            for tensors, lengths in ((self._tensors, self._lengths), (self._memories, self._sources)):
                kept, freed = lengths[last], lengths[place]
                for held in tensors:  # what is hidden must be finite, since hidden times NaN is NaN: zeros
                    if place != last:
                        held[place, :, :kept] = held[last, :, :kept]
                        held[place, :, kept:freed] = 0
                    held[last, :, :kept] = 0
            for values in (order, self._lengths, self._sources):
                values[place] = values[-1]
                values.pop()
        if order:
            self._show()
        else:
            self.clear()
        return order

    def ready(self, counts: Sequence[int], most: int) -> None:
        """Make room for so many more tokens of each row; with them no row has more than `most`."""
        held = self._tensors[0]
        self._widen(self._tensors, max(map(sum, zip(self._lengths, counts, strict=True))), most, False)
        if self._tensors[0] is not held:
            self._show()

    def stepped(self, lengths: Sequence[int] | None = None, ids: Tensor | None = None) -> None:
        """After a step: every row has one token more, or of the tokens `ids` that it read these lengths remain."""
        if lengths is None:
            self._lengths = [n + 1 for n in self._lengths]
        else:
            self._lengths = list(lengths)
            self._show()

    def _worst(self, most: tuple[int, int]) -> int:
        """Bytes that may be held if nothing is made smaller."""
        total = 0
        for tensors, columns in zip((self._tensors, self._memories), most):
            one = tensors[0]
            total += len(tensors) * max(one.nbytes, self._wanted * columns * one.shape[1] * one.shape[3] * one.itemsize)
        return total

    def _widen(self, tensors: list[Tensor], columns: int, most: int, tight: bool) -> None:
        """Make room in the tensors; `tight`: and none beyond what the rows may come to need."""
        held_rows, held = tensors[0].shape[0], tensors[0].shape[2]
        rows, most = self._wanted, max(most, columns)
        if held_rows >= rows and columns <= held and not (tight and (held_rows > rows or held > most)):
            return
        room = held if columns <= held <= most else min(max(columns + STEP, columns + columns // 2), most)
        kept = max(self._lengths if tensors is self._tensors else self._sources, default=0)
        for i, old in enumerate(tensors):  # one after the other, so that never more than one stands twice
            new = old.new_zeros((rows, old.shape[1], room, old.shape[3]))
            new[: self.rows, :, :kept] = old[: self.rows, :, :kept]
            tensors[i] = new

    def _show(self) -> None:
        """Make `cache` what the rows are now."""
        cache, rows, layers = self.cache, self.rows, len(self._tensors) // 2
        cache.keys = [t[:rows] for t in self._tensors[:layers]]
        cache.values = [t[:rows] for t in self._tensors[layers:]]
        cache.lengths = torch.tensor(self._lengths, dtype=torch.long, device=cache.lengths.device)
        cache.longest = max(self._lengths, default=0)
        cache.even = len(set(self._lengths)) < 2
        width = max(self._sources, default=0)
        if width:
            parts = [t[:rows, :, :width] for t in self._memories]
            cache.memory = list(zip(parts[:layers], parts[layers:]))
            lengths = torch.tensor(self._sources, device=cache.lengths.device)
            even = len(set(self._sources)) < 2
            order = torch.arange(width, device=cache.lengths.device)
            self.memory_mask = None if even else (order < lengths[:, None]).long()
            self.memory = parts[0].new_zeros((rows, 0, 1))


class StateSlots:
    """Rows of a recurrent network's states, which have no length."""

    memory: Tensor | None = None
    memory_mask: Tensor | None = None

    def __init__(self, network: LanguageModel) -> None:
        self._network = network
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.cache: RecurrentCache = self._network.new_cache(0, 0)  # type: ignore[assignment]
        self._before = list(self.cache.states), self.cache.lengths

    @property
    def rows(self) -> int:
        """The texts side by side."""
        return self.cache.rows

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.cache.nbytes

    def join(self, one: RecurrentCache, rows: int, most: tuple[int, int]) -> None:
        """Add the only row of `one`."""
        self.cache.states = [torch.cat([held, new], 1) for held, new in zip(self.cache.states, one.states)]
        self.cache.lengths = torch.cat([self.cache.lengths, one.lengths])

    def leave(self, places: Sequence[int]) -> list[int]:
        """Drop rows; returns which of the old rows stands at each place now."""
        order = [row for row in range(self.rows) if row not in set(places)]
        self.cache.select(torch.tensor(order, dtype=torch.long, device=self.cache.lengths.device))
        return order

    def ready(self, counts: Sequence[int], most: int) -> None:
        """There is always room."""
        self._before = list(self.cache.states), self.cache.lengths  # a step makes new ones and leaves these as they are

    def stepped(self, lengths: Sequence[int] | None = None, ids: Tensor | None = None) -> None:
        """The cache counts by itself; with `lengths` it is what it was before the step, and of `ids` so many are read.

        A state cannot be taken back to the middle of what was read, so rows whose guesses failed read the rest again.
        """
        if lengths is None:
            return
        assert ids is not None
        states, before = self._before
        counts = torch.tensor(list(lengths), device=before.device) - before
        wrong = (self.cache.lengths - before > counts).nonzero().squeeze(1)
        if not len(wrong):
            return
        again = RecurrentCache([t[:, wrong] for t in states], len(wrong), before.device)
        some = counts[wrong]
        width = int(some.max())
        mask = (torch.arange(width, device=before.device) < some[:, None]).long()
        self._network.decode(ids[wrong, :width], mask, cache=again)
        self.cache.states = [held.index_copy(1, wrong, t) for held, t in zip(self.cache.states, again.states)]
        self.cache.lengths = before + counts


def new_slots(network: LanguageModel, most_bytes: int) -> Slots | StateSlots:
    """The slots for the kind of cache that the network has."""
    return Slots(network, most_bytes) if hasattr(network.new_cache(0, 1), "keys") else StateSlots(network)


# --- parts of a row


def taken(cache: Any, row: int, start: int, stop: int) -> Tensor:
    """A copy of the columns of one row, (2 L, K, stop − start, W), or of a recurrent network's state, (n L, R)."""
    if isinstance(cache, RecurrentCache):
        return torch.cat([t[:, row] for t in cache.states])
    return torch.stack([t[row, :, start:stop] for t in (*cache.keys, *cache.values)])


def given(cache: Any, parts: Sequence[Tensor], length: int) -> None:
    """Begin the empty cache of one row with what was `taken`; of states the last part counts."""
    if isinstance(cache, RecurrentCache):
        size = cache.states[0].shape[0]
        cache.states = [part[:, None].clone() for part in parts[-1].split(size)]
        cache.lengths = torch.full_like(cache.lengths, length)
        return
    whole = torch.cat(list(parts), dim=2) if len(parts) > 1 else parts[0]
    layers = len(cache.keys)
    for i in range(layers):
        cache.keys[i][0, :, :length] = whole[i]
        cache.values[i][0, :, :length] = whole[layers + i]
    cache.lengths = torch.full_like(cache.lengths, length)
    cache.longest = length


def taken_memory(cache: Cache) -> Tensor:
    """The keys and values of the memory of the only row, (2 L, K, M, D)."""
    pairs = [pair for pair in cache.memory if pair]
    return torch.cat([*(k for k, _ in pairs), *(v for _, v in pairs)])


def given_memory(cache: Cache, part: Tensor) -> None:
    """Begin the cache of one row with a memory that was `taken_memory`."""
    layers = len(cache.keys)
    cache.memory = [(part[i][None], part[layers + i][None]) for i in range(layers)]
