"""Signature files, and the clusters of near duplicates in any number of them, in bounded memory.

In: signature files, one for each part of a corpus. Out: for every text whether it is kept, and in whose favour not.

    Writer                    signatures as they come → one file, complete or absent
    SignatureFile             such a file, opened: ids, sizes, bands and signatures by memory map
    group                     files → Groups
    components                pairs → the least member of the cluster of each

Grouping reads one band after the other: its numbers are sorted, equal neighbours are candidates, and candidates whose
signatures agree in fewer than `threshold` of their values are no pair. Of a cluster the longest text is kept, of equals
the one whose id is least: nothing depends on the order of files. With files of an `old` corpus every text of it stays
as it is, and a new text is removed that belongs to one of them: an old corpus costs its signature files, never its
texts.

On the disk a text takes 16 (id) + 8 (size) + 8 × bands + 2 × hashes bytes: 360 in the usual shape. Of each value of a
signature the lower half is kept, enough to compare (two different values agree by chance once in 65,536).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yanmo.corpus.near import SHAPE, Shape, bands_of, signatures
from yanmo.errors import ConfigError, FileError, InputError
from yanmo.files import reason, write_atomic

MAGIC = b"YANMOSIG"
FORMAT = 1
HEAD = 1024  # bytes: magic, one JSON object, spaces
THRESHOLD = 0.7
PAIRS = 1 << 14  # compared at once
PART = 1 << 22  # texts of one part of a band that are sorted at once: 64 MB


class Writer:
    """Collects texts; `close()` writes the file. Memory: 360 bytes a text."""

    def __init__(self, path: str | Path, shape: Shape = SHAPE):
        self.path, self.shape = Path(path), shape
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        """Append texts by their ids (any string: 32 hex digits are kept as they are, others are hashed)."""
        if len(ids) != len(texts):
            raise InputError(f"{len(ids)} ids for {len(texts)} texts: each text needs one")
        if texts:
            self.add_signatures(ids, [len(text) for text in texts], signatures(texts, self.shape))

    def add_signatures(self, ids: Sequence[str], sizes: Sequence[int], found: np.ndarray) -> None:
        """Append what `near.signatures` gave; sizes are the texts' characters."""
        keys = np.frombuffer(b"".join(map(id_key, ids)), np.uint8).reshape(len(ids), 16)
        values = found.astype(np.uint16)
        self._parts.append((keys, np.asarray(sizes, np.int64), bands_of(found, self.shape), values))

    def add_rows(self, file: SignatureFile, rows: np.ndarray) -> None:
        """Append rows of a signature file of the same shape."""
        self._parts.append((file.ids[rows], file.sizes[rows], file.bands[:, rows].T, file.values[rows]))

    def close(self) -> None:
        """Write the file."""
        shape, number = self.shape, sum(len(part[0]) for part in self._parts)
        columns = [np.concatenate([part[k] for part in self._parts]) for k in range(4)] if self._parts else []
        if columns:
            columns[2] = np.ascontiguousarray(columns[2].T)  # a band is read as a whole, a signature too
        body = b"".join(column.tobytes() for column in columns)
        digest = hashlib.blake2b(body, digest_size=16).hexdigest()
        head = {"format": FORMAT, "texts": number, **asdict(shape), "blake2b": digest}
        write_atomic(self.path, (MAGIC + json.dumps(head).encode()).ljust(HEAD - 1) + b"\n" + body)


