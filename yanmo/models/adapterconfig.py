"""adapter_config.json of PEFT ↔ what Yanmo knows of an adapter.

    read_saved     a file → Saved; a key that nobody knows, or a value that Yanmo does not have, is a ConfigError
    write_saved    Saved → the values of the file

Names are those of the modules of the base in transformers. A name in a list means every module that ends with it;
regular expressions of a foreign file are never run, since a hostile one can take years.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yanmo.errors import ConfigError
from yanmo.files import read_json_object
from yanmo.models.adapters import AdapterConfig, Kind
from yanmo.models.config import Head
from yanmo.models.families.table import Foreign

TASKS: dict[str, Head] = {
    "CAUSAL_LM": "causal",
    "SEQ_2_SEQ_LM": "causal",
    "SEQ_CLS": "sequence",
    "TOKEN_CLS": "token",
    "QUESTION_ANS": "span",
    "FEATURE_EXTRACTION": "none",
}
# Keys that change nothing in what an adapted model computes.
_INERT = """
auto_mapping peft_version inference_mode fan_in_fan_out megatron_core qalora_group_size eva_config runtime_config
"""
# Keys of methods that Yanmo does not have, with the values that mean "not used".
_UNUSED: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "megatron_config": (None,),
    "trainable_token_indices": (None,),
    "loftq_config": ({}, None),
    "corda_config": (None,),
    "lora_ga_config": (None,),
    "velora_config": (None,),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False,),
    "monteclora_config": (None,),
    "layer_replication": (None,),
    "lora_bias": (False,),
    "target_parameters": (None, []),
    "use_bdlora": (None, False),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "ensure_weight_tying": (False,),
    # The other beginnings change the base itself, so the file alone does not say what the model computes.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
_PLAIN = re.compile(r"\^?[\w.-]+", re.ASCII)


@dataclass
class Saved:
    """An adapter as its file describes it.

    ranks, alphas: their module → value, where written; pattern → value, where read. targets: names of which a module
    must end with one, or None where the tensors alone say it. modules: names of modules that are saved whole.
    """

    config: AdapterConfig
    base: str = ""
    revision: str | None = None
    task: str | None = None
    fan_in_fan_out: bool = False
    ranks: dict[str, int] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)
    targets: list[str] | None = None
    excluded: list[str] | None = field(default_factory=list)
    layers: list[int] | None = None
    sure: bool = True  # whether `targets` tells all modules, and not only those that it may be
    modules: list[str] = field(default_factory=list)

    def rank(self, module: str) -> int:
        """The rank of the adapter of one of their modules."""
        return next((r for pattern, r in self.ranks.items() if _fits(pattern, module)), self.config.rank)

    def alpha(self, module: str) -> float:
        """Its α."""
        return next((a for pattern, a in self.alphas.items() if _fits(pattern, module)), self.config.alpha)

    def adapts(self, module: str) -> bool | None:
        """Whether one of their modules has an adapter; None where the file leaves it to the tensors."""
        if self.excluded is not None and any(_ends(module, name) for name in self.excluded):
            return False
        if self.saves(f"{module}.weight"):
            return False
        if self.targets is None:
            return None
        if not any(_ends(module, name) for name in self.targets):
            return False
        if self.layers is not None:
            number = next((int(part) for part in module.split(".") if part.isdigit()), None)
            if number not in self.layers:
                return False
        return True if self.sure else None

    def saves(self, tensor: str) -> bool:
        """Whether one of their tensors belongs to a module that is saved whole."""
        parts = tensor.split(".")[:-1]
        paths = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
        return any(_ends(path, name) for path in paths for name in self.modules)


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _fits(pattern: str, module: str) -> bool:
    return module == pattern[1:] if pattern.startswith("^") else _ends(module, pattern)


# --- reading


def read_saved(path: Path, *, allow_unknown: bool = False) -> Saved:
    """Read adapter_config.json."""
    f = Foreign(read_json_object(path), path)
    kind = f.get("peft_type")
    if kind != "LORA":
        raise f.error(f"an adapter of the type {str(kind)[:40]!r}, and only 'LORA' is supported")
    for key in _INERT.split():
        f.get(key, None)
    for key, values in _UNUSED.items():
        f.only(key, *values)
    task, base, revision = (_text(f, key) for key in ("task_type", "base_model_name_or_path", "revision"))
    targets, sure = f.get("target_modules", None), True
    if isinstance(targets, str):  # a regular expression or "all-linear"
        targets, sure = None, False
    excluded = f.get("exclude_modules", None)
    if isinstance(excluded, str):
        excluded, sure = [], False
    layers = f.get("layers_to_transform", None)
    layers = [layers] if isinstance(layers, int) else layers
    if layers is not None and not (isinstance(layers, list) and all(type(i) is int for i in layers)):
        raise f.error("layers_to_transform must be a number, a list of numbers, or null")
    if f.get("layers_pattern", None):
        layers, sure = None, False  # which number is meant; the tensors say it
    modules = _names(f, "modules_to_save", f.get("modules_to_save", None))
    saved = Saved(
        config=_config(f),
        base=base or "",
        revision=revision,
        task=task,
        ranks={k: v for k, v in _pattern(f, "rank_pattern").items() if _is_rank(f, v)},
        alphas=_pattern(f, "alpha_pattern"),
        targets=None if targets is None else _names(f, "target_modules", targets),
        excluded=_names(f, "exclude_modules", excluded),
        layers=layers or None,
        sure=sure,
        modules=modules,
    )
    f.finish(allow_unknown=allow_unknown)
    return saved


def _config(f: Foreign) -> AdapterConfig:
    rooted, lengths = f.flag("use_rslora", False), f.flag("use_dora", False)
    kinds: dict[tuple[bool, bool], Kind] = {
        (False, False): "lora",
        (True, False): "rslora",
        (False, True): "dora",
        (True, True): "rsdora",
    }
    try:
        return AdapterConfig(
            rank=f.whole("r", 8),
            alpha=f.number("lora_alpha", 8),
            dropout=f.number("lora_dropout", 0.0),
            kind=kinds[rooted, lengths],
            modules_to_save=(),
        )
    except ConfigError as error:
        raise error if str(f.source) in str(error) else f.error(str(error)) from None


def _text(f: Foreign, key: str) -> str | None:
    value = f.get(key, None)
    if value is not None and not isinstance(value, str):
        raise f.error(f"{key} must be a string or null")
    return value


def _names(f: Foreign, key: str, value: Any) -> list[str]:
    names = [] if value is None else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise f.error(f"{key} must be a list of names or null")
    return names


def _pattern(f: Foreign, key: str) -> dict[str, Any]:
    values = f.get(key, None) or {}
    if not isinstance(values, dict):
        raise f.error(f"{key} must be an object of module names and numbers")
    found: dict[str, Any] = {}
    for name, value in values.items():
        plain = name.replace("\\.", ".")
        if not _PLAIN.fullmatch(plain):
            raise f.error(f"{key} holds {name[:60]!r}, a regular expression, and only names of modules are read")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
            raise f.error(f"{key} gives {name[:60]!r} the value {value!r:.40}, which is no number above 0")
        found[plain] = value
    return found


def _is_rank(f: Foreign, value: Any) -> bool:
    if not isinstance(value, int):
        raise f.error(f"rank_pattern holds {value!r}, and a rank must be a whole number")
    return True


# --- writing


def write_saved(saved: Saved, known: list[str]) -> dict[str, Any]:
    """The values of adapter_config.json; `known` are all of their matrices that could have an adapter."""
    config, ranks, alphas = saved.config, saved.ranks, saved.alphas
    rank = Counter(ranks.values()).most_common(1)[0][0] if ranks else config.rank
    alpha = Counter(alphas.values()).most_common(1)[0][0] if alphas else config.alpha
    return {
        "peft_type": "LORA",
        "task_type": saved.task,
        "base_model_name_or_path": saved.base or None,
        "revision": saved.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _whole(alpha),
        "lora_dropout": config.dropout,
        "target_modules": short_names(list(ranks), known),
        "modules_to_save": saved.modules or None,
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {name: _whole(a) for name, a in alphas.items() if a != alpha},
        "fan_in_fan_out": saved.fan_in_fan_out,
        "use_rslora": config.kind.startswith("rs"),
        "use_dora": config.kind.endswith("dora"),
        "bias": "none",
        "init_lora_weights": True,
    }


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def short_names(adapted: list[str], known: list[str]) -> list[str]:
    """The shortest endings that match the adapted modules and no other known one."""
    rest = set(known) - set(adapted)
    found: set[str] = set()
    for module in adapted:
        parts = module.split(".")
        first = max((i + 1 for i, part in enumerate(parts) if part.isdigit()), default=0)
        endings = [parts[-1]] if parts[-1] != "dense" and first else []  # models have a dense in places not known here
        endings += [".".join(parts[first:]), module]
        found.add(next(name for name in endings if not any(_ends(other, name) for other in rest)))
    return sorted(found)
