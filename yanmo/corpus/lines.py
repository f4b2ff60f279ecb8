"""Files in which a line is a document → documents: JSONL, CSV and TSV, large ones in units of whole lines.

In: a unit, and the columns of texts that the user named. Out: documents and losses, in the order of the lines.

    split                     a file → units; CSV, packed files and UTF-16 stay whole
    read_jsonl, read_csv      a unit → documents: its text, and url, language, license, date, title if stated
    check_fields              sources → FileError where the first line has no text

A line end within quotation marks is not told from one between two rows unless all before it has been read, so a CSV is
one unit; a TSV has no quotation marks. A unit that is UTF-8 is read as that; else the encoding is that of the whole
file. Numbers of lines are those of the file: what stands before a unit is counted where one of its lines is lost.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, cast

from yanmo.corpus import tables
from yanmo.corpus.documents import TEXT_COLUMNS, Document, either, new_document
from yanmo.corpus.encodings import BLOCK, Blocks, Undecodable, find_encoding, is_utf8, is_wide
from yanmo.corpus.sources import DAMAGED, Source, open_blocks, open_source, position
from yanmo.corpus.units import Loss, Seen, Unit
from yanmo.errors import FileError

UNIT_BYTES = 16 * 2**20
MAX_LINE = 2**26  # characters of a JSONL line, or of a field of a CSV row
STATED = ("url", "language", "license", "date", "title")
PROBLEMS = {
    "line_too_long": "has more than {most:,} characters",
    "line_undecodable": "is not UTF-8",
    "line_not_json": "is not a JSON object",
    "line_not_csv": "is no row of CSV, or has more than {most:,} characters",
    "line_without_text": "has no text in {columns}",
}
INVALID = re.compile("[\udc80-\udcff]")  # what surrogateescape made of invalid bytes

Columns = Sequence[str]
Row = tuple[int, list[str] | None]
Table = tuple[list[str], str | None, int]  # names, the one of texts, the line of the names


def split(source: Source) -> list[Unit]:
    """Ranges of whole lines of some UNIT_BYTES, or the whole file where it cannot be cut."""
    size = source.size
    if source.packed or size <= UNIT_BYTES * 3 // 2 or (source.kind == "csv" and not _has_tabs(source)):
        return [Unit(source)]
    edges = [0]
    with open(source.path, "rb") as file:
        if is_wide(file.read(BLOCK)):
            return [Unit(source)]
        while edges[-1] + UNIT_BYTES * 3 // 2 < size:
            edge = _line_after(file, edges[-1] + UNIT_BYTES)
            if edge is None or edge >= size:
                break
            edges.append(edge)
    return [Unit(source, start, end) for start, end in zip(edges, [*edges[1:], None])]


def read_jsonl(unit: Unit, seen: Seen, columns: Columns) -> Iterator[Document | Loss]:
    """Every object with a text in the first of `columns` that holds one."""
    source = unit.source
    encoding, errors = _encoding(unit, seen)
    with _open(unit) as file, io.TextIOWrapper(file, encoding, errors, newline="\n") as text:
        number = 0
        while line := text.readline(MAX_LINE + 1):
            number += 1
            whole = len(line) <= MAX_LINE or line.endswith("\n")
            while not whole:  # the rest of a line that is too long
                rest = text.readline(2**20)
                whole = not rest or rest.endswith("\n")
                line = ""
            if line.isspace():
                continue
            seen.position = position(file, source)
            problem, row = _row_of(line, columns)
            yield _loss(problem, unit, number, line, columns) if row is None else _document(row, source, columns)


def read_csv(unit: Unit, seen: Seen, columns: Columns) -> Iterator[Document | Loss]:
    """Every row with a text in its column, which the beginning of the file names."""
    source = unit.source
    names, chosen, first = _table(source, tuple(columns), unit.whole, _changed(source))
    if chosen is None:
        if unit.start == 0:
            yield Loss("no_text_column", f"its first line names no column {either(columns)}; name one")
        return
    encoding, errors = _encoding(unit, seen)
    with _open(unit) as file, io.TextIOWrapper(file, encoding, errors, newline="") as text:
        for number, values in tables.rows(text, _has_tabs(source), MAX_LINE, len(names)):
            if unit.start == 0 and number <= first:
                continue
            seen.position = position(file, source)
            row = None if values is None else dict(zip(names, values))
            problem = "line_not_csv"
            if row is not None and chosen not in row:
                problem, row = "line_without_text", None
            elif row is not None and any(INVALID.search(value) for value in row.values()):
                problem, row = "line_undecodable", None
            if row is None:
                yield _loss(problem, unit, number, str(values), (chosen,))
            else:
                yield _document(row, source, (chosen,))


def _document(row: dict[str, Any], source: Source, columns: Columns) -> Document:
    text = next(name for name in columns if isinstance(row.get(name), str))
    stated = {name: _scrub(row[name]) for name in STATED if name != text and isinstance(row.get(name), str)}
    return new_document(row[text], source.name, **stated)


def _scrub(value: str) -> str:
    """A stated field on one line, fit for UTF-8."""
    return " ".join("".join(c for c in value if c.isprintable() or c.isspace()).split())


def _row_of(line: str, columns: Columns) -> tuple[str, dict[str, Any] | None]:
    """The object of one JSONL line that holds a text, or the reason why there is none."""
    if not line:
        return "line_too_long", None
    if INVALID.search(line):
        return "line_undecodable", None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return "line_not_json", None
    if not isinstance(row, dict):
        return "line_not_json", None
    return ("", row) if _has_text(row, columns) else ("line_without_text", None)


def _has_text(row: dict[str, Any], columns: Columns) -> bool:
    return any(isinstance(row.get(name), str) for name in columns)


def _loss(problem: str, unit: Unit, number: int, line: str, columns: Columns) -> Loss:
    what = PROBLEMS[problem].format(most=MAX_LINE, columns=either(columns))
    before = _lines_before(unit.source, _changed(unit.source)).upto(unit.start) if unit.start else 0
    where = f"line {before + number:,}"
    return Loss(problem, f"{where} {what}; mend or remove the line", where, text=line[:200])


# --- tables


def _has_tabs(source: Source) -> bool:
    return ".tsv" in source.path.name.lower()


@functools.lru_cache(8)
def _table(source: Source, columns: tuple[str, ...], whole: bool, changed: int) -> Table:
    """What the beginning of a file, whole or cut, says of its columns; kept for its other units."""
    encoding = ""
    if not whole:
        with open(source.path, "rb") as raw:
            head = raw.read(BLOCK)
        lines = head[: head.rfind(b"\n") + 1]
        encoding = "utf-8-sig" if lines and is_utf8(lambda: [lines]) else ""
    encoding = encoding or _encoding_of(source, changed)[0]
    with open_source(source) as file, io.TextIOWrapper(file, encoding, "surrogateescape", newline="") as text:
        return _columns_of(text, source, columns)


def _columns_of(text: Iterable[str], source: Source, columns: Columns) -> Table:
    rows = tables.rows(text, _has_tabs(source), MAX_LINE)
    first, names = next(rows, (0, None))
    sample = [values for _, values in itertools.islice(rows, tables.SAMPLE) if values is not None]
    return names or [], tables.text_column(names or [], sample, columns), first


def check_fields(sources: Sequence[Source], columns: Columns = TEXT_COLUMNS) -> None:
    """Raise FileError where the first line has no text: the whole file would be lost line by line. A column that is
    guessed is said."""
    for source in sources:
        if source.kind in ("jsonl", "csv"):
            _check(source, columns)


def _check(source: Source, columns: Columns) -> None:
    try:
        if source.kind == "csv":
            with open_source(source) as file, io.TextIOWrapper(file, "utf-8-sig", "replace", newline="") as text:
                keys, chosen, _ = _columns_of(text, source, columns)
            good = chosen is not None or not keys
            if chosen is not None and chosen not in columns:
                what = f"no column {either(columns)}; the column {_scrub(chosen)!r} is taken for it"
                warnings.warn(f"{source.name}: {what}; name another as text_column if it is that one", stacklevel=2)
        else:
            with open_source(source) as file:
                row = json.loads(file.readline(MAX_LINE))
            keys = list(row) if isinstance(row, dict) else []
            good = not isinstance(row, dict) or _has_text(row, columns)
    except (ValueError, RecursionError, OSError, *DAMAGED):
        return  # counted when the file is read
    if not good:
        called, listed = "columns" if source.kind == "csv" else "keys", ", ".join(map(_scrub, keys[:20])) or "none"
        raise FileError(
            f"{source.path}: line 1 has no text in {either(columns)}, its {called} are {listed}; rename the right one, "
            "or name it as text_column"
        )


# --- ranges of a file


class _Range(io.RawIOBase):
    """The bytes of a range of a file, which is closed with it."""

    def __init__(self, unit: Unit) -> None:
        self.file = open(unit.source.path, "rb", buffering=0)  # noqa: SIM115
        self.file.seek(unit.start)
        self.end = unit.end

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer: Any) -> int:
        size = len(buffer) if self.end is None else min(len(buffer), self.end - self.file.tell())
        return self.file.readinto(memoryview(buffer)[: max(size, 0)]) or 0

    def close(self) -> None:
        self.file.close()
        super().close()


def _open(unit: Unit) -> BinaryIO:
    """The bytes of a unit, unpacked."""
    return open_source(unit.source) if unit.whole else cast(BinaryIO, io.BufferedReader(_Range(unit), BLOCK))


def _blocks(unit: Unit) -> Blocks:
    def blocks() -> Iterator[bytes]:
        with _open(unit) as file:
            while block := file.read(BLOCK):
                yield block

    return blocks


def _line_after(file: BinaryIO, at: int) -> int | None:
    """Where the next line begins behind a place of a file."""
    file.seek(at)
    while block := file.read(BLOCK):
        found = block.find(b"\n")
        if found >= 0:
            return at + found + 1
        at += len(block)
    return None


def _changed(source: Source) -> int:
    return os.stat(source.path).st_mtime_ns


class _Lines:
    """How many lines of a file stand before the edges of its units, counted once."""

    def __init__(self, source: Source) -> None:
        self.source, self.known = source, {0: 0}

    def upto(self, edge: int) -> int:
        if edge not in self.known:
            near = max(at for at in self.known if at < edge)
            found, last = self.known[near], b""
            for block in _blocks(Unit(self.source, near, edge))():
                found += block.count(b"\n")
                if self.source.kind == "csv":  # there a carriage return ends a line too, one with a line feed once
                    found += block.count(b"\r") - block.count(b"\r\n") - (last == b"\r" and block[:1] == b"\n")
                last = block[-1:]
            self.known[edge] = found
        return self.known[edge]


@functools.lru_cache(8)
def _lines_before(source: Source, changed: int) -> _Lines:
    return _Lines(source)


# --- encodings


def _encoding(unit: Unit, seen: Seen) -> tuple[str, str]:
    """The codec of a unit, and what to do with errors."""
    if not unit.whole and is_utf8(_blocks(unit)):
        encoding, errors = ("utf-8" if unit.start else "utf-8-sig"), "strict"
    else:
        encoding, errors = _encoding_of(unit.source, _changed(unit.source))
    seen.encodings[encoding] += 1
    return encoding, errors


@functools.lru_cache(8)
def _encoding_of(source: Source, changed: int) -> tuple[str, str]:
    """The codec of a file of lines and what to do with errors: lines that stand before damage are read."""

    def readable() -> Iterator[bytes]:
        try:
            yield from open_blocks(source)
        except DAMAGED:
            return

    try:
        return find_encoding(readable), "strict"
    except Undecodable as error:
        if error.reason != "unknown_encoding":
            raise
        return "utf-8", "surrogateescape"  # only the lines that are not UTF-8 will fail
