"""The page of a run: whatever the folder holds or lacks, what it shows is what was logged."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import PLAN, evaluation, lines, made_run, step, write_lines
from test_page import HOSTILE, drawings, outline

from yanmo.errors import FileError
from yanmo.runpage import history as history_file
from yanmo.runpage import report
from yanmo.runpage.comparison import compare, planned_memory, reading_speed, share_of_peak, tokens_per_step
from yanmo.runpage.history import SPANS, Curve, best_of, is_training, read_history
from yanmo.runpage.report import keep_current, report_html, write_report


def page_of(folder: Path) -> str:
    """The page, checked: it nests, its drawings are XML, and it loads nothing."""
    text = report_html(folder)
    found = outline(text)
    drawings(text)
    assert not {"script", "link", "iframe", "img", "object"} & set(found.tags)
    assert not [value for _, name, value in found.attributes if name in ("src", "href", "data", "action")]
    return text


# --- the page


def test_a_whole_run_is_shown_with_everything_that_a_person_asks_for(tmp_path):
    text = page_of(made_run(tmp_path / "红楼"))
    for shown in (
        *("<h1>红楼</h1>", "Finished: 2,000 steps in 27 min 40 s, 5,869,568 parameters."),
        *("Loss", "Bits per byte", "Learning rate", "Gradient norm", "Speed", "Memory", "Planned and measured"),
        *("红楼梦.txt", "690 documents, 3 MB, 812,500 tokens", "public domain (700)", "torch 2.13.0", "A processor"),
        *("the best, at step 1,500", "Checkpoints are kept of step 1,500, 2,000.", "Planned memory by kind"),
        *(">steps<", ">tokens<", ">time<"),
    ):
        assert shown in text, shown
    assert "is not there" not in text


def test_the_page_replaces_the_old_one_as_a_whole(tmp_path, monkeypatch):
    run = made_run(tmp_path / "run", 150)
    first = write_report(run)
    assert first == run / "report.html"
    before = first.read_text("utf-8")

    def full(path: Path, text: str) -> None:
        raise FileError("the disk is full")

    monkeypatch.setattr(report, "write_atomic", full)
    with pytest.raises(FileError):
        write_report(run)
    assert first.read_text("utf-8") == before
    assert sorted(path.name for path in run.iterdir() if path.name.startswith(".")) == []


def test_a_run_without_a_line_and_an_empty_folder_have_a_page(tmp_path):
    text = page_of(tmp_path)
    assert "Nothing was logged yet." in text and "There are no curves before the first step." in text
    for name in ("recipe.toml", "plan.json", "environment.json"):
        assert f"{name} is not there." in text
    (tmp_path / "metrics.jsonl").write_text("")
    assert "Nothing was logged yet." in page_of(tmp_path)


def test_a_folder_that_is_none_is_one_sentence(tmp_path):
    with pytest.raises(FileError, match="no such folder"):
        write_report(tmp_path / "nowhere")


def test_one_line_is_a_run(tmp_path):
    write_lines(tmp_path, lines(1))
    assert "Not finished: 1 step in 0.8 s. " in page_of(tmp_path)


def test_an_unfinished_run_says_how_it_goes_on_and_compares_no_sums(tmp_path):
    text = page_of(made_run(tmp_path / "run", 130, finished=False))
    assert "The command that began it goes on" in text
    assert "Sums have no ratio before the run is over." in text
    assert "time so far" in text


def test_a_line_that_is_still_being_written_is_left_out_and_a_damaged_one_is_counted(tmp_path):
    run = made_run(tmp_path / "run", 50, finished=False)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 51, "lo')
    history = read_history(run)
    assert (history.steps, history.damaged) == (50, 0)
    with open(run / "metrics.jsonl", "a") as file:
        file.write("\n[1]\n{}\n" + '{"step": true}\n' + "[" * 100_000 + "\n" + json.dumps(step(51, _rng())) + "\n")
    history = read_history(run)
    assert (history.steps, history.damaged) == (51, 5)
    assert "5 lines of metrics.jsonl could not be read" in page_of(run)


def test_numbers_that_are_none_are_counted_and_break_the_line(tmp_path):
    rows = lines(60)
    rows[20]["loss"] = rows[21]["loss"] = None
    write_lines(tmp_path, rows)
    assert read_history(tmp_path).training["loss"].missing == 2
    assert "training: 2 values that cannot be drawn." in page_of(tmp_path)


def test_hostile_text_and_values_of_any_kind_stay_text(tmp_path):
    run = made_run(tmp_path / "run", 30)
    hostile: dict[str, Any] = {
        "format": "yanmo-run",
        HOSTILE: HOSTILE,
        "gpus": [HOSTILE, {"name": HOSTILE}],
        "cpu": None,
    }
    (run / "environment.json").write_text(json.dumps(hostile))
    (run / "recipe.toml").write_text(f"[data]\npaths = [{json.dumps('</pre><script>')}]\n# </code><img src=x>")
    rows = [*lines(20), step(21, _rng(), **{HOSTILE: 3.0, "text": HOSTILE, "list": [1], "flag": True})]
    rows.append(evaluation(21, _rng(), **{HOSTILE: 10**400, "huge": 1e308}))
    write_lines(run, rows)
    strange = PLAN | {"parameters": HOSTILE, "assumptions": [HOSTILE, 3], "steps": -1, "seconds": "x", "settings": [1]}
    (run / "plan.json").write_text(json.dumps(strange | {"memory_bytes": {"total": HOSTILE, HOSTILE: 5}}))
    (run / "tokens" / "corpus.json").write_text(json.dumps({"splits": 3, "license": {HOSTILE: 1}, "language": [2]}))
    assert "\x1b" not in page_of(run)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**310), 10**310), st.floats(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    [*PLAN, *step(1, random.Random(0)), "valid_loss", "bits_per_byte", "accuracy", "splits", "rows"]
)
VALUES = st.dictionaries(NAMES, JSON, max_size=8)


@given(plan=VALUES, corpus=VALUES, environment=VALUES, rows=st.lists(VALUES, max_size=6))
@settings(max_examples=150, deadline=None)
def test_no_json_stops_the_page(tmp_path_factory, plan, corpus, environment, rows):
    run = tmp_path_factory.mktemp("run")
    (run / "tokens").mkdir()
    for name, values in (("plan", plan), ("tokens/corpus", corpus), ("environment", environment)):
        (run / f"{name}.json").write_text(json.dumps(values))
    (run / "metrics.jsonl").write_text("".join(json.dumps({"step": i} | row) + "\n" for i, row in enumerate(rows)))
    page_of(run)


def test_files_that_are_none_are_named(tmp_path):
    run = made_run(tmp_path / "run", 10)
    (run / "plan.json").write_text("{")
    (run / "recipe.toml").write_text("[")
    text = page_of(run)
    assert "plan.json: not JSON" in text and "There is no recipe." in text


def test_a_preference_run_shows_what_it_logs(tmp_path):
    rng = _rng()
    rows = [step(n, rng, margin=n / 10) for n in range(1, 41)]
    rows += [{"step": 40, "tokens": 9, "seconds": 40.0, "valid_loss": 0.5, "accuracy": 0.75, "valid_targets": 8}]
    write_lines(tmp_path, rows)
    (tmp_path / "recipe.toml").write_text('[objective]\nkind = "dpo"\n')
    text = page_of(tmp_path)
    assert "nats per pair" in text and "<b>Accuracy</b>" in text and "<b>Margin</b>" in text
    assert "<b>Bits per byte</b>" not in text and "<b>Validation targets</b>" not in text
    assert read_history(tmp_path).score == ("valid_loss", False)


def test_memory_that_evaluations_log_is_drawn_in_megabytes_behind_the_rest(tmp_path):
    rows = [row for row in lines(200, every=50) if row.pop("memory", 0) or True]
    for row in rows:
        if not is_training(row):
            row["memory"] = 670e6 + row["step"]
    write_lines(tmp_path, rows)
    text = page_of(tmp_path)
    assert "MB, the peak so far" in text and "<b>Memory</b>" in text
    assert text.index("<b>Gradient norm</b>") < text.index("<b>Memory</b>")
    assert {figure.name for figure in compare({}, read_history(tmp_path))} >= {"memory, peak"}


def test_what_is_best_and_last_is_shown_once(tmp_path):
    write_lines(tmp_path, lines(100))
    assert "best and last" in page_of(tmp_path)


def test_a_page_is_kept_current_at_a_bounded_share_of_the_time(tmp_path, monkeypatch):
    clock = [100.0]
    written: list[float] = []

    def slow(folder: Path) -> None:
        written.append(clock[0])
        clock[0] += 1.0

    monkeypatch.setattr(report, "write_report", slow)
    monkeypatch.setattr(report.time, "monotonic", lambda: clock[0])
    write = keep_current(tmp_path)
    for _ in range(200):
        write()
        clock[0] += 1.0
    assert len(written) == 4  # each took a second, so the next comes fifty seconds later
    assert all(b - a >= 50 for a, b in itertools.pairwise(written))


# --- the history


def _rng() -> random.Random:
    return random.Random(1)


def test_a_long_run_keeps_its_spikes_and_its_means(tmp_path):
    rows = lines(5000)
    at = next(i for i, row in enumerate(rows) if row["step"] == 3333)
    rows[at]["loss"], rows[at]["gradient_norm"] = 40.0, 900.0
    write_lines(tmp_path, rows)
    history = read_history(tmp_path)
    curve = history.training["loss"]
    assert SPANS / 2 <= len(curve.spans) <= SPANS
    assert curve.count == history.steps == 5000
    assert max(high for _, _, high in curve.band("step")) == 40.0
    x = next(x for x, _, high in curve.band("step") if high == 40.0)
    assert abs(x - 3333) <= curve.stride
    losses = [row["loss"] for row in rows if is_training(row)]
    assert sum(s.total for s in curve.spans) == pytest.approx(sum(losses))
    assert curve.points("step")[0][1] == pytest.approx(sum(losses[: curve.stride]) / curve.stride)
    assert "40" in page_of(tmp_path)


def test_a_run_of_any_length_takes_bounded_memory_and_time(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in lines(500))
    with open(tmp_path / "metrics.jsonl", "w") as file:
        for block in range(80):  # 40,000 steps, so that each block goes on where the last one ended
            file.write(re.sub(r'"step": (\d+)', lambda m, b=block: f'"step": {int(m[1]) + 500 * b}', text))
    tracemalloc.start()
    began = time.process_time()
    history = read_history(tmp_path)
    spent, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert history.steps == 40_000
    assert peak < 3e6
    assert spent < 40  # seconds, and the tracing is most of it
    assert len(report_html(tmp_path)) < 800_000


@given(
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=900),
)
@settings(max_examples=60, deadline=None)
def test_no_value_is_lost_by_thinning(values):
    curve = Curve()
    for number, value in enumerate(values):
        curve.add((float(number), 0.0, 0.0), value)
    known = [value for value in values if value is not None]
    assert curve.count == len(known) and curve.missing == len(values) - len(known)
    assert len(curve.spans) <= SPANS
    lows = [span.low for span in curve.spans if span.count]
    highs = [span.high for span in curve.spans if span.count]
    assert min(lows, default=None) == min(known, default=None)
    assert max(highs, default=None) == max(known, default=None)
    assert [span.first[0] for span in curve.spans] == [float(i * curve.stride) for i in range(len(curve.spans))]


def test_steps_that_were_made_again_stand_once(tmp_path):
    """A run that went on from step 30 after it had logged 50, with another evaluation at 40."""
    rng = _rng()
    old = [*(step(n, rng, loss=9.0) for n in range(1, 51))]
    old.insert(40, evaluation(40, rng, bits_per_byte=0.1))
    old.insert(20, evaluation(20, rng, bits_per_byte=3.0))
    new = [step(n, rng, loss=5.0) for n in range(31, 61)]
    new.insert(10, evaluation(40, rng, bits_per_byte=2.0))
    write_lines(tmp_path, [*old, *new])
    history = read_history(tmp_path)
    assert history.steps == 60 and history.repeated == 21
    assert [s.mean for s in history.training["loss"].spans] == [9.0] * 30 + [5.0] * 30
    assert [s.mean for s in history.evaluation["bits_per_byte"].spans] == [3.0, 2.0]
    assert best_of(history) == "2.0000 bits per byte at step 40"
    assert "21 lines were made again" in page_of(tmp_path)


def test_the_best_is_the_lowest_loss_or_the_highest_accuracy(tmp_path):
    rng = _rng()
    write_lines(tmp_path, [evaluation(n, rng, bits_per_byte=value) for n, value in enumerate((2.0, 1.5, None, 1.7))])
    assert read_history(tmp_path).best["step"] == 1
    plain = [{"step": n, "accuracy": value} for n, value in enumerate((0.5, 0.9, 0.7))]
    write_lines(tmp_path, plain)
    assert read_history(tmp_path).best["step"] == 1


def test_names_without_end_do_not_become_curves_without_end(tmp_path):
    write_lines(tmp_path, [{"step": 1, "learning_rate": 1.0, **{f"x{n}": 1.0 for n in range(2000)}}])
    assert len(read_history(tmp_path).training) == history_file.FIELDS


# --- planned and measured


def test_the_comparison_divides_measured_by_planned(tmp_path):
    history = read_history(made_run(tmp_path / "run"))
    figures = {figure.name: figure for figure in compare(PLAN, history)}
    assert figures["memory, peak"].measured == 690e6
    assert figures["memory, peak"].ratio == pytest.approx(690 / 681)
    assert figures["time"].measured == 2000 * 0.8 + 60 + 2.5
    assert figures["steps"].planned == figures["steps"].measured == 2000
    assert figures["tokens"].measured == 2000 * 8 * 256
    speeds = [row["tokens_per_second"] for row in lines(2000) if is_training(row)]
    harmonic = len(speeds) / sum(1 / speed for speed in speeds)
    assert figures["tokens per second"].measured == pytest.approx(harmonic)
    assert figures["share of the peak"].ratio == pytest.approx(figures["tokens per second"].ratio)
    assert figures["energy"].measured is None and figures["energy"].ratio is None


def test_a_masked_run_counts_the_tokens_that_it_reads(tmp_path):
    """15 % of the tokens are targets; the plan speaks of all of them."""
    rows = [step(n, _rng(), tokens=round(n * 2048 * 0.15), tokens_per_second=2560 * 0.15) for n in range(1, 101)]
    write_lines(tmp_path, rows)
    figures = {figure.name: figure for figure in compare(PLAN, read_history(tmp_path))}
    assert figures["tokens"].measured == 100 * 2048
    assert figures["tokens per second"].measured == pytest.approx(2560, rel=0.01)
    assert reading_speed(PLAN, rows[1], rows[0]["tokens"]) == pytest.approx(2560, rel=0.01)
    assert reading_speed({}, rows[1], rows[0]["tokens"]) == 2560 * 0.15


def test_nothing_is_invented_where_the_plan_is_silent(tmp_path):
    assert compare({}, read_history(tmp_path)) == []
    assert share_of_peak({}, 100.0) is None and tokens_per_step({}) is None and planned_memory({}) is None
    assert share_of_peak(PLAN, 2600.0) == pytest.approx(0.42)
    assert share_of_peak(PLAN | {"flops_executed": 2 * PLAN["flops"]}, 2600.0) == pytest.approx(0.21)


def test_the_share_is_that_of_the_plan_s_own_arithmetic():
    from test_shortage import planned

    made = planned()
    peak = made.device.peak("float32")
    values = made.as_dict()
    assert share_of_peak(values, 1000.0) == pytest.approx(1000.0 * made.flops_training / peak)
    assert tokens_per_step(values) == 4 * 256
    assert planned_memory(values) == round(made.memory.total)


def test_an_accelerator_s_memory_is_compared_without_the_driver_s():
    plan = PLAN | {"device_kind": "cuda"}
    assert planned_memory(plan) == 681e6 - 350e6


def test_means_of_nothing_are_no_number():
    curve = Curve()
    curve.add((1.0, 1.0, 1.0), None)
    assert math.isnan(curve.points("step")[0][1])
