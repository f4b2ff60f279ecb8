"""The small parts: norms, activations, feed-forward, and the four ways to tell a position.

B rows, T columns, D head width, W width

Norm, FeedForward           x → x
sinusoids                   the fixed table of Vaswani et al. 2017, §3.5
rotary_frequencies, rotation_at, rotate     rotary positions (Su et al. 2021), halves convention
relative_bucket             T5's distance buckets (Raffel et al. 2020, §2.1)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yanmo.models.config import RopeScaling, TransformerConfig
from yanmo.models.fast import dropout, project

Rotation = tuple[Tensor, Tensor]  # cosine and sine, each (B or 1, 1, T, D)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _relu_squared(x: Tensor) -> Tensor:
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
    "relu_squared": _relu_squared,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Norm(nn.Module):
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019) over the last dimension."""

    def __init__(self, config: TransformerConfig, width: int = 0) -> None:
        super().__init__()
        width = width or config.width
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if config.norm == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each vector."""
        if self.bias is None:
            if x.device.type == "cpu" and torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
                return RMSNorm.apply(x, self.weight, self.eps)  # 3.5 times as fast as the next line (docs/log.md)
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(torch.autograd.Function):
    """F.rms_norm with its gradient, in few passes over the data: on a CPU torch composes it out of a dozen.

    x (…, W), weight (W,). In bfloat16 the scale of a vector is rounded too; everything summed is summed in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, scale, weight = ctx.saved_tensors
        product = upstream * normed
        weight_gradient = product.flatten(0, -2).sum(0, dtype=torch.float32).to(weight.dtype)
        along = (product @ weight).unsqueeze(-1) / normed.shape[-1]
        return torch.addcmul(upstream * weight, normed, along, value=-1).mul_(scale), weight_gradient, None


class FeedForward(nn.Module):
    """up, activation, down; gated (Shazeer 2020): down(activation(gate(x)) · up(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, inner, bias = config.width, config.ffn_width, config.bias_ffn
        self.gate = nn.Linear(width, inner, bias=bias) if config.gated else None
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = config.activation_dropout

    def forward(self, x: Tensor) -> Tensor:
        """Transform each vector by itself."""
        if self.gate is None:
            inner = self.activation(project(x, self.up)[0])
        else:
            gate, up = project(x, self.gate, self.up)
            inner = self.activation(gate) * up
        if self.training and self.dropout:
            inner = dropout(inner, self.dropout)
        return project(inner, self.down)[0]


def sinusoids(positions: int, width: int, base: float = 10000.0) -> Tensor:
    """Return the table (positions, width): sines in the first half, cosines in the second (Marian's order)."""
    even = torch.arange(0, width, 2, dtype=torch.float64)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] / base ** (even / width)
    return torch.cat([angle.sin(), angle.cos()[:, : width // 2]], dim=1).float()


def rotary_frequencies(config: TransformerConfig, device: torch.device | None = None) -> tuple[Tensor, float]:
    """Return the angle per position of each pair, (D/2,), and the factor on cosine and sine (yarn's temperature)."""
    exponent = torch.arange(0, config.head_width, 2, device=device).float() / config.head_width
    frequencies = 1.0 / config.rope_theta**exponent
    scaling = config.rope_scaling
    if scaling is None or scaling.kind == "dynamic":  # dynamic depends on the length: see rotation_at
        return frequencies, 1.0
    if scaling.kind == "linear":
        return frequencies / scaling.factor, 1.0
    if scaling.kind == "llama3":
        return _llama3(frequencies, scaling), 1.0
    return _yarn(frequencies, scaling, config.rope_theta), _yarn_temperature(scaling)


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Leave fast pairs, slow down slow pairs by the factor, blend in between."""
    turns = scaling.original_positions * frequencies / (2 * math.pi)  # full turns within the trained length
    blend = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
    blend = blend.clamp(0, 1)
    return blend * frequencies + (1 - blend) * frequencies / scaling.factor


def _yarn(frequencies: Tensor, scaling: RopeScaling, theta: float) -> Tensor:
    """NTK by parts (Peng et al. 2023, §3.2): a ramp over the dimensions between two numbers of turns."""
    width = 2 * frequencies.shape[0]

    def dimension(turns: float) -> float:
        return width * math.log(scaling.original_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    ramp = (torch.arange(width // 2, device=frequencies.device).float() - low) / ((high - low) or 0.001)
    kept = 1 - ramp.clamp(0, 1)
    return frequencies / scaling.factor * (1 - kept) + frequencies * kept


def _yarn_temperature(scaling: RopeScaling) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def term(scale: float) -> float:
        return 0.1 * scale * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    if scaling.mscale and scaling.mscale_all:
        return term(scaling.mscale) / term(scaling.mscale_all)
    return term(1.0)


def rotation_at(config: TransformerConfig, positions: Tensor, dtype: torch.dtype) -> Rotation:
    """Return cosine and sine at `positions` (B, T), computed in float32.

    Dynamic scaling stretches a row by its own length, so that a batch cannot change what a row computes; keys keep the
    angle that they were written with, as in the common implementation.
    """
    frequencies, temperature = rotary_frequencies(config, positions.device)
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "dynamic":
        length = (positions.amax(1, keepdim=True) + 1).clamp(min=config.max_positions).float()
        stretch = scaling.factor * length / config.max_positions - (scaling.factor - 1)
        theta = config.rope_theta * stretch ** (config.head_width / (config.head_width - 2))
        exponent = torch.arange(0, config.head_width, 2, device=positions.device).float() / config.head_width
        frequencies = (1.0 / theta**exponent)[:, None]  # (B, 1, D/2)
    angle = positions[:, :, None].float() * frequencies  # (B, T, D/2)
    angle = torch.cat([angle, angle], dim=-1)[:, None]  # (B, 1, T, D)
    return (angle.cos() * temperature).to(dtype), (angle.sin() * temperature).to(dtype)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair (i, i + D/2) of (B, H, T, D) by its angle."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


def relative_bucket(distance: Tensor, buckets: int, max_distance: int, *, both_ways: bool) -> Tensor:
    """Map key position − query position to a bucket: exact when near, logarithmic to `max_distance`, then the last."""
    bucket = torch.zeros_like(distance)
    if both_ways:
        buckets //= 2
        bucket = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    ratio = (distance.clamp(min=1).float() / exact).log() / math.log(max_distance / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return bucket + torch.where(distance < exact, distance, far)
