"""Objects with a text and marked spans → examples of extract: span JSONL, CLUENER, doccano, spaCy, tokens with tags.

    entities       rows → examples
    placed         start, end and surface → a Span of code points, or a Refused that says why not

An entity is {type, start, end} under the names that tools use, [start, end, type], or CLUENER's {type: {surface:
[[start, end]]}}. Where surfaces are given, they tell whether ends are inclusive, and offsets in UTF-16 units (of
JavaScript) are converted; an entity whose surface does not stand at its place is refused. Without surfaces ends are
exclusive, unless `ends` says "inclusive". Relations name their entities by place in the list or by `id`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yanmo.errors import InputError
from yanmo.tasks.columns import Row, named, value
from yanmo.tasks.examples import Bad, Example, Relation, Span
from yanmo.tasks.reading_files import File, Reading, Refused, Rows, fit, kind, short, whole

TEXT = ("text", "sentence", "content", "context", "文本", "data")
ENTITIES = ("entities", "spans", "label", "labels", "annotations", "ner", "entity", "实体")
TYPE = ("type", "label", "entity_type", "entity_group", "tag", "category", "class", "类型")
START = ("start", "start_offset", "start_idx", "begin", "start_pos", "startoffset", "开始")
END = ("end", "end_offset", "end_idx", "stop", "end_pos", "endoffset", "结束")
SURFACE = ("text", "entity", "surface", "word", "mention", "span", "value", "name", "文字")
RELATIONS = ("relations", "relation_list", "relation")
HEAD = ("head", "from_id", "from", "subject", "head_id", "h", "source", "arg1")
TAIL = ("tail", "to_id", "to", "object", "tail_id", "t", "target", "arg2")
KIND = ("type", "label", "relation", "predicate", "relation_type", "name")
NOTHING = frozenset(
    {"other", "no_relation", "no relation", "na", "n/a", "none", "unknown", "null", "no-relation", "无"}
)
VOTES = 500  # entities with a surface by which the meaning of ends is told
UTF16 = "entities are counted in UTF-16 units, and were converted to characters"
UNPLACED = "entities without offsets stand in several places; the first was taken"


def entities(file: File, rows: Sequence[Row], reading: Reading) -> Rows:
    """Yield an example for each object; relations where a row has them."""
    text_column, held_column = (_column(file, reading, rows, role) for role in ("text", "entities"))
    inclusive = _inclusive(file, rows, reading, text_column, held_column)
    reading.understood.columns.setdefault("text", text_column)
    reading.understood.columns.setdefault("entities", held_column)
    for line, row in rows:
        where = file.at(line)
        try:
            text = fit(value(row, text_column), "text")
            found = list(_items(value(row, held_column)))
            spans = tuple(_span(text, item, inclusive, where, reading) for item in found)
            related = next((row[name] for name in RELATIONS if name in row), None)
            relations = None if related is None else _relations(related, found)
            key, group = named(row, reading, where)
            yield Example(key, where, text, entities=spans, relations=relations, group=group)
        except Refused as refused:
            yield Bad(where, str(refused))


def _column(file: File, reading: Reading, rows: Sequence[Row], role: str) -> str:
    """The field of the text or of the entities: as the user says, or by known names."""
    said = reading.columns.get(role)
    sample = [row for _, row in rows[:100]]
    if said is not None:
        if not any(value(row, said) is not None for row in sample):
            raise InputError(f"{file.name}: no field {said!r} in its first rows; they have {_fields(sample)}")
        return said
    kinds = (list, dict) if role == "entities" else (str,)
    for name in ENTITIES if role == "entities" else TEXT:
        if any(isinstance(row.get(name), kinds) for row in sample):
            return name
    raise InputError(
        f"{file.name}: which field holds the {role} cannot be told; its rows have {_fields(sample)}; name it, as in "
        f"--column {role}=FIELD"
    )


def _fields(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    return ", ".join(map(short, names[:12])) or "no fields"


def has_entities(row: Mapping[str, Any]) -> bool:
    """Whether an object has a text, and beside it something that reads as entities."""
    held = [row[name] for name in ENTITIES if isinstance(row.get(name), (list, dict))]
    return bool(held) and any(isinstance(row.get(name), str) for name in TEXT)


def _items(held: Any) -> Iterator[dict[str, Any]]:
    """Entities in any of their forms → {"type", "start", "end", "surface", "id"}."""
    if held is None:
        return
    if isinstance(held, Mapping):
        yield from _by_type(held)
        return
    if not isinstance(held, list):
        raise Refused(f"its entities are {kind(held)}, no list")
    for item in held:
        if isinstance(item, Mapping):
            inner = item.get("labels")  # Label Studio's and Doccano's: one label in a list
            name = inner[0] if isinstance(inner, list) and len(inner) == 1 else _first(item, TYPE)
            names = {"start": START, "end": END, "surface": SURFACE, "id": ("id", "entity_id")}
            yield {"type": name} | {role: _first(item, known) for role, known in names.items()}
        elif isinstance(item, (list, tuple)) and len(item) >= 3:
            cells = list(item[:3])
            cells = cells[1:] + cells[:1] if isinstance(cells[0], str) and not isinstance(cells[2], str) else cells
            yield {"start": cells[0], "end": cells[1], "type": cells[2], "surface": None, "id": None}
        else:
            raise Refused(f"the entity {short(item)} is no object with type, start and end")


def _first(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((item[name] for name in names if item.get(name) is not None), None)


def _by_type(held: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """CLUENER's {type: {surface: [[start, end], …]}}, or {type: [surface, …]}."""
    for name, surfaces in held.items():
        if isinstance(surfaces, list):
            surfaces = {surface: [[None, None]] for surface in surfaces if isinstance(surface, str)}
        if not isinstance(surfaces, Mapping):
            raise Refused(f"the entities of {short(name)} are {kind(surfaces)}, no object of surfaces and places")
        for surface, places in surfaces.items():
            if not isinstance(places, list):
                raise Refused(f"the places of {short(surface)} are {kind(places)}, no list")
            for place in places:
                if not isinstance(place, list) or len(place) != 2:
                    raise Refused(f"a place of {short(surface)} is {short(place)}, where [start, end] is needed")
                yield {"type": name, "start": place[0], "end": place[1], "surface": surface, "id": None}


