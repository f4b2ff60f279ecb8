"""Guesses from the text itself: the same text with and without them, and none where they do not pay."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import yanmo
from tests.inference.engines import WRITERS, plain, same, writer
from tests.models.tiny import random_ids
from yanmo.errors import InputError
from yanmo.inference import drafting
from yanmo.inference.generate import Ends, Options
from yanmo.inference.model import Model
from yanmo.inference.sampling import Sampling
from yanmo.inference.speculate import LONGEST_PAUSE, PAUSE, Controller, Lookup
from yanmo.kernels import native

HOLD = 600


def numbers(length: int, seed: int) -> list[int]:
    return random_ids(1, length, seed=seed)[0].tolist()


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, ...], list[int]]:
    """Guesses in every step: prompt → what is guessed, every second time with one wrong token."""
    known: dict[tuple[int, ...], list[int]] = {}

    def guess(lookup: Lookup, most: int) -> list[int]:
        for prompt, text in known.items():
            place = len(lookup.tokens) - len(prompt)
            if place >= 0 and tuple(lookup.tokens[: len(prompt)]) == prompt:
                draft = text[place : place + max(most, 0)]
                if draft and place % 2:
                    draft[place % len(draft)] = 60 - draft[place % len(draft)]
                return draft
        return []

    monkeypatch.setattr(Lookup, "guess", guess)
    monkeypatch.setattr(Controller, "wants", lambda self, rows, expected: True)
    return known


@pytest.mark.parametrize("name", WRITERS)
def test_every_family_writes_the_same_with_guesses(name: str, oracle: dict[tuple[int, ...], list[int]]) -> None:
    model, prompts = writer(name), [numbers(2 + 3 * i, i) for i in range(4)]
    options = [Options(max_new_tokens=11 - i) for i in range(4)]
    expected = [plain(model, p, o)[0] for p, o in zip(prompts, options)]
    oracle |= {tuple(p): text for p, text in zip(prompts[:3], expected)}  # one without guesses
    with model.engine(rows=3, draft=4) as engine:
        handles = [engine.submit(p, max_new_tokens=o.max_new_tokens) for p, o in zip(prompts, options)]
        found = [h.result(HOLD).ids for h in handles]
        stats = engine.stats()
    if name == "llama-dynamic":  # what was read depends on the guesses
        assert stats.drafted == 0
    else:
        assert 0 < stats.accepted < stats.drafted
    assert all(same(model, *each) for each in zip(prompts, options, [0] * 4, found, expected))


@pytest.mark.skipif(native.library() is None, reason="packed networks are recorded by the native library")
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3-windows"])
@pytest.mark.parametrize("bits", [8, 4])
def test_packed_networks_write_the_same_with_guesses(
    name: str, bits: int, oracle: dict[tuple[int, ...], list[int]]
) -> None:
    model = copy.deepcopy(writer(name)).quantize(bits)
    prompts = [numbers(3 + i, 20 + i) for i in range(3)]
    with model.engine(draft=0) as engine:
        expected = [engine.submit(p, max_new_tokens=25).result(HOLD).ids for p in prompts]
    oracle |= {tuple(p): text for p, text in zip(prompts, expected)}
    with model.engine(draft=4) as engine:
        found = [engine.submit(p, max_new_tokens=25).result(HOLD).ids for p in prompts]
        stats = engine.stats()
    assert 0 < stats.accepted < stats.drafted
    options = Options(max_new_tokens=25)
    assert all(same(model, *each) for each in zip(prompts, [options] * 3, [0] * 3, found, expected))


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"temperature": 0.7, "repetition_penalty": 1.2}])
def test_guesses_change_neither_draws_nor_penalties(
    settings: dict[str, Any], oracle: dict[tuple[int, ...], list[int]]
) -> None:
    model = writer("llama")
    for seed in range(6):
        prompt = numbers(4 + seed, seed)
        options = Options(max_new_tokens=30, seed=seed, sampling=Sampling(**settings))
        expected = plain(model, prompt, options)[0]
        oracle[tuple(prompt)] = expected
        with model.engine(draft=6) as engine:
            found = engine.submit(prompt, max_new_tokens=30, seed=seed, logprobs=0, **settings).result(HOLD)
            stats = engine.stats()
        assert same(model, prompt, options, 0, found.ids, expected)
        assert len(found.logprobs or []) == len(found.ids)
        if found.ids == expected and len(expected) > 4:
            assert stats.steps + stats.accepted + 1 >= len(expected) > stats.steps + 1


def test_a_text_that_repeats_itself_takes_fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Controller, "wants", lambda self, rows, expected: True)
    model, prompt = writer("llama"), numbers(6, 1)
    monkeypatch.setattr(model, "ends", Ends())
    text = plain(Model(model.network, None, Ends()), prompt, Options(max_new_tokens=40))[0]
    with model.engine() as engine:
        again = engine.submit(prompt + text + prompt, max_new_tokens=40).result(HOLD).ids
        stats = engine.stats()
    assert len(again) == 40 and stats.drafted > 0 and stats.steps == 39 - stats.accepted


def test_a_guess_is_what_followed_the_last_three_tokens() -> None:
    lookup = Lookup(0.5)
    lookup.extend([1, 2, 3, 4, 5, 1, 2])
    assert lookup.guess(4) == []
    lookup.extend([3])
    assert lookup.guess(4) == [4, 5, 1, 2] and lookup.guess(2) == [4, 5] and lookup.guess(0) == []
    lookup.extend([9, 1, 2, 3])
    assert lookup.guess(2) == [9, 1], "the last time counts"


def trial(cost: float, held: float, steps: int) -> tuple[float, float]:
    """(seconds, tokens) of texts whose guesses of 8 hold so often, where a step with guesses takes `cost` times one."""
    controller, lookup = Controller(), Lookup(0.3)
    seconds = tokens = 0.0
    for _ in range(steps):
        guesses = controller.wants(1, lookup.rate * 8)
        took = cost if guesses else 1.0
        controller.saw(1, guesses, took, round(8 * held) if guesses else 0)
        seconds += took
        tokens += 1 + (8 * held if guesses else 0)
        if guesses:
            lookup.learn(held)
    return seconds, tokens


@pytest.mark.parametrize("cost", [1.1, 1.5, 2.0, 3.0, 6.0])
def test_where_guesses_do_not_hold_almost_no_time_is_lost(cost: float) -> None:
    seconds, tokens = trial(cost, 0.0, 4000)
    assert tokens == 4000 and seconds < 1.03 * tokens


@pytest.mark.parametrize("hope", [0.5, 8.0])
def test_hope_that_is_always_wrong_costs_little_from_the_beginning(hope: float) -> None:
    controller, seconds = Controller(), 0.0
    for step in range(1, 400):
        guesses = controller.wants(1, hope)
        took = 2.0 if guesses else 1.0
        controller.saw(1, guesses, took)
        seconds += took
        assert seconds <= 1.01 * step + 5


def test_what_is_spent_once_is_no_price_of_each_guess() -> None:
    controller = Controller()
    controller.saw(1, False, 1.0)
    controller.saw(1, True, 1.2, 3, extra=2.0)
    assert controller.wants(1, 2.0)
    controller.saw(1, True, 1.2, 0, extra=9.0)
    assert not controller.wants(1, 2.0)


def test_where_guesses_hold_they_are_used() -> None:
    seconds, tokens = trial(1.3, 0.6, 1000)
    assert tokens / seconds > 4


def test_it_begins_again_where_the_text_begins_to_repeat_itself() -> None:
    controller = Controller()
    controller.saw(2, False, 1.0)
    controller.saw(2, True, 2.0)
    asked = [controller.wants(2, 0.1) for _ in range(4 * LONGEST_PAUSE)]
    assert not any(asked[: PAUSE - 1]) and 3 <= sum(asked) <= 12
    assert controller.wants(2, 6.0)


@pytest.mark.parametrize("small", ["llama", "gpt2", "lstm", "llama-tied"])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"temperature": 0.8, "repetition_penalty": 1.2}])
def test_a_draft_model_changes_no_text(small: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Controller, "wants", lambda self, rows, expected: True)
    monkeypatch.setattr(Lookup, "guess", lambda self, most: [])
    model = writer("llama")
    prompts = [numbers(3 + 2 * i, 60 + i) for i in range(5)]
    options = [Options(max_new_tokens=20, seed=i, sampling=Sampling(**settings)) for i in range(5)]
    expected = [plain(model, p, o)[0] for p, o in zip(prompts, options)]
    with model.engine(draft_model=writer(small), rows=3, draft=5) as engine:
        handles = [engine.submit(p, max_new_tokens=20, seed=i, **settings) for i, p in enumerate(prompts)]
        found = [h.result(HOLD).ids for h in handles]
        stats = engine.stats()
    assert all(same(model, *each) for each in zip(prompts, options, [0] * 5, found, expected))
    assert stats.drafted > 0
    if small == "llama":  # the model itself: every guess holds, drawn ones too, but for the end of each text
        assert stats.accepted >= stats.drafted - 5
    else:
        assert stats.accepted < stats.drafted


def test_a_draft_model_begins_anew_in_a_long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Controller, "wants", lambda self, rows, expected: True)
    monkeypatch.setattr(Lookup, "guess", lambda self, most: [])
    monkeypatch.setattr(drafting, "WINDOW", 8)
    monkeypatch.setattr(drafting, "ROOM", 16)
    model = Model(writer("llama").network, None, Ends())
    prompts, options = [numbers(n, n) for n in (30, 3, 17)], Options(max_new_tokens=60)
    with model.engine(draft_model=Model(writer("gpt2").network, None), draft=4) as engine:
        handles = [engine.submit(prompt, max_new_tokens=60) for prompt in prompts]
        found = [handle.result(HOLD).ids for handle in handles]
        assert engine.stats().drafted > 90
    for prompt, text in zip(prompts, found):
        assert same(model, prompt, options, 0, text, plain(model, prompt, options)[0])


@pytest.mark.parametrize("small", ["llama-tied", "lstm"])
def test_one_step_of_a_draft_model_guesses_for_all_texts(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Controller, "wants", lambda self, rows, expected: True)
    monkeypatch.setattr(Lookup, "guess", lambda self, most: [])
    model, draft, calls = Model(writer("llama").network, None, Ends()), writer(small), []
    decode = draft.network.decode

    def watched(ids: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
        calls.append(len(ids))
        return decode(ids, *given, **more)

    monkeypatch.setattr(draft.network, "decode", watched)
    prompts, lengths = [numbers(3 + 2 * i, 60 + i) for i in range(4)], [30, 20, 25, 8]
    with model.engine(draft_model=draft, rows=4, draft=2) as engine:
        handles = [engine.submit(p, max_new_tokens=n) for p, n in zip(prompts, lengths)]
        found = [h.result(HOLD).ids for h in handles]
        steps, drafter = engine.stats().steps, engine._writer._drafter
        assert drafter is not None and not drafter._rows and drafter._slots.rows == 0, "nothing of them is kept"
    for prompt, length, text in zip(prompts, lengths, found):
        options = Options(max_new_tokens=length)
        assert same(model, prompt, options, 0, text, plain(model, prompt, options)[0])
    assert max(calls) == 4 and len(calls) <= 4 + 2 * steps, "a beginning of each text, and two calls a step"


def test_a_draft_of_another_vocabulary_is_one_sentence(tmp_path: Path) -> None:
    from benchmarks.b0 import make_model

    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 256, "bos_token_id": 0, "eos_token_id": 0}
    make_model(pytest.importorskip("transformers"), tmp_path, **sizes)
    model = yanmo.load(tmp_path)
    with pytest.raises(InputError, match="61 tokens and the model 256; take a draft of the same vocabulary"):
        model.generate("The ink", draft=writer("llama"))
    with pytest.raises(InputError, match="the draft is a encoder-decoder"):
        model.generate("The ink", draft=writer("t5"))
    with pytest.raises(InputError, match="draft is 'small', and must be a model; open it first"):
        model.generate("The ink", draft="small")
    text = model.generate(["The ink", "is"], max_new_tokens=12)
    assert model.generate(["The ink", "is"], max_new_tokens=12, draft=model) == text
    assert "".join(model.stream("The ink", max_new_tokens=12, draft=model)) == text[0]
