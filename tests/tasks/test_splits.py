"""Splits: nothing of dev in train, groups whole, labels in their shares, the same on every machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yanmo.errors import InputError
from yanmo.tasks.examples import Answer, Example
from yanmo.tasks.splits import folds, same_text, split


def example(number: int, text: str | None = None, **rest) -> Example:
    return Example(str(number), f"f:{number}", text if text is not None else f"text {number}", **rest)


LABELLED = [example(n, labels=("rare",) if n % 50 == 0 else ("a" if n % 3 else "b",)) for n in range(1000)]


def test_labels_keep_their_shares():
    train, dev = split(LABELLED, 0.1, seed=3)
    assert len(train) + len(dev) == 1000 and abs(len(dev) - 100) <= 2
    whole, part = (Counter(e.labels for e in side) for side in (LABELLED, dev))
    assert all(abs(part[label] - whole[label] / 10) <= 1 for label in whole)


def test_the_same_seed_gives_the_same_split_and_another_one_another():
    first = [e.id for e in split(LABELLED, 0.1, seed=1)[1]]
    assert first == [e.id for e in split(LABELLED, 0.1, seed=1)[1]] != [e.id for e in split(LABELLED, 0.1, seed=2)[1]]
    assert first[:4] == ["2", "22", "28", "30"]  # on every machine


def test_groups_stay_together():
    examples = [example(n, group=f"article {n // 20}", answers=(Answer("x", 0),) if n % 3 else ()) for n in range(400)]
    train, dev = split(examples, 0.2)
    assert not {e.group for e in train} & {e.group for e in dev}
    assert 60 <= len(dev) <= 100


TEXTS = st.sampled_from(["One", "one ", "two", "Cafe\u0301", "café", "三", "four", "five", "six", "seven"])
EXAMPLES = st.lists(
    st.tuples(TEXTS, st.sampled_from(["", "", "g", "h"]), st.sampled_from("xyz")), min_size=1, max_size=40
)


@given(EXAMPLES, st.floats(0.05, 0.6), st.integers(0, 5))
def test_no_text_and_no_group_stands_on_both_sides(rows, share, seed):
    examples = [example(n, text, group=group, labels=(label,)) for n, (text, group, label) in enumerate(rows)]
    try:
        train, dev = split(examples, share, seed)
    except InputError as error:
        assert "sides are needed" in str(error)
        return
    assert train and dev
    if not any(e.group for e in examples):
        assert sorted([*train, *dev], key=examples.index) == examples
    assert not {same_text(e) for e in train} & {same_text(e) for e in dev}
    assert not {e.group for e in train if e.group} & {e.group for e in dev}


@pytest.mark.parametrize("seed", range(8))
def test_training_knows_every_label_of_dev(seed):
    rare = [
        example(n, group=f"article {n // 5}", labels=(f"kind {n // 5}" if n < 50 else "none", "common"))
        for n in range(100)
    ]
    alone = [example(n, labels=("once",) if n % 10 == 0 else ("often",)) for n in range(100, 110)]
    train, dev = split([*rare, *alone], 0.6, seed)
    assert dev and {label for e in dev for label in e.labels} <= {label for e in train for label in e.labels}


def test_a_line_that_all_articles_share_does_not_tie_them_together():
    examples = [
        example(n, "LONDON 1996-08-30" if n % 20 == 0 else None, group=f"article {n // 20}") for n in range(400)
    ]
    train, dev = split(examples, 0.2)
    assert (
        60 <= len(dev) <= 100 and len(train) + len(dev) == 400 - sum(n % 20 == 0 for n in range(400)) + len(dev) // 20
    )
    assert not {same_text(e) for e in train} & {same_text(e) for e in dev}


def test_folds_cover_everything_once():
    pairs = folds(LABELLED, 5, seed=1)
    assert sorted(int(e.id) for _, dev in pairs for e in dev) == list(range(1000))
    for train, dev in pairs:
        assert len(train) + len(dev) == 1000 and 196 <= len(dev) <= 204
        assert not {e.id for e in train} & {e.id for e in dev}
        assert 3 <= sum(e.labels == ("rare",) for e in dev) <= 5


def test_pairs_with_the_same_first_text_stay_together():
    pairs = [example(n, f"premise {n // 3}", text_pair=f"hypothesis {n % 3}", labels=("x",)) for n in range(300)]
    train, dev = split(pairs, 0.1)
    assert len(dev) == 30 and not {e.text for e in train} & {e.text for e in dev}
    one = [example(n, "the same", text_pair=f"hypothesis {n}", labels=("x",)) for n in range(30)]
    train, dev = split(one, 0.1)
    assert len(dev) == 3 and len(train) == 27


def test_values_are_dealt_by_their_size():
    examples = [example(n, value=n / 7) for n in range(200)]
    _, dev = split(examples, 0.1)
    assert len(dev) == 20 and [sum(e.value < bound for e in dev) for bound in (5.7, 11.4, 17.1, 22.8)] == [4, 8, 12, 16]


def test_conversations_with_the_same_question_stay_together():
    def talk(number: int, answer: str) -> Example:
        asked = [{"role": "user", "content": f"question {number // 2}"}, {"role": "assistant", "content": answer}]
        return example(number, "continue", messages=tuple(asked), target=answer)

    train, dev = split([talk(n, f"answer {n}") for n in range(40)], 0.2)
    assert len(dev) == 8 and not {same_text(e) for e in train} & {same_text(e) for e in dev}


def test_what_cannot_be_split_is_one_sentence():
    with pytest.raises(InputError, match="3 examples are of 1 group or different texts, and 2 sides are needed"):
        split([example(n, "same") for n in range(3)])
    with pytest.raises(InputError, match="the share of validation is 1.5"):
        split(LABELLED, 1.5)
    with pytest.raises(InputError, match="at least 2 folds, not 1"):
        folds(LABELLED, 1)


DEALT = """
import random
from yanmo.tasks.examples import Example
from yanmo.tasks.splits import folds
for seed in range(40):
    draw = random.Random(seed)
    labels = [tuple(draw.sample(["a", "b", "c", "d", "e", "f"], draw.randint(1, 4))) for _ in range(60)]
    examples = [Example(str(n), "", f"text {n}", labels=held) for n, held in enumerate(labels)]
    print([[e.id for e in dev] for _, dev in folds(examples, 5, seed)])
"""


def test_several_labels_are_dealt_the_same_in_every_process():
    dealt = [
        subprocess.run(
            [sys.executable, "-c", DEALT], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert dealt[0] == dealt[1] and dealt[0].count(b"\n") == 40
