"""The page of a run: RUN/report.html, from the run folder alone.

In: a run folder, finished or not, whatever it lacks. Out: one self-contained page.

    write_report     the page, written aside and renamed
    report_html      the page as text
    keep_current     the same again and again while the run goes on, at a bounded share of its time

The page shows what is there and says what is missing; nothing in the folder stops it.
"""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from yanmo import __version__, charts, page
from yanmo.errors import FileError
from yanmo.files import read_json_object, read_text, write_atomic
from yanmo.page import Markup
from yanmo.runpage.comparison import Figure, compare, show
from yanmo.runpage.curves import drawn
from yanmo.runpage.history import PLACE, History, finite, read_history, words
from yanmo.runs import STEP

REPORT = "report.html"
SHARE = 0.02  # of a run's time at most is spent on its page
SHOWN_LICENSES = 6
MOMENTS = {  # of plan.json
    "loss": "while the loss is taken",
    "gradients": "once all gradients are there",
    "update": "while the optimizer updates",
}
NAMES = {"cpu": "Processor", "gpus": "GPUs"}  # in environment.json


@dataclass(frozen=True)
class Folder:
    """What a run folder holds, read; what is absent or damaged is empty, and `lacks` says so."""

    path: Path
    history: History
    plan: dict[str, Any]
    environment: dict[str, Any]
    recipe: str
    settings: dict[str, Any]
    corpus: dict[str, Any]
    tokens: dict[str, dict[str, Any]]
    lacks: list[str]

    @property
    def finished(self) -> bool:
        """Whether the run has its model."""
        return (self.path / "model").is_dir()


def write_report(folder: str | Path) -> Path:
    """Write RUN/report.html from what the run folder holds now, and return its path."""
    path = Path(folder) / REPORT
    if not Path(folder).is_dir():
        raise FileError(f"{folder}: no such folder; a run folder is what `yanmo pretrain --out` names")
    write_atomic(path, report_html(folder))
    return path


def keep_current(folder: str | Path) -> Callable[[], None]:
    """A function to call after each evaluation: it writes the page anew, unless that took more than 2 % of the time."""
    due = 0.0

    def write() -> None:
        nonlocal due
        began = time.monotonic()
        if began >= due:
            write_report(folder)
            due = time.monotonic() + (time.monotonic() - began) / SHARE

    return write


def report_html(folder: str | Path) -> str:
    """The page of a run folder as text."""
    run = _read(Path(folder))
    name = run.path.resolve().name or str(run.path)
    figures = compare(run.plan, run.history, finished=run.finished)
    parts = [
        _headline(run, figures),
        page.section("Curves", *_curves(run)),
        page.section("Planned and measured", *_costs(run, figures)),
        page.section("Best and last", *_ends(run)),
        page.section("Text", *_text(run)),
        page.section("Recipe", *_recipe(run)),
        page.section("Where it ran", *_environment(run)),
    ]
    today = date.today().isoformat()
    return page.document(
        name,
        parts,
        eyebrow=f"yanmo run · {today}",
        lede=_lede(run),
        footer=f"Made by Yanmo {__version__} on {today}. This page is one file and loads nothing from the network.",
    )


# --- reading


def _read(folder: Path) -> Folder:
    lacks: list[str] = []

    def values(name: str, needed: bool = True) -> dict[str, Any]:
        try:
            return read_json_object(folder / name)
        except FileError as error:
            if needed or (folder / name).exists():
                lacks.append(str(error) if (folder / name).exists() else f"{name} is not there")
            return {}

    try:
        recipe = read_text(folder / "recipe.toml")
        settings = tomllib.loads(recipe)
    except (FileError, ValueError, RecursionError) as error:
        lacks.append("recipe.toml is not there" if not (folder / "recipe.toml").exists() else str(error))
        recipe, settings = "", {}
    corpus = values("tokens/corpus.json", needed=False) or values("corpus/card.json", needed=False)
    tokens = {name: values(f"tokens/{name}/meta.json", needed=False) for name in ("train", "valid", "live")}
    plan, environment = values("plan.json"), values("environment.json")
    return Folder(folder, read_history(folder), plan, environment, recipe, settings, corpus, tokens, lacks)


# --- parts


