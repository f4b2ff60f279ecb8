"""Extract: entities at their exact characters, and relations between them.

In: examples with entities, maybe relations (examples.py). Out: what training needs (`open_tokens`), and predictions.

    open_tokens    recipe, examples → Opened: head, batches, loss, score on validation
    predict        model, settings, rows → rows with entities and relations

One network does both (finding.py): its head has columns for entities, read at the cells of a text, and columns for
relations, read at the marks of a pair, and a batch mixes windows of texts and marked pairs. Where each example gives
one pair (SemEval, TACRED, FewRel), only relations are learned, and entities are given in prediction as well.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from yanmo.errors import ConfigError, InputError
from yanmo.recipe import Recipe
from yanmo.tasks import finding, nested, relating
from yanmo.tasks.crf import Chain, Transitions, legal_chain
from yanmo.tasks.examples import Example, Span
from yanmo.tasks.finding import Job
from yanmo.tasks.metrics_spans import counted
from yanmo.tasks.opening import Opened
from yanmo.tasks.tagging import Tags, by_cells, chosen, flat
from yanmo.tasks.tokenrows import Frame, Text, framed, read_texts
from yanmo.tokens.labelled import Document, Labelled, labelled_batches
from yanmo.tokens.rows import CELLS, Draws
from yanmo.tokens.tokenizer import Tokenizer
from yanmo.training.build import Top
from yanmo.training.distributed import Ranks
from yanmo.training.work import Work

if TYPE_CHECKING:
    from yanmo.inference.model import Model

LIVE = 2048  # examples that are scored during training at most
OVERLAPS = 0.01  # share of the entities that may lie over others before nested is needed
SAMPLE = 4096  # texts by which it is chosen what a cell is


def open_tokens(recipe: Recipe, train: list[Example], valid: list[Example]) -> Opened:
    """The work of the objective `tokens`; contradictions of the examples are an InputError."""
    o = recipe.objective
    types, classes = _settled(train, valid, o.labels)
    if o.crf and (o.nested or not types):
        raise ConfigError("objective.crf learns steps between tags, which nested spans and relations alone do not have")
    if o.nested and len(types) > nested.MAX_TYPES:
        raise InputError(f"the data have {len(types)} types of entities, and nested spans take {nested.MAX_TYPES}")
    if types and not o.nested:
        _check_flat(train)
    columns = (*finding.entity_columns(types, o.nested), *finding.relation_columns(classes))

    @functools.cache
    def opened(tokenizer: Tokenizer) -> _Data:
        return _gathered(recipe, types, bool(classes), (train, valid), tokenizer)

    def prepare(network: Any) -> None:
        if o.crf:
            network.transitions = Transitions(len(Tags(types).names), network.device)

    def work(tokenizer: Tokenizer, network: Any, ranks: Ranks) -> Work:
        return _work(recipe, opened(tokenizer), valid)

    def settings(network: Any, tokenizer: Tokenizer) -> dict[str, Any]:
        job = opened(tokenizer).job
        chain = None
        if job.crf:
            with torch.no_grad():
                chain = [part.tolist() for part in network.transitions.on(_legal(job))]
        return {"length": job.length, "stride": job.stride, "job": job.as_dict(), "chain": chain}

    return Opened(Top("token", columns), work, settings, prepare=prepare)


def _settled(
    train: list[Example], valid: list[Example], said: Sequence[str]
) -> tuple[tuple[str, ...], tuple[relating.Class, ...]]:
    """(types of entities that are learned, classes of relations) of the examples, which are checked."""
    for example in (*train, *valid):
        if example.entities is None:
            raise InputError(f"{example.where}: has no entities, not even an empty list; leave it out, or add them")
    related = [example for example in train if example.relations is not None]
    classes = relating.classes_of(train)
    given = bool(classes) and all(len(example.entities or ()) == 2 for example in related)
    known = {span.type for example in train for span in example.entities or ()}
    types = () if given else tuple(said) or tuple(sorted(known))
    if not types and not classes:
        raise InputError("the examples have no entities and no relations to learn; give some that have")
    _check_known(train, "entity type", types, given)
    _check_known(valid, "entity type", types, given)
    kinds = {one.type for one in classes}
    for example in valid:
        strange = next((one.type for one in example.relations or () if one.type not in kinds), None)
        if strange is not None:
            raise InputError(
                f"{example.where}: the relation {strange!r} is not among those of the training data; correct it, or "
                "add examples to train on"
            )
    return types, classes


def _check_known(examples: Sequence[Example], what: str, types: Sequence[str], given: bool) -> None:
    known = set(types)
    for example in () if given else examples:
        strange = next((span.type for span in example.entities or () if span.type not in known), None)
        if strange is not None:
            raise InputError(
                f"{example.where}: the {what} {strange!r} is not among those that are learned "
                f"({', '.join(types[:8])}{' …' if len(types) > 8 else ''}); correct it, or add examples to train on"
            )


def _check_flat(examples: Sequence[Example]) -> None:
    """Refuse entities of which more than a few lie over each other."""
    total = over = 0
    first = ""
    for example in examples:
        spans = sorted({(span.start, span.end, span.type) for span in example.entities or ()})
        total += len(spans)
        here = sum(two[0] < one[1] for one, two in zip(spans, spans[1:]))
        over += here
        first = first or (example.where if here else "")
    if over > OVERLAPS * total:
        raise InputError(
            f"{first}: entities share characters there and in {over:,} places in all, which flat tags cannot say; set "
            "objective.nested=true"
        )


# --- the work


@dataclass(frozen=True)
class _Data:
    """What is learned, the training documents, the validation texts and documents, and what was left out."""

    job: Job
    around: Frame
    train: Labelled
    texts: list[Text]
    facts: dict[str, Any]


def _gathered(
    recipe: Recipe,
    types: tuple[str, ...],
    related: bool,
    parts: tuple[list[Example], list[Example]],
    tokenizer: Tokenizer,
) -> _Data:
    o, length = recipe.objective, recipe.train.length
    around = framed(tokenizer, length, o.stride)
    train, valid = parts
    sample = train[:SAMPLE]
    encoded = tokenizer.encode_offsets([example.text for example in sample])
    words = chosen(
        [example.text for example in sample],
        [ranges for _, ranges in encoded],
        [example.entities or () for example in sample],
    )
    texts, held = (read_texts(tokenizer, [example.text for example in part], words) for part in parts)
    known = relating.settle(train, tokenizer, texts) if related else None
    job = Job(types, o.nested, o.crf, words, _widest(train, texts), length, around.stride, known)
    documents, lost = _documents(job, train, texts, around)
    if not documents:
        raise InputError("no training text has tokens; check the data, or the tokenizer")
    facts = {"train_records": len(train), "valid_records": len(valid), "windows": len(documents)}
    facts |= {f"{name}_not_learned": count for name, count in lost.items() if count}
    return _Data(job, around, Labelled.gather(documents, length, kind="tokens"), held, facts)


def _widest(examples: Sequence[Example], texts: Sequence[Text]) -> int:
    """Cells that a nested entity may have: half as many again as the widest of training."""
    widths = [
        last - first
        for example, text in zip(examples, texts, strict=True)
        for _, first, last in by_cells(text.text, example.entities or (), text.cells)[0]
    ]
    return max(widths, default=0) * 3 // 2 + 2


def _documents(
    job: Job, examples: Sequence[Example], texts: Sequence[Text], around: Frame
) -> tuple[list[Document], dict[str, int]]:
    """All windows and marked pairs of the examples, and what they do not say, counted."""
    documents: list[Document] = []
    lost = {"entities": 0, "relations": 0}
    for example, text in zip(examples, texts, strict=True):
        if job.types and text.cells:
            found, missed = by_cells(text.text, example.entities or (), text.cells)
            found, over = (found, 0) if job.nested else flat(found)
            rows, more = finding.entity_documents(job, text, found, around)
            documents += rows
            lost["entities"] += missed + over + more
        if job.relating is not None and example.relations is not None:
            rows, missed = finding.pair_documents(job, text, example, around)
            documents += rows
            lost["relations"] += missed
    return documents, lost


def _work(recipe: Recipe, data: _Data, valid: list[Example]) -> Work:
    seed, rows = recipe.train.seed, recipe.train.rows
    legal = _legal(data.job)
    live = np.sort(Draws(seed, CELLS, 0).order(len(valid))[:LIVE]).tolist()

    def measure(network: Any, whole: bool) -> dict[str, float]:
        numbers = range(len(valid)) if whole else live
        return _figures(network, data, [valid[n] for n in numbers], [data.texts[n] for n in numbers])

    objective = functools.partial(finding.task_loss, job=data.job, chain=legal)
    return Work(lambda: labelled_batches(data.train, rows, seed=seed), objective, measure, data.facts)


def _legal(job: Job) -> Chain:
    return legal_chain(Tags(job.types).legal())


def _chain(network: Any, job: Job) -> Chain:
    with torch.no_grad():
        return network.transitions.on(_legal(job)) if job.crf else _legal(job)


def _figures(network: Any, data: _Data, examples: list[Example], texts: list[Text]) -> dict[str, float]:
    """F1 of entities, and of relations between the given ones; valid_error is 1 − their mean."""
    job, around = data.job, data.around
    losses: list[float] = []
    scores: list[float] = []
    found: dict[str, float] = {}
    if job.types:
        chain = _chain(network, job)
        cells = finding.cell_scores(network, job, texts, around)
        placed = [
            by_cells(text.text, one.entities or (), text.cells)[0] for one, text in zip(examples, texts, strict=True)
        ]
        losses.append(finding.entity_loss(job, cells, placed, chain))
        guess = [[span for span, _ in row] for row in finding.decoded(job, texts, cells, chain)]
        figures = counted(*([_keys(row) for row in rows] for rows in ([one.entities or () for one in examples], guess)))
        found |= {name: figures[name] for name in ("precision", "recall", "f1")}
        scores.append(figures["f1"])
    if job.relating is not None:
        told = [(one, text) for one, text in zip(examples, texts, strict=True) if one.relations is not None]
        truth = [one.relations or () for one, _ in told]
        entities = [one.entities or () for one, _ in told]
        pairs = finding.pair_scores(network, job, [text for _, text in told], entities, around)
        losses.append(finding.pair_loss(job.relating, pairs, truth))
        said = [[relation for relation, _ in row] for row in finding.related(job.relating, pairs, len(told))]
        figures = counted(*([{(r.type, (r.head, r.tail)) for r in row} for row in rows] for rows in (truth, said)))
        found |= {"relation_f1": figures["f1"], "relation_macro_f1": figures["macro_f1"]}
        scores.append(figures["f1"])
    error = 1 - sum(scores) / len(scores)
    return {"valid_loss": sum(losses) / len(losses), "valid_targets": len(examples), **found, "valid_error": error}


def _keys(spans: Sequence[Span]) -> set[tuple[str, tuple[int, int]]]:
    return {(span.type, (span.start, span.end)) for span in spans}


# --- predictions


def predict(model: Model, settings: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each row (text, maybe entities of type, start and end): entities, and relations where the model knows any.

    Entities that a row gives are taken as they are, with the score 1; the others are found. Relations name them by
    their numbers. An InputError names the row by its id.
    """
    if "job" in settings:
        job = finding.job_from(settings["job"])
    else:
        job = finding.job_of(model.config.labels, settings["length"], settings["stride"])
    tokenizer, network = model.tokenizer, model.network
    around = framed(tokenizer, job.length, job.stride)
    names = [str(row.get("id", number)) for number, row in enumerate(rows)]
    texts = read_texts(tokenizer, [row["text"] for row in rows], job.words)
    entities: list[list[finding.Found]] = [[] for _ in rows]
    asked = []
    for number, (name, row) in enumerate(zip(names, rows, strict=True)):
        if row.get("entities") is not None:
            given = relating.read_entities(name, row["text"], row["entities"])
            entities[number] = [finding.Found(span, 1.0) for span in given]
        elif not job.types:
            raise InputError(
                f"the row {name!r} has no entities, and this model finds only relations between given ones"
            )
        else:
            asked.append(number)
    chain = _legal(job) if not settings.get("chain") else Chain(*map(torch.tensor, settings["chain"]))
    found = finding.find_entities(network, job, [texts[n] for n in asked], around, chain) if asked else []
    for number, row_found in zip(asked, found, strict=True):
        entities[number] = row_found
    spans = [[one.span for one in row] for row in entities]
    related = finding.find_relations(network, job, texts, spans, around)
    return [
        {
            "entities": [_entity(text.text, one.span, one.score) for one in own],
            "relations": [
                {"type": one.type, "head": one.head, "tail": one.tail, "score": score} for one, score in between
            ],
        }
        for text, own, between in zip(texts, entities, related, strict=True)
    ]


def _entity(text: str, span: Span, score: float) -> dict[str, Any]:
    shown = text[span.start : span.end]
    return {"type": span.type, "start": span.start, "end": span.end, "text": shown, "score": score}
