"""What the first step of a corpus leaves on the disk: parts of bounded size, and the fates of all that is not in them.

In: documents and fates, one by one. Out, in WORK/read: for each part documents (.parquet), a row of numbers for each
(.rows.npy), signatures of near duplicates (.sig), marks of paragraphs (.marks); for each task one file of fates.

    Parts         documents → parts; a part is what the next steps hold in memory
    Fates         what became of everything else → one file
    ROW           what a row holds
    rows_of       the rows of one part, or of a shard of an old corpus, by memory map
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from yanmo.corpus import groups, near, paragraphs
from yanmo.corpus.dedup import fingerprint
from yanmo.corpus.documents import Document
from yanmo.corpus.engine_files import TableWriter, fit, output, schema, table_of
from yanmo.corpus.script import SCRIPTS, script
from yanmo.corpus.settings import CorpusRecipe, DuplicatesSection
from yanmo.corpus.words import batches, tokenise
from yanmo.errors import FileError, need
from yanmo.files import reason

FATES = ("id", "url", "title", "source", "where", "fate", "reason", "what")
ROW = np.dtype(
    [
        ("id", "<u8", 2),  # the document's 32 hex digits
        ("mark", "<u8", 2),  # the fingerprint of its text
        ("lot", "<u8"),  # a hash of text and seed: low ones are for validation
        ("bytes", "<u8"),
        ("characters", "<u8"),
        ("words", "<u8"),
        ("language", "S8"),
        ("source", "<u4"),  # its number in the plan
        ("script", "<u4"),  # in script.SCRIPTS
    ]
)
TOGETHER = 64  # documents measured at once
PART_BYTES = 2**25  # of text
PART_ROWS = 2**15
HELD = 1024  # fates


class Parts:
    """The documents that one task keeps; used in a `with`, and what an error interrupts is removed."""

    def __init__(self, folder: Path, task: int, recipe: CorpusRecipe):
        self.folder, self.task, self.asked = folder, task, recipe.duplicates
        self.shape = shape_of(self.asked)
        self.seed = recipe.out.seed.to_bytes(16, "little", signed=True)
        self.rows: list[int] = []  # documents of each part that is done
        self.files: list[Path] = []
        self._open: _Part | None = None
        self._waiting: list[tuple[Document, int]] = []

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._write()
            self._end()
        elif self._open is not None:
            with contextlib.suppress(OSError):  # a full disk has said so
                self._open.leave(error)

    def add(self, document: Document, source: int) -> None:
        """Keep one document of the source of this number."""
        self._waiting.append((document, source))
        if len(self._waiting) >= TOGETHER:
            self._write()
            if self._open is not None and (self._open.size >= PART_BYTES or self._open.count >= PART_ROWS):
                self._end()

    def _write(self) -> None:
        if not self._waiting:
            return
        if self._open is None:
            self._open = _Part(self, len(self.rows))
        self._open.write([document for document, _ in self._waiting], [source for _, source in self._waiting])
        self._waiting = []

    def _end(self) -> None:
        if self._open is not None:
            part, self._open = self._open, None
            part.close()
            self.rows.append(part.count)
            self.files += part.files


class _Part:
    """One part, while it is written."""

    def __init__(self, parts: Parts, number: int):
        self.parts = parts
        self.count = self.size = 0
        self._stack = contextlib.ExitStack()
        paths = [part_path(parts.folder, parts.task, number, ending) for ending in (".parquet", ".rows.npy")]
        self.files = paths
        partial = [self._stack.enter_context(output(path)) for path in paths]
        self.table, self._rows_path = TableWriter(partial[0], level=1), partial[1]
        self._stack.callback(self.table.close)
        self._rows: list[np.ndarray] = []
        self.signatures = self.marks = None
        if parts.asked.near:
            self.files.append(part_path(parts.folder, parts.task, number, ".sig"))
            self.signatures = groups.Writer(self.files[-1], parts.shape)
        if parts.asked.paragraphs:
            self.files.append(part_path(parts.folder, parts.task, number, ".marks"))
            self.marks = paragraphs.Writer(self.files[-1])

    def write(self, documents: Sequence[Document], sources: Sequence[int]) -> None:
        texts, ids = [document.text for document in documents], [document.id for document in documents]
        rows = np.zeros(len(texts), ROW)
        marks = [fingerprint(text) for text in texts]
        rows["id"] = np.frombuffer(b"".join(map(groups.id_key, ids)), "<u8").reshape(-1, 2)
        rows["mark"] = np.frombuffer(b"".join(marks), "<u8").reshape(-1, 2)
        rows["lot"] = [lot(self.parts.seed, mark) for mark in marks]
        rows["bytes"] = [len(text.encode()) for text in texts]
        rows["characters"] = [len(text) for text in texts]
        rows["words"] = [n for batch in batches(texts) for n in np.diff(tokenise(batch).words)]
        rows["language"] = [document.language.encode("ascii", "replace")[:8] for document in documents]
        rows["source"] = sources
        rows["script"] = [SCRIPTS.index(script(text)) for text in texts]
        self._rows.append(rows)
        self.table.add(table_of(documents))
        if self.signatures is not None:
            found = near.signatures(texts, self.parts.shape)
            self.signatures.add_signatures(ids, [len(text) for text in texts], found)
        if self.marks is not None:
            self.marks.add(texts)
        self.count += len(texts)
        self.size += int(rows["bytes"].sum())

    def close(self) -> None:
        with open(self._rows_path, "wb") as file:
            np.save(file, np.concatenate([np.zeros(0, ROW), *self._rows]), allow_pickle=False)
        for writer in (self.signatures, self.marks):
            if writer is not None:
                writer.close()
        self._stack.close()

    def leave(self, error: BaseException) -> None:
        """Remove what was begun."""
        self._stack.__exit__(type(error), error, error.__traceback__)


class Fates:
    """What became of documents that are not kept: one file, written as they come; used in a `with`."""

    def __init__(self, path: Path):
        self.path = path
        self._stack = contextlib.ExitStack()
        self._held: list[tuple[str, ...]] = []

    def __enter__(self) -> Fates:
        self._writer = TableWriter(self._stack.enter_context(output(self.path)), FATES, measured="what")
        self._stack.callback(self._writer.close)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._write()
        self._stack.__exit__(kind, error, trace)

    def add(self, *fate: str) -> None:
        """Enter one fate, in the order of FATES."""
        self._held.append(tuple(map(fit, fate)))
        if len(self._held) >= HELD:
            self._write()

    def add_file(self, path: Path) -> None:
        """Append what such a file holds."""
        parquet = need("pyarrow.parquet", "corpus", "a corpus on disk")
        self._write()
        with parquet.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                self._writer.add(file.read_row_group(group))

    def _write(self) -> None:
        arrow = need("pyarrow", "corpus", "a corpus on disk")
        columns = {name: [fate[k] for fate in self._held] for k, name in enumerate(FATES)}
        self._writer.add(arrow.table(columns, schema=schema(FATES)))
        self._held = []


def shape_of(asked: DuplicatesSection) -> near.Shape:
    """The shape of signatures that a recipe asks for."""
    return near.Shape(asked.words, asked.characters, asked.bands, asked.rows)


def part_path(folder: Path, task: int, part: int, ending: str) -> Path:
    """Where a file of one part lies."""
    return folder / f"{task:06d}-{part:04d}{ending}"


def lot(seed: bytes, mark: bytes) -> int:
    """A number below 2^64 for a text and a seed: which side a document falls on."""
    return int.from_bytes(hashlib.blake2b(seed + mark, digest_size=8).digest(), "little")


def rows_of(path: Path) -> np.ndarray:
    """The rows of one part or one old shard, by memory map; FileError where they are damaged."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        if rows.dtype != ROW or rows.ndim != 1:
            raise ValueError("not the rows of a corpus")
    except (OSError, ValueError, EOFError) as error:
        raise FileError(f"{path}: cannot be read ({reason(error)}); make it again") from None
    return np.asarray(rows)
