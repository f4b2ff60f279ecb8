"""Entities and relations without a model.

    extract     both, by what the training examples have
    entities    "names": the longest match of names seen in training, each with its commonest type
                "window": logistic regression over each word (character of Chinese) and its neighbours
    relations   "majority": the commonest relation of two types of entities, or none
                "TF-IDF": logistic regression over the words before, between and behind two entities

Relations stand between given entities where every row has two, else between those that "names" finds.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from yanmo.errors import need
from yanmo.tasks.baselines_answers import Token
from yanmo.tasks.examples import Example, Relation, Span
from yanmo.tasks.metrics_rows import NONE

Row = dict[str, Any]

PURPOSE = "a baseline"
EPOCHS = 5
LEARNED = 300_000  # tokens from which the window learns; more cost minutes and bring little
FAR = 60  # entities of a row that are paired, so that a long document stays cheap
PIECES = re.compile(r"[㐀-鿿]|\w+|[^\w\s]")
WORD = re.compile(r"[^\W㐀-鿿]")  # what a name may not continue into


def extract(
    train: Sequence[Example], dev: Sequence[Example], find_entities: bool | None = None
) -> dict[str, list[Row]]:
    """Predictions of every baseline; None for `find_entities`: unless every row with relations has two."""
    if all(example.relations is None for example in train):
        return entities(train, dev)
    if find_entities is None:
        asked = (example for example in (*train, *dev) if example.relations is not None)
        find_entities = any(len(example.entities or ()) != 2 for example in asked)
    if not find_entities:
        return relations(train, dev, [list(example.entities or ()) for example in dev])
    found = entities(train, dev)["names"]
    given = [[Span(one["type"], one["start"], one["end"]) for one in row["entities"]] for row in found]
    related = relations(train, dev, given)
    return {name: [row | {"entities": f["entities"]} for row, f in zip(rows, found)] for name, rows in related.items()}


# --- entities


def entities(train: Sequence[Example], dev: Sequence[Example]) -> dict[str, list[Row]]:
    """Names seen in training, and a logistic regression over windows."""
    return {"names": names(train, dev), "window": window(train, dev)}


def names(train: Sequence[Example], dev: Sequence[Example]) -> list[Row]:
    """The longest names from left to right, at the borders of words."""
    known: dict[str, Counter[str]] = defaultdict(Counter)
    for example in train:
        for span in example.entities or ():
            known[example.text[span.start : span.end]][span.type] += 1
    types = {
        name: min(counts.most_common(), key=lambda kv: (-kv[1], kv[0]))[0] for name, counts in known.items() if name
    }
    found: dict[str, set[int]] = defaultdict(set)
    for name in types:
        found[name[0]].add(len(name))
    lengths = {first: sorted(each, reverse=True) for first, each in found.items()}
    return [_row(example, list(_matches(example.text, types, lengths))) for example in dev]


def _matches(text: str, types: dict[str, str], lengths: dict[str, list[int]]) -> Iterator[Span]:
    at = 0
    while at < len(text):
        for length in lengths.get(text[at], ()):
            name = text[at : at + length]
            if name in types and _bordered(text, at, at + length):
                yield Span(types[name], at, at + length)
                at += length - 1
                break
        at += 1


def _bordered(text: str, start: int, end: int) -> bool:
    """Whether a span does not begin or end within a word."""
    left = start > 0 and WORD.match(text[start - 1]) and WORD.match(text[start])
    right = end < len(text) and WORD.match(text[end - 1]) and WORD.match(text[end])
    return not left and not right


def _row(example: Example, found: Sequence[Span]) -> Row:
    listed = [{"type": s.type, "start": s.start, "end": s.end, "text": example.text[s.start : s.end]} for s in found]
    return {"id": example.id, "entities": listed}


def window(train: Sequence[Example], dev: Sequence[Example]) -> list[Row]:
    """Tags of words by their neighbours; where spans lie inside one another the longest is learned."""
    hashing = need("sklearn.feature_extraction", "tasks", PURPOSE).FeatureHasher(2**18, input_type="string")
    linear = need("sklearn.linear_model", "tasks", PURPOSE)
    inputs: list[list[str]] = []
    tags: list[str] = []
    for example in train:
        pieces = _pieces(example.text)
        inputs += _described(pieces)
        tags += _tags(pieces, example.entities or ())
        if len(inputs) >= LEARNED:
            break
    if len(set(tags)) < 2:
        return [_row(example, []) for example in dev]
    model = linear.SGDClassifier(loss="log_loss", alpha=1e-6, random_state=0, max_iter=EPOCHS, tol=None)
    model.fit(hashing.transform(inputs), tags)
    cut = [_pieces(example.text) for example in dev]
    asked = [line for pieces in cut for line in _described(pieces)]
    said = iter(model.predict(hashing.transform(asked)).tolist() if asked else [])
    out = []
    for example, pieces in zip(dev, cut):
        spans = _joined(pieces, list(itertools.islice(said, len(pieces))))
        out.append(_row(example, spans))
    return out


def _pieces(text: str) -> list[Token]:
    return [(one.group(), one.start(), one.end()) for one in PIECES.finditer(text)]


def _described(pieces: Sequence[Token]) -> list[list[str]]:
    words = ["<", "<", *(word for word, _, _ in pieces), ">", ">"]
    out = []
    for i in range(2, len(words) - 2):
        near = [f"{j}={words[i + j]}" for j in (-2, -1, 0, 1, 2)]
        pairs = [f"{j}&={words[i + j]} {words[i + j + 1]}" for j in (-1, 0)]
        word = words[i]
        out.append([*near, *pairs, f"shape={_shape(word)}", f"end={word[-3:]}", f"begin={word[:3]}"])
    return out


def _shape(word: str) -> str:
    """Capitals, small letters and digits, each run as one: "Xx" of "Paris"."""
    kinds = "".join("X" if c.isupper() else "x" if c.islower() else "0" if c.isdigit() else c for c in word)
    return re.sub(r"(.)\1+", r"\1", kinds)


def _tags(pieces: Sequence[Token], spans: Sequence[Span]) -> list[str]:
    out = ["O"] * len(pieces)
    for span in sorted(spans, key=lambda s: s.end - s.start):  # the longest is written last
        inside = [i for i, (_, start, end) in enumerate(pieces) if span.start <= start and end <= span.end]
        for i in inside:
            out[i] = f"{'B' if i == inside[0] else 'I'}-{span.type}"
    return out


def _joined(pieces: Sequence[Token], tags: Sequence[str]) -> list[Span]:
    out: list[Span] = []
    kind = ""
    for (_, start, end), tag in zip(pieces, tags):
        begins, _, name = tag.partition("-")
        if begins == "I" and name == kind:
            out[-1] = Span(name, out[-1].start, end)
        elif begins in "BI":
            out.append(Span(name, start, end))
        kind = name
    return out


# --- relations


def relations(
    train: Sequence[Example], dev: Sequence[Example], given: Sequence[Sequence[Span]]
) -> dict[str, list[Row]]:
    """The commonest relation of two types, and a logistic regression over the words around them."""
    from yanmo.tasks.baselines import fitted, logistic

    learned = [(example, *pair) for example in train for pair in _pairs(example.entities or ())]
    labels = [_label(example, head, tail) for example, head, tail in learned]
    by_types: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (example, head, tail), label in zip(learned, labels):
        by_types[_types(example.entities or (), head, tail)][label] += 1
    common = {types: counts.most_common(1)[0][0] for types, counts in by_types.items()}
    asked = [(i, *pair) for i, spans in enumerate(given) for pair in _pairs(spans)]
    majority = [common.get(_types(given[i], head, tail), "") for i, head, tail in asked]
    said = [""] * len(asked)
    if learned and asked:
        texts = [_around(example.text, example.entities or (), head, tail) for example, head, tail in learned]
        model, left = fitted(texts)
        right = model.transform([_around(dev[i].text, given[i], head, tail) for i, head, tail in asked])
        classes, found = logistic(left, labels, right)
        said = [classes[place] for place in found.argmax(1)]
    return {"majority": _related(dev, asked, majority), "TF-IDF": _related(dev, asked, said)}


def _pairs(spans: Sequence[Span]) -> Iterator[tuple[int, int]]:
    """Each unordered pair once; the label says the direction."""
    count = min(len(spans), FAR)
    return ((i, j) for i in range(count) for j in range(i + 1, count))


def _label(example: Example, first: int, second: int) -> str:
    """The relation between two entities with its direction, "" for none."""
    for one in example.relations or ():
        if {one.head, one.tail} == {first, second} and one.type not in NONE:
            return ("> " if one.head == first else "< ") + one.type
    return ""


def _types(spans: Sequence[Span], first: int, second: int) -> tuple[str, str]:
    return spans[first].type, spans[second].type


def _around(text: str, spans: Sequence[Span], first: int, second: int) -> str:
    """The words of a pair as one text, each marked with where it stands."""
    left, right = sorted((spans[first], spans[second]), key=lambda s: (s.start, s.end))
    parts = {
        "b": text[max(left.start - 30, 0) : left.start],
        "h": text[left.start : left.end],
        "m": text[left.end : right.start][:200],
        "t": text[right.start : right.end],
        "e": text[right.end : right.end + 30],
    }
    marked = [f"{where}{word}" for where, part in parts.items() for word in (w for w, _, _ in _pieces(part))]
    turned = "turned" if spans[first].start > spans[second].start else "straight"
    return " ".join([turned, f"types{spans[first].type}_{spans[second].type}", *marked])


def _related(dev: Sequence[Example], asked: Sequence[tuple[int, int, int]], labels: Sequence[str]) -> list[Row]:
    out: list[Row] = [{"id": example.id, "relations": []} for example in dev]
    for (i, first, second), label in zip(asked, labels):
        if label:
            relation = Relation(label[2:], first, second) if label[0] == ">" else Relation(label[2:], second, first)
            out[i]["relations"].append({"type": relation.type, "head": relation.head, "tail": relation.tail})
    return out
