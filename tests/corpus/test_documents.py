"""Documents and their Parquet shards."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus import documents as room
from yanmo.corpus.documents import COLUMNS, document_id, new_document, read_shard, write_corpus
from yanmo.errors import Error, FileError, MissingExtra


def some(n, text="text {} 中文 👩\u200d💻"):
    return [
        new_document(text.format(i), f"s{i % 3}", url="https://x/?a=1", license="MIT", date="2024") for i in range(n)
    ]


def test_an_id_depends_on_source_and_text_alone():
    assert document_id("a", "b") == document_id("a", "b") == new_document("b", "a", url="u").id
    assert len({document_id("a", "b"), document_id("b", "a"), document_id("ab", ""), document_id("a\0", "b")}) == 4
    assert document_id("a", "b") == "852635742d6eb30fdccb0e7c1b53d92f", "ids are stable from version to version"


def test_shards_hold_every_column_of_every_document(tmp_path):
    given = some(1000)
    paths = write_corpus(given, tmp_path, "train", shard_bytes=10**9)
    assert [path.name for path in paths] == ["train-00000.parquet"]
    assert list(read_shard(paths[0])) == given
    table = pq.read_table(paths[0])
    assert tuple(table.schema.names) == COLUMNS
    assert pq.ParquetFile(paths[0]).metadata.row_group(0).column(1).compression == "ZSTD"


def test_shards_and_groups_are_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "GROUP_BYTES", 1000)
    given = some(400)
    paths = write_corpus(given, tmp_path, "train", shard_bytes=3000)
    assert len(paths) > 3
    assert [document for path in paths for document in read_shard(path)] == given
    assert all(pq.read_metadata(path).row_group(0).num_rows < 60 for path in paths)


def test_equal_documents_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_corpus(some(50), tmp_path, name)
    assert (tmp_path / "a-00000.parquet").read_bytes() == (tmp_path / "b-00000.parquet").read_bytes()


def test_no_document_gives_no_shard(tmp_path):
    assert write_corpus([], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_parquet_file_is_read_by_its_column_of_texts(tmp_path):
    path = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"n": [1, 2], "content": ["one", None], "url": ["u", None], "date": [1, 2]}), path)
    found = list(read_shard(path, "here"))
    assert [(d.text, d.url, d.source, d.date) for d in found] == [("one", "u", "here", ""), ("", "", "here", "")]
    assert found[0].id == document_id("here", "one")
    pq.write_table(pa.table({"title": ["a"], "text": [7]}), path)
    with pytest.raises(FileError, match="its columns are title, text"):
        list(read_shard(path))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_damaged_shard_is_one_sentence(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(write_corpus(some(20), folder, "whole")[0].read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    path = folder / "damaged.parquet"
    path.write_bytes(content)
    try:
        for document in read_shard(path):
            document.text.encode("utf-8")
    except Error as error:
        assert str(path) in str(error) and "\n" not in str(error)


def test_without_its_package_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r'pip install "yanmo\[corpus\]"'):
        write_corpus(some(1), tmp_path)
