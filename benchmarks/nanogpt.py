"""The peer of B6 and B7, nanoGPT: a checkout of github.com/karpathy/nanoGPT, which is no part of this project.

In: NANOGPT=path/to/nanoGPT in the environment. Out: how it trains, and what it reached.

    checkout        the folder
    command         its training script with settings
    write_data      ids → a folder that it reads
    evaluations     what a training printed → [Evaluation(seconds, step, loss)]; ours prints the same lines
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from yanmo.errors import InputError

VARIABLE = "NANOGPT"
SEEDED = (
    "import sys; seed = sys.argv.pop(1); text = open('train.py').read(); assert '1337' in text; "
    "exec(compile(text.replace('1337', seed), 'train.py', 'exec'))"
)
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


def command(seed: int | None = None, **settings: object) -> list[str]:
    """The words that train with its configuration for characters, on the CPU and not compiled; run in the checkout.

    seed: in place of the one that stands in its script.
    """
    script = ["train.py"] if seed is None else ["-c", SEEDED, str(seed)]
    words = [sys.executable, "-u", *script, "config/train_shakespeare_char.py", "--device=cpu", "--compile=False"]
    return [*words, *(f"--{name}={value}" for name, value in settings.items())]


def write_data(train: np.ndarray, valid: np.ndarray, vocab_size: int, folder: Path) -> None:
    """Write ids as its preparing scripts do; `dataset` of `command` is then the folder."""
    folder.mkdir()
    for name, ids in (("train", train), ("val", valid)):
        ids.astype("<u2").tofile(folder / f"{name}.bin")
    # the one number that it reads from a pickle, which is written here by hand: {"vocab_size": N}
    (folder / "meta.pkl").write_bytes(b"(dp0\nVvocab_size\np1\nI%d\ns." % vocab_size)


def evaluations(lines: Iterable[tuple[float, str]]) -> list[Evaluation]:
    """The validations among the timed lines of a training."""
    found = ((seconds, LINE.match(line)) for seconds, line in lines)
    return [Evaluation(seconds, int(match[1]), float(match[2])) for seconds, match in found if match]
