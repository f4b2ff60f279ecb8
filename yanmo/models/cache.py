"""The keys and values that a decoder has computed, so that each token is computed once.

    B rows, K key heads, T columns of this call, S columns held, D head width, W width of what is held (held.py)

A cache holds real tokens alone, and the column of a key is its position: padding, on either side of a call, is never
written, and each row has a length of its own. One call of a model goes

    place(mask, columns)         where the new tokens of each row will stand
    append(layer, key, value)    by every layer: write, and return all keys and values of the layer
    advance()                    after the last layer
"""

from __future__ import annotations

import torch
from torch import Tensor

from yanmo.models.held import lay, read, width_of


class Cache:
    """Keys and values of every layer of a decoder, which computes in `dtype`; held: in which they are kept."""

    def __init__(
        self,
        layers: int,
        rows: int,
        length: int,
        kv_heads: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device,
        held: torch.dtype | None = None,
    ) -> None:
        self.width, self.dtype, self.held = head_width, dtype, held or dtype
        # zeros: what is not written yet is hidden by a mask, and hidden times NaN would still be NaN
        shape = (rows, kv_heads, max(length, 1), width_of(head_width, self.held))
        self.keys = [torch.zeros(shape, dtype=self.held, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=self.held, device=device) for _ in range(layers)]
        self.memory: list[tuple[Tensor, Tensor] | None] = [None] * layers  # cross-attention, computed once
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.longest = 0  # the largest of `lengths`, known without asking the device
        self.even = True  # all rows have the same length
        self._new: tuple[Tensor, Tensor] | None = None  # (row, column) of the real tokens of a call with padding
        self._columns = 0
        self.reach = 0  # the number of columns that the present call reads
        self._next = self._positions = self.lengths

    @property
    def rows(self) -> int:
        """The number of texts held."""
        return self.lengths.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, those of the memory included."""
        held = [*self.keys, *self.values, *(t for pair in self.memory if pair for t in pair)]
        return sum(t.nbytes for t in held)

    def place(self, mask: Tensor | None, columns: int) -> Tensor:
        """Give the new tokens of each row their places and return their positions (B, T)."""
        self._columns = columns
        steps = torch.arange(columns, device=self.lengths.device)
        if mask is None:
            self._new = None
            self._next = self.lengths + columns
            self.reach = self.longest + columns
            positions = self.lengths[:, None] + steps
            if not self.even:
                self._new = _places(torch.ones_like(positions, dtype=torch.bool))
        else:
            real = mask > 0
            counts = real.long().cumsum(1)
            positions = self.lengths[:, None] + (counts - 1).clamp(min=0)
            self._new = _places(real)
            self._next = self.lengths + counts[:, -1]
            self.reach = int(self._next.max())
        self._positions = positions
        self._grow(self.reach)
        return positions

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the placed tokens of (B, K, T, D) and return all keys and values of the layer, (B, K, S, D)."""
        keys, values = self.write(layer, key, value)
        return read(keys, self.width, self.dtype), read(values, self.width, self.dtype)

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and return all keys and values as they are held, (B, K, S, W)."""
        keys, values = self.keys[layer], self.values[layer]
        key, value = lay(key, self.held), lay(value, self.held)
        if self._new is None:
            keys[:, :, self.longest : self.reach] = key
            values[:, :, self.longest : self.reach] = value
        else:
            row, column = self._new
            place = self._positions[row, column]
            keys[row, :, place] = key[row, :, column]
            values[row, :, place] = value[row, :, column]
        return keys[:, :, : self.reach], values[:, :, : self.reach]

    def advance(self) -> None:
        """Count the tokens that the last call wrote."""
        if self._new is not None:
            self.even = bool((self._next == self._next[0]).all()) if self.rows else True
        self.lengths, self.longest = self._next, self.reach

    def make_room(self) -> None:
        """Make room for one more token of each row."""
        self._grow(self.longest + 1)

    def count_one(self) -> None:
        """Count one more token of each row, which was written without `place` and `append` (inference/step.py)."""
        self.lengths, self.longest = self.lengths + 1, self.longest + 1

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in the given order; a row may be repeated (beams)."""
        self.keys = [t[rows] for t in self.keys]
        self.values = [t[rows] for t in self.values]
        self.memory = [pair and (pair[0][rows], pair[1][rows]) for pair in self.memory]
        self.lengths = self.lengths[rows]
        self._measure()

    def crop(self, lengths: Tensor) -> None:
        """Forget every token of a row past its new length; a length never grows."""
        self.lengths = torch.minimum(self.lengths, lengths.to(self.lengths))
        self._measure()

    def _measure(self) -> None:
        self.longest = int(self.lengths.max()) if self.rows else 0
        self.even = bool((self.lengths == self.longest).all())

    def _grow(self, length: int) -> None:
        held = self.keys[0].shape[2] if self.keys else length
        if length <= held:
            return
        room = max(length, held + held // 2)
        for tensors in (self.keys, self.values):
            for i, old in enumerate(tensors):
                tensors[i] = old.new_zeros((*old.shape[:2], room, old.shape[3]))
                tensors[i][:, :, : self.longest] = old[:, :, : self.longest]


def _places(real: Tensor) -> tuple[Tensor, Tensor]:
    row, column = real.nonzero(as_tuple=True)
    return row, column
