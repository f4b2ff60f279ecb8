"""Perplexity under an n-gram model of trusted text, and the bucket it puts a document in (CCNet's idea).

    train                     trusted texts → Model, its borders from texts like those to be judged
    score                     text, Model → perplexity of a word
    scores                    the same for many texts
    bucket                    perplexity, Model → "head", "middle" or "tail"
    Model.save, load          one .npz file without pickles

The units are words of `words.tokenise`: a word of a language with spaces, a character of Chinese. Those that occur at
least twice in the trusted text have a number, up to 65,535 of them, the commonest first; all others are one unknown
word, whose probability is shared by as many different words as were unknown in the trusted text: or else text of
another language, all unknown, would be the likeliest of all. The model is `ngram.NGram` (interpolated modified
Kneser-Ney) of order 3. One model is for one language: perplexities of two models do not compare.

The borders between head, middle and tail are the perplexities of one and two thirds of the reference texts (G. Wenzek
et al.: CCNet, 2020); without any, those of the trusted text, of which then a third is tail.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yanmo.corpus.ngram import NGram, stored_array
from yanmo.corpus.words import batches, tokenise
from yanmo.errors import FileError, InputError
from yanmo.files import reason

MAX_WORDS = 65_535
MIN_TIMES = 2
ORDER = 3
BUCKETS = ("head", "middle", "tail")


@dataclass(frozen=True)
class Model:
    """An n-gram model over words that are known by their hashes."""

    ngram: NGram
    words: np.ndarray  # (known,) uint64, sorted; word k has the number k + 1, 0 is the unknown word
    unknown: int  # different words that share the probability of the unknown one, at least 1
    borders: np.ndarray  # (2,) float64: perplexities between head and middle, middle and tail

    def save(self, path: str | Path) -> None:
        """Write one file, complete or not at all; equal models give equal bytes."""
        self.ngram.save(path, words=self.words, unknown=np.array([self.unknown]), borders=self.borders)


def train(trusted: Iterable[str], reference: Sequence[str] = (), order: int = ORDER) -> Model:
    """Fit on trusted texts; `reference` sets the borders. InputError where they hold no word. Memory: the hashes."""
    texts = list(trusted)
    parts = [_words(text) for text in texts]
    every = np.concatenate(parts) if parts else np.empty(0, np.uint64)
    if not len(every):
        raise InputError(f"no word in {len(texts)} trusted texts; give text of the language that is to be judged")
    known, times = np.unique(every, return_counts=True)
    often = np.flatnonzero(times >= MIN_TIMES)
    chosen = often[np.lexsort((known[often], -times[often]))[:MAX_WORDS]]
    words = np.sort(known[chosen])
    unknown = max(len(known) - len(words), 1)
    ngram = NGram.fit([number_of(part, words) for part in parts], order=order, vocab_size=len(words) + 1)
    model = Model(ngram, words, unknown, np.zeros(2))
    found = [value for value in scores(list(reference) or texts, model) if np.isfinite(value)]
    borders = np.quantile(found, [1 / 3, 2 / 3]) if found else np.zeros(2)
    return Model(ngram, words, unknown, borders)


def number_of(hashes: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The number of each word among the sorted `words`, 1 being the first, or 0: (n,) int64."""
    found = np.zeros(len(hashes), np.int64)
    if len(words):
        order = np.argsort(hashes)
        asked = hashes[order]
        place = np.minimum(np.searchsorted(words, asked), len(words) - 1)
        found[order] = np.where(words[place] == asked, place + 1, 0)
    return found


def _words(text: str) -> np.ndarray:
    return tokenise([text]).hashes


def score(text: str, model: Model) -> float:
    """The perplexity of a word of the text, at least 1; infinite for a text without words."""
    return scores([text], model)[0]


def scores(texts: Sequence[str], model: Model) -> list[float]:
    """`score` of each text."""
    result: list[float] = []
    share = np.log(model.unknown)
    for batch in batches(texts):
        tokens = tokenise(batch)
        ids = number_of(tokens.hashes, model.words)
        for start, end in zip(tokens.words[:-1].tolist(), tokens.words[1:].tolist()):
            if end == start:
                result.append(float("inf"))
                continue
            likely = model.ngram.log_probs(ids[start:end]).sum() - share * np.count_nonzero(ids[start:end] == 0)
            result.append(float(np.exp(min(-likely / (end - start), 700.0))))
    return result


def bucket(perplexity: float, model: Model) -> str:
    """Which third of the reference a perplexity belongs to."""
    return BUCKETS[int(np.searchsorted(model.borders, perplexity))]


def load(path: str | Path) -> Model:
    """Open a saved model; a missing, damaged or foreign file is a FileError."""
    path = Path(path)
    ngram = NGram.load(path)
    try:
        with zipfile.ZipFile(path) as file:
            size = path.stat().st_size
            words = stored_array(file, "words", np.uint64, size)
            unknown = stored_array(file, "unknown", np.int64, size)
            borders = stored_array(file, "borders", np.float64, size)
        if words.shape != (ngram.vocab_size - 1,) or (words[1:] <= words[:-1]).any():
            raise ValueError("its words are not those of its n-grams")
        if unknown.shape != (1,) or not 1 <= unknown[0] < 2**53:
            raise ValueError("its number of unknown words is out of range")
        if borders.shape != (2,) or not (np.isfinite(borders).all() and borders[0] <= borders[1]):
            raise ValueError("its borders are out of order")
    except Exception as error:  # zipfile and numpy raise a dozen kinds for foreign bytes
        raise FileError(f"{path}: no readable perplexity model ({reason(error)}); train and save it again") from None
    return Model(ngram, words, int(unknown[0]), borders)
