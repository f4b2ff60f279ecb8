"""Chains of tags: the best legal sequence, how probable it is, and transitions that are learned.

In: scores of tags at the cells of texts, and what a step from tag to tag is worth. Out: sequences, probabilities, loss.

    Chain            worth of the first tag, the last tag, and each step; steps that are not legal are worth nothing
    chain_loss       the negative log-probability of given sequences (a linear-chain CRF, Lafferty et al. 2001)
    best             Viterbi's sequences with the posterior of any stretch of them
    Transitions      the learned part, beside a network's own weights

    D texts, T cells at most, L tags

Without learned transitions legal steps are worth 0, and scores are log-probabilities of each cell alone. All sums are
float32: in bfloat16 the partition of a text of hundred cells is off by whole units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

ILLEGAL = -1e4  # far below any score, and a sum of two is still exact enough in float32
TINY = 1e-25  # sums below it have lost digits to float32, which ends at 1e-38
RATE = 20.0  # how many times faster transitions learn than the weights, which rates are chosen for


class Chain(NamedTuple):
    """What sequences are worth beside the scores: first (L,), last (L,), step (L, L) from row to column; float32."""

    first: Tensor
    last: Tensor
    step: Tensor


def legal_chain(legal: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Chain:
    """A chain in which everything legal is worth 0."""
    return Chain(*(torch.from_numpy(np.where(part, 0.0, ILLEGAL)).float() for part in legal))


class Transitions(nn.Module):
    """Learned worth of first, last and step; they begin at 0."""

    def __init__(self, count: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.ends = nn.Parameter(torch.zeros(2, count, device=device))
        self.steps = nn.Parameter(torch.zeros(count, count, device=device))

    def on(self, legal: Chain) -> Chain:
        """The chain with what was learned."""
        ends, steps = self.ends.float() * RATE, self.steps.float() * RATE
        legal = Chain(*(part.to(steps.device) for part in legal))
        return Chain(legal.first + ends[0], legal.last + ends[1], legal.step + steps)


def padded(scores: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Scores (T, L) of texts → (D, T, L) in float32 and lengths (D,)."""
    lengths = torch.tensor([len(one) for one in scores], device=scores[0].device)
    return nn.utils.rnn.pad_sequence([one.float() for one in scores], batch_first=True), lengths


def chain_loss(scores: Tensor, tags: Tensor, lengths: Tensor, chain: Chain) -> Tensor:
    """Return −log p of the tags (D, T), summed over texts; scores (D, T, L), of which lengths (D,) count, each ≥ 1."""
    scores = scores.float()
    inside = torch.arange(scores.shape[1], device=scores.device) < lengths[:, None]
    own = scores.gather(2, tags[..., None]).squeeze(2) * inside
    steps = chain.step[tags[:, :-1], tags[:, 1:]] * inside[:, 1:]
    last = tags.gather(1, lengths[:, None] - 1).squeeze(1)
    total = own.sum(1) + steps.sum(1) + chain.first[tags[:, 0]] + chain.last[last]
    return (log_partition(scores, lengths, chain) - total).sum()


def log_partition(scores: Tensor, lengths: Tensor, chain: Chain) -> Tensor:
    """Return log Σ over all sequences of exp(worth), (D,): by products of shares, else by logarithms."""
    found, safe = shared_partition(scores, lengths, chain)
    return found if safe else plain_partition(scores, lengths, chain)


def plain_partition(scores: Tensor, lengths: Tensor, chain: Chain) -> Tensor:
    """The same by logarithms alone, which nothing is too small for."""
    alpha = chain.first + scores[:, 0]
    for place in range(1, scores.shape[1]):
        moved = torch.logsumexp(alpha[:, :, None] + chain.step, 1) + scores[:, place]
        alpha = torch.where((place < lengths)[:, None], moved, alpha)
    return torch.logsumexp(alpha + chain.last, 1)


