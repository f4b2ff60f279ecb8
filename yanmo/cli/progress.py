"""What the terminal shows of a run: one line while it goes on; at its end, what was planned beside what was measured.

In: the events of yanmo.pretrain and yanmo.finetune. Out: on standard error a bar with loss, score, speed, share of the
peak, memory and time left, or a plain line every ten seconds where there is no terminal; on standard output the plan,
the evaluations, and the comparison.

    Shown        hears the events; use it in a `with` statement
    compared     the table of the end
    score        how good a model is, in words
    step_parts   what the line says of a step, the most important first
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_EVERY = 10.0  # seconds between two lines of progress where there is no terminal
BAR = 12  # columns
FIGURES = ("accuracy", "f1", "exact_match", "pearson")  # of evaluations, where they have them
SETTLED = 2  # steps of this session before a time left is told: the first ones warm up


class Shown:
    """A bar on a terminal, plain lines elsewhere, on standard error; the plan and evaluations on standard output."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.result: dict[str, Any] = {}
        self.plan: dict[str, Any] = {}
        self.bars: Progress | None = None
        self.task: TaskID | None = None
        self.width = 0  # columns for stage and text
        self.stage, self.said, self.score = "", time.monotonic(), ""
        self.began: tuple[float, float] | None = None  # of this session: time and share of its first step
        self.steps, self.tokens = 0, 0.0

    def __enter__(self) -> Shown:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        console = Console(stderr=True, highlight=False, markup=False)
        if console.is_terminal:
            text = TextColumn(
                "{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis"), markup=False
            )
            columns = (TextColumn("{task.description}"), BarColumn(BAR), text)
            self.width = console.width - BAR - 2
            self.bars = Progress(*columns, console=console, transient=True)
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
            self.plan = values
            self._print(_plan(values))
        elif stage == "evaluation":
            self.score = score(values)
            self._print(f"step {values['step']:>6,}  {self.score}  {values['seconds']:8.1f} s")
        elif stage == "step":
            self._step(values)
        elif "share" in values:
            self._progress(stage, values["share"], [values.get("text", "")])

    def _step(self, values: dict[str, Any]) -> None:
        now, share = time.monotonic(), float(values["share"])
        if self.began is None:
            self.began = now, share
        self.steps += 1
        left = None
        if self.steps > SETTLED and share > self.began[1]:
            left = (now - self.began[0]) / (share - self.began[1]) * (1 - share)
        before = self.tokens if self.steps > 1 else None
        self.tokens = values.get("tokens", 0.0)
        self._progress("train", share, step_parts(values, self.plan, self.score, left, before))

    def _print(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)

    def _progress(self, stage: str, share: float | None, parts: Sequence[str]) -> None:
        if self.bars is None:
            if time.monotonic() - self.said >= PLAIN_EVERY:
                self.said = time.monotonic()
                text = "  ".join(["" if share is None else f"{share:.0%}", *parts]).strip()
                print(f"{stage}: {text}", file=sys.stderr, flush=True)
            return
        text = fitted(parts, self.width - len(stage))
        if stage != self.stage and self.task is not None:
            self.bars.remove_task(self.task)
        if stage != self.stage:
            self.stage, self.task = stage, self.bars.add_task(stage, total=1.0, text=text)
        assert self.task is not None
        total = None if share is None else 1.0
        self.bars.update(self.task, total=total, completed=share or 0.0, text=text)


def fitted(parts: Sequence[str], width: int) -> str:
    """As many of the parts as fit into so many columns, the first ones first."""
    text = ""
    for part in parts:
        longer = f"{text}  {part}" if text else part
        if len(longer) > width and text:
            break
        text = longer
    return text


