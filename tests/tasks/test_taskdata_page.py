"""Every example of docs/taskdata.md is read as the page says, and both languages show the same ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yanmo.errors import Error
from yanmo.tasks import reading
from yanmo.tasks.understood import facts

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [DOCS / "taskdata.md", DOCS / "zh" / "taskdata.md"]
SHOWN = re.compile(r"^```text (\w+) (\S+)\n(.*?)^```", re.M | re.S)
ENGLISH, CHINESE = (SHOWN.findall(page.read_text("utf-8")) for page in PAGES)


def test_both_languages_show_the_same_examples():
    assert len(ENGLISH) > 20 and ENGLISH == CHINESE


@pytest.mark.parametrize(("task", "name", "content"), ENGLISH, ids=[name for _, name, _ in ENGLISH])
def test_an_example_is_read_as_the_page_says(tmp_path, task, name, content):
    (tmp_path / name).write_text(content, "utf-8")
    data = reading.read(task, tmp_path / name)
    assert data.examples and not data.bad
    for example in data.examples:
        held = {
            "classify": example.labels,
            "extract": example.entities,
            "answer": example.answers,
            "translate": example.target,
            "generate": example.messages,
        }
        assert held[task] is not None
        for span in example.entities or ():
            surface = example.text[span.start : span.end]
            assert surface and surface == surface.strip()


PIECES = [
    "",
    "\n",
    "\n\n",
    "\t",
    " ",
    '"',
    "'",
    ",",
    "[",
    "]",
    "{",
    "}",
    "null",
    "-1",
    "99",
    "1e999",
    "\\ud800",
    "\0",
    "O",
]
PIECES += [
    "B-X",
    "M-X",
    "<e1>",
    "</e2>",
    "é",
    "🙂",
    "\ufeff",
    "&x;",
    "[]",
    "{}",
    "true",
    '""',
    "\u2028",
    "#doc",
    "\x1b",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shown=st.sampled_from(ENGLISH),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), st.sampled_from(PIECES)), min_size=1, max_size=4),
    skip=st.booleans(),
)
def test_damage_to_an_example_gives_examples_or_an_error(tmp_path, shown, changes, skip):
    task, name, content = shown
    for share, length, piece in changes:
        place = int(share * len(content))
        content = content[:place] + piece + content[place + length :]
    (tmp_path / name).write_bytes(content.encode("utf-8"))
    try:
        data = reading.read(task, tmp_path / name, skip_bad=skip)
    except Error as error:
        assert "\n" not in str(error)
        return
    assert facts(data)
    for example in data.examples:
        assert all(0 <= span.start < span.end <= len(example.text) for span in example.entities or ())
        count = len(example.entities or ())
        assert all(0 <= place < count for r in example.relations or () for place in (r.head, r.tail))
        assert all(
            answer.start < 0 or example.text.startswith(answer.text, answer.start) for answer in example.answers or ()
        )
