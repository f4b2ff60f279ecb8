"""Hundreds of random requests from several threads, cancellations and bad ones among them, against one engine.

Every text that was not cancelled is the plain reference's, every cancelled one its beginning, every bad one an error,
and nothing is left behind. YANMO_SOAK=10000 asks as many, and looks at the memory of the process too.
"""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from tests.inference.engines import plain, same, writer
from yanmo import system
from yanmo.errors import BusyError, Error
from yanmo.inference.engine import Engine
from yanmo.inference.generate import Options
from yanmo.inference.requests import Handle, Row
from yanmo.inference.sampling import Sampling

COUNT = int(os.environ.get("YANMO_SOAK", 200))
THREADS, KINDS, WAIT = 4, 80 if COUNT < 1000 else 400, 3600
BAD: list[tuple[Any, dict[str, Any]]] = [
    ([], {}),
    ([10**6], {}),
    ([3, -1], {}),
    ([3], {"temperature": -1.0}),
    ([3], {"unknown": 1}),
    ([3], {"seed": 2**70}),
    ("text without a tokenizer", {}),
]
TOO_LONG: list[tuple[Any, dict[str, Any]]] = [([3], {"max_new_tokens": 10**9}), ([3] * 5000, {"max_new_tokens": 1})]


@dataclass(frozen=True)
class Asked:
    """One kind of request."""

    prompt: tuple[int, ...]
    options: Options

    def given(self) -> dict[str, Any]:
        sampling = {k: getattr(self.options.sampling, k) for k in Sampling.__dataclass_fields__}
        return sampling | {k: getattr(self.options, k) for k in ("max_new_tokens", "seed", "n")}


def kind(number: int) -> Asked:
    """Prompts of 1 to 70 tokens, many with one of four beginnings; greedy or drawn, with penalties or without."""
    chance = random.Random(number)
    head = random.Random(number % 4).choices(range(3, 61), k=37) if chance.random() < 0.5 else []
    prompt = head + chance.choices(range(3, 61), k=chance.randint(1, 33))
    drawn = chance.random() < 0.4
    sampling = Sampling(
        temperature=chance.choice([0.7, 1.0, 1.4]) if drawn else 0.0,
        top_k=chance.choice([0, 0, 7]) if drawn else 0,
        top_p=chance.choice([1.0, 0.9]) if drawn else 1.0,
        repetition_penalty=chance.choice([1.0, 1.0, 1.3]),
        presence_penalty=chance.choice([0.0, 0.0, 0.4]),
    )
    n = chance.choice([1, 1, 1, 3])
    return Asked(tuple(prompt), Options(max_new_tokens=chance.randint(0, 24), sampling=sampling, seed=number, n=n))


def one(engine: Engine, name: str, chance: random.Random) -> str:
    """Ask for something, and say what came of it; an AssertionError where that is wrong."""
    if chance.random() < 0.08:
        prompt, options = chance.choice(BAD if name == "lstm" else BAD + TOO_LONG)  # a state has no length
        with pytest.raises(Error):
            engine.submit(prompt, **options)
        return "bad"
    number = chance.randrange(KINDS)
    asked, client = kind(number), chance.choice("abc")
    while True:
        try:
            handle = engine.submit(list(asked.prompt), client=client, scope=number % 2, **asked.given())
            break
        except BusyError:
            time.sleep(0.002)
    cancels = chance.random() < 0.25
    if cancels:
        give_up(handle, chance)
    texts = handle.generations(WAIT)
    for k, (text, whole) in enumerate(zip(texts, plain(writer(name), list(asked.prompt), asked.options), strict=True)):
        if text.finish == "cancelled":
            assert cancels
            whole = whole[: len(text.ids)]
        model = writer(name)
        assert same(model, list(asked.prompt), asked.options, k, text.ids, whole), (number, text, whole)
    return "cancelled" if any(t.finish == "cancelled" for t in texts) else "whole"


def give_up(handle: Handle, chance: random.Random) -> None:
    stream, tokens = handle.events(), chance.randrange(6)
    for _ in range(tokens):
        next(stream, None)
    handle.cancel()


def soak(name: str, count: int, **limits: int) -> Counter[str]:
    found: Counter[str] = Counter()
    wrong: list[BaseException] = []
    left, lock = iter(range(count)), threading.Lock()
    held: list[int] = []
    with writer(name).engine(**limits) as engine:

        def client() -> None:
            try:
                while not wrong:
                    with lock:
                        number = next(left, None)
                        if number is None:
                            return
                        if number % max(count // 20, 1) == 0:
                            held.append(system.process_bytes("VmRSS"))
                    outcome = one(engine, name, random.Random(number))
                    with lock:
                        found[outcome] += 1
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=client) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if wrong:
            raise wrong[0]
        stats = engine.stats()
        assert stats.waiting == stats.reading == stats.writing == stats.cache_bytes == 0
        assert stats.prefix_bytes <= engine.limits.prefix_bytes and not stats.failed
    print(f"{name}: {dict(found)}, {stats}, MiB resident {[h >> 20 for h in held]}")
    if count >= 5000:
        assert max(held[10:]) - held[4] < 16 << 20, "memory is flat after the first fifth"
    return found


@pytest.mark.parametrize("name", ["llama", "t5", "lstm"])
def test_random_requests_from_several_threads(name: str) -> None:
    count = COUNT if name == "llama" else COUNT // 5
    found = soak(name, count, rows=6, chunk=24, queue=8, prefix_bytes=60_000, cache_bytes=300_000)
    assert found.total() == count and all(found[outcome] for outcome in ("bad", "cancelled", "whole"))
    gc.collect()
    assert not [row for row in gc.get_objects() if type(row) is Row], "no text is remembered"
