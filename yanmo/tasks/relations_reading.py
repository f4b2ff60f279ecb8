"""Sentences with related entities → examples of extract: SemEval-2010 task 8, CoNLL04, FewRel, TACRED, DuIE, tables.

    is_marked, marked        <e1>…</e1> and <e2>…</e2> in numbered sentences, the relation in the line below
    is_conll04, conll04      columns of number, token, tag, relations and the numbers of their other ends
    by_tokens                TACRED's and FewRel's objects: tokens, and where subject and object stand in them
    by_triples               DuIE's objects: a text and (subject, predicate, object) without places
    table                    rows of two names, their relation and a sentence

A relation is directed, from `head` to `tail`: Cause-Effect(e2,e1) goes from e2 to e1; TACRED's from subject to object.
"Other", "no_relation", "NA" and their like are no relations: `relations` is then ().
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from yanmo.errors import FileError, InputError
from yanmo.tasks import columns, schemes
from yanmo.tasks.columns import Row
from yanmo.tasks.examples import Bad, Example, Relation, Span
from yanmo.tasks.reading_files import File, Reading, Refused, Rows, fit, identity, kind, short, together, whole
from yanmo.tasks.rebuilt import rebuild
from yanmo.tasks.spanjson import NOTHING, UNPLACED

PLAIN = "entity"  # the type of entities whose file has none
MARKED = re.compile(r"\s*([0-9]+)[\t ]+\"?(.*<e1>.*)")
MARKS = re.compile(r"</?e[12]>")
DIRECTED = re.compile(r"(.+?)\((e[12]),\s*(e[12])\)")
NONE = "rows of {} are read as no relation"


def is_marked(text: str) -> bool:
    """Whether the first line with anything in it is a numbered sentence with <e1>."""
    first = next((line for line in text.split("\n", 20) if line.strip()), "")
    return MARKED.fullmatch(first) is not None


def marked(file: File, text: str, reading: Reading) -> Rows:
    """Yield numbered sentences; a file without the lines of relations (a test file) gives relations of None."""
    columns.ignored(file, reading)
    lines = text.split("\n")
    for place, line in enumerate(lines):
        if not line.strip() or line.lower().startswith("comment"):
            continue
        where = file.at(place + 1)
        found = MARKED.fullmatch(line)
        if found is None:
            if not any(MARKED.fullmatch(before) for before in lines[max(place - 1, 0) : place]):
                yield Bad(where, "it is neither a numbered sentence with <e1> and <e2> nor the relation below one")
            continue
        below = lines[place + 1].strip() if place + 1 < len(lines) else ""
        below = "" if MARKED.fullmatch(below) or below.lower().startswith("comment") else below
        try:
            yield _marked(found[1], found[2].rstrip(), below, where, reading)
        except Refused as refused:
            yield Bad(where, str(refused))


def has_marks(row: Mapping[str, Any]) -> bool:
    """Whether a value of a row is a sentence with <e1> and <e2>."""
    return any(isinstance(value, str) and "<e1>" in value and "<e2>" in value for value in row.values())


def marked_rows(file: File, rows: Sequence[Row], reading: Reading) -> Rows:
    """Yield rows of a marked sentence and its relation, as tables and Parquet files have them."""
    names = list(dict.fromkeys(name for _, row in rows[:100] for name in row))
    marked_in = next(n for n in names if any("<e1>" in str(row.get(n)) for _, row in rows[:100]))
    said = reading.columns.get("relation")
    known = [name for name in names if name.lower() in ("relation", "label", "class", "关系")]
    others = [name for name in names if name != marked_in]
    column = columns.resolve(said, names, file) if said else next(iter(known), others[-1] if others else "")
    reading.understood.columns |= {"text": marked_in, "relation": column}
    for line, row in rows:
        where = file.at(line)
        try:
            key, group = columns.named(row, reading, where)
            held = columns.value(row, column)
            below = "" if held is None else str(held).strip()
            example = _marked(key, fit(row.get(marked_in), "text"), below, where, reading)
            yield replace(example, group=group)
        except Refused as refused:
            yield Bad(where, str(refused))


def _marked(number: str, sentence: str, below: str, where: str, reading: Reading) -> Example:
    if sentence.count('"') % 2 and sentence.endswith('"'):
        sentence = sentence[:-1]
    places: dict[str, int] = {}
    parts: list[str] = []
    at = size = 0
    for mark in MARKS.finditer(sentence):
        parts.append(sentence[at : mark.start()])
        size += len(parts[-1])
        if places.setdefault(mark[0], size) != size:
            raise Refused(f"{mark[0]} stands in it twice")
        at = mark.end()
    parts.append(sentence[at:])
    if len(places) != 4:
        raise Refused("it needs <e1>, </e1>, <e2> and </e2>, each once")
    plain = fit("".join(parts), "text")
    entities = tuple(Span(PLAIN, places[f"<{name}>"], places[f"</{name}>"]) for name in ("e1", "e2"))
    if any(span.start >= span.end for span in entities):
        raise Refused("an entity of it has no characters between its marks")
    relations = None if not below else _directed(below, reading, where)
    return Example(number, where, plain, entities=entities, relations=relations)


def _directed(said: str, reading: Reading, where: str) -> tuple[Relation, ...]:
    if said.lower() in NOTHING:
        reading.count(NONE.format(short(said)), where)
        return ()
    found = DIRECTED.fullmatch(said)
    if found is None:
        return (Relation(said, 0, 1),)
    if found[2] == found[3]:
        raise Refused(f"the relation {short(said)} goes from {found[2]} to itself")
    return (Relation(found[1], int(found[2][1]) - 1, int(found[3][1]) - 1),)


def is_conll04(text: str) -> bool:
    """Whether the first line of columns has five, the fourth of them a list of names, the fifth one of numbers."""
    first = next((line for line in text.split("\n", 50) if line.strip() and not line.startswith("#")), "")
    return re.fullmatch(r"[0-9]+\t[^\t]+\t[^\t]+\t\[.*\]\t\[.*\]\s*", first) is not None


def conll04(file: File, text: str, reading: Reading) -> Rows:
    """Yield sentences with entities and relations between them; a relation is written at the last token of its head."""
    columns.ignored(file, reading)
    sentences: list[tuple[int, str, list[list[str]]]] = []
    name, begin = "", 1
    rows: list[list[str]] = []
    for number, line in enumerate([*text.split("\n"), "#doc"], start=1):
        if line.startswith("#doc") or not line.strip():
            if rows:
                sentences.append((begin, name, rows))
            rows, begin = [], number
            name = line.removeprefix("#doc").strip() if line.startswith("#doc") else name
            continue
        rows.append([*line.rstrip("\r").split("\t"), str(number)])
    tags = [[row[2] for row in held if len(row) == 6] for _, _, held in sentences]
    try:
        scheme = schemes.guess(tags)
    except schemes.Mixed as mixed:
        line = next(row[-1] for _, _, held in sentences for row in held if mixed.tag in row)
        raise FileError(f"{file.name}:{line}: mixed schemes: the tag {short(mixed.tag)} {mixed}") from None
    reading.note(f"{file.name}: number, token, tag, relations and their other ends; scheme {scheme.name}")
    for first, named, held in sentences:
        try:
            yield _conll04(file, named, first, held, scheme)
        except Refused as refused:
            yield Bad(file.at(first), str(refused))


def _conll04(file: File, name: str, line: int, rows: list[list[str]], scheme: schemes.Scheme) -> Example:
    odd = next((row for row in rows if len(row) != 6), None)
    if odd is not None:
        raise Refused(f"line {odd[-1]} has {len(odd) - 1} columns, where 5 are expected")
    if any(not row[1] for row in rows):
        raise Refused("a token of it is empty")
    text, places = rebuild([row[1] for row in rows])
    found, _ = schemes.spans([row[2] for row in rows], scheme)
    entities = tuple(
        Span(fit(type_, "type"), places[first][0], places[behind - 1][1]) for type_, first, behind in found
    )
    holder = {token: number for number, (_, first, behind) in enumerate(found) for token in range(first, behind)}
    numbers = {row[0]: place for place, row in enumerate(rows)}
    relations = []
    for place, row in enumerate(rows):
        names, ends = re.findall(r"'([^']*)'", row[3]), re.findall(r"[0-9]+", row[4])
        if len(names) != len(ends):
            raise Refused(f"line {row[-1]} has {len(names)} relations and {len(ends)} other ends")
        for kind_, end in zip(names, ends):
            if kind_ == "N" or kind_.lower() in NOTHING:
                continue
            if place not in holder or numbers.get(end) not in holder:
                raise Refused(f"line {row[-1]} relates token {row[0]} to token {end}, and one of them is in no entity")
            relations.append(Relation(kind_, holder[place], holder[numbers[end]]))
    where = file.at(line)
    return Example(
        name or where, where, fit(text, "text"), entities=entities, relations=tuple(dict.fromkeys(relations))
    )


# --- objects


def has_tokens(row: Mapping[str, Any]) -> bool:
    """Whether an object is TACRED's or FewRel's."""
    tokens = row.get("token", row.get("tokens"))
    if isinstance(row.get("text"), str) and all(isinstance(row.get(n), Mapping) and "pos" in row[n] for n in "ht"):
        return True  # OpenNRE's, counted in characters
    return isinstance(tokens, list) and ("subj_start" in row or ("h" in row and "t" in row))


def is_fewrel(value: Any) -> bool:
    """Whether a JSON value is {relation: [{tokens, h, t}, …]}."""
    if not isinstance(value, dict) or not value:
        return False
    first = next(iter(value.values()))
    return isinstance(first, list) and bool(first) and isinstance(first[0], dict) and has_tokens(first[0])


def fewrel(value: Mapping[str, Any], file: File) -> Iterator[Row | Bad]:
    """The objects of a FewRel file with their relation, by the number of the object in the file."""
    number = 0
    for name, held in value.items():
        if not isinstance(held, list):
            yield Bad(file.at(1), f"the sentences of {short(name)} are {kind(held)}, no list")
            continue
        for row in held:
            number += 1
            if isinstance(row, dict):
                yield number, row | {"relation": name}
            else:
                yield Bad(f"{file.name}#{number}", f"it is {kind(row)}, where an object is needed")


def by_tokens(file: File, rows: Sequence[Row], reading: Reading, sign: str = ":") -> Rows:
    """Yield TACRED's and FewRel's objects as examples; two entities each, the subject or head first."""
    for line, row in rows:
        where = f"{file.name}{sign}{line}"
        try:
            yield _by_tokens(row, where, reading)
        except Refused as refused:
            yield Bad(where, str(refused))


def _by_tokens(row: Mapping[str, Any], where: str, reading: Reading) -> Example:
    tokens = row.get("token", row.get("tokens"))
    if tokens is None and isinstance(row.get("text"), str):
        tokens = list(row["text"])
        text, places = row["text"], [(at, at + 1) for at in range(len(tokens))]
    elif not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise Refused("its tokens are no list of texts")
    else:
        text, places = rebuild(tokens)
    if "subj_start" in row:
        ends = [(row.get(f"{name}_start"), row.get(f"{name}_end"), row.get(f"{name}_type")) for name in ("subj", "obj")]
        bounds = [(whole(a, "a start"), whole(b, "an end") + 1, t) for a, b, t in ends]
    else:
        bounds = [_mention(row.get(name), name) for name in ("h", "t")]
    entities = []
    for first, behind, type_ in bounds:
        if not 0 <= first < behind <= len(tokens):
            raise Refused(f"an entity reaches from token {first:,} to {behind:,}; it has {len(tokens):,} tokens")
        name = fit(type_, "type of an entity") if isinstance(type_, str) and type_ else PLAIN
        entities.append(Span(name, places[first][0], places[behind - 1][1]))
        if entities[-1].start == entities[-1].end:
            raise Refused("an entity of it has no characters")
    said = row.get("relation")
    relations = None if said is None else _directed(fit(said, "relation"), reading, where)
    key, group = columns.named(row, reading, where)
    return Example(key, where, fit(text, "text"), entities=tuple(entities), relations=relations, group=group)


def _mention(held: Any, name: str) -> tuple[int, int, Any]:
    """The first mention of FewRel's [name, id, [[tokens], …]], or of {"pos": [first, behind]}."""
    if isinstance(held, list) and len(held) >= 3 and isinstance(held[2], list) and held[2]:
        tokens = held[2][0] if isinstance(held[2][0], list) else held[2]
        numbers = [whole(token, "a token") for token in tokens]
        if numbers and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return numbers[0], numbers[-1] + 1, None
    if isinstance(held, Mapping) and isinstance(held.get("pos"), list) and len(held["pos"]) == 2:
        return whole(held["pos"][0], "a start"), whole(held["pos"][1], "an end"), held.get("type")
    raise Refused(f"{name} is {short(held)}, where [name, id, [[tokens that follow each other]]] is needed")


