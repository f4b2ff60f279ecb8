"""What a network is trained to find in texts, the loss of it, and the finding.

In: texts as tokens (tokenrows.py), entities and relations of examples. Out: documents to learn from, a loss, and the
entities and relations of texts.

    Job               what is found: as a model's task.json keeps it; job_of: of a model that was not trained here
    entity_documents  texts → their windows, each id with the target of its cell
    pair_documents    texts → one marked row for each pair that is asked
    task_loss         the loss of a batch of both
    find_entities     network, texts → entities
    find_relations    network, texts with entities → relations
    entity_loss, pair_loss    the loss of what was scored so

Targets of ids: from 0 a tag or the spans that begin there, SECOND at the second mark of a pair, FIRST − class at the
first; −100 for none. The head's columns are those of entities, then those of relations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from yanmo.errors import InputError
from yanmo.tasks import nested, relating
from yanmo.tasks.crf import Chain, best, chain_loss, padded
from yanmo.tasks.examples import Example, Relation, Span
from yanmo.tasks.relating import Class, Relating
from yanmo.tasks.tagging import Placed, Tags, flat
from yanmo.tasks.tokenrows import Frame, Text, merged, scored, windowed
from yanmo.tokens.batches import NO_TARGET
from yanmo.tokens.labelled import Document, LabelBatch
from yanmo.training.labels import label_hidden

SECOND, FIRST = -999, -1000  # targets at the second mark, and at the first: FIRST − class
PAIR = 4.0  # cells that a pair counts as much as


@dataclass(frozen=True)
class Job:
    """What a model finds.

    types: of entities; none where entities are always given. words: whether cells are words. crf: whether steps between
    tags are learned. widest: cells of a nested entity at most. length, stride: of windows, in tokens. columns: where
    the head has the columns of tags, of a model that was not trained here; none: in front, in their order.
    """

    types: tuple[str, ...]
    nested: bool
    crf: bool
    words: bool
    widest: int
    length: int
    stride: int
    relating: Relating | None
    columns: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Columns of the head that say what entities there are."""
        return len(entity_columns(self.types, self.nested))

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        values = asdict(self) | {"types": list(self.types)}
        return values | {"relating": None if self.relating is None else self.relating.as_dict()}


def job_from(values: dict[str, Any]) -> Job:
    """The same from JSON."""
    known = values["relating"]
    own = {name: values[name] for name in Job.__dataclass_fields__}
    own |= {"types": tuple(values["types"]), "columns": tuple(values["columns"])}
    return Job(**own | {"relating": None if known is None else relating.from_dict(known)})


def job_of(labels: Sequence[str], length: int, stride: int) -> Job:
    """The job of a head of labels that was not trained here: B-, I- and O, or the like, of words by their first token.

    Each sequence of such tags is one of ours, so that B stands for begin and single, I for inside and end.
    """
    place = {label: number for number, label in enumerate(labels)}
    types = tuple(sorted({label[2:] for label in labels if label[:2] in ("B-", "I-")}))

    def column(kind: str, marks: str, other: int) -> int:
        return next((place[f"{mark}-{kind}"] for mark in marks if f"{mark}-{kind}" in place), other)

    if "O" not in place or not types:
        raise InputError(
            f"the model's labels ({', '.join(labels[:6])}{' …' if len(labels) > 6 else ''}) are no tags of entities; "
            "B-, I- and O are needed"
        )
    columns = [place["O"]]
    for kind in types:
        inside = column(kind, "IMB", 0)  # BMES has M for I, BILOU has L and U for E and S
        begin = column(kind, "B", inside)
        columns += [begin, inside, column(kind, "EL", inside), column(kind, "SU", begin)]
    return Job(types, False, False, True, 1, length, stride, None, tuple(columns))


def entity_columns(types: tuple[str, ...], is_nested: bool) -> tuple[str, ...]:
    """The names of the head's columns for entities."""
    if not types:
        return ()
    return nested.names(types) if is_nested else Tags(types).names


def relation_columns(classes: Sequence[Class]) -> tuple[str, ...]:
    """The names of the head's columns for relations: of every class at the first mark, and at the second."""
    each = ["none", *(f"{one.type}({'1,2' if one.forward else '2,1'})" for one in classes)] if classes else []
    return (*(f"first:{name}" for name in each), *(f"second:{name}" for name in each))


# --- documents


