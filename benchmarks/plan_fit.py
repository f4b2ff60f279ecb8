"""What the plan cannot know from a config: fitted to networks that are none of B12's.

Each network is trained in a process of its own, in both precisions. What its peak of memory has beyond what the plan
counts is the allocator's; what a step takes beyond its matrix products is put on the kinds of work of plan/timing.py.
The constants that come out belong into plan/budget.py and plan/timing.py, whenever training itself has changed.

    NETWORKS    the networks
    measure     name, precision → peak, seconds of a step with one and with two micro-batches
    fit         figures → constants, and how well they hold

    python -m benchmarks.plan_fit FILE [PRECISION]      measures into FILE, in which what is there already is kept
    python -m benchmarks.plan_fit FILE --fit            constants out of FILE
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import b12
from yanmo.plan import spreading, timing
from yanmo.rates import Rates, measured_rates

L, B, T5 = b12.LLAMA, b12.BERT, b12.T5
SMALL = {"width": 256, "n_heads": 4, "ffn_width": 1024}
LARGE = {"width": 512, "n_heads": 8, "ffn_width": 2048}
LARGE_LLAMA = {"vocab_size": 10000, **LARGE, "ffn_width": 1376, "decoder_layers": 4, **L}
GPT = {"max_positions": 512}
BOTH = {"vocab_size": 8000, **SMALL, "encoder_layers": 3, "decoder_layers": 3}
NETWORKS: dict[str, dict[str, Any]] = {
    "gpt256": {"config": {"vocab_size": 4000, **SMALL, "decoder_layers": 4, **GPT}, "rows": 16, "context": 128}
    | {"packed": True},
    "gpt512": {"config": {"vocab_size": 5000, **LARGE, "decoder_layers": 3, **GPT}, "rows": 6, "context": 256},
    "qwen256": {
        "config": {"vocab_size": 4096, **SMALL, "ffn_width": 704, "decoder_layers": 6, **L, "norm_query_key": True},
        "rows": 16,
        "context": 256,
        "packed": True,
        "optimizer": "muon",
    },
    "llama512": {"config": LARGE_LLAMA, "rows": 4, "context": 512, "packed": True},
    "llama512-accumulated": {"config": LARGE_LLAMA, "rows": 4, "context": 256, "packed": True, "accumulation": 2},
    "llama512-lora": {"config": LARGE_LLAMA, "rows": 8, "context": 256, "packed": True, "rank": 8},
    "bert512": {"config": {"vocab_size": 8000, **LARGE, "encoder_layers": 3, **B}, "rows": 16, "context": 128}
    | {"packed": True},
    "bert512-lora": {"config": {"vocab_size": 8000, **LARGE, "encoder_layers": 4, **B}, "rows": 12, "context": 128}
    | {"rank": 8},
    "t5-256": {"config": BOTH | T5, "rows": 8, "context": 128, "packed": True},
    "bart256": {"config": BOTH, "rows": 16, "context": 96},
    "lstm256": {"config": {"cell": "lstm", "vocab_size": 4000, "width": 256, "layers": 2}, "rows": 16, "context": 128}
    | {"packed": True},
    "gru512": {"config": {"cell": "gru", "vocab_size": 4000, "width": 512, "layers": 1}, "rows": 16, "context": 64}
    | {"packed": True},
    "lstm256-whole": {
        "config": {"cell": "lstm", "vocab_size": 4000, "width": 256, "layers": 2},
        "rows": 16,
        "context": 128,
    },
}
KINDS = {  # what parts() makes of a coefficient of 1, by the coefficient's name
    "PASSES": ("values", {"ADAPTED": 0.0, "BIASED": 0.0}),
    "ADAPTED": ("values", {"PASSES": 0.0, "BIASED": 0.0}),
    "BIASED": ("values", {"PASSES": 0.0, "ADAPTED": 0.0}),
    "LOGIT": ("logits", {}),
    "CELL_CALLS": ("cells", {"CELL_PASSES": 0.0}),
    "CELL_PASSES": ("cells", {"CELL_CALLS": 0.0}),
}


def measure(name: str, precision: str) -> dict[str, Any]:
    """Train a network in processes of its own; the best steps count."""
    case = NETWORKS[name] | {"precision": precision}
    words = [sys.executable, "-m", "benchmarks.plan_fit", "--child", json.dumps(case)]
    held = b12.measured(case)["bytes"]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", check=True)
    return {"name": name, "precision": precision, "bytes": held, **json.loads(done.stdout)}


def child(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a step with one and with two micro-batches, and this machine's rates."""
    from yanmo.plan.measure import network_of, objective_of, random_batches
    from yanmo.training.loop import Settings, train

    subject, setting = b12.subject_of(case), b12.setting_of(case)
    network = network_of(subject)
    objective = objective_of(subject, network)
    best = []
    for accumulation in (1, 2):
        settings = Settings(
            steps=6, accumulation=accumulation, optimizer=subject.method.optimizer, precision=setting.precision
        )
        steps = train(network, random_batches(subject, setting.rows, setting.context), objective, settings)
        best.append(min(step.seconds for step in _own(steps)))
    rates = measured_rates(setting.precision, 0.5)
    return {"single": best[0], "double": best[1], "rates": vars(rates)}


