"""Contamination: does a text hold items of evaluation sets that the user names?

    index                     files of evaluation sets → Index
    overlap                   text, Index → [(set, item, share)], the largest share first
    overlaps                  the same for many texts at once
    items                     one file → its items as texts

An item is a row: a JSON object of a JSONL file, an element of a JSON list, a row of a TSV, CSV or Parquet file, a line
of any other text; what it says is its texts, one below the other. It is the set of its 13-grams of words, or of 21
characters in a script without spaces; an item shorter than that, from 8 words on, is one n-gram as a whole (GPT-3's
choice; T. Brown et al., 2020, appendix C). `share` is how much of this set the text holds. Case and punctuation never
count. Hashes of 64 bits stand for n-grams.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yanmo.corpus.characters import mix
from yanmo.corpus.records import read_records
from yanmo.corpus.words import Tokens, batches, characters_for, ngrams, tokenise
from yanmo.errors import FileError, InputError
from yanmo.files import reason

WORDS = 13
MIN_WORDS = 8
MAX_BYTES = 1 << 30  # of one evaluation set, unpacked
TABLE_BITS = 20  # a first look: one bit for the lowest bits of each hash

Found = tuple[str, int, float]


@dataclass(frozen=True)
class Index:
    """The n-grams of all items; `grams` holds for each width (in words or characters) sorted hashes and their items."""

    sets: tuple[str, ...]  # names of the sets
    owners: np.ndarray  # (items,) int64: the set of each item
    numbers: np.ndarray  # (items,) int64: its place in its set, from 0
    totals: np.ndarray  # (items,) int64: its different n-grams
    grams: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]  # width → hashes, items, table of the first look
    skipped: int  # items too short to look for

    def __len__(self) -> int:
        return len(self.totals)


def index(paths: Sequence[str | Path]) -> Index:
    """Read evaluation sets; FileError for one that cannot be read, InputError where none has an item long enough."""
    entries: dict[int, list[np.ndarray]] = defaultdict(list)
    holders: dict[int, list[np.ndarray]] = defaultdict(list)
    owners: list[int] = []
    numbers: list[int] = []
    totals: list[int] = []
    skipped = 0
    for which, path in enumerate(paths):
        for number, text in enumerate(items(path)):
            width, hashed = _item(tokenise([text]))
            if not len(hashed):
                skipped += 1
                continue
            entries[width].append(hashed)
            holders[width].append(np.full(len(hashed), len(totals), np.int64))
            owners.append(which)
            numbers.append(number)
            totals.append(len(hashed))
    if not totals:
        raise InputError(f"no item of {MIN_WORDS} words or more in {len(paths)} evaluation sets; name others")
    grams = {}
    for width in sorted(entries):
        hashes, of = np.concatenate(entries[width]), np.concatenate(holders[width])
        order = np.lexsort((of, hashes))
        table = np.zeros(1 << TABLE_BITS, bool)
        table[hashes & np.uint64(len(table) - 1)] = True
        grams[width] = hashes[order], of[order], table
    names = tuple(Path(path).name for path in paths)
    return Index(names, np.array(owners), np.array(numbers), np.array(totals), grams, skipped)


def _item(tokens: Tokens) -> tuple[int, np.ndarray]:
    """The width of an item's n-grams, and the hashes of all different ones: none where it is too short."""
    words = len(tokens.hashes)
    spaceless = bool(tokens.spaceless[0])
    full, least = (characters_for(WORDS), characters_for(MIN_WORDS)) if spaceless else (WORDS, MIN_WORDS)
    width = min(words, full)
    if width < least:
        return 0, np.empty(0, np.uint64)
    return width, np.unique(mix(ngrams(tokens.hashes, width)))


def overlap(text: str, found: Index, least: float = 0.0) -> list[Found]:
    """The items of which the text holds a share above `least`: (set, number of the item in it, share)."""
    return overlaps([text], found, least)[0]


def overlaps(texts: Sequence[str], found: Index, least: float = 0.0) -> list[list[Found]]:
    """`overlap` of each text."""
    result: list[list[Found]] = []
    for batch in batches(texts):
        result += _overlaps(tokenise(batch), found, least)
    return result


def _overlaps(tokens: Tokens, found: Index, least: float) -> list[list[Found]]:
    pairs = []
    begun: tuple[int, np.ndarray] | None = None
    for width, (hashes, of, table) in found.grams.items():
        begun = width, ngrams(tokens.hashes, width, begun)
        grams = mix(begun[1])
        places = np.flatnonzero(table[grams & np.uint64(len(table) - 1)])
        first = np.searchsorted(hashes, grams[places])
        held = hashes[np.minimum(first, len(hashes) - 1)] == grams[places]
        places, first = places[held], first[held]
        owner = np.searchsorted(tokens.words, places, side="right") - 1
        inside = places + width <= tokens.words[owner + 1]
        places, first, owner = places[inside], first[inside], owner[inside]
        last = np.searchsorted(hashes, grams[places], side="right")
        for text, start, end in zip(owner.tolist(), first.tolist(), last.tolist()):
            pairs += [(text, item, start) for item in of[start:end].tolist()]
    counts: dict[tuple[int, int], int] = defaultdict(int)
    for text, item, _ in set(pairs):
        counts[text, item] += 1
    result: list[list[Found]] = [[] for _ in range(len(tokens))]
    for (text, item), count in counts.items():
        share = count / int(found.totals[item])
        if share > least:
            result[text].append((found.sets[found.owners[item]], int(found.numbers[item]), share))
    return [sorted(each, key=lambda one: (-one[2], one[0], one[1])) for each in result]


def items(path: str | Path) -> Iterator[str]:
    """The items of one file: .parquet, .jsonl, .json, .tsv, .csv or text, each also with .gz behind."""
    path = Path(path)
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    try:
        if kind in ("parquet", "jsonl", "ndjson"):
            for record in read_records([path]):
                yield "\n".join(_strings(record.values))
            return
        text = _read(path)
        if kind == "json":
            yield from _json(text)
        elif kind in ("tsv", "csv"):
            for row in csv.reader(io.StringIO(text), delimiter="\t" if kind == "tsv" else ","):
                yield "\n".join(row)
        else:
            yield from text.splitlines()
    except FileError:
        raise
    except (OSError, ValueError, RecursionError, MemoryError, EOFError, zlib.error, csv.Error) as error:
        raise FileError(
            f"{path}: no readable evaluation set ({reason(error)}); give JSONL, TSV, text or Parquet"
        ) from None


def _read(path: Path) -> str:
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES:,} bytes")
    return data.decode("utf-8-sig")


def _json(text: str) -> Iterator[str]:
    """A list's elements, or those of the longest list within an object; else one object a line."""
    try:
        value = json.loads(text)
    except ValueError:
        for line in text.splitlines():
            if line.strip():
                yield "\n".join(_strings(json.loads(line)))
        return
    if isinstance(value, dict):
        lists = [each for each in value.values() if isinstance(each, list)]
        value = max(lists, key=len) if lists else [value]
    for each in value if isinstance(value, list) else [value]:
        yield "\n".join(_strings(each))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)
