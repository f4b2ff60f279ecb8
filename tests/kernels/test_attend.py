"""Attention over a cache, activations: equal to their twins and to the plain formula at every level."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.errors import InputError
from yanmo.kernels import native, ops, twins
from yanmo.models.attention import reference_attention, see_cached

LEVELS = [*native.levels(), "off"]


def made(rows, heads, kv_heads, tokens, columns, width, dtype=torch.float32, seed=0):
    """Query, key, value, last, and the scales of an int8 cache."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(rows, heads, tokens, width, generator=generator)
    key, value = (torch.randn(rows, kv_heads, columns, width, generator=generator) for _ in range(2))
    last = torch.randint(-1, columns, (rows, tokens), generator=generator)
    if dtype != torch.int8:
        return query, key.to(dtype), value.to(dtype), last, {}
    scales = [x.abs().amax(-1) / 127 + 1e-6 for x in (key, value)]
    key, value = ((x / s[..., None]).round().to(dtype) for x, s in zip((key, value), scales))
    return query, key, value, last, dict(zip(("key_scale", "value_scale"), scales))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(0, 3),
    groups=st.integers(1, 6),
    kv_heads=st.integers(1, 3),
    tokens=st.integers(0, 4),
    columns=st.integers(1, 70) | st.sampled_from([255, 256, 257, 530]),  # a block has 256
    width=st.sampled_from([1, 8, 20, 64, 80, 128, 130]),
    window=st.sampled_from([0, 1, 5, 40]),
)
def test_every_level_is_equal_to_the_twin(level, dtype, rows, groups, kv_heads, tokens, columns, width, window):
    query, key, value, last, scales = made(rows, groups * kv_heads, kv_heads, tokens, columns, width, dtype)
    with native.using(level):
        found = ops.attend(query, key, value, last, width**-0.5, window=window, **scales)
    expected = twins.attend(query, key, value, last, width**-0.5, window, **scales)
    assert found.shape == (rows, tokens, groups * kv_heads, width)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_scores_that_grow_from_block_to_block_are_weighed_together(level):
    query, key, value, _, _ = made(1, 5, 1, 1, 1000, 64)
    key = key * torch.linspace(0.1, 3, 1000)[:, None]
    last = torch.tensor([[999]])
    expected = twins.attend(query, key, value, last, 0.5)
    with native.using(level):
        assert torch.allclose(ops.attend(query, key, value, last, 0.5), expected, atol=2e-5)
        backwards = ops.attend(query, key.flip(2), value.flip(2), last, 0.5)
    assert torch.allclose(backwards, expected, atol=2e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_scales_are_read_where_they_lie(level):
    query, key, value, last, scales = made(2, 6, 2, 3, 300, 64, torch.int8)
    apart = {name: torch.stack([scale, scale * 9], -1)[..., 0] for name, scale in scales.items()}
    with native.using(level):
        expected = ops.attend(query, key, value, last, 0.1, **scales)
        assert torch.equal(ops.attend(query, key, value, last, 0.1, **apart), expected)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("window", [0, 3])
def test_it_is_the_formula_of_the_models(level, window):
    query, key, value, _, _ = made(3, 6, 2, 4, 50, 32)
    positions = torch.tensor([[3, 4, 5, 6], [46, 47, 48, 49], [0, 1, 2, 3]])
    seen = see_cached(positions, 50, window)
    expected, _ = reference_attention(query, key, value, 0.3, seen.mask)
    with native.using(level):
        found = ops.attend(query, key, value, positions, 0.3, window=window)
    assert torch.allclose(found, expected.transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_columns_that_no_token_sees_are_not_read(level):
    query, key, value, _, _ = made(2, 4, 2, 1, 40, 64)
    last = torch.tensor([[10], [39]])
    with native.using(level):
        clean = ops.attend(query, key, value, last, 0.1)
        key[0, :, 11:], value[0, :, 11:] = torch.nan, torch.inf
        assert torch.equal(ops.attend(query, key, value, last, 0.1), clean)
        assert torch.equal(ops.attend(query, key, value, torch.tensor([[-1], [5]]), 0.1)[0], torch.zeros(1, 4, 64))


@pytest.mark.parametrize("level", LEVELS)
def test_a_part_of_a_longer_cache_is_read_where_it_lies(level):
    query, key, value, last, _ = made(2, 4, 2, 3, 60, 64)
    longer_key, longer_value = torch.randn(2, 2, 100, 64), torch.randn(2, 2, 100, 64)
    longer_key[:, :, :60], longer_value[:, :, :60] = key, value
    turned = query.transpose(1, 2).contiguous().transpose(1, 2)  # as a projection leaves it
    with native.using(level):
        expected = ops.attend(query, key, value, last, 0.1)
        assert torch.equal(ops.attend(turned, longer_key[:, :, :60], longer_value[:, :, :60], last, 0.1), expected)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(0, 4),
    groups=st.integers(1, 6),
    kv_heads=st.integers(1, 3),
    columns=st.integers(1, 70),
    width=st.sampled_from([1, 8, 20, 64, 130]),
    window=st.sampled_from([0, 1, 5, 40]),
)
def test_columns_that_rows_share_are_read_as_copies_are(level, dtype, rows, groups, kv_heads, columns, width, window):
    query, key, value, _, scales = made(1, groups * kv_heads, kv_heads, 1, 90, width, dtype)
    generator = torch.Generator().manual_seed(columns)
    places = torch.randint(0, 90, (rows, columns), generator=generator, dtype=torch.int32)
    last = torch.randint(-1, columns, (rows, 1), generator=generator)
    queries = torch.randn(rows, groups * kv_heads, 1, width, generator=generator)
    both = [scales[name][0] for name in ("key_scale", "value_scale")] if scales else []
    at = places.long()
    copies = [x[0][:, at].transpose(0, 1).contiguous() for x in (key, value)]
    more = {name: x[0][:, at].transpose(0, 1) for name, x in scales.items()}
    with native.using(level):
        found = ops.attend_at(queries, key[0], value[0], places, last, 0.2, window=window, scales=both)
        expected = ops.attend(queries, *copies, last, 0.2, window=window, **more)
    assert torch.equal(found, expected)


def test_places_that_are_not_there_are_one_sentence():
    query, key, value, _, _ = made(1, 4, 2, 1, 30, 64)
    places, last = torch.arange(10, dtype=torch.int32)[None], torch.tensor([[9]])
    for wrong, named in [
        ((query, key[0], value[0], places + 21, last), "places are from 21 to 30, and there are 30"),
        ((query, key[0], value[0], places - 1, last), "places are from -1"),
        ((query, key[0], value[0], places.long(), last), "torch.int64"),
        ((query, key[0], value[0], places, last + 1), "sees column 10, and there are places of 10"),
        ((query.expand(-1, -1, 2, -1), key[0], value[0], places, last), "one token of each row"),
    ]:
        with pytest.raises(InputError, match=named):
            ops.attend_at(*wrong, 0.1)


@pytest.mark.parametrize("level", LEVELS)
def test_large_scores_stay_finite_and_nan_stays_nan(level):
    query, key, value, _, _ = made(1, 2, 2, 1, 20, 64)
    last = torch.tensor([[19]])
    with native.using(level):
        assert bool(ops.attend(query * 1e4, key, value, last, 1.0).isfinite().all())
        key[0, 1, 4, 5] = torch.nan
        found = ops.attend(query, key, value, last, 0.1)
        assert bool(found[:, :, 0].isfinite().all())
        assert bool(found[:, :, 1].isnan().all())


def test_bfloat16_queries_give_bfloat16():
    query, key, value, last, _ = made(2, 4, 2, 2, 30, 64, torch.bfloat16)
    found = ops.attend(query.bfloat16(), key, value, last, 0.1)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), ops.attend(query.bfloat16().float(), key, value, last, 0.1), atol=0.02)
    assert ops.attend(query.half(), key, value, last, 0.1).dtype == torch.float16


