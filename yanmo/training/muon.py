"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum whose matrices are made orthogonal.

In: matrices with gradients. Out: changed matrices.

    Muon               one step over all its matrices, those of one shape at once; its state is one momentum for each
    orthogonalise      Newton-Schulz, batched
    orthogonalised     the same for a list of matrices of one shape

The update is scaled to AdamW's size (Liu et al. 2025, arXiv 2502.16982, §2.2), so that one learning rate and one weight
decay serve both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from yanmo.training.sharded import in_parts, local

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan 2024: singular values end between 0.7 and 1.2
SCALE = 0.2  # root mean square of an AdamW update, measured by Liu et al. 2025

Directions = Callable[[Sequence[Tensor], torch.dtype], Sequence[Tensor]]  # matrices of one shape → their updates


class Muon:
    """The momenta of matrices, and one step over them; `directions` orthogonalises matrices that lie in parts."""

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        dtype: torch.dtype,
        directions: Directions | None = None,
        *,
        momentum: float = 0.95,
    ) -> None:
        self.dtype, self.directions, self.momentum = dtype, directions, momentum
        self.matrices: dict[torch.Size, list[nn.Parameter]] = {}  # by shape
        for parameter in matrices:
            self.matrices.setdefault(parameter.shape, []).append(parameter)
        self.stacks: dict[torch.Size, Tensor] = {}  # (N, rows, columns): all momenta of a shape
        self.momenta: dict[int, Tensor] = {}  # by id of the parameter; where there is a stack a part of it
        for shape, parameters in self.matrices.items():
            parts: Sequence[Tensor] = [torch.zeros_like(parameter) for parameter in parameters]
            if not any(map(in_parts, parameters)):
                self.stacks[shape] = torch.stack(list(parts))
                parts = self.stacks[shape].unbind()
            self.momenta |= {id(parameter): part for parameter, part in zip(parameters, parts)}

    @torch.no_grad()
    def step(self, rate: float, weight_decay: float = 0.0, scale: float = 1.0) -> None:
        """Update every matrix that has a gradient, with `scale` × the gradient, which may be in bfloat16."""
        for shape, parameters in self.matrices.items():
            given = [parameter for parameter in parameters if parameter.grad is not None]
            if not given:
                continue
            whole = shape in self.stacks and len(given) == len(parameters)
            updates = self._stacked(shape, given, scale) if whole else self._one_by_one(given, scale)
            changed = [local(parameter) for parameter in given]
            torch._foreach_mul_(changed, 1 - rate * weight_decay)
            torch._foreach_add_(changed, [u.to(p.dtype) for u, p in zip(updates, changed)], alpha=-rate * _scale(shape))

    def _stacked(self, shape: torch.Size, parameters: list[nn.Parameter], scale: float) -> Sequence[Tensor]:
        momenta = self.stacks[shape]
        ahead = torch.stack([cast(Tensor, parameter.grad) for parameter in parameters]).to(momenta.dtype)
        fresh = (1 - self.momentum) * scale
        momenta.mul_(self.momentum).add_(ahead, alpha=fresh)
        ahead.mul_(fresh).add_(momenta, alpha=self.momentum)  # Nesterov
        return orthogonalise(ahead, self.dtype).to(momenta.dtype).unbind()

    def _one_by_one(self, parameters: list[nn.Parameter], scale: float) -> Sequence[Tensor]:
        """The same for matrices that lie in parts, or of which some have no gradient."""
        momenta = [self.momenta[id(parameter)] for parameter in parameters]
        gradients = [cast(Tensor, parameter.grad).to(m.dtype) for parameter, m in zip(parameters, momenta)]
        fresh = (1 - self.momentum) * scale
        torch._foreach_mul_(momenta, self.momentum)
        torch._foreach_add_(momenta, gradients, alpha=fresh)
        ahead = torch._foreach_mul(gradients, fresh)
        torch._foreach_add_(ahead, momenta, alpha=self.momentum)
        return (self.directions or orthogonalised)(ahead, self.dtype)


def _scale(shape: torch.Size) -> float:
    return SCALE * math.sqrt(max(shape))


def orthogonalised(matrices: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    """`orthogonalise` for a list of matrices of one shape."""
    return orthogonalise(torch.stack(list(matrices)), dtype).unbind()


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.float32, steps: int = STEPS) -> Tensor:
    """Return (N, rows, columns) matrices with their singular values brought near 1 (Jordan 2024, Newton-Schulz).

    The iteration runs in `dtype` on the smaller side; a zero matrix stays zero.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # in the given precision, before the cast
    x = x.to(dtype).contiguous()
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
