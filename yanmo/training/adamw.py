"""AdamW (Loshchilov & Hutter 2019) on a CPU, in pieces that stay in the cache.

In: parameters with gradients, which may be in bfloat16 or rows of a table (sparse). Out: changed parameters.

    AdamW        torch.optim.AdamW's numbers and state, without a float32 copy of all gradients
    norm         of gradients in any of these forms

With the native kernels (kernels/training.py) all parameters are updated in one pass; without them in pieces by torch.

A piece of a gradient is turned into float32 and scaled where it is used, so a clipped step in bfloat16 needs neither
the memory for such a copy nor the passes over it. A table of which a batch reads few rows gives those rows alone; the
update is that of a gradient which is 0 elsewhere, as moments fall and parameters move without one too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim.adamw import adamw

from yanmo.kernels import training

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
        # the first moments of a table, and which of its rows have any
        self.touched: dict[nn.Parameter, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """Update every parameter that has a gradient, with `scale` × the gradient."""
        factor = torch.tensor(1 / scale)
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            self._begin([parameter for parameter in given if parameter not in self.state])
            if training.usable():
                self._at_once(group, given, scale)
                continue
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

    def _at_once(self, group: dict[str, Any], given: list[nn.Parameter], scale: float) -> None:
        beta1, beta2 = group["betas"]
        rate, jobs, held = group["lr"], [np.empty(0, training.ADAM)], []
        for parameter in given:
            state, gradient = self.state[parameter], cast(Tensor, parameter.grad)
            state["step"] += 1
            count = float(state["step"])
            corrections = (rate / (1 - beta1**count), 1 / math.sqrt(1 - beta2**count))
            numbers = (scale, 1 - rate * group["weight_decay"], beta1, beta2, *corrections, group["eps"])
            wholes = [parameter.detach(), state["exp_avg"], state["exp_avg_sq"]]
            places = tuple(whole.data_ptr() for whole in wholes)
            assert all(whole.is_contiguous() and whole.dtype == torch.float32 for whole in wholes)
            if gradient.is_sparse:
                jobs.append(self._rows(parameter, gradient, places, numbers))
                continue
            dense = _readable(gradient)
            held.append(dense)
            wide = dense.dtype == torch.float32
            low = _low(parameter)
            place = 0 if low is None else low.data_ptr()
            jobs.append(np.array([(*places, dense.data_ptr(), place, dense.numel(), wide, *numbers)], training.ADAM))
        training.adam(np.concatenate(jobs))
        for parameter in given:
            increment_version(parameter)  # as after an operation of torch's
            low = _low(parameter)
            if low is not None:
                parameter.fresh = (low.data_ptr(), *written(parameter))  # type: ignore[attr-defined]

    def _rows(
        self, parameter: nn.Parameter, gradient: Tensor, places: tuple[int, ...], numbers: tuple[float, ...]
    ) -> np.ndarray:
        """What to do with a table: without weight decay rows that never had a gradient stay as they are."""
        width, values = parameter.shape[1], gradient.values()
        assert values.is_contiguous() and values.dtype == torch.float32
        first, second = self.state[parameter]["exp_avg"], self.state[parameter]["exp_avg_sq"]
        known, touched = self.touched.get(parameter, (None, None))
        if touched is None or known is not first:  # at the beginning, and where moments were put back
            touched = first.any(1) | second.any(1)
            self.touched[parameter] = first, touched
        rows = gradient.indices()[0]
        touched[rows] = True
        wanted = (touched if numbers[1] == 1 else torch.ones_like(touched)).nonzero()[:, 0].numpy()
        jobs = np.zeros(len(wanted), training.ADAM)
        for name, place in zip(("weight", "first", "second"), places):
            jobs[name] = place + wanted * (width * 4)
        found = np.searchsorted(wanted, rows.numpy())
        jobs["gradient"][found] = values.data_ptr() + np.arange(len(rows)) * (width * 4)
        jobs["count"], jobs["wide"] = width, 1
        for name, number in zip(training.NUMBERS, numbers):
            jobs[name] = number
        return jobs

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


def written(parameter: nn.Parameter) -> tuple[int, int]:
    """What changes with the numbers of a parameter: where they are, and how often they were written."""
    return parameter.data_ptr(), parameter._version


def _low(parameter: nn.Parameter) -> Tensor | None:
    """Where a parameter that has a dense gradient wants its numbers in bfloat16 (training/precision.py)."""
    found = getattr(parameter, "low", None)
    return None if found is None or parameter.grad is None or parameter.grad.is_sparse else found()


def _readable(gradient: Tensor) -> Tensor:
    """A gradient as the kernels read it."""
    known = gradient.dtype in (torch.float32, torch.bfloat16)
    return gradient.contiguous() if known else gradient.float().contiguous()


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
    if training.usable():
        return math.sqrt(training.squares([_readable(gradient) for gradient in dense]))
    squares = 0.0
    for parts in pieces(dense):
        for _, _, part in parts:
            squares += float(torch.dot(part, part))
    return math.sqrt(squares)
