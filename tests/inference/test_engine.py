"""The engine writes what the plain reference writes, whatever stands beside a text, and no request meets another's."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from typing import Any

import pytest
import torch

from tests.inference.engines import CELLS, WRITERS, plain, same, writer
from tests.models.tiny import PAIRS, random_ids
from yanmo.errors import BusyError, Error, InputError
from yanmo.inference.engine import Engine
from yanmo.inference.generate import Ends, Options
from yanmo.inference.model import Model
from yanmo.inference.requests import Limits
from yanmo.inference.sampling import Sampling
from yanmo.inference.slots import Cost

HOLD = 600  # seconds that no test needs


def numbers(length: int, seed: int) -> list[int]:
    return random_ids(1, length, seed=seed)[0].tolist()


def prompts(name: str, count: int) -> list[list[int]]:
    """Lengths of 1 to 21; every second one begins as the others do."""
    head = numbers(17, 99)
    return [(head if i % 2 else []) + numbers(1 + i * 5 % 4 if i % 2 else 1 + i * 7 % 19, i) for i in range(count)]


def written(engine: Engine, asked: list[tuple[list[int], dict[str, Any]]]) -> list[list[list[int]]]:
    handles = [engine.submit(ids, **options) for ids, options in asked]
    return [[g.ids for g in handle.generations(HOLD)] for handle in handles]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("rows, chunk, prefix", [(3, 6, 4_000), (8, 64, 1 << 20)])
def test_every_family_writes_greedily_what_the_reference_writes(name: str, rows: int, chunk: int, prefix: int) -> None:
    model = writer(name)
    asked = [(ids, {"max_new_tokens": 1 + i * 5 % 11}) for i, ids in enumerate(prompts(name, 9))]
    with model.engine(rows=rows, chunk=chunk, prefix_bytes=prefix) as engine:
        first, again = written(engine, asked), written(engine, asked[::-1])[::-1]
        stats = engine.stats()
    assert stats.ended == 18 and stats.prefix_bytes <= prefix and not stats.cache_bytes + stats.writing
    assert bool(stats.reused_tokens) == (prefix > 4_000 and name != "llama-dynamic") or prefix == 4_000
    for i, (ids, options) in enumerate(asked):
        expected = plain(model, ids, Options(**options))[0]
        for texts in (first[i], again[i]):
            assert same(model, ids, Options(**options), 0, texts[0], expected), (ids, texts, expected)


@pytest.mark.parametrize("rows", range(1, 9))
def test_every_size_of_a_batch(rows: int) -> None:
    model = writer("llama")
    with model.engine(rows=rows, chunk=9) as engine:
        asked = [(ids, {"max_new_tokens": 3 + i % 9}) for i, ids in enumerate(prompts("llama", 3 * rows))]
        for (ids, options), texts in zip(asked, written(engine, asked)):
            assert same(model, ids, Options(**options), 0, texts[0], plain(model, ids, Options(**options))[0])


@pytest.mark.parametrize("name", ["llama", "gpt2", "marian", "lstm"])
def test_a_seed_gives_the_same_text_alone_and_in_a_batch(name: str) -> None:
    model = writer(name)
    settings: list[dict[str, Any]] = [
        {"temperature": 1.0},
        {"temperature": 0.8, "top_k": 9, "top_p": 0.9},
        {"temperature": 1.3, "min_p": 0.02, "repetition_penalty": 1.4},
        {"presence_penalty": 0.5, "frequency_penalty": 0.3},
        {"temperature": 1.0, "n": 3, "typical_p": 0.9},
    ]
    asked = [(ids, {**settings[i % 5], "seed": i, "max_new_tokens": 9}) for i, ids in enumerate(prompts(name, 15))]
    with model.engine(rows=7, chunk=8) as engine:
        found = written(engine, asked)
    for (ids, given), texts in zip(asked, found):
        sampling = Sampling(**{k: v for k, v in given.items() if k in Sampling.__dataclass_fields__})
        options = Options(max_new_tokens=9, seed=given["seed"], n=given.get("n", 1), sampling=sampling)
        for number, (ours, theirs) in enumerate(zip(texts, plain(model, ids, options), strict=True)):
            assert same(model, ids, options, number, ours, theirs)


def test_probabilities_are_those_of_the_reference() -> None:
    model = writer("qwen3")
    ids = numbers(9, 3)
    with model.engine() as engine:
        one = engine.submit(ids, max_new_tokens=4, logprobs=3).result(HOLD)
        others = [engine.submit(numbers(4, 5), max_new_tokens=9) for _ in range(3)]
        two = engine.submit(ids, max_new_tokens=4, logprobs=3).result(HOLD)
        assert all(o.result(HOLD) for o in others)
    shares = model.logits([ids + one.ids])[0].log_softmax(-1)
    assert one.logprobs is not None and two.logprobs is not None and one.top is not None
    for i, token in enumerate(one.ids):
        assert abs(one.logprobs[i] - shares[len(ids) - 1 + i, token]) < 1e-4
        assert abs(two.logprobs[i] - one.logprobs[i]) < 1e-4 and len(one.top[i]) == 3


class Slow:
    """A network that waits in each call, so that a test can act while a step is computed."""

    def __init__(self, network: Any, seconds: float = 0.0) -> None:
        self.network, self.seconds, self.calls, self.fail = network, seconds, [], None
        self.gate = threading.Event()
        self.gate.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def decode(self, ids: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
        self.gate.wait(HOLD)
        time.sleep(self.seconds)
        self.calls.append(tuple(ids.shape))
        if self.fail and self.fail(ids):
            raise self.fail.error  # type: ignore[attr-defined]
        return self.network.decode(ids, *given, **more)


def slowed(name: str = "llama") -> tuple[Model, Slow]:
    model = writer(name)
    slow = Slow(model.network)
    return Model(slow, None, model.ends), slow  # type: ignore[arg-type]


def test_a_long_prompt_holds_the_others_for_one_chunk() -> None:
    model, slow = slowed("llama")
    with model.engine(chunk=8, prefix_bytes=0, draft=0) as engine:
        slow.gate.clear()
        one = engine.submit(numbers(3, 1), max_new_tokens=30)
        long = engine.submit(numbers(60, 2), max_new_tokens=2)
        slow.gate.set()
        one.result(HOLD)
        long.result(HOLD)
    assert max(columns for _, columns in slow.calls) <= 8
    parts = [i for i, (rows, columns) in enumerate(slow.calls) if columns > 3]
    assert all(b - a == 2 and slow.calls[a + 1] == (1, 1) for a, b in zip(parts, parts[1:])), "a step between two parts"


def test_a_cancelled_text_is_gone_after_one_step_and_the_others_go_on() -> None:
    model, slow = slowed()
    ids = [numbers(4, i) for i in range(3)]
    with model.engine() as engine:
        handles = [engine.submit(p, max_new_tokens=40) for p in ids]
        slow.seconds = 0.002
        stream = handles[1].events()
        for _ in range(3):
            next(stream)
        handles[1].cancel()
        before = len(slow.calls)
        cut = handles[1].result(HOLD)
        assert len(slow.calls) <= before + 2, "the step that was being computed, and no other"
        texts = [handles[0].result(HOLD).ids, handles[2].result(HOLD).ids]
        waiting = engine.submit(ids[0], max_new_tokens=40)
        waiting.cancel()
        assert waiting.result(HOLD).finish == "cancelled"
        assert engine.stats().cancelled == 2 and engine.stats().cache_bytes == 0
    whole = [plain(writer("llama"), p, Options(max_new_tokens=40))[0] for p in ids]
    assert cut.finish == "cancelled" and cut.ids == whole[1][: len(cut.ids)] and 3 <= len(cut.ids) < 40
    assert texts == [whole[0], whole[2]]


def test_a_with_block_cancels_what_it_does_not_wait_for() -> None:
    model, slow = slowed()
    slow.seconds = 0.002
    with model.engine() as engine:
        with engine.submit(numbers(4, 1), max_new_tokens=4000) as handle:
            next(handle.events())
        assert handle.result(HOLD).finish == "cancelled"


def test_what_does_not_fit_is_refused_with_both_numbers() -> None:
    model = writer("llama")
    cost = Cost.of(model.network)
    room = cost.bytes(1, 40) + cost.bytes(1, 20)
    with model.engine(cache_bytes=room) as engine:
        with pytest.raises(InputError, match=rf"20 tokens and may get 21 new ones: {room + cost.token:,} .* {room:,};"):
            engine.submit(numbers(20, 1), max_new_tokens=21)
        texts = written(engine, [(numbers(20, i), {"max_new_tokens": 20}) for i in range(3)])
        assert engine.stats().ended == 3
    for i, text in enumerate(texts):
        assert text == plain(model, numbers(20, i), Options(max_new_tokens=20))
    with writer("gpt2").engine() as engine:
        with pytest.raises(InputError, match="the prompt has 41 tokens, the model has positions for 40"):
            engine.submit(numbers(41, 1))
        assert len(engine.submit(numbers(36, 1), max_new_tokens=99).result(HOLD).ids) == 4
    with (
        writer("bart").engine() as engine,
        pytest.raises(InputError, match="41 tokens, the model has positions for 40"),
    ):
        engine.submit(numbers(41, 1))


@pytest.mark.parametrize("name", ["llama", "marian", "gru"])
def test_memory_stays_within_its_limit_with_texts_of_all_lengths(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = writer(name)
    cost = Cost.of(model.network)
    limit = cost.bytes(1, 90) + cost.bytes(1, 40) + cost.bytes(4, 30)
    sizes: list[tuple[int, int]] = []
    with model.engine(cache_bytes=limit, rows=8, chunk=16) as engine:
        step = engine._step

        def watched() -> None:
            step()
            sizes.append((engine._slots.nbytes, len(engine._running)))

        monkeypatch.setattr(engine, "_step", watched)
        lengths = [(2 + i * 11 % 30, 1 + i * 7 % 24) for i in range(40)]
        found = written(engine, [(numbers(n, i), {"max_new_tokens": new}) for i, (n, new) in enumerate(lengths)])
    assert max(held for held, _ in sizes) <= limit
    assert max(rows for _, rows in sizes) > 1
    for i, (n, new) in enumerate(lengths):
        options = Options(max_new_tokens=new)
        assert same(model, numbers(n, i), options, 0, found[i][0], plain(model, numbers(n, i), options)[0])


def test_a_queue_that_is_full_says_so_and_empties() -> None:
    model, slow = slowed()
    with model.engine(rows=1, queue=2) as engine:
        slow.gate.clear()
        first = engine.submit(numbers(3, 0), max_new_tokens=2)
        while engine.stats().waiting:
            time.sleep(0.001)
        held = [engine.submit(numbers(3, i), max_new_tokens=2) for i in (1, 2)]
        with pytest.raises(BusyError, match="2 texts wait and 2 may"):
            engine.submit(numbers(3, 3))
        slow.gate.set()
        assert all(h.result(HOLD).ids for h in [first, *held])
        assert engine.submit(numbers(3, 3), max_new_tokens=1).result(HOLD).finish


def test_clients_take_turns() -> None:
    model, slow = slowed()
    ended: list[str] = []
    with model.engine(rows=1) as engine:
        slow.gate.clear()
        handles = [engine.submit(numbers(3, i), max_new_tokens=1, client="many") for i in range(6)]
        handles += [engine.submit(numbers(3, 9), max_new_tokens=1, client="one")]
        for name, handle in zip([*["many"] * 6, "one"], handles):
            end = handle.put_end
            handle.put_end = lambda *given, end=end, name=name: (ended.append(name), end(*given))  # type: ignore[method-assign]
        slow.gate.set()
        assert all(h.result(HOLD) for h in handles)
    assert "one" in ended[:3] and ended.count("many") == 6


@pytest.mark.parametrize(
    "prompt, options, named",
    [
        ([], {}, "empty prompt"),
        ([61], {}, "61"),
        ([-1], {}, "-1"),
        ([[1], [2]], {}, "2 rows"),
        ([0.5], {}, "whole numbers"),
        ([3], {"max_new_token": 3}, "nearest"),
        ([3], {"seed": -1}, "seed"),
        ([3], {"temperature": float("nan")}, "temperature"),
        ([3], {"n": 10**9}, "n is"),
        ([3], {"max_new_tokens": 10**12}, "bytes of cache"),
        ([3], {"max_length": 1}, "max_length"),
        ([3], {"stop": ""}, "stop"),
    ],
)
def test_a_bad_request_is_one_sentence_and_meets_no_other(prompt: Any, options: dict, named: str) -> None:
    model = writer("llama")
    with model.engine() as engine:
        good = engine.submit(numbers(5, 1), max_new_tokens=20)
        with pytest.raises(InputError, match=named):
            engine.submit(prompt, **options)
        assert good.result(HOLD).ids == plain(model, numbers(5, 1), Options(max_new_tokens=20))[0]


def failing(slow: Slow, when: Any) -> None:
    when.error = RuntimeError("the network broke")
    slow.fail = when


def test_an_error_while_one_prompt_is_read_is_that_requests_alone() -> None:
    model, slow = slowed()
    failing(slow, lambda ids: ids.shape[1] > 1 and int(ids[0, 0]) == 7)
    with model.engine() as engine:
        good = engine.submit([5, 6, 8], max_new_tokens=12)
        bad = engine.submit([7, 7, 7], max_new_tokens=12, n=3)
        with pytest.raises(RuntimeError, match="the network broke"):
            bad.result(HOLD)
        assert good.result(HOLD).ids == plain(writer("llama"), [5, 6, 8], Options(max_new_tokens=12))[0]
        assert engine.submit([5], max_new_tokens=2).result(HOLD).ids


def test_an_error_of_the_engine_ends_every_request_with_that_error() -> None:
    model, slow = slowed()
    failing(slow, lambda ids: len(ids) == 2)
    engine = model.engine(rows=2)
    slow.gate.clear()
    handles = [engine.submit(numbers(4, i), max_new_tokens=9) for i in range(4)]
    slow.gate.set()
    for handle in handles:
        with pytest.raises(Error, match="the engine has stopped: RuntimeError: the network broke"):
            handle.result(HOLD)
        with pytest.raises(Error, match="the engine has stopped"):
            list(handle)
    with pytest.raises(Error, match="the engine has stopped: the network broke"):
        engine.submit([3])
    engine.close()
    assert not engine._thread.is_alive()


def test_an_error_between_two_places_leaves_no_text_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any) -> None:
        raise MemoryError("no room")

    with writer("llama").engine() as engine:
        monkeypatch.setattr(engine._slots, "join", broken)
        with pytest.raises(Error, match="the engine has stopped: MemoryError: no room"):
            engine.submit(numbers(4, 1), max_new_tokens=5).result(HOLD)


def test_close_joins_the_thread_and_ends_what_is_left() -> None:
    model, slow = slowed()
    slow.seconds = 0.001
    engine = model.engine()
    handle = engine.submit(numbers(4, 1), max_new_tokens=4000)
    next(handle.events())
    engine.close()
    assert not engine._thread.is_alive() and handle.result(0).finish == "cancelled"
    with pytest.raises(Error, match="the engine is closed"):
        engine.submit([3])
    drained = model.engine()
    handles = [drained.submit(numbers(4, i), max_new_tokens=5) for i in range(9)]
    drained.close(drain=True)
    assert all(h.result(0).finish in ("length", "stop") for h in handles)


def test_handles_are_awaited_and_streamed_in_asyncio() -> None:
    model = writer("llama")

    async def ask(engine: Engine, i: int) -> list[int]:
        return (await engine.submit(numbers(4, i), max_new_tokens=6)).ids

    async def everything() -> list[list[int]]:
        with model.engine() as engine:
            found = await asyncio.gather(*(ask(engine, i) for i in range(6)))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(_never(engine), 0.05)
            return found

    async def _never(engine: Engine) -> None:
        with engine.submit(numbers(4, 1), max_new_tokens=4000) as handle:
            await handle

    texts = asyncio.run(everything())
    assert texts == [plain(model, numbers(4, i), Options(max_new_tokens=6))[0] for i in range(6)]


def test_scopes_share_nothing_and_equal_beginnings_are_read_once() -> None:
    model, head = writer("llama"), numbers(32, 7)
    with model.engine() as engine:
        engine.submit([*head, 5], max_new_tokens=1, scope="a").result(HOLD)
        assert engine.stats().reused_tokens == 0
        engine.submit([*head, 6], max_new_tokens=1, scope="b").result(HOLD)
        assert engine.stats().reused_tokens == 0
        engine.submit([*head, 6], max_new_tokens=1, scope="a").result(HOLD)
        assert engine.stats().reused_tokens == 32
        first = engine.submit(head, max_new_tokens=20, scope="c").result(HOLD).ids
        turn = [*head, *first, 9]
        again = engine.submit(turn, max_new_tokens=5, scope="c").result(HOLD).ids
        assert engine.stats().reused_tokens == 32 + (32 + len(first) - 1) // 16 * 16, "a next turn reuses the text too"
    assert again == plain(model, turn, Options(max_new_tokens=5))[0]


@pytest.mark.parametrize("name", [PAIRS[0], CELLS[1]])
def test_sources_and_states_are_kept_too(name: str) -> None:
    model, ids = writer(name), numbers(35, 4)
    with model.engine() as engine:
        first = engine.submit(ids, max_new_tokens=6).result(HOLD).ids
        again = engine.submit(ids, max_new_tokens=6).result(HOLD).ids
        assert engine.stats().reused_tokens == (35 if name in PAIRS else 32)
    assert first == again == plain(model, ids, Options(max_new_tokens=6))[0]


@pytest.mark.parametrize("name", ["marian", "t5"])
def test_ended_texts_leave_the_batch_and_sources_are_read_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows, projected = writer(name), [], []
    decode, key = model.network.decode, model.network.decoder.layers[0].cross.key

    def watched(ids: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
        out = decode(ids, *given, **more)
        rows.append((len(ids), len(more["cache"].memory[0][0])))
        return out

    monkeypatch.setattr(model.network, "decode", watched)
    handle = key.register_forward_hook(lambda *given: projected.append(1))
    ends = Ends(start_id=model.ends.start_id)
    try:
        with Model(model.network, None, ends).engine(rows=4, draft=0) as engine:
            handles = [engine.submit(numbers(3 + n, n), max_new_tokens=4 * n) for n in (1, 2, 3, 2)]
            assert [len(h.result(60).ids) for h in handles] == [4, 8, 12, 8]
    finally:
        handle.remove()
    assert len(projected) == 3, "once for each source, which two of the texts share"
    steps = [row for row in rows if row[0] > 1]
    assert steps == sorted(steps, reverse=True) and max(rows) == (4, 4) and {(3, 3), (1, 1)} <= set(rows)
    assert all(texts == memories for texts, memories in rows)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_packed_network_writes_side_by_side_what_it_writes_alone(bits: int) -> None:
    network = copy.deepcopy(writer("llama").network)
    model = Model(network, None, writer("llama").ends).quantize(bits)
    asked = [(ids, {"max_new_tokens": 3 + i % 9}) for i, ids in enumerate(prompts("llama", 12))]
    with model.engine(rows=5, chunk=9) as engine:
        found = written(engine, asked)
    equal = [texts[0] == plain(model, ids, Options(**options))[0] for (ids, options), texts in zip(asked, found)]
    assert sum(equal) >= 10, "a number may round to its neighbour where other rows stand beside it"


def test_limits_are_checked() -> None:
    with pytest.raises(InputError, match="rows is 0"):
        Limits(rows=0)
    with pytest.raises(InputError, match="no limit 'row' .nearest: 'rows'"):
        writer("llama").engine(row=3)
