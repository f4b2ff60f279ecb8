"""B12: the plan against what training really took: peak memory and time of ten configurations.

Each configuration trains for a few steps in a process of its own, and its peak is what the system says the process held
at most, interpreter and libraries included. The figure is a share: the smaller over the larger of planned and measured,
1 where the plan is exact. The peer's estimate of the same training (accelerate estimate-memory: weights, gradients and
Adam, no activations, no libraries) is divided by the same measurement.

    ROW         what is measured
    CASES       the configurations; none of them was used to fit anything in the plan
    run         peer → Result: "accelerate" for memory, "assumed-utilisation" for time
    child       one configuration, trained in this process

    python -m benchmarks.b12 [NAME …]      shows planned and measured of some configurations, keeps nothing
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.frame import Result, Row, compare
from yanmo.errors import InputError, need
from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.plan import devices
from yanmo.plan.activations import Shape
from yanmo.plan.budget import Training, training_memory
from yanmo.plan.count import parameters, training_flops

ROW = Row(
    name="B12",
    job="planned over measured (1 is exact), median of ten configurations: decoder, encoder, encoder-decoder, LSTM",
    unit="share",
    goals={"accelerate": 1.5, "assumed-utilisation": 1.2},
)
WITHIN = 0.10
STEPS = 4
GPT = {"n_heads": 6, "decoder_layers": 5, "max_positions": 512}
LLAMA = {"position": "rotary", "norm": "rms", "activation": "silu", "gated": True, "max_positions": 512}
LLAMA |= {"bias_qkv": False, "bias_out": False, "bias_ffn": False}
BERT = {"norm_order": "post", "norm_embedding": True, "norm_final": False, "head": "masked", "n_token_types": 2}
T5 = {"position": "relative", "norm": "rms", "activation": "relu", "bias_qkv": False, "bias_out": False}

# name → config, and how it is trained: rows, columns, and what differs from full training in float32 of whole rows
CASES: dict[str, dict[str, Any]] = {
    "gpt": {
        "config": {"vocab_size": 8000, "width": 384, "ffn_width": 1536, **GPT},
        "rows": 12,
        "context": 192,
    },
    "gpt-packed": {
        "config": {"vocab_size": 8000, "width": 384, "ffn_width": 1536, **GPT},
        "rows": 6,
        "context": 384,
        "packed": True,
    },
    "qwen3-packed-muon": {
        "config": {"vocab_size": 6000, "width": 320, "n_heads": 5, "ffn_width": 864, "decoder_layers": 8, **LLAMA}
        | {"norm_query_key": True},
        "rows": 8,
        "context": 256,
        "packed": True,
        "optimizer": "muon",
    },
    "llama-accumulated": {
        "config": {"vocab_size": 12000, "width": 384, "n_heads": 6, "ffn_width": 1024, "decoder_layers": 6, **LLAMA}
        | {"n_kv_heads": 2},
        "rows": 4,
        "context": 320,
        "accumulation": 3,
    },
    "qwen3-packed-lora": {
        "config": {"vocab_size": 7000, "width": 384, "n_heads": 6, "ffn_width": 1024, "decoder_layers": 6, **LLAMA}
        | {"norm_query_key": True},
        "rows": 10,
        "context": 192,
        "packed": True,
        "rank": 16,
    },
    "bert-packed": {
        "config": {"vocab_size": 9000, "width": 384, "n_heads": 6, "ffn_width": 1536, "encoder_layers": 6, **BERT},
        "rows": 12,
        "context": 160,
        "packed": True,
    },
    "bert-lora": {
        "config": {"vocab_size": 11000, "width": 384, "n_heads": 6, "ffn_width": 1536, "encoder_layers": 6, **BERT},
        "rows": 16,
        "context": 128,
        "rank": 4,
    },
    "t5": {
        "config": {"vocab_size": 8000, "width": 320, "n_heads": 5, "ffn_width": 1280, **T5}
        | {"encoder_layers": 4, "decoder_layers": 4},
        "rows": 8,
        "context": 160,
    },
    "bart-packed": {
        "config": {"vocab_size": 8000, "width": 320, "n_heads": 5, "ffn_width": 1280}
        | {"encoder_layers": 4, "decoder_layers": 4},
        "rows": 8,
        "context": 160,
        "packed": True,
    },
    "lstm-packed": {
        "config": {"cell": "lstm", "vocab_size": 6000, "width": 384, "layers": 2},
        "rows": 12,
        "context": 192,
        "packed": True,
    },
}


def config_of(case: dict[str, Any]) -> TransformerConfig | RecurrentConfig:
    """The config of a case."""
    return (RecurrentConfig if "cell" in case["config"] else TransformerConfig)(**case["config"])


def planned_bytes(case: dict[str, Any]) -> float:
    """The peak that the plan says."""
    shape = Shape(
        rows=case["rows"],
        context=case["context"],
        packed=case.get("packed", False),
        target_share=_share(case),
        rank=case.get("rank", 0),
    )
    training = Training(accumulation=case.get("accumulation", 1), optimizer=case.get("optimizer", "adamw"))
    return training_memory(config_of(case), shape, training).total


def measured(case: dict[str, Any]) -> dict[str, Any]:
    """Train a case in a process of its own: bytes at most, tokens per second of the best step."""
    words = [sys.executable, "-m", "benchmarks.b12", "--child", json.dumps(case)]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", check=True)
    return json.loads(done.stdout)


def _share(case: dict[str, Any]) -> float:
    return 0.15 if case["config"].get("head") == "masked" else 1.0


def run(peer: str, repeats: int) -> Result:
    """Measure the first `repeats` configurations against one of ROW.goals."""
    if repeats > len(CASES):
        raise InputError(f"{ROW.name}: {repeats} repeats, and there are {len(CASES)} configurations; ask for fewer")
    names = [*CASES][:repeats]
    found = {name: measured(CASES[name]) for name in names}
    if peer == "accelerate":
        estimate = need("accelerate.commands.estimate", "bench", f"the benchmark {ROW.name}").estimate_training_usage
        ours = {name: planned_bytes(CASES[name]) / found[name]["bytes"] for name in names}
        theirs = {
            name: estimate(4 * parameters(config_of(CASES[name])), "float32")["step"] / found[name]["bytes"]
            for name in names
        }
        packages: list[str] = ["accelerate"]
    else:
        speeds = {name: _speeds(CASES[name]) for name in names}
        ours = {name: found[name]["tokens_per_second"] / speeds[name][0] for name in names}
        theirs = {name: found[name]["tokens_per_second"] / speeds[name][1] for name in names}
        packages = []
    good = sum(abs(ratio - 1) <= WITHIN for ratio in ours.values())
    told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ours.items())
    equal = f"{good} of {len(ours)} within {WITHIN:.0%}; planned over measured: {told}"
    return compare(ROW, peer, _turns(ours), _turns(theirs), equal=equal, packages=packages, repeats=repeats)


def _speeds(case: dict[str, Any]) -> tuple[float, float]:
    """Tokens per second by the plan: with the network timed, and with the utilisation assumed."""
    from yanmo.plan.measure import measure
    from yanmo.plan.subject import Subject
    from yanmo.plan.wishes import Setting

    here, config = devices.this_machine(), config_of(case)
    subject = Subject(
        name="case",
        kind="model",
        config=config,
        context=case["context"],
        packed=case.get("packed", False),
        optimizer=case.get("optimizer", "adamw"),
    )
    values = {"rows": case["rows"], "context": case["context"], "accumulation": case.get("accumulation", 1)}
    setting = Setting(**values, precision="float32", recompute=False, count=1)
    rank = case.get("rank", 0)
    timed = measure(subject, setting, here, rank=rank).tokens_per_second
    per_token = training_flops(config, case["context"], target_share=_share(case), rank=rank)
    return timed, here.peak("float32") * devices.UTILISATION["cpu"] / per_token


def _turns(ratios: dict[str, float]) -> Any:
    """A job that returns the share of one configuration after the other; the first call warms up."""
    shares = [min(ratio, 1 / ratio) for ratio in ratios.values()]
    left = iter([shares[0], *shares])
    return lambda: next(left)


def child(case: dict[str, Any]) -> dict[str, Any]:
    """Train a case here; what the system says is the most that this process held."""
    import torch

    from yanmo.models.adapters import AdapterConfig, add_adapter
    from yanmo.models.checkpoint import build
    from yanmo.models.initial import initialise
    from yanmo.plan.measure import random_batches
    from yanmo.plan.subject import Subject
    from yanmo.system import peak_memory
    from yanmo.training.language import masked, seq2seq
    from yanmo.training.loop import Settings, train
    from yanmo.training.objectives import causal

    config = config_of(case)
    network = build(config)
    initialise(network, torch.Generator().manual_seed(0))
    if case.get("rank"):
        add_adapter(network, AdapterConfig(rank=case["rank"]))
    subject = Subject(
        name="case", kind="model", config=config, context=case["context"], packed=case.get("packed", False)
    )
    objective: Any = {"encoder": masked, "encoder-decoder": seq2seq}.get(config.kind, causal)
    settings = Settings(steps=STEPS, accumulation=case.get("accumulation", 1), optimizer=case.get("optimizer", "adamw"))
    times, start = [], time.perf_counter()
    batches: Iterator[Any] = random_batches(subject, case["rows"], case["context"])
    for _ in train(network, batches, objective, settings):
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
    tokens = case["rows"] * case["context"] * case.get("accumulation", 1)
    return {"bytes": peak_memory(), "tokens_per_second": tokens / min(times[1:])}


def _show(names: list[str]) -> None:
    for name in names or CASES:
        case, found = CASES[name], measured(CASES[name])
        plan = planned_bytes(case)
        ratio = plan / found["bytes"]
        print(
            f"{name:20} planned {plan / 1e6:7.0f} MB, measured {found['bytes'] / 1e6:7.0f} MB, ratio {ratio:.3f}, "
            f"{found['tokens_per_second']:,.0f} tokens/s",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(json.loads(sys.argv[2]))))
    else:
        _show(sys.argv[1:])
