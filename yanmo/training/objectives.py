"""What is minimised: a sum over target tokens and their number, never a mean, so that windows and ranks add up.

In: a network (models/protocol.py) and a batch (tokens/batches.py). Out: (loss_sum, n_targets).

    causal             the next token
    cross_entropy      Σ −ln p(target), in chunks: the logits of a whole batch never exist
    evaluate           bits per byte of validation batches, in bounded memory

    B rows, T columns, W width, N targets, V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yanmo.errors import InputError
from yanmo.tokens.batches import NO_TARGET, Batch

Logits = Callable[[Tensor], Tensor]
CHUNK = 1 << 23  # logits that exist at once: 32 MiB in float32


def causal(network: Any, batch: Batch) -> tuple[Tensor, int]:
    """Return Σ −ln p of the batch's targets in nats (a float32 scalar with its graph) and the number of targets."""
    hidden = network.decode(batch.ids, batch.mask)  # (B, T, W)
    return cross_entropy(network, hidden, batch.targets), batch.n_targets


def cross_entropy(network: Any, hidden: Tensor, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Return Σ −ln softmax(network.logits(hidden))[target] over the positions that have a target, softmax in float32.

    hidden (…, W), targets (…) with -100 for none. At most `chunk` logits exist at a time, forward and backward: each
    chunk's gradients are taken as soon as its loss is known, so nothing is computed twice. Where nothing is a target
    the sum is 0 with a zero gradient.
    """
    flat = targets.reshape(-1)
    kept = flat != NO_TARGET
    hidden = hidden.reshape(-1, hidden.shape[-1])
    if not bool(kept.all()):
        hidden, flat = hidden[kept], flat[kept]  # (N, W), (N,)
    if not len(flat):
        return hidden.sum().float()
    vocab_size = network.logits(hidden[:1].detach()).shape[-1]
    if bool((flat < 0).any()) or bool((flat >= vocab_size).any()):
        wrong = int(flat[(flat < 0) | (flat >= vocab_size)][0])
        raise InputError(
            f"a target is {wrong}, outside the vocabulary of {vocab_size} ids; "
            "use the tokenizer that belongs to the model"
        )
    rows = max(1, chunk // vocab_size)
    if len(flat) <= rows:
        return _loss(network.logits, hidden, flat)
    if not torch.is_grad_enabled():
        parts = zip(hidden.split(rows), flat.split(rows))
        return torch.stack([_loss(network.logits, part, target) for part, target in parts]).sum()
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return _Chunked.apply(network.logits, rows, flat, hidden, *parameters)


def _loss(logits: Logits, hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits(hidden).float(), targets, reduction="sum")


class _Chunked(torch.autograd.Function):
    """Loss and gradients of the head together, chunk by chunk; backward only scales what forward has found.

    All parameters of the network are arguments, since only autograd knows which of them the logits use.
    """

    @staticmethod
    def forward(ctx: Any, logits: Logits, rows: int, targets: Tensor, hidden: Tensor, *parameters: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        sums: list[Tensor | None] = [None] * len(parameters)
        for begin in range(0, len(targets), rows):
            part = hidden[begin : begin + rows].detach().requires_grad_()
            with torch.enable_grad():
                loss = _loss(logits, part, targets[begin : begin + rows])
            first, *others = torch.autograd.grad(loss, (part, *parameters), allow_unused=True)
            hidden_gradient[begin : begin + rows] = first
            for place, gradient in enumerate(others):
                known = sums[place]
                if gradient is not None and known is None:
                    sums[place] = gradient.float()  # a sum over many chunks loses too much in bfloat16
                elif gradient is not None and known is not None:
                    known.add_(gradient)
            total += loss.detach()
        ctx.used = [place for place, gradient in enumerate(sums) if gradient is not None]
        ctx.dtypes = [parameter.dtype for parameter in parameters]
        ctx.save_for_backward(hidden_gradient, *(sums[place] for place in ctx.used))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, *sums = ctx.saved_tensors
        gradients: list[Tensor | None] = [None] * len(ctx.dtypes)
        for place, gradient in zip(ctx.used, sums):
            gradients[place] = (gradient * upstream).to(ctx.dtypes[place])
        return None, None, None, hidden_gradient * upstream.to(hidden_gradient.dtype), *gradients


# --- evaluation


@dataclass(frozen=True)
class Evaluation:
    """A loss over whole documents: `nats` summed over `tokens` targets, over `n_bytes` bytes of their text."""

    nats: float
    tokens: int
    n_bytes: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Independent of the tokenizer (docs/design.md, Loss)."""
        return self.nats / math.log(2) / self.n_bytes


def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    n_bytes: int,
    objective: Callable[[Any, Batch], tuple[Tensor, int]] = causal,
) -> Evaluation:
    """Return the loss of `network` over batches (`validation_batches`) whose text has `n_bytes` bytes.

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
    if not tokens or n_bytes < 1:
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
