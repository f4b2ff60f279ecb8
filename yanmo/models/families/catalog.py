"""The families by the `model_type` of their config.json. Adding one is a file, a line here, and a line in the tests."""

from __future__ import annotations

from yanmo.models.families import bart, bert, gpt2, llama, m2m, mbart, recurrent, t5
from yanmo.models.families.table import Family

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        gpt2.FAMILY,
        bert.BERT,
        bert.ROBERTA,
        bert.XLM_ROBERTA,
        t5.T5,
        t5.MT5,
        bart.MARIAN,
        bart.BART,
        mbart.MBART,
        m2m.M2M100,
        llama.LLAMA,
        llama.MISTRAL,
        llama.QWEN2,
        llama.QWEN3,
        recurrent.RECURRENT,
    )
}
