"""Rounding to 4 bits by what a text shows of the inputs: GPTQ (Frantar et al. 2022) in groups of 32 with their scale.

    O outputs, I inputs, G groups of 32 inputs

In: layers, the sums of products of their inputs. Out: matrices of the same format as plain rounding, so that the same
kernels read them.

    sums_of         rows of ids, a network → for each layer the sums x xᵀ of its inputs (I, I), nothing else kept
    round_to        weight, sums → Matrix: what is lost at one input is made up for at those that follow
    lost            the mean square of what a packed matrix changes in its outputs, of which the lesser is chosen
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yanmo.errors import InputError
from yanmo.kernels.matrix import GROUP, Matrix, dense, matrix_of_groups
from yanmo.models.transformer import Transformer

DAMPING = 0.01  # of the mean of the diagonal, added to it (the paper, §3.3)


class _Enough(Exception):
    """The layers that are looked at have all been reached."""


@torch.no_grad()
def sums_of(network: Transformer, layers: Sequence[nn.Module], rows: Sequence[Tensor]) -> list[Tensor]:
    """Read rows of ids (1, T) and return Σ x xᵀ (I, I) in float32 of the inputs of each layer.

    The network is left as soon as the last layer is reached, so that what comes after it costs nothing.
    """
    sums: list[Tensor] = [torch.zeros(0)] * len(layers)
    reached: set[int] = set()

    def look(number: int):
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().flatten(0, -2).float()
            sums[number] = x.T @ x if not sums[number].numel() else sums[number].addmm_(x.T, x)
            reached.add(number)
            if len(reached) == len(layers):
                raise _Enough

        return hook

    hooks = [layer.register_forward_pre_hook(look(number)) for number, layer in enumerate(layers)]
    try:
        for row in rows:
            reached.clear()
            try:
                network.decode(row)
            except _Enough:
                continue
            raise InputError("a layer of the network reads nothing of a text, so it cannot be calibrated on one")
    finally:
        for each in hooks:
            each.remove()
    return sums


@torch.no_grad()
def round_to(weight: Tensor, sums: Tensor) -> Matrix:
    """Float (O, I) → groups of 4 bits; the scale of a group is set once all inputs before it are rounded.

    InputError where the sums cannot be inverted, as when the inputs are not finite.
    """
    outputs, inputs = weight.shape
    spare = -inputs % GROUP
    left = F.pad(weight.detach().float(), (0, spare))
    square = F.pad(sums.double(), (0, spare, 0, spare))
    mean = square.diagonal()[:inputs].mean()
    square.diagonal().add_(DAMPING * mean + 1e-12)
    square.diagonal()[inputs:] = 1.0
    factor, failed = torch.linalg.cholesky_ex(square)
    if int(failed) or not bool(square.isfinite().all()):
        raise InputError("the inputs of a layer are not finite on this text; calibrate on another one")
    factor = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True).float()
    codes = torch.empty_like(left, dtype=torch.int8)
    halves = torch.empty(outputs, left.shape[1] // GROUP, dtype=torch.float16)
    for start in range(0, left.shape[1], GROUP):
        end = start + GROUP
        block = left[:, start:end].clone()
        largest = block.gather(1, block.abs().argmax(1, keepdim=True))[:, 0]
        scale = (largest / -8).to(torch.float16)
        if not bool(scale.isfinite().all()):
            raise InputError("the matrix has weights too large for a scale in float16; use 8 bits")
        halves[:, start // GROUP] = scale
        wide = scale.float()
        inverse = torch.where(wide.abs() < 1e-30, 0.0, 1 / wide)
        errors = torch.empty_like(block)
        for column in range(GROUP):
            place = start + column
            code = (block[:, column] * inverse).round().clamp(-8, 7)
            codes[:, place] = code.to(torch.int8)
            errors[:, column] = (block[:, column] - code * wide) / factor[place, place]
            block[:, column:] -= errors[:, column : column + 1] * factor[place, place:end]
        left[:, end:] -= errors @ factor[start:end, end:]
    return matrix_of_groups(codes, halves, 4, inputs)


def lost(matrix: Matrix, weight: Tensor, sums: Tensor) -> float:
    """‖x (packed - W)ᵀ‖² over all inputs x whose sums are given."""
    off = dense(matrix) - weight.detach().float()
    return float(((off @ sums) * off).sum())
