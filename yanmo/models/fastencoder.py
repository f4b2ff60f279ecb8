"""A whole encoder layer of BERT's kind as one step of autograd, with the native passes of kernels/training.py.

Composed of its parts (transformer.py) a layer passes over memory three times as often and keeps half as much again for
backward: here GELU is computed again, and what dropout hides is drawn again from a seed.

    usable       whether a layer is of that kind: bfloat16 on a CPU, LayerNorm behind each part, GELU, biases
    ranges_of    which keys each query sees, as first and last, where documents lie in one piece
    run          the layer, forward and backward
    _Layer       the autograd function; _attend…, _feed… and their …_back are its halves

B rows, T columns, N = B·T tokens, W width, H heads, D head width, F width of the feed-forward
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yanmo.kernels import training
from yanmo.models.fast import on_cpu, outer, product, stacked

RANGES = torch.int32  # the place of the ranges in Visible.made


class Shape(NamedTuple):
    """What a layer computes besides its weights."""

    rows: int
    width: int
    heads: int
    scale: float
    eps: tuple[float, float]
    dropout: tuple[float, float]  # of the weights of attention, and of what a part adds
    seeds: tuple[int, int, int]


class Weights(NamedTuple):
    """The weights of a layer, in the order in which autograd is given them."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    up: Tensor
    down: Tensor
    query_bias: Tensor
    key_bias: Tensor
    value_bias: Tensor
    out_bias: Tensor
    up_bias: Tensor
    down_bias: Tensor
    attention_norm: Tensor
    attention_norm_bias: Tensor
    ffn_norm: Tensor
    ffn_norm_bias: Tensor


MATRICES = 6  # the first of them


def usable(layer: Any, hidden: Tensor, visible: Any) -> bool:
    """Whether `run` computes what this EncoderLayer computes."""
    attention, ffn = layer.attention, layer.ffn
    if not (hidden.dtype == torch.bfloat16 and hidden.requires_grad and on_cpu(hidden) and training.usable()):
        return False
    linear = (attention.query, attention.key, attention.value, attention.out, ffn.up, ffn.down)
    plain = all(type(part) is nn.Linear and part.bias is not None for part in linear)
    norms = (layer.attention_norm, layer.ffn_norm)
    kind = not layer.pre_norm and ffn.gate is None and ffn.activation is F.gelu and attention.query_norm is None
    if not (plain and kind and all(norm.bias is not None for norm in norms)):
        return False
    own = [p for part in (*linear, *norms) for p in part.parameters()]
    alike = all(p.dtype == hidden.dtype and p.requires_grad and type(p) is nn.Parameter for p in own)
    if any(part._forward_hooks or part._forward_pre_hooks for part in (*linear, *norms, attention, ffn)):
        return False
    sizes = hidden.shape[2] % training.LANES == 0 and len(ffn.up.weight) % training.LANES == 0
    heads = len(attention.query.weight) == len(attention.key.weight) == hidden.shape[2]
    silent = not (layer.training and ffn.dropout)
    return alike and sizes and heads and silent and ranges_of(visible, hidden) is not None


def ranges_of(visible: Any, hidden: Tensor) -> Tensor | None:
    """Return (B, T, 2), int32, made once per call: the first key that a query sees, and the one behind the last.

    None where what a query sees is not one piece, or nothing, or has a bias of its own.
    """
    if RANGES not in visible.made:
        rows, columns = hidden.shape[:2]
        fits = columns <= training.MAX_KEYS and columns % training.LANES == 0
        mask = None if visible.causal or visible.bias is not None else visible.mask
        found: Tensor | None = None
        if fits and mask is None and not visible.causal and visible.bias is None:
            found = torch.tensor([0, columns]).expand(rows, columns, 2)
        elif fits and mask is not None and mask.shape[1] == 1 and len(mask) == rows:
            seen = mask[:, 0].int()  # (B, T, S)
            last = columns - seen.flip(-1).argmax(-1)
            first = seen.argmax(-1)
            count = seen.sum(-1)
            if bool(((last - first == count) & (count > 0)).all()):
                found = torch.stack([first, last], -1)
        visible.made[RANGES] = None if found is None else found.to(RANGES).contiguous()
    return visible.made[RANGES]


