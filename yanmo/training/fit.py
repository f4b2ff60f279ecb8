"""Training with evaluations: from the first step, or from where the run was left, to the step with the best score.

In: an opened run, a network, its work (work.py), settings. Out: the best evaluated step, which has a checkpoint.

    fit           train → measure every so many steps → stop at the end, or where nothing gets better
    Told          metrics, events and the page of a run
    load_step     the weights of a checkpoint as they were measured: their average where the run keeps one

`say(stage, values)` hears of "step" and "evaluation".
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from yanmo.errors import Error, FileError
from yanmo.machine import memory_in_use, reset_memory_in_use
from yanmo.models.checkpoint import Network
from yanmo.recipe import Recipe
from yanmo.runpage.report import keep_current
from yanmo.runs import Run, score_of
from yanmo.training.checkpoint import load_weights, read_state
from yanmo.training.distributed import ALONE, Ranks
from yanmo.training.events import FOLDER, Events
from yanmo.training.loop import Settings, train
from yanmo.training.work import Work

Say = Callable[[str, dict[str, Any]], None]


def fit(recipe: Recipe, run: Run, network: Network, work: Work, settings: Settings, say: Say, ranks: Ranks) -> int:
    """Train to the end of the recipe, or until `patience` evaluations in a row were no better; return the best step.

    With several ranks all call it, with a network that is spread out.
    """
    every, patience = recipe.train.eval_every, recipe.train.patience
    told = Told(run, say, ranks, events=recipe.train.tensorboard)
    measure = functools.partial(_measure, told, network, work)
    reset_memory_in_use(ranks.device)
    _catch_up(run, network, every, measure, ranks)
    if not ranks.by_main(lambda: _exhausted(run, patience)):
        batches = work.batches()
        steps = train(network, batches, work.objective, settings, run=run, ranks=ranks)
        with told, contextlib.closing(steps):
            for step in steps:
                done = step.seconds / settings.seconds if settings.seconds else step.step / (settings.steps or 1)
                told.step(step.record(), {"share": min(done, 1.0), "epoch": batches.epoch})
                if step.step % every == 0:
                    with step.averaged():
                        measure(step.step, step.tokens, step.seconds)
                    if ranks.by_main(lambda: _exhausted(run, patience)):
                        say("note", {"text": f"no better score in {patience} evaluations, so training ends here"})
                        break
    last = ranks.by_main(lambda: run.checkpoints()[-1])
    if not ranks.by_main(lambda: _is_measured(run, last)):
        state = load_step(network, run, last, ranks)
        measure(last, state["tokens"], state["seconds"])
    best = ranks.by_main(run.best_step)
    if best is None:
        raise Error(f"{run.folder}: no evaluation gave a finite loss; lower train.learning_rate and start a new run")
    return best


def load_step(network: Network, run: Run, step: int, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Fill the network with what was measured at a step, and return the state of its checkpoint."""
    state = read_state(run.checkpoint(step), ranks)
    load_weights(network, run.checkpoint(step), averaged=True)
    return state


class Told:
    """Who hears of a run: its metrics, the caller, and where they are wanted the event files and the page.

    An event file repeats the run's metrics first, so it is opened at the first step, when those of lost steps are gone.
    """

    def __init__(self, run: Run, say: Say, ranks: Ranks, *, events: bool) -> None:
        self.run, self.say, self.ranks = run, say, ranks
        self.wanted = events and ranks.is_main
        self.events: Events | None = None
        self.page = keep_current(run.folder) if ranks.is_main else lambda: None

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None:
        if self.events is not None:
            self.events.close()
            self.events = None

    def step(self, record: dict[str, Any], more: dict[str, Any]) -> None:
        """Tell of a step, which the loop has logged."""
        if self.wanted and self.events is None:
            self.events = Events(self.run.folder / FOLDER, self.run.metrics())
        elif self.events is not None:
            self.events.log(record)
        self.say("step", record | more | {"memory": memory_in_use(self.ranks.device)})

    def evaluation(self, record: dict[str, Any]) -> None:
        """Log an evaluation, and tell of it."""
        line = record | {"memory": memory_in_use(self.ranks.device)}
        self.run.log(**line)
        if self.events is not None:
            self.events.log(line)
        self.say("evaluation", line)
        self.page()


def _measure(told: Told, network: Network, work: Work, step: int, tokens: int, seconds: float) -> None:
    score = work.measure(network, False)
    told.evaluation({"step": step, "tokens": tokens, "seconds": seconds, **score})


def _is_measured(run: Run, step: int) -> bool:
    return any(line["step"] == step and score_of(line) is not None for line in run.metrics())


def _exhausted(run: Run, patience: int) -> bool:
    """Whether the best of all evaluations lies `patience` of them back."""
    if not patience:
        return False
    scores = [score for line in run.metrics() if (score := score_of(line)) is not None]
    return len(scores) > patience and min(scores[-patience:]) >= min(scores[:-patience])


def _catch_up(run: Run, network: Network, every: int, measure: Callable[[int, int, float], None], ranks: Ranks) -> None:
    """Make the evaluation that an interruption came before: of the last checkpoint, where it was due."""

    def due() -> int:
        """The step of that checkpoint, or 0; a damaged one is the loop's to report."""
        steps = run.checkpoints()
        if not steps or steps[-1] % every or _is_measured(run, steps[-1]):
            return 0
        try:
            read_state(run.checkpoint(steps[-1]))
        except FileError:
            return 0
        return steps[-1]

    step = ranks.by_main(due)
    if step:
        run.rewind(step)
        state = load_step(network, run, step, ranks)
        measure(step, state["tokens"], state["seconds"])
