"""Weights written as safetensors: one file, or shards with an index.

In: named tensors, on any device and of any layout, and a fresh folder (yanmo.files.atomic_folder gives one).
Out: model.safetensors, or model-00001-of-0000N.safetensors and model.safetensors.index.json.

    save_weights      plan the shards, write each, check it with the safetensors library, write the index
    _write_shard      one file: the header, then the bytes of one tensor after the other
    _header           what the library would write for the same tensors, with the metadata in a fixed order

The library writes metadata in an order that changes from run to run, and wants all tensors of a file contiguous on
the CPU at once; written tensor by tensor, equal weights are equal bytes and at most one tensor is copied. The tests
compare the bytes with those of the library.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open

from yanmo.errors import FileError, InputError
from yanmo.files import reason, write_json
from yanmo.hubfiles import INDEX, SAFETENSORS
from yanmo.models.headers import DTYPES

MAX_SHARD_BYTES = 5_000_000_000
FORMAT = {"format": "pt"}  # transformers refuses a file without it
NAMES = {dtype: name for name, dtype in DTYPES.items()}
RANKS = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}


@dataclass(frozen=True)
class _Planned:
    """A tensor to be written; `get` returns it when its turn comes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    nbytes: int
    get: Callable[[], torch.Tensor]


def save_weights(
    tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]],
    folder: str | Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    metadata: Mapping[str, str] = FORMAT,
) -> list[Path]:
    """Write named tensors into a folder; return the files in the order of the shards, the index last.

    A mapping is asked twice for each tensor, for its shape and for its values, so that one that makes its tensors on
    demand holds one at a time; the pairs of an iterable are held until their shard is full. A shard has at most
    `max_shard_bytes` of tensors, or a single larger one. Two names of the same memory are written twice.
    """
    if max_shard_bytes < 1:
        raise InputError(f"max_shard_bytes is {max_shard_bytes}; at least 1 is needed")
    folder = Path(folder)
    paths: list[Path] = []
    places: dict[str, int] = {}
    total = 0
    try:
        for shard in _shards(_planned(tensors), max_shard_bytes):
            for entry in shard:
                if entry.name in places:
                    raise InputError(f"the tensor {entry.name!r} is given twice; give each name once")
                places[entry.name] = len(paths)
                total += entry.nbytes
            paths.append(folder / f"part-{len(paths)}")  # the final name needs the number of shards
            _write_shard(paths[-1], shard, metadata)
        if len(paths) == 1:
            return [paths[0].rename(folder / SAFETENSORS)]
        stem = SAFETENSORS.removesuffix(".safetensors")
        for i, path in enumerate(paths):
            paths[i] = path.rename(folder / f"{stem}-{i + 1:05d}-of-{len(paths):05d}.safetensors")
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{folder}: the weights cannot be written ({reason(error)}); free some space") from error
    index = folder / (SAFETENSORS + INDEX)
    weight_map = {name: paths[i].name for name, i in sorted(places.items())}
    write_json(index, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return [*paths, index]


def _planned(tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]) -> Iterator[_Planned]:
    if isinstance(tensors, Mapping):
        mapping = tensors
        for name in mapping:
            yield _plan(name, mapping[name], lambda name=name: mapping[name])  # type: ignore[misc]
    else:
        for name, tensor in tensors:
            yield _plan(name, tensor, lambda tensor=tensor: tensor)  # type: ignore[misc]


def _plan(name: str, tensor: torch.Tensor, get: Callable[[], torch.Tensor]) -> _Planned:
    if not isinstance(name, str) or not name or name == "__metadata__":
        raise InputError(f"a tensor cannot be saved under the name {name!r}")
    if tensor.dtype not in NAMES or tensor.layout != torch.strided or tensor.is_meta:
        raise InputError(
            f"the tensor {name!r} ({tensor.dtype}, {tensor.layout}, {tensor.device}) cannot be saved; "
            f"saved are dense tensors with values, of the dtypes {', '.join(DTYPES)}"
        )
    return _Planned(name, tensor.dtype, tuple(tensor.shape), tensor.numel() * tensor.dtype.itemsize, get)


def _shards(entries: Iterable[_Planned], limit: int) -> Iterator[list[_Planned]]:
    """Fill shards in the given order; without any tensor there is one empty shard."""
    shard: list[_Planned] = []
    size = 0
    for entry in entries:
        if shard and size + entry.nbytes > limit:
            yield shard
            shard, size = [], 0
        shard.append(entry)
        size += entry.nbytes
    yield shard


def _write_shard(path: Path, shard: list[_Planned], metadata: Mapping[str, str]) -> None:
    # The library's order: wide dtypes first, so that every tensor is aligned; then by name.
    shard = sorted(shard, key=lambda entry: (-RANKS[entry.dtype], entry.name.encode()))
    with open(path, "wb") as file:
        file.write(_header(shard, metadata))
        for entry in shard:
            _write_tensor(file, entry)
    try:
        with safe_open(str(path), framework="pt"):
            pass
    except SafetensorError as error:
        raise InputError(
            f"the weights cannot be saved as safetensors ({reason(error)}); check names and metadata"
        ) from None


def _header(shard: list[_Planned], metadata: Mapping[str, str]) -> bytes:
    """The length and the JSON of a safetensors header, padded to a multiple of 8 bytes."""
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for entry in shard:
        header[entry.name] = {
            "dtype": NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [position, position + entry.nbytes],
        }
        position += entry.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_tensor(file: BinaryIO, entry: _Planned) -> None:
    tensor = entry.get().detach()
    assert tensor.dtype == entry.dtype and tuple(tensor.shape) == entry.shape, entry.name
    if tensor.numel():
        file.write(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
