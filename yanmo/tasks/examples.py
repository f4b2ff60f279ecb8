"""What all tasks speak of: an example, the spans and relations in it, and what a reading of data brings.

Span, Relation, Answer     parts of an example; places are characters (code points) of its text, ends exclusive
Example                    one row of the user's data, whatever its task
Bad                        a row that cannot be used, and why
Understood, Data           what a reader took the files for, and the examples in them
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TASKS = ("classify", "extract", "answer", "translate", "generate")


@dataclass(frozen=True)
class Span:
    """An entity: characters `start` to `end` (exclusive) of the original text."""

    type: str
    start: int
    end: int


@dataclass(frozen=True)
class Relation:
    """A directed relation between two entities, named by their indices into `Example.entities`."""

    type: str
    head: int
    tail: int


@dataclass(frozen=True)
class Answer:
    """An answer and where it begins in the text, in characters; -1 where it is not in it, or not known where.

    Of several answers those with a place come first, each as often as it was given.
    """

    text: str
    start: int


@dataclass(frozen=True)
class Example:
    """One row of data. What its task does not speak of is None; `answers` of () says that there is no answer.

    `relations` of () says that no two of its entities are related: so are rows of "Other", "no_relation" or "NA" read.
    where: "file:line", for messages. group: what must stay together in a split (an article, a conversation), "" where
    the row stands alone. value: the target of a regression. target: the text to write. question stands beside `text`,
    the passage.
    """

    id: str
    where: str
    text: str
    text_pair: str | None = None
    labels: tuple[str, ...] | None = None
    value: float | None = None
    entities: tuple[Span, ...] | None = None
    relations: tuple[Relation, ...] | None = None
    question: str | None = None
    answers: tuple[Answer, ...] | None = None
    target: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    group: str = ""


@dataclass(frozen=True)
class Bad:
    """A row that cannot be used: where it stands, and a clause that says why."""

    where: str
    reason: str


@dataclass
class Understood:
    """What a reader took the files for.

    columns: role → the user's column (its name, or its number from 1). notes: decisions that a user may want to know.
    classes: their names in order, where the user gives a file of them.
    """

    task: str
    format: str
    files: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)


@dataclass
class Data:
    """Examples in the order of the files, with what was understood and the rows that were left out."""

    examples: list[Example]
    understood: Understood
    bad: list[Bad] = field(default_factory=list)
