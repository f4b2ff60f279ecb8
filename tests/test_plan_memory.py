"""The memory of a plan against what autograd, the optimizer, a cache and a whole process really hold."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from benchmarks import b12
from tests.plans import SHAPES, SIZES
from yanmo.models import attention, fast, recurrent
from yanmo.models.adapters import AdapterConfig, add_adapter
from yanmo.models.checkpoint import build
from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.plan import activations as planned
from yanmo.plan.activations import Shape, activations
from yanmo.plan.budget import KINDS, cache_bytes, training_memory
from yanmo.plan.method import Adapter, Method
from yanmo.tokens.batches import Batch
from yanmo.tokens.pairs import PairBatch
from yanmo.training.language import decoded, encoded, translated
from yanmo.training.layerwise import Passage
from yanmo.training.optimizer import Optimizer
from yanmo.training.precision import lowered


@pytest.mark.parametrize("packed", [False, True], ids=["whole", "packed"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_activations_are_the_tensors_that_autograd_saves(name, precision, packed):
    config = TransformerConfig(**SIZES, **SHAPES[name])
    assert _ratio(config, precision, packed) == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("packed", [False, True], ids=["whole", "packed"])
@pytest.mark.parametrize("name", [name for name in SHAPES if name != "attention_dropout"])
def test_longer_rows_keep_no_weights_of_attention(name, packed, monkeypatch):
    """Nor does a GPU: the path of torch's fused kernel, here by a border that every row passes."""
    assert planned.MAX_KEPT == attention.MAX_KEPT
    monkeypatch.setattr(attention, "MAX_KEPT", 0)
    monkeypatch.setattr(planned, "MAX_KEPT", 0)
    config = TransformerConfig(**SIZES, **SHAPES[name])
    assert _ratio(config, "float32", packed) == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("name", ["gpt2", "windows", "bart", "t5"])
def test_causal_attention_in_blocks_keeps_no_weights_of_hidden_keys(name, monkeypatch):
    assert planned.BLOCK == fast.BLOCK
    monkeypatch.setattr(fast, "BLOCK", 16)
    monkeypatch.setattr(planned, "BLOCK", 16)
    config = TransformerConfig(**SIZES, **SHAPES[name])
    assert _ratio(config, "float32", True) == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "bert", "t5", "bart"])
def test_activations_of_adapters_are_near_enough(name):
    config = TransformerConfig(**SIZES, **SHAPES[name])
    assert _ratio(config, "float32", True, rank=4) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize(
    ("cell", "packed"), [("rnn", False), ("rnn", True), ("gru", False), ("gru", True), ("lstm", True)]
)
def test_activations_of_recurrent_networks_are_near_enough(cell, packed):
    config = RecurrentConfig(cell=cell, vocab_size=97, width=64, hidden_width=96, layers=2)
    assert _ratio(config, "float32", packed) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("packed", [False, True], ids=["whole", "packed"])
@pytest.mark.parametrize("name", SHAPES)
def test_recomputed_activations_are_what_the_layers_read(name, packed):
    config = TransformerConfig(**SIZES, **SHAPES[name])
    assert _ratio(config, "float32", packed, recompute=True) == pytest.approx(1, abs=0.02)


def test_an_lstm_that_reads_both_ways_is_planned_with_its_documents_filled_up() -> None:
    assert planned.FILLED == recurrent.FILLED
    sizes = {"cell": "lstm", "vocab_size": 97, "width": 64, "head": "token", "labels": ("a", "b")}
    one = RecurrentConfig(**sizes, hidden_width=96, layers=1)
    both = RecurrentConfig(**sizes, hidden_width=48, layers=1, bidirectional=True)
    shape, packed = Shape(rows=3, context=40, source=40), Method(packed=True)
    more = activations(both, shape, packed).kept - activations(one, shape, packed).kept
    assert more == pytest.approx(3 * 40 * 96 * 4 * (6.5 * recurrent.FILLED - 7.1))


def _ratio(config: Any, precision: str, packed: bool, rank: int = 0, recompute: bool = False) -> float:
    """Planned bytes over those of the tensors that a real forward saves, weights and the loss's own apart."""
    n_rows, columns, source = 3, 40, 24
    network = build(config).train()
    if rank:
        add_adapter(network, AdapterConfig(rank=rank))
    batch, forward = _batch(config, n_rows, columns, source, packed)
    passage, given = Passage(network, recompute=recompute), []
    if recompute:  # masks, bias and rotation are held by the graph of a layer that is computed again, not saved
        again = passage.way
        passage.way = lambda layer, hidden, *others: given.extend(_tensors(others)) or again(layer, hidden, *others)
    with lowered(network, getattr(torch, precision)), passage.open():
        saved = _saved(network, lambda: forward(network, batch), given)
    shape = Shape(rows=n_rows, context=columns, precision=precision, source=source, recompute=recompute)
    method = Method(packed=packed, adapter=Adapter(rank=rank) if rank else None)
    tokens = n_rows * (columns + (source if config.kind == "encoder-decoder" else 0)) * (not rank)
    own = 3 * n_rows * columns * 8 - tokens * 8  # the batch, but the ids, which the embedding keeps
    return (activations(config, shape, method).kept - own) / saved


