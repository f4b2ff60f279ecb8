"""How fast this machine does what training consists of, beside large matrix products: for doctor and for plans.

In: a precision, some time; torch, imported inside. Out: Rates.

    measured_rates     the best of several runs of each part
    measured_product   FLOP/s of a large product, on an accelerator too
    Rates              FLOP/s of products and of attention, bytes/s of small and large tensors, seconds of an operation
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WIDTH, ROWS = 384, 2048  # of a product of the size that small networks have
HEADS, HEAD_WIDTH = 6, 64
COLUMNS = (128, 512)  # of attention
SMALL, LARGE = 8 * 2**20, 64 * 2**20  # bytes of a tensor: memory that is used again, memory that the system gives anew
CALLS = 100


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What was measured in one precision.

    product: FLOP/s of a layer's products, forward and backward. attention: FLOP/s of fused attention over so many
    columns, forward and backward. stream, fresh: bytes per second that an operation on every value reads and writes, in
    memory that is used again and in memory that the system gives anew. operation: seconds of a call that does nearly
    nothing, its gradient included.
    """

    precision: str
    product: float
    attention: dict[int, float]
    stream: float
    fresh: float
    operation: float

    def attention_at(self, columns: float) -> float:
        """FLOP/s of attention over any number of columns: between the measured ones by their logarithm."""
        (few, slow), (many, fast) = sorted(self.attention.items())
        share = (math.log(columns) - math.log(few)) / (math.log(many) - math.log(few))
        return slow * (fast / slow) ** min(max(share, -1.0), 1.0)


def measured_rates(precision: str = "float32", seconds: float = 1.0) -> Rates:
    """Measure for about `seconds`; "float32" or "bfloat16".

    The parts take turns and the shortest run of each counts, so that another program's burst spoils none of them.
    """
    import torch

    dtype = getattr(torch, precision)
    x, w, g = (torch.full(shape, 0.5, dtype=dtype) for shape in ((ROWS, WIDTH), (4 * WIDTH, WIDTH), (ROWS, 4 * WIDTH)))
    jobs = [lambda: x @ w.t(), lambda: g @ w, lambda: g.t() @ x, _multiply(dtype, SMALL), _multiply(dtype, LARGE)]
    jobs += [_chain(dtype), *(_attention(dtype, columns) for columns in COLUMNS)]
    *products, small, large, chain, few, many = _best_times(jobs, seconds)
    return Rates(
        precision=precision,
        product=3 * 2 * w.numel() * ROWS / sum(products),
        attention={n: _attention_flops(n) / best for n, best in zip(COLUMNS, (few, many))},
        stream=3 * SMALL / small,
        fresh=min(3 * LARGE / large, 3 * SMALL / small),
        operation=chain / CALLS,
    )


def _best_times(jobs: list[Callable[[], Any]], seconds: float) -> list[float]:
    """The shortest run of each job, in turns; the first round warms up."""
    best = [math.inf] * len(jobs)
    start, first = time.perf_counter(), True
    while first or best[0] == math.inf or time.perf_counter() - start < seconds:
        for place, job in enumerate(jobs):
            before = time.perf_counter()
            job()
            if not first:
                best[place] = min(best[place], max(time.perf_counter() - before, 1e-9))
        first = False
    return best


def measured_product(device: str, precision: str = "float32", seconds: float = 0.5, size: int = 4096) -> float:
    """FLOP/s of a product of two square matrices on a device of torch; RuntimeError where it has none."""
    import torch

    a = torch.full((size, size), 0.5, dtype=getattr(torch, precision), device=device)

    def job() -> None:
        torch.mm(a, a)[0, 0].item()  # item waits for the device

    return 2 * size**3 / best_time(job, seconds)


def _multiply(dtype: Any, size: int) -> Callable[[], Any]:
    import torch

    a = torch.ones(size // dtype.itemsize, dtype=dtype)
    b = torch.ones_like(a)
    return lambda: a * b


def _chain(dtype: Any) -> Callable[[], Any]:
    """CALLS multiplications of small tensors, one after the other, and their gradients."""
    import torch

    start = torch.ones(16, dtype=dtype, requires_grad=True)
    factor = torch.ones(16, dtype=dtype)

    def job() -> None:
        value = start
        for _ in range(CALLS):
            value = value * factor
        torch.autograd.grad(value.sum(), start)

    return job


def _attention(dtype: Any, columns: int) -> Callable[[], Any]:
    """Causal attention in rows of several documents, forward and backward."""
    import torch

    rows = max(1, ROWS // columns)
    q, k, v = (torch.randn(rows, HEADS, columns, HEAD_WIDTH).to(dtype).requires_grad_() for _ in range(3))
    mask = torch.ones(rows, 1, columns, columns, dtype=torch.bool).tril()
    upstream = torch.ones_like(q)

    def job() -> None:
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        torch.autograd.grad(out, (q, k, v), upstream)

    return job


def _attention_flops(columns: int) -> float:
    """Of one such job, its hidden half counted."""
    return 3 * 4 * max(1, ROWS // columns) * HEADS * columns * columns * HEAD_WIDTH


def best_time(job: Callable[[], Any], seconds: float) -> float:
    """The shortest run: after one to warm up at least one, and more while `seconds` last."""
    job()
    start, best = time.perf_counter(), math.inf
    while best == math.inf or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        job()
        best = min(best, time.perf_counter() - before)
    return max(best, 1e-9)
