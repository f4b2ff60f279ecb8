"""Speed of the shapes that people run: Qwen 2.5's 0.5B and 1.5B with random weights, in 8 or 4 bits, on this machine.

    python -m benchmarks.shapes [--shape 0.5b] [--bits 8] [--streams 1 4 16] [--contexts 512 2048 8192 32768]
                                [--caches float32 bfloat16 int8] [--no-prompt]

Tokens per second of 1, 4 and 16 texts side by side in the engine; of one text behind contexts of several lengths, whose
keys and values are drawn and not computed, for each way of holding them (with what they take, and the most that the
process held meanwhile); of reading a prompt of 512 tokens. Beside them how many steps a second the memory allows if
the weights alone were read. One line of JSON each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from typing import Any

import torch

from benchmarks.decoding import memory
from yanmo.inference.model import Model
from yanmo.inference.quantize import quantize
from yanmo.inference.step import Step
from yanmo.models.config import TransformerConfig
from yanmo.models.held import CACHES, hold, lay
from yanmo.models.packed import packed_bytes
from yanmo.models.transformer import Transformer
from yanmo.system import peak_memory, release_memory, reset_peak_memory

COMMON = {
    "vocab_size": 151_936,
    "n_kv_heads": 2,
    "max_positions": 32_768,
    "norm": "rms",
    "norm_eps": 1e-6,
    "position": "rotary",
}
COMMON |= {"rope_theta": 1e6, "activation": "silu", "gated": True, "bias_ffn": False, "bias_out": False}
SHAPES = {
    "0.5b": {"width": 896, "n_heads": 14, "ffn_width": 4864, "decoder_layers": 24},
    "1.5b": {"width": 1536, "n_heads": 12, "ffn_width": 8960, "decoder_layers": 28},
    "tiny": {"width": 64, "n_heads": 4, "ffn_width": 128, "decoder_layers": 2, "vocab_size": 512},
}
TURNS, NEW, PROMPT = 3, 24, 512
DRAWN = 1024  # columns that are drawn at once


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Speed of public shapes with random weights.")
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--bits", type=int, choices=(8, 4), default=8)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--contexts", type=int, nargs="*", default=[512, 2048, 8192, 32_768])
    parser.add_argument("--caches", nargs="+", choices=CACHES, default=["float32"])
    parser.add_argument("--no-prompt", action="store_true", help="Read no prompt.")
    args = parser.parse_args()
    network = made(args.shape)
    parameters = sum(p.numel() for p in network.parameters())
    quantize(network, args.bits)
    nbytes = packed_bytes(network)
    start = {"shape": args.shape, "bits": args.bits, "parameters": parameters, "packed_bytes": nbytes}
    say(start | {"steps_per_second_of_the_memory": round(memory(nbytes)(), 1)})
    for streams in args.streams:
        say(start | {"streams": streams, "tokens_per_second": round(side_by_side(network, streams), 2)})
    for context, cache in itertools.product(args.contexts, args.caches):
        hold(network, cache)
        release_memory()
        reset_peak_memory()
        speed, held = behind(network, context)
        row = {"context": context, "cache": cache, "tokens_per_second": round(speed, 2), "cache_bytes": held}
        say(start | row | {"peak_bytes": peak_memory()})
    hold(network, None)
    if not args.no_prompt:
        say(start | {"prompt": PROMPT, "tokens_per_second": round(reading(network), 1)})
    return 0


def made(shape: str) -> Transformer:
    """The network with drawn weights in float32."""
    config = TransformerConfig(**(COMMON | SHAPES[shape]))  # type: ignore[arg-type]
    network = Transformer(config).eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.02 if parameter.ndim > 1 else 1.0)
    return network


def side_by_side(network: Any, streams: int) -> float:
    """Tokens per second of so many texts in the engine; the median of a few turns."""
    size, found = network.config.vocab_size, []
    with Model(network, None).engine(rows=16, prefix_bytes=0, draft=0) as engine:
        for turn in range(TURNS + 1):
            prompts = [[(7 * turn + 13 * i + 5 * k) % size for k in range(8)] for i in range(streams)]
            start = time.perf_counter()
            handles = [engine.submit(prompt, max_new_tokens=NEW) for prompt in prompts]
            tokens = sum(len(handle.result().ids) for handle in handles)
            found.append(tokens / (time.perf_counter() - start))
    return statistics.median(found[1:])


@torch.inference_mode()
def behind(network: Any, context: int) -> tuple[float, int]:
    """Tokens per second of one text behind so many tokens, and the bytes of their keys and values."""
    step, cache = Step(network), network.new_cache(1, context + NEW * (TURNS + 1))
    for held in (*cache.keys, *cache.values):
        for part in held[:, :, :context].split(DRAWN, 2):
            part.copy_(lay(torch.randn(*part.shape[:3], cache.width), cache.held))
    cache.lengths += context
    cache.longest = context
    ids, found = torch.zeros(1, dtype=torch.long), []
    for _ in range(TURNS + 1):
        start = time.perf_counter()
        for _ in range(NEW):
            step(ids, cache)
        found.append(NEW / (time.perf_counter() - start))
    return statistics.median(found[1:]), cache.nbytes


@torch.inference_mode()
def reading(network: Any) -> float:
    """Tokens per second of reading a prompt."""
    ids, found = torch.arange(PROMPT)[None] % network.config.vocab_size, []
    for _ in range(TURNS + 1):
        start = time.perf_counter()
        cache = network.new_cache(1, PROMPT + 1)
        network.logits(network.decode(ids, cache=cache)[:, -1])
        found.append(PROMPT / (time.perf_counter() - start))
    return statistics.median(found[1:])


def say(row: dict[str, Any]) -> None:
    """One line."""
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    sys.exit(main())
