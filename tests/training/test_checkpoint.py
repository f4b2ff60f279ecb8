"""Checkpoints: what they leave out, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small import corpus, equal, network, weights

from yanmo.errors import FileError
from yanmo.models.adapters import AdapterConfig, add_adapter, quantize_base
from yanmo.runs import open_run
from yanmo.tokens.batches import PackedBatches
from yanmo.tokens.shards import TokenShards
from yanmo.training.checkpoint import fingerprint, load_weights
from yanmo.training.loop import Settings, train
from yanmo.training.objectives import causal


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    return corpus(tmp_path_factory.mktemp("corpus") / "s", 30)


def adapted(seed: int = 0, bits: int = 0, rank: int = 2) -> Any:
    model = network(seed=seed, dropout=0.2, width=32, ffn_width=64)
    if bits:
        quantize_base(model, bits=bits)
    add_adapter(model, AdapterConfig(rank=rank, dropout=0.1))
    return model


def go(model: Any, data: TokenShards, folder: Path, stop: int = 0) -> dict[str, torch.Tensor]:
    with open_run(folder, "", {}) as run:
        for step in train(model, PackedBatches(data, 2, 16), causal, Settings(steps=6, learning_rate=0.01), run=run):
            if step.step == stop:
                break
    return weights(model)


@pytest.mark.filterwarnings("ignore:.*bits")
@pytest.mark.parametrize("bits", [0, 8, 4])
def test_the_frozen_base_is_left_out_and_the_run_continues_bit_by_bit(
    data: TokenShards, tmp_path: Path, bits: int
) -> None:
    whole = go(adapted(bits=bits), data, tmp_path / "whole")
    go(adapted(bits=bits), data, tmp_path / "run", stop=3)
    model = adapted(bits=bits)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    folder = tmp_path / "run/checkpoints/step-3"
    assert load_file(folder / "model.safetensors").keys() == trained
    assert json.loads((folder / "state.json").read_text())["frozen"] == fingerprint(model)
    assert equal(whole, go(model, data, tmp_path / "run"))
    fresh = adapted(bits=bits)
    load_weights(fresh, tmp_path / "run/checkpoints/step-6")
    assert equal(whole, weights(fresh))


@pytest.mark.filterwarnings("ignore:.*bits")
@pytest.mark.parametrize("bits", [0, 4])
def test_another_base_is_refused_and_nothing_is_changed(data: TokenShards, tmp_path: Path, bits: int) -> None:
    go(adapted(bits=bits), data, tmp_path / "run", stop=2)
    other = adapted(seed=1, bits=bits)
    before = weights(other)
    for attempt in (
        lambda: go(other, data, tmp_path / "run"),
        lambda: load_weights(other, tmp_path / "run/checkpoints/step-2"),
    ):
        with pytest.raises(FileError, match="made with other frozen weights than this network has"):
            attempt()
    assert equal(before, weights(other))


def test_one_bit_of_the_base_is_enough_to_tell() -> None:
    one, other = adapted(), adapted()
    assert fingerprint(one) == fingerprint(other) != fingerprint(adapted(seed=1))
    with torch.no_grad():
        other.embedding.weight.view(torch.int32)[7, 3] ^= 1
    assert fingerprint(one) != fingerprint(other)
    trained = [p for p in one.parameters() if p.requires_grad]
    known = fingerprint(one)
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(1)
    assert fingerprint(one) == known
    assert fingerprint(network()) == ""


def test_another_adapter_on_the_same_base_is_another_model(data: TokenShards, tmp_path: Path) -> None:
    go(adapted(), data, tmp_path / "run", stop=2)
    with pytest.raises(FileError, match=r"the checkpoint of another model: .* is \(2, 32\) there, \(4, 32\) here"):
        go(adapted(rank=4), data, tmp_path / "run")
    with pytest.raises(FileError, match="the checkpoint of another model"):
        load_weights(network(width=32, ffn_width=64), tmp_path / "run/checkpoints/step-2")


def test_a_checkpoint_of_everything_still_loads_into_a_network_with_frozen_weights(
    data: TokenShards, tmp_path: Path
) -> None:
    whole = go(network(), data, tmp_path / "run")
    model = network(seed=1)
    model.embedding.weight.requires_grad_(False)
    load_weights(model, tmp_path / "run/checkpoints/step-6")
    assert equal(whole, weights(model))
