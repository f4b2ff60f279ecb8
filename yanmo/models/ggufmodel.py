"""A GGUF file as a model: its config, and its weights under the file's own names.

In: a path. Out: family and config; `Weights` like those of a folder, with the rows in the order that config.json
means. checkpoint.py puts the two together.

    gguf_config     header → family, config
    gguf_weights    header, family, config → Weights
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache

import torch
from torch import Tensor

from yanmo.errors import ConfigError, FileError, InputError
from yanmo.gguf import Header, TensorPlace
from yanmo.models.blocks import Blocks, copy_blocks
from yanmo.models.config import Head, RecurrentConfig, TransformerConfig
from yanmo.models.families.gguf import FACTORS, foreign_of, turned_heads
from yanmo.models.families.table import Family
from yanmo.models.stored import OpenFile, open_file
from yanmo.models.weights import Weights


def gguf_config(
    header: Header, *, head: Head | None = None, allow_unknown: bool = False
) -> tuple[Family, TransformerConfig]:
    """Read the config that the keys of a file say."""
    family, foreign = foreign_of(header, _factors(header))
    if head is not None and head not in family.heads:
        raise InputError(
            f"{header.path}: a GGUF file has no head {head!r}; save the model as a folder and load that one with it"
        )
    try:
        config = family.read_config(foreign, head or family.default_head)
    except ConfigError as error:
        raise error if str(header.path) in str(error) else ConfigError(f"{header.path}: {error}") from None
    except (OverflowError, ZeroDivisionError, TypeError, ValueError) as error:  # sizes that no arithmetic survives
        raise ConfigError(f"{header.path}: values that no model has ({error}); fetch the file again") from None
    foreign.finish(allow_unknown=allow_unknown)
    assert isinstance(config, TransformerConfig)
    return family, config


def _factors(header: Header) -> list[float]:
    """The numbers of rope_freqs.weight, one for each pair of a head."""
    place = header.tensors.get(FACTORS)
    if place is None:
        return []
    if len(place.shape) != 1 or place.shape[0] > 4096 or place.kind.name != "F32":
        raise FileError(
            f"{header.path}: {FACTORS} is {list(place.shape)} {place.kind.name}, and must be a few numbers of F32; "
            "do not trust the file"
        )
    file = open_file(header.parts[place.part][0])
    try:
        numbers = torch.empty(place.shape)
        copy_blocks(Blocks(file, place), numbers)
    finally:
        file.close()
    return numbers.double().tolist()


def gguf_weights(header: Header, family: Family, config: TransformerConfig | RecurrentConfig) -> Weights:
    """Open the tensors of a file."""
    assert isinstance(config, TransformerConfig), "no recurrent network has a GGUF file"
    closing = ExitStack()
    files: list[OpenFile] = []
    try:
        for path, size in header.parts:
            files.append(open_file(path))
            closing.callback(files[-1].close)
            if files[-1].size != size:
                raise FileError(f"{path}: changed while it was read; load it again")
    except BaseException:
        closing.close()
        raise
    blocks = {name: _blocks(files[place.part], place, family, config) for name, place in header.tensors.items()}
    return Weights(header.path, blocks, closing)


def _blocks(file: OpenFile, place: TensorPlace, family: Family, config: TransformerConfig) -> Blocks:
    name, heads = place.name, turned_heads(place.name, config, family)
    rows = heads * config.head_width
    if not heads or (place.shape if name.endswith("bias") else place.shape[:1]) != (rows,):
        return Blocks(file, place)  # of another shape: the table of names will say so
    return Blocks(file, place, _order(heads, config.head_width), config.head_width)


@cache
def _order(heads: int, width: int) -> Tensor:
    """Row of the file → row of the model: (head, pair, even or odd) → (head, even or odd, pair)."""
    return torch.arange(heads * width).view(heads, 2, width // 2).transpose(1, 2).flatten()
