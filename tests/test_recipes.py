"""The recipes that come with Yanmo: short, runnable as they stand, and learning as fast as they did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.texts import metrics, write_records, write_texts
from yanmo.inference.model import load
from yanmo.pretrain import run_recipe
from yanmo.recipe import Recipe, load_recipe

pytest.importorskip("pyarrow")
ALL = sorted((Path(__file__).resolve().parents[1] / "recipes").glob("*.toml"))
RECIPES = [path for path in ALL if path.stem not in ("corpus", "lstm-tags")]  # tests/corpus and tests/tasks have them
VOCABULARY = {"bert-small": 90, "t5-small": 150}  # what the small text can fill; the others 300
RECORDS = {"sft": "chat", "lora": "chat", "dpo": "preference"}

# The validation loss after the steps of `short`, float32; a change of more than 2 % is a change of how a recipe learns.
BANDS = {
    "bert-small": 2.8005,
    "dpo": 0.6368,
    "gpt-small": 2.8858,
    "gpt-tiny": 2.5221,
    "lora": 1.8087,
    "lstm-small": 3.2736,
    "lstm-tiny": 3.2539,
    "sft": 2.1361,  # of a base and a tokenizer that follow from the corpus engine's split
    "t5-small": 3.2784,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, records, and a decoder to fine-tune."""
    folder = tmp_path_factory.mktemp("recipes")
    write_texts(folder / "texts")
    for kind in ("chat", "preference"):
        write_records(folder / f"{kind}.jsonl", kind)
    run_recipe(short(folder, RECIPES[[path.stem for path in RECIPES].index("gpt-tiny")]), folder / "base")
    return folder


def data(place: Path, path: Path) -> list[str]:
    """What a user gives to a recipe."""
    if path.stem in RECORDS:
        return [f"data.paths={place / RECORDS[path.stem]}.jsonl", f"model.path={place / 'base'}"]
    return [f"data.paths={place / 'texts'}", f"tokenizer.vocab_size={VOCABULARY.get(path.stem, 300)}"]


def short(place: Path, path: Path) -> Recipe:
    """The recipe on a small network and a small batch, for 40 steps."""
    small = ["train.steps=40", "train.rows=4", "train.length=96", "train.accumulation=1", "train.eval_every=40"]
    small += ["train.precision=float32", "data.valid_share=0.2"]
    if path.stem not in RECORDS:
        small += ["model.width=64", "model.layers=2"]
        small += ["model.ffn_width=128"] if path.stem != "lstm-tiny" else []
        small += ["model.heads=4"] if "lstm" not in path.stem else []
    return load_recipe(path, [*data(place, path), *small])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_short_and_trains_two_steps_at_its_own_size(path: Path, place: Path, tmp_path: Path) -> None:
    text = path.read_text()
    content = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert 10 <= len(content) <= 25 and text.startswith("# ") and "# Expect: " in text
    overrides = ["train.steps=2", "train.rows=2", "train.length=64", "train.accumulation=1", "train.precision=float32"]
    model = run_recipe(load_recipe(path, [*data(place, path), *overrides]), tmp_path / "run")
    assert len([line for line in metrics(tmp_path / "run") if "loss" in line]) == 2
    assert load(model).config.vocab_size > 50


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_learns_as_much_as_it_did(path: Path, place: Path, tmp_path: Path) -> None:
    run_recipe(short(place, path), tmp_path / "run")
    loss = json.loads((tmp_path / "run" / "plan.json").read_text())["result"]["valid_loss"]
    assert loss == pytest.approx(BANDS[path.stem], rel=0.02)
