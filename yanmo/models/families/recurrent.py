"""Yanmo's own family for recurrent language models: no public format has them, so the names are the network's."""

from __future__ import annotations

import dataclasses
from typing import Any

from yanmo.models.config import Head, RecurrentConfig
from yanmo.models.families.table import Family, Foreign, Rule, one_or_all, same


def read_config(f: Foreign, head: Head) -> RecurrentConfig:
    """config.json → RecurrentConfig."""
    return RecurrentConfig(
        cell=f.get("cell"),
        vocab_size=f.whole("vocab_size"),
        width=f.whole("width"),
        hidden_width=f.whole("hidden_width"),
        layers=f.whole("layers"),
        tie_embeddings=f.flag("tie_word_embeddings", True),
        dropout=f.number("dropout", 0.0),
        pad_id=f.token("pad_token_id"),
        bos_id=f.token("bos_token_id"),
        eos_ids=f.tokens("eos_token_id"),
    )


def write_config(c: RecurrentConfig) -> dict[str, Any]:
    """RecurrentConfig → config.json."""
    values = dataclasses.asdict(c)
    del values["eos_ids"], values["pad_id"], values["bos_id"], values["tie_embeddings"]
    return values | {
        "tie_word_embeddings": c.tie_embeddings,
        "pad_token_id": c.pad_id,
        "bos_token_id": c.bos_id,
        "eos_token_id": one_or_all(c.eos_ids),
    }


def rules(c: RecurrentConfig) -> list[Rule]:
    """Their names ↔ ours, which are equal."""
    parts = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    names = ["embedding.weight", "bias", *(f"cells.{part}_l{i}" for i in range(c.layers) for part in parts)]
    if c.hidden_width != c.width:
        names += ["project.weight", "project.bias"]
    if not c.tie_embeddings:
        names.append("weight")
    return [same(name, name) for name in names]


RECURRENT = Family(
    model_type="yanmo_recurrent",
    heads={"causal": "RecurrentForCausalLM"},
    prefixes={"causal": ""},
    read_config=read_config,
    write_config=write_config,
    rules=rules,
    output="weight",
)
