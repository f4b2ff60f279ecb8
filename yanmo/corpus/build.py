"""Documents → a corpus folder: clean, without exact duplicates, split into training and validation, with its card.

In: documents one by one. Out: a folder with train-*.parquet, valid-*.parquet, card.json and README.md, complete or
absent, and the same bytes for the same documents and settings.

    build_corpus              the steps of steps.py → duplicates → split → shards → card
    Split                     which document goes to which side
    Corpus, load_corpus       a corpus folder, opened again

The validation set is chosen by document, by a hash of its text and the seed: a document stays on its side when others
come or go. Memory: one row group of each split and 100 bytes for each document.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from yanmo.corpus.card import FORMAT, UNSTATED, card_of, readme_of, shards_of
from yanmo.corpus.clean import clean
from yanmo.corpus.dedup import fingerprint
from yanmo.corpus.documents import Document, ShardWriter, read_shard
from yanmo.corpus.ledger import Ledger, ReadReport
from yanmo.corpus.script import script
from yanmo.corpus.sources import CARD
from yanmo.corpus.steps import Steps, through
from yanmo.corpus.text import border
from yanmo.errors import FileError, InputError
from yanmo.files import atomic_folder, inside, read_json_object, write_atomic, write_json

README = "README.md"
SPLITS = ("train", "valid")
CUT = "The only document was cut in two at a paragraph border, so training and validation come from the same text."

Progress = Callable[[int, int], None]


class Split:
    """Sends documents to training or validation so that both get at least one.

    A document is valid where the hash of its text and the seed, as a share of all hashes, lies below `valid_share`. The
    lowest and the highest hash met so far are held back: the lowest is valid and the highest is training in any case.
    """

    def __init__(self, writers: dict[str, ShardWriter], valid_share: float, seed: int):
        self.writers, self.seed = writers, seed
        self.limit = int(valid_share * 2**64)
        self.lowest: tuple[int, Document] | None = None
        self.highest: tuple[int, Document] | None = None

    def place(self, document: Document, mark: bytes) -> None:
        """Write a document, or another one in whose place it is held back."""
        seed = self.seed.to_bytes(16, "little", signed=True)
        entry = (int.from_bytes(hashlib.blake2b(seed + mark, digest_size=8).digest(), "little"), document)
        if self.lowest is None:
            self.lowest = entry
            return
        if entry[0] < self.lowest[0]:
            entry, self.lowest = self.lowest, entry
        if self.highest is None:
            self.highest = entry
            return
        if entry[0] > self.highest[0]:
            entry, self.highest = self.highest, entry
        self.writers["valid" if entry[0] < self.limit else "train"].add(entry[1])

    def finish(self, valid_share: float) -> bool:
        """Write the two documents held back; True where there was only one, which is cut in two."""
        if self.lowest is None:
            raise InputError("no document is left")
        if self.highest is not None:
            self.writers["train"].add(self.highest[1])
            self.writers["valid"].add(self.lowest[1])
            return False
        train, valid = cut_in_two(self.lowest[1], valid_share)
        self.writers["train"].add(train)
        self.writers["valid"].add(valid)
        return True


def cut_in_two(document: Document, valid_share: float) -> tuple[Document, Document]:
    """Cut at the last paragraph border before the validation share begins; ids end in -train and -valid."""
    text = document.text
    high = max(min(round(len(text) * (1 - valid_share)), len(text) - 1), 1)
    end = border(text, high // 2, high)
    halves = clean(text[:end]), clean(text[end:])
    if not all(half.strip() for half in halves):
        raise InputError(
            f"{document.source}: the only document has {len(text):,} characters, too few for a validation set too; "
            "give more text"
        )
    train, valid = (
        dataclasses.replace(document, id=f"{document.id}-{name}", text=half) for name, half in zip(SPLITS, halves)
    )
    return train, valid


def build_corpus(
    documents: Iterable[Document],
    out: str | Path,
    *,
    valid_share: float = 0.05,
    seed: int = 0,
    progress: Progress | None = None,
    read_report: ReadReport | None = None,
    steps: Steps | None = None,
) -> Corpus:
    """Write a corpus folder at `out` (an older corpus there is replaced) and open it.

    `steps`: what is done to documents beyond cleaning (steps.py).

    `progress(done, total)` is called after each document, in bytes of the input files where `read_report` is the one
    that the reader fills, else in bytes of text with a total of 0. Raises InputError where no document is left and
    FileError where `out` holds anything but a corpus.
    """
    out = Path(out)
    if not 0 < valid_share < 1:
        raise InputError(f"valid_share={valid_share}: must lie between 0 and 1, such as 0.05")
    if not -(2**127) <= seed < 2**127:
        raise InputError(f"seed={seed}: must be an integer of at most 127 bits")
    _check_place(out)
    report = ReadReport() if read_report is None else read_report
    with atomic_folder(out) as folder:
        writers = {name: ShardWriter(folder, name) for name in SPLITS}
        split = Split(writers, valid_share, seed)
        ledger, seen, changes = Ledger(), set[bytes](), Counter[str]()
        chosen = Steps() if steps is None else steps
        tallies: dict[str, Counter[str]] = {"script": Counter(), "language": Counter(), "license": Counter()}
        try:
            for document, why in through(_observed(documents, progress, report), chosen, changes):
                mark = _enter(document, why, ledger, seen)
                if mark is not None:
                    split.place(document, mark)
                    tallies["script"][script(document.text)] += 1
                    tallies["language"][document.language or UNSTATED] += 1
                    tallies["license"][document.license or UNSTATED] += 1
            ledger.enter_losses(report)
            ledger.check()
            if not ledger.total.kept:
                raise InputError(_nothing_left(ledger, report))
            was_cut = split.finish(valid_share)
        finally:
            for writer in writers.values():
                writer.close()
        settings = {"valid_share": valid_share, "seed": seed, "steps": chosen.as_settings()}
        card = card_of(ledger, report, settings, tallies, changes, [CUT] if was_cut else [])
        card |= shards_of(folder, writers)
        write_json(folder / CARD, card)
        write_atomic(folder / README, readme_of(card))
    return Corpus(out)


def _enter(document: Document, why: str | None, ledger: Ledger, seen: set[bytes]) -> bytes | None:
    """The fingerprint of a document that is kept, or None where it is removed; either way it is in the books."""
    ledger.offer(document.source)
    mark = fingerprint(document.text)
    if why is None and mark in seen:
        why = "duplicate"
    if why is not None:
        ledger.remove(document.source, why, document.text)
        return None
    seen.add(mark)
    ledger.keep(document.source)
    return mark


def _observed(documents: Iterable[Document], progress: Progress | None, report: ReadReport) -> Iterator[Document]:
    size = 0
    for document in documents:
        yield document
        size += len(document.text.encode("utf-8", "surrogatepass")) if progress and not report.bytes_total else 0
        if progress is not None:
            progress(report.bytes_read if report.bytes_total else size, report.bytes_total)
    if progress is not None and report.bytes_total:
        progress(report.bytes_total, report.bytes_total)


def _nothing_left(ledger: Ledger, report: ReadReport) -> str:
    total = ledger.total
    reasons = [f"{count:,} {reason}" for reason, count in (*total.removed.items(), *total.failed.items())]
    first = f"; the first problem: {report.problems[0]['what']}" if report.problems else ""
    return (
        f"no text is left of {total.offered:,} documents ({', '.join(reasons) or 'none came'}); give more text{first}"
    )


def _check_place(out: Path) -> None:
    """A folder is replaced as a whole, so it must be empty or a corpus, of this format or of another version's."""
    if not out.exists():
        return
    if not out.is_dir():
        raise FileError(f"{out}: a file, where a corpus folder is to be written; choose another place")
    if any(out.iterdir()) and not _is_corpus(out):
        raise FileError(f"{out}: holds files that are no corpus; choose an empty or new folder")


