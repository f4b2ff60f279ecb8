"""An adapter folder in PEFT's format (adapterfiles.py) → an adapter of a network.

load_adapter    folder → network: every name, shape and setting is checked before anything is changed
open_adapter    folder → the base that it names, with the adapter on it
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from yanmo.errors import FileError, InputError
from yanmo.files import read_json
from yanmo.hub import resolve
from yanmo.models.adapterconfig import TASKS, Saved, read_saved
from yanmo.models.adapterfiles import CONFIG, FILES, LABELS, ROOT, Place, is_adapter, places, rule_parts
from yanmo.models.adapters import assert_free, install
from yanmo.models.checkpoint import Network, load_config, load_network
from yanmo.models.config import LABEL_HEADS, Head
from yanmo.models.families.catalog import FAMILIES
from yanmo.models.families.table import Rule
from yanmo.models.lowrank import LowRank, Whole, own, slots
from yanmo.models.matrices import matrices, transformer, weights_of
from yanmo.models.transformer import Transformer
from yanmo.models.weights import Weights, open_weights, open_weights_file

PARTS = {"lora_A.weight": "a", "lora_B.weight": "b", "lora_magnitude_vector": "m", "lora_magnitude_vector.weight": "m"}
Source = tuple[str, Rule, int]  # name in the file, its rule, and which of the rule's parts


def load_adapter(network: nn.Module, folder: str | Path, *, name: str = "default", allow_unknown: bool = False) -> None:
    """Read an adapter that PEFT or Yanmo saved, put it on a network and make it the active one.

    FileError with every name that is missing, unexpected or of another shape, as when the base is another one;
    ConfigError for what adapter_config.json asks and Yanmo does not have; the network is unchanged then.
    """
    network = transformer(network)
    assert_free(network, name)
    folder = Path(folder)
    if network.family not in FAMILIES:
        raise InputError(f"the network is of no public family ({network.family!r}); set network.family first")
    saved = read_saved(folder / CONFIG, allow_unknown=allow_unknown)
    with open_weights_file(_weights_file(folder)) as weights:
        reading = _Reading(network, saved, weights, folder)
        entries = reading.entries()
    install(network, saved.config, name, entries)


def _weights_file(folder: Path) -> Path:
    for file in FILES:
        if (folder / file).exists():
            return folder / file
    raise FileError(f"{folder}: no {FILES[0]} beside {CONFIG}; fetch the adapter again")


class _Reading:
    """One adapter file against one network; collects all that does not fit before it builds anything."""

    def __init__(self, network: Transformer, saved: Saved, weights: Weights, folder: Path) -> None:
        self.network, self.saved, self.weights, self.folder = network, saved, weights, folder
        self.family = FAMILIES[network.family]
        self.missing: list[str] = []
        self.misshaped: list[str] = []
        self.used: set[str] = set()
        self.prefix = self._prefix()
        self.places = places(network, self.family, self.prefix)

    def entries(self) -> dict[str, LowRank | Whole]:
        """Check every name and shape, then read."""
        low = {place: parts for place in self.places if (parts := self._low_rank(place))}
        for place in self.places:
            self._same_base(place)
        whole = self._whole()
        unexpected = [name for name in self.weights.names if name not in self.used]
        groups = [("missing", self.missing), ("unexpected", unexpected), ("of another shape", self.misshaped)]
        said = [
            f"{len(names)} {what} ({', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''})"
            for what, names in groups
            if names
        ]
        if said:
            base = f", which was made for {self.saved.base!r}" if self.saved.base else ""
            raise FileError(f"{self.folder}: the adapter{base}, does not fit this network: {'; '.join(said)}")
        if not low and not whole:
            raise FileError(f"{self.folder}: the adapter holds no weights; fetch it again")
        entries: dict[str, LowRank | Whole] = {}
        for place, parts in low.items():
            entries |= self._build(place, parts)
        for module, sources in whole.items():
            entries[module] = self._copy(module, sources)
        return entries

    def _prefix(self) -> str:
        """The prefix of the base model's names that fits the file best; the one of this head wins a draw."""
        names = self.weights.names
        own_prefix = self.family.prefixes[self.network.config.head]
        choices = [own_prefix, *sorted(set(self.family.prefixes.values()) - {own_prefix})]

        def hits(prefix: str) -> int:
            starts = tuple(f"{ROOT}{place.theirs}." for place in places(self.network, self.family, prefix))
            return sum(name.startswith(starts) for name in names)

        return max(choices, key=hits)

    def _low_rank(self, place: Place) -> dict[str, str]:
        """Part → name in the file, where the file has an adapter of this matrix and its shapes fit."""
        start = f"{ROOT}{place.theirs}."
        parts = {PARTS[end]: start + end for end in PARTS if start + end in self.weights.names}
        self.used |= set(parts.values())
        wanted = self.saved.adapts(place.theirs)
        if not parts:
            if wanted:
                self.missing.append(f"{start}lora_A.weight")
            return {}
        if wanted is False:  # nothing that adapter_config.json says would use it
            self.used -= set(parts.values())
            return {}
        needed = {"a": "lora_A.weight", "b": "lora_B.weight"}
        needed |= {"m": "lora_magnitude_vector"} if self.saved.config.kind.endswith("dora") else {}
        self.missing += [start + end for part, end in needed.items() if part not in parts]
        if "m" in parts and "m" not in needed:
            self.used.discard(parts["m"])
        if set(parts) != set(needed):
            return {}
        rank, rows, columns = self.saved.rank(place.theirs), 0, 0
        for module in place.ours:
            weight, _ = weights_of(self.network, module)
            rows, columns = rows + weight.shape[0], weight.shape[1]
        shapes = {"a": (rank, columns), "b": (rows, rank), "m": (rows,)}
        for part, name in parts.items():
            if (found := self.weights.info(name).shape) != shapes[part]:
                self.misshaped.append(f"{name} is {list(found)}, not {list(shapes[part])}")
        return parts

    def _same_base(self, place: Place) -> None:
        """PEFT writes the base's own matrix too where words have an adapter; another one would be lost here."""
        key = f"{ROOT}{place.theirs}.base_layer.weight"
        if key not in self.weights.names:
            return
        own_weight = torch.cat([weights_of(self.network, module)[0].detach() for module in place.ours]).cpu()
        theirs = self.weights.read(key, own_weight.dtype)
        if not torch.equal(theirs.t() if place.transpose else theirs, own_weight):
            raise FileError(
                f"{self.folder}: brings a {place.theirs} {list(theirs.shape)} that is not the base's; "
                "load the base that it was trained on, or merge it there"
            )
        self.used.add(key)

    def _whole(self) -> dict[str, dict[str, Source]]:
        """Module → {"weight" or "bias": (name in the file, rule, which part of the rule)} of modules saved whole."""
        found: dict[str, dict[str, Source]] = {}
        rules = self.family.rules(self.network.config)
        if self.network.config.tie_embeddings and self.network.config.head == "causal":
            rules.append(Rule(self.family.output, ("head.weight",)))
        for rule in rules:
            names = rule_parts(rule)
            candidates = [theirs.replace("~", self.prefix) for theirs in (rule.theirs, *rule.others)]
            theirs = next((t for t in candidates if f"{ROOT}{t}" in self.weights.names), candidates[0])
            if not self.saved.saves(theirs):
                continue
            known = {**matrices(self.network), "embedding": None}
            if not all(module in known for module, _ in names):
                raise FileError(
                    f"{self.folder}: keeps its own {theirs}, which is no matrix; train it without that module"
                )
            key = f"{ROOT}{theirs}"
            if key not in self.weights.names:
                self.missing.append(key)
                continue
            self.used.add(key)
            tensors = [_of(self.network, module, kind) for module, kind in names]
            shape = (sum(t.shape[0] for t in tensors), *tensors[0].shape[1:])
            shape = shape[::-1] if rule.transpose else shape
            if self.weights.info(key).shape != shape:
                self.misshaped.append(f"{key} is {list(self.weights.info(key).shape)}, not {list(shape)}")
            for place, (module, kind) in enumerate(names):
                found.setdefault(module, {})[kind] = (key, rule, place)
        return found

    def _build(self, place: Place, parts: dict[str, str]) -> dict[str, LowRank | Whole]:
        """The adapters of the parts of one of their matrices: one A for all, B and magnitude cut by rows."""
        dtype = self.network.dtype
        a = own(self.weights.read(parts["a"]), dtype)
        sizes = [weights_of(self.network, module)[0].shape[0] for module in place.ours]
        b = self.weights.read(parts["b"]).split(sizes)
        m = self.weights.read(parts["m"]).split(sizes) if "m" in parts else [None] * len(sizes)
        rooted, alpha = self.saved.config.kind.startswith("rs"), self.saved.alpha(place.theirs)
        return {
            module: LowRank(a, own(rows, dtype), alpha, None if length is None else own(length, dtype), rooted=rooted)
            for module, rows, length in zip(place.ours, b, m, strict=True)
        }

    def _copy(self, module: str, sources: dict[str, Source]) -> Whole:
        tensors: dict[str, nn.Parameter] = {}
        for kind, (key, rule, part) in sources.items():
            tensor = self.weights.read(key)
            tensor = tensor.t() if rule.transpose and tensor.ndim == 2 else tensor
            sizes = [_of(self.network, *name.rsplit(".", 1)).shape[0] for name in rule.ours]
            tensors[kind] = own(tensor.split(sizes)[part], self.network.dtype)
        return Whole(tensors["weight"], tensors.get("bias"))


