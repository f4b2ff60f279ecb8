"""A run folder: what was asked, where it ran, what happened, and how far it came.

In: a folder. Out: a `Run`, held by one process at a time, or a FileError where the folder holds something else.

    recipe.toml          the resolved recipe
    data/                of a task: the examples as they were read and split; it may be there before the run
    environment.json     versions, machine, seed; it also marks the folder as a run
    plan.json            what was decided before the first step
    metrics.jsonl        one JSON object per line: training steps and evaluations, each with its "step"
    checkpoints/step-N/  complete or absent; the last few and the best one
    model/               once the run is finished

    open_run             make a run folder, or take up an unfinished one
    held                 hold a folder for what is written before the run is opened
    is_run               whether a folder is one
    score_of             the score of a line of metrics.jsonl
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from yanmo.errors import ConfigError, FileError
from yanmo.files import PREFIX, read_bytes, read_json_object, read_text, reason, write_atomic, write_json

FORMAT = "yanmo-run"
# an evaluation line is known by the first that it has; smaller is better
SCORES = ("valid_error", "bits_per_byte", "valid_loss")
STEP = re.compile(r"step-(0|[1-9][0-9]{0,17})")
MAX_METRICS = 1 << 32


def open_run(
    folder: str | Path,
    recipe: str,
    environment: dict[str, Any],
    adopt: Callable[[str], None] | None = None,
) -> Run:
    """Make a run folder for a resolved recipe (TOML text), or take up the one that an earlier call left unfinished.

    A folder of something else, a run of another recipe and a run that another process holds are refused. A run without
    a checkpoint may take another recipe: `adopt` is called with the old one and removes what no longer fits.
    """
    folder = Path(folder)
    try:
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        foreign = [name for name in names if not name.startswith(PREFIX) and name not in ("lock", "data")]
        if foreign and not is_run(folder):
            raise FileError(f"{folder}: holds {foreign[0]}, not a run; choose an empty folder")
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, FileError):
            raise
        raise FileError(f"{folder}: cannot be a run folder ({reason(error)}); choose another place") from None
    lock = _lock(folder)
    try:
        run = Run(folder, lock)
        if is_run(folder) and (folder / "recipe.toml").exists():
            known = read_text(folder / "recipe.toml")
            if known != recipe and adopt is not None and not run.checkpoints():
                adopt(known)
                write_atomic(folder / "recipe.toml", recipe)
            elif known != recipe:
                raise ConfigError(
                    f"{folder}: holds a run of another recipe ({_difference(known, recipe)}); "
                    "continue with the same values, or choose another folder"
                )
            run._tidy()
        else:
            write_json(folder / "environment.json", {"format": FORMAT, **environment})  # first: it marks the run
            write_atomic(folder / "recipe.toml", recipe)
        return run
    except BaseException:
        lock.close()
        raise


@contextlib.contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Hold a folder as who runs it does, to write what a run begins with; of several ranks the main one holds it."""
    folder = Path(folder)
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
    except OSError as error:
        raise FileError(f"{folder}: cannot be a run folder ({reason(error)}); choose another place") from None
    with lock:
        yield


def is_run(folder: str | Path) -> bool:
    """Whether a folder says that it is a run."""
    try:
        return read_json_object(Path(folder) / "environment.json").get("format") == FORMAT
    except FileError:
        return False


