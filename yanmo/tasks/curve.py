"""What fewer examples would have given: the same training on an eighth, a quarter and a half of them.

In: a prepared run, and how a recipe becomes a Predictor. Out: points, each kept as RUN/curve/N.json once it is there.

    parts        training examples → parts of them, each inside the next; all know every label
    recipe_of    the recipe on a part: steps, minutes and evaluations in proportion
    measure      the points: each part is trained, judged by the examples of the run, and its model removed
    cost         what that takes, beside the training of all
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yanmo.errors import InputError
from yanmo.files import read_json_object, write_atomic, write_json
from yanmo.page import duration
from yanmo.recipe import Recipe
from yanmo.tasks import keeping
from yanmo.tasks.examples import Example
from yanmo.tasks.judging import Say, main_of
from yanmo.tasks.predictor import Predictor
from yanmo.tasks.preparing import Prepared, kept_lines
from yanmo.tasks.splits import split

SHARES = (8, 4, 2)  # one of so many examples
FOLDER = "curve"
FEWEST = 20  # steps between two evaluations, as of a whole run


def parts(train: Sequence[Example], seed: int) -> dict[int, list[Example]]:
    """{8: an eighth of the examples, 4: a quarter, 2: a half}; a part that cannot be made is left out.

    Each is the side of training of the next one's split in two: groups stay whole, and no label is lost.
    """
    found: dict[int, list[Example]] = {}
    held = list(train)
    for share in reversed(SHARES):
        try:
            held = split(held, 0.5, seed)[0]
        except InputError:
            break
        found[share] = held
    return dict(sorted(found.items(), reverse=True))


def recipe_of(recipe: Recipe, path: Path, share: float) -> Recipe:
    """The recipe on a share of its examples, which stand in a file of their own."""
    train = recipe.train
    changed: dict[str, Any] = {"eval_every": min(train.eval_every, max(FEWEST, round(train.eval_every * share)))}
    if train.steps is not None:
        changed["steps"] = max(1, round(train.steps * share))
    if train.minutes is not None:
        changed["minutes"] = train.minutes * share
    data = recipe.data.model_copy(update={"paths": [str(path)]})
    return recipe.model_copy(update={"data": data, "train": train.model_copy(update=changed)})


def cost(seconds: float | None) -> str:
    """What the curve adds to a training of so many seconds, in words."""
    more = sum(1 / share for share in SHARES)
    time = "" if seconds is None else f", {duration(seconds * more)} if the plan holds"
    return f"--curve trains again on 1/8, 1/4 and 1/2 of the examples: {more:g} times this training{time}"


def measure(
    prepared: Prepared, run: Path, train: Callable[[Recipe, Path], Predictor], say: Say
) -> list[dict[str, Any]]:
    """The main figure of each part: examples, name, value, low, high; fewest examples first.

    A part that is too small to train on is told and left out.
    """
    gold, points = prepared.test or prepared.valid, []
    for of, part in parts(prepared.train, prepared.recipe.train.seed).items():
        kept, place = run / FOLDER / f"{of}.json", run / FOLDER / str(of)
        if not kept.is_file():
            say("note", {"text": f"the curve: training on {len(part):,} of {len(prepared.train):,} examples"})
            path = place / "data" / "train.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, kept_lines(prepared.task, part))
            recipe = recipe_of(prepared.recipe, path, len(part) / len(prepared.train))
            keeping.follow(place, recipe)
            try:
                predictor = train(recipe, place)
            except InputError as error:  # such as fewer than a batch
                say("note", {"text": f"the curve is without {len(part):,} examples: {error}"})
                continue
            predictions = predictor.predict(predictor.rows_of(gold))
            write_json(kept, {"examples": len(part)} | main_of(prepared.task, gold, predictions))
        shutil.rmtree(place, ignore_errors=True)
        points.append(read_json_object(kept))
    return points
