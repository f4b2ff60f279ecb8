"""AdamW (Loshchilov & Hutter 2019) on a CPU, in pieces that stay in the cache.

In: parameters with gradients, which may be in bfloat16 or rows of a table (sparse). Out: changed parameters.

    AdamW        torch.optim.AdamW's numbers and state, without a float32 copy of all gradients
    norm         of gradients in any of these forms

A piece of a gradient is turned into float32 and scaled where it is used, so a clipped step in bfloat16 needs neither
the memory for such a copy nor the passes over it. A table of which a batch reads few rows gives those rows alone; the
update is that of a gradient which is 0 elsewhere, as moments fall and parameters move without one too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

PIECE = 1 << 20  # numbers that are updated at once: with their moments and gradient 16 MiB


class Part(NamedTuple):
    """A flat part of a gradient in float32: the gradient's number, the first of its numbers, the numbers."""

    gradient: int
    begin: int
    numbers: Tensor


class AdamW:
    """The part of torch.optim.AdamW's interface that Optimizer uses; parameters are float32 and contiguous."""

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        self.param_groups = [{"lr": lr, "betas": betas, "eps": eps, **group} for group in groups]
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """Update every parameter that has a gradient, with `scale` × the gradient."""
        factor = torch.tensor(1 / scale)
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            self._begin([parameter for parameter in given if parameter not in self.state])
            for parts in pieces([parameter.grad for parameter in given]):
                self._update(group, given, parts, factor)
            for parameter in given:
                self.state[parameter]["step"] += 1

    def _begin(self, parameters: list[nn.Parameter]) -> None:
        """Moments of 0, all in one piece of memory: what lives long leaves no holes among what is freed every step."""
        sizes = [parameter.numel() for parameter in parameters]
        rooms = [torch.zeros(sum(sizes)).split(sizes) for _ in range(2)]
        for parameter, first, second in zip(parameters, *rooms):
            moments = {"exp_avg": first.view_as(parameter), "exp_avg_sq": second.view_as(parameter)}
            self.state[parameter] = {"step": torch.zeros(()), **moments}

    def _update(self, group: dict[str, Any], given: list[nn.Parameter], parts: list[Part], factor: Tensor) -> None:
        beta1, beta2 = group["betas"]
        tensors: list[list[Tensor]] = [[], [], [], []]
        for number, begin, gradient in parts:
            state, place = self.state[given[number]], slice(begin, begin + len(gradient))
            wholes = (given[number].detach(), state["exp_avg"], state["exp_avg_sq"])
            for kind, whole in zip(tensors, wholes):
                kind.append(whole.view(-1)[place])
            tensors[3].append(state["step"].clone())  # counted on by this function, and by `step` once
        adamw(
            tensors[0],
            [gradient for _, _, gradient in parts],
            tensors[1],
            tensors[2],
            [],
            tensors[3],
            fused=True,
            grad_scale=factor,  # gradients are divided by it
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def pieces(gradients: Sequence[Tensor], size: int = PIECE) -> Iterator[list[Part]]:
    """Yield parts of gradients of `size` numbers together; the next parts take the place of the last.

    A sparse gradient (rows of a table) must be coalesced.
    """
    parts: list[Part] = []
    room, used = torch.empty(size), 0
    for number, gradient in enumerate(gradients):
        step = max(1, size // gradient.shape[1]) * gradient.shape[1] if gradient.is_sparse else size
        assert step <= size, "a row of a table fits into one piece"
        for begin in range(0, gradient.numel(), step):
            count = min(step, gradient.numel() - begin)
            if used + count > size:
                yield parts
                used, parts = 0, []
            part = room[used : used + count]
            if gradient.is_sparse:
                _rows_into(part.view(-1, gradient.shape[1]), gradient, begin // gradient.shape[1])
            else:
                part.copy_(gradient.reshape(-1)[begin : begin + count])
            parts.append(Part(number, begin, part))
            used += count
    if parts:
        yield parts


def _rows_into(room: Tensor, gradient: Tensor, begin: int) -> None:
    """The rows from `begin` on of a table, 0 where it has none."""
    places, values = gradient.indices()[0], gradient.values()  # ascending
    first, last = torch.searchsorted(places, torch.tensor([begin, begin + len(room)])).tolist()
    room.zero_()[places[first:last] - begin] = values[first:last].float()


def coalesced(gradient: Tensor) -> Tensor:
    """The rows of a sparse gradient, each once, summed in float32; a dense gradient as it is."""
    if not gradient.is_sparse:
        return gradient
    places, where = gradient._indices()[0].unique(return_inverse=True)
    values = torch.zeros(len(places), gradient.shape[1]).index_add_(0, where, gradient._values().float())
    return torch.sparse_coo_tensor(places[None], values, gradient.shape, is_coalesced=True, check_invariants=False)


def norm(gradients: Sequence[Tensor]) -> float:
    """The norm of all of them together; sums are float32 within a piece, and float64 over pieces."""
    dense = [gradient.values() if gradient.is_sparse else gradient for gradient in gradients]
    squares = 0.0
    for parts in pieces(dense):
        for _, _, part in parts:
            squares += float(torch.dot(part, part))
    return math.sqrt(squares)
