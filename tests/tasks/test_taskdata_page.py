"""Every example of docs/taskdata.md is read as the page says, and both languages show the same ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from yanmo.tasks import reading

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
