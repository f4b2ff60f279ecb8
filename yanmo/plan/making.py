"""The plan itself: everything of the other files together, a verdict, and the nearest setting that fits.

plan         subject, device, count, wishes → Plan
make         one setting → Plan
Plan         numbers, the verdict, what was assumed
nearest_fit  the setting that fits and changes least
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from yanmo.errors import InputError, nearest
from yanmo.models.config import TransformerConfig
from yanmo.plan import devices, spreading
from yanmo.plan.budget import SAFETY, Memory, inference_memory
from yanmo.plan.count import adapter_parameters, forward_flops, parameters, training_flops
from yanmo.plan.devices import Device
from yanmo.plan.method import Adapter
from yanmo.plan.optimal import Optimum, optimal
from yanmo.plan.published import CHINCHILLA, Published
from yanmo.plan.spreading import MAX_COUNT
from yanmo.plan.subject import Subject, read_subject
from yanmo.plan.wishes import Setting, Wishes

MOST_TRIED = 300_000_000  # parameters of a network that is made and timed for a plan
TRIED = "the real network was timed here for some seconds"
COUNTED = "work of each kind over the speeds measured here, right within about 20 %; the network itself was not timed"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The cost of a training run; bytes per device, seconds of the whole run on all devices."""

    subject: Subject
    device: Device
    setting: Setting
    parameters: int
    trained_parameters: int
    flops_forward: float  # per token
    flops_training: float  # per token
    tokens: float
    flops: float  # of the model: what is counted for a utilisation without recomputation
    flops_executed: float
    utilisation: float
    tokens_per_second: float
    seconds: float
    energy_kwh: float
    money_usd: float
    memory: Memory
    inference: Memory
    fits: bool
    nearest: Plan | None
    assumptions: tuple[str, ...]

    @property
    def device_hours(self) -> float:
        """Hours of all devices together."""
        return self.seconds / 3600 * self.setting.count

    @property
    def rank(self) -> int:
        """Of the adapter, 0 where all weights learn."""
        adapter = self.subject.method.adapter
        return 0 if adapter is None else adapter.rank

    @property
    def optimum(self) -> Optimum | None:
        """The compute-optimal size for as many FLOPs; of a decoder that is trained from nothing on running text."""
        config, method = self.subject.config, self.subject.method
        whole = method.objective == "causal" and method.adapter is None and method.reference is None
        return optimal(self.flops) if whole and isinstance(config, TransformerConfig) else None

    @property
    def changes(self) -> dict[str, Any]:
        """For a nearest setting: the values that make it fit."""
        values = vars(self.setting)
        return {key: values[key] for key in ("rows", "accumulation", "recompute", "precision", "context", "count")}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and plan.json."""
        found: Published | None = self.subject.published
        return {
            "subject": self.subject.name,
            "parameters": self.parameters,
            "trained_parameters": self.trained_parameters,
            "flops_per_token": {"forward": self.flops_forward, "training": self.flops_training},
            "tokens": self.tokens,
            "flops": self.flops,
            "flops_6nd": 6 * self.parameters * self.tokens,
            "flops_executed": self.flops_executed,
            "device": self.device.name,
            "device_title": self.device.title,
            "device_kind": self.device.kind,
            "count": self.setting.count,
            "settings": self._settings(),
            "tokens_per_step": self.setting.step_tokens,
            "steps": self.subject.steps or round(self.tokens / self.setting.step_tokens),
            "precision": self.setting.precision,
            "utilisation": self.utilisation,
            "tokens_per_second": self.tokens_per_second,
            "seconds": self.seconds,
            "days": self.seconds / 86400,
            "device_hours": self.device_hours,
            "energy_kwh": self.energy_kwh,
            "money_usd": self.money_usd,
            "memory_bytes": self.memory.as_dict(),
            "memory_moment": self.memory.moment,
            "device_memory_bytes": round(self.device.memory),
            "fits": self.fits,
            "optimal": None if self.optimum is None else vars(self.optimum),
            "nearest": None if self.nearest is None else self._nearest_dict(self.nearest),
            "inference": {
                "memory_bytes": self.inference.as_dict(),
                "fits": self.inference.total <= SAFETY * self.device.memory,
            },
            "published": None if found is None else published_dict(found),
            "assumptions": list(self.assumptions),
        }

    def _settings(self) -> dict[str, Any]:
        method = self.subject.method
        adapter = None if method.adapter is None else vars(method.adapter) | {"targets": list(method.adapter.targets)}
        found = {**vars(self.setting), "rank": self.rank, "adapter": adapter, "optimizer": method.optimizer}
        return found | {"objective": method.objective, "packed": method.packed, "ema": method.ema}

    @staticmethod
    def _nearest_dict(other: Plan) -> dict[str, Any]:
        return {**other.changes, "memory_bytes": other.memory.as_dict(), "seconds": other.seconds}


def plan(subject: Any, *, device: str | Device = "auto", count: int = 1, **wishes: Any) -> Plan:
    """Plan the training of a recipe, a model folder, a hub id, a published model's name, a Recipe, a config, a Subject.

    wishes: the fields of `Wishes`. Raises yanmo.Error for what cannot be read or makes no sense; that something does
    not fit is no error but the plan's verdict.
    """
    known = [field.name for field in fields(Wishes)]
    for name in wishes:
        if name not in known:
            raise InputError(f"a plan has no option {name!r}{nearest(name, known)}; it has {', '.join(known)}")
    wanted = Wishes(**wishes)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_COUNT:
        raise InputError(f"count is {count!r}, and must be a whole number of devices from 1 to {MAX_COUNT:,}")
    found = with_adapter(read_subject(subject, wanted.overrides), wanted)
    place = devices.find(device) if isinstance(device, str) else device
    setting = spreading.start(found, wanted, place, count)
    share = None
    if place.here and wanted.utilisation is None:
        speed = _tried(found, wanted, place, setting) if wanted.measure else None
        if speed is not None:
            setting, share = replace(setting, precision=speed.precision), (speed.utilisation, _quietly(TRIED))
        elif place.kind == "cpu":
            share = (_counted(found, place, setting), _quietly(COUNTED))
    made = make(found, wanted, place, setting, share)
    return made if made.fits else replace(made, nearest=nearest_fit(wanted, made))


def with_adapter(subject: Subject, wishes: Wishes) -> Subject:
    """The subject with the adapter that was asked for."""
    if not wishes.rank:
        return subject
    method = subject.method
    adapter = replace(method.adapter or Adapter(rank=1), rank=wishes.rank)
    adapter = replace(adapter, kind=wishes.adapter or adapter.kind, bits=wishes.bits or adapter.bits)
    if method.objective == "dpo":
        method = replace(method, reference=None, twice=True)
    return replace(subject, method=replace(method, adapter=adapter))


def _tried(subject: Subject, wishes: Wishes, device: Device, setting: Setting) -> Any:
    """The speed of the real network here, where it fits and can be made in seconds."""
    from yanmo.plan.measure import measure  # imports torch

    too_large = spreading.memory(subject, device, setting).total > SAFETY * device.memory
    if too_large or setting.count > 1 or parameters(subject.config) > MOST_TRIED:
        return None
    asked = wishes.precision or subject.precision
    return measure(subject, setting, device, choose=asked == "auto")


def _quietly(text: str) -> str:
    """How a speed is known, and where other programs ran beside it."""
    from yanmo.machine import busy

    return "; ".join([text, *busy()])


def _counted(subject: Subject, device: Device, setting: Setting) -> float:
    """The share of this machine's peak by arithmetic: how much work of each kind, over how fast that is here."""
    from yanmo.plan.timing import counted_seconds
    from yanmo.rates import measured_rates

    alone = replace(setting, count=1, tensor=1)
    seconds = counted_seconds(subject, alone, measured_rates(setting.precision))
    return share_of_peak(subject, device, alone, alone.step_tokens / seconds)