def step_parts(
    values: dict[str, Any], plan: dict[str, Any], score: str, left: float | None, before: float | None
) -> list[str]:
    """What is said of a step: number, loss, time left, score, speed, share of the peak, memory.

    `before`: target tokens before this step, where they are known. What neither the step nor the plan says is left out.
    """
    from yanmo.page import duration, nbytes
    from yanmo.runpage.comparison import reading_speed, share_of_peak

    planned, share = plan.get("steps"), values.get("share")
    counted = isinstance(planned, int) and planned > 0 and share == min(values["step"] / planned, 1.0)
    number = f"step {values['step']:,}" + (f"/{planned:,}" if counted else "")  # not where the clock ends the run
    parts = [number, f"loss {values['loss']:.3f}"]
    if left is not None:
        parts.append(f"{duration(left)} left")
    if score:
        parts.append(score)
    speed = values["tokens_per_second"] if before is None else reading_speed(plan, values, before)
    if speed is not None:
        parts.append(f"{speed:,.0f} tokens/s")
        share = share_of_peak(plan, speed)
        if share is not None:
            parts.append(f"{share:.0%} of peak" if share >= 0.095 else f"{share:.1%} of peak")
    if values.get("memory"):
        parts.append(nbytes(values["memory"]))
    return parts


def compared(folder: str | Path) -> str:
    """Planned, measured and their ratio, from a run folder, as lines; empty where there is nothing to compare."""
    from rich.cells import cell_len

    from yanmo.errors import FileError
    from yanmo.files import read_json_object
    from yanmo.runpage.comparison import compare
    from yanmo.runpage.history import read_history

    try:
        plan = read_json_object(Path(folder) / "plan.json")
    except FileError:
        return ""
    finished = (Path(folder) / "model").is_dir()
    figures = [
        figure for figure in compare(plan, read_history(folder), finished=finished) if figure.measured is not None
    ]
    if not figures:
        return ""
    rows = [("", "planned", "measured", "ratio"), *((cell or "–" for cell in figure.row()) for figure in figures)]
    cells = [list(row) for row in rows]
    widths = [max(cell_len(row[i]) for row in cells) for i in range(4)]
    lines = [[row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3))] for row in cells]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def score(values: dict[str, Any]) -> str:
    """How good a model is, in the unit that its objective has."""
    if "bits_per_byte" in values:
        return f"{values['bits_per_byte']:.4f} bits per byte"
    figures = "".join(f", {name} {values[name]:.3f}" for name in FIGURES if name in values)
    return f"validation loss {values.get('valid_loss', 0):.4f}{figures}"


def _plan(plan: dict[str, Any]) -> str:
    """What the run will take, on two or three lines."""
    from yanmo.page import nbytes
    from yanmo.runpage.comparison import planned_memory, tokens_per_step

    text = [f"{plan['parameters']:,} parameters"]
    trained = plan.get("trained_parameters", plan["parameters"])
    text += [f"{trained:,} of them trained"] if trained != plan["parameters"] else []
    text += [f"{plan['train_records']:,} records"] if plan.get("train_records") else []
    text += [f"{plan['train_tokens']:,} tokens of text"] if plan.get("train_tokens") else []
    text += [f"vocabulary {plan['vocab_size']:,}"] if plan.get("vocab_size") else []
    steps = f"{plan['steps']:,} steps of " if plan.get("steps") else ""
    reading = f"{steps}{tokens_per_step(plan) or 0:,.0f} tokens{'' if steps else ' per step'}"
    time = f"about {_duration(plan['seconds'])}"
    epochs = f", {plan['epochs']:.2f} epochs" if plan.get("epochs") else ""
    reason = f" ({plan['precision_reason']})" if plan.get("precision_reason") else ""
    machine = f"{plan.get('device_title', plan.get('device'))}, {plan.get('precision')}{reason}"
    memory, energy, money = planned_memory(plan), plan.get("energy_kwh"), plan.get("money_usd")
    costs = [f"{nbytes(memory)} of memory at most"] if memory else []
    costs += [f"{energy:.3g} kWh"] if energy and energy > 0.001 else []
    costs += [f"{money:.2f} USD"] if money and money >= 0.01 else []
    lines = [text, [reading, f"{time}{epochs}", machine], costs]
    return "\n".join(" · ".join(parts) for parts in lines if parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
