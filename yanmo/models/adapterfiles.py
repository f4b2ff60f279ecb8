"""An adapter folder in PEFT's format ↔ an adapter of a network.

    adapter_config.json          what the adapter is (adapterconfig.py), and the base that it belongs to
    adapter_model.safetensors    base_model.model.⟨their module⟩.lora_A.weight (r, I), .lora_B.weight (O, r),
                                 .lora_magnitude_vector (O,) for DoRA; whole modules under their own names
    labels.json                  the names of the labels, which PEFT has no place for; optional

    save_adapter    network → folder; adapterloading.py is the way back
    is_adapter      whether a folder is one
    places          their matrices and ours

Their modules are ours under other names (families/), but where theirs is several of ours in one (GPT-2's c_attn is
query, key and value). Read, the parts share A, and B is cut by rows: the same function, and the same parameters to
train. Written, equal A's stay one; different ones are stacked and the B's put on a diagonal, whose rank is their sum
(α grows with it, so that the scale stays), and a part without adapter gets rows of zeros.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from yanmo.errors import FileError, InputError
from yanmo.files import atomic_folder, reason, write_json
from yanmo.hubfiles import SAFETENSORS
from yanmo.models.adapterconfig import TASKS, Saved, write_saved
from yanmo.models.config import LABEL_HEADS
from yanmo.models.families.catalog import FAMILIES
from yanmo.models.families.table import Family, Rule
from yanmo.models.lowrank import LowRank, Whole, board_of, slots
from yanmo.models.matrices import matrices, transformer, weights_of
from yanmo.models.saving import save_weights
from yanmo.models.transformer import Transformer

CONFIG, LABELS = "adapter_config.json", "labels.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
ROOT = "base_model.model."


@dataclass(frozen=True)
class Place:
    """One of their matrices: the names of our modules that are its rows, from the first to the last."""

    theirs: str
    ours: tuple[str, ...]
    transpose: bool = False


def places(network: Transformer, family: Family, prefix: str) -> list[Place]:
    """Every matrix of theirs that can have an adapter, as the class of this head names it."""
    known = matrices(network)
    found = []
    for rule in family.rules(network.config):
        ours = tuple(name.removesuffix(".weight") for name in rule.ours)
        if rule.theirs.endswith(".weight") and all(name in known for name in ours):
            found.append(Place(rule.theirs.removesuffix(".weight").replace("~", prefix), ours, rule.transpose))
    if "head" in known and network.config.tie_embeddings:
        found.append(Place(family.output.removesuffix(".weight"), ("head",)))
    return found


def rule_parts(rule: Rule) -> list[tuple[str, str]]:
    """(module, "weight" or "bias") of each of our tensors that a rule names; the words' matrix is a module "head"."""
    return [cast("tuple[str, str]", tuple(name.rsplit(".", 1))) for name in rule.ours]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter alone."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


# --- writing


