"""Units of work: how every kind of raw source is cut into parts that are read side by side, and what reading yields.

In: a Source. Out: its Units, and from each Unit documents and losses, in a fixed order.

    Unit        a file, or a range of its bytes; the same units on any machine, whatever the number of workers
    Seen        what reading one source has met
    Loss        what reading could not, or was told not to, turn into a document, with its reason
    Reader      split: source → units; read: unit → documents and losses

Each kind of source is one Reader. Reading depends on the unit and its settings alone: never on what other units hold,
on the order in which they come, on time or on chance. A loss that `failed` could not be read (damage, a wrong
encoding); one that did not was removed on purpose (a redirect, an image). Either way it is one unit of the books.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from yanmo.corpus.documents import Document
from yanmo.corpus.sources import Source


@dataclass(frozen=True)
class Unit:
    """The bytes `start` to `end` of a source's file as it lies on the disk; `end` None is its end."""

    source: Source
    start: int = 0
    end: int | None = None

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.end is None


@dataclass
class Seen:
    """How the texts of a source were encoded, and how far on the disk it has been read."""

    encodings: Counter[str] = field(default_factory=Counter)
    position: int = 0


@dataclass(frozen=True)
class Loss:
    """One thing that became no document: `reason` is one word of the books, `what` a clause for people, which
    who reads the unit sets behind the file's name and `where`.

    where: the place within the source, as "byte 12,345" or a title; text: the beginning of what was lost, for the
    examples of the card; url and id: the names by which somebody may ask for it.
    """

    reason: str
    what: str
    where: str = ""
    failed: bool = True
    text: str = ""
    url: str = ""
    id: str = ""


Settings = dict[str, Any]  # of a reader: plain values, so that a unit and its settings travel to another process


@dataclass(frozen=True)
class Reader:
    """How one kind of source is read; both are plain functions of a module, found again in another process."""

    split: Callable[[Source], list[Unit]]
    read: Callable[[Unit, Settings], Iterator[Document | Loss]]
