"""Contamination and blocklists: planted items are found, others are not, foreign files are one sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yanmo.corpus.blocklist import load
from yanmo.corpus.contamination import index, items, overlap, overlaps
from yanmo.errors import Error, FileError, InputError

QUESTION = "Which of the seven rivers that cross the old kingdom was the last one to get a bridge of stone at all"
SHORT = "What is the name of the highest mountain there"
CHINESE = "下列哪一条河流是这个古老王国里最后一条修建了石桥的河流，请从四个选项里选择正确的答案。"
FILLER = " and the people of the town went on with what they had to do, as they had done in every year before it "


def write(folder: Path, name: str, rows: list) -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table({"q": rows, "n": list(range(len(rows)))}), path)
        return path
    text = "\n".join(
        json.dumps({"q": row, "choices": ["x", {"y": 1}]}) if "jsonl" in name else f"{row}\t1" for row in rows
    )
    if name.endswith(".json"):
        text = json.dumps({"data": rows, "version": ["1"]})
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.tsv", "a.txt", "a.parquet"])
def test_a_planted_item_is_found_in_any_kind_of_file(name: str, tmp_path: Path) -> None:
    found = index([write(tmp_path, name, ["Nothing of importance here to see", QUESTION])])
    text = FILLER + QUESTION.upper().replace("that", "that,\n") + FILLER
    assert [(each[0], each[1]) for each in overlap(text, found)] == [(name, 1)]
    assert overlap(text, found)[0][2] > 0.7
    assert overlap(FILLER * 9, found) == []


def test_chinese_is_looked_for_by_characters(tmp_path: Path) -> None:
    found = index([write(tmp_path, "zh.txt", [CHINESE])])
    assert overlap(f"题目：{CHINESE.replace('，', '')}答案见后", found)[0][2] > 0.9
    assert overlap(CHINESE[:20], found) == []
    assert overlap(CHINESE[::-1], found) == []


def test_a_short_item_is_found_as_a_whole_and_a_shorter_one_is_skipped(tmp_path: Path) -> None:
    found = index([write(tmp_path, "a.json", [SHORT, "Too short to look for"])])
    assert (len(found), found.skipped) == (1, 1)
    assert overlap(f"{FILLER} {SHORT}? {FILLER}", found) == [("a.json", 0, 1.0)]
    assert overlap(SHORT.replace("highest", "lowest"), found) == []


def test_a_share_is_that_of_the_items_own_n_grams(tmp_path: Path) -> None:
    words = [f"word{k}" for k in range(32)]
    found = index([write(tmp_path, "a.json", [" ".join(words)])])
    assert overlap(" ".join(words[:17]), found) == [("a.json", 0, 5 / 20)]
    assert overlap(" ".join(words[:17]), found, least=0.25) == []


def test_no_n_gram_lies_across_two_texts(tmp_path: Path) -> None:
    found = index([write(tmp_path, "a.json", [SHORT])])
    half = len(SHORT) // 2
    assert overlaps([SHORT[:half], SHORT[half:], SHORT], found) == [[], [], [("a.json", 0, 1.0)]]


def test_sets_without_items_or_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="8 words"):
        index([write(tmp_path, "a.txt", ["short"])])
    with pytest.raises(FileError, match=r"absent\.jsonl: no such file"):
        index([tmp_path / "absent.jsonl"])
    with pytest.raises(FileError, match="no readable evaluation set"):
        index([tmp_path / "absent.tsv"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=80), kind=st.sampled_from(["jsonl", "json", "tsv", "csv", "txt", "parquet", "jsonl.gz"]))
def test_foreign_bytes_give_items_or_one_sentence(data: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    path.write_bytes(data)
    try:
        list(items(path))
    except Error as error:
        assert str(error).count(path.name) == 1 and "; " in str(error)  # one sentence, with the file and a remedy


def lists(folder: Path, **entries: str):
    paths = {}
    for kind, text in entries.items():
        (folder / kind).write_text(text, "utf-8")
        paths[kind] = [folder / kind]
    return load(**paths)


def test_blocklists_name_why(tmp_path: Path) -> None:
    found = lists(
        tmp_path,
        words="# what we do not want\nviagra\nfree money\n赌场\n",
        domains="spam.example\n",
        urls="https://www.good.example/ads/\n",
    )
    assert found.reason("Buy VIAGRA!") == "blocked_word"
    assert found.reason("viagras of the world, free of money") is None
    assert found.reason("Get free\nmoney") == "blocked_word"
    assert found.reason("澳门赌场欢迎你") == "blocked_word"
    assert found.reason("Viagra", allowed=1) is None
    assert found.reason("", "http://a.spam.example:80/x") == "blocked_domain"
    assert found.reason("", "http://notspam.example/x") is None
    assert found.reason("", "http://good.example/ads/1") == "blocked_url"
    assert found.reason("", "http://good.example/news") is None


def test_bad_blocklists_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="0 words"):
        lists(tmp_path, words="!!!\n")
    with pytest.raises(FileError, match="no readable blocklist"):
        load(domains=[tmp_path / "absent"])
    assert load().reason("anything", "http://a.b") is None
