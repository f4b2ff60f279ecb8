"""`yanmo plan` as a user types it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from yanmo.cli.plan import plan as verb
from yanmo.errors import InputError
from yanmo.plan.words import duration


def _run(*words: str) -> Any:
    app = typer.Typer()
    app.command()(verb)
    return CliRunner().invoke(app, words, catch_exceptions=False, env={"COLUMNS": "80"})


def test_how_long_for_gpt_3_is_one_command():
    shown = _run("gpt3-175b", "--device", "a100-80gb", "--count", "1024")
    assert shown.exit_code == 0
    assert "29.2 days" in shown.stdout
    assert "fits with recomputed activations" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    made = json.loads(_run("gpt3-175b", "--device", "a100-80gb", "--count", "1024", "--json").stdout)
    assert made["days"] == pytest.approx(29.2, abs=0.1)
    assert made["nearest"]["recompute"]


def test_a_narrow_terminal_loses_nothing():
    app = typer.Typer()
    app.command()(verb)
    shown = CliRunner().invoke(app, ["gpt2", "--device", "l4"], env={"COLUMNS": "40"})
    assert shown.exit_code == 0
    assert max(map(len, shown.stdout.splitlines())) <= 40
    for label in ("model:", "time:", "memory:", "verdict:", "inference:"):
        assert label in shown.stdout


def test_the_best_size_for_a_budget():
    assert "2.887 billion parameters" in _run("--optimal", "1e21").stdout
    hours = json.loads(_run("--optimal", "1000h", "--device", "a100", "--utilisation", "0.5", "--json").stdout)
    assert hours["flops"] == pytest.approx(1000 * 3600 * 312e12 * 0.5)


def test_numbers_are_read_as_people_write_them():
    made = json.loads(_run("gpt2", "--device", "h100", "--tokens", "2.5B", "--json").stdout)
    assert made["tokens"] == 2.5e9
    with pytest.raises(InputError, match="must be a number such as"):
        _run("gpt2", "--device", "h100", "--tokens", "many")
    with pytest.raises(InputError, match="KIND:RANK"):
        _run("gpt2", "--device", "h100", "--adapter", "8")
    with pytest.raises(InputError, match="nothing is named to plan"):
        _run()


def test_the_table_of_devices_is_shown():
    assert "H100 data sheet" in _run("--device", "list").stdout


def test_durations_are_in_the_unit_of_a_person():
    assert [duration(s) for s in (5, 300, 7200, 86400 * 10, 86400 * 365 * 44)] == [
        "5 seconds",
        "5 minutes",
        "2.0 hours",
        "10.0 days",
        "44.0 years",
    ]
