"""Workers on this machine: processes that do the tasks whose names they are sent, and may die at any of them.

In: a work folder, tasks. Out: how each ended. A worker is a fresh interpreter; what travels are lines of JSON, and what
it makes is in the work folder. It ends when its input does, so none outlives the run that began it by more than a task.

    Local         submit(step, number), then next() → (number, ending, text); close()
    Here          the same in this process
    start, stop   a process of this package's, for whoever needs one
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from typing import NamedTuple

from yanmo.corpus.engine_steps import run_task


class Ended(NamedTuple):
    """How a task ended: "done", "refused" or "error" (with a sentence), "defect" (a traceback) or "died" (how)."""

    number: int
    ending: str
    text: str = ""


class Here:
    """One worker: this process, in which a reader that dies ends the run; for sources of some megabytes."""

    def __init__(self, work: str, size: int):
        self.work, self.size = work, 1
        self._waiting: list[tuple[str, int]] = []

    def submit(self, step: str, number: int) -> None:
        """Give it a task."""
        self._waiting.append((step, number))

    def next(self, seconds: float | None = None) -> Ended:
        """Do the task, however long it takes."""
        step, number = self._waiting.pop(0)
        return Ended(number, *run_task(self.work, step, number))

    def close(self) -> None:
        """Nothing is left to end."""


class Local:
    """`size` workers, each with a thread that speaks to it."""

    def __init__(self, work: str, size: int):
        self.work, self.size = work, size
        self._tasks: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self._children: dict[int, subprocess.Popen[str]] = {}
        self._threads = [threading.Thread(target=self._speak, args=(k,), daemon=True) for k in range(size)]
        for thread in self._threads:
            thread.start()

    def submit(self, step: str, number: int) -> None:
        """Give a task to the next worker that is free."""
        self._tasks.put((step, number))

    def next(self, seconds: float | None = None) -> Ended | None:
        """Wait for a task to end; None where none does within the seconds."""
        while True:  # with a timeout, so that Ctrl-C is heard on every system
            with contextlib.suppress(queue.Empty):
                return self._ended.get(timeout=1.0 if seconds is None else seconds)
            if seconds is not None:
                return None

    def close(self) -> None:
        """End all workers, whatever they do."""
        for _ in self._threads:
            self._tasks.put(None)
        for child in list(self._children.values()):
            child.kill()
        for thread in self._threads:
            thread.join()

    def processes(self) -> list[int]:
        """The workers' process ids."""
        return [child.pid for child in self._children.values()]

    def _speak(self, place: int) -> None:
        child: subprocess.Popen[str] | None = None
        while (task := self._tasks.get()) is not None:
            if child is None:
                try:
                    child = self._children[place] = start("yanmo.corpus.engine_steps", self.work)
                except OSError as error:  # unsaid, `next` would wait for this task for ever
                    self._ended.put(
                        Ended(task[1], "error", f"a worker cannot be started ({error}); try fewer --workers")
                    )
                    continue
            ended = _ask(child, task)
            if ended.ending == "died":
                stop(child)
                child = None
                self._children.pop(place, None)
            self._ended.put(ended)
        if child is not None:
            stop(child)


def start(module: str, *words: str) -> subprocess.Popen[str]:
    """A fresh interpreter that runs `serve` of a module with these words; it is spoken to by lines."""
    code = f"import sys; from {module} import serve; serve(*sys.argv[1:])"
    path = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        encoding="utf-8",
    )


def _ask(child: subprocess.Popen[str], task: tuple[str, int]) -> Ended:
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(json.dumps(task) + "\n")
        child.stdin.flush()
        ending, text = json.loads(child.stdout.readline())
    except (OSError, ValueError):  # its end of a pipe is closed
        return Ended(task[1], "died", f"exit code {child.wait()}")
    return Ended(task[1], ending, text)


def stop(child: subprocess.Popen[str]) -> None:
    """End a process, whatever it does."""
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
