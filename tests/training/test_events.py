"""Events for TensorBoard, read back with TensorBoard's own reader."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from yanmo.errors import FileError, MissingExtra
from yanmo.training.events import Events


def step(number: int, **more: Any) -> dict[str, Any]:
    values = {"step": number, "tokens": number * 10, "seconds": number * 1.0, "loss": 4.0 - number / 100}
    return values | {"learning_rate": 1e-3, "gradient_norm": None, "tokens_per_second": 10} | more


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: tag → (step, value)."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [(event.step, round(event.value, 4)) for event in accumulator.Scalars(tag)] for tag in tags}


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_every_finite_number_of_a_line_is_a_curve(tmp_path):
    with Events(tmp_path / "events") as events:
        for number in (1, 2, 3):
            events.log(step(number, note="text", saved=True, memory=5_000_000_000))
        events.log({"step": 3, "tokens": 30, "seconds": 3.0, "valid_loss": 3.5, "bits_per_byte": float("nan")})
        events.log({"step": 3, "note": "nothing to draw"})
    found = read(tmp_path / "events")
    assert set(found) == {
        *("train/loss", "train/learning_rate", "train/tokens_per_second", "train/saved", "train/memory"),
        "evaluation/valid_loss",
    }
    assert found["train/loss"] == [(1, 3.99), (2, 3.98), (3, 3.97)]
    assert found["evaluation/valid_loss"] == [(3, 3.5)]


def test_a_run_that_goes_on_shows_no_step_twice_and_none_is_missing(tmp_path):
    """Ten steps, a kill that tears the file, and a second session that goes on from the seventh."""
    folder = tmp_path / "events"
    first = Events(folder)
    for number in range(1, 11):
        first.log(step(number, loss=9.0))
    first.flush()
    (old,) = files(folder)
    first.close()
    old.write_bytes(old.read_bytes()[:-200])
    stand = [step(number, loss=9.0) for number in range(1, 8)]
    with Events(folder, stand) as events:
        for number in range(8, 13):
            events.log(step(number, loss=5.0))
    assert read(folder)["train/loss"] == [(n, 9.0) for n in range(1, 8)] + [(n, 5.0) for n in range(8, 13)]
    empty, only = files(folder)
    assert empty == old and not old.stat().st_size
    raw = [event.step for event in LegacyEventFileLoader(str(only)).Load() if event.HasField("summary")]
    assert raw == list(range(1, 13)), "no reader needs to know of restarts"


def test_a_tensorboard_that_looks_on_sees_the_restart(tmp_path):
    folder = tmp_path / "events"
    first = Events(folder)
    for number in range(1, 11):
        first.log(step(number, loss=9.0))
    first.flush()
    looking = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    looking.Reload()
    assert len(looking.Scalars("train/loss")) == 10
    first.close()
    with Events(folder, [step(number, loss=9.0) for number in range(1, 6)]) as events:
        events.log(step(6, loss=5.0))
    looking.Reload()
    assert [event.step for event in looking.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    Events(folder, [step(1)]).close()
    looking.Reload()
    assert [event.step for event in looking.Scalars("train/loss")] == [1]
    assert len(files(folder)) == 2


def test_time_is_that_of_the_run(tmp_path):
    with Events(tmp_path, [step(1), step(100)]) as events:
        events.log(step(101))
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    times = [event.wall_time for event in accumulator.Scalars("train/loss")]
    assert [round(at - times[0], 3) for at in times] == [0.0, 99.0, 100.0]


def test_without_the_package_one_sentence_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtra, match=r'pip install "yanmo\[tensorboard\]"'):
        Events(tmp_path / "events")
    assert not (tmp_path / "events").exists()


def test_a_place_that_holds_no_events_is_one_sentence(tmp_path):
    (tmp_path / "events").write_text("a file")
    with pytest.raises(FileError, match="events cannot be written"):
        Events(tmp_path / "events")


def test_a_failure_of_the_writer_is_one_sentence(tmp_path, monkeypatch):
    events = Events(tmp_path)
    events.close()
    with pytest.raises(FileError, match="events cannot be written"):
        events.log(step(1))
