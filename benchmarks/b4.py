"""B4: encode 1000 real texts of mixed length with BERT-base, against what people pick for it.

One BERT-base of random weights with two labels, made by transformers, saved, and opened by all; each side gets strings
and gives scores, so tokenising is inside the measurement. A turn is every fifth text: five turns are all of them.

    transformers-pipeline            its text-classification pipeline, float32, batches of 16; ours in bfloat16
    transformers-pipeline-float32    the same; ours in float32
    onnxruntime-int8                 exported and quantised by its own tools, batches of 16 sorted by length
    ctranslate2-int8                 its Encoder, batches of 16 sorted by length, and the head in numpy

Against int8 ours is in bfloat16, which is faster here than our 8 bits, and nearer to float32.

    ROW      what is measured
    run      peer → Result
"""

from __future__ import annotations

import csv
import itertools
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yanmo
from benchmarks.b8 import minilm
from benchmarks.frame import Result, Row, compare
from yanmo.errors import Error, need
from yanmo.files import read_text

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "classification"
SENTENCES, NEWS, TURNS, BATCH, SEED = 600, 400, 5, 16, 0
ROW = Row(
    name="B4",
    job=f"score {SENTENCES + NEWS} texts (SST-2, AG News) with BERT-base (110M), a fifth of them each turn",
    unit="text/s",
    goals={
        "transformers-pipeline": 4.0,
        "transformers-pipeline-float32": 2.0,  # padding and order alone
        "onnxruntime-int8": 1.5,
        "ctranslate2-int8": 1.5,
    },
)
Scores = Callable[[list[str]], Any]  # texts → logits (texts, 2), float32


def run(peer: str, repeats: int, **sizes: int) -> Result:
    """Measure against one of ROW.goals; `sizes` other than BERT-base's are for trying the script."""
    transformers = need("transformers", "bench", f"the benchmark {ROW.name}")
    chosen = texts()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model(transformers, folder, **sizes)
        theirs, packages = PEERS[peer](transformers, folder)
        precision = "float32" if peer.endswith("float32") else "bfloat16"
        ours = our_scores(folder, precision)
        equal = _equal(ours, theirs, transformers, folder, chosen[:64], precision)
        jobs = (_turns(side, chosen) for side in (ours, theirs))
        return compare(ROW, peer, *jobs, equal=equal, packages=("tokenizers", *packages), repeats=repeats)


def texts() -> list[str]:
    """The same texts always, in an order that has nothing to do with their lengths."""
    files = [DATA / "sst2-dev.tsv", DATA / "ag_news-a.csv"]
    for path in files:
        if not path.is_file():
            raise Error(f"{ROW.name}: {path} is not there; put SST-2 and AG News there")
    sentences = [line.rsplit("\t", 1)[0] for line in read_text(files[0]).splitlines()][:SENTENCES]
    news = [f"{row[1]}. {row[2]}" for row in csv.reader(read_text(files[1]).splitlines())][:NEWS]
    found = sentences + news
    random.Random(SEED).shuffle(found)
    return found


def _turns(scores: Scores, chosen: list[str]) -> Callable[[], float]:
    """A job that scores every fifth text, beginning one further each time."""
    turns = itertools.count()

    def once() -> float:
        part = chosen[next(turns) % TURNS :: TURNS]
        start = time.perf_counter()
        scores(part)
        return len(part) / (time.perf_counter() - start)

    return once


def _equal(ours: Scores, theirs: Scores, transformers: Any, folder: Path, some: list[str], precision: str) -> str:
    """How far both sides' scores are from transformers' own in float32, of one text at a time."""
    import torch

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        exact = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in some])
    spread = float((exact - exact.mean(0)).norm())
    apart = [float((torch.as_tensor(side(some)) - exact).norm()) / spread for side in (ours, theirs)]
    limit = 1e-4 if precision == "float32" else max(0.2, 1.2 * apart[1])
    if apart[0] > limit:
        raise Error(
            f"{ROW.name}: our scores are {apart[0]:.2g} of their spread from the exact ones; nothing is measured"
        )
    return (
        f"scores of {len(some)} texts are {apart[0]:.1g} (ours, {precision}) and {apart[1]:.1g} (the peer) of their "
        "spread over texts from those of float32, one text at a time"
    )


def make_model(transformers: Any, folder: Path, **sizes: int) -> None:
    """Save a random BERT with the tokenizer of MiniLM, whose vocabulary is BERT's."""
    import torch

    torch.manual_seed(SEED)
    config = transformers.BertConfig(num_labels=2, **sizes)
    transformers.BertForSequenceClassification(config).eval().save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(minilm()).save_pretrained(folder)