def test_what_cannot_be_attended_to_is_one_sentence():
    query, key, value, last, _ = made(2, 4, 2, 2, 30, 64)
    _, small, small_value, _, scales = made(2, 4, 2, 2, 30, 64, torch.int8)
    wrong = [
        ((query, key, value[:, :1], last), {}, "key and value the same"),
        ((query, key[:1], value[:1], last), {}, "rows and head width must be equal"),
        ((query[:, :3], key, value, last), {}, "a multiple"),
        ((query, key, value, last.int()), {}, "torch.int32"),
        ((query, key, value, last[:1]), {}, r"must be \[2, 2\]"),
        ((query, key, value, last + 30), {}, "and the cache has 30"),
        ((query, key, value, last), {"window": -1}, "window is -1"),
        ((query, small, small_value, last), {}, "key_scale is missing"),
        ((query, key, value, last), scales, "key_scale is given"),
        ((query, small, small_value, last), {**scales, "value_scale": torch.ones(2, 2, 29)}, "value_scale is"),
        ((query, key.double(), value.double(), last), {}, "float64"),
        ((query.double(), key, value, last), {}, "float64"),
    ]
    for given_, options, said in wrong:
        with pytest.raises(InputError, match=said):
            ops.attend(*given_, 0.1, **options)


# --- activations


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ops.ACTIVATIONS)
@settings(max_examples=15, deadline=None)
@given(shape=st.lists(st.integers(0, 40), min_size=0, max_size=3), gated=st.booleans())
def test_activations_are_equal_to_the_twin(level, name, shape, gated):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 4
    other = torch.randn(shape, generator=torch.Generator().manual_seed(3)) if gated else None
    with native.using(level):
        found = ops.activate(x, name, other)
    assert torch.allclose(found, twins.activate(x, name, other), atol=5e-6, rtol=2e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_activations_at_the_ends_of_the_numbers(level, name):
    x = torch.tensor([-1e30, -1e4, -90.0, -1e-30, 0.0, 1e-30, 90.0, 1e4, torch.nan])
    with native.using(level):
        found = ops.activate(x, name)
    assert torch.allclose(found, twins.activate(x, name, None), atol=1e-6, equal_nan=True)
    pair = ops.activate(x.bfloat16(), name, x.bfloat16())
    assert pair.dtype == torch.bfloat16


def test_an_unknown_activation_names_the_nearest():
    with pytest.raises(InputError, match="nearest: 'gelu'"):
        ops.activate(torch.zeros(3), "gelo")
    with pytest.raises(InputError, match="gated is"):
        ops.activate(torch.zeros(3), "silu", torch.zeros(4))
