"""Classify: one label of a text or a pair, several labels, or a number.

In: examples with labels or values (examples.py). Out: what training needs (`open_labels`), and predictions.

    open_labels     recipe, examples → Opened: head, batches, loss, score on validation
    predict         model, settings, rows → rows with label, score, scores
    settled         what kind of labels the examples have, and their names in the order of the head

A text longer than the model is read through windows that share tokens; each learns the text's label, and the scores of
a text are the mean of those of its windows. Probabilities are calibrated: the scores are divided by a temperature that
is fitted on validation (Guo et al. 2017, section 4.2).
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from yanmo.errors import InputError
from yanmo.recipe import Recipe
from yanmo.tasks import metrics_classes as figures_of
from yanmo.tasks.encoding import Encoded, encode_rows
from yanmo.tasks.examples import Example
from yanmo.tasks.opening import Opened
from yanmo.tokens.labelled import Labelled, labelled_batches
from yanmo.tokens.rows import CELLS, Draws
from yanmo.tokens.tokenizer import Tokenizer
from yanmo.training.build import Top
from yanmo.training.distributed import Ranks
from yanmo.training.labels import check_labels, label_scores, labelled
from yanmo.training.work import Work

if TYPE_CHECKING:
    from yanmo.inference.model import Model

LIVE = 2048  # examples that are scored during training at most
PROBLEMS = {"single": "single_label", "multi": "multi_label", "regression": "regression"}
THRESHOLD = 0.5  # of each of several labels
TEMPERATURES = np.exp(np.linspace(math.log(0.05), math.log(20.0), 241))


def open_labels(recipe: Recipe, train: list[Example], valid: list[Example]) -> Opened:
    """The work of the objective `labels`; contradictions of the examples are an InputError."""
    o = recipe.objective
    problem, names = settled(train, o.problem, o.labels)
    _check(names, problem, train)
    _check(names, problem, valid)
    top = Top("sequence", names if problem != "regression" else ("value",), PROBLEMS[problem])  # type: ignore[arg-type]

    def work(tokenizer: Tokenizer, network: Any, ranks: Ranks) -> Work:
        return _work(recipe, problem, names, (train, valid), tokenizer, network)

    def settings(network: Any, tokenizer: Tokenizer) -> dict[str, Any]:
        held = encode_rows(tokenizer, _rows(valid), recipe.train.length, o.stride, network.config)
        scores = _by_row(network, _labelled(held, problem, _targets(valid, problem, names)), held)
        found: dict[str, Any] = {"problem": problem, "length": recipe.train.length, "stride": o.stride}
        if problem != "regression":
            found["temperature"] = _temperature(scores, valid, problem, names)
        return found

    return Opened(top, work, settings)


def settled(train: Sequence[Example], problem: str, labels: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """(single, multi or regression, names of the labels): as said, else as the examples have them.

    Names that are all whole numbers are sorted as numbers, others as text.
    """
    if problem == "auto":
        if all(example.value is not None for example in train):
            problem = "regression"
        else:
            problem = "single" if all(len(example.labels or ()) == 1 for example in train) else "multi"
    if problem == "regression":
        return problem, ()
    found = {label for example in train for label in example.labels or ()}
    numbers = all(name.lstrip("-").isdecimal() for name in found)
    return problem, tuple(labels) or tuple(sorted(found, key=lambda name: (int(name) if numbers else 0, name)))


def _check(names: Sequence[str], problem: str, examples: Sequence[Example]) -> None:
    """Refuse examples that a head of these labels cannot learn from, with the first of them."""
    known = set(names)
    if problem != "regression" and len(names) < (1 if problem == "multi" else 2):
        raise InputError(
            f"the data have {len(names)} labels ({', '.join(names)}), at least 2 are needed to choose from"
        )
    for example in examples:
        if problem == "regression":
            if example.value is None or not math.isfinite(example.value):
                raise InputError(f"{example.where}: the value is {example.value}, a finite number is needed")
            continue
        labels = example.labels or ()
        if problem == "single" and len(labels) != 1:
            raise InputError(
                f"{example.where}: has {len(labels)} labels where each has one; set objective.problem=multi"
            )
        strange = next((label for label in labels if label not in known), None)
        if strange is not None:
            raise InputError(
                f"{example.where}: the label {strange!r} is not among those of the training data "
                f"({', '.join(names[:8])}{' …' if len(names) > 8 else ''}); correct it, or add examples to train on"
            )


def _rows(examples: Sequence[Example]) -> list[tuple[str, str, str | None]]:
    return [(example.where, example.text, example.text_pair) for example in examples]


def _targets(examples: Sequence[Example], problem: str, names: Sequence[str]) -> list[Any]:
    place = {name: number for number, name in enumerate(names)}
    if problem == "single":
        return [place[example.labels[0]] for example in examples]  # type: ignore[index]
    if problem == "regression":
        return [[example.value] for example in examples]
    return [[float(name in (example.labels or ())) for name in names] for example in examples]


def _labelled(encoded: Encoded, problem: str, targets: Sequence[Any]) -> Labelled:
    """The windows of texts, each with the target of its text."""
    return encoded.labelled([targets[owner] for owner in encoded.owners], "class" if problem == "single" else "numbers")


def _work(
    recipe: Recipe,
    problem: str,
    names: tuple[str, ...],
    parts: tuple[list[Example], list[Example]],
    tokenizer: Tokenizer,
    network: Any,
) -> Work:
    train, valid = parts
    length, stride, seed = recipe.train.length, recipe.objective.stride, recipe.train.seed
    encoded = [encode_rows(tokenizer, _rows(part), length, stride, network.config) for part in parts]
    data, held = (
        _labelled(rows, problem, _targets(part, problem, names)) for rows, part in zip(encoded, parts, strict=True)
    )
    check_labels(data, network.config)
    weights = _weights(train, names) if recipe.objective.class_weights == "balanced" and problem == "single" else None
    live = np.sort(Draws(seed, CELLS, 0).order(len(valid))[:LIVE])

    def measure(network: Any, whole: bool) -> dict[str, float]:
        chosen = np.arange(len(valid)) if whole else live
        scores = _by_row(network, held, encoded[1], chosen)
        return _figures(scores, [valid[number] for number in chosen], problem, names)

    facts = {"train_records": len(train), "valid_records": len(valid), "windows": len(data)}
    objective = labelled if weights is None else functools.partial(labelled, weights=weights)
    return Work(lambda: labelled_batches(data, recipe.train.rows, seed=seed), objective, measure, facts)


def _weights(train: Sequence[Example], names: Sequence[str]) -> Tensor:
    """Of each class what makes all classes count alike, 1 on average over the examples."""
    counts = Counter(example.labels[0] for example in train if example.labels)
    return torch.tensor([len(train) / (len(counts) * counts[name]) if counts[name] else 1.0 for name in names])


# --- scores


def _by_row(network: Any, data: Labelled, encoded: Encoded, chosen: np.ndarray | None = None) -> Tensor:
    """Scores (N, L) of the chosen texts: the mean over the windows of each."""
    wanted = np.arange(encoded.rows) if chosen is None else chosen
    windows = np.flatnonzero(np.isin(encoded.owners, wanted))
    scores = label_scores(network, data if len(windows) == len(data) else data.subset(windows))
    owners = torch.from_numpy(np.searchsorted(wanted, np.asarray(encoded.owners)[windows]))
    total = torch.zeros(len(wanted), scores.shape[1]).index_add(0, owners, scores)
    return total / torch.bincount(owners, minlength=len(wanted))[:, None]


def _figures(scores: Tensor, valid: list[Example], problem: str, names: Sequence[str]) -> dict[str, float]:
    """The loss and what the task is measured by; valid_error is 1 − the main one."""
    targets = torch.tensor(_targets(valid, problem, names))
    if problem == "regression":
        found = figures_of.values([example.value or 0.0 for example in valid], scores[:, 0].tolist())
        return {
            "valid_loss": found["mse"],
            "valid_targets": len(valid),
            "pearson": found["pearson"],
            "valid_error": found["mse"],
        }
    if problem == "single":
        loss = float(F.cross_entropy(scores, targets))
        guess = [names[number] for number in scores.argmax(1).tolist()]
        found = figures_of.single([(example.labels or ("",))[0] for example in valid], guess)
        main, figures = found["accuracy"], {"accuracy": found["accuracy"], "macro_f1": found["macro_f1"]}
    else:
        loss = float(F.binary_cross_entropy_with_logits(scores, targets))
        several = [[name for name, one in zip(names, row) if one > 0] for row in scores.tolist()]
        found = figures_of.several([list(example.labels or ()) for example in valid], several)
        main, figures = found["micro_f1"], {"f1": found["micro_f1"], "exact": found["exact"]}
    return {"valid_loss": loss, "valid_targets": len(valid), **figures, "valid_error": 1 - main}


def _temperature(scores: Tensor, valid: list[Example], problem: str, names: Sequence[str]) -> float:
    """The temperature of a grid from 0.05 to 20 with the least loss on validation; 1 where none is better."""
    targets = torch.tensor(_targets(valid, problem, names))
    loss = F.cross_entropy if problem == "single" else F.binary_cross_entropy_with_logits
    losses = [float(loss(scores / float(one), targets)) for one in TEMPERATURES]
    best = float(TEMPERATURES[int(np.argmin(losses))])
    return best if min(losses) < float(loss(scores, targets)) else 1.0


# --- predictions


def predict(model: Model, settings: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each row (text, maybe text_pair): label, score, scores; several labels are a list of names.

    Of a regression the score is the number, and the label None.
    """
    texts = [(str(row.get("id", number)), row["text"], row.get("text_pair")) for number, row in enumerate(rows)]
    config = model.config
    encoded = encode_rows(model.tokenizer, texts, settings["length"], settings["stride"], config)
    data = encoded.labelled([0] * len(encoded.owners), "class")
    scores = _by_row(model.network, data, encoded)
    if settings["problem"] == "regression":
        return [{"label": None, "score": value, "scores": {}} for value in scores[:, 0].tolist()]
    names = config.labels
    scores = scores / settings.get("temperature", 1.0)
    shares = scores.softmax(1) if settings["problem"] == "single" else scores.sigmoid()
    return [_prediction(dict(zip(names, row)), settings["problem"]) for row in shares.tolist()]


def _prediction(shares: dict[str, float], problem: str) -> dict[str, Any]:
    if problem == "single":
        best = max(shares, key=shares.__getitem__)
        return {"label": best, "score": shares[best], "scores": shares}
    chosen = [name for name, share in shares.items() if share > THRESHOLD]
    return {"label": chosen, "score": [shares[name] for name in chosen], "scores": shares}
