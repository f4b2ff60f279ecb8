"""Updates: AdamW is torch's, Muon is the article's, and schedules are what they say."""

from __future__ import annotations

import math

import pytest
import torch
from small import batch, network

from yanmo.errors import FileError
from yanmo.tasks.crf import Transitions
from yanmo.training.muon import orthogonalise
from yanmo.training.objectives import causal
from yanmo.training.optimizer import SCHEDULES, Optimizer, split_parameters


def backward(model: torch.nn.Module, seed: int) -> None:
    loss, count = causal(model, batch(2, 9, seed))
    (loss / count).backward()


def test_only_matrices_that_are_no_embeddings_decay() -> None:
    groups = split_parameters(network("gpt2"))
    assert "embedding.weight" in groups["plain"] and "decoder.positions.weight" in groups["plain"]
    assert all(p.ndim == 2 for p in groups["hidden"].values()) and not groups["decayed"]
    assert all(name.endswith("bias") or "norm" in name or "ositions" in name or name == "embedding.weight"
               for name in groups["plain"])  # fmt: skip
    total = sum(len(group) for group in groups.values())
    assert total == len(list(network("gpt2").parameters()))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_decay_shrinks_matrices_and_nothing_else(kind: str) -> None:
    model = network("gpt2")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    Optimizer(model, kind, 0.1, weight_decay=0.5).step()
    decayed = split_parameters(model)["hidden"]
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, before[name] * (0.95 if name in decayed else 1.0), rtol=1e-6), name


@pytest.mark.parametrize("kind", ["qwen3", "lstm"])
def test_an_untied_output_matrix_decays_and_is_no_hidden_matrix(kind: str) -> None:
    groups = split_parameters(network(kind, tie_embeddings=False))
    assert len(groups["decayed"]) == 1 and next(iter(groups["decayed"].values())).shape == (61, 16)


def test_what_a_task_learns_beside_its_network_is_no_hidden_matrix() -> None:
    model = network("gpt2", head="token", labels=("O", "B-A", "I-A"))
    model.transitions = Transitions(3)
    groups = split_parameters(model)
    assert {"head.out.weight", "transitions.steps", "transitions.ends"} <= groups["decayed"].keys()
    assert not [name for name in groups["hidden"] if name.startswith(("head", "transitions"))]


def test_adamw_equals_the_formula() -> None:
    model = network()
    name = "decoder.layers.0.ffn.up.weight"
    parameter = model.get_parameter(name)
    optimizer = Optimizer(model, "adamw", 0.01, weight_decay=0.1, betas=(0.9, 0.95))
    expected, m, v = parameter.detach().double(), 0.0, 0.0
    for step in range(1, 4):
        backward(model, step)
        assert parameter.grad is not None
        gradient, rate = parameter.grad.double(), 0.01 * step / 4
        m, v = 0.9 * m + 0.1 * gradient, 0.95 * v + 0.05 * gradient**2
        expected = expected * (1 - rate * 0.1)
        expected = expected - rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8)
        optimizer.step(step / 4)
        optimizer.zero_grad()
    assert torch.allclose(parameter.detach().double(), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 20), (2, 20, 8)])
def test_newton_schulz_brings_singular_values_near_one_and_keeps_directions(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalise(matrices)
    values = torch.linalg.svdvals(result)
    assert float(values.min()) > 0.5 and float(values.max()) < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    assert float((result * (u @ v)).sum()) / math.sqrt(float((u @ v).square().sum() * result.square().sum())) > 0.95
    alone = torch.cat([orthogonalise(matrix[None]) for matrix in matrices])
    assert torch.allclose(result, alone, atol=1e-5)


def test_newton_schulz_leaves_a_zero_matrix_zero() -> None:
    assert not orthogonalise(torch.zeros(1, 4, 6)).any()


def test_muon_updates_a_matrix_as_the_article_says() -> None:
    model = network()
    parameter = model.get_parameter("decoder.layers.0.ffn.up.weight")  # 24 x 16
    optimizer = Optimizer(model, "muon", 0.01, weight_decay=0.1)
    expected, momentum = parameter.detach().clone(), torch.zeros_like(parameter)
    for seed in range(3):
        backward(model, seed)
        assert parameter.grad is not None
        momentum = 0.95 * momentum + 0.05 * parameter.grad
        update = orthogonalise((0.05 * parameter.grad + 0.95 * momentum)[None])[0]
        expected = expected * (1 - 0.01 * 0.1) - 0.01 * 0.2 * math.sqrt(24) * update
        optimizer.step()
        optimizer.zero_grad()
    assert torch.allclose(parameter, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_restored_optimizer_goes_on_bit_by_bit(kind: str) -> None:
    one, other = network(), network()
    first, second = Optimizer(one, kind, 0.01), Optimizer(other, kind, 0.01)
    for seed in range(2):
        backward(one, seed)
        first.step()
        first.zero_grad()
    other.load_state_dict(one.state_dict())
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    for model, optimizer in ((one, first), (other, second)):
        backward(model, 9)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
    assert sum(name.startswith("momentum/") for name in first.state()) == (14 if kind == "muon" else 0)


def test_the_state_of_another_optimizer_or_model_is_refused() -> None:
    model = network()
    backward(model, 0)
    states = {}
    for kind in ("adamw", "muon"):
        optimizer = Optimizer(model, kind, 0.01)
        optimizer.step()
        states[kind] = optimizer.state()
    for kind, other in (("adamw", "muon"), ("muon", "adamw")):
        with pytest.raises(FileError, match="continue with the recipe that made it"):
            Optimizer(network(), kind, 0.01).restore(states[other])
    with pytest.raises(FileError, match="which this model and optimizer lack"):
        Optimizer(network("gpt2"), "adamw", 0.01).restore(states["adamw"])


def test_schedules_rise_hold_and_fall() -> None:
    wsd, cosine, linear = (SCHEDULES[name] for name in ("wsd", "cosine", "linear"))
    assert [round(wsd(p, 0.1, 0.2, 0.0), 6) for p in (0, 0.05, 0.1, 0.5, 0.8, 0.9, 1)] == [0, 0.5, 1, 1, 1, 0.5, 0]
    assert [round(cosine(p, 0.0, 0.0, 0.1), 6) for p in (0, 0.5, 1)] == [1, 0.55, 0.1]
    assert [round(linear(p, 0.2, 0.0, 0.0), 6) for p in (0, 0.1, 0.2, 0.6, 1)] == [0, 0.5, 1, 0.5, 0]
    for schedule in (wsd, cosine, linear):
        assert all(0 <= schedule(p / 100, 0.02, 0.3, 0.0) <= 1 for p in range(101))
        assert schedule(0.5, 0.0, 0.0, 0.0) > 0
