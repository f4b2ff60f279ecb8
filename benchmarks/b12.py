"""B12: the plan against what training really took: peak memory and time of ten configurations.

Each configuration is trained in a process of its own, by the real loop on random tokens. Its peak of memory is what the
system says the process held at most, interpreter and libraries included; its time is that of the middle step of some
seconds. A figure is a share: the smaller over the larger of planned and measured, 1 where the plan is exact.

    ROW         what is measured
    CASES       the configurations; none of them was used to fit anything in the plan
    run         peer → Result
    planned, trained     one configuration, in a process of its own

accelerate      memory. The peer's estimate of the same training (estimate-memory: weights, gradients and Adam, no
                activations, no libraries) is divided by the same measurement.
by-arithmetic   time. Ours is the plan that timed the network for some steps before it began; the peer is the plan that
                did not (--quick): operations counted, and the speeds of this machine.

    python -m benchmarks.b12 [NAME …]      shows planned and measured of some configurations, keeps nothing
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.frame import MIN_REPEATS, Result, Row, compare
from yanmo.errors import need
from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.plan import devices, spreading
from yanmo.plan.count import parameters
from yanmo.plan.method import Adapter, Method
from yanmo.plan.subject import Subject
from yanmo.plan.wishes import Setting

ROW = Row(
    name="B12",
    job="planned over measured, 1 is exact: ten configurations of decoder, encoder, encoder-decoder, LSTM",
    unit="share",
    goals={"accelerate": 1.5, "by-arithmetic": 1.0},
)
WITHIN = 0.10
SECONDS, LEAST = 2.5, 6  # of training that is timed: seconds, and steps at least
GPT = {"n_heads": 6, "decoder_layers": 5, "max_positions": 512}
LLAMA = {"position": "rotary", "norm": "rms", "activation": "silu", "gated": True, "max_positions": 512}
LLAMA |= {"bias_qkv": False, "bias_out": False, "bias_ffn": False}
BERT = {"norm_order": "post", "norm_embedding": True, "norm_final": False, "head": "masked", "n_token_types": 2}
T5 = {"position": "relative", "norm": "rms", "activation": "relu", "bias_qkv": False, "bias_out": False}

# name → config, and how it is trained: rows, columns, and what differs from full training in float32 of whole rows;
# half of them in bfloat16
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
        "precision": "bfloat16",
    },
    "qwen3-packed-muon": {
        "config": {"vocab_size": 6000, "width": 320, "n_heads": 5, "ffn_width": 864, "decoder_layers": 8, **LLAMA}
        | {"norm_query_key": True},
        "rows": 8,
        "context": 256,
        "packed": True,
        "optimizer": "muon",
        "precision": "bfloat16",
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
        "precision": "bfloat16",
    },
    "t5": {
        "config": {"vocab_size": 8000, "width": 320, "n_heads": 5, "ffn_width": 1280, **T5}
        | {"encoder_layers": 4, "decoder_layers": 4},
        "rows": 8,
        "context": 160,
        "precision": "bfloat16",
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
        "precision": "bfloat16",
    },
}


def config_of(case: dict[str, Any]) -> TransformerConfig | RecurrentConfig:
    """The config of a case."""
    return (RecurrentConfig if "cell" in case["config"] else TransformerConfig)(**case["config"])


def subject_of(case: dict[str, Any]) -> Subject:
    """A case as the plan sees it."""
    method = Method(
        packed=case.get("packed", False),
        optimizer=case.get("optimizer", "adamw"),
        adapter=Adapter(rank=case["rank"]) if "rank" in case else None,
        targets=0.15 if case["config"].get("head") == "masked" else 1.0,
    )
    return Subject(
        name="case",
        kind="model",
        config=config_of(case),
        context=case["context"],
        method=method,
        rows=case["rows"],
        accumulation=case.get("accumulation", 1),
    )


def setting_of(case: dict[str, Any]) -> Setting:
    """What one device does in a step."""
    return Setting(
        rows=case["rows"],
        accumulation=case.get("accumulation", 1),
        context=case["context"],
        precision=case.get("precision", "float32"),
        recompute=False,
        count=1,
    )


def planned_bytes(case: dict[str, Any]) -> float:
    """The peak that the plan says."""
    place = devices.Device(name="here", title="this machine", kind="cpu", memory=1e12)
    return spreading.memory(subject_of(case), place, setting_of(case)).total


def measured(case: dict[str, Any], *, timed: bool = False) -> dict[str, float]:
    """Train a case in a process of its own: bytes at most, seconds of a step.

    timed: a process before that one plans the time, and the training lasts longer.
    """
    before = _process("plan", case) if timed else {}
    return before | _process("train", case | {"seconds": SECONDS if timed else 0.0})


def _process(what: str, case: dict[str, Any]) -> dict[str, float]:
    """Nothing that one has compiled or holds is the other's."""
    words = [sys.executable, "-m", "benchmarks.b12", f"--{what}", json.dumps(case)]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", check=True)
    return json.loads(done.stdout)


