"""B1: decoding one text in 8 bits against llama.cpp, transformers and the memory.

One GPT-2 of 124M parameters with random weights: ours packed in 8 bits with a scale for each row, every step one call
of the native library; the peers' own files. All write their greedy next token at every step.

    ROW      what is measured
    run      peer → Result
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.decoding import NEW_TOKENS, PROMPT_TOKENS, Llama, Ours, check, make, memory, transformers_rate
from benchmarks.frame import Result, Row, compare

ROW = Row(
    name="B1",
    job=f"decode {NEW_TOKENS} tokens greedily after {PROMPT_TOKENS}, batch 1, GPT-2 124M, 8 bits",
    unit="token/s",
    goals={"llama-cpp-q8_0": 1.5, "transformers-fp32": 8.0, "memory": 0.75},
)
MOST_ERROR = 0.03  # of the logits, against float32


def run(peer: str, repeats: int, **sizes: int) -> Result:
    """Measure against one of ROW.goals; `sizes` other than GPT-2's are for trying the script."""
    from yanmo.inference.quantize import Bits

    network, prompt = make(ROW.name, **sizes)
    with tempfile.TemporaryDirectory() as place:
        network.save_pretrained(place)
        ours = Ours(Path(place), Bits())
        packages: tuple[str, ...]
        if peer == "llama-cpp-q8_0":
            llama = Llama(network, Path(place) / "m.gguf", "Q8_0", PROMPT_TOKENS + NEW_TOKENS)
            said = check(ROW.name, network, ours, prompt, MOST_ERROR, llama)
            theirs, packages = llama.rate(prompt), ("llama-cpp-python",)
        else:
            said = check(ROW.name, network, ours, prompt, MOST_ERROR)
            if peer == "memory":
                theirs, packages = memory(ours.nbytes), ()
            else:
                theirs, packages = transformers_rate(network, prompt), ("transformers",)
        return compare(ROW, peer, ours.rate(prompt), theirs, equal=said, packages=packages, repeats=repeats)
