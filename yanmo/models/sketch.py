"""[model] of a recipe → the config of a network. No torch: training builds from it, and the plan counts with it.

In: a recipe's section, sizes and ids that the tokenizer says. Out: a config; a contradiction is a ConfigError.

    FAMILIES           where the public families differ
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
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"position": "learned", "norm": "layer", "activation": "gelu_tanh", "gated": False},
    "llama": {"position": "rotary", "norm": "rms", "norm_eps": 1e-6, "activation": "silu", "gated": True},
    "qwen3": {"position": "rotary", "norm": "rms", "norm_eps": 1e-6, "activation": "silu", "gated": True}
    | {"norm_query_key": True},
}


def network_config(model: ModelSection, *, vocab_size: int, length: int, start_id: int, end_id: int) -> Config:
    """The config of a causal language model over rows of at most `length` tokens; a contradiction is a ConfigError."""
    ids: dict[str, Any] = {"bos_id": start_id, "eos_ids": (end_id,)}
    shared: dict[str, Any] = {"vocab_size": vocab_size, "width": model.width, **ids}
    shared |= {"tie_embeddings": model.tie_embeddings, "dropout": model.dropout}
    if model.kind != "transformer":
        return RecurrentConfig(cell=model.kind, layers=model.layers, hidden_width=model.ffn_width or 0, **shared)
    values = FAMILIES[model.family]
    gated = values["gated"]
    if not gated and (
        model.kv_heads not in (None, model.heads) or model.head_width not in (None, model.width // model.heads)
    ):
        raise ConfigError(
            f"the family {model.family} has one key head per head, each width / heads wide; "
            "leave out model.kv_heads and model.head_width, or choose the family llama or qwen3"
        )
    if model.head_width is None and model.width % model.heads:
        raise ConfigError(f"model.width is {model.width}, no multiple of model.heads {model.heads}; change one of them")
    biased: dict[str, Any] = {f"bias_{part}": not gated for part in ("qkv", "out", "ffn")}
    dropouts: dict[str, Any] = {} if gated else {"embedding_dropout": model.dropout, "attention_dropout": model.dropout}
    return TransformerConfig(
        n_heads=model.heads,
        n_kv_heads=model.kv_heads or 0,
        head_width=model.head_width or 0,
        ffn_width=model.ffn_width or (-(-8 * model.width // 96) * 32 if gated else 4 * model.width),
        decoder_layers=model.layers,
        max_positions=length,
        pool="last",
        **values,
        **biased,
        **dropouts,
        **shared,
    )


def public_family(config: Config, model: ModelSection) -> str:
    """The name of the format in which such a network is saved."""
    return "yanmo_recurrent" if isinstance(config, RecurrentConfig) else model.family


def without_dropout(config: Config) -> Config:
    """The config of the finished model: dropout belongs to the training, and llama and qwen3 have no place for it."""
    rates = {field.name: 0.0 for field in dataclasses.fields(config) if field.name.endswith("dropout")}
    return dataclasses.replace(config, **rates)  # type: ignore[arg-type, unused-ignore]
