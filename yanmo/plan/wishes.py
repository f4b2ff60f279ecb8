"""What a user may set in a plan, and what follows for one device.

Wishes     options; None leaves what the subject says
Setting    what one device does in a step
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from yanmo.errors import InputError, nearest
from yanmo.plan.activations import BYTES

ADAPTERS = ("lora", "rslora", "dora", "rsdora")


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """Options of a plan; None leaves what the subject says.

    tokens: trained in all. batch: rows per device and micro-batch. context: tokens per row. utilisation: share of the
    peak. rank, adapter, bits: of an adapter and of the weights below it; rank 0 leaves what the subject says.
    usd_per_hour: of one device. measure: time the real network where the device is this machine. overrides: of a
    recipe, "section.key=value".
    """

    tokens: float | None = None
    batch: int | None = None
    context: int | None = None
    precision: str | None = None
    utilisation: float | None = None
    rank: int = 0
    adapter: str | None = None
    bits: int | None = None
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
        if self.adapter is not None and self.adapter not in ADAPTERS:
            close = nearest(self.adapter, ADAPTERS)
            raise InputError(f"the adapter is {self.adapter!r}{close}; choose one of {', '.join(ADAPTERS)}")
        if self.bits not in (None, 4, 8):
            raise InputError(f"bits are {self.bits}, and must be 4 or 8")
        if not self.rank and (self.adapter or self.bits):
            raise InputError("an adapter needs a rank; give one, e.g. lora:8")
        if self.precision not in (None, "auto", *BYTES):
            known = ("auto", "float32", "bfloat16")
            close = nearest(str(self.precision), known)
            raise InputError(f"precision is {self.precision!r}{close}; choose one of {', '.join(known)}")

    def _within(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise InputError(f"{name} is {value}, and must be from {low:g} to {high:g}")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one device does in a step. sharded: weights, gradients and optimizer are split; tensor: matrices too."""

    rows: int
    accumulation: int
    context: int
    precision: str
    recompute: bool
    count: int
    sharded: bool = False
    tensor: int = 1

    @property
    def parts(self) -> int:
        """Devices that have rows of their own."""
        return self.count // self.tensor

    @property
    def all_rows(self) -> int:
        """Rows at once on all devices: what a recipe calls rows."""
        return self.rows * self.parts

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimizer step on all devices."""
        return self.all_rows * self.context * self.accumulation
