"""Muon over matrices of one shape at once equals one matrix after the other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from yanmo.errors import InputError
from yanmo.training.loop import Settings
from yanmo.training.muon import Muon, orthogonalised


def matrices(count: int = 3, shape: tuple[int, int] = (6, 8)) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for _ in range(count)]


def give(parameters: Sequence[nn.Parameter], seed: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad_dtype = dtype
        parameter.grad = (torch.randn(parameter.shape, generator=generator).to(torch.bfloat16) * scale).to(dtype)


def steps(muon: Muon, parameters: Sequence[nn.Parameter], **how: float) -> list[Tensor]:
    for seed in range(3):
        give(parameters, seed)
        muon.step(0.1, 0.1, **how)
    return [parameter.detach().clone() for parameter in parameters]


def test_all_matrices_of_a_shape_at_once_equal_each_by_itself() -> None:
    together, apart = matrices(), matrices()
    ours = steps(Muon(together, torch.float32), together)
    alone = [Muon([parameter], torch.float32) for parameter in apart]
    for seed in range(3):
        give(apart, seed)
        for muon in alone:
            muon.step(0.1, 0.1)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(ours, apart))


def test_a_matrix_without_a_gradient_stays_and_so_does_its_momentum() -> None:
    parameters, all_of_them = matrices(), matrices()
    muon, other = Muon(parameters, torch.float32), Muon(all_of_them, torch.float32)
    for seed in range(3):
        give(parameters, seed)
        give(all_of_them, seed)
        if seed == 1:  # in the middle, so that the two ways use the same momenta
            parameters[1].grad = all_of_them[1].grad = None
        before = parameters[1].detach().clone(), muon.momenta[id(parameters[1])].clone()
        muon.step(0.1, 0.1)
        for parameter in all_of_them:  # every one through the other way
            kept = [p.grad for p in all_of_them]
            for p in all_of_them:
                p.grad = p.grad if p is parameter else None
            other.step(0.1, 0.1)
            for p, gradient in zip(all_of_them, kept):
                p.grad = gradient
        if seed == 1:
            assert torch.equal(parameters[1], before[0])
            assert torch.equal(muon.momenta[id(parameters[1])], before[1])
    assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(parameters, all_of_them))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_may_be_lowered_and_are_scaled(dtype: torch.dtype) -> None:
    plain, scaled = matrices(), matrices()
    one, other = Muon(plain, torch.float32), Muon(scaled, torch.float32)
    for seed in range(3):
        give(plain, seed)
        one.step(0.1, 0.1)
        give(scaled, seed, dtype, scale=4)
        other.step(0.1, 0.1, 0.25)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, scaled))
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(one.momenta.values(), other.momenta.values()))


def test_matrices_in_parts_are_orthogonalised_by_whoever_can() -> None:
    parameters, calls = matrices(), []

    def directions(given: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
        calls.append(len(given))
        return orthogonalised(given, dtype)

    muon, expected = Muon(parameters, torch.float32, directions), matrices()
    muon.stacks.clear()  # as where they are DTensors
    ours = steps(muon, parameters)
    assert calls == [3, 3, 3]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, steps(Muon(expected, torch.float32), expected)))


def test_the_momentum_is_the_one_that_was_asked_for() -> None:
    (one,), (other,) = matrices(1), matrices(1)
    muon = Muon([one], torch.float32, momentum=0.6)
    give([one], 1)
    muon.step(0.1)
    assert torch.allclose(muon.momenta[id(one)], 0.4 * one.grad)
    steps(Muon([other], torch.float32, momentum=0.0), [other])
    before = other.detach().clone()
    give([other], 9)
    Muon([other], torch.float32, momentum=0.0).step(0.1)
    expected = before - 0.1 * 0.2 * 8**0.5 * orthogonalised([other.grad], torch.float32)[0]
    assert torch.allclose(other, expected, atol=1e-6), "without momentum what came before is forgotten"
    with pytest.raises(InputError, match="momentum is 1"):
        Settings(steps=1, momentum=1.0)
