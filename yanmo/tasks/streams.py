"""Predictions of a file or of standard input, line by line: in order, to be taken up again, in little memory.

In: a file of JSON objects, one a line (or of plain lines of text), a Predictor, a file to write. Out: one JSON object a
line.

    read_rows          lines → rows; a line that is none is an InputError with its number
    predict_file       rows → OUT; what OUT already holds is not predicted again
    predict_lines      rows → lines, for standard output
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from yanmo.errors import FileError, InputError
from yanmo.files import reason
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
    source, is a FileError: it belongs to something else.
    """
    try:
        if target.exists() and target.samefile(source):
            raise FileError(f"{target}: is the file to predict; choose another one to write")
        with open(source, encoding="utf-8-sig", newline="") as lines, open(target, "a+b") as out:
            rows = read_rows(lines, str(source))
            done = _taken_up(out, rows, source, target)
            for line in predict_lines(predictor, rows):
                out.write(line.encode() + b"\n")
                out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise FileError(
            f"{error.filename or target}: cannot be read or written ({reason(error)}); check the path"
        ) from None
    return done


def _taken_up(out: IO[bytes], rows: Iterator[Any], source: Path, target: Path) -> int:
    """Pass over the rows whose predictions are there, and cut off a torn last line."""
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
        same = isinstance(known, dict) and known.get("id") == (row.get("id") if isinstance(row, dict) else None)
        if not same:
            raise FileError(f"{target}: line {done + 1} is not of {source}; choose another file, or remove it")
        done, end = done + 1, out.tell()
    out.truncate(end)
    out.seek(end)
    return done
