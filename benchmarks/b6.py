"""B6: tiny Shakespeare by characters to a validation loss of 1.88: nanoGPT's documented CPU command against ours.

Both start as a process of their own and read ids that were prepared before; both are timed from that start to the
first validation at 1.88 nats per character or below, or, where the peer's last one is above (1.8857 after its 2,000
steps), to that. The peer estimates its loss on 20 random batches, 15,360 characters. Ours is measured on the whole
validation split, the same last tenth of the text, in the same way: windows of 64 characters, none of which sees what
stands before its window.

    ROW        what is measured
    run        peer → Result; NANOGPT is the folder of a checkout in which data/shakespeare_char/prepare.py has run
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks import learning, nanogpt
from benchmarks.frame import Result, Row, compare
from benchmarks.timed import timed
from yanmo.errors import Error, InputError
from yanmo.files import read_text
from yanmo.tokens.shards import write_shards

TARGET = 1.88
WINDOW = 64  # characters that the peer reads at once
ROW = Row(
    name="B6",
    job=f"pretrain on tiny Shakespeare's characters to validation loss {TARGET}, process start and evaluation included",
    unit="s",
    goals={"nanogpt": 5.0},
    larger_is_better=False,
)
PEER = {  # the README's command for a computer without a GPU
    "eval_iters": 20,
    "log_interval": 1,
    "block_size": 64,
    "batch_size": 12,
    "n_layer": 4,
    "n_head": 4,
    "n_embd": 128,
    "max_iters": 2000,
    "lr_decay_iters": 2000,
    "dropout": 0.0,
}
MODEL: dict[str, Any] = {  # 0.75 million parameters besides the embeddings, the peer has 0.79
    "family": "qwen3",
    "width": 144,
    "layers": 3,
    "heads": 2,
    "tie_embeddings": False,
}
TRAIN: dict[str, Any] = {
    "rows": 16,
    "length": 64,
    "steps": 185,
    "optimizer": "muon",
    "learning_rate": 0.006,
    "momentum": 0.9,
    "schedule": "linear",
}


def run(peer: str, repeats: int) -> Result:
    """Measure against one of ROW.goals; each of our runs has a seed of its own."""
    folder = nanogpt.checkout()
    data = folder / "data" / "shakespeare_char"
    missing = [name for name in ("input.txt", "train.bin", "val.bin", "meta.pkl") if not (data / name).is_file()]
    if missing:
        raise InputError(f"{data}: no {missing[0]}; run prepare.py there first")
    losses: dict[str, list[float]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as place:
        make_shards(data / "input.txt", Path(place))

        def theirs() -> float:
            found = nanogpt.evaluations(timed(nanogpt.command(**PEER, out_dir=f"{place}/peer"), folder))
            return reached(found, losses["peer"], must=False)

        def ours() -> float:
            words = learning.command(place, len(losses["ours"]), MODEL, TRAIN)
            return reached(nanogpt.evaluations(timed(words)), losses["ours"])

        result = compare(ROW, peer, ours, theirs, equal="", repeats=repeats)
    told = {side: f"{min(values):.4f} to {max(values):.4f}" for side, values in losses.items()}
    equal = (
        f"validation loss at the end of each run, windows of {WINDOW} characters of the same split: ours "
        f"{told['ours']} on all of it, a seed for each run; the peer {told['peer']} on 15,360 of it, its seed is fixed"
    )
    return Result(**{**vars(result), "equal": equal})


def reached(found: list[nanogpt.Evaluation], losses: list[float], *, must: bool = True) -> float:
    """The seconds of the first validation at the target; without one those of the last, or an Error where it `must`."""
    if not found:
        raise Error(f"{ROW.name}: a training printed no validation loss")
    losses.append(found[-1].loss)
    good = [evaluation for evaluation in found if evaluation.loss <= TARGET]
    if must and not good:
        raise Error(f"{ROW.name}: our training ended at {found[-1].loss:.4f}, above {TARGET}, so nothing is measured")
    return (good or found[-1:])[0].seconds


def make_shards(text: Path, folder: Path) -> None:
    """Write both splits as token shards: one document each, one id for each character, 0 to start and end it."""
    letters = read_text(text)
    ids = {letter: i for i, letter in enumerate(sorted(set(letters)), start=1)}
    split = int(0.9 * len(letters))
    for name, part in (("train", letters[:split]), ("valid", letters[split:])):
        write_shards(
            [[ids[letter] for letter in part]],
            folder / name,
            tokenizer_hash="characters",
            vocab_size=len(ids) + 1,
            n_bytes=len(part.encode()),
            start_id=0,
            end_id=0,
        )
