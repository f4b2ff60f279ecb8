"""TOKENS: texts to ids by byte-level BPE on one core, beside the tokenizers library, tiktoken, and the figure to reach.

Texts: novels in English and Chinese from ../shared/data/corpora in pieces of 3,500 characters; the run before leaves
its words in the caches of ours and of the tokenizers library alike. Vocabularies: GPT-2's (50,257 ids, English), and
one with the rules of Qwen 2 trained here on other books of both languages (32,000 ids). Figures are megabytes of UTF-8
a second of processor time, the copy into arrays included; the second that compiling a vocabulary takes is not.

    ROW      what is measured
    run      peer → Result
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from benchmarks.corpus_steps import DATA, pieces, rate
from benchmarks.frame import Result, Row, compare
from yanmo.errors import Error, InputError, need
from yanmo.tokens.bytelevel import compile_library
from yanmo.tokens.tokenizer import load_tokenizer
from yanmo.tokens.train import train_tokenizer

TEXTS = {"english": ("gutenberg-1400-0", "gutenberg-145"), "chinese": ("zh-novel-红楼梦", "zh-novel-西游记")}
OTHERS = ("gutenberg-2600-0", "zh-novel-隋唐演义")  # what the second vocabulary is trained on
PIECES = 300
LEAST = 8.0  # MB/s
ROW = Row(
    name="TOKENS",
    job="texts to ids by byte-level BPE on one core",
    unit="MB/s",
    goals={
        "goal-gpt2-english": 1.0,
        "goal-gpt2-chinese": 1.0,
        "goal-qwen2-english": 1.0,
        "goal-qwen2-chinese": 1.0,
        "tokenizers-gpt2-english": 4.0,
        "tokenizers-qwen2-chinese": 4.0,
        "tiktoken-gpt2-english": 1.0,
        "tiktoken-gpt2-chinese": 1.0,
    },
)


def run(peer: str, repeats: int) -> Result:
    """Measure against one of ROW.goals."""
    name, vocabulary, language = peer.split("-")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    texts = pieces(TEXTS[language], PIECES)
    library = vocabularies(vocabulary)
    compiled = compile_library(library)
    if compiled is None:
        raise InputError("the compiled library of texts is absent; build it with setup.py build_ext --inplace")
    ours: Callable[[Sequence[str]], Any] = compiled.encode
    wanted = [found.ids for found in library.encode_batch_fast(texts, add_special_tokens=False)]
    if [ids.tolist() for ids in ours(texts)] != wanted:
        raise Error(f"{ROW.name}: the ids are not those of the tokenizers library, so nothing is measured")
    theirs = PEERS[name](library)
    if theirs is not None and [list(ids) for ids in theirs(texts)] != wanted:
        raise Error(f"{ROW.name}: the ids of {name} are others, so nothing is measured")
    return compare(
        replace(ROW, job=f"{language} texts to ids, {vocabulary}'s rules, on one core"),
        peer,
        rate(ours, texts),
        (lambda: LEAST) if theirs is None else rate(theirs, texts),
        equal=f"the ids of {len(texts)} texts are those of the tokenizers library",
        packages=("tokenizers",) if theirs is None or name == "tokenizers" else ("tokenizers", name),
        repeats=repeats,
    )


@cache
def vocabularies(name: str) -> Any:
    """The vocabulary as a tokenizers.Tokenizer."""
    if name == "gpt2":
        path = DATA.parent / "tokenizers" / "gpt2-vocab.bpe"
        if not path.is_file():
            raise InputError(f"{path.name} is not there; the row TOKENS needs the shared vocabularies")
        return load_tokenizer(path).engine.library  # type: ignore[attr-defined]
    from tokenizers import Tokenizer, normalizers

    trained = train_tokenizer(pieces(OTHERS, 10_000), "bpe", 32_000).engine.library  # type: ignore[attr-defined]
    library = Tokenizer.from_str(trained.to_str())
    library.normalizer = normalizers.NFC()
    return library


def _tokenizers(library: Any) -> Callable[[Sequence[str]], Any]:
    return lambda texts: [found.ids for found in library.encode_batch_fast(list(texts), add_special_tokens=False)]


def _tiktoken(library: Any) -> Callable[[Sequence[str]], Any]:
    """The same vocabulary in tiktoken, by ordinary text alone."""
    tiktoken = need("tiktoken", "bench", "the row TOKENS")
    from yanmo.tokens.bytelevel import GPT2
    from yanmo.tokens.fast import byte_alphabet

    alphabet = byte_alphabet()
    table = {token: number for token, number in library.get_vocab(False).items() if set(token) <= alphabet.keys()}
    ranks = {bytes(alphabet[letter] for letter in token): number for token, number in table.items()}
    ranks.pop(b"<|endoftext|>", None)
    encoding = tiktoken.Encoding("gpt2", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={})
    return lambda texts: [encoding.encode_ordinary(text) for text in texts]


PEERS: dict[str, Callable[[Any], Any]] = {"goal": lambda _: None, "tokenizers": _tokenizers, "tiktoken": _tiktoken}
