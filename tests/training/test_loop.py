"""The loop: a window is one big batch, nothing bad reaches the weights, a fresh model learns."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small import NETWORKS, batch, corpus, equal, joined, network, weights

from yanmo.errors import Error, InputError
from yanmo.runs import open_run
from yanmo.tokens.batches import Batch, PackedBatches, validation_batches
from yanmo.training.loop import Loop, Settings, train
from yanmo.training.objectives import causal, evaluate


def window() -> list[Batch]:
    """Micro-batches with unequal numbers of targets, one of them without any."""
    return [batch(2, 9, seed, targets) for seed, targets in enumerate((1.0, 0.2, 0.0, 0.6))]


def gradients_of(batches: list[Batch], precision: str = "float32") -> tuple[float, dict[str, torch.Tensor]]:
    model = network()
    settings = Settings(steps=1, clip=0, precision=precision, accumulation=len(batches))
    loss, _ = Loop(model, [], causal, settings, None)._gradients(batches)
    return loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_accumulation_equals_the_big_batch(precision: str) -> None:
    loss, gradients = gradients_of(window(), precision)
    big_loss, big_gradients = gradients_of([joined(window())], precision)
    tolerance = 1e-5 if precision == "float32" else 2e-2
    assert math.isclose(loss, big_loss, rel_tol=tolerance / 10) and gradients.keys() == big_gradients.keys()
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        scale = float(big_gradients[name].norm())
        assert float((gradient - big_gradients[name]).norm()) <= tolerance * scale, name


def test_training_with_accumulation_and_a_partial_last_window_equals_training_with_big_batches() -> None:
    small = [*window(), batch(2, 9, 7, 0.5), batch(2, 9, 8, 0.1)]  # 4 + 2 micro-batches
    big = [joined(small[:4]), joined(small[4:])]
    results = []
    for batches, accumulation in ((small, 4), (big, 1)):
        model = network()
        settings = Settings(steps=5, accumulation=accumulation, learning_rate=0.01, clip=0.1)
        steps = list(train(model, batches, causal, settings))
        results.append((steps, weights(model)))
    (steps, ours), (big_steps, theirs) = results
    assert [step.tokens for step in steps] == [step.tokens for step in big_steps] and len(steps) == 2
    assert all(math.isclose(a.loss, b.loss, rel_tol=1e-5) for a, b in zip(steps, big_steps))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)


def test_clipping_limits_the_norm_and_reports_the_one_before() -> None:
    model = network()
    loop = Loop(model, [], causal, Settings(steps=1, clip=0.01, accumulation=4), None)
    _, targets = loop._gradients(window())
    norm, scale = loop._scale(targets)
    clipped = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)) * scale
    assert norm > 0.01 and math.isclose(clipped, 0.01, rel_tol=1e-4)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_one_batch_is_learnt_by_heart(kind: str, optimizer: str) -> None:
    count, rate = (400, 0.05) if kind == "lstm" else (120, 0.02)
    settings = Settings(steps=count, learning_rate=rate, optimizer=optimizer, weight_decay=0, schedule="cosine")
    steps = list(train(network(kind), [batch(2, 8)] * count, causal, settings))
    assert steps[0].loss > 4 and steps[-1].loss < 0.3
    assert [step.step for step in steps] == list(range(1, count + 1))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_corpus_is_learnt_to_below_its_first_loss(tmp_path: Path, precision: str) -> None:
    data = corpus(tmp_path / "s", 200)
    model = network()
    before = evaluate(model, validation_batches(data, 8, 32), data.n_bytes).loss
    settings = Settings(steps=120, learning_rate=0.01, precision=precision)
    list(train(model, PackedBatches(data, 8, 32), causal, settings))
    after = evaluate(model, validation_batches(data, 8, 32), data.n_bytes).loss
    assert before > 4 and after < 2.2  # two ways to go on from each id: ln 2, plus the first id and the end
    assert all(p.dtype == torch.float32 for p in model.parameters())


class Wrong:
    """An objective that goes wrong at a given call, in the loss or in a gradient."""

    def __init__(self, call: int, where: str) -> None:
        self.calls, self.call, self.where = 0, call, where

    def __call__(self, model: Any, rows: Batch) -> tuple[torch.Tensor, int]:
        loss, count = causal(model, rows)
        self.calls += 1
        if self.calls == self.call:
            loss = loss * math.nan if self.where == "loss" else loss + (loss - loss.detach()) * 3e38
        return loss, count


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("where", "sentence"), [("loss", "the loss is nan in micro-batch 2 of 2"), ("gradient", "norm")]
)
def test_what_is_not_finite_stops_before_the_update_and_names_the_batch(
    tmp_path: Path, where: str, sentence: str, precision: str
) -> None:
    model, data = network(), corpus(tmp_path / "s")
    settings = Settings(steps=9, accumulation=2, precision=precision, save_steps=1)
    kept, last = {}, 0
    with open_run(tmp_path / "run", "", {}) as run, pytest.raises(Error, match=sentence) as caught:
        for step in train(model, PackedBatches(data, 2, 16), Wrong(6, where), settings, run=run):
            kept, last = weights(model), step.step
    assert last == 2 and equal(kept, weights(model))
    assert "step 3" in str(caught.value) and "'drawn': 8" in str(caught.value) and "step-2" in str(caught.value)
    assert all(p.grad is None for p in model.parameters())
    assert run.checkpoints() == [1, 2]


def test_a_window_without_targets_changes_nothing_and_says_so() -> None:
    model = network()
    before = weights(model)
    with pytest.warns(UserWarning, match="step 1 has no target token in its 2 micro-batches"):
        (step,) = train(model, [batch(2, 9, 0, 0.0)] * 2, causal, Settings(steps=1, accumulation=2))
    assert step.loss == 0 and step.tokens == 0 and equal(before, weights(model))


def test_frozen_parameters_stay_as_they_are() -> None:
    model = network()
    model.embedding.weight.requires_grad_(False)
    before = weights(model)
    list(train(model, window() * 2, causal, Settings(steps=2, accumulation=4)))
    after = weights(model)
    assert torch.equal(before["embedding.weight"], after["embedding.weight"]) and not equal(before, after)


def test_a_budget_in_seconds_ends_on_time_and_runs_the_whole_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr("time.monotonic", lambda: clock)

    def batches() -> Iterator[Batch]:
        nonlocal clock
        for seed in range(1000):
            clock += 0.5 if seed else 3.0  # a slow first step
            yield batch(1, 4, seed)

    settings = Settings(seconds=20, schedule="linear", warmup=0.1, learning_rate=1.0, weight_decay=0)
    steps = list(train(network(), batches(), causal, settings))
    assert abs(clock - 100 - 20) <= 0.5 and len(steps) == 35
    rates = [step.learning_rate for step in steps]
    assert 0.5 < rates[0] < 1 and 0 < rates[-1] < 0.05  # the first step's middle lies in the warm-up of 2 s
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_a_budget_shorter_than_a_step_makes_one_step() -> None:
    assert len(list(train(network(), window() * 9, causal, Settings(seconds=0)))) == 1


def test_batches_that_end_end_the_training() -> None:
    assert len(list(train(network(), window(), causal, Settings(steps=9, accumulation=3)))) == 2


def test_what_the_caller_draws_between_steps_changes_nothing(tmp_path: Path) -> None:
    data = corpus(tmp_path / "s")
    results = []
    for draws in (False, True):
        model = network(dropout=0.3)
        torch.manual_seed(5)
        for _ in train(model, PackedBatches(data, 2, 16), causal, Settings(steps=4)):
            if draws:
                torch.rand(3)
                model.eval()
        results.append((weights(model), float(torch.rand(1))))
    (one, drawn), (other, _) = results
    assert equal(one, other)
    torch.manual_seed(5)
    assert drawn == float(torch.rand(1))  # and training leaves the caller's own random numbers alone


def test_dropout_is_on_while_training_and_depends_on_the_seed(tmp_path: Path) -> None:
    data = corpus(tmp_path / "s")
    losses = set()
    for dropout, seed in ((0.0, 0), (0.3, 0), (0.3, 1)):
        settings = Settings(steps=1, seed=seed)
        losses |= {step.loss for step in train(network(dropout=dropout), PackedBatches(data, 2, 16), causal, settings)}
    assert len(losses) == 3


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "give exactly one of them"),
        ({"steps": 1, "seconds": 1.0}, "give exactly one of them"),
        ({"steps": 0}, "steps is 0, at least 1 is needed"),
        ({"steps": 1, "accumulation": 0}, "accumulation is 0"),
        ({"steps": 1, "optimizer": "sgd"}, "optimizer is 'sgd'; choose one of adamw, muon"),
        ({"steps": 1, "schedule": "step"}, "schedule is 'step'; choose one of wsd, cosine, linear"),
        ({"steps": 1, "precision": "float16"}, "precision is 'float16'; choose one of float32, bfloat16"),
        ({"steps": 1, "learning_rate": math.nan}, "learning_rate is nan"),
    ],
)
def test_settings_outside_their_range_are_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Settings(**values)


def test_a_run_needs_batches_that_can_be_taken_up_again(tmp_path: Path) -> None:
    with (
        open_run(tmp_path / "run", "", {}) as run,
        warnings.catch_warnings(),
        pytest.raises(InputError, match="cannot be resumed"),
    ):
        next(train(network(), window(), causal, Settings(steps=1), run=run))
