"""Precision: a step in bfloat16 leaves float32 masters, and the faster precision is found by trying."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from small import NETWORKS, batch, equal, network, weights

from yanmo.training import precision
from yanmo.training.objectives import causal
from yanmo.training.precision import lowered, probe_precision


def test_weights_are_lowered_for_a_while_and_are_the_masters_again() -> None:
    model = network()
    before = weights(model)
    with lowered(model, torch.bfloat16) as gather:
        assert all(p.dtype == torch.bfloat16 for p in model.parameters())
        assert model.decode(torch.tensor([[1, 2]])).dtype == torch.bfloat16
        loss, _ = causal(model, batch(2, 5))
        assert loss.dtype == torch.float32
        loss.backward()
        gather()
    assert equal(before, weights(model))
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_gradients_are_summed_in_float32() -> None:
    model = network()
    with lowered(model, torch.bfloat16) as gather:
        for _ in range(600):  # in bfloat16, 256 + 1 is 256
            model.embedding.weight.grad = torch.ones_like(model.embedding.weight)
            gather()
    assert float(model.embedding.weight.grad[0, 0]) == 600  # type: ignore[index]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_brings_the_masters_back_without_gradients(error: type[BaseException]) -> None:
    model = network()
    before = weights(model)
    with pytest.raises(error), lowered(model, torch.bfloat16) as gather:
        causal(model, batch(2, 5))[0].backward()
        gather()
        raise error
    assert equal(before, weights(model)) and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_gradient_in_bfloat16_points_where_the_float32_one_does(kind: str) -> None:
    model = network(kind)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model.zero_grad()
        with lowered(model, dtype) as gather:
            causal(model, batch(4, 16))[0].backward()
            gather()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert float(torch.nn.functional.cosine_similarity(found[0], found[1], dim=0)) > 0.999


def test_the_probe_leaves_everything_as_it_was() -> None:
    model = network(dropout=0.3).train()
    before = weights(model)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    probe = probe_precision(model, batch(2, 8), causal, seconds=0.0)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    assert torch.equal(states[0], after[0]) and states[1:] == after[1:]
    assert equal(before, weights(model)) and all(p.grad is None for p in model.parameters())
    assert probe.float32 > 0 and probe.bfloat16 > 0 and "times as fast" in probe.reason


@pytest.mark.parametrize(("slow", "chosen"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_the_probe_chooses_the_faster(monkeypatch: pytest.MonkeyPatch, slow: str, chosen: str) -> None:
    monkeypatch.setattr(
        precision, "_timed", lambda model, rows, objective, dtype: 2.0 if str(dtype) == f"torch.{slow}" else 1.0
    )
    probe = probe_precision(network(), batch(2, 8), causal, seconds=0.0)
    assert probe.precision == chosen and {probe.float32, probe.bfloat16} == {8.0, 16.0}


def test_the_probe_spends_two_runs_on_a_precision_that_takes_twice_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []
    times = {torch.float32: 1.0, torch.bfloat16: 2.5}

    def timed(model, rows, objective, dtype):  # type: ignore[no-untyped-def]
        asked.append(dtype)
        return times[dtype]

    monkeypatch.setattr(precision, "_timed", timed)
    probe = probe_precision(network(), batch(2, 8), causal, seconds=0.0)
    assert (asked.count(torch.float32), asked.count(torch.bfloat16)) == (4, 2)
    assert (probe.precision, probe.bfloat16) == ("float32", 6.4) and "0.40 times as fast" in probe.reason


def test_the_probe_keeps_to_float32_where_bfloat16_cannot_run() -> None:
    model = network()

    def objective(model, rows):  # type: ignore[no-untyped-def]
        if next(model.parameters()).dtype == torch.bfloat16:
            raise RuntimeError("no kernel for bfloat16\nand more")
        return causal(model, rows)

    probe = probe_precision(model, batch(2, 8), objective, seconds=0.0)
    assert (probe.precision, probe.bfloat16) == ("float32", 0.0) and "(no kernel for bfloat16)" in probe.reason
