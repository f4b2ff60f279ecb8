"""A process that fetches files of published corpora for the engine, one after the other, while others read.

In: what is published of a file. Out: its path, or the error. A process of its own, so that whoever waits for it can end
it at once in the middle of a file, which is continued another time; it ends when the run that began it does.

    Fetcher       begin(file), then poll(seconds) → path or None; close()
    serve         the process: lines of JSON in, lines of JSON out
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

from yanmo import errors
from yanmo.corpus.download import Published, Remote
from yanmo.corpus.engine_local import start, stop

DEATHS = 3


class Fetcher:
    """Fetches one file at a time."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None
        self._deaths = 0
        self._file: Published | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    @property
    def busy(self) -> bool:
        return self._file is not None

    def begin(self, file: Published) -> None:
        """Fetch a file; `poll` says when it is there."""
        self._file = file
        child = self._child = self._child or start("yanmo.corpus.engine_fetch")
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(json.dumps(dataclasses.asdict(file)) + "\n")
            child.stdin.flush()
        except OSError:
            pass  # it has died, and its answer says so
        threading.Thread(
            target=lambda out: self._answers.put(out.readline()), args=(child.stdout,), daemon=True
        ).start()

    def poll(self, seconds: float) -> Path | None:
        """Where the file lies, once it does; None while it is fetched. Raises what fetching it raised."""
        assert self._file is not None
        try:
            answer = self._answers.get(timeout=seconds) if seconds > 0 else self._answers.get_nowait()
        except queue.Empty:
            return None
        file, self._file = self._file, None
        try:
            kind, text = json.loads(answer)
        except ValueError:  # its end of a pipe is closed
            self._deaths += 1
            self.close()
            if self._deaths >= DEATHS:
                what = f"the process that fetches it died {DEATHS} times"
                raise errors.NetworkError(f"{file.remote.url}: {what}; run again to continue it") from None
            self.begin(file)
            return None
        if kind != "done":
            raise getattr(errors, kind, errors.NetworkError)(text)
        self._deaths = 0
        return Path(text)

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._child is not None:
            stop(self._child)
        self._child = None


def serve() -> None:
    """Fetch the files that stdin names, until it ends: then at once, in the middle of a file too."""
    from yanmo.corpus.remote import Getter

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which ends this process
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is not an answer
    asked: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            asked.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    getter = Getter()
    while True:
        values = json.loads(asked.get())
        file = Published(Remote(**values.pop("remote")), **values)
        try:
            answer = ["done", str(getter.get(file))]
        except errors.Error as error:
            answer = [type(error).__name__, str(error)]
        except OSError as error:
            answer = ["FileError", f"{file.remote.name}: cannot be written ({error}); free some space"]
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
