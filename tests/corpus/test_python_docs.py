"""The documentation that this Python has on disk."""

from __future__ import annotations

import sys

import pytest

from yanmo.corpus.clean import clean, reject
from yanmo.corpus.ledger import ReadReport
from yanmo.corpus.python_docs import LICENSE, module_text, python_documents, topics
from yanmo.errors import FileError

VERSION = f"python-{sys.version_info.major}.{sys.version_info.minor}"

MODULE = b'''# -*- coding: latin-1 -*-
"""The module.

Text:
    Indented.
"""
import os
if os.name == "nt":
    def windows(path, /, *, deep=False):
        """Only there."""
try:
    pass
except OSError:
    class Fallback:
        "A class in a handler, na\xefve."
        async def method(self):
            r"""A \\d method."""
            def inner():
                """Inside."""
        def silent(self):
            return "no docstring"
else:
    VALUE = """no docstring"""
'''


def test_docstrings_come_in_order_under_full_names():
    assert module_text(MODULE, "pack.mod").split("\n\n\n") == [
        "pack.mod\n\nThe module.\n\nText:\n    Indented.",
        "pack.mod.windows(path, /, *, deep=False)\n\nOnly there.",
        "pack.mod.Fallback\n\nA class in a handler, naïve.",
        "pack.mod.Fallback.method(self)\n\nA \\d method.",
        "pack.mod.Fallback.method.inner()\n\nInside.",
    ]
    assert module_text(b"x = 1", "empty") == ""


def test_topics_are_read_from_their_one_dictionary():
    assert topics(b"# comment\ntopics = {'if': 'The \"if\"\\n\\n   indented\\n'}\n") == {"if": 'The "if"\n\nindented'}
    assert topics(b"other = {}") == {}


@pytest.fixture(scope="module")
def found():
    report = ReadReport()
    return list(python_documents(report)), report


def test_this_python_documents_itself(found):
    documents, report = found
    sources = {document.source for document in documents}
    assert {f"{VERSION}/argparse", f"{VERSION}/json", f"{VERSION}/email.message", f"{VERSION}/topics/if"} <= sources
    assert len(sources) == len(documents) > 300
    assert {document.license for document in documents} == {LICENSE}
    assert {document.language for document in documents} == {"en"}
    assert sum(len(document.text.encode()) for document in documents) > 1_500_000
    assert not any(f"{VERSION}/{name}" in source for source in sources for name in ("test.", "test/", "site-packages"))
    assert report.bytes_read == report.bytes_total > 5_000_000
    assert len(report.inputs) > 300 and not report.failed


def test_it_is_text_that_cleaning_keeps(found):
    documents, _ = found
    assert sum(reject(clean(document.text)) is None for document in documents) >= 0.98 * len(documents)


def test_nothing_of_it_is_imported(found):
    assert "antigravity" not in sys.modules and "this" not in sys.modules


def test_a_python_without_sources_says_what_to_give(tmp_path):
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "__init__.py").write_text('"""Short."""', "utf-8")
    (tmp_path / "broken.py").write_text("def (:", "utf-8")
    with pytest.raises(FileError, match="bytes of documentation.*give a PATH"):
        python_documents(folder=tmp_path)
    with pytest.raises(FileError, match="give a PATH"):
        python_documents(folder=tmp_path / "absent")


def test_what_cannot_be_parsed_is_counted_and_left_out(tmp_path):
    (tmp_path / "broken.py").write_text("def (:", "utf-8")
    (tmp_path / "nul.py").write_bytes(b"x = 1\0")
    (tmp_path / "text.txt").write_bytes(b"\xff\xfe\xfd")
    (tmp_path / "deep.py").write_text("x = " + "(" * 5000 + ")" * 5000, "utf-8")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "also.py").write_text("def (:", "utf-8")
    (tmp_path / "good.py").write_text('"""' + "word " * 110_000 + '"""', "utf-8")
    report = ReadReport()
    documents = list(python_documents(report, tmp_path))
    assert [document.source for document in documents] == [f"{VERSION}/good"]
    assert sorted(report.failed) == [f"{VERSION}/{name}" for name in ("broken.py", "deep.py", "nul.py", "text.txt")]
