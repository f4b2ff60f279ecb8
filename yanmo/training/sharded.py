"""Sharded files of a checkpoint: every rank writes the parts that it holds, any number of ranks reads what it needs.

In: tensors that lie in parts (DTensor). Out: a folder of safetensors, one file for each rank; the same, read by one
process or by many.

    write        on all ranks together
    files_of     the files of a part of a checkpoint: one, or a folder of them
    shapes       what they hold
    read         whole tensors, or the parts that fill given ones
    in_parts, local, whole      a tensor in parts, its part here, all of it

The work is done by torch.distributed.checkpoint (DCP): it plans who writes and who reads which part. Its usual storage
is not used, since that keeps the plan in a file `.metadata`, a pickle, and opening a pickle runs what is in it. The
storage here is DCP's for Hugging Face folders: safetensors whose header says, as JSON under DCP_SHARDING_INFO, where in
the whole tensor a part begins. Nothing that is read is unpickled; a file without that header, such as a process alone
writes, is one part that begins at 0. (To plan, the ranks of a running job send each other objects in memory, pickled by
torch; no file and no stranger comes into it.)
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from yanmo.errors import FileError
from yanmo.files import reason

DAMAGE = (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError, AssertionError, json.JSONDecodeError)


def in_parts(tensor: Tensor) -> bool:
    """Whether ranks hold parts of a tensor (a DTensor; asked without importing what a process alone never needs)."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies here, sharing its memory."""
    return tensor.to_local() if in_parts(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor; every rank must ask for it."""
    return tensor.full_tensor() if in_parts(tensor) else tensor  # type: ignore[attr-defined]


def write(folder: Path, tensors: Mapping[str, Tensor], group: Any) -> None:
    """Write tensors into a new folder; every rank of the process group must call it, with tensors of the same names.

    A tensor that is the same on all ranks is written by one. Where a rank cannot write, all raise a FileError.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageWriter, save

    with _told(folder, "written", "free some space or choose another place"):
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        save({name: tensor.detach() for name, tensor in tensors.items()}, storage_writer=writer, process_group=group)


def files_of(path: Path) -> list[Path]:
    """The files of path `….safetensors`: itself, or those in the folder of its name without the ending."""
    folder = path.with_suffix("")
    return [path] if path.exists() or not folder.is_dir() else sorted(folder.glob("*.safetensors"))


def shapes(path: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every whole tensor."""
    with _told(path, "read", "continue from another checkpoint"):
        known = _reader(path).read_metadata().state_dict_metadata
        return {name: (tuple(entry.size), entry.properties.dtype) for name, entry in known.items()}


def read(path: Path, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Read all tensors: of those that have their name and shape in `like`, the parts that `like` has here."""
    from torch.distributed.checkpoint import load

    tensors: dict[str, Tensor] = {}
    for name, (shape, dtype) in shapes(path).items():
        model = None if like is None else like.get(name)
        if model is not None and tuple(model.shape) == shape:
            tensors[name] = torch.empty_like(model.detach(), dtype=dtype)
        else:
            tensors[name] = torch.empty(shape, dtype=dtype)
    with _told(path, "read", "continue from another checkpoint"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # each rank reads by itself: no_dist
        load(dict(tensors), storage_reader=_reader(path), no_dist=True)
    return tensors


def _reader(path: Path) -> Any:
    """DCP's reader, of these files alone: beside them lie others, with tensors of the same names."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    files = [str(file) for file in files_of(path)]
    reader = HuggingFaceStorageReader(str(Path(files[0]).parent) if files else str(path))
    setattr(reader.fs, "ls", lambda path: files)  # noqa: B010 (a method of one object)
    return reader


@contextmanager
def _told(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Turn the failures of a library into a sentence; DCP's own exception holds those of the ranks."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        raise FileError(f"{path}: cannot be {what} ({_short(first)}); {remedy}") from None
    except DAMAGE as error:
        raise FileError(f"{path}: cannot be {what} ({_short(error)}); {remedy}") from None


def _short(error: BaseException) -> str:
    return reason(error) if isinstance(error, Exception) else type(error).__name__
