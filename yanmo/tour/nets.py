"""The neural models of a tour: a ladder of sizes, what a token costs on each rung, and which rung fits the time.

In: a vocabulary, a rung. Out: configs of yanmo.models; parameters and operations as numbers.

    transformer, lstm        the rung's config
    parameters, per_token    weights in all; floating-point operations of training on one token
    fitting_rung             the largest rung that still reads enough tokens in its time
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from yanmo.models.config import RecurrentConfig, TransformerConfig

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


def parameters(config: Config) -> int:
    """All weights, the tied table of tokens counted once."""
    return config.vocab_size * config.width + _inner(config)


def _inner(config: Config) -> int:
    """Weights besides the table of tokens."""
    if isinstance(config, RecurrentConfig):
        cell = 4 * (config.width * config.hidden_width + config.hidden_width**2 + 2 * config.hidden_width)
        return cell * config.layers + config.vocab_size  # the output has a bias
    c = config
    attention = 2 * c.width * c.head_width * (c.n_heads + c.n_kv_heads) + 2 * c.head_width
    return c.decoder_layers * (attention + 3 * c.width * c.ffn_width + 2 * c.width) + c.width


def per_token(config: Config, length: int) -> float:
    """Operations of forward and backward for one token in rows of `length`: 6 for each weight that it passes, the
    output layer included, and 6 · layers · width · length for causal attention (Kaplan et al. 2020, §2.1)."""
    passed = parameters(config)  # the table is passed once, as the output layer
    looked = 0 if isinstance(config, RecurrentConfig) else config.decoder_layers * config.width * length
    return 6.0 * (passed + looked)


def fitting_rung(make: Callable[[int], Config], speed: float, seconds: float, length: int) -> int:
    """The largest rung whose model, at `speed` operations a second, reads ENOUGH tokens per weight in `seconds`."""
    best = 0
    for rung in range(len(RUNGS)):
        config = make(rung)
        tokens = speed * seconds / per_token(config, length)
        if tokens >= ENOUGH * parameters(config):
            best = rung
    return best
