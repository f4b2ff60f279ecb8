"""How large a model a budget of compute is worth (Hoffmann et al. 2022, arXiv 2203.15556, "Chinchilla").

In: FLOPs. Out: parameters and tokens.

    optimal       C = 6 N D with D = 20 N: what approaches 1 and 2 of the paper find (table 2, table 3)
    parametric    approach 3: the minimum of E + A/N^α + B/D^β under 6 N D = C, with the paper's own fit (appendix D.3)

The two differ most far from the sizes that the paper trained (70 million to 16 billion parameters); a repetition of the
third (Besiroglu et al. 2024, arXiv 2404.10102) finds its fit off and its mend near 20 tokens per parameter too. A model
that will be used a lot is rightly smaller and trained for longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from yanmo.errors import InputError
from yanmo.plan.published import CHINCHILLA

E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28  # appendix D.3


@dataclass(frozen=True)
class Optimum:
    """The size for a budget, by the paper's rule and by its third approach."""

    flops: float
    parameters: float
    tokens: float
    parametric_parameters: float
    parametric_tokens: float
    source: str = "Hoffmann et al. 2022, arXiv 2203.15556: 6 N D = C, D = 20 N; and approach 3"


def optimal(flops: float) -> Optimum:
    """The compute-optimal size for a budget of training FLOPs."""
    if not (math.isfinite(flops) and flops > 0):
        raise InputError(f"the budget is {flops!r} FLOPs, and must be above 0")
    n = math.sqrt(flops / (6 * CHINCHILLA))
    return Optimum(flops, n, CHINCHILLA * n, *parametric(flops))


def parametric(flops: float) -> tuple[float, float]:
    """(parameters, tokens) by approach 3: N = G (C/6)^(β/(α+β)), G = (αA/βB)^(1/(α+β)) (equation 4)."""
    scale = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    n = scale * (flops / 6) ** (BETA / (ALPHA + BETA))
    return n, flops / 6 / n


def loss(parameters: float, tokens: float) -> float:
    """Nats per token that approach 3 predicts, for the paper's text and tokenizer."""
    return E + A / parameters**ALPHA + B / tokens**BETA
