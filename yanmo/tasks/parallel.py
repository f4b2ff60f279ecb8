"""Texts and their translations → examples of translate: two files of lines, tables, JSON, TMX.

In: files of which two of the same length are the two sides (train.en and train.de), or that hold both. Out: examples
whose `text` is the source and whose `target` is the translation.

    sided        files → pairs of files that are the two sides, and the files that hold both
    lines        two sides → examples
    rows         rows of a table or of JSON → examples
    is_tmx, tmx  a TMX file → examples; entities and document types that declare any are refused

The first file, column or language named is the source. `text` and `target` say otherwise: columns, or endings of files
("de"), or languages of TMX.
"""

from __future__ import annotations

import xml.parsers.expat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yanmo.errors import FileError, InputError
from yanmo.tasks import columns
from yanmo.tasks.columns import Row
from yanmo.tasks.examples import Bad, Example
from yanmo.tasks.reading_files import File, Reading, Refused, Rows, decode, fit, identity, load, short, together
from yanmo.tasks.reading_tables import KNOWN, NUMBER

SOURCE = ("source", "src", "source_text", "input", "original", "text", "sentence", "原文")
TARGET = ("target", "tgt", "translation", "target_text", "output", "translated", "trg", "ref", "reference", "译文")
BOTH = (".tsv", ".csv", ".json", ".jsonl", ".tmx", ".parquet", ".xml")
CODES = ("bpt", "ept", "it", "ph", "ut", "sub")  # inside a segment: codes of a layout, no text
BLOCK = 2**20


def sided(files: Sequence[File], reading: Reading) -> tuple[list[tuple[File, File]], list[File]]:
    """(source, target) pairs of files whose names differ in their ending alone, or which are the only two; the rest."""
    plain = [file for file in files if file.suffix not in BOTH]
    if len(plain) == 2 and len(files) == 2:
        return [_ordered((plain[0], plain[1]), reading)], []
    stems: dict[tuple[str, str], list[File]] = {}
    for file in plain:
        stems.setdefault((file.stem[0], file.bare.rpartition(".")[0]), []).append(file)
    pairs = [(held[0], held[1]) for held in stems.values() if len(held) == 2 and held[0].suffix != held[1].suffix]
    used = {id(file) for pair in pairs for file in pair}
    return [_ordered(pair, reading) for pair in pairs], [file for file in files if id(file) not in used]


def _ordered(pair: tuple[File, File], reading: Reading) -> tuple[File, File]:
    """The pair as the user says which ending is the source and which the target."""
    endings = [file.suffix.removeprefix(".") or file.name for file in pair]
    said = [reading.columns.get(role) for role in ("text", "target")]
    for name in said:
        if name is not None and name not in endings:
            raise InputError(
                f"{pair[0].name}, {pair[1].name}: none of them ends in {name!r}; name {' or '.join(endings)}"
            )
    if said[0] == endings[1] or said[1] == endings[0]:
        if said[0] == said[1]:
            raise InputError(f"source and target are both {said[0]!r}; name {' and '.join(endings)}")
        return pair[1], pair[0]
    return pair


def lines(pair: tuple[File, File], reading: Reading) -> Rows:
    """Yield line by line of two files; raises FileError where one is longer."""
    reading.format("two files of lines")
    columns.ignored(pair[0], reading, "text", "target")
    sides = []
    for file in pair:
        held = decode(file, load(file), reading).split("\n")
        sides.append(held[:-1] if held and not held[-1] else held)
    source, target = pair
    if len(sides[0]) != len(sides[1]):
        raise FileError(
            f"{source.name} has {len(sides[0]):,} lines and {target.name} has {len(sides[1]):,}; each line needs its "
            "translation in the same line of the other file"
        )
    reading.note(f"{source.name} is the source, {target.name} the target; line by line")
    for number, (text, translation) in enumerate(zip(*sides), start=1):
        yield _example(source.at(number), text, translation, None)


