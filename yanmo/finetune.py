"""Fine-tuning by a recipe: a model that exists → the same model, or an adapter on it, after more training.

In: a Recipe with model.path, and a run folder. Out: RUN/model. The way is pretrain.py's: the same run folder, the same
loop, the same resume.

    finetune    goes on from a model: with text (causal, masked, spans, infilling) or records (seq2seq, chat, dpo, orpo)

`yanmo.finetune(…)` is the function of that name: this module can be called, since one name is both.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

from yanmo.errors import ConfigError
from yanmo.pretrain import Report, run_recipe
from yanmo.recipe import Recipe


def finetune(recipe: Recipe, out: str | Path, *, report: Report | None = None) -> Path:
    """Train the model that the recipe names in the run folder `out` and return the folder of the result.

    Called again with the same recipe, it goes on where it was interrupted, and returns at once where it was finished.
    """
    if recipe.model.path is None:
        raise ConfigError("no model to go on from; set model.path to a model folder or a hub id, or use yanmo pretrain")
    return run_recipe(recipe, out, report)


class _Callable(types.ModuleType):
    """A module that is called like its function `finetune`."""

    def __call__(self, recipe: Recipe, out: str | Path, *, report: Report | None = None) -> Path:
        return finetune(recipe, out, report=report)


sys.modules[__name__].__class__ = _Callable
