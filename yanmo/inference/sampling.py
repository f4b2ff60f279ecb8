"""Logits → the next id: pure functions over one step of a batch.

    B rows, V vocabulary

    penalise    repetition (Keskar et al. 2019), presence and frequency (OpenAI's mathematics)
    restrict    temperature, top-k, top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024),
                typical (Meister et al. 2023)
    choose      greedy, or one draw per row from a generator of its own

Rows never influence each other, so a row of a batch draws what it would draw alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from yanmo.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. A temperature of 0 is greedy; each other default changes nothing."""

    temperature: float = 0.0
    top_k: int = 0  # keep the k likeliest; 0: all
    top_p: float = 1.0  # keep the likeliest whose mass reaches p
    min_p: float = 0.0  # keep those with at least this share of the likeliest's probability
    typical_p: float = 1.0  # keep the mass p whose surprise is nearest to the expected one
    repetition_penalty: float = 1.0  # divides (or multiplies, below 0) the logit of a token of prompt or text
    presence_penalty: float = 0.0  # subtracted once from a token that the text holds
    frequency_penalty: float = 0.0  # subtracted for each time that the text holds it

    def __post_init__(self) -> None:
        ranges = {
            "temperature": (0.0, math.inf),
            "top_k": (0, math.inf),
            "top_p": (0.0, 1.0),
            "min_p": (0.0, 1.0),
            "typical_p": (0.0, 1.0),
            "repetition_penalty": (1e-6, math.inf),
            "presence_penalty": (-math.inf, math.inf),
            "frequency_penalty": (-math.inf, math.inf),
        }
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), ranges[field.name]
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not low <= value <= high:
                limit = f"from {low:g} to {high:g}" if high < math.inf else f"at least {low:g}"
                raise InputError(
                    f"{field.name} is {value!r}, and must be a number {limit if low > -math.inf else ''}".strip()
                )
        if self.top_p == 0 or self.typical_p == 0:
            raise InputError("top_p and typical_p of 0 keep no token; use a temperature of 0 for the likeliest one")

    @property
    def draws(self) -> bool:
        """Whether a random number is used."""
        return self.temperature > 0

    @property
    def penalises(self) -> bool:
        """Whether earlier tokens matter."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


def penalise(logits: Tensor, prompt: Sequence[Sequence[int]], text: Sequence[Sequence[int]], s: Sampling) -> Tensor:
    """Lower in (B, V) the tokens that a row has already; presence and frequency count the new text alone."""
    logits = logits.clone()
    for row, (before, new) in enumerate(zip(prompt, text)):
        if s.repetition_penalty != 1:
            seen = torch.tensor(sorted({*before, *new}), device=logits.device)
            if seen.numel():
                score = logits[row, seen]
                worse = torch.where(score < 0, score * s.repetition_penalty, score / s.repetition_penalty)
                logits[row, seen] = worse
        if new and (s.presence_penalty or s.frequency_penalty):
            ids, counts = torch.tensor(list(new), device=logits.device).unique(return_counts=True)
            logits[row, ids] -= s.presence_penalty + s.frequency_penalty * counts.to(logits.dtype)
    return logits


def restrict(logits: Tensor, s: Sampling) -> Tensor:
    """Divide (B, V) by the temperature and set what is not to be drawn to −∞; the likeliest token always stays."""
    logits = logits / s.temperature
    vocabulary = logits.shape[-1]
    if 0 < s.top_k < vocabulary:
        least = logits.topk(s.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if s.top_p < 1:
        ordered, order = logits.sort(dim=-1, stable=True)
        enough = ordered.softmax(-1).cumsum(-1) <= 1 - s.top_p
        enough[:, -1] = False
        logits = logits.masked_fill(enough.scatter(1, order, enough), -math.inf)
    if s.min_p > 0:
        share = logits.softmax(-1)
        logits = logits.masked_fill(share < s.min_p * share.amax(-1, keepdim=True), -math.inf)
    if s.typical_p < 1:
        log_share = logits.log_softmax(-1)
        entropy = -(log_share.exp() * log_share.nan_to_num(neginf=0.0)).sum(-1, keepdim=True)
        distance, order = (-log_share - entropy).abs().sort(dim=-1, stable=True)
        mass = logits.gather(1, order).softmax(-1).cumsum(-1)
        last = (mass < s.typical_p).sum(-1, keepdim=True).clamp(max=vocabulary - 1)
        limit = distance.gather(1, last)
        out = (distance > limit).scatter(1, order, distance > limit)
        logits = logits.masked_fill(out, -math.inf)
    return logits


def choose(logits: Tensor, s: Sampling, generators: Sequence[torch.Generator]) -> Tensor:
    """Return one id per row, (B,): the likeliest, or a draw by inverting the cumulative distribution in float64."""
    if not s.draws:
        if logits.device.type == "cpu" and logits.dtype == torch.float32:
            # torch does it in several threads, which then wait for milliseconds, in the way of the kernels' own
            return torch.from_numpy(logits.detach().numpy().argmax(-1))
        return logits.argmax(-1)
    mass = restrict(logits, s).double().softmax(-1).cumsum(-1)
    draws = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators]).to(mass.device)
    target = draws[:, None] * mass[:, -1:]
    return torch.searchsorted(mass, target, right=True).squeeze(1).clamp(max=mass.shape[-1] - 1)


def generators_for(seed: int | None, rows: int, samples: int) -> list[torch.Generator]:
    """One generator per row of `rows` prompts × `samples`: the k-th sample of every prompt starts from (seed, k).

    A seed of None draws one from the system. The global generator is never touched.
    """
    if seed is None:
        seed = torch.Generator().seed()
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise InputError(f"seed is {seed!r}, and must be a whole number from 0 to 2⁶⁴ − 1")
    return [
        torch.Generator().manual_seed((seed + k * 0x9E3779B97F4A7C15) % 2**64)
        for _ in range(rows)
        for k in range(samples)
    ]