def id_key(name: str) -> bytes:
    """16 bytes for an id: those that its 32 hex digits spell, else its BLAKE2b."""
    if len(name) == 32:
        try:
            key = bytes.fromhex(name)
            if key.hex() == name:
                return key
        except ValueError:
            pass
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class SignatureFile:
    """`shape`, `ids` (n, 16) uint8, `sizes` (n,) int64, `bands` (bands, n) uint64, `values` (n, hashes) uint16.

    A file that is missing, cut, damaged (`check` compares its hash) or foreign is a FileError.
    """

    def __init__(self, path: str | Path, check: bool = True):
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                start = file.read(HEAD)
            head = json.loads(start[len(MAGIC) :]) if start.startswith(MAGIC) and len(start) == HEAD else None
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise ValueError("no header of signatures")
            self.shape = Shape(**{name: int(head[name]) for name in asdict(SHAPE)})
            self.length = int(head["texts"])
            self._map(str(head.get("blake2b")) if check else "")
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError, ConfigError) as error:
            raise FileError(f"{self.path}: no readable signatures ({reason(error)}); make them again") from None

    def _map(self, digest: str) -> None:
        number, shape = self.length, self.shape
        widths = (16, 8, 8 * shape.bands, 2 * shape.hashes)
        size = self.path.stat().st_size
        if number < 0 or size != HEAD + number * sum(widths):
            raise ValueError(f"{size:,} bytes, not those of {number:,} texts")
        data: Any = np.memmap(self.path, np.uint8, "r", HEAD) if number else np.empty(0, np.uint8)
        if digest:
            found = hashlib.blake2b(digest_size=16)
            for start in range(0, len(data), 1 << 24):
                found.update(data[start : start + (1 << 24)])
            if found.hexdigest() != digest:
                raise ValueError("its bytes have changed since it was written")
        borders = np.cumsum([0, *(width * number for width in widths)])
        ids, sizes, bands, values = (data[a:b] for a, b in zip(borders[:-1], borders[1:]))
        self.ids = ids.reshape(number, 16)
        self.sizes = sizes.view(np.int64)
        self.bands = bands.view(np.uint64).reshape(shape.bands, number)
        self.values = values.view(np.uint16).reshape(number, shape.hashes)

    def __len__(self) -> int:
        return self.length


@dataclass(frozen=True)
class Groups:
    """One row for each text, in the order of the files, the old ones first; `size` 1 where nothing is near."""

    ids: np.ndarray  # (n, 16) uint8
    keep: np.ndarray  # (n,) bool
    of: np.ndarray  # (n,) int64: the row of the text that stands for its cluster
    size: np.ndarray  # (n,) int64: texts in its cluster
    candidates: int  # pairs that were compared
    pairs: int  # of them, pairs that are near

    def removed(self) -> dict[str, tuple[str, int]]:
        """The id (32 hex digits) of each text that is not kept → the id of the text kept, the size of the cluster."""
        rows = np.flatnonzero(~self.keep)
        return {
            self.ids[row].tobytes().hex(): (self.ids[self.of[row]].tobytes().hex(), int(self.size[row])) for row in rows
        }


