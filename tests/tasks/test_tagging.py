"""Entities of characters as tags, and back at the same characters."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.tasks.examples import Span
from yanmo.tasks.tagging import Tags, by_cells, cells, chosen, flat

TAGS = Tags(("LOC", "PER"))


def test_words_are_cells_at_their_first_token_and_characters_of_chinese_each():
    text = "Zoë's  e\u0301té 你好\u3000x"
    ranges = [(0, 2), (2, 3), (3, 4), (4, 5), (5, 9), (9, 11), (11, 13), (13, 14), (14, 16)]
    words = cells(text, ranges, words=True)
    assert [text[cell.start : cell.end] for cell in words] == ["Zoë", "'", "s", "e\u0301té", "你", "好", "x"]
    assert [cell.token for cell in words] == [0, 2, 3, 4, 6, 7, 8]
    pieces = cells(text, ranges, words=False)
    assert [text[c.start : c.end] for c in pieces] == ["Zo", "ë", "'", "s", "e\u0301", "té", "你", "好", "x"]


def test_tokens_of_one_character_are_one_cell():
    assert cells("a👧", [(0, 0), (0, 1), (1, 2), (1, 2), (1, 2)], words=False) == [(1, 0, 1), (2, 1, 2)]


def test_what_cells_cannot_say_is_counted_and_tokens_are_chosen_where_words_lose_entities():
    text, ranges = "Hauptbahnhof in Bonn", [(0, 5), (5, 12), (12, 15), (15, 20)]
    inside = Span("LOC", 5, 12)
    assert by_cells(text, [inside, Span("LOC", 16, 20)], cells(text, ranges, True)) == (
        [("LOC", 0, 0), ("LOC", 2, 2)],
        1,
    )
    assert by_cells(text, [inside], cells(text, ranges, False)) == ([("LOC", 1, 1)], 0)
    assert by_cells(" ", [Span("LOC", 0, 1)], []) == ([], 1)
    assert chosen([text], [ranges], [[Span("LOC", 16, 20)]])
    assert not chosen([text], [ranges], [[inside]])


def test_of_entities_that_share_cells_the_longest_stay():
    found = [("PER", 1, 1), ("LOC", 0, 2), ("PER", 4, 5), ("LOC", 5, 6), ("PER", 7, 7)]
    assert flat(found) == ([("LOC", 0, 2), ("PER", 4, 5), ("PER", 7, 7)], 2)


@st.composite
def placed(draw):
    count = draw(st.integers(1, 12))
    cuts = sorted(draw(st.sets(st.integers(0, count), max_size=6)))
    pairs = [pair for pair in itertools.pairwise(cuts) if draw(st.booleans())]
    return count, [(draw(st.sampled_from(TAGS.types)), first, last - 1) for first, last in pairs]


@settings(max_examples=100, deadline=None)
@given(placed())
def test_tags_give_the_entities_back_and_are_legal(case):
    count, found = case
    tags = TAGS.encode(found, count)
    first, last, step = TAGS.legal()
    assert TAGS.decode(tags) == found
    assert first[tags[0]] and last[tags[-1]] and all(step[one, two] for one, two in itertools.pairwise(tags))


@pytest.mark.parametrize(("one", "two", "fits"), [("O", "I-LOC", 0), ("B-LOC", "O", 0), ("B-LOC", "E-PER", 0)])
@pytest.mark.parametrize("more", [("E-LOC", "B-LOC", 1), ("B-PER", "I-PER", 1), ("S-LOC", "E-LOC", 0)])
def test_steps_that_are_legal(one, two, fits, more):
    names = TAGS.names
    step = TAGS.legal()[2]
    assert step[names.index(one), names.index(two)] == fits
    assert step[names.index(more[0]), names.index(more[1])] == more[2]
