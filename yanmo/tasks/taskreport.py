"""The page of a task: how good a model is, beside baselines, and where it fails.

In: examples, predictions, those of the baselines, the training examples, a run folder. Out: one self-contained page.

    write          the page into a folder
    report_html    the page as text
    Shown          a page that shows itself in a notebook

What is not there is left out, or said to be missing. Intervals are 95 % by bootstrap, differences are paired.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from yanmo import __version__, charts, page
from yanmo.charts import Series
from yanmo.files import write_atomic
from yanmo.page import Markup
from yanmo.runpage.history import finite, read_history
from yanmo.tasks import metrics, taskreport_errors, taskreport_parts, taskreport_slices
from yanmo.tasks.examples import Example
from yanmo.tasks.metrics_rows import aligned

Row = dict[str, Any]
REPORT = "report.html"
HEIGHT = 760  # pixels of a page in a notebook
TWINS = 5  # pairs that are shown
TITLES = {
    "classify": "Classification",
    "extract": "Entities and relations",
    "answer": "Answers",
    "translate": "Translation",
    "generate": "Generation",
}


@dataclass
class Judged:
    """What a page is made of. baselines: predictions by name; run: the run folder; facts: of the cost, by name.

    curve: of models that learned from fewer examples, how many, and the main figure with its interval.
    """

    task: str
    gold: Sequence[Example]
    predictions: Sequence[Row]
    train: Sequence[Example] = ()
    baselines: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    run: Path | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    title: str = ""
    curve: Sequence[Mapping[str, Any]] = ()


class Shown:
    """A written page: its path, and the page itself in a notebook."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"report: {self.path}"

    def _repr_html_(self) -> str:
        # in a frame of its own, so that neither the notebook's styles nor the page's reach the other
        inner = html.escape(self.path.read_text("utf-8"), quote=True)
        return f'<iframe srcdoc="{inner}" title="report" style="width:100%;height:{HEIGHT}px;border:0"></iframe>'


def write(folder: str | Path, judged: Judged, name: str = REPORT) -> Shown:
    """Write the page of a task into a folder."""
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, report_html(judged))
    return Shown(path)


def report_html(judged: Judged) -> str:
    """The page as text. InputError where examples and predictions do not fit each other."""
    task, gold = judged.task, judged.gold
    rows = aligned(gold, judged.predictions)
    figures = metrics.score(task, gold, rows)
    sums = metrics.sums(task, gold, rows)
    twins = taskreport_slices.twins(gold, judged.train)
    sections = {
        "Beside the baselines": _compared(judged, rows, sums),
        "All figures": _figures(task, gold, figures),
        "By class": taskreport_parts.class_table(figures),
        "What is taken for what": taskreport_parts.matrix(taskreport_parts.label_pairs(task, gold, rows)),
        "How sure, and how right": taskreport_parts.reliability(taskreport_parts.confidence_pairs(task, gold, rows)),
        "Slices": _slices(task, gold, sums),
        "Seen in training": _seen(judged, sums, twins),
        "The worst errors": _errors(task, gold, rows),
        "With fewer examples": _fewer(judged, sums),
        "The course of training": taskreport_parts.learning(judged.run) if judged.run else [],
        "Cost": _cost(judged),
    }
    today = date.today().isoformat()
    return page.document(
        judged.title or TITLES[task],
        [_headline(judged, sums, twins), *(page.section(name, *parts) for name, parts in sections.items() if parts)],
        eyebrow=f"yanmo {task} · {today}",
        lede=_lede(judged, sums),
        footer=f"Made by Yanmo {__version__} on {today}. This page is one file and loads nothing from the network.",
    )


def _figures(task: str, gold: Sequence[Example], figures: dict[str, float]) -> list[object]:
    return [taskreport_parts.figures_table(figures), *(page.note(line) for line in metrics.notes(task, gold, figures))]


