"""Entities and relations scored: right is what has the right type and the right characters.

In: gold spans (relations) of each row beside predicted ones. Out: figures by name.

    spans        precision, recall and F1 over all types, macro, and by type. Flat entities are scored by seqeval, as
                 tags over the pieces between all borders, gold and predicted: the same spans, and the score of its
                 strict mode. It knows one tag a place, so nested and crossing entities are counted here, by its rule
    relations    the same over (type, head, tail), whose ends are right by their characters ("boundaries"), and with
                 the types of both entities as well ("strict"): Taillé et al. 2020, "Let's stop incorrect comparisons"
    semeval      SemEval-2010 task 8 (Hendrickx et al. 2010; its scorer 1.2): the mean F1 of the relations, where a
                 wrong direction is a wrong answer, without Other

A span that is named twice counts once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from yanmo.errors import need
from yanmo.tasks.examples import Span

NONE = frozenset({"Other", "no_relation", "NA"})  # SemEval, TACRED, NYT: names for "none of the relations"

Typed = tuple[str, Hashable]  # (type, what must be equal)


def spans(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> dict[str, float]:
    """Figures over all rows; `nested` is 1 where seqeval cannot tell them, and they were counted here."""
    flat = all(map(is_flat, gold)) and all(map(is_flat, predicted))
    if flat:
        return _by_seqeval(gold, predicted) | {"nested": 0.0}
    truth, guess = [set(map(_key, row)) for row in gold], [set(map(_key, row)) for row in predicted]
    return counted(truth, guess) | {"nested": 1.0}


def _key(span: Span) -> Typed:
    return span.type, (span.start, span.end)


def is_flat(row: Sequence[Span]) -> bool:
    """Whether no two of the spans have a character in common."""
    ordered = sorted({(span.start, span.end, span.type) for span in row})
    return all(left[1] <= right[0] for left, right in zip(ordered, ordered[1:]))


def tags(rows: Sequence[Sequence[Span]], borders: Sequence[Sequence[int]], names: dict[str, int]) -> list[list[str]]:
    """IOB2 tags over the pieces between the borders of each row; a type stands under its number."""
    out = []
    for row, cuts in zip(rows, borders):
        places = {cut: i for i, cut in enumerate(cuts)}
        line = ["O"] * max(len(cuts) - 1, 1)
        for span in row:
            first, last = places[span.start], places[span.end]
            line[first] = f"B-{names[span.type]}"
            line[first + 1 : last] = [f"I-{names[span.type]}"] * (last - first - 1)
        out.append(line)
    return out


def _by_seqeval(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> dict[str, float]:
    seqeval = need("seqeval.metrics.sequence_labeling", "tasks", "scoring entities")
    names = {name: i for i, name in enumerate(sorted({span.type for row in (*gold, *predicted) for span in row}))}
    if not names:
        return counted([], [])
    pairs = list(zip(gold, predicted))
    borders = [sorted({cut for span in (*left, *right) for cut in (span.start, span.end)}) for left, right in pairs]
    truth, guess = tags(gold, borders, names), tags(predicted, borders, names)

    def found(average: str | None) -> Any:
        return seqeval.precision_recall_fscore_support(truth, guess, average=average, zero_division=0)

    precision, recall, f1, _ = found("micro")
    figures = {"precision": float(precision), "recall": float(recall), "f1": float(f1)}
    figures["macro_f1"] = float(found("macro")[2])
    order = sorted(names, key=lambda name: str(names[name]))  # seqeval sorts its types as texts
    each = found(None)
    for row, name in enumerate(order):
        for figure, values in zip(("precision", "recall", "f1", "support"), each):
            figures[f"{figure}:{name}"] = float(values[row])
    return figures


# --- counts


def counted(gold: Sequence[Iterable[Typed]], predicted: Sequence[Iterable[Typed]]) -> dict[str, float]:
    """Figures of typed things that are right or wrong as a whole."""
    types, rows = counts(gold, predicted)
    total = rows.sum(0)
    figures = dict(zip(("precision", "recall", "f1"), rates(*total.reshape(3, len(types)).sum(1))))
    figures["macro_f1"] = float(macro(total)[()])
    for i, name in enumerate(types):
        right, given, wanted = total.reshape(3, len(types))[:, i]
        for figure, value in zip(("precision", "recall", "f1"), rates(right, given, wanted)):
            figures[f"{figure}:{name}"] = value
        figures[f"support:{name}"] = float(wanted)
    return figures


def counts(gold: Sequence[Iterable[Typed]], predicted: Sequence[Iterable[Typed]]) -> tuple[list[str], np.ndarray]:
    """The types, and (rows, 3 × types): how many are right, were given, are wanted."""
    truth, guess = [set(row) for row in gold], [set(row) for row in predicted]
    types = sorted({name for row in (*truth, *guess) for name, _ in row})
    places = {name: i for i, name in enumerate(types)}
    rows = np.zeros((len(truth), 3, len(types)))
    for i, (wanted, given) in enumerate(zip(truth, guess)):
        for kind, things in enumerate((wanted & given, given, wanted)):
            for name, _ in things:
                rows[i, kind, places[name]] += 1
    return types, rows.reshape(len(truth), 3 * len(types))


def rates(right: float, given: float, wanted: float) -> tuple[float, float, float]:
    """Precision, recall and F1; 0 where there is nothing to divide by."""
    precision = float(right / given) if given else 0.0
    recall = float(right / wanted) if wanted else 0.0
    return precision, recall, float(2 * right / (given + wanted)) if given + wanted else 0.0


def micro(sums: np.ndarray) -> np.ndarray:
    """F1 of sums (…, 3 × types) over all types together."""
    right, given, wanted = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, sums.shape[-1] // 3).sum(-1), -1, 0)
    return _divide(2 * right, given + wanted)


def macro(sums: np.ndarray, asked: bool = False) -> np.ndarray:
    """The mean F1 of the types that were wanted or given; with `asked`, of those that were wanted."""
    right, given, wanted = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, sums.shape[-1] // 3), -2, 0)
    each = _divide(2 * right, given + wanted)
    here = wanted > 0 if asked else given + wanted > 0
    return _divide((each * here).sum(-1), here.sum(-1))


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=np.asarray(below) > 0)


# --- relations between two given entities

Directed = tuple[str, bool]  # (type, whether it leads from the first entity to the second)


def semeval_counts(
    gold: Sequence[Directed | None], predicted: Sequence[Directed | None]
) -> tuple[list[str], np.ndarray]:
    """The relations of the gold labels, and (rows, 3 × relations); what is right has the right direction too."""
    types = sorted({row[0] for row in gold if row is not None})
    places = {name: i for i, name in enumerate(types)}
    rows = np.zeros((len(gold), 3, len(types)))
    for i, (wanted, given) in enumerate(zip(gold, predicted)):
        if wanted is not None:
            rows[i, 2, places[wanted[0]]] = 1
            rows[i, 0, places[wanted[0]]] = wanted == given
        if given is not None and given[0] in places:  # a relation that the key lacks is as good as Other
            rows[i, 1, places[given[0]]] = 1
    return types, rows.reshape(len(gold), 3 * len(types))


def semeval(gold: Sequence[Directed | None], predicted: Sequence[Directed | None]) -> dict[str, float]:
    """The official macro F1, the micro F1 beside it, and accuracy; None is Other."""
    types, rows = semeval_counts(gold, predicted)
    total = rows.sum(0)
    figures = {
        "semeval_f1": float(macro(total, asked=True)[()]),
        "semeval_micro_f1": float(micro(total)[()]),
        "semeval_accuracy": float(np.mean([left == right for left, right in zip(gold, predicted)])),
    }
    for i, name in enumerate(types):
        figures[f"semeval_f1:{name}"] = rates(*total.reshape(3, len(types))[:, i])[2]
    return figures
