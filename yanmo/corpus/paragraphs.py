"""Exact duplicates among the paragraphs of a whole corpus, by files on the disk.

In: texts. Out: for each part of a corpus, in any worker and any order, one file of marks; later, texts without what
came before.

    paragraphs                text → its paragraphs, as (start, end)
    Writer, MarkFile          texts → one file of marks, complete or absent; the same, opened
    without                   text and what is repeated in it → the text that is left

Which paragraphs came before is found over all files by engine_paragraphs.py. A paragraph is what stands between blank
lines, or in a text without any of them a line; it counts from 60 bytes of UTF-8 without its outer spaces, for "Yes,"
said he is nobody's copy. A text of P paragraphs takes 4 + 8 P bytes on the disk.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yanmo.corpus.dedup import fingerprint
from yanmo.errors import FileError, InputError
from yanmo.files import reason, write_atomic

MAGIC = b"YANMOMRK"
HEAD = 256  # bytes
FORMAT = 2
MIN_BYTES = 60
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
    """Collects the marks of texts; `close()` writes the file."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._marks: list[np.ndarray] = []

    def add(self, texts: Sequence[str]) -> None:
        """Append texts."""
        self._marks += map(paragraph_marks, texts)

    def close(self) -> None:
        """Write the file."""
        counts = np.array([len(marks) for marks in self._marks], np.uint32)
        marks = np.concatenate(self._marks) if self._marks else np.empty(0, np.uint64)
        body = counts.tobytes() + marks.tobytes()
        digest = hashlib.blake2b(body, digest_size=16).hexdigest()
        head = {"format": FORMAT, "documents": len(counts), "paragraphs": len(marks), "blake2b": digest}
        write_atomic(self.path, (MAGIC + json.dumps(head).encode()).ljust(HEAD - 1) + b"\n" + body)


class MarkFile:
    """`counts` (n,) int64 of paragraphs, and their `marks` (m,) uint64.

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
            if min(number, total) < 0 or len(body) != 4 * number + 8 * total:
                raise ValueError(f"{len(data):,} bytes, not those of {number:,} documents and {total:,} paragraphs")
            if hashlib.blake2b(body, digest_size=16).hexdigest() != head.get("blake2b"):
                raise ValueError("its bytes have changed since it was written")
            self.counts = np.frombuffer(body, np.uint32, number).astype(np.int64)
            self.marks = np.frombuffer(body[4 * number :], np.uint64)
            if int(self.counts.sum()) != total:
                raise ValueError("its counts of paragraphs do not add up")
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise FileError(f"{self.path}: no readable marks ({reason(error)}); make them again") from None


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