def _batch(config: Any, n_rows: int, columns: int, source: int, packed: bool) -> tuple[Any, Any]:
    def side(length: int) -> Batch:
        ids = torch.randint(0, config.vocab_size, (n_rows, length), generator=torch.Generator().manual_seed(length))
        order = torch.arange(length)
        numbers = [order * parts // length + 1 for parts in ((3, 3, 2) if packed else (1, 1, 1))]
        return Batch(ids, ids.clone(), torch.stack(numbers))

    batch = side(columns)
    if config.kind == "encoder":
        return batch, encoded
    if config.kind == "encoder-decoder":
        other = side(source)
        return PairBatch(other.ids, other.mask, *batch), translated
    return batch, decoded


def _tensors(values: Any) -> list[torch.Tensor]:
    """All tensors in nested tuples and in dataclasses."""
    if isinstance(values, torch.Tensor):
        return [values]
    inner = values if isinstance(values, tuple) else vars(values).values() if dataclasses.is_dataclass(values) else ()
    return [tensor for value in inner for tensor in _tensors(value)]


def _saved(network: torch.nn.Module, forward: Any, given: list[torch.Tensor]) -> int:
    """Bytes of the tensors that a forward pass saves for backward, each storage once, weights apart.

    given: others that live as long.
    """
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)  # held, so that no address is given twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    for tensor in given:
        keep(tensor)
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in weights)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_the_optimizer_s_memory_is_that_of_its_states(kind, name):
    config = TransformerConfig(**SIZES, **SHAPES[name])
    network = build(config)
    optimizer = Optimizer(network, kind, 1e-3)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    real = sum(t.nbytes for key, t in optimizer.state().items() if not key.startswith("step/"))
    memory = training_memory(config, Shape(rows=1, context=8), Method(optimizer=kind))
    assert memory.kinds["optimizer"] == real


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "bart"])
def test_the_cache_is_as_large_as_a_real_one(name):
    config = TransformerConfig(**SIZES, **SHAPES[name])
    network = build(config).eval()
    ids, memory = torch.zeros(2, 24, dtype=torch.long), None
    with torch.no_grad():
        memory = network.encode(ids) if config.encoder_layers else None
        cache = network.new_cache(2, 24)
        network.decode(ids, memory=memory, cache=cache)
    assert cache_bytes(config, 2, 24, "float32") == cache.nbytes


def test_the_plan_holds_against_the_peak_of_a_real_training():
    """A process of its own trains for some steps; libraries and what the allocator holds are in the figure."""
    case = b12.CASES["gpt"] | {"rows": 4, "context": 96}
    assert b12.planned_bytes(case) == pytest.approx(b12.measured(case)["bytes"], rel=0.25)


def test_nothing_is_cheaper_for_being_larger():
    config = TransformerConfig(**SIZES, **SHAPES["qwen3"])
    shape, plain = Shape(rows=2, context=64), Method(packed=True)
    base = training_memory(config, shape, plain)
    assert training_memory(config, Shape(rows=4, context=64), plain).total > base.total
    assert training_memory(config, Shape(rows=2, context=128), plain).total > base.total
    assert training_memory(config, shape, plain, accumulation=2).total > base.total
    assert training_memory(config, Shape(rows=2, context=64, recompute=True), plain).total < base.total
    adapters = (None, Adapter(rank=2), Adapter(rank=2, bits=8), Adapter(rank=2, bits=4))
    sizes = [training_memory(config, shape, Method(adapter=a), "cuda").kinds["weights"] for a in adapters[1:]]
    assert sizes == sorted(sizes, reverse=True)
    full, low = (training_memory(config, shape, Method(adapter=a), "cuda") for a in adapters[:2])
    assert low.total < full.total
    halves = training_memory(config, shape, plain, shards=2)
    assert halves.kinds["optimizer"] == base.kinds["optimizer"] / 2


def test_the_kinds_are_complete_and_the_peak_is_at_most_their_sum():
    config = TransformerConfig(**SIZES, **SHAPES["qwen3"])
    method = Method(packed=True, optimizer="muon", ema=True, reference=config)
    memory = training_memory(config, Shape(rows=2, context=64, precision="bfloat16"), method)
    assert set(memory.kinds) == set(KINDS)
    assert memory.total <= sum(memory.kinds.values()) + 1
