"""Parts of a task's page: figures, classes, confusions, calibration, the course of training.

In: figures by name, labels, a run's history. Out: markup for `yanmo.page`.

    figures_table     every figure of the whole
    class_table       precision, recall, F1 and support by class, the commonest first
    label_pairs       what stands against what in a matrix: labels, directed relations, types of entities
    matrix            how often each gold label was predicted as each
    reliability       confidence beside the share that was right
    learning          the loss and what was evaluated while training
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yanmo import charts, page
from yanmo.charts import Series
from yanmo.page import Markup, escape
from yanmo.runpage.curves import COUNTED
from yanmo.runpage.history import read_history, words
from yanmo.tasks import metrics_classes
from yanmo.tasks.examples import Example
from yanmo.tasks.metrics_rows import (
    answer_rows,
    confidences,
    directed,
    entities_of,
    is_regression,
    is_several,
    label_sets,
)

Row = dict[str, Any]
CLASSES = 60  # rows of the table of classes
SQUARE = 16  # classes of the matrix; the rarest are one beyond that
REST, NOTHING = "all others", "none"
NAMES = {
    "f1": "F1", "bleu": "BLEU", "chrf": "chrF", "mse": "mean squared error", "mae": "mean absolute error",
    "exact": "exact match", "nested": "", "pearson": "Pearson", "semeval": "SemEval", "spearman": "Spearman",
}  # fmt: skip


def named(figure: str) -> str:
    """A figure's name for people: "semeval_f1" → "semeval F1"."""
    return NAMES.get(figure) or " ".join(NAMES.get(word) or word for word in figure.split("_"))


def figures_table(figures: dict[str, float]) -> Markup:
    """All figures that are of no single class."""
    rows = [(named(name), value) for name, value in figures.items() if ":" not in name and name != "nested"]
    return page.table(["figure", "value"], rows)


def class_table(figures: dict[str, float]) -> list[object]:
    """One table for each kind of thing that has classes; [] where none has."""
    out: list[object] = []
    for prefix, title in (("", ""), ("relation_", "Relations"), ("semeval_", "Relations, as SemEval scores them")):
        names = [key.removeprefix(f"{prefix}f1:") for key in figures if key.startswith(f"{prefix}f1:")]
        if not names:
            continue
        columns = [kind for kind in ("precision", "recall", "f1", "support") if f"{prefix}{kind}:{names[0]}" in figures]
        rows = [[name, *(_cell(kind, figures[f"{prefix}{kind}:{name}"]) for kind in columns)] for name in names]
        rows.sort(key=lambda row: -figures.get(f"{prefix}support:{row[0]}", 0))
        heads = ["class", *(named(kind) if kind != "support" else "examples" for kind in columns)]
        out.append(page.table(heads, rows[:CLASSES], caption=title))
        if len(rows) > CLASSES:
            out.append(page.note(f"{len(rows) - CLASSES:,} rarer classes are left out."))
    return out


def _cell(kind: str, value: float) -> object:
    return int(value) if kind == "support" else f"{value:.3f}"


# --- what is taken for what