def _is_corpus(folder: Path) -> bool:
    try:
        return str(read_json_object(folder / CARD).get("format")).startswith(FORMAT.rstrip("0123456789"))
    except FileError:
        return False


class Corpus:
    """A corpus folder: `card` (the dictionary of card.json) and `documents(split)`."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.card = read_json_object(self.folder / CARD)
        if self.card.get("format") != FORMAT:
            found = self.card.get("format")
            raise FileError(f"{self.folder / CARD}: format {found!r}, only {FORMAT!r} is read; build the corpus again")
        self._counts = {name: self._count(name) for name in SPLITS}
        self._shards = {name: self._paths(name) for name in SPLITS}

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {count:,}" for name, count in self._counts.items())
        return f"Corpus({str(self.folder)!r}: {counts} documents)"

    def documents(self, split: str) -> Iterator[Document]:
        """Yield the documents of "train" or "valid" in their order; FileError where a shard is damaged or short."""
        if split not in SPLITS:
            raise InputError(f"split={split!r}: must be 'train' or 'valid'")
        return self._read(split)

    def _read(self, split: str) -> Iterator[Document]:
        found = 0
        for path in self._shards[split]:
            for document in read_shard(path):
                found += 1
                yield document
        if found != self._counts[split]:
            raise FileError(
                f"{self.folder}: {found:,} {split} documents, its card says {self._counts[split]:,}; build it again"
            )

    def _count(self, split: str) -> int:
        counts = self._of(self._of(self.card, "splits", dict), split, dict)
        return int(self._of(counts, "documents", int))

    def _paths(self, split: str) -> list[Path]:
        listed = [shard for shard in self._of(self.card, "shards", list) if isinstance(shard, dict)]
        names = [shard.get("name") for shard in listed if shard.get("split") == split]
        paths = [inside(self.folder, name, self.folder / CARD) for name in names]
        for path in paths:
            if not path.is_file():
                raise FileError(f"{path}: no such file, though the card lists it; build the corpus again")
        return paths

    def _of(self, card: dict[str, Any], key: str, kind: type) -> Any:
        value = card.get(key)
        if not isinstance(value, kind):
            raise FileError(f"{self.folder / CARD}: {key!r} is {value!r:.60}, not what a card holds; build it again")
        return value


def load_corpus(folder: str | Path) -> Corpus:
    """Open a corpus folder; a missing, damaged or foreign one is a FileError."""
    return Corpus(folder)
