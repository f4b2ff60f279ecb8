"""The first step of a corpus: units → cleaned and judged documents in parts, and the fates of all else.

In: a task of the plan, or documents that come from elsewhere. Out, in WORK/read: parts and fates (engine_parts.py), and
the books of the task (.json).

    run               one task of units
    take              documents one by one, as one task
    quarantine        names a unit at which workers die, so that it is left out and counted

What a reader raises, whatever it is, is a counted loss, and the documents before it stay.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yanmo.corpus.documents import Document
from yanmo.corpus.engine_files import finish, fit, load_plan, place
from yanmo.corpus.engine_models import model_paths
from yanmo.corpus.engine_parts import Fates, Parts
from yanmo.corpus.ledger import EXAMPLE_CHARACTERS, EXAMPLES, ReadReport
from yanmo.corpus.settings import CorpusRecipe
from yanmo.corpus.steps import Steps, Verdict, steps_of, through
from yanmo.corpus.text import READERS
from yanmo.corpus.units import Loss, Settings, Unit
from yanmo.errors import Error
from yanmo.files import reason, sha256_file, write_atomic

STEP = "read"
UNJUDGED = "defect_in_judging"  # a document that made a step fail
TOGETHER = 64  # documents judged at once

Losses = list[tuple[int, str, Loss]]  # number and name of the source


@dataclass
class Books:
    """What one task has seen; counts by the number of the source."""

    parts: Parts
    fates: Fates
    found: Counter[int] = field(default_factory=Counter)
    removed: dict[int, Counter[str]] = field(default_factory=dict)
    failed: dict[int, Counter[str]] = field(default_factory=dict)
    kept: Counter[int] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    inputs: dict[int, str] = field(default_factory=dict)  # SHA-256 of sources that begin here

    def lose(self, number: int, name: str, loss: Loss) -> None:
        """Enter what reading did not turn into a document."""
        self.found[number] += loss.reason != UNJUDGED  # that document has been counted when it came
        self._out(number, loss.reason, loss.failed, (loss.id, loss.url, "", name, loss.where), loss.what, loss.text)

    def remove(self, number: int, name: str, document: Document, verdict: Verdict) -> None:
        """Enter a document that is left out."""
        named = (document.id, document.url, document.title, name, where_of(document.meta))
        self._out(number, verdict.reason, False, named, verdict.what, document.text)

    def _out(self, number: int, why: str, failed: bool, named: tuple[str, ...], what: str, text: str) -> None:
        side = self.failed if failed else self.removed
        side.setdefault(number, Counter())[why] += 1
        self.fates.add(*named, "failed" if failed else "removed", why, what)
        shown = self.examples.setdefault(why, [])
        if len(shown) < EXAMPLES and not failed:
            shown.append({"reason": why, "source": fit(named[3]), "text": fit(text[:EXAMPLE_CHARACTERS])})

    def as_values(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {
            "found": self.found,
            "kept": self.kept,
            "removed": self.removed,
            "failed": self.failed,
            "changes": {name: count for name, count in self.changes.items() if count},
            "examples": self.examples,
            "inputs": self.inputs,
            "rows": self.parts.rows,
        }


def where_of(meta: str) -> str:
    """The place of a document in its source, where its reader says so in its meta."""
    if meta.startswith("{"):
        with contextlib.suppress(ValueError):
            values = json.loads(meta)
            if isinstance(values.get("offset"), int):
                return f"byte {values['offset']:,}"
            if "page" in values:
                return f"page {values['page']}"
    return ""


def run(work: str, number: int) -> None:
    """Do one task; FileError where its files cannot be written."""
    plan = load_plan(work)
    skipped = _quarantined(work, number)
    at_path = place(work, STEP, number, ".at")
    with _books(work, number, plan.recipe) as books:
        for at in range(*plan.tasks[number]):
            at_path.write_text(str(at), "utf-8")
            _unit(plan.unit(at), plan.units[at][0], (work, plan.recipe), books, at in skipped)
    with contextlib.suppress(OSError):
        at_path.unlink()
    _finish(work, number, books)


@contextlib.contextmanager
def _books(work: str, number: int, recipe: CorpusRecipe) -> Iterator[Books]:
    with Parts(Path(work) / STEP, number, recipe) as parts, Fates(place(work, STEP, number, ".fates.parquet")) as fates:
        yield Books(parts, fates)


def _finish(work: str, number: int, books: Books) -> None:
    finish(work, STEP, number, [*books.parts.files, books.fates.path], books.as_values())


def take(work: str, documents: Iterable[Document], recipe: CorpusRecipe, report: ReadReport) -> list[str]:
    """Do task 0 with documents from elsewhere and return the names of their sources, in the order of their numbers.

    report: of whoever makes the documents; its losses are entered in the books as they come.
    """
    numbers: dict[str, int] = {}
    losses: Losses = []

    def number_of(name: str) -> int:
        return numbers.setdefault(name, len(numbers))

    report.sink = lambda name, loss: losses.append((number_of(name), name, loss))
    try:
        with _books(work, 0, recipe) as books:
            named = ((number_of(document.source), document) for document in documents)
            _keep(named, steps_of(recipe, model_paths(recipe, work)), books, losses)
    finally:
        report.sink = None
    _finish(work, 0, books)
    return list(numbers)


def _unit(unit: Unit, source: int, of: tuple[str, CorpusRecipe], books: Books, skip: bool) -> None:
    name, (work, recipe) = unit.source.name, of
    if unit.start == 0:
        with contextlib.suppress(OSError):  # a source that cannot be read is a loss of its reader
            books.inputs[source] = sha256_file(unit.source.path)
    if skip:
        books.lose(source, name, Loss("worker_died", "workers died three times here; it is left out", _range(unit)))
        return
    losses: Losses = []
    documents = _read(unit, recipe, lambda loss: losses.append((source, name, loss)))
    _keep(((source, document) for document in documents), _steps(recipe, work), books, losses)


def _keep(documents: Iterator[tuple[int, Document]], steps: Steps, books: Books, losses: Losses) -> None:
    """Judge documents with the numbers of their sources, and enter each, and all `losses`, in the books."""
    for batch in _batches(documents):
        books.found.update(number for number, _ in batch)
        for (number, came), (document, verdict) in _judged(batch, steps, books.changes, losses):
            if verdict is None:
                books.kept[number] += 1
                books.parts.add(document, number)
            else:
                books.remove(number, came.source, document, verdict)
        _enter(losses, books)
    _enter(losses, books)


def _batches(documents: Iterator[tuple[int, Document]]) -> Iterator[list[tuple[int, Document]]]:
    """A few dozen documents at a time, fewer where they are long."""
    batch: list[tuple[int, Document]] = []
    size = 0
    for entry in documents:
        batch.append(entry)
        size += len(entry[1].text)
        if len(batch) == TOGETHER or size > 2**22:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _enter(losses: Losses, books: Books) -> None:
    for number, name, loss in losses:
        books.lose(number, name, loss)
    losses.clear()


def _read(unit: Unit, recipe: CorpusRecipe, lose: Callable[[Loss], None]) -> Iterator[Document]:
    """The documents of a unit; whatever else comes, or happens, goes to `lose`."""
    try:
        for found in READERS[unit.source.kind].read(unit, reader_settings(unit.source.kind, recipe)):
            if isinstance(found, Document):
                yield found
            else:
                lose(found)
    except MemoryError:
        raise  # the worker dies, and the unit is tried again
    except Exception as error:  # a defect, or a file that nobody thought of: the rest of the unit is lost, and counted
        why = "unreadable" if isinstance(error, (Error, OSError)) else "defect"
        what = str(error).replace(str(unit.source.path), unit.source.name).removeprefix(f"{unit.source.name}: ")
        lose(Loss(why, f"{type(error).__name__}: {what}", _range(unit)))


Judged = tuple[tuple[int, Document], tuple[Document, Verdict | None]]


def _judged(batch: list[tuple[int, Document]], steps: Steps, changes: Counter[str], losses: Losses) -> Iterator[Judged]:
    """`through`, in which a document that makes a step fail is lost alone."""
    counted: Counter[str] = Counter()
    try:
        found = list(zip(batch, through([document for _, document in batch], steps, counted), strict=True))
    except MemoryError:
        raise
    except Exception:
        found, counted = [], Counter()
        for number, document in batch:
            try:
                found.append(((number, document), next(through([document], steps, counted))))
            except Exception as error:
                what = f"{type(error).__name__} while it was judged: {reason(error)}"
                loss = Loss(UNJUDGED, what, document.title, True, document.text, document.url, document.id)
                losses.append((number, document.source, loss))
    changes.update(counted)
    yield from found


def reader_settings(kind: str, recipe: CorpusRecipe) -> Settings:
    """What a recipe tells the reader of one kind."""
    if kind == "wikipedia":
        return recipe.wikipedia.model_dump()
    if kind == "archive":
        return recipe.archive.model_dump() | {"languages": list(recipe.languages.keep)}
    return {"columns": list(recipe.sources.text_column)}


@functools.lru_cache(maxsize=1)
def _steps_of(values: str, work: str) -> Steps:
    recipe = CorpusRecipe.model_validate_json(values)
    return steps_of(recipe, model_paths(recipe, work))


def _steps(recipe: CorpusRecipe, work: str) -> Steps:
    return _steps_of(recipe.model_dump_json(), work)


def _range(unit: Unit) -> str:
    if unit.start == 0 and unit.end is None:
        return "the whole file"
    return f"bytes {unit.start:,} to {'the end' if unit.end is None else format(unit.end, ',')}"


def quarantine(work: str, number: int, unit: int) -> None:
    """Leave a unit out of a task from now on."""
    listed = sorted({*_quarantined(work, number), unit})
    write_atomic(place(work, STEP, number, ".skip"), json.dumps(listed))


def _quarantined(work: str, number: int) -> set[int]:
    try:
        return set(json.loads(place(work, STEP, number, ".skip").read_text("utf-8")))
    except FileNotFoundError:
        return set()


def unit_at(work: str, number: int) -> int | None:
    """The unit at which a worker was when it died."""
    try:
        return int(place(work, STEP, number, ".at").read_text("utf-8"))
    except (OSError, ValueError):
        return None
