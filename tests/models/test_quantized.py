"""Quantised bases: near the dense ones, exact in what they compute with, small in memory, honest about their cost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.models.moved import logits, move, near
from tests.training.small import batch, equal, network, weights
from yanmo.errors import InputError
from yanmo.inference.model import Model
from yanmo.models.adapters import AdapterConfig, _slowdown, add_adapter, merge, quantize_base, set_adapter, unmerge
from yanmo.models.checkpoint import load_network
from yanmo.models.lowrank import Projection, slots
from yanmo.models.quantized import pack, packed_linear
from yanmo.training.objectives import causal


@pytest.mark.parametrize("shape", [(7, 36), (16, 64), (5, 3), (4, 96)])
@pytest.mark.parametrize("bits, group, bound", [(8, 32, 1 / 254), (4, 32, 1 / 8), (4, 64, 1 / 8)])
def test_a_packed_matrix_is_near_the_dense_one(shape: tuple[int, int], bits: int, group: int, bound: float) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    weight[1] = 0
    packed = pack(weight, bits, group)
    dense = packed.dense(torch.float32)
    largest = weight.abs().amax(1, keepdim=True)
    assert dense.shape == weight.shape and bool(((dense - weight).abs() <= bound * largest * 1.01).all())
    assert torch.equal(packed.to(torch.bfloat16).dense(torch.float32), dense), "a cast of the network rounds it again"
    per_weight = packed.nbytes * 8 / (shape[0] * (shape[1] if bits == 8 else -(-shape[1] // group) * group))
    assert per_weight == pytest.approx(8 + 32 / shape[1] if bits == 8 else 4 + 16 / group)


def test_levels_of_four_bits_are_all_used_and_exact_on_the_grid() -> None:
    weight = torch.arange(-8.0, 8.0).repeat(2)[None] / 4
    assert torch.equal(pack(weight, 4).dense(torch.float32), weight)
    assert torch.equal(pack(-weight, 4).dense(torch.float32), -weight)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_quantised_base_computes_with_what_it_dequantises_to(bits: int, kind: Any) -> None:
    model = network()
    plain = logits(model)
    result = quantize_base(model, bits, measure=False)
    assert 0 < (logits(model) - plain).abs().max() < (0.02 if bits == 8 else 0.3)
    dense = network()
    with torch.no_grad():
        for name, slot in slots(model).items():
            assert isinstance(slot, Projection) and slot.weight is None
            dense.get_submodule(name).weight.copy_(slot.matrix(torch.float32))
    gradients = []
    for one in (model, dense):
        add_adapter(one, AdapterConfig(rank=2, kind=kind))
        move(one)
        loss, _ = causal(one, batch(2, 8))
        loss.backward()
        gradients.append([p.grad for p in one.parameters() if p.requires_grad])
    assert (logits(model) - logits(dense)).abs().max() < 1e-5
    assert all((a - b).abs().max() < 1e-4 for a, b in zip(*gradients, strict=True))
    assert result.after < result.before / 3  # a narrow matrix fills its groups with zeros


def test_the_backward_of_a_quantised_matrix_keeps_no_dense_copy() -> None:
    place = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(2)])
    packed = pack(place[0].weight, 4)
    saved: list[torch.Tensor] = []
    x = torch.randn(3, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = packed_linear(x, packed, None)
    assert not any(t.shape == (64, 64) for t in saved)
    out.sum().backward()
    assert (x.grad - packed.dense(torch.float32).sum(0)).abs().max() < 1e-5


def test_a_merge_into_a_quantised_base_is_exact_and_can_be_taken_back(tmp_path: Path) -> None:
    model = network()
    quantize_base(model, 4, measure=False)
    add_adapter(model, AdapterConfig(rank=2))
    move(model)
    before, adapted = weights(model), logits(model)
    merge(model)
    near(logits(model), adapted)
    unmerge(model)
    assert torch.equal(logits(model), adapted) and equal(before, weights(model))
    set_adapter(model, None)
    model.family = "qwen3"
    Model(model, None).save(tmp_path / "dequantised")
    assert (logits(load_network(tmp_path / "dequantised")) - logits(model)).abs().max() < 1e-5


def test_quantising_says_what_it_costs_where_it_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yanmo.models.adapters._slowdown", lambda _, __, rows: 2.5 if rows > 1 else 9.0)
    with pytest.warns(
        UserWarning, match=r"0.0 MB in 4 bits.*takes 2.5 times as long with 256 rows.*9.0 times with one"
    ):
        assert quantize_base(network(), 4).slowdown == 2.5
    monkeypatch.setattr("yanmo.models.adapters._slowdown", lambda *_: 1.0)
    quantize_base(network(), 4)


def test_the_cost_is_measured() -> None:
    class Slow:
        def dense(self, dtype: torch.dtype) -> torch.Tensor:
            time.sleep(0.02)
            return torch.zeros(8, 8)

    assert _slowdown(torch.zeros(8, 8), Slow(), 4, runs=3) > 5  # type: ignore[arg-type]


def test_what_cannot_be_quantised_is_named() -> None:
    with pytest.raises(InputError, match="bits are 3"):
        quantize_base(network(), 3)
    with pytest.raises(InputError, match="group is 48"):
        quantize_base(network(), 4, group=48)
    model = network()
    quantize_base(model, 8, measure=False)
    with pytest.raises(InputError, match="quantised already"):
        quantize_base(model, 4)
    model = network()
    with torch.no_grad():
        model.decoder.layers[0].ffn.up.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        quantize_base(model, 4)
