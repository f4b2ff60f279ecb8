"""What a user may set in a plan, and what follows for one device.

Wishes     options; None leaves what the subject says
Setting    what one device does in a step
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from yanmo.errors import InputError, nearest
from yanmo.plan.activations import BYTES


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """Options of a plan; None leaves what the subject says.

    tokens: trained in all. batch: rows per device and micro-batch. context: tokens per row. utilisation: share of the
    peak. rank: of a LoRA adapter, 0 for full training. usd_per_hour: of one device. measure: time the real network
    where the device is this machine. overrides: of a recipe, "section.key=value".
    """

    tokens: float | None = None
    batch: int | None = None
    context: int | None = None
    precision: str | None = None
    utilisation: float | None = None
    rank: int = 0
    recompute: bool = False
    watts: float | None = None
    usd_per_hour: float | None = None
    usd_per_kwh: float | None = None
    measure: bool = True
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, low in (("tokens", 1), ("batch", 1), ("context", 1), ("rank", 0)):
            self._within(name, low, 1e18 if name == "tokens" else 2**31)
        for name in ("watts", "usd_per_hour", "usd_per_kwh"):
            self._within(name, 0, 1e9)
        if self.utilisation is not None and not 0 < self.utilisation <= 1:
            raise InputError(f"utilisation is {self.utilisation}, and must be above 0 and at most 1, e.g. 0.4")
        if self.precision not in (None, "auto", *BYTES):
            known = ("auto", *BYTES)
            close = nearest(str(self.precision), known)
            raise InputError(f"precision is {self.precision!r}{close}; choose one of {', '.join(known)}")

    def _within(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise InputError(f"{name} is {value}, and must be from {low:g} to {high:g}")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one device does in a step."""

    rows: int
    accumulation: int
    context: int
    precision: str
    recompute: bool
    count: int
