"""The product with packed matrices: equal to its twin at every level, whatever the shapes and the numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.test_matrix import PACKERS, weights

from yanmo.errors import InputError
from yanmo.kernels import native, ops, twins
from yanmo.kernels.matrix import NUMBERS, codes_of, dense, pack_groups, pack_rows

LEVELS = [*native.levels(), "off"]


def inputs_of(rows: int, inputs: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed)) * 3 + 0.5


def twin(x, matrix, bias=None, wide=False):
    return twins.linear(x, matrix.panels, matrix.scales, bias, matrix.outputs, matrix.format, wide)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", PACKERS)
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(0, 60),
    outputs=st.integers(1, 70),
    inputs=st.integers(1, 200),
    wide=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    with_bias=st.booleans(),
)
def test_every_level_is_equal_to_the_twin(level, name, rows, outputs, inputs, wide, dtype, with_bias):
    matrix, x = PACKERS[name](weights(outputs, inputs)), inputs_of(rows, inputs).to(dtype)
    bias = weights(1, outputs)[0] if with_bias else None
    with native.using(level):
        found = ops.linear(x, matrix, bias, wide=wide)
    expected = twin(x, matrix, bias, wide)
    assert found.dtype == dtype
    if name == "rows8":
        assert torch.equal(found, expected), "whole numbers are exact, and what follows rounds in the same order"
    else:
        limit = 1e-5 if dtype == torch.float32 else 0.01
        assert torch.allclose(found.float(), expected.float(), rtol=limit, atol=limit * (1 + inputs**0.5))


@pytest.mark.parametrize(
    ("name", "wide", "limit"), [("rows8", False, 0.02), ("rows8", True, 2e-4), ("groups8", False, 0.02)]
)
def test_the_product_is_that_of_the_matrix_within_the_rounding_of_its_input(name, wide, limit):
    matrix, x = PACKERS[name](weights(300, 256)), inputs_of(20, 256)
    exact = x.double() @ dense(matrix).double().T
    error = (ops.linear(x, matrix, wide=wide) - exact).norm() / exact.norm()
    assert error < limit
    if wide:
        assert error < (ops.linear(x, matrix) - exact).norm() / exact.norm() / 50


def test_the_twin_s_whole_numbers_are_exact():
    matrix, x = pack_rows(weights(33, 513)), inputs_of(4, 513)
    values, scales = codes_of(matrix)
    low, high = x.amin(1).clamp(max=0), x.amax(1).clamp(min=0)
    scale = high / 255 - low / 255
    inner = (x * (1 / scale)[:, None]).round()
    least = (low * (1 / scale)).round()[:, None]
    inner = inner.clamp(least, least + 255)  # 256 steps from the least value to the most
    exact = (inner.double() @ values[:, :513].double().T).float() * (scales * scale[:, None])
    assert torch.equal(twin(x, matrix), exact)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", PACKERS)
def test_a_row_is_computed_alike_in_any_batch(level, name):
    matrix, x = PACKERS[name](weights(100, 160)), inputs_of(70, 160)
    with native.using(level):
        together = ops.linear(x, matrix, wide=True)
        if level == "off" and name != "rows8":
            return  # torch's float32 product depends on the number of rows
        for count in (1, 2, 5, 16, 31):
            assert torch.equal(ops.linear(x[:count], matrix, wide=True), together[:count])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", PACKERS)
def test_rows_that_are_not_finite_give_nan_and_leave_the_others_alone(level, name):
    matrix, x = PACKERS[name](weights(20, 70)), inputs_of(5, 70)
    clean = x.clone()
    x[1, 69], x[3, 0], x[4, 17] = torch.nan, torch.inf, -torch.inf
    for wide in (False, True):
        with native.using(level):
            found = ops.linear(x, matrix, wide=wide)
            assert bool(found[[1, 3, 4]].isnan().all())
            assert torch.equal(found[[0, 2]], ops.linear(clean, matrix, wide=wide)[[0, 2]])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", PACKERS)
def test_extreme_rows(level, name):
    matrix = PACKERS[name](weights(20, 70))
    x = torch.stack([torch.zeros(70), torch.full((70,), 1e-38), torch.full((70,), 1e35), torch.full((70,), -2.0)])
    with native.using(level):
        for wide in (False, True):
            found, bias = ops.linear(x, matrix, torch.ones(20), wide=wide), torch.ones(20)
            assert torch.equal(found[:2], torch.ones(2, 20)), "nothing, or as good as nothing, gives the bias"
            assert not bool(found[2].isnan().any())
            exact = x[3] @ dense(matrix).T + bias
            assert torch.allclose(found[3], exact, atol=1e-4), "one value alone is exact"


@pytest.mark.parametrize("level", LEVELS)
def test_any_strides_and_any_alignment(level):
    matrix, x = pack_rows(weights(40, 33)), inputs_of(6, 33)
    with native.using(level):
        expected = ops.linear(x, matrix)
        wider = torch.zeros(6, 50)
        wider[:, 7:40] = x
        assert torch.equal(ops.linear(wider[:, 7:40], matrix), expected)
        assert torch.equal(ops.linear(x.T.contiguous().T, matrix), expected)
        assert torch.equal(ops.linear(x.repeat_interleave(2, 0)[::2], matrix), expected)
        assert torch.equal(ops.linear(x[:1].expand(6, 33), matrix), expected[:1].expand(6, 40))
        assert torch.equal(ops.linear(x.view(2, 3, 33), matrix), expected.view(2, 3, 40))
        assert torch.equal(ops.linear(x[0], matrix), expected[0])


@pytest.mark.parametrize("level", LEVELS)
def test_a_file_may_hold_the_value_minus_128(level):
    blocks = torch.zeros(16, 2, 34, dtype=torch.uint8)
    blocks[:, :, :2] = torch.tensor([1.0], dtype=torch.float16).view(torch.uint8)
    blocks[:, :, 2:] = 128  # -128
    from yanmo.kernels.matrix import pack_blocks

    matrix = pack_blocks(blocks, "groups8", 64)
    x = inputs_of(3, 64)
    with native.using(level):
        assert torch.allclose(ops.linear(x, matrix), twin(x, matrix), rtol=1e-4)


def test_half_precision_goes_through_float32():
    matrix, x = pack_rows(weights(10, 64)), inputs_of(2, 64).half()
    assert torch.equal(ops.linear(x, matrix), ops.linear(x.float(), matrix).half())


@pytest.mark.parametrize(
    ("x", "options", "said"),
    [
        (torch.zeros(2, 63), {}, r"x is \[2, 63\], and the matrix has 64 inputs"),
        (torch.zeros(()), {}, r"x is \[\]"),
        (torch.zeros(2, 64, dtype=torch.float64), {}, "torch.float64"),
        (torch.zeros(2, 64, dtype=torch.long), {}, "torch.int64"),
        (torch.zeros(2, 64), {"bias": torch.zeros(3)}, r"bias is \[3\]"),
        (torch.zeros(2, 64), {"bias": torch.zeros(10, dtype=torch.bfloat16)}, "bfloat16, and must be"),
        (torch.zeros(2, 64), {"bias": torch.zeros(20)[::2]}, "bias"),
        (torch.zeros(2, 64, requires_grad=True), {}, "gradient"),
        (torch.zeros(2, 64, device="meta"), {}, "on meta"),
    ],
)
def test_what_cannot_be_multiplied_is_one_sentence(x, options, said):
    with pytest.raises(InputError, match=said):
        ops.linear(x, pack_rows(weights(10, 64)), **options)


def test_torch_compile_sees_the_shapes_without_computing():
    matrix = pack_groups(weights(10, 64), 4)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = [mode.from_tensor(t) for t in matrix.tensors]
        y = torch.ops.yanmo.linear(torch.empty(3, 64), *fake, None, 10, NUMBERS["groups4"], False)
    assert tuple(y.shape) == (3, 10)