class Run:
    """An opened run folder; use it in a `with` statement, or `close` it, so that others may open it."""

    def __init__(self, folder: Path, lock: BinaryIO) -> None:
        self.folder = folder
        self._held = lock
        self._log: BinaryIO | None = None
        self._scores: dict[int, float] | None = None  # by step; read once, then kept up by log

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        if self._log is not None:
            self._log.close()
            self._log = None
        self._held.close()

    def forget(self) -> None:
        """Remove the folder where nothing was made in it yet: a mistake in the recipe leaves no trace."""
        own = {"recipe.toml", "environment.json", "lock"}
        if {path.name for path in self.folder.iterdir()} <= own:
            for name in own:
                (self.folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # Windows: the lock is still held
                self.folder.rmdir()

    # --- metrics

    @property
    def metrics_path(self) -> Path:
        return self.folder / "metrics.jsonl"

    def log(self, **record: Any) -> None:
        """Append one line to metrics.jsonl; a number that is not finite is written as null, as JSON has no other."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        line = json.dumps(clean, ensure_ascii=False).encode() + b"\n"
        try:
            if self._log is None:
                self._log = open(self.metrics_path, "ab", buffering=0)  # noqa: SIM115 (closed in close)
            if self._log.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise FileError(f"{self.metrics_path}: cannot be written ({reason(error)}); free some space") from None
        if self._scores is not None:
            self._scores |= _scored(record)

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of metrics.jsonl; a torn last line is left out, damage before it is an error."""
        yield from (record for record, _ in self._lines())

    def rewind(self, step: int) -> None:
        """Drop a torn last line, and all lines and checkpoints past `step`, which a run that goes on makes again.

        Such checkpoints are damaged; left where they are they would count among the last ones that are kept.
        """
        self._scores = None
        kept = [line for record, line in self._lines() if record["step"] <= step]
        if self._log is not None:
            self._log.close()
            self._log = None
        if self.metrics_path.exists():
            write_atomic(self.metrics_path, b"".join(line + b"\n" for line in kept))
        for later in self.checkpoints():
            if later > step:
                self._remove(later)

    def sync(self) -> None:
        """Bring all metrics to the disk: a checkpoint never outlives the lines before it."""
        if self._log is not None:
            os.fsync(self._log.fileno())

    def _lines(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        if not self.metrics_path.exists():
            return
        *lines, _torn = read_bytes(self.metrics_path, MAX_METRICS).split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                    raise ValueError("no object with a step")
            except (ValueError, RecursionError):
                raise FileError(
                    f"{self.metrics_path}: line {number} is damaged; remove the line, or start a new run"
                ) from None
            yield record, line

    # --- checkpoints

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.folder / "checkpoints" / f"step-{step}"

    def checkpoints(self) -> list[int]:
        """The steps that have a checkpoint, ascending."""
        parent = self.folder / "checkpoints"
        found = [STEP.fullmatch(path.name) for path in parent.iterdir()] if parent.is_dir() else []
        return sorted(int(match[1]) for match in found if match)

    def best_step(self) -> int | None:
        """The evaluated step with the best score among those that have a checkpoint; None without one."""
        if self._scores is None:
            self._scores = {}
            for record in self.metrics():
                self._scores |= _scored(record)
        saved = [step for step in self.checkpoints() if step in self._scores]
        return min(saved, key=self._scores.__getitem__) if saved else None

    def prune(self, keep: int) -> None:
        """Remove all checkpoints but the last `keep` and the best one."""
        steps = self.checkpoints()
        spared = {*steps[-keep:], self.best_step()}
        for step in steps:
            if step not in spared:
                self._remove(step)

    def _remove(self, step: int) -> None:
        partial = self.checkpoint(step).with_name(f"{PREFIX}old-{step}")
        os.rename(self.checkpoint(step), partial)  # so that a half-removed checkpoint has not its name
        shutil.rmtree(partial, ignore_errors=True)

    def _tidy(self) -> None:
        """Remove what a killed process was writing aside."""
        for parent in (self.folder, self.folder / "checkpoints"):
            for path in parent.glob(PREFIX + "*"):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def score_of(record: dict[str, Any]) -> float | None:
    """The score of an evaluation line, None of any other line and of a score that is not finite."""
    value = next((record[name] for name in SCORES if name in record), None)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _scored(record: dict[str, Any]) -> dict[int, float]:
    """{step: score} of an evaluation line, {} of any other."""
    score = score_of(record)
    return {} if score is None else {record["step"]: score}


def _lock(folder: Path) -> BinaryIO:
    """Hold the folder until the file is closed; the system lets go of it when the process ends, however it ends."""
    handle = open(folder / "lock", "a+b")  # noqa: SIM115 (held by the run)
    try:
        if os.name == "nt":
            import msvcrt

            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise FileError(f"{folder}: another process is running it; wait for it, or choose another folder") from None
    return handle


def _difference(known: str, new: str) -> str:
    """The first line in which two resolved recipes differ, as "key = old there, key = new here"."""
    old_lines, new_lines = known.splitlines(), new.splitlines()
    gone = [line for line in old_lines if line not in new_lines]
    come = [line for line in new_lines if line not in old_lines]
    parts = [f"{lines[0]} {place}" for lines, place in ((gone, "there"), (come, "here")) if lines]
    return ", ".join(parts) or "in another order"
