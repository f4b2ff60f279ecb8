"""In which precision a step is computed, and which is faster here.

In: a network with float32 weights. Out: the same network, its weights lowered for a while; gradients in float32.

    lowered            for one step: every weight is a copy in bfloat16, the float32 weights wait aside as masters
    probe_precision    forward and backward in both precisions on this machine; which one pays
    measured_speed     the same in one precision, as tokens per second

The masters are what the optimizer changes and what is saved, so updates smaller than bfloat16 resolves are not lost
(Micikevicius et al. 2018, §3.1; bfloat16 has the range of float32, so the loss needs no scaling). Copies are cast once
per step, not once per use as autocast does, and norms, residual stream and attention run in one dtype.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yanmo.tokens.batches import Batch
from yanmo.training.interrupts import uninterrupted
from yanmo.training.randomness import kept

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PAYS = 1.1  # bfloat16 must be this much faster, as it is the less exact one

Objective = Callable[[Any, Batch], tuple[Tensor, int]]


@contextmanager
def lowered(network: nn.Module, dtype: torch.dtype) -> Iterator[Callable[[], None]]:
    """Compute in `dtype` for a while; yields `gather`, which must be called after each backward.

    At a clean exit the weights are the float32 masters again and each `grad` the float32 sum of what was gathered;
    after an exception the weights are the masters and the gradients are gone. In float32 nothing is changed.
    """
    parameters = [p for p in network.parameters() if p.is_floating_point()]
    if dtype == torch.float32:
        yield lambda: None
        return
    masters = [p.data for p in parameters]
    sums: list[Tensor | None] = [None] * len(parameters)

    def gather() -> None:
        for place, parameter in enumerate(parameters):
            gradient, known = parameter.grad, sums[place]
            if gradient is not None:
                sums[place] = gradient.float() if known is None else known.add_(gradient)
                parameter.grad = None

    try:
        for parameter in parameters:
            parameter.grad = None
            parameter.data = parameter.data.to(dtype)
        yield gather
    except BaseException:
        sums = [None] * len(parameters)
        raise
    finally:
        with uninterrupted():  # a second Ctrl-C here would lose masters
            for parameter, master, gradient in zip(parameters, masters, sums):
                parameter.grad = None
                parameter.data = master
                parameter.grad = gradient


@dataclass(frozen=True)
class Probe:
    """Tokens per second of forward and backward in each precision (0 where it cannot run), and the one to use."""

    precision: str
    float32: float
    bfloat16: float
    reason: str


def probe_precision(network: nn.Module, batch: Batch, objective: Objective, seconds: float = 1.0) -> Probe:
    """Run forward and backward in both precisions for about `seconds` (three runs each at least), best run counts.

    The network's weights, gradients and mode, and the random states, are as before afterwards.
    """
    device = next(network.parameters()).device
    batch = batch.to(device)
    best: dict[str, float] = dict.fromkeys(DTYPES, math.inf)
    failure = ""
    start = time.perf_counter()
    with kept(device):
        for run in range(1000):
            for name in [name for name in DTYPES if not (failure and name == "bfloat16")]:
                try:
                    best[name] = min(best[name], _timed(network, batch, objective, DTYPES[name]))
                except RuntimeError as error:
                    if name == "float32":
                        raise
                    failure = str(error).splitlines()[0]
            if run == 0:  # the first run of each warms up
                best = dict.fromkeys(best, math.inf)
            elif run >= 3 and time.perf_counter() - start > seconds:
                break
    speeds = {name: batch.ids.numel() / duration for name, duration in best.items()}
    if failure:
        return Probe("float32", speeds["float32"], 0.0, f"bfloat16 cannot run here ({failure})")
    ratio = speeds["bfloat16"] / speeds["float32"]
    precision = "bfloat16" if ratio >= PAYS else "float32"
    return Probe(precision, speeds["float32"], speeds["bfloat16"], f"bfloat16 is {ratio:.2f} times as fast as float32")


def measured_speed(network: nn.Module, batch: Batch, objective: Objective, precision: str) -> float:
    """Tokens per second of forward and backward: the better of two runs after one to warm up; nothing is changed."""
    device = next(network.parameters()).device
    with kept(device):
        batch = batch.to(device)
        times = [_timed(network, batch, objective, DTYPES[precision]) for _ in range(3)]
    return batch.ids.numel() / min(times[1:])


def _timed(network: nn.Module, batch: Batch, objective: Objective, dtype: torch.dtype) -> float:
    before = [p.grad for p in network.parameters()]
    start = time.perf_counter()
    try:
        with lowered(network, dtype) as gather:
            loss, _ = objective(network, batch)
            loss.backward()
            gather()
        if batch.ids.device.type == "cuda":
            torch.cuda.synchronize(batch.ids.device)
        return time.perf_counter() - start
    finally:
        for parameter, gradient in zip(network.parameters(), before):
            parameter.grad = gradient
