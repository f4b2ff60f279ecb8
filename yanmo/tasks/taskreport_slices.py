"""Where a model is good and where not: by length, by language, and without what training has seen.

In: examples, and the main figure as sums (`metrics.sums`). Out: rows for the page.

    by_length      quarters of the examples by the characters of their texts
    by_language    languages (corpus.language), or scripts where the extra [corpus] is not installed
    twins          examples whose text training has too: letter for letter, but for case, signs, digits and spaces, or
                   nearly (corpus/near.py)
    part           the figure of some rows with its interval
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yanmo.corpus import language
from yanmo.corpus.near import Shape, bands_of, signatures, similarity
from yanmo.errors import MissingExtra
from yanmo.tasks.examples import Example
from yanmo.tasks.metrics import Sums, part_interval
from yanmo.tasks.metrics_answers import is_chinese

FEW = 5  # examples; a figure of fewer says nothing
LISTED = 8  # languages
NAMES = {
    "": "unclear",
    "en": "English",
    "zh": "Chinese",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "ja": "Japanese",
}
NEAR = 0.7  # of the pairs of words of two texts (of three characters in a script without spaces), which both have
SHAPE = Shape(words=2, characters=3, bands=28, rows=4)  # short texts have few n-grams of more words
AT_ONCE = 20_000  # texts of training: signatures of 9 MB
JOINT = "\x1f"  # between the texts of an example; stands in none


@dataclass(frozen=True)
class Slice:
    """Some of the examples: their figure and its 95 % interval."""

    name: str
    count: int
    value: float
    low: float
    high: float


def part(name: str, sums: Sums, places: np.ndarray) -> Slice:
    """The figure of the rows at `places`."""
    own = Sums(sums.name, sums.rows[places], sums.formula, tuple(sums.groups[i] for i in places) if sums.groups else ())
    return Slice(name, len(places), own.value, *part_interval(own))


def by_length(gold: Sequence[Example], sums: Sums) -> list[Slice]:
    """Four parts of like size, the shortest texts first; fewer where many are of one length."""
    lengths = np.array([len(_whole(example)) for example in gold])
    edges = np.unique(np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1]).round().astype(int))
    if len(edges) < 3:
        return []
    out = []
    for first, (low, high) in enumerate(zip(edges, edges[1:])):
        places = np.flatnonzero((lengths >= low if first == 0 else lengths > low) & (lengths <= high))
        if len(places) >= FEW:
            name = f"{low if first == 0 else low + 1:,} to {high:,} characters"
            out.append(part(name, sums, places))
    return out


def by_language(gold: Sequence[Example], sums: Sums) -> tuple[list[Slice], str]:
    """The commonest languages, and how they were told."""
    told = "Languages are told by yanmo.corpus.language."
    try:
        codes = [language.identify(_whole(example))[0] for example in gold]
        names = [NAMES.get(code, code) for code in codes]
    except MissingExtra:
        names = ["Chinese characters" if is_chinese(_whole(example)) else "other letters" for example in gold]
        told = 'Told by their letters alone; languages need pip install "yanmo[corpus]".'
    common = [(name, count) for name, count in Counter(names).most_common(LISTED) if count >= FEW]
    array = np.array(names)
    return [part(name, sums, np.flatnonzero(array == name)) for name, _ in common], told


def _whole(example: Example) -> str:
    """The texts of an example, those that a model reads."""
    return JOINT.join(text for text in (example.question, example.text, example.text_pair) if text)


# --- what training has seen


@dataclass(frozen=True)
class Twins:
    """Places of examples whose text is in training as it is, of those that are but for signs, and of those nearly."""

    same: list[int]
    like: list[int]
    near: list[int]
    pairs: list[tuple[int, int, float]]  # place in gold, place in train, what they share: 1 of the same and the like


def twins(gold: Sequence[Example], train: Sequence[Example]) -> Twins:
    """Find them by their whole texts; an example without a letter has no twin by its letters."""
    theirs = [_whole(example) for example in train]
    exact = {text: place for place, text in reversed(list(enumerate(theirs)))}
    loose = {key: place for place, text in reversed(list(enumerate(theirs))) if (key := letters(text))}
    same, like, pairs, others = [], [], [], []
    for place, example in enumerate(gold):
        whole = _whole(example)
        if whole in exact:
            same.append(place)
            pairs.append((place, exact[whole], 1.0))
        elif (key := letters(whole)) and key in loose:
            like.append(place)
            pairs.append((place, loose[key], 1.0))
        elif key:
            others.append(place)
    found = _near([_whole(gold[place]) for place in others], theirs)
    near = [(others[place], *found[place]) for place in sorted(found)]
    return Twins(same, like, [place for place, _, _ in near], [*pairs, *near])


def _near(ours: Sequence[str], theirs: Sequence[str]) -> dict[int, tuple[int, float]]:
    """{place: (place in theirs, estimated share)} of texts of which at least NEAR of the n-grams are one of theirs."""
    found: dict[int, tuple[int, float]] = {}
    if not ours:
        return found
    own = signatures(ours, SHAPE)
    bands = bands_of(own, SHAPE)
    held: list[dict[int, list[int]]] = [{} for _ in range(SHAPE.bands)]
    for place, values in enumerate(bands.tolist()):
        for bucket, value in zip(held, values):
            bucket.setdefault(value, []).append(place)
    for begin in range(0, len(theirs), AT_ONCE):
        other = signatures(theirs[begin : begin + AT_ONCE], SHAPE)
        for band, values in enumerate(bands_of(other, SHAPE).T):
            for row in np.flatnonzero(np.isin(values, bands[:, band])).tolist():
                for place in held[band][int(values[row])]:
                    if place not in found and (share := float(similarity(own[place], other[row]))) >= NEAR:
                        found[place] = begin + row, share
    return found


def letters(text: str) -> str:
    """A text's letters alone, of one case and width; the border of two texts stays."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in plain if c.isalpha() or c == JOINT).strip(JOINT)
