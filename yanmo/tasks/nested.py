"""Entities that may lie in each other: every span of cells is scored for every type.

In: what a head of plain columns says of each cell. Out: spans with scores, a loss.

    names      the columns of the head: a query and a key of WIDTH numbers, the start and the end of each type
    encode     entities → one whole number for each cell: which spans begin there
    loss       the loss of texts, with the number of (text, type)
    decode     scores of a text → spans that are worth more than 0, none of which crosses a better one

The worth of the span from i to j as a type t is q_i·k_j / √WIDTH + start_t(i) + end_t(j), where queries and keys are
turned by their places (Su et al. 2022, "Global Pointer", sections 2 and 3: the efficient form, with rotary places), so
that the head is one matrix over the hidden, and a model folder holds it as any head of labels. The loss of Su et al.
2022 ("ZLPR") draws the worth of entities above 0 and that of all other spans below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from yanmo.tasks.tagging import Placed

WIDTH = 64
BITS, MAX_WIDTH, MAX_TYPES = 21, 4096, 511  # of a span in the number of the cell where it begins; three fit into it
BLOCK = 256  # first cells of spans that are decoded together


def names(types: Sequence[str]) -> tuple[str, ...]:
    """The columns of the head."""
    turned = [f"{side}.{place}" for side in ("query", "key") for place in range(WIDTH)]
    return (*turned, *(f"start-{type_}" for type_ in types), *(f"end-{type_}" for type_ in types))


def encode(found: Sequence[Placed], count: int, types: Sequence[str]) -> tuple[np.ndarray, int]:
    """(one number for each of `count` cells, int64; how many entities could not be said: the fourth at one cell)."""
    codes = np.zeros(count, np.int64)
    starting: dict[int, set[int]] = {}
    lost = 0
    for type_, first, last in found:
        held = starting.setdefault(first, set())
        code = types.index(type_) * MAX_WIDTH + (last - first) + 1
        if last - first >= MAX_WIDTH - 1 or (len(held) == 3 and code not in held):
            lost += 1
        else:
            held.add(code)
    for first, held in starting.items():
        for place, code in enumerate(sorted(held)):
            codes[first] |= code << (BITS * place)
    return codes, lost


def _spans(codes: Tensor) -> Tensor:
    """Rows (type, first, last) of the numbers of the cells of a text."""
    rows = []
    for place in range(3):
        part = (codes >> (BITS * place)) & ((1 << BITS) - 1)
        first = part.nonzero().squeeze(1)
        code = part[first] - 1
        rows.append(torch.stack([code // MAX_WIDTH, first, first + code % MAX_WIDTH], 1))
    return torch.cat(rows)


def worth(scores: Tensor, begin: int = 0, stop: int | None = None, reach: int | None = None) -> Tensor:
    """Return (K, first cells from begin to stop, cells from begin to stop + reach) of one text; scores (T, L)."""
    count = len(scores)
    stop = count if stop is None else min(stop, count)
    until = count if reach is None else min(count, stop + reach)
    query, key, ends = scores.float().split([WIDTH, WIDTH, scores.shape[1] - 2 * WIDTH], 1)
    start, end = ends.chunk(2, 1)  # (T, K)
    places = torch.arange(begin, until, device=scores.device)
    query, key = _turned(query[begin:stop], places[: stop - begin]), _turned(key[begin:until], places)
    both = query @ key.T / math.sqrt(WIDTH)
    return both + start[begin:stop].T[:, :, None] + end[begin:until].T[:, None]


def _turned(x: Tensor, places: Tensor) -> Tensor:
    """Turn pairs of columns by angles of their places (Su et al. 2021, RoFormer)."""
    rates = 10000.0 ** (-torch.arange(0, WIDTH, 2, device=x.device) / WIDTH)
    angles = places[:, None] * rates
    one, two = x[:, : WIDTH // 2], x[:, WIDTH // 2 :]
    return torch.cat([one * angles.cos() - two * angles.sin(), one * angles.sin() + two * angles.cos()], 1)


def loss(texts: Sequence[Tensor], codes: Sequence[Tensor]) -> tuple[Tensor, int]:
    """Return the loss summed over texts and types, and their number; scores (T, L) and numbers (T,) of each text."""
    total, count = texts[0].new_zeros(()), 0
    for scores, numbers in zip(texts, codes, strict=True):
        values = worth(scores)  # (K, T, T)
        order = torch.ones(values.shape[1:], dtype=torch.bool, device=values.device).triu()
        spans = _spans(numbers)
        right = torch.zeros_like(values, dtype=torch.bool)
        right[spans[:, 0], spans[:, 1], spans[:, 2]] = True
        other = order & ~right
        zero = values.new_zeros(len(values), 1)
        low = torch.where(other, values, -1e4).flatten(1)
        high = torch.where(right, -values, -1e4).flatten(1)
        total = total + (torch.cat([low, zero], 1).logsumexp(1) + torch.cat([high, zero], 1).logsumexp(1)).sum()
        count += len(values)
    return total, count


def decode(scores: Tensor, types: Sequence[str], widest: int) -> list[tuple[str, int, int, float]]:
    """(type, first, last, score) of the spans of at most `widest` cells of one text; the score is σ of their worth."""
    found: list[tuple[float, int, int, int]] = []
    for begin in range(0, len(scores), BLOCK):
        values = worth(scores, begin, begin + BLOCK, widest - 1)
        kind, first, last = (values > 0).nonzero(as_tuple=True)
        fits = (last >= first) & (last - first < widest)
        kind, first, last = kind[fits], first[fits], last[fits]
        worths = values[kind, first, last].sigmoid()
        found += zip(worths.tolist(), (first + begin).tolist(), (last + begin).tolist(), kind.tolist())
    kept: dict[int, list[tuple[float, int, int, int]]] = {}  # by stretches of the text: spans that cross lie near
    for one in sorted(found, key=lambda row: (-row[0], row[1:])):
        here = one[1] // widest
        if not any(_cross(one, other) for near in (here - 1, here, here + 1) for other in kept.get(near, ())):
            kept.setdefault(here, []).append(one)
    rows = sorted((one for part in kept.values() for one in part), key=lambda row: (row[1], -row[2], row[3]))
    return [(types[kind], first, last, score) for score, first, last, kind in rows]


def _cross(one: tuple[float, int, int, int], other: tuple[float, int, int, int]) -> bool:
    """Whether each of two spans has cells that the other lacks, and both have some in common."""
    left, right = sorted([one[1:3], other[1:3]], key=lambda span: (span[0], -span[1]))
    return left[0] < right[0] <= left[1] < right[1]
