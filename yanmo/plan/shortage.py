"""Memory that does not suffice: known before the first step, or told in one sentence when it ends.

In: a plan for this machine. Out: a refusal or a warning; an Error that names what was planned and a setting that fits.

    check_memory             before the first step: refuse what the machine cannot hold, warn of what it cannot hold now
    memory_told              around training: running out of memory becomes one sentence, on a CPU too
    explain_out_of_memory    an error of torch, numpy or Python → that sentence
    fitting                  the nearest setting of a plan that fits so many bytes
    overrides                that setting as a user writes it: train.rows=4 …

A CPU does not tell when its memory ends: Linux grants every request, and kills the process once no page is left. So
`memory_told` lowers the limit of the process's data (RLIMIT_DATA, which counts what is private and writable) to what it
holds and what is free; a request beyond is refused at once, and training ends with its last checkpoint intact. Memory
that other programs take later can still bring the kill.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import traceback
from collections.abc import Iterator
from dataclasses import replace

from yanmo.errors import ConfigError, Error
from yanmo.plan import making
from yanmo.plan.budget import SAFETY
from yanmo.plan.making import Plan
from yanmo.plan.wishes import Wishes
from yanmo.plan.words import MOMENTS, size
from yanmo.system import memory, process_bytes, process_room, usable_memory

RESERVE = 0.03  # of the free memory is left to the system, where a limit is set
MARGIN = 0.75  # after an end of memory the next setting shall hold, also where the plan says too little
SIGNS = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|std::bad_alloc|[Cc]annot allocate memory"
    r"|(CUDA|HIP|XPU|MPS)[\w ]* out of memory|CU\w+_STATUS_ALLOC_FAILED|could not create a memory object"
)
ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) ?(bytes|[KMGT]i?B)")
UNITS = {"bytes": 0, "K": 1, "M": 2, "G": 3, "T": 4}


# --- before the first step


def check_memory(plan: Plan, *, ranks: int = 1, allow: bool = False, override: str = "") -> str | None:
    """Say before the first step whether this machine holds the run: None, or a warning of one sentence.

    Raises ConfigError where the plan's peak is more than all memory that this process may have, unless `allow`; the
    sentence names a setting that fits, and `override` as the way to try all the same. `ranks`: processes of the run on
    this machine, which share its memory where it is a CPU's. The plan must be one for this machine.
    """
    shared = ranks if plan.device.kind == "cpu" else 1
    need, most, free = plan.memory.total * shared, capacity(plan), usable(plan)
    now = most if free is None else free
    if need <= min(most, now):
        return None
    said = f"by its plan the run needs {size(need)} of memory, {MOMENTS[plan.memory.moment]}"
    if need > most and not allow:
        more = f", and {override} tries it all the same" if override else ""
        raise ConfigError(f"{said}, and there are {size(most)} for it; {_remedy(plan, most / shared)}{more}")
    if need > most:
        return f"{said}, and there are {size(most)}: it will use the disk as memory, or be stopped"
    return (
        f"{said}, and {size(now)} of {size(most)} are free now; close other programs, or {_remedy(plan, now / shared)}"
    )


def capacity(plan: Plan) -> float:
    """Bytes that the plan's device has for this process, were nothing else running."""
    if plan.device.kind != "cpu":
        return plan.device.memory
    total, held = memory().total, process_bytes("VmRSS") or 0
    return min(plan.device.memory if total is None else float(total), held + max(process_room(), 0))


def usable(plan: Plan) -> float | None:
    """Bytes that this process can hold on the plan's device now, its own included; None where nothing says it."""
    if plan.device.kind != "cuda":
        return usable_memory()
    import torch

    if not torch.cuda.is_available():
        return None
    return float(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved())


# --- a setting that fits


