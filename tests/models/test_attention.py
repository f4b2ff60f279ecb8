"""The formula, its fused twin, and what a token may see."""

from __future__ import annotations

import itertools

import pytest
import torch

from yanmo.models.attention import Visible, attention, positions_of, reference_attention, see_back, see_both_ways
from yanmo.models.config import TransformerConfig
from yanmo.models.layers import RMSNorm, relative_bucket, rotary_frequencies, rotate, rotation_at, sinusoids


def heads(rows: int, n: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, n, columns, 6, generator=torch.Generator().manual_seed(seed))


def test_the_reference_is_softmax_of_scaled_products_times_values() -> None:
    query, key, value = heads(1, 1, 2, 0), heads(1, 1, 3, 1), heads(1, 1, 3, 2)
    mixed, weights = reference_attention(query, key, value, 0.5)
    by_hand = torch.softmax(0.5 * query[0, 0] @ key[0, 0].T, -1)
    assert torch.allclose(weights[0, 0], by_hand)
    assert torch.allclose(mixed[0, 0], by_hand @ value[0, 0])


@pytest.mark.parametrize(
    "kv_heads, columns, masked, biased", list(itertools.product([6, 2, 1], [1, 4], [False, True], [False, True]))
)
def test_the_fused_path_equals_the_reference(kv_heads: int, columns: int, masked: bool, biased: bool) -> None:
    query, key, value = heads(2, 6, columns, 0), heads(2, kv_heads, 5, 1), heads(2, kv_heads, 5, 2)
    seen = torch.rand(2, 1, columns, 5, generator=torch.Generator().manual_seed(3)) > 0.4 if masked else None
    if seen is not None:
        seen[..., 0] = True
    bias = torch.randn(1, 6, columns, 5, generator=torch.Generator().manual_seed(4)) if biased else None
    expected, _ = reference_attention(query, key, value, 0.3, seen, bias)
    found = attention(query, key, value, 0.3, Visible(seen, bias=bias), 0.0)
    assert torch.allclose(found, expected, atol=1e-6)


def test_causality_alone_takes_the_fused_causal_path_and_equals_its_mask() -> None:
    query, key, value = heads(2, 4, 7, 0), heads(2, 2, 7, 1), heads(2, 2, 7, 2)
    visible = see_back(None, 7, 0, torch.device("cpu"))
    assert visible.causal
    expected, weights = reference_attention(query, key, value, 1.0, visible.dense(7, 7, query.device))
    assert torch.allclose(attention(query, key, value, 1.0, visible, 0.0), expected, atol=1e-6)
    assert weights.triu(1).abs().max() == 0


def test_a_query_that_sees_nothing_returns_zero_and_never_nan() -> None:
    query, key, value = heads(1, 2, 3, 0), heads(1, 2, 3, 1), heads(1, 2, 3, 2)
    seen = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])[None, None]
    expected, _ = reference_attention(query, key, value, 1.0, seen)
    found = attention(query, key, value, 1.0, Visible(seen), 0.0)
    assert torch.allclose(found, expected, atol=1e-6)
    assert found[0, :, 1].abs().max() == 0


def test_positions_count_each_document_from_zero() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 0, 3], [1, 1, 0, 1, 2, 0, 0, 0, 0]])
    assert positions_of(mask).tolist() == [[0, 0, 0, 1, 2, 0, 1, 0, 0], [0, 1, 0, 2, 0, 0, 0, 0, 0]]


def test_a_window_counts_tokens_and_includes_the_token_itself() -> None:
    mask = torch.tensor([[0, 1, 1, 1, 1]])
    seen = see_back(mask, 5, 2, mask.device).mask
    assert seen is not None
    assert seen[0, 0].int().tolist()[1:] == [[0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]


def test_documents_of_a_row_do_not_see_each_other_both_ways() -> None:
    mask = torch.tensor([[1, 1, 2, 0]])
    seen = see_both_ways(mask, mask).mask
    assert seen is not None
    assert seen[0, 0].int().tolist()[:3] == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]]


def test_rotation_keeps_lengths_and_depends_on_the_distance_alone() -> None:
    config = TransformerConfig(vocab_size=9, width=12, n_heads=2, ffn_width=12, decoder_layers=1, position="rotary")
    query, key = heads(1, 2, 1, 0), heads(1, 2, 1, 1)

    def product(q_at: int, k_at: int) -> torch.Tensor:
        turned = [
            rotate(x, rotation_at(config, torch.tensor([[at]]), x.dtype)) for x, at in ((query, q_at), (key, k_at))
        ]
        assert torch.allclose(turned[0].norm(dim=-1), query.norm(dim=-1), atol=1e-5)
        return turned[0] @ turned[1].transpose(-2, -1)

    assert torch.allclose(product(7, 3), product(14, 10), atol=1e-5)
    assert not torch.allclose(product(7, 3), product(7, 4), atol=1e-3)
    assert rotary_frequencies(config)[0][0] == 1


def test_sinusoids_are_sines_then_cosines() -> None:
    table = sinusoids(5, 6)
    assert table.shape == (5, 6)
    assert torch.allclose(table[3, 0], torch.tensor(3.0).sin())
    assert torch.allclose(table[3, 3], torch.tensor(3.0).cos())


def test_near_distances_have_a_bucket_of_their_own_and_far_ones_share() -> None:
    distance = torch.arange(-40, 41)
    both = relative_bucket(distance, 16, 20, both_ways=True)
    assert both.min() == 0 and both.max() == 15
    assert len(set(both[37:44].tolist())) == 7  # -3 … 3: half of 8 buckets a side are exact
    back = relative_bucket(distance, 16, 20, both_ways=False)
    assert set(back[40:].tolist()) == {0} and back[0] == 15


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_the_norm_of_training_equals_that_of_torch_in_value_and_gradient(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, upstream = (3 * torch.randn(2, 5, 18, generator=generator) for _ in range(2))
    weight = 1 + 0.3 * torch.randn(18, generator=generator)
    results = []
    for norm in (lambda a, b: torch.nn.functional.rms_norm(a, (18,), b, 1e-3), lambda a, b: RMSNorm.apply(a, b, 1e-3)):
        a, b = (t.to(dtype).requires_grad_() for t in (x, weight))
        out = norm(a, b)
        out.backward(upstream.to(dtype))
        results.append([out, a.grad, b.grad])
    for expected, found in zip(*results):
        assert found.dtype == dtype
        assert (found.float() - expected.float()).abs().max() <= tolerance * expected.float().abs().max()