def run(peer: str, repeats: int) -> Result:
    """Measure all configurations against one of ROW.goals; fewer repeats than are kept try as many configurations."""
    cases = CASES if repeats >= MIN_REPEATS else dict([*CASES.items()][:repeats])
    if peer == "accelerate":
        estimate = need("accelerate.commands.estimate", "bench", f"the benchmark {ROW.name}").estimate_training_usage
        held = {name: measured(case)["bytes"] for name, case in cases.items()}
        ours = {name: planned_bytes(case) / held[name] for name, case in cases.items()}
        guessed = {
            name: estimate(4 * parameters(config_of(case)), case.get("precision", "float32"))["step"]
            for name, case in cases.items()
        }
        theirs = {name: guessed[name] / held[name] for name in cases}
    else:
        found = {name: measured(case, timed=True) for name, case in cases.items()}
        ours = {name: times["tried"] / times["seconds"] for name, times in found.items()}
        theirs = {name: times["counted"] / times["seconds"] for name, times in found.items()}
    what = "memory" if peer == "accelerate" else "time of a step"
    equal = f"{what}: {_within(ours)}; the peer: {_within(theirs)}"
    packages = ["accelerate"] if peer == "accelerate" else []
    result = compare(ROW, peer, _turns(ours), _turns(theirs), equal=equal, packages=packages, repeats=len(cases))
    met = result.met and all(abs(ratio - 1) <= WITHIN for ratio in ours.values())
    return dataclasses.replace(result, met=met, command=f"python -m benchmarks {ROW.name}.{peer}")


def _within(ratios: dict[str, float]) -> str:
    good = sum(abs(ratio - 1) <= WITHIN for ratio in ratios.values())
    told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    return f"{good} of {len(ratios)} within {WITHIN:.0%} of what was measured (planned over measured: {told})"


def _turns(ratios: dict[str, float]) -> Any:
    """A job that returns the share of one configuration after the other; the first call warms up."""
    shares = [min(ratio, 1 / ratio) for ratio in ratios.values()]
    left = iter([shares[0], *shares])
    return lambda: next(left)


# --- in a process of its own


def trained(case: dict[str, Any]) -> dict[str, float]:
    """Train a case here: what the system says is the most that this process held, and seconds of a step."""
    from yanmo.plan.measure import network_of, objective_of, random_batches
    from yanmo.system import peak_memory
    from yanmo.training.loop import Settings, train

    least = case.pop("seconds")
    subject, setting = subject_of(case), setting_of(case)
    network = network_of(subject)
    settings = Settings(
        steps=1000, accumulation=setting.accumulation, optimizer=subject.method.optimizer, precision=setting.precision
    )
    batches = random_batches(subject, setting.rows, setting.context)
    times: list[float] = []
    start = time.perf_counter()
    for _ in train(network, batches, objective_of(subject, network), settings):
        times.append(time.perf_counter() - start)
        if len(times) > LEAST and sum(times) > least:
            break
        start = time.perf_counter()
    return {"bytes": peak_memory(), "seconds": statistics.median(times[1:]), "best": min(times[1:])}


def planned(case: dict[str, Any]) -> dict[str, float]:
    """Seconds of a step as the plan says before it begins: with the network tried, and counted alone."""
    from yanmo.plan.making import plan

    subject, setting = subject_of(case), setting_of(case)
    here = devices.this_machine(0.2)
    found = {}
    for name, tries in (("counted", False), ("tried", True)):
        made = plan(subject, device=here, batch=setting.rows, precision=setting.precision, measure=tries)
        found[name] = setting.step_tokens / made.tokens_per_second
    return found


def _show(names: list[str]) -> None:
    for name in names or CASES:
        case = CASES[name]
        held, times = measured(case)["bytes"], measured(case, timed=True)
        share, seconds = planned_bytes(case) / held, times["seconds"]
        print(
            f"{name:20} memory {held / 1e6:5.0f} MB: {share:.3f}   step {1e3 * seconds:5.0f} ms (best "
            f"{1e3 * times['best']:5.0f}): tried {times['tried'] / seconds:.3f}, "
            f"counted {times['counted'] / seconds:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] in (["--plan"], ["--train"]):
        print(json.dumps((planned if sys.argv[1] == "--plan" else trained)(json.loads(sys.argv[2]))))
    else:
        _show(sys.argv[1:])
