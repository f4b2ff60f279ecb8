"""docs/scale.md: its plans are those that yanmo makes, its recipes can be spread over the processes that it names."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from texts import write_texts
from typer.testing import CliRunner

from yanmo.cli import app
from yanmo.models.checkpoint import build
from yanmo.models.sketch import network_config
from yanmo.recipe import Recipe, load_recipe
from yanmo.training.distributed import Ranks
from yanmo.training.spread import check_cut

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs" / "scale.md", ROOT / "docs" / "zh" / "scale.md"]


def blocks(page: Path) -> list[str]:
    """The indented blocks, continued lines joined."""
    found = re.findall(r"(?:^ {4}[^\n]*\n)+", page.read_text("utf-8"), re.M)
    return [re.sub(r" *\\\n +", " ", block) for block in found]


def plans() -> list[tuple[str, list[str]]]:
    """(command, lines that are shown) of each plan."""
    found = [[line.strip() for line in block.splitlines()] for block in blocks(PAGES[0])]
    return [(lines[0].removeprefix("$ "), lines[1:]) for lines in found if lines[0].startswith("$ yanmo plan")]


def runs() -> list[list[str]]:
    """The words of each torchrun line."""
    return [shlex.split(block) for block in blocks(PAGES[0]) if block.lstrip().startswith("torchrun")]


def processes(words: list[str]) -> int:
    values = {name: int(words[words.index(name) + 1]) for name in ("--nnodes", "--nproc-per-node") if name in words}
    return values.get("--nnodes", 1) * values["--nproc-per-node"]


def recipe(words: list[str]) -> Recipe:
    path, *overrides = words[words.index("pretrain") + 1 : words.index("--out")]
    return load_recipe(ROOT / path, overrides)


def test_both_pages_hold_the_same_code() -> None:
    assert blocks(PAGES[0]) == blocks(PAGES[1])


@pytest.mark.parametrize("place", range(3), ids=["8", "64", "1024"])
def test_the_plans_of_the_page_are_made_anew(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command, shown = plans()[place]
    said = CliRunner().invoke(app, shlex.split(command)[1:])
    assert said.exit_code == 0, said.output
    text, end = " ".join(said.output.split()), 0
    for line in shown:
        place = text.find(" ".join(line.split()), end)
        assert place >= end, f"the page shows {line!r}; the plan is now\n{said.output}"
        end = place


def test_each_plan_is_of_a_run_of_the_page() -> None:
    for command, _ in plans():
        words = shlex.split(command)
        wanted = [word for word in words if re.match(r"[a-z]+\.[a-z_]+=", word)]
        count = int(words[words.index("--count") + 1])
        assert [run for run in runs() if processes(run) == count and {*wanted} <= {*run}], command


@pytest.mark.parametrize("words", runs(), ids=lambda words: str(processes(words)))
def test_the_runs_of_the_page_can_be_spread(words: list[str]) -> None:
    asked, ranks = recipe(words), Ranks()
    ranks.parts = processes(words) // asked.scale.tensor_parallel
    ranks.check_rows(asked.train.rows)
    config = network_config(asked.model, vocab_size=10, length=asked.train.length, start_id=0, end_id=1)
    with torch.device("meta"):
        check_cut(build(config), asked.scale.tensor_parallel)


def test_the_command_under_torchrun_makes_the_model_of_one_process(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts")
    small = "train.steps=6 train.eval_every=3 train.rows=4 train.length=16 train.precision=float32 model.width=16"
    small += " model.layers=1 model.heads=2 tokenizer.vocab_size=270 data.paths=texts data.valid_share=0.2"
    command = ["-m", "yanmo", "pretrain", str(ROOT / "recipes" / "gpt-tiny.toml"), *small.split()]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", *command, "scale.tensor_parallel=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for asked, out in ((command, "one"), (torchrun, "two")):
        said = subprocess.run(
            [sys.executable, *asked, "--out", out], cwd=tmp_path, env=environment, capture_output=True, timeout=300
        )
        assert said.returncode == 0, said.stderr.decode()[-2000:]
    one, two = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-4, rtol=0)
    assert (tmp_path / "two" / "checkpoints" / "step-6" / "model").is_dir(), "the run was in parts"
