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
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yanmo.models.config import LABEL_HEADS
from yanmo.tokens.batches import Batch
from yanmo.training.adamw import coalesced, written
from yanmo.training.interrupts import uninterrupted
from yanmo.training.randomness import kept

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PAYS = 1.1  # bfloat16 must be this much faster, as it is the less exact one
HOPELESS = 2.0  # times as long as float32: no more runs are spent on bfloat16

Objective = Callable[[Any, Batch], tuple[Tensor, int]]


@contextmanager
def lowered(network: nn.Module, dtype: torch.dtype) -> Iterator[Callable[[], None]]:
    """Compute in `dtype` for a while; yields `gather`, which must be called after each backward.

    At a clean exit the weights are the float32 masters again and each `grad` the float32 sum of what was gathered;
    after an exception the weights are the masters and the gradients are gone. In float32 nothing is changed.
    """
    with Lowering(network, dtype).open() as gather:
        yield gather


class Lowering:
    """What `lowered` does, again and again.

    once: each time there is one backward alone. Then gradients stay in `dtype`, as nothing is added to them; those of
    layers' matrices take the place of the copies, which nothing reads after that backward (fast.py); and a table that
    is read and not multiplied stays as it is, its gradient being the rows that were read. adamw.py takes gradients in
    all these forms. The memory of the copies is kept from step to step, and an optimizer that reads each weight anyway
    writes the next copy there (`low` of a parameter); it counts while nothing else has changed the weight (`fresh`).
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype, *, once: bool = False) -> None:
        self.dtype, self.once = dtype, once
        self.tables = _tables(network) if once and dtype != torch.float32 else []
        kept = {id(table.weight) for table in self.tables}
        self.parameters = [p for p in _neighbours(network) if p.is_floating_point() and id(p) not in kept]
        self.copies: list[Tensor] = []

    @contextmanager
    def open(self) -> Iterator[Callable[[], None]]:
        """See `lowered`."""
        if self.dtype == torch.float32:
            yield lambda: None
            return
        masters = [p.data for p in self.parameters]
        sums: list[Tensor | None] = [None] * len(masters)
        try:
            for parameter, copy in zip(self.parameters, self._copied(masters)):
                parameter.grad = None
                parameter.data, parameter.grad_dtype = copy, self.dtype
                if self.once:
                    parameter.uses = 0  # type: ignore[attr-defined]
            for table in self.tables:
                table.weight.grad = None
            with _read_in_rows(self.tables, self.dtype):
                yield lambda: self._gather(sums)
        except BaseException:
            sums = [None] * len(masters)
            for table in self.tables:
                table.weight.grad = None
            raise
        finally:
            with uninterrupted():  # a second Ctrl-C here would lose masters
                for parameter, master, gradient in zip(self.parameters, masters, sums):
                    parameter.grad = None
                    parameter.data = master
                    parameter.grad_dtype = master.dtype if gradient is None else gradient.dtype
                    parameter.grad = gradient
                    vars(parameter).pop("uses", None)
                if self.once:
                    for parameter, copy in zip(self.parameters, self.copies):
                        parameter.low = weakref.ref(copy)  # type: ignore[attr-defined]

    def _copied(self, masters: list[Tensor]) -> list[Tensor]:
        """The masters in `dtype`, in one piece of memory."""
        if not self.copies:
            sizes = [master.numel() for master in masters]
            parts = masters[0].new_empty(sum(sizes), dtype=self.dtype).split(sizes)
            self.copies = [part.view(master.shape) for part, master in zip(parts, masters)]
        for parameter, copy, master in zip(self.parameters, self.copies, masters):
            if vars(parameter).pop("fresh", None) != (copy.data_ptr(), *written(parameter)):
                copy.copy_(master)
        return [copy.detach() for copy in self.copies]

    def _gather(self, sums: list[Tensor | None]) -> None:
        for place, parameter in enumerate(self.parameters):
            gradient, known = parameter.grad, sums[place]
            if gradient is not None:
                assert not (self.once and known is not None), "a second backward, where one was announced"
                sums[place] = gradient if self.once else gradient.float() if known is None else known.add_(gradient)
                parameter.grad = None
        for table in self.tables:
            if table.weight.grad is not None:
                table.weight.grad = coalesced(table.weight.grad)


def _neighbours(network: nn.Module) -> list[nn.Parameter]:
    """All parameters, those of linear layers of one module side by side: what one product may join lies together."""
    found: dict[int, nn.Parameter] = {}
    for module in network.modules():
        layers = [child for child in module.children() if isinstance(child, nn.Linear)]
        for name in ("weight", "bias"):
            for parameter in (layer.get_parameter(name) for layer in layers if getattr(layer, name) is not None):
                found.setdefault(id(parameter), parameter)
    return list({**found, **{id(p): p for p in network.parameters()}}.values())


def _tables(network: Any) -> list[nn.Embedding]:
    """Tables of word vectors that are trained and only read, never multiplied with."""
    if network.config.head not in LABEL_HEADS:  # the words' matrix may be the table
        return []
    found = [getattr(network, name, None) for name in ("embedding", "decoder_embedding")]
    return [table for table in found if type(table) is nn.Embedding and table.weight.requires_grad]


@contextmanager
def _read_in_rows(tables: list[nn.Embedding], dtype: torch.dtype) -> Iterator[None]:
    """Let tables give rows in `dtype`, and take gradients of these rows alone."""
    hooks = [table.register_forward_hook(lambda _module, _given, rows: rows.to(dtype)) for table in tables]
    try:
        for table in tables:
            table.sparse = True
        yield
    finally:
        for table, hook in zip(tables, hooks):
            table.sparse = False
            hook.remove()


@dataclass(frozen=True)
class Probe:
    """Tokens per second of forward and backward in each precision (0 where it cannot run), and the one to use."""

    precision: str
    float32: float
    bfloat16: float
    reason: str


def probe_precision(network: nn.Module, batch: Batch, objective: Objective, seconds: float = 1.0) -> Probe:
    """Run forward and backward in both precisions for about `seconds` (three runs each at least), best run counts.

    bfloat16 is left after one such run where it takes twice as long, as on a processor without an instruction for it.

    The network's weights, gradients and mode, and the random states, are as before afterwards.
    """
    device = next(network.parameters()).device
    batch = batch.to(device)
    best: dict[str, float] = dict.fromkeys(DTYPES, math.inf)
    tried, failure = list(DTYPES), ""
    start = time.perf_counter()
    with kept(device):
        for run in range(1000):
            for name in list(tried):
                try:
                    best[name] = min(best[name], _timed(network, batch, objective, DTYPES[name]))
                except RuntimeError as error:
                    if name == "float32":
                        raise
                    failure = str(error).splitlines()[0]
                    tried.remove(name)
            if run == 0:  # the first run of each warms up
                best = dict.fromkeys(best, math.inf)
                continue
            if best["bfloat16"] > HOPELESS * best["float32"]:
                tried = ["float32"]
            if run >= 3 and time.perf_counter() - start > seconds:
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
