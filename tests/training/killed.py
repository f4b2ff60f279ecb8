"""Training runs that are killed again and again: a program of its own, as it forks. `python killed.py DATA RUNS SEED`.

In: token shards and a tokenizer in DATA. Out: for each case RUNS/CASE/whole, never interrupted, and RUNS/CASE/parts,
killed with SIGKILL at random moments and continued; one JSON line for each case. test_killed.py compares them.

The kill comes from inside at a random one of all events that Python reports (calls and returns, into C too), of all or
of those of a file being written alone; or from outside after a random time. A life that is over is killed as well, so
that the number of kills does not depend on how fast the machine is.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from shapes import shaped
from small import network

from yanmo.models.adapters import AdapterConfig, add_adapter, quantize_base
from yanmo.runs import open_run
from yanmo.tokens.batches import PackedBatches
from yanmo.tokens.corrupted import masked_batches
from yanmo.tokens.shards import open_shards
from yanmo.tokens.tokenizer import load_tokenizer
from yanmo.training.language import masked
from yanmo.training.loop import Settings, train
from yanmo.training.objectives import causal

STEPS = 10
WRITERS = ("yanmo/files.py", "yanmo/runs.py", "training/checkpoint.py", "safetensors/torch.py")
LIVES = ("anywhere", "writing", "clock", "writing", "anywhere", "clock", "writing")


def settings(**options: Any) -> Settings:
    values: dict[str, Any] = {"steps": STEPS, "accumulation": 3, "learning_rate": 0.01, "save_steps": 1, "keep": 2}
    return Settings(**values | options)


def decoder(data: Path) -> Any:
    batches = PackedBatches(open_shards(data / "causal"), 2, 16, seed=3)
    return network("qwen3", dropout=0.2), causal, batches, settings(ema=0.9)


def muon(data: Path) -> Any:
    model, objective, batches, _ = decoder(data)
    return model, objective, batches, settings(optimizer="muon", precision="bfloat16", ema=0.9, recompute=True)


def lstm(data: Path) -> Any:
    _, objective, batches, _ = decoder(data)
    return network("lstm", dropout=0.2), objective, batches, settings(optimizer="muon")


def adapter(data: Path) -> Any:
    model, objective, batches, _ = decoder(data)
    add_adapter(model, AdapterConfig(rank=2, dropout=0.1))
    return model, objective, batches, settings(ema=0.9)


def quantised(data: Path) -> Any:
    model, objective, batches, _ = decoder(data)
    quantize_base(model, bits=8)
    add_adapter(model, AdapterConfig(rank=2, dropout=0.1, kind="dora"))
    return model, objective, batches, settings(precision="bfloat16")


def hidden(data: Path) -> Any:
    tokenizer = load_tokenizer(data / "tokenizer")
    model = shaped("bert", scale=1.0, vocab_size=tokenizer.vocab_size, max_positions=64, dropout=0.2)
    batches = masked_batches(open_shards(data / "masked"), tokenizer, 2, 24, seed=3)
    return model, masked, batches, settings(ema=0.5)


CASES: dict[str, Callable[[Path], Any]] = {
    case.__name__: case for case in (decoder, muon, lstm, adapter, quantised, hidden)
}


def live(make: Callable[[Path], Any], data: Path, folder: Path) -> None:
    """Train in a run folder, from wherever it is, to the end."""
    model, objective, batches, options = make(data)
    with open_run(folder, "", {}) as run:
        for _ in train(model, batches, objective, options, run=run):
            pass


class Counter:
    """Counts the events of this process, and kills it at one of them."""

    def __init__(self, kind: str = "", at: int = 0) -> None:
        self.kind, self.at = kind, at
        self.seen = {"anywhere": 0, "writing": 0}

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        self.seen["anywhere"] += 1
        if frame.f_code.co_filename.endswith(WRITERS):
            self.seen["writing"] += 1
        if self.at and self.seen[self.kind] == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def forked(act: Callable[[], None], counter: Counter | None, delay: float = 0.0) -> str:
    """Run in a process of its own and kill it at last: after `delay` seconds, or when it is over or has died.

    Returns what it had to say: JSON of its events when it came to its end, "" where it did not.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            sys.setprofile(counter)
            act()
            sys.setprofile(None)
            os.write(writing, json.dumps(counter.seen if counter else {}).encode())
            time.sleep(600)
        finally:
            os._exit(1)
    os.close(writing)
    said = b""
    if delay:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    said = os.read(reading, 1000)
    os.close(reading)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        raise SystemExit("a life ended with an error, above")
    return said.decode()


def suffer(make: Callable[[Path], Any], data: Path, folder: Path, chance: random.Random) -> dict[str, Any]:
    """One run in peace, one killed in each of LIVES and then left alone."""
    began = time.monotonic()
    events = json.loads(forked(lambda: live(make, data, folder / "whole"), Counter()))
    duration = time.monotonic() - began
    lives = []
    for kind in LIVES:
        act = lambda: live(make, data, folder / "parts")  # noqa: E731
        if kind == "clock":
            said = forked(act, None, max(chance.random() * duration / 3, 0.001))
        else:
            said = forked(act, Counter(kind, chance.randrange(1, max(2, events[kind] // 3))))
        parent = folder / "parts" / "checkpoints"
        found = [path.name for path in parent.iterdir()] if parent.exists() else []
        steps = [int(name[5:]) for name in found if name.startswith("step-")]
        torn = any(name.startswith(".partial") for name in found)
        lives.append({"kind": kind, "step": max(steps, default=0), "torn": torn, "over": bool(said)})
    forked(lambda: live(make, data, folder / "parts"), None)
    return {"lives": lives, "events": events, "seconds": duration}


def main() -> None:
    data, folder, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    torch.optim.AdamW([torch.ones(1)]).step()  # it imports half of torch, which is not what is to be killed
    for name, make in CASES.items():
        print(json.dumps({"case": name, **suffer(make, data, folder / name, random.Random(f"{seed} {name}"))}))


if __name__ == "__main__":
    main()
