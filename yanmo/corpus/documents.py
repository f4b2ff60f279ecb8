"""Documents, and the Parquet shards that hold them on disk.

In: documents one by one. Out: shards `NAME-00000.parquet` (zstd), one row for each document with the columns id, text,
source, url, language, license, date, title and meta, all of them text; read back, a damaged or foreign shard is a
FileError.

    new_document              text and source → a Document with its stable id
    ShardWriter               documents → shards of bounded size
    write_corpus              all documents of an iterable → shards in a folder
    read_shard                one Parquet file → documents
    check_shard               the same file's columns alone, before anything long begins
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from yanmo.errors import FileError, need
from yanmo.files import reason

TEXT_COLUMNS = ("text", "content")  # the first that is there
GROUP_BYTES = 8 * 2**20  # a row group: what a reader holds in memory
SHARD_BYTES = 256 * 2**20  # of text; about a third of it on the disk
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


def read_shard(path: str | Path, source: str = "") -> Iterator[Document]:
    """Yield the documents of one Parquet file in their order.

    Needs a column `text` or `content`; the other columns of a Document are taken where they hold text. A row without an
    id gets one; a row without a source gets `source`, or else the file's name. A damaged file is a FileError.
    """
    path = Path(path)
    arrow = need("pyarrow", "corpus", "reading a corpus")
    parquet = need("pyarrow.parquet", "corpus", "reading a corpus")
    try:
        with parquet.ParquetFile(path) as file:
            text, others = _columns(path, file.schema_arrow, arrow)
            for batch in file.iter_batches(batch_size=ROWS, columns=[text, *others]):
                for row in batch.to_pylist():
                    yield _document(row, text, source or path.name)
    except FileError:
        raise
    except (arrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise FileError(f"{path}: not a readable Parquet file ({reason(error)}); write or fetch it again") from None


def check_shard(path: str | Path) -> None:
    """Raise FileError unless `path` is a Parquet file with a column of texts."""
    path = Path(path)
    arrow = need("pyarrow", "corpus", "reading a corpus")
    parquet = need("pyarrow.parquet", "corpus", "reading a corpus")
    try:
        schema = parquet.read_schema(path)
    except (arrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise FileError(f"{path}: not a readable Parquet file ({reason(error)}); write or fetch it again") from None
    _columns(path, schema, arrow)


def _columns(path: Path, schema: Any, arrow: Any) -> tuple[str, list[str]]:
    """The name of the column of texts, and the other columns of a Document that are there and hold text."""

    def textual(kind: Any) -> bool:
        return arrow.types.is_string(kind) or arrow.types.is_large_string(kind)

    found = [name for name in schema.names if schema.names.count(name) == 1 and textual(schema.field(name).type)]
    texts = [name for name in TEXT_COLUMNS if name in found]
    if not texts:
        names = ", ".join(schema.names[:20]) or "none"
        raise FileError(
            f"{path}: no column 'text' or 'content' that holds text, its columns are {names}; rename the right one"
        )
    return texts[0], [name for name in COLUMNS if name != "text" and name in found]


def _document(row: dict[str, Any], column: str, source: str) -> Document:
    stated = {name: row.get(name) or "" for name in COLUMNS}
    stated["text"] = row[column] or ""
    stated["source"] = stated["source"] or source
    stated["id"] = stated["id"] or document_id(stated["source"], stated["text"])
    return Document(**stated)
