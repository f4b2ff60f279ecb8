"""Large files of lines and rows are cut into units: the same documents and losses as of a whole file, true numbers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.corpus.made_sources import fingerprints, prose, 中文
from yanmo.corpus import documents, engine, lines
from yanmo.corpus.documents import TEXT_COLUMNS, Document
from yanmo.corpus.ledger import ReadReport
from yanmo.corpus.settings import load_settings
from yanmo.corpus.sources import HEAD, find_sources
from yanmo.corpus.text import READERS, read_documents
from yanmo.corpus.units import Unit
from yanmo.errors import FileError
from yanmo.recipe import DataSection
from yanmo.tokens import making


def whole_and_cut(path: Path, monkeypatch, size: int = 3000) -> tuple[list, list, int]:
    """What a file gives as one unit and in units of `size` bytes, and how many these are."""
    monkeypatch.setattr(lines, "UNIT_BYTES", size)
    monkeypatch.setattr(documents, "UNIT_BYTES", size)
    (source,) = find_sources([path], ReadReport())
    reader = READERS[source.kind]
    units = reader.split(source)
    assert [unit.end for unit in units[:-1]] == [unit.start for unit in units[1:]] and units[-1].end is None
    return list(reader.read(Unit(source), {})), [x for unit in units for x in reader.read(unit, {})], len(units)


def jsonl(path: Path, codec: str = "utf-8") -> None:
    rows = [
        json.dumps({"text": 中文(k) if k % 2 else prose(k), "title": f"{k}\r"}, ensure_ascii=False) for k in range(60)
    ]
    rows[7], rows[30], rows[31], rows[50] = "{broken", "", '{"title": "none"}', "[1]"
    path.write_bytes("\n".join(rows).encode(codec) + b"\n" * (codec != "utf-16"))


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_units_of_lines_give_what_the_whole_file_gives(tmp_path, monkeypatch, codec):
    jsonl(tmp_path / "a.jsonl", codec)
    whole, cut, units = whole_and_cut(tmp_path / "a.jsonl", monkeypatch)
    assert cut == whole and len([x for x in whole if isinstance(x, Document)]) == 56
    assert [x.where for x in cut if not isinstance(x, Document)] == ["line 8", "line 32", "line 51"]
    assert units == 1 if codec == "utf-16" else units > 5


def test_a_bad_byte_costs_its_line_alone(tmp_path, monkeypatch):
    jsonl(tmp_path / "a.jsonl")
    data = (tmp_path / "a.jsonl").read_bytes().split(b"\n")
    data[40] = b'{"text": "caf\xe9"}'
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(data))
    whole, cut, _ = whole_and_cut(tmp_path / "a.jsonl", monkeypatch)
    assert cut == whole and [x.where for x in cut if not isinstance(x, Document)][2] == "line 41"


def test_a_line_longer_than_units_is_one_document(tmp_path, monkeypatch):
    rows = [json.dumps({"text": prose(k, 400 if k == 2 else 3)}) for k in range(6)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    whole, cut, units = whole_and_cut(tmp_path / "a.jsonl", monkeypatch, 500)
    assert cut == whole and len(cut) == 6 and units < 6
    (tmp_path / "one.jsonl").write_text(rows[2])
    assert whole_and_cut(tmp_path / "one.jsonl", monkeypatch, 500)[2] == 1


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_tsv_is_cut_and_its_column_is_that_of_its_first_line(tmp_path, monkeypatch, end):
    monkeypatch.setattr(lines, "BLOCK", 7)  # its edges part a carriage return from its line feed
    rows = [f"{k}\t{prose(k, 4)}\tt{k}" for k in range(80)]
    rows[60] = "too\tmany\tvalues\there"
    rows[61] = "few"
    (tmp_path / "a.tsv").write_bytes(end.join(["n\treview\ttitle", *rows]).encode())
    whole, cut, units = whole_and_cut(tmp_path / "a.tsv", monkeypatch)
    assert cut == whole and units > 3 and cut[-1].title == "t79" and len(cut) == 80
    assert [x.where for x in cut if not isinstance(x, Document)] == ["line 62", "line 63"]


def test_a_csv_is_not_cut_for_a_line_end_may_stand_in_quotes(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("text\n" + "".join(f'"{prose(k)}\n\n{prose(k)}"\n' for k in range(20)))
    assert whole_and_cut(tmp_path / "a.csv", monkeypatch, 500)[2] == 1


def test_a_parquet_file_is_cut_by_row_groups(tmp_path, monkeypatch):
    table = pa.table({"text": [prose(k, 30) for k in range(90)], "n": list(range(90))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    whole, cut, units = whole_and_cut(tmp_path / "a.parquet", monkeypatch)
    assert cut == whole and len(cut) == 90 and units > 3
    pq.write_table(table, tmp_path / "b.parquet")
    assert whole_and_cut(tmp_path / "b.parquet", monkeypatch)[2] == 1


def test_damage_within_a_row_group_costs_its_unit(tmp_path, monkeypatch):
    table = pa.table({"text": [prose(k, 30) for k in range(90)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7, use_dictionary=False)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    at = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(6).column(0).data_page_offset
    data[at : at + 60] = bytes(60)
    (tmp_path / "a.parquet").write_bytes(data)
    _, cut, _ = whole_and_cut(tmp_path / "a.parquet", monkeypatch)
    (lost,) = [x for x in cut if not isinstance(x, Document)]
    assert lost.reason == "damaged" and lost.where.startswith("byte ") and len(cut) > 60
    assert prose(89, 30) in {x.text for x in cut if isinstance(x, Document)}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text(alphabet='{}"abtext: \n\r\t中\x85\u2028', max_size=40), max_size=30),
    st.sampled_from(["a.jsonl", "a.tsv"]),
    st.integers(1, 60),
)
def test_any_text_is_the_same_whole_and_cut(tmp_path, monkeypatch, rows, name, size):
    good = '{"text": "good"}' if name == "a.jsonl" else "text\tb"
    (tmp_path / name).write_bytes("\n".join([good, *rows]).encode())
    whole, cut, _ = whole_and_cut(tmp_path / name, monkeypatch, size)
    assert cut == whole


def test_a_corpus_of_cut_files_has_the_same_bytes_whoever_makes_it(tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    jsonl(tmp_path / "raw" / "a.jsonl")
    pq.write_table(
        pa.table({"text": [prose(k, 9) for k in range(99)]}), tmp_path / "raw" / "b.parquet", row_group_size=9
    )
    cards = []
    for name, size, where in (("whole", 2**20, "here"), ("one", 3000, "here"), ("two", 3000, "local")):
        monkeypatch.setattr(lines, "UNIT_BYTES", size)
        monkeypatch.setattr(documents, "UNIT_BYTES", size)
        monkeypatch.setattr(engine, "TASK_BYTES", 2000)
        cards.append(engine.make_corpus([tmp_path / "raw"], tmp_path / name, engine=where, workers=2).card)
    assert cards[0] == cards[1] == cards[2]
    assert cards[0]["sources"]["raw/a.jsonl"]["failed"] == {"line_not_json": 2, "line_without_text": 1}
    assert fingerprints(tmp_path / "one") == fingerprints(tmp_path / "two")
    assert (tmp_path / "whole" / "quarantine.jsonl").read_bytes() == (
        tmp_path / "one" / "quarantine.jsonl"
    ).read_bytes()


# --- the column of texts


def write(folder: Path, name: str) -> Path:
    rows = [{"body": prose(k), "summary": f"summary of number {k}", "title": f"t{k}"} for k in range(3)]
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ".jsonl" in name or name == "rows":
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    else:
        mark = "\t" if name.endswith(".tsv") else ","
        path.write_text("\n".join([mark.join(rows[0]), *(mark.join(row.values()) for row in rows)]))
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.tsv", "a.parquet", "rows"])
@pytest.mark.parametrize("asked", [["summary"], ["nowhere", "summary", "body"]])
def test_the_column_that_is_named_is_read(tmp_path, name, asked):
    path = write(tmp_path, name)
    found = list(read_documents([path], text_column=asked))
    assert [(d.text, d.title) for d in found] == [(f"summary of number {k}", f"t{k}") for k in range(3)]
    if name == "rows":  # known by its first line alone
        return
    with pytest.raises(FileError, match="'text' or 'nothing'"):
        list(read_documents([path], text_column=["text", "nothing"]))


@pytest.mark.parametrize("escaped", [True, False])
def test_a_long_first_line_shows_its_column_in_any_letters(tmp_path, escaped):
    row = {"正文": prose(1, 4000)}
    (tmp_path / "a.json").write_text(json.dumps(row, ensure_ascii=escaped) + "\n", "utf-8")
    assert len(row["正文"]) > 4 * HEAD, "more than is looked at"
    (found,) = read_documents([tmp_path], text_column=["正文"])
    assert found.text == row["正文"]


def test_the_column_of_texts_is_an_option_and_a_key_of_the_recipe(tmp_path, capsys):
    from yanmo.cli import main

    for name in ("a.jsonl", "b.parquet", "c.csv"):
        write(tmp_path, name)
    words = ["corpus", str(tmp_path), "-o", str(tmp_path / "out"), "--workers", "1"]
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--text-column", "body"])
    made = engine.Corpus(tmp_path / "out")
    assert (
        made.card["in"] == 9 and made.card["kept"] == 3 and made.card["settings"]["sources"]["text_column"] == ["body"]
    )
    recipe = load_settings(None, ["sources.text_column=[none,summary]"])
    card = engine.make_corpus([tmp_path / "a.jsonl"], tmp_path / "other", recipe, engine="here").card
    assert card["kept"] == 3 and TEXT_COLUMNS == ("text", "content")
    data = DataSection(paths=[str(tmp_path / "a.jsonl")], text_column=["summary"])  # of a recipe of training
    assert making.make_corpus(data, tmp_path / "trained", lambda *_: None).card["kept"] == 3
    capsys.readouterr()
