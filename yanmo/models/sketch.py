"""[model] of a recipe → the config of a network. No torch: training builds from it, and the plan counts with it.

In: a recipe's section, sizes and ids that the tokenizer says. Out: a config; a contradiction is a ConfigError.

    FAMILIES           where the public families differ
    check_shape        which objective trains which shape
    network_config     [model] → TransformerConfig or RecurrentConfig
    public_family      the format in which such a network is saved
    without_dropout    the config of the finished model
"""

from __future__ import annotations

import dataclasses
from typing import Any

from yanmo.errors import ConfigError
from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.recipe import ModelSection

Config = TransformerConfig | RecurrentConfig

# where the families differ; the rest follows from the sizes. Each is a point that the public family can say.
_GATED: dict[str, Any] = {"position": "rotary", "norm": "rms", "norm_eps": 1e-6, "activation": "silu", "gated": True}
_POST: dict[str, Any] = {"norm_order": "post", "norm_embedding": True, "norm_final": False, "logit_bias": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"position": "learned", "activation": "gelu_tanh", "pool": "last"},
    "llama": _GATED | {"pool": "last"},
    "qwen3": _GATED | {"norm_query_key": True, "pool": "last"},
    "bert": _POST | {"position": "learned", "norm_eps": 1e-12, "n_token_types": 2, "head": "masked"},
    "t5": {"position": "relative", "norm": "rms", "norm_eps": 1e-6, "activation": "gelu_tanh", "gated": True}
    | {"attention_scale": 1.0, "pool": "eos"},
    "bart": _POST | {"position": "learned", "position_offset": 2, "pool": "eos"},
    "marian": _POST | {"position": "sinusoidal", "norm_embedding": False, "pool": "eos"},
}
SHAPES = {"bert": "encoder"} | dict.fromkeys(("t5", "bart", "marian"), "encoder-decoder")  # the others are decoders
LEARNERS = {"masked": "encoder", "spans": "encoder-decoder", "infilling": "encoder-decoder"} | {
    "seq2seq": "encoder-decoder"
}  # the others need a decoder
ANY_SHAPE = ("labels", "tokens", "answers")  # a head of labels stands on every shape


def shape_for(objective: str) -> str:
    """The shape of network that an objective of a recipe needs."""
    return LEARNERS.get(objective, "decoder")


def check_shape(objective: str, shape: str, name: str) -> None:
    """Raise ConfigError where an objective cannot train a network of that shape; `name` is what the user calls it."""
    needed = shape_for(objective)
    if shape != needed and objective not in ANY_SHAPE:
        families = [family for family in FAMILIES if SHAPES.get(family, "decoder") == needed]
        kinds = [kind for kind in ("causal", "masked", "spans", "seq2seq") if shape_for(kind) == shape]
        raise ConfigError(
            f"objective.kind {objective!r} trains {_a(needed)} ({', '.join(families)}), and {name} is {_a(shape)}; "
            f"change the model, or set objective.kind to {' or '.join(kinds)}"
        )


def _a(shape: str) -> str:
    return f"an {shape}" if shape[0] == "e" else f"a {shape}"


def network_config(
    model: ModelSection, *, vocab_size: int, length: int, start_id: int, end_id: int, pad_id: int | None = None
) -> Config:
    """The config of a language model over rows of at most `length` tokens; a contradiction is a ConfigError.

    Its shape is the family's: a decoder, an encoder with a masked head (bert), or an encoder-decoder (t5, bart).
    """
    ids: dict[str, Any] = {"bos_id": start_id, "eos_ids": (end_id,)}
    shared: dict[str, Any] = {"vocab_size": vocab_size, "width": model.width, **ids}
    shared |= {"tie_embeddings": model.tie_embeddings, "dropout": model.dropout}
    if model.kind != "transformer":
        return RecurrentConfig(cell=model.kind, layers=model.layers, hidden_width=model.ffn_width or 0, **shared)
    values = FAMILIES[model.family]
    _check_heads(model)
    gated, shape = values.get("gated", False), SHAPES.get(model.family, "decoder")
    shared |= {f"{side}_layers": model.layers for side in shape.split("-")}
    shared |= {f"bias_{part}": not gated for part in ("qkv", "out", "ffn")}
    if model.family not in ("llama", "qwen3"):
        shared |= {"embedding_dropout": model.dropout, "attention_dropout": model.dropout, "pad_id": pad_id}
    if model.family == "t5":
        shared |= {"activation_dropout": model.dropout, "logit_scale": model.width**-0.5 if model.tie_embeddings else 1}
    if model.family == "marian":  # sinusoids are as long as √(width / 2), first embeddings a fiftieth of √width
        shared["embedding_scale"] = model.width**0.5
    if shape == "encoder-decoder":
        shared["decoder_start_id"] = end_id if model.family == "bart" or pad_id is None else pad_id
    return TransformerConfig(
        n_heads=model.heads,
        n_kv_heads=model.kv_heads or 0,
        head_width=model.head_width or 0,
        ffn_width=model.ffn_width or (-(-8 * model.width // 96) * 32 if gated else 4 * model.width),
        max_positions=2**20 if model.family == "t5" else length,  # relative distances have no last position
        **values,
        **shared,
    )


def _check_heads(model: ModelSection) -> None:
    """Raise ConfigError for heads that the family cannot say."""
    grouped = model.kv_heads not in (None, model.heads)
    wide = model.head_width not in (None, model.width // model.heads)
    if model.family not in ("llama", "qwen3") and (grouped or (wide and model.family != "t5")):
        raise ConfigError(
            f"the family {model.family} has one key head per head, each width / heads wide; "
            "leave out model.kv_heads and model.head_width, or choose the family llama or qwen3"
        )
    if model.head_width is None and model.width % model.heads:
        raise ConfigError(f"model.width is {model.width}, no multiple of model.heads {model.heads}; change one of them")


def public_family(config: Config, model: ModelSection) -> str:
    """The name of the format in which such a network is saved."""
    return "yanmo_recurrent" if isinstance(config, RecurrentConfig) else model.family


def without_dropout(config: Config) -> Config:
    """The config of the finished model: dropout belongs to the training, and llama and qwen3 have no place for it."""
    rates = {field.name: 0.0 for field in dataclasses.fields(config) if field.name.endswith("dropout")}
    return dataclasses.replace(config, **rates)  # type: ignore[arg-type, unused-ignore]
