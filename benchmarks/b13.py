"""B13: from the command to the first token, each turn a process of its own; what `--help` and an import take.

A GPT-2 of 124M parameters with random weights in float32 and a tokenizer of its size lie in a folder, which both sides
have read before, so that it is in the system's memory.

    transformers    `yanmo generate FOLDER TEXT` against a script that loads the folder with transformers and generates
    help            `yanmo --help` against half a second
    import          `import yanmo`, without torch, against 150 ms; the start of Python itself taken off

    ROW      what is measured
    run      peer → Result
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.decoding import make
from benchmarks.frame import Result, Row, compare
from benchmarks.timed import timed
from yanmo.errors import Error, need

ROW = Row(
    name="B13",
    job="start: `yanmo generate` with GPT-2 124M to its first token; `yanmo --help`; `import yanmo`",
    unit="s",
    goals={"transformers": 2.0, "help": 1.0, "import": 1.0},
    larger_is_better=False,
)
LIMITS = {"help": 0.5, "import": 0.15}  # seconds
TEXT = "Once upon a time there was a river"
YANMO = [sys.executable, "-c", "from yanmo.cli import main; main()"]  # what the command `yanmo` runs
PEER = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, text = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder).eval()
ids = tokenizer(text, return_tensors="pt")
written = model.generate(**ids, max_new_tokens=1, do_sample=False, pad_token_id=0)
print(tokenizer.decode(written[0, ids["input_ids"].shape[1]:]), flush=True)
"""


def run(peer: str, repeats: int, **sizes: int) -> Result:
    """Measure against one of ROW.goals; `sizes` other than GPT-2's are for trying the script."""
    if peer in LIMITS:
        return _limit(peer, repeats)
    transformers = need("transformers", "bench", f"the benchmark {ROW.name}")
    network, _ = make(ROW.name, **sizes)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _save(transformers, network, folder)
        script = folder / "peer.py"
        script.write_text(PEER, "utf-8")
        ours = [*YANMO, "generate", place, TEXT, "--max-new-tokens", "1"]
        theirs = [sys.executable, str(script), place, TEXT]
        first = [_text(side) for side in (ours, theirs)]
        if first[0] != first[1]:
            raise Error(f"{ROW.name}: the first tokens are {first[0]!r} and {first[1]!r}, so nothing is measured")
        equal = f"both print {first[0]!r} as the first token"
        return compare(
            ROW, peer, _seconds(ours), _seconds(theirs), equal=equal, packages=("transformers",), repeats=repeats
        )


def _limit(peer: str, repeats: int) -> Result:
    limit = LIMITS[peer]
    if peer == "help":
        equal = "the limit itself; the text names every verb"
        said = " ".join(line for _, line in timed([*YANMO, "--help"]))
        if not all(verb in said for verb in ("tour", "generate", "doctor")):
            raise Error(f"{ROW.name}: --help does not name the verbs, so nothing is measured")
        return compare(ROW, peer, _seconds([*YANMO, "--help"], last=True), lambda: limit, equal=equal, repeats=repeats)
    loaded = [sys.executable, "-c", "import sys, yanmo; print('torch' in sys.modules)"]
    if timed(loaded)[-1][1].strip() != "False":
        raise Error(f"{ROW.name}: `import yanmo` imports torch, so nothing is measured")
    bare = statistics.median(_seconds([sys.executable, "-c", "print()"])() for _ in range(repeats))
    once = _seconds([sys.executable, "-c", "import yanmo; print()"])
    equal = f"the limit itself; torch is not imported; Python alone takes {bare * 1000:.0f} ms, which are taken off"
    return compare(ROW, peer, lambda: max(once() - bare, 1e-4), lambda: limit, equal=equal, repeats=repeats)


def _seconds(command: list[str], *, last: bool = False) -> Callable[[], float]:
    """The seconds until the first line came, or the last one."""
    return lambda: timed(command)[-1 if last else 0][0]


def _text(command: list[str]) -> str:
    start = time.perf_counter()
    lines = [line for _, line in timed(command)]
    if not lines:
        raise Error(f"{ROW.name}: {command[:3]} printed nothing in {time.perf_counter() - start:.1f} s")
    return "\n".join(lines).strip()


def _save(transformers: Any, network: Any, folder: Path) -> None:
    """The folder of both: weights, and a byte-level tokenizer of as many tokens, each a byte or two."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    network.generation_config.eos_token_id = network.config.eos_token_id = None
    network.save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    most = network.config.vocab_size - len(letters)
    pairs = [(a, b) for a in letters for b in letters][:most]
    words = {word: i for i, word in enumerate([*letters, *(a + b for a, b in pairs)])}
    tokenizer = Tokenizer(models.BPE(words, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text("utf-8"))["vocab_size"] == len(words)
