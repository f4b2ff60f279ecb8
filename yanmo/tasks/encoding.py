"""Texts and pairs → windows of ids in the frame of the vocabulary, each with the number of its text.

In: (name, text, text_pair or None) of each row, how many tokens a window has, how many two of them share. Out: Encoded.

    encode_rows    rows → Encoded
    Encoded        windows; `labelled` gives them targets

Of a pair the longer text is cut into windows, and the other one stands whole in each.
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
    """Encode every text whole; an empty one, and a pair whose shorter text leaves no room, are an InputError."""
    before, behind = frame(tokenizer)
    room = length - len(before) - len(behind)
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
    """The windows of a pair: as one where it fits, else over the tokens of its longer text."""
    ids, types = tokenizer.encode_pair(*pair)
    if len(ids) <= length:
        return [(ids, types)]
    encoded = tokenizer.encode_offsets(pair)
    longer = 0 if len(encoded[0][0]) > len(encoded[1][0]) else 1
    offsets = encoded[longer][1]
    room = length - (len(ids) - len(offsets))
    if room < 16:
        raise InputError(
            f"{name}: the shorter text of the pair has {len(encoded[1 - longer][0])} tokens, and leaves no room in "
            f"windows of {length}; raise train.length, or shorten it"
        )
    found = []
    for a, b in windows(len(offsets), room, min(stride, room // 2)):
        part = pair[longer][offsets[a][0] : offsets[b - 1][1]]
        found.append(tokenizer.encode_pair(*((part, pair[1]) if longer == 0 else (pair[0], part))))
    over = next((len(ids) for ids, _ in found if len(ids) > length), 0)
    if over:  # a text cut between two tokens can have more of them
        raise InputError(f"{name}: a window of the pair has {over} tokens instead of {length}; raise train.length")
    return found
