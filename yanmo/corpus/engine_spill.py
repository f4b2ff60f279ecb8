"""Equal keys among more rows than memory holds: the rows go into files by a part of their key, then file by file.

In: keys of rows, block by block, in the order of the rows. Out: which rows came before with the same key.

    copies        blocks of keys → (rows that are copies, the first row of each one's key), bucket by bucket

On the disk a row takes 24 bytes while it is sorted, in memory a bucket of BUCKET rows some 100 MB.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

BUCKET = 1 << 20  # rows that are sorted at once, about
MOST = 512  # open files
ENTRY = np.dtype([("key", "<u8", 2), ("row", "<u8")])

Block = tuple[np.ndarray, np.ndarray]  # keys (n, 2) uint64, rows (n,) uint64


def copies(blocks: Iterable[Block], total: int, folder: Path, bucket: int = BUCKET) -> Iterator[Block]:
    """Yield (rows, firsts) uint64: each row that has the key of an earlier one, and the first row of that key.

    total: rows of all blocks, about; folder: where the buckets lie, which are removed. Rows must ascend.
    """
    number = min(max(1, -(-total // bucket)), MOST)
    if number == 1:
        entries = [_entries(*block) for block in blocks]
        yield _copies(np.concatenate([np.zeros(0, ENTRY), *entries]))
        return
    paths = [folder / f"bucket-{k:03d}.tmp-spill" for k in range(number)]
    try:
        with contextlib.ExitStack() as stack:
            _spill(blocks, [stack.enter_context(open(path, "wb")) for path in paths])
        for path in paths:
            yield _copies(np.fromfile(path, ENTRY))
            path.unlink()
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def _entries(keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
    entries = np.zeros(len(rows), ENTRY)
    entries["key"], entries["row"] = keys, rows
    return entries


def _spill(blocks: Iterable[Block], files: list[BinaryIO]) -> None:
    for keys, rows in blocks:
        entries = _entries(keys, rows)
        where = (entries["key"][:, 1] % np.uint64(len(files))).astype(np.int64)
        order = np.argsort(where, kind="stable")
        borders = np.searchsorted(where[order], np.arange(len(files) + 1))
        entries = entries[order]
        for file, start, end in zip(files, borders[:-1].tolist(), borders[1:].tolist()):
            if end > start:
                file.write(entries[start:end].tobytes())


def _copies(entries: np.ndarray) -> Block:
    keys = entries["key"]
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: equal keys stay in the order of their rows
    keys, rows = keys[order], entries["row"][order]
    same = np.zeros(len(rows), bool)
    same[1:] = (keys[1:] == keys[:-1]).all(1)
    starts = np.flatnonzero(~same)
    return rows[same], rows[starts[np.cumsum(~same) - 1]][same]