def shared_partition(scores: Tensor, lengths: Tensor, chain: Chain) -> tuple[Tensor, bool]:
    """The same by a product of matrices for each cell (Rabiner 1989, V.A), and whether no sum came near to nothing.

    After each cell the sequences that end in each tag are divided by their sum, whose logarithm is added at the end.
    What is taken out is constant to the gradient, since it is put back.
    """
    tops = [part.detach().max() for part in (chain.step, chain.last)]
    step, last = (part.sub(top).exp() for part, top in zip((chain.step, chain.last), tops, strict=True))
    inside = torch.arange(scores.shape[1], device=scores.device) < lengths[:, None]
    scores = torch.cat([(scores[:, 0] + chain.first)[:, None], scores[:, 1:]], 1)
    highest = scores.detach().amax(2)
    alpha, *cells = scores.sub(highest[..., None]).exp().unbind(1)
    out = (highest * inside).sum(1) + tops[0] * (lengths - 1) + tops[1]
    least = scores.new_tensor(1.0)
    for cell, real in zip(cells, inside.unbind(1)[1:], strict=True):
        alpha = torch.where(real[:, None], alpha @ step * cell, alpha)
        total = alpha.detach().sum(1)
        least = torch.minimum(least, total.min())
        alpha = alpha / total[:, None]
        out = out + total.log()
    total = (alpha * last).sum(1)
    return out + total.log(), bool(torch.minimum(least, total.detach().min()) > TINY)


# --- the best sequence


@dataclass(frozen=True)
class Path:
    """The best sequence of a text; `posterior` of a stretch of it is taken from sums over all sequences."""

    tags: np.ndarray
    before: np.ndarray  # (T,) log of all sequences up to a cell that have the path's tag there
    behind: np.ndarray  # (T,) and from there on, without the cell's own score
    gained: np.ndarray  # (T,) worth of the path from its second cell up to each
    total: float

    def posterior(self, first: int, last: int) -> float:
        """The probability of the path's tags from cell `first` to `last` over all sequences, 0 to 1."""
        log = self.before[first] + self.gained[last] - self.gained[first] + self.behind[last] - self.total
        return float(np.exp(min(log, 0.0)))


@torch.no_grad()
def best(scores: list[Tensor], chain: Chain, at_once: int = 64) -> list[Path | None]:
    """The best sequence of each text, (T, L) each; None where a text has no cells. Always a legal one."""
    order = sorted((n for n in range(len(scores)) if len(scores[n])), key=lambda n: len(scores[n]))
    found: list[Path | None] = [None] * len(scores)
    for begin in range(0, len(order), at_once):
        numbers = order[begin : begin + at_once]
        for number, path in zip(numbers, _best(*padded([scores[n] for n in numbers]), chain), strict=True):
            found[number] = path
    return found


def _best(scores: Tensor, lengths: Tensor, chain: Chain) -> list[Path]:
    count, width = scores.shape[:2]
    delta = alpha = chain.first + scores[:, 0]
    alphas, origins = [alpha], []
    for place in range(1, width):
        inside = (place < lengths)[:, None]
        worth, origin = (delta[:, :, None] + chain.step).max(1)
        delta = torch.where(inside, worth + scores[:, place], delta)
        origins.append(origin)
        moved = torch.logsumexp(alpha[:, :, None] + chain.step, 1) + scores[:, place]
        alpha = torch.where(inside, moved, alpha)
        alphas.append(alpha)
    beta = chain.last.expand(count, -1)
    betas = [beta]
    for place in range(width - 2, -1, -1):
        moved = torch.logsumexp(chain.step[None] + (scores[:, place + 1] + beta)[:, None], 2)
        beta = torch.where((place < lengths - 1)[:, None], moved, chain.last)
        betas.append(beta)
    tag = (delta + chain.last).argmax(1)
    tags = [tag]
    for place in range(width - 2, -1, -1):
        before = origins[place].gather(1, tag[:, None]).squeeze(1)
        tag = torch.where(place < lengths - 1, before, tag)
        tags.append(tag)
    path = torch.stack(tags[::-1], 1)  # (D, T)
    at = path[..., None]
    before = torch.stack(alphas, 1).gather(2, at).squeeze(2)
    behind = torch.stack(betas[::-1], 1).gather(2, at).squeeze(2)
    gains = chain.step[path[:, :-1], path[:, 1:]] + scores.gather(2, at).squeeze(2)[:, 1:]
    gained = torch.cat([torch.zeros(count, 1, device=gains.device), gains], 1).cumsum(1)
    total = torch.logsumexp(alpha + chain.last, 1)
    held = [part.cpu().numpy() for part in (path, before, behind, gained)]
    found = []
    for row, length in enumerate(lengths.tolist()):
        own, start, rest, gain = (part[row, :length] for part in held)
        found.append(Path(own, start, rest, gain, float(total[row])))
    return found