def _lede(judged: Judged, sums: metrics.Sums) -> str:
    low, high = metrics.part_interval(sums)
    name = _capital(sums)
    learned = f", after training on {len(judged.train):,}" if judged.train else ""
    return (
        f"{name} {_value(judged.task, sums.value)}, 95 % interval {_range(judged.task, low, high)}, "
        f"on {len(judged.gold):,} examples{learned}."
    )


def _value(task: str, value: float, sign: str = "") -> str:
    """A share of 1 with four digits, a figure of 100 with two decimals."""
    places = 2 if task in ("answer", "translate", "generate") else 4
    return f"{value:{sign}.{places}f}".replace("-", "−")


def _capital(sums: metrics.Sums) -> str:
    name = taskreport_parts.named(sums.name)
    return name[0].upper() + name[1:]


def _range(task: str, low: float, high: float) -> str:
    return f"{_value(task, low)} to {_value(task, high)}"


def _headline(judged: Judged, sums: metrics.Sums, twins: taskreport_slices.Twins) -> Markup:
    task, (low, high) = judged.task, metrics.part_interval(sums)
    cards: list[tuple[str, object, str]] = [
        (_capital(sums), _value(task, sums.value), _range(task, low, high)),
    ]
    best = _best(judged, sums)
    if best:
        name, value, gain, low, high = best
        cards.append(("The best baseline", _value(task, value), name))
        cards.append(("Gain", _value(task, gain, "+"), _range(task, low, high)))
    cards.append(("Examples", len(judged.gold), f"{len(set(sums.groups)):,} groups" if sums.groups else ""))
    if judged.train:
        cards.append(("Seen in training", len(twins.pairs), "of the examples, or nearly"))
    return page.cards(cards)


def _best(judged: Judged, sums: metrics.Sums) -> tuple[str, float, float, float, float] | None:
    """The best baseline by the same figure: name, figure, and the gain over it with its interval."""
    found = {name: metrics.sums(judged.task, judged.gold, rows) for name, rows in judged.baselines.items()}
    values = {name: own.value for name, own in found.items() if own.name == sums.name}
    if not values:
        return None
    name = max(values, key=lambda key: values[key])
    gain = metrics.difference(judged.task, judged.gold, judged.baselines[name], judged.predictions)
    return name, values[name], *gain


def _compared(judged: Judged, rows: Sequence[Row], sums: metrics.Sums) -> list[object]:
    task, sides = judged.task, {"this model": rows, **judged.baselines}
    lines: list[list[object]] = []
    bars = []
    for name, predictions in sides.items():
        own = metrics.sums(judged.task, judged.gold, predictions)
        low, high = metrics.part_interval(own)
        same = own.name == sums.name  # predictions of another form may have another main figure
        told = name if same else f"{name}, {taskreport_parts.named(own.name)}"
        line: list[object] = [told, _value(task, own.value), _range(task, low, high)]
        compared = same and name != "this model"
        gain = metrics.difference(task, judged.gold, predictions, rows) if compared else None
        line.append(None if gain is None else f"{_value(task, gain[0], '+')} ({_range(task, *gain[1:])})")
        lines.append(line)
        bars.append((told, own.value))
    best = max(range(len(bars)), key=lambda i: bars[i][1])
    name = taskreport_parts.named(sums.name)
    drawn = "groups of examples" if sums.grouped else "examples"
    out: list[object] = [
        page.table(["", name, "95 % interval", "this model has more"], lines, best=best),
        charts.bar_chart(bars, _capital(sums)),
        page.note(
            f"Intervals come from {metrics.ROUNDS:,} resamples of {drawn}; a difference is taken on the same resample "
            "for both. One that reaches from below to above 0 may be chance."
        ),
    ]
    if not judged.baselines:
        out.append(page.note("No baseline was run."))
    return out


def _slices(task: str, gold: Sequence[Example], sums: metrics.Sums) -> list[object]:
    spoken, told = taskreport_slices.by_language(gold, sums)
    out: list[object] = []
    for title, found in (("Length", taskreport_slices.by_length(gold, sums)), ("Language", spoken)):
        rows = [(s.name, s.count, _value(task, s.value), _range(task, s.low, s.high)) for s in found]
        if rows:
            heads = [title.lower(), "examples", taskreport_parts.named(sums.name), "95 % interval"]
            out.append(page.table(heads, rows, caption=title))
    if out:
        out.append(page.note(f"Parts of fewer than {taskreport_slices.FEW} examples are left out."))
    return [*out, page.note(told)] if spoken else out


