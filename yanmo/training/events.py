"""The metrics of a run as event files for TensorBoard.

In: the lines that go to metrics.jsonl. Out: RUN/events/, which `tensorboard --logdir RUN` shows.

    Events      the writer; a run that goes on gives it the lines that stand

metrics.jsonl stays the truth, and is cut back when a run goes on from an earlier checkpoint. An event file cannot be
cut, may be torn by a kill, and lacks what was not flushed. So each session writes one file that holds the whole run,
and empties those of earlier sessions: about 0.1 ms for each line that stands. The file begins with TensorBoard's mark
of a restart, at which a TensorBoard that is looking on drops what it had read; it would lose its way in a folder from
which the file that it reads is gone, so that one stays, empty, until the next session. What is written takes a thread
of its own; it touches no tensor and no random state.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from yanmo.errors import FileError, need
from yanmo.files import reason
from yanmo.runpage.history import PLACE, is_training

FLUSH_SECONDS = 10  # what a kill can keep from a TensorBoard that is looking on
FOLDER = "events"
PATTERN = "events.out.tfevents.*"


class Events:
    """A writer of one event file in a folder, which first repeats `lines`: what metrics.jsonl holds already.

    Raises MissingExtra without the package tensorboard. Use it in a `with` statement, or `close` it.
    """

    def __init__(self, folder: str | Path, lines: Iterable[Mapping[str, Any]] = ()) -> None:
        need("tensorboard", "tensorboard", "writing events for TensorBoard")
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.folder = Path(folder)
        with self._told():
            self.folder.mkdir(parents=True, exist_ok=True)
            earlier = sorted(self.folder.glob(PATTERN))
            if any(path.name.startswith(f"{PATTERN[:-1]}{int(time.time())}.") for path in earlier):
                time.sleep(1 - time.time() % 1)  # files are read in the order of their names, which tell the second
            self._writer = EventFileWriter(str(self.folder), flush_secs=FLUSH_SECONDS)
        held = list(lines)
        self._start = time.time() - max((line.get("seconds") or 0.0 for line in held), default=0.0)
        with self._told():
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=self._start, step=1, session_log=start))
        for line in held:
            self.log(line)
        self.flush()
        for path in earlier:
            with contextlib.suppress(OSError):  # Windows: another process reads it; the mark of a restart is enough
                if path.stat().st_size:
                    os.truncate(path, 0)
                else:
                    path.unlink()

    def log(self, record: Mapping[str, Any]) -> None:
        """Write every finite number of a line of metrics.jsonl: train/loss …, evaluation/valid_loss …"""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        group = "train" if is_training(record) else "evaluation"
        values = [
            Summary.Value(tag=f"{group}/{name}", simple_value=value)
            for name, value in record.items()
            if name not in PLACE and isinstance(value, (int, float)) and math.isfinite(value)
        ]
        if values:
            at = self._start + (record.get("seconds") or 0.0)  # so that TensorBoard's time is that of the run
            with self._told():
                self._writer.add_event(Event(wall_time=at, step=record["step"], summary=Summary(value=values)))

    def flush(self) -> None:
        """Bring what was logged to the file."""
        with self._told():
            self._writer.flush()

    def close(self) -> None:
        """Write what is left and let go of the file."""
        with self._told():
            self._writer.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """The error of a file, perhaps of an earlier line, as one sentence."""
        try:
            yield
        except OSError as error:
            raise FileError(f"{self.folder}: events cannot be written ({reason(error)}); free some space") from None

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
