"""A run folder: one process, one recipe, lines that survive a crash, checkpoints that are kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yanmo.errors import ConfigError, Error, FileError
from yanmo.runs import is_run, open_run

RECIPE = "[train]\nsteps = 3\n"


def checkpoint(folder: Path, step: int) -> None:
    (folder / "checkpoints" / f"step-{step}").mkdir(parents=True)


def test_a_new_run_holds_its_recipe_and_where_it_ran(tmp_path: Path) -> None:
    with open_run(tmp_path / "a" / "run", RECIPE, {"seed": 3, "versions": {"torch": "2"}}) as run:
        assert (run.folder / "recipe.toml").read_text() == RECIPE
        environment = json.loads((run.folder / "environment.json").read_text())
        assert environment["seed"] == 3 and environment["versions"] == {"torch": "2"}
    assert is_run(tmp_path / "a" / "run") and not is_run(tmp_path) and not is_run(tmp_path / "absent")


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("mine")
    with pytest.raises(FileError, match="holds recipe.toml, not a run"):
        open_run(tmp_path, RECIPE, {})
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]
    with pytest.raises(FileError, match="cannot be a run folder"):
        open_run(tmp_path / "recipe.toml", RECIPE, {})
    with pytest.raises(FileError, match="cannot be a run folder"):
        open_run("a\0b", RECIPE, {})


def test_another_recipe_is_refused_with_the_line_that_differs(tmp_path: Path) -> None:
    open_run(tmp_path / "run", RECIPE, {}).close()
    with pytest.raises(ConfigError, match="steps = 3 there, steps = 4 here"):
        open_run(tmp_path / "run", RECIPE.replace("3", "4"), {})
    open_run(tmp_path / "run", RECIPE, {}).close()


def test_a_run_without_a_checkpoint_may_adopt_another_recipe(tmp_path: Path) -> None:
    open_run(tmp_path / "run", RECIPE, {}).close()
    seen: list[str] = []
    open_run(tmp_path / "run", "new", {}, seen.append).close()
    assert seen == [RECIPE] and (tmp_path / "run" / "recipe.toml").read_text() == "new"
    checkpoint(tmp_path / "run", 1)
    with pytest.raises(ConfigError, match="another recipe"):
        open_run(tmp_path / "run", RECIPE, {}, seen.append)


def test_two_processes_cannot_hold_one_run(tmp_path: Path) -> None:
    code = f"from yanmo.runs import open_run\nopen_run({str(tmp_path / 'run')!r}, {RECIPE!r}, {{}})"
    with open_run(tmp_path / "run", RECIPE, {}):
        with pytest.raises(FileError, match="another process is running it"):
            open_run(tmp_path / "run", RECIPE, {})
        root = Path(__file__).resolve().parents[1]
        other = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
        assert "another process is running it" in other.stderr
    open_run(tmp_path / "run", RECIPE, {}).close()


def test_lines_come_back_and_a_torn_last_one_is_dropped(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", RECIPE, {}) as run:
        run.log(step=1, loss=2.5, text="墨")
        run.log(step=2, loss=float("nan"))
        run.sync()
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 3, "lo')
    with open_run(tmp_path / "run", RECIPE, {}) as run:
        assert list(run.metrics()) == [{"step": 1, "loss": 2.5, "text": "墨"}, {"step": 2, "loss": None}]
        run.rewind(2)
        run.log(step=3)
        assert [line["step"] for line in run.metrics()] == [1, 2, 3]


def test_rewinding_drops_what_came_after_a_step(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", RECIPE, {}) as run:
        for step in range(1, 6):
            run.log(step=step)
        run.rewind(3)
        run.log(step=4, again=True)
        assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4]
        run.rewind(0)
        assert list(run.metrics()) == [] and run.metrics_path.read_bytes() == b""


@pytest.mark.parametrize("line", ["{", "[1]", '{"step": "x"}', '{"loss": 1}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    with open_run(tmp_path / "run", RECIPE, {}) as run:
        run.log(step=1)
        with open(run.metrics_path, "a") as file:
            file.write(line + "\n")
        with pytest.raises(FileError, match="line 2 is damaged"):
            list(run.metrics())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text(alphabet='{}[]":,step 01\n', max_size=60).map(str.encode))
def test_any_metrics_file_gives_lines_or_an_error_of_ours(tmp_path: Path, content: bytes) -> None:
    with open_run(tmp_path / "run", RECIPE, {}) as run:
        run.metrics_path.write_bytes(content)
        try:
            assert all(isinstance(line["step"], int) for line in run.metrics())
        except Error as error:
            assert "\n" not in str(error)


def test_the_last_and_the_best_checkpoints_are_kept(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", RECIPE, {}) as run:
        assert run.checkpoints() == [] and run.best_step() is None
        for step, score in ((10, 2.0), (20, 1.5), (30, 1.7), (40, 1.6)):
            checkpoint(run.folder, step)
            run.prune(2)
            run.log(step=step, bits_per_byte=score)
            run.log(step=step, loss=0.1)
        assert run.checkpoints() == [20, 30, 40] and run.best_step() == 20
        (run.folder / "checkpoints" / "step-x").mkdir()
        assert run.checkpoints() == [20, 30, 40]
    with open_run(tmp_path / "run", RECIPE, {}) as run:  # the scores are read again
        assert run.best_step() == 20
        run.rewind(10)
        assert run.best_step() is None


def test_what_a_killed_process_wrote_aside_is_removed(tmp_path: Path) -> None:
    open_run(tmp_path / "run", RECIPE, {}).close()
    for place in ("", "checkpoints"):
        (tmp_path / "run" / place / ".partial-x").mkdir(parents=True)
    open_run(tmp_path / "run", RECIPE, {}).close()
    assert not list((tmp_path / "run").rglob(".partial-*"))


def test_forgetting_removes_a_run_in_which_nothing_was_made_and_no_other(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", RECIPE, {}) as run:
        (run.folder / "corpus").mkdir()
        run.forget()
        assert is_run(run.folder)
        (run.folder / "corpus").rmdir()
        run.forget()
    assert not (tmp_path / "run").exists()
