"""Distillation: a small network learns what a larger one thinks of every next token (Hinton et al. 2015).

In: a teacher. Out: an objective of the loop for the student.

    distillation    teacher → objective
    divergence      Σ KL(teacher ‖ student) at a temperature

Teacher's and student's logits exist for one chunk of positions at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yanmo.errors import InputError
from yanmo.training.chunked import CHUNK, chunked_sum, targeted
from yanmo.training.language import decoded
from yanmo.training.objectives import evaluating

Hidden = Callable[[Any, Any], Tensor]


def distillation(
    teacher: nn.Module,
    *,
    temperature: float = 2.0,
    weight: float = 0.5,
    hidden: Hidden = decoded,
    chunk: int = CHUNK,
) -> Callable[[Any, Any], tuple[Tensor, int]]:
    """An objective: weight · temperature² · KL(teacher ‖ student) + (1 − weight) · −ln p(target), over all targets.

    temperature² keeps the size of the soft gradients as the temperature changes (Hinton et al. 2015, §2). `hidden` says
    what is scored: decoded, encoded or translated (language.py). The teacher has the student's vocabulary; it is used
    in evaluation mode and gets no gradients.
    """
    if not (0 < temperature < float("inf")):
        raise InputError(f"the temperature is {temperature}; choose a number above 0")
    if not 0 <= weight <= 1:
        raise InputError(f"the weight of the teacher is {weight}; choose one from 0 to 1")
    size = teacher.config.output_size  # type: ignore[union-attr]

    def objective(network: Any, batch: Any) -> tuple[Tensor, int]:
        if network.config.output_size != size:
            raise InputError(
                f"the teacher has a vocabulary of {size} ids, the student one of {network.config.output_size}; "
                "train the student with the teacher's tokenizer"
            )
        with torch.no_grad(), evaluating(teacher):
            known, _ = targeted(teacher, hidden(teacher, batch), batch.targets)
        own, targets = targeted(network, hidden(network, batch), batch.targets)

        def score(logits: Tensor, wanted: Tensor, taught: Tensor) -> Tensor:
            logits = logits.float()
            with torch.no_grad(), evaluating(teacher):
                soft = teacher.logits(taught).float()  # type: ignore[operator]
            loss = temperature**2 * weight * divergence(logits, soft, temperature)
            return loss + (1 - weight) * F.cross_entropy(logits, wanted, reduction="sum") if weight < 1 else loss

        return chunked_sum(network, own, (targets, known), score, chunk), len(targets)

    return objective


def divergence(logits: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """Return Σ KL(softmax(soft / temperature) ‖ softmax(logits / temperature)) over rows of logits (N, V)."""
    student = F.log_softmax(logits / temperature, dim=-1)
    teacher = F.log_softmax(soft / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="sum", log_target=True)
