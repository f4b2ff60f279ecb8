"""Files that are predicted: what was done is known by the rows' content, with ids and without."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from yanmo.errors import FileError, InputError
from yanmo.tasks.predictor import Predictor
from yanmo.tasks.streams import predict_file


class Lengths:
    """Says how long a text is, and counts what it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def stream(self, rows: Iterable[Any]) -> Iterator[dict[str, Any]]:
        for row in rows:
            self.asked += 1
            text = row["text"] if isinstance(row, dict) else row
            yield ({"id": row["id"]} if isinstance(row, dict) else {}) | {"length": len(text)}


def predict(source: Path, target: Path) -> tuple[int, int]:
    """(rows that were there, rows that were asked)."""
    lengths = Lengths()
    return predict_file(cast(Predictor, lengths), source, target), lengths.asked


def test_plain_lines_are_gone_on_with_and_those_of_another_file_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "a.txt", tmp_path / "out.jsonl"
    source.write_text("one\ntwo\nthree\n")
    assert predict(source, target) == (0, 3)
    whole = target.read_bytes()
    assert predict(source, target) == (3, 0)
    target.write_bytes(whole[:-5])  # torn
    assert predict(source, target) == (2, 1)
    assert target.read_bytes() == whole
    (tmp_path / "b.txt").write_text("ein\nzwei\ndrei\nvier\n")
    with pytest.raises(FileError, match=r"out\.jsonl: was not made of .*b\.txt"):
        predict(tmp_path / "b.txt", target)
    assert target.read_bytes() == whole


def test_a_file_that_has_grown_is_gone_on_with(tmp_path: Path) -> None:
    source, target = tmp_path / "a.txt", tmp_path / "out.jsonl"
    source.write_text("one\ntwo")
    assert predict(source, target) == (0, 2)
    source.write_text("one\ntwo\nthree\n")
    assert predict(source, target) == (2, 1)
    source.write_text("one\ntwo\nthree\nfour\n")
    assert predict(source, target) == (3, 1)
    source.write_text("one\ntwo")
    predict(source, tmp_path / "other.jsonl")
    source.write_text("one\ntwofold\n")  # the last line is another one now
    with pytest.raises(FileError, match="was not made of"):
        predict(source, tmp_path / "other.jsonl")


def test_equal_ids_with_other_texts_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    for name, text in (("a", "one"), ("b", "other")):
        rows = [json.dumps({"id": number, "text": f"{text} {number}"}) for number in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    assert predict(tmp_path / "a.jsonl", target) == (0, 3)
    with pytest.raises(FileError, match="was not made of"):
        predict(tmp_path / "b.jsonl", target)


def test_lines_without_ids_of_which_nothing_is_known_are_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "a.txt", tmp_path / "out.jsonl"
    source.write_text("one\ntwo\n")
    target.write_text('{"length": 3}\n')
    with pytest.raises(FileError, match="line 1 is not of"):
        predict(source, target)
    source.write_text('{"id": 1, "text": "one"}\n{"id": 2, "text": "two"}\n')
    target.write_text('{"id": 1, "length": 3}\n')  # ids say it
    assert predict(source, target) == (1, 1)


@pytest.mark.parametrize("bad", ['{"id": 3, "text": ', '{"id": 3}'])
def test_a_row_that_an_error_named_is_mended_and_the_rest_is_kept(tmp_path: Path, bad: str) -> None:
    class Strict(Lengths):
        def stream(self, rows: Iterable[Any]) -> Iterator[dict[str, Any]]:
            for row in rows:
                if "text" not in row:
                    raise InputError("row 3 has no 'text'")
                yield from super().stream([row])

    source, target = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    lines = [json.dumps({"id": number, "text": "é" * number}, ensure_ascii=False) for number in range(5)]
    source.write_text("\ufeff" + "\r\n\n".join([*lines[:3], bad, lines[4]]), "utf-8")
    with pytest.raises(InputError, match="no JSON|has no 'text'"):
        predict_file(cast(Predictor, Strict()), source, target)
    assert len(target.read_bytes().splitlines()) == 3
    source.write_text("\ufeff" + "\r\n\n".join(lines), "utf-8")
    assert predict(source, target) == (3, 2)
    assert [json.loads(line)["length"] for line in target.read_text().splitlines()] == [0, 1, 2, 3, 4]
    source.write_text("\n".join(['{"id": 0, "text": "other"}', *lines[1:]]), "utf-8")
    with pytest.raises(FileError, match="was not made of"):
        predict(source, target)
