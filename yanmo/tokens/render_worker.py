"""The process in which chat templates run: `python -I -S render_worker.py FOLDER…`, started by chat.py alone.

In: on standard input, requests of 4 bytes of length (big endian) and JSON. Out: on standard output, answers of the
same form: {"text": …} or {"error": kind, "message": …, "line": …}. It ends with its input.

FOLDER… is where jinja2 and markupsafe lie; nothing else outside the standard library can be imported. Memory is
bounded by the system (RLIMIT_AS), the processor time of a request by a timer whose signal ends the process, also in the
middle of one long operation, which no check in Python could do.
"""

from __future__ import annotations

import contextlib
import io
import json
import signal
import struct
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

MEMORY = 512 * 2**20  # bytes beyond what the process has when it starts
KINDS = {"SecurityError": "security", "TemplateSyntaxError": "syntax", "Refused": "refused", "MemoryError": "memory"}


def main() -> None:
    sys.path[:0] = sys.argv[1:]
    compiled: dict[str, Any] = {}
    environment = build_environment()
    limit_memory()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while (request := receive(source)) is not None:
        send(sink, answer(request, environment, compiled))


def receive(source: BinaryIO) -> dict[str, Any] | None:
    """One message, or None at the end."""
    head = source.read(4)
    if len(head) < 4:
        return None
    body = source.read(struct.unpack(">I", head)[0])
    return json.loads(body)


def send(sink: BinaryIO, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()  # ASCII, so that lone surrogates travel
    sink.write(struct.pack(">I", len(body)) + body)
    sink.flush()


def answer(request: dict[str, Any], environment: Any, compiled: dict[str, Any]) -> dict[str, Any]:
    """Render one request within its time."""
    with timer(request["seconds"]):
        try:
            source = request["template"]
            if source not in compiled:
                compiled[source] = environment.from_string(source)
            moment = datetime.fromisoformat(request["now"])
            values = {**request["values"], "strftime_now": moment.strftime}
            text, size = io.StringIO(), 0
            for piece in compiled[source].generate(values):
                size += len(piece)
                if size > request["size"]:
                    return {"error": "size", "message": "", "line": None}
                text.write(piece)
            return {"text": text.getvalue()}
        except (Exception, RecursionError) as error:
            kind = KINDS.get(type(error).__name__, "failed")
            message = f"{type(error).__name__}: {error}" if kind == "failed" else str(error)
            return {"error": kind, "message": message[:500], "line": getattr(error, "lineno", None)}


@contextlib.contextmanager
def timer(seconds: float) -> Any:
    """End the process after so much of its own processor time; where there is no such timer, the parent's clock is."""
    settable = hasattr(signal, "setitimer")
    if settable:
        signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        if settable:
            signal.setitimer(signal.ITIMER_PROF, 0)


def limit_memory() -> None:
    """Bound the address space; where the system cannot (Windows, macOS), time is the only bound."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):
        return


def build_environment() -> Any:
    """Jinja as chat templates expect it: sandboxed, block tags leave no white space, JSON without HTML escapes."""
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Refused(TemplateError):
        """What a template says through raise_exception."""

    class Generation(Extension):
        """{% generation %} … {% endgeneration %} marks what the model wrote; here it is written as it stands."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_write"), [], [], body).set_lineno(line)

        def _write(self, caller: Any) -> str:
            return caller()

    class Names(Namespace):
        """namespace(…) without names that reach into Python."""

        def __init__(*args: Any, **values: Any) -> None:
            self, *rest = args
            values = dict(*rest, **values)
            for name in values:
                check(name)
            Namespace.__init__(self, values)

        def __setitem__(self, name: str, value: Any) -> None:
            check(name)
            super().__setitem__(name, value)

    def check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"the name {name!r} of a namespace begins with an underscore")

    def raise_exception(message: Any) -> None:
        raise Refused(str(message))

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, namespace=Names)
    return environment


if __name__ == "__main__":
    main()
