"""Scores of starts and ends → the best span of a passage, or none; and the spans that examples teach.

In: Passages, a network with the head of spans. Out: what each window says (`Said`), and what each row answers.

    targets     where the answer of each row lies in its windows
    listen      the network on every window once → Said
    choose      Said → the best window of each row
    cut         a window's best span → characters of the passage

A span begins and ends with a token of the passage that has a visible character, never with one of the question or the
frame, and has at most `longest` tokens. Windows are compared by ln p of their best span, each p among the places of
its own window, as training has it: a window without the answer gives its weight to "no answer".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from yanmo.tasks.passages import Passages
from yanmo.tokens.labelled import Labelled, labelled_once
from yanmo.training.labels import by_document, label_hidden
from yanmo.training.objectives import evaluating

AT_ONCE = 8192  # tokens of windows that are computed together
NONE = -np.inf

Chars = tuple[int, int]


class Said(NamedTuple):
    """Of each window, (W,) each: its best span and what speaks for it; float64, places int64.

    first, last: ids of the window, −1 where it holds no token to begin with. span, null: ln p of that span and of "no
    answer". margin: score of the span less that of "no answer". loss: −ln p of the target, the mean of start and end.
    """

    first: np.ndarray
    last: np.ndarray
    span: np.ndarray
    null: np.ndarray
    margin: np.ndarray
    loss: np.ndarray


# --- what examples teach


def targets(passages: Passages, answers: list[Chars | None]) -> np.ndarray:
    """The first and the last place of each window (W, 2): of the answer where it lies whole in it, else the null place.

    answers: characters of the passage for each row, None for no answer.
    """
    found = np.empty((len(passages), 2), np.int64)
    known: dict[int, tuple[int, int] | None] = {}
    for window, (row, begin, end) in enumerate(passages.windows.tolist()):
        if row not in known:
            answer = answers[row]
            known[row] = None if answer is None else tokens_of(passages.ranges[passages.of_row[row]], answer)
        span = known[row]
        if span is None or span[0] < begin or span[1] >= end:
            found[window] = passages.null(window)
        else:
            found[window] = np.array(span) - begin + passages.head(row)
    return found


def tokens_of(ranges: np.ndarray, answer: Chars) -> tuple[int, int] | None:
    """The first and last token (inclusive) that have a character of the answer; None where none has."""
    inside = np.flatnonzero((ranges[:, 0] < answer[1]) & (ranges[:, 1] > answer[0]))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


# --- what a network says


def listen(
    network: Any,
    passages: Passages,
    data: Labelled,
    chosen: np.ndarray,
    longest: int,
    temperature: float = 1.0,
) -> Said:
    """What the network says of the chosen windows, in their order; `data` are all of them (Passages.labelled)."""
    said = Said(*(np.full(len(chosen), -1, np.int64) for _ in range(2)), *(np.zeros(len(chosen)) for _ in range(4)))
    for scores, numbers in window_scores(network, data.subset(chosen)):
        scores = (scores / temperature).double()
        allowed = torch.zeros(scores.shape[:2], dtype=torch.bool)
        nulls = []
        for place, number in enumerate(numbers):
            window = int(chosen[number])
            row, begin, end = passages.windows[window].tolist()
            head = passages.head(row)
            allowed[place, head : head + end - begin] = torch.from_numpy(
                passages.visible[passages.of_row[row]][begin:end]
            )
            nulls.append(passages.null(window))
        wanted = torch.from_numpy(data.labels[chosen[numbers]])
        for field, values in zip(said, _best(scores, allowed, torch.tensor(nulls), wanted, longest), strict=True):
            field[numbers] = values.numpy()
    return said


def window_scores(network: Any, data: Labelled) -> Iterator[tuple[Tensor, np.ndarray]]:
    """(scores (D, longest, 2) in float32 on the CPU, −inf behind a window; the numbers of the D windows)."""
    device = next(network.parameters()).device
    with evaluating(network), torch.inference_mode():
        for batch, numbers in labelled_once(data, max(1, AT_ONCE // data.length)):
            moved = batch.to(device)
            scores = network.scores(label_hidden(network, moved), moved.ids, moved.mask)
            yield by_document(scores.float(), moved.mask).cpu(), numbers


def _best(
    scores: Tensor, allowed: Tensor, nulls: Tensor, wanted: Tensor, longest: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The fields of Said for scores (D, T, 2), allowed places (D, T), null places (D,) and targets (D, 2)."""
    each = torch.arange(len(scores))
    chances = scores.log_softmax(1)
    starts, ends = (chances[..., side].masked_fill(~allowed, NONE) for side in range(2))
    end, place = _ahead(ends, min(longest, scores.shape[1]))
    total, first = (starts + end).max(1)
    last = place[each, first]
    null = chances[each, nulls].sum(1)
    none = total == NONE
    loss = -(chances[each, wanted[:, 0], 0] + chances[each, wanted[:, 1], 1]) / 2
    return first.masked_fill(none, -1), last.masked_fill(none, -1), total, null, total - null, loss


def _ahead(values: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """The largest of the next `reach` values (D, T), its own first, and its place; by doubling, in memory of (D, T)."""
    found, place = values, torch.arange(values.shape[1]).expand(values.shape)
    width = 1
    while width < reach:
        step = min(width, reach - width)
        far, far_place = F.pad(found[:, step:], (0, step), value=NONE), F.pad(place[:, step:], (0, step))
        found, place = torch.where(far > found, far, found), torch.where(far > found, far_place, place)
        width += step
    return found, place


# --- what a row answers


class Choice(NamedTuple):
    """Of each row, (R,): the window whose span is the best, ln p of it, its margin, and the least ln p of "none"."""

    window: np.ndarray
    span: np.ndarray
    margin: np.ndarray
    null: np.ndarray


def choose(passages: Passages, said: Said, windows: np.ndarray, rows: np.ndarray) -> Choice:
    """The best of the windows of each row (ascending numbers); `said` speaks of `windows`."""
    found = Choice(np.zeros(len(rows), np.int64), *(np.full(len(rows), NONE) for _ in range(3)))
    least = np.full(len(rows), np.inf)
    places = np.searchsorted(rows, passages.windows[windows, 0])
    for number, place in enumerate(places.tolist()):
        least[place] = min(least[place], said.null[number])
        if said.span[number] >= found.span[place]:
            found.window[place], found.span[place] = number, said.span[number]
            found.margin[place] = said.margin[number]
    return found._replace(null=least)


def cut(passages: Passages, window: int, first: int, last: int) -> Chars:
    """The characters of the passage from place `first` to `last` of a window, without white space at their ends."""
    row, begin, _ = passages.windows[window].tolist()
    number = passages.of_row[row]
    text, ranges = passages.texts[number], passages.ranges[number]
    shift = begin - passages.head(row)
    start, end = int(ranges[first + shift][0]), int(ranges[last + shift][1])
    inside = text[start:end]
    return start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
