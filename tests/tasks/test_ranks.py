"""A task on two processes learns what it learns on one, with a chain of tags: whole on each, or in parts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import yanmo
from tests.tasks.test_extraction import examples, recipe
from yanmo.finetune import run_recipe
from yanmo.recipe import dump_recipe

QUICK = ("train.steps=6", "train.eval_every=3", "train.rows=8")
WAYS = {
    "chain": ("objective.crf=true", "scale.shard=none"),
    "chain-in-parts": ("objective.crf=true", "scale.shard=full"),
}
WORKER = """
import sys
from yanmo.finetune import run_recipe
from yanmo.recipe import load_recipe

run_recipe(load_recipe(sys.argv[1]), sys.argv[2])
"""


def on_two(asked: Path, out: Path) -> None:
    """Train in two processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, str(asked), str(out)]
    processes = [
        subprocess.Popen(command, env=os.environ | values | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        assert [process.wait(300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def figures(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    wanted = ("step", "tokens", "loss", "gradient_norm", "valid_loss", "f1")
    return [{key: line[key] for key in wanted if key in line} for line in lines]


@pytest.mark.parametrize("name", WAYS)
def test_two_processes_learn_what_one_does(tmp_path: Path, name: str) -> None:
    train, valid = examples(48), examples(12, 1)
    (tmp_path / "asked.toml").write_text(dump_recipe(recipe(tmp_path, train, valid, *QUICK, *WAYS[name])))
    on_two(tmp_path / "asked.toml", tmp_path / "two")
    run_recipe(recipe(tmp_path, train, valid, *QUICK, *WAYS[name][:1]), tmp_path / "one")
    known, found = figures(tmp_path / "one"), figures(tmp_path / "two")
    assert len(found) == len(known) == 6 + 2
    for one, other in zip(found, known, strict=True):
        assert one == pytest.approx(other, abs=1e-4, rel=1e-4)
    chains = [json.loads((tmp_path / run / "model/task.json").read_text())["chain"] for run in ("one", "two")]
    for part, other in zip(*chains, strict=True):
        assert np.allclose(part, other, atol=1e-2)
    texts = [{"text": one.text} for one in examples(6, 2)]
    said = [yanmo.load_predictor(tmp_path / run).predict(texts) for run in ("one", "two")]
    spans = [[[(e["type"], e["start"], e["end"]) for e in row["entities"]] for row in rows] for rows in said]
    assert spans[0] == spans[1]
