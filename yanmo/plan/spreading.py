"""How a plan lies over several devices, and the mildest change that makes it fit.

In: a subject, a device, a setting. Out: settings, bytes.

    start       what is asked for → the Setting
    memory      a Setting → Memory of each device
    milder      settings in the order of how little they change

A recipe's rows are those of all devices together (recipe.py ScaleSection), so more devices have fewer rows each; rows
that are given for one device, as --batch does, are taken as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from yanmo.errors import ConfigError, InputError
from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.plan.activations import Shape
from yanmo.plan.budget import Memory, training_memory, training_weights
from yanmo.plan.devices import Device
from yanmo.plan.method import Config
from yanmo.plan.subject import Subject
from yanmo.plan.wishes import Setting, Wishes

MAX_COUNT = 1 << 20
PAYS = 1.1  # bfloat16 must be this much faster to be chosen (training/precision.py)
STATE_BYTES, ROOM = 18, 1 / 3  # when weights are split by themselves (training/spread.py)
SHORTEST = 128  # tokens of context that a remedy leaves


def start(subject: Subject, wishes: Wishes, device: Device, count: int) -> Setting:
    """What one device does in a step, as it is asked for; what the run itself would refuse is an error."""
    context = wishes.context or subject.context
    _check_context(subject, context)
    parts = _parts(subject, count)
    rows = subject.rows
    if wishes.batch is not None:
        rows = wishes.batch
    elif subject.shared:
        if rows % parts:
            raise InputError(
                f"train.rows is {rows}, which {parts} devices cannot share evenly; "
                f"set train.rows={rows + parts - rows % parts}, or another --count"
            )
        rows //= parts
    return Setting(
        rows=rows,
        accumulation=subject.accumulation,
        context=context,
        precision=_precision(subject, wishes, device),
        recompute=wishes.recompute or subject.recompute,
        count=count,
        sharded=count > 1 and _is_sharded(subject, device),
        tensor=subject.tensor,
    )


def _parts(subject: Subject, count: int) -> int:
    """Devices that have rows of their own; neighbours that share matrices have the same rows."""
    if count % subject.tensor:
        raise InputError(
            f"scale.tensor_parallel is {subject.tensor}, and the plan is for {count} "
            f"device{'s' * (count > 1)}; give --count {math.ceil(count / subject.tensor) * subject.tensor}"
        )
    if subject.tensor > 1:
        _cut(subject.config, subject.tensor)
    return count // subject.tensor


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


def _is_sharded(subject: Subject, device: Device) -> bool:
    if subject.tensor > 1 or subject.shard == "full":
        return True
    if subject.shard == "none":
        return False
    held, trained = training_weights(subject.config, subject.method, 4, 1)
    frozen = held - 4 * trained
    return trained * STATE_BYTES + frozen > device.memory * ROOM


# --- bytes of a device


def memory(subject: Subject, device: Device, setting: Setting) -> Memory:
    """What each device needs at most."""
    config = subject.config if setting.tensor == 1 else _cut(subject.config, setting.tensor)
    method, shape = subject.method, shape_of(subject, setting)
    shards = setting.parts if setting.sharded else 1
    return training_memory(config, shape, method, device.kind, accumulation=setting.accumulation, shards=shards)


def shape_of(subject: Subject, setting: Setting) -> Shape:
    """A micro-batch of one device."""
    method = subject.method
    return Shape(
        rows=setting.rows,
        context=_columns(setting.context, method.target if subject.config.kind == "encoder-decoder" else 1.0),
        source=_columns(setting.context, method.source),
        precision=setting.precision,
        recompute=setting.recompute,
    )


def _columns(context: int, share: float) -> int:
    return max(1, round(context * share))


def _cut(config: Config, tensor: int) -> TransformerConfig:
    """What one of the neighbours that share the matrices of each layer holds (training/spread.py)."""
    if not isinstance(config, TransformerConfig) or config.kind != "decoder":
        raise ConfigError("scale.tensor_parallel is for decoders; set scale.tensor_parallel=1")
    sizes = {"heads": config.n_heads, "kv_heads": config.n_kv_heads, "ffn_width": config.ffn_width}
    for name, size in sizes.items():
        if size % tensor:
            raise ConfigError(
                f"model.{name} is {size}, which scale.tensor_parallel = {tensor} does not divide; choose a divisor"
            )
    return replace(
        config,
        n_heads=config.n_heads // tensor,
        n_kv_heads=config.n_kv_heads // tensor,
        ffn_width=config.ffn_width // tensor,
    )


# --- what would fit


def milder(subject: Subject, device: Device, first: Setting) -> Iterator[Setting]:
    """Settings in the order of how little they change: first those that learn the same, then others.

    Fewer rows at once with as many micro-batches more · recomputation · bfloat16 · a shorter context · more devices.
    """
    window = first.rows * first.accumulation
    rows = [first.rows]
    while rows[-1] > 1:
        rows.append(rows[-1] // 2)
    few = [replace(first, rows=n, accumulation=math.ceil(window / n)) for n in rows]
    yield from few
    forms = [few[-1]]
    if not first.recompute and not isinstance(subject.config, RecurrentConfig):
        yield from (replace(setting, recompute=True) for setting in few)
        forms.append(replace(few[-1], recompute=True))
    if first.precision == "float32" and "bfloat16" in device.flops:
        yield from (replace(setting, precision="bfloat16") for setting in forms)
        forms += [replace(setting, precision="bfloat16") for setting in forms]
    context = first.context // 2
    while context >= SHORTEST:
        yield from (replace(setting, context=context) for setting in forms)
        context //= 2
    count = first.count * 2
    while count <= MAX_COUNT:
        shared = subject.shared and subject.shard != "none"
        accumulation = max(1, few[-1].accumulation * first.count // count) if shared else few[-1].accumulation
        if subject.shard == "none":
            return
        yield from (replace(form, count=count, sharded=True, accumulation=accumulation) for form in forms)
        count *= 2
