"""The kernels as torch operators: checked, visible to torch.compile, native where the library is, else their twins.

    N rows, O outputs, I inputs; B texts, T new tokens, H heads, K key heads, S columns, D head width

    linear                   x → x Wᵀ + b with a packed matrix
    attend                   a few tokens over a cache whose column is a position
    attend_at                one token of each row over columns that rows share, each of which it finds by its place
    activate                 an activation, gated or not, in one pass

They compute in as many threads as torch does (torch.get_num_threads), on threads of their own, which spin for a tenth
of a millisecond after their work and then sleep; the caller never waits for one that has not begun (native/pool.h).
They have no gradients.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from yanmo.errors import Error, InputError, nearest
from yanmo.kernels import native, twins
from yanmo.kernels.matrix import NUMBERS, Matrix

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}  # Type of common.h
ACTIVATIONS = {name: number for number, name in enumerate(twins.ACTIVATIONS)}
FORMATS = {number: name for name, number in NUMBERS.items()}

_library = torch.library.Library("yanmo", "DEF")
_library.define(
    "linear(Tensor x, Tensor panels, Tensor scales, Tensor sums, Tensor? bias, int outputs, int format, bool wide)"
    " -> Tensor"
)
_library.define(
    "attend(Tensor query, Tensor key, Tensor value, Tensor last, float scale, int window, Tensor? key_scale,"
    " Tensor? value_scale) -> Tensor"
)
_library.define(
    "attend_at(Tensor query, Tensor key, Tensor value, Tensor places, Tensor last, float scale, int window,"
    " Tensor[] scales) -> Tensor"
)
_library.define("activate(Tensor x, int activation, Tensor? gated) -> Tensor")


# --- the product


def linear(x: Tensor, matrix: Matrix, bias: Tensor | None = None, *, wide: bool = False) -> Tensor:
    """Return x Wᵀ + b, (…, O) from (…, I), in the type of x (float32, bfloat16, float16).

    x is multiplied in whole numbers: of 8 bits with a scale for each row, or `wide` of 16, which costs nothing where
    memory is the limit (up to about four rows) and twice the work beyond; formats in groups have a scale for each 32
    inputs and no `wide`. bias: float32 (O,). A row of x that is not finite gives NaN.
    """
    if x.ndim == 0 or x.shape[-1] != matrix.inputs:
        raise InputError(f"x is {list(x.shape)}, and the matrix has {matrix.inputs} inputs, the last dimension of x")
    _check(x, "x")
    if bias is not None and (bias.dtype != torch.float32 or bias.shape != (matrix.outputs,) or not _dense(bias)):
        raise InputError(f"bias is {list(bias.shape)} {bias.dtype}, and must be [{matrix.outputs}] torch.float32")
    rows = x if x.ndim == 2 else x.reshape(-1, matrix.inputs)
    half = x.dtype == torch.float16
    y = torch.ops.yanmo.linear(
        rows.float() if half else rows, *matrix.tensors, bias, matrix.outputs, NUMBERS[matrix.format], wide
    )
    y = y.half() if half else y
    return y if x.ndim == 2 else y.view(*x.shape[:-1], matrix.outputs)


def _linear(
    x: Tensor, panels: Tensor, scales: Tensor, sums: Tensor, bias: Tensor | None, outputs: int, format: int, wide: bool
) -> Tensor:
    loaded = native.library()
    if loaded is None or panels.ndim == 2:
        return twins.linear(x, panels, scales, bias, outputs, FORMATS[format], wide)
    rows, inputs = x.shape
    if x.stride(1) != 1:
        x = x.contiguous()
    out = x.new_empty((rows, outputs))
    if rows:
        failed = loaded.yanmo_linear(
            panels.data_ptr(),
            scales.data_ptr(),
            sums.data_ptr(),
            None if bias is None else bias.data_ptr(),
            outputs,
            inputs,
            format,
            x.data_ptr(),
            rows,
            x.stride(0),
            out.data_ptr(),
            TYPES[x.dtype],
            wide,
            torch.get_num_threads(),
        )
        _memory(failed)
    return out


# --- attention


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    last: Tensor,
    scale: float,
    *,
    window: int = 0,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> Tensor:
    """Return softmax(scale · QKᵀ) V of a few new tokens, (B, T, H, D), in the type of query (float32, bfloat16).

    query (B, H, T, D); key and value (B, K, S, D), float32, bfloat16, or int8 with key_scale and value_scale float32
    (B, K, S), K a divisor of H; last int64 (B, T): token t of row b sees the columns up to last[b, t], no column below
    0 (then it returns 0), and with a `window` no more than so many. Columns that no token sees are not read.
    """
    _check(query, "query")
    _check_cache(query, key, value, key_scale, value_scale)
    rows, _, tokens, _ = query.shape
    if last.dtype != torch.int64 or last.shape != (rows, tokens):
        raise InputError(f"last is {list(last.shape)} {last.dtype}, and must be {[rows, tokens]} torch.int64")
    if last.numel() and int(last.max()) >= key.shape[2]:
        raise InputError(f"a token sees column {int(last.max())}, and the cache has {key.shape[2]}; make it longer")
    if window < 0:
        raise InputError(f"window is {window}, and must be 0 (no limit) or more")
    half = query.dtype == torch.float16
    out = torch.ops.yanmo.attend(
        query.float() if half else query, key, value, last, scale, window, key_scale, value_scale
    )
    return out.half() if half else out


def _check_cache(
    query: Tensor, key: Tensor, value: Tensor, key_scale: Tensor | None, value_scale: Tensor | None
) -> None:
    if query.ndim != 4 or key.ndim != 4 or key.shape != value.shape or key.dtype != value.dtype:
        raise InputError(
            f"query {list(query.shape)}, key {list(key.shape)} {key.dtype} and value {list(value.shape)} {value.dtype}"
            " must have four dimensions, key and value the same"
        )
    rows, heads, _, width = query.shape
    if key.shape[0] != rows or key.shape[3] != width or key.shape[1] == 0 or heads % key.shape[1]:
        raise InputError(
            f"query is {list(query.shape)} and key {list(key.shape)}: rows and head width must be equal, and the heads "
            "of the query a multiple of those of the key"
        )
    if key.dtype not in TYPES or key.device.type != "cpu":
        raise InputError(f"the cache is {key.dtype} on {key.device}; float32, bfloat16 and int8 on the CPU are read")
    for name, given in (("key_scale", key_scale), ("value_scale", value_scale)):
        if (given is not None) != (key.dtype == torch.int8):
            raise InputError(f"{name} is {'missing' if given is None else 'given'}, and belongs to an int8 cache alone")
        if given is not None and (given.dtype != torch.float32 or given.shape != key.shape[:3]):
            raise InputError(
                f"{name} is {list(given.shape)} {given.dtype}, and must be {list(key.shape[:3])} torch.float32"
            )


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    last: Tensor,
    scale: float,
    window: int,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
) -> Tensor:
    loaded = native.library()
    if loaded is None:
        return twins.attend(query, key, value, last, scale, window, key_scale, value_scale)
    rows, heads, tokens, width = query.shape
    query, key, value = _lined(query), _lined(key), _lined(value)
    last = last.contiguous()
    out = query.new_empty((rows, tokens, heads, width))
    if not out.numel():
        return out
    job = _job(query, key, value, last, out)
    if key_scale is not None and value_scale is not None:
        if key_scale.stride() != value_scale.stride():
            key_scale, value_scale = key_scale.contiguous(), value_scale.contiguous()
        job.key_scale, job.value_scale = key_scale.data_ptr(), value_scale.data_ptr()
        job.scale_row, job.scale_head, job.scale_column = key_scale.stride()
    job.window, job.scale = window, scale
    work = key.shape[2] * key.shape[1] * rows * tokens * width
    _memory(loaded.yanmo_attend(ctypes.addressof(job), torch.get_num_threads() if work > 2**15 else 1))
    return out


def _job(query: Tensor, key: Tensor, value: Tensor, last: Tensor, out: Tensor) -> native.AttendJob:
    """What is to be done, but for scales, places, window and scale."""
    rows, heads, tokens, width = query.shape
    job = native.AttendJob(
        query.data_ptr(), key.data_ptr(), value.data_ptr(), None, None, last.data_ptr(), out.data_ptr()
    )
    job.query_row, job.query_head, job.query_token, _ = query.stride()
    job.key_row, job.key_head, job.key_column, _ = key.stride()
    job.value_row, job.value_head, job.value_column, _ = value.stride()
    job.out_row, job.out_token, job.out_head, _ = out.stride()
    job.rows, job.kv_heads, job.groups, job.tokens = rows, key.shape[1], heads // key.shape[1], tokens
    job.head_width, job.type, job.cached = width, TYPES[query.dtype], TYPES[key.dtype]
    return job


def attend_at(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    places: Tensor,
    last: Tensor,
    scale: float,
    *,
    window: int = 0,
    scales: Sequence[Tensor] = (),
) -> Tensor:
    """`attend` of one token of each row, (B, H, 1, D) → (B, 1, H, D), over columns that rows may share.

    key and value (K, N, D), of an int8 cache with the `scales` of both, (K, N); places int32 (B, S): at which of the N
    each column of a row stands; last (B, 1) counts the columns of the row. Equal to `attend` after a copy, bit for bit.
    """
    _check(query, "query")
    rows = query.shape[0]
    of_rows = [part.expand(rows, *part.shape) for part in (key, value, *scales)]
    _check_cache(query, *of_rows, *([None, None] if not scales else []))
    if query.shape[2] != 1 or query.dtype == torch.float16:
        raise InputError(f"query is {list(query.shape)} {query.dtype}; one token of each row in float32 or bfloat16")
    _check_places(places, last, rows, key.shape[1])
    return torch.ops.yanmo.attend_at(query, key, value, places, last, scale, window, list(scales))


def _check_places(places: Tensor, last: Tensor, rows: int, columns: int) -> None:
    if places.dtype != torch.int32 or places.ndim != 2 or len(places) != rows:
        raise InputError(f"places is {list(places.shape)} {places.dtype}, and must be [{rows}, columns] torch.int32")
    if last.dtype != torch.int64 or last.shape != (rows, 1):
        raise InputError(f"last is {list(last.shape)} {last.dtype}, and must be {[rows, 1]} torch.int64")
    if not rows:
        return
    high = int(last.max())
    if high >= places.shape[1]:
        raise InputError(f"a token sees column {high}, and there are places of {places.shape[1]}; make it longer")
    low, high = (int(x) for x in places.aminmax()) if places.numel() else (0, 0)
    if low < 0 or high >= columns:
        raise InputError(f"places are from {low} to {high}, and there are {columns} columns")


def _attend_at(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    places: Tensor,
    last: Tensor,
    scale: float,
    window: int,
    scales: list[Tensor],
) -> Tensor:
    loaded = native.library()
    if loaded is None:
        return twins.attend_at(query, key, value, places, last, scale, window, scales)
    rows, heads, tokens, width = query.shape
    out = query.new_empty((rows, tokens, heads, width))
    if not out.numel():
        return out
    query, key, value, last = _lined(query), _lined(key), _lined(value), last.contiguous()
    places = _lined(places)
    job = _job(query, key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1), last, out)
    job.places, job.place_row = places.data_ptr(), places.stride(0)
    if scales:
        if scales[0].stride() != scales[1].stride():
            scales = [part.contiguous() for part in scales]
        job.key_scale, job.value_scale = (part.data_ptr() for part in scales)
        job.scale_head, job.scale_column = scales[0].stride()
    job.window, job.scale = window, scale
    work = places.numel() * key.shape[0] * width
    _memory(loaded.yanmo_attend(ctypes.addressof(job), torch.get_num_threads() if work > 2**15 else 1))
    return out


def _lined(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


# --- activations


def activate(x: Tensor, activation: str, gated: Tensor | None = None) -> Tensor:
    """Return activation(x), times `gated` of the same shape and type where it is given (Shazeer 2020)."""
    if activation not in ACTIVATIONS:
        raise InputError(f"there is no activation {activation!r}{nearest(activation, ACTIVATIONS)}")
    _check(x, "x")
    if gated is not None and (gated.shape != x.shape or gated.dtype != x.dtype):
        raise InputError(f"gated is {list(gated.shape)} {gated.dtype}, and must be {list(x.shape)} {x.dtype}, like x")
    half = x.dtype == torch.float16
    y = torch.ops.yanmo.activate(
        x.float() if half else x, ACTIVATIONS[activation], gated.float() if half and gated is not None else gated
    )
    return y.half() if half else y


def _activate(x: Tensor, activation: int, gated: Tensor | None) -> Tensor:
    loaded = native.library()
    if loaded is None:
        return twins.activate(x, list(twins.ACTIVATIONS)[activation], gated)
    x = x.contiguous()
    gated = None if gated is None else gated.contiguous()
    out = torch.empty_like(x)
    if out.numel():
        job = native.ActivateJob(x.data_ptr(), None if gated is None else gated.data_ptr(), out.data_ptr())
        job.count, job.activation, job.type = x.numel(), activation, TYPES[x.dtype]
        threads = torch.get_num_threads() if out.numel() > 2**15 else 1
        loaded.yanmo_activate(ctypes.addressof(job), threads)
    return out


# --- what all share


def _check(x: Tensor, name: str) -> None:
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16) or x.device.type != "cpu":
        raise InputError(
            f"{name} is {x.dtype} on {x.device}; float32, bfloat16 and float16 on the CPU are computed with"
        )
    if x.requires_grad and torch.is_grad_enabled():
        raise InputError(f"{name} wants a gradient, which the kernels do not have; use torch.inference_mode()")


def _dense(x: Tensor) -> bool:
    return x.is_contiguous() and x.device.type == "cpu"


def _memory(failed: int) -> None:
    if failed:
        raise Error(
            "the kernels got no memory for the numbers of one product; close other programs, or take fewer rows"
        )


def _like(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape)


_library.impl("linear", _linear, "CPU")
_library.impl("attend", _attend, "CPU")
_library.impl("attend_at", _attend_at, "CPU")
_library.impl("activate", _activate, "CPU")
_library.impl(
    "linear", lambda x, panels, scales, sums, bias, outputs, format, wide: _like(x, x.shape[0], outputs), "Meta"
)
_library.impl(
    "attend", lambda q, *rest: _like(q, q.shape[0], q.shape[2], q.shape[1], q.shape[3]), "Meta"
)  # (B, H, T, D) → (B, T, H, D)
_library.impl("attend_at", lambda q, *rest: _like(q, q.shape[0], q.shape[2], q.shape[1], q.shape[3]), "Meta")
_library.impl("activate", lambda x, activation, gated: torch.empty_like(x), "Meta")
