"""Checkpoints of a training run: everything that the next step depends on, without pickle.

In: a network, its optimizer, its states. Out: a folder that is complete or absent; the same, read back bit by bit.

    model.safetensors        weights and buffers, float32, under the network's own names
    optimizer.safetensors    the optimizer's tensors
    random.safetensors       torch's random states
    state.json               step, tokens, seconds, precision, data position, other random states, SHA-256 of the files

    save_checkpoint          writes one
    read_state               reads state.json and checks every file against it
    load_weights             fills a network
    load_tensors             reads one of the files
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from yanmo.errors import FileError
from yanmo.files import atomic_folder, read_json_object, reason, sha256_file, write_json

FORMAT = "yanmo-checkpoint"
FILES = ("model.safetensors", "optimizer.safetensors", "random.safetensors")
FIELDS = {"step": int, "tokens": int, "seconds": float, "precision": str, "data": dict, "random": dict, "files": dict}


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: dict[str, Tensor],
    random: dict[str, Tensor],
    values: dict[str, Any],
) -> None:
    """Write a checkpoint; `values` are the fields of state.json but `files`."""
    with atomic_folder(folder) as partial:
        for name, tensors in zip(FILES, (own_tensors(network), optimizer, random)):
            save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, partial / name)
        files = {name: sha256_file(partial / name) for name in FILES}
        write_json(partial / "state.json", {"format": FORMAT, **values, "files": files})


def read_state(folder: Path) -> dict[str, Any]:
    """Read state.json of a checkpoint whose files are all what was written, else FileError."""
    path = folder / "state.json"
    state = read_json_object(path)
    for key, kind in FIELDS.items():
        value = state.get(key)
        if state.get("format") != FORMAT or not isinstance(value, kind) or isinstance(value, bool):
            raise FileError(f"{path}: no state of a checkpoint ({key} is {value!r:.40}); continue from another one")
    for name in FILES:
        try:
            digest = sha256_file(folder / name)
        except OSError as error:
            raise FileError(f"{folder / name}: cannot be read ({reason(error)}); continue from another one") from None
        if digest != state["files"].get(name):
            raise FileError(f"{folder / name}: not what was written (SHA-256 differs); continue from another one")
    return state


def load_weights(network: nn.Module, folder: Path) -> None:
    """Copy the weights of a checkpoint into `network`; a checkpoint of another model is refused, nothing is changed."""
    given, own = load_tensors(folder / FILES[0]), own_tensors(network)
    for name in sorted(given.keys() | own.keys()):
        shapes = [tuple(tensors[name].shape) if name in tensors else "none" for tensors in (given, own)]
        if shapes[0] != shapes[1]:
            raise FileError(
                f"{folder}: the checkpoint of another model: {name} is {shapes[0]} there, {shapes[1]} here; "
                "continue with the recipe that made it"
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
