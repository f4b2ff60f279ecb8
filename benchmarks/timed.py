"""Run a command and say when each line of its output came.

    python -m benchmarks.timed COMMAND …       prints "SECONDS<tab>LINE", the seconds since the command was started
    timed                                      the same from Python: [(seconds, line), …]

What is measured runs in a process of its own. Where BENCHMARKS_RUN_WITH is set, its words stand before the command,
e.g. `taskset -c 0,1`; the time that they take before they start it is not counted.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from yanmo.errors import Error

RUN_WITH = "BENCHMARKS_RUN_WITH"
ROOT = Path(__file__).resolve().parent.parent


def timed(
    command: Sequence[str], folder: Path = ROOT, variables: Mapping[str, str] | None = None
) -> list[tuple[float, str]]:
    """Run a command in `folder` and return its lines with the seconds at which they came; a failure is an Error."""
    words = [*shlex.split(os.environ.get(RUN_WITH, "")), sys.executable, str(Path(__file__)), *command]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **(variables or {})}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise Error(f"{shlex.join(command):.200}: ended with {done.returncode}: {' '.join(last)}")
    pairs = (line.split("\t", 1) for line in done.stdout.splitlines())
    return [(float(seconds), line) for seconds, line in pairs]


def main(command: Sequence[str]) -> int:
    """Run the command here; its exit code is ours."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{time.perf_counter() - start:.4f}\t{line}", end="", flush=True)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
