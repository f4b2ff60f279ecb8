"""What was planned beside what was measured.

In: plan.json, the history of a run, or one step of it. Out: figures with planned, measured and their ratio.

    compare          plan, history → Figures, those that either side knows
    share_of_peak    tokens per second → the share of the machine's peak, as the plan knows it
    reading_speed    a training line → tokens read per second, targets or not
    show             a Figure's numbers for people

plan.json holds what `yanmo plan --json` prints; of a plan that lacks some of it the rest is compared. Nothing is
guessed: what neither the plan nor the run says is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yanmo.page import duration, nbytes, number
from yanmo.runpage.history import History, finite

SMALL = 1e-4  # smaller sums of energy and money than this are nobody's concern
UNITS = {"bytes": nbytes, "s": duration}


@dataclass(frozen=True)
class Figure:
    """One quantity, planned and measured; None where it is not known."""

    name: str
    planned: float | None
    measured: float | None
    unit: str = ""
    whole: bool = True  # whether the run is over, so that a sum can be compared

    @property
    def ratio(self) -> float | None:
        """Measured / planned."""
        if not self.whole or not self.planned or self.measured is None:
            return None
        return self.measured / self.planned

    def row(self) -> tuple[str, str | None, str | None, str | None]:
        """Name with unit, planned, measured and ratio as they are shown."""
        unit = "" if self.unit in (*UNITS, "%", "") else f", {self.unit}"
        name = f"{self.name}{unit}" if self.whole else f"{self.name} so far{unit}"
        ratio = None if self.ratio is None else f"{self.ratio:.2f}"
        return name, show(self.planned, self.unit), show(self.measured, self.unit), ratio


def show(value: float | None, unit: str) -> str | None:
    """A number as it stands under its unit; bytes, seconds and shares say theirs: 3.2 GB, 2 min 5 s, 31.0%."""
    if value is None or not math.isfinite(value):
        return None
    if unit in UNITS:
        return UNITS[unit](value)
    if unit == "%":
        return f"{value:.1%}"
    if 0 < value < SMALL:
        return f"<{SMALL:g}"
    return number(round(value)) if abs(value) >= 1000 or value == round(value) else number(float(value))


def compare(plan: Mapping[str, Any], history: History, *, finished: bool = True) -> list[Figure]:
    """The figures that a plan and a run have in common, or that one of them knows.

    Memory is the peak of the process, on an accelerator of torch's allocator, which the plan's framework is no part of.
    Tokens are those that were read, whether they are targets or not. Time holds evaluations and checkpoints; tokens/s
    is of the training steps alone.
    """
    last = history.last_step or {}
    steps, seconds = _get(last, "step"), _latest_seconds(history)
    per_step = tokens_per_step(plan)
    tokens = steps * per_step if steps and per_step else _get(last, "tokens")
    speed = tokens / history.busy_seconds if tokens and history.busy_seconds else None
    planned_steps, planned_tokens = _get(plan, "steps"), _get(plan, "tokens")
    if planned_steps is None and planned_tokens and per_step:
        planned_steps = round(planned_tokens / per_step)
    if planned_tokens is None and planned_steps and per_step:
        planned_tokens = planned_steps * per_step
    found = [
        Figure("memory, peak", planned_memory(plan), history.peak_memory, "bytes"),
        Figure("tokens per second", _get(plan, "tokens_per_second"), speed, ""),
        Figure(
            "share of the peak", share_of_peak(plan, _get(plan, "tokens_per_second")), share_of_peak(plan, speed), "%"
        ),
        Figure("steps", planned_steps, steps, "", finished),
        Figure("tokens", planned_tokens, tokens, "", finished),
        Figure("time", _get(plan, "seconds"), seconds, "s", finished),
        Figure("energy", _get(plan, "energy_kwh"), _get(last, "energy_kwh"), "kWh", finished),
        Figure("money", _get(plan, "money_usd"), None, "USD", finished),
    ]
    return [figure for figure in found if figure.planned is not None or figure.measured is not None]


def _latest_seconds(history: History) -> float | None:
    lines = (history.last_step, history.last_evaluation)
    known = [value for line in lines if line and (value := _get(line, "seconds")) is not None]
    return max(known, default=None)


def planned_memory(plan: Mapping[str, Any]) -> float | None:
    """The planned peak in bytes, comparable with what a run measures on the plan's device."""
    kinds = plan.get("memory_bytes")
    if not isinstance(kinds, Mapping):
        return None
    total = _get(kinds, "total")
    if total is None or str(plan.get("device_kind", plan.get("device"))) not in ("cuda", "mps", "xpu"):
        return total
    return total - (_get(kinds, "framework") or 0.0)


def tokens_per_step(plan: Mapping[str, Any]) -> float | None:
    """Tokens that one step reads on all devices."""
    known = _get(plan, "tokens_per_step")
    setting = plan.get("settings")
    if known is not None or not isinstance(setting, Mapping):
        return known
    factors = [_get(setting, name) for name in ("rows", "context", "accumulation", "count")]
    return math.prod(factors) if all(factors) else None  # type: ignore[arg-type]


def share_of_peak(plan: Mapping[str, Any], tokens_per_second: float | None) -> float | None:
    """The model's FLOPs per second as a share of the peak that the plan reckons with, measured or from its table.

    Recomputed activations are work, and not counted here. None where the plan knows no peak.
    """
    utilisation, planned = _get(plan, "utilisation"), _get(plan, "tokens_per_second")
    if tokens_per_second is None or not utilisation or not planned:
        return None
    model, executed = _get(plan, "flops"), _get(plan, "flops_executed")
    counted = model / executed if model and executed else 1.0
    return utilisation * counted * tokens_per_second / planned


def reading_speed(plan: Mapping[str, Any], record: Mapping[str, Any], targets_before: float) -> float | None:
    """Tokens per second that a step read, from its line: targets per second where the plan does not say how many."""
    speed, per_step = _get(record, "tokens_per_second"), tokens_per_step(plan)
    targets = (_get(record, "tokens") or 0.0) - targets_before
    return speed * per_step / targets if speed and per_step and targets > 0 else speed


def _get(values: Mapping[str, Any], name: str) -> float | None:
    return finite(values.get(name))
