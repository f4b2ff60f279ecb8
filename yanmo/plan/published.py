"""Models and runs of the literature, with their sources, so that the arithmetic can be held against what was published.

    PUBLISHED    name → Published: a config, and where they were published tokens, devices, utilisation, device hours
    CHINCHILLA   tokens per parameter where a model's own number is not known

A utilisation is the share of the peak in which the devices really multiplied, recomputation included where there was
any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from yanmo.models.config import TransformerConfig

CHINCHILLA = 20  # Hoffmann et al. 2022, table 3: about 20 tokens per parameter at every size
BROWN = "Brown et al. 2020, arXiv 2005.14165, tables 2.1 and D.1"
TOUVRON = "Touvron et al. 2023, arXiv 2307.09288, tables 1 and 2"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A model of the literature. hours: device hours of the published run; flops, parameters: as published."""

    name: str
    config: TransformerConfig
    context: int
    source: str
    tokens: float | None = None
    parameters: float | None = None
    flops: float | None = None
    device: str | None = None
    hours: float | None = None
    utilisation: float | None = None
    utilisation_source: str = ""
    recompute: bool = False


def _gpt(layers: int, width: int, heads: int, context: int, **others: Any) -> TransformerConfig:
    """GPT-2 and GPT-3: learned positions, tied embeddings, four times the width between."""
    values: dict[str, Any] = {"vocab_size": 50257, "width": width, "n_heads": heads, "ffn_width": 4 * width}
    values |= {"decoder_layers": layers, "max_positions": context, "activation": "gelu_tanh"}
    return TransformerConfig(**values | others)


def _llama(layers: int, width: int, heads: int, ffn_width: int, context: int, kv_heads: int = 0) -> TransformerConfig:
    values: dict[str, Any] = {"position": "rotary", "norm": "rms", "activation": "silu", "gated": True}
    values |= dict.fromkeys(("bias_qkv", "bias_out", "bias_ffn", "tie_embeddings"), False)
    return TransformerConfig(
        vocab_size=32000,
        width=width,
        n_heads=heads,
        n_kv_heads=kv_heads,
        ffn_width=ffn_width,
        decoder_layers=layers,
        max_positions=context,
        **values,
    )


# Layers, width, heads, millions of parameters and FLOPs as table D.1 prints them. Table 2.1 gives the XL model 24 heads
# of 128 and the 13B model a width of 5140; the parameters of table D.1 follow from 16 heads and from 5120.
_GPT3 = {
    "gpt3-125m": (12, 768, 12, 125, 2.25e20),
    "gpt3-350m": (24, 1024, 16, 356, 6.41e20),
    "gpt3-760m": (24, 1536, 16, 760, 1.37e21),
    "gpt3-1.3b": (24, 2048, 16, 1320, 2.38e21),
    "gpt3-2.7b": (32, 2560, 32, 2650, 4.77e21),
    "gpt3-6.7b": (32, 4096, 32, 6660, 1.20e22),
    "gpt3-13b": (40, 5120, 40, 12850, 2.31e22),
    "gpt3-175b": (96, 12288, 96, 174600, 3.14e23),
}
_GPT2 = {  # Radford et al. 2019, table 2; the parameters are those of the released weights
    "gpt2": (12, 768, 12, 124.44e6),
    "gpt2-medium": (24, 1024, 16, 354.82e6),
    "gpt2-large": (36, 1280, 20, 774.03e6),
    "gpt2-xl": (48, 1600, 25, 1557.61e6),
}
# Touvron et al. 2023a (LLaMA, arXiv 2302.13971), §2.4: 380 tokens per second and A100-80GB with 65.2e9 parameters, 80
# layers of width 8192 and a context of 2048: 380 × (6 × 65.2e9 + 12 × 80 × 8192 × 2048) / 312e12 = 0.496.
_LLAMA_UTILISATION = 380 * (6 * 65.2e9 + 12 * 80 * 8192 * 2048) / 312e12
_LLAMA_SOURCE = (
    "the Llama 2 paper has none; LLaMA 65B's 380 tokens per second and GPU (arXiv 2302.13971, §2.4), so derived"
)


def _llama2(name: str, config: TransformerConfig, parameters: float, hours: float) -> Published:
    return Published(
        name=name,
        config=config,
        context=4096,
        source=TOUVRON,
        tokens=2e12,
        parameters=parameters,
        device="a100-80gb",
        hours=hours,
        utilisation=_LLAMA_UTILISATION,
        utilisation_source=_LLAMA_SOURCE,
    )


_MODELS = (
    *(
        Published(
            name=name,
            config=_gpt(layers, width, heads, 1024),
            context=1024,
            parameters=count,
            source="Radford et al. 2019, table 2",
        )
        for name, (layers, width, heads, count) in _GPT2.items()
    ),
    *(
        Published(
            name=name,
            config=_gpt(layers, width, heads, 2048),
            context=2048,
            tokens=300e9,
            parameters=millions * 1e6,
            flops=flops,
            source=BROWN,
        )
        for name, (layers, width, heads, millions, flops) in _GPT3.items()
    ),
    Published(
        name="bloom-176b",
        config=_gpt(70, 14336, 112, 2048, vocab_size=250880, position="none", norm_embedding=True),
        context=2048,
        tokens=366e9,
        parameters=176_247e6,
        device="a100-80gb",
        hours=1_082_990,
        utilisation=156 / 312,
        utilisation_source="156 TFLOP/s per GPU, recomputation counted (BigScience 2022, arXiv 2211.05100; the "
        "project's notes on its run tr11-176B-ml)",
        recompute=True,
        source="BigScience 2022, arXiv 2211.05100; Luccioni et al. 2022, arXiv 2211.02001, table 1",
    ),
    _llama2("llama2-7b", _llama(32, 4096, 32, 11008, 4096), 6.74e9, 184_320),
    _llama2("llama2-13b", _llama(40, 5120, 40, 13824, 4096), 13.02e9, 368_640),
    _llama2("llama2-70b", _llama(80, 8192, 64, 28672, 4096, kv_heads=8), 68.98e9, 1_720_320),
    Published(
        name="tinyllama-1.1b",
        config=_llama(22, 2048, 32, 5632, 2048, kv_heads=4),
        context=2048,
        tokens=3e12,
        parameters=1.1e9,
        device="a100-40gb",
        hours=90 * 24 * 16,
        utilisation=0.56,
        utilisation_source="56 %, 24,000 tokens per second and GPU, as the project states",
        source="github.com/jzhang38/TinyLlama: 90 days on 16 A100-40G",
    ),
)
PUBLISHED: dict[str, Published] = {model.name: model for model in _MODELS}
