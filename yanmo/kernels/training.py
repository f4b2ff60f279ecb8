"""Training's passes over memory on a CPU, natively: each does in one what torch does in several.

    usable         whether the library is there and has them
    adam, squares  the optimizer's step of many parameters at once, and the sum of the squares of their gradients
    join           residual stream + dropout of what a part adds, and LayerNorm; join_back: its gradient
    gelu           GELU; gelu_back: its gradient, the values again and column sums
    weigh          softmax over the keys that a query sees, and dropout; weigh_back: its gradient
    turned         rows as columns
    multiply_heads the same for each row and head
    multiply       a product of matrices on tiles, where multiplies says that it can

    N rows, W width, B rows of a batch, H heads, T query columns, S key columns

Activations are bfloat16 and contiguous, sums float32. What is dropped follows from a seed, the row and the place
(`kept`), so backward makes it again and nothing is stored. twins.py has the same in plain torch.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yanmo.kernels import native

ONE = 1 << 15  # steps in which a rate is rounded
ROW_BLOCK = 16  # kRowBlock of train.h
PIECE = 1 << 14  # kAdamPiece
MAX_KEYS = 1024  # of `weigh`
LANES = 16  # widths and numbers of keys are multiples of it
TILE, DEEP, MAX_DEPTH = 16, 32, 1 << 14  # of `multiply`: rows, and depth and columns, are multiples of them
WORTH = 1 << 24  # multiplications below which torch is as fast


def _struct(name: str, *fields: tuple[str, Any]) -> type[ctypes.Structure]:
    kinds = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "i": ctypes.c_int32, "f": ctypes.c_float, "u": ctypes.c_uint64}
    listed = [(field, kinds[kind]) for kind, names in fields for field in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": listed})


_DROP = (("u", "seed"), ("i", "limit"), ("f", "factor"))
# AdamJob and SquaresJob of train.h, as rows of an array
_POINTERS = ("weight", "first", "second", "gradient", "low")
NUMBERS = ("scale", "keep", "beta1", "beta2", "step", "root", "eps")
ADAM = np.dtype(
    [(name, np.uint64) for name in _POINTERS]
    + [("count", np.int64), ("wide", np.int32)]
    + [(name, np.float32) for name in NUMBERS],
    align=True,
)
SQUARES = np.dtype([("numbers", np.uint64), ("count", np.int64), ("wide", np.int32)], align=True)
JoinJob = _struct("JoinJob", ("p", "residual branch weight bias out stats"), ("n", "rows width"), *_DROP, ("f", "eps"))
JoinBackJob = _struct(
    "JoinBackJob", ("p", "upstream sum weight stats residual branch columns"), ("n", "rows width"), *_DROP
)
CurveJob = _struct("CurveJob", ("p", "x out upstream columns"), ("n", "rows width"))
WeighJob = _struct("WeighJob", ("p", "scores dropped range"), ("n", "rows heads columns keys"), ("f", "scale"), *_DROP)
WeighBackJob = _struct(
    "WeighBackJob", ("p", "weights upstream dropped range"), ("n", "rows heads columns keys"), ("f", "scale"), *_DROP
)
TurnJob = _struct("TurnJob", ("p", "x out"), ("n", "rows width"))
_PRODUCT = (
    ("p", "a b bias out"),
    ("n", "rows depth columns a_stride b_stride out_stride"),
    ("i", "turned add"),
    ("n", "strip part"),
    ("p", "failed"),
)
ProductJob = _struct("ProductJob", *_PRODUCT)
HeadsJob = _struct(
    "HeadsJob", *_PRODUCT, ("n", "count heads a_row a_head b_row b_head out_row out_head"), ("i", "a_turned")
)


@functools.cache
def _has(library: ctypes.CDLL | None) -> bool:
    """Whether this library has these functions; they then run on torch's own threads, where those can be found."""
    if not hasattr(library, "yanmo_train_heads"):
        return False
    if torch.backends.openmp.is_available() and os.name == "posix":
        found: Any = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
        address = ctypes.cast(found, ctypes.c_void_p)
        library.yanmo_train_team(address)  # type: ignore[union-attr]
    return True


def usable() -> bool:
    """Whether the native library is loaded and has these functions."""
    return _has(native.library())


def _call(name: str, job: ctypes.Structure) -> None:
    function = getattr(native.library(), name)
    function.restype = None
    function(ctypes.byref(job), torch.get_num_threads())


