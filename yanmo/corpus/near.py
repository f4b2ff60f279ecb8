"""Near duplicates: MinHash signatures of texts, and which texts of any number of signature files belong together.

In: texts. Out: signatures, then clusters, of which one text each is kept.

    signatures                texts → (texts, 112) uint32
    Shape                     n-grams, bands and rows
    similarity                two arrays of signatures → estimated Jaccard similarities
    bands_of                  signatures → (texts, 14) uint64, equal where all rows of a band are

A text is the set of its 5-grams of words, or of 8 characters in a script without spaces (5 × 1.6); two texts are near
where these sets have much in common. Each of 112 hash functions gives the least value over the set, and the share of
equal least values estimates the Jaccard similarity with a standard deviation of at most 0.047 (A. Broder: On the
resemblance and containment of documents, 1997). In 14 bands of 8 rows (FineWeb's), texts of similarity s become
candidates with probability 1 - (1 - s^8)^14: 0.77 at 0.75, 0.92 at 0.8, 0.21 at 0.6. `groups.py` compares candidates
by their whole signatures.

The hash functions are a x + b modulo 2**32 with odd a, over values that are mixed already; a and b follow from their
numbers, so a signature is the same on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yanmo.corpus.characters import mix
from yanmo.corpus.words import Tokens, batches, characters_for, ngrams, tokenise
from yanmo.errors import ConfigError

PIECE = 1 << 20  # characters: a longer text is read piece by piece, its pieces' least values combined


@dataclass(frozen=True)
class Shape:
    """What a signature is made of; files of different shapes do not compare."""

    words: int = 5
    characters: int = 8  # of a script without spaces
    bands: int = 14
    rows: int = 8

    def __post_init__(self) -> None:
        limits = {"words": 64, "characters": 64, "bands": 256, "rows": 64}
        for name, limit in limits.items():
            if not 1 <= getattr(self, name) <= limit:
                raise ConfigError(f"{name}={getattr(self, name)}: must lie between 1 and {limit}")

    @property
    def hashes(self) -> int:
        return self.bands * self.rows


SHAPE = Shape()
assert SHAPE.characters == characters_for(SHAPE.words)


def signatures(texts: Sequence[str], shape: Shape = SHAPE) -> np.ndarray:
    """The least value of every hash function over each text's n-grams: (texts, bands × rows) uint32.

    A text shorter than one n-gram is one n-gram as a whole; a text without any word is the set of its characters.
    """
    if not any(len(text) > PIECE for text in texts):
        parts = [_signatures(tokenise(batch), shape) for batch in batches(texts)]
        return np.concatenate(parts) if parts else np.empty((0, shape.hashes), np.uint32)
    found = np.empty((len(texts), shape.hashes), np.uint32)
    for number, text in enumerate(texts):
        pieces = [text[start : start + PIECE] for start in range(0, max(len(text), 1), PIECE)]
        found[number] = np.minimum.reduce([_signatures(tokenise([piece]), shape)[0] for piece in pieces])
    return found


def _signatures(tokens: Tokens, shape: Shape) -> np.ndarray:
    values, borders = _shingles(tokens, shape)
    up, plus = _functions(shape.hashes)
    starts = borders[:-1]
    found = np.empty((shape.hashes, len(starts)), np.uint32)
    scratch = np.empty_like(values)
    single = len(starts) == 1
    for number in range(shape.hashes):
        np.multiply(values, up[number], out=scratch)
        np.add(scratch, plus[number], out=scratch)
        found[number] = scratch.min() if single else np.minimum.reduceat(scratch, starts)
    return np.ascontiguousarray(found.T)


def _shingles(tokens: Tokens, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """The hashed n-grams of all texts, uint32, and where each text's begin (at least one a text)."""
    sizes = np.where(tokens.spaceless, shape.characters, shape.words)
    counts = np.diff(tokens.words)
    grams = {size: mix(ngrams(tokens.hashes, size)) for size in set(sizes.tolist())}
    parts: list[np.ndarray] = []
    for number, (size, count, start) in enumerate(zip(sizes.tolist(), counts.tolist(), tokens.words.tolist())):
        if count >= size:
            parts.append(grams[size][start : start + count - size + 1])
        elif count:
            parts.append(mix(ngrams(tokens.hashes[start : start + count], count)))
        else:
            first, last = tokens.texts[number : number + 2].tolist()
            parts.append(mix(np.append(tokens.codes[first : last - 1].astype(np.uint64), np.uint64(1 << 40))))
    borders = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=borders[1:])
    return (np.concatenate(parts) >> np.uint64(32)).astype(np.uint32), borders


def _functions(number: int) -> tuple[np.ndarray, np.ndarray]:
    values = mix(np.arange(1, 2 * number + 1, dtype=np.uint64))
    return (values[:number] >> np.uint64(32)).astype(np.uint32) | np.uint32(1), (
        values[number:] >> np.uint64(32)
    ).astype(np.uint32)


def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The share of equal values, row by row: an estimate of the Jaccard similarity, float64."""
    return np.count_nonzero(one == other, axis=-1) / one.shape[-1]


def bands_of(found: np.ndarray, shape: Shape = SHAPE) -> np.ndarray:
    """One number for the rows of each band: (texts, bands) uint64."""
    rows = found.reshape(len(found), shape.bands, shape.rows).astype(np.uint64)
    result = np.zeros(rows.shape[:2], np.uint64)
    for row in range(shape.rows):
        result = mix(result ^ rows[:, :, row]) + np.uint64(row + 1)
    return result
