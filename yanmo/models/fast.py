"""Fast paths of training on a CPU, each with a plain twin to which tests hold it equal.

    dropout        F.dropout, a tenth of its time: 15 random bits decide over a number, and a mask is applied bit by bit
    attend         reference_attention with its gradient; torch's fused kernel has a backward pass ten times as slow,
                   and none with dropout
    project        several linear layers of one input, in one product where that is faster; a weight that counts its
                   `uses` (training/precision.py) is used up by its only backward: its gradient takes its place

B rows, T query columns, S key columns, H heads, D head width, W width
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yanmo.kernels import training

ONE = 1 << 15  # steps in which a rate is rounded: 0.1 becomes 3277 / 32768
BLOCK = 128  # queries of causal attention that are computed at once, with the keys up to the last of them
SAME_SIZE = {2: torch.int16, 4: torch.int32}  # bytes of a number → the whole numbers that have as many


def on_cpu(x: Tensor) -> bool:
    """Whether x is computed on a CPU, step by step: a compiler fuses the plain forms itself."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


# --- dropout


def dropout(x: Tensor, rate: float) -> Tensor:
    """Set a share of the numbers to 0 and scale the others up (Srivastava et al. 2014); the random state is torch's."""
    if not on_cpu(x) or x.element_size() not in SAME_SIZE:
        return F.dropout(x, rate)
    return _Dropout.apply(x, rate)