def _of(network: Transformer, module: str, kind: str) -> Tensor:
    weight, bias = weights_of(network, module)
    return weight if kind == "weight" else cast(Tensor, bias)


# --- base and adapter together


def open_adapter(
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    head: Head | None = None,
    labels: tuple[str, ...] = (),
    allow_unknown: bool = False,
) -> tuple[Network, Path]:
    """Load the base that an adapter folder names, with the adapter on it; return the folder of the base too.

    Where the adapter brings a head of its own (a classifier on a language model, or one of other labels), the base gets
    that head.
    """
    saved = read_saved(folder / CONFIG, allow_unknown=allow_unknown)
    base = _resolve_base(saved, folder)
    family, config = load_config(base, allow_unknown=allow_unknown)
    wanted = TASKS.get(saved.task or "")
    wanted = head or wanted
    if wanted in LABEL_HEADS and (config.head != wanted or (folder / LABELS).is_file()):
        named = labels or _labels(folder, base, wanted)
        if config.head != wanted or config.labels != named:
            head, labels = wanted, named
    network = load_network(base, dtype=dtype, device=device, head=head, labels=labels, allow_unknown=allow_unknown)
    load_adapter(network, folder, allow_unknown=allow_unknown)
    if head is not None:
        _assert_head(network, base, folder)
    return network, base


