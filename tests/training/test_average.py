"""The average of the weights: its formula, its place in the network and in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small import batch, corpus, equal, network, weights

from yanmo.errors import FileError, InputError
from yanmo.models.adapters import AdapterConfig, add_adapter
from yanmo.runs import open_run
from yanmo.tokens.batches import PackedBatches, validation_batches
from yanmo.training.average import Average
from yanmo.training.checkpoint import load_weights
from yanmo.training.loop import Settings, train
from yanmo.training.objectives import causal, evaluate

DECAY = 0.8


def test_the_average_is_the_corrected_sum_over_the_weights_after_each_step() -> None:
    model, history = network(), []
    steps = train(model, [batch(2, 8, seed) for seed in range(6)], causal, Settings(steps=6, ema=DECAY))
    for step in steps:  # noqa: B007 (the last one is looked at below)
        history.append({name: p.detach().double().clone() for name, p in model.named_parameters()})
    assert step.average is not None and step.average.values.keys() == history[0].keys()
    for name, value in step.average.values.items():
        shares = [DECAY ** (len(history) - 1 - place) * (1 - DECAY) for place in range(len(history))]
        exact = sum(share * seen[name] for share, seen in zip(shares, history)) / (1 - DECAY ** len(history))
        assert value.dtype == torch.float32 and torch.allclose(value.double(), exact, atol=1e-6), name


def test_after_one_step_the_average_is_the_weights() -> None:
    model = network()
    (step,) = train(model, [batch(2, 8)], causal, Settings(steps=1, ema=0.9999))
    assert step.average is not None
    assert all(torch.equal(step.average.values[name], p) for name, p in model.named_parameters())


@pytest.mark.parametrize("kind", ["qwen3", "gpt2", "lstm"])
def test_the_averages_stand_in_the_network_for_a_block_and_its_own_weights_after_it(kind: str) -> None:
    model = network(kind)
    for step in train(model, [batch(2, 8, seed) for seed in range(5)], causal, Settings(steps=5, ema=DECAY)):
        before = weights(model)
        with step.averaged():
            inside = weights(model)
        assert equal(before, weights(model))
    assert step.average is not None and not equal(before, inside)
    assert all(torch.equal(inside[name], value) for name, value in step.average.values.items())
    if model.config.tie_embeddings and kind != "lstm":  # tied: the words' matrix is the embedding, averaged too
        hidden = torch.randn(3, model.config.width)
        with step.averaged(), torch.no_grad():
            assert torch.allclose(model.logits(hidden), hidden @ step.average.values["embedding.weight"].T, atol=1e-5)


def test_without_an_average_the_block_changes_nothing() -> None:
    model = network()
    (step,) = train(model, [batch(2, 8)], causal, Settings(steps=1))
    before = weights(model)
    with step.averaged():
        assert equal(before, weights(model))


def test_averaging_changes_no_step() -> None:
    results = []
    for ema in (0.0, 0.9):
        model = network(dropout=0.2)
        steps = list(train(model, [batch(2, 8, seed) for seed in range(4)], causal, Settings(steps=4, ema=ema)))
        results.append(([step.loss for step in steps], weights(model)))
    assert results[0][0] == results[1][0] and equal(results[0][1], results[1][1])


def test_frozen_weights_are_not_averaged() -> None:
    model = network()
    add_adapter(model, AdapterConfig(rank=2))
    *_, step = train(model, [batch(2, 8, seed) for seed in range(3)], causal, Settings(steps=3, ema=DECAY))
    assert step.average is not None
    assert step.average.values.keys() == {name for name, p in model.named_parameters() if p.requires_grad}


def test_a_step_while_the_average_stands_in_the_network_is_refused() -> None:
    model = network()
    steps = train(model, [batch(2, 8, seed) for seed in range(3)], causal, Settings(steps=3, ema=DECAY))
    first = next(steps)
    before = weights(model)
    with first.averaged(), pytest.raises(InputError, match="leave that block before the next step"):
        next(steps)
    assert equal(before, weights(model))


def test_the_average_smooths_what_a_large_learning_rate_shakes(tmp_path: Path) -> None:
    data = corpus(tmp_path / "s", 60)
    settings = Settings(steps=120, learning_rate=0.05, ema=0.9, schedule="wsd", decay=0.0)
    model = network()

    def loss() -> float:
        return evaluate(model, validation_batches(data, 8, 32), data.n_bytes).loss

    *_, step = train(model, PackedBatches(data, 8, 32), causal, settings)
    own = loss()
    with step.averaged():
        averaged = loss()
    assert averaged < own - 0.02


def go(folder: Path, run: Path, stop: int = 0, **options: Any) -> Any:
    model, data = network(dropout=0.2), corpus(folder / "s") if not (folder / "s").exists() else None
    from yanmo.tokens.shards import open_shards

    batches = PackedBatches(data or open_shards(folder / "s"), 2, 16)
    with open_run(run, "", {}) as opened:
        for step in train(model, batches, causal, Settings(**{"steps": 8, "save_steps": 2} | options), run=opened):
            if step.step == stop:
                break
    return model


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_continued_run_has_the_same_average_to_the_bit(tmp_path: Path, precision: str) -> None:
    go(tmp_path, tmp_path / "whole", ema=DECAY, precision=precision)
    go(tmp_path, tmp_path / "parts", ema=DECAY, precision=precision, stop=3)
    go(tmp_path, tmp_path / "parts", ema=DECAY, precision=precision)
    for name in ("average", "model"):
        files = [tmp_path / run / "checkpoints/step-8" / f"{name}.safetensors" for run in ("whole", "parts")]
        assert equal(*(load_file(file) for file in files)), name


def test_a_checkpoint_gives_its_weights_or_their_average(tmp_path: Path) -> None:
    model = go(tmp_path, tmp_path / "run", ema=DECAY)
    folder = tmp_path / "run/checkpoints/step-8"
    own, average = load_file(folder / "model.safetensors"), load_file(folder / "average.safetensors")
    for averaged, expected in ((False, own), (True, average)):
        load_weights(model, folder, averaged=averaged)
        assert equal(weights(model), expected)
    assert not equal(own, average)


def test_a_damaged_average_and_one_of_another_recipe_are_refused(tmp_path: Path) -> None:
    go(tmp_path, tmp_path / "run", ema=DECAY, stop=2)
    with pytest.raises(FileError, match="made with an average of the weights, this run has train.ema = 0"):
        go(tmp_path, tmp_path / "run")
    path = tmp_path / "run/checkpoints/step-2/average.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileError, match="average.safetensors: not what was written"):
        go(tmp_path, tmp_path / "run", ema=DECAY)
    go(tmp_path, tmp_path / "other", stop=2)
    with pytest.raises(FileError, match="made without an average of the weights, this run has train.ema = 0.8"):
        go(tmp_path, tmp_path / "other", ema=DECAY)
    average = Average({"a": torch.nn.Parameter(torch.zeros(2))}, DECAY)
    with pytest.raises(FileError, match=r"has a \(3,\), and this model \(2,\)"):
        average.restore({"a": torch.zeros(3)})


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_outside_its_range_is_one_sentence(decay: float) -> None:
    with pytest.raises(InputError, match=f"ema is {decay}; choose a decay"):
        Settings(steps=1, ema=decay)


def test_the_best_checkpoint_is_the_one_whose_average_scored_best(tmp_path: Path) -> None:
    model, data, scores = network(), corpus(tmp_path / "s"), {}
    settings = Settings(steps=24, save_steps=3, keep=1, ema=DECAY, learning_rate=0.02, schedule="wsd", decay=0.0)

    def score() -> float:
        return evaluate(model, validation_batches(data, 8, 32), data.n_bytes).bits_per_byte

    with open_run(tmp_path / "run", "", {}) as run:
        for step in train(model, PackedBatches(data, 2, 16), causal, settings, run=run):
            if step.saved:
                with step.averaged():
                    scores[step.step] = score()
                # from the middle on every score counts as bad, so that the best step is not the last
                run.log(step=step.step, bits_per_byte=scores[step.step] + 9 * (step.step > 12))
        best = run.best_step()
        assert best == min((s for s in scores if s <= 12), key=scores.__getitem__)
        assert run.checkpoints() == [best, 24]
        load_weights(model, run.checkpoint(best), averaged=True)
        assert score() == scores[best]
        load_weights(model, run.checkpoint(best))
        assert score() != scores[best]
