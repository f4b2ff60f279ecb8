"""Repeated paragraphs: the first stays, whatever the size of buckets; damage is one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yanmo.corpus.engine_paragraphs import copies_of, find_copies
from yanmo.corpus.paragraphs import MIN_BYTES, MarkFile, Writer, paragraph_marks, paragraphs, without
from yanmo.errors import FileError, InputError

LONG = ["The first of the paragraphs is long enough to count as one of its own kind, they say."]
LONG += [line.replace("first", word) for line in LONG for word in ("second", "third", "fourth")]


def marked(path: Path, texts: list[str]) -> Path:
    writer = Writer(path)
    writer.add(texts)
    writer.close()
    return path


def cut(folder: Path, parts: list[list[str]], gone: list[bool] | None = None) -> list[list[str]]:
    """The parts without what came before."""
    marks = [marked(folder / f"{k}.marks", texts) for k, texts in enumerate(parts)]
    out = np.array(gone or [False] * sum(map(len, parts)))
    found = find_copies(marks, out, folder)
    return [
        [without(text, copies)[0] for text, copies in zip(texts, copies_of(*files))]
        for texts, files in zip(parts, zip(marks, found))
    ]


def test_a_paragraph_stays_where_it_came_first(tmp_path: Path) -> None:
    one = [LONG[0], f"{LONG[1]}\n\n{LONG[2]}"]
    other = [f"  {LONG[0].replace(' ', '  ')}\n", f"{LONG[2]}\n\nshort\n\n{LONG[3]}"]
    assert cut(tmp_path, [one, [], other]) == [one, [], ["", f"short\n\n{LONG[3]}"]]


def test_the_size_of_a_bucket_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    parts = [["\n\n".join(LONG[int(k)] for k in rng.integers(0, 4, 2)) for _ in range(9)] for _ in range(3)]
    whole = cut(tmp_path, parts)
    monkeypatch.setattr("yanmo.corpus.engine_spill.copies.__defaults__", (3,))
    assert cut(tmp_path, parts) == whole
    assert sorted(filter(None, "\n\n".join(map("\n\n".join, whole)).split("\n\n"))) == sorted(LONG)
    assert not list(tmp_path.glob("*tmp*"))


def test_paragraphs_of_a_document_that_is_gone_make_no_other_shorter(tmp_path: Path) -> None:
    texts = [LONG[0] + "\n\n" + LONG[1], LONG[0], LONG[1]]
    assert cut(tmp_path, [texts], [True, False, False])[0][1:] == texts[1:]
    assert cut(tmp_path, [texts])[0] == [texts[0], "", ""]


def test_short_paragraphs_never_count() -> None:
    assert paragraphs("Yes.\n\nNo.\n\n" + "x" * (MIN_BYTES - 1)) == []
    assert paragraphs("x" * MIN_BYTES) == [(0, MIN_BYTES)]
    assert len(paragraphs("汉" * 20 + "\n" + "汉" * 19)) == 1


def test_a_repeat_within_one_document_goes_too(tmp_path: Path) -> None:
    assert cut(tmp_path, [[f"{LONG[0]}\n{LONG[1]}\n{LONG[0]}\nend"]]) == [[f"{LONG[0]}\n{LONG[1]}\nend"]]


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
    data = bytearray(marked(tmp_path / "a", LONG[:2]).read_bytes())
    data[place % len(data)] ^= value
    cut_off = bytes(data[: length % (2 * len(data))])
    (tmp_path / "b").write_bytes(cut_off)
    try:
        MarkFile(tmp_path / "b")
    except FileError as error:
        assert "make them again" in str(error)