def keep_bits(x: Tensor, rate: float) -> tuple[Tensor, float]:
    """Return whole numbers in the shape and size of x's, all bits set where a number is kept, and the factor on it."""
    limit = round(rate * ONE)
    size = x.element_size() // 2
    seed = int(torch.randint(1 << 62, ()))
    raw = np.random.SFC64(seed).random_raw(-(-x.numel() // 4))
    bits = torch.from_numpy(raw.view(np.int16))[: x.numel()]
    bits.bitwise_and_(ONE - 1).neg_().add_(limit - 1).bitwise_right_shift_(15)  # -1 where the number is limit or more
    if size == 2:
        bits = bits.to(torch.int32)
    return bits.view(x.shape), ONE / (ONE - limit)


def masked(x: Tensor, bits: Tensor) -> Tensor:
    """x where the bits are ones, else 0."""
    return (x.view(bits.dtype) & bits).view(x.dtype)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        bits, ctx.factor = keep_bits(x, rate)
        ctx.save_for_backward(bits)
        return masked(x.contiguous(), bits).mul_(ctx.factor)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (bits,) = ctx.saved_tensors
        return masked(upstream.contiguous(), bits).mul_(ctx.factor), None


# --- attention


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    bias: Tensor | None,
    rate: float = 0.0,
    *,
    causal: bool = False,
) -> Tensor:
    """Return softmax(scale · QKᵀ + bias) V, the weights dropped out at `rate`, (B, H, T, D).

    query (B, H, T, D); key, value (B, H, S, D); bias broadcasts to (B, H, T, S), -inf where a key is hidden, and leaves
    each query something to see. causal: the bias hides all keys behind a query, so they are not computed in blocks.
    """
    return _Attend.apply(query, key, value, scale, bias, rate, causal)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        bias: Tensor | None,
        rate: float,
        causal: bool,
    ) -> Tensor:
        ctx.rate, ctx.scale, ctx.shape = rate, scale, query.shape
        out, kept, ctx.factor = attend_forward(query, key, value, scale, bias, rate, causal=causal)
        ctx.save_for_backward(*kept)
        return out.view(query.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        g = upstream.reshape(-1, *upstream.shape[2:])
        parts = attend_backward(g, ctx.saved_tensors, ctx.scale, ctx.rate, ctx.factor)
        shape = (*ctx.shape[:2], -1, ctx.shape[3])
        return *(part.view(shape) for part in parts), None, None, None, None


def attend_forward(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None, rate: float = 0.0, *, causal: bool
) -> tuple[Tensor, list[Tensor], float]:
    """`attend` without autograd: (B·H, T, D), what backward needs, and the factor on what dropout keeps."""
    q, k, v = (x.reshape(-1, *x.shape[2:]) for x in (query, key, value))  # (B·H, …, D)
    factor, mixed, kept = 1.0, [], []
    for begin, end, seen in _blocks(q.shape[1], k.shape[1], causal):
        part = _part(bias, (*query.shape[:2], q.shape[1], k.shape[1]), begin, end, seen)
        scores = q.new_empty(1, 1, 1) if part is None else part
        beta = 0 if part is None else 1
        scores = torch.baddbmm(scores, q[:, begin:end], k[:, :seen].mT, alpha=scale, beta=beta)
        weights = torch.softmax(scores, -1)  # (B·H, end - begin, seen)
        kept.append(weights)
        if rate:
            bits, factor = keep_bits(weights, rate)
            kept.append(bits)
            weights = masked(weights, bits)
        mixed.append(torch.bmm(weights, v[:, :seen]))
    out = _joined(mixed, 1)
    return out.mul_(factor) if rate else out, [q, k, v, *kept], factor


def attend_backward(
    g: Tensor, saved: Sequence[Tensor], scale: float, rate: float = 0.0, factor: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value, (B·H, …, D), from that of what they gave, g (B·H, T, D)."""
    q, k, v, *kept = saved
    g = g * factor if rate else g
    blocks = [(kept[i], kept[i + 1]) for i in range(0, len(kept), 2)] if rate else [(w, None) for w in kept]
    query_parts: list[Tensor] = []
    sums: list[Tensor] = []  # of key and value; the last block sees all, and comes first
    end = q.shape[1]
    for weights, bits in reversed(blocks):
        begin, seen = end - weights.shape[1], weights.shape[2]
        used = weights if bits is None else masked(weights, bits)
        gradient = torch.bmm(g[:, begin:end], v[:, :seen].mT)
        gradient = gradient if bits is None else masked(gradient, bits)
        gradient = torch._softmax_backward_data(gradient, weights, -1, weights.dtype)
        gradient = gradient if scale == 1 else gradient.mul_(scale)
        query_parts.insert(0, torch.bmm(gradient, k[:, :seen]))
        parts = [torch.bmm(gradient.mT, q[:, begin:end]), torch.bmm(used.mT, g[:, begin:end])]
        for whole, part in zip(sums, parts):
            whole[:, :seen] += part
        sums = sums or parts
        end = begin
    return _joined(query_parts, 1), sums[0], sums[1]


def _blocks(columns: int, keys: int, causal: bool) -> Iterator[tuple[int, int, int]]:
    """Yield (first query, last query, keys that they may see)."""
    step = BLOCK if causal else columns
    for begin in range(0, columns, step):
        end = min(begin + step, columns)
        yield begin, end, end if causal else keys


def _part(bias: Tensor | None, shape: tuple[int, ...], begin: int, end: int, seen: int) -> Tensor | None:
    """The bias of a block, (B·H, …) or for all heads the same."""
    if bias is None or not bias.ndim:  # the same number on all scores changes no weight
        return None
    if bias.numel() == shape[-2] * shape[-1]:
        return bias.view(shape[-2:])[begin:end, :seen]
    return bias.expand(shape)[:, :, begin:end, :seen].reshape(-1, end - begin, seen)


# --- linear layers


def project(x: Tensor, *layers: nn.Module) -> tuple[Tensor, ...]:
    """Return layer(x) of each linear layer, x (…, W)."""
    plain = [layer for layer in layers if type(layer) is nn.Linear and type(layer.weight) is nn.Parameter]
    lowered = x.dtype == torch.bfloat16 and all(layer.weight.dtype == x.dtype for layer in plain)
    if len(plain) < len(layers) or not (lowered and x.requires_grad and on_cpu(x)):
        return tuple(layer(x) for layer in layers)
    weights = [layer.weight for layer in plain]
    biases = [layer.bias for layer in plain if layer.bias is not None]
    assert len(biases) in (0, len(plain)), "all of them have a bias, or none"
    for weight in weights:
        if hasattr(weight, "uses"):
            weight.uses += 1
    return _Project.apply(x, weights, *weights, *biases)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: list[nn.Parameter], *given: Tensor) -> tuple[Tensor, ...]:
        flat = x.reshape(-1, x.shape[-1])
        biases = given[len(weights) :]
        ctx.sizes, ctx.biased, ctx.weights = [len(weight) for weight in weights], bool(biases), weights
        ctx.save_for_backward(flat, *given[: len(weights)])
        found = product(flat, stacked(given[: len(weights)]).t(), stacked(biases) if biases else None)
        return tuple(part.view(*x.shape[:-1], -1) for part in found.split(ctx.sizes, 1))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        flat, *weights = ctx.saved_tensors
        g = _joined([part.reshape(len(flat), -1) for part in upstream], 1)
        whole, wanted = stacked(weights), ctx.needs_input_grad
        first = product(g, whole).view(*upstream[0].shape[:-1], -1) if wanted[0] else None
        parts: list[Tensor | None] = [None] * (len(weights) * (2 if ctx.biased else 1))
        if any(wanted[2 : 2 + len(weights)]):
            if all(getattr(weight, "uses", 0) == 1 for weight in ctx.weights):
                for weight, part in zip(ctx.weights, outer(g, flat, whole).split(ctx.sizes)):
                    weight.grad = part  # returned, it would be copied
            else:
                parts[: len(weights)] = outer(g, flat).split(ctx.sizes)
        if ctx.biased and any(wanted[2 + len(weights) :]):
            parts[len(weights) :] = g.sum(0).split(ctx.sizes)
        return first, None, *parts


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors one below the other, without a copy where they lie so in memory."""
    first, rows = tensors[0], sum(map(len, tensors))
    ends = [tensor.data_ptr() + tensor.nbytes for tensor in tensors]
    room = first.untyped_storage().nbytes() // first.element_size() - first.storage_offset()
    near = all(tensor.data_ptr() == end and tensor.is_contiguous() for tensor, end in zip(tensors[1:], ends))
    if near and first.is_contiguous() and rows * first[0].numel() <= room:
        return first.as_strided((rows, *first.shape[1:]), first.stride())
    return torch.cat(tuple(tensors))


def _joined(tensors: Sequence[Tensor], side: int = 0) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors), side)


