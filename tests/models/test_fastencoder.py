"""An encoder layer with native passes and a gradient by hand equals the layer that is composed of its parts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models.test_fastlayer import distance
from torch import Tensor, nn

from yanmo.kernels import native, training
from yanmo.models import fastencoder
from yanmo.models.adapters import AdapterConfig, add_adapter
from yanmo.models.attention import see_both_ways
from yanmo.models.checkpoint import build
from yanmo.models.config import TransformerConfig

needs_library = pytest.mark.skipif(not training.usable(), reason=f"the native kernels are {native.why_absent()}")
BERT: dict[str, Any] = {"position": "learned", "max_positions": 64, "norm": "layer", "norm_order": "post"}
BERT |= {"activation": "gelu", "norm_embedding": True, "norm_final": False, "n_token_types": 2, "head": "masked"}
MASK = torch.tensor([[1] * 7 + [2] * 20 + [3] * 5, [1] * 16 + [2] * 9 + [0] * 7])


def network(dtype: torch.dtype = torch.bfloat16, seed: int = 0, **wishes: Any) -> Any:
    torch.manual_seed(seed)
    size: dict[str, Any] = {"vocab_size": 50, "width": 32, "n_heads": 4, "ffn_width": 48, "encoder_layers": 2}
    made = build(TransformerConfig(**size | BERT | wishes))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(1 if "norm" in name and "bias" not in name else 0, 0.3)
    return made.to(torch.bfloat16).to(dtype).train()  # the same weights in both types


def results(made: Any, mask: Tensor | None = MASK, seed: int = 5) -> list[Tensor]:
    """The hidden of a batch, and the gradient of each parameter that has one."""
    ids = torch.randint(50, MASK.shape, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(seed)
    hidden = made.encode(ids, mask)
    upstream = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2)).to(hidden.dtype)
    if mask is not None:
        upstream[mask == 0] = 0
        hidden = hidden * (mask > 0)[..., None].to(hidden.dtype)
    used = [p for name, p in made.encoder.named_parameters() if "key.bias" not in name]  # whose gradient is 0
    return [hidden.detach(), *torch.autograd.grad(hidden, used, upstream)]


def plainly(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(fastencoder, "usable", lambda *given: False)
        return run()


def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    run = fastencoder.run
    monkeypatch.setattr(fastencoder, "run", lambda *given: calls.append(1) or run(*given))
    return calls


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@needs_library
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_layer_and_its_gradients_are_as_near_to_float32_as_the_composed_one(
    packed: bool, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, errors, mask = count(monkeypatch), {"ours": 0.0, "theirs": 0.0}, MASK if packed else None
    monkeypatch.setattr(training, "WORTH", 0)  # where the processor has tiles, of all sizes that fit
    wishes: dict[str, Any] = {"width": 128, "ffn_width": 96} if wide else {}
    for seed in range(6):
        exact, made = results(network(torch.float32, seed, **wishes), mask), network(seed=seed, **wishes)
        runs = {"ours": results(made, mask), "theirs": plainly(monkeypatch, functools.partial(results, made, mask))}
        for side, tensors in runs.items():
            assert all(tensor.dtype == torch.bfloat16 for tensor in tensors)
            errors[side] += sum((distance(x, true) / float(true.norm() + 1e-3)) ** 2 for x, true in zip(tensors, exact))
    assert len(calls) == 12
    assert errors["ours"] <= 1.5 * errors["theirs"], errors
    assert errors["theirs"] < 6 * len(exact) * 0.2**2


@needs_library
def test_dropout_is_that_of_its_seed_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    made = network(dropout=0.2, attention_dropout=0.2)
    calls, first = count(monkeypatch), results(made)
    assert len(calls) == 2
    assert equal(first, results(made)) and not equal(first, results(made, seed=6))
    made.eval()
    assert equal(results(made), results(made, seed=6))


@needs_library
def test_with_dropout_the_gradient_is_that_of_what_was_computed() -> None:
    """Along the gradient the output changes as much as the gradient says: forward and backward drop the same."""
    made = network(dropout=0.3, attention_dropout=0.3, encoder_layers=1, width=64, ffn_width=128)
    layer = made.encoder.layers[0]
    hidden, upstream = (torch.randn(2, 32, 64, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    visible = see_both_ways(MASK, MASK)

    def loss(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return (layer(x.bfloat16().requires_grad_(x.requires_grad), visible).float() * upstream).sum()

    x = hidden.clone().requires_grad_()
    loss(x).backward()
    assert x.grad is not None
    step = x.grad / x.grad.norm()
    ahead, back = (float(loss((hidden + sign * step).requires_grad_()).detach()) for sign in (0.4, -0.4))
    assert abs((ahead - back) / 0.8 - float(x.grad.norm())) < 0.1 * float(x.grad.norm())


@needs_library
def test_a_layer_of_another_kind_is_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count(monkeypatch)
    for wishes in ({"norm_order": "pre"}, {"activation": "relu"}, {"bias_ffn": False}, {"norm": "rms"}):
        results(network(**wishes))
    results(network(torch.float32))
    made = network()
    made.encoder.layers[0].ffn.down = nn.Sequential(made.encoder.layers[0].ffn.down)
    made.encoder.layers[1].ffn.down.register_forward_hook(lambda *given: None)
    results(made)
    adapted = network()
    add_adapter(adapted, AdapterConfig(rank=2, alpha=4))
    adapted.encode(torch.ones(2, 32, dtype=torch.long), MASK)
    with native.using("off"):
        results(network())
    assert not calls


@needs_library
def test_a_row_that_is_interrupted_or_of_another_length_is_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, made = count(monkeypatch), network()
    results(made, torch.tensor([[1] * 10 + [2] * 12 + [1] * 10] * 2))  # the first document goes on behind the second
    made.encode(torch.ones(2, 20, dtype=torch.long))
    assert not calls
