"""Training's passes: each level equals the plain formulas, and what dropout hides is a share that a seed decides."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from yanmo.kernels import native, training

pytestmark = pytest.mark.skipif(not training.usable(), reason=f"the native kernels are {native.why_absent()}")
LEVELS = native.levels()
ROWS, WIDTH, SEED, RATE = 37, 48, 12345, 0.1
BFLOAT16 = 2**-8  # relative error of a rounded number


@pytest.fixture(params=LEVELS, autouse=True)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    with native.using(request.param):
        yield request.param


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def assert_near(ours: Tensor, exact: Tensor, roundings: float = 1.0) -> None:
    """Within some roundings to bfloat16 of each number, and of a twentieth of the largest."""
    room = roundings * BFLOAT16 * (exact.abs() + 0.05 * float(exact.abs().max()))
    assert ours.shape == exact.shape and bool(((ours.float() - exact).abs() <= room).all())


@pytest.mark.parametrize("rate", [0.0, RATE])
def test_the_sum_with_dropout_and_its_norm(rate: float) -> None:
    residual, branch, weight, bias = some(ROWS, WIDTH), some(ROWS, WIDTH, seed=1), some(WIDTH, seed=2), some(WIDTH)
    summed = branch.clone()
    out, stats = training.join(residual, summed, weight, bias, 1e-5, rate, SEED)
    assert_near(summed, residual.float() + branch.float() * training.kept(SEED, ROWS, WIDTH, rate))
    assert_near(out, F.layer_norm(summed.float(), (WIDTH,), weight.float(), bias.float(), 1e-5))
    assert torch.allclose(stats[:, 0], summed.float().mean(1), atol=1e-6)


@pytest.mark.parametrize("rate", [0.0, RATE])
def test_the_gradient_of_the_sum_and_its_norm(rate: float) -> None:
    residual, branch, weight, bias = some(ROWS, WIDTH), some(ROWS, WIDTH, seed=1), some(WIDTH, seed=2), some(WIDTH)
    upstream, summed = some(ROWS, WIDTH, seed=3), branch.clone()
    _, stats = training.join(residual, summed, weight, bias, 1e-5, rate, SEED)
    found = training.join_back(upstream, summed, weight, stats, rate, SEED)
    x, w, b = (t.float().requires_grad_() for t in (summed, weight, bias))
    F.layer_norm(x, (WIDTH,), w, b, 1e-5).backward(upstream.float())
    assert x.grad is not None and w.grad is not None and b.grad is not None
    through = x.grad * training.kept(SEED, ROWS, WIDTH, rate)
    assert_near(found[0], x.grad, 2)
    assert_near(found[1], through, 3)
    assert_near(found[2], torch.stack([w.grad, b.grad, through.sum(0)]), 8)  # the last one of rounded numbers


def test_gelu_and_its_gradient() -> None:
    x, upstream = some(ROWS, WIDTH) * 3, some(ROWS, WIDTH, seed=1)
    exact = x.float().requires_grad_()
    F.gelu(exact).backward(upstream.float())
    assert exact.grad is not None
    gradient = upstream.clone()
    out, columns = training.gelu_back(x, gradient)
    assert torch.equal(out, training.gelu(x))
    assert_near(out, F.gelu(exact).detach())
    assert_near(gradient, exact.grad)
    assert_near(columns, exact.grad.sum(0), 4)


def test_gelu_of_every_number_up_to_a_hundred() -> None:
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).short().view(torch.bfloat16)
    x = x[x.isfinite() & (x.abs() < 100)]
    x = x[: len(x) // 16 * 16].view(-1, 16)
    exact = x.double().requires_grad_()
    F.gelu(exact).sum().backward()
    assert exact.grad is not None
    slope = torch.ones_like(x)
    out, _ = training.gelu_back(x, slope)
    values = F.gelu(exact).detach()
    assert bool(((out.double() - values).abs() <= BFLOAT16 * values.abs() + 2e-6).all())
    assert bool(((slope.double() - exact.grad).abs() <= BFLOAT16 * exact.grad.abs() + 1e-5).all())


@pytest.mark.parametrize("rate", [0.0, RATE])
def test_weights_of_attention_and_their_gradient(rate: float) -> None:
    rows, heads, columns, scale = 2, 3, 32, 0.3
    scores, upstream = some(rows * heads, columns, columns), some(rows * heads, columns, columns, seed=1)
    first = torch.tensor([0, 5, 20]).repeat_interleave(torch.tensor([5, 15, 12])).expand(rows, -1)
    last = torch.tensor([5, 20, 32]).repeat_interleave(torch.tensor([5, 15, 12])).expand(rows, -1)
    ranges = torch.stack([first, last], -1).int().contiguous()
    place = torch.arange(columns)
    hidden = (place < first[..., None]) | (place >= last[..., None])
    exact = scores.float().requires_grad_()
    masked = (exact * scale).masked_fill(hidden.repeat_interleave(heads, 0), -torch.inf)
    keep = training.kept(SEED, len(scores) * columns, columns, rate).view(scores.shape)
    (masked.softmax(-1) * keep).backward(upstream.float())
    assert exact.grad is not None

    weights, gradient = scores.clone(), upstream.clone()
    dropped = training.weigh(weights, ranges, heads, scale, rate, SEED)
    again = training.weigh_back(weights, gradient, ranges, heads, scale, rate, SEED)
    assert torch.equal(dropped, again)
    assert_near(weights, masked.softmax(-1).detach())
    assert_near(dropped, weights.float() * keep)
    assert_near(gradient, exact.grad, 3)


@pytest.mark.parametrize("rows", [1, 8, 37])
def test_rows_become_columns(rows: int) -> None:
    x = some(rows, WIDTH)
    assert torch.equal(training.turned(x), x.t())


def test_all_levels_drop_the_same_numbers_and_the_right_share() -> None:
    kept = training.kept(SEED, 400, 512, RATE)
    share = float((kept == 0).float().mean())
    assert abs(share - RATE) < 5 * math.sqrt(RATE * (1 - RATE) / kept.numel())
    assert abs(float(kept.mean()) - 1) < 0.01
    rows = torch.zeros(400, 512).bfloat16()
    summed = torch.ones_like(rows)
    training.join(rows, summed, rows[0], rows[0], 1e-5, RATE, SEED)
    assert torch.equal(summed, kept.bfloat16())
    assert not torch.equal(kept, training.kept(SEED + 1, 400, 512, RATE))


def test_a_number_that_is_none_stays_one_and_infinity_too() -> None:
    x = torch.tensor([[math.nan, math.inf, -math.inf, 3e38] * 4]).bfloat16()
    out = training.gelu(x)[0].float()
    assert bool(out[0].isnan()) and out[1] == math.inf and out[3] > 2e38


def test_threads_change_no_byte() -> None:
    x, found = some(300, 256), []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        gradient = some(300, 256, seed=1)
        found.append((*training.gelu_back(x, gradient), gradient, training.turned(x)))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other))


@pytest.mark.parametrize("size", [(64, 320, 832), (272, 1056, 96), (400, 768, 160), (1040, 416, 64)])
@pytest.mark.parametrize("kind", ["plain", "turned", "bias", "added"])
def test_products_on_tiles(kind: str, size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    rows, depth, columns = size
    a, b, bias = some(rows, depth), some(depth, columns, seed=1), some(columns, seed=2)
    if kind == "turned":
        b = b.t().contiguous().t()
    if not training.tiles():
        pytest.skip("no tiles for bfloat16 at this level")
    monkeypatch.setattr(training, "WORTH", 0)  # small ones are worth it for a test
    assert training.multiplies(a, b)
    out = some(rows, columns, seed=3)
    exact = a.double() @ b.double() + (bias if kind == "bias" else out if kind == "added" else 0)
    training.multiply(a, b, bias if kind == "bias" else None, out, add=kind == "added")
    assert_near(out, exact.float())


def test_products_that_do_not_fit_into_tiles_are_torch_s() -> None:
    for rows, depth, columns in ((1000, 1000, 1000), (1000, 1024, 1024), (1024, 1024, 1000), (16, 32, 32)):
        assert not training.multiplies(some(1, 1).expand(rows, depth), some(1, 1).expand(depth, columns))
    assert not training.multiplies(some(1024, 1024).float(), some(1024, 1024).float())


@pytest.mark.parametrize("width", [64, 24])
def test_products_of_each_head_are_those_of_views(width: int) -> None:
    rows, heads, columns = 3, 2, 96
    joint = some(rows, columns, 3, heads, width).permute(2, 0, 3, 1, 4)
    q, k, v = joint
    square = torch.zeros(rows, heads, columns, columns).bfloat16()
    training.multiply_heads(q, k.mT, square)
    assert_near(square, q.float() @ k.float().mT)
    for a in (square, square.mT):
        mixed = torch.zeros(rows, columns, heads, width).bfloat16().transpose(1, 2)
        training.multiply_heads(a, v, mixed)
        assert_near(mixed, a.float() @ v.float())
