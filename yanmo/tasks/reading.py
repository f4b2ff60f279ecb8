"""Data as people have it → examples: the door of all formats.

In: a task, paths of files (plain, .gz, .bz2, .xz, tar, zip) or folders, or hf:NAME; what the user says of columns;
whether bad rows are left out. Out: Data, or one error that names file, line and remedy, before anything is trained.

    read            all formats
    _one            one file, by what is in it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from yanmo.errors import FileError, InputError, nearest
from yanmo.tasks import (
    aligned,
    brat,
    hubdata,
    parallel,
    reading_chats,
    reading_extract,
    reading_json,
    reading_tables,
    shelves,
    squad,
)
from yanmo.tasks import columns as roles
from yanmo.tasks.examples import TASKS, Bad, Data, Example, Understood
from yanmo.tasks.hubdata import is_hub
from yanmo.tasks.reading_files import File, Reading, Rows, decode, find, load

REMEDY = "mend the row, or leave such rows out with --skip-bad"


def read(
    task: str,
    paths: str | Path | Sequence[str | Path],
    *,
    columns: Mapping[str, str] | None = None,
    skip_bad: bool = False,
) -> Data:
    """Read labelled examples of a task (classify, extract, answer, translate, generate).

    columns: role → column, and `delimiter`, `quoting`, `header`, `encoding`, `names` (docs/taskdata.md). Raises
    FileError at the first row that cannot be used, unless skip_bad, which lists such rows in Data.bad; InputError for a
    column that is not there.
    """
    if task not in TASKS:
        raise InputError(f"no task {task!r}{nearest(task, TASKS)}; there are {', '.join(TASKS)}")
    said = dict(columns or {})
    roles.check(task, said)
    named = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not named:
        raise InputError("no data is named; name at least one file of examples")
    files = find([found for path in named for found in (hubdata.files(str(path)) if is_hub(path) else [Path(path)])])
    reading = Reading(task, said, Understood(task, "", [file.name for file in files]))
    data = Data([], reading.understood)
    for item in _all(files, reading):
        if isinstance(item, Example):
            data.examples.append(item)
        elif skip_bad:
            data.bad.append(item)
        else:
            raise FileError(f"{item.where}: {item.reason}; {REMEDY}")
    for what, places in reading.counts.items():
        reading.note(f"{len(places):,} {what} (first {places[0]})")
    if not data.examples:
        first = f"; the first: {data.bad[0].where}: {data.bad[0].reason}" if data.bad else "; name a file with some"
        raise FileError(f"{', '.join(reading.understood.files)}: no usable example ({len(data.bad):,} bad rows){first}")
    return data


def _all(files: list[File], reading: Reading) -> Rows:
    if reading.task == "extract" and any(file.suffix == ".ann" for file in files):
        pairs, files = brat.paired(files)
        for text_file, annotation in pairs:
            reading.format("texts with .ann beside them")
            yield brat.document(text_file, annotation, reading)
    if reading.task == "classify":
        shelved, files = shelves.shelved(files)
        if shelved:
            yield from shelves.examples(shelved, reading)
        together, files = aligned.groups(files)
        for held in together:
            reading.format("lines of labels beside lines of texts")
            yield from roles.classified(*aligned.rows(held, reading), reading)
    if reading.task == "translate":
        sides, files = parallel.sided(files, reading)
        for pair in sides:
            yield from parallel.lines(pair, reading)
    for file in files:
        yield from _one(file, reading)


def _one(file: File, reading: Reading) -> Rows:
    data = load(file)
    if data.startswith(b"PAR1"):
        reading.format("Parquet")
        rows = list(reading_json.parquet(file, data))
        yield from _rows(file, _names(rows), rows, reading)
        return
    if reading.task == "translate" and parallel.is_tmx(data):
        yield from parallel.tmx(file, data, reading)
        return
    text = decode(file, data, reading)
    del data
    if not text.strip():
        raise FileError(f"{file.path}: empty; name a file of examples")
    if file.suffix not in (".csv", ".tsv") and reading_json.looks_like_json(text):
        yield from _json(file, text, reading)
    else:
        yield from _text(file, text, reading)


def _json(file: File, text: str, reading: Reading) -> Rows:
    if reading.task == "extract":
        yield from reading_extract.objects(file, list(reading_json.records(file, text)), reading)
        return
    values = list(reading_json.values(file, text))
    first = [item[1] for item in values[:3] if not isinstance(item, Bad)]
    if reading.task == "answer" and any(map(squad.is_tree, first)):
        reading.format("SQuAD JSON")
        yield from squad.parsed(file, text, values, reading)
        return
    reading.format("JSON")
    rows: list[roles.Row] = []
    for item in reading_json.objects(file, text):
        if isinstance(item, Bad):
            yield item
        else:
            rows.append(item)
    yield from _rows(file, _names(rows), rows, reading)


def _names(rows: Sequence[roles.Row]) -> list[str]:
    """The columns of the first rows, in their order: a row may lack one."""
    return list(dict.fromkeys(str(name) for _, row in rows[:100] for name in row))


def _text(file: File, text: str, reading: Reading) -> Rows:
    if reading.task == "extract":
        yield from reading_extract.text(file, text, reading)
        return
    held = None
    if reading.task == "classify" and file.suffix not in (".csv", ".tsv"):
        held = _labelled(file, text, reading)
    if held is None:
        held = reading_tables.table(file, text, reading)
        reading.format("table")
    yield from held.bad
    rows = [(line, dict(zip(held.names, cells))) for line, cells in held.rows]
    yield from _rows(file, held.names, rows, reading)


def _labelled(file: File, text: str, reading: Reading) -> reading_tables.Table | None:
    if "delimiter" in reading.columns or text[:10_000].count("\t") > text[:10_000].count("\n") * 0.9:
        return None
    held = reading_tables.labelled(file, text, reading)
    if held is not None:
        reading.format("label and text in a line")
    return held


def _rows(file: File, names: list[str], rows: Sequence[roles.Row], reading: Reading) -> Rows:
    if not rows:
        return
    if reading.task == "classify":
        yield from roles.classified(file, names, rows, reading)
    elif reading.task == "extract":
        yield from reading_extract.rows_of(file, rows, reading)
    elif reading.task == "answer":
        yield from squad.flat(file, names, rows, reading)
    elif reading.task == "translate":
        yield from parallel.rows(file, names, rows, reading)
    else:
        yield from reading_chats.rows(file, names, rows, reading)
