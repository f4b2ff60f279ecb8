"""JSON as people write it → values with their lines: one a line, one array, one object, or objects one after another.

values        text → (line, value), each as soon as it is parsed
records       the rows among them: a list in an object such as {"data": [...]} is unwrapped
parquet       a Parquet file → (row, value); class names that `datasets` left in it replace their numbers
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from yanmo.errors import FileError, need
from yanmo.files import reason
from yanmo.tasks.examples import Bad
from yanmo.tasks.reading_files import File, kind

SPACE = re.compile(r"[ \t\n\r]*")
DECODER = json.JSONDecoder()
WRAPPED = ("data", "examples", "rows", "instances", "train", "records", "items")


def looks_like_json(text: str) -> bool:
    """Whether a text begins with a JSON object or array that is complete."""
    if not text[:1000].lstrip().startswith(("{", "[")):
        return False
    try:
        DECODER.raw_decode(text, SPACE.match(text).end())  # type: ignore[union-attr]
    except (ValueError, RecursionError):
        line = text.lstrip().partition("\n")[0]
        return bool(re.match(r'\{\s*("|$)|\[\s*(\{|\[|"|$)', line))
    return True


def values(file: File, text: str) -> Iterator[tuple[int, Any] | Bad]:
    """Yield (line, value) of every value of the top level, the elements of an array one by one.

    Where every value has a line of its own, a damaged line is a Bad; elsewhere damage is a FileError, since what
    stands behind it cannot be told.
    """
    lines = text.split("\n")
    first = next((line for line in lines if line.strip()), "")
    second = [line for line in lines if line.strip()][1:2]
    if _complete(first) and (not second or second[0].lstrip().startswith(("{", "["))):
        if not second and first.lstrip().startswith("["):
            yield from _stream(file, text)  # one line that is the whole array
            return
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield Bad(file.at(number), f"it is not JSON ({_why(error)})")
        return
    yield from _stream(file, text)


def _complete(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _why(error: Exception) -> str:
    return getattr(error, "msg", "") or ("nested too deeply" if isinstance(error, RecursionError) else reason(error))


def _stream(file: File, text: str) -> Iterator[tuple[int, Any]]:
    """Values one after another, with or without an array around them, found by the parser itself."""
    at, line, counted = _skip(text, 0), 1, 0
    array = text[at : at + 1] == "["
    at = _skip(text, at + 1) if array else at
    while at < len(text) and not (array and text[at] == "]"):
        line += text.count("\n", counted, at)
        counted = at
        try:
            value, at = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            place = getattr(error, "lineno", line)
            raise FileError(f"{file.path}: not JSON at line {place:,} ({_why(error)}); mend the file") from None
        yield line, value
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif array and text[at : at + 1] != "]":
            line += text.count("\n", counted, at)
            raise FileError(f"{file.path}: not JSON at line {line:,} (a comma or ] is missing); mend the file")
    if array and at >= len(text):
        raise FileError(f"{file.path}: not JSON: its array has no end; fetch the file again")
    at = _skip(text, at + 1) if array else at
    if at < len(text):
        line += text.count("\n", counted, at)
        raise FileError(f"{file.path}: not JSON at line {line:,} (something stands behind the array); mend the file")


def _skip(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    return found.end() if found else at


def records(file: File, text: str) -> Iterator[tuple[int, Any] | Bad]:
    """The rows of a file; the list of a single object that wraps it, as {"data": [...]}, is unwrapped."""
    held = list(values(file, text))
    if len(held) == 1 and isinstance(held[0], tuple) and isinstance(held[0][1], dict):
        line, value = held[0]
        rows = [value[name] for name in WRAPPED if isinstance(value.get(name), list)]
        if rows and all(isinstance(row, dict) for row in rows[0]):
            yield from ((line + number, row) for number, row in enumerate(rows[0]))
            return
    yield from held


def objects(file: File, text: str) -> Iterator[tuple[int, dict[str, Any]] | Bad]:
    """The rows of a file that must be objects; any other value is a Bad."""
    for item in records(file, text):
        if isinstance(item, Bad) or isinstance(item[1], dict):
            yield item
        else:
            yield Bad(file.at(item[0]), f"it is {kind(item[1])}, where an object is needed")


def parquet(file: File, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row from 1, values) of a Parquet file."""
    need("pyarrow", "corpus", "reading Parquet")
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        with pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data)) as opened:
            names = _class_names(opened.schema_arrow.metadata)
            for batch in opened.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    for column, labels in names.items():
                        row[column] = _named(row.get(column), labels)
                    yield number, row
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise FileError(f"{file.path}: no Parquet file that can be read ({reason(error)}); fetch it again") from None


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Column → names of its classes, from what the library `datasets` writes into the metadata of a file."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        found = {}
        for column, feature in features.items():
            inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
            if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
                names = inner.get("names")
                if isinstance(names, list) and all(isinstance(name, str) for name in names):
                    found[column] = names
        return found
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value
