"""Terms that a text must hold, or must not: how beam search ranks continuations then.

    K beams, V vocabulary

    Terms         of one prompt: wanted and forbidden terms, each in the ways in which its tokens can be written
    Standing      how far a text has come with them
    follow        Standing and one more id → Standing
    forbid        scores (K, V) → the same, −∞ where a forbidden term would be complete or a text end without a term
    candidates    scores (K, V) → (score, beam, id) in the order in which they are taken

Beams are shared out over banks by how many ids of the terms a text holds, since texts that hold a term are less likely
than those that do not and would never be followed (Post & Vilar 2018, §3). Each beam proposes what would begin or
continue a term, beside what is likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Way = tuple[int, ...]


@dataclass(frozen=True)
class Terms:
    """wanted: for each term the ways to write it, of which one is enough; forbidden: ways alone. No way is empty."""

    wanted: tuple[tuple[Way, ...], ...] = ()
    forbidden: tuple[Way, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.wanted or self.forbidden)

    def lacks(self, at: Standing) -> int:
        """How many terms a text lacks."""
        return len(self.wanted) - len(at.met)


@dataclass(frozen=True)
class Standing:
    """met: the terms that a text holds; begun: the ways (term, way) whose first ids it ends with, and how many."""

    met: frozenset[int] = frozenset()
    begun: tuple[tuple[int, int, int], ...] = ()

    def ids(self, terms: Terms) -> int:
        """How many ids of the terms are written, those of a term that is met counting as its longest way."""
        whole = sum(max(map(len, terms.wanted[term])) for term in self.met)
        return whole + max((count for _, _, count in self.begun), default=0)


def follow(terms: Terms, before: Standing, id: int) -> Standing:
    """The standing of a text after one more id. A way that is broken off may begin again with that id alone."""
    met, begun = set(before.met), []
    open_ways = [(term, way, 0) for term in range(len(terms.wanted)) for way in range(len(terms.wanted[term]))]
    for term, way, count in (*before.begun, *open_ways):
        ids = terms.wanted[term][way]
        if term in met or ids[count] != id:
            continue
        if count + 1 == len(ids):
            met.add(term)
        else:
            begun.append((term, way, count + 1))
    return Standing(frozenset(met), tuple(sorted({one for one in begun if one[0] not in met})))


def standing(terms: Terms, text: Sequence[int]) -> Standing:
    """The standing of a whole text."""
    found = Standing()
    for id in text:
        found = follow(terms, found, id)
    return found


def forbid(
    terms: Terms, scores: Tensor, texts: Sequence[Sequence[int]], at: Sequence[Standing], ends: set[int]
) -> Tensor:
    """The scores (K, V) without what would complete a forbidden term, or end a text that lacks a wanted one."""
    scores = scores.clone()
    for beam, text in enumerate(texts):
        for way in terms.forbidden:
            if len(way) == 1 or tuple(text[-(len(way) - 1) :]) == way[:-1]:
                scores[beam, way[-1]] = -torch.inf
    for beam, place in enumerate(at if terms.wanted else ()):
        if ends and terms.lacks(place):
            scores[beam, list(ends)] = -torch.inf
    return scores


def candidates(
    terms: Terms, scores: Tensor, at: Sequence[Standing], best: Sequence[tuple[float, int, int]], beams: int
) -> list[tuple[float, int, int]]:
    """(score, beam, id) of continuations: first as many as there are beams, shared out over banks, then the rest.

    scores: of whole texts, (K, V), after `forbid`; best: the likeliest (score, beam, id) of all.
    """
    found = {(beam, id): score for score, beam, id in best}
    for beam, place in enumerate(at):
        ids = {int(scores[beam].argmax())}
        ids |= {terms.wanted[term][way][count] for term, way, count in place.begun}
        ids |= {way[0] for term, ways in enumerate(terms.wanted) if term not in place.met for way in ways}
        found |= {(beam, id): float(scores[beam, id]) for id in ids}
    ranked = sorted(((s, *place) for place, s in found.items()), key=lambda c: (-c[0], c[1:]))
    banks: dict[int, list[tuple[float, int, int]]] = {}
    for one in (one for one in ranked if one[0] > -torch.inf):
        banks.setdefault(follow(terms, at[one[1]], one[2]).ids(terms), []).append(one)
    first: list[tuple[float, int, int]] = []
    order = sorted(banks, reverse=True)  # what is left over goes to the texts that hold most
    while len(first) < beams and any(banks.values()):
        for bank in order:
            if banks[bank] and len(first) < beams:
                first.append(banks[bank].pop(0))
    first.sort(key=lambda c: (-c[0], c[1:]))
    taken = set(first)
    return first + [one for one in ranked if one not in taken]
