"""Keys and values in fewer bytes, in everything that writes: the text is the plain reference's with the same cache."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.inference.engines import plain, writer
from tests.inference.test_engine import HOLD, numbers, prompts
from tests.inference.test_quantize import LLAMA, SHAPES, network
from yanmo.inference.generate import Options
from yanmo.inference.model import Model
from yanmo.inference.quantize import quantize
from yanmo.inference.search import Beams, search_ids
from yanmo.inference.slots import Cost
from yanmo.inference.step import Step
from yanmo.kernels import native
from yanmo.models.held import codes_of, hold, lay, read

needs_library = pytest.mark.skipif(native.library() is None, reason=f"the native kernels are {native.why_absent()}")
FEWER = ["int8", "bfloat16"]


def holding(name: str, cache: str) -> Model:
    """A tiny model of the engine's tests that keeps keys and values so."""
    model = copy.copy(writer(name))
    model.network = copy.copy(model.network)  # the same weights
    hold(model.network, cache)
    return model


def agree(model: Model, ids: list[int], ours: list[int], theirs: list[int]) -> bool:
    """Equal, or first unequal where two tokens stand so near that a code rounded to the other side decides."""
    place = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), None)
    if place is None:
        return ours == theirs
    with torch.inference_mode():
        logits = model.logits([ids + theirs[:place]])[0, -1]
    return float((logits[ours[place]] - logits[theirs[place]]).abs()) < 0.1 * float(logits.std())


@pytest.mark.parametrize("cache", FEWER)
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral"])
def test_the_engine_writes_what_the_reference_writes(name: str, cache: str) -> None:
    model = holding(name, cache)
    asked = [(ids, 1 + i * 5 % 11) for i, ids in enumerate(prompts(name, 9))]
    with model.engine(rows=3, chunk=6) as engine:
        for _ in range(2):  # the second time from the prefixes
            handles = [engine.submit(ids, max_new_tokens=new) for ids, new in asked]
            for (ids, new), handle in zip(asked, handles):
                expected = plain(model, ids, Options(max_new_tokens=new))[0]
                assert agree(model, ids, handle.result(HOLD).ids, expected)
        assert engine.stats().reused_tokens


def test_guesses_that_fail_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = holding("llama", "int8"), numbers(9, 1)
    expected = plain(model, ids, Options(max_new_tokens=24))[0]
    monkeypatch.setattr("yanmo.inference.speculate.Controller.wants", lambda *_: True)
    guesses = lambda self, most: [*expected[len(self.tokens) - 9 :][:2], 3, 4][:most]  # two are right  # noqa: E731
    monkeypatch.setattr("yanmo.inference.speculate.Lookup.guess", guesses)
    with model.engine(draft=4) as engine:
        found = engine.submit(ids, max_new_tokens=24).result(HOLD).ids
        stats = engine.stats()
    assert stats.drafted > stats.accepted > 5 and agree(model, ids, found, expected)


def test_a_draft_model_keeps_its_own_way() -> None:
    model, draft = holding("llama", "int8"), writer("llama")
    ids = numbers(9, 2)
    with model.engine(draft_model=draft) as engine:
        found = engine.submit(ids, max_new_tokens=12).result(HOLD).ids
    assert agree(model, ids, found, plain(model, ids, Options(max_new_tokens=12))[0])


