"""Memory for packed weights: one piece in huge pages, from which matrices are cut.

A product reads every byte of its matrix once. In pages of 4 KiB each page costs a look-up of its address; in pages of
2 MiB a thread reads almost without a stop. Linux gives huge pages on request; elsewhere the memory is ordinary.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

from yanmo.errors import Error, InputError

HUGE_PAGE = 2 * 2**20
LINE = 64  # bytes of a line of the cache, at which every tensor begins


def room(nbytes: int) -> int:
    """Bytes that a tensor of `nbytes` takes of an arena."""
    return -(-nbytes // LINE) * LINE


class Arena:
    """`capacity` bytes; `hold` copies a tensor into them. The memory lives as long as a tensor that lies in it."""

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise InputError(f"an arena of {capacity} bytes; give 0 or more")
        try:
            pages = mmap.mmap(-1, capacity + HUGE_PAGE)  # one page more, since the system aligns to 4 KiB alone
        except (OSError, OverflowError, ValueError) as error:
            raise Error(f"{capacity:,} bytes for the weights cannot be had ({error}); close other programs") from None
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        whole = torch.frombuffer(pages, dtype=torch.uint8)
        start = -whole.data_ptr() % HUGE_PAGE
        self.memory = whole[start : start + capacity]
        self.used = 0

    def hold(self, tensor: Tensor) -> Tensor:
        """A copy of the tensor, its bytes in this arena; InputError where they no longer fit."""
        return self.take(tensor.shape, tensor.dtype).copy_(tensor)

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of this arena that is yet to be filled; InputError where it no longer fits."""
        nbytes = math.prod(shape) * dtype.itemsize
        end = self.used + nbytes
        if end > len(self.memory):
            left = len(self.memory) - self.used
            raise InputError(f"a tensor of {nbytes:,} bytes, and the arena has {left:,} left; make it larger")
        place = self.memory[self.used : end].view(dtype).view(tuple(shape))
        self.used = min(room(end), len(self.memory))
        return place
