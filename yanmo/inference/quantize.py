"""A network's matrices in 8 or 4 bits, in place, for inference on a CPU.

    Bits              how matrices are packed
    quantize          network → the same network, its matrices packed into one piece of memory

Norms, biases and tables of positions stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from yanmo.errors import InputError
from yanmo.kernels.arena import Arena
from yanmo.kernels.matrix import Format, Matrix, pack_groups, pack_rows, size_of
from yanmo.models.lowrank import board_of
from yanmo.models.packed import PackedEmbedding, PackedLinear, PackedWords
from yanmo.models.transformer import Transformer

Layout = Literal["rows", "groups"]


@dataclass(frozen=True)
class Bits:
    """How matrices are packed.

    weights: 8 or 4. layout: "rows" has one scale for each output (8 bits alone), "groups" one for 32 inputs. wide: the
    inputs of "rows" in 16 bits (ops.linear). words: bits of the words' matrix and the embedding, in the same layout.
    """

    weights: int = 8
    layout: Layout = "rows"
    wide: bool = True
    words: int = 8

    def __post_init__(self) -> None:
        for name in ("weights", "words"):
            if getattr(self, name) not in (4, 8):
                raise InputError(f"{name} is {getattr(self, name)!r}, and must be 4 or 8 bits")
        if self.layout not in ("rows", "groups"):
            raise InputError(f"layout is {self.layout!r}, and must be rows or groups")

    def format(self, bits: int) -> Format:
        """How a matrix of 8 or 4 bits lies; 4 bits are always in groups."""
        return "groups4" if bits == 4 else "rows8" if self.layout == "rows" else "groups8"

    def pack(self, weight: Tensor, bits: int) -> Matrix:
        """Pack one matrix."""
        return pack_rows(weight) if self.format(bits) == "rows8" else pack_groups(weight, bits)


def quantize(network: Transformer, bits: Bits | None = None) -> Transformer:
    """Pack the matrices of a network, in place, and return it; each is freed as it is packed.

    Raises InputError for a recurrent network, one on another device, one with adapters, or one packed before.
    """
    bits = bits or Bits()
    if not isinstance(network, Transformer):
        raise InputError(f"a {type(network).__name__.lower()} network cannot be packed; only Transformers can")
    if isinstance(network.embedding, PackedEmbedding):
        raise InputError("the network is packed already; load it anew to pack it differently")
    if network.device.type != "cpu":
        raise InputError(f"the network is on {network.device}, and is packed for the CPU; load it with device='cpu'")
    if board_of(network) is not None:
        raise InputError("the network has adapters; merge them before it is packed")
    dtype = network.dtype
    linears = list(_linears(network))
    arena = Arena(sum(_size(m.weight, bits, bits.weights) for _, _, m in linears) + _words_size(network, bits))
    for parent, name, linear in linears:
        matrix = _held(bits.pack(linear.weight, bits.weights), arena)
        setattr(parent, name, PackedLinear(matrix, linear.bias, wide=bits.wide))
        del linear
    _pack_words(network, bits, arena, dtype)
    return network.eval().requires_grad_(False)


def _linears(network: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    for parent in network.modules():
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                yield parent, name, child


def _pack_words(network: Transformer, bits: Bits, arena: Arena, dtype: torch.dtype) -> None:
    tables = ["embedding", "decoder_embedding"] if network.config.decoder_vocab_size else ["embedding"]
    for name in tables:
        matrix = _held(bits.pack(getattr(network, name).weight, bits.words), arena)
        setattr(network, name, PackedEmbedding(matrix, dtype))
    if network.config.head not in ("causal", "masked"):
        return
    if network.config.tie_embeddings:
        shared = getattr(network, tables[-1]).matrix
    else:
        shared = _held(bits.pack(network.head.weight, bits.words), arena)
        network.head.weight = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
    network.head.adapted = PackedWords(shared, wide=bits.wide)


def _words_size(network: Transformer, bits: Bits) -> int:
    tables = [network.embedding.weight]
    if network.config.decoder_vocab_size:
        tables.append(network.decoder_embedding.weight)
    if network.config.head in ("causal", "masked") and not network.config.tie_embeddings:
        tables.append(network.head.weight)
    return sum(_size(table, bits, bits.words) for table in tables)


def _size(weight: Tensor, bits: Bits, width: int) -> int:
    return size_of(*weight.shape, bits.format(width))  # type: ignore[call-arg]


def _held(matrix: Matrix, arena: Arena) -> Matrix:
    """The matrix with its tensors in the arena."""
    panels, scales, sums = (arena.hold(t) if t.numel() else t for t in matrix.tensors)
    return Matrix(matrix.format, matrix.outputs, matrix.inputs, panels, scales, sums)
