"""CSV and TSV: rows out of a file whose quotes may be wrong, and the column that holds its texts.

In: an open file of text. Out: rows with the numbers of their lines; a row that is none is counted.

    rows           lines → (line, values), None for values that are no row
    text_column    names and the first rows → the name of the column of texts, or None

A quote that is never closed would swallow the rows after it: where a row turns out to be none, only its first line is
lost, and the lines after it are read again. A row longer than the limit is lost as a whole.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from yanmo.corpus.documents import TEXT_COLUMNS

SAMPLE = 50  # rows that a column is guessed by
LONG = 16  # bytes of UTF-8 that texts have on average; labels, names and numbers have fewer
AGAIN = 64  # lines of a broken row that are read again
NAME = 40  # characters of a column's name; a longer one is a text, so that the first line names no columns
USUAL = (
    "text",
    "content",
    "body",
    "sentence",
    "review",
    "comment",
    "message",
    "article",
    "document",
    "passage",
    "tweet",
    *("正文", "内容", "文本", "评论", "句子", "文章", "內容", "評論"),
)


class _Lines:
    """The lines of a file, some of which may be read again."""

    def __init__(self, lines: Iterable[str], limit: int) -> None:
        self.lines, self.limit = iter(lines), limit
        self.again: deque[str] = deque()
        self.row: list[str] = []  # those of the row that is being read
        self.number = self.size = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.again.popleft() if self.again else next(self.lines)
        self.number += 1
        self.size += len(line)
        if len(self.row) <= AGAIN:
            self.row.append(line)
        if self.size > self.limit:
            raise csv.Error("a row of too many characters")
        return line

    def begin(self) -> None:
        """A row begins."""
        self.row, self.size = [], 0

    def back(self) -> None:
        """Give the lines of a broken row back, all but the first."""
        if 1 < len(self.row) <= AGAIN:
            self.again.extendleft(reversed(self.row[1:]))
            self.number -= len(self.row) - 1


def rows(text: Iterable[str], tabs: bool, limit: int, width: int = 0) -> Iterator[tuple[int, list[str] | None]]:
    """(line, values) of each row that is not empty, `line` its first; None where the values are no row.

    tabs: values apart by tabs, without quotes. limit: characters of a row. width: values of a row at most, 0 for as
    many as the first has: a row with more has swallowed others, or lacks quotes.
    """
    csv.field_size_limit(limit)
    lines = _Lines(text, limit)
    while True:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines, strict=True)
        while True:
            lines.begin()
            first = lines.number + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error:
                lines.back()
                yield first, None
                break  # a reader that failed is not used again
            if width and len(values) > width:
                lines.back()
                yield first, None
            elif values:
                width = width or len(values)
                yield first, values


def text_column(
    names: Sequence[str], sample: Sequence[Sequence[str]], columns: Sequence[str] = TEXT_COLUMNS
) -> str | None:
    """The column of texts: the first of `columns` that is there.

    Where the user named none: else one with a usual name; else the longest, if it is long.
    """
    for name in columns:
        if name in names:
            return name
    if tuple(columns) != TEXT_COLUMNS or any(len(name) > NAME for name in names):
        return None
    usual = {name.strip().lower(): name for name in reversed(names)}
    for wanted in USUAL:
        if wanted in usual:
            return usual[wanted]
    sizes = {
        name: sum(len(row[place].encode("utf-8", "replace")) for row in sample if place < len(row)) / len(sample)
        for place, name in enumerate(names)
        if sample and name
    }
    longest = max(sizes, key=lambda name: sizes[name], default=None)
    return longest if longest is not None and sizes[longest] >= LONG else None
