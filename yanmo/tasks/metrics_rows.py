"""Predictions beside the examples that they are of: matched by id, checked, and in the form that metrics take.

In: examples and plain dicts. Out: parallel lists. What is missing or of the wrong form is an InputError that names it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from yanmo.errors import InputError
from yanmo.tasks import metrics_answers
from yanmo.tasks.examples import Example, Span
from yanmo.tasks.metrics_spans import NONE, Directed, Typed

Row = dict[str, Any]


def aligned(gold: Sequence[Example], predictions: Sequence[Row]) -> list[Row]:
    """The prediction of each example: by position where the ids agree there, else by id."""
    if not gold:
        raise InputError("there are no examples to score; give at least one")
    names = [example.id for example in gold]
    given = [None if row.get("id") is None else str(row["id"]) for row in predictions]
    if len(names) == len(given) and all(right in (None, left) for left, right in zip(names, given)):
        return list(predictions)
    found = dict(zip(given, predictions))
    if len(found) < len(given):
        raise InputError(f"{len(given) - len(found)} predictions have the id of another; an id may stand once")
    missing = [example for example in gold if example.id not in found]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(gold)} examples have no prediction, the first is {missing[0].id!r} "
            f"({missing[0].where}); predict all of them"
        )
    return [found[name] for name in names]


def _field(row: Row, name: str) -> Any:
    if name not in row:
        raise InputError(f"the prediction {row.get('id')!r} has no {name!r}, only {', '.join(map(str, row))}")
    return row[name]


# --- labels


def is_regression(gold: Sequence[Example]) -> bool:
    """Whether the examples have values in place of labels."""
    return gold[0].labels is None and gold[0].value is not None


def is_several(gold: Sequence[Example], rows: Sequence[Row]) -> bool:
    """Whether a row may have none or several labels."""
    return any(len(example.labels or ()) != 1 for example in gold) or any(_listed(row) for row in rows)


def _listed(row: Row) -> bool:
    return isinstance(row.get("labels", row.get("label")), (list, tuple))


def label_sets(gold: Sequence[Example], rows: Sequence[Row]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The labels of each row, sorted, gold and predicted."""
    for example in gold:
        if example.labels is None:
            raise InputError(f"{example.where}: the example {example.id!r} has no label to compare with")
    guess = []
    for row in rows:
        value = row["labels"] if "labels" in row else _field(row, "label")
        guess.append(tuple(sorted(set(map(str, value)))) if isinstance(value, (list, tuple)) else (str(value),))
    return [tuple(sorted(set(example.labels or ()))) for example in gold], guess


def number(row: Row) -> float:
    """The value that a regression predicts: `value`, else `score`."""
    value = row["value"] if "value" in row else _field(row, "score")
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"the prediction {row.get('id')!r} has the value {value!r}; it must be a finite number")
    return float(value)


def confidences(rows: Sequence[Row]) -> list[float] | None:
    """The `score` of every row where all have a probability, else None."""
    found = [row.get("score") for row in rows]
    fine = all(isinstance(value, (int, float)) and 0 <= value <= 1 + 1e-6 for value in found)
    return [min(float(value), 1.0) for value in found] if fine else None  # type: ignore[arg-type]


# --- entities and relations


def _parts(row: Row, name: str, *places: str) -> list[Row]:
    """The objects of a list in a prediction, each with a type and whole numbers at `places`."""
    found = _field(row, name)
    for one in found if isinstance(found, (list, tuple)) else [found]:
        fine = isinstance(one, dict) and isinstance(one.get("type"), str)
        if not fine or any(type(one.get(place)) is not int for place in places):
            raise InputError(
                f"the prediction {row.get('id')!r} has {str(one)[:80]!r} among its {name}; each needs type (a text), "
                f"{' and '.join(places)} (whole numbers)"
            )
    return list(found)


def _spans(row: Row) -> list[Span]:
    return [Span(one["type"], one["start"], one["end"]) for one in _parts(row, "entities", "start", "end")]


def _relations(row: Row) -> list[Row]:
    return [one for one in _parts(row, "relations", "head", "tail") if one["type"] not in NONE]


