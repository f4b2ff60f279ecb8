"""`yanmo tour`: the whole life of a small model on this machine, in minutes.

In: PATHs, --out, --minutes. Out: what happens, on the terminal; a folder with the corpus, the models and report.html.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def tour(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...",
            show_default=False,
            help="Text to learn from: .txt, .md, .jsonl, .html files or folders. "
            "Without one: the documentation of Python's standard library.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder of the tour.")] = Path("tour"),
    minutes: Annotated[float, typer.Option("--minutes", help="Its time in all, from 0.5 to 1440.")] = 3.0,
) -> None:
    """Grind raw text into a language model: corpus, tokens, three models, samples, a report.

    Ctrl-C stops it at any moment; the same command goes on from there.
    """
    # Threads that spin long while they wait make a shared machine several times slower, threads that never spin an idle
    # one by a fifth; GNU's OpenMP reads this when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")

    from yanmo.tour.walk import walk

    walk(paths or [], out=out, minutes=minutes)
