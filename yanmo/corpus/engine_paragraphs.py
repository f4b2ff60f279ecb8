"""Paragraphs that came before, over all parts of a corpus, bucket by bucket.

In: the files of marks of all parts (paragraphs.Writer), and which documents are gone. Out: for each part a file of
booleans, one for each paragraph that counts, in their order.

    find_copies       files of marks → files of copies
    copies_of         such a file → the copies of each document
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from yanmo.corpus.engine_files import output
from yanmo.corpus.engine_spill import Block, copies
from yanmo.corpus.paragraphs import MarkFile


def find_copies(paths: Sequence[Path], gone: np.ndarray, folder: Path) -> list[Path]:
    """Write which paragraphs of documents that are not `gone` came before, and return the files.

    gone: (documents,) bool over all parts. The first stays, in the order of the parts. Memory: a bit for each paragraph
    eight times over, and one bucket.
    """
    sizes = [len(MarkFile(path).marks) for path in paths]
    starts = np.cumsum([0, *sizes])
    total = int(starts[-1])
    again = np.zeros(total, bool)
    for rows, _ in copies(_blocks(paths, gone, starts), total, folder):
        again[rows] = True
    written = []
    for number, (start, size) in enumerate(zip(starts.tolist(), sizes)):
        written.append(folder / f"copies-{number:06d}.npy")
        with output(written[-1]) as partial, open(partial, "wb") as file:
            np.save(file, again[start : start + size], allow_pickle=False)
    return written


def _blocks(paths: Sequence[Path], gone: np.ndarray, starts: np.ndarray) -> Iterator[Block]:
    document = 0
    for path, start in zip(paths, starts.tolist()):
        file = MarkFile(path)
        out = gone[document : document + len(file.counts)]
        document += len(file.counts)
        stay = np.flatnonzero(~np.repeat(out, file.counts))
        keys = np.zeros((len(stay), 2), np.uint64)
        keys[:, 1] = file.marks[stay]
        yield keys, (stay + start).astype(np.uint64)


def copies_of(marks: Path, found: Path) -> list[np.ndarray]:
    """Of each document of one part, which of its paragraphs came before."""
    counts = MarkFile(marks).counts
    return np.split(np.load(found, allow_pickle=False), np.cumsum(counts)[:-1]) if len(counts) else []
