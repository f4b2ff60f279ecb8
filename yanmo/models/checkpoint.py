"""A model folder ↔ a network.

    load_config     config.json → its family and our config
    load_network    folder → network, its weights copied block by block from a memory map into their place and type
    save_network    network → config.json and safetensors, in the public format of its family

All names that are missing, unexpected or mis-shaped are reported at once, and nothing is allocated before they agree.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yanmo.errors import ConfigError, FileError, InputError, nearest
from yanmo.files import read_json_object, write_json
from yanmo.gguf import is_gguf, read_header
from yanmo.models import packedfiles
from yanmo.models.config import LABEL_HEADS, Head, RecurrentConfig, TransformerConfig
from yanmo.models.families.catalog import FAMILIES
from yanmo.models.families.table import Family, Foreign, Rule
from yanmo.models.ggufmodel import gguf_config, gguf_weights
from yanmo.models.ggufpacked import pack_network
from yanmo.models.lowrank import base_tensor, check_no_adapter_is_lost
from yanmo.models.recurrent import Recurrent
from yanmo.models.saving import save_weights
from yanmo.models.transformer import Transformer
from yanmo.models.undrawn import undrawn, with_memory
from yanmo.models.weights import Weights, open_weights

Config = TransformerConfig | RecurrentConfig
Network = Transformer | Recurrent


def load_config(
    folder: str | Path, *, head: Head | None = None, labels: tuple[str, ...] = (), allow_unknown: bool = False
) -> tuple[Family, Config]:
    """Read config.json, or the keys of a GGUF file. `head` and `labels` replace the head that it names."""
    if is_gguf(folder):
        return gguf_config(read_header(folder), head=head, allow_unknown=allow_unknown)
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileError(f"{path}: no such file; a model folder has a config.json")
    values = read_json_object(path)
    if packedfiles.entry_of(values, path) is not None:
        values.pop(packedfiles.KEY)  # of the weights alone
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        close = nearest(kind, FAMILIES) if isinstance(kind, str) else ""
        raise ConfigError(f"{path}: model_type {kind!r} is not supported{close}; supported are {known}")
    family = FAMILIES[kind]
    if head is not None:
        if head not in family.heads:
            raise InputError(f"the family {kind} has no head {head!r}; it has {', '.join(family.heads)}")
        values = values | {"architectures": [family.heads[head]]}
        if head in LABEL_HEADS and labels:
            values["id2label"] = {str(i): name for i, name in enumerate(labels)}
    foreign = Foreign(values, path)
    try:
        config = family.read_config(foreign, family.head_of(foreign))
    except ConfigError as error:
        raise error if str(path) in str(error) else ConfigError(f"{path}: {error}") from None
    except (OverflowError, ZeroDivisionError, TypeError, ValueError) as error:  # sizes that no arithmetic survives
        raise ConfigError(f"{path}: values that no model has ({error}); fetch the file again") from None
    foreign.finish(allow_unknown=allow_unknown)
    return family, config


@dataclass(frozen=True)
class _Plan:
    """Where each of our tensors comes from."""

    prefix: str
    sources: list[tuple[Rule, str]]
    fresh: list[Rule]  # a new head, which the file cannot have


def load_network(
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    head: Head | None = None,
    labels: tuple[str, ...] = (),
    dropout: float | None = None,
    allow_unknown: bool = False,
) -> Network:
    """Load a model folder or a GGUF file, in evaluation mode.

    dtype: of the weights; None keeps the stored one, and on a CPU the matrices that a GGUF file has in few bits packed.
    head: another head than the stored one; what of it the file does not hold starts from nothing. dropout: for
    training, in place of the stored rates; those that are 0 stay so, but the residual stream's. Raises FileError and
    ConfigError, with every disagreement in one sentence.
    """
    _check_device(device)
    entry = packed_entry(folder)
    if entry is not None:
        if head is not None or dropout is not None or dtype is not None or torch.device(device).type != "cpu":
            raise InputError(
                f"{folder}: its matrices are packed for inference on a CPU in {entry['computes_in']}, and cannot be "
                "trained, converted or moved; load the folder that it was made of"
            )
        return _load_packed(Path(folder), entry, allow_unknown=allow_unknown)
    header = read_header(folder) if is_gguf(folder) else None
    if header is None:
        family, config = load_config(folder, head=head, labels=labels, allow_unknown=allow_unknown)
    else:
        family, config = gguf_config(header, head=head, allow_unknown=allow_unknown)
    if dropout is not None:
        rates = {f.name: dropout for f in dataclasses.fields(config) if f.name.endswith("dropout")}
        changed: dict[str, Any] = {n: rate for n, rate in rates.items() if n == "dropout" or getattr(config, n)}
        config = dataclasses.replace(config, **changed)
    with open_weights(Path(folder)) if header is None else gguf_weights(header, family, config) as weights:
        prefix = _prefix(family, config, weights)
        config = _settle(family, config, weights, prefix)
        try:
            with undrawn():
                network = build(config)
        except RuntimeError as error:  # a product of sizes past 2⁶³
            raise ConfigError(f"{folder}: sizes that no memory holds ({str(error).splitlines()[0]})") from None
        network.family = family.model_type
        plan = _plan(family, network, weights, prefix, Path(folder), new_head=head is not None)
        stored = weights.info(plan.sources[0][1]).dtype
        extra: dict[str, Tensor] = {}
        if header is not None and dtype is None and torch.device(device).type == "cpu":
            assert isinstance(network, Transformer)
            left, extra = pack_network(network, plan.sources, weights)
            stored = stored if len(left) == len(plan.sources) else torch.float32
            plan = dataclasses.replace(plan, sources=left)
        network = network.to(dtype or (stored if stored.is_floating_point else torch.float32))
        with_memory(network, device)
        _fill(network, plan, weights, extra)
    return network.eval()


def _check_device(device: torch.device | str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = str(error).splitlines()[0]
        raise InputError(
            f"device is {str(device)!r}, which cannot be used ({said}); take cpu, or leave it out"
        ) from None


def packed_entry(folder: str | Path) -> dict[str, Any] | None:
    """What config.json says of packed matrices; None for other folders, files and what is no model."""
    path = Path(folder) / "config.json"
    return packedfiles.entry_of(read_json_object(path), path) if path.is_file() else None


def _load_packed(folder: Path, entry: dict[str, Any], *, allow_unknown: bool) -> Transformer:
    family, config = load_config(folder, allow_unknown=allow_unknown)
    if not isinstance(config, TransformerConfig):
        raise ConfigError(f"{folder}: only Transformers are packed; fetch the folder again")
    with undrawn():
        network = Transformer(config)
    network.family = family.model_type
    with open_weights(folder) as weights:
        return packedfiles.fill(network, entry, weights)


def build(config: Config) -> Network:
    """A network with the weights that its layers draw, on the current default device."""
    return Recurrent(config) if isinstance(config, RecurrentConfig) else Transformer(config)


def _prefix(family: Family, config: Config, weights: Weights) -> str:
    """The prefix of the base model's names that fits the file best; the one of its own head wins a draw."""
    own = family.prefixes[config.head]
    names = set(weights.names)
    base = [r.theirs[1:] for r in family.rules(config) if r.theirs.startswith("~")]
    choices = [own, *sorted(set(family.prefixes.values()) - {own})]
    return max(choices, key=lambda p: sum(p + name in names for name in base))


