"""Label heads: packed equals separate, nothing leaks, losses are those of transformers, a run goes on bit by bit."""

from __future__ import annotations

import dataclasses
import math
import random
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shapes import SHAPES, SIZES, VOCAB
from small import equal, weights
from test_objectives import assert_close, gradients

from yanmo.errors import InputError
from yanmo.models.checkpoint import load_network
from yanmo.models.config import TransformerConfig
from yanmo.models.families.catalog import FAMILIES
from yanmo.models.families.table import Foreign
from yanmo.models.heads import document_starts
from yanmo.models.initial import initialise
from yanmo.models.transformer import Transformer
from yanmo.runs import open_run
from yanmo.tokens.batches import NO_TARGET
from yanmo.tokens.labelled import Document, LabelBatch, Labelled, labelled_batches, labelled_rows
from yanmo.training.labels import by_document, check_labels, label_hidden, label_scores, labelled
from yanmo.training.loop import Settings, train

END = 2
GPT: dict[str, Any] = {"decoder_layers": 2, "pool": "last"}
NETWORKS: dict[str, dict[str, Any]] = {
    "bert": SHAPES["bert"] | {"logit_bias": False, "pooler": True},
    "modern": SHAPES["modern"],
    "gpt": GPT,
    "bart": SHAPES["bart"] | {"logit_bias": False, "pooler": True, "pool": "eos", "eos_ids": (END,)},
}
PROBLEMS = {"class": "single_label", "numbers": "multi_label", "tokens": "", "spans": ""}
HEADS = {"tokens": "token", "spans": "span"}