def entity_documents(job: Job, text: Text, found: Sequence[Placed], around: Frame) -> tuple[list[Document], int]:
    """(the windows of a text; how many entities are not learned). Cells of an entity that a window cuts have no target
    there, nor have those of an entity that shares some with it: what begins in a cell must end in one that is there."""
    if job.nested:
        targets, lost = nested.encode(found, len(text.cells), job.types)
    else:
        targets, lost = Tags(job.types).encode(found, len(text.cells)), 0
    places = np.array([cell.token for cell in text.cells], np.int64)
    rows = []
    for begin, end in windowed(text, around):
        own = np.where((places >= begin) & (places < end), targets, NO_TARGET)
        near = [(a, b) for _, a, b in found if places[b] >= begin and places[a] < end]
        while cut := [(a, b) for a, b in near if (own[a : b + 1] == NO_TARGET).any()]:
            near = [one for one in near if one not in cut]
            for first, last in cut:
                own[first : last + 1] = NO_TARGET
        label = np.full(len(around.before) + end - begin + len(around.behind), NO_TARGET, np.int64)
        kept = own != NO_TARGET
        label[len(around.before) + places[kept] - begin] = own[kept]
        rows.append(Document([*around.before, *text.ids[begin:end], *around.behind], label))
    return rows, lost


def pair_documents(job: Job, text: Text, example: Example, around: Frame) -> tuple[list[Document], int]:
    """(the marked rows of a text's pairs; how many relations no row learns)."""
    assert job.relating is not None
    entities, relations = example.entities or (), example.relations or ()
    pairs = relating.asked(job.relating, text, entities, around)
    rows = []
    for pair in pairs:
        ids, first, second = relating.marked(job.relating, text, entities, pair, around)
        label = np.full(len(ids), NO_TARGET, np.int64)
        label[first], label[second] = FIRST - relating.right(job.relating, relations, pair), SECOND
        rows.append(Document(ids, label))
    return rows, relating.unsaid(relations, pairs)


# --- the loss


def task_loss(network: Any, batch: LabelBatch, job: Job, chain: Chain) -> tuple[Tensor, int]:
    """Return the loss summed over cells and pairs, and the number that it is divided by; `chain`: what is legal."""
    scores = network.scores(label_hidden(network, batch), batch.ids, batch.mask)
    targets = batch.targets
    total, count = scores.sum().float() * 0, 0.0
    inside = targets >= 0
    if bool(inside.any()):
        loss, cells = _entity_loss(network, scores[inside][:, : job.width].float(), batch, inside, job, chain)
        total, count = total + loss, count + cells
    first = targets <= FIRST
    if bool(first.any()):
        assert job.relating is not None
        left, right = scores[..., job.width :].chunk(2, -1)
        both = left[first].float() + right[targets == SECOND].float()
        weight = PAIR if job.types else 1.0
        total = total + weight * F.cross_entropy(both, FIRST - targets[first], reduction="sum")
        count += weight * len(both)
    return total, round(count)


def _entity_loss(
    network: Any, scores: Tensor, batch: LabelBatch, inside: Tensor, job: Job, chain: Chain
) -> tuple[Tensor, int]:
    """The loss of the cells (N, columns) of a batch, text by text where they are read together."""
    targets = batch.targets[inside]
    if not job.nested and not job.crf:
        return F.cross_entropy(scores, targets, reduction="sum"), len(targets)
    rows = torch.arange(len(batch.mask), device=scores.device)[:, None] * (int(batch.mask.max()) + 1)
    sizes = torch.unique_consecutive((batch.mask + rows)[inside], return_counts=True)[1].tolist()
    texts, wanted = list(scores.split(sizes)), list(targets.split(sizes))
    if job.nested:
        return nested.loss(texts, wanted)
    held, lengths = padded(texts)
    tags = torch.nn.utils.rnn.pad_sequence(wanted, batch_first=True)
    return chain_loss(held, tags, lengths, network.transitions.on(chain)), len(targets)


# --- finding


class Found(NamedTuple):
    """An entity and how sure it is, 0 to 1."""

    span: Span
    score: float


def find_entities(network: Any, job: Job, texts: Sequence[Text], around: Frame, chain: Chain) -> list[list[Found]]:
    """The entities of each text in its order; `chain`: what is legal, with what was learned."""
    return decoded(job, texts, cell_scores(network, job, texts, around), chain)


def cell_scores(network: Any, job: Job, texts: Sequence[Text], around: Frame) -> list[Tensor]:
    """Return (cells, columns of entities) of each text, float32."""
    rows, owners = [], []
    for number, text in enumerate(texts):
        for begin, end in windowed(text, around):
            rows.append([*around.before, *text.ids[begin:end], *around.behind])
            owners.append(number)
    parts: list[list[Tensor]] = [[] for _ in texts]
    for number, scores in zip(owners, scored(network, rows), strict=True):
        parts[number].append(scores if job.columns else scores[:, : job.width])
    cells = [merged(text, around, part) for text, part in zip(texts, parts, strict=True)]
    return [scores.log_softmax(-1)[:, list(job.columns)] for scores in cells] if job.columns else cells