def _settle(family: Family, config: Config, weights: Weights, prefix: str) -> Config:
    """Decide by the file what its config leaves open: an absent pooler, words that are not tied after all."""
    names = set(weights.names)
    if config.head == "none":
        for field, value, name in family.optional:
            if getattr(config, field) != value and name.replace("~", prefix) not in names:
                config = dataclasses.replace(config, **{field: value})
    if config.head in ("causal", "masked") and config.tie_embeddings and family.output in names:
        embeddings = [r for r in family.rules(config) if r.ours[0] in ("embedding.weight", "decoder_embedding.weight")]
        rule = embeddings[-1]
        source = next((n for n in (rule.theirs, *rule.others) if n.replace("~", prefix) in names), None)
        if source is not None and not _equal(weights, source.replace("~", prefix), family.output):
            warnings.warn(
                f"{family.output} differs from the embedding, though config.json ties them; they are loaded untied",
                stacklevel=4,
            )
            config = dataclasses.replace(config, tie_embeddings=False)
    return config


def _equal(weights: Weights, one: str, other: str) -> bool:
    same_shape = weights.info(one).shape == weights.info(other).shape
    return same_shape and torch.equal(weights.read(one), weights.read(other))


def _plan(family: Family, network: Network, weights: Weights, prefix: str, folder: Path, *, new_head: bool) -> _Plan:
    """Match every rule with a name of the file, or raise one FileError with all that does not fit."""
    config, parameters, names = network.config, dict(network.named_parameters()), set(weights.names)
    sources: list[tuple[Rule, str]] = []
    fresh: list[Rule] = []
    missing: list[Rule] = []
    misshaped: list[str] = []
    used: set[str] = set()
    for rule in family.rules(config):
        candidates = [n.replace("~", prefix) for n in (rule.theirs, *rule.others)]
        present = [n for n in candidates if n in names]
        used.update(present)
        if not present:
            of_head = all(name.startswith("head.") for name in rule.ours)
            (fresh if new_head and of_head else missing).append(rule)
            continue
        wanted, found = _their_shape(rule, parameters), weights.info(present[0]).shape
        if found != wanted and new_head and all(name.startswith("head.") for name in rule.ours):
            fresh.append(rule)
        elif found != wanted:
            misshaped.append(f"{present[0]} is {list(found)}, not {list(wanted)}")
        else:
            sources.append((rule, present[0]))
    spare = {family.output} if getattr(config, "tie_embeddings", False) else set()
    unexpected = [n for n in weights.names if n not in used and n not in spare and not family.is_ignored(n)]
    if new_head or config.head == "none":  # heads that this model does not have
        unexpected = [n for n in unexpected if prefix and n.startswith(prefix)]
    _report(folder, [r.theirs.replace("~", prefix) for r in missing], unexpected, misshaped)
    if not sources:
        raise FileError(f"{folder}: holds no weight of the family {family.model_type}; fetch the folder again")
    return _Plan(prefix, sources, fresh)


