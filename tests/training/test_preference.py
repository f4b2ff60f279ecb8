"""Preferences: equal to the plain formulas, answers scored apart though packed, and the chosen becomes likelier."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from small import NETWORKS, VOCAB, network
from test_objectives import assert_close, gradients

from yanmo.errors import InputError
from yanmo.tokens.batches import NO_TARGET
from yanmo.tokens.chats import example_rows
from yanmo.tokens.preferences import PreferenceBatch
from yanmo.training.loop import Settings, train
from yanmo.training.preference import answer_scores, dpo, frozen, orpo

Answer = tuple[np.ndarray, np.ndarray]


def answer(prompt: int, size: int, seed: int) -> Answer:
    """Ids of which those behind the prompt are targets; the prompt depends on its size alone."""
    shared, own = np.random.default_rng(prompt), np.random.default_rng(seed)
    ids = np.concatenate([shared.integers(3, VOCAB, prompt), own.integers(3, VOCAB, size)])
    return ids, np.arange(prompt + size) >= prompt


PAIRS = [(answer(3, 5, 1), answer(3, 2, 2)), (answer(6, 1, 3), answer(6, 4, 4)), (answer(1, 7, 5), answer(1, 7, 6))]


def packed(rows: list[list[tuple[Answer, Answer]]]) -> PreferenceBatch:
    return PreferenceBatch(*example_rows([[side for pair in row for side in pair] for row in rows]))


def plain_scores(model: Any, pair: tuple[Answer, Answer]) -> tuple[torch.Tensor, list[int]]:
    """Σ ln p of the two answers, each read alone, and their sizes."""
    scores, counts = [], []
    for ids, targets in pair:
        given = torch.from_numpy(ids)[None]
        chances = torch.log_softmax(model.logits(model.decode(given[:, :-1])), -1)[0]
        each = chances.gather(-1, given[0, 1:, None])[:, 0]
        scores.append(each[torch.from_numpy(targets[1:])].sum())
        counts.append(int(targets[1:].sum()))
    return torch.stack(scores), counts


@pytest.mark.parametrize("kind", NETWORKS)
def test_packed_answers_are_scored_as_if_each_were_alone(kind: str) -> None:
    model = network(kind)
    scores, counts = answer_scores(model, packed([PAIRS[:2], PAIRS[2:]]))
    plain = [plain_scores(model, pair) for pair in PAIRS]
    assert torch.allclose(scores, torch.stack([score for score, _ in plain]), rtol=1e-5)
    assert counts.tolist() == [count for _, count in plain]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", NETWORKS)
def test_dpo_is_its_formula_in_loss_and_gradients(kind: str, smoothing: float) -> None:
    model, other = network(kind), network(kind, seed=1, dropout=0.5)
    expected = torch.zeros(())
    for pair in PAIRS:
        (ours, _), (theirs, _) = plain_scores(model, pair), plain_scores(other, pair)
        margin = 0.5 * ((ours[0] - theirs[0].detach()) - (ours[1] - theirs[1].detach()))
        expected = expected - (1 - smoothing) * torch.log(torch.sigmoid(margin))
        expected = expected - smoothing * torch.log(torch.sigmoid(-margin))
    expected.backward()
    plain = gradients(model)
    other.train()
    objective = dpo(frozen(other), beta=0.5, smoothing=smoothing)
    loss, count = objective(model, packed([PAIRS[:2], PAIRS[2:]]))
    loss.backward()
    assert count == 3 and torch.allclose(loss, expected, rtol=1e-5) and other.training
    assert_close(gradients(model), plain)
    assert all(parameter.grad is None for parameter in other.parameters())


@pytest.mark.parametrize("kind", NETWORKS)
def test_orpo_is_its_formula_in_loss_and_gradients(kind: str) -> None:
    model = network(kind)
    expected = torch.zeros(())
    for pair in PAIRS:
        scores, counts = plain_scores(model, pair)
        chance = torch.exp(scores / torch.tensor(counts))
        odds = chance / (1 - chance)
        expected = expected - scores[0] / counts[0] - 0.3 * torch.log(torch.sigmoid(torch.log(odds[0] / odds[1])))
    expected.backward()
    plain = gradients(model)
    loss, count = orpo(weight=0.3)(model, packed([PAIRS]))
    loss.backward()
    assert count == 3 and torch.allclose(loss, expected, rtol=1e-5)
    assert_close(gradients(model), plain)


def test_at_the_reference_itself_the_loss_is_ln_2_a_pair() -> None:
    model = network()
    loss, count = dpo(frozen(model))(model, packed([PAIRS]))
    assert math.isclose(float(loss.detach()) / count, math.log(2), rel_tol=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_changing_one_pair_leaves_the_others_scores_bit_equal(kind: str) -> None:
    model, batch = network(kind), packed([PAIRS])
    changed = batch._replace(ids=torch.where(batch.mask == 2, (batch.ids + 1) % VOCAB, batch.ids))
    with torch.no_grad():
        before, after = (answer_scores(model, rows)[0] for rows in (batch, changed))
    same = before == after
    assert not same[0, 1] and same[0, 0] and same[1:].all()


@pytest.mark.parametrize("make", [lambda model: dpo(frozen(network(seed=1))), lambda model: orpo()])
def test_batches_add_up_and_one_without_targets_is_nothing(make: Any) -> None:
    model = network()
    objective, whole = make(model), packed([PAIRS])
    total, count = objective(model, whole)
    parts = [objective(model, packed([[pair]])) for pair in PAIRS]
    assert math.isclose(float(total.detach()), sum(float(loss.detach()) for loss, _ in parts), rel_tol=1e-5)
    assert count == sum(n for _, n in parts) == whole.n_targets == 3
    empty = PreferenceBatch(whole.ids, torch.full_like(whole.targets, NO_TARGET), torch.zeros_like(whole.mask))
    loss, count = objective(model, empty)
    loss.backward()
    assert float(loss.detach()) == count == empty.n_targets == 0


@pytest.mark.parametrize("make", [lambda model: dpo(frozen(network()), beta=0.5), lambda model: orpo(weight=1.0)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_chosen_becomes_likelier_than_the_rejected(make: Any, precision: str) -> None:
    model, batch = network(), packed([PAIRS[:2], PAIRS[2:]])
    settings = Settings(steps=60, learning_rate=0.01, weight_decay=0, precision=precision)
    steps = list(train(model, [batch] * 60, make(model), settings))  # type: ignore[list-item]
    with torch.no_grad():
        scores, counts = answer_scores(model, batch)
    mean = scores / counts
    assert (mean[:, 0] > mean[:, 1] + 1).all() and steps[-1].loss < 0.4 * steps[0].loss
    assert steps[-1].tokens == 60 * 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: dpo(frozen(network()), beta=0),
        lambda: dpo(frozen(network()), smoothing=0.5),
        lambda: orpo(weight=math.nan),
    ],
)
def test_settings_outside_their_range_are_refused(make: Any) -> None:
    with pytest.raises(InputError, match=r"is (0|0\.5|nan); choose"):
        make()


@pytest.mark.parametrize("certain", [0, 1])
def test_an_answer_that_is_certain_has_finite_odds(certain: int) -> None:
    model = network("gpt2", logit_bias=True)
    with torch.no_grad():
        model.get_parameter("head.bias")[7] = 1e4
    ids, targets = answer(3, 2, 0)
    sure = np.where(targets, 7, ids), targets
    pair = (sure, (ids, targets)) if certain == 0 else ((ids, targets), sure)
    loss, _ = orpo()(model, packed([[pair]]))
    loss.backward()
    scores, _ = answer_scores(model, packed([[pair]]))
    assert float(scores[0, certain].detach()) == 0 > -1e4 > float(scores[0, 1 - certain].detach())
    assert torch.isfinite(loss) and all(torch.isfinite(gradient).all() for gradient in gradients(model))
