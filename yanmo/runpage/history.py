"""The history of a run: metrics.jsonl of any length → curves of a few hundred points, and what they end with.

In: a run folder, finished or not, also while another process writes it. Out: a History; memory does not grow with the
run. Nothing is an error: what cannot be read is counted.

    read_history     metrics.jsonl → History
    finite           a value as a number, or None
    Curve            one field over steps, tokens and seconds: spans with mean, lowest and highest value
    best_of          the evaluation with the best score

A line with a learning rate is a training step, every other line an evaluation. Any field that holds a number becomes a
curve, so objectives may log what they like. A step that comes again, since the run went on from an earlier checkpoint,
takes the place of the first.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yanmo import runs

SPANS = 240  # of a curve at most, and then half as many; a chart has 300 to 900 pixels
FIELDS = 48  # curves at most; more names than that are no run's
LONGEST = 1 << 20  # bytes of a line
PLACE = ("step", "tokens", "seconds")
# by which field an evaluation is the best, and whether more is better: a run's own scores come first
SCORES = (*((name, False) for name in runs.SCORES), ("accuracy", True), ("valid_accuracy", True), ("loss", False))


@dataclass
class Span:
    """Neighbouring values: where they lie (step, tokens, seconds), how many are numbers, how many are not."""

    first: tuple[float, float, float]
    last: tuple[float, float, float]
    count: int = 0
    missing: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    @property
    def mean(self) -> float:
        """The mean of the numbers; not a number without one."""
        return self.total / self.count if self.count else math.nan

    def take(self, place: tuple[float, float, float], value: float | None) -> None:
        """Take the value behind this span in."""
        self.last = place
        if value is None:
            self.missing += 1
            return
        self.count += 1
        self.total += value
        if value < self.low:
            self.low = value
        if value > self.high:
            self.high = value

    def join(self, other: Span) -> None:
        """Take the span behind this one in."""
        self.last = other.last
        self.count, self.missing = self.count + other.count, self.missing + other.missing
        self.total += other.total
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)


@dataclass
class Curve:
    """One field: spans of `stride` values each, the last one perhaps of fewer."""

    spans: list[Span] = field(default_factory=list)
    stride: int = 1
    left: int = 0  # values that the last span still lacks

    def add(self, place: tuple[float, float, float], value: float | None) -> None:
        """Append a value; None is one that is missing."""
        if self.left:
            self.left -= 1
            self.spans[-1].take(place, value)
            return
        if len(self.spans) == SPANS:
            for left, right in zip(self.spans[::2], self.spans[1::2]):
                left.join(right)
            self.spans, self.stride = self.spans[::2], self.stride * 2
        self.spans.append(Span(place, place))
        self.spans[-1].take(place, value)
        self.left = self.stride - 1

    @property
    def missing(self) -> int:
        """How many values are no numbers."""
        return sum(span.missing for span in self.spans)

    @property
    def count(self) -> int:
        """How many values are numbers."""
        return sum(span.count for span in self.spans)

    def points(self, axis: str) -> list[tuple[float, float]]:
        """(x, mean) of each span; the axis is "step", "tokens" or "seconds"."""
        return [(_middle(span, axis), span.mean) for span in self.spans]

    def band(self, axis: str) -> list[tuple[float, float, float]]:
        """(x, lowest, highest) of each span; empty where every span is one value."""
        if self.stride == 1:
            return []
        return [
            (_middle(s, axis), s.low, s.high) if s.count else (_middle(s, axis), *2 * (math.nan,)) for s in self.spans
        ]


def _middle(span: Span, axis: str) -> float:
    place = PLACE.index(axis)
    return (span.first[place] + span.last[place]) / 2


@dataclass
class History:
    """What metrics.jsonl tells. `training` and `evaluation` are curves by field; the last lines are whole."""

    training: dict[str, Curve] = field(default_factory=dict)
    evaluation: dict[str, Curve] = field(default_factory=dict)
    steps: int = 0  # training lines
    evaluations: int = 0
    last_step: dict[str, Any] | None = None
    last_evaluation: dict[str, Any] | None = None
    best: dict[str, Any] | None = None  # the evaluation with the best score
    score: tuple[str, bool] | None = None  # the field by which it is the best, and whether more is better
    busy_seconds: float = 0.0  # of training steps alone, without evaluations and checkpoints
    peak_memory: float | None = None
    damaged: int = 0  # lines that are none
    repeated: int = 0  # lines that a later part of the run made again

    @property
    def empty(self) -> bool:
        """Whether nothing was logged."""
        return not self.steps and not self.evaluations


def read_history(folder: str | Path) -> History:
    """Read a run folder's metrics.jsonl; a folder without one has an empty history."""
    path = Path(folder) / "metrics.jsonl"
    history = History()
    try:
        for record in _records(path, history):
            if is_training(record) and history.last_step and record["step"] <= history.last_step["step"]:
                return _read_again(path)
            _take(history, record)
    except OSError:
        pass
    return history


