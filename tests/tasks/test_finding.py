"""What long texts and overlapping entities need: each fast way against a plain one, and windows that cut entities."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from yanmo.errors import InputError
from yanmo.tasks import finding, nested, relating
from yanmo.tasks.examples import Relation, Span
from yanmo.tasks.relating import Class, Relating
from yanmo.tasks.tagging import Cell
from yanmo.tasks.tokenrows import Frame, Text, merged, windowed
from yanmo.tokens.batches import NO_TARGET


def words(count: int) -> Text:
    """A text of one-letter words, a token and a cell each."""
    ranges = [(2 * n, 2 * n + 1) for n in range(count)]
    return Text("a " * count, list(range(count)), ranges, [Cell(n, *place) for n, place in enumerate(ranges)])


def job(**more: object) -> finding.Job:
    values = {"types": ("A",), "nested": True, "crf": False, "words": True, "widest": 9, "length": 10, "stride": 2}
    return finding.Job(**values | {"relating": None} | more)  # type: ignore[arg-type]


def test_what_shares_cells_with_an_entity_that_a_window_cuts_is_not_learned_there() -> None:
    around = Frame([], [], 8, 2)
    rows, lost = finding.entity_documents(job(), words(12), [("A", 2, 6), ("A", 5, 9), ("A", 0, 0)], around)
    assert lost == 0 and windowed(words(12), around)[:1] == [(0, 8)]
    label = np.array(rows[0].label)
    assert (label == NO_TARGET).tolist() == [False] * 2 + [True] * 6
    for row in rows:
        codes = torch.from_numpy(np.array(row.label)[np.array(row.label) != NO_TARGET])
        spans = nested._spans(codes)
        assert bool((spans[:, 2] < len(codes)).all()), "a span that begins in a window ends in it"
        nested.loss([torch.zeros(len(codes), 2 * nested.WIDTH + 2)], [codes])


@trials(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(3, 30))
def test_of_crossing_spans_the_better_one_is_kept_wherever_they_are(seed: int, widest: int, count: int) -> None:
    values = torch.randn(2, count, count, generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nested, "worth", lambda *_: values)
        found = nested.decode(torch.zeros(count, 2 * nested.WIDTH + 4), ("A", "B"), widest)
    every = [(float(values[place]), *place) for place in np.ndindex(*values.shape)]
    right = [one for one in every if one[0] > 0 and one[2] <= one[3] < one[2] + widest]
    kept: list[tuple[float, int, int, int]] = []
    for one in sorted(right, reverse=True):
        crossed = any(a < c <= b < d or c < a <= d < b for (a, b), (c, d) in ((one[2:], k[2:]) for k in kept))
        if not crossed:
            kept.append(one)
    assert sorted(row[:3] for row in found) == sorted(("AB"[kind], first, last) for _, kind, first, last in kept)


@trials(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(2, 12), st.integers(0, 6), st.data())
def test_a_cell_is_read_in_the_window_that_shows_more_of_its_poorer_side(
    count: int, room: int, stride: int, data: st.DataObject
) -> None:
    around = Frame([7], [8], room, min(stride, room // 2))
    chosen = sorted(data.draw(st.sets(st.integers(0, count - 1))))
    text = Text("", list(range(count)), [], [Cell(token, token, token + 1) for token in chosen])
    spans = windowed(text, around)
    parts = [torch.arange(-1, end - begin + 1)[:, None].float() + 100 * n for n, (begin, end) in enumerate(spans)]
    found = merged(text, around, parts)[:, 0].tolist()
    assert len(found) == len(chosen)
    for token, score in zip(chosen, found, strict=True):
        number, place = divmod(int(score), 100)
        seen = [
            min(token - a if a else count, b - 1 - token if b < count else count) if a <= token < b else -1
            for a, b in spans
        ]
        assert place + spans[number][0] == token and seen[number] == max(seen)


@trials(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9), st.sampled_from("AB")), max_size=9), st.integers(1, 9))
def test_the_pairs_that_are_asked_are_those_of_all_pairs(drawn: list[tuple[int, int, str]], reach: int) -> None:
    text, around = words(24), Frame([], [], 12, 2)
    spans = [Span(kind, start, min(start + width, 48)) for start, width, kind in drawn if start < 48]
    known = Relating((Class("x", True),), (1, 2, 3, 4), reach, frozenset({("A", "A"), ("A", "B")}), {})
    inside = [[n for n, (a, b) in enumerate(text.ranges) if a < s.end and b > s.start] for s in spans]
    wanted = []
    for one, two in itertools.combinations(range(len(spans)), 2):
        first, second = sorted((one, two), key=lambda n: (spans[n].start, -spans[n].end, n))
        if inside[first] and inside[second] and (spans[first].type, spans[second].type) in known.types:
            wide = max(inside[first][-1], inside[second][-1]) + 1 - inside[first][0]
            if wide <= reach and wide + 4 <= around.room:
                places = [(inside[n][0], inside[n][-1] + 1) for n in (first, second)]
                wanted.append((first, second, *places))
    assert [tuple(pair) for pair in relating.asked(known, text, spans, around)] == wanted


def test_a_direction_that_training_never_showed_is_no_class() -> None:
    known = Relating((Class("x", True),), (1, 2, 3, 4), 9, frozenset({("A", "A")}), {})
    pair = relating.Pair(0, 1, (0, 1), (2, 3))
    assert relating.right(known, (Relation("x", 0, 1),), pair) == 1
    assert relating.right(known, (Relation("x", 1, 0),), pair) == 0
    assert finding.pair_loss(known, [finding.Asked(0, pair, torch.zeros(2))], [(Relation("x", 1, 0),)]) > 0


def test_an_entity_whose_type_is_no_text_is_named_so() -> None:
    with pytest.raises(InputError, match="the row '7': its entity 0 has the type 5; give a text"):
        relating.read_entities("7", "Rome", [{"type": 5, "start": 0, "end": 4}])


def test_tags_of_other_schemes_have_their_own_columns() -> None:
    labels = ("O", "B-X", "I-X", "L-X", "U-X")
    assert finding.job_of(labels, 32, 8).columns == (0, 1, 2, 3, 4)
    assert finding.job_of(("B-X", "M-X", "E-X", "S-X", "O"), 32, 8).columns == (4, 0, 1, 2, 3)