def fitting(plan: Plan, room: float) -> Plan | None:
    """The plan with the nearest setting whose peak is at most `room` bytes; None where no setting is so small."""
    if plan.memory.total <= room:
        return plan
    smaller = replace(plan.device, memory=max(room, 1.0) / SAFETY)
    found = making.nearest_fit(Wishes(), replace(plan, device=smaller))
    # processes on one CPU share its memory, so more of them are no remedy
    more = found is not None and found.setting.count > plan.setting.count
    return None if more and plan.device.kind == "cpu" else found


def overrides(plan: Plan, other: Plan) -> str:
    """What a user adds to the command so that the run is the other plan's: "train.rows=4 train.accumulation=4"."""
    before, after = (vars(p.setting) | {"rows": p.setting.all_rows} for p in (plan, other))
    keys = {"rows": "rows", "accumulation": "accumulation", "recompute": "recompute", "precision": "precision"}
    keys |= {"context": "length"}
    words = [
        f"train.{key}={str(after[name]).lower()}" for name, key in keys.items() if str(before[name]) != str(after[name])
    ]
    if after["count"] != before["count"]:
        words.append(f"on {after['count']:,} devices")
    return " ".join(words)


def _remedy(plan: Plan, room: float) -> str:
    other = fitting(plan, room)
    if other is None:
        return "no setting of this model fits, so choose a smaller model, an adapter or a larger machine"
    return f"train with {overrides(plan, other)}, which needs {size(other.memory.total)}"


# --- when it ends


@contextlib.contextmanager
def memory_told(plan: Plan) -> Iterator[None]:
    """Run a `with` block so that an end of memory leaves it as the Error of `explain_out_of_memory`."""
    told = None
    try:
        with bounded_memory() if plan.device.kind == "cpu" else contextlib.nullcontext():
            yield
    except Exception as error:
        told = explain_out_of_memory(error, plan)
        if told is None:
            raise
    if told is not None:
        raise told from None


@contextlib.contextmanager
def bounded_memory(free: int | None = None) -> Iterator[bool]:
    """Refuse this process more data than it holds and `free` bytes (None: what is free now), so that it is not killed.

    Yields whether a limit was set: on Linux, where the memory is known and no lower limit binds already.
    """
    used, available = process_bytes("VmData"), memory().available if free is None else free
    if os.name != "posix" or used is None or available is None:
        yield False
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + int(available * (1 - RESERVE))
    if any(bound != resource.RLIM_INFINITY and bound <= limit for bound in (soft, hard)):
        yield False
        return
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield True
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ended: Python's, numpy's, torch's on a CPU or an accelerator, the system's."""
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return named or system or isinstance(error, MemoryError) or bool(SIGNS.search(str(error)))


def explain_out_of_memory(error: BaseException, plan: Plan | None) -> Error | None:
    """One sentence for an end of memory: what was asked for, what the plan said, which setting fits; else None.

    It frees the tensors that the error's frames hold, since the answer needs a little memory too.
    """
    if not is_out_of_memory(error):
        return None
    asked = _asked(str(error))
    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = None
    what = "memory ran out" + (f" when {size(asked)} were asked for" if asked else "")
    if plan is None:
        return Error(f"{what}; train with smaller train.rows and as much more train.accumulation")
    total = plan.memory.total
    kinds = sorted(plan.memory.kinds.items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{kind} {size(value)}" for kind, value in kinds)
    said = f"the plan said {size(total)} at most ({parts})"
    try:
        room = usable(plan)
        room = capacity(plan) if room is None else min(room, capacity(plan))
        there = f" and {size(room)} are there"
        return Error(f"{what}: {said}{there}; {_remedy(plan, MARGIN * min(room, total))}")
    except MemoryError:
        return Error(f"{what}: {said}; train with half the train.rows and twice the train.accumulation")


def _asked(text: str) -> float | None:
    match = ASKED.search(text)
    if match is None:
        return None
    power = 0 if match[2] == "bytes" else UNITS[match[2][0]]
    return float(match[1]) * 1024.0**power
