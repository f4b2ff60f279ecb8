"""Columns of tokens and tags → examples of extract, as CoNLL and its many followers write them.

In: a line a token, its tag in the last column (or as the user says: `token`, `tag` are columns from 1), an empty line
behind a sentence. Out: examples whose text is rebuilt from the tokens, with entities in its characters.

    is_columns      whether a text is of this kind
    columns         text → examples
    tokens          rows of token and tag lists → examples
    Layout          separator, columns and scheme as found

-DOCSTART-, "# newdoc" and "#doc" begin a document, which is the group of its sentences. A last digit of segments, as
Weibo's files carry behind each character, is taken off where all tokens have one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from yanmo.errors import FileError, InputError
from yanmo.tasks import schemes
from yanmo.tasks.columns import named, resolve, value
from yanmo.tasks.examples import Bad, Example, Span
from yanmo.tasks.reading_files import File, Reading, Refused, Rows, fit, short, together
from yanmo.tasks.rebuilt import characters, rebuild

SAMPLE = 2000  # lines from which is guessed
BLANKS = re.compile("[ \\t]+")
TAG = re.compile(r"O|o|[BIESMLUW][-_:.]\S+|\S+[-_:.][BIESMLUW]")
TOKENS = ("tokens", "words", "token", "chars", "characters")
WORD = ("word", "token", "字", "词")
SENTENCE = ("sentence #", "sentence", "sentence_id", "sent_id", "sentence_idx", "sentence id")
TAGS = ("ner_tags", "tags", "ner", "labels", "label", "ner_tag", "tag", "bio", "entities_tags")
DOCUMENT = "-DOCSTART-"
NEW = re.compile(r"#\s*(?:newdoc|doc|begin document)\b(?:\s+id)?[\s=(]*([^\s)]*)")
NAMED = re.compile(r"#\s*(?:sent_id|id)\s*[=:]?\s*(\S+)")
SEGMENTED = re.compile(r"((?s:.){1,4}?)[0-9]{1,2}")  # an emoji or a damaged character may be several
BROKEN = "tags stand out of their scheme's order; such entities begin at their first tag and end at their last"


@dataclass
class Sentence:
    """The tokens and tags of a sentence; `bad` says what is wrong with one of its lines."""

    line: int
    group: str
    name: str = ""
    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    bad: Bad | None = None


@dataclass(frozen=True)
class Layout:
    """Where in a line things stand, as places from 0; those of the sentence's id and group are None where it has none.

    separator: None for any run of blanks.
    """

    separator: str | None
    width: int
    token: int
    tag: int
    id: int | None = None
    group: int | None = None

    def cells(self, line: str) -> list[str]:
        if self.separator == "\t":
            return line.rstrip("\r").split("\t")
        if self.separator is not None:
            return line.rstrip("\r").split(self.separator)
        cells = BLANKS.split(line.rstrip(" \t\r"))  # other white space may be a token
        if not cells[0]:
            return [" ", *cells[1:]] if len(cells) == self.width else cells[1:]  # the token is a space
        return cells


def is_columns(text: str) -> bool:
    """Whether most lines end in a tag of a known scheme, and some lines are empty or few have another width."""
    lines = [line for line in text.split("\n", SAMPLE)[:SAMPLE] if line.strip() and not line.startswith("#")]
    cells = [BLANKS.split(line.rstrip(" \t\r")) for line in lines]
    cells = cells[1:] if _is_header(cells) else cells
    tagged = [row for row in cells if len(row) > 1 and TAG.fullmatch(row[-1])]
    return bool(cells) and len(tagged) >= 0.9 * len(cells)


def _is_header(cells: Sequence[Sequence[str]]) -> bool:
    """Whether the first line names the columns, and none of the others ends as it does."""
    return bool(cells) and cells[0][-1].lower() in TAGS and all(row[-1] != cells[0][-1] for row in cells[1:])


def columns(file: File, text: str, reading: Reading) -> Rows:
    """Yield the sentences of a file as examples; raises FileError where its tags are of several schemes."""
    layout = _layout(file, text, reading)
    spoken = "tabs" if layout.separator == "\t" else "blanks"
    reading.note(
        f"{file.name}: {layout.width} columns between {spoken}, token in column {layout.token + 1}, tag in column "
        f"{layout.tag + 1}"
    )
    places = {role: getattr(layout, role) for role in ("token", "tag", "id", "group")}
    reading.understood.columns |= {role: str(place + 1) for role, place in places.items() if place is not None}
    first = text.partition("\n")[0]
    if _is_header([layout.cells(line) for line in text.split("\n", SAMPLE)[:SAMPLE] if line.strip(" \t\r")]):
        reading.note(f"{file.name}: the first line names the columns")
        text = text[len(first) :]  # its end stays, so that lines keep their numbers
    yield from _examples(file, list(_sentences(file, text, layout)), reading)


def tokens(file: File, rows: Sequence[tuple[int, dict[str, Any]]], reading: Reading) -> Rows:
    """Yield rows that have a list of tokens and one of their tags, as tables of datasets have them."""
    sample = [row for _, row in rows[:100]]
    token = reading.columns.get("token") or _named(sample, TOKENS)
    tag = reading.columns.get("tag") or _named(sample, TAGS)
    if token is None or tag is None or not any(token in row and tag in row for row in sample):
        raise InputError(
            f"{file.name}: its rows have no lists of tokens and tags under these names; name token and tag"
        )
    reading.understood.columns |= {"token": token, "tag": tag}
    sentences = []
    for line, row in rows:
        held = Sentence(line, "")
        try:
            held.name, held.group = named(row, reading, file.at(line))
            held.bad = _lists(row.get(token), row.get(tag), file.at(line))
        except Refused as refused:
            held.bad = Bad(file.at(line), str(refused))
        if held.bad is None:
            held.tokens, held.tags, held.lines = list(row[token]), list(row[tag]), [line] * len(row[token])
        sentences.append(held)
    yield from _examples(file, sentences, reading)


def is_table(names: Sequence[str]) -> bool:
    """Whether a table has columns of words, tags and the sentences that they are of."""
    small = {name.lower() for name in names}
    return bool(small & set(WORD)) and bool(small & set(TAGS)) and bool(small & set(SENTENCE))


def table(file: File, names: Sequence[str], rows: Sequence[tuple[int, dict[str, Any]]], reading: Reading) -> Rows:
    """Yield the sentences of a table with a word a row; an empty cell of the sentence's name goes on with the last.

    Of a sentence's id and group the first row counts.
    """
    said = {role: resolve(reading.columns[role], names, file) for role in ("id", "group") if role in reading.columns}
    small = {name.lower(): name for name in reversed(names)}
    word, tag, name = (next(small[known] for known in all_ if known in small) for all_ in (WORD, TAGS, SENTENCE))
    reading.understood.columns |= {"token": word, "tag": tag} | said
    reading.note(f"{file.name}: a word a row, its sentence named by {name}")
    sentences: list[Sentence] = []
    last = ""
    for line, row in rows:
        if not sentences or (row[name].strip() and row[name] != last):
            last = row[name]
            own = value(row, said["id"]) if "id" in said else last
            sentences.append(Sentence(line, together(value(row, said["group"]) if "group" in said else None), own))
        held = sentences[-1]
        if row[word] and row[tag].strip():
            held.tokens.append(row[word])
            held.tags.append(row[tag].strip())
            held.lines.append(line)
        else:
            held.bad = held.bad or Bad(file.at(line), "its word or tag is empty")
    yield from _examples(file, sentences, reading)


def _named(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str | None:
    return next((name for name in names if any(isinstance(row.get(name), list) for row in rows)), None)


def has_tokens(row: dict[str, Any]) -> bool:
    """Whether an object has lists of tokens and tags of the same length."""
    token, tag = _named([row], TOKENS), _named([row], TAGS)
    return token is not None and tag is not None and len(row[token]) == len(row[tag])


def _lists(held: Any, tags: Any, where: str) -> Bad | None:
    if not isinstance(held, list) or not isinstance(tags, list) or not held:
        return Bad(where, "it has no list of tokens and no list of tags")
    if len(held) != len(tags):
        return Bad(where, f"it has {len(held):,} tokens and {len(tags):,} tags; each token needs one")
    if any(isinstance(tag, int) for tag in tags):
        return Bad(where, "its tags are numbers without names; write the names of tags, or use the data set's Parquet")
    if not all(isinstance(token, str) and token for token in held) or not all(isinstance(t, str) and t for t in tags):
        return Bad(where, "a token or tag of it is no text or empty")
    return None


def _examples(file: File, sentences: Sequence[Sentence], reading: Reading) -> Rows:
    good = [sentence for sentence in sentences if sentence.bad is None]
    scheme = _scheme(file, good)
    single = _segments(file, good, reading) or characters(token for s in good for token in s.tokens)
    reading.note(f"{file.name}: scheme {scheme.name}, tokens are {'characters' if single else 'words'}")
    for sentence in sentences:
        if sentence.bad is not None:
            yield sentence.bad
            continue
        where = file.at(sentence.line)
        written, places = rebuild(sentence.tokens, single)
        found, broken = schemes.spans(sentence.tags, scheme)
        try:
            fit(written, "sentence")
            entities = tuple(
                Span(fit(kind, "type of an entity"), places[first][0], places[behind - 1][1])
                for kind, first, behind in found
            )
        except Refused as refused:
            yield Bad(where, str(refused))
            continue
        for _ in range(broken):
            reading.count(BROKEN, where)
        yield Example(sentence.name or where, where, written, entities=entities, group=sentence.group)


def _layout(file: File, text: str, reading: Reading) -> Layout:
    lines = [line for line in text.split("\n", SAMPLE)[:SAMPLE] if line.strip() and not line.startswith("#")]
    tabs = sum("\t" in line for line in lines)
    said = reading.columns.get("delimiter")
    separator = {"tab": "\t", "space": None}.get(said, said) if said else ("\t" if tabs > 0.5 * len(lines) else None)
    probe = Layout(separator, 0, 0, 0)
    cells = [probe.cells(line) for line in lines]
    width = Counter(map(len, cells)).most_common(1)[0][0] if cells else 0
    if width < 2:
        raise FileError(f"{file.path}: no columns of tokens and tags; write a token, a tab and its tag in each line")
    rows = [row for row in cells if len(row) == width]
    token = _place(file, reading, "token", width) if "token" in reading.columns else int(width > 2 and _numbered(rows))
    tag = _place(file, reading, "tag", width) if "tag" in reading.columns else width - 1
    if "tag" not in reading.columns and sum(bool(TAG.fullmatch(row[-1])) for row in rows) < 0.5 * len(rows):
        tagged = [p for p in range(width) if sum(bool(TAG.fullmatch(row[p])) for row in rows) > 0.9 * len(rows)]
        tag = tagged[-1] if tagged else tag
    if token == tag:
        raise InputError(f"{file.name}: column {tag + 1} cannot be both token and tag; name two columns")
    held = {role: _place(file, reading, role, width) for role in ("id", "group") if role in reading.columns}
    return Layout(separator, width, token, tag, **held)


def _numbered(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first column counts tokens."""
    numbers = [int(row[0]) if row[0].isascii() and row[0].isdecimal() and len(row[0]) < 6 else -1 for row in rows]
    steps = sum(after == before + 1 or after in (0, 1) for before, after in zip(numbers, numbers[1:]))
    return len(numbers) > 2 and min(numbers) >= 0 and steps == len(numbers) - 1


