"""Processes that encode, one for each thread that asks.

In: the folder of a tokenizer; requests. Out: what a worker (tokenise.serve) answers to each.

A worker is a fresh interpreter that reads from a pipe and ends when the pipe does, so none is left behind when this
process is killed. One that dies, for want of memory perhaps, is started anew, and its request is asked once more.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from yanmo.errors import Error, FileError
from yanmo.files import reason

TRIES = 2
CODE = "import sys; from yanmo.tokens.tokenise import serve; serve(*sys.argv[1:], sys.stdin.buffer, sys.stdout.buffer)"


class Encoders:
    """Workers that are started when a thread first asks; a context manager that ends them."""

    def __init__(self, folder: Path, tokenizer_hash: str, end_id: int) -> None:
        self._words = [sys.executable, "-c", CODE, str(folder), str(end_id)]
        self._hash = tokenizer_hash
        self._own = threading.local()
        self._all: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Encoders:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._all:
            _end(child)

    def ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes, bytes]:
        """A worker's answer: its head and two blocks of bytes. A FileError of its own is raised here."""
        for _ in range(TRIES):
            child: subprocess.Popen[bytes] = getattr(self._own, "child", None) or self._start()
            answer = _exchange(child, request)
            if answer is not None and "error" in answer[0]:
                raise FileError(answer[0]["error"])
            if answer is not None:
                return answer
            self._own.child = None
            _end(child)
        raise Error(
            f"{request['path']}: encoding row group {request['group']} ended its process {TRIES} times "
            f"(exit {child.returncode}); free some memory, or ask for fewer workers, and run again"
        )

    def _start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TOKENIZERS_PARALLELISM": "false",  # one core for each worker
            "OMP_NUM_THREADS": "1",
        }
        try:
            child = subprocess.Popen(self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        except OSError as error:
            raise Error(f"a worker cannot be started ({reason(error)}); ask for fewer workers and run again") from None
        with self._lock:
            self._all.append(child)
        assert child.stdout is not None
        line = child.stdout.readline()
        found = json.loads(line).get("hash") if line.endswith(b"\n") else "nothing"
        if found != self._hash:
            _end(child)
            raise Error(f"a worker opened the tokenizer as {found[:12]}, not as {self._hash[:12]}; run again")
        self._own.child = child
        return child


def _exchange(child: subprocess.Popen[bytes], request: dict[str, Any]) -> tuple[dict[str, Any], bytes, bytes] | None:
    """The answer, or None where the worker ended before it was whole."""
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()
        line = child.stdout.readline()
        if not line.endswith(b"\n"):
            return None
        head = json.loads(line)
        sizes = head.get("sizes", [0, 0])
        ids, lengths = (child.stdout.read(size) for size in sizes)
    except OSError:
        return None
    return (head, ids, lengths) if [len(ids), len(lengths)] == sizes else None


def _end(child: subprocess.Popen[bytes]) -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        child.wait(2)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
