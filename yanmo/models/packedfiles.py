"""Packed networks on disk: safetensors and config.json, where the entry quantization_config says what they are.

    entry_of         the entry of a config.json, or None where another program wrote it or none is there
    entry_for        network → its entry
    tensors_for      network → names and tensors: NAME.panels, NAME.scales, NAME.sums (kernels/matrix.py has the bytes)
                     of each packed matrix under the name of its layer, and everything else under its own name
    fill             an empty network, a file → the network, its matrices in one piece of memory

Matrices lie in the file as the kernels read them, so loading is copying out of a memory map. A matrix that embedding
and head share is stored once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yanmo.errors import ConfigError, FileError
from yanmo.kernels import native
from yanmo.kernels.arena import Arena, room
from yanmo.kernels.matrix import Format, Matrix, codes_of, in_panels, shape_of
from yanmo.models.packed import PackedEmbedding, PackedLinear, PackedWords, hold_together, siblings
from yanmo.models.transformer import Transformer
from yanmo.models.weights import Weights

KEY, METHOD = "quantization_config", "yanmo"
WORDS = "head.adapted"
KINDS = (PackedLinear, PackedEmbedding, PackedWords)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def entry_of(values: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    """The checked entry of a folder that `Model.save` wrote of a packed network."""
    entry = values.get(KEY)
    if not isinstance(entry, dict) or entry.get("quant_method") != METHOD:
        return None
    if entry.get("version") != 1:
        raise ConfigError(f"{path}: {KEY} has the version {entry.get('version')!r}, 1 is read; update Yanmo")
    if entry.get("computes_in") not in DTYPES or not isinstance(entry.get("wide"), bool):
        raise ConfigError(f"{path}: {KEY} must say computes_in ({', '.join(DTYPES)}) and wide (true, false)")
    return entry


def entry_for(network: Transformer) -> dict[str, Any] | None:
    """What config.json says of a packed network; None where nothing is packed."""
    packed = {name: m for name, m in network.named_modules() if isinstance(m, KINDS)}
    if not packed:
        return None
    formats = {name: m.matrix.format for name, m in packed.items()}
    wide = any(m.wide for m in packed.values() if not isinstance(m, PackedEmbedding))
    computes_in = str(network.dtype).removeprefix("torch.")
    head = {"quant_method": METHOD, "version": 1, "computes_in": computes_in, "wide": wide}
    return {**head, "formats": formats}


def tensors_for(network: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Everything that `fill` needs, one tensor at a time."""
    seen: set[int] = set()
    for name, module in network.named_modules():
        if not isinstance(module, KINDS):
            continue
        if id(module.matrix) not in seen:
            seen.add(id(module.matrix))
            parts = zip(("panels", "scales", "sums"), in_panels(module.matrix).tensors, strict=True)
            yield from ((f"{name}.{part}", tensor) for part, tensor in parts if tensor.numel())
        if isinstance(module, PackedLinear) and module.bias is not None:
            yield f"{name}.bias", module.bias
    yield from ((name, parameter.detach()) for name, parameter in network.named_parameters() if parameter.numel())


def fill(network: Transformer, entry: dict[str, Any], weights: Weights) -> Transformer:
    """Give a network without memory (on "meta") what the file holds; FileError with every name that does not fit."""
    names = set(weights.names)
    layers = [name.removesuffix(".panels") for name in weights.names if name.endswith(".panels")]
    modules = dict(network.named_modules())
    unknown = [name for name in layers if name != WORDS and type(modules.get(name)) not in (nn.Linear, nn.Embedding)]
    if unknown:
        raise FileError(f"{weights.source}: {unknown[0]} is no matrix of the model that config.json describes")
    arena = Arena(sum(room(weights.info(n).nbytes) for n in names if n.endswith((".panels", ".scales", ".sums"))))
    used: set[str] = set()
    for group in siblings(layers):
        held = hold_together([_usable(_matrix(network, name, weights)) for name in group], arena)
        for name, matrix in zip(group, held, strict=True):
            bias = f"{name}.bias"
            used |= {f"{name}.{part}" for part in ("panels", "scales", "sums", "bias")}
            given = weights.read(bias, torch.float32) if bias in names else None
            _put(network, name, matrix, given, entry)
    _tie(network, entry)
    _read_rest(network, weights, used)
    return network.eval().requires_grad_(False)


