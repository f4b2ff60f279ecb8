"""B5: translate 1000 sentences with four beams, Marian's size, against CTranslate2 in int8 and transformers.

A Marian of 6 + 6 layers × 512 and 58,101 words with random weights. Random weights never end a text, so every side
writes exactly as many tokens for every sentence, and does the same work; sources are real sentences (Multi30k, German),
a token for each piece of up to five letters of a word. A turn is a part of them.

    ctranslate2-int8     converted by its own converter; its own batches, sorted by length
    transformers-fp32    generate, batches of 8 sorted by length

Ours has weights and inputs of products in 8 bits and bfloat16 between them; the beams of 64 sentences are the rows of
one step.

    ROW      what is measured
    run      peer → Result
"""

from __future__ import annotations

import copy
import gzip
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.frame import Result, Row, compare
from yanmo.errors import Error, need

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "translation" / "multi30k-val.de.gz"
TRAIN = DATA.with_name("multi30k-train.de.gz")
SENTENCES, BEAMS, NEW_TOKENS, SEED = 1000, 4, 16, 0
TURNS = {"ctranslate2-int8": 5, "transformers-fp32": 20}  # a part of the sentences each turn: the peer is slow
BATCH, PEER_BATCH = 64, 8
ROW = Row(
    name="B5",
    job=f"translate {SENTENCES} sentences, a part each turn, Marian 6+6 × 512, {BEAMS} beams, {NEW_TOKENS} tokens each",
    unit="token/s",
    goals={"ctranslate2-int8": 1.3, "transformers-fp32": 5.0},
)
Rows = list[list[int]]
Search = Callable[[Rows], tuple[Rows, list[float]]]  # sources → the best text of each, its log probability