def save_adapter(
    network: nn.Module,
    folder: str | Path,
    *,
    name: str | None = None,
    base: str | Path = "",
    beside: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write an adapter (the active one by default) into a folder that PEFT and Yanmo open: complete, or not at all.

    base: the hub id or the path of the model folder that it belongs to. A folder beside the adapter's is named by its
    name alone, so that both can be moved together; any other by its full path. beside: writes what belongs to it into
    the folder that it is given, before that has its name.
    """
    network = transformer(network)
    board = board_of(network)
    name = name if name is not None else board.active if board is not None else None
    if board is None or name is None:
        raise InputError("no adapter is active, so there is nothing to save; name one or set_adapter first")
    board.check(name)
    if network.family not in FAMILIES:
        raise InputError(f"the network is of no public family ({network.family!r}); set network.family first")
    folder = Path(folder)
    _assert_ours(folder)
    family = FAMILIES[network.family]
    saved, tensors = _collect(network, family, name)
    saved.base = _base_name(base, folder)
    with atomic_folder(folder) as partial:
        save_weights(tensors, partial, max_shard_bytes=2**62)
        (partial / SAFETENSORS).rename(partial / FILES[0])
        known = [place.theirs for place in places(network, family, family.prefixes[network.config.head])]
        write_json(partial / CONFIG, write_saved(saved, known))
        if network.config.labels:
            write_json(partial / LABELS, list(network.config.labels))
        beside(partial)


def _assert_ours(folder: Path) -> None:
    """A folder is replaced as a whole: refuse one that is not an adapter's."""
    try:
        names = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    except OSError as error:
        raise FileError(f"{folder}: cannot be a folder for an adapter ({reason(error)}); choose another") from None
    if names and (CONFIG not in names or "config.json" in names):
        raise FileError(f"{folder}: holds other files ({min(names - {CONFIG})}); give an adapter a folder of its own")


def _base_name(base: str | Path, folder: Path) -> str:
    if not base or not os.path.isdir(base):
        return str(base)
    full = Path(os.path.abspath(base))
    return full.name if full.parent == Path(os.path.abspath(folder)).parent else str(full)


def _collect(network: Transformer, family: Family, name: str) -> tuple[Saved, dict[str, Tensor]]:
    """The adapter under their names."""
    config, prefix = network.config, family.prefixes[network.config.head]
    board = board_of(network)
    assert board is not None
    adapter = board.configs[name]
    entries = {module: place.adapters[name] for module, place in slots(network).items() if name in place.adapters}
    saved = Saved(config=adapter, fan_in_fan_out=any(rule.transpose for rule in family.rules(config)))
    tensors: dict[str, Tensor] = {}
    for place in places(network, family, prefix):
        parts = [entries.get(module) for module in place.ours]
        if any(isinstance(part, LowRank) for part in parts):
            if any(isinstance(part, Whole) for part in parts):
                raise InputError(f"{place.theirs} is one matrix in this format, and holds adapters and whole copies")
            a, b, magnitude, alpha = _joined(network, place, cast("list[LowRank | None]", parts), adapter.kind)
            saved.ranks[place.theirs], saved.alphas[place.theirs] = a.shape[0], alpha
            tensors[f"{ROOT}{place.theirs}.lora_A.weight"] = a
            tensors[f"{ROOT}{place.theirs}.lora_B.weight"] = b
            if magnitude is not None:
                tensors[f"{ROOT}{place.theirs}.lora_magnitude_vector"] = magnitude
    whole = {module: entry for module, entry in entries.items() if isinstance(entry, Whole)}
    saved.modules, saved.task = _modules_to_save(network, family, prefix, set(whole))
    tensors |= {f"{ROOT}{key}": tensor for key, tensor in _whole_tensors(network, family, prefix, whole).items()}
    return saved, {key: tensor.detach().contiguous() for key, tensor in tensors.items()}


def _joined(
    network: Transformer, place: Place, parts: list[LowRank | None], kind: str
) -> tuple[Tensor, Tensor, Tensor | None, float]:
    """A (r, I), B (O, r), magnitude and α of one of their matrices."""
    present = [part for part in parts if part is not None]
    first = present[0]
    rows = [weights_of(network, module)[0].shape[0] for module in place.ours]
    one = all(part.a is first.a or torch.equal(part.a, first.a) for part in present)
    one = one and all(part.scale == first.scale for part in present)
    ranks = [0 if part is None else part.a.shape[0] for part in parts]
    rank = ranks[parts.index(first)] if one else sum(ranks)
    a = first.a if one else torch.cat([part.a for part in present])
    b = first.b.new_zeros(sum(rows), rank)
    row = column = 0
    for part, height in zip(parts, rows, strict=True):
        if part is not None:
            width = part.a.shape[0]
            # the scale of the whole is that of the first part: α of the stack is chosen so
            b[row : row + height, column : column + width] = part.b.detach() * (
                part.scale / first.scale if not one else 1
            )
            column += 0 if one else width
        row += height
    magnitude = None
    if kind.endswith("dora"):
        lengths = [
            torch.linalg.vector_norm(weights_of(network, module)[0].to(a.dtype), dim=1)
            if part is None
            else part.magnitude
            for module, part in zip(place.ours, parts, strict=True)
        ]
        magnitude = torch.cat(cast("list[Tensor]", lengths))
    growth = rank / first.a.shape[0]
    return a, b, magnitude, first.alpha * (growth**0.5 if first.rooted else growth)


def _whole_tensors(network: Transformer, family: Family, prefix: str, whole: dict[str, Whole]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for rule in family.rules(network.config):
        names = rule_parts(rule)
        if all(module in whole for module, _ in names):
            tensors = [getattr(whole[module], kind) for module, kind in names]
            if all(tensor is not None for tensor in tensors):
                tensor = torch.cat(tensors)
                tensor = tensor.t() if rule.transpose and tensor.ndim == 2 else tensor
                found[rule.theirs.replace("~", prefix)] = tensor
    if "head" in whole and network.config.tie_embeddings:
        found[family.output] = whole["head"].weight
    return found


def _modules_to_save(
    network: Transformer, family: Family, prefix: str, whole: set[str]
) -> tuple[list[str], str | None]:
    """Their names of the modules that are saved whole, and the task that PEFT is to know.

    PEFT adds a label head's module to the list by itself where it knows the task, so both must name the same module.
    """
    config = network.config
    names = {
        rule.theirs.replace("~", prefix).rsplit(".", 1)[0]
        for rule in family.rules(config)
        if all(module in whole for module, _ in rule_parts(rule))
    }
    if "head" in whole and config.tie_embeddings:
        names.add(family.output.removesuffix(".weight"))
    task = {head: task for task, head in TASKS.items()}.get(config.head)
    if config.head == "causal":
        return sorted(names), "CAUSAL_LM" if config.kind == "decoder" else "SEQ_2_SEQ_LM"
    if config.head not in LABEL_HEADS:
        return sorted(names), task
    head = {rule.theirs for rule in family.rules(config) if rule.ours[0].startswith("head.") and rule.theirs[0] != "~"}
    if {name.rsplit(".", 1)[0] for name in head} <= names:
        top = {name.partition(".")[0] for name in head}
        return sorted({name for name in names if name.partition(".")[0] not in top} | top), task
    return sorted(names), None
