"""The books of a corpus: what came in, what was kept, what was removed or failed and why.

In: one call for each event. Out: counts that balance, in = kept + removed + failed, as a whole and for each source.

    ReadReport                what reading saw: inputs, encodings, failures, files that were passed over
    Ledger                    what became of every document

One unit is a document. A file that cannot be read, or a line of a JSONL file, is a unit of its own, since nobody can
know how many documents it would have held. Files that are not text at all (hidden, another suffix) are no units: they
are counted as skipped.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

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
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    problems: list[dict[str, str]] = field(default_factory=list)

    def fail(self, source: str, reason: str, sentence: str) -> None:
        """Count one unit of `source` as failed; the sentence says where, what and the remedy."""
        self.failed.setdefault(source, Counter())[reason] += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append({"reason": reason, "source": source, "what": sentence})

    def remove(self, source: str, reason: str, text: str) -> None:
        """Count one unit of `source` that reading left out on purpose, such as a redirect."""
        self.removed.setdefault(source, Counter())[reason] += 1
        _show(self.examples, source, reason, text)


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


class Ledger:
    """What became of every document: `total`, and `sources` by name."""

    def __init__(self) -> None:
        self.total = Counts()
        self.sources: dict[str, Counts] = {}
        self.examples: dict[str, list[dict[str, str]]] = {}

    def offer(self, source: str) -> None:
        for counts in self._columns(source):
            counts.offered += 1

    def keep(self, source: str) -> None:
        for counts in self._columns(source):
            counts.kept += 1

    def remove(self, source: str, reason: str, text: str) -> None:
        for counts in self._columns(source):
            counts.removed[reason] += 1
        _show(self.examples, source, reason, text)

    def enter_losses(self, report: ReadReport) -> None:
        """Enter what reading could not, or was not to, turn into documents."""
        for column in ("failed", "removed"):
            for source, reasons in getattr(report, column).items():
                for counts in self._columns(source):
                    counts.offered += reasons.total()
                    getattr(counts, column).update(reasons)
        for reason, examples in report.examples.items():
            for example in examples:
                _show(self.examples, example["source"], reason, example["text"])

    def check(self) -> None:
        """The books balance, in every column and over the columns."""
        assert self.total.balanced, self.total
        assert all(counts.balanced for counts in self.sources.values()), "a source does not balance"
        assert self.total.offered == sum(counts.offered for counts in self.sources.values())
        assert self.total.kept == sum(counts.kept for counts in self.sources.values())

    def _columns(self, source: str) -> tuple[Counts, Counts]:
        counts = self.sources.get(source)
        if counts is None:
            counts = self.sources[source] = Counts()
        return self.total, counts


def _show(examples: dict[str, list[dict[str, str]]], source: str, reason: str, text: str) -> None:
    """Keep the first few examples of what was removed for a reason."""
    shown = examples.setdefault(reason, [])
    if len(shown) < EXAMPLES:
        shown.append({"reason": reason, "source": source, "text": text[:EXAMPLE_CHARACTERS]})
