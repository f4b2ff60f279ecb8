"""Answer: the words of a passage that answer a question, where they stand, or that there are none.

In: examples with questions and answers (examples.py). Out: what training needs (`open_answers`), and predictions.

    open_answers    recipe, examples → Opened: head, batches, loss, score on validation
    predict         model, settings, rows with question and context → answer, start, end, score
    read            the same with what speaks for each answer, whether it is withheld or not

A passage longer than the model is read through windows that share tokens (passages.py); a window without the answer is
taught "no answer". Where the examples have questions without an answer, an answer is withheld when "no answer" is
favoured by more than a threshold that is fitted on validation (SQuAD 2.0, Rajpurkar et al. 2018); where they have none,
an answer is always given. The temperature of the scores is fitted too (Guo et al. 2017, section 4.2).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from yanmo.errors import InputError
from yanmo.recipe import Recipe
from yanmo.tasks.examples import Example
from yanmo.tasks.metrics_answers import best_threshold, chinese, english, is_chinese
from yanmo.tasks.opening import Opened
from yanmo.tasks.passages import Passages, Row, encode_passages
from yanmo.tasks.spans import Chars, Choice, Said, choose, cut, listen, targets, tokens_of, window_scores
from yanmo.tokens.labelled import Labelled, labelled_batches
from yanmo.tokens.rows import CELLS, Draws
from yanmo.tokens.tokenizer import Tokenizer
from yanmo.training.build import Top
from yanmo.training.distributed import Ranks
from yanmo.training.labels import check_labels, labelled
from yanmo.training.work import Work

if TYPE_CHECKING:
    from yanmo.inference.model import Model

LIVE = 512  # questions that are scored during training at most
FITTED = 4096  # windows that the temperature is fitted on at most
TEMPERATURES = np.exp(np.linspace(math.log(0.25), math.log(4.0), 57))
LABELS = ("start", "end")
LONGEST = 30  # tokens of an answer of a model that was not trained here


def open_answers(recipe: Recipe, train: list[Example], valid: list[Example]) -> Opened:
    """The work of the objective `answers`; examples that cannot be learned from are an InputError."""
    answers = [[_place(example) for example in part] for part in (train, valid)]
    if not any(answers[0]):
        raise InputError(f"none of the {len(train):,} questions to train on has an answer; add some that have")
    withholds = None in answers[0]

    def work(tokenizer: Tokenizer, network: Any, ranks: Ranks) -> Work:
        return _work(recipe, (train, valid), answers, withholds, tokenizer, network)

    def settings(network: Any, tokenizer: Tokenizer) -> dict[str, Any]:
        passages = _encoded(recipe, train, tokenizer, network)
        found = {"length": recipe.train.length, "stride": recipe.objective.stride, "no_answer": withholds}
        found["longest"] = _longest(passages, answers[0])
        return found | _fitted(network, _encoded(recipe, valid, tokenizer, network), valid, answers[1], found)

    return Opened(Top("span", LABELS), work, settings)


def _place(example: Example) -> Chars | None:
    """Where the answer to learn stands: of several the most frequent, of those the first. None: there is no answer.

    Answers in other words than the passage's are for judging alone, beside one that stands in it.
    """
    if example.question is None or example.answers is None:
        what = "question" if example.question is None else "answers (an empty list says that there is none)"
        raise InputError(f"{example.where}: the example {example.id!r} has no {what}; add it, or leave the row out")
    if not example.answers:
        return None
    found: Counter[Chars] = Counter()
    for answer in example.answers:
        start = answer.start if answer.start >= 0 else example.text.find(answer.text)
        if start >= 0 and answer.text and example.text.startswith(answer.text, start):
            found[start, start + len(answer.text)] += 1
        elif answer.start >= 0:
            raise InputError(
                f"{example.where}: the answer {answer.text!r:.60} does not stand at character {answer.start:,} of its "
                f"passage, which has {len(example.text):,}; correct its offset"
            )
    if not found:
        raise InputError(
            f"{example.where}: no answer of the example {example.id!r} stands in its passage, such as "
            f"{example.answers[0].text!r:.60}; give its words, or leave the row out"
        )
    return found.most_common(1)[0][0]


def _encoded(recipe: Recipe, examples: Sequence[Example], tokenizer: Tokenizer, network: Any) -> Passages:
    rows = [(example.where, example.question or "", example.text) for example in examples]
    return encode_passages(tokenizer, rows, recipe.train.length, recipe.objective.stride, network.config)


def _longest(passages: Passages, answers: Sequence[Chars | None]) -> int:
    """Tokens of the longest answer."""
    found = 1
    for row, answer in enumerate(answers):
        span = tokens_of(passages.ranges[passages.of_row[row]], answer) if answer else None
        found = max(found, 0 if span is None else span[1] - span[0] + 1)
    return found


def _work(
    recipe: Recipe,
    parts: tuple[list[Example], list[Example]],
    answers: list[list[Chars | None]],
    withholds: bool,
    tokenizer: Tokenizer,
    network: Any,
) -> Work:
    train, valid = parts
    passages, held = (_encoded(recipe, part, tokenizer, network) for part in parts)
    places, held_places = (targets(p, a) for p, a in zip((passages, held), answers, strict=True))
    data, scored = passages.labelled(places), held.labelled(held_places)
    check_labels(data, network.config)
    longest = _longest(passages, answers[0])
    live = np.sort(Draws(recipe.train.seed, CELLS, 0).order(len(valid))[:LIVE])

    def measure(network: Any, whole: bool) -> dict[str, float]:
        rows = np.arange(len(valid)) if whole else live
        windows = held.of_rows(rows)
        said = listen(network, held, scored, windows, longest)
        choice = choose(held, said, windows, rows)
        f1, exact = _scores(held, said, choice, windows, valid, rows)
        found = {"valid_loss": float(said.loss.mean()), "valid_targets": len(rows)}
        best, threshold = float(f1.mean()), math.inf
        if withholds:
            can = [answers[1][row] is not None for row in rows]
            best, threshold = _threshold(f1, choice, can)
            exact = np.where(-choice.margin <= threshold, exact, ~np.array(can))
        return found | {"f1": best, "exact": float(exact.mean()), "valid_error": 1 - best}

    facts = {"train_records": len(train), "valid_records": len(valid), "train_tokens": int(data.bounds[-1])}
    facts["windows"] = len(data)
    return Work(lambda: labelled_batches(data, recipe.train.rows, seed=recipe.train.seed), labelled, measure, facts)


def _scores(
    passages: Passages, said: Said, choice: Choice, windows: np.ndarray, examples: list[Example], rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(F1, exact) of the answer that each row would give, whether it is withheld or not; 0 where there is none."""
    found = np.zeros((2, len(rows)))
    for number, row in enumerate(rows.tolist()):
        example = examples[row]
        window = choice.window[number]
        if not example.answers or said.first[window] < 0:
            continue
        start, end = cut(passages, int(windows[window]), int(said.first[window]), int(said.last[window]))
        rule = chinese if is_chinese(example.text) else english
        exact, f1 = rule([answer.text for answer in example.answers], example.text[start:end])
        found[:, number] = f1, exact
    return found[0], found[1]


