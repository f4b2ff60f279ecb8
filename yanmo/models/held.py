"""How a cache holds keys and values: as they are computed, in bfloat16, or in 8 bits.

    D head width, W numbers or bytes of a vector as it is held

    CACHES          the names that users give
    hold            say how the caches of a network hold them from now on
    width_of        W of D
    lay, read       vectors (…, D) → as they are held (…, W), and back
    codes_of        codes (…, D) and scales (…) of what is held in 8 bits, where they lie

In 8 bits a vector, one head of one token, has a scale of its own: its largest number / 127. Its codes and behind them,
from a multiple of 4 bytes on, the float32 of the scale are one row of bytes, so that whoever copies, drops or reorders
columns need not know of it. `append_int8` of the native library (step.cpp) lays the same bytes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from yanmo.errors import InputError, nearest
from yanmo.kernels.twins import TINY

CACHES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
MOST = 127  # the largest code
SCALE = 4  # bytes of a scale


def hold(network: Any, cache: str | None) -> None:
    """Say how caches that the network makes from now on hold keys and values; None: as they are computed."""
    if cache is not None and cache not in CACHES:
        raise InputError(f"cache is {cache!r}{nearest(str(cache), CACHES)}, and must be one of {', '.join(CACHES)}")
    if cache is not None and getattr(network, "decoder", None) is None:
        raise InputError(f"cache is {cache!r}, and this model keeps no keys and values; leave it out")
    if hasattr(network, "held"):
        network.held = None if cache is None else CACHES[cache]


def width_of(width: int, held: torch.dtype) -> int:
    """Numbers, or bytes where they are held in 8 bits, of a vector of `width` numbers."""
    return -(-width // SCALE) * SCALE + SCALE if held == torch.int8 else width


def lay(x: Tensor, held: torch.dtype) -> Tensor:
    """Vectors (…, D) as they are held; a vector that is not finite has the scale NaN."""
    if held != torch.int8:
        return x.to(held)
    x = x.float()
    most = x.abs().amax(-1)
    finite = most.isfinite()
    scale = torch.where(finite, most / MOST, math.nan)
    inverse = torch.where(finite & (scale >= TINY), 1 / scale, 0.0)
    rows = x.new_zeros((*x.shape[:-1], width_of(x.shape[-1], held)), dtype=torch.int8)
    codes = (torch.where(finite[..., None], x, 0.0) * inverse[..., None]).clamp_(-MOST, MOST).round_()
    rows[..., : x.shape[-1]] = codes.to(torch.int8)
    rows[..., -SCALE:] = scale[..., None].view(torch.int8)
    return rows


def read(rows: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """The vectors (…, D) of what is held, in the type `dtype`."""
    if rows.dtype != torch.int8:
        return rows.to(dtype)
    codes, scales = codes_of(rows, width)
    return (codes.float() * scales[..., None]).to(dtype)


def codes_of(rows: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Codes int8 (…, D) and scales float32 (…) of what is held in 8 bits: views of it."""
    return rows[..., :width], rows[..., -SCALE:].view(torch.float32)[..., 0]
