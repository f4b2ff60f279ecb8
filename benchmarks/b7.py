"""B7: a decoder of ten million parameters on novels, to the loss that nanoGPT reaches with settings that suit it.

Both read the same ids: novels of the Gutenberg project, or other texts (TEXTS names a folder), in a BPE vocabulary that
is trained on them; every fiftieth document is for validation. Both start as a process of their own and are timed from
there to the end of their validation. The peer's rate, batch and warm-up (PEER) are to be the best of `tune`. Each pair
of runs has a seed of its own, and ours must end below every loss of the peer, or nothing is measured.

    ROW        what is measured
    run        peer → Result; NANOGPT is the folder of a checkout
    tune       python -m benchmarks.b7: losses of the peer with other settings, after as many tokens
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import learning, nanogpt
from benchmarks.frame import Result, Row, compare
from benchmarks.timed import timed
from yanmo.corpus.text import read_documents
from yanmo.errors import Error, InputError
from yanmo.tokens.making import ends as ends_of
from yanmo.tokens.shards import write_shards
from yanmo.tokens.train import train_tokenizer

WINDOW = 256  # tokens that both read at once
VOCABULARY = 4096
HELD_OUT = 50  # one document of so many; novels are read as documents of a few chapters
EVALUATED = 40_960  # tokens of the peer's validation
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "corpora"
TRIED = [  # batch, rate, warm-up as a share
    *[(8, rate, 0.1) for rate in (2e-3, 1e-3, 5e-4)],
    *[(4, rate, 0.1) for rate in (1e-3, 5e-4)],
    *[(2, rate, 0.1) for rate in (1e-3, 5e-4)],
]
ROW = Row(
    name="B7",
    job="pretrain 10M parameters on novels to nanoGPT's loss, process start and validation included",
    unit="s",
    goals={"nanogpt": 3.0},
    larger_is_better=False,
)
SIZE = {"n_layer": 5, "n_head": 6, "n_embd": 384, "block_size": WINDOW, "dropout": 0.0}
PEER: dict[str, Any] = {"batch_size": 2, "max_iters": 480, "learning_rate": 5e-4, "warmup_iters": 48}
MODEL: dict[str, Any] = {"family": "qwen3", "width": 480, "layers": 3, "heads": 6}
TRAIN: dict[str, Any] = {
    "rows": 8,
    "length": WINDOW,
    "steps": 60,
    "optimizer": "muon",
    "learning_rate": 0.005,
    "momentum": 0.9,
    "schedule": "linear",
}


def run(peer: str, repeats: int) -> Result:
    """Measure against one of ROW.goals; each pair of runs has a seed of its own."""
    folder = nanogpt.checkout()
    ends: dict[str, list[nanogpt.Evaluation]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as place:
        bytes_per_token = make_data(Path(place))

        def theirs() -> float:
            seed = 1337 + len(ends["peer"])
            ends["peer"].append(nanogpt.evaluations(timed(peers_words(place, seed, PEER), folder))[-1])
            return ends["peer"][-1].seconds

        def ours() -> float:
            words = learning.command(place, len(ends["ours"]), MODEL, TRAIN)
            ends["ours"].append(nanogpt.evaluations(timed(words))[-1])
            return ends["ours"][-1].seconds

        result = compare(ROW, peer, ours, theirs, equal="", repeats=repeats)
    losses = {side: [end.loss for end in found] for side, found in ends.items()}
    if max(losses["ours"]) > min(losses["peer"]):
        raise Error(f"{ROW.name}: ours ended at {max(losses['ours'])}, the peer at {min(losses['peer'])}; train longer")
    bits = {side: [loss / math.log(2) / bytes_per_token for loss in found] for side, found in losses.items()}
    told = {side: f"{min(found):.4f} to {max(found):.4f}" for side, found in bits.items()}
    equal = (
        f"bits per byte at the end of each run, a seed for each, windows of {WINDOW} tokens of the same split: ours "
        f"{told['ours']} on all of it, the peer {told['peer']} on {EVALUATED} tokens of it"
    )
    return Result(**{**vars(result), "equal": equal})


def peers_words(place: str | Path, seed: int, settings: dict[str, Any]) -> list[str]:
    """The words that train the peer on what make_data wrote."""
    steps, rate = settings["max_iters"], settings["learning_rate"]
    rest = {"eval_interval": steps, "eval_iters": EVALUATED // WINDOW // settings["batch_size"], "log_interval": steps}
    rest |= {"lr_decay_iters": steps, "min_lr": rate / 10, "dataset": f"{place}/peer", "out_dir": f"{place}/out"}
    return nanogpt.command(seed, **SIZE, **settings, **rest, always_save_checkpoint=False)


def make_data(folder: Path) -> float:
    """Write ids for both sides, and return how many bytes a token of the validation has."""
    parts: dict[str, list[str]] = {"train": [], "valid": []}
    for number, document in enumerate(read_documents(_paths())):
        parts["train" if number % HELD_OUT else "valid"].append(document.text)
    tokenizer = train_tokenizer(parts["train"], "bpe", VOCABULARY)
    start_id, end_id = ends_of(tokenizer)
    made = {}
    for name, given in parts.items():
        made[name] = write_shards(
            tokenizer.encode_batch(given, add_special_tokens=False),
            folder / name,
            tokenizer_hash=tokenizer.hash,
            vocab_size=tokenizer.vocab_size,
            n_bytes=sum(len(text.encode()) for text in given),
            start_id=start_id,
            end_id=end_id,
        )
    nanogpt.write_data(made["train"].ids, made["valid"].ids, tokenizer.vocab_size, folder / "peer")
    return made["valid"].n_bytes / len(made["valid"].ids)


def _paths() -> list[Path]:
    if given := os.environ.get("TEXTS"):
        return [Path(given)]
    found = sorted(DATA.glob("gutenberg-*.txt.gz"))
    if not found:
        raise InputError(f"{DATA}: no novels; set TEXTS to a folder of texts")
    return found


def tune() -> None:
    """Print the peer's loss for each setting in TRIED, each after as many tokens as PEER reads."""
    folder = nanogpt.checkout()
    tokens = PEER["batch_size"] * PEER["max_iters"]
    with tempfile.TemporaryDirectory() as place:
        make_data(Path(place))
        for batch, rate, warm in TRIED:
            steps = tokens // batch
            settings = {"batch_size": batch, "max_iters": steps, "learning_rate": rate}
            words = peers_words(place, 1337, settings | {"warmup_iters": round(warm * steps)})
            end = nanogpt.evaluations(timed(words, folder))[-1]
            print(f"batch {batch}, rate {rate:g}, warm-up {warm:g}: {end.loss:.4f} in {end.seconds:.1f} s", flush=True)


if __name__ == "__main__":
    tune()
