"""What a run of a task keeps: its data under its lock, its test part, its recipe after a move."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import yanmo
from tests.tasks.test_classification import examples
from yanmo import runs
from yanmo.errors import FileError
from yanmo.files import write_json
from yanmo.pretrain import run_recipe
from yanmo.tasks import keeping
from yanmo.tasks.preparing import Wishes, prepare

pytest.importorskip("sklearn")
SMALL = ["model.width=32", "model.layers=1", "model.heads=2", "train.precision=float32", "train.learning_rate=5e-3"]
SAID: dict[str, Any] = {"rows": 16, "epochs": 2, "length": 32, "overrides": SMALL}


def table(path: Path, count: int, seed: int = 0) -> Path:
    rows = [f"{example.text}\t{example.labels[0]}" for example in examples(count, seed) if example.labels]
    path.write_text("\n".join(["text\tlabel", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    data, test = table(folder / "train.tsv", 120), table(folder / "test.tsv", 20, seed=1)
    yanmo.finetune("classify", "new", data, out=folder / "run", test=[test], **SAID)
    return folder / "run"


def test_data_of_a_run_that_another_process_holds_are_left_alone(tmp_path: Path) -> None:
    first, other = table(tmp_path / "a.tsv", 60), table(tmp_path / "b.tsv", 60, seed=5)
    prepare("classify", "new", first, tmp_path / "run", Wishes())
    known = (tmp_path / "run" / "data" / "train.jsonl").read_bytes()
    with runs.open_run(tmp_path / "run", "", {}), pytest.raises(FileError, match="another process is running it"):
        prepare("classify", "new", other, tmp_path / "run", Wishes())
    assert (tmp_path / "run" / "data" / "train.jsonl").read_bytes() == known


def test_a_run_does_not_train_on_what_another_command_wrote_after_it(tmp_path: Path) -> None:
    first, other = table(tmp_path / "a.tsv", 60), table(tmp_path / "b.tsv", 60, seed=5)
    prepared = prepare("classify", "new", first, tmp_path / "run", Wishes())
    prepare("classify", "new", other, tmp_path / "run", Wishes())
    with pytest.raises(FileError, match="another command wrote its own examples"):
        run_recipe(prepared.recipe, tmp_path / "run", None, lambda: keeping.unchanged(prepared.kept, tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_is_judged_by_the_test_part_with_which_it_began(run: Path) -> None:
    for name in ("result.json", "predictions.jsonl"):  # killed before the judging
        (run / name).unlink()
    again = yanmo.finetune("classify", "new", run.parent / "train.tsv", out=run, **SAID)
    assert again.result["judged_by"] == "test" and again.result["examples"] == 20


def test_a_command_that_never_began_leaves_no_test_part(tmp_path: Path) -> None:
    data, test = table(tmp_path / "a.tsv", 60), table(tmp_path / "t.tsv", 20, seed=1)
    assert len(prepare("classify", "new", data, tmp_path / "run", Wishes(test=[test])).test) == 20
    assert prepare("classify", "new", data, tmp_path / "run", Wishes()).test == []
    assert not (tmp_path / "run" / "data" / "test.jsonl").exists()


def test_conversations_are_judged_by_the_test_part_that_was_kept(tmp_path: Path) -> None:
    rows = [{"text": f"Say {n}.", "target": f"It is {n}."} for n in range(40)]
    data, test = tmp_path / "a.jsonl", tmp_path / "t.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    test.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    prepare("generate", "new", data, tmp_path / "run", Wishes(test=[test]))
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "environment.json").write_text('{"format": "yanmo-run"}')
    found = prepare("generate", "new", data, tmp_path / "run", Wishes()).test
    assert [example.target for example in found] == ["It is 0.", "It is 1.", "It is 2."]


@pytest.mark.parametrize("finished", [True, False])
def test_a_moved_run_goes_on(run: Path, tmp_path: Path, finished: bool) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(run, moved)
    steps = (moved / "metrics.jsonl").read_text()
    if not finished:
        shutil.rmtree(moved / "model")
        (moved / "result.json").unlink()
    again = yanmo.finetune("classify", "new", run.parent / "train.tsv", out=moved, **SAID)
    assert again.predict("a lovely day")["label"] in ("good", "bad")
    assert (moved / "metrics.jsonl").read_text().startswith(steps)  # nothing was trained again
    assert str(moved) in (moved / "recipe.toml").read_text() and str(run) not in (moved / "recipe.toml").read_text()


def test_an_adapter_is_there_with_its_task_or_not_at_all(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, value: Any) -> None:
        if Path(path).name == "task.json":
            raise KeyboardInterrupt
        write_json(path, value)

    said = {"rows": 16, "epochs": 1, "length": 32, "adapter": "lora", "overrides": ["train.precision=float32"]}
    data = run.parent / "train.tsv"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("yanmo.pretrain.write_json", killed)
        yanmo.finetune("classify", run, data, out=tmp_path / "run", **said)
    assert not (tmp_path / "run" / "model").exists()
    yanmo.finetune("classify", run, data, out=tmp_path / "run", **said)
    settings = json.loads((tmp_path / "run" / "model" / "task.json").read_text())
    assert settings["problem"] == "single" and (tmp_path / "run" / "model" / "README.md").is_file()
