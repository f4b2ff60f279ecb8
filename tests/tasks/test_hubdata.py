"""Data sets of the hub: the files of one split of one configuration, from the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hub_server
import pytest

from yanmo.errors import Error, InputError
from yanmo.tasks import reading
from yanmo.tasks.hubdata import choose

ROOT = Path(__file__).resolve().parents[2]

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


ASK = """
import json, sys
from yanmo.errors import Error
from yanmo.tasks import reading
try:
    print(json.dumps([example.text for example in reading.read("classify", sys.argv[1]).examples]))
except Error as error:
    print(json.dumps(str(error)))
"""


def ask(spec: str, home: Path, url: str, offline: str = "0"):
    values = {"HF_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_OFFLINE": offline, "HF_HUB_ETAG_TIMEOUT": "2"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    command = [sys.executable, "-W", "ignore", "-c", ASK, spec]
    done = subprocess.run(command, env=kept | values, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_data_set_is_downloaded_once_and_read_offline(tmp_path):
    files = {"train.csv": b"text,label\none,x\ntwo,y\n", "test.csv": b"text,label\nthree,x\n", "README.md": b"card"}
    with hub_server.serve(hub_server.Hub("owner/set", files)) as hub:
        assert ask("hf:owner/set", tmp_path, hub.url) == ["one", "two"]
        assert set(hub.asked("GET")) == {"train.csv"}  # what is not asked for is not fetched
        assert ask("hf:owner/set:test", tmp_path, hub.url) == ["three"]
        assert ask("hf:owner/set@main:te*.csv", tmp_path, hub.url) == ["three"]
        assert "has no split 'dev'; there are test, train" in ask("hf:owner/set:dev", tmp_path, hub.url)
        assert "no such data set" in ask("hf:nobody/other", tmp_path, hub.url)
    assert ask("hf:owner/set", tmp_path, hub.url, "1") == ["one", "two"]
    assert "has no copy" in ask("hf:owner/other", tmp_path, hub.url, "1")


@pytest.mark.parametrize("wrong", ["hf:", "hf:../x", "hf:a/b/c/d", "hf:a/b:c:d"])
def test_a_name_that_is_none(wrong):
    with pytest.raises(InputError, match="names no data set of the hub"):
        reading.read("classify", wrong)