def _lede(run: Folder) -> str:
    history, last = run.history, run.history.last_step
    if last is None:
        return "Nothing was logged yet."
    planned = _section(run, "train").get("steps")
    count = f"{last['step']:,}"
    steps = f"{count} step{'s' * (last['step'] != 1)}"
    if isinstance(planned, int) and planned != last["step"]:
        steps = f"{count} of {planned:,} steps"
    seconds = finite(last.get("seconds"))
    spent = "" if seconds is None else f" in {page.duration(seconds)}"
    size = run.plan.get("parameters")
    spent += f", {page.number(size)} parameters" if isinstance(size, int) else ""
    if run.finished:
        return f"Finished: {steps}{spent}."
    more = "" if history.evaluations else " No evaluation yet."
    return f"Not finished: {steps}{spent}. The command that began it goes on from its last checkpoint.{more}"


def _headline(run: Folder, figures: list[Figure]) -> Markup:
    history, last = run.history, run.history.last_step or {}
    known = {figure.name: figure for figure in figures}
    cards: list[tuple[str, object, str]] = []
    if history.best is not None and history.score is not None:
        name = history.score[0]
        cards.append(
            (words(name).capitalize(), f"{history.best[name]:.4f}", f"the best, at step {history.best['step']:,}")
        )
    loss = finite(last.get("loss"))
    if loss is not None:
        cards.append(("Training loss", f"{loss:.4f}", f"of step {last['step']:,}"))
    for name, label in (
        ("tokens per second", "Tokens per second"),
        ("memory, peak", "Memory"),
        ("time", "Time"),
    ):
        figure = known.get(name)
        if figure is None or figure.measured is None:
            continue
        planned = show(figure.planned, figure.unit)
        cards.append((label, show(figure.measured, figure.unit), f"planned: {planned}" if planned else ""))
    return page.cards(cards)


def _curves(run: Folder) -> list[object]:
    history = run.history
    if history.empty:
        return ["There are no curves before the first step."]
    notes: list[object] = []
    if any(curve.stride > 1 for curve in history.training.values()):
        stride = max(curve.stride for curve in history.training.values())
        notes.append(
            page.note(
                f"A line is the mean of {stride:,} steps, the band behind it reaches from the lowest to the highest."
            )
        )
    if history.repeated:
        notes.append(
            page.note(
                f"{history.repeated:,} lines were made again, since the run went on from an earlier step; "
                "the later ones are shown."
            )
        )
    if history.damaged:
        notes.append(page.note(f"{history.damaged:,} lines of metrics.jsonl could not be read and are left out."))
    kind = _section(run, "objective").get("kind", "causal")
    axes = [(title, page.join(drawn(history, run.plan, axis, str(kind)))) for axis, title in AXES.items()]
    return [*notes, page.choices("axis", "Drawn over", axes)]


AXES = {"step": "steps", "tokens": "tokens", "seconds": "time"}


def _section(run: Folder, name: str) -> dict[str, Any]:
    section = run.settings.get(name)
    return section if isinstance(section, dict) else {}


def _costs(run: Folder, figures: list[Figure]) -> list[object]:
    if not figures:
        return ["There is neither a plan nor a measurement yet."]
    shown = page.table(["", "planned", "measured", "ratio"], [figure.row() for figure in figures])
    parts: list[object] = [shown]
    if not run.finished:
        parts.append(page.note("Sums have no ratio before the run is over."))
    parts.append(
        page.note(
            "Memory is the peak of the process, on an accelerator that of torch's allocator there. Speed is that of "
            "the training steps alone; time holds evaluations and checkpoints. A dash: not planned, or not measured."
        )
    )
    kinds = run.plan.get("memory_bytes")
    if isinstance(kinds, dict):
        rows = [(str(kind), _size(size) / 1e6) for kind, size in kinds.items() if kind != "total" and _size(size)]
        moment = MOMENTS.get(str(run.plan.get("memory_moment")), "")
        moment = f"Not all of it is held at once: the peak is {moment}." if moment else ""
        parts.append(charts.bar_chart(rows, "Planned memory by kind", unit="MB", remark=moment))
    assumed = run.plan.get("assumptions")
    if isinstance(assumed, list) and assumed:
        parts += [page.heading("What the plan assumed"), *[page.note(str(line)) for line in assumed[:20]]]
    return parts


def _size(value: object) -> float:
    """A value as bytes; 0 where it is no number of bytes."""
    return max(finite(value) or 0.0, 0.0)


