"""What a family is made of, and the reader of a foreign config.json.

Foreign     config.json: each key is used, inert for a stated reason, or an error
Rule        one tensor of theirs ↔ one or several of ours
Family      read_config, write_config, rules: a checkpoint family as data
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yanmo.errors import ConfigError, nearest
from yanmo.models.config import Activation, Head, RecurrentConfig, TransformerConfig

_REQUIRED: Any = object()

# Keys that change nothing in what a model computes, with the reason why they may be ignored.
INERT: dict[str, str] = {
    "model_type": "read before the family is known",
    "architectures": "read as the head",
    "transformers_version": "the library that wrote the file",
    "_name_or_path": "where the file came from",
    "_commit_hash": "where the file came from",
    "torch_dtype": "the weights say their type themselves",
    "dtype": "the weights say their type themselves",
    "use_cache": "every decoder can use a cache here",
    "output_attentions": "what a call returns",
    "output_hidden_states": "what a call returns",
    "output_past": "what a call returns",
    "return_dict": "what a call returns",
    "use_return_dict": "what a call returns",
    "torchscript": "how a program is exported",
    "chunk_size_feed_forward": "a memory setting with the same result",
    "gradient_checkpointing": "a memory setting with the same result",
    "initializer_range": "used before training alone",
    "initializer_factor": "used before training alone",
    "init_std": "used before training alone",
    "pretraining_tp": "how a product was split in training",
    "layerdrop": "a regulariser of training that is not applied here",
    "encoder_layerdrop": "a regulariser of training that is not applied here",
    "decoder_layerdrop": "a regulariser of training that is not applied here",
    "finetuning_task": "a note",
    "task_specific_params": "options for generation of some tasks",
    "prefix": "options for generation",
    "pruned_heads": "empty in every public file that is supported",
    "attn_implementation": "which kernel computes the same formula",
    "_attn_implementation": "which kernel computes the same formula",
    "_attn_implementation_autoset": "which kernel computes the same formula",
    "reference_compile": "which kernel computes the same formula",
    "tokenizer_class": "read by the tokenizer",
    "sep_token_id": "read by the tokenizer",
    "cls_token_id": "read by the tokenizer",
    "unk_token_id": "read by the tokenizer",
    "mask_token_id": "read by the tokenizer",
    "language": "a note",
    "name": "a note",
    "license": "a note",
    "auto_map": "code from a model folder is never run",
    "num_labels": "id2label says it, and is read where the head has labels",
    "_num_labels": "id2label says it, and is read where the head has labels",
    "id2label": "read where the head has labels",
    "label2id": "id2label says it",
    "problem_type": "read where the head has labels",
    "classifier_dropout": "read where the head has labels",
    "is_encoder_decoder": "the family says it",
    "quantization": "null in every file that is supported",
    "unsloth_version": "the library that wrote the file",
    "unsloth_fixed": "the library that wrote the file",
}
# Options of generation that older files keep in config.json; the caller of `generate` chooses them.
_GENERATION = """
max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id
remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
cross_attention_hidden_size
"""
INERT |= dict.fromkeys(_GENERATION.split(), "options for generation")

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu_squared",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
_FOREIGN_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_new",
    "relu": "relu",
    "relu_squared": "relu2",
    "silu": "silu",
}
_FOREIGN_ACTIVATIONS["tanh"] = "tanh"
_PROBLEMS = {"regression": "regression", "single_label_classification": "single_label"}
_PROBLEMS["multi_label_classification"] = "multi_label"


class Foreign:
    """A foreign config.json that remembers which of its keys were used."""

    def __init__(self, values: dict[str, Any], source: str | Path) -> None:
        self.values = values
        self.source = source
        self.used: set[str] = set()

    def error(self, text: str) -> ConfigError:
        """An error that names the file."""
        return ConfigError(f"{self.source}: {text}")

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value of a key, of any type; a missing one without a default is an error."""
        self.used.add(key)
        if key in self.values:
            return self.values[key]
        if default is _REQUIRED:
            raise self.error(f"the key {key!r} is missing; the file is damaged or of another family")
        return default

    def whole(self, key: str, default: Any = _REQUIRED) -> int:
        """A whole number; null counts as missing where there is a default."""
        value = self.get(key, default)
        value = default if value is None and default is not _REQUIRED else value
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"{key} is {value!r}, and must be a whole number")
        return value

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        """A number; null counts as missing where there is a default."""
        value = self.get(key, default)
        value = default if value is None and default is not _REQUIRED else value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(f"{key} is {value!r}, and must be a number")
        return float(value)

    def flag(self, key: str, default: Any = _REQUIRED) -> bool:
        """True or false; null counts as missing where there is a default."""
        value = self.get(key, default)
        value = default if value is None and default is not _REQUIRED else value
        if not isinstance(value, bool):
            raise self.error(f"{key} is {value!r}, and must be true or false")
        return value

    def only(self, key: str, *allowed: Any) -> None:
        """A key that is supported with these values alone (or absent)."""
        value = self.get(key, allowed[0])
        if not any(value == a and type(value) is type(a) for a in allowed):
            shown = " or ".join(repr(a) for a in allowed)
            raise self.error(f"{key} is {value!r}, and only {shown} is supported")

    def activation(self, key: str, default: str) -> Activation:
        """One of the known activations."""
        value = self.get(key, default)
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            known = ", ".join(sorted(_ACTIVATIONS))
            raise self.error(f"{key} is {value!r}, and must be one of {known}")
        return _ACTIVATIONS[value]

    def tokens(self, key: str, default: int | None = None) -> tuple[int, ...]:
        """One token number, several, or null."""
        value = self.get(key, default)
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
            raise self.error(f"{key} is {value!r}, and must be a token number or a list of them")
        return tuple(values)

    def token(self, key: str, default: int | None = None) -> int | None:
        """One token number or null (of a list, the first)."""
        values = self.tokens(key, default)
        return values[0] if values else None

    def labels(self, head: Head, default: int = 2) -> dict[str, Any]:
        """The fields of a label head: labels, problem, classifier_dropout (an own key of some families)."""
        if head not in ("sequence", "token", "span"):
            return {}
        names = self.get("id2label", None)
        if head == "span" and isinstance(names, dict) and len(names) != 2:
            names = {"0": "LABEL_0", "1": "LABEL_1"}  # start and end; BART's files keep the labels of another head
        if names is None:
            count = 2 if head == "span" else self.whole("num_labels", default)
            if not 0 < count <= 1_000_000:
                raise self.error(f"num_labels is {count}, and must be from 1 to 1,000,000")
            names = {str(i): f"LABEL_{i}" for i in range(count)}
        if not isinstance(names, dict) or sorted(names) != sorted(str(i) for i in range(len(names))):
            raise self.error("id2label must map the numbers from 0 on to names")
        problem = self.get("problem_type", None)
        if problem is not None and problem not in _PROBLEMS:
            raise self.error(f"problem_type is {problem!r}, and must be one of {', '.join(_PROBLEMS)}")
        labels = tuple(str(names[str(i)]) for i in range(len(names)))
        return {"labels": labels, "problem": _PROBLEMS.get(problem, "")}

    def finish(self, *, allow_unknown: bool) -> None:
        """Raise ConfigError for every key that nobody used and that is not inert (a warning where allowed)."""
        unknown = [k for k in self.values if k not in self.used and k not in INERT]
        if not unknown:
            return
        listed = ", ".join(repr(k) + nearest(k, self.used) for k in unknown[:8])
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        text = f"{self.source}: unknown keys {listed}{more}, which could change what the model computes"
        if not allow_unknown:
            raise ConfigError(f"{text}; pass allow_unknown=True to load without them")
        warnings.warn(f"{text}; they are ignored", stacklevel=4)


