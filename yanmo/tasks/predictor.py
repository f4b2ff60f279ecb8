"""A trained task that is ready to use: rows in, predictions out, one at a time or many.

In: a run folder, a model folder with a task.json, or a hub id of one. Out: a `Predictor`.

    load_predictor    path → Predictor; a classifier of the Hugging Face kind needs no task.json
    Predictor         predict(rows), stream(rows), evaluate(examples), rows_of(examples)

A row of many is computed with others and equals, up to rounding, what it is alone; the order is kept.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yanmo.errors import FileError, InputError
from yanmo.files import read_json_object
from yanmo.hub import resolve
from yanmo.inference.model import load
from yanmo.models.config import LABEL_HEADS
from yanmo.tasks.examples import TASKS, Example
from yanmo.tasks.opening import SETTINGS

if TYPE_CHECKING:
    import torch

    from yanmo.inference.model import Model

MODULES = {
    "classify": "yanmo.tasks.classification",
    "extract": "yanmo.tasks.extraction",
    "answer": "yanmo.tasks.answering",
    "translate": "yanmo.tasks.translation",
    "generate": "yanmo.tasks.generation",
    "zeroshot": "yanmo.tasks.zeroshot",  # a classifier that needs no training, so any model is one
}
NEEDED = {
    "classify": ("text",),
    "extract": ("text",),
    "answer": ("question", "context"),
    "translate": ("text",),
    "generate": (),  # text, messages, or prefix and suffix
    "zeroshot": ("text",),
}
AT_ONCE = 64  # rows of a stream that are computed together
HEADS = {"sequence": "classify", "token": "extract", "span": "answer"}


def load_predictor(
    path_or_id: str | Path,
    *,
    task: str | None = None,
    dtype: str | None = None,
    device: torch.device | str | None = None,
    cache: str | None = None,
) -> Predictor:
    """Open what was trained for a task; a FileError says that there is no such thing, or one for another task.

    dtype, device, cache: see `yanmo.load`.
    """
    folder = resolve(str(path_or_id))
    model = load(path_or_id, dtype=dtype, device=device, cache=cache)
    if task == "zeroshot":
        return Predictor(task, model, {})
    if (folder / SETTINGS).is_file():
        settings = read_json_object(folder / SETTINGS)
    else:
        settings = _foreign(model, folder, task)
    known = settings.get("task")
    if known not in TASKS or (task is not None and known != task):
        raise FileError(
            f"{folder}: made for the task {known!r}, not {task!r}; use `yanmo {known}`, or train another model"
        )
    return Predictor(str(known), model, settings)


def _foreign(model: Model, folder: Path, task: str | None) -> dict[str, Any]:
    """The settings of a model that was not trained here: its head says the task, its positions the length."""
    head = getattr(model.config, "head", "")
    known = HEADS.get(head, task if task in ("translate", "generate") else None)
    if known is None:
        heads = ", ".join(LABEL_HEADS)
        raise FileError(
            f"{folder}: has the head {head!r} and no {SETTINGS}, where a model of a task has one of {heads}; "
            f"train one with `yanmo finetune {task or 'TASK'} {folder} DATA`"
        )
    problem = {"multi_label": "multi", "regression": "regression"}.get(getattr(model.config, "problem", ""), "single")
    length = min(model.config.max_positions, 512)
    return {"task": known, "problem": problem, "length": length, "stride": min(64, length // 4)}


@dataclass
class Predictor:
    """A task, its model, and what was fitted with it (task.json)."""

    task: str
    model: Model
    settings: dict[str, Any]
    report: Path | None = None  # the page of the run that made it
    result: dict[str, Any] = field(default_factory=dict)  # and its figures
    options: dict[str, Any] = field(default_factory=dict)  # of this use, such as beams

    def predict(self, rows: Any) -> Any:
        """The prediction of a row (a text, or a mapping), or of each of many, in their order.

        classify, extract, translate, generate read `text` (`text_pair`, `entities`), answer `question` and `context`;
        an `id` is given back. InputError names the row that lacks one of these.
        """
        if isinstance(rows, (str, Mapping)):
            return self.predict([rows])[0]
        return list(self.stream(rows))

    def stream(self, rows: Iterable[Any]) -> Iterator[dict[str, Any]]:
        """The same of any number of rows, of which few are held at a time."""
        function = importlib.import_module(MODULES[self.task]).predict
        source = iter(rows)
        first = 0
        while chunk := list(itertools.islice(source, AT_ONCE)):
            read = [self._row(row, first + place) for place, row in enumerate(chunk)]
            found = function(self.model, self.settings | self.options, read)
            for row, prediction in zip(read, found, strict=True):
                yield ({"id": row["id"]} if "id" in row else {}) | prediction
            first += len(chunk)

    def _row(self, row: Any, number: int) -> dict[str, Any]:
        needed = NEEDED[self.task]
        if isinstance(row, str) and needed in (("text",), ()):
            row = {"text": row}
        if not isinstance(row, Mapping):
            raise InputError(f"row {number} is {row!r:.60}; a mapping with {' and '.join(needed)} is needed")
        name = f"row {row.get('id', number)!r}"
        for key in (*needed, "text_pair"):
            value = row.get(key)
            if not isinstance(value, str) and (key in needed or value is not None):
                said = "has no" if value is None else f"has {type(value).__name__} as"
                raise InputError(f"{name} {said} {key!r}, a text is needed")
        return dict(row)

    def _repr_html_(self) -> str | None:
        """The page of the run, in a notebook."""
        from yanmo.tasks.taskreport import Shown

        return None if self.report is None else Shown(self.report)._repr_html_()

    def evaluate(self, examples: Sequence[Example]) -> dict[str, float]:
        """The figures of the task's metrics (metrics.py) on examples."""
        from yanmo.tasks.metrics import score

        return score(self.task, examples, self.predict(self.rows_of(examples)))

    def rows_of(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """What `predict` is asked of examples: the entities too where only relations between them were learned."""
        given = self.task == "extract" and not self.settings.get("job", {}).get("types", True)
        return [_asked(self.task, example, given) for example in examples]


def _asked(task: str, example: Example, given: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"id": example.id}
    row |= {"question": example.question, "context": example.text} if task == "answer" else {"text": example.text}
    if example.text_pair is not None:
        row["text_pair"] = example.text_pair
    if given:
        row["entities"] = [dataclasses.asdict(span) for span in example.entities or ()]
    return row
