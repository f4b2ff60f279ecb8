"""Documents, and the Parquet shards that hold them on disk.

In: documents one by one. Out: shards `NAME-00000.parquet` (zstd), one row for each document with the columns id, text,
source, url, language, license, date, title and meta, all of them text; read back, a damaged or foreign shard is a
FileError.

    new_document              text and source → a Document with its stable id
    ShardWriter               documents → shards of bounded size
    write_corpus              all documents of an iterable → shards in a folder
    read_shard                one Parquet file → documents
    cut_shard                 a Parquet file → ranges of it that hold whole row groups
    check_shard               the same file's columns alone, before anything long begins
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from yanmo.errors import FileError, need
from yanmo.files import reason

TEXT_COLUMNS = ("text", "content")  # the first that is there
GROUP_BYTES = 8 * 2**20  # a row group: what a reader holds in memory
SHARD_BYTES = 256 * 2**20  # of text; about a third of it on the disk
UNIT_BYTES = 16 * 2**20  # of a Parquet file, for a range of row groups
ROWS = 64  # read at once: small, since one row may be a whole book


@dataclass(frozen=True)
class Document:
    """A text and where it comes from; a field that nobody stated is empty."""

    id: str
    text: str
    source: str
    url: str = ""
    language: str = ""
    license: str = ""
    date: str = ""
    title: str = ""
    meta: str = ""  # a JSON object of what this kind of source states beyond: revision, charset, robots, offset …


COLUMNS = tuple(field.name for field in fields(Document))


def document_id(source: str, text: str) -> str:
    """32 hex digits that depend on source and text alone (BLAKE2b)."""
    digest = hashlib.blake2b(source.encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(b"\0")
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def new_document(text: str, source: str, **stated: str) -> Document:
    """A document with its stable id; `stated`: url, language, license, date where they are known."""
    return Document(document_id(source, text), text, source, **stated)


class ShardWriter:
    """Writes documents into `folder/NAME-00000.parquet` and on; `close()` ends the last shard."""

    def __init__(self, folder: Path, name: str, shard_bytes: int = SHARD_BYTES):
        self.folder, self.name, self.shard_bytes = folder, name, shard_bytes
        self.arrow = need("pyarrow", "corpus", "a corpus on disk")
        self.parquet = need("pyarrow.parquet", "corpus", "a corpus on disk")
        self.schema = self.arrow.schema([(name, self.arrow.string()) for name in COLUMNS])
        self.paths: list[Path] = []
        self.documents = self.bytes = self.characters = 0
        self._rows: list[Document] = []
        self._group_bytes = self._shard_bytes = 0
        self._file: Any = None

    def add(self, document: Document) -> None:
        """Append one document."""
        size = len(document.text.encode("utf-8"))
        self.documents += 1
        self.bytes += size
        self.characters += len(document.text)
        self._rows.append(document)
        self._group_bytes += size
        if self._group_bytes >= GROUP_BYTES:
            self._write_group()
            if self._shard_bytes >= self.shard_bytes:
                self._end_shard()

    def close(self) -> None:
        """Write what is left and end the last shard."""
        if self._rows:
            self._write_group()
        self._end_shard()

    def _write_group(self) -> None:
        if self._file is None:
            self.paths.append(self.folder / f"{self.name}-{len(self.paths):05d}.parquet")
            self._file = self.parquet.ParquetWriter(self.paths[-1], self.schema, compression="zstd")
        columns = {name: [getattr(row, name) for row in self._rows] for name in COLUMNS}
        self._file.write_table(self.arrow.table(columns, schema=self.schema))
        self._shard_bytes += self._group_bytes
        self._rows, self._group_bytes = [], 0

    def _end_shard(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._shard_bytes = None, 0


def write_corpus(
    documents: Iterable[Document], folder: str | Path, name: str = "train", shard_bytes: int = SHARD_BYTES
) -> list[Path]:
    """Write documents as shards into an existing folder and return the shards' paths."""
    writer = ShardWriter(Path(folder), name, shard_bytes)
    try:
        for document in documents:
            writer.add(document)
    finally:
        writer.close()
    return writer.paths


