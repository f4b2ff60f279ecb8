"""Data sets of the hub: the files of one split of one configuration, from the cache."""

from __future__ import annotations

import pytest

from yanmo.errors import Error, FileError, InputError
from yanmo.tasks import reading
from yanmo.tasks.hubdata import choose, files

CONFIGS = ["README.md", "en/train-00000-of-00002.parquet", "en/train-00001-of-00002.parquet", "en/test-00000.parquet"]
CONFIGS += ["zh/train-00000-of-00001.parquet", "zh/validation-00000-of-00001.parquet"]


@pytest.mark.parametrize(
    ("names", "config", "split", "chosen"),
    [
        (["README.md", "data/train-0.parquet", "data/test-0.parquet"], None, "train", ["data/train-0.parquet"]),
        (["train.csv", "test.csv", "dev.csv"], None, "validation", ["dev.csv"]),
        (["train.csv", "test.csv", "dev.csv"], None, "dev", ["dev.csv"]),
        (["data.jsonl.gz", "LICENSE.txt"], None, "train", ["data.jsonl.gz"]),
        (["train.json", "train.parquet"], None, "train", ["train.parquet"]),
        (["train/a.txt", "test/a.txt"], None, "test", ["test/a.txt"]),
        (CONFIGS, "en", "train", CONFIGS[1:3]),
        (CONFIGS, "zh", "validation", ["zh/validation-00000-of-00001.parquet"]),
        (["default/train-0.parquet", "x/train-0.parquet"], None, "train", ["default/train-0.parquet"]),
    ],
)
def test_the_files_of_a_split(names, config, split, chosen):
    assert choose(names, config, split, "o/n") == chosen


@pytest.mark.parametrize(
    ("names", "config", "split", "sentence"),
    [
        (CONFIGS, None, "train", "o/n has these configurations: en, zh; name one: hf:o/n/en"),
        (CONFIGS, "ep", "train", "o/n has no configuration 'ep'; there are en, zh"),
        (CONFIGS, "en", "validation", "o/n has no split 'validation'; there are test, train"),
        (["README.md", "script.py"], None, "train", "no data in this data set that can be read"),
    ],
)
def test_what_cannot_be_chosen_is_one_sentence(names, config, split, sentence):
    with pytest.raises(Error) as caught:
        choose(names, config, split, "o/n")
    assert sentence in str(caught.value)


def test_a_data_set_is_read_from_the_cache(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "a" * 40
    folder = tmp_path / "datasets--owner--name" / "snapshots" / commit
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("text,label\none,x\ntwo,y\n")
    (folder / "test.csv").write_text("text,label\nthree,x\n")
    (tmp_path / "datasets--owner--name" / "refs").mkdir()
    (tmp_path / "datasets--owner--name" / "refs" / "main").write_text(commit)
    assert [e.text for e in reading.read("classify", "hf:owner/name").examples] == ["one", "two"]
    assert [e.text for e in reading.read("classify", ["hf:owner/name:test"]).examples] == ["three"]
    assert files(f"hf:owner/name@{commit}") == [folder / "train.csv"]
    with pytest.raises(FileError, match="no copy of this data set at 'main'"):
        reading.read("classify", "hf:owner/other")
    for wrong in ("hf:", "hf:../x", "hf:a/b/c/d", "hf:a/b:c:d"):
        with pytest.raises(InputError, match="names no data set of the hub"):
            reading.read("classify", wrong)
