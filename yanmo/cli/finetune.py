"""`yanmo finetune`: go on training a model that exists, as a recipe says.

In: a recipe with model.path, overrides, --out. Out: as of `yanmo pretrain`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yanmo.cli.pretrain import run


def finetune(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, e.g. recipes/sft.toml.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SECTION.KEY=VALUE]...",
            show_default=False,
            help="Changes to the recipe, e.g. model.path=my-model data.paths=chats.jsonl.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="The run folder.", show_default=True)] = Path("run"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a model further, all of it or an adapter: chats, preferences, pairs of texts, or more text.

    Ctrl-C stops it at any moment; the same command goes on from there.
    """
    run("finetune", recipe, overrides or [], out, as_json=as_json)