def run(peer: str, repeats: int, **sizes: int) -> Result:
    """Measure against one of ROW.goals; `sizes` other than Marian's are for trying the script."""
    transformers = need("transformers", "bench", f"the benchmark {ROW.name}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        network = make(transformers, folder, **sizes)
        sources = read(network.config.vocab_size)
        ours, exact = our_search(folder, "bfloat16", packed=True), our_search(folder, "float32")
        theirs, packages = (ctranslate2 if peer == "ctranslate2-int8" else transformers_search)(network, folder)
        equal = _equal(exact, ours, theirs, network, sources[:24])
        jobs = (_turns(search, sources, TURNS[peer]) for search in (ours, theirs))
        return compare(ROW, peer, *jobs, equal=equal, packages=packages, repeats=repeats)


def make(transformers: Any, folder: Path, **sizes: int) -> Any:
    """Save a Marian with random weights, larger than fresh ones so that beams have something to choose."""
    import torch

    torch.manual_seed(SEED)
    given = {"d_model": 512, "encoder_layers": 6, "decoder_layers": 6, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048}
    given |= {"encoder_attention_heads": 8, "decoder_attention_heads": 8, "vocab_size": 58101, **sizes}
    words = given["vocab_size"]
    ends = {
        "pad_token_id": words - 1,
        "eos_token_id": 0,
        "decoder_start_token_id": words - 1,
        "forced_eos_token_id": None,
    }
    config = transformers.MarianConfig(
        activation_function="swish", scale_embedding=True, init_std=0.05, **given, **ends
    )
    network = transformers.MarianMTModel(config).eval()
    network.final_logits_bias[0, 0] = network.final_logits_bias[0, words - 1] = -1e4  # never ends, never pads
    network.save_pretrained(folder)
    return network


def read(words: int) -> Rows:
    """Ids of real lengths: each piece of up to five letters of a sentence is a token."""
    lines = []
    for path in (DATA, TRAIN):
        if not path.is_file():
            raise Error(f"{ROW.name}: {path} is not there; put Multi30k there")
        lines += gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    pieces = [[w[i : i + 5] for w in line.split() for i in range(0, len(w), 5)] for line in lines[:SENTENCES]]
    known: dict[str, int] = {}
    return [[known.setdefault(p, 1 + len(known) * 7 % (words - 3)) for p in row] + [0] for row in pieces]


def our_search(folder: Path, precision: str, *, packed: bool = False) -> Search:
    """Ours: batches sorted by length, the rules of ending switched off."""
    import torch

    from yanmo.inference.generate import Ends, Options
    from yanmo.inference.quantize import Bits, quantize
    from yanmo.inference.search import Beams, search_ids
    from yanmo.models.checkpoint import load_network

    network = load_network(folder, dtype=getattr(torch, precision))
    words = network.config.vocab_size  # type: ignore[union-attr]
    if packed:
        network = quantize(network, Bits(wide=False))  # type: ignore[arg-type]
    ends, options = Ends(start_id=words - 1), Options(max_new_tokens=NEW_TOKENS)
    beams = Beams(beams=BEAMS, length_penalty=0.0)

    def search(rows: Rows) -> tuple[Rows, list[float]]:
        found = search_ids(network, rows, beams, options, ends)
        return [group[0].ids for group in found], [group[0].score for group in found]

    return lambda rows: by_length(rows, search, BATCH)


def transformers_search(network: Any, folder: Path) -> tuple[Search, tuple[str, ...]]:
    """generate; its `sequences_scores` with a penalty of 0 is the log probability."""
    import torch

    options = {"num_beams": BEAMS, "do_sample": False, "min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
    options |= {"length_penalty": 0.0, "return_dict_in_generate": True, "output_scores": True}

    def search(rows: Rows) -> tuple[Rows, list[float]]:
        longest, pad = max(map(len, rows)), network.config.pad_token_id
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        with torch.inference_mode():
            found = network.generate(ids, attention_mask=(ids != pad).long(), **options)
        return found.sequences[:, 1:].tolist(), found.sequences_scores.tolist()

    return (lambda rows: by_length(rows, search, PEER_BATCH)), ("transformers",)


def ctranslate2(network: Any, folder: Path) -> tuple[Search, tuple[str, ...]]:
    """Its words are the numbers of the ids, since there is no tokenizer; they are written beside the weights."""
    import numpy as np
    import torch

    library = need("ctranslate2", "bench", f"the benchmark {ROW.name}")
    words = network.config.vocab_size
    spec = library.converters.transformers.MarianMTLoader().get_model_spec(
        copy.deepcopy(network)
    )  # the loader changes it
    names = ["</s>", *(str(i) for i in range(1, words - 1))]  # its loader leaves out the padding, and starts from zeros
    bias = network.final_logits_bias.numpy().astype(np.float32)[0, :-1]
    spec.decoder.projection.bias = bias
    spec.register_source_vocabulary(names)
    spec.register_target_vocabulary(names)
    spec.config.eos_token = spec.config.bos_token = spec.config.unk_token = spec.config.decoder_start_token = "</s>"
    spec.config.add_source_eos = False
    spec.validate()
    spec.optimize(quantization="int8")
    (folder / "ct2").mkdir()
    spec.save(str(folder / "ct2"))
    threads = torch.get_num_threads()
    model = library.Translator(str(folder / "ct2"), compute_type="int8", intra_threads=threads, inter_threads=1)
    lengths = {"min_decoding_length": NEW_TOKENS, "max_decoding_length": NEW_TOKENS, "length_penalty": 0.0}

    def search(rows: Rows) -> tuple[Rows, list[float]]:
        texts = [[names[i] for i in row] for row in rows]
        found = model.translate_batch(
            texts, beam_size=BEAMS, max_batch_size=BATCH, return_scores=True, return_end_token=True, **lengths
        )
        return [[int(w) for w in f.hypotheses[0]] for f in found], [f.scores[0] for f in found]

    return search, ("ctranslate2",)


def by_length(rows: Rows, search: Search, size: int) -> tuple[Rows, list[float]]:
    """Batches of sources sorted by length, and what was found put back in order."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    texts: Rows = [[] for _ in rows]
    scores = [0.0] * len(rows)
    for begin in range(0, len(order), size):
        part = order[begin : begin + size]
        for i, text, score in zip(part, *search([rows[i] for i in part]), strict=True):
            texts[i], scores[i] = text, score
    return texts, scores


def _turns(search: Search, sources: Rows, turns: int) -> Callable[[], float]:
    """A job that translates every `turns`-th sentence, beginning one further each time."""
    places = itertools.count()

    def once() -> float:
        part = sources[next(places) % turns :: turns]
        start = time.perf_counter()
        search(part)
        return len(part) * NEW_TOKENS / (time.perf_counter() - start)

    return once


def _equal(exact: Search, ours: Search, theirs: Search, network: Any, some: Rows) -> str:
    """Ours in float32 must find the texts of transformers; the precisions measured may lose little of their scores."""
    reference, _ = transformers_search(network, Path())
    texts, scores = reference(some)
    mine, own = exact(some)
    same = sum(a == b for a, b in zip(mine, texts))
    if same < len(some) or max(abs(a - b) for a, b in zip(own, scores)) > 1e-2:
        raise Error(
            f"{ROW.name}: in float32 {same} of {len(some)} texts are those of transformers; nothing is measured"
        )
    said = [f"in float32 ours finds transformers' texts and scores for all of {len(some)} sentences"]
    for whose, search in (("ours", ours), ("the peer", theirs)):
        found, sums = search(some)
        if any(len(text) != NEW_TOKENS for text in found):
            raise Error(f"{ROW.name}: {whose} wrote texts that are not of {NEW_TOKENS} tokens; nothing is measured")
        apart = sum(abs(a - b) / abs(b) for a, b in zip(sums, scores)) / len(some)
        equal = sum(a == b for a, b in zip(found, texts))
        said.append(
            f"as measured {whose}: {NEW_TOKENS} tokens of each, {equal} texts equal, log p apart by {apart:.2%}"
        )
        if apart > 0.1:
            raise Error(f"{ROW.name}: {whose} has log p apart by {apart:.1%}, so nothing is measured")
    return "; ".join(said)
