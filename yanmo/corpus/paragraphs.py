"""Exact duplicates among the documents and paragraphs of a whole corpus, by files on the disk, in two phases.

Phase 1, for each part of a corpus, in any worker and any order: every document's marks go into one file.

    Writer                    documents → one file of marks, complete or absent
    paragraphs                text → its paragraphs, as (start, end)

Phase 2, once all files are there: which documents, and which paragraphs of which documents, came before.

    repeated                  files of marks → one Repeats for each file, in the order of its documents
    without                   text and what is repeated in it → the text that is left

The first by id stays: not the first in the order of files, so that neither workers nor their number change anything.
Files of an `old` corpus come before all others. A paragraph is what stands between blank lines, or in a text without
any of them a line; it counts from 60 bytes of UTF-8 without its outer spaces, for "Yes," said he is nobody's copy.

Near duplicates have the same two phases: `groups.Writer` for each part, then `groups.group(files, old=...)` over all of
them, whose rows follow the files and their documents; `keep` says who stays, `size` how many are in the cluster. The
order of steps: exact documents, near duplicates, then paragraphs, each with marks made of what the step before left.
A document of P paragraphs takes 36 + 8 P bytes on the disk.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yanmo.corpus.dedup import fingerprint
from yanmo.corpus.groups import id_key
from yanmo.errors import FileError, InputError
from yanmo.files import reason, write_atomic

MAGIC = b"YANMOMRK"
HEAD = 256  # bytes
FORMAT = 1
MIN_BYTES = 60
PART = 1 << 24  # marks sorted at once, about
_BLANK = re.compile(r"\n[ \t]*\n\s*")
_LINE = re.compile(r"\n")


def paragraphs(text: str) -> list[tuple[int, int]]:
    """Where the paragraphs that count begin and end."""
    found, start = [], 0
    borders = [match.span() for match in _BLANK.finditer(text)] or [match.span() for match in _LINE.finditer(text)]
    for end, following in [*borders, (len(text), len(text))]:
        if (
            4 * (end - start) >= MIN_BYTES
            and len(text[start:end].strip().encode("utf-8", "surrogatepass")) >= MIN_BYTES
        ):
            found.append((start, end))
        start = following
    return found


def paragraph_marks(text: str) -> np.ndarray:
    """One number for each paragraph that counts, equal where white space alone differs: (n,) uint64."""
    marks = [fingerprint(text[start:end])[:8] for start, end in paragraphs(text)]
    return np.frombuffer(b"".join(marks), np.uint64)


class Writer:
    """Collects the marks of documents; `close()` writes the file."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._ids: list[bytes] = []
        self._documents: list[bytes] = []
        self._marks: list[np.ndarray] = []

    def add(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        """Append documents by their ids."""
        if len(ids) != len(texts):
            raise InputError(f"{len(ids)} ids for {len(texts)} texts: each text needs one")
        self._ids += map(id_key, ids)
        self._documents += map(fingerprint, texts)
        self._marks += map(paragraph_marks, texts)

    def close(self) -> None:
        """Write the file."""
        counts = np.array([len(marks) for marks in self._marks], np.uint32)
        marks = np.concatenate(self._marks) if self._marks else np.empty(0, np.uint64)
        body = b"".join([*self._ids, *self._documents, counts.tobytes(), marks.tobytes()])
        digest = hashlib.blake2b(body, digest_size=16).hexdigest()
        head = {"format": FORMAT, "documents": len(counts), "paragraphs": len(marks), "blake2b": digest}
        write_atomic(self.path, (MAGIC + json.dumps(head).encode()).ljust(HEAD - 1) + b"\n" + body)


class MarkFile:
    """`ids` and `documents` (n,) as 16 bytes each, `counts` (n,) of paragraphs, `marks` (m,) uint64.

    A file that is missing, cut, changed or foreign is a FileError.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            data = self.path.read_bytes()
            head = json.loads(data[len(MAGIC) : HEAD]) if data.startswith(MAGIC) else None
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise ValueError("no header of marks")
            number, total = int(head["documents"]), int(head["paragraphs"])
            body = data[HEAD:]
            if min(number, total) < 0 or len(body) != 36 * number + 8 * total:
                raise ValueError(f"{len(data):,} bytes, not those of {number:,} documents and {total:,} paragraphs")
            if hashlib.blake2b(body, digest_size=16).hexdigest() != head.get("blake2b"):
                raise ValueError("its bytes have changed since it was written")
            self.ids = np.frombuffer(body, ">u8", 2 * number).reshape(number, 2)
            self.documents = np.frombuffer(body, ">u8", 2 * number, 16 * number).reshape(number, 2)
            self.counts = np.frombuffer(body, np.uint32, number, 32 * number).astype(np.int64)
            self.marks = np.frombuffer(body[36 * number :], np.uint64)
            if int(self.counts.sum()) != total:
                raise ValueError("its counts of paragraphs do not add up")
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise FileError(f"{self.path}: no readable marks ({reason(error)}); make them again") from None


@dataclass(frozen=True)
class Repeats:
    """What of one file came before, in the order of its documents."""

    documents: np.ndarray  # (n,) bool
    paragraphs: list[np.ndarray]  # of each document, (its paragraphs that count,) bool


def repeated(paths: Sequence[str | Path], old: Sequence[str | Path] = (), part: int = PART) -> list[Repeats]:
    """One Repeats for each of `paths`. A document that is repeated as a whole takes no part among the paragraphs."""
    files = [MarkFile(path) for path in [*old, *paths]]
    before = sum(len(file.ids) for file in files[: len(old)])
    if not files:
        return []
    ids = np.concatenate([file.ids for file in files]).astype(np.uint64)
    number = len(ids)
    order = np.lexsort((np.arange(number), ids[:, 1], ids[:, 0], np.arange(number) >= before))
    rank = np.empty(number, np.int64)
    rank[order] = np.arange(number)
    prints = np.concatenate([file.documents for file in files]).astype(np.uint64)
    again = _later(prints, rank, np.zeros(number, bool))
    counts = np.concatenate([file.counts for file in files])
    marks = np.concatenate([file.marks for file in files])
    owner = np.repeat(np.arange(number), counts)
    copies = np.zeros(len(marks), bool)
    parts = max(1, -(-len(marks) // part))
    which = (marks >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)  # a part of the range of numbers
    for each in range(parts):
        rows = np.flatnonzero((which == each) & ~again[owner]) if parts > 1 else np.flatnonzero(~again[owner])
        copies[rows] = _later(marks[rows, None], rank[owner[rows]], np.zeros(len(rows), bool))
    result, place, row = [], 0, 0
    for number_of, file in enumerate(files):
        size, total = len(file.ids), len(file.marks)
        if number_of >= len(old):
            pieces = np.split(copies[place : place + total], np.cumsum(file.counts)[:-1]) if size else []
            result.append(Repeats(again[row : row + size], pieces))
        place, row = place + total, row + size
    return result


def _later(values: np.ndarray, rank: np.ndarray, result: np.ndarray) -> np.ndarray:
    """(n,) bool: an equal row of `values` has a lower rank, or the same rank and an earlier place."""
    if len(values):
        order = np.lexsort((np.arange(len(values)), rank, *values.T))
        same = (values[order[1:]] == values[order[:-1]]).all(1)
        result[order[1:][same]] = True
    return result


def without(text: str, copies: np.ndarray) -> tuple[str, int]:
    """The text without the paragraphs that `copies` marks, and how many those were.

    InputError where the text is not the one whose marks were written.
    """
    found = paragraphs(text)
    if len(found) != len(copies):
        raise InputError(f"{len(copies)} marks for {len(found)} paragraphs: they are of another text; make them again")
    parts, done = [], 0
    for (start, end), drop in zip(found, copies.tolist()):
        if drop:
            parts.append(text[done:start])
            done = end + len(_after(text, end))
    parts.append(text[done:])
    return "".join(parts).strip("\n"), int(copies.sum())


def _after(text: str, end: int) -> str:
    match = re.compile(r"\s*").match(text, end)
    return match.group() if match else ""
