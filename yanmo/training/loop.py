"""The training loop: a generator that yields one record per optimizer step.

In: a network, batches, an objective, settings, and where it shall be resumable a run folder. Out: `Step`s.

    for step in train(network, batches, causal, Settings(steps=1000), run=run):
        ...                                   logging, early stop, evaluation: the caller's ordinary Python

    train          resume → (window → loss and gradients → update → record → checkpoint → yield) until done
    Settings       how long, how fast, how exact, what is kept
    Loop           the state between steps; its methods are the phases of a step

One window of `accumulation` micro-batches makes one step. Its loss is the sum over all target tokens of the window
divided by their number, so a window equals the one big batch, whatever its micro-batches hold.

**Resume.** With a run, the loop goes on from its last checkpoint bit by bit: weights, optimizer, every random state,
data position, step, schedule. Checkpoints lie between windows, so accumulation needs no state of its own. Ctrl-C and
leaving the loop early save the last finished step. With a budget in seconds the schedule follows the clock, so a
resumed run goes on correctly but cannot be equal to the bit; nor can one on an accelerator whose kernels are not
deterministic.
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from yanmo.errors import Error, FileError, InputError
from yanmo.runs import Run
from yanmo.tokens.batches import Batch
from yanmo.training import checkpoint, heap
from yanmo.training.adamw import norm as pieces_norm
from yanmo.training.average import Average
from yanmo.training.distributed import ALONE, Ranks
from yanmo.training.interrupts import uninterrupted
from yanmo.training.layerwise import Passage
from yanmo.training.optimizer import SCHEDULES, Optimizer, Parts
from yanmo.training.precision import DTYPES, Objective
from yanmo.training.randomness import RandomStates, kept, seeded
from yanmo.training.spread import orthogonalised, precision, sum_gradients, total_norm, wrapped


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train: exactly one of `steps` and `seconds` says how long.

    `seconds` are wall-clock time since the first step, what the caller does between steps included. `warmup`, `decay`
    and `floor` are shares: of the run, of the run, of the learning rate. `clip` limits the norm of the gradient
    (0: no limit). `save_steps` and `save_seconds` say how often a checkpoint is written (0: never; the last step always
    is); `keep` checkpoints stay besides the best one. `ema` is the decay of an average of the weights (average.py; 0:
    none). `recompute` and `compile` say how passes go through the layers (layerwise.py).
    """

    steps: int | None = None
    seconds: float | None = None
    accumulation: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0
    schedule: str = "wsd"
    warmup: float = 0.02
    decay: float = 0.3
    floor: float = 0.0
    precision: str = "float32"
    seed: int = 0
    save_steps: int = 0
    save_seconds: float = 0.0
    keep: int = 2
    ema: float = 0.0
    recompute: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise InputError(f"steps are {self.steps} and seconds {self.seconds}; give exactly one of them")
        for name, known in (("optimizer", ("adamw", "muon")), ("schedule", SCHEDULES), ("precision", DTYPES)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}")
        for name, least in (
            *(("steps", 1), ("accumulation", 1), ("keep", 1), ("seconds", 0)),
            *(("clip", 0), ("learning_rate", 0), ("weight_decay", 0)),
        ):
            value = getattr(self, name)
            if value is not None and not (value >= least and math.isfinite(value)):
                raise InputError(f"{name} is {value}, at least {least} is needed")
        for name, usual in (("ema", 0.999), ("momentum", 0.95)):
            if not 0 <= getattr(self, name) < 1:
                value = getattr(self, name)
                raise InputError(f"{name} is {value}; choose a decay from 0 (none) and below 1, e.g. {usual}")


@dataclass(frozen=True)
class Step:
    """What one optimizer step did; `loss` is nats per target token, `tokens` all target tokens so far."""

    step: int
    tokens: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    tokens_per_second: float
    saved: bool = False
    average: Average | None = field(default=None, repr=False, compare=False)

    def record(self) -> dict[str, Any]:
        """The line of metrics.jsonl."""
        return {key: value for key, value in vars(self).items() if key not in ("saved", "average")}

    def averaged(self) -> AbstractContextManager[None]:
        """Put the average of the weights into the network for a `with` block; does nothing where the run keeps none."""
        return nullcontext() if self.average is None else self.average.in_place()


def train(
    network: nn.Module,
    batches: Iterable[Batch],
    objective: Objective,
    settings: Settings,
    *,
    run: Run | None = None,
    ranks: Ranks = ALONE,
) -> Generator[Step, None, None]:
    """Train `network` in place and yield a Step after each update, until steps, seconds or batches are used up.

    With a run, steps are appended to its metrics and checkpoints are written before they are yielded, and an unfinished
    run goes on where its last checkpoint is; `batches` then needs `state()` and `restore()` (tokens/batches.py). A loss
    or gradient that is not finite ends training with an Error before it reaches the weights. With several ranks each
    must call it, with the same arguments and a network that is spread out (spread.py); all stop at the same step.
    """
    with ranks.interrupts(), heap.kept():
        loop = Loop(network, batches, objective, settings, run, ranks)
        loop.resume()
        try:
            while not loop.done():
                step = loop.step_once()
                if step is None:  # the batches are used up
                    break
                if ranks.stopping:
                    raise KeyboardInterrupt
                yield step
            loop.save()
        except (KeyboardInterrupt, GeneratorExit):
            if ranks.all_here(f"{loop.run and loop.run.folder} {loop.step}"):
                loop.save()
            raise


