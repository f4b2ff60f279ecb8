"""Fine-tuning: a model that exists → the same model, or an adapter on it, after more training.

By a recipe with model.path: text (causal, masked, spans, infilling) or records (seq2seq, chat, dpo, orpo). By a task:
examples as people have them, and out comes what does the task. Both ways are pretrain.py's: the same run folder, the
same loop, the same resume.

    finetune         yanmo.finetune(recipe, out) → RUN/model; yanmo.finetune("classify", model, data, out=…) → Predictor
    finetune_task    the second of them

`yanmo.finetune(…)` is the function of that name: this module can be called, since one name is both.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yanmo.errors import ConfigError, InputError
from yanmo.files import write_json
from yanmo.pretrain import Report, run_recipe
from yanmo.recipe import Recipe
from yanmo.tasks import keeping
from yanmo.tasks.curve import cost, measure
from yanmo.tasks.examples import TASKS, Data
from yanmo.tasks.judging import PAGE, judge
from yanmo.tasks.opening import SETTINGS
from yanmo.tasks.predictor import Predictor, load_predictor
from yanmo.tasks.preparing import Wishes, prepare, settings_of

Paths = str | Path | Sequence[str | Path]


def finetune(
    recipe_or_task: Recipe | str,
    *args: Any,
    out: str | Path | None = None,
    report: Report | None = None,
    **wishes: Any,
) -> Any:
    """Train the model that a recipe names in the run folder `out` and return the folder of the result; or train a task.

    A task is one of classify, extract, answer, translate, generate, followed by a model (folder, hub id, a recipe's
    .toml, or "new") and data; see finetune_task. Called again with the same arguments, it goes on where it was
    interrupted, and returns at once where it was finished.
    """
    if isinstance(recipe_or_task, str) and recipe_or_task in TASKS:
        if len(args) != 2:
            raise InputError(f"{recipe_or_task} needs a model and data, and {len(args)} of them are given")
        place = f"{recipe_or_task}-run" if out is None else out
        return finetune_task(recipe_or_task, *args, out=place, report=report, **wishes)
    if not isinstance(recipe_or_task, Recipe):
        raise InputError(f"a recipe, or one of {', '.join(TASKS)}, is needed, not {recipe_or_task!r:.60}")
    folder = args[0] if args else out
    if folder is None or len(args) > 1 or wishes:
        raise InputError("a recipe takes a run folder and nothing else: finetune(recipe, out)")
    if recipe_or_task.model.path is None:
        raise ConfigError("no model to go on from; set model.path to a model folder or a hub id, or use yanmo pretrain")
    return run_recipe(recipe_or_task, folder, report)


def finetune_task(
    task: str,
    model: str | Path,
    data: Paths,
    *,
    out: str | Path,
    report: Report | None = None,
    understood: Callable[[Data], None] | None = None,
    curve: bool = False,
    **wishes: Any,
) -> Predictor:
    """Train a model for a task on examples and return it ready to use; its figures are in RUN/result.json.

    wishes: see tasks/preparing.py Wishes (columns, valid, test, skip_bad, epochs, rows, length, learning_rate, adapter,
    seed, overrides). understood: hears what the data were taken for before they are used. curve: train on parts of the
    examples too, for the page (tasks/curve.py). Every mistake that can be known before is told before anything is
    trained.
    """
    if curve and os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("curve trains models one after the other in one process; call it without torchrun")
    say: Report = report or (lambda stage, values: None)
    prepared = prepare(task, model, data, out, Wishes(**wishes), understood)

    def told(stage: str, values: dict[str, Any]) -> None:
        say(stage, values)
        if stage == "plan" and curve:
            say("note", {"text": cost(values.get("seconds"))})

    def train(recipe: Recipe, run: Path, held: Callable[[], None] | None = None) -> Predictor:
        made = run_recipe(recipe, run, told if held else None, held)
        if not (made / SETTINGS).is_file():  # a task without a head of its own
            write_json(made / SETTINGS, settings_of(prepared))
        return load_predictor(run, task=task)

    folder = Path(out)
    predictor = train(prepared.recipe, folder, lambda: keeping.unchanged(prepared.kept, folder))
    predictor.report = folder / PAGE
    predictor.result = judge(prepared, predictor, folder, say, measure(prepared, folder, train, say) if curve else ())
    return predictor


class _Callable(types.ModuleType):
    """A module that is called like its function `finetune`."""

    def __call__(
        self,
        recipe_or_task: Recipe | str,
        *args: Any,
        out: str | Path | None = None,
        report: Report | None = None,
        **wishes: Any,
    ) -> Any:
        return finetune(recipe_or_task, *args, out=out, report=report, **wishes)


sys.modules[__name__].__class__ = _Callable
