"""Matrices kept in 8 or 4 bits, computed with in the type of their input.

    O rows (outputs), I columns (inputs), G columns of a group

    Packed           the matrix: `pack` makes it, `dense` gives it back
    packed_linear    x → x Wᵀ + b; backward dequantises again instead of keeping W, so that memory stays small

8 bits: one scale for each row, W ≈ scale · q with q from -127 to 127 (Dettmers et al. 2022, §2.1).
4 bits: one scale for each group of G columns; the largest value of a group takes the level that has no negative, so
that all 16 levels are used: W ≈ scale · (q - 8), q from 0 to 15, two to a byte.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yanmo.errors import InputError

GROUPS = (32, 64)


class Packed(nn.Module):
    """A frozen matrix (O, I) in few bits.

    `scales` are kept as the bits of their numbers, so that `network.to(dtype)` does not round them.
    """

    values: Tensor
    scales: Tensor

    def __init__(self, bits: int, group: int, columns: int, values: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.bits, self.group, self.columns = bits, group, columns
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.values.nbytes + self.scales.nbytes

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The matrix (O, I), in `dtype`."""
        if self.bits == 8:
            return self.values.to(dtype) * self.scales.view(torch.float32)[:, None].to(dtype)
        low, high = (self.values & 15).to(torch.int8), (self.values >> 4).to(torch.int8)
        rows = self.values.shape[0]
        levels = torch.stack([low, high], dim=2).view(rows, -1, self.group) - 8
        scales = self.scales.view(torch.float16)[:, :, None].to(dtype)  # (O, groups, 1)
        return (levels.to(dtype) * scales).view(rows, -1)[:, : self.columns]


def pack(weight: Tensor, bits: int, group: int = 32) -> Packed:
    """Return (O, I) in `bits` bits; 4 bits in groups of `group` columns, the last one filled up with zeros."""
    if bits not in (4, 8):
        raise InputError(f"bits are {bits!r}, and must be 4 or 8")
    if group not in GROUPS:
        raise InputError(f"group is {group!r}, and must be {' or '.join(map(str, GROUPS))}")
    weight = weight.detach().float()
    if not bool(weight.isfinite().all()):
        raise InputError("the base has weights that are not finite, which cannot be quantised; fetch it again")
    if bits == 8:
        scales = weight.abs().amax(1) / 127
        levels = (weight / scales.clamp(min=1e-30)[:, None]).round().clamp(-127, 127)
        return Packed(8, 0, weight.shape[1], levels.to(torch.int8), scales.view(torch.int32))
    rows, columns = weight.shape
    groups = F.pad(weight, (0, -columns % group)).view(rows, -1, group)
    largest = groups.gather(2, groups.abs().argmax(2, keepdim=True))[:, :, 0]
    halves = (largest / -8).to(torch.float16)  # rounded before the levels are chosen
    if not bool(halves.isfinite().all()):
        raise InputError("the base has weights beyond 500,000, which 4 bits cannot hold; use 8 bits")
    scale = halves.float()[:, :, None]
    levels = torch.where(scale == 0, 0.0, groups / torch.where(scale == 0, 1.0, scale))
    codes = (levels.round() + 8).clamp(0, 15).to(torch.uint8).view(rows, -1)
    return Packed(4, group, columns, codes[:, 0::2] | (codes[:, 1::2] << 4), halves.view(torch.int16))


class _Product(torch.autograd.Function):
    """x Wᵀ, remembering the packed matrix alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Packed) -> Tensor:
        ctx.packed = packed
        return F.linear(x, packed.dense(x.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return upstream @ ctx.packed.dense(upstream.dtype), None


def packed_linear(x: Tensor, packed: Packed, bias: Tensor | None) -> Tensor:
    """Return x Wᵀ + b."""
    out = _Product.apply(x, packed)
    return out if bias is None else out + bias.to(out.dtype)
