"""The careful extractor, trafilatura, in a child process with a limit of time and of memory.

In: a page as text. Out: its main text; Unusable where the child was killed, or the extractor failed.

    careful_text              page → text; starts a child where none runs, and keeps it for the next page

The child is a fresh interpreter that reads pages from a pipe and writes texts to another, each with its length before
it. It ends when the pipe does. It is ended after PAGES pages, since the extractor keeps some memory of each, and where
a page takes too long: the processor's time is limited for the page, and the clock's for a child that does not answer.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import struct
import subprocess
import sys
import time

from yanmo.corpus.html import Unusable
from yanmo.corpus.units import Settings

SECONDS = 20  # on the clock: the slowest page of an ordinary crawl takes about one
MEMORY = 2 * 2**30
PAGES = 2000
MAX_PAGE = 16 * 2**20  # characters; the extractor's time grows faster than the page

_SIZE = struct.Struct("<q")
_state: dict[str, object] = {}


def careful_text(page: str, settings: Settings) -> str:
    """The main text of a page by the careful extractor, "" where it finds none; raises Unusable."""
    seconds, memory = float(settings.get("seconds", SECONDS)), int(settings.get("memory", MEMORY))
    if len(page) > MAX_PAGE:
        raise Unusable("too_large", f"has more than {MAX_PAGE:,} characters, too many for the careful extractor")
    child = _child(memory)
    data = page.encode("utf-8", "replace")
    try:
        answer = _ask(child, data, time.monotonic() + seconds)
    except TimeoutError:
        _end()
        raise Unusable("extraction_time", f"takes the extractor more than {seconds:g} seconds") from None
    except (OSError, EOFError):
        _end()
        raise Unusable("extraction_died", f"ends the extractor (its memory is limited to {memory:,} bytes)") from None
    if answer is None:
        raise Unusable("extraction_failed", "makes the extractor fail")
    return answer.decode("utf-8")


def _child(memory: int) -> subprocess.Popen[bytes]:
    key = (os.getpid(), memory)
    child = _state.get("child")
    used = _state.get("used", 0)
    if isinstance(child, subprocess.Popen) and _state.get("key") == key and isinstance(used, int) and used < PAGES:
        _state["used"] = used + 1
        return child
    if _state.get("key", key)[0] == key[0]:  # type: ignore[index]  # after a fork the child is the parent's
        _end()
    elif isinstance(child, subprocess.Popen):
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                os.close(pipe.fileno())
    words = [sys.executable, "-c", f"from yanmo.corpus.extract_child import serve; serve({memory})"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "0"}
    child = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, bufsize=0
    )
    if "atexit" not in _state:
        atexit.register(_end)
    _state.update(child=child, key=key, used=1, atexit=True)
    return child


def _end() -> None:
    child = _state.pop("child", None)
    if isinstance(child, subprocess.Popen) and _state.get("key", (0,))[0] == os.getpid():  # type: ignore[index]
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _ask(child: subprocess.Popen[bytes], data: bytes, deadline: float) -> bytes | None:
    assert child.stdin is not None and child.stdout is not None
    _write(child.stdin.fileno(), _SIZE.pack(len(data)) + data, deadline)
    (size,) = _SIZE.unpack(_read(child.stdout.fileno(), _SIZE.size, deadline))
    return None if size < 0 else _read(child.stdout.fileno(), size, deadline)


def _write(pipe: int, data: bytes, deadline: float) -> None:
    view = memoryview(data)
    while view:
        if not select.select([], [pipe], [], max(deadline - time.monotonic(), 0))[1]:
            raise TimeoutError
        view = view[os.write(pipe, view[:4096]) :]  # a pipe that is ready takes 4,096 bytes without waiting


def _read(pipe: int, size: int, deadline: float) -> bytes:
    parts = []
    while size:
        if not select.select([pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
            raise TimeoutError
        parts.append(os.read(pipe, min(size, 2**20)))
        if not parts[-1]:
            raise EOFError
        size -= len(parts[-1])
    return b"".join(parts)


def serve(memory: int) -> None:
    """The child: answer page after page from stdin on stdout."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    import trafilatura

    pages, texts = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    while len(head := pages.read(_SIZE.size)) == _SIZE.size:
        page = pages.read(_SIZE.unpack(head)[0]).decode("utf-8")
        try:
            text = (trafilatura.extract(page, include_comments=False) or "").encode("utf-8", "replace")
            texts.write(_SIZE.pack(len(text)) + text)
        except MemoryError:
            os._exit(1)
        except Exception:
            texts.write(_SIZE.pack(-1))
        texts.flush()
