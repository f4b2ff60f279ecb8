"""Packed networks: what they compute against the network that they were, and a recorded step against the modules."""

from __future__ import annotations

import copy
import math
import statistics
from itertools import pairwise

import pytest
import torch

from yanmo.errors import InputError
from yanmo.inference.quantize import Bits, quantize
from yanmo.inference.step import Step, can_step
from yanmo.kernels import native
from yanmo.kernels.arena import HUGE_PAGE
from yanmo.models.adapters import AdapterConfig, add_adapter
from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.models.packed import PackedEmbedding, PackedLinear
from yanmo.models.recurrent import Recurrent
from yanmo.models.transformer import Transformer

GPT2 = {"position": "learned", "activation": "gelu_tanh"}
LLAMA = {
    "position": "rotary",
    "norm": "rms",
    "gated": True,
    "activation": "silu",
    "n_kv_heads": 2,
    "bias_qkv": False,
    "bias_out": False,
    "bias_ffn": False,
    "tie_embeddings": False,
}
SHAPES = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "qwen3": {**LLAMA, "norm_query_key": True, "tie_embeddings": True},
    "windows": {**LLAMA, "windows": (0, 5, 3), "head_width": 20},
    "post norm": {"position": "sinusoidal", "norm_order": "post", "norm_final": False, "activation": "relu"},
    "scaled": {
        **GPT2,
        "embedding_scale": 2.0,
        "logit_scale": 0.5,
        "logit_bias": True,
        "attention_scale_by_layer": True,
    },
}
needs_library = pytest.mark.skipif(native.library() is None, reason=f"the native kernels are {native.why_absent()}")


def network(dtype: torch.dtype = torch.float32, **fields) -> Transformer:
    torch.manual_seed(0)
    base = {"vocab_size": 203, "width": 48, "n_heads": 4, "ffn_width": 100, "decoder_layers": 3, "max_positions": 64}
    made = Transformer(TransformerConfig(**base | fields)).eval()
    for name, parameter in made.named_parameters():
        if parameter.ndim == 2 or name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.15)
    return made.to(dtype)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@torch.inference_mode()
def logits(made: Transformer, ids: torch.Tensor) -> torch.Tensor:
    return made.logits(made.decode(ids)).float()


@pytest.mark.parametrize("name", SHAPES)
def test_a_packed_network_computes_nearly_the_same(name):
    made = network(**SHAPES[name])
    ids = torch.randint(0, 203, (2, 30))
    expected = logits(made, ids)
    errors = [
        error(logits(quantize(copy.deepcopy(made), bits), ids), expected)
        for bits in (Bits(), Bits(wide=False), Bits(weights=4))
    ]
    assert errors[0] < 0.05
    assert all(a < b for a, b in pairwise(errors)), "fewer bits, more error"
    assert errors[-1] < 0.6


def test_encoders_and_encoder_decoders_are_packed_too():
    ids = torch.randint(0, 203, (2, 9))
    for fields in ({"decoder_layers": 0, "head": "masked"}, {"decoder_layers": 2, "position": "sinusoidal"}):
        made = network(encoder_layers=2, **fields)
        small = quantize(copy.deepcopy(made))
        assert any(isinstance(m, PackedLinear) for m in small.encoder.modules())
        with torch.inference_mode():
            found, expected = (
                n.logits(n.encode(ids) if not n.decoder else n.decode(ids, memory=n.encode(ids))) for n in (small, made)
            )
        assert error(found, expected) < 0.02


def test_all_matrices_lie_in_one_piece_of_memory_and_a_tied_one_once():
    made = quantize(network(**GPT2))
    matrices = [m.matrix for m in made.modules() if isinstance(m, PackedLinear)] + [made.embedding.matrix]
    assert made.head.adapted.matrix is made.embedding.matrix
    first = min(m.panels.data_ptr() for m in matrices)
    assert first % HUGE_PAGE == 0
    last = max(m.panels.data_ptr() + m.panels.nbytes for m in matrices)
    assert last - first <= sum(m.nbytes for m in matrices) + 3 * 64 * len(matrices)
    assert not any(p.ndim == 2 and p.numel() > 64 * 48 for p in made.parameters()), "no matrix is left in floats"


@pytest.mark.parametrize("bits", [Bits(), Bits(layout="groups"), Bits(weights=4, words=4)])
def test_without_the_library_it_computes_the_same(bits):
    made, ids = network(**LLAMA), torch.randint(0, 203, (2, 12))
    expected = logits(quantize(copy.deepcopy(made), bits), ids)
    with native.using("off"):
        found = logits(quantize(made, bits), ids)
        assert not can_step(made)
    apart = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert apart.median() < 1e-5
    assert apart.max() < 0.05, "a number that lies between two codes may be rounded to either"


