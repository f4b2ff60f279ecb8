"""The folder of a tour: what it was asked, what is done, how long it took; so that it can go on after any interruption.

In: --out, PATHs, --minutes. Out: a `Tour`, or a FileError where the folder holds something else.

    open_tour     a new folder, or the one of an unfinished or finished tour with the same PATHs and minutes
    Tour          stages done and their results, kept in tour.json after each stage; the clock of the budget

    tour.json     format, paths, minutes, spent seconds, stages {name: result}
    corpus/ tokenizer/ tokens/ runs/ model/ report.html      written by the stages
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from yanmo.errors import FileError, InputError
from yanmo.files import PREFIX, read_json_object, reason, write_json

FORMAT = "yanmo-tour-1"
STATE = "tour.json"
REPORT = "report.html"
NAMES = {"ngram": "n-gram", "lstm": "LSTM", "transformer": "Transformer"}
LEAST_MINUTES, MOST_MINUTES = 0.5, 24 * 60.0


@dataclass
class Tour:
    """One tour in its folder. `before` are the seconds that earlier calls worked and kept."""

    out: Path
    paths: tuple[str, ...]
    minutes: float
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def budget(self) -> float:
        """Seconds for the whole tour."""
        return self.minutes * 60

    @property
    def spent(self) -> float:
        """Seconds used so far, by this call and those before it."""
        return self.before + time.monotonic() - self.started

    @property
    def left(self) -> float:
        """Seconds of the budget that are left; negative once it is overdrawn."""
        return self.budget - self.spent

    @property
    def finished(self) -> bool:
        """Whether every stage, the report included, is done."""
        return "report" in self.stages

    def do(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the kept result of a stage, or do its work, keep the result and return it."""
        if name not in self.stages:
            start = self.spent
            result = work()  # a stage of several calls counts its own seconds
            self.stages[name] = {"seconds": round(self.spent - start, 3)} | result
            self.keep()
        return self.stages[name]

    def keep(self) -> None:
        """Write tour.json."""
        values = {
            "format": FORMAT,
            "paths": list(self.paths),
            "minutes": self.minutes,
            "spent": round(self.spent, 3),
            "stages": self.stages,
        }
        write_json(self.out / STATE, values)


def check_minutes(minutes: float) -> float:
    """The minutes themselves, where a tour can be made of them."""
    if not LEAST_MINUTES <= minutes <= MOST_MINUTES:
        raise InputError(
            f"--minutes is {minutes:g}; a tour takes from {LEAST_MINUTES:g} to {MOST_MINUTES:g} minutes, "
            "3 are a good start"
        )
    return minutes


def open_tour(out: str | Path, paths: Sequence[str | Path], minutes: float) -> Tour:
    """Open the folder of a tour, or make it; a folder that holds anything else is refused and stays as it is."""
    for name in (out, *paths):
        if "\0" in str(name):
            raise FileError(f"{str(name)!r}: no file or folder can have a NUL in its name; check the path")
    out = Path(out)
    wanted = tuple(str(Path(path).resolve()) for path in paths)
    try:
        if out.is_file():
            raise FileError(f"{out}: a file, where --out needs a folder; name another")
        names = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{out}: cannot be read ({reason(error)}); name another folder with --out") from None
    others = [name for name in names if not name.startswith(PREFIX) and name != "lock"]
    if not others:
        tour = Tour(out, wanted, minutes)
        tour.keep()
        return tour
    if STATE not in others:
        listed = ", ".join(others[:3]) + (" and more" if len(others) > 3 else "")
        raise FileError(f"{out}: holds something else ({listed}); name an empty or new folder with --out")
    tour = _read(out)
    if "corpus" not in tour.stages:  # nothing that depends on the text or the budget
        tour = Tour(out, wanted, minutes)
    _same(tour, wanted, minutes)
    for name in names:
        if name.startswith(PREFIX):  # what a killed call was writing
            leftover = out / name
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    return tour


def _read(out: Path) -> Tour:
    path = out / STATE
    values = read_json_object(path)
    remedy = "remove the folder, or name another with --out"
    if values.get("format") != FORMAT:
        raise FileError(f"{path}: not the state of a tour that this version can go on with; {remedy}")
    spent, minutes, paths, stages = (values.get(key) for key in ("spent", "minutes", "paths", "stages"))
    numbers = all(isinstance(value, (int, float)) and value >= 0 for value in (spent, minutes))
    listed = isinstance(paths, list) and all(isinstance(item, str) for item in paths)
    kept = isinstance(stages, dict) and all(isinstance(result, dict) for result in stages.values())
    if not (numbers and listed and kept):
        raise FileError(f"{path}: damaged; {remedy}")
    assert isinstance(paths, list) and isinstance(stages, dict)
    return Tour(out, tuple(paths), float(minutes or 0), stages, float(spent or 0))


def _same(tour: Tour, wanted: tuple[str, ...], minutes: float) -> None:
    """Refuse to go on with another text or another budget: half of each would be a tour of neither."""
    if tour.paths != wanted:
        of = ", ".join(tour.paths) or "the standard library's documentation"
        raise FileError(f"{tour.out}: holds a tour of {of}; remove the folder, or name another with --out")
    if tour.minutes != minutes:
        raise FileError(
            f"{tour.out}: holds a tour of {tour.minutes:g} minutes, not of {minutes:g}; "
            "remove the folder, or name another with --out"
        )


def forget(tour: Tour) -> None:
    """Remove a folder in which nothing has been made yet."""
    shutil.rmtree(tour.out / "corpus", ignore_errors=True)  # of too little text
    for name in (STATE, "lock"):
        (tour.out / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it was there before, with something in it
        tour.out.rmdir()


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep a second tour out of the same folder; the system lets go of the lock whenever and however this one ends."""
    try:
        import fcntl
    except ImportError:  # Windows: two tours in one folder are the user's affair
        yield
        return
    handle: IO[bytes]
    with open(out / "lock", "ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FileError(f"{out}: another tour is at work there; wait for it, or name another --out") from None
        yield
