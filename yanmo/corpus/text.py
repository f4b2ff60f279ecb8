"""Texts on the disk → documents.

In: paths of .txt, .md, .jsonl, .csv, .html and .htm files, of the same packed, of Parquet files and corpus folders, of
MediaWiki dumps and web archives, or of folders of all these. Out: documents one by one, in a fixed order; what could
not be read, and what reading left out on purpose, is counted in a ReadReport.

    read_documents            paths → documents
    READERS                   kind → how it is cut into units and read; those of texts are here
    _read_text                one file is one document; above LARGE bytes it is cut at paragraph borders
    _read_jsonl, _read_csv    one line is one document: `text` or `content`, and url, language, license, date if stated
    _read_html                one page is one document: its main text
    pieces, border            where a long text is cut

Encodings are found by encodings.py and never guessed. What fails is counted with its reason and gives no part of a
document: a text or a page is read as a whole or not at all; of a file of many, what came before the damage stays, and
the rest is one loss. Memory is bounded by the longest JSONL line or page, not by the file.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yanmo.corpus import readers, tables
from yanmo.corpus.documents import TEXT_COLUMNS, Document, new_document, read_shard
from yanmo.corpus.encodings import Undecodable, find_encoding
from yanmo.corpus.html import MAX_PAGE_BYTES, Unusable, page_text
from yanmo.corpus.ledger import Input, ReadReport
from yanmo.corpus.readers import kind_by_content
from yanmo.corpus.sources import DAMAGED, Expansion, Source, find_sources, open_blocks, open_source, position
from yanmo.corpus.units import Loss, Reader, Settings, Unit
from yanmo.errors import FileError, need
from yanmo.files import reason, sha256_file

LARGE = 2**20  # bytes; a file above is cut, so that even one book can be split into training and validation
PIECE = 2**15  # characters of a piece at most: some 20 pages
MAX_LINE = 2**26  # characters of a JSONL line, or of a field of a CSV row
STATED = ("url", "language", "license", "date", "title")

_BLANK_LINE = re.compile(r"\n[ \t\u3000]*\n")
_SENTENCE_END = re.compile(r"""(?<![.!?])[.!?]+["'”’)]*\s|[。！？…]["'”’」』）)]*(?![。！？…])""")


@dataclass
class Seen:
    """What reading one source has met: how its texts were encoded, and how far on the disk it is."""

    encodings: Counter[str] = field(default_factory=Counter)
    position: int = 0


def read_documents(paths: Sequence[str | Path], report: ReadReport | None = None) -> Iterator[Document]:
    """The documents behind the paths, in the order of the paths, names sorted within a folder.

    Raises FileError at once for a path that does not exist or holds nothing readable, and for a JSONL or CSV file whose
    first line has no text. `report` is filled while documents are drawn: inputs, encodings, failures, progress.
    """
    report = ReadReport() if report is None else report
    sources = find_sources(paths, report, kind_by_content)
    check_extras(sources)
    check_fields(sources)
    return _read(sources, report)


def check_extras(sources: Sequence[Source]) -> None:
    """Raise MissingExtra where reading could not begin."""
    if any(source.kind in ("html", "archive") for source in sources):
        need("resiliparse.extract.html2text", "corpus", "reading HTML")


def check_fields(sources: Sequence[Source]) -> None:
    """Raise FileError for lines whose first has no text."""
    for source in sources:
        if source.kind in ("jsonl", "csv"):
            _check_fields(source)


def _read(sources: list[Source], report: ReadReport) -> Iterator[Document]:
    done = report.bytes_read
    for source in sources:
        seen = Seen()
        try:
            report.inputs.append(Input(source.name, source.size, sha256_file(source.path)))
        except OSError as error:
            report.enter(source.name, Loss("unreadable", f"cannot be read ({reason(error)}); check it"))
            continue
        for found in _found(source, seen):
            report.bytes_read = done + seen.position
            if isinstance(found, Document):
                yield found
            else:
                report.enter(source.name, found)
        report.encodings.update(seen.encodings)
        done += source.size
        report.bytes_read = done


def _found(source: Source, seen: Seen) -> Iterator[Document | Loss]:
    """The documents of a source of any kind; what stops its reading is its last loss."""
    try:
        if source.kind in TEXTS:
            yield from TEXTS[source.kind](source, seen)
            return
        reader = READERS[source.kind]
        for unit in reader.split(source):
            yield from reader.read(unit, {})
            seen.position = source.size if unit.end is None else unit.end
    except Undecodable as error:
        where = f"byte {error.offset:,}"
        yield Loss(error.reason, f"{where} {error.what}; convert the file to UTF-8", where)
    except Unusable as error:
        yield Loss(error.reason, f"{error.what}; take it out or save it anew")
    except Expansion as error:
        yield Loss("too_large", f"{error}, more than a text does; unpack it if you trust it")
    except DAMAGED as error:
        yield Loss("damaged", f"damaged inside its packing ({reason(error)}); fetch it again")
    except FileError as error:  # of a Parquet file
        yield Loss("damaged", str(error).removeprefix(f"{source.path}: "))
    except UnicodeError:  # it decoded a moment ago
        yield Loss("changed", "changed while it was read; run again")
    except OSError as error:
        yield Loss("unreadable", f"cannot be read ({reason(error)}); check it")


def _whole(source: Source) -> list[Unit]:
    return [Unit(source)]


def _read_unit(unit: Unit, settings: Settings) -> Iterator[Document | Loss]:
    """A text of any kind as one unit."""
    yield from _found(unit.source, Seen())


def _read_text(source: Source, seen: Seen) -> Iterator[Document]:
    with open_source(source) as file:
        head = file.read(LARGE + 1)
    if len(head) <= LARGE:
        text, encoding = _decoded(head, seen)
        yield new_document(_line_ends(text), source.name, meta=_charset(encoding))
        return
    del head
    encoding = find_encoding(lambda: open_blocks(source))
    seen.encodings[encoding] += 1
    with open_source(source) as file, io.TextIOWrapper(file, encoding, newline=None) as stream:
        for piece in pieces(stream.read):
            seen.position = position(file, source)
            yield new_document(piece, source.name, meta=_charset(encoding))


def _decoded(data: bytes, seen: Seen) -> tuple[str, str]:
    encoding = find_encoding(lambda: [data])
    seen.encodings[encoding] += 1
    return data.decode(encoding), encoding


def _charset(encoding: str) -> str:
    """What the meta of a document says of a text that stands alone."""
    return json.dumps({"charset": encoding})


def _lines_encoding(source: Source, seen: Seen) -> tuple[str, str]:
    """The codec of a file of lines and what to do with errors: lines that stand before damage are read."""

    def readable() -> Iterator[bytes]:
        try:
            yield from open_blocks(source)
        except DAMAGED:
            return

    try:
        encoding, errors = find_encoding(readable), "strict"
    except Undecodable as error:
        if error.reason != "unknown_encoding":
            raise
        encoding, errors = "utf-8", "surrogateescape"  # only the lines that are not UTF-8 will fail
    seen.encodings[encoding] += 1
    return encoding, errors


def _read_jsonl(source: Source, seen: Seen) -> Iterator[Document | Loss]:
    encoding, errors = _lines_encoding(source, seen)
    with open_source(source) as file, io.TextIOWrapper(file, encoding, errors, newline="\n") as text:
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
            problem, row = _row_of(line)
            yield _document(row, source) if row is not None else _line_loss(problem, f"line {number:,}", line)


def _read_csv(source: Source, seen: Seen) -> Iterator[Document | Loss]:
    encoding, errors = _lines_encoding(source, seen)
    with open_source(source) as file, io.TextIOWrapper(file, encoding, errors, newline="") as text:
        rows = _rows(text, source)
        names, chosen, sample = _columns_of(rows)
        if chosen is None:
            yield Loss("no_text_column", "its first line names no column text or content; name one")
            return
        for number, values in itertools.chain(sample, rows):
            seen.position = position(file, source)
            row = None if values is None else dict(zip(names, values))
            problem = "line_not_csv"
            if row is not None and not isinstance(row.get(chosen), str):
                problem, row = "line_without_text", None
            elif row is not None and any(_INVALID.search(value) for value in row.values()):
                problem, row = "line_undecodable", None
            if row is None:
                yield _line_loss(problem, f"line {number:,}", str(values))
            else:
                yield _document(row | {TEXT_COLUMNS[0]: row[chosen]}, source)


Row = tuple[int, list[str] | None]


def _rows(text: Iterable[str], source: Source) -> Iterator[Row]:
    return tables.rows(text, ".tsv" in source.path.name.lower(), MAX_LINE)


def _columns_of(rows: Iterator[Row]) -> tuple[list[str], str | None, list[Row]]:
    """The names of the columns, the one that holds the texts, and the rows that were read to find it."""
    names = next(rows, (0, None))[1] or []
    sample = list(itertools.islice(rows, tables.SAMPLE))
    return names, tables.text_column(names, [values for _, values in sample if values is not None]), sample


_INVALID = re.compile("[\udc80-\udcff]")  # what surrogateescape made of invalid bytes
_LINE_PROBLEMS = {
    "line_too_long": "has more than {:,} characters",
    "line_undecodable": "is not UTF-8",
    "line_not_json": "is not a JSON object",
    "line_not_csv": "is no row of CSV, or has more than {:,} characters",
    "line_without_text": "has no text in 'text' or 'content'",
}


def _line_loss(problem: str, where: str, line: str) -> Loss:
    what = _LINE_PROBLEMS[problem].format(MAX_LINE)
    return Loss(problem, f"{where} {what}; mend or remove the line", where, text=line[:200])


def _row_of(line: str) -> tuple[str, dict[str, Any] | None]:
    """The object of one JSONL line that holds a text, or the reason why there is none."""
    if not line:
        return "line_too_long", None
    if _INVALID.search(line):
        return "line_undecodable", None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return "line_not_json", None
    if not isinstance(row, dict):
        return "line_not_json", None
    return ("line_without_text", None) if _text_of(row) is None else ("", row)


def _document(row: dict[str, Any], source: Source) -> Document:
    stated = {name: _scrub(row[name]) for name in STATED if isinstance(row.get(name), str)}
    return new_document(_text_of(row) or "", source.name, **stated)


def _text_of(row: dict[str, Any]) -> str | None:
    return next((row[name] for name in TEXT_COLUMNS if isinstance(row.get(name), str)), None)


def _scrub(value: str) -> str:
    """A stated field on one line, fit for UTF-8."""
    return " ".join("".join(c for c in value if c.isprintable() or c.isspace()).split())


def _check_fields(source: Source) -> None:
    """Raise FileError where the first line has no text: the whole file would be lost line by line. A column that is
    guessed is said."""
    try:
        if source.kind == "csv":
            with open_source(source) as file, io.TextIOWrapper(file, "utf-8-sig", "replace", newline="") as text:
                keys, chosen, _ = _columns_of(_rows(text, source))
            good = chosen is not None or not keys
            if chosen is not None and chosen not in TEXT_COLUMNS:
                what = f"no column 'text' or 'content'; the column {_scrub(chosen)!r} is taken for it"
                warnings.warn(f"{source.name}: {what}; rename another to 'text' if it is that one", stacklevel=2)
        else:
            with open_source(source) as file:
                row = json.loads(file.readline(MAX_LINE))
            keys = list(row) if isinstance(row, dict) else []
            good = not isinstance(row, dict) or _text_of(row) is not None
    except (ValueError, RecursionError, OSError, *DAMAGED):
        return  # counted when the file is read
    if not good:
        called, listed = "columns" if source.kind == "csv" else "keys", ", ".join(map(_scrub, keys[:20])) or "none"
        raise FileError(
            f"{source.path}: line 1 has no text in 'text' or 'content', its {called} are {listed}; rename the right one"
        )


def _read_html(source: Source, seen: Seen) -> Iterator[Document]:
    with open_source(source) as file:
        data = file.read(MAX_PAGE_BYTES + 1)
    if len(data) > MAX_PAGE_BYTES:
        raise Unusable("too_large", f"has more than {MAX_PAGE_BYTES:,} bytes, too many for one page")
    text, encoding = page_text(data)
    seen.encodings[encoding] += 1
    yield new_document(_line_ends(text), source.name, meta=_charset(encoding))


def _read_parquet(source: Source, seen: Seen) -> Iterator[Document]:
    yield from read_shard(source.path, source.name)


Read = Callable[[Source, Seen], Iterator[Document | Loss]]
TEXTS: dict[str, Read] = {
    "text": _read_text,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "html": _read_html,
    "parquet": _read_parquet,
}
READERS: dict[str, Reader] = readers.READERS | dict.fromkeys(TEXTS, Reader(_whole, _read_unit))


def _line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def pieces(read: Callable[[int], str], size: int = PIECE) -> Iterator[str]:
    """Cut a stream of text into pieces of at most `size` characters; joined they are the stream again."""
    held = ""
    while more := read(size):
        held += more
        while len(held) > size:
            end = border(held, size // 2, size)
            yield held[:end]
            held = held[end:]
    if held:
        yield held


def border(text: str, low: int, high: int) -> int:
    """The best place in (low, high] to cut: behind the last blank line, else line, sentence, space, character."""
    blank = None
    for blank in _BLANK_LINE.finditer(text, low, high):  # noqa: B007 (the last one counts)
        pass
    if blank is not None:
        return blank.end()
    line = text.rfind("\n", low, high)
    if line >= 0:
        return line + 1
    sentence = None
    for sentence in _SENTENCE_END.finditer(text, low, high):  # noqa: B007
        pass
    if sentence is not None:
        return sentence.end()
    space = text.rfind(" ", low, high)
    if space >= 0:
        return space + 1
    end = high
    while end > max(low + 1, high - 32) and end < len(text) and _leans(text[end]):
        end -= 1
    return end


def _leans(character: str) -> bool:
    """Whether a character belongs to the one before it: combining marks, joiners, variation selectors."""
    return unicodedata.combining(character) > 0 or character in "\u200c\u200d\ufe0e\ufe0f"
