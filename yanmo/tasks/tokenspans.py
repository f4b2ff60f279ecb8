"""Objects whose entities are counted in tokens → examples of extract: SpERT's and DyGIE's JSON, with relations.

    is_counted, counted      {"tokens", "entities": [{"type", "start", "end"}], "relations": [{"type", "head", "tail"}]}
    is_sentences, sentences  {"doc_key", "sentences", "ner": [[start, end, type]], "relations": [[s, e, s, e, type]]}

SpERT's ends are exclusive; DyGIE's are inclusive and counted through the document, whose sentences are examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yanmo.tasks.columns import Row
from yanmo.tasks.examples import Bad, Example, Relation, Span
from yanmo.tasks.reading_files import File, Reading, Refused, Rows, fit, identity, kind, short, whole
from yanmo.tasks.rebuilt import rebuild


def is_counted(row: Mapping[str, Any]) -> bool:
    """Whether an object has tokens, and entities that are objects with a start and an end."""
    held = row.get("entities")
    return (
        isinstance(row.get("tokens"), list)
        and isinstance(held, list)
        and all(isinstance(item, Mapping) and "start" in item and "end" in item for item in held)
    )


def is_sentences(row: Mapping[str, Any]) -> bool:
    """Whether an object is a document of sentences with entities."""
    return isinstance(row.get("sentences"), list) and isinstance(row.get("ner"), list)


def counted(file: File, rows: Sequence[Row], reading: Reading) -> Rows:
    """Yield SpERT's objects."""
    for line, row in rows:
        where = file.at(line)
        try:
            text, places = _tokens(row.get("tokens"))
            found = []
            for item in _list(row.get("entities"), "entities"):
                if not isinstance(item, Mapping):
                    raise Refused(f"the entity {short(item)} is no object with type, start and end")
                ends = whole(item.get("start"), "a start"), whole(item.get("end"), "an end")
                found.append(_span(item.get("type"), ends, places))
            relations = []
            for item in _list(row.get("relations"), "relations"):
                if not isinstance(item, Mapping):
                    raise Refused(f"the relation {short(item)} is no object with type, head and tail")
                head, tail = (whole(item.get(name), f"the {name} of a relation") for name in ("head", "tail"))
                if not (0 <= head < len(found) and 0 <= tail < len(found)):
                    raise Refused(f"a relation names the entities {head} and {tail}; it has {len(found)}")
                relations.append(Relation(fit(item.get("type"), "type of a relation"), head, tail))
            related = tuple(dict.fromkeys(relations)) if "relations" in row else None
            key = identity(row.get("orig_id", row.get("id")), where)
            yield Example(key, where, text, entities=tuple(found), relations=related)
        except Refused as refused:
            yield Bad(where, str(refused))


def sentences(file: File, rows: Sequence[Row], reading: Reading) -> Rows:
    """Yield the sentences of DyGIE's documents; a document is a group."""
    for line, row in rows:
        where = file.at(line)
        try:
            yield from list(_sentences(row, where))
        except Refused as refused:
            yield Bad(where, str(refused))


def _sentences(row: Mapping[str, Any], where: str) -> Iterator[Example]:
    held = _list(row.get("sentences"), "sentences")
    group = identity(row.get("doc_key", row.get("doc_id")), where)
    named = _each(row.get("ner"), len(held), "ner")
    related = _each(row.get("relations"), len(held), "relations") if "relations" in row else None
    begin = 0
    for number, tokens in enumerate(held):
        text, places = _tokens(tokens)
        spans: dict[tuple[int, int], int] = {}
        found: list[Span] = []
        for item in named[number]:
            first, last, type_ = _cells(item, 3, "entity")
            spans.setdefault((first, last), len(found))
            found.append(_span(type_, (first - begin, last - begin + 1), places))
        relations = []
        for item in related[number] if related else ():
            *ends, type_ = _cells(item, 5, "relation")
            sides = [spans.get((ends[0], ends[1])), spans.get((ends[2], ends[3]))]
            if sides[0] is None or sides[1] is None:
                raise Refused(f"the relation {short(item)} of sentence {number} is not between entities of it")
            relations.append(Relation(fit(type_, "type of a relation"), sides[0], sides[1]))
        yield Example(
            f"{group}#{number}",
            where,
            text,
            entities=tuple(found),
            relations=None if related is None else tuple(dict.fromkeys(relations)),
            group=group,
        )
        begin += len(tokens)


def _each(held: Any, count: int, what: str) -> list[list[Any]]:
    found = _list(held, what)
    if len(found) != count or not all(isinstance(item, list) for item in found):
        raise Refused(f"its {what} are not one list for each of its {count} sentences")
    return found


def _cells(item: Any, count: int, what: str) -> list[Any]:
    if not isinstance(item, list) or len(item) < count:
        raise Refused(f"the {what} {short(item)} is no list of {count - 1} places and a type")
    return [*(whole(cell, f"a place of {what} {short(item)}") for cell in item[: count - 1]), item[count - 1]]


def _list(held: Any, what: str) -> list[Any]:
    if held is None:
        return []
    if not isinstance(held, list):
        raise Refused(f"its {what} are {kind(held)}, no list")
    return held


def _tokens(held: Any) -> tuple[str, list[tuple[int, int]]]:
    if not isinstance(held, list) or not held or not all(isinstance(token, str) and token for token in held):
        raise Refused("its tokens are no list of texts with something in each")
    text, places = rebuild(held)
    return fit(text, "sentence"), places


def _span(type_: Any, ends: tuple[int, int], places: Sequence[tuple[int, int]]) -> Span:
    first, behind = ends
    if not 0 <= first < behind <= len(places):
        raise Refused(f"an entity reaches from token {first:,} to {behind:,}; there are {len(places):,} tokens")
    return Span(fit(type_, "type of an entity"), places[first][0], places[behind - 1][1])
