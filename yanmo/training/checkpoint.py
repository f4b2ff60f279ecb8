"""Checkpoints of a training run: everything that the next step depends on, without pickle.

In: a network, its optimizer, its states. Out: a folder that is complete or absent; the same, read back bit by bit.

    model.safetensors        weights and buffers, float32, under the network's own names, without what is frozen
    optimizer.safetensors    the optimizer's tensors
    random.safetensors       torch's random states
    average.safetensors      the average of the weights, where the run keeps one (average.py)
    state.json               step, tokens, seconds, precision, data position, other random states, SHA-256 of the files,
                             and `frozen`: the SHA-256 of all that is frozen ("" where nothing is), which is not written

A network that lies in parts over several ranks is written in parts: model/, optimizer/ and average/ are then folders
(sharded.py). Any number of ranks reads either kind.

    save_checkpoint          writes one
    read_state               reads state.json and checks every file against it
    load_weights             fills a network, with the weights or with their average
    load_tensors             reads one of the files, or one of the folders
    has                      whether a checkpoint holds one of them
    fingerprint              SHA-256 of what is frozen: the base under an adapter
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from yanmo.errors import FileError
from yanmo.files import atomic_folder, read_json_object, reason, sha256_file, write_json
from yanmo.models.quantized import Packed
from yanmo.training import sharded
from yanmo.training.distributed import ALONE, Ranks

FORMAT = "yanmo-checkpoint"
FILES = ("model.safetensors", "optimizer.safetensors", "random.safetensors")
AVERAGE = "average.safetensors"
NAME = re.compile(r"((model|optimizer|average)/[\w-]+|model|optimizer|average|random)\.safetensors")
FIELDS = {"step": int, "tokens": int, "seconds": float, "precision": str, "data": dict, "random": dict}
FIELDS |= {"files": dict, "frozen": str}


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: dict[str, Tensor],
    random: dict[str, Tensor],
    values: dict[str, Any],
    average: dict[str, Tensor] | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Write a checkpoint; `values` are the fields of state.json but `files`. Every rank must call it."""
    left_out = frozen_tensors(network) if values.get("frozen") else {}
    weights = {name: tensor for name, tensor in own_tensors(network).items() if name not in left_out}
    contents = dict(zip(FILES, (weights, optimizer, random)))
    if average is not None:
        contents[AVERAGE] = average
    if ranks.sharded:
        _save_parts(folder, contents, values, ranks)
    else:  # every rank holds the same
        ranks.by_main(lambda: _save_whole(folder, contents, values))


def _save_whole(folder: Path, contents: dict[str, dict[str, Tensor]], values: dict[str, Any]) -> None:
    with atomic_folder(folder) as partial:
        for name, tensors in contents.items():
            _write(partial / name, tensors)
        files = {name: sha256_file(partial / name) for name in contents}
        write_json(partial / "state.json", {"format": FORMAT, **values, "files": files})


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, path)
    except SafetensorError as error:  # a full disk, in the library's words
        raise OSError(str(error)) from error


def _save_parts(folder: Path, contents: dict[str, dict[str, Tensor]], values: dict[str, Any], ranks: Ranks) -> None:
    """The main rank makes the folder, all write into it, the main rank gives it its name."""
    with contextlib.ExitStack() as stack:  # of the main rank; if anything fails on any rank, the folder is removed
        partial = Path(ranks.by_main(lambda: str(stack.enter_context(atomic_folder(folder)))))
        random = contents.pop(FILES[2])
        ranks.by_main(lambda: _write(partial / FILES[2], random))
        for name, tensors in contents.items():
            sharded.write(partial / Path(name).stem, tensors, ranks.words)
        names = sorted(path.relative_to(partial).as_posix() for path in partial.rglob("*.safetensors"))
        own = {name: sha256_file(partial / name) for name in names[ranks.rank :: ranks.count]}
        files: dict[str, str] = {}
        for text in ranks.exchange(json.dumps(own)):
            files |= json.loads(text)
        ranks.by_main(lambda: write_json(partial / "state.json", {"format": FORMAT, **values, "files": files}))
        ranks.by_main(stack.close)


def read_state(folder: Path, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Read state.json of a checkpoint whose files are all what was written, else FileError; ranks share the work."""
    return ranks.together(lambda: _read_state(folder, ranks))


def _read_state(folder: Path, ranks: Ranks) -> dict[str, Any]:
    path = folder / "state.json"
    state = {"frozen": "", **read_json_object(path)}
    for key, kind in FIELDS.items():
        value = state.get(key)
        if state.get("format") != FORMAT or not isinstance(value, kind) or isinstance(value, bool):
            raise FileError(f"{path}: no state of a checkpoint ({key} is {value!r:.40}); continue from another one")
    files, found = state["files"], [path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")]
    for name in sorted({*files, *found}):
        if name not in files or not NAME.fullmatch(name):
            raise FileError(f"{folder / name}: not of this checkpoint, as state.json says; continue from another one")
    for part in FILES:
        if not has(state, part):
            raise FileError(f"{path}: names no {part}; continue from another one")
    for name in sorted(files)[ranks.rank :: ranks.count]:
        try:
            digest = sha256_file(folder / name)
        except OSError as error:
            raise FileError(f"{folder / name}: cannot be read ({reason(error)}); continue from another one") from None
        if digest != files[name]:
            raise FileError(f"{folder / name}: not what was written (SHA-256 differs); continue from another one")
    return state


def has(state: dict[str, Any], part: str) -> bool:
    """Whether a checkpoint of this state holds the part `….safetensors`, as a file or as a folder."""
    folder = part.removesuffix(".safetensors") + "/"
    return any(name == part or name.startswith(folder) for name in state.get("files", ()))


def load_weights(network: nn.Module, folder: Path, *, averaged: bool = False, frozen: str | None = None) -> None:
    """Copy the weights of a checkpoint into `network`; a checkpoint of another model is refused, nothing is changed.

    averaged: their average, where the run keeps one. frozen: the fingerprint of the network, where it is known already.
    """
    state = read_json_object(folder / "state.json")
    own = own_tensors(network)
    given = load_tensors(folder / FILES[0], own)
    known = state.get("frozen", "")
    if known:
        own = {name: tensor for name, tensor in own.items() if name not in frozen_tensors(network)}
    if averaged and has(state, AVERAGE):
        given |= load_tensors(folder / AVERAGE, own)
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


def load_tensors(path: Path, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Read a file of a checkpoint, or the folder that stands for it; of tensors that `like` has in parts, its parts."""
    if not path.exists() or any(sharded.in_parts(tensor) for tensor in (like or {}).values()):
        return sharded.read(path, like)
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
        tensor = sharded.whole(tensor)
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest() if frozen else ""
