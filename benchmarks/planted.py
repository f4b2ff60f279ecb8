"""Planted near duplicates: precision and recall of the near-duplicate step against exact Jaccard similarities.

Pieces of novels, each with a copy in which some words (or Chinese characters) were changed by chance; the exact
similarity of each pair comes from its sets of n-grams. `python -m benchmarks.planted` prints, by similarity, how many
copies were found and with what chance 14 bands of 8 rows promise it, and how many texts were joined to a stranger.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.corpus_steps import CHINESE, ENGLISH, pieces
from yanmo.corpus import groups, near
from yanmo.corpus.words import ngrams, tokenise

RATES = (0.005, 0.01, 0.02, 0.04, 0.08)  # shares of words that are changed
BORDERS = (0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.01)


def planted(texts: list[str], joint: str, seed: int = 0) -> list[str]:
    """A changed copy of each text."""
    rng = np.random.default_rng(seed)
    words = [text.split(joint) if joint else list(text) for text in texts]
    pool = [word for each in words for word in each]
    copies = []
    for number, each in enumerate(words):
        changed = list(each)
        for place in np.flatnonzero(rng.random(len(changed)) < RATES[number % len(RATES)]):
            changed[place] = pool[int(rng.integers(len(pool)))]
        copies.append(joint.join(changed))
    return copies


def exact(one: str, other: str, size: int) -> float:
    """Jaccard similarity of two sets of n-grams."""
    first, second = (set(ngrams(tokenise([text]).hashes, size).tolist()) for text in (one, other))
    return len(first & second) / max(len(first | second), 1)


def promised(similarity: float) -> float:
    """The chance that two texts share a band."""
    return 1 - (1 - similarity**near.SHAPE.rows) ** near.SHAPE.bands


def measure(texts: list[str], joint: str, size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Exact similarities, which pairs were found, and how many texts were joined to a stranger."""
    copies = planted(texts, joint)
    truth = np.array([exact(one, other, size) for one, other in zip(texts, copies)])
    with tempfile.TemporaryDirectory() as folder:
        writer = groups.Writer(Path(folder) / "planted.sig")
        number = len(texts)
        writer.add([f"{k:032x}" for k in range(2 * number)], [*texts, *copies])
        writer.close()
        of = groups.group([writer.path]).of
    found = of[:number] == of[number:]
    return truth, found, int(np.count_nonzero(of % number != np.arange(2 * number) % number))


def main() -> None:
    """Print the table."""
    for name, books, joint, size in (
        ("English", ENGLISH, " ", near.SHAPE.words),
        ("Chinese", CHINESE, "", near.SHAPE.characters),
    ):
        texts = [" ".join(text.split()) if joint else text[:1200] for text in pieces(books, 250)]
        truth, found, strangers = measure(texts, joint, size)
        for low, high in zip(BORDERS[:-1], BORDERS[1:]):
            there = (truth >= low) & (truth < high)
            if there.any():
                chance = np.mean([promised(value) for value in truth[there]])
                share = f"{found[there].sum()} of {there.sum()}"
                print(f"{name} {low:.2f} to {high:.2f}: {share}, a band in common: {chance:.2f}")
        real = truth >= groups.THRESHOLD
        print(f"{name} at {groups.THRESHOLD}: recall {found[real].mean():.3f}, precision {real[found].mean():.3f}")
        print(f"{name}: joined to a stranger: {strangers}")


if __name__ == "__main__":
    main()
