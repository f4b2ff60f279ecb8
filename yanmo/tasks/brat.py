"""Texts with annotations beside them (brat's standoff: x.txt and x.ann) → examples of extract.

In: files of which some end in .ann. Out: one example a document, its entities and relations; the other files.

    paired       files → (text, annotation) pairs, and the files that are none
    document     a pair → an example

Of an entity in several pieces all from the first to the last character is taken: pieces are mostly what a line break
left. Where the surface beside an entity is not what stands in the text, the text counts, as long as most of it agrees.
Events, attributes and notes are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from yanmo.tasks import columns
from yanmo.tasks.examples import Bad, Example, Relation, Span
from yanmo.tasks.reading_files import File, Reading, Refused, decode, fit, load, short

LINE = re.compile(r"(?:[TREAMN#][0-9]+|\*)\t")
ENTITY = re.compile(r"(T[0-9]+)\t(\S+) ([0-9]+ [0-9]+(?:;[0-9]+ [0-9]+)*)(?:\t(.*))?", re.DOTALL)
RELATION = re.compile(r"R[0-9]+\t(\S+) \w+:([TE][0-9]+) \w+:([TE][0-9]+)\s*")
AGREE = 0.5  # share of characters of a surface that must stand at its place
DIFFERS = "surfaces of entities differ from the text at their place; the text counts"
PIECES = "entities are in several pieces; from the first to the last character is taken"
EVENTS = "relations of events are passed over"


def paired(files: Sequence[File]) -> tuple[list[tuple[File, File]], list[File]]:
    """(text, annotation) pairs and the files that belong to none; settings of the tool are left out."""
    texts = {file.stem: file for file in files if file.suffix == ".txt"}
    pairs, used = [], set()
    for file in files:
        if file.suffix == ".ann":
            text = texts.get(file.stem)
            if text is None and file.data is None and (beside := file.path.with_suffix(".txt")).is_file():
                text = File(beside, f"{file.name.removesuffix(file.suffix)}.txt")
            if text is not None:
                pairs.append((text, file))
                used |= {id(text), id(file)}
    return pairs, [file for file in files if id(file) not in used and (not pairs or file.suffix != ".conf")]


def document(text_file: File, file: File, reading: Reading) -> Example | Bad:
    """The example of a pair, or a Bad that names the line of the annotation."""
    columns.ignored(text_file, reading)
    text = decode(text_file, load(text_file), reading, exact=True)
    content = decode(file, load(file), reading)
    if not text.strip():
        return Bad(text_file.at(1), "the document is empty")
    if "\r\n" in text:  # some count the two characters of such a line end as one: whichever fits everywhere
        for form in (text, text.replace("\r\n", "\n")):
            scratch = Reading(reading.task, reading.columns, reading.understood)
            found = _document(text_file, file, (form, content), scratch)
            if isinstance(found, Example) and DIFFERS not in scratch.counts:
                text = form
                break
    return _document(text_file, file, (text, content), reading)


def _document(text_file: File, file: File, contents: tuple[str, str], reading: Reading) -> Example | Bad:
    text, content = contents
    entries: list[tuple[int, str]] = []
    for number, line in enumerate(content.split("\n"), start=1):
        if LINE.match(line):
            entries.append((number, line))
        elif line.strip() and entries:  # the surface went over a line
            entries[-1] = (entries[-1][0], f"{entries[-1][1]}\n{line}")
        elif line.strip():
            return Bad(file.at(number), f"{short(line)} is no annotation")
    spans: dict[str, Span] = {}
    at = 1
    try:
        fit(text, "document")
        for at, entry in entries:
            if entry.startswith("T"):
                name, span = _entity(entry, text, file.at(at), reading)
                if name in spans:
                    raise Refused(f"the entity {name} stands in it twice")
                spans[name] = span
        places = {name: place for place, name in enumerate(spans)}
        relations = []
        for at, entry in entries:
            if entry.startswith("R"):
                relations += _relation(entry, places, file.at(at), reading)
    except Refused as refused:
        return Bad(file.at(at), str(refused))
    where = text_file.at(1)
    name = text_file.name.removesuffix(text_file.path.name) + text_file.stem[1]
    held = tuple(dict.fromkeys(relations))
    return Example(name, where, text, entities=tuple(spans.values()), relations=held, group=name)


def _entity(entry: str, text: str, where: str, reading: Reading) -> tuple[str, Span]:
    found = ENTITY.fullmatch(entry)
    if found is None:
        raise Refused(f"{short(entry)} is no entity; T1, tab, type, start and end, tab, surface are needed")
    pieces = [tuple(map(int, piece.split(" "))) for piece in found[3].split(";")]
    start, end = min(piece[0] for piece in pieces), max(piece[1] for piece in pieces)
    if not 0 <= start < end <= len(text):
        raise Refused(f"the entity from {start:,} to {end:,} is outside; the text has {len(text):,} characters")
    if len(pieces) > 1:
        reading.count(PIECES, where)
    surface = "".join((found[4] or "").split())
    written = "".join("".join(text[begin:behind].split()) for begin, behind in pieces)
    if surface and surface != written:
        agreeing = sum(a == b for a, b in zip(surface, written))
        if agreeing < AGREE * max(len(surface), len(written)):
            raise Refused(f"the text has {short(written)} from {start:,} to {end:,}, where {short(surface)} is stated")
        reading.count(DIFFERS, where)
    return found[1], Span(found[2], start, end)


def _relation(entry: str, places: dict[str, int], where: str, reading: Reading) -> list[Relation]:
    found = RELATION.fullmatch(entry)
    if found is None:
        raise Refused(f"{short(entry)} is no relation; R1, tab, type, Arg1:T1, Arg2:T2 are needed")
    if "E" in (found[2][0], found[3][0]):
        reading.count(EVENTS, where)
        return []
    missing = next((name for name in (found[2], found[3]) if name not in places), None)
    if missing is not None:
        raise Refused(f"a relation names the entity {missing}, which is not there")
    return [Relation(found[1], places[found[2]], places[found[3]])]
