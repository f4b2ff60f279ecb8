"""The neural models of a tour: a ladder of sizes, and which rung fits the time.

In: a vocabulary, a rung. Out: configs of yanmo.models. What a token costs on a rung is the plan's to count.

    transformer, lstm        the rung's config
    fitting_rung             the largest rung that still reads enough tokens in its time
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.plan.count import parameters, training_flops

Config = TransformerConfig | RecurrentConfig
# (layers, width) of the Transformer; width of the two-layer LSTM
RUNGS = ((2, 128), (3, 192), (4, 256), (5, 320), (6, 384), (8, 512), (10, 640), (12, 768))
LSTM_LAYERS = 2
HEAD_WIDTH = 64
MAX_POSITIONS = 1024
ENOUGH = 0.6  # tokens that a model must read for each of its weights: fewer steps of a larger model lost, measured


def transformer(rung: int, vocab_size: int, end_id: int, dropout: float = 0.0) -> TransformerConfig:
    """A decoder of the Qwen3 family: rotary positions, RMS norms, normed queries and keys, gated feed-forward, tied."""
    layers, width = RUNGS[rung]
    return TransformerConfig(
        vocab_size=vocab_size,
        width=width,
        n_heads=width // HEAD_WIDTH,
        head_width=HEAD_WIDTH,
        ffn_width=3 * width,
        decoder_layers=layers,
        max_positions=MAX_POSITIONS,
        position="rotary",
        norm="rms",
        norm_eps=1e-6,
        norm_query_key=True,
        activation="silu",
        gated=True,
        bias_qkv=False,
        bias_out=False,
        bias_ffn=False,
        bos_id=None,
        eos_ids=(end_id,),
        dropout=dropout,
        pool="last",
    )


def lstm(rung: int, vocab_size: int, end_id: int, dropout: float = 0.0) -> RecurrentConfig:
    """Two layers of LSTM cells with tied embeddings."""
    width = RUNGS[rung][1]
    return RecurrentConfig(
        cell="lstm", vocab_size=vocab_size, width=width, layers=LSTM_LAYERS, eos_ids=(end_id,), dropout=dropout
    )


def dropout(epochs: float) -> float:
    """Dropout for a text that is read several times: none up to four (Muennighoff et al. 2023), then more."""
    return 0.0 if epochs <= 4 else min(0.05 * math.log2(epochs), 0.3)


def without_dropout(config: Config) -> Config:
    """The config of the trained model."""
    return dataclasses.replace(config, dropout=0.0)


def layers(config: Config) -> int:
    """The number of layers."""
    return config.layers if isinstance(config, RecurrentConfig) else config.decoder_layers


def described(config: Config, rows: int, length: int, rate: float) -> str:
    """The shape in words."""
    kind = (
        f"{config.layers} layers of LSTM cells, width {config.width}, the output through the embedding"
        if isinstance(config, RecurrentConfig)
        else f"{config.decoder_layers} layers, width {config.width}, {config.n_heads} heads of {config.head_width}, "
        f"gated feed-forward of {config.ffn_width}, rotary positions, RMS norms, normed queries and keys, the output "
        "through the embedding (the Qwen3 family)"
    )
    more = f", dropout {rate:.2f}" if rate else ""
    return f"{kind}; batches of {rows} rows of {length} tokens{more}; Muon and AdamW"


def fitting_rung(make: Callable[[int], Config], speed: float, seconds: float, length: int) -> int:
    """The largest rung whose model, at `speed` operations a second, reads ENOUGH tokens per weight in `seconds`."""
    best = 0
    for rung in range(len(RUNGS)):
        config = make(rung)
        tokens = speed * seconds / training_flops(config, length)
        if tokens >= ENOUGH * parameters(config):
            best = rung
    return best
