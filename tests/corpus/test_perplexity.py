"""Perplexity: text of the trusted kind before shuffled and foreign text, and a file that gives the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yanmo.corpus.perplexity import Model, bucket, load, score, scores, train
from yanmo.errors import FileError, InputError

NOUNS = ("ship", "house", "river", "letter", "captain", "lamp", "road", "garden")
VERBS = ("stood by", "looked at", "thought of", "went to", "came from")


def prose(number: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(f"The {rng.choice(NOUNS)} {rng.choice(VERBS)} the old {rng.choice(NOUNS)}." for _ in range(number))


def shuffled(text: str) -> str:
    words = text.split()
    return " ".join(np.random.default_rng(5).permutation(words))


@pytest.fixture(scope="module")
def model() -> Model:
    return train([prose(60, seed) for seed in range(20)])


def test_order_and_words_both_count(model: Model) -> None:
    right, wrong, foreign = (
        score(prose(40, 99), model),
        score(shuffled(prose(40, 99)), model),
        score("xyz qq " * 99, model),
    )
    assert 1 <= right < 0.5 * wrong
    assert right < foreign
    assert bucket(1.0, model) == "head"
    assert bucket(wrong, model) == "tail"


def test_unknown_words_are_no_likely_ones() -> None:
    rare = " ".join(f"once{k}" for k in range(600))  # unknown after unknown is then likely
    found = train([f"{prose(100, 1)} {rare}"])
    assert score(" ".join(f"never{k}" for k in range(100)), found) > score(prose(50, 2), found)


def test_thirds_of_the_reference_are_head_middle_and_tail() -> None:
    reference = [prose(20, seed) for seed in range(100, 130)]
    found = train([prose(60, 1)], reference)
    buckets = [bucket(value, found) for value in scores(reference, found)]
    assert [buckets.count(name) for name in ("head", "middle", "tail")] == [10, 10, 10]


def test_chinese_is_scored_by_characters() -> None:
    text = "船长站在栏杆旁边，他看着那些房子，想到还要写的那封信。"
    found = train([text * 3])
    assert score(text, found) < score(text[::-1], found)


def test_a_text_is_scored_the_same_in_any_company(model: Model) -> None:
    texts = [prose(3, 1), "", "unknown words alone", prose(50, 2)]
    assert scores(texts, model) == [score(text, model) for text in texts]
    assert scores([""], model) == [float("inf")]
    assert bucket(float("inf"), model) == "tail"


def test_a_file_gives_the_same_model(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "a.npz")
    found = load(tmp_path / "a.npz")
    found.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert score(prose(9, 3), found) == score(prose(9, 3), model)
    assert np.array_equal(found.borders, model.borders)


def test_an_n_gram_model_alone_is_no_perplexity_model(model: Model, tmp_path: Path) -> None:
    model.ngram.save(tmp_path / "a.npz")
    with pytest.raises(FileError, match="no readable perplexity model"):
        load(tmp_path / "a.npz")


def test_no_word_is_one_sentence() -> None:
    with pytest.raises(InputError, match="no word"):
        train(["...", ""])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**7), value=st.integers(1, 255))
def test_a_damaged_file_is_a_model_or_one_sentence(place: int, value: int, model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "a.npz")
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[place % len(data)] ^= value
    (tmp_path / "b.npz").write_bytes(data)
    try:
        assert score(prose(2, 1), load(tmp_path / "b.npz")) >= 1
    except FileError as error:
        assert "again" in str(error)
