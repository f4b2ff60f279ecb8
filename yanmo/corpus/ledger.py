"""The books of a corpus: what came in, what was kept, what was removed or failed and why.

In: one call for each event. Out: counts that balance, in = kept + removed + failed, as a whole and for each source.

    ReadReport                what reading saw: inputs, encodings, failures, files that were passed over
    Ledger, Counts            what became of every document

One unit is a document. A file that cannot be read, or a line of a JSONL file, is a unit of its own, since nobody can
know how many documents it would have held. Files that are not text at all (hidden, another suffix) are no units: they
are counted as skipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # units.py stands on sources.py, and that on this file
    from yanmo.corpus.units import Loss

MAX_PROBLEMS = 100  # sentences kept; all of them are counted
EXAMPLES = 3  # dropped documents shown for each reason
EXAMPLE_CHARACTERS = 200


@dataclass(frozen=True)
class Input:
    """One file that was read: its name below what the user gave, its size and its fingerprint."""

    name: str
    bytes: int
    sha256: str


@dataclass
class ReadReport:
    """What reading saw; `bytes_read` of `bytes_total` is the progress, in bytes of the files on the disk."""

    bytes_total: int = 0
    bytes_read: int = 0
    inputs: list[Input] = field(default_factory=list)
    encodings: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    failed: dict[str, Counter[str]] = field(default_factory=dict)
    removed: dict[str, Counter[str]] = field(default_factory=dict)
    problems: list[dict[str, str]] = field(default_factory=list)
    sink: Callable[[str, Loss], None] | None = None  # is told of every loss that reading enters, with its source

    def fail(self, source: str, reason: str, sentence: str) -> None:
        """Count one unit of `source` as failed; the sentence says where, what and the remedy."""
        self.failed.setdefault(source, Counter())[reason] += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append({"reason": reason, "source": source, "what": sentence})

    def enter(self, source: str, loss: Loss) -> None:
        """Count what reading a source could not, or was not to, turn into a document."""
        if loss.failed:
            self.fail(source, loss.reason, sentence(source, loss))
        else:
            self.removed.setdefault(source, Counter())[loss.reason] += 1
        if self.sink is not None:
            self.sink(source, loss)


def sentence(source: str, loss: Loss) -> str:
    """What was lost, for people: the source, the place in it, what happened."""
    where = "" if loss.where in loss.what else loss.where
    return ": ".join(filter(None, (source, where, loss.what)))


@dataclass
class Counts:
    """One column of the books."""

    offered: int = 0
    kept: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def balanced(self) -> bool:
        return self.offered == self.kept + self.removed.total() + self.failed.total()

    def as_dict(self) -> dict[str, object]:
        return {
            "in": self.offered,
            "kept": self.kept,
            "removed": dict(sorted(self.removed.items())),
            "failed": dict(sorted(self.failed.items())),
        }


@dataclass
class Ledger:
    """What became of every document, by source, and examples of what was removed by reason."""

    sources: dict[str, Counts] = field(default_factory=dict)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    @property
    def total(self) -> Counts:
        return total(self.sources.values())


def total(columns: Iterable[Counts]) -> Counts:
    """The sum of columns."""
    whole = Counts()
    for counts in columns:
        whole.offered += counts.offered
        whole.kept += counts.kept
        whole.removed.update(counts.removed)
        whole.failed.update(counts.failed)
    return whole
