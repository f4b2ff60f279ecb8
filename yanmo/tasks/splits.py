"""Examples → training and validation: groups stay together, labels keep their shares, no text stands on both sides.

    split      examples → (train, dev)
    folds      examples → k pairs of (train, dev), in which every example is in one dev

Examples of one group, and those with the same text (but for case and white space), are one unit. Where texts that many
articles share would tie most of these together ("LONDON 1996-08-30"), units are groups alone, and examples of train
with a text of dev are left out. Units are dealt in an order drawn by the seed, each to the side that lacks most of its
labels (after Sechidis et al., 2011, "On the Stratification of Multi-Label Data"). Training knows every label of dev.
The same examples and seed give the same sides on every machine.
"""

from __future__ import annotations

import dataclasses
import json
import random
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from yanmo.errors import InputError
from yanmo.tasks.examples import Example

TIED = 0.5  # of the smallest side: a unit beyond it is too large to be dealt well
BINS = 5  # of values to predict, which take the place of labels


@dataclass
class _Unit:
    """Examples that stay together: their places, and how often each label stands in them."""

    places: list[int]
    labels: Counter[str]


def split(examples: Sequence[Example], share: float = 0.1, seed: int = 0) -> tuple[list[Example], list[Example]]:
    """(train, dev) with about `share` of the examples in dev, both in their order. Raises InputError."""
    if not 0 < share < 1:
        raise InputError(f"the share of validation is {share}; it lies between 0 and 1")
    texts = _texts(examples, min(share, 1 - share))
    held = _deal(examples, texts, [1 - share, share], seed, train=0)
    return _sides(examples, texts, held[1])


def folds(examples: Sequence[Example], k: int = 5, seed: int = 0) -> list[tuple[list[Example], list[Example]]]:
    """k pairs of (train, dev) for cross-validation; InputError where there are fewer than k groups or texts."""
    if k < 2:
        raise InputError(f"cross-validation needs at least 2 folds, not {k}")
    texts = _texts(examples, 1 / k)
    held = _deal(examples, texts, [1 / k] * k, seed)
    return [_sides(examples, texts, places) for places in held]


def _sides(
    examples: Sequence[Example], texts: Sequence[str], places: Sequence[int]
) -> tuple[list[Example], list[Example]]:
    """Train and dev; what of train has a text of dev is left out."""
    known = {texts[place] for place in places}
    train = [example for example, text in zip(examples, texts) if text not in known]  # dev's own among the others
    if not train:
        raise InputError(
            f"all texts of {len(examples):,} examples stand in the validation too, and two sides are needed; give a "
            "validation file, or more examples"
        )
    return train, [examples[place] for place in places]


def _texts(examples: Sequence[Example], share: float) -> list[str]:
    """The text of each example; of pairs the first one alone (a premise), unless one of them stands in too many."""
    if any(example.text_pair is not None for example in examples):
        alone = [same_text(dataclasses.replace(example, text_pair=None)) for example in examples]
        if Counter(alone).most_common(1)[0][1] <= TIED * share * len(examples):
            return alone
    return [same_text(example) for example in examples]


def same_text(example: Example) -> str:
    """What must not stand on both sides: the text (of a conversation all that was said before its last answer)."""
    if example.messages:
        said = [m for m in example.messages if m.get("role") != "system"][:-1]
        text = json.dumps([m.get("content") for m in said], ensure_ascii=False, default=str)
    else:
        text = example.text if example.text_pair is None else f"{example.text}\0{example.text_pair}"
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def labels_of(example: Example) -> set[str]:
    """By what an example is dealt: its labels, the types in it, whether it has an answer; not of a value."""
    if example.labels is not None:
        return set(example.labels) or {""}
    found = {f"entity {span.type}" for span in example.entities or ()}
    found |= {f"relation {relation.type}" for relation in example.relations or ()}
    if example.answers is not None:
        found.add("answer" if example.answers else "no answer")
    return found or {""}