def read_shard(
    path: str | Path,
    source: str = "",
    columns: Sequence[str] = TEXT_COLUMNS,
    between: tuple[int, int | None] = (0, None),
) -> Iterator[Document]:
    """Yield the documents of one Parquet file in their order; between: a range of cut_shard.

    Needs one of `columns` with texts; the other columns of a Document are taken where they hold text. A row without an
    id gets one; a row without a source gets `source`, or else the file's name. A damaged file is a FileError.
    """
    path = Path(path)
    arrow, parquet = _arrow()
    try:
        with parquet.ParquetFile(path) as file:
            text, others = _columns(path, file.schema_arrow, arrow, columns)
            whole = between == (0, None)
            starts = [] if whole else _starts(file.metadata)
            groups = [k for k, at in enumerate(starts) if between[0] <= at and (between[1] is None or at < between[1])]
            chosen = {} if whole else {"row_groups": groups}
            for batch in file.iter_batches(batch_size=ROWS, columns=[text, *others], **chosen):
                for row in batch.to_pylist():
                    yield _document(row, text, source or path.name)
    except FileError:
        raise
    except _unreadable(arrow) as error:
        raise FileError(f"{path}: not a readable Parquet file ({reason(error)}); write or fetch it again") from None


def cut_shard(path: str | Path) -> list[tuple[int, int | None]]:
    """Ranges of bytes in which whole row groups begin, of some UNIT_BYTES; (0, None) where there is nothing to cut."""
    arrow, parquet = _arrow()
    try:
        with parquet.ParquetFile(path) as file:
            starts = _starts(file.metadata)
    except _unreadable(arrow):
        return [(0, None)]  # its reader says so
    edges = [0]
    if all(a < b for a, b in zip([0, *starts], starts)):
        for at in starts[1:]:
            if at - edges[-1] >= UNIT_BYTES:
                edges.append(at)
    return list(zip(edges, [*edges[1:], None]))


def _starts(metadata: Any) -> list[int]:
    """Where each row group begins in its file."""
    starts = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [group.column(k) for k in range(group.num_columns)]
        starts.append(min((chunk.dictionary_page_offset or chunk.data_page_offset for chunk in chunks), default=0))
    return starts


def check_shard(path: str | Path, columns: Sequence[str] = TEXT_COLUMNS) -> None:
    """Raise FileError unless `path` is a Parquet file with a column of texts."""
    path = Path(path)
    arrow, parquet = _arrow()
    try:
        schema = parquet.read_schema(path)
    except _unreadable(arrow) as error:
        raise FileError(f"{path}: not a readable Parquet file ({reason(error)}); write or fetch it again") from None
    _columns(path, schema, arrow, columns)


def _arrow() -> tuple[Any, Any]:
    return need("pyarrow", "corpus", "reading a corpus"), need("pyarrow.parquet", "corpus", "reading a corpus")


def _unreadable(arrow: Any) -> tuple[type[Exception], ...]:
    """What reading a damaged file raises."""
    return arrow.ArrowException, OSError, ValueError, OverflowError, MemoryError


def _columns(path: Path, schema: Any, arrow: Any, columns: Sequence[str]) -> tuple[str, list[str]]:
    """The name of the column of texts, and the other columns of a Document that are there and hold text."""

    def textual(kind: Any) -> bool:
        return arrow.types.is_string(kind) or arrow.types.is_large_string(kind)

    found = [name for name in schema.names if schema.names.count(name) == 1 and textual(schema.field(name).type)]
    texts = [name for name in columns if name in found]
    if not texts:
        names = ", ".join(schema.names[:20]) or "none"
        raise FileError(
            f"{path}: no column {either(columns)} that holds text, its columns are {names}; rename the right one, or "
            "name it as text_column"
        )
    return texts[0], [name for name in COLUMNS if name not in ("text", texts[0]) and name in found]


def either(columns: Sequence[str]) -> str:
    """Names of columns in a sentence."""
    return " or ".join(map(repr, columns))


def _document(row: dict[str, Any], column: str, source: str) -> Document:
    stated = {name: row.get(name) or "" for name in COLUMNS}
    stated["text"] = row[column] or ""
    stated["source"] = stated["source"] or source
    stated["id"] = stated["id"] or document_id(stated["source"], stated["text"])
    return Document(**stated)
