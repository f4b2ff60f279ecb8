"""Texts on the disk become documents, and what does not is counted with its reason and its place."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus import lines
from yanmo.corpus import text as reading
from yanmo.corpus.documents import document_id, new_document, write_corpus
from yanmo.corpus.ledger import ReadReport
from yanmo.corpus.text import border, pieces, read_documents
from yanmo.errors import Error, FileError, InputError

简体 = "今天的天气很好，我们一起去公园里散步。他说这个地方是全国最大的，来的人也不少。"
PAGE = (
    "<html><head><title>T</title>{}</head><body><nav><a href=/>Home</a></nav><article><p>{}</p></article></body></html>"
)


def read(*paths, report=None):
    return list(read_documents(paths, report))


def test_every_kind_is_read_in_a_fixed_order(tmp_path):
    (tmp_path / "b.txt").write_text("plain", "utf-8")
    (tmp_path / "a.MD").write_text("# marked", "utf-8")
    (tmp_path / "c.jsonl").write_text('{"text": "one"}\n\n{"content": "two", "url": "u", "license": "MIT"}\n', "utf-8")
    (tmp_path / "d.html").write_text(PAGE.format("", 简体), "utf-8")
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress("packed".encode("utf-16")))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "z.htm").write_text("<p>small page", "utf-8")
    report = ReadReport()
    found = read(tmp_path, report=report)
    top = tmp_path.name
    assert [(document.source, document.text) for document in found] == [
        (f"{top}/a.MD", "# marked"),
        (f"{top}/b.txt", "plain"),
        (f"{top}/c.jsonl", "one"),
        (f"{top}/c.jsonl", "two"),
        (f"{top}/d.html", 简体),
        (f"{top}/e.txt.gz", "packed"),
        (f"{top}/sub/z.htm", "small page"),
    ]
    assert (found[3].url, found[3].license, found[3].language) == ("u", "MIT", "")
    assert [document.id for document in found] == [document_id(d.source, d.text) for d in found]
    assert report.bytes_read == report.bytes_total == sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    assert report.encodings == {"utf-8": 5, "utf-16": 1}
    assert len(report.inputs) == 6 and not report.failed
    assert read(tmp_path) == found


def test_hidden_files_and_other_suffixes_are_passed_over_and_counted(tmp_path):
    for name in (".hidden.txt", "a.pdf", "b.json", "c.tar.gz", "d", ".txt", "real.txt"):
        (tmp_path / name).write_text("text of " + name, "utf-8")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.txt").write_text("hidden below", "utf-8")
    report = ReadReport()
    assert [document.text for document in read(tmp_path, report=report)] == ["text of real.txt"]
    assert report.skipped == {"hidden": 3, "another suffix": 4}


@pytest.mark.parametrize("name", ["absent", "absent.txt", "a\0b.txt", "x" * 5000])
def test_a_path_that_is_not_there_is_named_with_what_is_read(tmp_path, name):
    with pytest.raises(FileError, match=r"\.jsonl") as caught:
        read_documents([tmp_path / name])  # at once, not when the first document is drawn
    assert "\n" not in str(caught.value)


def test_a_path_with_nothing_to_read_is_an_error(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "a.txt").write_text("text", "utf-8")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "picture.png", tmp_path / "empty", os.devnull):
        with pytest.raises(FileError, match="name a .txt"):
            read_documents([tmp_path / "good", path])
    with pytest.raises(InputError, match="no path"):
        read_documents([])
    with pytest.raises(InputError, match="a list of paths"):
        read_documents(str(tmp_path))


def test_a_circle_of_links_ends_and_a_file_met_twice_is_read_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "t.txt").write_text("text", "utf-8")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a" / "self")
    (tmp_path / "again.txt").symlink_to(tmp_path / "a" / "t.txt")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    report = ReadReport()
    found = read(tmp_path, tmp_path / "a" / "t.txt", report=report)
    assert [document.text for document in found] == ["text"]
    assert report.skipped["met before"] == 3
    assert sorted(report.failed) == [f"{tmp_path.name}/a/self", f"{tmp_path.name}/gone.txt"]


def test_a_very_deep_folder_is_walked(tmp_path):
    here = tmp_path
    for _ in range(300):
        here = here / "d"
        here.mkdir()
    (here / "t.txt").write_text("deep down", "utf-8")
    assert read(tmp_path)[0].text == "deep down"


def test_a_file_name_of_any_bytes_gives_a_source_that_can_be_written(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"bad\xff\nname.txt")).write_text("text", "utf-8")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    source = read(tmp_path)[0].source
    assert source == f"{tmp_path.name}/bad\ufffd\ufffdname.txt"


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_large_file_is_cut_and_nothing_is_lost(tmp_path, codec, packed):
    paragraphs = [f"第{i}段。" + 简体 * (i % 7 + 1) for i in range(4500)]
    data = "\r\n\r\n".join(paragraphs).encode(codec)
    assert len(data) > reading.LARGE
    path = tmp_path / ("big.txt.gz" if packed else "big.txt")
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    report = ReadReport()
    steps = [(document, report.bytes_read) for document in read_documents([path], report)]
    found = [document for document, _ in steps]
    assert "".join(document.text for document in found) == "\n\n".join(paragraphs)
    assert all(len(document.text) <= reading.PIECE for document in found)
    assert all(document.text.endswith("\n\n") for document in found[:-1])
    done = [done for _, done in steps]
    assert done == sorted(done) and 0 < done[0] < report.bytes_total == report.bytes_read


def test_one_endless_line_needs_little_memory(tmp_path):
    path = tmp_path / "line.txt"
    with open(path, "wb") as file:
        for i in range(100):
            file.write(f"{i:07d}x".encode() * 2**14)
    tracemalloc.start()
    size = sum(len(document.text) for document in read_documents([path]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == path.stat().st_size == 100 * 2**17
    assert peak < 8 * 2**20


@settings(deadline=None, max_examples=300)
@given(st.text(st.sampled_from("ab。. \n\t,！e\u0301\u200d")), st.integers(4, 40), st.integers(1, 50))
def test_pieces_joined_are_the_text(text, size, step):
    position = 0

    def take(_):
        nonlocal position
        position += step
        return text[position - step : position]

    cut = list(pieces(take, size))
    assert "".join(cut) == text
    assert all(0 < len(piece) <= size for piece in cut)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("one line\n\ntwo\nthree. four five", "one line\n\n"),
        ("one line\n \t\ntwo", "one line\n \t\n"),
        ("one line\ntwo. three four", "one line\n"),
        ('he said "no." then 3.14159 came', 'he said "no." '),
        ("天气很好。我们去散步", "天气很好。"),
        ("天气很好！？”我们去散步", "天气很好！？”"),
        ("one two three", "one two "),
        ("abcdefgh", "abcdefgh"),
    ],
)
def test_a_text_is_cut_where_a_reader_would_pause(text, end):
    assert text[: border(text, 0, len(text))] == end


def test_a_character_is_not_cut_from_its_marks():
    text = "e\u0301" * 10
    assert border(text, 0, 9) == 8


def test_a_file_that_cannot_be_decoded_is_counted_with_its_offset(tmp_path):
    (tmp_path / "bad.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "big.txt").write_bytes(b"good line\n" * 200_000 + b"\xff")
    (tmp_path / "binary.txt").write_bytes(bytes(1000))
    (tmp_path / "ok.txt").write_text("good", "utf-8")
    report = ReadReport()
    assert [document.text for document in read(tmp_path, report=report)] == ["good"]
    top = tmp_path.name
    assert {source: dict(reasons) for source, reasons in report.failed.items()} == {
        f"{top}/bad.txt": {"unknown_encoding": 1},
        f"{top}/big.txt": {"unknown_encoding": 1},
        f"{top}/binary.txt": {"binary": 1},
    }
    assert "bad.txt: byte 2 is not UTF-8" in report.problems[0]["what"]
    assert "byte 2,000,000 is not UTF-8" in report.problems[1]["what"]


def test_damaged_gzip_gives_no_part_of_a_file(tmp_path):
    data = gzip.compress(os.urandom(3000).hex().encode() * 400)
    (tmp_path / "cut.txt.gz").write_bytes(data[:-50])
    (tmp_path / "flipped.txt.gz").write_bytes(data[:2000] + bytes([data[2000] ^ 255]) + data[2001:])
    (tmp_path / "foreign.jsonl.gz").write_bytes(b'{"text": "not packed"}')
    (tmp_path / "ok.txt").write_text("good", "utf-8")
    report = ReadReport()
    assert [document.text for document in read(tmp_path, report=report)] == ["good"]
    assert [dict(reasons) for reasons in report.failed.values()] == [{"damaged": 1}] * 3


def test_a_bad_line_is_counted_with_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE", 100)
    rows = [
        b'{"text": "first"}',
        b'{"text": ',
        b"[1, 2]",
        b'{"text": "\xff"}',
        b'{"title": "no text"}',
        b'{"text": 7}',
        b'{"text": "' + b"x" * 300 + b'"}',
        b"[" * 99,
        b'{"text": "half \\ud800", "url": "a\\nb\\ud800", "date": 7}',
        b"  ",
        b'{"text": "last"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(rows))
    report = ReadReport()
    found = read(tmp_path / "a.jsonl", report=report)
    assert [document.text for document in found] == ["first", "half \ud800", "last"]
    assert (found[1].url, found[1].date) == ("a b", "")
    assert report.failed["a.jsonl"] == {
        "line_not_json": 3,
        "line_undecodable": 1,
        "line_without_text": 2,
        "line_too_long": 1,
    }
    assert [problem["what"].split("; ")[0] for problem in report.problems[:3]] == [
        "a.jsonl: line 2 is not a JSON object",
        "a.jsonl: line 3 is not a JSON object",
        "a.jsonl: line 4 is not UTF-8",
    ]
    assert "line 7 has more than 100 characters" in report.problems[5]["what"]


def test_jsonl_without_a_text_field_names_its_keys_at_once(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"title": "t", "body": "b"}\n', "utf-8")
    with pytest.raises(FileError, match=r"line 1 .* keys are title, body"):
        read_documents([tmp_path])


def test_a_jsonl_file_in_another_encoding_is_read_too(tmp_path):
    rows = "".join(json.dumps({"text": 简体}, ensure_ascii=False) + "\n" for _ in range(3))
    for codec in ("gb18030", "utf-16", "utf-8-sig"):
        (tmp_path / f"{codec}.jsonl").write_bytes(rows.encode(codec))
    assert [document.text for document in read(tmp_path)] == [简体] * 9


def test_parquet_files_and_corpus_folders_are_read(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    given = [new_document(f"text {i}", "original", license="MIT") for i in range(3)]
    write_corpus(given, folder)
    (folder / "card.json").write_text("{}", "utf-8")
    (folder / "README.md").write_text("about the corpus, not of it", "utf-8")
    report = ReadReport()
    assert read(folder, report=report) == given
    assert report.skipped == {"part of a corpus folder": 2}
    assert read(folder / "train-00000.parquet") == given
    (folder / "train-00001.parquet").write_bytes(b"PAR1 and no more")
    report = ReadReport()
    assert read(folder, report=report) == given
    assert report.failed == {"corpus/train-00001.parquet": {"damaged": 1}}
    assert str(tmp_path) not in report.problems[0]["what"]
    with pytest.raises(FileError, match="not a readable Parquet file"):
        read_documents([folder / "train-00001.parquet"])


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(["a.txt", "a.jsonl", "a.html", "a.txt.gz", "a.jsonl.gz", "a.parquet"]),
    st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")),
    st.sampled_from([b"", b"\xff\xfe", b"\x1f\x8b\x08\x00", b'{"text": "', b"<html><p>", b"PAR1"]),
)
def test_foreign_bytes_end_in_documents_in_the_books_or_in_an_error(tmp_path_factory, name, data, head):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(head + data)
    report = ReadReport()
    try:
        found = read(path, report=report)
    except Error as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        lines = name.startswith("a.jsonl")  # which may hold no document, and no failure, in blank lines
        assert lines or len(found) + sum(c.total() for c in report.failed.values()) == 1
