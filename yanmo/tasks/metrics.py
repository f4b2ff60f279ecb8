"""The figures of a task: predictions beside gold examples, with the interval that the size of the data allows.

In: examples and predictions (plain dicts as `predict` writes them), matched by id. Out: figures by name; those of
SQuAD, CMRC and sacrebleu from 0 to 100, as they are published, all others as shares of 1.

    score          every figure of a task
    main           the one by which models are compared
    notes          what a reader must know of the figures: signatures, rules, what could not be scored how
    sums           the main figure as rows that add up and a formula of their sums, so that resampling is cheap
    interval       95 % by bootstrap (Efron 1979), percentiles, of any function of row numbers
    main_interval, difference    the same of the main figure, and of the difference of two predictions on the same rows

classification, spans, answers, relations, translation are the figures of one kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yanmo.errors import InputError
from yanmo.tasks import metrics_answers, metrics_spans, metrics_text
from yanmo.tasks.examples import TASKS, Example
from yanmo.tasks.metrics_classes import calibration_error, reliability, several, single, values
from yanmo.tasks.metrics_rows import (
    aligned,
    answer_rows,
    confidences,
    directed,
    found_relations,
    found_spans,
    is_regression,
    is_several,
    label_sets,
    number,
    targets,
)

FEW_GROUPS = 5  # fewer say nothing of how groups differ (one alone would give an interval of no width): rows are drawn
ROUNDS = 1000  # resamples; the ends of the interval then vary by about a tenth of its width

Predictions = Sequence[dict[str, Any]]


def score(task: str, gold: Sequence[Example], predictions: Predictions) -> dict[str, float]:
    """Every figure of a task. InputError where a row has no prediction, or nothing to compare it with."""
    if task not in KINDS:
        raise InputError(f"task {task!r} is not known; use one of {', '.join(TASKS)}")
    return KINDS[task](gold, predictions)


def main(task: str, figures: dict[str, float]) -> tuple[str, float]:
    """The name and value of the figure by which models are compared: the first of the task's that is there."""
    for name in MAIN[task]:
        if name in figures:
            return name, figures[name]
    raise InputError(f"none of {', '.join(MAIN[task])} is among the figures")


MAIN = {
    "classify": ("accuracy", "micro_f1", "pearson"),
    "extract": ("semeval_f1", "relation_f1", "f1"),
    "answer": ("f1",),
    "translate": ("bleu",),
    "generate": ("chrf",),
}


def classification(gold: Sequence[Example], predictions: Predictions) -> dict[str, float]:
    """Of one label, several labels, or values; with `score` in the predictions their calibration error too."""
    rows = aligned(gold, predictions)
    if is_regression(gold):
        return values([example.value or 0.0 for example in gold], [number(row) for row in rows])
    truth, guess = label_sets(gold, rows)
    if is_several(gold, rows):
        return several(truth, guess)
    figures = single([row[0] for row in truth], [row[0] for row in guess])
    sure = confidences(rows)
    if sure is not None:
        right = [left == right for left, right in zip(truth, guess)]
        figures["calibration_error"] = calibration_error(reliability(sure, right))
    return figures


def spans(gold: Sequence[Example], predictions: Predictions) -> dict[str, float]:
    """Of entities alone."""
    return metrics_spans.spans(*found_spans(gold, aligned(gold, predictions)))


def relations(gold: Sequence[Example], predictions: Predictions) -> dict[str, float]:
    """Of relations alone, by boundaries and strictly; where each row asks for one pair, as SemEval-2010 task 8 too."""
    rows = aligned(gold, predictions)
    loose = metrics_spans.counted(*found_relations(gold, rows))
    strict = metrics_spans.counted(*found_relations(gold, rows, strict=True))
    figures = {f"relation_{name}": value for name, value in loose.items()}
    figures["relation_strict_f1"] = strict["f1"]
    pairs = directed(gold, rows)
    return figures | metrics_spans.semeval(*pairs) if pairs else figures


def extraction(gold: Sequence[Example], predictions: Predictions) -> dict[str, float]:
    """Of relations where the data has them; of entities where it has no relations or the predictions find them."""
    rows = aligned(gold, predictions)
    if all(example.relations is None for example in gold):
        return spans(gold, predictions)
    found = any("entities" in row for row in rows) and not directed(gold, rows)  # else they are the given ones
    return (spans(gold, predictions) if found else {}) | relations(gold, predictions)


