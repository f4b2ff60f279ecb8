"""Plan → lines for people: label and value, short enough for a narrow terminal.

rows         the plan
optimum      the compute-optimal size for a budget
amount, size, duration, money     numbers in words
"""

from __future__ import annotations

from collections.abc import Iterator

from yanmo.models.config import RecurrentConfig
from yanmo.plan.budget import SAFETY
from yanmo.plan.making import Plan, predicted_hours
from yanmo.plan.optimal import Optimum

MOMENTS = {
    "loss": "while the loss is taken",
    "gradients": "once all gradients are there",
    "update": "while the optimizer updates",
}


def rows(plan: Plan) -> Iterator[tuple[str, str]]:
    """Label and value, in the order in which they are shown."""
    setting, memory = plan.setting, plan.memory
    yield "model", f"{plan.subject.name}: {amount(plan.parameters)} parameters, {_shape(plan)}"
    if plan.rank:
        yield "adapter", _adapter(plan)
    yield (
        "training",
        (
            f"{amount(plan.tokens)} tokens; {_exponent(plan.flops_training)} FLOPs per token "
            f"({_exponent(plan.flops_forward)} forward)"
        ),
    )
    yield (
        "FLOPs",
        f"{_exponent(plan.flops)}, attention counted; {_exponent(6 * plan.parameters * plan.tokens)} as 6 N D",
    )
    count = f"{setting.count:,} × " if setting.count > 1 else ""
    yield (
        "device",
        (
            f"{count}{plan.device.title}, {setting.precision}, {_exponent(plan.device.peak(setting.precision))} FLOP/s"
            f"{' measured' if plan.device.measured else ''} × {plan.utilisation:.2g}"
        ),
    )
    yield "time", f"{duration(plan.seconds)}, {amount(plan.tokens_per_second)} tokens/s, {_hours(plan)}"
    yield "energy", f"{_plain(plan.energy_kwh)} kWh"
    yield "money", money(plan.money_usd)
    each = " on each device" if setting.count > 1 else ""
    yield "memory", f"{size(memory.total)}{each} at most, {MOMENTS[memory.moment]}"
    yield "", ", ".join(f"{kind} {size(value)}" for kind, value in memory.kinds.items() if value)
    yield (
        "batch",
        (
            f"{setting.rows} × {setting.context:,} tokens at once{each}, {amount(setting.step_tokens)} in a step"
            f"{', recomputed activations' if setting.recompute else ''}"
        ),
    )
    yield from _verdict(plan)
    if plan.optimum is not None:
        yield (
            "optimal",
            (
                f"{_exponent(plan.optimum.flops)} FLOPs are best spent on {amount(plan.optimum.parameters)} parameters "
                f"and {amount(plan.optimum.tokens)} tokens (Hoffmann et al. 2022)"
            ),
        )
    inference = plan.inference
    fits = "fits" if inference.total <= SAFETY * plan.device.memory else "does not fit on one device"
    yield "inference", f"{size(inference.total)} for one text of {setting.context:,} tokens, {fits}"
    yield from _published(plan)
    for note in plan.assumptions:
        yield "assumed", note


def _shape(plan: Plan) -> str:
    config = plan.subject.config
    if isinstance(config, RecurrentConfig):
        return f"{config.cell}, {config.layers} × {config.hidden_width}"
    layers = [str(n) for n in (config.encoder_layers, config.decoder_layers) if n]
    return f"{config.kind}, {' + '.join(layers)} layers × {config.width}"


def _adapter(plan: Plan) -> str:
    adapter = plan.subject.method.adapter
    assert adapter is not None
    names = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "rsdora": "rsDoRA"}
    base = f", the rest in {adapter.bits} bits" if adapter.bits else ""
    return f"{names[adapter.kind]} of rank {adapter.rank}: {amount(plan.trained_parameters)} trained parameters{base}"


def _verdict(plan: Plan) -> Iterator[tuple[str, str]]:
    limit = f"{size(plan.device.memory)}, of which a plan fills {SAFETY:.0%}"
    if plan.fits:
        yield "verdict", f"fits: {limit}"
        return
    yield "verdict", f"does not fit: {limit}"
    other = plan.nearest
    if other is None:
        yield "nearest", "no setting fits; choose a larger device, an adapter (--adapter lora:8) or a smaller model"
        return
    before, after = vars(plan.setting), vars(other.setting)
    words = {"rows": "rows at once", "accumulation": "micro-batches per step", "count": "devices"}
    words |= {"context": "tokens of context"}
    parts = []
    for key in ("rows", "accumulation", "precision", "context", "count"):
        if before[key] != after[key]:
            value = after[key] if isinstance(after[key], str) else f"{after[key]:,}"
            parts.append(f"{value} {words.get(key, '')}".strip())
    if after["recompute"] and not before["recompute"]:
        parts.append("recomputed activations")
    yield "nearest", f"fits with {', '.join(parts)}: {size(other.memory.total)}, {duration(other.seconds)}"


def _published(plan: Plan) -> Iterator[tuple[str, str]]:
    found = plan.subject.published
    if found is None or plan.rank:  # nobody published a training of this adapter
        return
    hours = predicted_hours(found)
    text = found.source
    if found.flops is not None:
        text += f"; {_exponent(found.flops)} FLOPs there"
    if hours is not None and found.hours is not None:
        text += (
            f"; {found.hours:,.0f} hours of {found.device} there, {hours:,.0f} by this arithmetic at a utilisation of "
            f"{found.utilisation:.2f} ({found.utilisation_source})"
        )
    yield "published", text


def optimum(found: Optimum) -> Iterator[tuple[str, str]]:
    """Label and value of the compute-optimal size."""
    yield "budget", f"{_exponent(found.flops)} FLOPs"
    yield "optimal", f"{amount(found.parameters)} parameters, {amount(found.tokens)} tokens"
    yield "approach 3", f"{amount(found.parametric_parameters)} parameters, {amount(found.parametric_tokens)} tokens"
    yield "source", found.source


def _hours(plan: Plan) -> str:
    return (
        f"{plan.device_hours:,.0f} device hours" if plan.device_hours >= 10 else f"{plan.device_hours:.2f} device hours"
    )


def _exponent(value: float) -> str:
    return f"{value:.3g}".replace("e+0", "e").replace("e+", "e") if value >= 1e6 else f"{value:,.0f}"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def amount(value: float) -> str:
    """1234567 → 1.23 million."""
    for limit, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= limit:
            return f"{value / limit:,.4g} {word}"
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes in GiB or MiB."""
    return f"{value / 2**30:,.1f} GiB" if value >= 2**30 else f"{value / 2**20:,.0f} MiB"


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    for limit, unit, word in ((86400 * 730, 86400 * 365, "years"), (86400 * 2, 86400, "days"), (5400, 3600, "hours")):
        if seconds >= limit:
            return f"{seconds / unit:,.1f} {word}"
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def money(usd: float) -> str:
    """US dollars."""
    if 0 < usd < 0.01:
        return "less than 0.01 USD"
    return f"{usd:,.0f} USD" if usd >= 100 else f"{usd:.2f} USD"