def group(
    files: Sequence[str | Path],
    old: Sequence[str | Path] = (),
    *,
    threshold: float = THRESHOLD,
    part: int = PART,
    check: bool = True,
    without: np.ndarray | None = None,
) -> Groups:
    """Find the clusters over all files; memory: 60 bytes a text, and 16 bytes for each of `part` texts.

    without: (texts,) bool, the rows that take no part, such as equal texts of which one stays; each is left alone.

    Raises FileError for a file that is damaged and InputError where files have different shapes.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold={threshold}: must lie between 0 and 1, such as 0.7")
    opened = [SignatureFile(path, check) for path in [*old, *files]]
    if not opened:
        none = np.empty(0, np.int64)
        return Groups(np.empty((0, 16), np.uint8), np.empty(0, bool), none, none, 0, 0)
    for file in opened:
        if file.shape != opened[0].shape:
            raise InputError(
                f"{file.path}: made with {file.shape}, {opened[0].path} with {opened[0].shape}; make one anew"
            )
    borders = np.cumsum([0, *map(len, opened)])
    n_old = int(borders[len(old)])
    ids, sizes = (np.concatenate([getattr(file, name) for file in opened]) for name in ("ids", "sizes"))
    label = np.arange(len(ids))
    candidates = pairs = 0
    parts = max(1, -(-len(ids) // part))
    for band in range(opened[0].shape.bands):
        for number in range(parts):
            one, other = _candidates([file.bands[band] for file in opened], number, parts, without)
            apart = (label[one] != label[other]) & ((one >= n_old) | (other >= n_old))
            one, other = one[apart], other[apart]
            near = _near(opened, borders, one, other, threshold)
            candidates, pairs = candidates + len(one), pairs + int(np.count_nonzero(near))
            label = components(label, one[near], other[near])
    return Groups(ids, *_choose(label, ids, sizes, n_old), candidates, pairs)


def _candidates(
    bands: list[np.ndarray], number: int, parts: int, without: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows whose band is equal: each with the one before it and with the first of them."""
    keys = np.concatenate(bands)
    some = parts > 1 or without is not None
    rows = np.empty(0, np.int64)
    if some:
        here = keys % np.uint64(parts) == number
        rows = np.flatnonzero(here if without is None else here & ~without)
        keys = keys[rows]
    # Sorting numbers is three times as fast as sorting their places: the place takes the lowest bits of each number.
    bits = np.uint64(max(len(keys) - 1, 1).bit_length())
    ordered = np.sort(((keys >> bits) << bits) | np.arange(len(keys), dtype=np.uint64))
    same = (ordered[1:] >> bits) == (ordered[:-1] >> bits)
    later = np.flatnonzero(same) + 1
    places = (ordered & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
    new = np.flatnonzero(~np.concatenate([[False], same])) if len(keys) else later
    first = places[new[np.searchsorted(new, later, side="right") - 1]]
    one, before = places[later], places[later - 1]
    far = first != before
    one, other = np.concatenate([one, one[far]]), np.concatenate([before, first[far]])
    return (rows[one], rows[other]) if some else (one, other)


def _near(
    opened: list[SignatureFile], borders: np.ndarray, one: np.ndarray, other: np.ndarray, threshold: float
) -> np.ndarray:
    """Which pairs agree in at least `threshold` of their values."""
    result = np.zeros(len(one), bool)
    for start in range(0, len(one), PAIRS):
        span = slice(start, start + PAIRS)
        left, right = (_values(opened, borders, rows[span]) for rows in (one, other))
        result[span] = np.count_nonzero(left == right, axis=1) >= threshold * opened[0].shape.hashes
    return result


def _values(opened: list[SignatureFile], borders: np.ndarray, rows: np.ndarray) -> np.ndarray:
    if len(opened) == 1:
        return opened[0].values[rows]
    result = np.empty((len(rows), opened[0].shape.hashes), np.uint16)
    owner = np.searchsorted(borders, rows, side="right") - 1
    for number in np.unique(owner):
        mine = owner == number
        result[mine] = opened[number].values[rows[mine] - borders[number]]
    return result


def components(label: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Join clusters: `label` gives for each row the least row of its cluster, and does so again afterwards."""
    label = label.copy()
    while len(one):
        left, right = label[one], label[other]
        apart = left != right
        one, other, left, right = one[apart], other[apart], left[apart], right[apart]
        np.minimum.at(label, np.maximum(left, right), np.minimum(left, right))
        while True:  # every row to the root of its root
            shorter = label[label]
            if np.array_equal(shorter, label):
                break
            label = shorter
    return label


def _choose(
    label: np.ndarray, ids: np.ndarray, sizes: np.ndarray, n_old: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Who is kept, who stands for each row's cluster, and how many are in it."""
    number = len(label)
    size = np.bincount(label, minlength=number)[label]
    of, keep = np.arange(number), np.ones(number, bool)
    rows = np.flatnonzero(size > 1)
    if len(rows):
        new = rows >= n_old
        high, low = ids[rows].view(">u8").T
        order = rows[np.lexsort((low, high, -sizes[rows], new, label[rows]))]
        first = np.ones(len(order), bool)
        first[1:] = label[order[1:]] != label[order[:-1]]
        chosen = order[first]
        of[order] = chosen[np.cumsum(first) - 1]
        keep[rows] = (of[rows] == rows) | ~new
    return keep, of, size