def _example(where: str, text: Any, translation: Any, key: Any, group: Any = "") -> Example | Bad:
    try:
        source, target = fit(text, "source"), fit(translation, "target")
        return Example(identity(key, where), where, source.strip(), target=target.strip(), group=together(group))
    except Refused as refused:
        return Bad(where, str(refused))


def rows(file: File, names: list[str], held: Sequence[Row], reading: Reading) -> Rows:
    """Yield rows with both sides, in two columns or as {"translation": {"en": …, "de": …}}."""
    inner = next((name for name in names if isinstance(held[0][1].get(name), Mapping)), None)
    if inner is not None:
        held = [
            (line, {**row[inner], "id": row.get("id")} if isinstance(row.get(inner), Mapping) else row)
            for line, row in held
        ]
        names = [str(name) for name in held[0][1] if name != "id"]
    roles = _roles(file, names, held, reading)
    reading.understood.columns |= roles
    unused = [name for name in names if name not in roles.values()]
    if unused:
        reading.note(f"{file.name}: not used: {', '.join(map(short, unused[:12]))}")
    for line, row in held:
        text, target = (columns.value(row, roles[role]) for role in ("text", "target"))
        key = columns.value(row, roles["id"]) if "id" in roles else row.get("id")
        group = columns.value(row, roles["group"]) if "group" in roles else ""
        yield _example(file.at(line), text, target, key, group)


def _roles(file: File, names: list[str], held: Sequence[Row], reading: Reading) -> dict[str, str]:
    roles = {
        role: columns.resolve(said, names, file)
        for role, said in reading.columns.items()
        if role in ("text", "target", "id", "group")
    }
    small = {name.lower(): name for name in reversed(names)}
    for role, known in (("text", SOURCE), ("target", TARGET)):
        found = next((small[name] for name in known if name in small and small[name] not in roles.values()), None)
        if role not in roles and found is not None:
            roles[role] = found
    sample = [row for _, row in held[:500]]
    texts = [name for name in names if name.lower() not in KNOWN["id"] and _is_text(name, sample)]
    texts = [name for name in texts if name not in roles.values()]
    for role in ("text", "target"):
        if role not in roles and texts:
            roles[role] = texts.pop(0)
    missing = next((role for role in ("text", "target") if role not in roles), None)
    if missing is not None or roles["text"] == roles["target"]:
        listed = ", ".join(map(short, names[:12]))
        raise InputError(
            f"{file.name}: which columns are the source and its translation cannot be told; its columns are {listed}; "
            "name text and target"
        )
    return roles