def _matrix(network: Transformer, name: str, weights: Weights) -> Matrix:
    """The matrix of one layer, checked against the layer's size."""
    source = f"{weights.source}: {name}"
    if name == WORDS:
        outputs, inputs = network.config.output_size, network.config.width
    else:
        outputs, inputs = network.get_submodule(name).weight.shape  # type: ignore[misc]
    panels = weights.info(f"{name}.panels")
    formats: tuple[Format, ...] = ("rows8", "groups8", "groups4")
    fitting = [f for f in formats if panels.shape == shape_of(outputs, inputs, f) and panels.dtype == torch.uint8]
    if not fitting:
        raise FileError(f"{source}: panels are {list(panels.shape)} {panels.dtype}, which is no format of its layer")
    lanes = shape_of(outputs, inputs, fitting[0])[0] * 16
    scales, sums = torch.empty(0), torch.empty(0, dtype=torch.int32)
    if fitting[0] == "rows8":
        scales, sums = weights.read(f"{name}.scales"), weights.read(f"{name}.sums")
        if (scales.shape, scales.dtype, sums.shape, sums.dtype) != ((lanes,), torch.float32, (lanes,), torch.int32):
            raise FileError(f"{source}: scales and sums must have {lanes} numbers, float32 and int32; fetch it again")
    return Matrix(fitting[0], outputs, inputs, weights.read(f"{name}.panels"), scales, sums)


def _usable(matrix: Matrix) -> Matrix:
    """The matrix as the twin wants it where the library is absent."""
    if matrix.format != "rows8" or native.library() is not None:
        return matrix
    values, scales = codes_of(matrix)
    outputs, inputs = matrix.outputs, matrix.inputs
    return Matrix("rows8", outputs, inputs, values[:, :inputs], scales, matrix.sums[:outputs])


def _put(network: Transformer, name: str, matrix: Matrix, bias: Tensor | None, entry: dict[str, Any]) -> None:
    parent, _, last = name.rpartition(".")
    place = network.get_submodule(parent)
    if name == WORDS:
        setattr(place, last, PackedWords(matrix, wide=entry["wide"]))
        network.head.weight = nn.Parameter(torch.empty(0, dtype=DTYPES[entry["computes_in"]]), requires_grad=False)
    elif isinstance(getattr(place, last), nn.Embedding):
        setattr(place, last, PackedEmbedding(matrix, DTYPES[entry["computes_in"]]))
    else:
        setattr(place, last, PackedLinear(matrix, bias, wide=entry["wide"]))


def _tie(network: Transformer, entry: dict[str, Any]) -> None:
    config = network.config
    table = network.decoder_embedding if config.decoder_vocab_size else network.embedding
    if config.head in ("causal", "masked") and config.tie_embeddings and isinstance(table, PackedEmbedding):
        network.head.adapted = PackedWords(table.matrix, wide=entry["wide"])


def _read_rest(network: Transformer, weights: Weights, used: set[str]) -> None:
    """Norms, biases, positions, and what was left in floats."""
    wanted = {name: p for name, p in network.named_parameters() if math.prod(p.shape)}
    rest = {name for name in weights.names if name not in used}
    missing, unexpected = sorted(wanted.keys() - rest), sorted(rest - wanted.keys())
    if missing or unexpected:
        first = f"{missing[0]} is missing" if missing else f"{unexpected[0]} is unexpected"
        raise FileError(f"{weights.source}: {len(missing) + len(unexpected)} names do not fit config.json: {first}")
    for name, parameter in wanted.items():
        if weights.info(name).shape != tuple(parameter.shape):
            raise FileError(
                f"{weights.source}: {name} is {list(weights.info(name).shape)}, not {list(parameter.shape)}"
            )
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, nn.Parameter(weights.read(name), requires_grad=False))
