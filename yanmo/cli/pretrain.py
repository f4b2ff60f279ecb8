"""`yanmo pretrain`: train a model as a recipe says.

In: a recipe, overrides, --out. Out: the plan before the first step, evaluations as they come, the model folder at the
end; progress on standard error; with --json the result alone, as JSON, on standard output.

    pretrain    the verb; finetune.py has its twin
    run         what both do
    Shown       what the terminal shows of the events of yanmo.pretrain
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_EVERY = 10.0  # seconds between two lines of progress where there is no terminal


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
    print(f"{score(shown.result)} · {out / 'model'}")
    if recipe.objective.kind not in ("masked", "spans", "infilling"):  # the others write text
        print(f'yanmo generate {out} "Once upon a time"')


def score(values: dict[str, Any]) -> str:
    """How good a model is, in the unit that its objective has."""
    if "bits_per_byte" in values:
        return f"{values['bits_per_byte']:.4f} bits per byte"
    accuracy = f", accuracy {values['accuracy']:.3f}" if "accuracy" in values else ""
    return f"validation loss {values.get('valid_loss', 0):.4f}{accuracy}"


class Shown:
    """Bars on a terminal, plain lines elsewhere, on standard error; the plan and evaluations on standard output."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.result: dict[str, Any] = {}
        self.bars: Progress | None = None
        self.task: TaskID | None = None
        self.stage, self.said, self.score = "", time.monotonic(), ""

    def __enter__(self) -> Shown:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True, highlight=False, markup=False)
        if console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}")
            self.bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def hear(self, stage: str, values: dict[str, Any]) -> None:
        """Show one event."""
        if stage == "note":
            print(f"yanmo: {values['text']}", file=sys.stderr)
        elif stage == "model":
            self.result = values
        elif stage == "plan":
            self._print(_plan(values))
        elif stage == "evaluation":
            self.score = score(values)
            self._print(f"step {values['step']:>6,}  {self.score}  {values['seconds']:8.1f} s")
        elif stage == "step":
            text = f"step {values['step']:,}  loss {values['loss']:.3f}  {values['tokens_per_second']:,.0f} tokens/s"
            self._progress("train", values["share"], f"{text}  {self.score}".rstrip())
        else:
            self._progress(stage, values["share"], values["text"])

    def _print(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)

    def _progress(self, stage: str, share: float | None, text: str) -> None:
        if self.bars is None:
            if time.monotonic() - self.said >= PLAIN_EVERY:
                self.said = time.monotonic()
                print(f"{stage}: {'' if share is None else f'{share:.0%}  '}{text}", file=sys.stderr, flush=True)
            return
        if stage != self.stage and self.task is not None:
            self.bars.remove_task(self.task)
        if stage != self.stage:
            self.stage, self.task = stage, self.bars.add_task(stage, total=1.0, text=text)
        assert self.task is not None
        total = None if share is None else 1.0
        self.bars.update(self.task, total=total, completed=share or 0.0, text=text)


def _plan(plan: dict[str, Any]) -> str:
    """What the run will take, on two lines."""
    steps = "" if plan["steps"] is None else f"{plan['steps']:,} steps of "
    text = f"{plan['train_tokens']:,} tokens of text, vocabulary {plan['vocab_size']:,}"
    reading = f"{steps}{plan['tokens_per_step']:,} tokens{'' if steps else ' per step'}"
    machine = f"{plan['device']}, {plan['precision']} ({plan['precision_reason']})"
    return (
        f"{plan['parameters']:,} parameters · {text}\n"
        f"{reading} · about {_duration(plan['seconds'])}, {plan['epochs']:.2f} epochs · {machine}"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
