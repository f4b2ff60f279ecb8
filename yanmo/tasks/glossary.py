"""A glossary: which words of a source must be translated how, and which words must not be written.

In: a TSV file, source ⇥ target a line. Out: for a sentence its terms, as beam search takes them (inference/terms.py).

    read_glossary    file → Glossary; a bad line is named
    Glossary.found   sentence → the entries that count in it, with their places
    Glossary.of      sentence → the terms that it calls for
    ways             a term → the ways in which its tokens can stand in a text
    holds            whether a text has a term

A line "bank ⇥ Ufer" asks for Ufer wherever the source has bank; "bank ⇥ !Bank" forbids Bank there, and a line without
a source, "⇥ !Bank", everywhere. Empty lines are skipped. Words are found whole, whatever their case; Chinese, which has
no spaces, anywhere. Of two entries that overlap the longer one counts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from yanmo.errors import InputError
from yanmo.files import read_text
from yanmo.inference.terms import Terms, Way
from yanmo.tokens.tokenizer import Tokenizer

LIMIT = 1 << 26  # bytes of a glossary
LETTER = re.compile(r"[^\W\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]")  # of a script with spaces
BEFORE = ("", " ", "a ", "中", "(")  # what may stand before a term and change how it is cut into tokens


@dataclass(frozen=True)
class Entry:
    """source "": everywhere."""

    source: str
    target: str
    forbidden: bool


@dataclass(frozen=True)
class Called:
    """What a sentence calls for, in its order."""

    wanted: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class Glossary:
    """Entries, those with the longest source first."""

    entries: tuple[Entry, ...]

    def of(self, sentence: str) -> Called:
        """The terms of a sentence; one that stands in it twice is called for once."""
        wanted: dict[str, int] = {}
        forbidden: dict[str, int] = {}
        for entry, place in self.found(sentence):
            (forbidden if entry.forbidden else wanted).setdefault(entry.target, place[0])
        return Called(tuple(sorted(wanted, key=wanted.__getitem__)), tuple(forbidden))

    def found(self, sentence: str) -> Iterator[tuple[Entry, tuple[int, int]]]:
        """The entries whose source stands in a sentence, each place of it, and those for everywhere at (0, 0)."""
        taken: dict[tuple[int, int], str] = {}
        for entry in self.entries:
            places = [match.span() for match in _pattern(entry.source).finditer(sentence)] if entry.source else [(0, 0)]
            for place in places:
                within = any(a < place[1] and place[0] < b and key != entry.source for (a, b), key in taken.items())
                if within:
                    continue
                if entry.source:
                    taken[place] = entry.source
                yield entry, place


def read_glossary(path: str | Path) -> Glossary:
    """Read a glossary; a line that is no entry, or a term both wanted and forbidden for a source, is an InputError."""
    entries: dict[tuple[str, str], Entry] = {}
    for number, line in enumerate(read_text(str(path), LIMIT).splitlines(), start=1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != 2:
            raise InputError(f"{path}:{number}: {len(cells)} columns, two are needed: source, a tab, target")
        source, target = cells
        forbidden = target.startswith("!")
        target = target.removeprefix("!").strip()
        if not target:
            raise InputError(f"{path}:{number}: no target; write the translation, or ! and the word to avoid")
        if not source and not forbidden:
            raise InputError(
                f"{path}:{number}: no source, so {target!r} would stand in every sentence; name its source"
            )
        known = entries.setdefault((source, target), Entry(source, target, forbidden))
        if known.forbidden != forbidden:
            raise InputError(f"{path}:{number}: {target!r} is wanted and forbidden for {source!r}; remove one line")
    if not entries:
        raise InputError(f"{path}: no entries; write lines of source, a tab, target")
    return Glossary(tuple(sorted(entries.values(), key=lambda entry: -len(entry.source))))


def terms_of(tokenizer: Tokenizer, called: Called, size: int) -> Terms:
    """Terms for beam search over a vocabulary of `size` ids; one that the vocabulary cannot spell is left out there."""
    wanted = [ways(tokenizer, term, size) for term in called.wanted]
    forbidden = [way for term in called.forbidden for way in ways(tokenizer, term, size)]
    return Terms(tuple(tuple(w) for w in wanted if w), tuple(forbidden))


def ways(tokenizer: Tokenizer, term: str, size: int) -> list[Way]:
    """The tokens of a term at the beginning of a text, after a space, after a character, as it is and capitalised."""
    found: dict[Way, None] = {}
    for word in dict.fromkeys((term, term[:1].upper() + term[1:])):
        for before in BEFORE:
            head = tokenizer.encode(before.rstrip(" "), add_special_tokens=False, target=True) if before.strip() else []
            whole = tokenizer.encode(before + word, add_special_tokens=False, target=True)
            rest = tuple(whole[len(head) :])
            same = whole[: len(head)] == head and tokenizer.decode([*head, *rest]).strip() == (before + word).strip()
            if same and rest and max(rest) < size:
                found[rest] = None
    return list(found)


def holds(text: str, term: str, *, whole: bool = False) -> bool:
    """Whether a text has a term, whatever its case, at the beginning of a word; whole: and to the end of one.

    Without `whole` a word may have an ending: Hund is in "Hundes".
    """
    return (_pattern(term) if whole else _pattern(term, open_end=True)).search(text) is not None


@functools.lru_cache(maxsize=1 << 16)  # a pattern of thousands of terms costs more than all searches with it
def _pattern(term: str, open_end: bool = False) -> re.Pattern[str]:
    left = r"(?<![^\W\u2e80-\u9fff])" if LETTER.match(term[0]) else ""
    right = r"(?![^\W\u2e80-\u9fff])" if LETTER.match(term[-1]) and not open_end else ""
    return re.compile(f"{left}(?i:{re.escape(term)}){right}")