def _read_again(path: Path) -> History:
    """The history of a run that went back: first which lines stand, then those lines."""
    keep, history = _kept(path), History()
    for number, record in enumerate(_records(path, history)):
        if number >= len(keep):  # written since
            break
        if keep[number]:
            _take(history, record)
        else:
            history.repeated += 1
    return history


def _take(history: History, record: dict[str, Any]) -> None:
    step, tokens, seconds = (finite(record.get(name)) or 0.0 for name in PLACE)
    place = step, tokens, seconds
    training = is_training(record)
    curves = history.training if training else history.evaluation
    for name, value in record.items():
        if name in PLACE or isinstance(value, bool) or not (value is None or isinstance(value, (int, float))):
            continue
        if name not in curves and len(curves) < FIELDS:
            curves[name] = Curve()
        if name in curves:
            curves[name].add(place, finite(value))
    memory = finite(record.get("memory"))
    if memory is not None:
        history.peak_memory = max(memory, history.peak_memory or 0.0)
    if training:
        _take_step(history, record)
    else:
        history.evaluations += 1
        history.last_evaluation = record
        _take_score(history, record)


def _take_step(history: History, record: dict[str, Any]) -> None:
    before = (history.last_step or {}).get("tokens") or 0
    speed, tokens = finite(record.get("tokens_per_second")), finite(record.get("tokens"))
    if speed and tokens is not None:
        history.busy_seconds += max(tokens - before, 0) / speed
    history.steps += 1
    history.last_step = record


def _take_score(history: History, record: dict[str, Any]) -> None:
    if history.score is None:
        history.score = next((score for score in SCORES if finite(record.get(score[0])) is not None), None)
    if history.score is None:
        return
    name, more = history.score
    value = finite(record.get(name))
    known = None if history.best is None else history.best[name]
    if value is not None and (known is None or (value > known if more else value < known)):
        history.best = record


def is_training(record: Mapping[str, Any]) -> bool:
    """Whether a line of metrics.jsonl is a training step, not an evaluation."""
    return "learning_rate" in record


def finite(value: Any) -> float | None:
    """A finite number, else None."""
    if type(value) is float:  # nearly all are
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def _records(path: Path, history: History | None = None) -> Iterator[dict[str, Any]]:
    """Yield the objects of the file; what is none is counted, but for a last line that is still being written."""
    with open(path, "rb") as file:
        while line := file.readline(LONGEST):
            record = None
            if line.endswith(b"\n"):
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    record = None
            elif len(line) < LONGEST:
                return
            step = record.get("step") if isinstance(record, dict) else None
            if isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 1 << 62:
                assert isinstance(record, dict)
                yield record
            elif history is not None:
                history.damaged += 1


def _kept(path: Path) -> bytearray:
    """For each line whether it stands: not where a later training line has the same step or an earlier one."""
    steps, training = array("q"), bytearray()
    for record in _records(path):
        steps.append(record["step"])
        training.append(is_training(record))
    keep, lowest = bytearray(len(steps)), math.inf
    for at in range(len(steps) - 1, -1, -1):
        keep[at] = steps[at] < lowest
        if training[at]:
            lowest = min(lowest, steps[at])
    return keep


def best_of(history: History) -> str:
    """The best score in words, with its step: "1.6234 bits per byte at step 400"; empty without one."""
    if history.best is None or history.score is None:
        return ""
    name = history.score[0]
    return f"{history.best[name]:.4f} {words(name)} at step {history.best['step']:,}"


def words(name: str) -> str:
    """A field's name as words."""
    return name.replace("valid_", "validation ").replace("_", " ")