def make(
    subject: Subject, wishes: Wishes, device: Device, setting: Setting, share: tuple[float, str] | None = None
) -> Plan:
    """The plan of one setting; share: of the peak, and how it is known, where it is neither wished for nor assumed."""
    config, method = subject.config, subject.method
    notes: list[str] = []
    n = parameters(config)
    per_token = training_flops(config, setting.context, method)
    forward = forward_flops(config, setting.context, method)
    executed = per_token + forward * setting.recompute
    utilisation = _utilisation(wishes, device, share, notes)
    speed = setting.count * device.peak(setting.precision) * utilisation / executed
    tokens = _tokens(subject, wishes, setting, n, speed, notes)
    seconds = tokens / speed
    if subject.minutes is not None and wishes.tokens is None:
        seconds = subject.minutes * 60
    energy, money = _energy_and_money(wishes, device, setting, seconds, notes)
    memory = spreading.memory(subject, device, setting)
    notes += _method_notes(subject, setting)
    return Plan(
        subject=subject,
        device=device,
        setting=setting,
        parameters=n,
        trained_parameters=adapter_parameters(config, method.adapter) if method.adapter else n,
        flops_forward=forward,
        flops_training=per_token,
        tokens=tokens,
        flops=per_token * tokens,
        flops_executed=executed * tokens,
        utilisation=utilisation,
        tokens_per_second=speed,
        seconds=seconds,
        energy_kwh=energy,
        money_usd=money,
        memory=memory,
        inference=inference_memory(config, 1, setting.context, setting.precision, device.kind),
        fits=memory.total <= SAFETY * device.memory,
        nearest=None,
        assumptions=tuple(notes),
    )


