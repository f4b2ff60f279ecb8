"""Texts and pairs → windows of ids in the frame of the vocabulary, each with the number of its text.

In: (name, text, text_pair or None) of each row, how many tokens a window has, how many two of them share. Out: Encoded.

    encode_rows    rows → Encoded
    Encoded        windows; `labelled` gives them targets

Of a pair the longer text is cut into windows, and the other one stands whole in each. Where that would leave fewer
than WHOLE tokens, both are cut into windows of half of the room, and these stand together in their order: every token
of both is read, those of the text with fewer windows several times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yanmo.errors import InputError
from yanmo.tasks.windows import windows
from yanmo.tokens.labelled import Document, Labelled
from yanmo.tokens.masking import frame
from yanmo.tokens.tokenizer import Tokenizer

AT_ONCE = 1024  # texts that are encoded together
WHOLE = 16  # tokens of the longer text of a pair that must stand in a window beside the whole of the shorter one
Row = tuple[str, str, str | None]


@dataclass(frozen=True)
class Encoded:
    """Windows in the order of their texts: (ids, token types) of each, the number of its text, how many texts."""

    windows: list[tuple[list[int], list[int]]]
    owners: np.ndarray  # (windows,), int64
    rows: int
    length: int

    def labelled(self, targets: Sequence[Any], kind: str) -> Labelled:
        """The windows as documents with a target each."""
        documents = (Document(ids, target, types) for (ids, types), target in zip(self.windows, targets, strict=True))
        return Labelled.gather(documents, self.length, kind=kind)


def encode_rows(tokenizer: Tokenizer, rows: Sequence[Row], length: int, stride: int, config: Any) -> Encoded:
    """Encode every text whole; an empty one, and a pair for which windows are too short, are an InputError."""
    before, behind = frame(tokenizer)
    room = length - len(before) - len(behind)
    if room < 1:
        raise InputError(f"windows of {length} tokens leave no room for a text; raise train.length")
    stride = min(stride, room // 2)
    found: list[tuple[list[int], list[int]]] = []
    owners: list[int] = []
    parts: list[tuple[list[int], list[int]]]
    numbered = list(enumerate(rows))
    for begin in range(0, len(numbered), AT_ONCE):
        chunk = numbered[begin : begin + AT_ONCE]
        texts = [text for _, (_, text, pair) in chunk if pair is None]
        singles = iter(tokenizer.encode_batch(texts, add_special_tokens=False))
        for number, (name, text, pair) in chunk:
            if pair is None:
                ids = next(singles)
                parts = [(before + ids[a:b] + behind, []) for a, b in windows(len(ids), room, stride)]
            else:
                parts = _pair(tokenizer, name, (text, pair), length, stride)
            if not parts[0][0]:
                raise InputError(f"{name}: the text has no tokens; leave it out, or correct it")
            found += parts
            owners += [number] * len(parts)
    if not getattr(config, "n_token_types", 0):
        found = [(ids, []) for ids, _ in found]
    return Encoded(found, np.array(owners, np.int64), len(rows), length)


def _pair(
    tokenizer: Tokenizer, name: str, pair: tuple[str, str], length: int, stride: int
) -> list[tuple[list[int], list[int]]]:
    """The windows of a pair: as one where it fits, else over the tokens of its longer text, else over those of both."""
    ids, types = tokenizer.encode_pair(*pair)
    if len(ids) <= length:
        return [(ids, types)]
    offsets = [found[1] for found in tokenizer.encode_offsets(pair)]
    room = length - (len(ids) - sum(map(len, offsets)))  # for the tokens of both
    if room < 2:
        raise InputError(f"{name}: windows of {length} tokens leave no room for a pair of texts; raise train.length")
    short = min(map(len, offsets))
    while room >= 2:
        least = min(short, room // 2) if room - short < WHOLE else short  # of the shorter text
        rooms = [room - least, least] if len(offsets[0]) > len(offsets[1]) else [least, room - least]
        found = [tokenizer.encode_pair(*parts) for parts in _parts(pair, offsets, rooms, stride)]
        over = max(len(ids) for ids, _ in found) - length
        if over <= 0:
            return found
        room -= over  # a text that is cut between two tokens can have more of them
    raise InputError(f"{name}: no window of the pair fits in {length} tokens; raise train.length")


def _parts(
    pair: tuple[str, str], offsets: Sequence[Sequence[tuple[int, int]]], rooms: Sequence[int], stride: int
) -> list[tuple[str, str]]:
    """The pieces of both texts that stand together: as many pairs as the text of more windows has, side by side."""
    sides = []
    for text, places, room in zip(pair, offsets, rooms, strict=True):
        cuts = windows(len(places), max(room, 1), min(stride, room // 2))  # an empty text has no room, and needs none
        sides.append([text[places[a][0] : places[b - 1][1]] if len(cuts) > 1 else text for a, b in cuts])
    count = max(map(len, sides))
    return [tuple(side[number * len(side) // count] for side in sides) for number in range(count)]  # type: ignore[misc]