def _fitted(
    network: Any, passages: Passages, valid: list[Example], answers: list[Chars | None], settings: dict[str, Any]
) -> dict[str, Any]:
    """The temperature and, where answers may be withheld, the threshold, from all of validation."""
    data = passages.labelled(targets(passages, answers))
    some = np.sort(Draws(0, CELLS, 0).order(len(passages))[:FITTED])
    temperature = _temperature(network, data.subset(some))
    found: dict[str, Any] = {"temperature": temperature}
    if settings["no_answer"]:
        windows, rows = np.arange(len(passages)), np.arange(len(valid))
        said = listen(network, passages, data, windows, settings["longest"], temperature)
        choice = choose(passages, said, windows, rows)
        f1, _ = _scores(passages, said, choice, windows, valid, rows)
        found["threshold"] = _threshold(f1, choice, [answer is not None for answer in answers])[1]
    return found


def _threshold(f1: np.ndarray, choice: Choice, can: list[bool]) -> tuple[float, float]:
    """(the best mean F1, the greatest doubt at which an answer is given for it); below all doubts where none helps.

    The doubts are made positive for `best_threshold`, which says 0 where no answer helps.
    """
    doubts = -choice.margin
    positive = doubts - doubts.min() + 1
    best, limit = best_threshold(f1.tolist(), positive.tolist(), [True] * len(can), can)
    given = positive <= limit
    return best, float(doubts[given].max()) if given.any() else float(doubts.min()) - 1


