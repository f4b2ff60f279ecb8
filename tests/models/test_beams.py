"""Texts that share what they have in common: read as copies are, and held once."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from tests.inference.engines import writer
from tests.models.tiny import random_ids
from yanmo.kernels import native
from yanmo.models import beams
from yanmo.models.beams import BeamCache, by_index
from yanmo.models.protocol import LanguageModel

needs_library = pytest.mark.skipif(native.library() is None, reason="columns are found by index in native code")


def begun(network: Any, lengths: list[int], room: int) -> Any:
    """The cache of prompts of these lengths."""
    width = max(lengths)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    cache = network.new_cache(len(lengths), width + room)
    network.decode(random_ids(len(lengths), width, seed=3), mask, cache=cache)
    return cache


@needs_library
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3-windows"])
@pytest.mark.parametrize("lengths", [[5], [7, 3, 4]])
@torch.inference_mode()
def test_rows_that_come_from_one_another_are_read_as_copies_are(
    name: str, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beams, "ROOM", 4)
    network, written = writer(name).network, sum(lengths)
    assert by_index(network)
    plain = begun(network, lengths, 0)
    cache = BeamCache(begun(network, lengths, 0), network.config.windows, 3, 40)
    draw = random.Random(0)
    for step in range(30):
        if step < 3 or draw.random() < 0.6:  # rows change places, come twice and leave
            rows = torch.tensor([draw.randrange(plain.rows) for _ in range(draw.randint(2, 7))])
            plain.select(rows)
            cache.select(rows)
        ids = random_ids(plain.rows, 1, seed=step)
        expected = network.decode(ids, cache=plain)
        found = network.decode(ids, cache=cache)
        written += cache.rows
        assert torch.allclose(found, expected, atol=1e-4)
        assert torch.equal(cache.lengths, plain.lengths) and cache.longest == plain.longest
        for layer in range(len(plain.keys)):
            for held, copies in ((cache.keys[layer], plain.keys[layer]), (cache.values[layer], plain.values[layer])):
                for row, length in enumerate(cache.lengths.tolist()):
                    at = cache.places[row, :length].long()
                    assert torch.allclose(held[0][:, at], copies[row, :, :length], atol=1e-4)
    assert cache.keys[0].shape[2] < written, "places that no row points to are used again"


@needs_library
@torch.inference_mode()
def test_a_prompt_of_many_beams_stands_once() -> None:
    network = writer("llama").network
    prompt, rows = 200, 8
    one = begun(network, [prompt], 0)
    size = one.nbytes
    copies = begun(network, [prompt], 16)
    copies.select(torch.zeros(rows, dtype=torch.long))
    cache = BeamCache(one, network.config.windows, rows, prompt + 16)
    cache.select(torch.zeros(rows, dtype=torch.long))
    for step in range(16):
        network.decode(random_ids(rows, 1, seed=step), cache=cache)
    tokens = prompt + 16 * rows
    assert cache.nbytes <= size * (tokens + rows) / prompt + cache.places.nbytes
    assert cache.nbytes * 4 < copies.nbytes


def test_what_cannot_be_read_by_index_is_copied() -> None:
    for name in ("t5", "lstm"):
        network: LanguageModel = writer(name).network
        assert not by_index(network)
    with native.using("off"):
        assert not by_index(writer("gpt2").network)
