"""Workers of a Ray cluster: the same tasks over the same work folder, which every machine must see.

In: a work folder, tasks. Out: how each ended. Ray schedules names of tasks and carries back how they ended; documents
never pass through it, and what is done is known from the work folder alone.

    OnRay         what engine_local.Local is: submit(step, number), next(), close()

A running cluster is joined where RAY_ADDRESS names it; else Ray starts one on this machine, and ends it afterwards.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from yanmo.corpus.engine_local import Ended
from yanmo.corpus.engine_steps import run_task
from yanmo.errors import need


class OnRay:
    """`size` tasks at once; each takes one core."""

    def __init__(self, work: str, size: int):
        self.ray = need("ray", "ray", "the engine ray")
        self.work, self.size = work, size
        self._began = not self.ray.is_initialized()
        if self._began:
            path = os.pathsep.join(filter(None, sys.path))
            variables = {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
            cores = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": size, "include_dashboard": False}
            self.ray.init(runtime_env={"env_vars": variables}, log_to_driver=False, logging_level="ERROR", **cores)
        # A task that dies is for the engine to count, not for Ray to try again.
        self._task = self.ray.remote(num_cpus=1, max_retries=0)(run_task)
        self._running: dict[Any, int] = {}

    def submit(self, step: str, number: int) -> None:
        """Give a task to the cluster."""
        self._running[self._task.remote(self.work, step, number)] = number

    def next(self, seconds: float | None = None) -> Ended | None:
        """Wait for a task to end; None where none does within the seconds."""
        while True:
            ready, _ = self.ray.wait(list(self._running), num_returns=1, timeout=1.0 if seconds is None else seconds)
            if ready:
                break
            if seconds is not None:
                return None
        number = self._running.pop(ready[0])
        try:
            ending, text = self.ray.get(ready[0])
        except self.ray.exceptions.RayError as error:  # a worker or a machine died; what we raise is caught in run_task
            return Ended(number, "died", type(error).__name__)
        return Ended(number, ending, text)

    def close(self) -> None:
        """Stop what runs, and the cluster if it is ours."""
        for task in self._running:
            self.ray.cancel(task, force=True)
        if self._began:
            self.ray.shutdown()
