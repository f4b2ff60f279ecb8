"""Tables of wikitext as lines of cells.

In: a text whose templates and links are resolved. Out: the text with each table as one line for each row, cells apart
by " | ". Boxes at the edge (infobox, navbox …) and tables within tables go.
"""

from __future__ import annotations

import re

_BOX = re.compile(
    r"infobox|navbox|metadata|sidebar|toccolours|vertical-navbox|ambox|noprint|float:", re.IGNORECASE | re.ASCII
)
_ATTRIBUTES = re.compile(r"[^|\[\]]*=[^|\[\]]*\|(?!\|)")
_SPLIT = re.compile(r"\|\||!!")


def table_lines(text: str, keep: bool = True) -> str:
    """The text with its tables as lines of cells, or without them."""
    out: list[str] = []
    rows: list[list[str]] = []
    depth, box = 0, False
    for line in text.split("\n"):
        bare = line.lstrip(" \t:")
        if bare.startswith("{|"):
            depth += 1
            if depth == 1:
                rows, box = [[]], _BOX.search(bare) is not None
        elif depth and bare.startswith("|}") and not bare.startswith("|}}"):
            depth -= 1
            if depth == 0:
                out += _shown(rows) if keep and not box else []
                out.append(bare[2:])
        elif depth == 0:
            out.append(line)
        elif depth == 1:
            _cells(bare, rows)
    if depth and keep and not box:  # never ended
        out += _shown(rows)
    return "\n".join(out)


def _cells(line: str, rows: list[list[str]]) -> None:
    if line.startswith("|-"):
        rows.append([])
    elif line.startswith("|+"):
        rows[-1:] = [[_cell(line[2:])], []]
    elif line.startswith(("|", "!")):
        rows[-1] += [_cell(cell) for cell in _SPLIT.split(line[1:])]
    elif line and rows[-1]:
        rows[-1][-1] += " " + line.lstrip("*#:; ")


def _cell(text: str) -> str:
    found = _ATTRIBUTES.match(text)
    return text[found.end() if found else 0 :].strip()


def _shown(rows: list[list[str]]) -> list[str]:
    lines = [" | ".join(cell for cell in row if cell) for row in rows]
    return [" " + line for line in lines if line.strip()]
