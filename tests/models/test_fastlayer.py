"""A decoder layer written out with its gradient equals the layer that is composed of its parts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yanmo.models import fastlayer
from yanmo.models.adapters import AdapterConfig, add_adapter
from yanmo.models.checkpoint import build
from yanmo.models.config import TransformerConfig

TOLERANCE = 2e-5
LLAMA: dict[str, Any] = {"position": "rotary", "norm": "rms", "norm_eps": 1e-6, "activation": "silu", "gated": True}
LLAMA |= {"bias_qkv": False, "bias_out": False, "bias_ffn": False}
KINDS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "qwen3": LLAMA | {"norm_query_key": True},
    "grouped": LLAMA | {"norm_query_key": True, "n_kv_heads": 2, "head_width": 10},
    "window": LLAMA | {"windows": (0, 3)},
    "scaled": LLAMA | {"norm_query_key": True, "attention_scale": 0.7},
}
MASK = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 2, 3, 3], [1, 2, 2, 2, 3, 3, 3, 3, 3, 0]])


def network(kind: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    size: dict[str, Any] = {"vocab_size": 50, "width": 32, "n_heads": 4, "ffn_width": 48, "decoder_layers": 2}
    made = build(TransformerConfig(**size | KINDS.get(kind, {}) | ({} if kind in KINDS else LLAMA)))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(1 if "norm" in name else 0, 0.3)
    return made.to(torch.bfloat16).to(dtype)  # the same weights in both types


def results(made: Any, mask: Tensor | None) -> list[Tensor]:
    """The hidden of a batch, and the gradient of each parameter."""
    ids = torch.randint(50, MASK.shape, generator=torch.Generator().manual_seed(1))
    made.train()
    hidden = made.decode(ids, mask)
    upstream = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2)).to(hidden.dtype)
    used = [p for name, p in made.named_parameters()]
    return [hidden.detach(), *torch.autograd.grad(hidden, used, upstream)]


def plainly(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(fastlayer, "usable", lambda *given: False)
        return run()


def assert_close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert distance(one, other) <= TOLERANCE * float(other.norm()) + 1e-6


def distance(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).norm())


def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    run = fastlayer.run
    monkeypatch.setattr(fastlayer, "run", lambda *given: calls.append(1) or run(*given))
    return calls


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_and_its_gradients_equal_the_composed_one(
    kind: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, made, mask = count(monkeypatch), network(kind), MASK if packed else None
    ours = results(made, mask)
    assert len(calls) == 2
    theirs = plainly(monkeypatch, lambda: results(made, mask))
    assert len(calls) == 2
    assert_close(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_it_is_as_near_to_float32_as_the_composed_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: dict[str, float] = {"ours": 0.0, "theirs": 0.0}
    for seed in range(8):
        exact, made = results(network(kind, seed=seed), MASK), network(kind, torch.bfloat16, seed)
        found = {"ours": results(made, MASK), "theirs": plainly(monkeypatch, functools.partial(results, made, MASK))}
        for side, tensors in found.items():
            assert all(tensor.dtype == torch.bfloat16 for tensor in tensors)
            errors[side] += sum((distance(x, true) / float(true.norm())) ** 2 for x, true in zip(tensors, exact))
    assert errors["ours"] <= 1.5 * errors["theirs"], errors
    assert errors["theirs"] < 8 * len(exact) * 0.05**2


def test_norms_of_which_a_weight_is_zero_get_their_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    made = network("qwen3")
    with torch.no_grad():
        for layer in made.decoder.layers:
            layer.attention.query_norm.weight[3] = 0
            layer.attention.key_norm.weight[:] = 0
            layer.ffn_norm.weight[0] = 0
    assert_close(results(made, MASK), plainly(monkeypatch, lambda: results(made, MASK)))


def test_a_vector_of_zeros_has_finite_gradients() -> None:
    made = network("qwen3")
    with torch.no_grad():
        made.embedding.weight.zero_()
    assert all(bool(tensor.isfinite().all()) for tensor in results(made, None))


def _biased(made: Any) -> None:
    made.decoder.layers[0].ffn.down = nn.Linear(48, 32)


def _hooked(made: Any) -> None:
    made.decoder.layers[0].attention.query.register_forward_hook(lambda *given: None)


def _frozen(made: Any) -> None:
    made.decoder.layers[0].attention_norm.weight.requires_grad_(False)


def _adapted(made: Any) -> None:
    add_adapter(made, AdapterConfig(rank=2))


@pytest.mark.parametrize("change", [_biased, _hooked, _frozen, _adapted])
def test_a_layer_that_differs_goes_the_composed_way(
    change: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = network("qwen3")
    change(made)
    assert not fastlayer.usable(made.decoder.layers[0], torch.zeros(1, 2, 32, requires_grad=True))
    assert not fastlayer.usable(made.decoder.layers[1], torch.zeros(1, 2, 32))


@pytest.mark.parametrize("values", [{"activation": "relu"}, {"gated": False}, {"dropout": 0.1}, {"norm": "layer"}])
def test_other_kinds_of_layer_go_the_composed_way(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "other", LLAMA | values)
    calls = count(monkeypatch)
    results(network("other"), None)
    assert not calls


def test_generation_and_evaluation_go_the_composed_way(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, made, ids = count(monkeypatch), network("qwen3"), torch.zeros(1, 4, dtype=torch.long)
    with torch.no_grad():
        made.decode(ids)
    made.decode(ids, cache=made.new_cache(1, 8))
    made.decode(ids, record=[])
    assert not calls
