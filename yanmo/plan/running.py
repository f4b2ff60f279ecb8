"""The plan of a run that is about to begin: its network exists, its data are read, its speed was tried for a second.

In: a recipe and the config of its network; what was measured. Out: the Plan, and what RUN/plan.json holds of it.

    plan_run      recipe, config, measured → Plan; no torch, but where the device is to be measured
    plan_record   the Plan and what is known of the data → plain values for plan.json
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from yanmo.plan import devices, making, spreading
from yanmo.plan.budget import SAFETY
from yanmo.plan.devices import Device
from yanmo.plan.making import TRIED, Plan
from yanmo.plan.method import Config
from yanmo.plan.subject import of_recipe_and_config
from yanmo.plan.timing import update_seconds
from yanmo.plan.wishes import Wishes
from yanmo.recipe import Recipe

SECONDS = 0.2  # of measuring each speed of this machine: a run shall begin


def plan_run(
    recipe: Recipe,
    config: Config,
    *,
    device: Device | None = None,
    count: int = 1,
    precision: str | None = None,
    tokens_per_second: float | None = None,
    targets: float | None = None,
    teacher: Config | None = None,
) -> Plan:
    """Plan a run of `count` processes with a device each.

    precision: what the run computes in, where the recipe leaves it open. tokens_per_second: of all processes together,
    forward and backward, as a batch of the run was timed; the update is added by arithmetic. targets: share of the
    tokens that the loss looks at. teacher: config of the recipe's teacher.
    """
    subject = of_recipe_and_config(recipe, config, "the run", teacher)
    if targets is not None:
        subject = replace(subject, method=replace(subject.method, targets=targets))
    place = _here() if device is None else device
    wishes = Wishes(precision=precision)
    setting = spreading.start(subject, wishes, place, count)
    share = None
    if tokens_per_second is not None:
        tokens = setting.step_tokens
        update = update_seconds(subject, setting, place.bandwidth or math.inf, place.peak(setting.precision))
        speed = tokens / (tokens / tokens_per_second + update)
        share = (making.share_of_peak(subject, place, setting, speed), TRIED)
    made = making.make(subject, wishes, place, setting, share)
    return (
        made if made.memory.total <= SAFETY * place.memory else replace(made, nearest=making.nearest_fit(wishes, made))
    )


@functools.cache
def _here() -> Device:
    """This machine, measured once in a process."""
    return devices.this_machine(SECONDS)


def plan_record(plan: Plan, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What plan.json holds: the plan as `yanmo plan --json` prints it, and what is known of the data.

    facts: at least train_tokens, the tokens of one epoch, where there is text.
    """
    known = facts.get("train_tokens")
    epochs = {"epochs": plan.tokens / known} if known else {}
    vocabulary = {"vocab_size": plan.subject.config.vocab_size, "trainable": plan.trained_parameters}
    return {**plan.as_dict(), **vocabulary, **facts, **epochs}
