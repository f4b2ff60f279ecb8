"""One matrix to 4 bits by sums over its inputs: GPTQ (Frantar et al. 2022) in groups of 32 with their scale.

    O outputs, I inputs, G groups of 32 inputs; x an input as it comes, x' as it came in floats

In: weights (O, I) and sums over the inputs of a text. Out: a matrix of the same format as plain rounding, so that the
same kernels read it.

    meant        weight, Σ x xᵀ, Σ x' xᵀ → the weights whose outputs of x are nearest to those that x' had
    round_to     weight, Σ x xᵀ → Matrix: what is lost at one input is made up for at those that follow
    lost         the mean square of what a packed matrix changes in its outputs
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from yanmo.errors import InputError
from yanmo.kernels.matrix import GROUP, Matrix, dense, matrix_of_groups

DAMPING = 0.01  # of the mean of the diagonal, added to it (the paper, §3.3)
# The largest weight of a group divided by each of these, with either sign, is a scale that is tried. 8, negative, is
# that of plain rounding; below it the largest weight is cut, above it levels are spared.
DIVISORS = [5 + quarter / 4 for quarter in range(19)]


def meant(weight: Tensor, sums: Tensor, cross: Tensor) -> Tensor:
    """W (Σ x' xᵀ + λ) (Σ x xᵀ + λ)⁻¹: the least squares that stay near W where the text shows little."""
    damped = torch.eye(len(sums), dtype=torch.float64) * (DAMPING * sums.double().diagonal().mean() + 1e-12)
    wanted = weight.detach().double() @ (cross.double() + damped)
    found, failed = torch.linalg.solve_ex(sums.double() + damped, wanted.T)
    if int(failed) or not bool(found.isfinite().all()):
        raise InputError("the inputs of a layer are not finite on this text; calibrate on another one")
    return found.T.float()


@torch.no_grad()
def round_to(weight: Tensor, sums: Tensor) -> Matrix:
    """Float (O, I) → groups of 4 bits; the scale of a group is looked for once all groups before it are rounded.

    Groups with large inputs come first, and so do inputs of a group. InputError where the sums cannot be inverted, as
    when the inputs are not finite.
    """
    outputs, inputs = weight.shape
    spare = -inputs % GROUP
    left = F.pad(weight.detach().float(), (0, spare))
    square = F.pad(sums.double(), (0, spare, 0, spare))
    within = square.diagonal().view(-1, GROUP)
    groups = within.sum(1).argsort(dim=0, descending=True, stable=True)
    order = (within.argsort(dim=1, descending=True, stable=True) + torch.arange(0, inputs, GROUP)[:, None])[groups]
    order = order.flatten()
    square.diagonal()[:inputs].add_(DAMPING * square.diagonal()[:inputs].mean() + 1e-12)
    square.diagonal()[inputs:] = 1.0
    left, factor = left[:, order], _factor(square[order][:, order])
    codes = torch.empty_like(left, dtype=torch.int8)
    halves = torch.empty(outputs, len(groups), dtype=torch.float16)
    for start in range(0, left.shape[1], GROUP):
        end = start + GROUP
        block = left[:, start:end].clone()
        corner = factor[start:end, start:end]
        wide = best_scale(block, corner.diagonal() ** -2)
        halves[:, start // GROUP] = wide
        inverse = torch.where(wide.abs() < 1e-30, 0.0, 1 / wide)
        errors = torch.empty_like(block)
        for column in range(GROUP):
            code = (block[:, column] * inverse).round().clamp(-8, 7)
            codes[:, start + column] = code.to(torch.int8)
            errors[:, column] = (block[:, column] - code * wide) / corner[column, column]
            block[:, column:] -= errors[:, column : column + 1] * corner[column, column:]
        left[:, end:] -= errors @ factor[start:end, end:]
    return matrix_of_groups(codes[:, order.argsort()], halves[:, groups.argsort()], 4, inputs)


def best_scale(block: Tensor, share: Tensor) -> Tensor:
    """Of each row of a group (O, 32) the scale (O,) that loses least, in float32 as float16 holds it.

    share (32,): how much the square of an error counts at each input.
    """
    largest = block.gather(1, block.abs().argmax(1, keepdim=True))
    best = torch.full_like(largest[:, 0], torch.inf)
    scale = torch.zeros_like(best)
    for divisor in DIVISORS:
        for sign in (-1, 1):
            tried = (largest * (sign / divisor)).to(torch.float16).float()
            if not bool(tried.isfinite().all()):
                raise InputError("the matrix has weights too large for a scale in float16; use 8 bits")
            inverse = torch.where(tried.abs() < 1e-30, 0.0, 1 / tried)
            off = block - (block * inverse).round().clamp(-8, 7) * tried
            error = off.square() @ share
            scale = torch.where(error < best, tried[:, 0], scale)
            best = torch.minimum(error, best)
    return scale


def lost(matrix: Matrix, weight: Tensor, sums: Tensor) -> float:
    """‖x (packed - W)ᵀ‖² over all inputs x whose sums are given."""
    off = dense(matrix) - weight.detach().float()
    return float(((off @ sums) * off).sum())


def _factor(square: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse, float32."""
    lower, failed = torch.linalg.cholesky_ex(square)
    if int(failed) or not bool(square.isfinite().all()):
        raise InputError("the inputs of a layer are not finite on this text; calibrate on another one")
    return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True).float()
