"""`yanmo pretrain`: train a model as a recipe says.

In: a recipe, overrides, --out. Out: the plan before the first step, evaluations as they come, the model folder at the
end, and what was planned beside what was measured; progress on standard error (progress.py); with --json the result
alone, as JSON, on standard output.

    pretrain    the verb; finetune.py has its twin
    run         what both do
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from yanmo.cli.progress import Shown, compared, score


def pretrain(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, e.g. recipes/gpt-tiny.toml.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SECTION.KEY=VALUE]...",
            show_default=False,
            help="Changes to the recipe, e.g. data.paths=my-texts train.minutes=10.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="The run folder.", show_default=True)] = Path("run"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a model from nothing: text → corpus → tokenizer → network → RUN/model.

    Ctrl-C stops it at any moment; the same command goes on from there.
    """
    run("pretrain", recipe, overrides or [], out, as_json=as_json)


def run(verb: str, path: Path, overrides: list[str], out: Path, *, as_json: bool) -> None:
    """Read the recipe, call the function of that name, and show what it says."""
    from yanmo.recipe import load_recipe

    recipe = load_recipe(path, overrides)
    door: Any = importlib.import_module(f"yanmo.{verb}")  # imports torch: a mistake in the recipe is told before
    with Shown(quiet=as_json) as shown:
        door(recipe, out, report=shown.hear)
    if not shown.result:  # another rank of torchrun tells it
        return
    if as_json:
        print(json.dumps(shown.result, indent=2, ensure_ascii=False))
        return
    table = compared(out)
    if table:
        print(table)
    print(f"{score(shown.result)} · {out / 'model'}")
    if recipe.objective.kind not in ("masked", "spans", "infilling"):  # the others write text
        print(f'yanmo generate {out} "Once upon a time"')