@pytest.mark.parametrize("name", ["llama", "marian"])
def test_memory_stays_within_a_limit_that_counts_fewer_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = holding(name, "int8")
    cost, full = Cost.of(model.network), Cost.of(writer(name).network)
    width = model.network.config.head_width  # type: ignore[union-attr]
    assert cost.token == full.token * (-(-width // 4) * 4 + 4) // (4 * width) and cost.source == full.source
    limit, sizes = cost.bytes(3, 50, 30), []
    with model.engine(cache_bytes=limit, rows=8, chunk=16, prefix_bytes=0) as engine:
        step = engine._step

        def watched() -> None:
            step()
            sizes.append((engine._slots.nbytes, len(engine._running)))

        monkeypatch.setattr(engine, "_step", watched)
        handles = [engine.submit(numbers(2 + i * 11 % 30, i), max_new_tokens=1 + i * 7 % 20) for i in range(20)]
        assert all(handle.result(HOLD).ids for handle in handles)
    assert max(held for held, _ in sizes) <= limit and max(rows for _, rows in sizes) > 1


@pytest.mark.parametrize("cache", FEWER)
def test_a_beam_has_the_probability_of_its_text_read_at_once(cache: str) -> None:
    model = holding("llama", cache)
    given = [numbers(7, 5), numbers(12, 6)]
    found = search_ids(model.network, given, Beams(beams=3, n=2), Options(max_new_tokens=8), model.ends)
    for ids, best in [(ids, best) for ids, texts in zip(given, found) for best in texts]:
        network, whole = model.network, torch.tensor([[*ids, *best.ids]])
        with torch.inference_mode():
            hidden = network.decode(whole[:, :-1], cache=network.new_cache(1, 8))
            shares = network.logits(hidden)[0, len(ids) - 1 :].log_softmax(-1)
        assert abs(float(shares.gather(1, whole[0, len(ids) :, None]).sum()) - best.logprob) < 0.05


@needs_library
@pytest.mark.parametrize("cache", FEWER)
@pytest.mark.parametrize("name", SHAPES)
def test_a_recorded_step_lays_the_bytes_that_the_modules_lay(name: str, cache: str) -> None:
    made: Any = quantize(network(**SHAPES[name]))
    hold(made, cache)
    config = made.config
    step = Step(made, most_rows=3)
    with torch.inference_mode():
        ours, theirs = made.new_cache(3, 4), made.new_cache(3, 4)
        mask = torch.tensor([[1] * 5, [0, 0, 1, 1, 1], [1, 0, 0, 0, 0]])
        ids = torch.randint(0, 203, (3, 5), generator=torch.Generator().manual_seed(1))
        for one in (ours, theirs):
            made.decode(ids, mask, cache=one)
        apart = []
        for turn in range(12):
            new = torch.randint(0, 203, (3,), generator=torch.Generator().manual_seed(turn))
            found = step(new, ours)
            expected = made.logits(made.decode(new[:, None], cache=theirs)[:, 0]).float()
            apart.append(float((found - expected).norm() / expected.norm()))
            places = torch.arange(3), slice(None), ours.lengths - 1
            for buffer, held in ((step.key, ours.keys[-1]), (step.value, ours.values[-1])):
                vectors = buffer.view(3, config.n_kv_heads, config.head_width)
                assert torch.equal(lay(vectors, ours.held), held[places]), "as the plain way lays them, to the byte"
            for a, b in zip((*ours.keys, *ours.values), (*theirs.keys, *theirs.values)):
                a[:, :, : ours.longest] = b[:, :, : ours.longest]  # so that a difference does not stay
    assert sorted(apart)[6] < 2e-3 and max(apart) < 0.1


@needs_library
def test_a_step_follows_caches_of_every_kind_in_turn() -> None:
    made: Any = quantize(network(**LLAMA))
    step, ids = Step(made), torch.tensor([5])
    found = []
    for cache in (None, "int8", None, "bfloat16", "int8"):
        hold(made, cache)
        state = made.new_cache(1, 8)
        found.append(torch.stack([step(ids, state).clone() for _ in range(3)]))
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[4])
    assert 0 < (found[1] - found[0]).norm() < 0.05 * found[0].norm()


def test_what_is_read_of_a_cache_is_near() -> None:
    state = holding("llama", "int8").network.new_cache(2, 3)
    key, value = torch.randn(2, 2, 3, 10), torch.randn(2, 2, 3, 10)
    state.place(None, 3)
    keys, values = state.append(0, key, value)
    assert torch.equal(keys, read(lay(key, torch.int8), 10, torch.float32))
    assert (values - value).abs().max() < value.abs().max() / 250
    assert codes_of(state.keys[0], 10)[1].shape == (2, 2, 3)