def _inclusive(file: File, rows: Sequence[Row], reading: Reading, text_column: str, held_column: str) -> bool:
    """Whether ends are the last character of entities: as the user says, or as most surfaces do."""
    said = reading.columns.get("ends")
    if said is not None:
        if said not in ("inclusive", "exclusive"):
            raise InputError(f"ends are {said!r}; say inclusive or exclusive")
        return said == "inclusive"
    votes = [0, 0]
    for _, row in rows:
        try:
            for item in _items(value(row, held_column)):
                text, surface = value(row, text_column), item["surface"]
                if isinstance(text, str) and isinstance(surface, str) and isinstance(item["start"], int):
                    end = whole(item["end"], "an end")
                    votes[0] += text[item["start"] : end] == surface
                    votes[1] += text[item["start"] : end + 1] == surface
        except Refused:
            continue
        if sum(votes) > VOTES:
            break
    if votes[1] > votes[0]:
        reading.note(f"{file.name}: the end of an entity is its last character, as its surfaces show")
    return votes[1] > votes[0]


def _span(text: str, item: Mapping[str, Any], inclusive: bool, where: str, reading: Reading) -> Span:
    name = item["type"]
    if isinstance(name, (int, float)) and not isinstance(name, bool):
        name = str(name)
    name = fit(name, "type of an entity").strip()
    surface = item["surface"] if isinstance(item["surface"], str) and item["surface"] else None
    if item["start"] is None and surface is not None:
        at = text.find(surface)
        if at < 0:
            raise Refused(f"the entity {short(surface)} is not in the text")
        if text.find(surface, at + 1) >= 0:
            reading.count(UNPLACED, where)
        return Span(name, at, at + len(surface))
    start = whole(item["start"], f"the start of the entity {short(surface or name)}")
    end = whole(item["end"], f"the end of the entity {short(surface or name)}") + inclusive
    return placed(text, Span(name, start, end), surface, where, reading)


def placed(text: str, span: Span, surface: str | None, where: str, reading: Reading) -> Span:
    """The span as it stands, or from UTF-16 units; Refused where it is outside or its surface is elsewhere."""
    start, end = span.start, span.end
    inside = 0 <= start < end <= len(text)
    if inside and (surface is None or text[start:end] == surface):
        return span
    if surface is not None and 0 <= start < end and not text.isascii():
        units = text.encode("utf-16-le")
        if units[2 * start : 2 * end] == surface.encode("utf-16-le"):
            begin = len(units[: 2 * start].decode("utf-16-le", "replace"))
            reading.count(UTF16, where)
            return Span(span.type, begin, begin + len(surface))
    if not inside:
        named = short(surface) if surface is not None else f"of type {short(span.type)}"
        what = "has no characters" if start >= end and start >= 0 else "is outside"
        raise Refused(f"the entity {named} from {start:,} to {end:,} {what}; the text has {len(text):,} characters")
    raise Refused(f"the text has {short(text[start:end])} from {start:,} to {end:,}, where {short(surface)} is stated")


def _relations(held: Any, items: Sequence[Mapping[str, Any]]) -> tuple[Relation, ...]:
    if not isinstance(held, list):
        raise Refused(f"its relations are {kind(held)}, no list")
    known: dict[str, int] = {}
    for place, item in enumerate(items):
        if item["id"] is not None:
            known[str(item["id"])] = -1 if str(item["id"]) in known else place
    found = []
    for item in held:
        if isinstance(item, Mapping):
            name, ends = _first(item, KIND), (_first(item, HEAD), _first(item, TAIL))
        elif isinstance(item, list) and len(item) == 3:
            cells = item[1:] + item[:1] if isinstance(item[0], str) and not isinstance(item[2], str) else item
            name, ends = cells[2], (cells[0], cells[1])
        else:
            raise Refused(f"the relation {short(item)} is no object with type, head and tail")
        name = fit(name, "type of a relation").strip()
        places = [_end(end, known, len(items)) for end in ends]
        if name.lower() not in NOTHING:
            found.append(Relation(name, places[0], places[1]))
    return tuple(dict.fromkeys(found))


def _end(held: Any, known: Mapping[str, int], count: int) -> int:
    if isinstance(held, Mapping):
        held = held.get("id")
    if isinstance(held, (str, int)) and str(held) in known:
        if known[str(held)] < 0:
            raise Refused(f"a relation names the entity {short(held)}, and several of the row have this id")
        return known[str(held)]
    place = whole(held, "an end of a relation")
    if known or not 0 <= place < count:
        raise Refused(f"a relation names the entity {place:,}, which is none of the row's {count:,}")
    return place