def _resolve_base(saved: Saved, folder: Path) -> Path:
    """The folder of the base: beside the adapter's, an absolute path, or a hub id; a path upwards is refused."""
    base, file = saved.base, folder / CONFIG
    if not base:
        raise FileError(f"{file}: names no base model; load that one yourself and use load_adapter")
    parts = base.replace("\\", "/").split("/")
    if "\\" in base or "\0" in base or ".." in parts or base.startswith(("//", "~")):
        raise FileError(f"{file}: names the base {base!r}, a path that leaves its place; load the base yourself")
    beside = Path(os.path.abspath(folder)).parent / base
    try:
        found = resolve(beside if beside.is_dir() else base, revision=saved.revision)
    except (FileError, InputError) as error:
        raise FileError(f"{file}: its base is not here ({error}); load it yourself and use load_adapter") from None
    if not found.is_dir() or is_adapter(found):
        raise FileError(f"{file}: its base {base!r} is no model folder; load the base yourself and use load_adapter")
    return found


def _labels(folder: Path, base: Path, head: Head) -> tuple[str, ...]:
    """The names in labels.json, or as many numbered ones as the adapter's head has rows."""
    path = folder / LABELS
    if path.is_file():
        names = read_json(path)
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise FileError(f"{path}: must hold a list of names; fetch it again")
        return tuple(names)
    family, config = load_config(base, head=head, labels=("0", "1"), allow_unknown=True)
    rule = next(rule for rule in family.rules(config) if rule.ours == ("head.out.weight",))
    key = ROOT + rule.theirs.replace("~", family.prefixes[head])
    with open_weights_file(_weights_file(folder)) as weights:
        if key not in weights.names:
            raise FileError(f"{folder}: brings no head for its task ({key} is missing); load the base yourself")
        return tuple(f"LABEL_{i}" for i in range(weights.info(key).shape[0]))


def _assert_head(network: Network, base: Path, folder: Path) -> None:
    """The base began a head that its file does not have, or of another size: the adapter must bring all of it."""
    network = transformer(network)
    family = FAMILIES[network.family]
    whole = {
        module for module, place in slots(network).items() if any(isinstance(a, Whole) for a in place.adapters.values())
    }
    with open_weights(base) as weights:
        rows = {name: weights.info(name).shape[0] for name in weights.names if weights.info(name).shape}
    for rule in family.rules(network.config):
        module, kind = rule.ours[0].rsplit(".", 1)
        if module.startswith("head.") and module not in whole:
            names = {name for name, count in rows.items() if count == _of(network, module, kind).shape[0]}
            candidates = {t.replace("~", p) for t in (rule.theirs, *rule.others) for p in family.prefixes.values()}
            if not candidates & names:
                theirs = rule.theirs.replace("~", "")
                raise FileError(
                    f"{folder}: its head needs {theirs}, which is neither in it nor in {base}; "
                    "save it with the adapter (modules_to_save)"
                )