def has_triples(row: Mapping[str, Any]) -> bool:
    """Whether an object is DuIE's."""
    return isinstance(row.get("text"), str) and isinstance(row.get("spo_list"), list)


def by_triples(file: File, rows: Sequence[Row], reading: Reading) -> Rows:
    """Yield DuIE's objects; an end that stands in the text several times is its first place, which is counted."""
    for line, row in rows:
        where = file.at(line)
        try:
            text = fit(row.get("text"), "text")
            spans: dict[Span, int] = {}
            relations = []
            for item in row.get("spo_list") or ():
                if not isinstance(item, Mapping):
                    raise Refused(f"a triple is {kind(item)}, no object")
                held = [(item.get("subject"), item.get("subject_type")), (item.get("object"), item.get("object_type"))]
                ends = [_found(text, _value(name), _value(type_), where, reading) for name, type_ in held]
                places = [spans.setdefault(span, len(spans)) for span in ends]
                relations.append(Relation(fit(item.get("predicate"), "predicate"), *places))
            related = tuple(dict.fromkeys(relations))
            key, group = columns.named(row, reading, where)
            yield Example(key, where, text, entities=tuple(spans), relations=related, group=group)
        except Refused as refused:
            yield Bad(where, str(refused))


def _value(held: Any) -> Any:
    return held.get("@value") if isinstance(held, Mapping) else held


