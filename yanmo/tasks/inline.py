"""Texts with entities marked inside them → examples of extract: {{type:Ada}}, [Ada](type), <type>Ada</type>.

kind        which of the marks a text has, or None
lines       text → examples, a line each; offsets are those of the text without marks
"""

from __future__ import annotations

import re

from yanmo.tasks import columns
from yanmo.tasks.examples import Bad, Example, Span
from yanmo.tasks.reading_files import File, Reading, Refused, Rows, fit

MARKS = {
    "{{type:text}}": re.compile(r"\{\{(?P<type>[\w.-]{1,60}):(?P<text>[^{}\n]+)\}\}"),
    "[text](type)": re.compile(r"\[(?P<text>[^][\n]+)\]\((?P<type>[\w.-]{1,60})\)"),
    "<type>text</type>": re.compile(r"<(?P<type>[\w.-]{1,60})>(?P<text>[^<>\n]+)</(?P=type)>"),
}
LOOSE = {"{{type:text}}": ("{{", "}}"), "[text](type)": ("](",), "<type>text</type>": ("</",)}
SHARE = 0.2  # of the first lines have a mark
SAMPLE = 200


def kind(text: str) -> str | None:
    """The marks that enough of the first lines have."""
    sample = [line for line in text.split("\n", SAMPLE)[:SAMPLE] if line.strip()]
    counts = {name: sum(mark.search(line) is not None for line in sample) for name, mark in MARKS.items()}
    best = max(counts, key=lambda name: counts[name])
    return best if sample and counts[best] >= max(1, SHARE * len(sample)) else None


def lines(file: File, text: str, name: str, reading: Reading) -> Rows:
    """Yield the lines; a mark that is not closed is a Bad."""
    columns.ignored(file, reading)
    reading.note(f"{file.name}: entities are marked as {name}, a text a line")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = file.at(number)
        parts, spans = [], []
        at = size = 0
        for found in MARKS[name].finditer(line):
            parts += [line[at : found.start()], found["text"]]
            size += found.start() - at
            spans.append(Span(found["type"], size, size + len(found["text"])))
            size += len(found["text"])
            at = found.end()
        parts.append(line[at:])
        plain = "".join(parts)
        loose = next((mark for mark in LOOSE[name] if mark in plain), None)
        if loose is not None:
            yield Bad(where, f"it has {loose!r} outside of any mark {name}")
            continue
        try:
            yield Example(where, where, fit(plain, "text"), entities=tuple(spans))
        except Refused as refused:
            yield Bad(where, str(refused))
