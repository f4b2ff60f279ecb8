"""Other ways through the layers: recomputed ones give every bit again, compiled ones the same numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from shapes import masked_row, pair_batch, shaped, some_pairs
from small import batch, corpus, equal, network, weights

from yanmo.errors import Error, InputError
from yanmo.models.adapters import AdapterConfig, add_adapter
from yanmo.runs import open_run
from yanmo.tokens.batches import PackedBatches
from yanmo.training import layerwise
from yanmo.training.language import masked, seq2seq
from yanmo.training.loop import Loop, Settings, train
from yanmo.training.objectives import causal

DROPS = {"dropout": 0.2, "attention_dropout": 0.1}


def adapted() -> Any:
    model = network("qwen3", dropout=0.2)
    add_adapter(model, AdapterConfig(rank=2, dropout=0.3))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".b"):
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    return model


def pairs() -> Any:
    return pair_batch([some_pairs(((5, 4), (3, 2))), some_pairs(((3, 6),), 1)], shaped("t5"))


CASES: dict[str, tuple[Callable[[], Any], Any, Callable[[], Any]]] = {
    "decoder": (lambda: network("gpt2", dropout=0.2, embedding_dropout=0.1), causal, lambda: batch(2, 9)),
    "rotary": (lambda: network("qwen3", dropout=0.2), causal, lambda: batch(2, 9, targets=0.5)),
    "encoder": (lambda: shaped("bert", **DROPS), masked, lambda: masked_row((5, 7, 4))),
    "encoder-decoder": (lambda: shaped("t5", activation_dropout=0.2, **DROPS), seq2seq, pairs),
    "adapter": (adapted, causal, lambda: batch(2, 9)),
}


def result(case: str, *, saved: list[int] | None = None, **options: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of two micro-batches; the bytes that autograd keeps between forward and backward."""
    make, objective, given = CASES[case]
    model = make().train()
    loop = Loop(model, [], objective, Settings(steps=1, accumulation=2, **options), None)
    known: set[int] = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.random.fork_rng(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.manual_seed(3)
        loss, _ = loop._gradients([given(), given()])
    if saved is not None:
        saved.append(sum(held.values()))
    return loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recomputed_layers_give_the_same_loss_and_gradients_to_the_bit(case: str, precision: str) -> None:
    loss, gradients = result(case, precision=precision)
    other, recomputed = result(case, precision=precision, recompute=True)
    assert loss == other and equal(gradients, recomputed)


def forward_bytes(model: Any, objective: Any, given: Any, recompute: bool) -> int:
    """Bytes that autograd keeps of one forward pass, each storage once, without the weights."""
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    passage = layerwise.Passage(model, recompute=recompute)
    with passage.open(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = objective(model.train(), given)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    loss.backward()
    return sum(size for place, size in storages.items() if place not in known)


def test_recomputation_keeps_of_each_layer_what_it_reads_alone() -> None:
    sizes = {}
    for layers in (2, 6):
        for recompute in (False, True):
            model = network("gpt2", dropout=0.2, decoder_layers=layers)
            sizes[layers, recompute] = forward_bytes(model, causal, batch(4, 32), recompute)
    per_layer = {recompute: (sizes[6, recompute] - sizes[2, recompute]) / 4 for recompute in (False, True)}
    states = (torch.get_rng_state().nbytes, 4 * 32 * 16 * 4)  # the random state, and (B, T, W) in float32
    assert per_layer[True] <= sum(states) and per_layer[True] >= states[1]
    assert per_layer[False] > 10 * states[1]


@pytest.mark.parametrize("case", ["encoder", "encoder-decoder", "adapter"])
def test_recomputation_keeps_less_in_every_shape(case: str) -> None:
    make, objective, given = CASES[case]
    plain, recomputed = (forward_bytes(make(), objective, given(), recompute) for recompute in (False, True))
    assert recomputed < plain * 0.8


def test_what_is_set_for_a_step_is_gone_after_it() -> None:
    model = network("qwen3", dropout=0.2)
    list(train(model, [batch(2, 9)], causal, Settings(steps=1, recompute=True)))
    assert model.decoder is not None and model.decoder.way is None


@pytest.mark.parametrize("option", ["recompute", "compile"])
def test_a_recurrent_network_has_no_layers_to_take_another_way(option: str) -> None:
    with pytest.warns(UserWarning, match=f"{option} has no effect on this network"):
        list(train(network("lstm"), [batch(2, 9)], causal, Settings(steps=1, **{option: True})))


# --- compiled


def compiles() -> bool:
    try:
        layerwise.compiled_layer()
    except Error:
        return False
    return True


def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler without its last stage, which writes C++ for ten seconds."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


@pytest.mark.parametrize(("precision", "recompute"), [("float32", True), ("bfloat16", False)])
def test_compiled_layers_learn_the_same_with_plain_names(
    tmp_path: Path, precision: str, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if recompute:
        light(monkeypatch)
    elif not compiles():
        pytest.skip("no compiler on this machine")
    data, results = corpus(tmp_path / "s"), []
    for compiled in (False, True):
        model = network("qwen3")
        options = {"compile": compiled, "recompute": recompute and compiled, "precision": precision}
        settings = Settings(steps=3, accumulation=2, **options)
        with open_run(tmp_path / f"{compiled}", "", {}) as run:
            steps = list(train(model, PackedBatches(data, 2, 16), causal, settings, run=run))
        results.append(([step.loss for step in steps], weights(model)))
        names = (tmp_path / f"{compiled}/checkpoints/step-3/model.safetensors").read_bytes()
        assert b"_orig_mod" not in names and b'"decoder.layers.0.attention.query.weight"' in names
    (losses, plain), (others, compiled_weights) = results
    tolerance = 1e-5 if precision == "float32" else 2e-3
    assert losses == pytest.approx(others, rel=tolerance) and plain.keys() == compiled_weights.keys()
    assert all(p.dtype == torch.float32 for p in compiled_weights.values())


def test_a_machine_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no working C++ compiler was found\nsecond line")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(Error, match=r"cannot compile \(no working C\+\+ compiler was found\); install a"):
        next(train(network(), [batch(2, 9)], causal, Settings(steps=1, compile=True)))


def test_too_many_shapes_for_a_compiler_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    light(monkeypatch)
    monkeypatch.setattr(layerwise, "MAX_GRAPHS", 1)
    model = network("gpt2", decoder_layers=1, ffn_width=20)
    shapes = [batch(1, 5), batch(1, 6), batch(1, 7)]
    torch._dynamo.reset()
    with pytest.raises(InputError, match="too many shapes to compile"):
        list(train(model, shapes, causal, Settings(steps=3, compile=True)))
