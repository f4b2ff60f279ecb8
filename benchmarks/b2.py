"""B2: decoding one text in 4 bits, groups of 32 with a scale in float16 as in GGUF's Q4_0, against llama.cpp's Q4_0.

The model is that of B1; on both sides every matrix has 4 bits, that of the words too.

    ROW      what is measured
    run      peer → Result
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.decoding import NEW_TOKENS, PROMPT_TOKENS, Llama, Ours, check, make
from benchmarks.frame import Result, Row, compare

ROW = Row(
    name="B2",
    job=f"decode {NEW_TOKENS} tokens greedily after {PROMPT_TOKENS}, batch 1, GPT-2 124M, 4 bits",
    unit="token/s",
    goals={"llama-cpp-q4_0": 1.3},
)
MOST_ERROR = 0.3  # of the logits, against float32: random weights have no structure that 4 bits could keep


def run(peer: str, repeats: int, **sizes: int) -> Result:
    """Measure against one of ROW.goals; `sizes` other than GPT-2's are for trying the script."""
    from yanmo.inference.quantize import Bits

    network, prompt = make(ROW.name, **sizes)
    with tempfile.TemporaryDirectory() as place:
        network.save_pretrained(place)
        ours = Ours(Path(place), Bits(weights=4, words=4))
        llama = Llama(network, Path(place) / "m.gguf", "Q4_0", PROMPT_TOKENS + NEW_TOKENS)
        said = check(ROW.name, network, ours, prompt, MOST_ERROR, llama)
        packages = ("llama-cpp-python",)
        return compare(ROW, peer, ours.rate(prompt), llama.rate(prompt), equal=said, packages=packages, repeats=repeats)
