"""Pairs of entities as marked rows: which are asked, where their marks stand, what class they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import yanmo
from yanmo.tasks import relating
from yanmo.tasks.examples import Example, Relation, Span
from yanmo.tasks.relating import Class, Relating
from yanmo.tasks.tokenrows import Frame, Text, read_texts

WORDS = ["ana", "met", "the", "old", "judge", "of", "rome", "in", "her", "long", "red", "car", "near", "a", "lake"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("words")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "[unused2]", "@", "#", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return yanmo.load_tokenizer(folder)


TEXT = " ".join(WORDS)
ENTITIES = (Span("Loc", TEXT.index("rome"), TEXT.index("rome") + 4), Span("Peop", 0, 3), Span("Peop", 8, 21))
EXAMPLE = Example("1", "f:1", TEXT, entities=ENTITIES, relations=(Relation("visits", 1, 0),))


def read(tokenizer) -> Text:
    return read_texts(tokenizer, [TEXT], True)[0]


def words(tokenizer, ids: list[int]) -> str:
    return " ".join(tokenizer.token(number) for number in ids)


def test_examples_say_classes_marks_reach_and_which_types_are_asked(tokenizer):
    known = relating.settle([EXAMPLE], tokenizer, [read(tokenizer)])
    assert known.classes == (Class("visits", True),) and known.types == {("Peop", "Loc")}
    assert known.reach == round(7 * relating.FAR) + 1
    assert words(tokenizer, list(known.marks)) == "[unused1] [unused2] @ #"
    assert relating.from_dict(json.loads(json.dumps(known.as_dict()))) == known


def test_marks_stand_around_both_entities_with_their_types(tokenizer):
    known = Relating(
        (Class("visits", True),), (5, 6, 7, 8), 99, frozenset({("Peop", "Loc")}), {"Loc": [9], "Peop": [10]}
    )
    around = Frame([2], [3], 30, 4)
    pairs = relating.asked(known, read(tokenizer), ENTITIES, around)
    assert [(pair.one, pair.two) for pair in pairs] == [(1, 0), (2, 0)]
    ids, first, second = relating.marked(known, read(tokenizer), ENTITIES, pairs[1], around)
    shown = words(tokenizer, ids)
    assert shown.startswith("[CLS] ana met [unused1] met the old judge [unused2] of @ ana rome # in")
    assert (tokenizer.token(ids[first]), tokenizer.token(ids[second])) == ("[unused1]", "@")
    assert relating.right(known, EXAMPLE.relations or (), pairs[0]) == 1
    assert relating.right(known, EXAMPLE.relations or (), pairs[1]) == 0
    assert relating.unsaid(EXAMPLE.relations or (), pairs) == 0
    assert relating.unsaid((*(EXAMPLE.relations or ()), Relation("knows", 0, 1), Relation("x", 1, 2)), pairs) == 2


def test_a_window_lies_around_a_pair_and_pairs_that_do_not_fit_are_not_asked(tokenizer):
    known = Relating((Class("x", True),), (5, 6, 7, 8), 99, frozenset({("a", "a")}), {})
    spans = [Span("a", TEXT.index("long"), TEXT.index("long") + 4), Span("a", TEXT.index("car"), TEXT.index("car") + 3)]
    around = Frame([2], [3], 9, 4)
    (pair,) = relating.asked(known, read(tokenizer), spans, around)
    ids, first, second = relating.marked(known, read(tokenizer), spans, pair, around)
    assert words(tokenizer, ids) == "[CLS] her [unused1] long [unused2] red @ car # near [SEP]"
    assert (first, second) == (2, 6)
    far = [spans[0], Span("a", 0, 3)]
    assert relating.asked(known, read(tokenizer), far, around) == []
    assert relating.asked(known, read(tokenizer), [*spans, Span("b", 0, 3)], around) == [pair]
    near = Relating(known.classes, known.marks, 2, known.types, {})
    assert relating.asked(near, read(tokenizer), spans, around) == []


def test_entities_that_lie_in_each_other_are_marked_inside_and_outside(tokenizer):
    known = Relating((Class("x", True),), (5, 6, 7, 8), 99, frozenset({("a", "a")}), {})
    begin = TEXT.index("old")
    spans = [Span("a", begin + 4, begin + 9), Span("a", begin, begin + 9)]
    (pair,) = relating.asked(known, read(tokenizer), spans, Frame([], [], 99, 4))
    ids, _, _ = relating.marked(known, read(tokenizer), spans, pair, Frame([], [], 99, 4))
    assert (pair.one, pair.two) == (1, 0)
    assert "the [unused1] old @ judge # [unused2] of" in words(tokenizer, ids)
