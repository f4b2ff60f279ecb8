"""Examples as a run keeps them: one JSON object a line, whatever they were read from.

In: examples, a path. Out: the file, byte for byte the same for the same examples; and the examples again.

    write_examples, read_examples, lines_of
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from yanmo.errors import FileError
from yanmo.files import read_bytes, write_atomic
from yanmo.tasks.examples import Answer, Example, Relation, Span

LIMIT = 1 << 33
PARTS: dict[str, type] = {"entities": Span, "relations": Relation, "answers": Answer}
FIELDS = {field.name for field in dataclasses.fields(Example)}


def write_examples(path: str | Path, examples: Iterable[Example]) -> None:
    """Write the fields that are not empty; complete, or not at all."""
    write_atomic(path, lines_of(examples))


def lines_of(examples: Iterable[Example]) -> str:
    """The text of such a file."""
    return "".join(json.dumps(_plain(example), ensure_ascii=False) + "\n" for example in examples)


def read_examples(path: str | Path) -> list[Example]:
    """The examples of a file that `write_examples` wrote; a damaged line is a FileError with its number."""
    found = []
    lines = read_bytes(path, LIMIT).split(b"\n")
    for number, line in enumerate(lines if lines[-1] else lines[:-1], start=1):  # a cut line is a damaged one
        try:
            found.append(_example(json.loads(line)))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise FileError(f"{path}:{number}: no example of a task ({error}); start a new run") from None
    return found


def _plain(example: Example) -> dict[str, Any]:
    empty = {field.name: field.default for field in dataclasses.fields(Example)}
    return {name: value for name, value in dataclasses.asdict(example).items() if value != empty[name]}


def _example(values: dict[str, Any]) -> Example:
    values = dict(values)
    for name, kind in PARTS.items():
        if values.get(name) is not None:
            values[name] = tuple(kind(**part) for part in values[name])
    for name in ("labels", "messages"):
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    return Example(**values)