def found_spans(gold: Sequence[Example], rows: Sequence[Row]) -> tuple[list[list[Span]], list[list[Span]]]:
    """Entities of each row, gold and predicted; a span without characters is none."""
    for example, row in zip(gold, rows):
        if example.entities is None:
            raise InputError(f"{example.where}: the example {example.id!r} has no entities to compare with")
        _field(row, "entities")
    truth = [list(example.entities or ()) for example in gold]
    return truth, [[span for span in _spans(row) if span.start < span.end] for row in rows]


def entities_of(example: Example, row: Row) -> list[Span]:
    """The entities that a prediction's relations point into: its own, or the given ones."""
    return _spans(row) if "entities" in row else list(example.entities or ())


def _ends(kind: str, head: Span, tail: Span, strict: bool) -> Typed:
    types = (head.type, tail.type) if strict else ()
    return kind, (head.start, head.end, tail.start, tail.end, *types)


def found_relations(
    gold: Sequence[Example], rows: Sequence[Row], strict: bool = False
) -> tuple[list[set[Typed]], list[set[Typed]]]:
    """Relations of each row by the characters of their ends (`strict`: and types), those that say "none" left out."""
    truth, guess = [], []
    for example, row in zip(gold, rows):
        own = example.entities or ()
        pairs = [(one.type, own[one.head], own[one.tail]) for one in example.relations or ()]
        truth.append({_ends(*pair, strict) for pair in pairs if pair[0] not in NONE})
        theirs = entities_of(example, row)
        guess.append({_ends(*one, strict) for one in pointed(row, theirs)})
    return truth, guess


def pointed(row: Row, entities: Sequence[Span]) -> list[tuple[str, Span, Span]]:
    """The relations of a prediction between its entities (type, head, tail), those that say "none" left out."""
    found = []
    for one in _relations(row):
        for place in (one["head"], one["tail"]):
            if not 0 <= place < len(entities):
                raise InputError(
                    f"the prediction {row.get('id')!r} has a relation to entity {place!r}; it has {len(entities)}"
                )
        found.append((one["type"], entities[one["head"]], entities[one["tail"]]))
    return found


def directed(
    gold: Sequence[Example], rows: Sequence[Row]
) -> tuple[list[Directed | None], list[Directed | None]] | None:
    """One relation a row between its two given entities (None: none), or None where the rows are not of that form."""
    if not all(len(e.entities or ()) == 2 and len(e.relations or ()) <= 1 and e.relations is not None for e in gold):
        return None
    said = [_relations(row) for row in rows]
    if any(len(row) > 1 for row in said):
        return None
    own = [[(span.start, span.end) for span in example.entities or ()] for example in gold]
    theirs = [[(span.start, span.end) for span in entities_of(*pair)] for pair in zip(gold, rows)]
    if own != theirs:
        return None
    truth: list[Directed | None] = []
    for example in gold:
        truth.append(next(((r.type, r.head < r.tail) for r in example.relations or () if r.type not in NONE), None))
    return truth, [(row[0]["type"], row[0]["head"] < row[0]["tail"]) if row else None for row in said]


# --- answers and texts


def answer_rows(gold: Sequence[Example], rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """(exact, F1) of each row, 0 to 1, by the rules of the passage's language."""
    found = []
    for example, row in zip(gold, rows):
        if example.answers is None:
            raise InputError(f"{example.where}: the example {example.id!r} has no answers to compare with")
        given = _field(row, "answer")
        if not isinstance(given, str):
            raise InputError(
                f'the prediction {row.get("id")!r} has the answer {given!r}; it must be a text, "" for none'
            )
        rule = metrics_answers.chinese if metrics_answers.is_chinese(example.text) else metrics_answers.english
        found.append(rule([answer.text for answer in example.answers], given))
    exact, f1 = np.array(found).T
    return exact, f1


def targets(gold: Sequence[Example], rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """References and what was written: `translation`, else `text`."""
    for example in gold:
        if example.target is None:
            raise InputError(f"{example.where}: the example {example.id!r} has no text to compare with")
    written = [row["translation"] if "translation" in row else _field(row, "text") for row in rows]
    for row, text in zip(rows, written):
        if not isinstance(text, str):
            raise InputError(f"the prediction {row.get('id')!r} has the text {text!r}; it must be a text")
    return [example.target or "" for example in gold], written