def network(
    kind: str = "bert", label_kind: str = "class", scale: float = 8.0, seed: int = 0, **options: Any
) -> Transformer:
    values = SIZES | NETWORKS[kind] | {"labels": ("a", "b", "c"), "problem": PROBLEMS[label_kind]}
    if label_kind == "spans":
        values |= {"labels": ("start", "end")}
    values |= {"head": HEADS.get(label_kind, "sequence")} | options
    if label_kind in HEADS:
        values |= {"pooler": False}
    built = Transformer(TransformerConfig(**values))
    initialise(built, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    return built.eval()


def data(labels: str = "class", sizes: tuple[int, ...] = (5, 9, 2, 8, 17), types: bool = False) -> Labelled:
    rng = random.Random(0)
    made = []
    for number, size in enumerate(sizes):
        ids = [*(rng.randrange(3, VOCAB) for _ in range(size - 1)), END]
        label: Any = {"class": number % 3, "numbers": [rng.random() for _ in range(3)]}.get(labels)
        if labels == "tokens":
            label = [NO_TARGET, *(rng.randrange(3) for _ in range(size - 1))]
        if labels == "spans":
            label = sorted(rng.choices(range(size), k=2))
        made.append(Document(ids, label, [int(place > size // 2) for place in range(size)] if types else ()))
    return Labelled.gather(made, 20, kind=labels)


def batch_of(labelled_data: Labelled, *numbers: int, columns: int = 0) -> LabelBatch:
    return labelled_rows(labelled_data, np.array(numbers), columns)[0]


def scores_of(model: Transformer, batch: LabelBatch) -> torch.Tensor:
    return model.scores(label_hidden(model, batch), batch.ids, batch.mask)


@pytest.mark.parametrize("columns", [0, 20])
@pytest.mark.parametrize("labels", ["class", "numbers", "tokens", "spans"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_packed_documents_equal_separate_ones_in_scores_loss_and_gradients(
    kind: str, labels: str, columns: int
) -> None:
    model, examples = network(kind, labels), data(labels, types=kind == "bert")
    batch, order = labelled_rows(examples, np.arange(5), columns)
    assert batch.mask.max() > 1 and (columns == 0 or len(batch.ids) > 1)
    loss, count = labelled(model, batch)
    loss.backward()
    together = gradients(model)
    total, n = 0.0, 0
    separate = []
    for number in order.tolist():
        one = batch_of(examples, number, columns=int(examples.sizes[number]))
        assert one.ids.shape == (1, examples.sizes[number])
        separate.append(scores_of(model, one))
        alone, targets = labelled(model, one)
        alone.backward()
        total, n = total + float(alone.detach()), n + targets
    assert n == count == batch.n_targets > 0 and math.isclose(float(loss.detach()), total, rel_tol=1e-5)
    assert_close(together, gradients(model))
    scores = scores_of(model, batch)
    rows = scores[batch.mask > 0] if labels in HEADS else scores
    assert_close([rows.detach()], [torch.cat([s.detach().flatten(0, -2) for s in separate])])


@pytest.mark.parametrize("labels", ["class", "tokens"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_changing_one_document_leaves_the_others_scores_bit_equal(kind: str, labels: str) -> None:
    model, batch = network(kind, labels), batch_of(data(labels), 0, 1, 2, 3)
    changed = batch._replace(ids=torch.where((batch.mask == 2) & (batch.ids != END), batch.ids % 40 + 4, batch.ids))
    with torch.no_grad():
        before, after = scores_of(model, batch), scores_of(model, changed)
    second = batch.mask == 2
    own = second if labels == "tokens" else second[document_starts(batch.mask)]
    assert torch.equal(before[~own], after[~own]) and not torch.equal(before[own], after[own])


def test_an_example_without_a_label_and_a_batch_without_any_do_not_count() -> None:
    model, batch = network(), batch_of(data(), 0, 1, 2)
    parts = [float(labelled(model, batch_of(data(), number))[0].detach()) for number in (0, 2)]
    targets = batch.targets.clone()
    targets[batch.ids == data().ids[data().bounds[1]]] = NO_TARGET
    loss, count = labelled(model, batch._replace(targets=targets))
    assert count == 2 and math.isclose(float(loss.detach()), sum(parts), rel_tol=1e-5)
    loss, count = labelled(model, batch._replace(mask=torch.zeros_like(batch.mask)))
    loss.backward()
    assert count == 0 and float(loss.detach()) == 0 and not any(g.any() for g in gradients(model))


@pytest.mark.parametrize("labels", ["class", "numbers", "regression", "one number", "tokens"])
def test_the_loss_is_the_mean_that_transformers_gives(labels: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    count = 1 if labels == "one number" else 3
    kind = "numbers" if labels in ("regression", "one number") else labels
    problem = {"class": "single_label_classification", "numbers": "multi_label_classification"}.get(labels)
    config = transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        num_labels=count,
        problem_type="regression" if kind != labels else problem,
    )
    torch.manual_seed(0)
    name = "BertForTokenClassification" if labels == "tokens" else "BertForSequenceClassification"
    theirs = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)
    theirs.save_pretrained(tmp_path)
    model = load_network(tmp_path)
    examples = data(kind)
    if labels == "one number":
        examples = dataclasses.replace(examples, labels=examples.labels[:, :1])
    check_labels(examples, model.config)
    loss, n = labelled(model, batch_of(examples, 0, 1, 2, 3, 4))
    ids, mask = torch.zeros(5, 17, dtype=torch.long), torch.zeros(5, 17, dtype=torch.long)
    wanted = torch.full((5, 17), NO_TARGET)
    for row, (begin, end) in enumerate(zip(examples.bounds, examples.bounds[1:])):
        ids[row, : end - begin], mask[row, : end - begin] = torch.from_numpy(examples.ids[begin:end].copy()), 1
        if labels == "tokens":
            wanted[row, : end - begin] = torch.from_numpy(examples.labels[begin:end])
    given = wanted if labels == "tokens" else torch.from_numpy(examples.labels)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        out = theirs(input_ids=ids, attention_mask=mask, labels=given.squeeze(-1) if count == 1 else given)
    assert math.isclose(float(loss.detach()) / n, float(out.loss), rel_tol=1e-5)
    if labels != "tokens":
        assert torch.allclose(label_scores(model, examples, 2), out.logits, atol=1e-5)


def test_the_loss_of_spans_and_its_gradients_are_those_of_transformers(tmp_path: Path) -> None:
    """Each document alone there, as their choice is among all columns of a row, padding too."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    torch.manual_seed(0)
    theirs = transformers.BertForQuestionAnswering(transformers.BertConfig(vocab_size=VOCAB, **sizes)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)
    theirs.save_pretrained(tmp_path)
    model, examples = load_network(tmp_path), data("spans", types=True)
    check_labels(examples, model.config)
    model.zero_grad()
    loss, n = labelled(model, batch_of(examples, 0, 1, 2, 3, 4))
    loss.backward()
    total = 0.0
    for number, (begin, end) in enumerate(zip(examples.bounds, examples.bounds[1:])):
        ids, types = (
            torch.from_numpy(part[begin:end].astype(np.int64))[None] for part in (examples.ids, examples.token_types)
        )
        start, last = torch.from_numpy(examples.labels[number]).split(1)
        out = theirs(input_ids=ids, token_type_ids=types, start_positions=start, end_positions=last)
        out.loss.backward()
        total += float(out.loss.detach())
    assert n == 5 and math.isclose(float(loss.detach()), total, rel_tol=1e-5)
    named = dict(theirs.named_parameters())
    for ours, name in (
        (model.head.out.weight, "qa_outputs.weight"),
        (model.embedding.weight, "bert.embeddings.word_embeddings.weight"),
    ):
        assert torch.allclose(ours.grad, named[name].grad, atol=1e-5) and ours.grad.abs().max() > 0.01


def test_scores_of_tokens_by_document_have_the_order_of_the_rows_and_nothing_behind() -> None:
    mask = torch.tensor([[1, 1, 2, 2, 2, 0], [0, 0, 4, 5, 5, 5]])
    scores = torch.arange(24.0).view(2, 6, 2)
    found = by_document(scores, mask)
    rows = [scores[0, :2], scores[0, 2:5], scores[1, 2:3], scores[1, 3:]]
    assert found.shape == (4, 3, 2)
    for row, wanted in zip(found, rows, strict=True):
        assert torch.equal(row[: len(wanted)], wanted) and bool((row[len(wanted) :] == -math.inf).all())


@pytest.mark.parametrize("label", [(3, 2), (-1, 2), (0, 9), (1,), 4, (0.0, 1.0), None])
def test_a_span_that_is_none_is_one_sentence(label: Any) -> None:
    documents = [Document([5, 6, 7], (0, 2)), Document([5] * 9, label)]
    with pytest.raises(InputError, match=re.escape("document 1 has the label") + ".* a first and a last place among 9"):
        Labelled.gather(documents, 20, kind="spans")


def test_scores_come_in_the_order_of_the_data_and_without_dropout() -> None:
    model = network(dropout=0.5, classifier_dropout=0.5).train()
    examples = data()
    scores = label_scores(model, examples, 2)
    assert model.training and scores.shape == (5, 3)
    model.eval()
    for number in range(5):
        assert torch.allclose(scores[number], scores_of(model, batch_of(examples, number))[0], atol=1e-5)


@pytest.mark.parametrize("family, before", [("bert", 0.0), ("roberta", 0.5), ("bart", 0.5), ("t5", 0.5)])
def test_dropout_before_the_pooler_is_that_of_the_family(family: str, before: float) -> None:
    values = {"classifier_dropout": 0.5, "num_labels": 3, "model_type": family}
    config = FAMILIES[family].read_config(Foreign(values, "config.json"), "sequence")
    assert (config.pooler_dropout, config.classifier_dropout) == (before, 0.5)


@pytest.mark.parametrize("before", [0.0, 0.5])
def test_dropout_before_the_pooler_hides_what_the_pooler_reads(before: float) -> None:
    model = network(pooler_dropout=before, classifier_dropout=0.5).train()
    seen: list[torch.Tensor] = []
    for layer in (model.head.dense, model.head.out):
        layer.register_forward_pre_hook(lambda _layer, given: seen.append(given[0] == 0))
    batch = batch_of(data(), 0, 1, 2, 3, 4)
    model.scores(model.encode(batch.ids, batch.mask), batch.ids, batch.mask)
    assert bool(seen[0].any()) == bool(before) and bool(seen[1].any())


def test_a_row_of_left_padding_and_one_without_a_token_keep_their_places() -> None:
    for kind in ("bert", "gpt"):
        model, ids = network(kind), torch.arange(3, 8)[None]
        mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [0] * 7, [1, 1, 1, 1, 1, 2, 2]])
        rows = torch.stack([torch.roll(torch.cat([ids[0], ids[0, :2]]), 2), torch.zeros(7).long(), mask[2] + 3])
        rows[2] = torch.cat([ids[0], ids[0, :2]])
        run = model.encode if kind == "bert" else model.decode
        scores = model.scores(run(rows, mask), rows, mask)
        alone = model.scores(run(ids), ids)
        assert scores.shape == (4, 3)
        assert torch.allclose(scores[0], alone[0], atol=1e-5) and torch.allclose(scores[2], alone[0], atol=1e-5)


def test_one_batch_is_learnt_by_heart() -> None:
    model, examples = network(scale=1.0), data()
    batch = batch_of(examples, 0, 1, 2, 3, 4)
    settings = Settings(steps=100, learning_rate=3e-3, weight_decay=0.0)
    losses = [step.loss for step in train(model, [batch] * 100, labelled, settings)]
    assert abs(losses[0] - math.log(3)) < 0.1 and losses[-1] < 0.05


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_with_dropout_goes_on_bit_by_bit(precision: str, tmp_path: Path) -> None:
    examples = data(sizes=(5, 9, 2, 8, 17, 4, 4, 6))
    options = {"dropout": 0.1, "embedding_dropout": 0.1, "attention_dropout": 0.1, "classifier_dropout": 0.1}
    settings = Settings(steps=9, accumulation=2, precision=precision, save_steps=2)
    found = []
    for name, stop in (("whole", 99), ("parts", 4)):
        for _ in range(2 if name == "parts" else 1):
            model = network(scale=1.0, **options)
            batches = labelled_batches(examples, 3)
            with open_run(tmp_path / name, "", {}) as run:
                for step in train(model, batches, labelled, settings, run=run):
                    if step.step == stop:
                        break
        found.append(weights(model))
    assert equal(*found)


@pytest.mark.parametrize(
    ("labels", "options", "change", "sentence"),
    [
        ("class", {}, {3: 3}, "document 3 has the label 3, and the model has 3 labels, 0 (a) to 2 (c); correct"),
        ("class", {}, {1: -100}, "document 1 has the label -100, and the model has 3 labels"),
        ("tokens", {}, {6: 7}, "document 1 has the label 7, and the model has 3 labels"),
        ("numbers", {}, {2: 1.5}, "document 2 has the labels [1.5 1.5 1.5], and each must be from 0 to 1"),
        ("numbers", {"labels": ("a",)}, {}, "a document has 3 numbers, and the model 1 labels"),
        ("numbers", {"problem": ""}, {}, "numbers as labels need the problem regression or multi_label, not ''"),
        ("class", {"problem": "regression"}, {}, "the model is made for regression, which takes numbers"),
        ("spans", {"labels": ("a", "b", "c")}, {}, "a span has a start and an end, and the model 3 labels"),
        ("spans", {"head": "token"}, {}, "labels of the kind 'spans', and the model the head 'token'"),
        ("class", {"head": "token", "pooler": False}, {}, "labels of the kind 'class', and the model the head 'token'"),
    ],
)
def test_labels_that_the_model_lacks_are_one_sentence(
    labels: str, options: dict[str, Any], change: dict[int, float], sentence: str
) -> None:
    examples, model = data(labels), network(label_kind=labels, **options)
    for place, value in change.items():
        examples.labels[place] = value
    with pytest.raises(InputError, match=re.escape(sentence)):
        check_labels(examples, model.config)


def test_sound_labels_pass_and_pairs_need_token_types() -> None:
    for labels in PROBLEMS:
        check_labels(data(labels), network(label_kind=labels).config)
    with pytest.raises(InputError, match="pairs with token types, which this model lacks"):
        check_labels(data(types=True), network("modern").config)
