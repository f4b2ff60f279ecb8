"""Parameters and FLOPs of a plan against real networks and torch's own counter."""

from __future__ import annotations

import pytest
import torch
import transformers

from tests.models import tiny
from tests.plans import SHAPES, SIZES
from yanmo.models.adapters import AdapterConfig, add_adapter
from yanmo.models.checkpoint import build
from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.plan import count
from yanmo.plan.method import Adapter, Method
from yanmo.plan.subject import read_config


@pytest.mark.parametrize(("cls", "values"), [*tiny.VARIANTS.values(), *tiny.HEADS])
def test_parameters_are_exactly_those_of_the_network(cls, values, tmp_path):
    config = getattr(transformers, cls).config_class(**values)
    config.architectures = [cls]
    config.save_pretrained(tmp_path)
    ours = read_config(tmp_path)
    assert count.parameters(ours) == sum(p.numel() for p in build(ours).parameters())


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("options", [{}, {"hidden_width": 48, "layers": 3}, {"tie_embeddings": False}])
def test_parameters_of_recurrent_networks_too(cell, options):
    config = RecurrentConfig(cell=cell, vocab_size=61, width=32, **options)
    assert count.parameters(config) == sum(p.numel() for p in build(config).parameters())


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "bert", "bart"])
def test_adapters_have_as_many_weights_as_real_ones(name):
    config = TransformerConfig(**SIZES, **SHAPES[name])
    network = build(config)
    add_adapter(network, AdapterConfig(rank=4))
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert count.adapter_parameters(config, Adapter(rank=4)) == trained


def test_flops_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    config = TransformerConfig(**SIZES, **SHAPES["gpt2"])
    network, ids = build(config).train(), torch.zeros(2, 40, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        network.logits(network.decode(ids, record=[])).sum().backward()  # the reference attention, in plain products
    per_token = counter.get_total_flops() / 80
    assert count.training_flops(config, 40) == pytest.approx(per_token, rel=1e-6)


def test_an_adapter_saves_the_gradients_of_the_frozen_matrices():
    config = TransformerConfig(**SIZES, **SHAPES["gpt2"])
    full, low = (count.training_flops(config, 40, Method(adapter=a)) for a in (None, Adapter(rank=1)))
    assert full * 0.6 < low < full * 0.8
