"""Recipes: what is written is what is run, and a mistake is one sentence with the nearest key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from yanmo.errors import ConfigError, Error, FileError
from yanmo.recipe import Recipe, dump_recipe, load_recipe, read_recipe

SMALL = '[data]\npaths = ["a.txt"]\n[train]\nsteps = 3\n'


def test_a_short_recipe_has_the_defaults() -> None:
    recipe = read_recipe(SMALL)
    assert (recipe.model.kind, recipe.model.family, recipe.train.steps, recipe.train.minutes) == (
        *("transformer", "qwen3"),
        *(3, None),
    )
    with pytest.raises(ValidationError):
        recipe.train.steps = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.steps=10", "train", "steps", 10),
        ("train.learning_rate=1e-4", "train", "learning_rate", 1e-4),
        ("model.kind=lstm", "model", "kind", "lstm"),
        ('model.kind="gru"', "model", "kind", "gru"),
        ("model.tie_embeddings=false", "model", "tie_embeddings", False),
        ("data.paths=b.txt", "data", "paths", ["b.txt"]),
        ("data.paths=[b.txt, 中文/墨.txt]", "data", "paths", ["b.txt", "中文/墨.txt"]),
        ('data.paths=["b, c.txt"]', "data", "paths", ["b, c.txt"]),
        ("data.paths=a=b.txt", "data", "paths", ["a=b.txt"]),
    ],
)
def test_an_override_takes_the_place_of_the_files_value(override: str, section: str, key: str, value: Any) -> None:
    assert getattr(getattr(read_recipe(SMALL, overrides=[override]), section), key) == value


def test_an_override_of_the_length_replaces_the_other_kind_of_length() -> None:
    timed = read_recipe(SMALL, overrides=["train.minutes=3"])
    assert (timed.train.steps, timed.train.minutes) == (None, 3.0)
    with pytest.raises(ConfigError, match="give either steps, epochs or minutes"):
        read_recipe(SMALL, overrides=["train.minutes=3", "train.steps=3"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[train]\nsteps = 3\n", "no text is named; write .data. paths"),
        ('[data]\npaths = []\n[train]\nsteps = 3\n', "no text is named"),
        ('[data]\npaths = ["a"]\n', r"the section \[train\] is missing; it needs steps, epochs or minutes"),
        (SMALL + "stepz = 1\n", r"r.toml: unknown key train.stepz \(nearest: 'steps'\)"),
        (SMALL + "[modle]\nwidth = 4\n", r"unknown section modle \(nearest: 'model'\)"),
        (SMALL.replace("3", '"3"'), "train.steps is '3', a whole number is needed"),
        (SMALL.replace("3", "3.5"), "train.steps is 3.5, a whole number is needed"),
        (SMALL.replace("3", "true"), "train.steps is True, a whole number is needed"),
        (SMALL.replace("3", "0"), "train.steps is 0, at least 1 is needed"),
        (SMALL + "learning_rate = 0\n", "train.learning_rate is 0, above 0"),
        (SMALL + "learning_rate = inf\n", "train.learning_rate is inf, a finite number is needed"),
        (SMALL + 'schedule = "step"\n', "train.schedule is 'step', one of 'wsd', 'cosine' or 'linear' is needed"),
        (SMALL + "minutes = 2\n", r"\[train\]: give either steps, epochs or minutes"),
        (SMALL + "[model]\nwidth = -1\nlayers = 0\n", r"model.width is -1, at least 1 is needed \(and 1 more\)"),
        ("train = 3\n", "no text is named"),
        ("a b", "r.toml: not TOML .*line 1"),
        ("[train]\n[train]\n", "r.toml: not TOML"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as error:
        read_recipe(text, "r.toml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.step=3", r"unknown key \(nearest: 'steps'\)"),
        ("trian.steps=3", r"no section \(nearest: 'train'\)"),
        ("train.steps", "not of the form section.key=value"),
        ("steps=3", "not of the form section.key=value"),
        ("train.steps=many", "train.steps is 'many', a whole number is needed"),
    ],
)
def test_a_mistaken_override_is_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_recipe(SMALL, overrides=[override])


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        load_recipe(tmp_path / "r.toml")


paths = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=3)
changes = st.fixed_dictionaries(
    {"rows": st.integers(1, 99), "learning_rate": st.floats(1e-12, 1e3), "floor": st.floats(0, 1)},
    optional={"schedule": st.sampled_from(["wsd", "cosine"]), "seed": st.integers(0, 2**63 - 1)},
)


@settings(max_examples=100, deadline=None)
@given(paths=paths, train=changes, steps=st.booleans(), tie=st.booleans())
def test_a_recipe_that_is_written_reads_as_the_same(
    paths: list[str], train: dict[str, Any], steps: bool, tie: bool
) -> None:
    length: dict[str, Any] = {"steps": 5} if steps else {"minutes": 0.25}
    values = {"data": {"paths": paths}, "train": train | length, "model": {"tie_embeddings": tie}}
    recipe = Recipe.model_validate(values)
    text = dump_recipe(recipe)
    assert read_recipe(text) == recipe and dump_recipe(read_recipe(text)) == text
    assert tomllib.loads(text)["data"]["paths"] == paths


def test_a_path_that_no_text_file_can_hold_is_refused() -> None:
    recipe = Recipe.model_validate({"data": {"paths": ["\udcff"]}, "train": {"steps": 1}})
    with pytest.raises(ConfigError, match="characters that no text file can hold"):
        dump_recipe(recipe)


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet='[]{}=."\n \\#trainmodelsteps01', max_size=80), override=st.text(max_size=12))
def test_any_text_ends_in_a_recipe_or_an_error_of_ours(text: str, override: str) -> None:
    for overrides in ([], [override], ["train.steps=" + override], ["data.paths=" + override]):
        try:
            read_recipe(text, overrides=overrides)
        except Error as error:
            assert "\n" not in str(error)
