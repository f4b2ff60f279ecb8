"""Labels and numbers scored, and whether probabilities mean what they say.

In: gold labels (or values) beside predicted ones, in the same order. Out: figures by name.

    single         one label a row: accuracy, precision, recall and F1 of each class, macro, micro and weighted
    several        any number of labels a row: the same by class, exact matches, Hamming loss
    values         regression: Pearson, Spearman, mean squared and absolute error
    reliability    confidences in bins beside the share that was right
    calibration_error    expected calibration error (Guo et al. 2017, "On calibration of modern neural networks")
    confusion      how often each gold label was predicted as each label

Counts and averages are scikit-learn's, correlations SciPy's; a class that was never predicted has precision 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yanmo.errors import need

PURPOSE = "scoring"
BINS = 15  # of equal width, as Guo et al. have it


@dataclass(frozen=True)
class Bin:
    """Rows whose confidence lies in (low, high]: how many, their mean confidence, the share that was right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def single(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """Figures of one label a row; the classes are all labels that either side has."""
    learn = need("sklearn.metrics", "tasks", PURPOSE)
    classes = sorted({*gold, *predicted})
    figures = {"accuracy": float(learn.accuracy_score(gold, predicted))}
    for average in ("macro", "weighted"):
        figures |= _averaged(gold, predicted, average, classes)
    figures["micro_f1"] = figures["accuracy"]  # with one label a row every false positive is another's false negative
    return figures | _each(gold, predicted, classes)


def several(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Figures of any number of labels a row; `exact` is the share of rows whose whole set is right."""
    classes = sorted({label for row in (*gold, *predicted) for label in row})
    truth, guess = _indicators(gold, classes), _indicators(predicted, classes)
    figures = {"exact": float((truth == guess).all(1).mean())}
    if not classes:
        return figures | {"hamming_loss": 0.0, "micro_f1": 0.0, "macro_f1": 0.0}  # nothing to find
    figures["hamming_loss"] = float((truth != guess)[:, : len(classes)].mean())
    for average in ("micro", "macro", "weighted"):
        figures |= _averaged(truth, guess, average, range(len(classes)))
    return figures | _each(truth, guess, classes, range(len(classes)))


def values(gold: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
    """Figures of a regression; a correlation with what does not vary is not defined, and reported as 0."""
    stats = need("scipy.stats", "tasks", PURPOSE)
    truth, guess = np.asarray(gold, float), np.asarray(predicted, float)
    varies = len(truth) > 1 and np.ptp(truth) > 0 and np.ptp(guess) > 0
    error = guess - truth
    return {
        "pearson": float(stats.pearsonr(truth, guess)[0]) if varies else 0.0,
        "spearman": float(stats.spearmanr(truth, guess)[0]) if varies else 0.0,
        "mse": float(np.mean(error**2)),
        "mae": float(np.mean(np.abs(error))),
    }


def reliability(confidence: Sequence[float], right: Sequence[bool], bins: int = BINS) -> list[Bin]:
    """Bins of equal width over 0 to 1 that hold a row; a confidence of 0 falls into the first."""
    sure, true = np.asarray(confidence, float), np.asarray(right, float)
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    return [
        Bin(b / bins, (b + 1) / bins, int(held.sum()), float(sure[held].mean()), float(true[held].mean()))
        for b in range(bins)
        if (held := place == b).any()
    ]


def calibration_error(found: Sequence[Bin]) -> float:
    """The mean gap between confidence and accuracy over bins, weighted by their rows; 0 is perfect."""
    total = sum(one.count for one in found)
    return sum(one.count * abs(one.confidence - one.accuracy) for one in found) / total if total else 0.0


def confusion(gold: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Counts (gold, predicted) of the classes, in their order; they are all that either side has."""
    if len(classes) == 1:  # of which scikit-learn warns
        return np.array([[len(gold)]])
    learn = need("sklearn.metrics", "tasks", PURPOSE)
    return np.asarray(learn.confusion_matrix(gold, predicted, labels=list(classes)))


def _averaged(gold: Any, predicted: Any, average: str, classes: Sequence[Any]) -> dict[str, float]:
    learn = need("sklearn.metrics", "tasks", PURPOSE)
    found = learn.precision_recall_fscore_support(
        gold, predicted, average=average, labels=list(classes), zero_division=0
    )
    return {f"{average}_{name}": float(value) for name, value in zip(("precision", "recall", "f1"), found)}


def _each(gold: Any, predicted: Any, classes: Sequence[str], keys: Sequence[Any] | None = None) -> dict[str, float]:
    """Precision, recall, F1 and support of each class as "f1:NAME"; `keys` stand for the classes in the data."""
    learn = need("sklearn.metrics", "tasks", PURPOSE)
    labels = list(classes if keys is None else keys)
    found = learn.precision_recall_fscore_support(gold, predicted, average=None, labels=labels, zero_division=0)
    names = ("precision", "recall", "f1", "support")
    return {f"{name}:{label}": float(row[i]) for i, label in enumerate(classes) for name, row in zip(names, found)}


def _indicators(rows: Sequence[Sequence[str]], classes: Sequence[str]) -> np.ndarray:
    places = {label: i for i, label in enumerate(classes)}
    out = np.zeros((len(rows), len(classes) + 1), dtype=int)  # a single column would be read as one label, yes or no
    for i, row in enumerate(rows):
        out[i, [places[label] for label in row]] = 1
    return out
