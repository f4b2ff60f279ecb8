"""Matrices in 8 or 4 bits as the kernels read them.

    O outputs (rows), I inputs (columns), P panels of 16 outputs, G groups of 32 inputs

    Matrix                       values, scales and how they lie; `shape_of`, `size_of` before there is one
    pack_rows, pack_groups       float (O, I) → Matrix: 8 bits with a scale for each output; 4 or 8 for each group
    pack_blocks                  the blocks of a GGUF file, Q4_0 or Q8_0 → Matrix, the same bytes in another order
    in_panels                    as the library reads it, where it was packed without one
    codes_of, dense, rows_of     Matrix → whole numbers and scales; float (O, I); some of its rows (an embedding)

Formats, all symmetric, and their bytes with P = ⌈O/16⌉ and inputs filled up to a multiple of 64 ("rows") or 32:

    rows8     (P, I/4, 16, 4): value + 128, values from -127 to 127; scales float32 (16·P,); W = scale · value
              or, packed without the library, (O, I) int8 as the twin reads it
    groups8   (P, G, 544): 16 scales in float16, then (8, 16, 4): value + 128
    groups4   (P, G, 288): 16 scales in float16, then (4, 16, 4): value + 8 of inputs 8i + j (low half), 8i + 4 + j
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from yanmo.errors import InputError
from yanmo.kernels import native
from yanmo.kernels.arena import room

Format = Literal["rows8", "groups8", "groups4"]
NUMBERS: dict[Format, int] = {"rows8": 0, "groups4": 4, "groups8": 8}  # Format of common.h
LANES, GROUP, ALIGN = 16, 32, 64  # kLanes, kGroup, kAlign
MAX_INPUTS = 65536  # sums of more products of two bytes could leave 32 bits
BLOCK_BYTES: dict[Format, int] = {"groups4": 18, "groups8": 34}  # GGUF: a float16 scale, then the values


@dataclass(frozen=True, eq=False)
class Matrix:
    """A packed matrix (O, I). `scales` and `sums` (of the values, over the inputs) are empty but for rows8."""

    format: Format
    outputs: int
    inputs: int
    panels: Tensor  # uint8; int8 where the values lie as they are
    scales: Tensor  # float32 (16·P,)
    sums: Tensor  # int32 (16·P,)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.panels.nbytes + self.scales.nbytes + self.sums.nbytes

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """What it holds."""
        return self.panels, self.scales, self.sums


def filled(inputs: int, format: Format) -> int:
    """Inputs as they are stored."""
    step = ALIGN if format == "rows8" else GROUP
    return -(-inputs // step) * step


def shape_of(outputs: int, inputs: int, format: Format) -> tuple[int, ...]:
    """The shape of `panels`."""
    panels, padded = -(-outputs // LANES), filled(inputs, format)
    if format == "rows8":
        return panels, padded // 4, LANES, 4
    return panels, padded // GROUP, LANES * BLOCK_BYTES[format]


def size_of(outputs: int, inputs: int, format: Format) -> int:
    """Bytes that a packed matrix takes of an arena."""
    beside = room(-(-outputs // LANES) * LANES * 4) if format == "rows8" else 0
    return room(math.prod(shape_of(outputs, inputs, format))) + 2 * beside


# --- packing


def pack_rows(weight: Tensor) -> Matrix:
    """Float (O, I) → 8 bits, the largest value of each output 127 (Dettmers et al. 2022, §2.1)."""
    weight = _checked(weight)
    scales = weight.abs().amax(1) / 127
    values = (weight / scales.clamp(min=1e-30)[:, None]).round().clamp(-127, 127).to(torch.int8)
    return matrix_of_rows(values, scales)


def matrix_of_rows(values: Tensor, scales: Tensor) -> Matrix:
    """Values (O, I) int8 without -128, and scales (O,) float32 → rows8; without the library they stay as they are."""
    outputs, inputs = values.shape
    plain = Matrix("rows8", outputs, inputs, values, scales, values.sum(1, dtype=torch.int32))
    return plain if native.library() is None else in_panels(plain)


def in_panels(matrix: Matrix) -> Matrix:
    """The matrix as the library reads it, whether the library is there or not."""
    if matrix.panels.ndim > 2:
        return matrix
    outputs, inputs, values, scales = matrix.outputs, matrix.inputs, matrix.panels, matrix.scales
    shape = shape_of(outputs, inputs, "rows8")
    padded = F.pad(values, (0, filled(inputs, "rows8") - inputs, 0, shape[0] * LANES - outputs))
    sums = padded.sum(1, dtype=torch.int32)
    panels = padded.view(shape[0], LANES, shape[1], 4).transpose(1, 2).contiguous().view(torch.uint8).bitwise_xor_(128)
    return Matrix("rows8", outputs, inputs, panels, F.pad(scales, (0, len(sums) - outputs)), sums)


def pack_groups(weight: Tensor, bits: int) -> Matrix:
    """Float (O, I) → 4 or 8 bits in groups of 32, rounded as llama.cpp rounds Q4_0 and Q8_0.

    4 bits: the largest value of a group takes the level that has no negative, so that all 16 are used.
    """
    weight = _checked(weight)
    if bits not in (4, 8):
        raise InputError(f"bits are {bits!r}, and must be 4 or 8")
    format: Format = "groups4" if bits == 4 else "groups8"
    outputs, inputs = weight.shape
    groups = F.pad(weight, (0, filled(inputs, format) - inputs)).view(outputs, -1, GROUP)
    largest = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    scales = largest / -8 if bits == 4 else largest.abs() / 127
    inverse = torch.where(scales.abs() < 1e-30, 0.0, 1 / scales)  # of the scale before it is rounded, as there
    values = groups * inverse
    # 4 bits: add 8.5 and cut; 8 bits: halves away from zero, as C's roundf
    values = (values + 0.5).floor().clamp(-8, 7) if bits == 4 else values.sign() * (values.abs() + 0.5).floor()
    halves = scales[:, :, 0].to(torch.float16)
    if not bool(halves.isfinite().all()):
        raise InputError(
            "the matrix has weights too large for a scale in float16; use 8 bits with a scale for each row"
        )
    return matrix_of_groups(values.to(torch.int8).view(outputs, -1), halves, bits, inputs)


def matrix_of_groups(values: Tensor, scales: Tensor, bits: int, inputs: int) -> Matrix:
    """Values (O, 32·G) int8 and scales (O, G) float16 → groups."""
    format: Format = "groups4" if bits == 4 else "groups8"
    outputs, groups = scales.shape
    panels = -(-outputs // LANES)
    codes = F.pad(values, (0, 0, 0, panels * LANES - outputs)).view(torch.uint8) + (8 if bits == 4 else 128)
    quads = codes.view(panels, LANES, groups, GROUP // 4, 4).permute(0, 2, 3, 1, 4)  # (P, G, 8, 16, 4)
    if bits == 4:
        quads = quads[:, :, 0::2] | (quads[:, :, 1::2] << 4)
    halves = F.pad(scales, (0, 0, 0, panels * LANES - outputs)).view(panels, LANES, groups).transpose(1, 2)
    parts = [halves.contiguous().view(torch.uint8), quads.reshape(panels, groups, -1)]
    empty = torch.empty(0)
    return Matrix(format, outputs, inputs, torch.cat(parts, 2), empty, empty.int())


def pack_blocks(blocks: Tensor, format: Format, inputs: int) -> Matrix:
    """A GGUF file's blocks, uint8 (O, G, 18) of Q4_0 or (O, G, 34) of Q8_0 → groups; no value or scale changes."""
    size = BLOCK_BYTES.get(format, 0)
    groups = -(-inputs // GROUP)
    if blocks.dtype != torch.uint8 or blocks.ndim != 3 or blocks.shape[1:] != (groups, size) or not size:
        raise InputError(
            f"blocks are {list(blocks.shape)} {blocks.dtype}, and {format} of {inputs} inputs needs "
            f"(outputs, {groups}, {size}) torch.uint8"
        )
    scales = blocks[:, :, :2].contiguous().view(torch.float16)[:, :, 0]
    values = blocks[:, :, 2:]
    if format == "groups4":  # the i-th byte holds the inputs i and i + 16
        values = torch.cat([values & 15, values >> 4], 2) - 8  # wraps around, and is a signed byte again
    return matrix_of_groups(values.contiguous().view(torch.int8).flatten(1), scales, 4 if size == 18 else 8, inputs)


def _checked(weight: Tensor) -> Tensor:
    if weight.ndim != 2 or not weight.is_floating_point() or 0 in weight.shape:
        raise InputError(f"a matrix is {list(weight.shape)} {weight.dtype}, and must have two dimensions of numbers")
    if weight.shape[1] > MAX_INPUTS:
        raise InputError(
            f"a matrix has {weight.shape[1]:,} inputs, at most {MAX_INPUTS:,} are multiplied in whole numbers"
        )
    weight = weight.detach().float()
    if not bool(weight.isfinite().all()):
        raise InputError("a matrix has weights that are not finite, which cannot be packed; fetch the model again")
    return weight


# --- unpacking


def codes_of(matrix: Matrix) -> tuple[Tensor, Tensor]:
    """Values int8 (O, filled inputs), and scales float32 (O,) of rows8 or (O, G) of groups."""
    return values_of(matrix.format, matrix.panels, matrix.scales, matrix.outputs)


def values_of(format: Format, panels: Tensor, scales: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    if panels.ndim == 2:
        return panels, scales
    if format == "rows8":
        values = panels.bitwise_xor(128).view(torch.int8).transpose(1, 2)  # (P, 16, I/4, 4)
        return values.reshape(-1, panels.shape[1] * 4)[:outputs], scales[:outputs]
    count, groups, _ = panels.shape
    halves = panels[:, :, : 2 * LANES].contiguous().view(torch.float16)  # (P, G, 16)
    quads = panels[:, :, 2 * LANES :].reshape(count, groups, -1, LANES, 4)
    if format == "groups4":
        quads = torch.stack([quads & 15, quads >> 4], 3).flatten(2, 3)  # (P, G, 8, 16, 4)
    values = (quads - (8 if format == "groups4" else 128)).view(torch.int8)
    rows = values.permute(0, 3, 1, 2, 4).reshape(count * LANES, groups * GROUP)
    return rows[:outputs], halves.transpose(1, 2).reshape(-1, groups)[:outputs].float()


def dense(matrix: Matrix) -> Tensor:
    """The matrix (O, I) in float32."""
    values, scales = codes_of(matrix)
    return _product(values, scales)[:, : matrix.inputs]


def rows_of(matrix: Matrix, ids: Tensor) -> Tensor:
    """The rows `ids` (…) of the matrix, (…, I) in float32: the vectors of an embedding."""
    flat = ids.flatten()
    if matrix.panels.ndim == 2:
        vectors = _product(matrix.panels[flat], matrix.scales[flat])
        return vectors[:, : matrix.inputs].view(*ids.shape, matrix.inputs)
    panels = matrix.panels[flat // LANES]  # one panel for each id, of which one lane is wanted
    lane = flat % LANES
    if matrix.format == "rows8":
        scales = matrix.scales[flat]
        order = torch.arange(len(flat))
        values = panels.view(len(flat), -1, LANES, 4)[order, :, lane].bitwise_xor(128).view(torch.int8)
        vectors = values.flatten(1).float() * scales[:, None]
    else:
        vectors = torch.stack(
            [
                _product(*values_of(matrix.format, panel[None], matrix.scales, LANES))[place]
                for panel, place in zip(panels, lane.tolist())
            ]
        )
    return vectors[:, : matrix.inputs].view(*ids.shape, matrix.inputs)


def _product(values: Tensor, scales: Tensor) -> Tensor:
    if scales.ndim == 1:
        return values.float() * scales[:, None]
    return (values.view(*scales.shape, GROUP).float() * scales[:, :, None]).flatten(1)