def _found(text: str, name: Any, type_: Any, where: str, reading: Reading) -> Span:
    name = fit(name, "name of an entity")
    at = text.find(name)
    if at < 0:
        raise Refused(f"the entity {short(name)} is not in the text")
    if text.find(name, at + 1) >= 0:
        reading.count(UNPLACED, where)
    return Span(fit(type_, "type of an entity") if type_ else PLAIN, at, at + len(name))


# --- tables


def table(file: File, names: list[str], rows: Sequence[Row], reading: Reading) -> Rows:
    """Yield rows of two names, their relation and the sentence in which both stand."""
    roles = _roles(file, names, rows, reading)
    reading.understood.columns |= roles
    for line, row in rows:
        where = file.at(line)
        try:
            text = fit(row.get(roles["text"]), "text")
            spans = [_found(text, row.get(roles[role]), None, where, reading) for role in ("head", "tail")]
            relations = _directed(fit(row.get(roles["relation"]), "relation").strip(), reading, where)
            key, group = (columns.value(row, roles[role]) if role in roles else None for role in ("id", "group"))
            named, held = identity(key, where), tuple(spans)
            yield Example(named, where, text, entities=held, relations=relations, group=together(group))
        except Refused as refused:
            yield Bad(where, str(refused))


def _roles(file: File, names: list[str], rows: Sequence[Row], reading: Reading) -> dict[str, str]:
    """As the user says, by name, or by content: the sentence is longest, and the two names stand in it."""
    known: dict[str, tuple[str, ...]] = {}
    known |= {"head": ("head", "subject", "entity1", "e1", "主体"), "tail": ("tail", "object", "entity2", "e2", "客体")}
    known |= {"relation": ("relation", "label", "predicate", "关系"), "text": ("text", "sentence", "文本", "句子")}
    roles = {}
    for role, options in known.items():
        if role in reading.columns:
            roles[role] = columns.resolve(reading.columns[role], names, file)
        elif found := next((name for name in names if name.lower() in options), None):
            roles[role] = found
    for role in ("id", "group"):
        if role in reading.columns:
            roles[role] = columns.resolve(reading.columns[role], names, file)
    left = [name for name in names if name not in roles.values()]
    sample = [row for _, row in rows[:500]]
    if "text" not in roles and left:
        roles["text"] = max(left, key=lambda name: sum(len(str(row.get(name, ""))) for row in sample))
        left.remove(roles["text"])
    inside = [
        n for n in left if sum(str(r[n]) in str(r[roles["text"]]) for r in sample if r.get(n)) > 0.8 * len(sample)
    ]
    for role in ("head", "tail"):
        if role not in roles and inside:
            roles[role] = inside.pop(0)
            left.remove(roles[role])
    if "relation" not in roles and left:
        roles["relation"] = min(left, key=lambda name: len({str(row.get(name)) for row in sample}))
    missing = next((role for role in known if role not in roles), None)
    if missing is not None:
        listed = ", ".join(map(short, names[:12]))
        raise InputError(
            f"{file.name}: no tags of entities in it, and which column is the {missing} of a relation cannot be told; "
            f"its columns are {listed}; name text, head, tail and relation"
        )
    return roles
