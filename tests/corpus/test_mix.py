"""A mix gives each source its share, the same on every machine, and refuses what makes no mix."""

from __future__ import annotations

import pytest

from yanmo.corpus import mix
from yanmo.errors import ConfigError

SIZES = {"zh": 1_000, "en": 9_000}


def test_a_temperature_of_one_keeps_the_sizes_and_two_takes_their_roots():
    assert mix.temper(SIZES, 1) == pytest.approx({"zh": 0.1, "en": 0.9})
    assert mix.temper(SIZES, 2) == pytest.approx({"zh": 0.25, "en": 0.75})


def test_epochs_share_out_the_budget_by_weight():
    times = mix.epochs(SIZES, {"zh": 1, "en": 1}, 9_000)
    assert times == pytest.approx({"zh": 4.5, "en": 0.5})
    assert mix.epochs(SIZES, {"zh": 3}, 500) == pytest.approx({"zh": 0.5, "en": 0})


def test_documents_are_drawn_as_often_as_the_epochs_say():
    drawn = [mix.copies(4.25, "zh", str(number), 7) for number in range(4_000)]
    assert set(drawn) == {4, 5}
    assert sum(drawn) / 4_000 == pytest.approx(4.25, abs=0.05)
    assert {mix.copies(3, "zh", str(number), 7) for number in range(100)} == {3}
    assert {mix.copies(0, "zh", str(number), 7) for number in range(100)} == {0}


def test_more_epochs_never_draw_a_document_less_often():
    for number in range(200):
        counts = [mix.copies(times / 10, "zh", str(number), 1) for times in range(40)]
        assert counts == sorted(counts)


def test_shares_obtained():
    assert mix.obtained({"a": 3, "b": 1}) == {"a": 0.75, "b": 0.25}
    assert mix.obtained({"a": 0}) == {"a": 0.0}


@pytest.mark.parametrize("temperature", [0, 0.5, -1, float("nan"), float("inf")])
def test_a_temperature_below_one_is_refused(temperature):
    with pytest.raises(ConfigError, match="at least 1"):
        mix.temper(SIZES, temperature)


@pytest.mark.parametrize(
    "sizes, weights, budget, what",
    [
        ({}, {}, 1, "no source"),
        ({"a": 0}, {"a": 1}, 1, "size 0"),
        (SIZES, {"zz": 1}, 1, "no source"),
        (SIZES, {"zh": -1}, 1, "at least 0"),
        (SIZES, {"zh": float("nan")}, 1, "at least 0"),
        (SIZES, {"zh": 0}, 1, "above 0"),
        (SIZES, {"zh": 1}, 0, "at least 1"),
        (SIZES, {"zh": 1}, 10**9, "lower its weight"),
    ],
)
def test_what_makes_no_mix_is_one_sentence(sizes, weights, budget, what):
    with pytest.raises(ConfigError, match=what):
        mix.epochs(sizes, weights, budget)
