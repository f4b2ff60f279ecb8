"""Run folders as runs leave them, made without training: for tests of what a person sees of a run."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

RECIPE = """[model]
kind = "transformer"
family = "qwen3"

[data]
paths = ["红楼梦.txt", "novels"]

[objective]
kind = "causal"

[train]
rows = 8
length = 256
steps = 2000
"""

PLAN: dict[str, Any] = {
    "subject": "gpt-tiny.toml",
    "parameters": 5_869_568,
    "tokens": 4_096_000.0,
    "flops": 1.6e14,
    "flops_executed": 1.6e14,
    "flops_per_token": {"forward": 1.3e7, "training": 3.9e7},
    "device": "auto",
    "device_kind": "cpu",
    "count": 1,
    "settings": {"rows": 8, "accumulation": 1, "context": 256, "count": 1, "precision": "float32"},
    "utilisation": 0.42,
    "tokens_per_second": 2600.0,
    "seconds": 1575.0,
    "energy_kwh": 0.018,
    "money_usd": 0.0031,
    "memory_bytes": {
        "weights": 23_478_272,
        "gradients": 23_478_272,
        "optimizer": 46_956_544,
        "activations": 212_000_000,
        "logits": 33_000_000,
        "cache": 0,
        "allocator": 71_000_000,
        "framework": 350_000_000,
        "total": 681_000_000,
    },
    "memory_moment": "loss",
    "assumptions": ["40 W: assumed, 10 W per core; --watts replaces it"],
    "train_tokens": 812_500,
    "train_bytes": 3_000_000,
    "vocab_size": 4096,
}

ENVIRONMENT: dict[str, Any] = {
    "format": "yanmo-run",
    "python": "3.11.7",
    "system": "Linux 6 x86_64",
    "versions": {"yanmo": "0.1", "torch": "2.13.0"},
    "cpu": "A processor",
    "cores": {"physical": 2, "logical": 4, "allowed": 4, "quota": None},
    "instruction_sets": ["avx2", "avx512f"],
    "threads": 2,
    "memory": {"total": 16 * 2**30, "available": 12 * 2**30, "limit": None},
    "gpus": [],
    "seed": 0,
}

CORPUS: dict[str, Any] = {
    "splits": {"train": {"documents": 690, "bytes": 3_000_000}, "valid": {"documents": 36, "bytes": 160_000}},
    "license": {"public domain": 700, "not stated": 26},
    "language": {"en": 600, "zh": 126},
}


def step(number: int, rng: random.Random, **more: Any) -> dict[str, Any]:
    """One training line."""
    loss = 3.4 + 4.9 * math.exp(-number / 220) + rng.gauss(0, 0.07)
    values = {
        "step": number,
        "tokens": number * 2048,
        "loss": loss,
        "learning_rate": 5e-3 * min(number / 40, 1 - number / 2100),
        "gradient_norm": 0.4 + abs(rng.gauss(0, 0.1)) + 6 / number,
        "seconds": number * 0.8 + number // 100 * 3.0,
        "tokens_per_second": 2560 + rng.gauss(0, 60),
        "memory": 640e6 + min(number, 50) * 1e6,
    }
    return values | more


def evaluation(number: int, rng: random.Random, **more: Any) -> dict[str, Any]:
    """One line of an evaluation."""
    loss = 3.5 + 4.8 * math.exp(-number / 220) + rng.gauss(0, 0.01) + max(0, number - 1500) * 1e-4
    values = {"step": number, "tokens": number * 2048, "seconds": number * 0.8 + number // 100 * 3.0 + 2.5}
    return values | {"valid_loss": loss, "bits_per_byte": loss * 0.3907, "valid_tokens": 16384} | more


def lines(steps: int, every: int = 100) -> list[dict[str, Any]]:
    """The lines of a run of so many steps."""
    rng, out = random.Random(0), []
    for number in range(1, steps + 1):
        out.append(step(number, rng))
        if number % every == 0:
            out.append(evaluation(number, rng))
    return out


def write_lines(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write metrics.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(text, "utf-8")


def made_run(folder: Path, steps: int = 2000, *, finished: bool = True) -> Path:
    """A whole run folder."""
    write_lines(folder, lines(steps))
    (folder / "recipe.toml").write_text(RECIPE, "utf-8")
    (folder / "plan.json").write_text(json.dumps(PLAN), "utf-8")
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT), "utf-8")
    (folder / "tokens").mkdir(exist_ok=True)
    (folder / "tokens" / "corpus.json").write_text(json.dumps(CORPUS), "utf-8")
    for number in (1500, steps):
        (folder / "checkpoints" / f"step-{number}").mkdir(parents=True, exist_ok=True)
    if finished:
        (folder / "model").mkdir(exist_ok=True)
    return folder
