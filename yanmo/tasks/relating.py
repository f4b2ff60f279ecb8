"""Relations between two entities of a text: which pairs are asked, and how a pair is shown to the network.

In: texts with entities, and in training relations. Out: rows of ids with marks around two entities, and classes.

    Relating       what a model knows of relations: classes, marks, which pairs are worth asking
    classes_of     training examples → classes
    settle         training examples → Relating
    asked          entities of a text → the pairs that are asked, in the order of the text
    marked         a pair → ids with marks, and the places of the two opening marks
    right          the class of a pair

A pair is one row: the text, with marks before and behind both entities; the network's states at the two opening marks
are what the head reads (Baldini Soares et al. 2019, "Matching the Blanks", entity markers with entity start). The head
is a matrix with two columns for each class, of which one is read at the first mark and one at the second: their sum is
a matrix over both states together. Each pair is asked once, and a class is a type with its direction, or none.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from yanmo.errors import InputError
from yanmo.tasks.examples import Example, Relation, Span
from yanmo.tasks.tokenrows import Frame, Text
from yanmo.tokens.tokenizer import Tokenizer

SIGNS = "@#$*^~&%<>|+=/\\;:!?-,.()[]{}_'\""  # marks of a vocabulary without unused tokens
FAR = 1.25  # pairs are asked up to this times the largest distance of related ones


class Class(NamedTuple):
    """A relation with its direction: whether the entity that stands first in the text is its head."""

    type: str
    forward: bool


@dataclass(frozen=True)
class Relating:
    """What a model knows of relations.

    marks: ids before and behind the first entity, before and behind the second. reach: tokens from the first entity's
    begin to the second one's end, of pairs that are asked. types: pairs of types that are asked. written: ids of the
    type of an entity, which stand behind its opening mark; none where entities have no types.
    """

    classes: tuple[Class, ...]
    marks: tuple[int, int, int, int]
    reach: int
    types: frozenset[tuple[str, str]]
    written: dict[str, list[int]]

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        pairs = sorted(map(list, self.types))
        classes = [[one.type, one.forward] for one in self.classes]
        return {
            "classes": classes,
            "marks": list(self.marks),
            "reach": self.reach,
            "types": pairs,
            "written": self.written,
        }


def from_dict(values: dict[str, Any]) -> Relating:
    """The same from JSON."""
    classes = tuple(Class(type_, forward) for type_, forward in values["classes"])
    types = frozenset((one, two) for one, two in values["types"])
    return Relating(classes, tuple(values["marks"]), values["reach"], types, values["written"])


def classes_of(examples: Sequence[Example]) -> tuple[Class, ...]:
    """The relations of the examples, with the directions that they have, sorted."""
    found = set()
    for example in examples:
        for relation in example.relations or ():
            one, _ = _ordered(example.entities or (), relation.head, relation.tail)
            found.add(Class(relation.type, one == relation.head))
    return tuple(sorted(found))


def settle(examples: Sequence[Example], tokenizer: Tokenizer, texts: Sequence[Text]) -> Relating:
    """What the examples say; those without relations (None) say nothing."""
    pairs: set[tuple[str, str]] = set()
    reach = 0
    for example, text in zip(examples, texts, strict=True):
        entities = example.entities or ()
        for relation in example.relations or ():
            one, two = (entities[number] for number in _ordered(entities, relation.head, relation.tail))
            pairs.add((one.type, two.type))
            reach = max(reach, _distance(text, one, two))
    kinds = sorted({span.type for example in examples for span in example.entities or ()})
    written = {kind: tokenizer.encode(kind, add_special_tokens=False) for kind in kinds if len(kinds) > 1}
    return Relating(classes_of(examples), _marks(tokenizer), round(reach * FAR) + 1, frozenset(pairs), written)


def _marks(tokenizer: Tokenizer) -> tuple[int, int, int, int]:
    """Four ids that the vocabulary has to spare, else of signs; few Chinese vocabularies of characters have both."""
    spare = [f"[unused{number}]" for number in range(1, 5)]
    found = [number for name in spare if (number := tokenizer.id(name)) is not None]
    for sign in SIGNS:
        if len(found) == 4:
            break
        ids = tokenizer.encode(sign, add_special_tokens=False)
        if ids and ids[-1] != tokenizer.unk_id and ids[-1] not in found:
            found.append(ids[-1])
    size = tokenizer.vocab_size
    while len(found) < 4:  # the last ids, which are the rarest
        size -= 1
        if size not in found and size not in tokenizer.special_ids:
            found.append(size)
    return found[0], found[1], found[2], found[3]


# --- pairs


def _ordered(entities: Sequence[Span], one: int, two: int) -> tuple[int, int]:
    """Two numbers of entities in the order in which they stand in the text."""
    places = [(entities[n].start, -entities[n].end, n) for n in (one, two)]
    return (one, two) if places[0] <= places[1] else (two, one)


def _tokens(text: Text, spans: Sequence[Span]) -> list[tuple[int, int] | None]:
    """The first token of each entity and the one behind its last; None where it has none."""
    places = [(n, begin, end) for n, (begin, end) in enumerate(text.ranges) if end > begin]
    begins, ends = ([place[side] for place in places] for side in (1, 2))  # both go up with the text
    found: list[tuple[int, int] | None] = []
    for span in spans:
        first, last = bisect.bisect_right(ends, span.start), bisect.bisect_left(begins, span.end)
        found.append((places[first][0], places[last - 1][0] + 1) if first < last else None)
    return found


def _distance(text: Text, one: Span, two: Span) -> int:
    places = _tokens(text, (one, two))
    return 0 if places[0] is None or places[1] is None else max(p[1] for p in places if p) - places[0][0]


class Pair(NamedTuple):
    """Two entities by their numbers, the first in the text first, with their tokens."""

    one: int
    two: int
    first: tuple[int, int]
    second: tuple[int, int]


def asked(known: Relating, text: Text, entities: Sequence[Span], around: Frame) -> list[Pair]:
    """The pairs of entities that may be related, and that a window can show."""
    placed = [(place, number) for number, place in enumerate(_tokens(text, entities)) if place is not None]
    placed.sort()
    found = []
    for at, (place, one) in enumerate(placed):
        for other, two in itertools.islice(placed, at + 1, None):
            if other[0] - place[0] >= known.reach:  # and so are all behind it
                break
            first, second = _ordered(entities, one, two)
            left, right = (place, other) if first == one else (other, place)
            kinds = entities[first].type, entities[second].type
            wide = max(left[1], right[1]) - left[0]
            fits = wide <= known.reach and wide + _marks_room(known, kinds) <= around.room
            if fits and kinds in known.types:
                found.append(Pair(first, second, left, right))
    return sorted(found, key=lambda pair: sorted(pair[:2]))


def _marks_room(known: Relating, kinds: tuple[str, str]) -> int:
    return 4 + sum(len(known.written.get(kind, ())) for kind in kinds)


def right(known: Relating, relations: Sequence[Relation], pair: Pair) -> int:
    """The class of a pair; of several relations of one pair the first that was given and has one.

    A relation in a direction that training never showed has none.
    """
    for relation in relations:
        kind = Class(relation.type, relation.head == pair.one)
        if {relation.head, relation.tail} == {pair.one, pair.two} and kind in known.classes:
            return 1 + known.classes.index(kind)
    return 0


def unsaid(relations: Sequence[Relation], pairs: Sequence[Pair]) -> int:
    """How many relations no pair stands for: of two entities that have several, or stand too far apart."""
    asked_for = {frozenset((pair.one, pair.two)) for pair in pairs}
    told = {frozenset((relation.head, relation.tail)) for relation in relations}
    return len(set(relations)) - len(told & asked_for)


def marked(
    known: Relating, text: Text, entities: Sequence[Span], pair: Pair, around: Frame
) -> tuple[list[int], int, int]:
    """(ids with their frame, the place of the first opening mark, of the second); the window lies around the pair."""
    kinds = entities[pair.one].type, entities[pair.two].type
    room = around.room - _marks_room(known, kinds)
    wide = max(pair.first[1], pair.second[1]) - pair.first[0]
    begin = max(0, min(pair.first[0] - (room - wide) // 2, len(text.ids) - room))
    end = min(len(text.ids), begin + room)
    signs: list[tuple[int, int, list[int], int]] = []  # (token before which they stand, order there, ids, which)
    for number, (first, last) in enumerate((pair.first, pair.second)):
        name = known.written.get(kinds[number], [])
        signs.append((first, 1 + number, [known.marks[2 * number], *name], number))
        signs.append((last, -number, [known.marks[2 * number + 1]], -1))
    ids, places = list(around.before), [0, 0]
    at = begin
    for token, _, shown, number in sorted(signs, key=lambda sign: sign[:2]):
        ids += text.ids[at:token]
        at = token
        if number >= 0:
            places[number] = len(ids)
        ids += shown
    return [*ids, *text.ids[at:end], *around.behind], places[0], places[1]


def read_entities(name: str, text: str, given: Any) -> list[Span]:
    """The entities that a row names, checked; an InputError says of which row, and why."""
    found = []
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise InputError(f"the row {name!r}: entities is {type(given).__name__}; give a list of objects")
    for number, one in enumerate(given):
        try:
            start, end = (one[key].__index__() for key in ("start", "end"))
            kind = one.get("type", "entity")
        except (TypeError, KeyError, AttributeError):
            raise InputError(
                f"the row {name!r}: its entity {number} has no whole start and end; give type, start and end"
            ) from None
        if not isinstance(kind, str):
            raise InputError(f"the row {name!r}: its entity {number} has the type {kind!r:.60}; give a text")
        if not 0 <= start < end <= len(text):
            raise InputError(
                f"the row {name!r}: its entity {number} reaches from {start:,} to {end:,}, and the text has "
                f"{len(text):,} characters; correct its places"
            )
        found.append(Span(kind, start, end))
    return found
