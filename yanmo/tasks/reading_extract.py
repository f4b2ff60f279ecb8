"""Files of entities and relations → examples: which of the known forms a file has, by what is in it.

objects      the values of a JSON file
text         a file of lines
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yanmo.errors import FileError
from yanmo.tasks import conll, inline, reading_tables, relations_reading, spanjson, tokenspans
from yanmo.tasks.columns import Row
from yanmo.tasks.examples import Bad
from yanmo.tasks.reading_files import File, Reading, Rows, short

FORMS = (
    "tokens with tags, a text with entities of type, start and end, tokens with subject and object, or a text with "
    "spo_list"
)


def objects(file: File, values: Sequence[tuple[int, Any] | Bad], reading: Reading) -> Rows:
    """Yield the examples of JSON values: FewRel's one object, or rows of one form."""
    held = [item for item in values if not isinstance(item, Bad)]
    if len(held) == 1 and relations_reading.is_fewrel(held[0][1]):
        reading.format("FewRel JSON")
        rows = []
        for item in relations_reading.fewrel(held[0][1], file):
            if isinstance(item, Bad):
                yield item
            else:
                rows.append(item)
        yield from relations_reading.by_tokens(file, rows, reading, "#")
        return
    kept: list[Row] = []
    for item in values:
        if isinstance(item, Bad):
            yield item
        elif isinstance(item[1], dict):
            kept.append(item)
        elif (row := _pair(item[1])) is not None:
            kept.append((item[0], row))
        else:
            yield Bad(file.at(item[0]), f"it is {short(item[1])}, where an object is needed")
    if kept:
        yield from rows_of(file, kept, reading)


def rows_of(file: File, rows: Sequence[Row], reading: Reading) -> Rows:
    """Yield the examples of objects, or of the rows of a Parquet file, by what most of the first ones hold."""
    sample = [row for _, row in rows[:100]]
    said = reading.columns.keys() & {"token", "tag", "text", "entities"}
    if any(map(relations_reading.has_marks, sample)):
        reading.format("texts with <e1> and <e2>")
        yield from relations_reading.marked_rows(file, rows, reading)
    elif not said and any(map(tokenspans.is_sentences, sample)):
        reading.format("documents of sentences, counted in tokens")
        yield from tokenspans.sentences(file, rows, reading)
    elif not said and any(map(tokenspans.is_counted, sample)):
        reading.format("tokens with entities")
        yield from tokenspans.counted(file, rows, reading)
    elif any(map(relations_reading.has_tokens, sample)):
        reading.format("tokens with subject and object")
        yield from relations_reading.by_tokens(file, rows, reading)
    elif any(map(relations_reading.has_triples, sample)):
        reading.format("texts with triples")
        yield from relations_reading.by_triples(file, rows, reading)
    elif "tag" in said or (not said and any(map(conll.has_tokens, sample))):
        reading.format("tokens with tags")
        yield from conll.tokens(file, rows, reading)
    elif said or any(map(spanjson.has_entities, sample)):
        reading.format("texts with entities")
        yield from spanjson.entities(file, rows, reading)
    else:
        names = ", ".join(map(short, list(dict.fromkeys(name for row in sample for name in row))[:12])) or "none"
        raise FileError(f"{file.name}: no form of entities that is known; its fields are {names}; give {FORMS}")


def _pair(held: Any) -> dict[str, Any] | None:
    """spaCy's [text, {"entities": [[start, end, type]]}] as an object."""
    if isinstance(held, list) and len(held) == 2 and isinstance(held[0], str) and isinstance(held[1], dict):
        return {"text": held[0], "entities": held[1].get("entities")}
    return None


def text(file: File, content: str, reading: Reading) -> Rows:
    """Yield the examples of a file of lines."""
    if relations_reading.is_marked(content):
        reading.format("SemEval-2010 task 8")
        yield from relations_reading.marked(file, content, reading)
    elif relations_reading.is_conll04(content):
        reading.format("CoNLL04 columns")
        yield from relations_reading.conll04(file, content, reading)
    elif reading.columns.keys() & {"token", "tag"} or conll.is_columns(content):
        reading.format("CoNLL columns")
        yield from conll.columns(file, content, reading)
    elif file.suffix not in (".csv", ".tsv") and (marks := inline.kind(content)) is not None:
        reading.format("texts with marks")
        yield from inline.lines(file, content, marks, reading)
    else:
        held = reading_tables.table(file, content, reading)
        reading.format("table of relations")
        yield from held.bad
        rows = [(line, dict(zip(held.names, cells))) for line, cells in held.rows]
        if conll.is_table(held.names):
            reading.understood.format = "table of words"
            yield from conll.table(file, held.names, rows, reading)
        elif any(relations_reading.has_marks(row) for _, row in rows[:100]):
            yield from relations_reading.marked_rows(file, rows, reading)
        elif rows:
            yield from relations_reading.table(file, held.names, rows, reading)
