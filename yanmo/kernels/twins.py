"""The kernels in plain PyTorch: what is done where the library is absent, and what its results are compared with.

N rows, O outputs, I inputs, G groups of 32; B texts, T new tokens, H heads, K key heads, S columns, D head width

linear       x → x Wᵀ + b, the input in whole numbers too
attend       a few tokens over a cache whose column is a position
normalise, activate
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from yanmo.kernels.matrix import GROUP, Format, values_of

TINY = 1e-30  # a row whose scale is smaller is a row of zeros (kTiny of common.h)
WIDE = 127 * 256 + 127  # the largest value of 16 bits whose two bytes both fit (kWide of quantise.inl)
EXACT = 1024  # so many products of two int8 have a sum below 2 ** 24, which float32 holds exactly

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {  # in the order of Activation of common.h
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu_squared": lambda x: F.relu(x).square(),
    "silu": F.silu,
    "tanh": torch.tanh,
}


def linear(
    x: Tensor, panels: Tensor, scales: Tensor, bias: Tensor | None, outputs: int, format: Format, wide: bool
) -> Tensor:
    """Return x Wᵀ + b, (N, O) from (N, I), in the type of x. A row of x that is not finite gives a row of NaN."""
    values, weight_scales = values_of(format, panels, scales, outputs)
    values = values[:, : x.shape[1]] if format == "rows8" else values
    if format != "rows8":
        y = _linear_groups(x.float(), values, weight_scales)
    elif wide:
        y = _linear_wide(x.float(), values, weight_scales)
    else:
        y = _linear_rows(x.float(), values, weight_scales)
    return (y if bias is None else y + bias).to(x.dtype)


def _linear_rows(x: Tensor, values: Tensor, weight_scales: Tensor) -> Tensor:
    """x ≈ scale · (code - zero), codes from -128 to 127: all 256 levels from the least to the most value and 0."""
    x, nan = _finite(x)
    low, high = x.amin(1).clamp(max=0), x.amax(1).clamp(min=0)
    scale = high / 255 - low / 255
    inverse = _inverse(scale)
    zero = -128 - (low * inverse).round()
    codes = ((x * inverse[:, None]).round() + zero[:, None]).clamp(-128, 127)
    sums = _exact(codes, values) - zero.int()[:, None] * values.sum(1, dtype=torch.int32)
    return sums.float() * (weight_scales * (scale + nan)[:, None])


def _linear_wide(x: Tensor, values: Tensor, weight_scales: Tensor) -> Tensor:
    """x ≈ scale · (256 · high + low): 16 bits, whose two bytes are multiplied one after the other."""
    x, nan = _finite(x)
    scale = x.abs().amax(1) / WIDE
    whole = (x * _inverse(scale)[:, None]).round().clamp(-WIDE, WIDE).int()
    high = (whole + 128) >> 8
    low = whole - 256 * high
    sums = _exact(high, values).float() * 256 + _exact(low, values).float()
    return sums * (weight_scales * (scale + nan)[:, None])


def _linear_groups(x: Tensor, values: Tensor, weight_scales: Tensor) -> Tensor:
    """x ≈ scale[group] · code, codes from -127 to 127: 32 inputs have one scale, as in llama.cpp's Q8_0."""
    rows, inputs = x.shape
    groups = F.pad(x, (0, -inputs % GROUP)).view(rows, -(-inputs // GROUP), GROUP)
    finite = groups.isfinite().all(2)
    groups = torch.where(finite[:, :, None], groups, 0.0)
    scale = groups.abs().amax(2) / 127
    codes = (groups * _inverse(scale)[:, :, None]).round().clamp(-127, 127)
    scale = torch.where(finite, scale, math.nan)
    inner = (codes * scale[:, :, None]).flatten(1)
    weight = (values.view(*weight_scales.shape, GROUP).float() * weight_scales[:, :, None]).flatten(1)
    return inner @ weight.T


def _finite(x: Tensor) -> tuple[Tensor, Tensor]:
    """x with zeros in rows that are not finite, and NaN for those rows, 0 for the others."""
    finite = x.isfinite().all(1)
    return torch.where(finite[:, None], x, 0.0), torch.where(finite, 0.0, math.nan)


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale >= TINY, 1 / scale, 0.0)


def _exact(codes: Tensor, values: Tensor) -> Tensor:
    """codes (N, I) · values (O, I)ᵀ in int32."""
    if codes.shape[1] > 1 and _exact_in_torch():
        return torch._int_mm(codes.to(torch.int8), values.t())
    sums = torch.zeros(len(codes), len(values), dtype=torch.int32)
    for left, right in zip(codes.float().split(EXACT, 1), values.split(EXACT, 1), strict=True):
        sums += (left @ right.float().t()).int()
    return sums


@functools.cache
def _exact_in_torch() -> bool:
    """Whether torch's product of int8 is that of whole numbers: without VNNI its sums of two products saturate.

    With one input it reads past its arguments on any processor (github.com/pytorch/pytorch/issues/195066).
    """
    codes = torch.full((16, 64), 127, dtype=torch.int8)
    codes[1::2] = -128
    expected = (codes.double() @ codes.double().t()).int()
    return all(torch.equal(torch._int_mm(codes[:rows], codes.t()), expected[:rows]) for rows in (1, 16))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    last: Tensor,
    scale: float,
    window: int = 0,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> Tensor:
    """Return (B, T, H, D): token t of row b sees the columns up to last[b, t], the `window` last ones where it is set.

    query (B, H, T, D); key, value (B, K, S, D), of an int8 cache with scales (B, K, S); last (B, T), below 0: none.
    """
    groups = query.shape[1] // key.shape[1]
    columns = torch.arange(key.shape[2])
    seen = columns <= last[:, :, None]  # (B, T, S)
    if window:
        seen &= columns > last[:, :, None] - window
    seen = seen[:, None]  # (B, 1, T, S)
    unread = ~seen.any(2)[..., None]  # (B, 1, S, 1): columns past every text may hold anything
    keys = _cached(key, key_scale).masked_fill(unread, 0.0).repeat_interleave(groups, 1)
    values = _cached(value, value_scale).masked_fill(unread, 0.0).repeat_interleave(groups, 1)
    scores = (scale * query.float()) @ keys.transpose(-2, -1)
    weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
    weights = torch.where(seen.any(-1, keepdim=True), weights, 0.0)
    return (weights @ values).transpose(1, 2).to(query.dtype)


def attend_at(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    places: Tensor,
    last: Tensor,
    scale: float,
    window: int = 0,
    scales: Sequence[Tensor] = (),
) -> Tensor:
    """`attend` over copies: key, value (K, N, D), scales of both (K, N); places (B, S) says where columns stand."""
    keys, values = (held[:, places.long()].transpose(0, 1) for held in (key, value))  # (B, K, S, D)
    both: list[Tensor | None] = [held[:, places.long()].transpose(0, 1) for held in scales]
    key_scale, value_scale = both or (None, None)
    return attend(query, keys, values, last, scale, window, key_scale, value_scale)


def _cached(held: Tensor, scale: Tensor | None) -> Tensor:
    return held.float() if scale is None else held.float() * scale[..., None]


def normalise(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """LayerNorm over the last dimension, or RMSNorm where there is no bias."""
    wide = x.float()
    if bias is None:
        return F.rms_norm(wide, weight.shape, weight, eps).to(x.dtype)
    return F.layer_norm(wide, weight.shape, weight, bias, eps).to(x.dtype)


def activate(x: Tensor, activation: str, gated: Tensor | None) -> Tensor:
    """activation(x), or activation(x) · gated."""
    y = ACTIVATIONS[activation](x.float())
    return (y if gated is None else y * gated.float()).to(x.dtype)
