"""Preference objectives: of two answers to one prompt, the chosen becomes likelier than the rejected.

In: a network and a PreferenceBatch (tokens/preferences.py). Out: (loss_sum, number of pairs), as in objectives.py.

    dpo              against a frozen reference (Rafailov et al. 2023, equation 7)
    orpo             without one, together with learning the chosen answer (Hong et al. 2024, equations 6 and 7)
    preferred        in how many pairs the chosen answer is the likelier one
    answer_scores    Σ ln p of each answer, and how many tokens it has
    frozen           a network → the reference of dpo

    P pairs
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yanmo.errors import InputError
from yanmo.tokens.batches import NO_TARGET
from yanmo.tokens.preferences import PreferenceBatch
from yanmo.training.chunked import log_probs, targeted
from yanmo.training.objectives import evaluating

Reference = Callable[[PreferenceBatch], Tensor]
Objective = Callable[[Any, PreferenceBatch], tuple[Tensor, int]]


def answer_scores(network: Any, batch: PreferenceBatch) -> tuple[Tensor, Tensor]:
    """Return Σ ln p(target) and the number of targets of each answer, float32, (P, 2) each: chosen, rejected."""
    hidden, targets = targeted(network, network.decode(batch.ids, batch.mask), batch.targets)
    each = log_probs(network, hidden, targets)
    last = batch.mask.amax(1)  # (B,) answers in each row
    first = last.cumsum(0) - last
    place = (first[:, None] + batch.mask - 1)[batch.targets != NO_TARGET]
    sums = torch.zeros(int(last.sum()), device=each.device)
    return sums.index_add(0, place, each).view(-1, 2), sums.index_add(0, place, torch.ones_like(each)).view(-1, 2)


def frozen(network: nn.Module) -> Reference:
    """The reference that a second network is: its scores in evaluation mode, without gradients."""

    def reference(batch: PreferenceBatch) -> Tensor:
        with torch.no_grad(), evaluating(network):
            return answer_scores(network, batch)[0]

    return reference


def preferred(network: Any, batch: PreferenceBatch, reference: Reference | None = None) -> tuple[Tensor, int]:
    """Return in how many pairs the chosen answer gained more than the rejected one, and the number of pairs.

    Without a reference, in how many its mean ln p per token is the higher one.
    """
    with torch.no_grad():
        scores, counts = answer_scores(network, batch)
        gain = scores / counts.clamp(min=1) if reference is None else scores - reference(batch).to(scores)
        return (gain[:, 0] > gain[:, 1]).float().sum(), len(gain)


def dpo(reference: Reference, *, beta: float = 0.1, smoothing: float = 0.0) -> Objective:
    """An objective: −ln σ(β · ((chosen − rejected) − (chosen − rejected of the reference))) of each pair, summed.

    `reference` gives Σ ln p of each answer of a batch, (P, 2): `frozen(network)`, or a function that switches adapters
    off. smoothing: the share of pairs that are thought to be labelled the wrong way round (Mitchell 2023).
    """
    _positive("beta", beta)
    if not 0 <= smoothing < 0.5:
        raise InputError(f"smoothing is {smoothing}; choose a share from 0 and below 0.5")

    def objective(network: Any, batch: PreferenceBatch) -> tuple[Tensor, int]:
        with torch.no_grad():
            known = reference(batch)
        scores, _ = answer_scores(network, batch)
        gain = beta * (scores - known.detach().to(scores))  # (P, 2)
        margin = gain[:, 0] - gain[:, 1]
        loss = -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)
        return loss.sum(), len(loss)

    return objective


def orpo(*, weight: float = 0.1) -> Objective:
    """An objective: −ln p per token of the chosen, and weight · −ln σ(ln odds of chosen − ln odds of rejected), summed.

    The odds are p / (1 − p), p being the geometric mean over an answer's tokens.
    """
    _positive("weight", weight)

    def objective(network: Any, batch: PreferenceBatch) -> tuple[Tensor, int]:
        scores, counts = answer_scores(network, batch)
        mean = scores / counts.clamp(min=1)  # (P, 2) ln p per token
        odds = mean - torch.log(-torch.expm1(mean.clamp(max=-1e-6)))  # an answer known by heart has p = 1
        loss = -mean[:, 0] - weight * F.logsigmoid(odds[:, 0] - odds[:, 1])
        return loss.sum(), len(loss)

    return objective


def _positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise InputError(f"{name} is {value}; choose a number above 0")
