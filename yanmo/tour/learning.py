"""The neural models of a tour: how large, how long, and the training itself.

In: token shards, the machine, the time that is left. Out: a plan, two trained networks with their curves and losses.

    measure_machine      the peak of a matrix product, for the share of it that training reaches
    make_plan            probes the precision, measures real steps, picks sizes, divides the time
    train_net            one model, from its last checkpoint on; final loss on the whole validation set
    load_net             a trained model, ready to write

**The time.** What is left of the budget when the plan is made, less what evaluation, samples and report will take
(measured on a batch), is divided equally between the two networks. Training follows the clock (training/loop.py), so
both end on time on a machine that slows down or speeds up meanwhile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from yanmo import machine
from yanmo.inference.model import Model, load
from yanmo.models.checkpoint import Network, build
from yanmo.models.initial import initialise
from yanmo.plan.count import parameters, training_flops
from yanmo.runs import Run, open_run
from yanmo.tokens.batches import Batch, PackedBatches, validation_batches
from yanmo.tokens.shards import TokenShards, open_shards
from yanmo.tokens.tokenizer import Tokenizer, load_tokenizer
from yanmo.tour import nets
from yanmo.tour.card import model_card
from yanmo.tour.folder import NAMES, Tour
from yanmo.tour.show import Progressing, Show
from yanmo.training.loop import Settings, Step, train
from yanmo.training.objectives import causal, evaluate
from yanmo.training.precision import DTYPES, lowered, probe_precision

LENGTH = 256  # tokens in a row
STEPS = 450  # that a training should have at least, before its batches grow
ROWS = (8, 64)
PROBED_RUNG = 1
PROBING = 0.008  # share of the budget for one measurement
LIVE_TOKENS, LIVE_BATCHES = 8192, 8
LIVE_POINTS = (0.06, 0.12, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9)  # shares of the training time at which it is evaluated
WRITING = 0.03  # share of the budget for samples, attention and report
EVALUATED_ROWS = 16
SEED = 0
LEARNING_RATE = {"transformer": (0.012, 1.7), "lstm": (0.006, 0.0)}  # at width 128; the power with which it falls
POINTS = 300  # of a curve in the report
MAKE: dict[str, Callable[..., nets.Config]] = {"lstm": nets.lstm, "transformer": nets.transformer}


def measure_machine(tour: Tour) -> dict[str, Any]:
    """What this machine is, and its peak by dtype in FLOP/s."""
    about = machine.environment()
    seconds = min(0.7, 0.004 * tour.budget)
    peak: dict[str, float | None] = {}
    for name in DTYPES:
        try:
            peak[name] = machine.measured_peak(name, seconds)
        except RuntimeError:  # torch has no such product for this processor
            peak[name] = None
    usable = machine.cores().usable
    return {
        "name": f"{about['cpu']}, {usable} core{'s' if usable > 1 else ''}",
        "system": about["system"],
        "torch": about["versions"]["torch"],
        "python": about["python"],
        "threads": about["threads"],
        "peak": peak,
    }


def shards_of(tour: Tour, name: str) -> TokenShards:
    """The ids of "train" or "valid"."""
    return open_shards(tour.out / "tokens" / name, load_tokenizer(tour.out / "tokenizer").hash, verify=False)


# --- the plan


def make_plan(tour: Tour, show: Show) -> dict[str, Any]:
    """Sizes, precision, rows and seconds of both networks, from measurements on this machine."""
    shards, valid = shards_of(tour, "train"), shards_of(tour, "valid")
    length = min(LENGTH, max(16, shards.n_tokens // (4 * ROWS[0])))
    with show.progress("measuring") as bar:
        network = _fresh(nets.transformer(PROBED_RUNG, shards.vocab_size, shards.end_id))
        batch = next(PackedBatches(shards, _rows(0, length, shards.n_tokens), length, SEED))
        precision = probe_precision(network, batch, causal, seconds=PROBING * tour.budget)
        seconds = _divide(tour, network, valid, length)
        plan: dict[str, Any] = {
            "training_seconds": round(seconds, 2),
            "precision": precision.precision,
            "precision_reason": precision.reason,
            "length": length,
        }
        for name in MAKE:
            bar.update(0.5, NAMES[name])
            plan[name] = _fitting(tour, name, shards, plan)
    plan["training_seconds"] = round(_divide(tour, network, valid, length), 2)  # less what measuring took
    return plan


def _fitting(tour: Tour, name: str, shards: TokenShards, plan: dict[str, Any]) -> dict[str, Any]:
    """The rung of one network: a small one is measured, then the one that seems to fit, as larger ones run better."""
    length, seconds, make = plan["length"], plan["training_seconds"], MAKE[name]
    rung, measured = PROBED_RUNG, -1
    began = time.monotonic()
    while rung != measured and time.monotonic() - began < 2 * PROBING * tour.budget:
        config = make(rung, shards.vocab_size, shards.end_id)
        speed = _speed(name, config, shards, plan, PROBING * tour.budget)
        measured = rung
        rung = nets.fitting_rung(lambda r: make(r, shards.vocab_size, shards.end_id), speed, seconds, length)
        rung = min(rung, measured + 2)  # a forecast for a network much larger than the measured one is a guess
    tokens = speed * seconds / training_flops(make(rung, shards.vocab_size, shards.end_id), length)
    return {
        "rung": rung,
        "rows": _rows(tokens, length, shards.n_tokens),
        "dropout": nets.dropout(tokens / shards.n_tokens),
        "speed": round(speed),
        "expected_tokens": round(tokens),
    }


def _fresh(config: nets.Config) -> Network:
    network = build(config)
    initialise(network, torch.Generator().manual_seed(SEED))
    return network


def _settings(name: str, width: int, precision: str, **more: Any) -> Settings:
    rate, power = LEARNING_RATE[name]
    return Settings(
        optimizer="muon",
        learning_rate=rate * (128 / width) ** power,
        weight_decay=0.1,
        schedule="linear",
        warmup=0.03,
        precision=precision,
        seed=SEED,
        **more,
    )


def _speed(name: str, config: nets.Config, shards: TokenShards, plan: dict[str, Any], seconds: float) -> float:
    """Floating-point operations per second of real training steps: the median of those that `seconds` allow."""
    rows = _rows(0, plan["length"], shards.n_tokens)
    batches = PackedBatches(shards, rows, plan["length"], SEED)
    settings = _settings(name, config.width, plan["precision"], steps=9)
    began, speeds = time.monotonic(), []
    for step in train(_fresh(config), batches, OBJECTIVES[name], settings):
        speeds.append(step.tokens_per_second)
        if len(speeds) >= 2 and time.monotonic() - began > seconds:
            break
    speeds = sorted(speeds[1:])  # the first one also sets up what the others use
    return speeds[len(speeds) // 2] * training_flops(config, plan["length"])


def _divide(tour: Tour, network: Network, valid: TokenShards, length: int) -> float:
    """Seconds for each network: half of what is left without evaluation, samples and report."""
    batch = next(validation_batches(valid, EVALUATED_ROWS, length))
    evaluate(network, [batch], 1)
    start = time.monotonic()
    evaluate(network, [batch], 1)
    per_token = (time.monotonic() - start) / batch.ids.numel()
    evaluation = 1.5 * per_token * valid.n_tokens * 2  # the windows of long documents overlap; two networks
    rest = tour.left - evaluation - WRITING * tour.budget
    return max(rest / 2, 0.1 * tour.budget)  # a budget that is overdrawn already still trains something


def _rows(tokens: float, length: int, available: int) -> int:
    """Rows in a batch: as many as leave STEPS steps, a multiple of four, and no more than the text has."""
    rows = int(tokens / STEPS / length) // 4 * 4
    return max(1, min(max(rows, ROWS[0]), ROWS[1], available // (2 * length)))


def streamed(network: Any, batch: Batch) -> tuple[torch.Tensor, int]:
    """Next-token loss with each row read as one stream: a recurrent state learns at the end of a document to let go.

    Cells that start anew inside a row cannot use the library's fast path: three to five times slower, measured.
    """
    return causal(network, batch._replace(mask=torch.ones_like(batch.mask)))


OBJECTIVES = {"lstm": streamed, "transformer": causal}


# --- training


class Live(NamedTuple):
    """The part of the validation set that is measured while training."""

    batches: list[Batch]
    tokens: int
    n_bytes: int


def train_net(tour: Tour, show: Show, name: str) -> dict[str, Any]:
    """Train one network to the end of its time, measure it on the whole validation set, save it."""
    plan, own = tour.stages["plan"], tour.stages["plan"][name]
    length, seconds = plan["length"], plan["training_seconds"]
    shards, valid = shards_of(tour, "train"), shards_of(tour, "valid")
    tokenizer = load_tokenizer(tour.out / "tokenizer")
    config = MAKE[name](own["rung"], shards.vocab_size, shards.end_id, own["dropout"])
    network = _fresh(config)
    batches = PackedBatches(shards, own["rows"], length, SEED)
    settings = _settings(
        name, config.width, plan["precision"], seconds=seconds, save_seconds=max(2.0, seconds / 10), keep=1
    )
    recipe = "".join(f"{key} = {value!r}\n" for key, value in {**own, "length": length, "seconds": seconds}.items())
    with open_run(tour.out / "runs" / name, recipe, machine.environment()) as run:
        with show.progress(NAMES[name]) as bar:
            live = _live_part(valid, length, tokenizer)
            _follow(tour, run, network, train(network, batches, OBJECTIVES[name], settings, run=run), live, bar)
            bar.update(1.0, "measuring")
            began = time.monotonic()
            score = evaluate(network, validation_batches(valid, EVALUATED_ROWS, length), valid.n_bytes)
            ratio = score.bits_per_byte / _live_score(network, live, plan["precision"])
            measuring = time.monotonic() - began
        lines = list(run.metrics())
    steps = [line for line in lines if "loss" in line]
    live_lines = [line for line in lines if "bits_per_byte" in line]
    # a part is easier or harder than the whole; scaled by what the last point tells, the curve ends at the final score
    points = [[line["seconds"], line["tokens"], line["bits_per_byte"] * ratio] for line in live_lines]
    last = steps[-1]
    result = {
        "seconds": round(last["seconds"] + measuring, 3),
        "bits_per_byte": score.bits_per_byte,
        "parameters": parameters(config),
        "train_seconds": last["seconds"],
        "steps": last["step"],
        "tokens": last["tokens"],
        "epochs": last["tokens"] / shards.n_tokens,
        "layers": nets.layers(config),
        "width": config.width,
        "flops": last["tokens"] * training_flops(config, length),
        "dtype": plan["precision"],
        "peak_memory": machine.peak_memory(),
        "shape": nets.described(config, own["rows"], length, own["dropout"]),
        "live_tokens": live.tokens,
        "train": _curve(steps),
        "valid": [*points, [last["seconds"], last["tokens"], score.bits_per_byte]],
    }
    _save(tour, name, network, result)
    return result


def _follow(tour: Tour, run: Run, network: Network, steps: Iterator[Step], live: Live, bar: Progressing) -> None:
    """Take the steps; evaluate on the live part now and then; keep the clock where a checkpoint was written."""
    seconds = tour.stages["plan"]["training_seconds"]
    known = [line["bits_per_byte"] for line in run.metrics() if "bits_per_byte" in line]
    score, due = f"{known[-1]:.2f} bits/byte" if known else "", None
    for step in steps:
        share = step.seconds / seconds
        if due is None:
            due = _next_point(share)
        elif due <= share < 1:
            due = _next_point(share)
            value = _live_score(network, live, tour.stages["plan"]["precision"])
            run.log(step=step.step, seconds=step.seconds, tokens=step.tokens, bits_per_byte=value)
            score = f"{value:.2f} bits/byte"
        if step.saved:
            tour.keep()
        text = score or f"loss {step.loss:.2f}"
        if not bar.show.narrow:
            text += f" · loss {step.loss:.2f}" if score else ""
            text += f" · {step.tokens_per_second:,.0f} tokens/s · {max(seconds - step.seconds, 0):.0f} s left"
        bar.update(share, text)


def _live_score(network: Network, live: Live, precision: str) -> float:
    """Bits per byte of the live part, computed as the training is."""
    with lowered(network, DTYPES[precision]):
        return evaluate(network, live.batches, live.n_bytes).bits_per_byte


def _next_point(share: float) -> float:
    """The next moment to evaluate, as a share of the training time: the points are denser where the loss falls fast."""
    return next((point for point in LIVE_POINTS if point > share), math.inf)


def _live_part(valid: TokenShards, length: int, tokenizer: Tokenizer) -> Live:
    """Batches of about LIVE_TOKENS tokens, spread over the validation set, with the bytes of their targets."""
    batches = list(validation_batches(valid, max(1, LIVE_TOKENS // length // LIVE_BATCHES), length))
    some = batches[:: math.ceil(len(batches) / LIVE_BATCHES)]
    counts = torch.cat([batch.targets[batch.targets >= 0] for batch in some]).bincount()
    sizes = {i: len(tokenizer.id_bytes(i)) for i in counts.nonzero().flatten().tolist() if i != valid.end_id}
    n_bytes = sum(int(counts[i]) * size for i, size in sizes.items())
    return Live(some, int(counts.sum()), max(n_bytes, 1))


def _curve(steps: list[dict[str, Any]]) -> list[list[float]]:
    """At most POINTS points, each the mean of its neighbours: seconds, tokens, loss."""
    size = max(1, math.ceil(len(steps) / POINTS))
    blocks = [steps[i : i + size] for i in range(0, len(steps), size)]
    return [
        [block[-1]["seconds"], block[-1]["tokens"], sum(line["loss"] for line in block) / len(block)]
        for block in blocks
    ]


def _save(tour: Tour, name: str, network: Network, result: dict[str, Any]) -> None:
    """Write the model folder: the Transformer as model/, the LSTM within its run."""
    network.config = nets.without_dropout(network.config)  # of training alone; no public format has a place for it
    network.eval()
    place = tour.out / "model" if name == "transformer" else tour.out / "runs" / name / "model"
    card = model_card(tour, NAMES[name], result)
    family = "qwen3" if name == "transformer" else "yanmo_recurrent"
    Model(network, load_tokenizer(tour.out / "tokenizer")).save(place, card=card, family=family)


def load_net(tour: Tour, name: str) -> Model:
    """A trained model, ready to write."""
    return load(tour.out / "model" if name == "transformer" else tour.out / "runs" / name / "model", device="cpu")
