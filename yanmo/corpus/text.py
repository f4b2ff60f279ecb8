"""Texts on the disk → documents.

In: paths of .txt, .md, .jsonl, .html and .htm files, of the same with .gz, of Parquet files and corpus folders, of
MediaWiki dumps and web archives, or of folders of all these. Out: documents one by one, in a fixed order; what could
not be read, and what reading left out on purpose, is counted in a ReadReport.

    read_documents            paths → documents
    _read_text                one file is one document; above LARGE bytes it is cut at paragraph borders
    _read_jsonl               one line is one document: `text` or `content`, and url, language, license, date if stated
    _read_html                one page is one document: its main text
    _read_units               a dump or an archive, unit by unit; each page is a document or a counted loss
    pieces, border            where a long text is cut

Encodings are found by encodings.py and never guessed. What fails is counted with its reason and gives no part of a
document: a text or a page is read as a whole or not at all; of a file of many, what came before the damage counts.
Memory is bounded by the longest JSONL line or page, not by the file.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from yanmo.corpus.documents import TEXT_COLUMNS, Document, new_document, read_shard
from yanmo.corpus.encodings import Undecodable, find_encoding
from yanmo.corpus.html import MAX_PAGE_BYTES, Unusable, page_text
from yanmo.corpus.ledger import Input, ReadReport
from yanmo.corpus.readers import READERS, kind_by_content
from yanmo.corpus.sources import DAMAGED, Source, find_sources, open_blocks, open_source
from yanmo.corpus.units import Loss
from yanmo.errors import FileError, need
from yanmo.files import reason, sha256_file

LARGE = 2**20  # bytes; a file above is cut, so that even one book can be split into training and validation
HEAD = 2**14  # bytes that tell what a file is
PIECE = 2**15  # characters of a piece at most: some 20 pages
MAX_LINE = 2**26  # characters of a JSONL line
STATED = ("url", "language", "license", "date")

_BLANK_LINE = re.compile(r"\n[ \t\u3000]*\n")
_SENTENCE_END = re.compile(r"""(?<![.!?])[.!?]+["'”’)]*\s|[。！？…]["'”’」』）)]*(?![。！？…])""")


def read_documents(paths: Sequence[str | Path], report: ReadReport | None = None) -> Iterator[Document]:
    """The documents behind the paths, in the order of the paths, names sorted within a folder.

    Raises FileError at once for a path that does not exist or holds nothing readable, and for a JSONL file whose first
    object has no text. `report` is filled while documents are drawn: inputs, encodings, failures, progress.
    """
    report = ReadReport() if report is None else report
    sources = [_by_content(source) for source in find_sources(paths, report)]
    if any(source.kind in ("html", "archive") for source in sources):
        need("resiliparse.extract.html2text", "corpus", "reading HTML")
    for source in sources:
        if source.kind == "jsonl":
            _check_fields(source)
    return _read(sources, report)


def _by_content(source: Source) -> Source:
    """A text that is a dump or an archive inside is read as what it is."""
    if source.kind != "text":
        return source
    try:
        with open(source.path, "rb") as file:
            kind = kind_by_content(file.read(HEAD))
    except OSError:
        return source  # counted when the file is read
    return source if kind is None else replace(source, kind=kind, packed=False)


def _read(sources: list[Source], report: ReadReport) -> Iterator[Document]:
    readers = {"text": _read_text, "jsonl": _read_jsonl, "html": _read_html, "parquet": _read_parquet}
    readers |= dict.fromkeys(READERS, _read_units)
    done = report.bytes_read
    for source in sources:
        try:
            report.inputs.append(Input(source.name, source.size, sha256_file(source.path)))
            yield from readers[source.kind](source, report)
        except Undecodable as error:
            sentence = f"{source.name}: byte {error.offset:,} {error.what}; convert the file to UTF-8"
            report.fail(source.name, error.reason, sentence)
        except Unusable as error:
            report.fail(source.name, error.reason, f"{source.name}: {error.what}; take it out or save it anew")
        except DAMAGED as error:
            sentence = f"{source.name}: damaged inside its gzip packing ({reason(error)}); fetch it again"
            report.fail(source.name, "damaged", sentence)
        except FileError as error:  # of a Parquet file
            report.fail(source.name, "damaged", str(error).replace(str(source.path), source.name))
        except UnicodeError:  # it decoded a moment ago
            report.fail(source.name, "changed", f"{source.name}: changed while it was read; run again")
        except OSError as error:
            report.fail(source.name, "unreadable", f"{source.name}: cannot be read ({reason(error)}); check it")
        done += source.size
        report.bytes_read = done


def _read_text(source: Source, report: ReadReport) -> Iterator[Document]:
    with open_source(source) as file:
        head = file.read(LARGE + 1)
    if len(head) <= LARGE:
        yield new_document(_line_ends(_decoded(head, report)), source.name)
        return
    del head
    before = report.bytes_read
    encoding = find_encoding(lambda: open_blocks(source))
    report.encodings[encoding] += 1
    with open_source(source) as file, io.TextIOWrapper(file, encoding, newline=None) as text:
        for piece in pieces(text.read):
            report.bytes_read = before + _position(file, source)
            yield new_document(piece, source.name)


def _decoded(data: bytes, report: ReadReport) -> str:
    encoding = find_encoding(lambda: [data])
    report.encodings[encoding] += 1
    return data.decode(encoding)


def _read_jsonl(source: Source, report: ReadReport) -> Iterator[Document]:
    try:
        encoding, errors = find_encoding(lambda: open_blocks(source)), "strict"
    except Undecodable as error:
        if error.reason != "unknown_encoding":
            raise
        encoding, errors = "utf-8", "surrogateescape"  # JSON is UTF-8: only the lines that are not will fail
    report.encodings[encoding] += 1
    before = report.bytes_read
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
            report.bytes_read = before + _position(file, source)
            problem, document = _from_line(line, source)
            if document is None:
                what = _LINE_PROBLEMS[problem].format(MAX_LINE)
                report.fail(source.name, problem, f"{source.name}: line {number:,} {what}; mend or remove the line")
            else:
                yield document


_LINE_PROBLEMS = {
    "line_too_long": "has more than {:,} characters",
    "line_undecodable": "is not UTF-8",
    "line_not_json": "is not a JSON object",
    "line_without_text": "has no text in 'text' or 'content'",
}


def _from_line(line: str, source: Source) -> tuple[str, Document | None]:
    """The document of one JSONL line, or the reason why there is none."""
    if not line:
        return "line_too_long", None
    if re.search("[\udc80-\udcff]", line):  # what surrogateescape made of invalid bytes
        return "line_undecodable", None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return "line_not_json", None
    if not isinstance(row, dict):
        return "line_not_json", None
    text = _text_of(row)
    if text is None:
        return "line_without_text", None
    stated = {name: _scrub(row[name]) for name in STATED if isinstance(row.get(name), str)}
    return "", new_document(text, source.name, **stated)


def _text_of(row: dict[str, Any]) -> str | None:
    return next((row[name] for name in TEXT_COLUMNS if isinstance(row.get(name), str)), None)


def _scrub(value: str) -> str:
    """A stated field on one line, fit for UTF-8."""
    return " ".join("".join(c for c in value if c.isprintable() or c.isspace()).split())


def _check_fields(source: Source) -> None:
    """Raise FileError where the first line is an object without a text: the whole file would be lost line by line."""
    try:
        with open_source(source) as file:
            row = json.loads(file.readline(MAX_LINE))
    except (ValueError, RecursionError, OSError, *DAMAGED):
        return  # counted when the file is read
    if isinstance(row, dict) and _text_of(row) is None:
        keys = ", ".join(map(_scrub, list(row)[:20])) or "none"
        raise FileError(
            f"{source.path}: line 1 has no text in 'text' or 'content', its keys are {keys}; rename the right one"
        )


def _read_html(source: Source, report: ReadReport) -> Iterator[Document]:
    with open_source(source) as file:
        data = file.read(MAX_PAGE_BYTES + 1)
    if len(data) > MAX_PAGE_BYTES:
        raise Unusable("too_large", f"has more than {MAX_PAGE_BYTES:,} bytes, too many for one page")
    text, encoding = page_text(data)
    report.encodings[encoding] += 1
    yield new_document(_line_ends(text), source.name)


def _read_parquet(source: Source, report: ReadReport) -> Iterator[Document]:
    yield from read_shard(source.path, source.name)


def _read_units(source: Source, report: ReadReport) -> Iterator[Document]:
    before, reader = report.bytes_read, READERS[source.kind]
    for unit in reader.split(source):
        for found in reader.read(unit, {}):
            if isinstance(found, Document):
                yield found
            elif found.failed:
                report.fail(source.name, found.reason, _sentence(source, found))
            else:
                report.remove(source.name, found.reason, found.text)
        report.bytes_read = before + (source.size if unit.end is None else unit.end)


def _sentence(source: Source, found: Loss) -> str:
    return ": ".join(filter(None, (source.name, found.where, found.what)))


def _position(file: Any, source: Source) -> int:
    """How far the file on the disk has been read, packed or not."""
    return file.fileobj.tell() if source.packed else file.tell()


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
