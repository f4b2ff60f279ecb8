"""A corpus folder: train-*.parquet and valid-*.parquet, card.json, README.md, opened again.

Corpus, load_corpus       a corpus folder and its documents
check_place               may a corpus be written here?
cut_in_two                the only document of a corpus → one for training, one for validation
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yanmo.corpus.clean import clean
from yanmo.corpus.documents import Document, read_shard
from yanmo.corpus.sources import CARD
from yanmo.corpus.text import border
from yanmo.errors import FileError, InputError
from yanmo.files import inside, read_json_object

FORMAT = "yanmo-corpus-1"
README = "README.md"
SPLITS = ("train", "valid")
CUT = "The only document was cut in two at a paragraph border, so training and validation come from the same text."


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


def check_place(out: Path) -> None:
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