def run(layer: Any, hidden: Tensor, visible: Any) -> Tensor:
    """Return the layer's output (B, T, W)."""
    attention, ffn = layer.attention, layer.ffn
    linear = (attention.query, attention.key, attention.value, attention.out, ffn.up, ffn.down)
    norms = (layer.attention_norm, layer.ffn_norm)
    weights = [*(part.weight for part in linear), *(part.bias for part in linear)]
    weights += [p for norm in norms for p in (norm.weight, norm.bias)]
    for weight in weights[:MATRICES]:
        if hasattr(weight, "uses"):
            weight.uses += 1
    shape = Shape(
        rows=len(hidden),
        width=hidden.shape[2],
        heads=hidden.shape[2] // attention.head_width,
        scale=attention.scale,
        eps=(norms[0].eps, norms[1].eps),
        dropout=(attention.dropout, layer.dropout) if layer.training else (0.0, 0.0),
        seeds=tuple(torch.randint(1 << 62, (3,)).tolist()),
    )
    return _Layer.apply(hidden, ranges_of(visible, hidden), shape, weights[:MATRICES], *weights)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, ranges: Tensor, shape: Shape, matrices: list[Tensor], *given: Tensor
    ) -> Tensor:
        x, w = hidden.reshape(-1, hidden.shape[-1]), Weights(*given)
        middle, kept = _attend(x, w, shape, ranges)
        out, more = _feed(middle, w, shape)
        ctx.shape, ctx.matrices = shape, matrices
        ctx.save_for_backward(x, middle, *kept, *more, *given)
        return out.view(hidden.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, middle, *rest = ctx.saved_tensors
        kept, more, w = rest[:6], rest[6:9], Weights(*rest[9:])
        own = all(getattr(matrix, "uses", 0) == 1 for matrix in ctx.matrices)  # used up by this only backward (fast.py)
        g, fed = _feed_back(upstream.reshape(x.shape), middle, w, ctx.shape, more, own)
        g, attended = _attend_back(g, x, w, ctx.shape, kept, own)
        found = Weights(**fed, **attended)
        if own:
            for matrix, gradient in zip(ctx.matrices, found[:MATRICES]):
                matrix.grad = gradient
            found = Weights(*([None] * MATRICES), *found[MATRICES:])  # type: ignore[arg-type]
        return g.view(upstream.shape), None, None, None, *found


Gradients = dict[str, Tensor]


def _attend(x: Tensor, w: Weights, shape: Shape, ranges: Tensor) -> tuple[Tensor, list[Tensor]]:
    """LayerNorm(x + dropout(attention(x))), (N, W), and what its gradient needs."""
    joint = product(x, stacked(w[:3]).t(), stacked(w[MATRICES : MATRICES + 3]))  # (N, 3W)
    q, k, v = _heads(joint, shape)
    rows, heads, columns, _ = q.shape
    weights = x.new_empty(rows, heads, columns, columns)
    training.multiply_heads(q, k.mT, weights)
    weights = weights.view(-1, columns, columns)
    dropped = training.weigh(weights, ranges, heads, shape.scale, shape.dropout[0], shape.seeds[0])
    mixed = torch.empty_like(x)
    training.multiply_heads(dropped.view(rows, heads, columns, columns), v, _heads(mixed, shape)[0])
    branch = product(mixed, w.out.t(), w.out_bias)
    norm = (w.attention_norm, w.attention_norm_bias, shape.eps[0], shape.dropout[1], shape.seeds[1])
    out, stats = training.join(x, branch, *norm)
    return out, [joint, weights, mixed, branch, stats, ranges]


def _attend_back(
    g: Tensor, x: Tensor, w: Weights, shape: Shape, kept: list[Tensor], own: bool
) -> tuple[Tensor, Gradients]:
    joint, weights, mixed, branch, stats, ranges = kept
    q, k, v = _heads(joint, shape)
    norm = (w.attention_norm, stats, shape.dropout[1], shape.seeds[1])
    residual, g, columns = training.join_back(g.contiguous(), branch, *norm)
    above = product(g, w.out)
    found = {"out": outer(g, mixed, w.out if own else None), "out_bias": _low(columns[2])}
    found |= {"attention_norm": _low(columns[0]), "attention_norm_bias": _low(columns[1])}
    above = _heads(above, shape)[0]
    square = (*q.shape[:2], *weights.shape[1:])  # (B, H, T, T)
    scores = weights.new_empty(square)
    training.multiply_heads(above, v.mT, scores)
    dropped = training.weigh_back(weights, scores, ranges, shape.heads, shape.scale, shape.dropout[0], shape.seeds[0])
    g = torch.empty_like(joint)
    for part, a, b in zip(_heads(g, shape), (scores, scores.mT, dropped.view(square).mT), (k, q, above)):
        training.multiply_heads(a, b, part)
    whole = stacked(w[:3])
    product(g, whole, out=residual, add=True)
    sizes = [len(matrix) for matrix in w[:3]]
    matrices = outer(g, x, whole if own and _adjacent(whole, w.query) else None).split(sizes)
    names = ("query", "key", "value")
    found |= dict(zip(names, matrices)) | dict(zip([f"{name}_bias" for name in names], g.sum(0).split(sizes)))
    return residual, found


def _feed(x: Tensor, w: Weights, shape: Shape) -> tuple[Tensor, list[Tensor]]:
    """LayerNorm(x + dropout(feed-forward(x))), (N, W), and what its gradient needs."""
    inner = product(x, w.up.t(), w.up_bias)  # (N, F)
    branch = product(training.gelu(inner), w.down.t(), w.down_bias)
    norm = (w.ffn_norm, w.ffn_norm_bias, shape.eps[1], shape.dropout[1], shape.seeds[2])
    out, stats = training.join(x, branch, *norm)
    return out, [inner, branch, stats]


def _feed_back(
    g: Tensor, x: Tensor, w: Weights, shape: Shape, kept: list[Tensor], own: bool
) -> tuple[Tensor, Gradients]:
    inner, branch, stats = kept
    norm = (w.ffn_norm, stats, shape.dropout[1], shape.seeds[2])
    residual, g, columns = training.join_back(g.contiguous(), branch, *norm)
    above = product(g, w.down)  # (N, F)
    curved, sums = training.gelu_back(inner, above)
    found = {"down": outer(g, curved, w.down if own else None), "down_bias": _low(columns[2])}
    found |= {"ffn_norm": _low(columns[0]), "ffn_norm_bias": _low(columns[1]), "up_bias": _low(sums)}
    product(above, w.up, out=residual, add=True)
    found["up"] = outer(above, x, w.up if own else None)
    return residual, found


def _heads(joint: Tensor, shape: Shape) -> Tensor:
    """(N, count·W) → views (count, B, H, T, D)."""
    count = joint.shape[1] // shape.width
    return joint.view(shape.rows, -1, count, shape.heads, shape.width // shape.heads).permute(2, 0, 3, 1, 4)


def _adjacent(whole: Tensor, first: Tensor) -> bool:
    return whole.data_ptr() == first.data_ptr()


def _low(sums: Tensor) -> Tensor:
    return sums.to(torch.bfloat16)
