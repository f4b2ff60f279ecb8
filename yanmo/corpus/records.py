"""Files of records → records: what a model is fine-tuned on.

In: paths of .jsonl, .json, .csv, .tsv and .parquet files (all but Parquet also with .gz), or folders of them. Out: one
dictionary after another, with the place it came from.

    read_records      paths → records, in the order of the paths, names sorted within a folder
    split_records     records → training and validation
    field             a value by its name; "translation.en" looks into a record of records

Labelled data is small and dear: unlike in a corpus nothing is passed over, and the first record that cannot be read
stops the reading with its file and line. CSV and TSV files have a line of names; a TSV is read as it stands, without
quotation marks of its own, as tools that write it do.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from yanmo.corpus.encodings import Undecodable, find_encoding
from yanmo.corpus.sources import DAMAGED, Source, open_blocks, open_source, shown
from yanmo.errors import FileError, InputError, nearest, need
from yanmo.files import reason, sha256_file

KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
SUPPORTED = "a .jsonl, .json, .csv, .tsv (also with .gz) or .parquet file, or a folder of them"
MAX_FIELD = 2**26  # characters
MAX_JSON = 2**31  # bytes of a file that is one JSON value


class Record(NamedTuple):
    """One record, and where it stands, as "file.jsonl:12"."""

    values: dict[str, Any]
    place: str


@dataclass(frozen=True)
class Read:
    """A file that was read, for the card of what is learned from it."""

    name: str
    size: int
    sha256: str
    records: int


def read_records(
    paths: Sequence[str | Path], report: list[Read] | None = None, *, columns: Sequence[str] = ()
) -> Iterator[Record]:
    """Yield the records of all files; `report` is filled with what was read.

    columns: the names of the columns of CSV and TSV files, which then have no line of names; further columns have none.
    Raises FileError at once for a path that does not exist or is of no known kind, later for a file that is damaged.
    """
    sources = [source for path in paths for source in _sources(Path(path))]
    return _read(sources, [] if report is None else report, list(columns))


def _sources(path: Path) -> list[Source]:
    try:
        if path.is_dir():
            names = [
                p for p in sorted(path.rglob("*")) if not any(q.startswith(".") for q in p.relative_to(path).parts)
            ]
            found = [source for p in names if p.is_file() for source in _known(p)]
        elif path.exists():
            found = _known(path)
        else:
            raise FileError(f"{path}: no such file or folder; check the path")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise FileError(f"{path}: cannot be read ({reason(error)}); name {SUPPORTED}") from None
    if not found:
        raise FileError(f"{path}: holds no records; name {SUPPORTED}")
    return found


def _known(path: Path) -> list[Source]:
    name = path.name.lower()
    packed = name.endswith(".gz")
    kind = KINDS.get(Path(name.removesuffix(".gz")).suffix)
    if kind is None or (packed and kind == "parquet"):
        return []
    return [Source(path, shown(path.name), kind, packed, path.stat().st_size)]


def _read(sources: list[Source], report: list[Read], columns: list[str]) -> Iterator[Record]:
    table = functools.partial(_table, given=columns)
    readers: dict[str, Callable[[Source], Iterator[Record]]]
    readers = {"jsonl": _jsonl, "json": _json, "csv": table, "tsv": table, "parquet": _parquet}
    for source in sources:
        count = 0
        try:
            for record in readers[source.kind](source):
                count += 1
                yield record
            report.append(Read(source.name, source.size, sha256_file(source.path), count))
        except FileError:  # an OSError too, and a sentence already
            raise
        except Undecodable as error:
            raise FileError(f"{source.path}: byte {error.offset:,} {error.what}; convert the file to UTF-8") from None
        except UnicodeError:
            raise FileError(f"{source.path}: changed while it was read; run again") from None
        except DAMAGED as error:
            raise FileError(
                f"{source.path}: damaged inside its gzip packing ({reason(error)}); fetch it again"
            ) from None
        except OSError as error:
            raise FileError(f"{source.path}: cannot be read ({reason(error)}); check it") from None


def _text(source: Source, newline: str | None) -> io.TextIOWrapper:
    encoding = find_encoding(lambda: open_blocks(source))
    return io.TextIOWrapper(open_source(source), encoding, newline=newline)


def _jsonl(source: Source) -> Iterator[Record]:
    with _text(source, "\n") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.isspace():
                yield _record(_parsed(line, source, f"line {number:,}"), source, number)


def _json(source: Source) -> Iterator[Record]:
    if source.size > MAX_JSON:
        raise FileError(f"{source.path}: {source.size:,} bytes of one JSON value; write one record a line as .jsonl")
    with _text(source, None) as file:
        values = _parsed(file.read(), source, "the file")
    if isinstance(values, dict) and len(lists := [v for v in values.values() if isinstance(v, list)]) == 1:
        values = lists[0]  # {"data": [...]}, as many benchmarks wrap it
    if not isinstance(values, list):
        raise FileError(f"{source.path}: no list of records in it; write one record a line as .jsonl")
    for number, value in enumerate(values, start=1):
        yield _record(value, source, number)


def _parsed(text: str, source: Source, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{source.path}: {what} is not JSON ({error}); mend or remove it") from None


def _record(value: Any, source: Source, number: int) -> Record:
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        value = {"messages": value}  # a bare conversation
    if not isinstance(value, dict):
        raise FileError(f"{source.path}: record {number:,} is {type(value).__name__}, no object; mend or remove it")
    return Record(value, f"{source.name}:{number}")


def _table(source: Source, given: list[str]) -> Iterator[Record]:
    style: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if source.kind == "tsv" else {"strict": True}
    csv.field_size_limit(MAX_FIELD)
    with _text(source, "") as file:
        rows = csv.reader(file, **style)
        names, width = given, 0
        try:
            for row in filter(None, rows):
                width = width or len(row)
                if not names:
                    names = row
                    if len(set(names)) < len(names):
                        raise FileError(f"{source.path}: line 1 names a column twice; give each its own name")
                    continue
                if len(row) != width or width < len(names):
                    raise FileError(
                        f"{source.path}: line {rows.line_num:,} has {len(row)} fields, {max(width, len(names))} are "
                        "expected; mend it"
                    )
                yield Record(dict(zip(names, row)), f"{source.name}:{rows.line_num}")
        except csv.Error as error:
            raise FileError(f"{source.path}: line {rows.line_num:,}: {error}; mend it") from None


def _parquet(source: Source) -> Iterator[Record]:
    need("pyarrow", "corpus", "reading Parquet")
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        with pyarrow.parquet.ParquetFile(source.path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    number += 1
                    yield Record(value, f"{source.name}:{number}")
    except (pyarrow.ArrowException, ValueError) as error:
        raise FileError(f"{source.path}: no Parquet file that can be read ({reason(error)}); fetch it again") from None


def field(record: Record, name: str) -> Any:
    """The value of a field; a missing one is an InputError that names the nearest."""
    value: Any = record.values
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            known = list(map(str, value)) if isinstance(value, dict) else []
            raise InputError(
                f"{record.place}: no field {name!r}{nearest(part, known)}; the record has {', '.join(known) or 'none'}"
            )
        value = value[part]
    return value


def split_records(records: Sequence[Record], valid_share: float, seed: int = 0) -> tuple[list[Record], list[Record]]:
    """Training and validation, chosen by a hash of each record, so that equal records are on one side; none is empty.

    A record stays on its side when others come or go. Raises InputError for fewer than two different records.
    """
    prefix = seed.to_bytes(16, "little", signed=True)
    marks = [_mark(prefix, record) for record in records]
    different = sorted(set(marks))
    if len(different) < 2:
        raise InputError(f"{len(different)} different records, too few for training and validation; give at least 2")
    limit = min(max(int(valid_share * 2**64), different[0] + 1), different[-1])
    valid = [record for record, mark in zip(records, marks) if mark < limit]
    return [record for record, mark in zip(records, marks) if mark >= limit], valid


def _mark(prefix: bytes, record: Record) -> int:
    text = json.dumps(record.values, sort_keys=True, default=str).encode()
    return int.from_bytes(hashlib.blake2b(prefix + text, digest_size=8).digest(), "little")