def decoded(job: Job, texts: Sequence[Text], cells: Sequence[Tensor], chain: Chain) -> list[list[Found]]:
    """The entities of each text, from the scores (T, columns) of its cells."""
    rows: list[list[tuple[str, int, int, float]]] = []
    if job.nested:
        rows = [nested.decode(scores, job.types, job.widest) for scores in cells]
    else:
        known = job.crf or job.columns
        worth, tags = list(cells) if known else [scores.log_softmax(-1) for scores in cells], Tags(job.types)
        for path in best(worth, chain):
            found = [] if path is None else tags.decode(path.tags.tolist())
            rows.append([(*one, path.posterior(one[1], one[2])) for one in found] if path is not None else [])
    return [
        [Found(Span(kind, text.cells[one].start, text.cells[two].end), score) for kind, one, two, score in row]
        for text, row in zip(texts, rows, strict=True)
    ]


class Related(NamedTuple):
    """A relation between two entities, and how sure it is, 0 to 1."""

    relation: Relation
    score: float


def find_relations(
    network: Any, job: Job, texts: Sequence[Text], entities: Sequence[Sequence[Span]], around: Frame
) -> list[list[Related]]:
    """The relations of each text between entities that are given or found."""
    if job.relating is None:
        return [[] for _ in texts]
    return related(job.relating, pair_scores(network, job, texts, entities, around), len(texts))


class Asked(NamedTuple):
    """A pair of the entities of a text, and the scores (classes,) of its classes."""

    text: int
    pair: relating.Pair
    scores: Tensor


def pair_scores(
    network: Any, job: Job, texts: Sequence[Text], entities: Sequence[Sequence[Span]], around: Frame
) -> list[Asked]:
    """The pairs that are asked in the texts, with their scores in float32."""
    assert job.relating is not None
    rows, places, owners = [], [], []
    for number, (text, spans) in enumerate(zip(texts, entities, strict=True)):
        for pair in relating.asked(job.relating, text, spans, around):
            ids, first, second = relating.marked(job.relating, text, spans, pair, around)
            rows.append(ids)
            places.append((first, second))
            owners.append((number, pair))
    found = []
    for (number, pair), (first, second), scores in zip(owners, places, scored(network, rows), strict=True):
        left, right = scores[:, job.width :].chunk(2, -1)
        found.append(Asked(number, pair, left[first] + right[second]))
    return found


def related(known: Relating, pairs: Sequence[Asked], count: int) -> list[list[Related]]:
    """The relations of `count` texts: the best class of each pair, where that is not none."""
    found: list[list[Related]] = [[] for _ in range(count)]
    for number, pair, scores in pairs:
        shares = scores.softmax(-1)
        best_one = int(shares.argmax())
        if best_one:
            kind = known.classes[best_one - 1]
            head, tail = (pair.one, pair.two) if kind.forward else (pair.two, pair.one)
            found[number].append(Related(Relation(kind.type, head, tail), float(shares[best_one])))
    return found


# --- the loss of what was scored


def entity_loss(job: Job, cells: Sequence[Tensor], placed: Sequence[Sequence[Placed]], chain: Chain) -> float:
    """The loss of texts (T, columns) with their entities, per cell (of nested spans per text and type)."""
    kept = [number for number, scores in enumerate(cells) if len(scores)]
    held = [cells[number] for number in kept]
    if job.nested:
        codes = [torch.from_numpy(nested.encode(placed[n], len(cells[n]), job.types)[0]) for n in kept]
        sums = [nested.loss([scores], [numbers]) for scores, numbers in zip(held, codes, strict=True)]
        return float(sum(loss for loss, _ in sums)) / max(sum(count for _, count in sums), 1)
    tags = [torch.from_numpy(Tags(job.types).encode(flat(placed[n])[0], len(cells[n]))) for n in kept]
    total = 0.0
    for begin in range(0, len(held), 64):
        scores, lengths = padded(held[begin : begin + 64])
        wanted = torch.nn.utils.rnn.pad_sequence(tags[begin : begin + 64], batch_first=True, padding_value=NO_TARGET)
        if job.crf:
            total += float(chain_loss(scores, wanted.clamp(min=0), lengths, chain))
        else:
            total += float(F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), reduction="sum"))
    return total / max(sum(map(len, held)), 1)


def pair_loss(known: Relating, pairs: Sequence[Asked], relations: Sequence[Sequence[Relation]]) -> float:
    """The mean loss of pairs; `relations` of each text."""
    if not pairs:
        return 0.0
    wanted = torch.tensor([relating.right(known, relations[number], pair) for number, pair, _ in pairs])
    return float(F.cross_entropy(torch.stack([one.scores for one in pairs]), wanted))
