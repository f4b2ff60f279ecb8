"""What must hold of training and validation data together, told before anything is trained.

check       raises one sentence: a label or type only in validation, a class without examples, one class alone,
            values beside labels, entities or questions without what is to be learnt
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from yanmo.errors import InputError
from yanmo.tasks.examples import Bad, Data, Example
from yanmo.tasks.reading_files import short

Named = Callable[[Example], Iterable[str]]


def check(train: Data, dev: Data | None = None, *, skip_bad: bool = False, part: str = "validation") -> None:
    """Refuse data that cannot be learnt or judged; with skip_bad, rows of dev that train does not know are left out.

    part: what dev is, for messages.
    """
    task = train.understood.task
    if not train.examples:
        raise InputError("there are no training examples; name a file with some")
    if task == "classify":
        _kinds(train, dev)
    for what, names in _named(task):
        known = {name for example in train.examples for name in names(example)}
        if dev is not None and known:
            _known(what, names, known, dev, skip_bad)
    if task == "classify" and train.examples[0].value is None:
        _classes(train)
    if task == "extract":
        _something(train, "entity", lambda example: example.entities is not None)
    if task == "answer":
        _something(train, "answer", lambda example: example.answers is not None)
    if task == "translate":
        _something(train, "translation", lambda example: example.target is not None)
    if dev is not None and not dev.examples:
        instead = "a part of training" if part == "validation" else "validation"
        raise InputError(f"no {part} example is left; leave the file out, and {instead} is taken")


def _named(task: str) -> list[tuple[str, Named]]:
    if task == "classify":
        return [("label", lambda example: example.labels or ())]
    if task == "extract":
        return [
            ("entity type", lambda example: [span.type for span in example.entities or ()]),
            ("relation", lambda example: [relation.type for relation in example.relations or ()]),
        ]
    return []


def _kinds(train: Data, dev: Data | None) -> None:
    """Labels and values do not stand beside each other."""
    held = [*train.examples, *(dev.examples if dev is not None else ())]
    first = held[0]
    for example in held:
        if (example.value is None) != (first.value is None):
            a, b = (example, first) if example.value is not None else (first, example)
            raise InputError(
                f"{a.where} has a number to predict and {b.where} has a label; name one column, as label or as value"
            )
        if (example.text_pair is None) != (first.text_pair is None):
            a, b = (example, first) if example.text_pair is not None else (first, example)
            raise InputError(f"{a.where} has two texts and {b.where} has one; name the columns of the texts")


def _known(what: str, names: Named, known: set[str], dev: Data, skip_bad: bool) -> None:
    kept: list[Example] = []
    for example in dev.examples:
        strange = next((name for name in names(example) if name not in known), None)
        if strange is None:
            kept.append(example)
        elif skip_bad:
            dev.bad.append(Bad(example.where, f"no training example has its {what} {short(strange)}"))
        else:
            total = sum(strange in names(other) for other in dev.examples)
            raise InputError(
                f"{example.where}: no training example has its {what} {short(strange)} ({total:,} rows here have it; "
                f"training knows {_listed(known)}); add examples, or leave such rows out with --skip-bad"
            )
    dev.examples = kept


def _classes(train: Data) -> None:
    counts: dict[str, int] = {}
    for example in train.examples:
        for label in example.labels or ():
            counts[label] = counts.get(label, 0) + 1
    empty = next((name for name in train.understood.classes if name not in counts), None)
    if empty is not None:
        raise InputError(
            f"the class {short(empty)} has no training example; add some, or take its name out of the names"
        )
    one_each = all(len(example.labels or ()) == 1 for example in train.examples)
    if not counts or (one_each and len(counts) < 2):
        only = (
            f"all {len(train.examples):,} have the label {short(next(iter(counts)))}" if counts else "none has a label"
        )
        raise InputError(f"of the training examples {only}; at least two classes are needed")
    if one_each and len(counts) == len(train.examples) > 2:
        raise InputError(
            f"each of the {len(counts):,} training examples has a label of its own, as "
            f"{train.examples[0].where} has {short(next(iter(counts)))}; name the column of the labels"
        )


def _something(train: Data, what: str, has: Callable[[Example], bool]) -> None:
    without = next((example for example in train.examples if not has(example)), None)
    if without is not None:
        raise InputError(f"{without.where}: it has no {what} to learn from; give data with its answers")
    if what == "entity" and not any(example.entities for example in train.examples):
        raise InputError(f"no entity is in any of the {len(train.examples):,} training examples; check the tags")


def _listed(known: set[str]) -> str:
    names = ", ".join(map(short, sorted(known)[:8]))
    return names if len(known) <= 8 else f"{names} and {len(known) - 8:,} more"
