"""How fast a network really trains on this machine: a few steps of the real loop on random tokens.

In: a subject, a setting, the machine. Out: Speed. It needs torch; the plan imports this file when it
measures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from yanmo.models.adapters import AdapterConfig, add_adapter
from yanmo.models.checkpoint import build
from yanmo.models.initial import initialise
from yanmo.plan.count import training_flops
from yanmo.plan.devices import Device
from yanmo.plan.subject import Subject
from yanmo.tokens.batches import NO_TARGET, Batch
from yanmo.tokens.pairs import PairBatch
from yanmo.training.language import masked, seq2seq
from yanmo.training.loop import Settings, train
from yanmo.training.objectives import causal
from yanmo.training.precision import probe_precision

SECONDS = 1.5  # a step of more rows than fit in this is timed with fewer rows
STEPS = 3
DOCUMENTS = 4  # in a packed row


@dataclass(frozen=True)
class Speed:
    """Tokens per second, and the share of the measured peak that this is."""

    tokens_per_second: float
    utilisation: float
    precision: str


def measure(subject: Subject, setting: Any, device: Device, *, rank: int = 0, choose: bool = False) -> Speed:
    """Train a network of random weights for a few steps; `choose` the faster precision first, as training does."""
    import torch

    per_token = training_flops(subject.config, setting.context, target_share=subject.target_share, rank=rank)
    network = build(subject.config)
    initialise(network, torch.Generator().manual_seed(0))
    if rank:
        add_adapter(network, AdapterConfig(rank=rank))
    objectives: dict[str, Any] = {"encoder": masked, "encoder-decoder": seq2seq}
    objective = objectives.get(subject.config.kind, causal)

    def step(rows: int, steps: int, precision: str) -> float:
        """Seconds of the shortest of some steps."""
        settings = Settings(steps=steps, optimizer=subject.optimizer, precision=precision, learning_rate=1e-6)
        times = []
        start = time.perf_counter()
        for _ in train(network, random_batches(subject, rows, setting.context), objective, settings):
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
        return min(times)

    precision = setting.precision
    one = step(1, 2, "float32" if choose else precision)  # the first warms up
    rows = max(1, min(setting.rows, int(SECONDS / one)))
    if choose:
        batch = next(random_batches(subject, rows, setting.context))
        precision = probe_precision(network, batch, objective, seconds=SECONDS).precision
    tokens = rows * setting.context / step(rows, STEPS, precision)
    return Speed(tokens, tokens * per_token / device.peak(precision), precision)


def random_batches(subject: Subject, rows: int, context: int) -> Iterator[Any]:
    """Random tokens in the shape of the subject's batches."""
    import torch

    generator = torch.Generator().manual_seed(0)
    config = subject.config
    size = min(config.vocab_size, config.output_size)
    while True:
        ids = torch.randint(0, size, (rows, context + 1), generator=generator)
        targets = ids[:, 1:].clone()
        if subject.target_share < 1:
            targets[torch.rand(rows, context, generator=generator) >= subject.target_share] = NO_TARGET
        mask = torch.ones_like(targets)
        if subject.packed and context > DOCUMENTS:
            cuts = torch.randint(1, context, (rows, DOCUMENTS - 1), generator=generator)
            mask += (torch.arange(context)[None, :, None] >= cuts[:, None, :]).sum(2)
        batch = Batch(ids[:, :-1].contiguous(), targets, mask)
        yield PairBatch(batch.ids, batch.mask, *batch) if config.kind == "encoder-decoder" else batch
