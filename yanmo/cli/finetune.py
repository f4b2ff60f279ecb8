"""`yanmo finetune`: go on training a model that exists, as a recipe says, or for a task on the user's examples.

In: a recipe and overrides; or a task, a model and data. Out: as of `yanmo pretrain`; of a task the figures beside the
baselines, and the commands to go on with.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from yanmo.errors import InputError, nearest

DATA, TRAINING = "What the data are", "How to train"
Valid = Annotated[
    list[Path] | None, typer.Option(help="Examples to choose by; else a share is kept.", rich_help_panel=DATA)
]
Test = Annotated[
    list[Path] | None, typer.Option(help="Examples to judge by; else those to choose by.", rich_help_panel=DATA)
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ROLE=NAME", help="A column, such as text=review; see docs/taskdata.md.", rich_help_panel=DATA
    ),
]
Epochs = Annotated[float | None, typer.Option(help="Times over the examples.", rich_help_panel=TRAINING)]
Rows = Annotated[int | None, typer.Option(help="Examples of a step.", rich_help_panel=TRAINING)]
Length = Annotated[int | None, typer.Option(help="Tokens of a window.", rich_help_panel=TRAINING)]
Adapter = Annotated[
    str | None, typer.Option(metavar="KIND", help="Train an adapter: lora, dora ….", rich_help_panel=TRAINING)
]
OVERRIDE = re.compile(r"(model|tokenizer|data|objective|adapter|train|scale)\.[a-z_0-9]+=")


def finetune(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE|TASK", help="A recipe; or classify, extract, answer, translate, generate."),
    ],
    rest: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL DATA...] [SECTION.KEY=VALUE]...",
            show_default=False,
            help="Of a task the model (a folder, a hub id, new) and files of examples; changes to the recipe.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="RUN", help="The run folder.", show_default="run")
    ] = None,
    valid: Valid = None,
    test: Test = None,
    column: Column = None,
    text: Annotated[str | None, typer.Option(help="The column of the text.", rich_help_panel=DATA)] = None,
    label: Annotated[str | None, typer.Option(help="The column of the label.", rich_help_panel=DATA)] = None,
    skip_bad: Annotated[
        bool, typer.Option(help="Leave out rows that cannot be used, and list them.", rich_help_panel=DATA)
    ] = False,
    epochs: Epochs = None,
    rows: Rows = None,
    length: Length = None,
    learning_rate: Annotated[float | None, typer.Option(rich_help_panel=TRAINING)] = None,
    adapter: Adapter = None,
    seed: Annotated[int, typer.Option(rich_help_panel=TRAINING)] = 0,
    curve: Annotated[
        bool, typer.Option("--curve", help="Train on 1/8, 1/4, 1/2 of it too, for the page.", rich_help_panel=TRAINING)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a model further: by a recipe, or for a task on your examples (yanmo finetune classify MODEL data.csv).

    Ctrl-C stops it at any moment; the same command goes on from there.
    """
    from yanmo.cli.pretrain import run
    from yanmo.tasks.examples import TASKS

    words = rest or []
    roles = {name: value for name, value in (("text", text), ("label", label)) if value is not None}
    wishes = {
        "valid": valid or [],
        "test": test or [],
        "columns": roles | _columns(column or []),
        "skip_bad": skip_bad,
        "epochs": epochs,
        "rows": rows,
        "length": length,
        "learning_rate": learning_rate,
        "adapter": adapter,
        "seed": seed,
        "curve": curve,
    }
    if recipe in TASKS:
        _task(recipe, words, out or Path("run"), wishes, as_json=as_json)
        return
    said = [name for name, value in wishes.items() if value]
    if "." not in recipe and not Path(recipe).exists():
        raise InputError(f"no recipe and no task {recipe!r}{nearest(recipe, TASKS)}; tasks are {', '.join(TASKS)}")
    if said:
        raise InputError(f"--{said[0].replace('_', '-')} belongs to a task; a recipe says it itself (docs/recipes.md)")
    run("finetune", Path(recipe), words, out or Path("run"), as_json=as_json)


def _columns(said: list[str]) -> dict[str, str]:
    found = {}
    for item in said:
        role, equals, name = item.partition("=")
        if not (equals and role and name):
            raise InputError(f"--column {item!r} is not of the form ROLE=NAME, e.g. text=review")
        found[role] = name
    return found


def _task(task: str, words: list[str], out: Path, wishes: dict[str, Any], *, as_json: bool) -> None:
    overrides = [word for word in words if OVERRIDE.match(word)]
    named = [word for word in words if not OVERRIDE.match(word)]
    if len(named) < 2:
        raise InputError(f"yanmo finetune {task} needs a model and data: yanmo finetune {task} MODEL DATA -o RUN")
    from yanmo.cli.progress import Shown, compared
    from yanmo.finetune import finetune_task

    with Shown(quiet=as_json) as shown:
        predictor = finetune_task(
            task,
            named[0],
            named[1:],
            out=out,
            report=shown.hear,
            understood=None if as_json else _show,
            overrides=overrides,
            **wishes,
        )
    if as_json:
        print(json.dumps(predictor.result, indent=2, ensure_ascii=False))
        return
    table = compared(out)
    if table:
        print(table)
    print("\n".join(_lines(predictor.result, out)))


def _show(data: Any) -> None:
    """What the files were taken for, before anything is trained."""
    from rich.console import Console

    from yanmo.tasks.understood import table

    Console().print(table(data))


def _lines(result: dict[str, Any], out: Path) -> list[str]:
    """The main figure beside those of the baselines, and how to go on."""
    rows = [("this model", result["main"]), *result["baselines"].items()]
    width = max(len(name) for name, _ in rows)
    found = [f"{result['main']['name']} of {result['examples']:,} examples ({result['judged_by']}), 95 % interval:"]
    found += [f"  {name:<{width}}  {m['value']:.3f}  ({m['low']:.3f} to {m['high']:.3f})" for name, m in rows]
    asked = {"answer": '"…" --context "…"', "generate": '"…" --chat'}.get(result["task"], '"…"')
    return [*found, f"{out / 'report.html'}", f"yanmo {result['task']} {out} {asked}"]
