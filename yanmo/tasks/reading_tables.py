"""Tables as people have them → rows of named values: delimiter, quotation marks and header are found, or told.

In: the text of a CSV, a TSV or another file of lines. Out: a Table whose rows are {column: cell}, columns being the
names of the header, or "1", "2", … where there is none.

    table          text → Table
    labelled       lines of the form "label text" or "__label__a __label__b text" → Table
    is_header      whether the first row names the columns

A TSV is read as it stands unless quotation marks make its rows equally wide, or stand around every cell of a column:
tools that write TSV do not agree on them.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from yanmo.errors import FileError, InputError
from yanmo.tasks.examples import Bad
from yanmo.tasks.reading_files import MAX_CELL, File, Reading

DELIMITERS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
SETTINGS = ("delimiter", "quoting", "header", "encoding", "names", "ends")  # what `columns` may say beside roles
SAMPLE = 2000  # rows from which is guessed
SHORT = 40  # characters of a name of a column
NUMBER = re.compile(r"[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?")
FASTTEXT = "__label__"
LINES_A_LABEL = 5  # at least, on average, where first words are labels
LABELS_AT_MOST = 0.05  # of the lines are different first words, where first words are labels

# Names that columns have, by what they mean, in small letters; the first that is there counts.
KNOWN: dict[str, tuple[str, ...]] = {
    "text": (
        *("text", "sentence", "sentence1", "premise", "text_a", "text1", "question1", "query1", "content", "review"),
        *("comment", "tweet", "document", "body", "message", "utterance", "review_body", "reviewtext", "headline"),
        *("title", "sms", "query", "question", "input", "description", "v2", "abstract", "comment_text"),
        *("文本", "内容", "评论", "句子", "句子1", "标题", "正文"),
    ),
    "text_pair": (*("text_pair", "sentence2", "hypothesis", "text_b", "text2", "question2", "query2", "句子2"),),
    "label": (
        *("label", "labels", "class", "category", "sentiment", "intent", "topic", "emotion", "polarity", "gold_label"),
        *("stars", "rating", "target", "tag", "tags", "y", "v1", "coarse_label", "label_desc", "airline_sentiment"),
        *("label_gold", "overall", "is_duplicate", "标签", "类别", "分类", "情感"),
    ),
    "value": ("value", "score", "similarity", "similarity_score", "分数"),
    "id": ("id", "idx", "index", "guid", "uid", "qid", "pairid", "pair_id", "sentence_id", "编号", "unnamed: 0"),
    "group": ("group", "article", "article_id", "doc_id", "document_id", "docid", "conversation", "conversation_id"),
    "target": ("target", "translation", "output", "response", "ref", "reference", "summary", "completion", "tgt"),
    "question": ("question", "query", "问题"),
    "context": ("context", "passage", "paragraph", "document", "text", "article", "篇章", "段落"),
    "answer": ("answer", "answers", "answer_text", "答案"),
    "start": ("answer_start", "start"),
    "source": ("source", "src"),
}
ALL_KNOWN = {name for names in KNOWN.values() for name in names}


@dataclass
class Table:
    """Named columns and rows of (line, cells); `bad` are the rows that do not fit."""

    names: list[str]
    rows: list[tuple[int, list[str]]]
    bad: list[Bad]
    header: bool


def table(file: File, text: str, reading: Reading) -> Table:
    """Find delimiter, quotation marks, width and header, note them, and cut the text into cells."""
    delimiter = _delimiter(file, text, reading)
    quoted = _quoting(file, text, delimiter, reading)
    rows, bad = _cut(file, text, delimiter, quoted)
    if not rows:
        if bad:
            raise FileError(f"{bad[0].where}: {bad[0].reason}; no row of this file can be read")
        raise FileError(f"{file.path}: no rows in it; name a file of examples")
    width = Counter(len(cells) for _, cells in rows[:SAMPLE]).most_common(1)[0][0]
    first = rows[0][1]
    header = len(first) == width and is_header([cells for _, cells in rows[:SAMPLE]], reading.columns)
    names = _named(file, first) if header else [str(place) for place in range(1, width + 1)]
    spoken = next((name for name, sign in DELIMITERS.items() if sign == delimiter), repr(delimiter))
    reading.note(
        f"{file.name}: {width} columns between {spoken}{'' if spoken.endswith('s') else 's'}, "
        f"{'with' if quoted else 'without'} quotation marks, {'the first line names them' if header else 'no header'}"
    )
    kept = []
    for line, cells in rows[1:] if header else rows:
        if len(cells) == width:
            kept.append((line, cells))
        else:
            bad.append(Bad(file.at(line), f"it has {len(cells)} columns, where {width} are expected"))
    return Table(names, kept, bad, header)


def _named(file: File, first: list[str]) -> list[str]:
    names = [cell.strip() or str(place) for place, cell in enumerate(first, start=1)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise FileError(f"{file.path}: line 1 names the column {twice!r} twice; give each its own name")
    return names


def _delimiter(file: File, text: str, reading: Reading) -> str:
    said = reading.columns.get("delimiter")
    if said is not None:
        if said in DELIMITERS or len(said) == 1:
            return DELIMITERS.get(said, said)
        raise InputError(f"the delimiter {said!r} is no single character; name one of {', '.join(DELIMITERS)}")
    lines = [line for line in text.split("\n", SAMPLE) if line.strip()][:SAMPLE]
    tabs = sum("\t" in line for line in lines)
    if file.suffix == ".tsv" or (file.suffix != ".csv" and tabs > 0.9 * len(lines)):
        return "\t"
    if file.suffix == ".csv":
        return max((",", ";", "\t", "|"), key=lambda sign: _evenness(lines, sign))
    raise FileError(
        f"{file.path}: no table: {tabs:,} of its first {len(lines):,} lines hold a tab; separate the columns by tabs, "
        "name the file .csv, or say what the delimiter is"
    )


def _evenness(lines: list[str], sign: str) -> tuple[float, int]:
    """How many rows have the most common number of cells, if that is more than one; then how many cells those are."""
    rows, _ = _cells("\n".join(lines), sign, True)
    if not rows:
        return 0.0, 0
    width, count = Counter(len(cells) for _, cells in rows).most_common(1)[0]
    return (count / len(rows), width) if width > 1 else (0.0, 0)


def _quoting(file: File, text: str, delimiter: str, reading: Reading) -> bool:
    said = reading.columns.get("quoting")
    if said is not None:
        return _yes("quoting", said)
    if delimiter not in ("\t", " ") or '"' not in text:
        return delimiter not in ("\t", " ")
    plain, _ = _cut(file, text, delimiter, False)
    widths = {len(cells) for _, cells in plain}
    if len(widths) == 1:
        columns = zip(*(cells for _, cells in plain[1:] or plain))
        return any(all(len(c) > 1 and c[0] == c[-1] == '"' for c in column) for column in columns)
    try:
        quoted, bad = _cut(file, text, delimiter, True)
    except FileError:
        return False
    return not bad and len({len(cells) for _, cells in quoted}) == 1


def _yes(name: str, said: str) -> bool:
    if said not in ("yes", "no"):
        raise InputError(f"{name} is {said!r}; say yes or no")
    return said == "yes"


def _cut(file: File, text: str, delimiter: str, quoted: bool) -> tuple[list[tuple[int, list[str]]], list[Bad]]:
    if not quoted:
        rows, bad = [], []
        for number, line in enumerate(text.split("\n"), start=1):
            if len(line) > MAX_CELL and max(map(len, line.split(delimiter))) > MAX_CELL:
                bad.append(Bad(file.at(number), f"a cell of it has more than {MAX_CELL:,} characters"))
            elif line.strip():
                rows.append((number, line.split(delimiter)))
        return rows, bad
    rows, faults = _cells(text, delimiter, False)
    for number, why in faults:
        if "unexpected end" in why:
            raise FileError(
                f"{file.path}: the quotation mark opened in line {number:,} is never closed; close it, or say that the "
                "file is without quotation marks"
            )
    return rows, [Bad(file.at(number), _fault(why)) for number, why in faults]


def _fault(why: str) -> str:
    if "field limit" in why:
        return f"a cell of it has more than {MAX_CELL:,} characters"
    return f"it is not CSV ({why})"


def _cells(text: str, delimiter: str, sample: bool) -> tuple[list[tuple[int, list[str]]], list[tuple[int, str]]]:
    """Rows by the rules of CSV, each with its first line; and faults with theirs."""
    before = csv.field_size_limit(MAX_CELL)
    try:
        reader = csv.reader(_lines(text), delimiter=delimiter, strict=not sample)
        rows: list[tuple[int, list[str]]] = []
        faults: list[tuple[int, str]] = []
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return rows, faults
            except csv.Error as error:
                faults.append((line, str(error)))
                continue
            if cells and any(cell.strip() for cell in cells):
                rows.append((line, cells))
    finally:
        csv.field_size_limit(before)


def _lines(text: str) -> Iterator[str]:
    """Lines with their ends, one at a time: a copy of a large text is not made."""
    at = 0
    while at < len(text):
        end = text.find("\n", at) + 1 or len(text)
        yield text[at:end]
        at = end


def is_header(rows: Sequence[Sequence[str]], columns: dict[str, str]) -> bool:
    """Whether the first row names the columns: as the user says, by known names, or since it is unlike the others."""
    said = columns.get("header")
    if said is not None:
        return _yes("header", said)
    first = [cell.strip() for cell in rows[0]]
    asked = {name for role, name in columns.items() if role not in SETTINGS}
    if any(cell in asked and not cell.isdecimal() for cell in first):
        return True
    others = [row for row in rows[1:] if len(row) == len(first)]
    again = {place for place, cell in enumerate(first) if any(cell == row[place].strip() for row in others)}
    if any(cell.lower() in ALL_KNOWN and place not in again for place, cell in enumerate(first)):
        return True
    # A table that was written with the numbers of its rows leaves their column without a name
    if len(others) < 2 or len(set(first)) < len(first) or not all(0 < len(cell) <= SHORT for cell in first[1:]):
        return False
    for place, cell in enumerate(first):
        below = [row[place].strip() for row in others]
        if cell and not NUMBER.fullmatch(cell) and all(NUMBER.fullmatch(other) for other in below if other):
            return bool(any(below))
    names = all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", cell) for cell in first)
    long = [sum(len(row[place]) for row in others) / len(others) > 3 * len(cell) for place, cell in enumerate(first)]
    return names and all(long) and not again


def labelled(file: File, text: str, reading: Reading) -> Table | None:
    """Lines whose first words are labels, as fastText and older question sets have them; None where they are not."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    rows: list[tuple[int, list[str]]] = []
    if lines and all(line.startswith(FASTTEXT) for _, line in lines[:SAMPLE]):
        bad = []
        for number, line in lines:
            words = line.split(" ")
            count = next((i for i, word in enumerate(words) if not word.startswith(FASTTEXT)), len(words))
            if count:
                labels = "|".join(word.removeprefix(FASTTEXT) for word in words[:count])
                rows.append((number, [labels, " ".join(words[count:])]))
            else:
                bad.append(Bad(file.at(number), f"it does not begin with {FASTTEXT}"))
        reading.note(f"{file.name}: every line begins with its labels, marked by {FASTTEXT}")
        return Table(["labels" if any("|" in row[1][0] for row in rows) else "label", "text"], rows, bad, False)
    firsts = Counter(line.partition(" ")[0] for _, line in lines)
    few = 2 <= len(firsts) <= max(2, LABELS_AT_MOST * len(lines)) and len(lines) >= LINES_A_LABEL * len(firsts)
    if not few or any(" " not in line for _, line in lines):
        return None
    for number, line in lines:
        label, _, rest = line.partition(" ")
        rows.append((number, [label, rest]))
    reading.note(f"{file.name}: the first word of every line is its label ({len(firsts)} different ones)")
    return Table(["label", "text"], rows, [], False)
