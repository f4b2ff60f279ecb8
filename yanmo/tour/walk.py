"""The walk: corpus → tokens → models → inference → report, each stage kept as soon as it is done.

In: PATHs (none: the documentation of Python's standard library), a folder, minutes. Out: the folder, filled; what
happens, on the terminal. An interrupted walk goes on with the first stage that is not done, and within the training of
a network from its last checkpoint; the seconds that were worked count towards the budget.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yanmo import page
from yanmo.errors import Error, need
from yanmo.tour.folder import NAMES, REPORT, Tour, check_minutes, forget, locked, open_tour
from yanmo.tour.show import Show

TITLES = ("1/5 corpus", "2/5 tokens", "3/5 models", "4/5 inference", "5/5 report")


def walk(
    paths: Sequence[str | Path], *, out: str | Path = "tour", minutes: float = 3.0, show: Show | None = None
) -> Path:
    """Make the tour in `out`, or go on with the one that is there, and return the path of its report.

    Raises yanmo.Error before any work for minutes out of range, a folder of something else, a path that cannot be read
    or a missing package; with too little text, or a distribution of Python without its documentation, at the corpus.
    """
    need("pyarrow", "corpus", "yanmo tour")
    tour = open_tour(out, paths, check_minutes(minutes))
    try:
        with locked(tour.out):
            return go(tour, show or Show())
    except Error:
        if "corpus" not in tour.stages:
            forget(tour)
        raise


def go(tour: Tour, show: Show) -> Path:
    """Do the stages that are not done."""
    report = tour.out / REPORT
    where = ", ".join(tour.paths) or "Python's own documentation"
    asked = f"{tour.minutes:g} minute{'' if tour.minutes == 1 else 's'}"
    if tour.finished and report.is_file():
        show.say(f"This tour is finished. Its report: {report}")
        show.say(f"For a new one, remove {tour.out}{os.sep} or name another folder with --out.")
        return report
    tour.stages.pop("report", None)
    show.say(f"{where} → {tour.out}{os.sep}, {asked}", style="bold")
    if tour.stages:
        show.say(f"Going on: {', '.join(tour.stages)} done, {page.duration(tour.spent)} used.")
    # these import torch, which takes a second or two: the first line is there before
    from yanmo.tour import counting, learning, texts, writing
    from yanmo.tour import report as reporting

    tour.do("machine", lambda: learning.measure_machine(tour))
    show.stage(TITLES[0])
    _corpus(show, tour.do("corpus", lambda: texts.make_corpus(tour, show)))
    show.stage(TITLES[1])
    _tokens(show, tour.do("tokens", lambda: texts.make_tokens(tour, show)))
    show.stage(TITLES[2])
    _model(show, "ngram", tour.do("ngram", lambda: counting.count_ngrams(tour, show)))
    _plan(show, tour.do("plan", lambda: learning.make_plan(tour, show)))
    for name in ("lstm", "transformer"):
        _model(show, name, tour.do(name, lambda name=name: learning.train_net(tour, show, name)))  # type: ignore[misc]
    _table(show, tour.stages)
    show.stage(TITLES[3])
    tour.do("samples", lambda: writing.make_samples(tour, show))
    tour.do("attention", lambda: writing.make_attention(tour))
    show.stage(TITLES[4])
    tour.do("report", lambda: reporting.write_report(tour))
    _end(show, tour, reporting.next_steps)
    return report


def _corpus(show: Show, corpus: dict[str, Any]) -> None:
    licenses = ", ".join(name for name, _ in corpus["licenses"][:3])
    removed = sum(count for _, count in corpus["removed"])
    show.say(
        f"{corpus['source']}: {corpus['read']:,} documents read, {removed:,} left out, {corpus['failed']:,} unreadable."
        f" Licence: {licenses}."
    )
    show.say(
        f"{corpus['train_documents']:,} documents to learn from ({page.nbytes(corpus['train_bytes'])}), "
        f"{corpus['valid_documents']:,} kept apart to measure on ({page.nbytes(corpus['valid_bytes'])})."
    )
    for remark in (*corpus["problems"], *corpus["remarks"]):
        show.say(remark, style="yellow")


def _tokens(show: Show, tokens: dict[str, Any]) -> None:
    show.say(
        f"Byte-level BPE of {tokens['vocab_size']:,} tokens, {tokens['bytes_per_token']:.2f} bytes per token: "
        f"{tokens['train_tokens']:,} to learn from, {tokens['valid_tokens']:,} to measure on."
    )
    for remark in tokens["remarks"]:
        show.say(remark, style="yellow")
    show.say("│".join(piece.replace("\n", "⏎") for piece in tokens["example"]), style="dim")


def _plan(show: Show, plan: dict[str, Any]) -> None:
    seconds = page.duration(plan["training_seconds"])
    show.say(f"The networks get {seconds} each, in {plan['precision']}: {plan['precision_reason']}.")


def _model(show: Show, name: str, result: dict[str, Any]) -> None:
    done = f"{page.number(result['parameters'])} parameters, {page.duration(result['train_seconds'])}"
    show.say(f"{NAMES[name]}: {result['bits_per_byte']:.3f} bits per byte ({done})")


def _table(show: Show, stages: dict[str, Any]) -> None:
    best = min(NAMES, key=lambda name: stages[name]["bits_per_byte"])
    rows = [
        [NAMES[name], f"{stages[name]['bits_per_byte']:.3f}", page.duration(stages[name]["train_seconds"])]
        for name in NAMES
    ]
    show.say("")
    show.table(["model", "bits/byte", "time"], rows, best=list(NAMES).index(best))


def _end(show: Show, tour: Tour, next_steps: Callable[[Tour], Sequence[tuple[str, str]]]) -> None:
    show.say(f"{tour.out / REPORT}", style="bold")
    show.say(f"{page.duration(tour.spent)} of {tour.minutes:g} min. Go on with:")
    show.say(f"  {next_steps(tour)[0][1]}")