@dataclass(frozen=True)
class Rule:
    """One tensor of theirs ↔ one or several of ours.

    theirs: the name; `~` stands for the prefix of the base model. others: names of the same tensor in some files.
    ours: several names mean that theirs is their concatenation along the first axis (after the transpose).
    """

    theirs: str
    ours: tuple[str, ...]
    transpose: bool = False
    others: tuple[str, ...] = ()
    lead: bool = False  # theirs has a leading axis of size 1
    copies: tuple[str, ...] = ()  # names under which it is written once more, since their reader asks for them


def same(theirs: str, ours: str, *others: str, transpose: bool = False, lead: bool = False) -> Rule:
    """One tensor, under two names."""
    return Rule(theirs, (ours,), transpose, others, lead)


def linear(theirs: str, ours: str, *, bias: bool, transpose: bool = False) -> list[Rule]:
    """Weight and bias of a linear layer."""
    rules = [same(f"{theirs}.weight", f"{ours}.weight", transpose=transpose)]
    return rules + [same(f"{theirs}.bias", f"{ours}.bias")] if bias else rules


def norm(theirs: str, ours: str, *, bias: bool = True) -> list[Rule]:
    """Weight and bias of a norm; the oldest files call them gamma and beta."""
    rules = [same(f"{theirs}.weight", f"{ours}.weight", f"{theirs}.gamma")]
    return rules + [same(f"{theirs}.bias", f"{ours}.bias", f"{theirs}.beta")] if bias else rules


