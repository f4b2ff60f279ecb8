"""Yanmo's own family for recurrent language models: no public format has them, so the names are the network's."""

from __future__ import annotations

import dataclasses
from typing import Any

from yanmo.models.config import Head, RecurrentConfig
from yanmo.models.families.table import Family, Foreign, Rule, one_or_all, same, write_labels


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
        head=head,  # type: ignore[arg-type]
        bidirectional=f.flag("bidirectional", False),
        **f.labels(head),
    )


def write_config(c: RecurrentConfig) -> dict[str, Any]:
    """RecurrentConfig → config.json."""
    values = dataclasses.asdict(c)
    for name in ("eos_ids", "pad_id", "bos_id", "tie_embeddings", "head", "labels", "problem"):
        del values[name]
    if not c.bidirectional:
        del values["bidirectional"]
    return (
        values
        | write_labels(c)
        | {
            "tie_word_embeddings": c.tie_embeddings,
            "pad_token_id": c.pad_id,
            "bos_token_id": c.bos_id,
            "eos_token_id": one_or_all(c.eos_ids),
        }
    )


def rules(c: RecurrentConfig) -> list[Rule]:
    """Their names ↔ ours, which are equal."""
    parts = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    ways = ("", "_reverse")[: c.directions]
    names = ["embedding.weight"]
    names += [f"cells.{part}_l{i}{way}" for i in range(c.layers) for way in ways for part in parts]
    if c.state_width != c.width:
        names += ["project.weight", "project.bias"]
    if c.labels:
        return [same(name, name) for name in (*names, "head.weight", "head.bias")]
    names += ["bias"] if c.tie_embeddings else ["bias", "weight"]
    return [same(name, name) for name in names]


RECURRENT = Family(
    model_type="yanmo_recurrent",
    heads={
        "causal": "RecurrentForCausalLM",
        "sequence": "RecurrentForSequenceClassification",
        "token": "RecurrentForTokenClassification",
    },
    prefixes={"causal": "", "sequence": "", "token": ""},
    read_config=read_config,
    write_config=write_config,
    rules=rules,
    output="weight",
)
