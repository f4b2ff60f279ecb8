"""Objectives beside the causal one: masked tokens, and source → target.

In: a network (models/protocol.py) and a batch. Out: (loss_sum, n_targets), as in objectives.py.

    masked          what is hidden (tokens/corrupted.py masked_batches); the head computes the hidden positions alone
    seq2seq         the target (tokens/pairs.py), with label smoothing where it is wanted
    decoded, encoded, translated     the hidden that each objective scores; distillation uses them too

    B rows, T columns, S columns of the source, W width
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from yanmo.errors import InputError
from yanmo.tokens.batches import Batch
from yanmo.tokens.pairs import PairBatch
from yanmo.training.chunked import CHUNK, chunked_sum, negative_log_likelihood, targeted


def decoded(network: Any, batch: Batch) -> Tensor:
    """The hidden (B, T, W) of a decoder."""
    return network.decode(batch.ids, batch.mask)


def encoded(network: Any, batch: Batch) -> Tensor:
    """The hidden (B, T, W) of an encoder."""
    return network.encode(batch.ids, batch.mask)


def translated(network: Any, batch: PairBatch) -> Tensor:
    """The hidden (B, T, W) of an encoder-decoder's decoder."""
    memory = network.encode(batch.source, batch.source_mask)  # (B, S, W)
    return network.decode(batch.ids, batch.mask, memory=memory, memory_mask=batch.source_mask)


def masked(network: Any, batch: Batch) -> tuple[Tensor, int]:
    """Return Σ −ln p of what was hidden, and how many tokens that is (Devlin et al. 2019, §3.1)."""
    return smoothed(network, encoded(network, batch), batch.targets)


def seq2seq(network: Any, batch: PairBatch, *, smoothing: float = 0.0) -> tuple[Tensor, int]:
    """Return the loss of the targets given their sources, summed, and the number of targets.

    smoothing: the share of each target's weight that goes to all tokens alike (Szegedy et al. 2016, §7; 0.1 in Vaswani
    et al. 2017); with functools.partial it makes an objective of the loop.
    """
    return smoothed(network, translated(network, batch), batch.targets, smoothing)


def smoothed(
    network: Any, hidden: Tensor, targets: Tensor, smoothing: float = 0.0, chunk: int = CHUNK
) -> tuple[Tensor, int]:
    """Return the cross-entropy with label smoothing of hidden (…, W), summed over targets (…), and their number."""
    if not 0 <= smoothing < 1:
        raise InputError(f"label smoothing is {smoothing}; choose a share from 0 and below 1")
    hidden, wanted = targeted(network, hidden, targets)
    if not smoothing:
        return chunked_sum(network, hidden, (wanted,), negative_log_likelihood, chunk), len(wanted)

    def score(logits: Tensor, part: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), part, reduction="sum", label_smoothing=smoothing)

    return chunked_sum(network, hidden, (wanted,), score, chunk), len(wanted)
