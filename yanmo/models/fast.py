"""Fast paths of training on a CPU, each with a plain twin to which tests hold it equal.

    dropout        F.dropout, a tenth of its time: 15 random bits decide over a number, and a mask is applied bit by bit
    attend         reference_attention with its gradient; torch's fused kernel has a backward pass ten times as slow,
                   and none with dropout
    project        several linear layers of one input, in one product where that is faster

B rows, T query columns, S key columns, H heads, D head width, W width
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ONE = 1 << 15  # steps in which a rate is rounded: 0.1 becomes 3277 / 32768
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


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None, rate: float) -> Tensor:
    """Return softmax(scale · QKᵀ + bias) V, the weights dropped out at `rate`, (B, H, T, D).

    query (B, H, T, D); key, value (B, H, S, D); bias broadcasts to (B, H, T, S), -inf where a key is hidden, and leaves
    each query something to see.
    """
    return _Attend.apply(query, key, value, scale, bias, rate)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None, rate: float
    ) -> Tensor:
        rows, heads, columns, width = query.shape
        q, k, v = (x.reshape(rows * heads, -1, width) for x in (query, key, value))
        scores = torch.bmm(q, k.transpose(1, 2)).view(rows, heads, columns, -1)
        scores = scores.mul_(scale) if bias is None else torch.add(bias, scores, alpha=scale, out=scores)
        weights = torch.softmax(scores, -1).view(rows * heads, columns, -1)  # (B·H, T, S)
        bits, ctx.factor, ctx.scale, ctx.shape = None, 1.0, scale, query.shape
        used = weights
        if rate:
            bits, ctx.factor = keep_bits(weights, rate)
            used = masked(weights, bits)
        ctx.save_for_backward(q, k, v, weights, bits)
        mixed = torch.bmm(used, v)
        return (mixed.mul_(ctx.factor) if rate else mixed).view(query.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, bits = ctx.saved_tensors
        g = upstream.reshape(q.shape)
        g = g if bits is None else g * ctx.factor
        used = weights if bits is None else masked(weights, bits)
        value_gradient = torch.bmm(used.transpose(1, 2), g)
        gradient = torch.bmm(g, v.transpose(1, 2))
        gradient = gradient if bits is None else masked(gradient, bits)
        gradient = torch._softmax_backward_data(gradient, weights, -1, weights.dtype).mul_(ctx.scale)
        shape = (*ctx.shape[:2], -1, ctx.shape[3])
        parts = torch.bmm(gradient, k), torch.bmm(gradient.transpose(1, 2), q), value_gradient
        return *(part.view(shape) for part in parts), None, None, None


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
    return _Project.apply(x, len(weights), *weights, *biases)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, *given: Tensor) -> tuple[Tensor, ...]:
        flat = x.reshape(-1, x.shape[-1])
        weights, biases = given[:count], given[count:]
        ctx.sizes, ctx.biased = [len(weight) for weight in weights], bool(biases)
        ctx.save_for_backward(flat, *weights)
        found = product(flat, _joined(weights).t(), _joined(biases) if biases else None)
        return tuple(part.view(*x.shape[:-1], -1) for part in found.split(ctx.sizes, 1))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        flat, *weights = ctx.saved_tensors
        g = _joined([part.reshape(len(flat), -1) for part in upstream], 1)
        wanted = ctx.needs_input_grad
        first = product(g, _joined(weights)).view(*upstream[0].shape[:-1], -1) if wanted[0] else None
        parts: list[Tensor | None] = [None] * (len(weights) * (2 if ctx.biased else 1))
        if any(wanted[2 : 2 + len(weights)]):
            parts[: len(weights)] = (g.t() @ flat).split(ctx.sizes)
        if ctx.biased and any(wanted[2 + len(weights) :]):
            parts[len(weights) :] = g.sum(0).split(ctx.sizes)
        return first, None, *parts


def _joined(tensors: Any, side: int = 0) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors), side)


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a (M, K) times b (K, N), and the bias (N,).

    The library computes few columns over a long K on one core alone, so they are computed in slices (docs/log.md).
    """
    rows, depth, columns = *a.shape, b.shape[1]
    width = 256 if columns % 256 == 0 else 128
    if not (depth >= 3 * columns and columns % width == 0 and 384 <= rows <= 1280 and 256 <= columns < 1024):
        return a @ b if bias is None else torch.addmm(bias, a, b)
    out = a.new_empty(rows, columns)
    for begin in range(0, columns, width):
        torch.mm(a, b[:, begin : begin + width], out=out[:, begin : begin + width])
    return out if bias is None else out.add_(bias)
