"""Small networks of every kind, and a small device, for the tests of the plan."""

from __future__ import annotations

from typing import Any

from yanmo.plan.devices import Device

SIZES: dict[str, Any] = {"vocab_size": 97, "width": 64, "n_heads": 4, "ffn_width": 160}
QWEN: dict[str, Any] = {"position": "rotary", "norm": "rms", "norm_query_key": True, "activation": "silu"}
QWEN |= {"gated": True, "bias_qkv": False, "bias_out": False, "bias_ffn": False, "n_kv_heads": 2}
T5: dict[str, Any] = {"position": "relative", "norm": "rms", "activation": "relu", "bias_qkv": False}
BERT: dict[str, Any] = {"encoder_layers": 3, "norm_order": "post", "norm_embedding": True, "norm_final": False}
DROPOUT: dict[str, Any] = dict.fromkeys(("dropout", "embedding_dropout", "activation_dropout"), 0.1)
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"decoder_layers": 3},
    "post": {"decoder_layers": 3, "norm_order": "post", "norm_final": False},
    "qwen3": {"decoder_layers": 3, **QWEN},
    "llama": {"decoder_layers": 3, **QWEN, "norm_query_key": False},
    "relu": {"decoder_layers": 3, "activation": "relu"},
    "relu_squared": {"decoder_layers": 3, "activation": "relu_squared", "gated": True},
    "dropout": {"decoder_layers": 3, **DROPOUT},
    "attention_dropout": {"decoder_layers": 3, "attention_dropout": 0.1},
    "windows": {"decoder_layers": 3, "windows": (8, 8, 8)},
    "bert": {**BERT, "n_token_types": 2, "head": "masked"},
    "t5": {"encoder_layers": 3, "decoder_layers": 3, **T5},
    "bart": {"encoder_layers": 3, "decoder_layers": 3},
}
PLACE = Device(
    name="small",
    title="a small device",
    kind="cuda",
    memory=4e9,
    watts=100.0,
    flops={"float32": 1e12, "bfloat16": 4e12},
)
