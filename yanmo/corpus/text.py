"""Texts on the disk → documents.

In: paths of .txt, .md, .jsonl, .csv, .html and .htm files, of the same packed, of Parquet files and corpus folders, of
MediaWiki dumps and web archives, or of folders of all these. Out: documents one by one, in a fixed order; what could
not be read, and what reading left out on purpose, is counted in a ReadReport.

    read_documents            paths → documents
    READERS                   kind → how it is cut into units and read; those of texts are here
    _read_text                one file is one document; above LARGE bytes it is cut at paragraph borders
    _read_html                one page is one document: its main text
    ROWS                      one line or row is one document (lines.py, documents.py)
    pieces, border            where a long text is cut

Encodings are found by encodings.py and never guessed. What fails is counted with its reason and gives no part of a
document: a text or a page is read as a whole or not at all; of a file of many, what came before the damage stays, and
the rest is one loss. Memory is bounded by the longest JSONL line or page, not by the file.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from yanmo.corpus import lines, readers
from yanmo.corpus.documents import TEXT_COLUMNS, Document, cut_shard, new_document, read_shard
from yanmo.corpus.encodings import Undecodable, find_encoding
from yanmo.corpus.html import MAX_PAGE_BYTES, Unusable, page_text
from yanmo.corpus.ledger import Input, ReadReport
from yanmo.corpus.readers import kind_by_content
from yanmo.corpus.sources import (
    DAMAGED,
    Expansion,
    Source,
    arrived,
    find_sources,
    open_blocks,
    open_source,
    position,
)
from yanmo.corpus.units import Loss, Reader, Seen, Settings, Unit
from yanmo.errors import FileError, need
from yanmo.files import reason, sha256_file

LARGE = 2**20  # bytes; a file above is cut, so that even one book can be split into training and validation
PIECE = 2**15  # characters of a piece at most: some 20 pages

_BLANK_LINE = re.compile(r"\n[ \t\u3000]*\n")
_SENTENCE_END = re.compile(r"""(?<![.!?])[.!?]+["'”’)]*\s|[。！？…]["'”’」』）)]*(?![。！？…])""")


def read_documents(
    paths: Sequence[str | Path | Source], report: ReadReport | None = None, text_column: Sequence[str] = ()
) -> Iterator[Document]:
    """The documents behind the paths, in the order of the paths, names sorted within a folder.

    Raises FileError at once for a path that does not exist or holds nothing readable, and for a JSONL or CSV file whose
    first line has no text. A file of a published corpus is fetched when its turn comes, and none after the last
    document that is drawn. `report` is filled while documents are drawn: inputs, encodings, failures, progress.
    text_column: names of the columns of texts, of which the first that a file has counts.
    """
    report = ReadReport() if report is None else report
    columns = tuple(text_column) or TEXT_COLUMNS
    sources = find_sources(paths, report, kind_by_content, columns)
    check_extras(sources)
    lines.check_fields([source for source in sources if source.published is None], columns)
    return _read(sources, report, columns)


def check_extras(sources: Sequence[Source]) -> None:
    """Raise MissingExtra where reading could not begin."""
    if any(source.kind in ("html", "archive") for source in sources):
        need("resiliparse.extract.html2text", "corpus", "reading HTML")


def _read(sources: list[Source], report: ReadReport, columns: lines.Columns) -> Iterator[Document]:
    done = report.bytes_read
    for source in _fetched(sources, report, columns):
        seen = Seen()
        try:
            report.inputs.append(Input(source.name, source.size, sha256_file(source.path)))
        except OSError as error:
            report.enter(source.name, Loss("unreadable", f"cannot be read ({reason(error)}); check it"))
            continue
        for found in _found(Unit(source), seen, columns):
            report.bytes_read = done + seen.position
            if isinstance(found, Document):
                yield found
            else:
                report.enter(source.name, found)
        report.encodings.update(seen.encodings)
        done += source.size
        report.bytes_read = done


def _fetched(sources: list[Source], report: ReadReport, columns: lines.Columns) -> Iterator[Source]:
    """The sources, those of published corpora each when it has been fetched."""
    if all(source.published is None for source in sources):
        return iter(sources)
    from yanmo.corpus import published  # what speaks HTTP is loaded where it is wanted

    def ready(source: Source, path: Path, strict: bool) -> Source:
        report.bytes_total -= source.size
        source = checked(source, path, columns, strict)
        report.bytes_total += source.size
        return source

    return published.fetched(sources, ready)


def checked(source: Source, path: Path, columns: lines.Columns, strict: bool) -> Source:
    """A source whose file has been fetched; strict: an error where all of it would be lost."""
    ready = arrived(source, path, kind_by_content, columns, strict)
    check_extras([ready])
    if strict:
        lines.check_fields([ready], columns)
    return ready


def _found(unit: Unit, seen: Seen, columns: lines.Columns) -> Iterator[Document | Loss]:
    """The documents of a unit of text, or of a whole source of another kind; what stops its reading is its last
    loss."""
    source = unit.source
    try:
        if source.kind in TEXTS:
            yield from TEXTS[source.kind](source, seen)
            return
        if source.kind in ROWS:
            yield from ROWS[source.kind](unit, seen, columns)
            return
        reader = READERS[source.kind]
        for part in reader.split(source):
            yield from reader.read(part, {})
            seen.position = source.size if part.end is None else part.end
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
        where = "" if unit.whole else f"byte {unit.start:,}"
        yield Loss("damaged", str(error).removeprefix(f"{source.path}: "), where)
    except UnicodeError:  # it decoded a moment ago
        yield Loss("changed", "changed while it was read; run again")
    except OSError as error:
        yield Loss("unreadable", f"cannot be read ({reason(error)}); check it")


def _whole(source: Source) -> list[Unit]:
    return [Unit(source)]


def _read_unit(unit: Unit, settings: Settings) -> Iterator[Document | Loss]:
    """A unit of a text of any kind; `settings`: `columns`, the names of the columns of texts."""
    yield from _found(unit, Seen(), tuple(settings.get("columns") or TEXT_COLUMNS))


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


def _read_html(source: Source, seen: Seen) -> Iterator[Document]:
    with open_source(source) as file:
        data = file.read(MAX_PAGE_BYTES + 1)
    if len(data) > MAX_PAGE_BYTES:
        raise Unusable("too_large", f"has more than {MAX_PAGE_BYTES:,} bytes, too many for one page")
    text, encoding = page_text(data)
    seen.encodings[encoding] += 1
    yield new_document(_line_ends(text), source.name, meta=_charset(encoding))


def _read_parquet(unit: Unit, seen: Seen, columns: lines.Columns) -> Iterator[Document]:
    yield from read_shard(unit.source.path, unit.source.name, columns, (unit.start, unit.end))


def _row_groups(source: Source) -> list[Unit]:
    return [Unit(source, start, end) for start, end in cut_shard(source.path)]


TEXTS: dict[str, Callable[[Source, Seen], Iterator[Document]]] = {"text": _read_text, "html": _read_html}
ROWS: dict[str, Callable[[Unit, Seen, lines.Columns], Iterator[Document | Loss]]] = {
    "jsonl": lines.read_jsonl,
    "csv": lines.read_csv,
    "parquet": _read_parquet,
}
SPLITS = {"jsonl": lines.split, "csv": lines.split, "parquet": _row_groups}
READERS: dict[str, Reader] = readers.READERS | {
    kind: Reader(SPLITS.get(kind, _whole), _read_unit) for kind in (*TEXTS, *ROWS)
}


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
