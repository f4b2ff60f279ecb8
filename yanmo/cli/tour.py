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
    # threads that spin while they wait cost a shared machine most of its speed; OpenMP reads this when torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    from yanmo.tour.walk import walk

    walk(paths or [], out=out, minutes=minutes)