def answers(gold: Sequence[Example], predictions: Predictions) -> dict[str, float]:
    """By SQuAD 2.0's rules, and CMRC's where the passage is Chinese, from 0 to 100; apart for what has no answer.

    best_f1: what withholding doubtful answers could reach, with best_threshold the lowest `score` at which they are
    given: chosen on these very rows, so a hint and no result.
    """
    rows = aligned(gold, predictions)
    exact, f1 = answer_rows(gold, rows)
    can = [bool(example.answers) for example in gold]
    figures = {"exact": 100 * float(np.mean(exact)), "f1": 100 * float(np.mean(f1))}
    if all(can):
        return figures
    with_answer = np.array(can)
    if with_answer.any():
        figures["has_answer_exact"] = 100 * float(np.mean(exact[with_answer]))
        figures["has_answer_f1"] = 100 * float(np.mean(f1[with_answer]))
    figures["no_answer_exact"] = 100 * float(np.mean(exact[~with_answer]))
    given = [bool(row.get("answer")) for row in rows]
    sure = confidences(rows)
    if sure is not None:
        doubt = [1 - s if has else 1.0 for s, has in zip(sure, given)]
        best, threshold = metrics_answers.best_threshold(f1.tolist(), doubt, given, can)
        figures["best_f1"], figures["best_threshold"] = 100 * best, 1 - threshold
    return figures


def translation(gold: Sequence[Example], predictions: Predictions) -> dict[str, float]:
    """BLEU and chrF from 0 to 100, and the share of exact rows."""
    return metrics_text.written(*targets(gold, aligned(gold, predictions)))


KINDS = {
    "classify": classification,
    "extract": extraction,
    "answer": answers,
    "translate": translation,
    "generate": translation,
}


def notes(task: str, gold: Sequence[Example], figures: dict[str, float]) -> list[str]:
    """One sentence for each thing that a reader must know of the figures."""
    out = []
    if task in ("translate", "generate"):
        signed = metrics_text.signatures([example.target or "" for example in gold])
        out += [f"{'BLEU' if name == 'bleu' else 'chrF'}: {text}" for name, text in signed.items()]
    if task == "answer":
        chinese = sum(metrics_answers.is_chinese(example.text) for example in gold)
        rules = {0: "SQuAD 2.0's", len(gold): "CMRC 2018's"}
        out.append(
            f"Scored by {rules.get(chinese, f'CMRC 2018 rules in {chinese} Chinese rows, else SQuAD 2.0')} rules."
        )
    if figures.get("nested") == 1:
        out.append(
            "Entities lie inside one another: seqeval cannot tell such spans, they were counted by the same rule."
        )
    return out


# --- intervals


@dataclass(frozen=True)
class Sums:
    """A figure as rows (n, k) and a formula from their sums (…, k) to figures (…)."""

    name: str
    rows: np.ndarray
    formula: Callable[[np.ndarray], np.ndarray]
    groups: tuple[str, ...] = ()  # what each row is drawn with; () where every row stands alone

    @property
    def value(self) -> float:
        """The figure of all rows."""
        return float(self.formula(self.rows.sum(0))[()])

    @property
    def grouped(self) -> bool:
        """Whether groups are drawn, and not rows."""
        return len(set(self.groups)) >= FEW_GROUPS

    @property
    def drawn(self) -> np.ndarray:
        """The rows as they are drawn: those of a group summed."""
        if not self.grouped:
            return self.rows
        _, place = np.unique(np.array(self.groups), return_inverse=True)
        out = np.zeros((place.max() + 1, self.rows.shape[1]))
        np.add.at(out, place, self.rows)
        return out


def sums(task: str, gold: Sequence[Example], predictions: Predictions) -> Sums:
    """The main figure of a task in a form that resamples fast; rows of a group (an article) are drawn together."""
    rows = aligned(gold, predictions)
    named = [example.group or f"\0{i}" for i, example in enumerate(gold)]
    groups = tuple(named) if len(set(named)) < len(named) else ()
    return Sums(*_summed(task, gold, rows), groups)


