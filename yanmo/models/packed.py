"""Layers whose matrix is packed in 8 or 4 bits and computed with by the kernels, for inference alone.

PackedLinear        in place of nn.Linear
PackedEmbedding     in place of nn.Embedding; its rows are unpacked as they are looked up
PackedWords         in place of the product with the words' matrix (Head.adapted), which an embedding may share
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yanmo.kernels import ops
from yanmo.kernels.matrix import Matrix, rows_of


class PackedLinear(nn.Module):
    """x → x Wᵀ + b; see ops.linear for `wide`."""

    def __init__(self, matrix: Matrix, bias: Tensor | None, *, wide: bool) -> None:
        super().__init__()
        self.matrix, self.wide = matrix, wide
        self.bias = (
            None if bias is None else bias.detach().float().contiguous()
        )  # no parameter: `.to` must not round it

    def forward(self, x: Tensor) -> Tensor:
        """Transform (…, I) into (…, O)."""
        return ops.linear(x, self.matrix, self.bias, wide=self.wide)


class PackedEmbedding(nn.Module):
    """Ids (…) → vectors (…, W) in `dtype`, which is the type that the network computes in."""

    weight: Tensor  # empty: it tells the network's type and device

    def __init__(self, matrix: Matrix, dtype: torch.dtype) -> None:
        super().__init__()
        self.matrix = matrix
        self.register_buffer("weight", torch.empty(0, dtype=dtype), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Look up ids."""
        return rows_of(self.matrix, ids).to(self.weight.dtype)


class PackedWords(nn.Module):
    """Hidden (…, W) → scores (…, V); the matrix that the head passes is not read."""

    def __init__(self, matrix: Matrix, *, wide: bool) -> None:
        super().__init__()
        self.matrix, self.wide = matrix, wide

    def forward(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Score the words."""
        return ops.linear(hidden, self.matrix, None if bias is None else bias.float(), wide=self.wide)
