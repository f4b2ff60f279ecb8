"""What was understood of the user's data, before training: format, columns, counts, labels, lengths, three examples.

facts       Data → rows of (what, said): texts for a log
table       Data → a table for the terminal
shown       an example in one line, with its label, entities or answer
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from yanmo.tasks.examples import Data, Example

if TYPE_CHECKING:
    from rich.table import Table

LISTED = 12  # labels that are named with their counts
LISTED_BAD = 3  # rows left out that are named
WIDTH = 100  # characters of an example that are shown
EXAMPLES = 3


def facts(data: Data, name: str = "") -> list[tuple[str, str]]:
    """What was understood, a row each: (what it is of, what was found). `name` is of the part, such as "validation"."""
    known = data.understood
    rows = [(name or "data", f"{', '.join(known.files[:6])}{' …' * (len(known.files) > 6)}: {known.format}")]
    if known.columns:
        rows.append(("columns", ", ".join(f"{role} is {column}" for role, column in known.columns.items())))
    counted = f"{len(data.examples):,}"
    groups = len({example.group for example in data.examples if example.group})
    counted += f" in {groups:,} groups" if groups else ""
    rows.append(("examples", counted))
    rows += _targets(data.examples)
    rows.append(("characters", _lengths(data.examples)))
    rows += [("note", note) for note in known.notes]
    if data.bad:
        first = "; ".join(f"{bad.where}: {bad.reason}" for bad in data.bad[:LISTED_BAD])
        rows.append(("left out", f"{len(data.bad):,} rows: {first}{' …' * (len(data.bad) > LISTED_BAD)}"))
    rows += [(f"example {number}", shown(e)) for number, e in enumerate(data.examples[:EXAMPLES], start=1)]
    return rows


def table(data: Data, name: str = "") -> Table:
    """The same as a table of rich; what stands in the data is shown as it is, without markup or control characters."""
    from rich.table import Table
    from rich.text import Text

    made = Table(show_header=False, box=None, pad_edge=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for what, said in facts(data, name):
        made.add_row(what, Text(said))
    return made


def _targets(examples: Sequence[Example]) -> list[tuple[str, str]]:
    """What is to be learnt, by kind, with counts."""
    rows = []
    if any(example.labels is not None for example in examples):
        rows.append(("labels", _counts(label for e in examples for label in e.labels or ())))
        several = sum(len(example.labels or ()) != 1 for example in examples)
        if several:
            none = sum(example.labels == () for example in examples)
            rows.append(("", f"{several:,} examples have several labels or none ({none:,})"))
    values = [example.value for example in examples if example.value is not None]
    if values:
        mean = sum(values) / len(values)
        rows.append(("values", f"{min(values):g} to {max(values):g}, mean {mean:.4g}"))
    if any(example.entities is not None for example in examples):
        rows.append(("entities", _counts(span.type for e in examples for span in e.entities or ())))
    if any(example.relations is not None for example in examples):
        rows.append(("relations", _counts(relation.type for e in examples for relation in e.relations or ())))
    if any(example.answers is not None for example in examples):
        none = sum(example.answers == () for example in examples)
        rows.append(("answers", f"{len(examples) - none:,}, and {none:,} questions that their passage does not answer"))
    return rows


def _counts(names: object) -> str:
    counted = Counter(names)  # type: ignore[call-overload]
    listed = ", ".join(f"{_line(str(label), 40)} {count:,}" for label, count in counted.most_common(LISTED))
    rest = len(counted) - LISTED
    return f"{listed} and {rest:,} more" if rest > 0 else listed or "none"


def _lengths(examples: Sequence[Example]) -> str:
    said = [("text", [len(example.text) for example in examples])]
    for name in ("text_pair", "target"):
        held = [len(value) for example in examples if (value := getattr(example, name)) is not None]
        if held:
            said.append((name, held))
    parts = []
    for name, lengths in said:
        lengths.sort()
        middle, most = lengths[len(lengths) // 2], lengths[min(len(lengths) * 95 // 100, len(lengths) - 1)]
        parts.append(f"{name}: half up to {middle:,}, 95 of 100 up to {most:,}, longest {lengths[-1]:,}")
    return "; ".join(parts)


def shown(example: Example) -> str:
    """An example in one line, with what is to be learnt of it."""
    parts = [_line(example.text)]
    if example.text_pair is not None:
        parts.append(f"| {_line(example.text_pair)}")
    if example.question is not None:
        parts.append(f"| {_line(example.question)}")
    if example.labels is not None:
        parts.append(f"→ {', '.join(example.labels) or 'no label'}")
    if example.value is not None:
        parts.append(f"→ {example.value:g}")
    if example.entities is not None:
        names = [f"{_line(example.text[s.start : s.end], 30)} [{s.type}]" for s in example.entities[:6]]
        parts.append(f"→ {', '.join(names) or 'no entity'}{' …' * (len(example.entities) > 6)}")
        ends = [f"{r.type}({_end(example, r.head)}, {_end(example, r.tail)})" for r in (example.relations or ())[:4]]
        parts += [f"; {', '.join(ends)}"] if ends else []
    if example.answers is not None:
        parts.append(f"→ {_line(example.answers[0].text, 60) if example.answers else 'no answer'}")
    if example.target is not None:
        parts.append(f"→ {_line(example.target)}")
    return " ".join(parts)


def _end(example: Example, place: int) -> str:
    span = (example.entities or ())[place]
    return _line(example.text[span.start : span.end], 30)


def _line(text: str, width: int = WIDTH) -> str:
    """A text in one line, its middle left out where it is long, without characters that steer a terminal."""
    text = text if len(text) <= width else f"{text[: width * 2 // 3]} … {text[-width // 4 :]}"
    return "".join(letter if letter.isprintable() else " " for letter in text)
