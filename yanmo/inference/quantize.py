"""A network's matrices in 8 or 4 bits, in place, for inference on a CPU.

    Bits              how matrices are packed, and in more bits where fewer lose too much of one
    quantize          network → the same network, its matrices packed into one piece of memory
    pack_by           the same, and what became of a text by which a decoder is calibrated
    pack_model        a model with its tokenizer, and a text as it is
    error_of          how much of a matrix is lost

Norms, biases and tables of positions stay as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from yanmo.errors import InputError
from yanmo.inference.calibrate import MOST_LOSS, Outcome, Reading, calibrate, reading_of, seen_in_floats
from yanmo.kernels.arena import Arena
from yanmo.kernels.matrix import Format, Matrix, dense, pack_groups, pack_rows, size_of
from yanmo.models.lowrank import board_of
from yanmo.models.packed import (
    PackedEmbedding,
    PackedLinear,
    PackedWords,
    hold_together,
    packed_matrices,
    siblings,
)
from yanmo.models.transformer import Transformer

if TYPE_CHECKING:
    from yanmo.inference.model import Model

Layout = Literal["rows", "groups"]
# Normal weights lose 0.8 % in 8 bits by rows and 8.5 % in 4 bits; a matrix with some large weights loses more, and gets
# the next format, of which groups of 8 bits is the last.
MOST_ERROR: dict[Format, float] = {"groups4": 0.11, "rows8": 0.02}


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
                raise InputError(f"{name} are given {getattr(self, name)!r} bits, and must have 4 or 8 bits")
        if self.layout not in ("rows", "groups"):
            raise InputError(f"layout is {self.layout!r}, and must be rows or groups")

    def pack(self, weight: Tensor, bits: int) -> Matrix:
        """Pack one matrix: in `bits`, or in more where its relative error would be above MOST_ERROR."""
        formats: list[Format] = ["groups4"] if bits == 4 else []
        formats += ["groups8"] if self.layout == "groups" else ["rows8", "groups8"]
        for format in formats[:-1]:
            matrix = _packed(weight, format)
            if error_of(matrix, weight) <= MOST_ERROR[format]:
                return matrix
        return _packed(weight, formats[-1])


def error_of(matrix: Matrix, weight: Tensor) -> float:
    """The relative error of a packed matrix, ‖packed - W‖ / ‖W‖ (Frobenius)."""
    weight = weight.detach().float()
    return float((dense(matrix) - weight).norm() / weight.norm().clamp(min=1e-30))


def _packed(weight: Tensor, format: Format) -> Matrix:
    return pack_rows(weight) if format == "rows8" else pack_groups(weight, 4 if format == "groups4" else 8)


def quantize(network: Transformer, bits: Bits | int | None = None, reading: Reading | None = None) -> Transformer:
    """Pack the matrices of a network, in place, and return it; each is freed as it is packed.

    bits: 8 or 4, or all of Bits. reading: a text by which a decoder is calibrated, in 4 bits alone (calibrate.py).
    Raises InputError for a recurrent network, one on another device, one with adapters, or one packed before.
    """
    pack_by(network, bits, reading)
    return network


def pack_by(network: Transformer, bits: Bits | int | None = None, reading: Reading | None = None) -> Outcome | None:
    """Pack as `quantize` does, and return what calibrating gave, where there was a text for it."""
    bits = Bits() if bits is None else Bits(weights=bits) if isinstance(bits, int) else bits
    _check(network, bits, reading)
    names = [name for name, m in network.named_modules() if type(m) is nn.Linear]
    arena = _arena([*(network.get_submodule(name) for name in names), *_tables(network)])
    network.eval()
    outcome = None
    if reading is None:
        _pack_layers(network, names, bits, arena)
        _pack_words(network, bits, arena, network.dtype)
    else:
        seen = seen_in_floats(network, reading)
        _pack_words(network, bits, arena, network.dtype)
        outcome = calibrate(network, reading, seen, bits)
        _pack_layers(network, names, bits, arena)
    network.requires_grad_(False)
    return outcome


def pack_model(model: Model, bits: Bits | int, text: str = "", most_loss: float = MOST_LOSS) -> None:
    """Pack the network of a model, in place.

    text: by its first 32,768 tokens a decoder in 4 bits is rounded, and matrices keep 8 bits until no more than the
    share `most_loss` is lost of text of its kind; where that cannot be held, it is a warning.
    """
    room = getattr(model.config, "max_positions", 0) or 0
    reading = reading_of(model.tokenizer.encode(text), room, most_loss) if text else None
    outcome = pack_by(model.network, bits, reading)  # type: ignore[arg-type]
    if outcome is not None and outcome.at_most > outcome.limit:
        warnings.warn(
            f"all layers have 8 bits, and up to {outcome.at_most:.2%} is lost, above the limit of {outcome.limit:.2%}; "
            "give more text, by which that is told more closely",
            stacklevel=3,
        )


def _check(network: Transformer, bits: Bits, reading: Reading | None) -> None:
    if not isinstance(network, Transformer):
        raise InputError(f"a {type(network).__name__.lower()} network cannot be packed; only Transformers can")
    if packed_matrices(network):
        raise InputError("the network is packed already; load it anew to pack it differently")
    if network.device.type != "cpu":
        raise InputError(f"the network is on {network.device}, and is packed for the CPU; load it with device='cpu'")
    if board_of(network) is not None:
        raise InputError("the network has adapters; merge them before it is packed")
    if reading is not None and (bits.weights != 4 or network.config.kind != "decoder"):
        raise InputError(
            f"a text calibrates decoders in 4 bits, not a {network.config.kind} in {bits.weights}; leave the text out"
        )


def _pack_layers(network: Transformer, names: Sequence[str], bits: Bits, arena: Arena) -> None:
    """Pack all matrices of layers that are not packed yet, and let all lie in the arena."""
    for group in siblings(names):
        layers: list[Any] = [network.get_submodule(name) for name in group]
        matrices = [m.matrix if isinstance(m, PackedLinear) else bits.pack(m.weight, bits.weights) for m in layers]
        for name, layer, matrix in zip(group, layers, hold_together(matrices, arena), strict=True):
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, PackedLinear(matrix, layer.bias, wide=bits.wide))


def _arena(layers: Sequence[Any]) -> Arena:
    """Room for all in the largest format; pages that are not written take no memory."""
    formats: tuple[Format, ...] = ("rows8", "groups8")
    shapes = [tuple(layer.weight.shape) for layer in layers]
    return Arena(sum(max(size_of(outputs, inputs, format) for format in formats) for outputs, inputs in shapes))


def _pack_words(network: Transformer, bits: Bits, arena: Arena, dtype: torch.dtype) -> None:
    tables = ["embedding", "decoder_embedding"] if network.config.decoder_vocab_size else ["embedding"]
    for name in tables:
        (matrix,) = hold_together([bits.pack(getattr(network, name).weight, bits.words)], arena)
        setattr(network, name, PackedEmbedding(matrix, dtype))
    if network.config.head not in ("causal", "masked"):
        return
    if network.config.tie_embeddings:
        shared = getattr(network, tables[-1]).matrix
    else:
        (shared,) = hold_together([bits.pack(network.head.weight, bits.words)], arena)
        network.head.weight = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
    network.head.adapted = PackedWords(shared, wide=bits.wide)


def _tables(network: Transformer) -> list[Any]:
    """What has a matrix of words: embeddings, and the head where it has its own."""
    tables: list[Any] = [network.embedding]
    if network.config.decoder_vocab_size:
        tables.append(network.decoder_embedding)
    if network.config.head in ("causal", "masked") and not network.config.tie_embeddings:
        tables.append(network.head)
    return tables
