"""Records: every kind of file gives the same ones, and the first that cannot be read stops with its place."""

from __future__ import annotations

import contextlib
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yanmo.corpus.records import Read, Record, field, read_records, split_records
from yanmo.errors import Error, FileError, InputError

ROWS = [{"text": "ink, ground", "label": "1"}, {"text": "墨水", "label": "0"}]


def write(path: Path) -> Path:
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    elif name.endswith(".json"):
        text = json.dumps({"version": "1", "data": ROWS})
    elif name.endswith(".csv"):
        text = 'text,label\n"ink, ground",1\n墨水,0\n'
    else:
        text = "text\tlabel\nink, ground\t1\n墨水\t0\n"
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.jsonl.gz", "a.tsv.gz"])
def test_every_kind_of_file_gives_the_same_records(name: str, tmp_path: Path) -> None:
    report: list[Read] = []
    assert [record.values for record in read_records([write(tmp_path / name)], report)] == ROWS
    assert report[0].records == 2 and len(report[0].sha256) == 64


def test_parquet_gives_them_too(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert [record.values for record in read_records([tmp_path / "a.parquet"])] == ROWS
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    with pytest.raises(FileError, match="b.parquet: no Parquet file"):
        list(read_records([tmp_path / "b.parquet"]))


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "notes.txt"):
        write(tmp_path / name) if name != "notes.txt" else (tmp_path / name).write_text("x")
    assert [record.place for record in read_records([tmp_path])] == ["a.jsonl:1", "a.jsonl:2", "b.jsonl:1", "b.jsonl:2"]


def test_columns_name_what_a_table_does_not(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('one "quote\t1\tx\ntwo\t0\ty\n')
    found = [record.values for record in read_records([tmp_path / "a.tsv"], columns=["text", "label"])]
    assert found == [{"text": 'one "quote', "label": "1"}, {"text": "two", "label": "0"}]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        ("a.jsonl", b'{"a": 1}\n3\n', "record 2 is int, no object"),
        ("a.tsv", b"a\tb\n1\t2\n1\n", "line 3 has 1 fields, 2 are expected"),
        ("a.csv", b"a,a\n1,2\n", "names a column twice"),
        ("a.csv", b'a,b\n"1,2\n', "line 2"),
        ("a.json", b'{"a": 1}', "no list of records"),
        ("a.jsonl", b'{"a": "\xff\xfe\xfa"}', "convert the file to UTF-8"),
        ("a.jsonl.gz", b"no gzip", "damaged inside its gzip packing"),
        ("a.txt", b"x", "holds no records"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_with_its_place(
    name: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError, match=sentence) as caught:
        list(read_records([tmp_path / name]))
    assert str(caught.value).count(str(tmp_path / name)) == 1  # one sentence, not one within another
    with pytest.raises(FileError, match="no such file"):
        read_records([tmp_path / "absent.jsonl"])


@given(st.binary(max_size=200), st.sampled_from(["jsonl", "json", "csv", "tsv", "jsonl.gz", "parquet"]))
def test_any_bytes_give_records_or_one_of_our_errors(data: bytes, kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{kind}"
        path.write_bytes(data)
        with contextlib.suppress(Error):
            assert all(isinstance(record.values, dict) for record in read_records([path]))


def test_a_field_may_lie_in_a_record_and_a_missing_one_names_the_nearest() -> None:
    record = Record({"translation": {"en": "ink", "zh": "墨"}}, "a.jsonl:7")
    assert field(record, "translation.zh") == "墨"
    with pytest.raises(InputError, match=r"a.jsonl:7: no field 'translaton' \(nearest: 'translation'\)"):
        field(record, "translaton")


def test_a_split_has_both_sides_and_keeps_equal_records_together() -> None:
    records = [Record({"n": number % 50}, str(number)) for number in range(500)]
    train, valid = split_records(records, 0.2)
    sides = [{record.values["n"] for record in side} for side in (train, valid)]
    assert len(train) + len(valid) == 500 and not sides[0] & sides[1] and 2 <= len(sides[1]) <= 20
    more, _ = split_records([*records, *(Record({"n": number}, "") for number in range(50, 99))], 0.2)
    assert sides[0] - {record.values["n"] for record in more} == set(), "a record stays on its side"
    for share in (1e-9, 1 - 1e-9):
        assert all(split_records(records, share))


@pytest.mark.parametrize("values", [[], [{"a": 1}], [{"a": 1}, {"a": 1}]])
def test_fewer_than_two_different_records_cannot_be_split(values: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError, match="too few for training and validation"):
        split_records([Record(value, "") for value in values], 0.5)