def _checked(*tensors: Tensor) -> list[int]:
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in tensors)
    return [tensor.data_ptr() for tensor in tensors]


def _drop(rate: float) -> tuple[int, float]:
    limit = round(rate * ONE)
    return limit, ONE / (ONE - limit)


# --- the optimizer


def adam(jobs: np.ndarray) -> None:
    """Update parameters, or parts of them, as `jobs`, an array of ADAM, says; a gradient whose address is 0 is 0."""
    function: Any = native.library().yanmo_train_adam  # type: ignore[union-attr]
    function.restype = None
    jobs, ends = np.ascontiguousarray(jobs, ADAM), np.empty(len(jobs), np.int64)
    places = (ctypes.c_void_p(jobs.ctypes.data), ctypes.c_int64(len(jobs)), ctypes.c_void_p(ends.ctypes.data))
    function(*places, torch.get_num_threads())


def squares(tensors: Sequence[Tensor]) -> float:
    """The sum of the squares of all numbers; tensors are contiguous, float32 or bfloat16."""
    function: Any = native.library().yanmo_train_squares  # type: ignore[union-attr]
    function.restype = ctypes.c_double
    rows = [(*_checked(tensor), tensor.numel(), tensor.dtype == torch.float32) for tensor in tensors]
    jobs, ends = np.array(rows, SQUARES), np.empty(len(rows), np.int64)
    sums = np.empty(sum(-(-tensor.numel() // PIECE) for tensor in tensors) + 1)
    places = [ctypes.c_void_p(array.ctypes.data) for array in (jobs, ends, sums)]
    return function(places[0], ctypes.c_int64(len(jobs)), places[1], places[2], torch.get_num_threads())


# --- layers


def join(
    residual: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float, rate: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Return LayerNorm(residual + dropout(branch)), (N, W), and its statistics (N, 2); `branch` becomes the sum."""
    rows, width = residual.shape
    assert width % LANES == 0
    out, stats = torch.empty_like(residual), torch.empty(rows, 2)
    limit, factor = _drop(rate)
    _call(
        "yanmo_train_join",
        JoinJob(*_checked(residual, branch, weight, bias, out, stats), rows, width, seed, limit, factor, eps),
    )
    return out, stats


def join_back(
    upstream: Tensor, summed: Tensor, weight: Tensor, stats: Tensor, rate: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of residual and branch, (N, W), and of weight, bias, and a bias of the branch, (3, W)."""
    rows, width = upstream.shape
    residual = torch.empty_like(upstream)
    branch = torch.empty_like(upstream) if rate else residual
    columns = torch.empty(-(-rows // ROW_BLOCK), 3, width)
    limit, factor = _drop(rate)
    given = _checked(upstream, summed, weight, stats, residual, branch, columns)
    _call("yanmo_train_join_back", JoinBackJob(*given, rows, width, seed, limit, factor))
    return residual, branch, columns.sum(0)


def gelu(x: Tensor) -> Tensor:
    """Return GELU(x), (N, W)."""
    out = torch.empty_like(x)
    _call("yanmo_train_curve", CurveJob(*_checked(x, out), None, None, *x.shape))
    return out


def gelu_back(x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Return GELU(x) and the column sums of the gradient of x, (W,), which takes the place of `upstream`."""
    out, columns = torch.empty_like(x), torch.empty(-(-len(x) // ROW_BLOCK), x.shape[1])
    _call("yanmo_train_curve", CurveJob(*_checked(x, out, upstream, columns), *x.shape))
    return out, columns.sum(0)


def weigh(scores: Tensor, ranges: Tensor, heads: int, scale: float, rate: float, seed: int) -> Tensor:
    """Return the weights after dropout; `scores` (B·H, T, S) become the weights, 0 where a key is not seen.

    ranges int32 (B, T, 2): the first key that a query sees, and the one behind the last; at least one is seen.
    """
    assert scores.shape[2] <= MAX_KEYS and scores.shape[2] % LANES == 0 and ranges.dtype == torch.int32
    dropped = torch.empty_like(scores) if rate else scores
    shape = (len(scores) // heads, heads, *scores.shape[1:])
    _call("yanmo_train_weigh", WeighJob(*_checked(scores, dropped, ranges), *shape, scale, seed, *_drop(rate)))
    return dropped


def weigh_back(
    weights: Tensor, upstream: Tensor, ranges: Tensor, heads: int, scale: float, rate: float, seed: int
) -> Tensor:
    """Return the weights after dropout; `upstream`, their gradient, becomes that of the unscaled scores."""
    dropped = torch.empty_like(weights) if rate else weights
    shape = (len(weights) // heads, heads, *weights.shape[1:])
    given = _checked(weights, upstream, dropped, ranges)
    _call("yanmo_train_weigh_back", WeighBackJob(*given, *shape, scale, seed, *_drop(rate)))
    return dropped


def tiles() -> bool:
    """Whether products run on the processor's tiles here."""
    return usable() and bool(native.library().yanmo_train_tiles())  # type: ignore[union-attr]


def multiplies(a: Tensor, b: Tensor) -> bool:
    """Whether `multiply` can be called, on this machine and with a (M, K), b (K, N), and is worth it."""
    (rows, depth), columns = a.shape, b.shape[1]
    if not (a.dtype == b.dtype == torch.bfloat16 and tiles()):
        return False
    fit = not (rows % TILE or depth % DEEP or columns % DEEP) and depth <= MAX_DEPTH
    return fit and rows * depth * columns >= WORTH and a.stride(1) == 1 and 1 in b.stride()


def multiply(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor, *, add: bool = False) -> Tensor:
    """Write a (M, K) times b (K, N), and the bias (N,), into `out` (M, N), or with `add` add it to that."""
    turned = b.stride(1) != 1
    strides = (a.stride(0), b.stride(1 if turned else 0), out.stride(0))
    assert out.stride(1) == 1 and (bias is None or bias.is_contiguous())
    places = (a.data_ptr(), b.data_ptr(), None if bias is None else bias.data_ptr(), out.data_ptr())
    job = ProductJob(*places, *a.shape, b.shape[1], *strides, turned, add, 0, 0, None)
    if native.library().yanmo_train_product(ctypes.byref(job), torch.get_num_threads()):  # type: ignore[union-attr]
        raise MemoryError("no memory for the packed columns of a product")
    return out


def multiply_heads(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write a (B, H, M, K) times b (B, H, K, N) into out (B, H, M, N); all may be views, K or M and N side by side."""
    (batch, heads, rows, depth), columns = a.shape, b.shape[3]
    fit = not (rows % TILE or depth % DEEP or columns % DEEP) and depth <= MAX_DEPTH and out.stride(3) == 1
    if not (fit and a.dtype == torch.bfloat16 and tiles()):
        out.copy_(torch.matmul(a, b))
        return
    a_turned, b_turned = a.stride(3) != 1, b.stride(3) != 1
    assert 1 in a.stride()[2:] and 1 in b.stride()[2:]
    strides = (a.stride(3 if a_turned else 2), b.stride(3 if b_turned else 2), out.stride(2))
    places = (a.data_ptr(), b.data_ptr(), None, out.data_ptr())
    between = [step for tensor in (a, b, out) for step in tensor.stride()[:2]]
    one = (*places, rows, depth, columns, *strides, b_turned, 0, 0, 0, None)
    job = HeadsJob(*one, batch * heads, heads, *between, a_turned)
    if native.library().yanmo_train_heads(ctypes.byref(job), torch.get_num_threads()):  # type: ignore[union-attr]
        raise MemoryError("no memory for the packed columns of a product")


def turned(x: Tensor) -> Tensor:
    """Return xᵀ, contiguous; x (N, W)."""
    rows, width = x.shape
    assert width % LANES == 0
    out = torch.empty(width, rows, dtype=x.dtype)
    _call("yanmo_train_turn", TurnJob(*_checked(x, out), rows, width))
    return out


# --- what is dropped


def kept(seed: int, rows: int, width: int, rate: float) -> Tensor:
    """The factors (rows, width), float32, that `join` and `weigh` multiply with: 0 where a number is dropped."""
    limit, factor = _drop(rate)
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * (np.arange(rows, dtype=np.uint64) + np.uint64(1))
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        keys = ((z ^ z >> np.uint64(31)) >> np.uint64(32)).astype(np.uint32)
        y = np.arange(width, dtype=np.uint32) * np.uint32(0x9E3779B9) + keys[:, None]
        y = (y ^ y >> np.uint32(16)) * np.uint32(0x7FEB352D)
        y = (y ^ y >> np.uint32(15)) * np.uint32(0x846CA68B)
        y = (y ^ y >> np.uint32(16)) >> np.uint32(17)
    return torch.from_numpy(np.where(y < limit, 0.0, factor).astype(np.float32))
