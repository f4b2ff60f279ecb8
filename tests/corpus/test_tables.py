"""CSV and TSV: the column of texts is found and said, a wrong quote costs its own line, a huge cell is one loss."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus import lines, tables
from yanmo.corpus.ledger import ReadReport
from yanmo.corpus.tables import rows, text_column
from yanmo.corpus.text import read_documents
from yanmo.errors import FileError


def found(data: str, tabs: bool = False, limit: int = 10_000) -> list[tuple[int, list[str] | None]]:
    return list(rows(io.StringIO(data, newline=""), tabs, limit))


@given(st.lists(st.lists(st.text(max_size=6), min_size=2, max_size=2), min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_what_python_writes_is_read(table: list[list[str]]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerows(table)
    wanted = list(csv.reader(io.StringIO(out.getvalue(), newline="")))
    assert [values for _, values in found(out.getvalue())] == [values for values in wanted if values]


@given(st.text(alphabet='"",\n\r ab\t中', max_size=60), st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_text_is_rows_or_losses_and_ends(data: str, tabs: bool) -> None:
    for line, values in found(data, tabs, 30):
        assert line >= 1 and (values is None or len(values) >= 1)


def test_a_quote_that_is_never_closed_costs_its_line_alone() -> None:
    data = 'label,text\n1,good\n2,"open\n3,after\n4,"closed ""well"" here"\n5,last\n'
    assert found(data) == [
        (1, ["label", "text"]),
        (2, ["1", "good"]),
        (3, None),
        (4, ["3", "after"]),
        (5, ["4", 'closed "well" here']),
        (6, ["5", "last"]),
    ]


def test_a_quote_within_a_value_costs_its_line_alone() -> None:
    assert [values for _, values in found('a,b\n1,"x" y\n2,z\n')] == [["a", "b"], None, ["2", "z"]]
    assert [values for _, values in found("a,b\n1,2,3\n2,z\n")] == [["a", "b"], None, ["2", "z"]]


def test_a_cell_beyond_the_limit_is_one_loss_and_the_next_row_is_read() -> None:
    data = "a,b\n1," + "x" * 20_000 + "\n2,z\n" + '3,"' + "long\n" * 5000 + '"\n4,w\n'
    assert [values for _, values in found(data) if values][0] == ["a", "b"]
    kept = [values for _, values in found(data) if values is not None]
    assert ["2", "z"] in kept and kept[-1] == ["4", "w"] and any(values is None for _, values in found(data))


@pytest.mark.parametrize(
    ("names", "sample", "wanted"),
    [
        (["label", "text"], [], "text"),
        (["Review", "x"], [], "Review"),
        (["标签", "内容"], [], "内容"),
        (["a", "b"], [["1", "a sentence of some length"], ["2", "another one of that kind"]], "b"),
        (["a", "b"], [["1", "yes"], ["2", "no"]], None),
        (["a", "b"], [], None),
        (
            ["1", "a sentence that is so long that it can be no name of a column"],
            [["2", "a sentence of its own"]],
            None,
        ),
    ],
)
def test_the_column_of_texts(names, sample, wanted) -> None:
    assert text_column(names, sample) == wanted


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_guessed_column_is_said(tmp_path: Path, name: str) -> None:
    mark = "," if name == "a.csv" else "\t"
    (tmp_path / name).write_text("".join(mark.join(row) + "\n" for row in (("label", "Review"), ("1", "很好的书"))))
    with pytest.warns(UserWarning, match="the column 'Review' is taken for it"):
        documents = list(read_documents([tmp_path / name], ReadReport()))
    assert [document.text for document in documents] == ["很好的书"]


def test_a_table_without_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,4\n")
    with pytest.raises(FileError, match="its columns are x, y; rename the right one"):
        list(read_documents([tmp_path / "a.csv"], ReadReport()))


def test_the_books_count_bad_rows(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 1000)
    data = 'text,n\nfirst,1\n"open,2\nthird,3\n' + "x" * 3000 + ",4\nlast,5\n"
    (tmp_path / "a.csv").write_text(data)
    report = ReadReport()
    documents = list(read_documents([tmp_path / "a.csv"], report))
    assert [document.text for document in documents] == ["first", "third", "last"]
    assert sum(sum(reasons.values()) for reasons in report.failed.values()) == 2
    assert tables.SAMPLE > 5
