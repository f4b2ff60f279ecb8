"""The weights of a model folder, by name, read straight into tensors of any dtype.

In: a folder in the Hugging Face layout, or one file. Out: `Weights`, or a FileError of one sentence.

    open_weights         a folder: one file or an index of shards (yanmo.hub.find_weights chooses)
    open_weights_file    one file: safetensors, an index, or what torch.save pickled
    _open_shards         an index: each shard is opened and compared with it
    Weights              names, info, read, read_into

    with open_weights(folder) as weights:
        for name in weights.names:
            weights.read_into(name, parameters[name])

Peak memory while reading is the target and one block of 16 MiB: see stored.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from yanmo.errors import FileError, nearest
from yanmo.files import reason
from yanmo.hubfiles import FOREIGN, find_weights, shard_names
from yanmo.models.blocks import Blocks, copy_blocks
from yanmo.models.headers import read_safetensors
from yanmo.models.pickles import read_pickle
from yanmo.models.stored import OpenFile, Stored, copy_stored, open_file, shown

Reader = Callable[[Path], tuple[OpenFile, dict[str, Stored]]]


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before it is read; `nbytes` in the dtype of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    nbytes: int


class Weights:
    """Named tensors in one file or several, open for reading until `close`; also a context manager.

    `source` is the file, or the index of the shards, that was opened.
    """

    def __init__(self, source: Path, tensors: Mapping[str, Stored | Blocks], closing: ExitStack) -> None:
        self.source = source
        self._tensors = tensors
        self._closing = closing

    @property
    def names(self) -> list[str]:
        """The names of all tensors, in the order of the file."""
        return list(self._tensors)

    def info(self, name: str) -> TensorInfo:
        """The dtype, shape and size of a tensor."""
        stored = self._find(name)
        return TensorInfo(stored.dtype, stored.shape, stored.nbytes)

    def blocks(self, name: str) -> Blocks | None:
        """A tensor as it lies in a GGUF file; None where the file is another."""
        found = self._find(name)
        return found if isinstance(found, Blocks) else None

    def read(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Read a tensor into fresh contiguous memory, in its own dtype or in `dtype`."""
        stored = self._find(name)
        target = torch.empty(stored.shape, dtype=dtype or stored.dtype)
        _copy(stored, target)
        return target

    def read_into(self, name: str, target: torch.Tensor) -> None:
        """Read a tensor into `target`: of the same shape, and of any dtype, device and strides."""
        stored = self._find(name)
        if tuple(target.shape) != stored.shape:
            raise FileError(
                f"{stored.file.path}: the tensor {shown(name)} has the shape {list(stored.shape)} and the model "
                f"needs {list(target.shape)}; are config.json and the weights of the same model?"
            )
        _copy(stored, target)

    def close(self) -> None:
        """Close the files; tensors that were read stay valid."""
        self._tensors = {}
        self._closing.close()

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _find(self, name: str) -> Stored | Blocks:
        if name not in self._tensors:
            raise FileError(f"{self.source}: no tensor {shown(name)} in it{nearest(name, self._tensors)}")
        return self._tensors[name]


def _copy(stored: Stored | Blocks, target: torch.Tensor) -> None:
    copy_stored(stored, target) if isinstance(stored, Stored) else copy_blocks(stored, target)


def open_weights(folder: str | Path) -> Weights:
    """Open the weights of a model folder: safetensors where there are any, else what torch.save pickled."""
    folder = Path(folder)
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        raise FileError(f"{folder}: no such folder; check the path") from None
    except (OSError, ValueError) as error:
        raise FileError(f"{folder}: not a readable folder ({reason(error)}); give the path of a model folder") from None
    return open_weights_file(folder / find_weights(names, str(folder)))


def open_weights_file(path: str | Path) -> Weights:
    """Open one file of weights, or an index of shards that lie beside it; what it is, its first bytes decide."""
    path = Path(path)
    if path.name.endswith(".index.json"):
        return _open_shards(path)
    if path.suffix in FOREIGN:
        raise FileError(
            f"{path}: weights in the format of {FOREIGN[path.suffix]}, which is not read here; "
            "convert them once with save_pretrained() of transformers"
        )
    file, tensors = _reader(path)(path)
    closing = ExitStack()
    closing.callback(file.close)
    return Weights(path, tensors, closing)


def _reader(path: Path) -> Reader:
    if path.suffix == ".safetensors":
        return read_safetensors
    if path.suffix in (".bin", ".pt", ".pth"):
        return read_pickle
    file = open_file(path)
    try:
        return read_pickle if file.read(0, min(2, file.size)) == b"PK" else read_safetensors
    finally:
        file.close()


def _open_shards(index: Path) -> Weights:
    """Open all shards that an index names; a tensor must lie in the shard that the index gives, and in no other."""
    places = shard_names(index)
    paths = [index.parent / name for name in dict.fromkeys(places.values())]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FileError(f"{index}: names the shard {shown(missing[0])}{more}, which is not beside it; fetch it")
    tensors: dict[str, Stored] = {}
    closing = ExitStack()
    try:
        for path in paths:
            file, found = _reader(path)(path)
            closing.callback(file.close)
            if twice := tensors.keys() & found.keys():
                name = min(twice)
                raise FileError(
                    f"{index}: the tensor {shown(name)} is in {tensors[name].file.path.name} and in {path.name}; "
                    "remove the file that does not belong to this model"
                )
            tensors |= found
        for name, shard in places.items():
            if name not in tensors or tensors[name].file.path.name != shard:
                raise FileError(f"{index}: the tensor {shown(name)} is not in {shown(shard)}; fetch the files again")
    except BaseException:
        closing.close()
        raise
    return Weights(index, tensors, closing)