@needs_library
@pytest.mark.parametrize("bits", [Bits(), Bits(layout="groups"), Bits(weights=4)])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_recorded_step_is_the_modules_one_after_the_other(name, bits, dtype):
    made = quantize(network(dtype, **SHAPES[name]), bits)
    ids = torch.randint(0, 203, (3, 7))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [0] * 2 + [1] * 5])
    step = Step(made, most_rows=4)
    with torch.inference_mode():
        ours, theirs = made.new_cache(3, 8), made.new_cache(3, 8)
        for cache in (ours, theirs):
            made.decode(ids, mask, cache=cache)
        errors, written = [], []
        for turn in range(14):  # past the room of the cache, so that it moves
            new = torch.randint(0, 203, (ours.rows,))
            found = step(new, ours)
            expected = made.logits(made.decode(new[:, None], cache=theirs)[:, 0]).float()
            errors.append(error(found, expected))
            assert torch.equal(ours.lengths, theirs.lengths)
            for a, b in zip((*ours.keys, *ours.values), (*theirs.keys, *theirs.values)):
                written.append(error(a[:, :, : ours.longest].float(), b[:, :, : ours.longest].float()))
                a[:, :, : ours.longest] = b[:, :, : ours.longest]  # so that a difference does not stay
            if turn == 5:
                for cache in (ours, theirs):
                    cache.select(torch.tensor([2, 0, 0, 1]))
    # a sum that differs in its last digit now and then rounds a number in 8 bits to the other side: not often
    exact = dtype == torch.float32
    for each in (errors, written):
        assert statistics.median(each) < (2e-4 if exact else 0.05)
        assert max(each) < (0.1 if exact else 0.2)


@needs_library
def test_what_cannot_be_recorded_says_so():
    for made in (network(**GPT2), quantize(network(encoder_layers=2, decoder_layers=0, head="none"))):
        assert not can_step(made)
        with pytest.raises(InputError, match="use decode"):
            Step(made)
    made = quantize(network(**GPT2))
    step = Step(made)
    with native.using("off"), pytest.raises(InputError, match="switched off"):
        step(torch.tensor([1]), made.new_cache(1, 4))


def test_what_cannot_be_packed_is_one_sentence():
    made = network(**GPT2)
    quantize(made)
    assert isinstance(made.embedding, PackedEmbedding)
    with pytest.raises(InputError, match="packed already"):
        quantize(made)
    with pytest.raises(InputError, match="recurrent"):
        quantize(Recurrent(RecurrentConfig(cell="gru", vocab_size=10, width=8)))  # type: ignore[arg-type]
    adapted = network(**GPT2)
    add_adapter(adapted, AdapterConfig(rank=2))
    with pytest.raises(InputError, match="merge them"):
        quantize(adapted)
    with pytest.raises(InputError, match="on meta"):
        quantize(network(**GPT2).to("meta"))
    with pytest.raises(InputError, match="weights are given 5 bits"):
        Bits(weights=5)
    with pytest.raises(InputError, match="layout is 'columns'"):
        Bits(layout="columns")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(shared_data) -> tuple[Transformer, torch.Tensor]:
    """A small character model that has learnt something, and ids that it has not seen."""
    text = (shared_data / "corpora/tinyshakespeare.txt").read_text("utf-8")[:400_000]
    letters = sorted(set(text))
    ids = torch.tensor([letters.index(c) for c in text])
    made = network(**{**LLAMA, "vocab_size": len(letters), "width": 96, "n_heads": 4, "ffn_width": 256})
    made.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(made.parameters(), 5e-3)
    for turn in range(100):
        starts = torch.randint(0, 350_000, (10,), generator=torch.Generator().manual_seed(turn))
        rows = torch.stack([ids[s : s + 65] for s in starts])
        loss = torch.nn.functional.cross_entropy(
            made.logits(made.decode(rows[:, :-1])).flatten(0, 1), rows[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made.eval(), ids[350_000:].view(-1)[: 390 * 65].view(390, 65)[:100]


@torch.inference_mode()
def loss_of(made: Transformer, rows: torch.Tensor) -> float:
    scores = made.logits(made.decode(rows[:, :-1])).float()
    return torch.nn.functional.cross_entropy(scores.flatten(0, 1), rows[:, 1:].flatten()).item()


@pytest.mark.parametrize(
    ("bits", "limit"),
    [(Bits(), 0.005), (Bits(wide=False), 0.005), (Bits(layout="groups"), 0.005), (Bits(weights=4), 0.02)],
)
def test_the_loss_of_a_trained_model_hardly_changes(trained, bits, limit):
    made, rows = trained
    before = loss_of(made, rows)
    assert before < 2.6 < math.log(65), "it has learnt something"
    after = loss_of(quantize(copy.deepcopy(made), bits), rows)
    assert abs(after / before - 1) < limit
