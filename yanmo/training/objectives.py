"""What is minimised: a sum over target tokens and their number, never a mean, so that windows and ranks add up.

In: a network (models/protocol.py) and a batch (tokens/batches.py). Out: (loss_sum, n_targets).

    causal             the next token
    cross_entropy      Σ −ln p(target), in chunks (chunked.py): the logits of a whole batch never exist
    evaluate           bits per byte of validation batches, in bounded memory

Other objectives stand in language.py, preference.py and distill.py.

    B rows, T columns, W width
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yanmo.errors import InputError
from yanmo.tokens.batches import Batch
from yanmo.training.chunked import CHUNK, chunked_sum, negative_log_likelihood, targeted


def causal(network: Any, batch: Batch) -> tuple[Tensor, int]:
    """Return Σ −ln p of the batch's targets in nats (a float32 scalar with its graph) and the number of targets."""
    hidden = network.decode(batch.ids, batch.mask)  # (B, T, W)
    return cross_entropy(network, hidden, batch.targets), batch.n_targets


def cross_entropy(network: Any, hidden: Tensor, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Return Σ −ln softmax(network.logits(hidden))[target] over the positions that have a target, softmax in float32.

    hidden (…, W), targets (…) with -100 for none. At most `chunk` logits exist at a time, forward and backward. Where
    nothing is a target the sum is 0 with a zero gradient.
    """
    hidden, flat = targeted(network, hidden, targets)
    return chunked_sum(network, hidden, (flat,), negative_log_likelihood, chunk)


# --- evaluation


@dataclass(frozen=True)
class Evaluation:
    """A loss over whole documents: `nats` summed over `tokens` targets, over `n_bytes` bytes of their text.

    n_bytes is None where not all of the text is predicted, as by masks or of answers alone.
    """

    nats: float
    tokens: int
    n_bytes: int | None

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Independent of the tokenizer (docs/design.md, Loss)."""
        assert self.n_bytes is not None, "bits per byte of a part of the text"
        return self.nats / math.log(2) / self.n_bytes


def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    n_bytes: int | None = None,
    objective: Callable[[Any, Batch], tuple[Tensor, int]] = causal,
) -> Evaluation:
    """Return the loss of `network` over batches (`validation_batches`) whose text has `n_bytes` bytes, where it counts.

    Memory does not grow with the number of batches. The network is in evaluation mode meanwhile, and back in its own
    mode after. An empty validation set is an error.
    """
    nats, tokens = 0.0, 0
    device = next(network.parameters()).device
    with evaluating(network), torch.no_grad():
        for batch in batches:
            loss, count = objective(network, batch.to(device))
            nats += float(loss)
            tokens += count
    if not tokens or n_bytes == 0:
        raise InputError("the validation set has no text; raise data.valid_share or add documents")
    return Evaluation(nats, tokens, n_bytes)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; the mode of every submodule is put back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
