"""Predictions of a file or of standard input, line by line: in order, to be taken up again, in little memory.

In: a file of JSON objects, one a line (or of plain lines of text), a Predictor, a file to write. Out: one JSON object a
line.

    read_rows          lines → rows; a line that is none is an InputError with its number
    predict_file       rows → OUT; what OUT already holds is not predicted again; OUT.source.json says of what it is
    predict_lines      rows → lines, for standard output
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from yanmo.errors import FileError, InputError
from yanmo.files import read_json_object, reason, write_json
from yanmo.tasks.predictor import Predictor

MAX_LINE = 64 << 20  # characters


def read_rows(lines: IO[str], name: str) -> Iterator[Any]:
    """Yield a row for each line that is not empty: the object that it holds, or the line as a text."""
    for number in itertools.count(1):
        try:
            line = lines.readline(MAX_LINE + 1)
        except UnicodeDecodeError as error:
            raise InputError(f"{name}: line {number} is no UTF-8 ({error.reason}); write the file in UTF-8") from None
        if not line:
            return
        if len(line) > MAX_LINE:
            raise InputError(f"{name}: line {number} has more than {MAX_LINE:,} characters; cut it into several")
        text = line.strip("\r\n")
        if not text.strip():
            continue
        if text.lstrip().startswith("{"):
            try:
                yield json.loads(text)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{name}: line {number} is no JSON ({error}); correct it") from None
        else:
            yield text


def predict_lines(predictor: Predictor, rows: Iterator[Any]) -> Iterator[str]:
    """Yield the predictions as lines of JSON."""
    for prediction in predictor.stream(rows):
        yield json.dumps(prediction, ensure_ascii=False)


def predict_file(predictor: Predictor, source: Path, target: Path) -> int:
    """Predict every row of a file; returns how many there were already in `target`, which is gone on with.

    A line that was torn by a kill is made again. A target that has other ids than the source, or more lines, or is the
    source, or was made of a file that began otherwise, is a FileError: it belongs to something else. A source that has
    grown since is gone on with, and so is one of which the row was mended that an InputError named.
    """
    try:
        if target.exists() and target.samefile(source):
            raise FileError(f"{target}: is the file to predict; choose another one to write")
        with open(source, encoding="utf-8-sig", newline="") as lines, open(target, "a+b") as out:
            rows = read_rows(lines, str(source))
            known = _known(source, target)
            done = _taken_up(out, rows, source, target, known)
            _remember(source, target)
            written = done
            try:
                for line in predict_lines(predictor, rows):
                    out.write(line.encode() + b"\n")
                    out.flush()
                    written += 1
            except InputError:  # its row can be mended, and those behind it: what is predicted is of those before
                _remember(source, target, written)
                raise
            os.fsync(out.fileno())
    except OSError as error:
        raise FileError(
            f"{error.filename or target}: cannot be read or written ({reason(error)}); check the path"
        ) from None
    return done


def _beside(target: Path) -> Path:
    return target.with_name(f"{target.name}.source.json")


def _remember(source: Path, target: Path, rows: int | None = None) -> None:
    """Write beside `target` that it is made of `source` as it is, or of its first rows alone."""
    if not (source.is_file() and target.is_file()):  # nothing beside /dev/null
        return
    size = source.stat().st_size
    if rows is not None:
        size = 0
        with open(source, encoding="utf-8", newline="") as lines:
            while rows and (line := lines.readline()):
                size += len(line.encode())
                rows -= bool(line.strip("\ufeff").strip())
    write_json(_beside(target), {"bytes": size, "sha256": _sha256(source, size)})


def _known(source: Path, target: Path) -> bool:
    """Whether `target` is known to be made of what `source` began with; a FileError where it is not."""
    if not _beside(target).is_file() or not source.is_file() or not target.exists() or not target.stat().st_size:
        return False
    held = read_json_object(_beside(target))
    size, wanted = held.get("bytes"), held.get("sha256")
    if not isinstance(size, int) or source.stat().st_size < size or _sha256(source, size) != wanted:
        raise FileError(f"{target}: was not made of {source} as it is now; choose another file, or remove it")
    return True


def _sha256(path: Path, size: int) -> str:
    """The fingerprint of a file's first bytes; where the file goes on in the middle of a line, of none."""
    digest = hashlib.sha256()
    last = b"\n"
    with open(path, "rb") as file:
        while size and (block := file.read(min(size, 1 << 20))):
            digest.update(block)
            size, last = size - len(block), block[-1:]
        return digest.hexdigest() if last in b"\r\n" or file.read(1) in b"\r\n" else ""


def _taken_up(out: IO[bytes], rows: Iterator[Any], source: Path, target: Path, known_source: bool) -> int:
    """Pass over the rows whose predictions are there, and cut off a torn last line.

    known_source: rows without an id are known to be the same; else they are a FileError.
    """
    out.seek(0)
    done = end = 0
    for line in iter(out.readline, b""):
        if not line.endswith(b"\n") and line.startswith(b"{"):
            break
        try:
            known = json.loads(line)
            row = next(rows)
        except (ValueError, RecursionError, StopIteration):
            known, row = None, None
        given = row.get("id") if isinstance(row, dict) else None
        same = isinstance(known, dict) and known.get("id") == given and (given is not None or known_source)
        if not same:
            raise FileError(f"{target}: line {done + 1} is not of {source}; choose another file, or remove it")
        done, end = done + 1, out.tell()
    out.truncate(end)
    out.seek(end)
    return done