def share_of_peak(subject: Subject, device: Device, setting: Setting, tokens_per_second: float) -> float:
    """The share of the devices' peak that a speed of all of them together is, recomputation counted."""
    executed = training_flops(subject.config, setting.context, subject.method)
    executed += setting.recompute * forward_flops(subject.config, setting.context, subject.method)
    return tokens_per_second * executed / (setting.count * device.peak(setting.precision))


def _method_notes(subject: Subject, setting: Setting) -> Iterator[str]:
    """What the plan takes for granted about how it is trained."""
    method = subject.method
    if setting.count > 1:
        split = "split over the devices that have rows of their own (FSDP)" if setting.sharded else "whole on each"
        yield (
            f"weights, gradients and optimizer are {split}; the time in which the devices talk to each other is part "
            "of the utilisation"
        )
    if method.objective in ("chat", "dpo", "orpo"):
        yield f"{method.targets:.0%} of the tokens are answers; only these have logits"
    if method.objective == "spans":
        yield f"targets are {method.target:.0%} as long as sources"
    if method.reference is not None:
        yield "the frozen second network is in float32"
    if method.compiled:
        yield "torch.compile: what it saves and takes is not counted"


def _utilisation(wishes: Wishes, device: Device, share: tuple[float, str] | None, notes: list[str]) -> float:
    if wishes.utilisation is not None:
        return wishes.utilisation
    if share is not None:
        notes.append(f"utilisation {share[0]:.3g}: {share[1]}")
        return share[0]
    assumed = devices.UTILISATION[device.kind]
    notes.append(f"utilisation {assumed:.2f}: {devices.UTILISATION_SOURCE[device.kind]}; --utilisation replaces it")
    return assumed


def _tokens(subject: Subject, wishes: Wishes, setting: Setting, n: int, speed: float, notes: list[str]) -> float:
    if wishes.tokens is not None:
        return wishes.tokens
    if subject.steps is not None:
        return float(subject.steps * setting.step_tokens)
    if subject.minutes is not None:
        return speed * subject.minutes * 60
    if subject.tokens is not None:
        return subject.tokens
    notes.append(
        f"{CHINCHILLA} tokens per parameter, the compute-optimal number (Hoffmann et al. 2022); --tokens replaces it"
    )
    return float(CHINCHILLA * n)


def _energy_and_money(
    wishes: Wishes, device: Device, setting: Setting, seconds: float, notes: list[str]
) -> tuple[float, float]:
    """kWh of the devices at full power, and what they cost: rent where it is known, else electricity."""
    watts = device.watts if wishes.watts is None else wishes.watts
    hours = seconds / 3600 * setting.count
    if watts is None:
        watts = devices.WATTS_PER_CORE * max(device.cores, 4)
        notes.append(f"{watts:.0f} W: assumed, {devices.WATTS_PER_CORE:.0f} W per core; --watts replaces it")
    elif wishes.watts is None:
        notes.append(f"{watts:.0f} W: the board's largest power, without the rest of the computer and its cooling")
    energy = watts * hours / 1000
    price = device.usd_per_hour if wishes.usd_per_hour is None else wishes.usd_per_hour
    if price is not None:
        if wishes.usd_per_hour is None:
            notes.append(f"{price:.2f} USD per device hour: {devices.PRICES}; --usd-per-hour replaces it")
        return energy, price * hours
    per_kwh = devices.USD_PER_KWH if wishes.usd_per_kwh is None else wishes.usd_per_kwh
    notes.append(f"money is electricity alone, at {per_kwh:.2f} USD per kWh; --usd-per-hour adds a rent instead")
    return energy, per_kwh * energy


def nearest_fit(wishes: Wishes, made: Plan) -> Plan | None:
    """The first of the milder settings that fits; the utilisation is taken to stay."""
    limit = SAFETY * made.device.memory
    for setting in spreading.milder(made.subject, made.device, made.setting):
        if spreading.memory(made.subject, made.device, setting).total <= limit:
            fixed = replace(wishes, utilisation=made.utilisation, tokens=made.tokens)
            return make(made.subject, fixed, made.device, setting)
    return None


def published_dict(found: Published) -> dict[str, Any]:
    """What was published, and what this arithmetic makes of the published tokens, devices and utilisation."""
    values: dict[str, Any] = {"source": found.source, "parameters": found.parameters, "tokens": found.tokens}
    values |= {"flops": found.flops, "device": found.device, "device_hours": found.hours}
    values |= {"utilisation": found.utilisation, "utilisation_source": found.utilisation_source}
    return values | {"predicted_device_hours": predicted_hours(found), "recompute": found.recompute}


def predicted_hours(found: Published) -> float | None:
    """Device hours of a published run by this arithmetic, at its published utilisation."""
    if found.device is None or found.tokens is None or found.utilisation is None:
        return None
    per_token = training_flops(found.config, found.context)
    per_token += forward_flops(found.config, found.context) * found.recompute
    rate = devices.DEVICES[found.device].peak("bfloat16") * found.utilisation
    return per_token * found.tokens / rate / 3600