class Loop:
    """The state of a training run between two steps."""

    def __init__(
        self,
        network: nn.Module,
        batches: Iterable[Batch],
        objective: Objective,
        settings: Settings,
        run: Run | None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.source = cast(Any, batches)  # state and restore are needed with a run alone
        if run is not None and not hasattr(self.source, "state"):
            raise InputError("batches without state() cannot be resumed; give PackedBatches, or train without a run")
        self.network, self.settings, self.run, self.ranks = network, settings, run, ranks
        self.objective = wrapped(objective, ranks)
        self.batches = iter(batches)
        self.device = next(network.parameters()).device
        self.optimizer = Optimizer(
            network,
            settings.optimizer,
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
            momentum=settings.momentum,
            muon_dtype=DTYPES[settings.precision],
            parts=Parts(ranks.treated, orthogonalised if ranks.sharded else None) if ranks.treated else None,
        )
        self.once = settings.accumulation == 1 and ranks.alone and self.optimizer.in_pieces
        self.lowering = precision(network, ranks, DTYPES[settings.precision], once=self.once)
        self.parameters = {self.optimizer.names[id(p)]: p for p in self.optimizer.parameters}
        self.average = Average(self.parameters, settings.ema) if settings.ema else None
        self.passage = Passage(network, recompute=settings.recompute, compiled=settings.compile)
        self.frozen = "" if run is None else checkpoint.fingerprint(network)
        self.step = self.tokens = 0
        self.saved_step = 0
        self.random = seeded(settings.seed, self.device)
        self.data: dict[str, Any] = {} if run is None else self.source.state()
        self.before = self.last_step = 0.0  # seconds of earlier calls, and of one step
        self.saved_at = self.told = 0.0  # `clock` of the last checkpoint; `seconds` of the main rank, as it told them
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall-clock time of the run so far."""
        return self.before + time.monotonic() - self.start

    @property
    def clock(self) -> float:
        """`seconds`, or where several ranks must decide alike those of the main rank at the last window."""
        return self.seconds if self.ranks.alone else self.told

    def done(self) -> bool:
        """Whether the run is over; a time budget ends with the step that brings the clock nearest to it."""
        if self.settings.steps is not None:
            return self.step >= self.settings.steps
        assert self.settings.seconds is not None
        return self.step > 0 and self.clock + self.last_step / 2 >= self.settings.seconds

    def progress(self, began: float) -> float:
        """How far the run is in the middle of the present step, which began at `began` seconds, in (0, 1)."""
        if self.settings.steps is not None:
            return (self.step + 0.5) / self.settings.steps
        assert self.settings.seconds is not None
        now = self.clock
        return (began + now) / 2 / max(self.settings.seconds, now, 1e-9)

    # --- one step

    def step_once(self) -> Step | None:
        """Take one window, update the weights, record and save what is due; None where no batch is left."""
        began, start = self.clock, self.seconds
        if self.average is not None:
            self.average.check()
        with kept(self.device):
            (self.ranks.random(self.settings.seed, self.step) or self.random).put()
            window = list(itertools.islice(self.batches, self.settings.accumulation))
            if not window:
                return None
            self.network.train()
            loss, targets = self._gradients(window)
            norm, scale = self._scale(targets)
            factor = SCHEDULES[self.settings.schedule](
                self.progress(began), self.settings.warmup, self.settings.decay, self.settings.floor
            )
            with uninterrupted():
                self.optimizer.step(factor, scale)  # without a target there is no gradient, and nothing changes
                self.optimizer.zero_grad()
                self.step += 1
                if self.average is not None:
                    self.average.update(self.step)
                self.tokens += targets
                self.last_step = self.clock - began
                self.random = RandomStates.capture(self.device)
                step = Step(
                    step=self.step,
                    tokens=self.tokens,
                    loss=loss,
                    learning_rate=self.settings.learning_rate * factor,
                    gradient_norm=norm,
                    seconds=self.seconds,
                    tokens_per_second=targets / max(self.seconds - start, 1e-9),
                    average=self.average,
                )
                if self.run is not None:
                    self.data = self.source.state()
                    self.run.log(**step.record())
        return Step(**{**vars(step), "saved": self._save_if_due()})

    def _gradients(self, window: list[Batch]) -> tuple[float, int]:
        """Sum losses and gradients over the window; returns the loss per target and the number of targets."""
        losses, counts = [], []
        self.optimizer.zero_grad()
        ranks = self.ranks
        with self.lowering.open() as gather, self.passage.open():
            for batch in window:
                loss, count = self.objective(self.network, ranks.share(batch).to(self.device))
                if count or ranks.sharded:  # the others wait for this rank's part
                    loss.backward()
                    gather()
                losses.append(loss.detach())
                counts.append(count)
        sums = torch.stack(losses).tolist()  # one synchronisation with the device for the whole window
        sums, counts, self.told = ranks.settle(sums, counts, self.seconds)
        for place, value in enumerate(sums):
            if not math.isfinite(value):
                raise self._not_finite(f"the loss is {value} in micro-batch {place + 1} of {len(window)}")
        targets = sum(counts)
        if targets:
            sum_gradients(self.parameters, ranks)
        elif ranks.is_main:
            warnings.warn(
                f"step {self.step + 1} has no target token in its {len(window)} micro-batches, so it changes nothing; "
                "check the data's masks",
                stacklevel=2,
            )
        return sum(sums) / max(targets, 1), targets

    def _scale(self, targets: int) -> tuple[float, float]:
        """The norm of the gradient per target, and the factor that makes it, clipped, out of the sums."""
        gradients = [p.grad for p in self.optimizer.parameters if p.grad is not None]
        if not gradients or not targets:
            return 0.0, 1.0
        norm = (pieces_norm(gradients) if self.once else total_norm(gradients, self.ranks)) / targets
        if not math.isfinite(norm):
            raise self._not_finite(f"the gradient's norm is {norm}")
        clip = self.settings.clip
        factor = min(1.0, clip / norm) if clip and norm else 1.0
        return norm, factor / targets

    def _not_finite(self, what: str) -> Error:
        self.optimizer.zero_grad()
        place = f", data position {self.data}" if self.data else ""
        last = ""
        if self.run is not None:
            last = f", its last checkpoint is {self.run.checkpoint(self.saved_step)}" if self.saved_step else ""
        return Error(
            f"step {self.step + 1}{place}: {what}, so training stops before the update and the weights are those of "
            f"step {self.step}{last}; lower the learning rate, lengthen the warm-up, or look at that batch"
        )

    # --- checkpoints

    def _save_if_due(self) -> bool:
        s = self.settings
        due = bool(s.save_steps) and self.step % s.save_steps == 0
        due |= bool(s.save_seconds) and self.clock - self.saved_at >= s.save_seconds
        return self.save() if due or self.done() else False

    def save(self) -> bool:
        """Write a checkpoint of the last finished step, unless it has one; returns whether there is one."""
        if self.run is None or not self.step:
            return False
        if self.saved_step != self.step:
            self.run.sync()
            values = {
                "step": self.step,
                "tokens": self.tokens,
                "seconds": self.seconds,
                "precision": self.settings.precision,
                "frozen": self.frozen,
                "data": self.data,
                "random": self.random.values(),
            }
            folder = self.run.checkpoint(self.step)
            average = None if self.average is None else self.average.state()
            states = (self.optimizer.state(), self.random.tensors())
            checkpoint.save_checkpoint(folder, self.network, *states, values, average, self.ranks)
            self.saved_step, self.saved_at = self.step, self.clock
            self.run.prune(self.settings.keep)
        return True

    def resume(self) -> None:
        """Go on from the run's last valid checkpoint, if it has one; a damaged one is passed over with a warning."""
        if self.run is None:
            return
        steps = self.ranks.by_main(self.run.checkpoints)
        for place, step in enumerate(reversed(steps), start=1):
            folder = self.run.checkpoint(step)
            try:
                state = checkpoint.read_state(folder, self.ranks)
            except FileError as error:
                if place == len(steps):
                    raise
                warnings.warn(f"{error}; going on from the one before", stacklevel=2)
                continue
            self._restore(folder, state)
            break
        self.run.rewind(self.step)
        self.run.prune(self.settings.keep)  # the process may have been killed between a checkpoint and this

    def _restore(self, folder: Any, state: dict[str, Any]) -> None:
        if state["precision"] != self.settings.precision:
            raise FileError(
                f"{folder}: made in {state['precision']}, this run is in {self.settings.precision}; set train.precision"
            )
        if checkpoint.has(state, checkpoint.AVERAGE) != (self.average is not None):
            raise FileError(
                f"{folder}: made {'without' if self.average else 'with'} an average of the weights, "
                f"this run has train.ema = {self.settings.ema}; continue with the recipe that made it"
            )
        tensors = checkpoint.load_tensors(folder / checkpoint.FILES[2])
        random = RandomStates.read(tensors, state["random"], self.device)
        self.source.restore(state["data"])
        checkpoint.load_weights(self.network, folder, frozen=self.frozen)
        if self.average is not None:
            self.average.restore(checkpoint.load_tensors(folder / checkpoint.AVERAGE, self.average.values))
        self.optimizer.restore(checkpoint.load_tensors(folder / checkpoint.FILES[1], self.optimizer.like()))
        self.random, self.data = random, state["data"]
        self.step = self.saved_step = state["step"]
        self.tokens, self.before = state["tokens"], state["seconds"]
        self.saved_at = self.told = self.before
        self.start = time.monotonic()
