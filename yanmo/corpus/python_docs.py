"""The documentation that every Python has on disk → documents.

In: nothing but the interpreter that runs. Out: about 2.5 MB of English prose about programming, one document for each
module of the standard library (the docstrings of the module, its classes and functions, with their names as headings),
for each topic of the interactive help, and for each plain text that lies among the modules.

    python_documents          all of it, or a FileError where a distribution has left it out
    module_text               the source of one module → its docstrings
    topics                    the source of pydoc_data/topics.py → {topic: text}

Sources are parsed, never imported. Tests and installed packages are left out. The licence of all this is Python's own.
"""

from __future__ import annotations

import ast
import inspect
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from yanmo.corpus.documents import Document, new_document
from yanmo.corpus.ledger import Input, ReadReport
from yanmo.errors import FileError
from yanmo.files import reason, sha256_file

LICENSE = "PSF-2.0"
MIN_BYTES = 500_000  # a complete Python has five times as much
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib-dynload"}
TEXTS = {".txt", ".rst"}
TOPICS = "pydoc_data/topics.py"

Definition = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
Headed = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def python_documents(report: ReadReport | None = None, folder: str | Path | None = None) -> Iterator[Document]:
    """The documentation of this Python's standard library; sources are named like python-3.11/argparse.

    `folder` is another standard library's folder than the running interpreter's. Raises FileError if less than about
    500 kB are found, before the first document is given.
    """
    report = ReadReport() if report is None else report
    folder = Path(folder or sysconfig.get_paths()["stdlib"])
    version = f"python-{sys.version_info.major}.{sys.version_info.minor}"
    found = []
    size = 0
    for path, name in _files(folder, report):
        try:
            data = path.read_bytes()
            texts = _texts(name, data)
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            sentence = f"{version}/{name}: cannot be read ({reason(error)}); the rest is read without it"
            report.fail(f"{version}/{name}", "unreadable", sentence)
            continue
        if texts:
            report.inputs.append(Input(f"{version}/{name}", len(data), sha256_file(path)))
        for source, text in texts:
            size += len(text.encode("utf-8", "surrogatepass"))
            found.append(new_document(text, f"{version}/{source}", language="en", license=LICENSE))
        report.bytes_read += len(data)
    if size < MIN_BYTES:
        raise FileError(
            f"{folder}: {size:,} bytes of documentation, at least {MIN_BYTES:,} are needed: this Python was installed "
            "without its sources; give a PATH to texts of your own"
        )
    return iter(found)


def _files(folder: Path, report: ReadReport) -> list[tuple[Path, str]]:
    """Every source and text below a folder that is no test, with its name from there, sorted."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT and not name.startswith((".", "config-")))
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix == ".py" or path.suffix in TEXTS:
                found.append((path, path.relative_to(folder).as_posix()))
                report.bytes_total += path.stat().st_size
    return found


def _texts(name: str, data: bytes) -> list[tuple[str, str]]:
    """(source, text) of every document that one file holds."""
    if not name.endswith(".py"):
        return [(name, data.decode("utf-8"))]
    if name == TOPICS:
        return [(f"topics/{topic}", text) for topic, text in sorted(topics(data).items())]
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    text = module_text(data, module)
    return [(module, text)] if text else []


def module_text(source: bytes, name: str) -> str:
    """The docstrings of a module, its classes and functions in their order, each under its full name; "" if none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes in old modules
        tree = ast.parse(source)
    parts = []
    own = ast.get_docstring(tree)
    if own:
        parts.append(f"{name}\n\n{own}")
    parts += [f"{heading}\n\n{text}" for heading, text in _docstrings(tree.body, name)]
    return "\n\n\n".join(parts)


def _docstrings(body: list[ast.stmt], name: str) -> Iterator[tuple[str, str]]:
    """(name, docstring) of the definitions in a body, those under `if`, `try` and `with` too."""
    for item in body:
        if isinstance(item, Definition):
            inner = f"{name}.{item.name}"
            text = ast.get_docstring(item)
            if text:
                yield _heading(item, inner), text
            yield from _docstrings(item.body, inner)
            continue
        for part in ("body", "orelse", "finalbody", "handlers"):
            yield from _docstrings(getattr(item, part, []), name)


def _heading(item: Headed, name: str) -> str:
    """The full name, with its arguments where it is a function: what a reader calls."""
    return name if isinstance(item, ast.ClassDef) else f"{name}({ast.unparse(item.args)})"


def topics(source: bytes) -> dict[str, str]:
    """The texts of the interactive help, out of the one dictionary that its module defines."""
    for item in ast.parse(source).body:
        targets = item.targets if isinstance(item, ast.Assign) else []
        if [getattr(target, "id", None) for target in targets] == ["topics"]:
            value = ast.literal_eval(item.value)  # type: ignore[attr-defined]
            return {key: inspect.cleandoc(text) for key, text in value.items()}
    return {}