def _summed(task: str, gold: Sequence[Example], rows: Predictions) -> tuple[str, np.ndarray, Callable]:
    if task == "answer":
        return (
            "f1",
            np.stack([answer_rows(gold, rows)[1], np.ones(len(gold))], 1),
            lambda s: 100 * s[..., 0] / s[..., 1],
        )
    if task in ("translate", "generate"):
        pair = targets(gold, rows)
        if task == "translate":
            return "bleu", *metrics_text.counted(*pair)
        return "chrf", *metrics_text.counted_chrf(*pair)
    if task == "extract":
        pairs = directed(gold, rows)
        if pairs:
            return "semeval_f1", metrics_spans.semeval_counts(*pairs)[1], lambda s: metrics_spans.macro(s, asked=True)
        if any(example.relations is not None for example in gold):
            return "relation_f1", metrics_spans.counts(*found_relations(gold, rows))[1], metrics_spans.micro
        found = [[[(span.type, span) for span in row] for row in side] for side in found_spans(gold, rows)]
        return "f1", metrics_spans.counts(*found)[1], metrics_spans.micro
    if is_regression(gold):
        x, y = np.array([example.value or 0.0 for example in gold]), np.array([number(row) for row in rows])
        x, y = x - x.mean(), y - y.mean()  # else the sums of squares lose what they are made for
        return "pearson", np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], 1), _pearson
    truth, guess = label_sets(gold, rows)
    if is_several(gold, rows):
        typed = [[[(label, 0) for label in row] for row in side] for side in (truth, guess)]
        return "micro_f1", metrics_spans.counts(*typed)[1], metrics_spans.micro
    right = [left == right for left, right in zip(truth, guess)]
    return "accuracy", np.stack([np.array(right, float), np.ones(len(gold))], 1), lambda s: s[..., 0] / s[..., 1]


def _pearson(sums: np.ndarray) -> np.ndarray:
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = np.maximum((n * xx - x * x) * (n * yy - y * y), 0)
    return np.divide(n * xy - x * y, np.sqrt(spread), out=np.zeros(np.shape(n)), where=spread > 1e-12)


def interval(
    score_fn: Callable[[np.ndarray], float], n: int, seed: int = 0, *, rounds: int = ROUNDS
) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of score_fn over resamples; it takes n row numbers from 0, drawn with repeats."""
    draw = np.random.default_rng(seed)
    found = [score_fn(draw.integers(n, size=n)) for _ in range(rounds)]
    return _ends(np.array(found))


def main_interval(
    task: str, gold: Sequence[Example], predictions: Predictions, seed: int = 0, *, rounds: int = ROUNDS
) -> tuple[float, float]:
    """95 % interval of the main figure; where examples have groups, whole groups are drawn."""
    return part_interval(sums(task, gold, predictions), seed, rounds)


def part_interval(one: Sums, seed: int = 0, rounds: int = ROUNDS) -> tuple[float, float]:
    """The same of a figure whose sums are known."""
    return _ends(one.formula(_resampled(one.drawn, seed, rounds)))


def difference(
    task: str, gold: Sequence[Example], first: Predictions, second: Predictions, seed: int = 0
) -> tuple[float, float, float]:
    """The main figure of `second` less that of `first`, with its 95 % interval: both on the same resamples.

    InputError where the two have not the same main figure, as one label a row and lists of labels.
    """
    left, right = sums(task, gold, first), sums(task, gold, second)
    if left.name != right.name:
        raise InputError(f"one is judged by {left.name}, the other by {right.name}; give both in the same form")
    found = right.formula(_resampled(right.drawn, seed, ROUNDS)) - left.formula(_resampled(left.drawn, seed, ROUNDS))
    return right.value - left.value, *_ends(found)


def _resampled(rows: np.ndarray, seed: int, rounds: int) -> np.ndarray:
    """Sums (rounds, k) over rows drawn with repeats, in the draws of `interval`."""
    draw, n = np.random.default_rng(seed), len(rows)
    return np.stack([np.bincount(draw.integers(n, size=n), minlength=n) @ rows for _ in range(rounds)])


def _ends(found: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