def outer(g: Tensor, x: Tensor, room: Tensor | None = None) -> Tensor:
    """Return gᵀx, in the memory of `room` where one is given."""
    if training.usable() and g.dtype == torch.bfloat16 and g.shape[1] % training.LANES == 0:
        transposed = training.turned(g)  # in the products' own way it takes as long as the product
    else:
        transposed = g.t().contiguous() if g.shape[1] < x.shape[1] else g.t()  # faster where it is small
    return product(transposed, x, out=None if room is None else room.detach())


def product(
    a: Tensor, b: Tensor, bias: Tensor | None = None, out: Tensor | None = None, *, add: bool = False
) -> Tensor:
    """Return a (M, K) times b (K, N), and the bias (N,); `out` takes it, and with `add` is added to.

    For few columns and more than 640 rows the library leaves a core idle, so rows are computed in two halves.
    """
    rows, columns = len(a), b.shape[1]
    out = a.new_empty(rows, columns) if out is None else out
    if training.multiplies(a, b):
        return training.multiply(a, b, bias, out, add=add)
    halves = 256 <= columns <= 768 and 640 < rows <= 1280
    size = -(-rows // 32) * 16 if halves else rows
    for part, room in zip(a.split(size), out.split(size)):
        if add:
            room.addmm_(part, b)
        elif bias is None:
            torch.mm(part, b, out=room)
        else:
            torch.addmm(bias, part, b, out=room)
    return out
