"""Tokens per second of 1, 4 and 16 streams in the engine, against the same texts one after the other.

    python -m benchmarks.streams [--bits 8] [--new 48] [--width 768 --layers 12]

A GPT-2 with random weights; in turns: `generate` for each prompt, then the engine with all of them. The ids of both are
compared before anything is measured. With --json one line for a machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yanmo
from benchmarks.b0 import make_model
from yanmo.errors import need

STREAMS, TURNS, PROMPT = (1, 4, 16), 3, 32


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Streams of the engine against one text after the other.")
    parser.add_argument("--bits", type=int, help="8 or 4: packed matrices")
    parser.add_argument("--new", type=int, default=48, help="tokens of each text")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    sizes = {"n_embd": args.width, "n_layer": args.layers, "n_head": max(args.width // 64, 1)}
    with tempfile.TemporaryDirectory() as place:
        make_model(need("transformers", "bench", "this benchmark"), Path(place), **sizes)
        model = yanmo.load(place, dtype="float32", device="cpu", bits=args.bits)
        found = [measure(model, streams, args.new) for streams in STREAMS]
    for row in found:
        print(json.dumps(row) if args.json else text(row))
    return 0


def measure(model: Any, streams: int, new: int) -> dict[str, Any]:
    """Medians of a few turns."""
    prompts = [bytes(33 + (i * 7 + k * 3) % 90 for k in range(PROMPT)).decode() for i in range(streams)]

    def alone() -> list[list[int]]:
        return [model.generations([prompt], max_new_tokens=new)[0][0].ids for prompt in prompts]

    with model.engine(rows=16, prefix_bytes=0) as engine:

        def together() -> list[list[int]]:
            handles = [engine.submit(prompt, max_new_tokens=new) for prompt in prompts]
            return [handle.result().ids for handle in handles]

        equal = sum(a == b for a, b in zip(alone(), together()))
        seconds: dict[Any, list[float]] = {alone: [], together: []}
        for _ in range(TURNS):
            for job, taken in seconds.items():
                start = time.perf_counter()
                tokens = sum(map(len, job()))
                taken.append(tokens / (time.perf_counter() - start))
    one, many = (statistics.median(taken) for taken in seconds.values())
    return {"streams": streams, "one_by_one": one, "engine": many, "ratio": many / one, "equal": equal}


def text(row: dict[str, Any]) -> str:
    """A line for a person."""
    return (
        f"{row['streams']:>3} streams: {row['engine']:.1f} token/s in the engine, {row['one_by_one']:.1f} one by one, "
        f"ratio {row['ratio']:.2f}; {row['equal']} of {row['streams']} texts equal"
    )


if __name__ == "__main__":
    sys.exit(main())
