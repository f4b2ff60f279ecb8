"""What the terminal shows of a run: a line that fits, and nothing that nobody measured."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from made_runs import PLAN, made_run, write_lines

from yanmo.cli import progress
from yanmo.cli.progress import Shown, compared, fitted, step_parts

FLAT = {
    "parameters": 5000,
    "train_tokens": 90_000,
    "vocab_size": 300,
    "tokens_per_step": 2048,
    "steps": 2000,
    "device": "cpu",
    "precision": "float32",
    "precision_reason": "as the recipe says",
    "seconds": 60.0,
    "epochs": 2.0,
}


def step(number: int, **more: Any) -> dict[str, Any]:
    values = {
        "step": number,
        "tokens": number * 2048,
        "loss": 3.21,
        "tokens_per_second": 2600.0,
        "share": number / 2000,
    }
    return values | more


def test_a_step_says_everything_that_is_known():
    plan = PLAN | {"steps": 2000}
    parts = step_parts(step(500, memory=690e6), plan, "1.3676 bits per byte", 83.0, 499 * 2048)
    assert "  ".join(parts) == (
        "step 500/2,000  loss 3.210  1 min 23 s left  1.3676 bits per byte  2,600 tokens/s  42% of peak  690 MB"
    )


def test_what_is_not_known_is_not_said():
    assert step_parts(step(1), {}, "", None, None) == ["step 1", "loss 3.210", "2,600 tokens/s"]


def test_where_the_clock_ends_the_run_no_number_of_steps_is_promised():
    assert step_parts(step(500, share=0.3), FLAT, "", None, None)[0] == "step 500"
    assert step_parts(step(500), FLAT, "", None, None)[0] == "step 500/2,000"


def test_targets_that_are_few_of_the_tokens_are_told_as_tokens_read():
    parts = step_parts(step(2, tokens=614, tokens_per_second=390.0), PLAN, "", None, 307)
    assert f"{390 * 2048 / 307:,.0f} tokens/s" in parts


def test_the_less_important_parts_go_first_where_the_window_is_narrow():
    parts = ["step 5", "loss 3.2", "9 s left", "1.4 bits per byte"]
    assert fitted(parts, 200) == "step 5  loss 3.2  9 s left  1.4 bits per byte"
    assert fitted(parts, 27) == "step 5  loss 3.2  9 s left"
    assert fitted(parts, 1) == "step 5"


def test_without_a_terminal_a_plain_line_comes_now_and_then(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Shown(quiet=False) as shown:
        shown.hear("plan", FLAT)
        for number in range(1, 41):
            clock[0] += 1.0
            shown.hear("step", step(number))
            if number == 20:
                shown.hear("evaluation", {"step": 20, "seconds": 20.0, "bits_per_byte": 2.5})
        shown.hear("note", {"text": "a note"})
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert "\x1b" not in err and len(lines) == 5
    assert re.fullmatch(r"train: 0%  step 10/2,000  loss 3\.210  33 min 10 s left  2,600 tokens/s", lines[0])
    assert "2.5000 bits per byte" in lines[2] and lines[4] == "yanmo: a note"
    assert "5,000 parameters" in out and "step     20  2.5000 bits per byte" in out


def test_time_left_counts_from_where_this_session_began(monkeypatch):
    """A run that went on from its middle: 4 % of it in 40 seconds, 46 % to go."""
    clock, said = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown = Shown(quiet=True)
    monkeypatch.setattr(shown, "_progress", lambda stage, share, parts: said.append(parts))
    for number in range(1000, 1081):
        shown.hear("step", step(number))
        clock[0] += 0.5
    assert said[1] == ["step 1,001", "loss 3.210", "2,600 tokens/s"]
    assert said[-1][2] == "7 min 40 s left"


def test_the_plan_s_costs_are_told_before_the_first_step(capsys):
    shown = Shown(quiet=False)
    shown.hear("plan", PLAN | FLAT | {"money_usd": 1.5})
    said = capsys.readouterr().out
    assert "681 MB of memory at most · 0.018 kWh · 1.50 USD" in said
    assert "5,000 parameters · 90,000 tokens of text · vocabulary 300\n" in said


def test_with_json_nothing_is_printed_beside_it(capsys):
    shown = Shown(quiet=True)
    shown.hear("plan", FLAT)
    shown.hear("evaluation", {"step": 20, "seconds": 20.0, "bits_per_byte": 2.5})
    assert capsys.readouterr().out == ""


def test_the_end_compares_the_plan_with_what_was_measured(tmp_path):
    rows = [re.split(r"  +", line.strip()) for line in compared(made_run(tmp_path / "run")).splitlines()]
    assert rows[0] == ["planned", "measured", "ratio"]
    assert ["memory, peak", "681 MB", "690 MB", "1.01"] in rows
    assert ["steps", "2,000", "2,000", "1.00"] in rows
    assert not [row for row in rows if row[0] in ("energy", "money")], "nobody measured them"


def test_a_run_without_a_plan_or_a_step_compares_nothing(tmp_path):
    assert compared(tmp_path) == ""
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    assert compared(tmp_path) == ""
    write_lines(tmp_path, [{"step": 1, "learning_rate": 1.0, "seconds": 3.0}])
    assert "time so far" in compared(tmp_path)


CHILD = """
import sys, time
sys.path[:0] = sys.argv[1:]
from test_progress import FLAT, step
from made_runs import PLAN
from yanmo.cli.progress import Shown
with Shown(quiet=True) as shown:
    shown.hear("corpus", {"share": None, "text": "1.2 MB"})
    shown.hear("tokens", {"share": 0.5, "text": "1.2 MB"})
    shown.hear("plan", PLAN | FLAT)
    for number in range(1, 30):
        shown.hear("step", step(number, memory=690e6))
        time.sleep(0.02)
        if number == 10:
            shown.hear("evaluation", {"step": 10, "seconds": 20.0, "bits_per_byte": 2.5})
"""


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal is needed")
@pytest.mark.parametrize("columns", [44, 80, 140])
def test_on_a_terminal_one_line_is_written_again_and_fits(columns):
    import pty
    import subprocess

    here = Path(__file__).parent
    inner, outer = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "CI", "TTY_COMPATIBLE", "FORCE_COLOR")}
    environment |= {"COLUMNS": str(columns), "LINES": "24", "TERM": "xterm-256color"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(here.parent), str(here)], stderr=outer, stdout=outer, env=environment
    )
    os.close(outer)
    text = b""
    while True:
        try:
            block = os.read(inner, 65536)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        text += block
    os.close(inner)
    assert child.wait(60) == 0, text.decode("utf-8", "replace")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode("utf-8"))
    frames = [line for line in re.split(r"[\r\n]+", plain) if line.startswith("train")]
    assert frames and max(map(len, frames)) <= columns
    last = frames[-1]
    assert "step 29/2,000  loss 3.210" in last
    assert ("42% of peak" in last) == ("690 MB" in last) == (columns == 140)