# --- the sides


def our_scores(folder: Path, precision: str) -> Scores:
    """Ours."""
    import torch

    from yanmo.inference.encode import score

    model = yanmo.load(folder, dtype=precision, device="cpu")
    return lambda some: torch.stack(list(score(model, some)))


def pipeline(transformers: Any, folder: Path) -> tuple[Scores, tuple[str, ...]]:
    """transformers' own pipeline, with its batches in the order of the texts."""
    import torch

    run = transformers.pipeline("text-classification", model=str(folder), dtype=torch.float32, device="cpu")
    options = {"batch_size": BATCH, "top_k": None, "function_to_apply": "none"}

    def scores(some: list[str]) -> Any:
        found = run(some, **options)
        by_label = [sorted(labels, key=lambda label: label["label"]) for labels in found]
        return [[label["score"] for label in labels] for labels in by_label]

    return scores, ("transformers",)


def onnxruntime(transformers: Any, folder: Path) -> tuple[Scores, tuple[str, ...]]:
    """Exported by torch, its matrices in int8 by onnxruntime's quantize_dynamic; sorted by length."""
    import numpy as np
    import torch

    runtime = need("onnxruntime", "bench", f"the benchmark {ROW.name}")
    need("onnx", "bench", f"the benchmark {ROW.name}")
    quantization = need("onnxruntime.quantization", "bench", f"the benchmark {ROW.name}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = tokenizer(["one text", "and another one"], padding=True, return_tensors="pt")
    torch.onnx.export(
        model,
        tuple(example[name] for name in names),
        str(folder / "model.onnx"),
        input_names=names,
        output_names=["logits"],
        dynamic_axes={name: {0: "rows", 1: "columns"} for name in names},
        dynamo=False,
    )
    quantization.quantize_dynamic(folder / "model.onnx", folder / "int8.onnx", weight_type=quantization.QuantType.QInt8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(folder / "int8.onnx", options, providers=["CPUExecutionProvider"])

    def scores(rows: list[list[int]]) -> Any:
        batch = tokenizer.pad({"input_ids": rows}, return_tensors="np")
        feed = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        return session.run(None, feed | {"token_type_ids": np.zeros_like(batch["input_ids"])})[0]

    return by_length(tokenizer, scores), ("onnxruntime", "onnx")


def ctranslate2(transformers: Any, folder: Path) -> tuple[Scores, tuple[str, ...]]:
    """Converted by its own converter; the pooler and the head, two small products, in numpy."""
    import numpy as np
    import torch

    library = need("ctranslate2", "bench", f"the benchmark {ROW.name}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    transformers.BertConfig.position_embedding_type = "absolute"  # asked for, and gone since transformers 5
    model.bert.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    library.converters.TransformersConverter(str(folder / "base")).convert(str(folder / "ct2"), quantization="int8")
    threads = torch.get_num_threads()
    encoder = library.Encoder(str(folder / "ct2"), compute_type="int8", intra_threads=threads, inter_threads=1)
    dense, head = model.bert.pooler.dense, model.classifier
    parts = [p.detach().numpy() for p in (dense.weight, dense.bias, head.weight, head.bias)]

    def scores(rows: list[list[int]]) -> Any:
        hidden = np.asarray(encoder.forward_batch(rows).last_hidden_state)[:, 0]
        return np.tanh(hidden @ parts[0].T + parts[1]) @ parts[2].T + parts[3]

    return by_length(tokenizer, scores), ("ctranslate2", "transformers")


def by_length(tokenizer: Any, run: Callable[[list[list[int]]], Any]) -> Scores:
    """Batches of a peer: texts sorted by length, so that little is padded, and their scores put back in order."""
    import numpy as np

    def scores(some: list[str]) -> Any:
        encoded = tokenizer(some)["input_ids"]
        order = sorted(range(len(some)), key=lambda i: len(encoded[i]))
        out = np.empty((len(some), 2), np.float32)
        for begin in range(0, len(order), BATCH):
            part = order[begin : begin + BATCH]
            out[part] = run([encoded[i] for i in part])
        return out

    return scores


PEERS = {
    "transformers-pipeline": pipeline,
    "transformers-pipeline-float32": pipeline,
    "onnxruntime-int8": onnxruntime,
    "ctranslate2-int8": ctranslate2,
}
