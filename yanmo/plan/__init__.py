"""What a model costs before it runs: parameters, FLOPs, memory, time, energy, money. Arithmetic on configs; no torch.

    subject       a recipe, a model folder, a hub id or a published model's name → a config and how it is trained
    count         config → parameters, FLOPs per token
    activations   config, shape of a batch → what a training step keeps and needs for a while
    budget        the same → memory by kind, in training and in inference
    devices       the table of devices, and this machine as doctor measures it
    published     models and runs of the literature, with their sources
    measure       the speed of the real network on this machine (the one file that imports torch)
    optimal       a budget → the compute-optimal size (Hoffmann et al. 2022)
    wishes        what a user may set instead
    making        all of it together: plan → Plan, its verdict and the nearest setting that fits
    words         Plan → lines for people

`yanmo.plan(…)` is `making.plan`: this module can be called, since one name is both the room and its function.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yanmo.plan.making import Plan


def plan(subject: Any, **options: Any) -> Plan:
    """`making.plan`, imported when it is called."""
    from yanmo.plan.making import plan as make

    return make(subject, **options)


class _Callable(types.ModuleType):
    """A module that is called like its function `plan`."""

    def __call__(self, subject: Any, **options: Any) -> Plan:
        return plan(subject, **options)


sys.modules[__name__].__class__ = _Callable
