"""Small networks and corpora for the tests of the training room."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.models.initial import initialise
from yanmo.models.recurrent import Recurrent
from yanmo.models.transformer import Transformer
from yanmo.tokens.batches import NO_TARGET, Batch
from yanmo.tokens.shards import TokenShards, write_shards

VOCAB = 61
NETWORKS = ["qwen3", "gpt2", "lstm"]


def network(kind: str = "qwen3", seed: int = 0, dropout: float = 0.0, **options: Any) -> Transformer | Recurrent:
    config: TransformerConfig | RecurrentConfig
    if kind == "lstm":
        config = RecurrentConfig(cell="lstm", vocab_size=VOCAB, width=16, layers=2, dropout=dropout, **options)
        built: Transformer | Recurrent = Recurrent(config)
    else:
        values: dict[str, Any] = {"vocab_size": VOCAB, "width": 16, "n_heads": 2, "ffn_width": 24, "decoder_layers": 2}
        if kind == "qwen3":
            values |= {"position": "rotary", "norm": "rms", "norm_query_key": True, "activation": "silu", "gated": True}
            values |= {"bias_qkv": False, "bias_out": False, "bias_ffn": False, "n_kv_heads": 1}
        config = TransformerConfig(**values | {"dropout": dropout, "attention_dropout": dropout} | options)
        built = Transformer(config)
    initialise(built, torch.Generator().manual_seed(seed))
    return built.eval()


def batch(rows: int, length: int, seed: int = 0, targets: float = 1.0) -> Batch:
    """Random rows of one document each; a share of the positions has a target."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB, (rows, length + 1), generator=generator)
    wanted = ids[:, 1:].clone()
    wanted[torch.rand(rows, length, generator=generator) >= targets] = NO_TARGET
    return Batch(ids[:, :-1].contiguous(), wanted, torch.ones_like(wanted))


def joined(batches: list[Batch]) -> Batch:
    return Batch(*(torch.cat(parts) for parts in zip(*batches)))


def corpus(folder: Path, documents: int = 40, seed: int = 0) -> TokenShards:
    """Documents in which each id follows from the one before: there is something to learn."""
    rng = random.Random(seed)
    texts = []
    for _ in range(documents):
        ids = [rng.randrange(3, VOCAB)]
        for _ in range(rng.randrange(1, 30)):
            ids.append((ids[-1] * 7 + rng.randrange(2)) % (VOCAB - 3) + 3)
        texts.append(ids)
    n_bytes = sum(map(len, texts))
    return write_shards(texts, folder, tokenizer_hash="h", vocab_size=VOCAB, n_bytes=n_bytes, start_id=1, end_id=2)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
