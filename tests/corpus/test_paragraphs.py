"""Exact duplicates: the first by id stays, whatever the files and their order; damage is one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yanmo.corpus.paragraphs import MIN_BYTES, Repeats, Writer, paragraph_marks, paragraphs, repeated, without
from yanmo.errors import FileError, InputError

LONG = ["The first of the paragraphs is long enough to count as one of its own kind, they say."]
LONG += [line.replace("first", word) for line in LONG for word in ("second", "third", "fourth")]


def marked(path: Path, documents: dict[str, str]) -> Path:
    writer = Writer(path)
    writer.add(list(documents), list(documents.values()))
    writer.close()
    return path


def name(number: int) -> str:
    return f"{number:032x}"


def cut(documents: dict[str, str], found: Repeats) -> dict[str, str]:
    kept = {}
    for (key, text), again, copies in zip(documents.items(), found.documents, found.paragraphs):
        if not again:
            kept[key] = without(text, copies)[0]
    return kept


def test_a_document_and_a_paragraph_stay_where_the_id_is_least(tmp_path: Path) -> None:
    one = {name(5): LONG[0], name(2): f"{LONG[1]}\n\n{LONG[2]}"}
    other = {name(1): f"  {LONG[0].replace(' ', '  ')}\n", name(3): f"{LONG[2]}\n\nshort\n\n{LONG[3]}"}
    found = repeated([marked(tmp_path / "a", one), marked(tmp_path / "b", other)])
    assert cut(one, found[0]) == {name(2): one[name(2)]}  # 5 is a copy of 1
    assert cut(other, found[1]) == {name(1): other[name(1)].strip("\n"), name(3): f"short\n\n{LONG[3]}"}


def test_the_order_of_files_and_parts_change_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shards = [
        {name(int(rng.integers(1 << 60))): "\n\n".join(LONG[int(k)] for k in rng.integers(0, 4, 2)) for _ in range(9)}
        for _ in range(3)
    ]
    paths = [marked(tmp_path / str(k), shard) for k, shard in enumerate(shards)]
    whole = repeated(paths)
    for found in (repeated(paths, part=3), repeated(paths[::-1])[::-1]):
        for left, right in zip(whole, found):
            assert np.array_equal(left.documents, right.documents)
            assert all(map(np.array_equal, left.paragraphs, right.paragraphs))
    assert sum(int((~each.documents).sum()) for each in whole) <= 16


def test_an_old_corpus_comes_first(tmp_path: Path) -> None:
    old = marked(tmp_path / "old", {name(9): LONG[0]})
    new = {name(1): LONG[0], name(2): f"{LONG[0]}\n\n{LONG[1]}"}
    found = repeated([marked(tmp_path / "new", new)], old=[old])
    assert cut(new, found[0]) == {name(2): LONG[1]}


def test_paragraphs_of_a_repeated_document_make_no_other_shorter(tmp_path: Path) -> None:
    documents = {name(1): LONG[0] + "\n\n" + LONG[1], name(2): LONG[0] + "\n\n" + LONG[1], name(3): LONG[1]}
    found = repeated([marked(tmp_path / "a", documents)])
    assert cut(documents, found[0]) == {name(1): documents[name(1)], name(3): ""}


def test_short_paragraphs_never_count() -> None:
    assert paragraphs("Yes.\n\nNo.\n\n" + "x" * (MIN_BYTES - 1)) == []
    assert paragraphs("x" * MIN_BYTES) == [(0, MIN_BYTES)]
    assert len(paragraphs("汉" * 20 + "\n" + "汉" * 19)) == 1


def test_a_repeat_within_one_document_goes_too(tmp_path: Path) -> None:
    documents = {name(1): f"{LONG[0]}\n{LONG[1]}\n{LONG[0]}\nend"}
    found = repeated([marked(tmp_path / "a", documents)])
    assert cut(documents, found[0]) == {name(1): f"{LONG[0]}\n{LONG[1]}\nend"}


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab \n\t中\ud800"), max_size=400))
def test_taking_nothing_away_leaves_the_text(text: str) -> None:
    assert without(text, np.zeros(len(paragraph_marks(text)), bool)) == (text.strip("\n"), 0)


def test_marks_of_another_text_are_refused() -> None:
    with pytest.raises(InputError, match="another text"):
        without(LONG[0], np.zeros(3, bool))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), length=st.integers(0, 10**6))
def test_a_damaged_file_is_one_sentence(place: int, value: int, length: int, tmp_path: Path) -> None:
    data = bytearray(marked(tmp_path / "a", {name(1): LONG[0], name(2): LONG[1]}).read_bytes())
    data[place % len(data)] ^= value
    cut_off = bytes(data[: length % (2 * len(data))])
    (tmp_path / "b").write_bytes(cut_off)
    try:
        repeated([tmp_path / "b"])
    except FileError as error:
        assert "make them again" in str(error)
