"""How fast a network really trains on this machine: a few steps of the real loop on random tokens.

In: a subject, a setting, the machine. Out: Speed. It needs torch; the plan imports this file when it measures.

    measure            network, batches and objective as the subject says → Speed
    step_seconds       the time of a step with as many rows and micro-batches as wanted, from steps that fit in seconds
    random_batches     random tokens in the shape of the subject's batches
    objective_of       what is minimised, with its frozen second network where it has one

A step is its micro-batches and one update: a·m + u. Where a step takes too long to be tried, m and u follow from steps
of fewer rows with one and with two micro-batches, and m is taken to grow with the rows.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from yanmo.models.adapters import AdapterConfig, add_adapter, quantize_base
from yanmo.models.checkpoint import build
from yanmo.models.initial import initialise
from yanmo.models.lowrank import selected
from yanmo.plan.devices import Device
from yanmo.plan.making import share_of_peak
from yanmo.plan.method import Config
from yanmo.plan.subject import Subject
from yanmo.plan.wishes import Setting
from yanmo.tokens.batches import NO_TARGET, Batch
from yanmo.tokens.pairs import PairBatch
from yanmo.tokens.preferences import PreferenceBatch
from yanmo.training.distill import distillation
from yanmo.training.language import decoded, encoded, masked, seq2seq, translated
from yanmo.training.loop import Settings, train
from yanmo.training.objectives import causal
from yanmo.training.precision import probe_precision
from yanmo.training.preference import answer_scores, dpo, frozen, orpo

SECONDS = 1.5  # a step of more rows than fit in this is timed with fewer rows
STEPS, MOST = 4, 10  # tried at least, and where they are short at most: the first ones are slower
DOCUMENTS = 4  # in a packed row; of preferences two pairs
Objective = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Speed:
    """Tokens per second, and the share of the measured peak that this is."""

    tokens_per_second: float
    utilisation: float
    precision: str


def measure(subject: Subject, setting: Setting, device: Device, *, choose: bool = False) -> Speed:
    """Train a network of random weights for a few steps; `choose` the faster precision first, as training does."""
    place = torch.device("cuda" if device.kind == "cuda" else "cpu")
    network = network_of(subject).to(place)
    objective = objective_of(subject, network)
    precision = setting.precision
    one = _timed(network, objective, subject, _settings(subject, setting, precision, 2), (1, setting.context))
    rows = max(1, min(setting.rows, int(SECONDS / one)))
    if choose:
        batch = next(random_batches(subject, rows, setting.context))
        precision = probe_precision(network, batch, objective, seconds=SECONDS).precision
    seconds = step_seconds(network, objective, subject, setting, (precision, rows))
    tokens = setting.rows * setting.accumulation * setting.context / seconds
    share = share_of_peak(subject, device, replace(setting, precision=precision), tokens)
    return Speed(tokens, share, precision)


def step_seconds(
    network: nn.Module, objective: Objective, subject: Subject, setting: Setting, tried: tuple[str, int]
) -> float:
    """Seconds of one optimizer step of `setting`, by steps in the precision and of the rows that are `tried`."""
    precision, rows = tried

    def step(accumulation: int) -> float:
        settings = _settings(subject, setting, precision, MOST, accumulation)
        return _timed(network, objective, subject, settings, (rows, setting.context))

    single = step(1)
    if rows == setting.rows and setting.accumulation == 1:
        return single
    micro = max(step(2) - single, single / 4)  # noise must not make it vanish
    update = max(single - micro, 0.0)
    return setting.accumulation * micro * setting.rows / rows + update


def _settings(subject: Subject, setting: Setting, precision: str, steps: int, accumulation: int = 1) -> Settings:
    return Settings(
        steps=steps,
        accumulation=accumulation,
        optimizer=subject.method.optimizer,
        precision=precision,
        learning_rate=1e-6,
        ema=0.9 if subject.method.ema else 0.0,
        recompute=setting.recompute,
        compile=subject.method.compiled,
    )


def _timed(
    network: nn.Module, objective: Objective, subject: Subject, settings: Settings, size: tuple[int, int]
) -> float:
    """Seconds of a step, the middle one by time; the first one is left out. Steps differ in what their rows hold."""
    times = []
    start = time.perf_counter()
    with contextlib.closing(train(network, random_batches(subject, *size), objective, settings)) as steps:
        for _ in steps:
            times.append(time.perf_counter() - start)
            if len(times) >= STEPS and sum(times) > SECONDS:
                break
            start = time.perf_counter()
    return statistics.median(times[1:] or times)


# --- what is trained


def network_of(subject: Subject) -> nn.Module:
    """The network with random weights, and its adapter."""
    network = _random(subject.config)
    adapter = subject.method.adapter
    if adapter is not None:
        if adapter.bits:
            quantize_base(network, adapter.bits, measure=False)
        add_adapter(network, AdapterConfig(rank=adapter.rank, kind=adapter.kind, targets=adapter.targets))  # type: ignore[arg-type]
    return network


def _random(config: Config) -> nn.Module:
    network = build(config)
    initialise(network, torch.Generator().manual_seed(0))
    return network


def objective_of(subject: Subject, network: nn.Module) -> Objective:
    """The objective; a reference or a teacher gets random weights of its own."""
    method = subject.method

    def beside(config: Config) -> nn.Module:
        return _random(config).to(next(network.parameters()).device)

    plain: Any = {"encoder": masked, "encoder-decoder": seq2seq}.get(subject.config.kind, causal)
    hidden: Any = {"encoder": encoded, "encoder-decoder": translated}.get(subject.config.kind, decoded)
    if method.objective == "orpo":
        return orpo()
    if method.objective == "dpo":
        own = method.reference is None
        return dpo(_without_adapter(network) if own else frozen(beside(method.reference)))  # type: ignore[arg-type]
    if method.reference is not None:
        return distillation(beside(method.reference), hidden=hidden)
    return plain


def _without_adapter(network: nn.Module) -> Callable[[PreferenceBatch], torch.Tensor]:
    def reference(batch: PreferenceBatch) -> torch.Tensor:
        with selected(network, None):
            return answer_scores(network, batch)[0]

    return reference


# --- batches


def random_batches(subject: Subject, rows: int, context: int) -> Iterator[Any]:
    """Random tokens in the shape of the subject's batches."""
    generator = torch.Generator().manual_seed(0)
    config, method = subject.config, subject.method
    size = min(config.vocab_size, config.output_size)
    paired = method.objective in ("dpo", "orpo")

    def side(columns: int, packed: bool) -> Batch:
        ids = torch.randint(0, size, (rows, columns + 1), generator=generator)
        mask = torch.ones(rows, columns, dtype=torch.long)
        if packed and columns > DOCUMENTS:
            cuts = torch.randint(1, columns, (rows, DOCUMENTS - 1), generator=generator)
            if paired:  # as many answers in each row
                cuts = (torch.arange(1, DOCUMENTS) * columns // DOCUMENTS).expand(rows, -1)
            mask += (torch.arange(columns)[None, :, None] >= cuts[:, None, :]).sum(2)
        return Batch(ids[:, :-1].contiguous(), ids[:, 1:].clone(), mask)

    while True:
        if config.kind == "encoder-decoder":
            columns = [max(1, round(context * share)) for share in (method.source, method.target)]
            source, target = (side(n, method.packed) for n in columns)
            yield PairBatch(source.ids, source.mask, *target)
            continue
        batch = side(context, method.packed or paired)
        if method.targets < 1:
            batch.targets[torch.rand(rows, context, generator=generator) >= method.targets] = NO_TARGET
        yield PreferenceBatch(*batch) if paired else batch