def _place(file: File, reading: Reading, role: str, width: int) -> int:
    said = reading.columns[role]
    if not said.isdecimal() or not 1 <= int(said[:6]) <= width:
        raise InputError(f"{file.name}: no column {said!r} for the {role}; its columns are 1 to {width}")
    return int(said) - 1


def _sentences(file: File, text: str, layout: Layout) -> Iterator[Sentence]:
    document = 0
    group = ""
    held = Sentence(1, group)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip(" \t\r"):
            if held.tokens or held.bad:
                yield held
                held = Sentence(number + 1, group)
            continue
        cells = layout.cells(line)
        opening = NEW.match(line)
        if cells[0] == DOCUMENT or (opening and not held.tokens):
            if held.tokens or held.bad:
                yield held
            document += 1
            group = f"{file.name}#{(opening and opening[1]) or document}"
            held = Sentence(number + 1, group)
            continue
        if line.startswith("#") and not held.tokens and (len(cells) != layout.width or not TAG.fullmatch(cells[-1])):
            named = NAMED.match(line)
            held.name = named[1] if named else held.name
            continue
        if not held.tokens and held.bad is None:
            held.line = number
        _add(file, held, number, cells, layout)
    if held.tokens or held.bad:
        yield held


def _add(file: File, held: Sentence, number: int, cells: list[str], layout: Layout) -> None:
    if len(cells) != layout.width:
        why = f"it has {len(cells)} columns, where {layout.width} are expected"
    elif not cells[layout.token]:
        why = "its token is empty"
    elif not cells[layout.tag].strip():
        why = "its tag is empty"
    else:
        if not held.tokens:  # what a line says of its sentence, the first one does
            held.name = held.name if layout.id is None else cells[layout.id].strip()
            held.group = held.group if layout.group is None else cells[layout.group].strip()
        held.tokens.append(cells[layout.token])
        held.tags.append(cells[layout.tag].strip())
        held.lines.append(number)
        return
    held.bad = held.bad or Bad(file.at(number), why)


def _scheme(file: File, sentences: Sequence[Sentence]) -> schemes.Scheme:
    try:
        return schemes.guess(sentence.tags for sentence in sentences)
    except schemes.Mixed as mixed:
        line = next(line for s in sentences for line, tag in zip(s.lines, s.tags) if tag == mixed.tag)
        raise FileError(
            f"{file.name}:{line}: mixed schemes: the tag {short(mixed.tag)} {mixed}; write all tags in one scheme"
        ) from None


def _segments(file: File, sentences: Sequence[Sentence], reading: Reading) -> bool:
    """Take off the last digit of the tokens where all are a character and its place in a segment."""
    cut: list[list[str]] = []
    for sentence in sentences:
        found = [SEGMENTED.fullmatch(token) for token in sentence.tokens]
        if not all(found):
            return False
        cut.append([one[1] for one in found if one])
    if not characters(token for tokens in cut for token in tokens):
        return False
    for sentence, tokens in zip(sentences, cut):
        sentence.tokens = tokens
    reading.note(f"{file.name}: the digit behind each character counts its place in a word, and is left out")
    return True
