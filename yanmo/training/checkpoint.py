"""Checkpoints of a training run: everything that the next step depends on, without pickle.

In: a network, its optimizer, its states. Out: a folder that is complete or absent; the same, read back bit by bit.

    model.safetensors        weights and buffers, float32, under the network's own names, without what is frozen
    optimizer.safetensors    the optimizer's tensors
    random.safetensors       torch's random states
    average.safetensors      the average of the weights, where the run keeps one (average.py)
    state.json               step, tokens, seconds, precision, data position, other random states, SHA-256 of the files,
                             and `frozen`: the SHA-256 of all that is frozen ("" where nothing is), which is not written

    save_checkpoint          writes one
    read_state               reads state.json and checks every file against it
    load_weights             fills a network, with the weights or with their average
    load_tensors             reads one of the files
    fingerprint              SHA-256 of what is frozen: the base under an adapter
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from yanmo.errors import FileError
from yanmo.files import atomic_folder, read_json_object, reason, sha256_file, write_json
from yanmo.models.quantized import Packed

FORMAT = "yanmo-checkpoint"
FILES = ("model.safetensors", "optimizer.safetensors", "random.safetensors")
AVERAGE = "average.safetensors"
FIELDS = {"step": int, "tokens": int, "seconds": float, "precision": str, "data": dict, "random": dict}
FIELDS |= {"files": dict, "frozen": str}


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: dict[str, Tensor],
    random: dict[str, Tensor],
    values: dict[str, Any],
    average: dict[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint; `values` are the fields of state.json but `files`."""
    left_out = frozen_tensors(network) if values.get("frozen") else {}
    weights = {name: tensor for name, tensor in own_tensors(network).items() if name not in left_out}
    contents = dict(zip(FILES, (weights, optimizer, random)))
    if average is not None:
        contents[AVERAGE] = average
    with atomic_folder(folder) as partial:
        for name, tensors in contents.items():
            save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, partial / name)
        files = {name: sha256_file(partial / name) for name in contents}
        write_json(partial / "state.json", {"format": FORMAT, **values, "files": files})


def read_state(folder: Path) -> dict[str, Any]:
    """Read state.json of a checkpoint whose files are all what was written, else FileError."""
    path = folder / "state.json"
    state = {"frozen": "", **read_json_object(path)}
    for key, kind in FIELDS.items():
        value = state.get(key)
        if state.get("format") != FORMAT or not isinstance(value, kind) or isinstance(value, bool):
            raise FileError(f"{path}: no state of a checkpoint ({key} is {value!r:.40}); continue from another one")
    for name in (*FILES, *({AVERAGE} & state["files"].keys())):
        try:
            digest = sha256_file(folder / name)
        except OSError as error:
            raise FileError(f"{folder / name}: cannot be read ({reason(error)}); continue from another one") from None
        if digest != state["files"].get(name):
            raise FileError(f"{folder / name}: not what was written (SHA-256 differs); continue from another one")
    return state


def load_weights(network: nn.Module, folder: Path, *, averaged: bool = False, frozen: str | None = None) -> None:
    """Copy the weights of a checkpoint into `network`; a checkpoint of another model is refused, nothing is changed.

    averaged: their average, where the run keeps one. frozen: the fingerprint of the network, where it is known already.
    """
    state = read_json_object(folder / "state.json")
    given, own = load_tensors(folder / FILES[0]), own_tensors(network)
    known = state.get("frozen", "")
    if known:
        own = {name: tensor for name, tensor in own.items() if name not in frozen_tensors(network)}
    if averaged and AVERAGE in state.get("files", {}):
        given |= load_tensors(folder / AVERAGE)
    for name in sorted(given.keys() | own.keys()):
        shapes = [tuple(tensors[name].shape) if name in tensors else "none" for tensors in (given, own)]
        if shapes[0] != shapes[1]:
            raise FileError(
                f"{folder}: the checkpoint of another model: {name} is {shapes[0]} there, {shapes[1]} here; "
                "continue with the recipe that made it"
            )
    if known and known != (fingerprint(network) if frozen is None else frozen):
        raise FileError(
            f"{folder}: made with other frozen weights than this network has (their SHA-256 differs); "
            "continue with the base model that the run began with"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file of a checkpoint."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise FileError(f"{path}: cannot be read ({reason(error)}); continue from another checkpoint") from None


def own_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Weights and saved buffers, each once: a tied weight stands under its first name."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor
    return tensors


def frozen_tensors(network: nn.Module) -> dict[str, Tensor]:
    """What training never changes: frozen parameters, and the quantised matrices of a base."""
    packed = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, Packed))
    return {
        name: tensor
        for name, tensor in own_tensors(network).items()
        if (isinstance(tensor, nn.Parameter) and not tensor.requires_grad) or (packed and name.startswith(packed))
    }


def fingerprint(network: nn.Module) -> str:
    """The SHA-256, as hex digits, of names, types, shapes and bytes of what is frozen; "" where nothing is."""
    frozen = frozen_tensors(network)
    digest = hashlib.sha256()
    for name, tensor in sorted(frozen.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest() if frozen else ""
