"""mBART (Liu et al. 2020; Tang et al. 2020): BART with the norms before each part, and one more after each stack.

Its languages are tokens of the vocabulary: one stands with the source, one begins the target. Which ones is said by
generation_config.json and the tokenizer, and chosen by the caller (tasks/translation.py).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from yanmo.models.config import Head, TransformerConfig
from yanmo.models.families import bart
from yanmo.models.families.table import Family, Foreign, Rule, norm


def read_config(f: Foreign, head: Head) -> TransformerConfig:
    """config.json → TransformerConfig."""
    f.only("normalize_before", True)
    f.only("add_final_layer_norm", True)
    f.only("normalize_embedding", True)
    norms = {"normalize_before", "add_final_layer_norm", "normalize_embedding"}
    like = Foreign({k: v for k, v in f.values.items() if k not in norms} | {"model_type": "bart"}, f.source)
    config = bart.read_config(like, head)
    f.used |= like.used
    return dataclasses.replace(config, norm_order="pre", norm_final=True)


def rules(c: TransformerConfig) -> list[Rule]:
    """Their names ↔ ours."""
    table = bart.rules(c)
    for side in ("encoder", "decoder"):
        table += norm(f"~{side}.layer_norm", f"{side}.norm")
    return table


def _write(c: TransformerConfig) -> dict[str, Any]:
    norms = {"normalize_before": True, "add_final_layer_norm": True, "normalize_embedding": True}
    return bart.BART.write_config(c) | norms


MBART = Family(
    model_type="mbart",
    heads={head: name.replace("Bart", "MBart") for head, name in bart.BART.heads.items()},
    prefixes=bart.BART.prefixes,
    read_config=read_config,
    write_config=_write,
    rules=rules,
    ignored=bart.BART.ignored,
)
