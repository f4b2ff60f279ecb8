"""A whole decoder layer of the Llama kind as one step of autograd: training on a CPU in a third of the calls.

A layer of transformer.py is about 60 calls of torch forward and 100 backward, each of which costs its own time and a
pass over memory. Written out, with the gradient by hand, there are half as many passes and no graph between them.

    usable       whether a layer is of that kind: norms without bias before each part, rotary positions, gated
                 feed-forward, no bias, no dropout, no adapter; queries and keys normed (Qwen 3) or not (Llama)
    run          the layer, forward and backward
    _Layer       the autograd function; _attend_… and _feed_… are its halves

B rows, T columns, N = B·T tokens, W width, H, K heads of queries and keys, D head width, F width of the feed-forward

What saves passes: the weight of a norm is multiplied into the matrix behind it, and those of the norms of queries and
keys, with the scale of the scores, into the tables of the rotation; what is added to the residual stream is added by
the product that makes it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yanmo.models.fast import attend_backward, attend_forward, on_cpu

ACTIVATION = F.silu


class Shape(NamedTuple):
    """What a layer computes besides its weights."""

    heads: int
    kv_heads: int
    head_width: int
    scale: float
    eps: float
    ordered: bool  # no query sees a key behind it


class Parts(NamedTuple):
    """The weights of a layer, in the order in which they are given to autograd; norms of queries and keys may lack."""

    attention_norm: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    ffn_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None


def usable(layer: Any, hidden: Tensor) -> bool:
    """Whether `run` computes what this layer, a DecoderLayer without a memory, computes."""
    attention, ffn = layer.attention, layer.ffn
    if not (
        hidden.requires_grad and on_cpu(hidden) and layer.pre_norm and layer.cross is None and ffn.gate is not None
    ):
        return False
    if layer.training and (layer.dropout or attention.dropout or ffn.dropout):
        return False
    linear = [attention.query, attention.key, attention.value, attention.out, ffn.gate, ffn.up, ffn.down]
    norms = [
        n for n in (layer.attention_norm, layer.ffn_norm, attention.query_norm, attention.key_norm) if n is not None
    ]
    weights = [module.weight for module in (*linear, *norms)]
    return (
        ffn.activation is ACTIVATION
        and all(type(module) is nn.Linear and module.bias is None for module in linear)
        and all(norm.bias is None for norm in norms)
        and all(type(w) is nn.Parameter and w.dtype == hidden.dtype and w.requires_grad for w in weights)
        and not any(module._forward_hooks or module._forward_pre_hooks for module in (*linear, *norms, attention, ffn))
    )


def run(layer: Any, hidden: Tensor, rotation: tuple[Tensor, Tensor], bias: Tensor, ordered: bool) -> Tensor:
    """Transform hidden (B, T, W); bias, which broadcasts to (B, H, T, T), is -inf where a key is hidden, else 0."""
    a, ffn = layer.attention, layer.ffn
    width = a.head_width
    heads, kv_heads = len(a.query.weight) // width, len(a.key.weight) // width
    shape = Shape(heads, kv_heads, width, a.scale, layer.attention_norm.eps, ordered)
    norms = [None if norm is None else norm.weight for norm in (a.query_norm, a.key_norm)]
    parts = Parts(
        layer.attention_norm.weight,
        a.query.weight,
        a.key.weight,
        a.value.weight,
        a.out.weight,
        layer.ffn_norm.weight,
        ffn.gate.weight,
        ffn.up.weight,
        ffn.down.weight,
        *norms,
    )
    return _Layer.apply(hidden, *rotation, bias, shape, *parts)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, cosine: Tensor, sine: Tensor, bias: Tensor, shape: Shape, *weights: Tensor | None
    ) -> Tensor:
        parts = Parts(*cast(Any, weights))
        ctx.shape, ctx.rows = shape, len(hidden)
        x = hidden.reshape(-1, hidden.shape[-1])  # (N, W)
        y, attended = _attend(x, ctx.rows, (cosine, sine), bias, shape, parts)
        z, fed = _feed(y, shape.eps, parts)
        ctx.count = len(attended)
        ctx.save_for_backward(cosine, sine, *weights, *attended, *fed)
        return z.view(hidden.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        cosine, sine, *saved = ctx.saved_tensors
        parts, saved = Parts(*saved[: len(Parts._fields)]), saved[len(Parts._fields) :]
        g = upstream.reshape(-1, upstream.shape[-1])
        g, fed = _feed_back(g, saved[ctx.count :], parts)
        g, attended = _attend_back(g, ctx.rows, (cosine, sine), ctx.shape, saved[: ctx.count], parts)
        return g.view(upstream.shape), None, None, None, None, *Parts(**cast(Any, attended | fed))


# --- the two halves: each returns what it adds to and what backward needs, and for that the gradients by name


def _attend(
    x: Tensor, rows: int, rotation: tuple[Tensor, Tensor], bias: Tensor, shape: Shape, parts: Parts
) -> tuple[Tensor, list[Tensor]]:
    """x + attention(norm(x))."""
    normed, scales = normalised(x, shape.eps)
    joined = torch.cat([parts.query, parts.key, parts.value]) * parts.attention_norm
    projected = (normed @ joined.t()).view(len(x), -1, shape.head_width)  # (N, H + 2K, D)
    turning = shape.heads + shape.kv_heads
    kept = [normed, scales]
    turned = projected[:, :turning]
    if parts.query_norm is not None:
        turned, head_scales = normalised(turned, shape.eps)
        kept += [turned, head_scales]
    cosine, sine = tables(rotation, shape, parts)
    width = shape.head_width
    swapped = (turned.reshape(-1, width) @ quarter(width, x.dtype)).view(rows, -1, *turned.shape[1:])
    turned = (turned.view(rows, -1, turning, width) * cosine).addcmul_(swapped, sine)
    query, key = (part.transpose(1, 2) for part in turned.split([shape.heads, shape.kv_heads], 2))
    value = projected[:, turning:].view(rows, -1, shape.kv_heads, width).transpose(1, 2)
    query, key, value = query.contiguous(), _repeated(key, shape), _repeated(value, shape)  # (B, H, T, D)
    mixed, attended, _ = attend_forward(query, key, value, 1.0, bias, causal=shape.ordered)
    flat = mixed.view(query.shape).transpose(1, 2).reshape(len(x), -1)
    return torch.addmm(x, flat, parts.out.t()), [*kept, flat, *attended]


def _attend_back(
    g: Tensor, rows: int, rotation: tuple[Tensor, Tensor], shape: Shape, saved: Sequence[Tensor], parts: Parts
) -> tuple[Tensor, dict[str, Tensor | None]]:
    normed, scales, *saved = saved
    turned, head_scales = None, None
    if parts.query_norm is not None:
        turned, head_scales, *saved = saved
    flat, *attended = saved
    found: dict[str, Tensor | None] = {"out": g.t() @ flat, "query_norm": None, "key_norm": None}
    upstream = (g @ parts.out).view(rows, -1, shape.heads, shape.head_width).transpose(1, 2)
    query, key, value = attend_backward(upstream.reshape(-1, *upstream.shape[2:]), attended, 1.0)
    heads = torch.cat([_from_heads(query, rows, shape.heads, shape), _from_heads(key, rows, shape.kv_heads, shape)], 2)
    cosine, sine = tables(rotation, shape, parts)
    width = shape.head_width
    turning = torch.addmm(
        (heads * cosine).view(-1, width), (heads * sine).view(-1, width), quarter(width, g.dtype).t()
    ).view(len(g), -1, width)
    if turned is not None and head_scales is not None:
        product = turning * turned
        found["query_norm"], found["key_norm"] = _norm_weights(product, turning, turned, rotation, heads, shape, parts)
        turning = denormalised(turning, turned, head_scales, product)
    projected = torch.cat([turning.flatten(1), _from_heads(value, rows, shape.kv_heads, shape).reshape(len(g), -1)], 1)
    joined = torch.cat([parts.query, parts.key, parts.value])
    gradient = projected.t() @ normed
    found["attention_norm"] = (gradient * joined).sum(0)
    sizes = [len(parts.query), len(parts.key), len(parts.value)]
    found["query"], found["key"], found["value"] = gradient.mul_(parts.attention_norm).split(sizes)
    change = projected @ joined.mul_(parts.attention_norm)
    return denormalised(change, normed, scales, change * normed, g), found


def _feed(y: Tensor, eps: float, parts: Parts) -> tuple[Tensor, list[Tensor]]:
    """y + feed_forward(norm(y))."""
    normed, scales = normalised(y, eps)
    gate, up = (normed @ (matrix * parts.ffn_norm).t() for matrix in (parts.gate, parts.up))
    opened = ACTIVATION(gate)
    inner = opened * up
    return torch.addmm(y, inner, parts.down.t()), [normed, scales, gate, up, opened, inner]


def _feed_back(g: Tensor, saved: Sequence[Tensor], parts: Parts) -> tuple[Tensor, dict[str, Tensor | None]]:
    normed, scales, gate, up, opened, inner = saved
    found: dict[str, Tensor | None] = {"down": g.t() @ inner}
    upstream = g @ parts.down
    opened = upstream * opened  # the gradient of up, and then that of gate
    gate = torch.ops.aten.silu_backward(upstream.mul_(up), gate)
    change, sums = None, []
    for name, part, matrix in (("gate", gate, parts.gate), ("up", opened, parts.up)):
        gradient = part.t() @ normed
        sums.append((gradient * matrix).sum(0))
        found[name] = gradient.mul_(parts.ffn_norm)
        weighted = matrix * parts.ffn_norm
        change = part @ weighted if change is None else change.addmm_(part, weighted)
    assert change is not None
    found["ffn_norm"] = sums[0].add_(sums[1])
    return denormalised(change, normed, scales, change * normed, g), found


# --- norms without their weight


def normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return x (…, W) divided by the root mean square of each vector, and 1 / that, (…, 1), in x's type."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).float()
    scales = torch.addcmul(_number(eps), length, length, value=1 / x.shape[-1]).rsqrt_().to(x.dtype)
    return x * scales, scales


@functools.cache
def _number(value: float) -> Tensor:
    return torch.tensor(value)


def denormalised(g: Tensor, normed: Tensor, scales: Tensor, product: Tensor, more: Tensor | None = None) -> Tensor:
    """The gradient of x from that of normalised(x), g; product is g · normed. What is `more` is added; g may change."""
    along = product.sum(-1, keepdim=True).mul_(1 / normed.shape[-1])
    change = torch.addcmul(g, normed, along, value=-1)
    return change.mul_(scales) if more is None else torch.addcmul(more, change, scales)


def _norm_weights(
    product: Tensor,
    turning: Tensor,
    turned: Tensor,
    rotation: tuple[Tensor, Tensor],
    heads: Tensor,
    shape: Shape,
    parts: Parts,
) -> list[Tensor]:
    """Gradients of the weights of the norms of queries and keys; product is Σ over tokens already weighted by them."""
    query, key = parts.query_norm, parts.key_norm
    assert query is not None and key is not None
    sizes = [shape.heads, shape.kv_heads]
    if bool(query.all()) and bool(key.all()):
        sums = product.flatten(1).sum(0, dtype=torch.float32).view(-1, shape.head_width).split(sizes)
        return [(part.sum(0) / weight).to(weight.dtype) for part, weight in zip(sums, (query, key))]
    plain = parts._replace(query_norm=torch.ones_like(query), key_norm=torch.ones_like(key))
    cosine, sine = tables(rotation, shape, plain)
    width = shape.head_width
    moved = ((heads * sine).view(-1, width) @ quarter(width, heads.dtype).t()).view(turned.shape)
    product = ((heads * cosine).view(turned.shape) + moved) * turned
    sums = product.flatten(1).sum(0, dtype=torch.float32).view(-1, width).split(sizes)
    return [part.sum(0).to(query.dtype) for part in sums]


# --- heads and their rotation


def tables(rotation: tuple[Tensor, Tensor], shape: Shape, parts: Parts) -> list[Tensor]:
    """Cosine and sine (B or 1, T, H + K, D), times the scale of the scores and the weights of the norms."""
    cosine, sine = (table.transpose(1, 2) for table in rotation)  # (B or 1, T, 1, D)
    ones = cosine.new_ones(shape.head_width)
    query = ones if parts.query_norm is None else parts.query_norm
    key = ones if parts.key_norm is None else parts.key_norm
    weight = torch.stack([query * shape.scale] * shape.heads + [key] * shape.kv_heads)
    return [cosine * weight, sine * weight.roll(shape.head_width // 2, 1)]


@functools.cache
def quarter(width: int, dtype: torch.dtype) -> Tensor:
    """The matrix (D, D) of a quarter turn: (first half, second half) → (−second, first)."""
    half = torch.eye(width // 2, dtype=dtype)
    return torch.cat([F.pad(half, (width // 2, 0)), F.pad(-half, (0, width // 2))])


def _repeated(part: Tensor, shape: Shape) -> Tensor:
    """Each key head (B, K, T, D) for all query heads that it serves, contiguous."""
    groups = shape.heads // shape.kv_heads
    return part.contiguous() if groups == 1 else part.repeat_interleave(groups, 1)


def _from_heads(part: Tensor, rows: int, wanted: int, shape: Shape) -> Tensor:
    """Gradients (B·H, T, D) → (B, T, wanted, D); what serves several query heads is the sum of theirs."""
    part = part.view(rows, shape.heads, -1, shape.head_width).transpose(1, 2)
    return part if wanted == shape.heads else part.unflatten(2, (wanted, -1)).sum(3)
