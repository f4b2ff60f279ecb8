"""Texts → tokens with their characters, in windows; scores of windows → scores of cells.

In: a tokenizer, texts, whether words are cells. Out: `Text`s; after the network, one row of scores for each cell.

    read_texts    texts → Texts
    windowed      Texts → ids of every window in the frame of the vocabulary
    scored        ids of windows → what the network's head says of each token, packed, in bounded memory
    merged        scores of the windows of a text → scores (cells, L) of the text

A cell that lies in two windows has its scores from the one that sees more on its poorer side (a text's own end is no
lack), so that every cell of a long text is read with at least half of what two windows share around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from yanmo.errors import InputError
from yanmo.tasks.tagging import Cell, cells
from yanmo.tasks.windows import windows
from yanmo.tokens.labelled import Document, Labelled, labelled_once
from yanmo.tokens.masking import frame
from yanmo.tokens.offsets import Range
from yanmo.tokens.tokenizer import Tokenizer
from yanmo.training.labels import label_hidden
from yanmo.training.objectives import evaluating


@dataclass(frozen=True)
class Text:
    """A text without its frame: ids with their characters, and cells."""

    text: str
    ids: list[int]
    ranges: list[Range]
    cells: list[Cell]


class Frame(NamedTuple):
    """What stands around the ids of a window, and how windows lie."""

    before: list[int]
    behind: list[int]
    room: int
    stride: int


def framed(tokenizer: Tokenizer, length: int, stride: int) -> Frame:
    """The frame of windows of `length` tokens; a length that leaves no room is an InputError."""
    before, behind = frame(tokenizer)
    room = length - len(before) - len(behind)
    if room < 2:
        raise InputError(f"windows of {length} tokens leave room for {room} beside their frame; raise train.length")
    return Frame(before, behind, room, min(stride, room // 2))


def read_texts(tokenizer: Tokenizer, texts: Iterable[str], words: bool) -> list[Text]:
    """Every text with its tokens, none cut."""
    held = list(texts)
    encoded = tokenizer.encode_offsets(held)
    return [
        Text(text, ids, ranges, cells(text, ranges, words)) for text, (ids, ranges) in zip(held, encoded, strict=True)
    ]


def windowed(text: Text, around: Frame) -> list[tuple[int, int]]:
    """The windows of a text, in tokens."""
    return windows(len(text.ids), around.room, around.stride)


def scored(network: Any, rows: Sequence[list[int]], documents: int = 64) -> list[Tensor]:
    """Return (tokens, L) in float32 of each row of ids, frames included; the network's mode is kept."""
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    if not rows:
        return found
    data = Labelled.gather((Document(ids, [0] * len(ids)) for ids in rows), max(map(len, rows)), kind="tokens")
    device = next(network.parameters()).device
    with evaluating(network), torch.inference_mode():
        for batch, numbers in labelled_once(data, documents):
            moved = batch.to(device)
            scores = network.scores(label_hidden(network, moved), moved.ids, moved.mask)
            parts = scores[moved.mask > 0].float().cpu().split(data.sizes[numbers].tolist())
            for number, part in zip(numbers.tolist(), parts, strict=True):
                found[number] = part
    return found


def merged(text: Text, around: Frame, parts: Sequence[Tensor]) -> Tensor:
    """Return (cells, L) from the scores of the text's windows, frames included, in their order."""
    spans = windowed(text, around)
    width = parts[0].shape[1]
    if not text.cells:
        return parts[0].new_zeros(0, width)
    if len(spans) == 1:
        return parts[0][[len(around.before) + cell.token for cell in text.cells]]
    count = len(text.ids)
    tokens = np.array([cell.token for cell in text.cells])
    best, found = np.full(len(tokens), -1), parts[0].new_empty(len(tokens), width)
    for (begin, end), part in zip(spans, parts, strict=True):
        first, last = np.searchsorted(tokens, [begin, end])
        here = tokens[first:last]
        seen = np.minimum(here - begin if begin else count, end - 1 - here if end < count else count)  # poorer side
        better = torch.from_numpy(np.flatnonzero(seen > best[first:last]))
        best[first:last] = np.maximum(best[first:last], seen)
        found[better + int(first)] = part[torch.from_numpy(here)[better] + len(around.before) - begin]
    return found
