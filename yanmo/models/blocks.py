"""Tensors of a GGUF file: blocks of few bits → numbers.

    N blocks, each of 32 or 256 numbers that follow each other in a row

    Blocks         one tensor in a file, like Stored: dtype, shape, nbytes
    copy_blocks    Blocks → a tensor that exists already, converted on the way, a window of the file at a time
    raw_rows       some rows of it as they lie there
    numbers_of     the bytes of blocks (N, bytes) → float32 (N, numbers)

The layouts are those of ggml-quants.c (github.com/ggml-org/ggml): a scale in float16 for each block; of 256 numbers,
also scales (and minima) in 6 or 8 bits for each 16 or 32 of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from yanmo.gguf import TensorPlace
from yanmo.models.stored import BLOCK, OpenFile, map_window

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class Blocks:
    """One tensor of a GGUF file.

    order: for each of its rows which row of the model it is (None: the same), in turns of `turned` rows.
    """

    file: OpenFile
    place: TensorPlace
    order: Tensor | None = None
    turned: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """The type of its numbers; of few bits, the type that they are computed in."""
        return PLAIN.get(self.place.kind.name, torch.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes from the outermost dimension."""
        return self.place.shape

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.place.nbytes

    @property
    def rows(self) -> int:
        """How many rows of blocks there are; a vector is one, or where it has an order, a row for each number."""
        return math.prod(self.shape if self.order is not None and len(self.shape) == 1 else self.shape[:-1])


def copy_blocks(blocks: Blocks, target: Tensor) -> None:
    """Write the numbers into `target`: of the same shape, any dtype, strides and device."""
    assert tuple(target.shape) == blocks.shape, f"target {tuple(target.shape)}, stored {blocks.shape}"
    kind, width = blocks.place.kind, math.prod(blocks.shape) // blocks.rows
    flat = target if target.ndim == 2 else target.view(-1, width)
    with torch.no_grad():
        for begin, raw in raw_rows(blocks):
            plain = PLAIN.get(kind.name)
            found = raw.view(plain) if plain is not None else numbers_of(kind.name, raw.view(-1, kind.nbytes))
            found = found.view(-1, width)
            if blocks.order is None:
                flat[begin : begin + len(found)].copy_(found)
            else:
                flat[blocks.order[begin : begin + len(found)]] = found.to(flat)


def raw_rows(blocks: Blocks, step: int = 1, begin: int = 0, end: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, uint8 (rows, bytes)), each part a window of the file, `step` rows or a multiple of them.

    begin, end: of the rows that are wanted; end 0: all.
    """
    row = blocks.nbytes // blocks.rows
    count = max(BLOCK // (16 * row * step), 1) * step  # numbers of 4 bits are eight times as large once they are floats
    end = end or blocks.rows
    for first in range(begin, end, count):
        rows = min(count, end - first)
        window = map_window(blocks.file, blocks.place.offset + first * row, rows * row, 4)
        yield first, window.view(rows, row)


def numbers_of(kind: str, blocks: Tensor) -> Tensor:
    """The numbers of blocks (N, bytes) of a kind that is no plain type, (N, 32 or 256) in float32."""
    return READERS[kind](blocks)


def _half(blocks: Tensor, begin: int) -> Tensor:
    """A float16 at a place of each block, (N, 1) in float32."""
    return blocks[:, begin : begin + 2].contiguous().view(torch.float16).float()


def _nibbles(codes: Tensor) -> Tensor:
    """Two numbers of 4 bits from each byte: first all lower halves, then all upper ones."""
    return torch.cat([codes & 15, codes >> 4], 1).float()


def _fifth(blocks: Tensor, begin: int) -> Tensor:
    """The fifth bit of 32 numbers, 16 for those that have it, (N, 32)."""
    bits = blocks[:, begin : begin + 4, None] >> torch.arange(8, dtype=torch.uint8)
    return ((bits & 1) * 16).flatten(1).float()


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].contiguous().view(torch.int8).float() * _half(blocks, 0)


def _q4_0(blocks: Tensor) -> Tensor:
    return (_nibbles(blocks[:, 2:]) - 8) * _half(blocks, 0)


def _q4_1(blocks: Tensor) -> Tensor:
    return _nibbles(blocks[:, 4:]) * _half(blocks, 0) + _half(blocks, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    return (_nibbles(blocks[:, 6:]) + _fifth(blocks, 2) - 16) * _half(blocks, 0)


def _q5_1(blocks: Tensor) -> Tensor:
    return (_nibbles(blocks[:, 8:]) + _fifth(blocks, 4)) * _half(blocks, 0) + _half(blocks, 2)


def _scales(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and minimum of each 32 numbers of a block of 256, (N, 8, 1): 6 bits each, packed into 12 bytes."""
    packed = blocks[:, 4:16]
    low, middle, high = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat([low & 63, (high & 15) | (low >> 6 << 4)], 1)
    minima = torch.cat([middle & 63, (high >> 4) | (middle >> 6 << 4)], 1)
    return (_half(blocks, 0) * scales.float())[..., None], (_half(blocks, 2) * minima.float())[..., None]


def _pairs(codes: Tensor) -> Tensor:
    """(N, 128) bytes → (N, 8, 32): 32 bytes hold 32 numbers in their lower halves and the next 32 in their upper."""
    quads = codes.reshape(-1, 4, 32)
    return torch.stack([quads & 15, quads >> 4], 2).view(-1, 8, 32)


def _q4_k(blocks: Tensor) -> Tensor:
    scales, minima = _scales(blocks)
    return (_pairs(blocks[:, 16:]).float() * scales - minima).flatten(1)


def _q5_k(blocks: Tensor) -> Tensor:
    scales, minima = _scales(blocks)
    fifth = blocks[:, 16:48, None] >> torch.arange(8, dtype=torch.uint8) & 1  # (N, 32, 8): bit j of the j-th 32
    codes = _pairs(blocks[:, 48:]) + 16 * fifth.transpose(1, 2)
    return (codes.float() * scales - minima).flatten(1)


def _q6_k(blocks: Tensor) -> Tensor:
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = torch.cat([low & 15, low >> 4], 2).view(-1, 2, 4, 32)  # each half of a block: four times 32 numbers
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None] & 3
    codes = (low | high << 4).view(-1, 16, 16).float() - 32
    scales = blocks[:, 192:208].contiguous().view(torch.int8).float() * _half(blocks, 208)
    return (codes * scales[..., None]).flatten(1)


READERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