def _seen(judged: Judged, sums: metrics.Sums, twins: taskreport_slices.Twins) -> list[object]:
    if not judged.train:
        return []
    if not twins.pairs:
        return [f"None of the {len(judged.gold):,} texts is among the {len(judged.train):,} of training, or near one."]
    kept = np.setdiff1d(np.arange(len(judged.gold)), [place for place, _, _ in twins.pairs])
    told = (
        f"{len(twins.same):,} of the {len(judged.gold):,} texts are in training letter for letter, {len(twins.like):,} "
        f"more but for case, signs, digits and spaces. {len(twins.near):,} others are near one of training: at least "
        f"{taskreport_slices.NEAR:.0%} of the pairs of words of both (of three characters in Chinese) are the same, as "
        "far as signatures tell."
    )
    out: list[object] = [told]
    if len(kept):
        rest = taskreport_slices.part("rest", sums, kept)
        name = taskreport_parts.named(sums.name)
        out.append(
            f"Without them {name} is {_value(judged.task, rest.value)} ({_range(judged.task, rest.low, rest.high)})."
        )
    alike = len(twins.same) + len(twins.like)  # these stand first
    near = sorted(twins.pairs[alike:], key=lambda pair: -pair[2])
    for title, pairs in (("The first of them", twins.pairs[:alike]), ("The nearest of the others", near)):
        rows = [
            (
                judged.gold[i].id,
                taskreport_errors.cut(judged.gold[i].text, 120),
                taskreport_errors.cut(judged.train[j].text, 120),
                f"{share:.2f}",
            )
            for i, j, share in pairs[:TWINS]
        ]
        out += [page.table(["example", "its text", "in training", "shared"], rows, caption=title)] if rows else []
    return out


def _fewer(judged: Judged, sums: metrics.Sums) -> list[object]:
    """The figure over how many examples were learned from: whether more of them would help."""
    low, high = metrics.part_interval(sums)
    own = {"examples": len(judged.train), "value": sums.value, "low": low, "high": high}
    points = [point for point in judged.curve if point["name"] == sums.name]
    if not points:
        return []
    points = [*points, own]
    rows = [[p["examples"], _value(judged.task, p["value"]), _range(judged.task, p["low"], p["high"])] for p in points]
    line = Series("this model", [(p["examples"], p["value"]) for p in points])
    name = _capital(sums)
    return [
        page.table(["training examples", name, "95 % interval"], rows),
        charts.line_chart([line], f"{name} over training examples", "training examples", name, log_x=True),
        page.note("Each was trained as this one was, with steps in proportion; a new model has the same tokenizer."),
    ]


def _errors(task: str, gold: Sequence[Example], rows: Sequence[Row]) -> list[object]:
    places = taskreport_errors.worst(task, gold, rows)
    if not places:
        return ["There is no error."]
    bad = int((taskreport_errors.badness(task, gold, rows) > 0).sum())
    count = f"The {len(places)} worst of {bad:,} predictions that are not wholly right."
    if task in ("extract", "answer"):
        count += " In the texts: green is right, dashed above was missed, red below was said and is wrong."
    return [count, *(taskreport_errors.shown(task, gold[i], rows[i]) for i in places)]


def _cost(judged: Judged) -> list[object]:
    facts: dict[str, object] = {}
    if judged.run is not None:
        history = read_history(judged.run)
        seconds = finite((history.last_step or {}).get("seconds"))
        steps = (history.last_step or {}).get("step")
        if seconds is not None:
            facts["Training"] = f"{page.duration(seconds)}, {steps:,} steps"
        if history.peak_memory is not None:
            facts["Memory, peak"] = page.nbytes(history.peak_memory)
    facts |= judged.facts
    return [page.facts(facts)] if facts else []
