"""B3: reading a prompt of 512 tokens, up to the logits after its last one, against llama.cpp and transformers.

The model is that of B1, ours in 8 bits. llama.cpp has the same weights in the types that people give it; each is a row.

    ROW      what is measured
    run      peer → Result
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.decoding import Llama, Ours, make
from benchmarks.frame import Result, Row, compare
from yanmo.errors import Error

TOKENS, FOLLOWING = 512, 8
KINDS = {"llama-cpp-q8_0": "Q8_0", "llama-cpp-q4_0": "Q4_0", "llama-cpp-bf16": "BF16"}
ROW = Row(
    name="B3",
    job=f"read a prompt of {TOKENS} tokens, batch 1, GPT-2 124M, ours in 8 bits",
    unit="token/s",
    goals={**dict.fromkeys(KINDS, 1.0), "transformers-fp32": 2.0, "transformers-bf16": 2.0},
)
MOST_ERROR = 0.03  # of the logits, against float32


def run(peer: str, repeats: int, **sizes: int) -> Result:
    """Measure against one of ROW.goals; `sizes` other than GPT-2's are for trying the script."""
    import torch

    from yanmo.inference.quantize import Bits

    network, _ = make(ROW.name, **sizes)
    prompt, following = torch.randint(0, network.config.vocab_size, (2, TOKENS)).tolist()
    following = following[:FOLLOWING]
    with tempfile.TemporaryDirectory() as place:
        network.save_pretrained(place)
        ours = Ours(Path(place), Bits())
        with torch.inference_mode():
            exact = network(torch.tensor([prompt + following])).logits[0, TOKENS - 1 :]
        said = [_apart("ours", ours.scores(prompt, following), exact, MOST_ERROR)]
        if peer in KINDS:
            llama = Llama(network, Path(place) / "m.gguf", KINDS[peer], TOKENS + FOLLOWING)
            most = (
                0.3 if KINDS[peer] == "Q4_0" else 3 * MOST_ERROR
            )  # random weights have nothing that 4 bits could keep
            said.append(_apart("llama.cpp's", llama.scores(prompt, following), exact, most))
            theirs, packages = _rate(_read_llama(llama, prompt)), ("llama-cpp-python",)
        else:
            if peer.endswith("bf16"):
                network = network.to(torch.bfloat16)
            theirs, packages = _rate(_read_transformers(network, prompt)), ("transformers",)
        equal = f"logits after the prompt and {FOLLOWING} tokens more, against float32: {', '.join(said)}"
        mine = _rate(lambda: ours.read(prompt, TOKENS + FOLLOWING))
        return compare(ROW, peer, mine, theirs, equal=equal, packages=packages, repeats=repeats)


def _read_llama(llama: Llama, prompt: list[int]) -> Callable[[], Any]:
    def once() -> Any:
        llama.peer.forget()
        return llama.peer.feed(prompt)

    return once


def _read_transformers(network: Any, prompt: list[int]) -> Callable[[], Any]:
    import torch

    def once() -> Any:
        with torch.inference_mode():
            return network(torch.tensor([prompt]), use_cache=True, logits_to_keep=1).logits

    return once


def _rate(read: Callable[[], Any]) -> Callable[[], float]:
    """Tokens in a second, over three readings."""

    def once() -> float:
        start = time.perf_counter()
        for _ in range(3):
            read()
        return 3 * TOKENS / (time.perf_counter() - start)

    return once


def _apart(whose: str, found: Any, exact: Any, limit: float) -> str:
    share = float((found - exact).norm() / exact.norm())
    if not share < limit:
        raise Error(f"{ROW.name}: {whose} logits are {share:.2%} from the model's, so nothing is measured")
    return f"{whose} apart by {share:.2%}"
