"""A corpus folder, looked at: documents drawn at random, and what became of one that somebody misses.

In: a corpus folder. Out: documents, fates.

    draw      random documents, the same for the same seed
    why       the fates of everything of one id, address or title: kept, removed or failed, with the reason
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yanmo.corpus.documents import COLUMNS, Document
from yanmo.corpus.folder import SPLITS, Corpus
from yanmo.corpus.readers import MEANINGS
from yanmo.corpus.steps import REASONS
from yanmo.errors import FileError, InputError, need
from yanmo.files import inside, reason

FATES = "fates"
NAMES = ("id", "url", "title")


def draw(corpus: Corpus, number: int, seed: int = 0) -> list[Document]:
    """`number` documents, or all where there are fewer, each with the same chance; in the order of the corpus."""
    if number < 0:
        raise InputError(f"documents={number}: must be at least 0")
    total = sum(int(corpus.card["splits"][split]["documents"]) for split in SPLITS)
    wanted = sorted(random.Random(seed).sample(range(total), min(number, total)))
    found, start = [], 0
    for path, group, rows in _groups(corpus):
        here = [place - start for place in wanted if start <= place < start + rows]
        if here:
            values = _read(path, group, list(COLUMNS)).take(here).to_pylist()
            found += [Document(**{name: row[name] or "" for name in COLUMNS}) for row in values]
        start += rows
    return found


def _groups(corpus: Corpus) -> Iterator[tuple[Path, int, int]]:
    """Every row group of the shards: its file, number and rows."""
    for path in _shards(corpus):
        with _open(path) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        for group, rows in enumerate(sizes):
            yield path, group, rows


def _shards(corpus: Corpus) -> list[Path]:
    return [inside(corpus.folder, shard["name"], corpus.folder / "card.json") for shard in corpus.card["shards"]]


def _open(path: Path) -> Any:
    arrow = need("pyarrow", "corpus", "reading a corpus")
    parquet = need("pyarrow.parquet", "corpus", "reading a corpus")
    try:
        return parquet.ParquetFile(path)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise FileError(f"{path}: not a readable Parquet file ({reason(error)}); make the corpus again") from None


def _read(path: Path, group: int, columns: list[str]) -> Any:
    arrow = need("pyarrow", "corpus", "reading a corpus")
    with _open(path) as file:
        try:
            return file.read_row_group(group, columns=columns)
        except (arrow.ArrowException, OSError, ValueError, KeyError) as error:
            raise FileError(f"{path}: not a readable shard ({reason(error)}); make the corpus again") from None


def why(corpus: Corpus, name: str) -> list[dict[str, str]]:
    """What became of everything whose id, address or title is `name`: fate, reason, what, meaning, where it came from.

    Empty where nothing of this name came in. A corpus that keeps no fates knows of kept documents alone.
    """
    found = []
    for path, group, _ in _groups(corpus):
        for row in _named(_read(path, group, [*NAMES, "source"]), name):
            found.append(row | {"fate": "kept", "reason": "", "what": f"in {path.name}", "where": "", "meaning": ""})
    known = MEANINGS | REASONS
    for path in sorted((corpus.folder / FATES).glob("*.parquet")):
        with _open(path) as file:
            groups = file.num_row_groups
        for group in range(groups):
            for row in _named(_read(path, group, [*NAMES, "source", "where", "fate", "reason", "what"]), name):
                found.append(row | {"meaning": known.get(row["reason"], "")})
    return found


def _named(table: Any, name: str) -> list[dict[str, str]]:
    compute = need("pyarrow.compute", "corpus", "reading a corpus")
    mask = None
    for column in NAMES:
        same = compute.equal(table.column(column), name)
        mask = same if mask is None else compute.or_kleene(mask, same)
    rows: list[dict[str, str]] = table.filter(mask).to_pylist()
    return rows
