"""Small encoders and encoder-decoders in the shapes of BERT, T5, BART and Marian, and batches for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from yanmo.models.config import TransformerConfig
from yanmo.models.initial import initialise
from yanmo.models.transformer import Transformer
from yanmo.tokens.batches import NO_TARGET, Batch
from yanmo.tokens.pairs import PairBatch, pair_rows

VOCAB = 53
SIZES: dict[str, Any] = {"vocab_size": VOCAB, "width": 16, "n_heads": 2, "ffn_width": 24}
BOTH: dict[str, Any] = {"encoder_layers": 2, "decoder_layers": 2, "decoder_start_id": 0}
T5: dict[str, Any] = BOTH | {"position": "relative", "relative_buckets": 8, "relative_max_distance": 11, "norm": "rms"}
T5 |= {"head_width": 10, "attention_scale": 1.0, "bias_qkv": False, "bias_out": False, "bias_ffn": False}
BART: dict[str, Any] = BOTH | {"norm_order": "post", "norm_embedding": True, "norm_final": False, "position_offset": 2}
BART |= {"logit_bias": True, "decoder_start_id": 2}
BERT: dict[str, Any] = {"encoder_layers": 2, "norm_order": "post", "norm_embedding": True, "norm_final": False}
BERT |= {"head": "masked", "logit_bias": True, "n_token_types": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "modern": {"encoder_layers": 2, "position": "relative", "norm": "rms", "relative_buckets": 8},
    "t5": T5 | {"activation": "relu", "logit_scale": 0.25},
    "t5-1.1": T5 | {"activation": "gelu_tanh", "gated": True, "tie_embeddings": False},
    "bart": BART,
    "marian": BART | {"position": "sinusoidal", "norm_embedding": False, "position_offset": 0, "embedding_scale": 4.0},
}
SHAPES["marian-2"] = SHAPES["marian"] | {"decoder_vocab_size": 47}
ENCODERS, PAIRS = ["bert", "modern"], ["t5", "t5-1.1", "bart", "marian", "marian-2"]


def shaped(kind: str, seed: int = 0, scale: float = 8.0, **options: Any) -> Transformer:
    """A network whose matrices are large enough that a leak moves everything by far more than a tolerance."""
    network = Transformer(TransformerConfig(**SIZES | SHAPES[kind] | options))
    initialise(network, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    return network.eval()


def masked_row(sizes: tuple[int, ...], seed: int = 0, share: float = 0.4) -> Batch:
    """One row of documents, a share of their positions with a target."""
    rng = np.random.default_rng(seed)
    ids = torch.from_numpy(rng.integers(3, VOCAB, sum(sizes)))[None]
    targets = torch.where(torch.from_numpy(rng.random(sum(sizes)) < share)[None], (ids + 1) % VOCAB, NO_TARGET)
    mask = torch.from_numpy(np.repeat(np.arange(1, len(sizes) + 1), sizes))[None]
    return Batch(ids, targets, mask)


def documents(batch: Batch) -> list[Batch]:
    """Each document of a row alone."""
    places = [batch.mask[0] == number for number in range(1, int(batch.mask.max()) + 1)]
    return [Batch(batch.ids[:, p], batch.targets[:, p], torch.ones_like(batch.ids[:, p])) for p in places]


def some_pairs(
    sizes: tuple[tuple[int, int], ...], seed: int = 0, high: int = 47
) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [(rng.integers(3, high, source), rng.integers(3, high, target)) for source, target in sizes]


def pair_batch(rows: list[list[tuple[np.ndarray, np.ndarray]]], network: Transformer) -> PairBatch:
    start = network.config.decoder_start_id
    assert start is not None
    return pair_rows(rows, start)
