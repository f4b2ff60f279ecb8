"""B0: the plain reference of generation against transformers' generate.

One GPT-2 of 124M parameters with random weights, made by transformers, saved, and opened by both. Ours is
`Model.generations`, the tokenizer and the text included; the peer's `generate` works on ids alone.

    ROW      what is measured
    run      peer → Result
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import yanmo
from benchmarks.frame import Result, Row, compare
from yanmo.errors import Error, need

PROMPT_TOKENS, NEW_TOKENS, SEED = 32, 100, 1
ROW = Row(
    name="B0",
    job=f"decode {NEW_TOKENS} tokens greedily after {PROMPT_TOKENS}, batch 1, GPT-2 124M, float32, the plain reference",
    unit="token/s",
    goals={"transformers-fp32": 1.0},
)


def run(peer: str, repeats: int, **sizes: int) -> Result:
    """Measure against one of ROW.goals; `sizes` other than GPT-2's are for trying the script."""
    import torch

    transformers = need("transformers", "bench", f"the benchmark {ROW.name}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model(transformers, folder, **sizes)
        theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
        ours = yanmo.load(folder, dtype="float32", device="cpu")
        prompt = bytes(range(33, 33 + PROMPT_TOKENS)).decode()  # one token for each byte
        ids = torch.tensor([ours.tokenizer.encode(prompt)])
        if ids.shape[1] != PROMPT_TOKENS:
            raise Error(f"{ROW.name}: the prompt has {ids.shape[1]} tokens, not {PROMPT_TOKENS}")

        def our_ids() -> list[int]:
            return ours.generations([prompt], max_new_tokens=NEW_TOKENS)[0][0].ids

        def their_ids() -> list[int]:
            with torch.inference_mode():
                mask = torch.ones_like(ids)
                found = theirs.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False)
            return found[0, PROMPT_TOKENS:].tolist()

        same = our_ids()
        if same != their_ids() or len(same) != NEW_TOKENS:
            raise Error(f"{ROW.name}: the two do not write the same {NEW_TOKENS} tokens, so nothing is measured")
        equal = f"the same {NEW_TOKENS} token ids from both, {len(set(same))} different ones among them"
        packages = ("transformers", "tokenizers")
        return compare(ROW, peer, _rate(our_ids), _rate(their_ids), equal=equal, packages=packages, repeats=repeats)


def _rate(write: Any) -> Any:
    """Seconds of one call → tokens per second."""

    def once() -> float:
        start = time.perf_counter()
        write()
        return NEW_TOKENS / (time.perf_counter() - start)

    return once


def make_model(transformers: Any, folder: Path, **sizes: int) -> None:
    """Save a random GPT-2 and a tokenizer of its size in which each byte is a token."""
    import torch

    torch.manual_seed(SEED)
    # ten times the usual range, so that the text does not run in a circle
    config = transformers.GPT2Config(initializer_range=0.2, **sizes)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    signs = _byte_signs()
    vocab = {sign: i for i, sign in enumerate(signs)}
    vocab |= {f"<{i}>": i for i in range(len(vocab), config.vocab_size)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")


def _byte_signs() -> list[str]:
    """The sign that byte-level BPE writes for each byte: itself where it can be seen, else one from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unseen = iter(range(256, 512))
    return [chr(byte) if byte in seen else chr(next(unseen)) for byte in range(256)]
