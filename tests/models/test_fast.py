"""The fast paths of training on a CPU equal their plain twins, in values and in gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yanmo.models import attention as attention_room
from yanmo.models import fast
from yanmo.models.attention import Visible, attention, reference_attention, see_back, see_both_ways
from yanmo.models.fast import ONE, attend, dropout, keep_bits, product, project

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def assert_close(one: Tensor, other: Tensor) -> None:
    assert one.shape == other.shape and one.dtype == other.dtype
    assert float((one - other).float().norm()) <= TOLERANCE[one.dtype] * float(other.float().norm()) + 1e-7


def with_gradients(run: Callable[..., Tensor], *given: Tensor) -> list[Tensor]:
    out = run(*given)
    upstream = random(*out.shape, seed=9, dtype=out.dtype).detach()
    return [out.detach(), *torch.autograd.grad(out, given, upstream)]


# --- dropout


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_hides_its_share_and_keeps_the_mean(dtype: torch.dtype, rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(300, 333, dtype=dtype)
    out = dropout(x, rate)
    hidden = out == 0
    assert abs(float(hidden.float().mean()) - rate) < 0.01
    assert abs(float(out.float().mean()) - 1) < 0.02 and len(out.unique()) == 2
    for side in (0, 1):  # no row or column is favoured
        assert float((hidden.float().mean(side) - rate).abs().max()) < 0.16


def test_dropout_follows_from_torch_s_random_state_alone() -> None:
    x, found = torch.ones(50, 50), []
    for _ in range(2):
        torch.manual_seed(5)
        found.append([dropout(x, 0.3), dropout(x, 0.3)])
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][0], found[0][1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_dropped_has_no_gradient_and_the_rest_the_factor(dtype: torch.dtype) -> None:
    x = random(7, 9, 5, dtype=dtype)
    out, gradient = with_gradients(lambda x: dropout(x.transpose(0, 1), 0.4), x)
    upstream = random(9, 7, 5, seed=9, dtype=dtype)
    factor = torch.where(out == 0, 0.0, ONE / (ONE - round(0.4 * ONE))).to(dtype)
    assert_close(out, (x.transpose(0, 1) * factor).detach())
    assert_close(gradient, (upstream * factor).transpose(0, 1).detach())
    assert 0.2 < float((out == 0).float().mean()) < 0.6


def test_dropout_of_other_types_is_torch_s() -> None:
    x = torch.ones(40, 40, dtype=torch.float64)
    torch.manual_seed(1)
    ours = dropout(x, 0.5)
    torch.manual_seed(1)
    assert torch.equal(ours, F.dropout(x, 0.5)) and ours.dtype == torch.float64


# --- attention


def seen() -> Tensor:
    mask = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 0], [1, 2, 2, 2, 3, 3, 3, 3]])
    found = see_both_ways(mask, mask).mask
    assert found is not None
    return found


VIEWS = {
    "everything": Visible(),
    "documents": Visible(seen()),
    "causal": Visible(causal=True),
    "biased": Visible(seen(), bias=torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("view", VIEWS)
def test_attention_with_gradients_equals_the_reference(view: str, heads: int, dtype: torch.dtype) -> None:
    visible = VIEWS[view]
    given = [random(2, count, 8, 6, seed=seed, dtype=dtype) for seed, count in enumerate((4, heads, heads))]
    ours = with_gradients(lambda q, k, v: attention(q, k, v, 0.3, visible, 0.0), *given)
    dense = visible.dense(8, 8, torch.device("cpu"))
    theirs = with_gradients(lambda q, k, v: reference_attention(q, k, v, 0.3, dense, visible.bias)[0], *given)
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other)


def test_training_takes_this_way_and_the_mask_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(attention_room, "attend", lambda *given, **how: calls.append(given[4]) or attend(*given, **how))
    visible, given = Visible(seen()), [random(2, 4, 8, 6, seed=seed) for seed in range(3)]
    for _ in range(2):
        attention(*given, 1.0, visible, 0.0)
    assert len(calls) == 2 and calls[0] is calls[1]
    attention(*(tensor.detach() for tensor in given), 1.0, visible, 0.0)
    assert len(calls) == 2


def test_a_query_that_sees_nothing_returns_zero_with_gradients_too() -> None:
    hidden = seen().clone()
    hidden[0, 0, 2] = False
    given = [random(2, 4, 8, 6, seed=seed) for seed in range(3)]
    out, *gradients = with_gradients(lambda q, k, v: attention(q, k, v, 1.0, Visible(hidden), 0.0), *given)
    assert out[0, :, 2].abs().max() == 0 and all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("columns", [8, 10])
def test_causal_attention_in_blocks_equals_the_reference(
    columns: int, packed: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "BLOCK", 4)
    mask = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 2, 3, 3], [1, 2, 2, 2, 3, 3, 3, 3, 3, 0]])[:, :columns]
    visible = see_back(mask if packed else None, columns, 0, mask.device)
    given = [random(2, 4, columns, 6, seed=seed, dtype=dtype) for seed in range(3)]
    ours = with_gradients(lambda q, k, v: attention(q, k, v, 0.3, visible, 0.0), *given)
    dense = visible.dense(columns, columns, mask.device)
    theirs = with_gradients(lambda q, k, v: reference_attention(q, k, v, 0.3, dense)[0], *given)
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other)


def test_blocks_compute_no_key_behind_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "BLOCK", 4)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        attention(*(random(1, 1, 10, 6, seed=seed) for seed in range(3)), 1.0, Visible(causal=True), 0.0)
    assert sorted(kept) == sorted([60, 60, 60, 4 * 4, 4 * 8, 2 * 10])


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropped_weights_equal_the_formula_with_the_same_weights_dropped(dtype: torch.dtype) -> None:
    given = [random(2, 4, 8, 6, seed=seed, dtype=dtype) for seed in range(3)]
    bias = torch.where(seen(), 0.0, -torch.inf).to(dtype)

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        torch.manual_seed(2)
        bits, factor = keep_bits(q.new_empty(8, 8, 8), 0.25)
        weights = torch.softmax((0.3 * (q @ k.transpose(-2, -1)) + bias).float(), -1).to(dtype)
        return (weights * (bits != 0).view(2, 4, 8, 8) * factor) @ v

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        torch.manual_seed(2)
        return attend(q, k, v, 0.3, bias, 0.25)

    for one, other in zip(with_gradients(ours, *given), with_gradients(plain, *given), strict=True):
        assert_close(one, other)


# --- linear layers


@pytest.mark.parametrize("biased", [True, False])
def test_layers_of_one_input_equal_each_by_itself(biased: bool) -> None:
    x = random(3, 5, 16, dtype=torch.bfloat16)
    layers = [nn.Linear(16, size, bias=biased).bfloat16() for size in (16, 8, 24)]
    parameters = [p for layer in layers for p in layer.parameters()]
    ours = with_gradients(lambda *_: torch.cat(project(x, *layers), -1), x, *parameters)
    theirs = with_gradients(lambda *_: torch.cat([layer(x) for layer in layers], -1), x, *parameters)
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other)


def test_a_frozen_layer_gets_no_gradient_and_passes_one_on() -> None:
    x, layer = random(4, 16, dtype=torch.bfloat16), nn.Linear(16, 8).bfloat16().requires_grad_(False)
    project(x, layer)[0].sum().backward()
    assert layer.weight.grad is None and x.grad is not None and bool(x.grad.any())


def test_only_plain_lowered_layers_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(fast._Project, "apply", lambda *given: calls.append(1))
    for dtype, kind in ((torch.float32, nn.Linear), (torch.bfloat16, type("Other", (nn.Linear,), {}))):
        assert len(project(random(2, 8, dtype=dtype), kind(8, 4).to(dtype))) == 1
    assert not calls
    project(random(2, 8, dtype=torch.bfloat16), nn.Linear(8, 4).bfloat16())
    assert calls


@pytest.mark.parametrize("biased", [True, False])
def test_a_product_in_slices_equals_the_whole(biased: bool) -> None:
    a, b, bias = (random(*s, seed=i).detach() for i, s in enumerate(((400, 1536), (1536, 512), (512,))))
    assert_close(product(a, b, bias if biased else None), a @ b + (bias if biased else 0))
