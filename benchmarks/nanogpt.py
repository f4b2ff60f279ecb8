"""The peer of B6 and B7, nanoGPT: a checkout of github.com/karpathy/nanoGPT, which is no part of this project.

In: NANOGPT=path/to/nanoGPT in the environment. Out: how it trains, and what it reached.

    checkout        the folder
    command         its training script with settings
    evaluations     what a training printed → [Evaluation(seconds, step, loss)]; ours prints the same lines
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from yanmo.errors import InputError

VARIABLE = "NANOGPT"
LINE = re.compile(r"step (\d+): .*val loss ([0-9.]+)")


class Evaluation(NamedTuple):
    """One validation: seconds since the process was started, steps trained, nats per token."""

    seconds: float
    step: int
    loss: float


def checkout() -> Path:
    """The folder of the checkout."""
    folder = Path(os.environ.get(VARIABLE) or "nanoGPT").resolve()
    if not (folder / "train.py").is_file():
        raise InputError(
            f"{folder}: no checkout of nanoGPT; clone github.com/karpathy/nanoGPT and set {VARIABLE} to its folder"
        )
    return folder


def command(**settings: object) -> list[str]:
    """The words that train with its configuration for characters, on the CPU and not compiled; run in the checkout."""
    words = [sys.executable, "-u", "train.py", "config/train_shakespeare_char.py", "--device=cpu", "--compile=False"]
    return [*words, *(f"--{name}={value}" for name, value in settings.items())]


def evaluations(lines: Iterable[tuple[float, str]]) -> list[Evaluation]:
    """The validations among the timed lines of a training."""
    found = ((seconds, LINE.match(line)) for seconds, line in lines)
    return [Evaluation(seconds, int(match[1]), float(match[2])) for seconds, match in found if match]
