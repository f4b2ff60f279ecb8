"""The first two stages of a tour: raw text → corpus → tokens.

In: PATHs, or nothing for the documentation of Python's standard library. Out: a corpus folder, a tokenizer, token
shards for training and validation, and the numbers that the report shows.

    make_corpus        read, clean, drop exact duplicates, split by document; no more text than the budget can use
    make_tokens        train a byte-level BPE on the training documents; write both sets as ids
    documents_of       the documents of one set, in their order
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from yanmo.corpus.build import build_corpus, load_corpus
from yanmo.corpus.card import UNSTATED
from yanmo.corpus.documents import Document
from yanmo.corpus.ledger import ReadReport
from yanmo.corpus.python_docs import python_documents
from yanmo.corpus.readers import kind_by_content
from yanmo.corpus.sources import Source, find_sources
from yanmo.corpus.text import border, read_documents
from yanmo.errors import InputError
from yanmo.tokens.shards import TokenShards, start_and_end, write_shards
from yanmo.tokens.tokenizer import Tokenizer
from yanmo.tokens.train import train_tokenizer
from yanmo.tour.folder import Tour
from yanmo.tour.show import Show

LEAST_BYTES = 20_000  # of clean text: below, a validation set says nothing
MOST_PER_MINUTE = 4_000_000  # bytes of text that are read for each minute; a fast machine trains on no more in it
READING_SHARE = 0.12  # of the budget, after which a slow disk or processor stops reading
VALID_SHARE = 0.05
VALID_PER_MINUTE = 50_000  # bytes of validation text for each minute, so that measuring stays a small part of the time
VALID_LEAST = 30_000
VALID_SPREAD = 8  # of what is measured, one document is at most this part
VOCABULARIES = ((500_000, 1024), (1_500_000, 2048), (20_000_000, 4096), (200_000_000, 8192))  # bytes below → size
LARGEST_VOCABULARY = 16384
ENCODED_AT_ONCE = 64  # documents


class Limited:
    """Documents until their bytes or the time are used up; `more` says that something was left unread."""

    def __init__(self, documents: Iterable[Document], most_bytes: float, seconds: float) -> None:
        self.documents, self.most_bytes, self.seconds = documents, most_bytes, seconds
        self.bytes = 0
        self.more = False

    def __iter__(self) -> Iterator[Document]:
        end = time.monotonic() + self.seconds
        for document in self.documents:
            if self.bytes >= self.most_bytes or (self.bytes >= LEAST_BYTES and time.monotonic() > end):
                self.more = True
                return
            self.bytes += len(document.text.encode("utf-8", "surrogatepass"))
            yield document


def make_corpus(tour: Tour, show: Show) -> dict[str, Any]:
    """Build the corpus folder and return what the report shows of it."""
    report = ReadReport()
    most = MOST_PER_MINUTE * tour.minutes
    remarks: list[str] = []
    if tour.paths:
        documents = read_documents(_order(tour.paths, most, remarks), report)
        names = [Path(path).name or path for path in tour.paths]  # a card says nothing of where a disk keeps its texts
        source = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    else:
        documents = python_documents(report)
        source = f"the documentation of Python {sys.version_info.major}.{sys.version_info.minor}'s standard library"
    limited = Limited(documents, most, READING_SHARE * tour.budget)
    with show.progress("reading") as bar:

        def progress(done: int, total: int) -> None:
            share = limited.bytes / most if total > most else done / max(total, 1)
            bar.update(share, f"{limited.bytes / 1e6:.1f} MB")

        corpus = build_corpus(
            limited, tour.out / "corpus", valid_share=VALID_SHARE, progress=progress, read_report=report
        )
    card = corpus.card
    size = sum(split["bytes"] for split in card["splits"].values())
    if size < LEAST_BYTES:
        raise InputError(
            f"{source}: {size:,} bytes of clean text, a tour needs {LEAST_BYTES:,}; name more text as PATH"
        )
    if limited.more:
        remarks.append(
            f"The first {limited.bytes / 1e6:.1f} MB were read, the rest was not: it is as much as a tour of "
            f"{tour.minutes:g} minutes can use on this machine; more --minutes read more."
        )
    remarks += card["notes"]
    if card["skipped"]:
        passed = ", ".join(f"{count:,} {why}" for why, count in card["skipped"].items())
        remarks.append(f"Files passed over: {passed}.")
    return _described(card, source, remarks)


def _described(card: dict[str, Any], source: str, remarks: list[str]) -> dict[str, Any]:
    splits = card["splits"]
    return {
        "source": source,
        "licenses": [("not stated" if name == UNSTATED else name, count) for name, count in card["license"].items()],
        "languages": [("not stated" if name == UNSTATED else name, count) for name, count in card["language"].items()],
        "scripts": list(card["script"].items()),
        "read": card["in"],
        "removed": list(card["removed"].items()),
        "failed": sum(card["failed"].values()),
        "problems": [problem["what"] for problem in card["problems"][:3]],
        "train_documents": splits["train"]["documents"],
        "train_bytes": splits["train"]["bytes"],
        "valid_documents": splits["valid"]["documents"],
        "valid_bytes": splits["valid"]["bytes"],
        "remarks": remarks,
    }


def _order(paths: Sequence[str], most: float, remarks: list[str]) -> Sequence[str | Source]:
    """The paths themselves, or, where they hold more than can be read, their files in a seeded order: a fair part."""
    sources = find_sources(paths, ReadReport(), kind_by_content)
    total = sum(source.size for source in sources)
    if total <= most or len(sources) < 2:
        return paths
    files = [str(source.path) if source.published is None else source for source in sources]
    random.Random(0).shuffle(files)
    remarks.append(f"Of {len(files):,} files ({total / 1e6:.0f} MB), as many were drawn by lot as the time can use.")
    return files


def documents_of(tour: Tour, name: str) -> Iterator[Document]:
    """The documents of "train", or those of "valid" that are measured."""
    documents = load_corpus(tour.out / "corpus").documents(name)
    if name == "train" or tour.stages["corpus"]["valid_bytes"] <= _measured(tour):
        return documents
    return _up_to(documents, _measured(tour), min(VALID_SPREAD, tour.stages["corpus"]["valid_documents"]))


def _measured(tour: Tour) -> float:
    """The most bytes of validation text."""
    return max(VALID_PER_MINUTE * tour.minutes, VALID_LEAST)


def _up_to(documents: Iterator[Document], most: float, spread: int) -> Iterator[Document]:
    """Documents up to `most` bytes, of a long one the beginning up to a paragraph border, so that none is the whole."""
    left = most
    for document in documents:
        size = len(document.text.encode())
        if size > most / spread:
            high = int(len(document.text) * most / spread / size)
            document = dataclasses.replace(document, text=document.text[: border(document.text, high // 2, high)])
            size = len(document.text.encode())
        if size <= left:
            left -= size
            yield document


def make_tokens(tour: Tour, show: Show) -> dict[str, Any]:
    """Train the tokenizer and write both sets as ids; returns what the report shows of it."""
    corpus = tour.stages["corpus"]
    size = next((size for below, size in VOCABULARIES if corpus["train_bytes"] < below), LARGEST_VOCABULARY)
    with show.progress("BPE") as bar:
        texts = (document.text for document in documents_of(tour, "train"))
        tokenizer = train_tokenizer(_watched(texts, corpus["train_bytes"], bar.update), "bpe", size)
        tokenizer.save(tour.out / "tokenizer")
    with show.progress("ids") as bar:
        texts = (document.text for document in documents_of(tour, "train"))
        train = _encode(tour, "train", tokenizer, _watched(texts, corpus["train_bytes"], bar.update))
    measured = [document.text for document in documents_of(tour, "valid")]
    valid = _encode(tour, "valid", tokenizer, iter(measured))
    remarks = []
    if valid.n_bytes < corpus["valid_bytes"]:
        remarks.append(
            f"Measured are {valid.n_bytes / 1e3:.0f} kB of the validation set, {valid.n_documents:,} of its documents, "
            "long ones in part, so that measuring stays a small part of the time."
        )
    return {
        "vocab_size": tokenizer.vocab_size,
        "bytes_per_token": train.n_bytes / max(train.n_tokens - train.n_documents, 1),
        "train_tokens": train.n_tokens,
        "valid_tokens": valid.n_tokens,
        "valid_documents": valid.n_documents,
        "valid_bytes": valid.n_bytes,
        "example": _example(tokenizer, measured[0]),
        "remarks": remarks,
    }


def _example(tokenizer: Tokenizer, text: str) -> list[str]:
    """The first tokens of a text, each as text; a token that is a part of a character shows as U+FFFD."""
    ids = tokenizer.encode(" ".join(text[:400].split()), add_special_tokens=False)[:24]
    return [tokenizer.decode([i], skip_special_tokens=False) for i in ids]


def _watched(texts: Iterable[str], total: int, update: Any) -> Iterator[str]:
    """Pass texts on and show how many of their bytes went by."""
    done = 0
    for text in texts:
        done += len(text.encode())
        update(done / max(total, 1), f"{done / 1e6:.1f} MB")
        yield text


def _encode(tour: Tour, name: str, tokenizer: Tokenizer, texts: Iterator[str]) -> TokenShards:
    """Write one set as ids."""
    n_bytes = 0

    def ids() -> Iterator[list[int]]:
        nonlocal n_bytes
        while block := list(itertools.islice(texts, ENCODED_AT_ONCE)):
            n_bytes += sum(len(text.encode()) for text in block)
            yield from tokenizer.encode_batch(block, add_special_tokens=False)

    start_id, end_id = start_and_end(tokenizer.bos_id, tokenizer.eos_id)
    return write_shards(
        ids(),
        tour.out / "tokens" / name,
        tokenizer_hash=tokenizer.hash,
        vocab_size=tokenizer.vocab_size,
        n_bytes=lambda: n_bytes,
        start_id=start_id,
        end_id=end_id,
    )
