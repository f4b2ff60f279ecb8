"""The worst errors, shown in their text.

In: examples and predictions in the same order. Out: places in order of how bad they are, and markup of each.

    worst       which rows are wrong, the worst first
    shown       one of them: its text with what was marked, what is right, what was said
    marked      a text with spans in it, nested ones too, cut to where the errors are

The worst are: labels that were surely wrong, values that are farthest off, texts with most wrong entities or relations,
answers with least in common, translations with the lowest chrF.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from yanmo import page
from yanmo.page import Markup, escape
from yanmo.tasks import metrics_text
from yanmo.tasks.examples import Example, Span
from yanmo.tasks.metrics_rows import (
    answer_rows,
    entities_of,
    found_relations,
    is_regression,
    label_sets,
    number,
    pointed,
    targets,
)

Row = dict[str, Any]
SHOWN = 20
AROUND = 160  # characters that are shown on each side of what is marked
LONG = 700  # characters of a text without marks

RIGHT, MISSED, FALSE = "right", "missed", "false"  # classes of the style sheet


def badness(task: str, gold: Sequence[Example], rows: Sequence[Row]) -> np.ndarray:
    """How bad each prediction is, 0 where nothing is wrong."""
    if task == "answer":
        _, f1 = answer_rows(gold, rows)
        return (1 - f1) * (1 + _sure(rows))
    if task in ("translate", "generate"):
        counts, formula = metrics_text.counted_chrf(*targets(gold, rows))
        same = np.array([left == right for left, right in zip(*targets(gold, rows))])
        return np.where(same, 0.0, 100.5 - formula(counts))
    if task == "extract":
        return _wrong_parts(gold, rows)
    if is_regression(gold):
        return np.abs(np.array([example.value or 0.0 for example in gold]) - [number(row) for row in rows])
    truth, guess = label_sets(gold, rows)
    wrong = np.array([len(set(left) ^ set(right)) for left, right in zip(truth, guess)], float)
    return wrong * (1 + _sure(rows))


def _sure(rows: Sequence[Row]) -> np.ndarray:
    given = [row.get("score") for row in rows]
    return np.array([value if isinstance(value, (int, float)) and 0 <= value <= 1 else 0.0 for value in given])


def _wrong_parts(gold: Sequence[Example], rows: Sequence[Row]) -> np.ndarray:
    out = np.zeros(len(gold))
    for i, (example, row) in enumerate(zip(gold, rows)):
        if "entities" in row and example.entities is not None:
            out[i] += len(set(example.entities) ^ set(entities_of(example, row)))
    if all("relations" in row for row in rows) and any(example.relations for example in gold):
        truth, guess = found_relations(gold, rows)
        out += [len(left ^ right) for left, right in zip(truth, guess)]
    return out


def worst(task: str, gold: Sequence[Example], rows: Sequence[Row], count: int = SHOWN) -> list[int]:
    """Places of the worst predictions, those without an error left out; of equals the first."""
    bad = badness(task, gold, rows)
    order = np.argsort(-bad, kind="stable")[:count]
    return [int(i) for i in order if bad[i] > 0]


def shown(task: str, example: Example, row: Row) -> Markup:
    """One row: its text, what is right, what was said."""
    lines = [("Question", escape(example.question))] if example.question is not None else []
    if task == "extract":
        lines += _extracted(example, row)
    elif task == "answer":
        lines += _answered(example, row)
    else:
        lines += [("Text", cut(example.text))]
        if example.text_pair is not None:
            lines.append(("Second text", cut(example.text_pair)))
        lines += [("Right", _right(example)), ("Said", _said(row))]
    kinds = {"Right": "truth", "Said": "written"}
    told = [_voice(who, text, kinds.get(who, "told")) for who, text in lines]
    caption = " · ".join(dict.fromkeys(filter(None, (example.id, example.where))))
    foot = f'<figcaption class="note">{escape(caption)}</figcaption>'
    return Markup(f'<figure class="sample error">{"".join(told)}{foot}</figure>')


def _voice(who: str, text: Markup, kind: str) -> str:
    return f'<div class="{kind}"><span class="who">{who}</span><div{page.lang_of(text)}>{text}</div></div>'


def _right(example: Example) -> Markup:
    if example.target is not None:
        return cut(example.target)
    if example.value is not None:
        return escape(page.number(example.value))
    return escape(", ".join(example.labels or ()) or "no label")


def _said(row: Row) -> Markup:
    for name in ("translation", "text"):
        if name in row:
            return cut(str(row[name]))
    label = row.get("labels", row.get("label"))
    if label is None:
        return escape(page.number(number(row)))
    text = ", ".join(map(str, label)) if isinstance(label, (list, tuple)) else str(label)
    sure = row.get("score")
    return escape((text or "no label") + (f" ({sure:.0%} sure)" if isinstance(sure, float) and 0 <= sure <= 1 else ""))


def _answered(example: Example, row: Row) -> list[tuple[str, Markup]]:
    marks = []
    for answer in example.answers or ():
        if answer.start >= 0:
            marks.append((Span("answer", answer.start, answer.start + len(answer.text)), MISSED))
    start, end = row.get("start"), row.get("end")
    if row.get("answer") and type(start) is int and type(end) is int and 0 <= start < end:
        if marks and (start, end) in {(span.start, span.end) for span, _ in marks}:
            marks = [(span, RIGHT) for span, _ in marks]
        else:
            marks.append((Span("answer", start, end), FALSE))
    wanted = " · ".join(dict.fromkeys(answer.text for answer in example.answers or ())) or "no answer"
    said = str(row.get("answer") or "no answer")
    return [("Passage", marked(example.text, marks)), ("Right", cut(wanted)), ("Said", cut(said))]


def _extracted(example: Example, row: Row) -> list[tuple[str, Markup]]:
    own = list(example.entities or ())
    theirs = entities_of(example, row)
    marks = [(span, RIGHT if span in theirs else MISSED) for span in dict.fromkeys(own)]
    marks += [(span, FALSE) for span in dict.fromkeys(theirs) if span not in own]
    lines = [("Text", marked(example.text, marks))]
    if example.relations is None and not row.get("relations"):  # the data asks for none
        return lines
    right = [(r.type, own[r.head], own[r.tail]) for r in example.relations or ()]
    said = _arrows(example.text, pointed(row, theirs))
    return [*lines, ("Right", _arrows(example.text, right)), ("Said", said)]


def _arrows(text: str, found: Sequence[tuple[str, Span, Span]]) -> Markup:
    told = [f"{text[a.start : a.end]} —{kind}→ {text[b.start : b.end]}" for kind, a, b in found]
    return escape("\n".join(told) or "no relation")


# --- texts


def cut(text: str, limit: int = LONG) -> Markup:
    """A text, cut in its middle where it is long; what was left out is counted."""
    if len(text) <= limit:
        return escape(text)
    half = limit // 2
    return Markup(f"{escape(text[:half])}{_gap(len(text) - 2 * half)}{escape(text[-half:])}")


def _gap(count: int) -> str:
    return f'<span class="gap"> … {count:,} characters … </span>' if count > 0 else ""


def marked(text: str, marks: Sequence[tuple[Span, str]]) -> Markup:
    """A text with spans under their kinds; far from them it is cut. Spans outside the text are cut to it."""
    inside = [
        (Span(span.type, max(span.start, 0), min(span.end, len(text))), kind)
        for span, kind in marks
        if max(span.start, 0) < min(span.end, len(text))
    ]
    if not inside:
        return cut(text)
    keep = np.zeros(len(text), bool)
    for span, _ in inside:
        keep[max(span.start - AROUND, 0) : span.end + AROUND] = True
    borders = {0, len(text), *(edge for span, _ in inside for edge in (span.start, span.end))}
    borders |= set((np.flatnonzero(np.diff(keep)) + 1).tolist())
    cuts = sorted(borders)
    out = []
    for start, end in zip(cuts, cuts[1:]):
        if not keep[start]:
            out.append(_gap(end - start))
            continue
        over = [(span, kind) for span, kind in inside if span.start <= start and end <= span.end]
        ending = [(span, kind) for span, kind in over if span.end == end]
        out.append(_piece(text[start:end], over, ending))
    return Markup("".join(out))


def _piece(text: str, over: Sequence[tuple[Span, str]], ending: Sequence[tuple[Span, str]]) -> str:
    inner: str = escape(text)
    for kind in sorted({kind for _, kind in over}):
        inner = f'<mark class="{kind}">{inner}</mark>'
    names = dict.fromkeys((span.type, kind) for span, kind in ending)
    return inner + "".join(f'<span class="kind {kind}">{escape(name)}</span>' for name, kind in names)
