"""The matrices of a GGUF file, kept in few bits: into the layout of the kernels, a few rows at a time.

In: a network without memory, the sources of its tensors, open weights. Out: the network with packed layers (packed.py)
in the place of those whose matrix the file has in few bits; every other tensor is left to be read.

    pack_network    the layers, in one arena
    KEPT            blocks that keep their bytes in another order; those of other kinds are packed anew in 8 bits
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yanmo.kernels.arena import Arena
from yanmo.kernels.matrix import LANES, Format, Matrix, pack_blocks, pack_groups, shape_of, size_of
from yanmo.models.blocks import PLAIN, Blocks, numbers_of, raw_rows
from yanmo.models.families.table import Rule
from yanmo.models.packed import PackedEmbedding, PackedLinear, PackedWords
from yanmo.models.transformer import Transformer
from yanmo.models.weights import Weights

KEPT: dict[str, Format] = {"Q8_0": "groups8", "Q4_0": "groups4"}


@dataclass(frozen=True, eq=False)
class _Part:
    """Some rows of a tensor of the file, which are one matrix of ours."""

    ours: str
    blocks: Blocks
    begin: int
    rows: int

    @property
    def format(self) -> Format:
        return KEPT.get(self.blocks.place.kind.name, "groups8")

    @property
    def columns(self) -> int:
        return self.blocks.shape[1]


def pack_network(
    network: Transformer, sources: list[tuple[Rule, str]], weights: Weights
) -> tuple[list[tuple[Rule, str]], dict[str, Tensor]]:
    """Pack what can be packed; returns the sources that are left, and tensors to be filled that are no parameters."""
    parts, left = _parts(network, sources, weights)
    repacked = sorted({p.blocks.place.kind.name for p in parts if p.blocks.place.kind.name not in KEPT})
    if repacked:
        warnings.warn(
            f"{weights.source}: matrices in {', '.join(repacked)} are computed with in 8 bits, rounded once more; "
            "give a dtype to have the file's own numbers",
            stacklevel=4,
        )
    arena = Arena(sum(size_of(part.rows, part.columns, part.format) for part in parts))
    extra: dict[str, Tensor] = {}
    for part in parts:
        matrix = _matrix(part, arena)
        if part.ours == "embedding.weight":
            network.embedding = PackedEmbedding(matrix, torch.float32)  # type: ignore[assignment]
            if network.config.head == "causal" and network.config.tie_embeddings:
                network.head.adapted = PackedWords(matrix, wide=False)
        elif part.ours == "head.weight":
            network.head.adapted = PackedWords(matrix, wide=False)
            network.head.weight = nn.Parameter(torch.empty(0), requires_grad=False)
        else:
            path, _, name = part.ours.removesuffix(".weight").rpartition(".")
            layer = getattr(network.get_submodule(path), name)
            packed = PackedLinear(matrix, None if layer.bias is None else torch.empty(part.rows), wide=False)
            setattr(network.get_submodule(path), name, packed)
            if packed.bias is not None:
                extra[part.ours.removesuffix("weight") + "bias"] = packed.bias
    return left, extra


def _parts(
    network: Transformer, sources: list[tuple[Rule, str]], weights: Weights
) -> tuple[list[_Part], list[tuple[Rule, str]]]:
    parameters, parts, left = dict(network.named_parameters()), [], []
    for rule, name in sources:
        blocks = weights.blocks(name)
        if blocks is None or blocks.place.kind.name in PLAIN or not all(_packs(network, ours) for ours in rule.ours):
            left.append((rule, name))
            continue
        begin = 0
        for ours in rule.ours:
            rows = parameters[ours].shape[0]
            parts.append(_Part(ours, blocks, begin, rows))
            begin += rows
    return parts, left


def _packs(network: Transformer, ours: str) -> bool:
    """Whether a parameter is a matrix that a packed layer may hold."""
    return ours in ("embedding.weight", "head.weight") or (
        ours.endswith(".weight") and type(network.get_submodule(ours.removesuffix(".weight"))) is nn.Linear
    )


def _matrix(part: _Part, arena: Arena) -> Matrix:
    """Pack some rows after the other into the place that the whole has in the arena."""
    blocks, kind = part.blocks, part.blocks.place.kind
    panels = arena.take(shape_of(part.rows, part.columns, part.format), torch.uint8)
    order = blocks.order
    step = LANES if order is None else math.lcm(LANES, blocks.turned)  # a head's rows stay among themselves
    for first, raw in raw_rows(blocks, step, part.begin, part.begin + part.rows):
        if order is not None:
            raw = torch.empty_like(raw).index_copy_(0, order[first : first + len(raw)] - first, raw)
        if kind.name in KEPT:
            packed = pack_blocks(raw.view(len(raw), -1, kind.nbytes), part.format, part.columns)
        else:
            packed = pack_groups(numbers_of(kind.name, raw.view(-1, kind.nbytes)).view(len(raw), -1), 8)
        place = (first - part.begin) // LANES
        panels[place : place + len(packed.panels)] = packed.panels
    empty = torch.empty(0)
    return Matrix(part.format, part.rows, part.columns, panels, empty, empty.int())
