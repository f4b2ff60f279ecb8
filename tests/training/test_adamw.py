"""AdamW in pieces is torch's AdamW, whatever form gradients have; a step in bfloat16 copies none of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from small import batch, equal, network, weights
from test_labels import batch_of, data
from test_labels import network as classifier
from torch import Tensor, nn

from yanmo.kernels import native, training
from yanmo.tokens.labelled import LabelBatch
from yanmo.training import adamw, precision
from yanmo.training.adamw import AdamW, coalesced, norm, pieces
from yanmo.training.labels import labelled
from yanmo.training.loop import Loop, Settings, train
from yanmo.training.objectives import causal
from yanmo.training.optimizer import Optimizer
from yanmo.training.precision import Lowering, lowered

VALUES: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8}
SIZES = ((7, 5), (13,), (3, 4, 5), (1,), (40, 8))


@pytest.fixture(params=[1 << 20, 64])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Pieces that hold everything, and pieces that part tensors."""
    monkeypatch.setattr(adamw.pieces, "__defaults__", (request.param,))
    return request.param


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(size, generator=generator)) for size in SIZES]


def gradients(step: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(size, generator=generator).to(dtype) for size in SIZES]


def groups(given: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": given[:2], "weight_decay": 0.1}, {"params": given[2:], "weight_decay": 0.0}]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_steps_are_those_of_torch(piece: int, dtype: torch.dtype, scale: float) -> None:
    ours, theirs = parameters(), parameters()
    mine, other = AdamW(groups(ours), **VALUES), torch.optim.AdamW(groups(theirs), **VALUES)
    for step in range(5):
        for parameter, twin, gradient in zip(ours, theirs, gradients(step, dtype)):
            parameter.grad_dtype = dtype
            parameter.grad, twin.grad = gradient, gradient.float() * scale
        if step == 2:
            ours[1].grad = theirs[1].grad = None
        mine.step(scale)
        other.step()
    for parameter, twin in zip(ours, theirs):
        assert torch.allclose(parameter, twin, atol=1e-6)
        for key, value in other.state[twin].items():
            assert torch.allclose(mine.state[parameter][key], value, rtol=1e-4, atol=1e-7), key


def test_rows_of_a_table_give_the_step_of_the_whole_gradient(piece: int) -> None:
    ours, theirs = parameters(), parameters()
    mine, other = AdamW(groups(ours), **VALUES), AdamW(groups(theirs), **VALUES)
    for step in range(4):
        rows = torch.tensor([[3, 39, 3, 20, 0][step:]])
        values = torch.randn(rows.shape[1], 8, generator=torch.Generator().manual_seed(step))
        sparse = torch.sparse_coo_tensor(rows, values, (40, 8), check_invariants=False)
        ours[4].grad, theirs[4].grad = coalesced(sparse), sparse.to_dense()
        mine.step(0.5)
        other.step(0.5)
        assert torch.allclose(ours[4], theirs[4], atol=1e-7)
        assert abs(norm([ours[4].grad]) - float(theirs[4].grad.norm())) < 1e-5  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_without_the_native_kernels_a_step_is_the_same(decay: float) -> None:
    found = []
    for off in (False, True):
        given = parameters()
        mine = AdamW([{"params": given, "weight_decay": decay}], **VALUES)
        for step in range(4):
            for parameter, gradient in zip(given[:4], gradients(step)):
                parameter.grad = gradient
            rows = torch.tensor([[3, 39, 3, 20, 0][step:]])
            values = torch.randn(rows.shape[1], 8, generator=torch.Generator().manual_seed(step))
            given[4].grad = coalesced(torch.sparse_coo_tensor(rows, values, (40, 8), check_invariants=False))
            if step == 2:  # as after a restart
                mine.state[given[4]]["exp_avg"] = mine.state[given[4]]["exp_avg"].clone()
            with native.using("off" if off else native.level() or "off"):
                mine.step(0.5)
                size = norm([parameter.grad for parameter in given if parameter.grad is not None])
        found.append((given, size))
    assert abs(found[0][1] - found[1][1]) < 1e-4
    for one, other in zip(found[0][0], found[1][0]):
        assert torch.allclose(one, other, atol=1e-6)


def test_pieces_hold_every_number_once(piece: int) -> None:
    given = gradients(0, torch.bfloat16)
    found = [torch.full(gradient.shape, torch.nan) for gradient in given]
    for parts in pieces(given):
        assert sum(len(part.numbers) for part in parts) <= piece
        for number, begin, numbers in parts:
            found[number].view(-1)[begin : begin + len(numbers)] = numbers
    assert all(torch.equal(one, other.float()) for one, other in zip(found, given))
    squares = sum(float(gradient.float().square().sum()) for gradient in given)
    assert abs(norm(given) - squares**0.5) < 1e-4


def test_state_is_torch_s_and_can_be_restored() -> None:
    results = []
    for parts in ((4,), (2, 2)):
        model = network()
        taken: dict[str, Tensor] = {}
        for count in parts:
            optimizer = Optimizer(model, "adamw", 0.01)
            assert isinstance(optimizer.adamw, AdamW)
            if taken:
                optimizer.restore({key: tensor.clone() for key, tensor in taken.items()})
            for _ in range(count):
                step = int(optimizer.adamw.state[optimizer.parameters[0]]["step"]) if optimizer.adamw.state else 0
                for place, parameter in enumerate(optimizer.parameters):
                    generator = torch.Generator().manual_seed(100 * step + place)
                    parameter.grad = torch.randn(parameter.shape, generator=generator)
                optimizer.step()
            taken = optimizer.state()
        results.append((weights(model), taken))
    assert equal(results[0][0], results[1][0]) and equal(results[0][1], results[1][1])
    assert {key.partition("/")[0] for key in results[0][1]} == {"step", "exp_avg", "exp_avg_sq"}


# --- one backward alone


@pytest.fixture
def two_ways() -> Iterator[list[dict[str, Tensor]]]:
    """Gradients of one batch in bfloat16: as sums in float32, and as they are computed."""
    found = []
    for once in (False, True):
        model = classifier(scale=2.0)
        lowering = Lowering(model, torch.bfloat16, once=once)
        for _ in range(2):  # the second time in memory that is kept
            with lowering.open() as gather:
                loss, _ = labelled(model, batch_of(data(), 0, 1, 2, 3))
                loss.backward()
                gather()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        assert all(p.dtype == torch.float32 and not hasattr(p, "uses") for p in model.parameters())
    yield found


def test_gradients_stay_as_they_are_computed(two_ways: list[dict[str, Tensor]]) -> None:
    sums, once = two_ways
    assert sums.keys() == once.keys()
    for name, gradient in once.items():
        assert gradient.is_sparse == (name == "embedding.weight")
        assert gradient.dtype == (torch.float32 if gradient.is_sparse else torch.bfloat16)
        dense = gradient.to_dense() if gradient.is_sparse else gradient
        assert (dense.float() - sums[name]).norm() <= 0.02 * sums[name].norm() + 1e-6, name


def test_a_gradient_takes_the_place_of_the_copy_that_it_belongs_to() -> None:
    model = classifier()
    lowering = Lowering(model, torch.bfloat16, once=True)
    with lowering.open() as gather:
        labelled(model, batch_of(data(), 0, 1))[0].backward()
        gather()
    places = dict(zip(map(id, lowering.parameters), lowering.copies))
    for layer in model.encoder.layers:  # type: ignore[union-attr]
        for linear in (layer.attention.query, layer.attention.value, layer.attention.out, layer.ffn.up, layer.ffn.down):
            assert linear.weight.grad.data_ptr() == places[id(linear.weight)].data_ptr()
        query, key = layer.attention.query.weight.grad, layer.attention.key.weight.grad
        assert key.data_ptr() == query.data_ptr() + query.nbytes


def test_the_next_copies_are_written_with_the_weights_and_count_until_these_change() -> None:
    model = classifier()
    loop = Loop(model, [], labelled, Settings(steps=3, precision="bfloat16"), None)
    loop.batches = iter([batch_of(data(), 0, 1), batch_of(data(), 2, 3), batch_of(data(), 0, 3)])
    weight, copied = model.encoder.layers[0].ffn.up.weight, 0  # type: ignore[union-attr]
    for step in range(3):
        if step == 2:
            with torch.no_grad():
                weight.add_(1)
        with loop.lowering.open():
            copy = next(c for p, c in zip(loop.lowering.parameters, loop.lowering.copies) if p is weight)
            now = copy.clone()
        assert torch.equal(now, weight.bfloat16())
        loop.step_once()
        if training.usable():
            copied += int(torch.equal(copy, weight.bfloat16()))
    assert copied == (3 if training.usable() else 0)


def test_a_matrix_that_is_used_twice_is_not_overwritten() -> None:
    rows = batch_of(data(), 0, 1, 2)

    def twice(model: Any, batch: LabelBatch) -> tuple[Tensor, int]:
        one, other = labelled(model, batch), labelled(model, batch)
        return one[0] + other[0], one[1]

    found = []
    for once in (False, True):
        model = classifier(scale=2.0)
        with Lowering(model, torch.bfloat16, once=once).open() as gather:
            twice(model, rows)[0].backward()
            gather()
        found.append([p.grad.to_dense().float() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= 0.02 * one.norm() + 1e-6


def test_recomputed_layers_train_the_same_way() -> None:
    found = []
    for recompute in (False, True):
        model = classifier(scale=2.0)
        settings = Settings(steps=3, precision="bfloat16", recompute=recompute)
        list(train(model, [batch_of(data(), 0, 1, 2, 3)] * 3, labelled, settings))
        found.append(weights(model))
    assert equal(*found)


def test_a_step_in_bfloat16_is_the_step_with_float32_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for once in (True, False):
        model = network("gpt2")
        loop = Loop(model, [], causal, Settings(steps=1, precision="bfloat16", clip=0.1), None)
        assert loop.once
        if not once:
            loop.once, loop.lowering = False, Lowering(model, torch.bfloat16)
        loop.batches = iter([batch(2, 9)])
        step = loop.step_once()
        assert step is not None
        found.append((step.gradient_norm, weights(model)))
    assert abs(found[0][0] - found[1][0]) < 1e-5 * found[0][0]
    for name, one in found[0][1].items():
        assert torch.allclose(one, found[1][1][name], atol=1e-6), name


def test_an_exception_brings_the_masters_back_without_gradients() -> None:
    model = classifier()
    before = weights(model)
    with pytest.raises(RuntimeError), Lowering(model, torch.bfloat16, once=True).open():
        labelled(model, batch_of(data(), 0, 1))[0].backward()
        raise RuntimeError
    assert equal(before, weights(model)) and all(p.grad is None for p in model.parameters())
    assert not model.embedding.sparse and not model.embedding._forward_hooks


def test_masters_keep_their_gradients_type_when_training_goes_on_in_float32() -> None:
    model = classifier()
    for kind in ("bfloat16", "float32"):
        list(train(model, [batch_of(data(), 0, 1)], labelled, Settings(steps=1, precision=kind)))
    with lowered(model, torch.float32) as gather:
        labelled(model, batch_of(data(), 0, 1))[0].backward()
        gather()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
    assert precision.DTYPES["float32"] == torch.float32
