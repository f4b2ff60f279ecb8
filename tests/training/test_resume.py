"""Resume: stopped anywhere and continued equals never stopped, bit by bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small import corpus, equal, network, weights

from yanmo.errors import FileError
from yanmo.runs import Run, open_run
from yanmo.tokens.batches import Batch, PackedBatches
from yanmo.tokens.shards import TokenShards
from yanmo.training.checkpoint import load_weights
from yanmo.training.loop import Settings, Step, train
from yanmo.training.objectives import causal

STEPS = 14


def settings(**options: Any) -> Settings:
    values: dict[str, Any] = {"steps": STEPS, "accumulation": 3, "learning_rate": 0.01, "save_steps": 4, "keep": 10}
    return Settings(**values | options)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    return corpus(tmp_path_factory.mktemp("corpus") / "s", 30)  # about 7 steps an epoch


def go(
    data: TokenShards, folder: Path, kind: str, options: Settings, stop: int = 0
) -> tuple[dict[str, torch.Tensor], list[Step]]:
    """Train in a run folder, from wherever it is, to the end or until the caller leaves after step `stop`."""
    model, steps = network(kind, dropout=0.2), []
    with open_run(folder, "", {}) as run:
        for step in train(model, PackedBatches(data, 2, 16, seed=3), causal, options, run=run):
            steps.append(step)
            if step.step == stop:
                break
    return weights(model), steps


def without_times(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in lines]


@pytest.mark.parametrize("kind", ["qwen3", "lstm"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_left_twice_and_continued_equals_one_that_was_not(
    data: TokenShards, tmp_path: Path, kind: str, optimizer: str, precision: str
) -> None:
    options = settings(optimizer=optimizer, precision=precision)
    whole, _ = go(data, tmp_path / "whole", kind, options)
    go(data, tmp_path / "parts", kind, options, stop=3)
    _, middle = go(data, tmp_path / "parts", kind, options, stop=9)
    parts, last = go(data, tmp_path / "parts", kind, options)
    assert (middle[0].step, last[0].step, last[-1].step) == (4, 10, STEPS)
    assert equal(whole, parts) and without_times(tmp_path / "whole") == without_times(tmp_path / "parts")
    for name in ("model", "optimizer", "random"):
        files = [tmp_path / run / "checkpoints" / f"step-{STEPS}" / f"{name}.safetensors" for run in ("whole", "parts")]
        assert equal(*(load_file(file) for file in files)), name


class Interrupted:
    """An objective that is stopped in the middle of a window, once."""

    def __init__(self, call: int, error: type[BaseException]) -> None:
        self.calls, self.call, self.error = 0, call, error

    def __call__(self, model: Any, rows: Batch) -> tuple[torch.Tensor, int]:
        self.calls += 1
        if self.calls == self.call:
            raise self.error
        return causal(model, rows)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("call", [1, 8, 9, 17])  # within a window of 3: its second, its last, …
def test_ctrl_c_in_the_middle_of_a_window_leaves_the_last_finished_step(
    data: TokenShards, tmp_path: Path, call: int, precision: str
) -> None:
    options = settings(save_steps=0, precision=precision)
    whole, _ = go(data, tmp_path / "whole", "qwen3", options)
    finished = (call - 1) // 3
    with open_run(tmp_path / "run", "", {}) as run:
        steps = train(
            network(dropout=0.2),
            PackedBatches(data, 2, 16, seed=3),
            Interrupted(call, KeyboardInterrupt),
            options,
            run=run,
        )
        with pytest.raises(KeyboardInterrupt):
            list(steps)
        assert run.checkpoints() == ([finished] if finished else [])
    parts, rest = go(data, tmp_path / "run", "qwen3", options)
    assert rest[0].step == finished + 1 and equal(whole, parts)
    assert without_times(tmp_path / "whole") == without_times(tmp_path / "run")


def test_ctrl_c_during_the_update_takes_effect_after_it(
    data: TokenShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yanmo.training.optimizer import Optimizer

    whole, _ = go(data, tmp_path / "whole", "qwen3", settings())
    update, count = Optimizer.step, 0

    def interrupted(self: Optimizer, *given: float) -> None:
        nonlocal count
        count += 1
        if count == 6:
            signal.raise_signal(signal.SIGINT)
        update(self, *given)

    monkeypatch.setattr(Optimizer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(data, tmp_path / "run", "qwen3", settings())
    assert without_times(tmp_path / "run")[-1]["step"] == 6
    parts, rest = go(data, tmp_path / "run", "qwen3", settings())
    assert rest[0].step == 7 and equal(whole, parts)


def test_a_crash_goes_on_from_the_checkpoint_and_rewrites_the_lines_after_it(data: TokenShards, tmp_path: Path) -> None:
    whole, _ = go(data, tmp_path / "whole", "qwen3", settings())
    with open_run(tmp_path / "run", "", {}) as run, pytest.raises(RuntimeError):
        objective = Interrupted(7 * 3 - 1, RuntimeError)
        list(train(network(dropout=0.2), PackedBatches(data, 2, 16, seed=3), objective, settings(), run=run))
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')  # torn by the crash
    parts, rest = go(data, tmp_path / "run", "qwen3", settings())
    assert rest[0].step == 5 and equal(whole, parts)
    assert without_times(tmp_path / "whole") == without_times(tmp_path / "run")


def test_a_finished_run_makes_no_step_more(data: TokenShards, tmp_path: Path) -> None:
    whole, _ = go(data, tmp_path / "run", "qwen3", settings())
    again, steps = go(data, tmp_path / "run", "qwen3", settings())
    assert steps == [] and equal(whole, again)


def test_a_checkpoint_that_outlived_a_kill_is_removed_by_the_next_start(data: TokenShards, tmp_path: Path) -> None:
    go(data, tmp_path / "run", "qwen3", settings(keep=1))
    checkpoints = tmp_path / "run" / "checkpoints"
    kept = sorted(p.name for p in checkpoints.iterdir())
    shutil.copytree(checkpoints / kept[0], checkpoints / "step-1")
    go(data, tmp_path / "run", "qwen3", settings(keep=1))
    assert sorted(p.name for p in checkpoints.iterdir()) == kept


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(data: TokenShards, tmp_path: Path) -> None:
    whole, _ = go(data, tmp_path / "run", "qwen3", settings())
    folder = tmp_path / "run" / "checkpoints"
    damaged = folder / f"step-{STEPS}" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    (folder / "step-12" / "state.json").unlink()
    with pytest.warns(UserWarning) as caught:
        again, steps = go(data, tmp_path / "run", "qwen3", settings())
    assert [str(w.message).split(":")[0].rsplit("/", 2)[1] for w in caught] == ["step-14", "step-12"]
    assert steps[0].step == 9 and equal(whole, again)


def test_damaged_checkpoints_do_not_push_out_the_sound_ones(data: TokenShards, tmp_path: Path) -> None:
    options = settings(save_steps=2, keep=2)
    whole, _ = go(data, tmp_path / "run", "qwen3", options, stop=8)
    (tmp_path / "run/checkpoints/step-8/model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="step-8"):
        go(data, tmp_path / "run", "qwen3", options, stop=7)  # killed before step 8 is reached again
    with open_run(tmp_path / "run", "", {}) as run:
        assert run.checkpoints() == [6, 7]
    go(data, tmp_path / "run", "qwen3", options, stop=8)
    assert equal(load_file(tmp_path / "run/checkpoints/step-8/model.safetensors"), whole)


def test_a_run_whose_every_checkpoint_is_damaged_is_refused(data: TokenShards, tmp_path: Path) -> None:
    go(data, tmp_path / "run", "qwen3", settings(), stop=2)
    (tmp_path / "run" / "checkpoints" / "step-2" / "model.safetensors").write_bytes(b"")
    with pytest.raises(FileError, match="SHA-256 differs"):
        go(data, tmp_path / "run", "qwen3", settings())


def test_a_checkpoint_of_another_model_precision_or_data_is_refused(data: TokenShards, tmp_path: Path) -> None:
    go(data, tmp_path / "run", "qwen3", settings(), stop=2)
    with pytest.raises(FileError, match="the checkpoint of another model"):
        go(data, tmp_path / "run", "gpt2", settings())
    with pytest.raises(FileError, match="made in float32, this run is in bfloat16"):
        go(data, tmp_path / "run", "qwen3", settings(precision="bfloat16"))
    with pytest.raises(FileError, match="the saved data position has shards"):
        go(corpus(tmp_path / "other", seed=1), tmp_path / "run", "qwen3", settings())
    model = network("gpt2")
    before = weights(model)
    with pytest.raises(FileError):
        load_weights(model, tmp_path / "run" / "checkpoints" / "step-2")
    assert equal(before, weights(model))


def test_the_best_and_the_last_checkpoints_stay(data: TokenShards, tmp_path: Path) -> None:
    def scored(run: Run) -> None:
        for step in train(network(), PackedBatches(data, 2, 16), causal, settings(save_steps=2, keep=2), run=run):
            if step.saved:
                run.log(step=step.step, bits_per_byte=abs(step.step - 4.0) + 1)

    with open_run(tmp_path / "run", "", {}) as run:
        scored(run)
        assert run.checkpoints() == [4, 12, 14] and run.best_step() == 4


@pytest.mark.skipif(os.name == "nt", reason="sizes of files are limited by POSIX calls")
@pytest.mark.parametrize("place", ["model.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"])
def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(
    data: TokenShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    import resource

    import yanmo.training.checkpoint as room

    whole, _ = go(data, tmp_path / "whole", "qwen3", settings())
    writers = {"save_file": room.save_file, "write_json": room.write_json}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(name: str) -> Any:
        def write(*given: Any) -> None:
            path = next(value for value in given if isinstance(value, Path))
            full = path.name == place and len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == 2
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]) if full else before)
                writers[name](*given)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)

        return write

    for name in writers:
        monkeypatch.setattr(room, name, limited(name))
    with pytest.raises(FileError, match="cannot be written .*File too large.*free some space"):
        go(data, tmp_path / "run", "qwen3", settings())
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-4", "step-8"]
    monkeypatch.undo()
    parts, _ = go(data, tmp_path / "run", "qwen3", settings())
    assert equal(whole, parts)


def test_a_full_disk_for_metrics_stops_the_run_too(data: TokenShards, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    whole, _ = go(data, tmp_path / "whole", "qwen3", settings())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = Run.log

    def full(self: Run, **record: Any) -> None:
        size = self.metrics_path.stat().st_size if self.metrics_path.exists() else 0
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]) if record["step"] == 6 else before)
            log(self, **record)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "log", full)
        with pytest.raises(FileError, match="metrics.jsonl: cannot be written .*free some space"):
            go(data, tmp_path / "run", "qwen3", settings())
    parts, steps = go(data, tmp_path / "run", "qwen3", settings())
    assert steps[0].step == 5 and equal(whole, parts)
    assert without_times(tmp_path / "whole") == without_times(tmp_path / "run")
