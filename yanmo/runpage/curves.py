"""The curves of a run as charts, over steps, tokens or time.

In: a History, plan.json. Out: a list of charts: loss, bits per byte, learning rate, gradient norm, speed, memory, and
whatever else was logged, training and validation of the same thing in one chart.

    drawn     all charts over one axis
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from yanmo import charts
from yanmo.charts import Series
from yanmo.page import Markup
from yanmo.runpage.history import Curve, History, words

WIDE = 10.0  # an axis whose highest value is so many times the middle one is logarithmic
SPANS = ((3 * 3600.0, 3600.0, "hours"), (180.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
COUNTED = ("valid_tokens", "valid_targets")  # how much was evaluated, the same each time
PER_PAIR = ("dpo", "orpo")
# field → title, y axis, what a value is divided by
KNOWN = {
    "learning_rate": ("Learning rate", "learning rate", 1.0),
    "gradient_norm": ("Gradient norm", "norm before clipping", 1.0),
    "tokens_per_second": ("Speed", "target tokens per second", 1.0),
    "memory": ("Memory", "MB, the peak so far", 1e6),
}


def drawn(history: History, plan: Mapping[str, Any], axis: str, objective: str = "causal") -> list[Markup]:
    """The charts over "step", "tokens" or "seconds"; empty where nothing was logged."""
    scale, label = _axis(history, axis)
    out = []
    for title, y_label, curves in _grouped(history, plan, objective):
        if not any(curve.count for _, curve, _ in curves):
            continue
        series = [_series(name, curve, factor, axis, scale) for name, curve, factor in curves]
        out.append(charts.line_chart(series, title, label, y_label, log_y=_is_wide(series)))
    return out


def _axis(history: History, axis: str) -> tuple[float, str]:
    """What positions are divided by, and what the axis is called."""
    if axis != "seconds":
        return 1.0, {"step": "steps", "tokens": "target tokens"}[axis]
    ends = [curve.spans[-1].last[2] for curve in (*history.training.values(), *history.evaluation.values())]
    longest = max(ends, default=0.0)
    return next((unit, f"{name} since the first step") for limit, unit, name in SPANS if longest >= limit)


def _series(name: str, curve: Curve, factor: float, axis: str, scale: float) -> Series:
    points = [(x / scale, y * factor) for x, y in curve.points(axis)]
    band = [(x / scale, low * factor, high * factor) for x, low, high in curve.band(axis)]
    return Series(name, points, band, curve.missing)


def _is_wide(series: list[Series]) -> bool:
    """Whether the values span so much that a linear axis would hide the most of them."""
    values = [y for one in series for _, y in one.points] + [y for one in series for _, *ends in one.band for y in ends]
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > WIDE * statistics.median(finite)


Grouped = tuple[str, str, list[tuple[str, Curve, float]]]


def _grouped(history: History, plan: Mapping[str, Any], objective: str) -> Iterator[Grouped]:
    """(title, y axis, curves with name and factor), the important ones first."""
    training, evaluation = dict(history.training), dict(history.evaluation)
    loss, valid = training.pop("loss", None), evaluation.pop("valid_loss", None) or evaluation.pop("loss", None)
    per_token = "nats per pair" if objective in PER_PAIR else "nats per token"
    pair = [("training", loss, 1.0), ("validation", valid, 1.0)]
    yield "Loss", per_token, [(name, curve, factor) for name, curve, factor in pair if curve is not None]
    bits = evaluation.pop("bits_per_byte", None)
    if bits is not None:
        curves = [("validation", bits, 1.0)]
        tokens, size = plan.get("train_tokens"), plan.get("train_bytes")
        if loss is not None and isinstance(tokens, int) and isinstance(size, int) and size > 0:
            curves.insert(0, ("training", loss, tokens / size / math.log(2)))
        yield "Bits per byte", "bits per byte of text", curves
    for name in [name for name in evaluation if name not in (*COUNTED, *KNOWN)]:
        curves = [("validation", evaluation.pop(name), 1.0)]
        same = training.pop(name.removeprefix("valid_"), None)
        if same is not None:
            curves.insert(0, ("training", same, 1.0))
        yield words(name.removeprefix("valid_")).capitalize(), words(name.removeprefix("valid_")), curves
    rest = evaluation | training
    order = [*(name for name in KNOWN if name in rest), *(name for name in training if name not in KNOWN)]
    for name in order:
        title, y_label, divisor = KNOWN.get(name, (words(name).capitalize(), words(name), 1.0))
        yield title, y_label, [(words(name), rest[name], 1 / divisor)]
