"""Ranges of ids: those of the library where it drops nothing, and no visible character outside of all of them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from yanmo.tokens.fast import MUCH
from yanmo.tokens.offsets import covered
from yanmo.tokens.tokenizer import Tokenizer, load_tokenizer

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PARTS = [
    "Café",
    "e\u0301",
    "世界",
    "你",
    "👩\u200d👧",
    "🇩🇪",
    "\u200b",
    " ",
    "  ",
    "\n",
    "ﬁ",
    "İ",
    "hello",
    ",",
    "</s>",
    "\u0301",
    "한",
]
TEXT = st.lists(st.sampled_from(PARTS), max_size=8).map("".join) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=20
)


def check(tokenizer: Tokenizer, text: str) -> None:
    """Ids are those of `encode`; ranges run with the text; what is in none is white space or touches no id."""
    ((ids, ranges),) = tokenizer.encode_offsets([text])
    assert ids == tokenizer.encode(text, add_special_tokens=False)
    real = [place for place in ranges if place[0] < place[1]]
    assert all(0 <= begin <= end <= len(text) for begin, end in ranges)
    assert all(one[0] <= two[0] and one[1] <= two[1] for one, two in zip(real, real[1:]))
    held = {place for begin, end in real for place in range(begin, end)}
    for place, letter in enumerate(text):
        if place not in held and not letter.isspace():
            assert not {place - 1, place + 1} & held, (text, place, ranges)


@pytest.mark.parametrize("kind", ["llama", "t5", "xlmr", "marian", "pair", "bert"])
@QUICK
@given(text=TEXT)
def test_ranges_hold_every_visible_character_of_the_text_in_order(request, kind, text):
    path = request.getfixturevalue(kind)
    check(load_tokenizer(path), text)


@pytest.mark.parametrize("kind", ["pair", "bert"])
@QUICK
@given(text=TEXT)
def test_ranges_are_the_librarys_but_for_what_it_drops(request, kind, text):
    tokenizer = load_tokenizer(request.getfixturevalue(kind))
    library: Library = tokenizer.engine.library
    for special in (False, True):
        theirs = library.encode(text, add_special_tokens=special)
        ((ids, ranges),) = tokenizer.encode_offsets([text], special)
        assert ids == theirs.ids
        for (begin, end), (first, last) in zip(ranges, theirs.offsets, strict=True):
            assert begin <= first and last <= end
            assert not text[begin:first].strip() or not _held(theirs.offsets, range(begin, first))
            assert not _held(theirs.offsets, range(last, end))


def _held(ranges: list[tuple[int, int]], places: range) -> bool:
    return any(first <= place < last for place in places for first, last in ranges)


def test_a_mark_belongs_to_the_letter_before_it_and_bytes_to_their_character(bert, pair_files, tmp_path):
    ((_, ranges),) = load_tokenizer(bert).encode_offsets(["cafe\u0301 世\u200b界"])
    assert [ranges[0], *ranges[-2:]] == [(0, 5), (6, 8), (8, 9)]
    folder = tmp_path / "bytes"
    folder.mkdir()
    (folder / "vocab.json").write_text(pair_files[0], "utf-8")
    (folder / "merges.txt").write_text(pair_files[1], "utf-8")
    ((ids, ranges),) = load_tokenizer(folder).encode_offsets(["x👧"])
    assert len(ids) == 5 and ranges == [(0, 1)] + [(1, 2)] * 4


def test_bytes_of_a_sentencepiece_model_have_their_character(llama):
    ((ids, ranges),) = load_tokenizer(llama).encode_offsets(["👧 a"])
    assert len(ids) == len(ranges) and ranges == [(0, 0), *[(0, 1)] * 4, (1, 3)]  # the library's mark before a text


def test_ranges_are_the_same_when_much_has_been_encoded(pair):
    text, fresh, used = "hello world, héllo", load_tokenizer(pair), load_tokenizer(pair)
    used.encode("hello " * (MUCH // 6 + 1), add_special_tokens=False)  # from here on `encode` uses the compiled library
    assert used.encode_offsets([text]) == fresh.encode_offsets([text])


def test_frames_have_empty_ranges(bert):
    ((ids, ranges),) = load_tokenizer(bert).encode_offsets(["hello"], add_special_tokens=True)
    assert len(ids) == 3 and ranges == [(0, 0), (0, 5), (0, 0)]


def test_what_touches_no_id_stays_outside():
    assert covered("a \u200b b", [(0, 1), (4, 5)]) == [(0, 1), (4, 5)]
    assert covered("\u200ba\u0301 b", [(1, 2), (4, 5)]) == [(0, 3), (4, 5)]
    assert covered("ab", [(0, 0), (0, 1), (0, 2), (1, 2), (0, 0)]) == [(0, 0), (0, 1), (0, 2), (1, 2), (0, 0)]
