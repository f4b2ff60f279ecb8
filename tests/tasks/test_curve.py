"""The learning curve: nested parts, the recipe in proportion, points beside the whole on the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import yanmo
from tests.tasks.test_classification import examples
from tests.tasks.test_keeping import SAID, table
from yanmo.recipe import read_recipe
from yanmo.tasks.curve import cost, parts, recipe_of

pytest.importorskip("sklearn")


def test_parts_lie_in_each_other_and_know_every_label() -> None:
    train = examples(200)
    found = parts(train, 0)
    assert list(found) == [8, 4, 2]
    ids = [{example.id for example in found[share]} for share in (8, 4, 2)]
    assert ids[0] < ids[1] < ids[2] < {example.id for example in train}
    for share, part in found.items():
        assert len(part) == pytest.approx(200 / share, rel=0.2)
        assert {example.labels for example in part} == {("good",), ("bad",)}
    assert parts(train[:1], 0) == {}


def test_a_recipe_takes_steps_in_proportion(tmp_path: Path) -> None:
    base = "[data]\npaths=['a']\nvalid=['v']\n[objective]\nkind='labels'\n[train]\neval_every=100\n"
    by_steps = recipe_of(read_recipe(base + "steps=400\n", "r"), tmp_path / "b", 0.25)
    assert (by_steps.train.steps, by_steps.train.eval_every, by_steps.data.paths) == (100, 25, [str(tmp_path / "b")])
    assert by_steps.data.valid == ["v"]
    by_time = recipe_of(read_recipe(base + "minutes=8\n", "r"), tmp_path / "b", 0.125)
    assert (by_time.train.minutes, by_time.train.eval_every) == (1.0, 20)
    assert recipe_of(read_recipe(base + "epochs=3\n", "r"), tmp_path / "b", 0.125).train.epochs == 3
    assert "0.875 times this training, 1 min 45 s if" in cost(120)


def test_a_curve_stands_in_the_result_and_on_the_page(tmp_path: Path) -> None:
    data, said = table(tmp_path / "train.tsv", 120), []

    def hear(stage: str, values: dict[str, Any]) -> None:
        said.append(values.get("text", ""))

    first = yanmo.finetune("classify", "new", data, out=tmp_path / "run", **SAID)
    assert "curve" not in first.result
    for again in (False, True):
        said.clear()
        (tmp_path / "run" / "curve" / "2").mkdir(parents=True)  # killed before a model was removed
        found = yanmo.finetune("classify", "new", data, out=tmp_path / "run", curve=True, report=hear, **SAID)
        points = found.result["curve"]
        counts = [point["examples"] for point in points]
        assert len(counts) == 3 and counts == sorted(counts) and counts[-1] < 108
        assert all(point["low"] <= point["value"] <= point["high"] for point in points)
        assert any("the curve: training on" in text for text in said) is not again
    assert found.result["main"] == first.result["main"]
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "With fewer examples" in page and all(f">{count}</th>" in page for count in counts)
    assert sorted(path.name for path in (tmp_path / "run" / "curve").iterdir()) == ["2.json", "4.json", "8.json"]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["curve"] == points


def test_a_part_that_is_too_small_is_told_and_the_run_is_judged(tmp_path: Path) -> None:
    rows = [{"text": f"Say {n}.", "target": f"It is {n}."} for n in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes: list[str] = []
    more: dict[str, Any] = SAID | {"rows": 4, "length": 64, "epochs": 1}
    made = yanmo.finetune(
        "generate",
        "new",
        tmp_path / "a.jsonl",
        out=tmp_path / "run",
        curve=True,
        report=lambda _, values: notes.append(str(values.get("text"))),
        **more,
    )
    assert len(made.result["curve"]) == 2 and (tmp_path / "run" / "report.html").is_file()
    left_out = [note for note in notes if note.startswith("the curve is without")]
    assert len(left_out) == 1 and "fewer than one batch of 4; set train.rows to " in left_out[0]
