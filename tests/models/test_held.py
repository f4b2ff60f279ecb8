"""Keys and values in fewer bytes: what is read back is near, and however a text is read, the same is held of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import yanmo
from tests.models.tiny import PAIRS, VARIANTS, make, random_ids
from yanmo.errors import InputError
from yanmo.kernels import native
from yanmo.models.checkpoint import load_network
from yanmo.models.held import CACHES, codes_of, hold, lay, read, width_of

FEWER = [name for name in CACHES if name != "float32"]


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 70), size=st.floats(1e-20, 1e20), seed=st.integers(0, 99))
def test_eight_bits_are_within_half_a_step_of_each_vector(width: int, size: float, seed: int) -> None:
    x = torch.randn(2, 3, 5, width, generator=torch.Generator().manual_seed(seed)) * size
    x[0, 0, 0] = 0
    held = lay(x, torch.int8)
    assert held.shape == (2, 3, 5, width_of(width, torch.int8)) and held.shape[-1] % 4 == 0
    codes, scales = codes_of(held, width)
    largest = x.abs().amax(-1)
    assert torch.equal(scales, largest / 127) and int(codes.abs().max()) <= 127
    assert bool(((read(held, width, torch.float32) - x).abs() <= largest[..., None] / 254 * 1.0001).all())
    again = lay(read(held, width, torch.float32), torch.int8)
    assert torch.equal(codes_of(again, width)[0], codes), "what was read is held as it was"


def test_a_vector_that_is_not_finite_is_read_as_nan_and_no_other_is() -> None:
    x = torch.randn(4, 6)
    x[1, 2], x[3, 0] = math.nan, math.inf
    found = read(lay(x, torch.int8), 6, torch.float32)
    assert found[[1, 3]].isnan().all() and found[[0, 2]].isfinite().all()


def network(name: str, folder: Path, cache: str | None) -> Any:
    make(*VARIANTS[name], folder)
    found = load_network(folder)
    hold(found, cache)
    return found


@torch.inference_mode()
@pytest.mark.parametrize("name", ["gpt2", "llama-dynamic", "mistral", "qwen3", "t5-1.1", "marian"])
@pytest.mark.parametrize("cache", FEWER)
def test_a_text_at_once_in_parts_and_beside_others_is_one_text(name: str, cache: str, tmp_path: Path) -> None:
    made = network(name, tmp_path, cache)
    ids, more = random_ids(1, 24, seed=3), {}
    if name in PAIRS:
        more = {"memory": made.encode(random_ids(1, 9, seed=4))}

    def logits(*parts: int, off: bool = False) -> torch.Tensor:
        state, found, place = made.new_cache(1, 2), [], 0
        with native.using("off" if off else native.level() or "off"):
            for count in parts:
                found.append(made.decode(ids[:, place : place + count], cache=state, **more))
                place += count
        return made.logits(torch.cat(found, 1))[0]

    whole = logits(24)
    exact = made.logits(made.decode(ids, **more))[0]
    spread = exact.std()
    assert 0 < (whole - exact).abs().median() < 0.05 * spread
    if name != "llama-dynamic":  # what its keys are depends on how many tokens are read at once
        for parts in ((3, 1, 12, 8), (1,) * 24):
            assert_near(logits(*parts), whole, spread)
        assert_near(logits(*(1,) * 24, off=True), whole, spread)
    if name in PAIRS or name == "llama-dynamic":
        return
    state = made.new_cache(3, 4)
    padded = torch.zeros(3, 24, dtype=torch.long)
    padded[0], padded[1, 10:], padded[2, :5] = ids, ids[0, :14], ids[0, :5]
    mask = torch.zeros(3, 24, dtype=torch.long)
    mask[0], mask[1, 10:], mask[2, :5] = 1, 1, 1
    made.decode(padded, mask, cache=state)
    state.crop(torch.tensor([20, 14, 5]))
    state.select(torch.tensor([2, 0, 1, 0]))
    new = torch.stack([ids[0, 5:8], ids[0, 20:23], ids[0, 14:17], ids[0, 20:23]])
    found = made.logits(made.decode(new, cache=state))
    for row, start in enumerate((5, 20, 14, 20)):
        assert_near(found[row], whole[start : start + 3], spread)


def assert_near(found: torch.Tensor, expected: torch.Tensor, spread: torch.Tensor) -> None:
    """A number in its last digit may round a code to the other side, which moves a logit a little; not many."""
    apart = (found - expected).abs()
    assert apart.median() < 2e-3 * spread and (apart > 0.1 * spread).float().mean() < 0.05


def test_eight_bits_take_a_quarter_and_a_scale(tmp_path: Path) -> None:
    made = network("llama", tmp_path, None)
    full = made.new_cache(2, 100).nbytes
    width = made.config.head_width
    hold(made, "int8")
    assert made.new_cache(2, 100).nbytes == full * width_of(width, torch.int8) // (4 * width)
    hold(made, "bfloat16")
    assert made.new_cache(2, 100).nbytes == full // 2
    hold(made, "float32")
    ids = random_ids(1, 9, seed=1)
    with torch.inference_mode():
        one = made.decode(ids, cache=made.new_cache(1, 9))
        hold(made, None)
        assert torch.equal(made.decode(ids, cache=made.new_cache(1, 9)), one)


def test_it_is_asked_for_by_name_and_only_where_there_are_keys(tmp_path: Path) -> None:
    make(*VARIANTS["llama"], tmp_path / "one")
    assert yanmo.load(tmp_path / "one", cache="int8").network.new_cache(1, 4).held == torch.int8
    known = "float32, bfloat16, int8"
    with pytest.raises(InputError, match=rf"cache is 'int4' \(nearest: 'int8'\), and must be one of {known}"):
        yanmo.load(tmp_path / "one", cache="int4")
    make(*VARIANTS["bert"], tmp_path / "two")
    with pytest.raises(InputError, match="keeps no keys and values; leave it out"):
        yanmo.load(tmp_path / "two", cache="int8")