def _own(steps: Any) -> Any:
    """Steps with the time of each alone, the first one left out."""
    before = None
    for step in steps:
        now = step.seconds
        if before is not None:
            yield step.__class__(**{**vars(step), "seconds": now - before})
        before = now


# --- constants


def fit(figures: list[dict[str, Any]]) -> None:
    """Print the constants that fit best, and planned over measured with the present ones."""
    _allocator(figures)
    _time(figures)


def _allocator(figures: list[dict[str, Any]]) -> None:
    groups: dict[str, list[tuple[float, float]]] = {}
    for found in figures:
        case = NETWORKS[found["name"]] | {"precision": found["precision"]}
        place = b12.devices.Device(name="here", title="here", kind="cpu", memory=1e12)
        memory = spreading.memory(b12.subject_of(case), place, b12.setting_of(case))
        kinds = memory.kinds
        used = kinds["activations"] + kinds["logits"] + kinds["gradients"] * (case.get("accumulation", 1) > 1)
        free = found["bytes"] - (memory.total - kinds["allocator"])
        group = "adapter" if "rank" in case else case.get("optimizer", "adamw")
        groups.setdefault(group, []).append((used, free))
        print(
            f"{found['name']:22}{found['precision']:9} {found['bytes'] / 1e6:5.0f} MB: planned "
            f"{memory.total / found['bytes']:.3f}, used {used / 1e6:4.0f}, held free {free / 1e6:4.0f}"
        )
    for group, pairs in groups.items():
        used, free = np.array(pairs).T
        share, constant = np.polyfit(used, free, 1) if len(pairs) > 2 else (free.mean() / used.mean(), 0.0)
        print(f"{group}: {share:.2f} of what is used and {constant / 1e6:.0f} MB beside the libraries")


def _time(figures: list[dict[str, Any]]) -> None:
    rows, rest, seconds = [], [], []
    for found in figures:
        case = NETWORKS[found["name"]] | {"precision": found["precision"], "accumulation": 1}
        rates = _rates([other["rates"] for other in figures if other["precision"] == found["precision"]])
        subject, setting = b12.subject_of(case), b12.setting_of(case)
        made = timing.parts(subject, setting, rates)
        micro = min(found["double"] - found["single"], found["single"])
        print(
            f"{found['name']:22}{found['precision']:9} {1e3 * found['single']:5.0f} ms: planned "
            f"{sum(made.values()) / found['single']:.3f}, update {1e3 * (found['single'] - micro):.0f} ms, planned "
            f"{1e3 * made['update']:.0f}"
        )
        rows.append([_unit(name, subject, setting, rates) / micro for name in KINDS])
        rest.append(1 - (made["products"] + made["attention"]) / micro)
        seconds.append(sum(made.values()) / found["single"])
    print(f"mean error of the present constants {statistics.mean(abs(s - 1) for s in seconds):.3f}")
    print({name: round(float(value), 2) for name, value in zip(KINDS, _positive(np.array(rows), np.array(rest)))})


def _rates(known: list[dict[str, Any]]) -> Rates:
    """The best of all measurements: another program can only have made them worse."""
    columns = known[0]["attention"]
    return Rates(
        precision=known[0]["precision"],
        attention={int(n): max(rates["attention"][n] for rates in known) for n in columns},
        **{key: max(rates[key] for rates in known) for key in ("product", "stream", "fresh")},
        operation=min(rates["operation"] for rates in known),
    )


def _unit(name: str, subject: Any, setting: Any, rates: Rates) -> float:
    """Seconds that a coefficient of 1 stands for."""
    kind, others = KINDS[name]
    changed = {**others, name: 1.0}
    before = {key: getattr(timing, key) for key in changed}
    try:
        for key, value in changed.items():
            setattr(timing, key, value)
        return timing.parts(subject, setting, rates).get(kind, 0.0)
    finally:
        for key, value in before.items():
            setattr(timing, key, value)


def _positive(a: np.ndarray, b: np.ndarray, steps: int = 20000) -> np.ndarray:
    """Least squares with no coefficient below 0, by projected gradients."""
    scale = np.linalg.norm(a, axis=0)
    scale[scale == 0] = 1
    a = a / scale
    x, bound = np.zeros(a.shape[1]), np.linalg.norm(a.T @ a, 2)
    for _ in range(steps):
        x = np.maximum(0, x - a.T @ (a @ x - b) / bound)
    return x / scale


def _main(words: list[str]) -> None:
    file = Path(words[0])
    figures = json.loads(file.read_text("utf-8")) if file.is_file() else []
    if words[1:] == ["--fit"]:
        fit(figures)
        return
    known = {(found["name"], found["precision"]) for found in figures}
    for precision in words[1:] or ["float32", "bfloat16"]:
        for name in NETWORKS:
            if (name, precision) not in known:
                figures.append(measure(name, precision))
                print(figures[-1], file=sys.stderr, flush=True)
                file.write_text(json.dumps(figures, indent=1), "utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(json.loads(sys.argv[2]))))
    else:
        _main(sys.argv[1:])
