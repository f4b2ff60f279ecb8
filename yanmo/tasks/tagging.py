"""Entities of characters ↔ tags of tokens.

In: a text, the characters that each of its tokens stands for (tokens/offsets.py), entities. Out: cells with tags, and
entities again, at the same characters.

    cells       tokens → cells: what has a tag of its own, a token or a word
    by_cells    entities → (type, first cell, last cell), and how many no cells can say
    Tags        the names of the tags of some types (BIOES), in the order of the head
    chosen      whether words or tokens say more of the examples' entities

A cell is scored at its first token. Tokens that share a character (bytes) are one cell. Words are cells where that
loses no entities: the first token of a word has seen the others, and no entity can begin inside of one. White space at
the ends of tokens belongs to no cell, so that an entity's text has none around it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from yanmo.tasks.examples import Span
from yanmo.tokens.offsets import Range

LOST = 0.002  # share of the entities that words may say less of than tokens before tokens are cells
UNSPACED = (  # scripts whose words have no space between them, by first and last code point
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x2E80, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


class Cell(NamedTuple):
    """The token at which a cell is scored, and its characters."""

    token: int
    start: int
    end: int


def cells(text: str, ranges: Sequence[Range], words: bool) -> list[Cell]:
    """The cells of a text; tokens that stand for white space alone have none."""
    found: list[Cell] = []
    for token, (start, end) in enumerate(ranges):
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if start == end:
            continue
        if found and (start < found[-1].end or (words and start == found[-1].end and _inside(text, start))):
            last = found.pop()
            found.append(last._replace(end=max(last.end, end)))
        else:
            found.append(Cell(token, start, end))
    return found


def _inside(text: str, place: int) -> bool:
    """Whether a word goes on over the border before a character."""
    return _of_word(text[place - 1]) and _of_word(text[place])


def _of_word(letter: str) -> bool:
    code = ord(letter)
    if any(first <= code <= last for first, last in UNSPACED):
        return False
    return letter.isalnum() or letter == "_" or unicodedata.category(letter)[0] == "M"


# --- entities

Placed = tuple[str, int, int]  # type, first cell, last cell


def by_cells(text: str, entities: Iterable[Span], held: Sequence[Cell]) -> tuple[list[Placed], int]:
    """Entities as cells, and how many of them begin or end inside of one, or have none."""
    starts, ends = np.array([cell.start for cell in held]), np.array([cell.end for cell in held])
    found: list[Placed] = []
    lost = 0
    for span in entities:
        first = int(np.searchsorted(ends, span.start, side="right"))
        last = int(np.searchsorted(starts, span.end, side="left")) - 1
        if first > last:
            lost += 1
            continue
        found.append((span.type, first, last))
        lost += (held[first].start, held[last].end) != (span.start, span.end)
    return found, lost


def chosen(texts: Sequence[str], ranges: Sequence[Sequence[Range]], entities: Sequence[Sequence[Span]]) -> bool:
    """Whether words are cells: tokens are, where words cannot say entities that tokens can, more than 1 in 500."""
    lost = {True: 0, False: 0}
    total = 0
    for text, places, spans in zip(texts, ranges, entities, strict=True):
        total += len(spans)
        for words in lost:
            lost[words] += by_cells(text, spans, cells(text, places, words))[1]
    return lost[True] - lost[False] <= LOST * total


def flat(found: Sequence[Placed]) -> tuple[list[Placed], int]:
    """The entities without those that share a cell with a longer one, and how many these are."""
    kept: list[Placed] = []
    for one in sorted(found, key=lambda placed: (placed[1] - placed[2], placed[1])):
        if all(one[2] < other[1] or other[2] < one[1] for other in kept):
            kept.append(one)
    return sorted(kept, key=lambda placed: placed[1]), len(found) - len(kept)


# --- tags


@dataclass(frozen=True)
class Tags:
    """BIOES over some types: O, then begin, inside, end and single of each."""

    types: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return ("O", *(f"{place}-{type_}" for type_ in self.types for place in "BIES"))

    def encode(self, found: Sequence[Placed], count: int) -> np.ndarray:
        """The tag of each of `count` cells, int64; entities must not share cells."""
        tags = np.zeros(count, np.int64)
        for type_, first, last in found:
            begin = 1 + 4 * self.types.index(type_)
            if first == last:
                tags[first] = begin + 3
                continue
            tags[first], tags[first + 1 : last], tags[last] = begin, begin + 1, begin + 2
        return tags

    def decode(self, tags: Sequence[int]) -> list[Placed]:
        """The entities of a legal sequence."""
        found: list[Placed] = []
        first = 0
        for place, tag in enumerate(tags):
            kind, part = divmod(int(tag) - 1, 4)
            if tag == 0 or part == 1:
                continue
            first = place if part in (0, 3) else first
            if part in (2, 3):
                found.append((self.types[kind], first, place))
        return found

    def legal(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(which tags may begin a sequence, which may end it, (from, to) which may follow each other), bool."""
        count = 1 + 4 * len(self.types)
        tag = np.arange(count)
        kind, part = (tag - 1) // 4, (tag - 1) % 4
        opens = (tag > 0) & ((part == 0) | (part == 1))  # an entity goes on behind it
        goes_on = (tag > 0) & ((part == 1) | (part == 2))  # it goes on with an entity
        pair = np.where(opens[:, None], goes_on[None] & (kind[:, None] == kind[None]), ~goes_on[None])
        return ~goes_on, ~opens, pair