def label_pairs(task: str, gold: Sequence[Example], rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(gold, predicted) labels; [] where a task has none, or rows have several."""
    if task == "classify" and not is_regression(gold) and not is_several(gold, rows):
        return [(left[0], right[0]) for left, right in zip(*label_sets(gold, rows))]
    if task != "extract":
        return []
    pairs = directed(gold, rows) if all("relations" in row for row in rows) else None
    if pairs:
        return [(_way(left), _way(right)) for left, right in zip(*pairs)]
    if not all("entities" in row for row in rows):
        return []
    out = []
    for example, row in zip(gold, rows):
        wanted = {(s.start, s.end): s.type for s in example.entities or ()}
        given = {(s.start, s.end): s.type for s in entities_of(example, row)}
        out += [(wanted.get(place, NOTHING), given.get(place, NOTHING)) for place in sorted({*wanted, *given})]
    return out


def _way(relation: tuple[str, bool] | None) -> str:
    return NOTHING if relation is None else f"{relation[0]} {'1→2' if relation[1] else '2→1'}"


def matrix(pairs: Sequence[tuple[str, str]]) -> list[object]:
    """A square of counts, shaded by the share of its row, and the commonest confusions."""
    if not pairs:
        return []
    common = Counter(left for left, _ in pairs) + Counter(right for _, right in pairs)
    names = [name for name, _ in sorted(common.items(), key=lambda item: (item[0] == NOTHING, -item[1], item[0]))]
    kept = names if len(names) <= SQUARE else [*names[: SQUARE - 1], REST]
    folded = [(a if a in kept else REST, b if b in kept else REST) for a, b in pairs]
    table = metrics_classes.confusion([a for a, _ in folded], [b for _, b in folded], kept)
    head = "".join(f'<th scope="col" class="n">{escape(name)}</th>' for name in kept)
    body = []
    for i, name in enumerate(kept):
        total = max(int(table[i].sum()), 1)
        cells = [_shaded(int(count), int(count) / total, i == j) for j, count in enumerate(table[i])]
        body.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    caption = "Rows: what is right. Columns: what was predicted. Darker: a larger share of the row."
    inner = f"<caption>{caption}</caption><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    around = '<div class="scroll" role="region" tabindex="0" aria-label="confusion matrix">'
    square = f'{around}<table class="matrix">{inner}</table></div>'
    wrong = Counter(pair for pair in pairs if pair[0] != pair[1]).most_common(10)
    rows = [(left, right, count) for (left, right), count in wrong]
    return [Markup(square), page.table(["right", "predicted", "times"], rows, caption="The commonest confusions")]


def _shaded(count: int, share: float, right: bool) -> str:
    colour = "var(--c2)" if right else "var(--c0)"
    paint = f"color-mix(in srgb, {colour} {round(60 * share)}%, transparent)"
    return f'<td class="n" style="background:{paint}">{f"{count:,}" if count else "·"}</td>'


# --- calibration


def confidence_pairs(task: str, gold: Sequence[Example], rows: Sequence[Row]) -> list[tuple[float, bool]]:
    """(confidence, right) of each predicted label, answer or found entity; [] where there are no confidences."""
    if task == "classify" and not is_regression(gold) and not is_several(gold, rows):
        sure = confidences(rows)
        truth, guess = label_sets(gold, rows)
        return list(zip(sure, [a == b for a, b in zip(truth, guess)])) if sure else []
    if task == "answer":
        sure, (exact, _) = confidences(rows), answer_rows(gold, rows)
        return list(zip(sure, (exact == 1).tolist())) if sure else []
    if task == "extract" and all("entities" in row for row in rows) and not directed(gold, rows):
        found = []
        for example, row in zip(gold, rows):
            wanted = set(example.entities or ())
            spans = zip(entities_of(example, row), row["entities"] or ())
            found += [(one.get("score"), span in wanted) for span, one in spans]
        fine = all(isinstance(sure, (int, float)) and 0 <= sure <= 1 for sure, _ in found)
        return [(float(sure), right) for sure, right in found] if fine else []
    return []


def reliability(pairs: Sequence[tuple[float, bool]]) -> list[object]:
    """The curve, with what it is made of."""
    if not pairs:
        return []
    sure, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    bins = metrics_classes.reliability(sure, right)
    error = metrics_classes.calibration_error(bins)
    measured = [(one.confidence, one.accuracy) for one in bins]
    series = [Series("measured", measured), Series("ideal", [(0.0, 0.0), (1.0, 1.0)])]
    rows = [(f"{b.low:.2f} to {b.high:.2f}", b.count, f"{b.confidence:.3f}", f"{b.accuracy:.3f}") for b in bins]
    told = (
        f"The expected calibration error is {error:.4f}: by so much do confidence and accuracy differ on average, over "
        f"{metrics_classes.BINS} bins of equal width. Below the ideal line a model is too sure."
    )
    return [
        charts.line_chart(series, "Confidence and accuracy", "confidence", "share that was right"),
        page.note(told),
        page.table(["confidence", "predictions", "mean confidence", "share right"], rows),
    ]


# --- the course of training


def learning(run: Path) -> list[object]:
    """Charts of the loss and of every evaluated figure over the steps of a run folder; [] where nothing was logged."""
    history = read_history(run)
    valid = {name: curve for name, curve in history.evaluation.items() if name not in COUNTED and curve.count}
    loss = [("training", history.training.get("loss"))]
    loss.append(("validation", valid.pop("valid_loss", None) or valid.pop("loss", None)))
    series = [Series(name, curve.points("step"), curve.band("step")) for name, curve in loss if curve and curve.count]
    out: list[object] = [charts.line_chart(series, "Loss", "steps", "nats")] if series else []
    for name, curve in valid.items():
        title = words(name.removeprefix("valid_"))
        out.append(charts.line_chart([Series(title, curve.points("step"))], title.capitalize(), "steps", title))
    return out
