"""What a task scores without a language model: two or more baselines, always run beside one.

In: the training examples and those to predict. Out: predictions by name, in the form of `predict`.

    run             the baselines of a task
    classify        the commonest label; TF-IDF with logistic regression (ridge regression of values)
    translate       the text itself; the translation of the most similar training text

Entities and relations are in `baselines_spans`, answers in `baselines_answers`. TF-IDF is over words and pairs of
words, or over one to three characters where the texts are Chinese. All is deterministic.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from yanmo.errors import InputError, need
from yanmo.tasks import baselines_answers, baselines_spans
from yanmo.tasks.examples import Example
from yanmo.tasks.metrics_answers import is_chinese

Row = dict[str, Any]

PURPOSE = "a baseline"
MAX_FEATURES = 200_000
RARE = 1000  # more rows than that drop what stands in one of them only: a third of the time, the same accuracy
PASSES = 30
NEIGHBOURS = 500  # rows that are compared with all training texts at once


def run(task: str, train: Sequence[Example], dev: Sequence[Example], **options: Any) -> dict[str, list[Row]]:
    """Predictions of every baseline of a task for `dev`; `find_entities`: relations must find their ends."""
    if not train:
        raise InputError("a baseline learns from training examples, and there are none; give at least one")
    if task == "extract":
        return baselines_spans.extract(train, dev, **options)
    assert not options
    return {
        "classify": classify,
        "answer": baselines_answers.answer,
        "translate": translate,
        "generate": translate,
    }[task](train, dev)


def fitted(texts: Sequence[str]) -> tuple[Any, Any]:
    """TF-IDF for the language of the texts, and theirs: characters where most of them are Chinese, else words."""
    text = need("sklearn.feature_extraction.text", "tasks", PURPOSE)
    sample = texts[:: max(len(texts) // 500, 1)]
    shared: dict[str, Any] = {"sublinear_tf": True, "max_features": MAX_FEATURES, "min_df": 1 + (len(texts) > RARE)}
    if 2 * sum(map(is_chinese, sample)) > len(sample):
        model = text.TfidfVectorizer(analyzer="char", ngram_range=(1, 3), **shared)
    else:
        model = text.TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), **shared)
    try:
        return model, model.fit_transform(texts)
    except ValueError:  # nothing stands in two rows (a name a row): what stands in one is kept
        model.set_params(min_df=1)
        return model, model.fit_transform(texts)


def features(train: Sequence[Example], dev: Sequence[Example]) -> tuple[Any, Any]:
    """TF-IDF of both sides, of the second text in columns of its own."""
    sparse = need("scipy.sparse", "tasks", PURPOSE)
    sides = []
    for name in ("text", "text_pair"):
        left, right = ([getattr(example, name) or "" for example in side] for side in (train, dev))
        if any(text.strip() for text in left):
            model, known = fitted(left)
            sides.append((known, model.transform(right)))
    if not sides:
        return sparse.csr_matrix((len(train), 1)), sparse.csr_matrix((len(dev), 1))
    return tuple(sparse.hstack(matrices).tocsr() for matrices in zip(*sides))


def logistic(left: Any, labels: Sequence[str], right: Any) -> tuple[list[str], np.ndarray]:
    """Classes, and probabilities (rows, classes) of `right`, from a logistic regression on `left`."""
    linear = need("sklearn.linear_model", "tasks", PURPOSE)
    names = sorted(set(labels))
    if len(names) == 1:
        return names, np.ones((right.shape[0], 1))
    model = linear.LogisticRegression(C=10.0, solver="saga", max_iter=PASSES, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", need("sklearn.exceptions", "tasks", PURPOSE).ConvergenceWarning)
        model.fit(left, labels)  # what so many passes have not settled changes no figure that is shown
    return [str(name) for name in model.classes_], model.predict_proba(right)


# --- labels and values


def classify(train: Sequence[Example], dev: Sequence[Example]) -> dict[str, list[Row]]:
    """The commonest label (set of labels, mean), and TF-IDF with logistic (ridge) regression."""
    if train[0].labels is None and train[0].value is not None:
        return _values(train, dev)
    if any(len(example.labels or ()) != 1 for example in train):
        return _several(train, dev)
    labels = [(example.labels or ("",))[0] for example in train]
    counts = Counter(labels)
    shares = {name: counts[name] / len(labels) for name in sorted(counts)}
    left, right = features(train, dev)
    names, found = logistic(left, labels, right)
    return {
        "majority": [_labelled(example, shares) for example in dev],
        "TF-IDF": [_labelled(example, dict(zip(names, row.tolist()))) for example, row in zip(dev, found)],
    }


def _labelled(example: Example, scores: dict[str, float]) -> Row:
    best = max(scores, key=lambda name: scores[name])
    return {"id": example.id, "label": best, "score": scores[best], "scores": scores}


def _several(train: Sequence[Example], dev: Sequence[Example]) -> dict[str, list[Row]]:
    sets = [frozenset(example.labels or ()) for example in train]
    common = sorted(Counter(sets).most_common(1)[0][0])
    names = sorted({label for row in sets for label in row})
    left, right = features(train, dev)
    columns = []
    for name in names:
        classes, found = logistic(left, ["yes" if name in row else "no" for row in sets], right)
        columns.append(found[:, classes.index("yes")])
    table = np.stack(columns, 1) if columns else np.zeros((len(dev), 0))
    learned = [
        {
            "id": example.id,
            "label": [name for name, value in zip(names, row) if value > 0.5],
            "scores": dict(zip(names, row.tolist())),
        }
        for example, row in zip(dev, table)
    ]
    return {"majority": [{"id": example.id, "label": common} for example in dev], "TF-IDF": learned}


def _values(train: Sequence[Example], dev: Sequence[Example]) -> dict[str, list[Row]]:
    linear = need("sklearn.linear_model", "tasks", PURPOSE)
    known = [example.value or 0.0 for example in train]
    left, right = features(train, dev)
    found = linear.Ridge(alpha=1.0).fit(left, known).predict(right)
    mean = float(np.mean(known))
    return {
        "mean": [{"id": example.id, "value": mean} for example in dev],
        "TF-IDF": [{"id": example.id, "value": float(value)} for example, value in zip(dev, found)],
    }


# --- written text


def translate(train: Sequence[Example], dev: Sequence[Example]) -> dict[str, list[Row]]:
    """The text itself, and what stands beside the most similar training text."""
    known = [example for example in train if example.target is not None]
    if not known:
        raise InputError(f"{train[0].where}: no training example has a text to write; give targets")
    left, right = features(known, dev)
    best = [0] * len(dev)
    for start in range(0, len(dev), NEIGHBOURS):  # TF-IDF rows have length 1, so that their product is the cosine
        near = right[start : start + NEIGHBOURS] @ left.T
        best[start : start + NEIGHBOURS] = np.asarray(near.argmax(axis=1)).ravel().tolist()
    return {
        "copy": [{"id": example.id, "translation": example.text} for example in dev],
        "nearest": [{"id": e.id, "translation": known[place].target or ""} for e, place in zip(dev, best)],
    }
