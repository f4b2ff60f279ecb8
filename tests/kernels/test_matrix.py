"""Packed matrices: what they hold, and that a file's blocks come in as they were."""

from __future__ import annotations

import mmap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.errors import Error, InputError
from yanmo.kernels import native
from yanmo.kernels.arena import HUGE_PAGE, Arena, room
from yanmo.kernels.matrix import codes_of, dense, matrix_of_rows, pack_blocks, pack_groups, pack_rows, rows_of

PACKERS = {
    "rows8": pack_rows,
    "groups4": lambda weight: pack_groups(weight, 4),
    "groups8": lambda weight: pack_groups(weight, 8),
}


def weights(outputs: int, inputs: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("library", ["native", "off"])
@pytest.mark.parametrize("name", PACKERS)
@settings(max_examples=25, deadline=None)
@given(outputs=st.integers(1, 70), inputs=st.integers(1, 140))
def test_a_packed_matrix_is_the_matrix_within_half_a_step(name, library, outputs, inputs):
    weight = weights(outputs, inputs)
    with native.using("off" if library == "off" else native.level() or "off"):
        matrix = PACKERS[name](weight)
    step = codes_of(matrix)[1].abs()
    if name == "groups4":
        limit = step.amax() * 1.02  # one side of a group has seven levels, so its end may be a step away
    else:
        limit = step.amax() * 0.51
    assert dense(matrix).shape == weight.shape
    assert bool(((dense(matrix) - weight).abs() <= limit).all())


@pytest.mark.parametrize("name", PACKERS)
def test_rows_of_a_matrix_are_those_of_the_whole(name):
    matrix = PACKERS[name](weights(37, 100))
    ids = torch.tensor([[0, 36, 5], [16, 15, 0]])
    assert torch.equal(rows_of(matrix, ids), dense(matrix)[ids])


def test_rows_without_the_library_lie_as_they_are():
    values = torch.randint(-127, 128, (5, 12), dtype=torch.int8)
    with native.using("off"):
        matrix = matrix_of_rows(values, torch.ones(5))
    assert torch.equal(matrix.panels, values)
    assert torch.equal(rows_of(matrix, torch.tensor([3])), values[[3]].float())


def test_a_row_of_zeros_stays_one_and_the_largest_weight_is_exact():
    weight = weights(3, 40)
    weight[1] = 0
    matrix = pack_rows(weight)
    assert torch.equal(dense(matrix)[1], torch.zeros(40))
    largest = weight[0].abs().argmax()
    assert dense(matrix)[0, largest] == pytest.approx(weight[0, largest].item(), rel=1e-6)


@pytest.mark.parametrize(("kind", "name"), [("Q4_0", "groups4"), ("Q8_0", "groups8")])
def test_blocks_of_llama_cpp_come_in_unchanged_and_are_what_we_pack(kind, name):
    gguf = pytest.importorskip("gguf")
    weight = weights(19, 96)
    kind = gguf.GGMLQuantizationType[kind]
    raw = torch.from_numpy(gguf.quants.quantize(weight.numpy(), kind))
    matrix = pack_blocks(raw.view(19, 3, -1), name, 96)
    assert torch.equal(dense(matrix), torch.from_numpy(gguf.quants.dequantize(raw.numpy(), kind)))
    ours = PACKERS[name](weight)
    assert torch.equal(ours.panels, matrix.panels)
    assert matrix.panels[0].numel() == 16 * 3 * (18 if name == "groups4" else 34), "no byte more than in the file"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: pack_rows(torch.zeros(3)), "two dimensions"),
        (lambda: pack_rows(torch.zeros(3, 0)), r"\[3, 0\]"),
        (lambda: pack_rows(torch.zeros(1, 65537)), "65,537 inputs, at most 65,536"),
        (lambda: pack_rows(torch.full((1, 3), torch.nan)), "not finite"),
        (lambda: pack_groups(torch.zeros(1, 32), 5), "bits are 5"),
        (lambda: pack_groups(torch.full((1, 32), 1e8), 4), "float16"),
        (lambda: pack_blocks(torch.zeros(2, 3, 18, dtype=torch.uint8), "groups4", 64), r"needs \(outputs, 2, 18\)"),
        (lambda: pack_blocks(torch.zeros(2, 2, 18, dtype=torch.uint8), "rows8", 64), "blocks are"),
    ],
)
def test_what_cannot_be_packed_is_one_sentence(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_an_arena_holds_tensors_side_by_side_from_the_start_of_a_huge_page():
    arena = Arena(room(100) + room(8))
    first = arena.hold(torch.arange(25, dtype=torch.int32))
    second = arena.hold(torch.tensor([1.5, 2.5]))
    assert first.data_ptr() % HUGE_PAGE == 0
    assert second.data_ptr() == first.data_ptr() + room(100)
    assert first.tolist() == list(range(25))
    assert second.tolist() == [1.5, 2.5]
    with pytest.raises(InputError, match=r"4 bytes, and the arena has 0 left"):
        arena.hold(torch.zeros(1))
    del arena
    assert second.tolist() == [1.5, 2.5], "the memory lives as long as what lies in it"


def test_an_arena_that_cannot_be_had_is_one_sentence(monkeypatch):
    def none_left(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", none_left)
    with pytest.raises(Error, match="1,000 bytes for the weights cannot be had"):
        Arena(1000)
    with pytest.raises(InputError, match="-1 bytes"):
        Arena(-1)
