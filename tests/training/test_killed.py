"""A run that is killed at any moment and continued equals one that was not, in every bit of weights and metrics."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small import corpus

from yanmo.tokens.shards import write_shards
from yanmo.tokens.train import train_tokenizer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the driver forks")
CASES = ("decoder", "muon", "lstm", "adapter", "quantised", "hidden")
TEXT = "the ink is ground on the stone and the brush takes the ink to the paper"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of all runs, and what the driver says of each case."""
    data, runs = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("runs")
    corpus(data / "causal", 30)  # about 7 steps an epoch
    tokenizer = train_tokenizer([TEXT] * 20, "unigram", 60, special_tokens=["<mask>"])
    tokenizer.save(data / "tokenizer")
    ids, end = tokenizer.encode(TEXT, add_special_tokens=False), tokenizer.eos_id
    assert end is not None
    texts = [ids[start:] for start in range(len(ids) - 3)] * 3
    values: dict[str, Any] = {"tokenizer_hash": tokenizer.hash, "vocab_size": tokenizer.vocab_size, "n_bytes": 99}
    write_shards(texts, data / "masked", **values, start_id=end, end_id=end)
    seed = random.randrange(10**6)
    print(f"the seed of the moments is {seed}")
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), str(data), str(runs), str(seed)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    print(*reports, sep="\n")
    return runs, {report["case"]: report for report in reports}


def lines(folder: Path) -> list[dict[str, Any]]:
    """The metrics without what a clock says."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in ("seconds", "tokens_per_second")} for record in records]


def state(folder: Path) -> dict[str, Any]:
    return {k: v for k, v in json.loads((folder / "state.json").read_text()).items() if k != "seconds"}


@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(
    killed: tuple[Path, dict[str, Any]], case: str
) -> None:
    whole, parts = killed[0] / case / "whole", killed[0] / case / "parts"
    assert lines(whole) == lines(parts)
    for step in ("step-9", "step-10"):
        one, other = whole / "checkpoints" / step, parts / "checkpoints" / step
        assert state(one) == state(other)  # the SHA-256 of every file is in it
        for file in one.glob("*.safetensors"):
            assert file.read_bytes() == (other / file.name).read_bytes(), file.name
    assert sorted(p.name for p in (parts / "checkpoints").iterdir()) == ["step-10", "step-9"]


def test_the_kills_came_in_the_middle_of_runs_and_of_checkpoints(killed: tuple[Path, dict[str, Any]]) -> None:
    lives = [life for report in killed[1].values() for life in report["lives"]]
    assert sum(0 < life["step"] < 10 and not life["over"] for life in lives) >= len(CASES)
    assert sum(life["torn"] for life in lives) >= 3
