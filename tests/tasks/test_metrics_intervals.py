"""Intervals of figures: the fast way is the slow way, they cover what they should, groups are drawn whole."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from tests.tasks.test_metrics import labelled
from yanmo.tasks import metrics
from yanmo.tasks.examples import Answer, Example

pytest.importorskip("sklearn.metrics", reason="the extra [tasks] is not installed")


def test_the_fast_interval_is_that_of_the_slow_way():
    draw = random.Random(3)
    truth = [draw.choice("ab") for _ in range(80)]
    gold, rows = (
        labelled(truth),
        [{"id": str(i), "label": t if draw.random() < 0.8 else "a"} for i, t in enumerate(truth)],
    )
    right = np.array([row["label"] == t for row, t in zip(rows, truth)], float)
    slow = metrics.interval(lambda at: float(right[at].mean()), 80, seed=5)
    assert metrics.main_interval("classify", gold, rows, seed=5) == pytest.approx(slow)
    assert slow[0] < right.mean() < slow[1]
    odd = [metrics.interval(lambda at: float((right * np.arange(80))[at].sum()), 80, seed) for seed in (5, 5, 6)]
    assert odd[0] == odd[1] != odd[2]


def test_the_interval_covers_what_it_should():
    draw = np.random.default_rng(0)
    held = 0
    for seed in range(100):
        right = (draw.random(200) < 0.8).astype(float)
        low, high = metrics.interval(lambda at, r=right: float(r[at].mean()), 200, seed, rounds=300)
        held += low <= 0.8 <= high
    assert held >= 85  # of 100, and 95 on average


def test_groups_are_drawn_whole():
    gold = [Example(str(i), "f", "p", question="?", answers=(Answer("x", 0),), group=f"g{i // 20}") for i in range(100)]
    rows = [
        {"id": str(i), "answer": "x" if i < 40 else "y"} for i in range(100)
    ]  # an article is right or wrong as a whole
    wide = metrics.main_interval("answer", gold, rows)
    alone = metrics.main_interval("answer", [Example(**{**vars(e), "group": ""}) for e in gold], rows)
    assert wide[1] - wide[0] > 2 * (alone[1] - alone[0])
    assert metrics.sums("answer", gold, rows).value == pytest.approx(40)


def test_too_few_groups_are_not_drawn():
    gold = [Example(str(i), "f", "p", question="?", answers=(Answer("x", 0),), group=f"g{i // 50}") for i in range(100)]
    rows = [{"id": str(i), "answer": "xy"[i % 2]} for i in range(100)]
    low, high = metrics.main_interval("answer", gold, rows)
    assert not metrics.sums("answer", gold, rows).grouped and 35 < low < 45 and 55 < high < 65


def test_a_difference_is_paired():
    gold = labelled("ab" * 100)
    first = [{"id": e.id, "label": e.labels[0] if int(e.id) % 3 else "z"} for e in gold]
    second = [{**row, "label": gold[i].labels[0] if i < 30 else row["label"]} for i, row in enumerate(first)]
    gain, low, high = metrics.difference("classify", gold, first, second)
    assert gain == pytest.approx(10 / 200) and 0 < low < gain < high < 0.09


def test_intervals_of_many_rows_take_no_time():
    gold = labelled(["a", "b"] * 10_000)
    rows = [{"id": e.id, "label": "a"} for e in gold]
    before = time.process_time()
    assert metrics.main_interval("classify", gold, rows)[0] > 0.49
    assert time.process_time() - before < 20  # it takes 0.3 s; resampling Python's lists would take a minute
