"""What a tour shows while it works: results on standard output, progress on standard error.

In: numbers and foreign text. Out: bars on a terminal, plain lines elsewhere.

    Show.stage, say, table     the headings, sentences and tables that stay
    Show.steps                 a bar over counted work
    Show.training              the live line of a model: share of its time, loss, bits per byte, speed
    Show.continue_             a prompt and the text that continues it, as it is written
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
PLAIN_EVERY = 10.0  # seconds between two progress lines where there is no terminal
BREAKS = re.compile(r"(?<=\s)(?=\S)|(?<=[\u2e80-\u9fff\uff00-\uffef])(?=[^\s\u3000-\u303f\uff00-\uffef])")
LEAST_WIDTH = 62  # below this the bars leave out speed and time


def clean(text: str) -> str:
    """Text for a terminal: what would move its cursor or turn its direction is shown as U+FFFD."""
    return CONTROLS.sub("�", text.replace("\r\n", "\n"))


@dataclass
class Progressing:
    """One running bar."""

    show: Show
    name: str
    bars: Progress | None
    task: TaskID
    said: float = 0.0

    def update(self, share: float, text: str) -> None:
        """Show that `share` of the work is done; `text` says how it stands."""
        if self.bars is not None:
            self.bars.update(self.task, completed=min(share, 1.0), text=text)
        elif time.monotonic() - self.said >= PLAIN_EVERY:
            self.said = time.monotonic()
            self.show.err.print(Text(f"  {self.name}: {min(share, 1.0):.0%}  {text}".rstrip()))


class Show:
    """Where a tour speaks. `out` and `err` are rich consoles."""

    def __init__(self, out: Console | None = None, err: Console | None = None) -> None:
        self.out = out or Console(highlight=False, markup=False, soft_wrap=False)
        self.err = err or Console(stderr=True, highlight=False, markup=False)

    def stage(self, title: str) -> None:
        """A heading."""
        if self.out.is_terminal:
            self.out.print()
            self.out.print(Rule(Text(title, style="bold"), align="left", style="dim"))
        else:
            self.out.print(Text(f"\n== {title}"))

    def say(self, text: str, style: str = "") -> None:
        """A sentence that stays; foreign parts of it must not move the cursor."""
        self.out.print(Text(clean(text), style=style))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], best: int | None = None) -> None:
        """A small table: the first column to the left, the others to the right."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for index, name in enumerate(header):
            table.add_column(name, justify="right" if index else "left", overflow="fold")
        for index, row in enumerate(rows):
            table.add_row(*(Text(clean(cell)) for cell in row), style="bold" if index == best else "")
        self.out.print(table)

    @contextmanager
    def progress(self, name: str) -> Iterator[Progressing]:
        """A bar that vanishes when its work is done."""
        if not self.err.is_terminal:
            yield Progressing(self, name, None, TaskID(0), time.monotonic())
            return
        columns = [
            TextColumn("{task.description}", table_column=None),
            BarColumn(bar_width=None if self.err.width < LEAST_WIDTH else 24),
            TextColumn("{task.fields[text]}", justify="left"),
        ]
        with Progress(*columns, console=self.err, transient=True, refresh_per_second=5) as bars:
            yield Progressing(self, name, bars, bars.add_task(name, total=1.0, text=""))

    @property
    def narrow(self) -> bool:
        """Whether long remarks do not fit beside a bar."""
        return self.err.is_terminal and self.err.width < LEAST_WIDTH

    def continue_(self, prompt: str, pieces: Iterable[str]) -> str:
        """Print a prompt and, as they come, the pieces that continue it, and return their sum."""
        place = self._print(prompt, "dim", 0)
        whole, waiting = [], ""
        for piece in pieces:
            whole.append(piece)
            words = BREAKS.split(waiting + piece)
            waiting = words.pop()  # a word is printed when it is known to have ended, so that no line breaks inside it
            place = self._print("".join(words), "bold", place)
        self._print(waiting, "bold", place)
        self.out.print()
        return "".join(whole)

    def _print(self, text: str, style: str, place: int) -> int:
        """Print text from column `place` on, broken between words on a terminal, and return the column after it."""
        for word in BREAKS.split(clean(text)):
            if self.out.is_terminal and place + cell_len(word.rstrip()) > self.out.width:
                self.out.print()
                place = 0
            if self.out.is_terminal and place + cell_len(word) > self.out.width:
                word = word.rstrip(" ")  # a space past the last column would open an empty line
            self.out.print(Text(word, style=style), end="", soft_wrap=True)
            place = place + cell_len(word) if not word.endswith("\n") else 0
        self.out.file.flush()
        return place
