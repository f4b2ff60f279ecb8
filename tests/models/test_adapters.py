"""Adapters on a network: what they train, how they are chosen, merged, taken away, and put on a quantised base."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.moved import labelled, logits, moved, names, near
from tests.training.small import corpus, equal, network, weights
from yanmo.errors import ConfigError, InputError
from yanmo.inference.model import Model
from yanmo.models.adapters import (
    AdapterConfig,
    add_adapter,
    drop_adapter,
    merge,
    quantize_base,
    set_adapter,
    unmerge,
)
from yanmo.models.checkpoint import load_network
from yanmo.models.config import TransformerConfig
from yanmo.models.lowrank import Projection, board_of, selected, slots
from yanmo.models.transformer import Transformer
from yanmo.runs import open_run
from yanmo.tokens.batches import PackedBatches
from yanmo.training.loop import Settings, train
from yanmo.training.objectives import causal
from yanmo.training.optimizer import Optimizer

ALL = ("all", "head")


# --- which matrices


@pytest.mark.parametrize(
    "targets, expected",
    [
        (("query",), {"attention.query"}),
        (("query", "up"), {"attention.query", "ffn.up"}),
        (("attention.*",), {"attention.query", "attention.key", "attention.value", "attention.out"}),
        (("layers.1.ffn.down",), {"ffn.down"}),
        ((), {f"attention.{n}" for n in ("query", "key", "value", "out")} | {"ffn.gate", "ffn.up", "ffn.down"}),
        (("head",), {"head"}),
    ],
)
def test_targets_name_matrices(targets: tuple[str, ...], expected: set[str]) -> None:
    model = network()
    add_adapter(model, AdapterConfig(rank=2, targets=targets))
    assert {".".join(name.split(".")[-2:]) for name in slots(model)} == expected
    assert len(slots(model)) == (1 if targets in (("head",), ("layers.1.ffn.down",)) else 2 * len(expected))


def test_cross_attention_has_a_name_of_its_own() -> None:
    values: dict[str, Any] = {"vocab_size": 61, "width": 16, "n_heads": 2, "ffn_width": 24}
    model = Transformer(TransformerConfig(**values, encoder_layers=1, decoder_layers=2))
    add_adapter(model, AdapterConfig(targets=("cross.*",)))
    assert set(slots(model)) == {
        f"decoder.layers.{i}.cross.{part}" for i in (0, 1) for part in ("query", "key", "value", "out")
    }
    drop_adapter(model)
    add_adapter(model, AdapterConfig())  # an encoder-decoder's default: query and value, across too
    assert {name.rpartition(".")[2] for name in slots(model)} == {"query", "value"} and len(slots(model)) == 10


def test_a_label_head_is_trained_whole_by_default() -> None:
    model = labelled(pooler=True)
    add_adapter(model, AdapterConfig(rank=2))
    heads = {name for name in names(model) if name.startswith("head")}
    assert heads == {f"head.{part}.adapters.default.{kind}" for part in ("dense", "out") for kind in ("weight", "bias")}
    assert not {name for name in names(model) if ".adapters." not in name}


@pytest.mark.parametrize(
    "options, named",
    [
        ({"targets": ("quary",)}, "'quary' is no matrix of this network .nearest: 'query'"),
        ({"targets": ("cross.*",)}, "'cross.[*]' is no matrix"),
        ({"modules_to_save": ("embeding",)}, "'embeding' is no matrix"),
    ],
)
def test_a_wrong_target_is_named(options: dict[str, Any], named: str) -> None:
    model = network()
    with pytest.raises(InputError, match=named):
        add_adapter(model, AdapterConfig(**options))
    assert board_of(model) is None and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "options, named",
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": 2.0}, "rank is 2.0"),
        ({"alpha": 0}, "alpha is 0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"dropout": 1}, "dropout is 1"),
        ({"kind": "loar"}, "nearest: 'lora'"),
        ({"targets": "query"}, "lists of names"),
    ],
)
def test_a_wrong_config_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        AdapterConfig(**options)


def test_a_recurrent_network_is_refused() -> None:
    with pytest.raises(InputError, match="adapters are for Transformers"):
        add_adapter(network("lstm"), AdapterConfig())


@pytest.mark.parametrize("name", ["", "a.b", "keys", "training", "x" * 65, "../x"])
def test_a_name_that_no_module_can_have_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot have the name"):
        add_adapter(network(), AdapterConfig(), name)


# --- what it computes and trains


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "rsdora"])
def test_the_sum_is_that_of_the_paper(kind: Any) -> None:
    model = moved(config=AdapterConfig(rank=4, alpha=6, targets=("query",), kind=kind))
    place = slots(model)["decoder.layers.0.attention.query"]
    adapter: Any = place.adapters["default"]
    scale = 6 / 2 if kind.startswith("rs") else 6 / 4
    expected = place.weight + scale * adapter.b @ adapter.a
    if kind.endswith("dora"):
        expected = expected / expected.square().sum(1, keepdim=True).sqrt() * adapter.magnitude[:, None]
    x = torch.randn(5, 16)
    assert (place(x) - x @ expected.T).abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_dropout_is_on_the_adapter_s_input_in_training_alone(kind: Any) -> None:
    model = moved(config=AdapterConfig(rank=2, dropout=0.5, kind=kind))
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))
    set_adapter(model, None)
    assert torch.equal(logits(model), logits(model))


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_moves_the_adapter_alone_and_learns(tmp_path: Path, kind: Any, optimizer: str, precision: str) -> None:
    model = network()
    add_adapter(model, AdapterConfig(rank=4, kind=kind, targets=ALL))
    before, own = weights(model), names(model)
    data = PackedBatches(corpus(tmp_path / "corpus"), 4, 16, seed=3)
    options = Settings(steps=30, learning_rate=0.02, optimizer=optimizer, precision=precision)
    losses = [step.loss for step in train(model, data, causal, options)]
    after = weights(model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == own
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.5


@pytest.mark.parametrize("quantized", [False, True])
def test_a_run_that_is_resumed_is_the_same_to_the_bit(tmp_path: Path, quantized: bool) -> None:
    data = corpus(tmp_path / "corpus")
    options = Settings(steps=8, accumulation=2, learning_rate=0.01, save_steps=3)

    def go(folder: Path, stop: int = 0) -> dict[str, torch.Tensor]:
        model = network()
        if quantized:
            quantize_base(model, 4, measure=False)
        add_adapter(model, AdapterConfig(rank=2, dropout=0.2, kind="dora"))
        with open_run(folder, "", {}) as run:
            for step in train(model, PackedBatches(data, 2, 16, seed=3), causal, options, run=run):
                if step.step == stop:
                    break
        return weights(model)

    whole = go(tmp_path / "whole")
    go(tmp_path / "parts", stop=2)
    go(tmp_path / "parts", stop=5)
    assert equal(whole, go(tmp_path / "parts"))


def test_a_bfloat16_base_trains_a_float32_adapter(tmp_path: Path) -> None:
    data = PackedBatches(corpus(tmp_path / "corpus"), 4, 16, seed=3)
    for precision in ("float32", "bfloat16"):
        model = network().bfloat16()
        add_adapter(model, AdapterConfig(rank=4, targets=ALL))
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
        losses = [
            s.loss for s in train(model, data, causal, Settings(steps=30, learning_rate=0.02, precision=precision))
        ]
        assert sum(losses[-5:]) < sum(losses[:5]) - 0.5
        assert model.embedding.weight.dtype == torch.bfloat16


def test_the_same_seed_gives_the_same_bytes_and_touches_no_other_generator() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    models = []
    for seed in (1, 1, 2):
        models.append(network())
        torch.manual_seed(7)
        add_adapter(models[-1], AdapterConfig(), seed=seed)
        assert torch.equal(torch.rand(3), expected)
    assert equal(weights(models[0]), weights(models[1])) and not equal(weights(models[0]), weights(models[2]))


# --- merged, taken away, copied


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("saved", [(), ("embedding",), ("head",), ("embedding", "head")])
def test_tied_words_survive_a_merge(tied: bool, saved: tuple[str, ...]) -> None:
    targets = ALL if not saved else ("all",)
    model = moved(config=AdapterConfig(rank=2, targets=targets, modules_to_save=saved), tie_embeddings=tied)
    before, adapted, config = weights(model), logits(model), model.config
    merge(model)
    near(logits(model), adapted)
    unmerge(model)
    assert equal(before, weights(model)) and model.config == config and torch.equal(logits(model), adapted)
    merge(model, drop=True)
    near(logits(model), adapted)
    assert not model.config.tie_embeddings
    assert ("head.weight" in names(model)) and names(model) == {n for n, _ in model.named_parameters()}


def test_tied_words_without_an_adapter_stay_tied(tmp_path: Path) -> None:
    model = moved()
    adapted = logits(model)
    merge(model, drop=True)
    assert model.config.tie_embeddings and "head.weight" not in dict(model.named_parameters())
    model.family = "qwen3"
    Model(model, None).save(tmp_path / "model")
    assert (logits(load_network(tmp_path / "model")) - adapted).abs().max() < 1e-5


def test_a_merge_without_an_adapter_or_with_another_is_refused() -> None:
    model = moved()
    merge(model)
    merge(model)  # merged already: the same
    for call in (
        lambda: set_adapter(model, None),
        lambda: add_adapter(model, AdapterConfig(), "two"),
        lambda: quantize_base(model),
        lambda: selected(model, None).__enter__(),
    ):
        with pytest.raises(InputError, match="'default' is merged into the weights"):
            call()
    unmerge(model)
    with pytest.raises(InputError, match="no adapter is merged"):
        unmerge(model)
    set_adapter(model, None)
    with pytest.raises(InputError, match="no adapter is active"):
        merge(model)


@pytest.mark.parametrize("how", ["drop", "merge and drop", "quantised and merged"])
def test_no_wrapper_is_left_behind(how: str) -> None:
    model = network()
    plain, before = str(model), weights(model)
    if how.startswith("quantised"):
        quantize_base(model, 8, measure=False)
    add_adapter(model, AdapterConfig(targets=ALL, modules_to_save=("embedding",)))
    drop_adapter(model) if how == "drop" else merge(model, drop=True)
    assert str(model) == plain and "adapter_board" not in vars(model)
    assert not any(isinstance(m, Projection) or m._forward_hooks for m in model.modules())
    assert names(model) >= before.keys() - ({n for n in before if "layers" in n} if "quant" in how else set())
    if how == "drop":
        assert equal(before, weights(model))


def test_a_copy_of_a_network_has_adapters_of_its_own() -> None:
    model = moved()
    twin = copy.deepcopy(model)
    expected = logits(model)
    set_adapter(twin, None)
    assert torch.equal(logits(model), expected) and not torch.equal(logits(twin), expected)
    with selected(model, None):
        set_adapter(twin, "default")
        assert torch.equal(logits(twin), expected) and not torch.equal(logits(model), expected)


def test_the_optimizer_has_the_adapter_s_parameters_alone() -> None:
    model = moved()
    assert set(Optimizer(model, "adamw", 1e-3).names.values()) == names(model)
