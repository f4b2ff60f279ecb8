"""Words of many texts at once: one tokenisation that quality rules, near duplicates and contamination share.

In: texts. Out: flat arrays over their characters, words and lines, with the borders of each text.

    tokenise                  texts → Tokens
    Tokens                    kinds of characters, hashes of words, borders of words, lines and texts
    ngrams                    hashes of n words in a row, never across texts

A word is a run of letters, marks and digits, or one character of a script without spaces. Punctuation and case never
count. Texts lie one behind the other, each followed by one line feed, so that no word and no line spans two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from yanmo.corpus.characters import (
    CHARACTERS_PER_WORD,
    DIGIT,
    KINDS,
    LETTER,
    LINE,
    SPACELESS,
    Ranges,
    codes_of,
    kinds_of,
    rolled,
)

MAX_CHARACTERS = 1 << 22  # of one text; where more come, `tokenise` reads the first ones
BATCH = 1 << 15  # characters: arrays that stay in the caches of a core


@dataclass(frozen=True)
class Tokens:
    """Texts as arrays; a border array has one element more than there are texts."""

    codes: np.ndarray  # (characters,) uint32
    kinds: np.ndarray  # (characters,) uint8
    ranges: Ranges
    texts: np.ndarray  # (texts + 1,) int64: where each begins among the characters; its line feed is its last
    starts: np.ndarray  # (words,) int64: the first character of each word
    ends: np.ndarray  # (words,) int64: behind its last
    hashes: np.ndarray  # (words,) uint64
    words: np.ndarray  # (texts + 1,) int64: where each text begins among the words
    counts: np.ndarray  # (texts, KINDS) int64: characters of each kind, without the line feed behind the text

    def __len__(self) -> int:
        return len(self.texts) - 1

    @property
    def spaceless(self) -> np.ndarray:
        """(texts,) bool: most words are single characters of a script without spaces."""
        return 2 * self.counts[:, SPACELESS] > np.diff(self.words)

    @property
    def weights(self) -> np.ndarray:
        """(texts,) float64: words, a character of a script without spaces being 1 / 1.6 of one."""
        single = self.counts[:, SPACELESS]
        return np.diff(self.words) - single + single / CHARACTERS_PER_WORD


def tokenise(texts: Sequence[str]) -> Tokens:
    """The words of texts, at most the first 4,194,304 characters of each."""
    lengths = [min(len(text), MAX_CHARACTERS) + 1 for text in texts]
    borders = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(lengths, out=borders[1:])
    codes = codes_of("".join([f"{text[:MAX_CHARACTERS]}\n" for text in texts]))
    kinds = kinds_of(codes)
    inside = np.zeros(len(kinds) + 1, np.int8)  # 1 in a word of several characters
    inside[1:] = (kinds == LETTER) | (kinds == DIGIT)
    single = kinds == SPACELESS
    edges = np.diff(inside)  # (characters,): 1 where such a word begins, -1 behind its end; a text ends outside one
    starts = np.flatnonzero((edges > 0) | single)
    ends = np.flatnonzero(edges < 0)
    if single.any():
        ends = np.sort(np.concatenate([ends, np.flatnonzero(single) + 1]))
    ranges = Ranges.of(codes)
    words = np.searchsorted(starts, borders)
    return Tokens(
        codes, kinds, ranges, borders, starts, ends, ranges.hashes(starts, ends), words, _count(kinds, borders)
    )


def _count(kinds: np.ndarray, borders: np.ndarray) -> np.ndarray:
    counts = np.empty((len(borders) - 1, KINDS), np.int64)
    for number, (first, last) in enumerate(zip(borders[:-1].tolist(), borders[1:].tolist())):
        counts[number] = np.bincount(kinds[first:last], minlength=KINDS)
    counts[:, LINE] -= 1
    return counts


def ngrams(hashes: np.ndarray, size: int, begun: tuple[int, np.ndarray] | None = None) -> np.ndarray:
    """The hash of the `size` words from each place on, (words - size + 1,) uint64, unmixed, across texts too.

    `begun` (k, what this function gave for k) saves the first k words of each.
    """
    number, grams = begun or (1, hashes)
    for more in range(number, size):
        grams = rolled(grams[: max(len(hashes) - more, 0)], hashes[more:])
    return grams


def batches(texts: Sequence[str], limit: int = BATCH) -> Iterator[list[str]]:
    """Texts in order, as many at once as have `limit` characters together, at least one."""
    batch: list[str] = []
    total = 0
    for text in texts:
        if batch and total + len(text) > limit:
            yield batch
            batch, total = [], 0
        batch.append(text)
        total += len(text)
    if batch:
        yield batch


def characters_for(words: int) -> int:
    """How many characters of a script without spaces weigh as much as `words` words."""
    return round(words * CHARACTERS_PER_WORD)
