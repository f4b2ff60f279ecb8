"""Measure ours against a peer, alternating in one run, and keep what was measured.

In: two functions that do the same job once and return its figure (token/s, seconds, …). Out: a Result, one JSON file.

    Row          what is measured: its job, its unit, its goal against each peer
    compare      warm up, alternate, medians, ratio → Result
    save, load   benchmarks/results/ROW.PEER.json

A ratio is turned so that larger is better for us. A run may be short (two repeats to try a script), but only results of
five repeats and more are kept.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import re
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

from yanmo import machine
from yanmo.errors import FileError, InputError
from yanmo.files import read_json_object, write_json

RESULTS = Path(__file__).resolve().parent / "results"
MIN_REPEATS = 5
DO = Callable[[], float]


@dataclass(frozen=True, eq=False)
class Row:
    """One line of the table of benchmarks. goals: peer → the ratio that we want to reach."""

    name: str
    job: str
    unit: str
    goals: dict[str, float]
    larger_is_better: bool = True


@dataclass(frozen=True)
class Result:
    """What one row measured against one peer; `ours` and `peers` are all runs, in the row's unit."""

    row: str
    job: str
    peer: str
    unit: str
    ours: list[float]
    peers: list[float]
    ours_median: float
    peer_median: float
    ratio: float
    goal: float
    met: bool
    equal: str
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str
    date: str
    command: str

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.row}.{self.peer}.json"


def compare(
    row: Row, peer: str, ours: DO, theirs: DO, *, equal: str, packages: Sequence[str] = (), repeats: int = MIN_REPEATS
) -> Result:
    """Run both once to warm up, then `repeats` times in turn, who goes first alternating too.

    equal: how the outputs were found equal, with the figure. packages: those whose versions matter beside torch's.
    """
    if repeats < 1:
        raise InputError(f"repeats is {repeats}, and must be at least 1")
    ours(), theirs()
    figures: dict[DO, list[float]] = {ours: [], theirs: []}
    for turn in range(repeats):
        for job in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
            gc.collect()
            figures[job].append(round(job(), 6))
    our_median, peer_median = statistics.median(figures[ours]), statistics.median(figures[theirs])
    ratio = our_median / peer_median if row.larger_is_better else peer_median / our_median
    found = machine.environment()
    versions = {"python": found["python"], "yanmo": found["versions"]["yanmo"], "torch": found["versions"]["torch"]}
    return Result(
        row=row.name,
        job=row.job,
        peer=peer,
        unit=row.unit,
        ours=figures[ours],
        peers=figures[theirs],
        ours_median=our_median,
        peer_median=peer_median,
        ratio=round(ratio, 4),
        goal=row.goals[peer],
        met=ratio >= row.goals[peer],
        equal=equal,
        machine={
            key: found[key] for key in ("system", "cpu", "cores", "instruction_sets", "threads", "memory", "gpus")
        },
        versions=versions | {name: importlib.metadata.version(name) for name in packages},
        commit=commit(),
        date=date.today().isoformat(),
        command=f"python -m benchmarks {row.name}.{peer}" + (f" --repeats {repeats}" if repeats != MIN_REPEATS else ""),
    )


def commit() -> str:
    """The checkout's commit, with "+changes" where files of the package or of the benchmarks differ from it."""
    here = RESULTS.parent.parent
    try:
        head = _git(here, "rev-parse", "--short=12", "HEAD")
        changed = _git(here, "status", "--porcelain", "--", "yanmo", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, encoding="utf-8", check=True)
    return done.stdout.strip()


def save(result: Result, folder: Path = RESULTS) -> Path:
    """Keep a result, in place of an earlier one of the same row and peer."""
    if min(len(result.ours), len(result.peers)) < MIN_REPEATS:
        raise InputError(f"{result.file}: {len(result.ours)} repeats, and at least {MIN_REPEATS} are kept; repeat more")
    path = folder / result.file
    write_json(path, asdict(result))
    return path


def load(path: Path) -> Result:
    """Read a result; other fields than Result's, or figures that do not follow from the runs, are a FileError."""
    values = read_json_object(path)
    names = {field.name for field in fields(Result)}
    if set(values) != names:
        odd = sorted(set(values) ^ names)
        raise FileError(f"{path}: the fields {', '.join(odd)} are missing or unknown; run the benchmark again")
    result = Result(**values)
    medians = (statistics.median(result.ours), statistics.median(result.peers))
    quotient = medians[0] / medians[1]
    if path.name != result.file:
        raise FileError(f"{path}: holds the row of {result.file}; rename it")
    if medians != (result.ours_median, result.peer_median) or not any(
        abs(result.ratio - r) < 1e-3 * r for r in (quotient, 1 / quotient)
    ):
        raise FileError(f"{path}: medians or ratio do not follow from the runs; run the benchmark again")
    return result


def load_all(folder: Path = RESULTS) -> list[Result]:
    """Read every result, in the order of the rows."""
    results = [load(path) for path in folder.glob("*.json")]
    return sorted(results, key=lambda result: (int(re.sub(r"\D", "", result.row) or 0), result.row, result.peer))


def dump(result: Result) -> str:
    """The result as JSON, for the terminal."""
    return json.dumps(asdict(result), indent=2, ensure_ascii=False)
