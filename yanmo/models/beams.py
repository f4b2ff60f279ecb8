"""The keys and values of texts that come from one another: each token's stand once, whatever texts share them.

    R rows, K key heads, N places, S columns, D head width

BeamCache is made of the cache of the prompts once these are read, and goes on for it. A table says where each column
of a row stands, so `select`, by which beams change their order, moves the table alone; the prompt of many beams stands
once, and so does what two beams share. A place that no row points to any more is used again when room is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yanmo.kernels import native, ops
from yanmo.models.cache import Cache
from yanmo.models.protocol import LanguageModel

ROOM = 64  # columns of each row for which there is room at once
TYPES = (torch.float32, torch.bfloat16)


def by_index(network: LanguageModel) -> bool:
    """Whether a BeamCache can be read: by attention of the native library, which knows no bias of positions."""
    config = network.config
    if getattr(config, "decoder_layers", 0) == 0 or getattr(config, "position", "") == "relative":
        return False
    held = network.new_cache(0, 1).keys[0]  # type: ignore[attr-defined]
    types = {held.dtype, network.dtype} <= set(TYPES)  # type: ignore[attr-defined]
    return types and held.device.type == "cpu" and native.library() is not None


class BeamCache:
    """What Cache is to a network that reads one token of each row at a time."""

    even = True  # attention needs no mask: it knows the length of each row

    def __init__(self, cache: Cache, windows: Sequence[int], beams: int, columns: int) -> None:
        """beams: of each row of `cache`, which is used up; columns: those that a row may come to have."""
        self.windows, self._most = windows, columns
        self.memory, self.lengths, self.longest = cache.memory, cache.lengths, cache.longest
        self.reach = self.longest
        self._used = int(self.lengths.sum())  # places that were given out
        rows, held = self.rows, min(columns, self.longest + ROOM)
        self.places = torch.zeros((rows, held), dtype=torch.int32)
        real = torch.arange(held) < self.lengths[:, None]
        self.places[real] = torch.arange(self._used, dtype=torch.int32)
        room = rows * beams * (held - self.longest)
        for tensors in (cache.keys, cache.values):
            for layer, old in enumerate(tensors):  # one after the other, so that never more than one stands twice
                tensors[layer] = _beside(old, real, room)
        self.keys, self.values = cache.keys, cache.values  # (1, K, N, D)

    @property
    def rows(self) -> int:
        """The number of texts held."""
        return self.lengths.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, those of the memory included, and of the table."""
        held = [*self.keys, *self.values, *(t for pair in self.memory if pair for t in pair), self.places]
        return sum(t.nbytes for t in held)

    def place(self, mask: Tensor | None, columns: int) -> Tensor:
        """Give the new token of each row its place and return the positions (R, 1)."""
        assert mask is None and columns == 1, "beams are read one token of each at a time"
        self.make_room()
        return self.lengths[:, None]

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the placed tokens of (R, K, 1, D) and return all keys and values of the layer, (1, K, N, D)."""
        for held, new in ((self.keys[layer], key), (self.values[layer], value)):
            held[0, :, self.first : self._used] = new[:, :, 0].transpose(0, 1)
        return self.keys[layer], self.values[layer]

    def attend(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """Attention of the placed tokens (R, H, 1, D) to what comes before each of them."""
        keys, values, window = self.keys[layer][0], self.values[layer][0], self.windows[layer]
        places = self.places[:, : self.reach]
        return ops.attend_at(query, keys, values, places, self.lengths[:, None], scale, window=window).transpose(1, 2)

    def advance(self) -> None:
        """Count the tokens that the last call wrote."""
        self.count_one()

    def make_room(self) -> None:
        """Give one more token of each row its place, `first` and those that follow it."""
        rows, self.reach = self.rows, self.longest + 1
        if self.reach > self.places.shape[1]:
            more = max(min(self.reach + self.reach // 2, self._most), self.reach) - self.places.shape[1]
            self.places = torch.cat([self.places, self.places.new_zeros((rows, more))], 1)
        if self._used + rows > self.keys[0].shape[2]:
            self._tidy()
        self.first = self._used
        self._used += rows
        new = torch.arange(self.first, self._used, dtype=torch.int32)
        self.places[torch.arange(rows), self.lengths] = new

    def count_one(self) -> None:
        """Count one more token of each row."""
        self.lengths, self.longest = self.lengths + 1, self.longest + 1

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in the given order; a row may be repeated. Nothing moves but the table."""
        self.places, self.lengths = self.places[rows], self.lengths[rows]
        self.memory = [pair and (pair[0][rows], pair[1][rows]) for pair in self.memory]
        self.longest = int(self.lengths.max()) if self.rows else 0

    def _tidy(self) -> None:
        """Drop the places to which no row points, and make room for more."""
        real = torch.arange(self.places.shape[1]) < self.lengths[:, None]
        live = self.places[real].unique()
        moved = torch.zeros(self.keys[0].shape[2], dtype=torch.int32)
        moved[live.long()] = torch.arange(len(live), dtype=torch.int32)
        self.places, self._used = moved[self.places.long()], len(live)
        columns = min(ROOM, max(self._most - self.longest, 1))
        room = len(live) + max(self.rows * columns, len(live) // 2 if columns == ROOM else 0)
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                tensors[layer] = old.new_empty((1, old.shape[1], room, old.shape[3]))
                torch.index_select(old, 2, live, out=tensors[layer][:, :, : len(live)])


def _beside(held: Tensor, real: Tensor, room: int) -> Tensor:
    """The real columns of (B, K, S, D), those of the rows one after the other, (1, K, N, D), and room for more."""
    if len(held) == 1:
        return held  # as it stands, with what room it has
    some = held.transpose(1, 2)[real[:, : held.shape[2]]].transpose(0, 1)  # (K, tokens, D)
    found = held.new_empty((1, some.shape[0], some.shape[1] + room, some.shape[2]))
    found[0, :, : some.shape[1]] = some
    return found