def _temperature(network: Any, data: Labelled) -> float:
    """The temperature of a grid from 0.25 to 4 with the least loss; 1 where none is better."""
    losses = np.zeros(len(TEMPERATURES) + 1)
    for scores, numbers in window_scores(network, data):
        wanted = torch.from_numpy(data.labels[numbers])
        losses += [_loss(scores / float(one), wanted) for one in (*TEMPERATURES, 1.0)]
    best = int(losses[:-1].argmin())
    return float(TEMPERATURES[best]) if losses[best] < losses[-1] else 1.0


def _loss(scores: Tensor, wanted: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(scores, wanted, reduction="sum"))


# --- predictions


class Read(NamedTuple):
    """What a row answers, withheld or not: characters of its context, None where it has no token to begin with.

    span: ln p of the place in its window; margin: its score less that of "no answer"; null: the least ln p of "no
    answer" among its windows.
    """

    place: Chars | None
    span: float
    margin: float
    null: float


def predict(model: Model, settings: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each row (question, context): answer, start, end, score.

    start, end: characters of the context, which are the answer. score: the probability of the answer's place in its
    window. A withheld answer is "" with start and end None, and the score is that of "no answer".
    """
    found = []
    for row, one in zip(rows, read(model, settings, rows), strict=True):
        if one.place is None or withheld(settings, one.margin):
            found.append({"answer": "", "start": None, "end": None, "score": math.exp(one.null)})
            continue
        start, end = one.place
        found.append({"answer": row["context"][start:end], "start": start, "end": end, "score": math.exp(one.span)})
    return found


def read(model: Model, settings: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[Read]:
    """The best place of every row (question, context) and what speaks for it; an InputError names a row by its id."""
    if not rows:
        return []
    triples = [_row(row, number) for number, row in enumerate(rows)]
    passages = encode_passages(model.tokenizer, triples, settings["length"], settings["stride"], model.config)
    windows = np.arange(len(passages))
    longest, temperature = settings.get("longest", LONGEST), settings.get("temperature", 1.0)
    said = listen(model.network, passages, passages.labelled(), windows, longest, temperature)
    choice = choose(passages, said, windows, np.arange(len(rows)))
    found = []
    for window, span, margin, null in zip(*(field.tolist() for field in choice), strict=True):
        ends = int(said.first[window]), int(said.last[window])
        found.append(Read(None if ends[0] < 0 else cut(passages, window, *ends), span, margin, null))
    return found


def withheld(settings: dict[str, Any], margin: float) -> bool:
    """Whether an answer of this margin is held back."""
    return bool(settings.get("no_answer")) and -margin > settings.get("threshold", 0.0)


def _row(row: dict[str, Any], number: int) -> Row:
    name = str(row.get("id", number))
    for key in ("question", "context"):
        if not isinstance(row.get(key), str):
            raise InputError(f"the row {name} has no {key}, or one that is no text; give question and context")
    return name, row["question"], row["context"]
