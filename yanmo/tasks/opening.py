"""A recipe whose objective is a task's → the head that its network needs, and what it learns from.

In: a Recipe of the kind labels, tokens or answers, whose data are files of examples (stored.py). Out: an `Opened`.

    open_task    reads and checks the examples, and chooses the task's file
    task_of      the task of a kind of objective
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yanmo.errors import ConfigError, InputError
from yanmo.files import sha256_file
from yanmo.recipe import Recipe
from yanmo.tasks.examples import Example
from yanmo.tasks.stored import read_examples
from yanmo.tokens.tokenizer import Tokenizer
from yanmo.training.build import Top
from yanmo.training.distributed import Ranks
from yanmo.training.spread import gathered
from yanmo.training.work import Work

if TYPE_CHECKING:
    from yanmo.models.checkpoint import Network

TASK_OF = {"labels": "classify", "tokens": "extract", "answers": "answer"}
KIND_OF = {task: kind for kind, task in TASK_OF.items()}
SETTINGS = "task.json"  # in a model folder: what the task needs beside the model


@dataclass(frozen=True)
class Opened:
    """What training needs of a task.

    work(tokenizer, network, ranks) is what is learned; settings(network, tokenizer) is what the finished model's
    task.json holds: what was fitted on validation, and how texts are cut into windows. The facts of the work are
    train_records, valid_records and windows, of which train.rows make a batch. files: what was read, for the card.
    prepare(network) puts what is learned beside the network's own weights on it, before anything is trained.
    """

    top: Top
    work: Callable[[Tokenizer, Network, Ranks], Work]
    settings: Callable[[Network, Tokenizer], dict[str, Any]]
    files: tuple[dict[str, Any], ...] = ()
    prepare: Callable[[Network], None] | None = None


def open_task(recipe: Recipe) -> Opened:
    """Read data.paths and data.valid, both of which a task needs, and open the task of the objective."""
    if not recipe.data.valid:
        raise ConfigError(
            f"objective.kind {recipe.objective.kind!r} needs data.valid, examples to choose and calibrate by; "
            "use `yanmo finetune TASK MODEL DATA`, which splits them"
        )
    files: list[dict[str, Any]] = []
    train, valid = _read("paths", recipe.data.paths, files), _read("valid", recipe.data.valid, files)
    opened = _opener(recipe.objective.kind)(recipe, train, valid)

    def work(tokenizer: Tokenizer, network: Network, ranks: Ranks) -> Work:
        made = opened.work(tokenizer, network, ranks)
        return replace(made, measure=lambda net, whole: gathered(net, ranks, lambda net: made.measure(net, whole)))

    return replace(opened, work=work, files=tuple(files))


def _read(name: str, paths: Sequence[str], files: list[dict[str, Any]]) -> list[Example]:
    found: list[Example] = []
    for path in paths:
        examples = read_examples(path)
        files.append({"name": Path(path).name, "records": len(examples), "sha256": sha256_file(path)})
        found += examples
    if not found:
        raise InputError(f"data.{name} holds no examples; name files with at least one")
    return found


def _opener(kind: str) -> Callable[[Recipe, list[Example], list[Example]], Opened]:
    if kind == "labels":
        from yanmo.tasks.classification import open_labels

        return open_labels
    if kind == "tokens":
        from yanmo.tasks.extraction import open_tokens

        return open_tokens
    from yanmo.tasks.answering import open_answers

    return open_answers
