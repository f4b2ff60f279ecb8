"""A folder of documents → passages that can be searched, each with the place where it stands.

In: paths of texts, in any format that the corpus room reads (corpus/text.py). Out: a `Library`.

    open_library   paths → Library; what could not be read is counted in its report
    find           questions → the passages that fit each best
    terms          a text → what is compared: words, and of Chinese its characters and pairs of them

Passages are ranked by BM25 (Robertson and Zaragoza 2009; k1 1.5, b 0.75), by the package bm25s (Lù 2024). Pairs of
characters found more than the words of a segmenter did (docs/log.md), and need none.

A passage ends at a blank line, a line, a sentence or a space, whichever is the last before its size; passages joined
are the document. Texts and index are in memory: while the index is made, some fifteen times the size of the documents.
"""

from __future__ import annotations

import bisect
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yanmo.corpus.documents import Document
from yanmo.corpus.ledger import ReadReport
from yanmo.corpus.sources import kind_of
from yanmo.corpus.text import border, read_documents
from yanmo.errors import FileError, InputError, need
from yanmo.tasks.metrics_answers import is_chinese

SIZE = 1200  # characters of a passage at most: some 250 tokens of English
DENSE = 400  # of Chinese, where a character is about a token
K1, B = 1.5, 0.75

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_UNSPACED = (
    "\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff"  # scripts without spaces: Thai to Burmese, Khmer, kana
)
_TERM = re.compile(f"[{_HAN}{_UNSPACED}]+|(?:(?![{_HAN}{_UNSPACED}])[^\\W_])+")
_DENSE_TERM = re.compile(f"[{_HAN}{_UNSPACED}]")
_PLURAL = re.compile("(?<=[a-z]{2}[a-rt-z])s$")


@dataclass(frozen=True)
class Passage:
    """A piece of a document: its file, the document's number in a file of several, and where the piece begins.

    start: characters of the document, whose lines end with one; line: counted from 1.
    """

    source: str
    document: int
    start: int
    line: int
    text: str
    title: str = ""

    def place(self, start: int, end: int) -> dict[str, Any]:
        """Where characters of this passage stand in its document, as predictions say it."""
        found: dict[str, Any] = {"source": self.source}
        if self.document > 1 or not _alone(self.source):
            found["document"] = self.document
        if self.title:
            found["title"] = self.title
        return found | {
            "start": self.start + start,
            "end": self.start + end,
            "line": self.line + self.text.count("\n", 0, start),
        }


class Hit(NamedTuple):
    """A passage, by its number in the library, and its score, above 0."""

    passage: int
    score: float


@dataclass(frozen=True)
class Library:
    """Passages with their index; `report` counts what was read, passed over and could not be read."""

    passages: list[Passage]
    index: Any
    terms: dict[str, int]
    report: ReadReport


def open_library(paths: Sequence[str | Path], size: int = 0) -> Library:
    """Read and index all documents behind the paths.

    size: characters of a passage at most; 0 takes 1,200, or 400 where a document is Chinese. Documents without a word
    are a FileError.
    """
    bm25s = need("bm25s", "tasks", "searching documents")
    if size < 0:
        raise InputError(f"passages of {size} characters are wanted, at least 1 is needed, or 0 for the usual size")
    report = ReadReport()
    passages = [passage for document in _whole(read_documents(paths, report)) for passage in _cut(*document, size)]
    known: dict[str, int] = {}
    ids = [[known.setdefault(term, len(known)) for term in terms(passage.text)] for passage in passages]
    if not known:
        failed = f" ({report.problems[0]['what']})" if report.problems else ""
        raise FileError(
            f"{', '.join(map(str, paths))}: no text with a word in it{failed}; name documents to answer from"
        )
    index = bm25s.BM25(method="lucene", k1=K1, b=B)
    index.index((ids, dict(known)), show_progress=False)
    return Library(passages, index, known, report)


def find(library: Library, questions: Sequence[str], count: int = 5) -> list[list[Hit]]:
    """The best passages for each question, best first, `count` at most; one without a word of the question is none."""
    if count < 1:
        raise InputError(f"{count} passages of a question are wanted, at least 1 is needed")
    if not questions:
        return []
    count = min(count, len(library.passages))
    found: list[list[Hit]] = []
    for question in questions:
        wanted = [library.terms[term] for term in terms(question) if term in library.terms]
        if not wanted:
            found.append([])
            continue
        scores = library.index.get_scores_from_ids(wanted)
        best = np.argsort(-scores, kind="stable")[:count]  # equal ones in the order of the documents
        found.append([Hit(int(number), float(scores[number])) for number in best if scores[number] > 0])
    return found


def terms(text: str) -> list[str]:
    """Words in lower case without the s of a plural; characters and pairs of them where a script has no spaces."""
    found: list[str] = []
    for term in _TERM.findall(unicodedata.normalize("NFKC", text).casefold()):
        if term[0] >= "\u0e00" and _DENSE_TERM.match(term):
            found += term
            found += [term[place : place + 2] for place in range(len(term) - 1)]
        else:
            found.append(_PLURAL.sub("", term) if term[-1] == "s" else term)
    return found


# --- documents → passages


def _alone(source: str) -> bool:
    """Whether a file of this name is one document."""
    kind = kind_of(source)
    return kind is not None and kind[0] in ("text", "html")


def _whole(documents: Iterator[Document]) -> Iterator[tuple[Document, int, str]]:
    """(document, its number in its file, its text); the pieces of one long text are put together again."""
    held: list[Document] = []
    number = 0
    for document in documents:
        same = bool(held) and held[0].source == document.source
        if held and not (same and _alone(document.source)):
            yield held[0], number, "".join(piece.text for piece in held)
            held = []
        number = number if held else (number + 1 if same else 1)
        held.append(document)
    if held:
        yield held[0], number, "".join(piece.text for piece in held)


def _cut(document: Document, number: int, text: str, size: int) -> Iterator[Passage]:
    """The passages of one document; those of white space alone are left out."""
    size = size or (DENSE if is_chinese(text[:10_000]) else SIZE)
    ends = [match.start() for match in re.finditer("\n", text)]
    begin = 0
    while begin < len(text):
        end = len(text) if len(text) - begin <= size else border(text, begin + size // 2, begin + size)
        part = text[begin:end]
        if part.strip():
            yield Passage(document.source, number, begin, bisect.bisect_left(ends, begin) + 1, part, document.title)
        begin = end
