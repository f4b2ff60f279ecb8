"""The statistical model of a tour: counts of the training tokens, smoothed by Kneser-Ney, and how it writes.

In: token shards. Out: an n-gram model in ngram.npz, its bits per byte on the same validation set as the networks.

    count_ngrams     fit, measure, save
    write_on         one prompt continued by it
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from yanmo import machine
from yanmo.corpus.ngram import NGram
from yanmo.tokens.tokenizer import Tokenizer
from yanmo.tour.folder import Tour
from yanmo.tour.learning import shards_of
from yanmo.tour.show import Show

ORDER = 5
FILE = "ngram.npz"


def count_ngrams(tour: Tour, show: Show) -> dict[str, Any]:
    """Fit on the training tokens and measure on every token of the validation set, ends of documents included."""
    shards, valid = shards_of(tour, "train"), shards_of(tour, "valid")
    with show.progress("n-gram") as bar:
        bar.update(0.0, "counting")
        start = time.monotonic()
        documents = (shards.document(i) for i in range(shards.n_documents))
        model = NGram.fit(documents, order=ORDER, vocab_size=shards.vocab_size)
        seconds = time.monotonic() - start
        nats = 0.0
        for i in range(valid.n_documents):
            bar.update((i + 1) / valid.n_documents, "measuring")
            nats -= float(model.log_probs(valid.document(i)).sum())
    model.save(tour.out / FILE)
    return {
        "bits_per_byte": nats / math.log(2) / valid.n_bytes,
        "parameters": model.n_ngrams,
        "train_seconds": seconds,
        "tokens": shards.n_tokens,
        "epochs": 1.0,
        "peak_memory": machine.peak_memory(),
        "shape": f"interpolated modified Kneser-Ney of order {ORDER}; its parameters are the different n-grams of 1 to "
        f"{ORDER} tokens that it counted",
    }


def write_on(model: NGram, tokenizer: Tokenizer, prompt: str, count: int, temperature: float, seed: int) -> str:
    """Continue a prompt by `count` tokens at most; a document's end ends the text."""
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    start = len(ids)
    draw = np.random.Generator(np.random.Philox(seed))
    while len(ids) < start + count:
        weights = model.next_probs(ids) ** (1 / temperature)
        ids.append(int(np.searchsorted(np.cumsum(weights), draw.random() * weights.sum())))
        if ids[-1] == tokenizer.eos_id:
            break
    return tokenizer.decode(ids)[len(tokenizer.decode(ids[:start])) :]