def _report(folder: Path, missing: list[str], unexpected: list[str], misshaped: list[str]) -> None:
    groups = [("missing", missing), ("unexpected", unexpected), ("of another shape", misshaped)]
    parts = []
    for what, names in groups:
        if names:
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""
            parts.append(f"{len(names)} {what} ({', '.join(names[:6])}{more})")
    if parts:
        what = "file" if folder.is_file() else "folder"
        said = "its keys" if what == "file" else "config.json"
        raise FileError(f"{folder}: the weights do not fit {said}: {'; '.join(parts)}; fetch the {what} again")


def _their_shape(rule: Rule, parameters: dict[str, nn.Parameter]) -> tuple[int, ...]:
    shapes = [tuple(parameters[name].shape) for name in rule.ours]
    shape = (sum(s[0] for s in shapes), *shapes[0][1:])
    shape = shape[::-1] if rule.transpose else shape
    return (1, *shape) if rule.lead else shape


@torch.no_grad()
def _fill(network: Network, plan: _Plan, weights: Weights, extra: dict[str, Tensor]) -> None:
    parameters: dict[str, Tensor] = {**dict(network.named_parameters()), **extra}
    for rule, source in plan.sources:
        if len(rule.ours) == 1:
            target = parameters[rule.ours[0]].data
            target = target.t() if rule.transpose and target.ndim == 2 else target
            weights.read_into(source, target[None] if rule.lead else target)
            continue
        whole = weights.read(source)
        whole = whole.t() if rule.transpose and whole.ndim == 2 else whole
        sizes = [parameters[name].shape[0] for name in rule.ours]
        for name, part in zip(rule.ours, whole.split(sizes), strict=True):
            parameters[name].copy_(part)
    for rule in plan.fresh:
        for name in rule.ours:
            parameter = parameters[name]
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.02)
            else:
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)


def config_values(network: Network, family: Family) -> dict[str, Any]:
    """The config.json of a network in a family's format; a config that the family cannot say is a ConfigError."""
    config = network.config
    if config.head not in family.heads:
        raise ConfigError(
            f"the family {family.model_type} has no head {config.head!r}; it has {', '.join(family.heads)}"
        )
    values = {"architectures": [family.heads[config.head]], "model_type": family.model_type}
    values |= family.write_config(config)
    back = family.read_config(Foreign(values, "config.json"), config.head)
    ours, theirs = config.as_dict(), back.as_dict() if type(back) is type(config) else {}
    unread = {"pooler", "pooler_dropout"}  # the weights say it, and the family
    unread |= set() if config.head == "sequence" else {"pool"}  # no head reads it
    differing = [k for k in ours if k not in unread and not _close(ours[k], theirs.get(k))]
    if differing:
        listed = ", ".join(f"{k} = {ours[k]!r}" for k in differing[:4])
        raise ConfigError(f"the family {family.model_type} cannot say {listed}; save under another family")
    return values


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-9 * max(abs(one), 1.0)
    return one == other


def save_network(network: Network, folder: Path, *, family: str = "") -> None:
    """Write config.json and the weights into a fresh folder, in the format of `family` (its own by default)."""
    name = family or network.family
    if name not in FAMILIES:
        raise InputError(f"the family {name!r} is not known{nearest(name, FAMILIES)}; known are {', '.join(FAMILIES)}")
    check_no_adapter_is_lost(network)
    values = config_values(network, FAMILIES[name])
    values["dtype"] = str(network.dtype).removeprefix("torch.")
    entry = packedfiles.entry_for(network) if isinstance(network, Transformer) else None
    write_json(folder / "config.json", values if entry is None else values | {packedfiles.KEY: entry})
    if entry is not None and isinstance(network, Transformer):
        save_weights(packedfiles.tensors_for(network), folder)
    else:
        save_weights(named_tensors(network, FAMILIES[name]), folder)


def named_tensors(network: Network, family: Family) -> Iterator[tuple[str, Tensor]]:
    """The weights under the family's names, one at a time."""
    parameters = dict(network.named_parameters())
    prefix = family.prefixes[network.config.head]
    for rule in family.rules(network.config):
        parts = [base_tensor(network, parameters, name) for name in rule.ours]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        tensor = tensor.t() if rule.transpose and tensor.ndim == 2 else tensor
        for theirs in (rule.theirs, *rule.copies):
            yield theirs.replace("~", prefix), (tensor[None] if rule.lead else tensor).contiguous()
