"""The folder of a tour: what it accepts, what it refuses, what it keeps."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.errors import Error, FileError, InputError
from yanmo.tour.folder import STATE, check_minutes, locked, open_tour


def test_a_new_folder_is_made_and_named_in_the_state(tmp_path: Path) -> None:
    tour = open_tour(tmp_path / "a" / "b", ["x.txt"], 3)
    values = json.loads((tour.out / STATE).read_text("utf-8"))
    assert values["minutes"] == 3 and values["paths"] == [str(Path("x.txt").resolve())]


def test_a_stage_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    tour = open_tour(tmp_path / "t", [], 3)
    calls: list[int] = []
    work = lambda: calls.append(1) or {"value": 7}  # noqa: E731
    assert tour.do("corpus", work)["value"] == 7
    again = open_tour(tmp_path / "t", [], 3)
    assert again.do("corpus", work)["value"] == 7
    assert calls == [1]
    assert again.before >= tour.stages["corpus"]["seconds"]


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    tour = open_tour(tmp_path / "t", [], 3)
    with pytest.raises(KeyboardInterrupt):
        tour.do("corpus", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert open_tour(tmp_path / "t", [], 3).stages == {}


def test_another_text_or_another_budget_is_refused_with_the_remedy(tmp_path: Path) -> None:
    open_tour(tmp_path / "t", ["a.txt"], 3).do("corpus", dict)
    with pytest.raises(FileError, match="holds a tour of .*a.txt; remove the folder, or name another with --out"):
        open_tour(tmp_path / "t", [], 3)
    with pytest.raises(FileError, match="a tour of 3 minutes, not of 10"):
        open_tour(tmp_path / "t", ["a.txt"], 10)


def test_before_the_corpus_is_made_the_text_and_the_budget_may_change(tmp_path: Path) -> None:
    open_tour(tmp_path / "t", ["a.txt"], 3)
    assert open_tour(tmp_path / "t", [], 10).minutes == 10


def test_a_folder_with_something_else_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileError, match=r"holds something else \(thesis.tex\)"):
        open_tour(tmp_path, [], 3)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(FileError, match="a file, where --out needs a folder"):
        open_tour(tmp_path / "out", [], 3)
    with pytest.raises(FileError):
        open_tour(tmp_path / "out" / "inside", [], 3)
    with pytest.raises(FileError):
        open_tour("nul\0name", [], 3)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(FileError, match="cannot be written"):
        open_tour(tmp_path / "t", [], 3)


def test_what_a_killed_tour_was_writing_is_removed(tmp_path: Path) -> None:
    tour = open_tour(tmp_path / "t", [], 3)
    (tour.out / ".partial-x").mkdir()
    (tour.out / ".partial-y").write_text("half")
    open_tour(tmp_path / "t", [], 3)
    assert sorted(p.name for p in tour.out.iterdir()) == [STATE]


@pytest.mark.parametrize("minutes", [0, -1, 0.49, 1441, float("nan"), float("inf")])
def test_minutes_out_of_range_name_the_limits(minutes: float) -> None:
    with pytest.raises(InputError, match="from 0.5 to 1440 minutes"):
        check_minutes(minutes)


def test_two_tours_in_one_folder_do_not_mix(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with locked(tmp_path), pytest.raises(FileError, match="another tour is at work"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=80)
    | st.recursive(
        st.none() | st.floats() | st.text(max_size=5),
        lambda x: st.dictionaries(
            st.sampled_from(["format", "paths", "minutes", "spent", "stages"]), x | st.lists(x, max_size=2), max_size=5
        ),
        max_leaves=8,
    ).map(lambda v: json.dumps(v).encode())
)
def test_a_damaged_state_is_one_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("t")
    (folder / STATE).write_bytes(data)
    with pytest.raises(Error):
        open_tour(folder, [], 3)
