"""The head and what is computed from its logits, in chunks: the logits of a whole batch never exist.

In: a network, hidden vectors (N, W), and what belongs to each of them. Out: a sum, or one number for each.

    targeted         hidden and targets of the positions that have one
    chunked_sum      Σ score(logits, …), its gradients taken chunk by chunk, so that nothing is computed twice
    negative_log_likelihood      the commonest score, Σ −ln p(target)
    log_probs        ln p(target) of each position, computed again in backward, for losses that are no plain sum

    N positions, W width, V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from yanmo.errors import InputError
from yanmo.tokens.batches import NO_TARGET

Score = Callable[..., Tensor]  # (logits (n, V), the n rows of what is given) → a float32 scalar, the sum over n
CHUNK = 1 << 23  # logits that exist at once: 32 MiB in float32


def targeted(network: Any, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden (N, W) and targets (N,) of the positions of hidden (…, W) that have a target, which is checked."""
    flat = targets.reshape(-1)
    kept = flat != NO_TARGET
    hidden = hidden.reshape(-1, hidden.shape[-1])
    if not bool(kept.all()):
        hidden, flat = hidden[kept], flat[kept]
    size = network.config.output_size
    if bool((flat < 0).any()) or bool((flat >= size).any()):
        wrong = int(flat[(flat < 0) | (flat >= size)][0])
        raise InputError(
            f"a target is {wrong}, outside the vocabulary of {size} ids; use the tokenizer that belongs to the model"
        )
    return hidden, flat


def chunked_sum(network: Any, hidden: Tensor, given: tuple[Tensor, ...], score: Score, chunk: int = CHUNK) -> Tensor:
    """Return Σ score(network.logits(hidden), *given), a float32 scalar; hidden (N, W) and each of `given` have N rows.

    At most `chunk` logits exist at a time, forward and backward. No gradient goes into `given`. Where N is 0 the sum is
    0 with a zero gradient.
    """
    if not len(hidden):
        return hidden.sum().float()
    rows = max(1, chunk // network.config.output_size)
    if len(hidden) <= rows:
        return score(network.logits(hidden), *given)
    if not torch.is_grad_enabled():
        parts = zip(hidden.split(rows), *(tensor.split(rows) for tensor in given))
        return torch.stack([score(network.logits(part), *others) for part, *others in parts]).sum()
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def part_score(part: Tensor, begin: int) -> Tensor:
        return score(network.logits(part), *(tensor[begin : begin + rows] for tensor in given))

    return _Chunked.apply(part_score, rows, hidden, *parameters)


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """Return Σ −ln softmax(logits)[target], softmax in float32, over logits (N, V) and targets (N,)."""
    if torch.is_grad_enabled() and logits.requires_grad:
        return _NegativeLogLikelihood.apply(logits, targets)
    return F.cross_entropy(logits.float(), targets, reduction="sum")


class _NegativeLogLikelihood(torch.autograd.Function):
    """The same with its gradient, softmax − one-hot, made in the memory of the forward pass; backward runs once.

    On a CPU 2.5 times as fast as what autograd composes (docs/log.md).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        shares = torch.log_softmax(logits, -1, dtype=torch.float32)  # (N, V)
        ctx.shares, ctx.targets, ctx.dtype = shares, targets[:, None], logits.dtype
        return -shares.gather(1, ctx.targets).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        assert ctx.shares is not None, "the gradient has taken the place of what it is made of; it is made once"
        gradient, ctx.shares = ctx.shares.exp_(), None
        gradient.scatter_add_(1, ctx.targets, gradient.new_full(ctx.targets.shape, -1.0))
        return (gradient if bool(upstream == 1) else gradient.mul_(upstream)).to(ctx.dtype), None


class _Chunked(torch.autograd.Function):
    """Score and gradients together, chunk by chunk; backward only scales what forward has found.

    All parameters of the network are arguments, since only autograd knows which of them the logits use.
    """

    @staticmethod
    def forward(
        ctx: Any, score: Callable[[Tensor, int], Tensor], rows: int, hidden: Tensor, *parameters: Tensor
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        sums: list[Tensor | None] = [None] * len(parameters)
        for begin in range(0, len(hidden), rows):
            part = hidden[begin : begin + rows].detach().requires_grad_()
            with torch.enable_grad():
                loss = score(part, begin)
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
        return None, None, hidden_gradient * upstream.to(hidden_gradient.dtype), *gradients


def log_probs(network: Any, hidden: Tensor, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Return ln softmax(network.logits(hidden))[target], float32 (N,), of hidden (N, W) and targets (N,)."""

    def part(given: Tensor, wanted: Tensor) -> Tensor:
        return -F.cross_entropy(network.logits(given).float(), wanted, reduction="none")

    if not len(targets):
        return hidden.sum(-1).float()
    rows = max(1, chunk // network.config.output_size)
    parts = zip(hidden.split(rows), targets.split(rows))
    if len(targets) <= rows or not torch.is_grad_enabled():
        return torch.cat([part(*pair) for pair in parts])
    return torch.cat([checkpoint(part, *pair, use_reentrant=False, preserve_rng_state=False) for pair in parts])