def _is_text(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    cells = [row.get(name) for row in rows]
    return any(isinstance(cell, str) and not NUMBER.fullmatch(cell.strip()) for cell in cells)


# --- TMX


def is_tmx(data: bytes) -> bool:
    """Whether bytes begin as a translation memory, in UTF-8 or UTF-16."""
    return b"<tmx" in data[:4096].replace(b"\0", b"")


class _Refused(Exception):
    """An XML that declares entities."""


def tmx(file: File, data: bytes, reading: Reading) -> Rows:
    """Yield the units of a translation memory that have both languages."""
    reading.format("TMX")
    columns.ignored(file, reading, "text", "target")
    languages: tuple[str, str] | None = None
    for line, header, unit in _units(file, data):
        where = file.at(line)
        languages = languages or _languages(file, header, list(unit), reading)
        sides = [_side(unit, language) for language in languages]
        if None in sides:
            reading.count(f"units without {' or '.join(languages)} are passed over", where)
            continue
        yield _example(where, sides[0], sides[1], unit.get("#id"))


def _side(unit: Mapping[str, str], language: str) -> str | None:
    """The text in a language; "en" is found where "en-GB" stands too."""
    small = language.lower()
    exact = next((text for name, text in unit.items() if name.lower() == small), None)
    return exact if exact is not None else next((t for n, t in unit.items() if n.lower().split("-")[0] == small), None)


def _languages(file: File, header: str, there: list[str], reading: Reading) -> tuple[str, str]:
    said = [reading.columns.get(role) for role in ("text", "target")]
    there = [name for name in there if name != "#id"]
    source = said[0] or next((name for name in there if name.lower() == header.lower()), there[0] if there else "")
    others = [name for name in there if name.lower() != source.lower() and name.lower().split("-")[0] != source.lower()]
    target = said[1] or (others[0] if len(others) == 1 else None)
    if target is None or not source:
        raise InputError(
            f"{file.name}: its first unit has the languages {', '.join(there) or 'none'}; name text and target, as in "
            "--column text=en --column target=de"
        )
    reading.note(f"{file.name}: from {source} to {target}")
    reading.understood.columns |= {"text": source, "target": target}
    return source, target


def _units(file: File, data: bytes) -> Iterator[tuple[int, str, dict[str, str]]]:
    """(line, language of the header, {language: text}) of every unit, read a block at a time."""
    held = _Units()
    parser = xml.parsers.expat.ParserCreate()
    parser.buffer_text = True
    parser.EntityDeclHandler = held.refuse
    parser.DefaultHandler = held.other
    parser.StartElementHandler = lambda name, attributes: held.start(name, attributes, parser.CurrentLineNumber)
    parser.EndElementHandler = held.end
    parser.CharacterDataHandler = held.text
    for at in range(0, len(data) or 1, BLOCK):
        try:
            parser.Parse(data[at : at + BLOCK], at + BLOCK >= len(data))
        except xml.parsers.expat.ExpatError as error:
            raise FileError(
                f"{file.name}:{error.lineno}: no XML that can be read "
                f"({xml.parsers.expat.ErrorString(error.code)}); mend the file"
            ) from None
        except (_Refused, LookupError, ValueError) as error:
            raise FileError(
                f"{file.name}:{parser.CurrentLineNumber}: {error or 'unknown encoding'}; mend the file"
            ) from None
        yield from held.ready
        held.ready.clear()


class _Units:
    """What is being read of a translation memory."""

    def __init__(self) -> None:
        self.ready: list[tuple[int, str, dict[str, str]]] = []
        self.header = self.language = ""
        self.unit: dict[str, str] | None = None
        self.line = self.codes = 0
        self.parts: list[str] | None = None

    def refuse(self, *_: Any) -> None:
        raise _Refused("it declares entities, which are not read in foreign files")

    def other(self, data: str) -> None:
        """A reference to an entity that an outer document would declare arrives here; text would be lost without it."""
        if data.startswith("&") and self.parts is not None:
            raise _Refused(f"the entity {short(data)} is not known; write the character itself")

    def start(self, name: str, attributes: dict[str, str], line: int) -> None:
        if name == "header":
            self.header = attributes.get("srclang", "")
        elif name == "tu":
            self.unit, self.line = {}, line
            if attributes.get("tuid"):
                self.unit["#id"] = attributes["tuid"]
        elif name == "tuv":
            self.language = attributes.get("xml:lang") or attributes.get("lang") or ""
        elif name == "seg" and self.unit is not None:
            self.parts, self.codes = [], 0
        elif name in CODES and self.parts is not None:
            self.codes += 1

    def end(self, name: str) -> None:
        if name == "seg" and self.parts is not None and self.unit is not None:
            if self.language:
                self.unit.setdefault(self.language, "".join(self.parts))
            self.parts = None
        elif name == "tu" and self.unit is not None:
            if len(self.unit) > ("#id" in self.unit):
                self.ready.append((self.line, self.header, self.unit))
            self.unit = None
        elif name in CODES and self.codes:
            self.codes -= 1

    def text(self, data: str) -> None:
        if self.parts is not None and not self.codes:
            self.parts.append(data)
