"""The plan itself: everything of the other files together, a verdict, and the nearest setting that fits.

plan         subject, device, count, wishes → Plan
Wishes       what a user may set instead of what the subject says
Plan         numbers, the verdict, what was assumed
_nearest     the setting that fits and changes least
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from yanmo.errors import InputError, nearest
from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.plan import devices
from yanmo.plan.activations import Shape
from yanmo.plan.budget import SAFETY, Memory, Training, inference_memory, training_memory
from yanmo.plan.count import adapter_parameters, forward_flops, parameters, training_flops
from yanmo.plan.devices import Device
from yanmo.plan.published import CHINCHILLA, Published
from yanmo.plan.subject import Subject, read_subject
from yanmo.plan.wishes import Setting, Wishes

MAX_COUNT = 1 << 20
PAYS = 1.1  # bfloat16 must be this much faster to be chosen (training/precision.py)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The cost of a training run; bytes per device, seconds of the whole run on all devices."""

    subject: Subject
    device: Device
    setting: Setting
    rank: int
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
            "settings": {**vars(self.setting), "rank": self.rank, "optimizer": self.subject.optimizer},
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
            "nearest": None if self.nearest is None else self._nearest_dict(self.nearest),
            "inference": {
                "memory_bytes": self.inference.as_dict(),
                "fits": self.inference.total <= SAFETY * self.device.memory,
            },
            "published": None if found is None else published_dict(found),
            "assumptions": list(self.assumptions),
        }

    @staticmethod
    def _nearest_dict(other: Plan) -> dict[str, Any]:
        return {**other.changes, "memory_bytes": other.memory.as_dict(), "seconds": other.seconds}


