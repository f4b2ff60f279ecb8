"""M2M100 (Fan et al. 2021), and NLLB (NLLB Team 2022), which is saved as one: mBART's norms with fairseq's sinusoids.

The sinusoids begin behind the padding's own row, and their slowest pair is at the base itself: of H pairs pair k turns
by 10000^(−k/(H−1)) a position, where Marian has 10000^(−k/H). That is Marian's formula with the base 10000^(H/(H−1)).
No norm follows the embedding, and no bias is added to the logits.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from yanmo.models.config import Head, TransformerConfig
from yanmo.models.families import bart, mbart
from yanmo.models.families.table import Family, Foreign

DEFAULTS: dict[str, Any] = {  # where a file leaves out what BART has another default for
    "vocab_size": 128112,
    "activation_function": "relu",
    "attention_dropout": 0.1,
    "scale_embedding": True,
}


def read_config(f: Foreign, head: Head) -> TransformerConfig:
    """config.json → TransformerConfig."""
    f.only("normalize_before", True)
    f.only("add_final_layer_norm", True)
    f.only("normalize_embedding", False)
    norms = {"normalize_before", "add_final_layer_norm", "normalize_embedding"}
    told = {key: value for key, value in f.values.items() if key not in norms and value is not None}
    like = Foreign(DEFAULTS | told | {"model_type": "bart"}, f.source)
    config = bart.read_config(like, head)
    f.used |= like.used
    pairs = config.width // 2
    if pairs < 2:
        raise f.error(f"d_model is {config.width}, and sinusoids of this family need 4 or more")
    return dataclasses.replace(
        config,
        position="sinusoidal",
        position_offset=(config.pad_id or 0) + 1,
        rope_theta=10000.0 ** (pairs / (pairs - 1)),
        norm_order="pre",
        norm_embedding=False,
        norm_final=True,
        logit_bias=False,
    )


M2M100 = Family(
    model_type="m2m_100",
    heads={"none": "M2M100Model", "causal": "M2M100ForConditionalGeneration"},
    prefixes={"none": "", "causal": "model."},
    read_config=read_config,
    write_config=bart.BART.write_config,
    rules=mbart.rules,
    ignored=[
        *bart.BART.ignored,
        (r"embed_positions\.(weights|_float_tensor)$", "sinusoids, which are computed"),
    ],
)