@dataclass(frozen=True)
class Family:
    """A family of public checkpoints.

    heads: head → class name in the field's files. prefixes: head → prefix of the base model's names ("" for none).
    ignored: (regular expression of a name, reason). optional: fields of a model without a head that the weights decide,
    as (field, value, name): where `name` is absent from the file the field takes `value`.
    """

    model_type: str
    heads: dict[str, str]
    prefixes: dict[str, str]
    read_config: Callable[[Foreign, Head], TransformerConfig | RecurrentConfig]
    write_config: Callable[[Any], dict[str, Any]]
    rules: Callable[[Any], list[Rule]]
    default_head: Head = "causal"
    aliases: dict[str, str] = field(default_factory=dict)  # other class names → head
    ignored: Sequence[tuple[str, str]] = ()
    optional: Sequence[tuple[str, Any, str]] = ()
    output: str = "lm_head.weight"  # the name of the words' matrix, where it is not the embedding

    def head_of(self, foreign: Foreign) -> Head:
        """The head that `architectures` names; the family's usual one where it names none."""
        names = foreign.get("architectures", None)
        if not names:
            return self.default_head
        if not isinstance(names, list) or not isinstance(names[0], str):
            raise foreign.error(f"architectures is {names!r}, and must be a list of names")
        known = {cls: head for head, cls in self.heads.items()} | self.aliases
        if names[0] not in known:
            raise foreign.error(
                f"the architecture {names[0]!r} is not supported{nearest(names[0], known)}; "
                f"supported are {', '.join(sorted(known))}"
            )
        return known[names[0]]  # type: ignore[return-value]

    def is_ignored(self, name: str) -> bool:
        """Whether a name of theirs holds nothing that a model needs."""
        return any(re.search(pattern, name) for pattern, _ in self.ignored)


def foreign_activation(activation: Activation) -> str:
    """The name that public files use."""
    return _FOREIGN_ACTIVATIONS[activation]


def write_labels(config: TransformerConfig | RecurrentConfig) -> dict[str, Any]:
    """id2label, label2id and problem_type, where the head has labels."""
    if not config.labels:
        return {}
    problem = {ours: theirs for theirs, ours in _PROBLEMS.items()}.get(config.problem)
    return {
        "id2label": {str(i): name for i, name in enumerate(config.labels)},
        "label2id": {name: i for i, name in enumerate(config.labels)},
        "problem_type": problem,
    }


def one_or_all(ids: Iterable[int]) -> int | list[int] | None:
    """A token number where there is one, a list where there are several, None where there is none."""
    values = list(ids)
    return values[0] if len(values) == 1 else values or None