def _ends(run: Folder) -> list[object]:
    """The best and the last evaluation beside each other, and the last training step."""
    history = run.history
    saved = _checkpoints(run.path)
    parts: list[object] = []
    pair = [record for record in (history.best, history.last_evaluation) if record is not None]
    if pair:
        heads = ["best", "last"] if history.best is not None else ["last"]
        if len(pair) == 2 and pair[0] is pair[1]:
            pair, heads = pair[:1], ["best and last"]
        parts.append(page.table(["", *heads], _rows(pair), caption="Evaluations"))
    if history.last_step is not None:
        rows = _rows([history.last_step])
        parts.append(page.table(["", "last"], rows, caption="Training steps"))
    if saved:
        kept = ", ".join(f"{step:,}" for step in sorted(saved))
        parts.append(page.note(f"Checkpoints are kept of step {kept}."))
    return parts or ["No step was taken yet."]


def _rows(records: list[dict[str, Any]]) -> list[list[object]]:
    names = list(dict.fromkeys(name for record in records for name in record))
    first = [name for name in PLACE if name in names]
    shown = [*first, *(name for name in names if name not in first)][:24]
    titles = {"seconds": "time"}
    return [[titles.get(name, words(name)), *(_value(name, record.get(name)) for record in records)] for name in shown]


def _value(name: str, value: object) -> object:
    known = finite(value)
    if known is None:
        return None if value is None else str(value)[:80]
    if name == "seconds":
        return page.duration(known)
    return page.nbytes(known) if name == "memory" else value


def _checkpoints(folder: Path) -> set[int]:
    try:
        names = [path.name for path in (folder / "checkpoints").iterdir()]
    except OSError:
        return set()
    return {int(match[1]) for name in names if (match := STEP.fullmatch(name))}


def _text(run: Folder) -> list[object]:
    facts: dict[str, object] = {}
    splits = run.corpus.get("splits")
    for name, title in (("train", "For training"), ("valid", "For validation")):
        part = splits.get(name) if isinstance(splits, dict) else None
        told = []
        if isinstance(part, dict) and isinstance(part.get("documents"), int):
            told += [f"{part['documents']:,} documents", page.nbytes(_size(part.get("bytes")))]
        count = run.tokens[name].get("n_tokens", run.plan.get(f"{name}_tokens"))
        if isinstance(count, int):
            told.append(f"{count:,} tokens")
        records = run.plan.get(f"{name}_records")
        if isinstance(records, int):
            told.append(f"{records:,} records")
        if told:
            facts[title] = ", ".join(told)
    size = run.plan.get("vocab_size", run.tokens["train"].get("vocab_size"))
    if isinstance(size, int):
        facts["Vocabulary"] = f"{size:,} tokens"
    for name, title in (("license", "Licence"), ("language", "Languages")):
        counts = run.corpus.get(name)
        if isinstance(counts, dict) and counts:
            listed = [
                f"{key} ({count:,})" for key, count in list(counts.items())[:SHOWN_LICENSES] if isinstance(count, int)
            ]
            more = len(counts) - SHOWN_LICENSES
            facts[title] = "; ".join(listed) + (f"; and {more} more" if more > 0 else "")
    paths = _section(run, "data").get("paths")
    if isinstance(paths, list):
        facts["Named by the recipe"] = ", ".join(map(str, paths[:20]))
    return [page.facts(facts)] if facts else ["Nothing is known of the text."]


def _recipe(run: Folder) -> list[object]:
    lacking = [page.note(f"{line}.") for line in run.lacks]
    return [page.code(run.recipe) if run.recipe else "There is no recipe.", *lacking]


def _environment(run: Folder) -> list[object]:
    facts: dict[str, object] = {}
    for name, value in run.environment.items():
        if name == "format":
            continue
        facts[NAMES.get(name, words(name).capitalize())] = _plain(name, value)
    return [page.facts(facts)] if facts else ["Nothing is known of the machine."]


def _plain(name: str, value: object) -> str:
    """A value of environment.json in words."""
    if name == "memory" and isinstance(value, dict):
        return ", ".join(f"{key} {page.nbytes(_size(size))}" for key, size in value.items() if _size(size)) or "unknown"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item is not None)
    if isinstance(value, list):
        return ", ".join(map(_item, value)) or "none"
    return str(value) if isinstance(value, (str, int, float)) else json.dumps(value, ensure_ascii=False)


def _item(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    size = _size(value.get("memory"))
    return f"{value.get('name', value)}" + (f" with {page.nbytes(size)}" if size else "")
