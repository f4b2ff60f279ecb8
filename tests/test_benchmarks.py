"""The frame of the benchmarks: turns, medians, ratios, files, and the page that is written from them."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from functools import cache

import pytest

from benchmarks import __main__ as command
from benchmarks import b0, frame, table, tasks
from yanmo.errors import Error, FileError, InputError

FAST = frame.Row("B7", "count sheep", "sheep/s", {"peer": 1.5})
SLOW = frame.Row("B8", "count sheep to the end", "s", {"peer": 1.0}, larger_is_better=False)
FIELDS = (
    "row job peer unit ours peers ours_median peer_median ratio goal met equal machine versions commit date command"
)


def figures(*values: float):
    """A job that returns these figures in turn, the first one while warming up."""
    left = list(values)
    return lambda: left.pop(0)


@cache
def result(row: frame.Row) -> frame.Result:
    """Medians 30 and 10."""
    ours, theirs = figures(0, 40, 20, 30, 10, 50), figures(0, 10, 10, 20, 30, 10)
    return frame.compare(row, "peer", ours, theirs, equal="300 sheep each")


def test_both_sides_take_turns_and_neither_always_goes_first():
    calls = []
    jobs = [lambda: calls.append("ours") or 1.0, lambda: calls.append("peer") or 1.0]
    frame.compare(FAST, "peer", *jobs, equal="", repeats=4)
    assert " ".join(calls) == "ours peer ours peer peer ours ours peer peer ours"


def test_the_first_run_of_each_is_not_counted_and_the_median_is_the_figure():
    found = result(FAST)
    assert found.ours == [40, 20, 30, 10, 50]
    assert (found.ours_median, found.peer_median) == (30, 10)


def test_a_larger_ratio_is_better_for_us_whatever_the_unit():
    assert result(FAST).ratio == 3.0
    assert result(FAST).met
    slow = result(SLOW)
    assert slow.ratio == pytest.approx(1 / 3, abs=1e-4)
    assert not slow.met


def test_a_result_has_the_fields_that_were_agreed_on():
    assert list(asdict(result(FAST))) == FIELDS.split()
    assert result(FAST).command == "python -m benchmarks B7.peer"
    assert {"cpu", "cores", "threads", "memory"} <= set(result(FAST).machine)
    assert {"python", "torch", "yanmo"} <= set(result(FAST).versions)


def test_a_result_is_kept_in_a_file_of_its_row_and_peer(tmp_path):
    kept = frame.save(result(FAST), tmp_path)
    assert kept.name == "B7.peer.json"
    assert frame.load(kept) == result(FAST)


def test_fewer_than_five_repeats_are_not_kept(tmp_path):
    short = frame.compare(FAST, "peer", figures(1, 2, 3), figures(1, 2, 3), equal="", repeats=2)
    with pytest.raises(InputError, match=r"B7.peer.json: 2 repeats, and at least 5 are kept"):
        frame.save(short, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ratio": 9.0}, "do not follow from the runs"),
        ({"ours_median": 31.0}, "do not follow from the runs"),
        ({"extra": 1}, "the fields extra are missing or unknown"),
        ({"peer": "other"}, r"holds the row of B7.other.json"),
    ],
)
def test_a_result_that_was_touched_is_refused(tmp_path, change, sentence):
    path = tmp_path / "B7.peer.json"
    path.write_text(json.dumps({**asdict(result(FAST)), **change}))
    with pytest.raises(FileError, match=sentence):
        frame.load(path)


def test_results_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("B10", "B2"):
        frame.save(replace(result(FAST), row=name), tmp_path)
    assert [r.row for r in frame.load_all(tmp_path)] == ["B2", "B10"]


def test_the_page_shows_medians_spread_goal_and_what_is_still_to_do():
    text = table.page([result(FAST), result(SLOW)], [FAST, SLOW, frame.Row("B9", "sleep", "s", {"bed": 2.0})])
    assert "| B7 | count sheep | peer | 30 sheep/s (10 to 50) | 10 sheep/s (10 to 30) | 3.00 | 1.5 | yes |" in text
    assert "| 0.33 | 1 | **no** |" in text
    assert "- equal: 300 sheep each\n" in text
    assert text.count("Not measured yet") == 1
    assert "- B9, sleep: against bed, goal 2\n" in text


def test_the_page_is_fresh():
    assert command.main(["--check"]) == 0


def test_a_stale_page_fails_the_check_and_is_mended_by_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "PAGE", tmp_path / "benchmarks.md")
    assert command.main(["--check"]) == 1
    assert "run python -m benchmarks --table" in capsys.readouterr().err
    assert command.main(["--table"]) == 0
    assert command.main(["--check"]) == 0


def test_without_arguments_the_rows_are_listed(capsys):
    assert command.main([]) == 0
    assert re.search(r"^B0.transformers-fp32: decode 100 tokens .* goal 1$", capsys.readouterr().out, re.M)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("B00", "no row 'B00' (nearest: 'B0')"),
        ("B0.transformers", "no peer 'transformers' (nearest: 'transformers-fp32')"),
    ],
)
def test_an_unknown_row_or_peer_is_one_sentence(capsys, name, sentence):
    assert command.main([name]) == 2
    assert sentence in capsys.readouterr().err


def test_results_on_disk_belong_to_rows():
    assert {r.row for r in frame.load_all()} <= set(command.ROWS)


def test_the_page_of_tasks_is_what_the_records_say():
    assert tasks.main(["--check"]) == 0
    assert tasks.main(["sst3"]) == 2


def test_the_first_row_checks_that_both_write_the_same(monkeypatch):
    small = {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 300, "bos_token_id": 299, "eos_token_id": 299}
    transformers = pytest.importorskip("transformers")
    found = b0.run("transformers-fp32", repeats=1, **small)
    assert found.equal.startswith("the same 100 token ids from both")
    monkeypatch.setattr(transformers.GPT2LMHeadModel, "generate", lambda self, ids, **options: ids)
    with pytest.raises(Error, match="do not write the same 100 tokens"):
        b0.run("transformers-fp32", repeats=1, **small)
