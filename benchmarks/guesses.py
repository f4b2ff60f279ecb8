"""GUESS: what guessing tokens ahead (speculation) costs where guesses fail, and gives where they hold.

One GPT-2 of 124M parameters with random weights in 8 bits, one text at a time in an engine that stays open, so that it
keeps what it has learned of its guesses. The peer is the same engine without guesses; texts of both are compared.

    lookup    drawn from few tokens, so that what is looked up in the text is found often and fails mostly
    draft     guesses of another random model, which hold no more often than chance
    circle    a greedy text that comes to repeat itself: guesses hold

    ROW      what is measured
    run      peer → Result
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.decoding import make
from benchmarks.frame import Result, Row, compare
from yanmo.errors import Error

NEW_TOKENS = 160
ROW = Row(
    name="GUESS",
    job=f"write {NEW_TOKENS} tokens with guesses, GPT-2 124M, 8 bits, one text",
    unit="token/s",
    goals={"off-lookup": 0.97, "off-draft": 0.97, "off-circle": 1.2},
)
FEW = {"temperature": 1.0, "top_k": 4, "seed": 1}


def run(peer: str, repeats: int, **sizes: int) -> Result:
    """Measure against one of ROW.goals; `sizes` other than GPT-2's are for trying the script."""
    case = peer.removeprefix("off-")
    options = {} if case == "circle" else FEW
    with tempfile.TemporaryDirectory() as place:
        model, prompt = _model(Path(place) / "m", sizes)
        draft = None
        if case == "draft":
            draft, _ = _model(Path(place) / "d", {**sizes, "n_layer": 2, "n_embd": 256, "n_head": 4})
        limits = {} if case != "draft" else {"prefix_bytes": 0}
        with model.engine(draft_model=draft, **limits) as ours, model.engine(draft=0, **limits) as theirs:
            found = [_write(engine, prompt, options) for engine in (ours, theirs)]
            if found[0][0] != found[1][0]:
                raise Error(f"{ROW.name}: the texts with and without guesses differ, so nothing is measured")
            jobs = [_rate(engine, prompt, options) for engine in (ours, theirs)]
            result = compare(ROW, peer, *jobs, equal="the same text, id for id", repeats=repeats)
            stats = ours.stats()
            print(f"{case}: {stats.accepted:,} of {stats.drafted:,} guesses held", flush=True)
            return result


def _model(folder: Path, sizes: dict[str, int]) -> tuple[Any, list[int]]:
    import torch

    from yanmo.inference.generate import Ends
    from yanmo.inference.model import Model
    from yanmo.models.checkpoint import load_network

    network, prompt = make(ROW.name, **sizes)
    network.save_pretrained(folder)
    return Model(load_network(folder, dtype=torch.float32), None, Ends()).quantize(8), prompt


def _write(engine: Any, prompt: list[int], options: dict[str, Any]) -> tuple[list[int], float]:
    start = time.perf_counter()
    ids = engine.submit(prompt, max_new_tokens=NEW_TOKENS, **options).result().ids
    return ids, len(ids) / (time.perf_counter() - start)


def _rate(engine: Any, prompt: list[int], options: dict[str, Any]) -> Callable[[], float]:
    return lambda: _write(engine, prompt, options)[1]