def plan(subject: Any, *, device: str | Device = "auto", count: int = 1, **wishes: Any) -> Plan:
    """Plan the training of a recipe, a model folder, a hub id, a published model's name, a Recipe or a config.

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
    found = read_subject(subject, wanted.overrides)
    place = devices.find(device) if isinstance(device, str) else device
    setting = Setting(
        rows=wanted.batch or _rows(found, count),
        accumulation=found.accumulation,
        context=wanted.context or found.context,
        precision=_precision(found, wanted, place),
        recompute=wanted.recompute or found.recompute,
        count=count,
    )
    _check_context(found, setting.context)
    speed = None
    if place.measured and wanted.measure and wanted.utilisation is None:
        speed = _measured(found, wanted, place, setting)
        if speed is not None:
            setting = replace(setting, precision=speed.precision)
    made = _make(found, wanted, place, setting, None if speed is None else speed.utilisation)
    if made.fits:
        return made
    return replace(made, nearest=_nearest(found, wanted, place, made))


def _rows(subject: Subject, count: int) -> int:
    """Rows of one device: `rows` of a recipe are those of the whole run, of which each device takes its share."""
    if subject.kind != "recipe":
        return subject.rows
    if count % subject.tensor_parallel:
        raise InputError(
            f"count is {count}, no multiple of scale.tensor_parallel = {subject.tensor_parallel}; change one of them"
        )
    parts = count // subject.tensor_parallel
    if subject.rows % parts:
        more = subject.rows + parts - subject.rows % parts
        raise InputError(
            f"train.rows is {subject.rows}, which {parts:,} devices cannot share evenly; set train.rows={more}, "
            "or another count"
        )
    return subject.rows // parts


def _precision(subject: Subject, wishes: Wishes, device: Device) -> str:
    """The precision that was asked for, or bfloat16 where the device is faster in it."""
    asked = wishes.precision or subject.precision
    if asked == "auto":
        fast = device.flops.get("bfloat16", 0) >= PAYS * device.flops["float32"] or device.kind == "cuda"
        return "bfloat16" if fast and "bfloat16" in device.flops else "float32"
    if asked == "float16":
        raise InputError(
            "training runs in bfloat16 or float32 here, not in float16; choose one of them with --precision"
        )
    device.peak(asked)
    return asked


def _check_context(subject: Subject, context: int) -> None:
    config = subject.config
    learned = isinstance(config, TransformerConfig) and config.position == "learned"
    if learned and context > config.max_positions:
        raise InputError(
            f"the context is {context:,} tokens, and {subject.name} has positions for {config.max_positions:,}; "
            "give a smaller --context"
        )


def _measured(subject: Subject, wishes: Wishes, device: Device, setting: Setting) -> Any:
    """The speed of the real network here, where it fits."""
    from yanmo.plan.measure import measure  # imports torch

    memory = _memory(subject, wishes, device, setting)
    if memory.total > SAFETY * device.memory or setting.count > 1:
        return None
    asked = wishes.precision or subject.precision
    return measure(subject, setting, device, rank=wishes.rank, choose=asked == "auto")


def _shape(subject: Subject, wishes: Wishes, setting: Setting) -> Shape:
    return Shape(
        rows=setting.rows,
        context=setting.context,
        precision=setting.precision,
        packed=subject.packed,
        target_share=subject.target_share,
        recompute=setting.recompute,
        rank=wishes.rank,
    )


def _memory(subject: Subject, wishes: Wishes, device: Device, setting: Setting) -> Memory:
    training = Training(accumulation=setting.accumulation, optimizer=subject.optimizer, shards=setting.count)
    return training_memory(subject.config, _shape(subject, wishes, setting), training, device.kind)


def _make(subject: Subject, wishes: Wishes, device: Device, setting: Setting, measured: float | None) -> Plan:
    config = subject.config
    notes: list[str] = []
    n = parameters(config)
    per_token = training_flops(config, setting.context, target_share=subject.target_share, rank=wishes.rank)
    forward = forward_flops(config, setting.context, subject.target_share)
    executed = per_token + forward * setting.recompute
    utilisation = _utilisation(wishes, device, measured, notes)
    speed = setting.count * device.peak(setting.precision) * utilisation / executed
    tokens = _tokens(subject, wishes, setting, n, speed, notes)
    seconds = tokens / speed
    if subject.minutes is not None and wishes.tokens is None:
        seconds = subject.minutes * 60
    energy, money = _energy_and_money(wishes, device, setting, seconds, notes)
    memory = _memory(subject, wishes, device, setting)
    if setting.count > 1:
        notes.append(
            f"weights, gradients and optimizer are split over the {setting.count:,} devices (FSDP), each has rows of "
            "its own; the time to talk to each other is part of the utilisation"
        )
    return Plan(
        subject=subject,
        device=device,
        setting=setting,
        rank=wishes.rank,
        parameters=n,
        trained_parameters=adapter_parameters(config, wishes.rank) if wishes.rank else n,
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


def _utilisation(wishes: Wishes, device: Device, measured: float | None, notes: list[str]) -> float:
    if wishes.utilisation is not None:
        return wishes.utilisation
    if measured is not None:
        notes.append(f"utilisation {measured:.3g}: the real network was timed here for some seconds")
        return measured
    assumed = devices.UTILISATION[device.kind]
    notes.append(f"utilisation {assumed:.2f}: {devices.UTILISATION_SOURCE[device.kind]}; --utilisation replaces it")
    return assumed


def _tokens(subject: Subject, wishes: Wishes, setting: Setting, n: int, speed: float, notes: list[str]) -> float:
    if wishes.tokens is not None:
        return wishes.tokens
    if subject.steps is not None:
        rows = setting.rows * (setting.count // subject.tensor_parallel)
        return float(subject.steps * rows * setting.context * setting.accumulation)
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


def _nearest(subject: Subject, wishes: Wishes, device: Device, made: Plan) -> Plan | None:
    """The first of the milder settings that fits; the utilisation is taken to stay."""
    limit = SAFETY * device.memory
    for setting in _milder(subject, device, made.setting):
        if _memory(subject, wishes, device, setting).total <= limit:
            fixed = replace(wishes, utilisation=made.utilisation, tokens=made.tokens)
            return _make(subject, fixed, device, setting, None)
    return None


def _milder(subject: Subject, device: Device, start: Setting) -> Iterator[Setting]:
    """Settings in the order of how little they change: first those that learn the same, then others.

    Fewer rows at once with as many micro-batches more · recomputation · bfloat16 · a shorter context · more devices.
    """
    rows = [start.rows]
    while rows[-1] > 1:
        rows.append(rows[-1] // 2)
    few = [replace(start, rows=n, accumulation=math.ceil(start.accumulation * start.rows / n)) for n in rows]
    yield from few
    forms = [few[-1]]
    if subject.can_recompute and not start.recompute and not isinstance(subject.config, RecurrentConfig):
        yield from (replace(setting, recompute=True) for setting in few)
        forms.append(replace(few[-1], recompute=True))
    if start.precision == "float32" and "bfloat16" in device.flops:
        yield from (replace(setting, precision="bfloat16") for setting in forms)
        forms += [replace(setting, precision="bfloat16") for setting in forms]
    context = start.context // 2
    while context >= 128:
        yield from (replace(setting, context=context) for setting in forms)
        context //= 2
    count = start.count * 2
    while count <= MAX_COUNT:
        yield from (replace(setting, count=count) for setting in forms)
        count *= 2


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
