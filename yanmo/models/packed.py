"""Layers whose matrix is packed in 8 or 4 bits and computed with by the kernels, for inference alone.

PackedLinear        in place of nn.Linear
PackedEmbedding     in place of nn.Embedding; its rows are unpacked as they are looked up
PackedWords         in place of the product with the words' matrix (Head.adapted), which an embedding may share
    packed_matrices, packed_bytes, count_parameters     what of a network is packed, and its size
    siblings, hold_together           matrices with the same input lie one after the other, so that a step can take them
                                      as one
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from yanmo.kernels import ops
from yanmo.kernels.arena import Arena
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


def packed_bytes(network: nn.Module) -> int:
    """Bytes of all packed matrices of a network, one that two layers share counted once."""
    return sum({id(m): m.nbytes for m in packed_matrices(network).values()}.values())


def count_parameters(network: nn.Module) -> int:
    """The numbers of a network, packed ones among them."""
    packed = {id(m): m.outputs * m.inputs for m in packed_matrices(network).values()}
    return sum(packed.values()) + sum(p.numel() for p in network.parameters())


def packed_matrices(network: nn.Module) -> dict[str, Matrix]:
    """The name of a layer → its packed matrix."""
    kinds = (PackedLinear, PackedEmbedding, PackedWords)
    return {name: m.matrix for name, m in network.named_modules() if isinstance(m, kinds)}


SIBLINGS = (("query", "key", "value"), ("gate", "up"))  # layers of a module that have the same input


def siblings(names: Iterable[str]) -> list[list[str]]:
    """The names of layers, those with the same input together."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        parent, _, last = name.rpartition(".")
        family = next((members for members in SIBLINGS if last in members), (last,))
        groups.setdefault(f"{parent}.{family[0]}", []).append((family.index(last), name))
    return [[name for _, name in sorted(members)] for members in groups.values()]


def hold_together(matrices: Sequence[Matrix], arena: Arena) -> list[Matrix]:
    """Copies of the matrices in an arena: all panels, then all scales, then all sums."""
    held = zip(*([arena.hold(t) if t.numel() else t for t in part] for part in zip(*(m.tensors for m in matrices))))
    return [Matrix(m.format, m.outputs, m.inputs, *parts) for m, parts in zip(matrices, held, strict=True)]