def _deal(
    examples: Sequence[Example], texts: Sequence[str], shares: Sequence[float], seed: int, train: int | None = None
) -> list[list[int]]:
    """The places of the examples on each side; `train` is the one that knows all labels of the others."""
    units = _units(examples, texts, by_text=True)
    grouped = any(example.group for example in examples)
    if grouped and max((len(unit.places) for unit in units), default=0) > TIED * min(shares) * len(examples):
        units = _units(examples, texts, by_text=False)
    if len(units) < len(shares):
        raise InputError(
            f"{len(examples):,} examples are of {len(units):,} group{'s' * (len(units) != 1)} or different texts, and "
            f"{len(shares)} sides are needed; give a validation file, or more examples"
        )
    random.Random(seed).shuffle(units)
    total: Counter[str] = Counter()
    for unit in units:
        total.update(unit.labels)
    lacking = [{label: share * count for label, count in total.items()} for share in shares]
    room = [share * len(examples) for share in shares]
    sides: list[list[_Unit]] = [[] for _ in shares]
    for unit in units:
        size = len(unit.places)
        # A unit that would overfill a side by more than half of itself goes there only if it does so everywhere
        fitting = [side for side in range(len(shares)) if room[side] >= size / 2] or range(len(shares))
        side = max(fitting, key=lambda side: (_need(unit, lacking[side]), room[side]))
        sides[side].append(unit)
        room[side] -= size
        for label, count in unit.labels.items():
            lacking[side][label] -= count
    _fill(sides)
    if train is not None:
        _known(sides, train)
    return [sorted(place for unit in side for place in unit.places) for side in sides]


def _need(unit: _Unit, lacking: dict[str, float]) -> float:
    return sum(count * lacking[label] for label, count in unit.labels.items())


def _fill(sides: list[list[_Unit]]) -> None:
    """Give an empty side the smallest unit of the side that has most."""
    for side in sides:
        if not side:
            giver = max(sides, key=lambda held: (len(held), sum(len(unit.places) for unit in held)))
            smallest = min(giver, key=lambda unit: len(unit.places))
            giver.remove(smallest)
            side.append(smallest)


def _known(sides: list[list[_Unit]], train: int) -> None:
    """Move what holds a label that the side of training lacks over to it, as long as something is left."""
    there = {label for unit in sides[train] for label in unit.labels}
    for number, side in enumerate(sides):
        for unit in list(side) if number != train else ():
            if len(side) > 1 and not there.issuperset(unit.labels):
                side.remove(unit)
                sides[train].append(unit)
                there.update(unit.labels)


def _units(examples: Sequence[Example], texts: Sequence[str], by_text: bool) -> list[_Unit]:
    """Examples that share a group or a text, and those that share one with these, and so on; by their first place.

    Without by_text, texts tie only examples without a group.
    """
    above = list(range(len(examples)))

    def top(place: int) -> int:
        while above[place] != place:
            above[place] = above[above[place]]
            place = above[place]
        return place

    first: dict[tuple[str, str], int] = {}
    for place, example in enumerate(examples):
        for key in _keys(example, texts[place], by_text):
            other = top(first.setdefault(key, place))
            mine = top(place)
            above[max(other, mine)] = min(other, mine)
    stand = _standing(examples)
    units: dict[int, _Unit] = {}
    for place in range(len(examples)):
        unit = units.setdefault(top(place), _Unit([], Counter()))
        unit.places.append(place)
        unit.labels.update(sorted(stand[place]))  # sums of shares depend on their order, a set's on the process
    return list(units.values())


def _keys(example: Example, text: str, by_text: bool) -> Iterable[tuple[str, str]]:
    if by_text or not example.group:
        yield "text", text
    if example.group:
        yield "group", example.group


def _standing(examples: Sequence[Example]) -> list[set[str]]:
    """The labels of each example; values fall into BINS of equal size."""
    values = sorted(example.value for example in examples if example.value is not None)
    if not values:
        return [labels_of(example) for example in examples]
    bounds = [values[len(values) * number // BINS] for number in range(1, BINS)]
    return [
        {f"bin {sum(example.value >= bound for bound in bounds)}"} if example.value is not None else {""}
        for example in examples
    ]
