"""STEPS: the steps of a corpus, each alone in one process on one core, beside a peer or beside the figure to reach.

Texts: novels in English and Chinese from ../shared/data/corpora in pieces of 3,500 characters (datatrove and the makers
of signatures get the English ones, which they are made for). Figures are megabytes of UTF-8 a second of processor time;
grouping has millions of documents a second. A peer named after a goal is the goal itself: a constant.

datatrove runs its own Gopher quality, Gopher repetition and FineWeb filters, with words split at spaces instead of
by its tokenizer, which makes it faster. datasketch and rensa get words joined by Python, as their documentation does.

    ROW      what is measured
    run      peer → Result
    STEPS    peer → ours, theirs
"""

from __future__ import annotations

import gzip
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frame import DO, Result, Row, compare
from yanmo.corpus import boilerplate, clean, contamination, groups, language, near, paragraphs, perplexity, privacy
from yanmo.corpus.quality import judge_all
from yanmo.errors import InputError, need

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "corpora"
ENGLISH, CHINESE = ("gutenberg-1400-0", "gutenberg-145"), ("zh-novel-红楼梦",)
PIECE, PIECES = 3500, 250
DOCUMENTS = 300_000  # grouped
ROW = Row(
    name="STEPS",
    job="one step of a corpus on one core",
    unit="MB/s",
    goals={
        "goal-quality": 1.0,
        "goal-signatures": 1.0,
        "goal-language": 1.0,
        "goal-privacy": 1.0,
        "goal-grouping": 1.0,
        "datatrove-quality": 3.0,
        "py3langid-language": 3.0,
        "datasketch-signatures": 3.0,
        "rensa-signatures": 1.0,
    },
)
LEAST = {"quality": 10.0, "signatures": 10.0, "language": 20.0, "privacy": 20.0, "grouping": 0.5}


def run(peer: str, repeats: int) -> Result:
    """Measure against one of ROW.goals."""
    name, _, step = peer.partition("-")
    texts = pieces(ENGLISH, PIECES) + ([] if name in PEERS else pieces(CHINESE, PIECES))
    if name == "datatrove":  # FineWeb's rules are about lines that are paragraphs, not those of a printed page
        texts = [re.sub(r"(?<!\n)\n(?!\n)", " ", text) for text in texts]
    if step == "grouping":
        row = replace(ROW, job=f"group the signatures of {DOCUMENTS:,} documents on one core", unit="M documents/s")
        with tempfile.TemporaryDirectory() as folder:
            path = made_signatures(Path(folder))
            return compare(row, peer, lambda: grouping(path), _constant(step), equal="a goal", repeats=repeats)
    row = replace(ROW, job=f"{step} of {len(texts)} texts on one core")
    ours = rate(OURS[step], texts)
    if name == "goal":
        return compare(row, peer, ours, _constant(step), equal="a goal", repeats=repeats)
    theirs, equal = PEERS[name](texts)
    return compare(row, peer, ours, rate(theirs, texts), equal=equal, packages=(name,), repeats=repeats)


def _constant(step: str) -> DO:
    return lambda: LEAST[step]


def pieces(names: Sequence[str], number: int) -> list[str]:
    """The first pieces of each book."""
    found: list[str] = []
    for name in names:
        path = DATA / f"{name}.txt.gz"
        if not path.is_file():
            raise InputError(f"{path.name} is not there; the row STEPS needs the shared corpora")
        text = clean.clean(gzip.decompress(path.read_bytes()).decode("utf-8"))
        found += [text[start : start + PIECE] for start in range(0, len(text), PIECE)][:number]
    return found


def rate(step: Callable[[list[str]], object], texts: list[str]) -> DO:
    """Megabytes of these texts a second of processor time."""
    size = sum(len(text.encode("utf-8")) for text in texts) / 1e6

    def do() -> float:
        start = time.process_time()
        step(texts)
        return size / (time.process_time() - start)

    return do


OURS: dict[str, Callable[[list[str]], object]] = {
    "clean": lambda texts: [clean.clean(text) for text in texts],
    "boilerplate": lambda texts: [boilerplate.strip(text) for text in texts],
    "repair": lambda texts: [boilerplate.repair(text) for text in texts],
    "quality": judge_all,
    "language": lambda texts: [language.identify(text) for text in texts],
    "privacy": lambda texts: [privacy.mask(text) for text in texts],
    "paragraphs": lambda texts: [paragraphs.paragraph_marks(text) for text in texts],
    "signatures": near.signatures,
}


def made_signatures(folder: Path) -> Path:
    """Signatures by chance, every tenth a copy."""
    found = np.random.default_rng(0).integers(0, 2**32, (DOCUMENTS, near.SHAPE.hashes), np.uint32)
    found[1::10] = found[::10]
    writer = groups.Writer(folder / "made.sig")
    writer.add_signatures([f"{number:032x}" for number in range(DOCUMENTS)], [1] * DOCUMENTS, found)
    writer.close()
    return writer.path


def grouping(path: Path) -> float:
    """Millions of documents a second."""
    start = time.process_time()
    found = groups.group([path])
    seconds = time.process_time() - start
    assert int((~found.keep).sum()) == DOCUMENTS // 10
    return DOCUMENTS / 1e6 / seconds


Peer = tuple[Callable[[list[str]], object], str]  # what it does, and how its results were found equal


def _datatrove(texts: list[str]) -> Peer:
    filters = need("datatrove.pipeline.filters", "bench", "the peer datatrove")
    data = need("datatrove.data", "bench", "the peer datatrove")
    for module in ("gopher_quality_filter", "gopher_repetition_filter", "fineweb_quality_filter"):
        found: Any = need(f"datatrove.pipeline.filters.{module}", "bench", "the peer datatrove")
        found.split_into_words = lambda text, _: text.split()
    steps = [
        filters.GopherQualityFilter(),
        filters.GopherRepetitionFilter(),
        filters.FineWebQualityFilter(),
    ]

    def do(texts: list[str]) -> list[bool]:
        documents = [data.Document(text=text, id="") for text in texts]
        verdicts = [[step.filter(each) is True for step in steps] for each in documents]  # every filter, as ours
        return [all(each) for each in verdicts]

    kept = [reason is None for _, reason in judge_all(texts, ["en"] * len(texts))]
    same = sum(one == other for one, other in zip(kept, do(texts)))
    return (
        do,
        f"the same rules but for what docs/quality.md names: {same} of {len(texts)} texts kept or dropped by both",
    )


def _py3langid(texts: list[str]) -> Peer:
    module: Any = need("py3langid.langid", "corpus", "the peer py3langid")
    model = module.LanguageIdentifier.from_model_file(module.MODEL_FILE, norm_probs=True)
    same = sum(model.classify(text)[0] == language.identify(text)[0] for text in texts)
    return lambda texts: [model.classify(text) for text in texts], f"the same language in {same} of {len(texts)} texts"


SKETCHED = "112 hash functions over word 5-grams; benchmarks/planted.py holds ours against exact similarities"


def _shingles(text: str) -> set[str]:
    words = text.lower().split()
    return {" ".join(words[place : place + 5]) for place in range(len(words) - 4)}


def _datasketch(texts: list[str]) -> Peer:
    sketch: Any = need("datasketch", "bench", "the peer datasketch")

    def do(texts: list[str]) -> None:
        for text in texts:
            sketch.MinHash(num_perm=112).update_batch([each.encode() for each in _shingles(text)])

    return do, SKETCHED


def _rensa(texts: list[str]) -> Peer:
    sketch: Any = need("rensa", "bench", "the peer rensa")

    def do(texts: list[str]) -> None:
        for text in texts:
            found = sketch.RMinHash(num_perm=112, seed=0)
            found.update(list(_shingles(text)))
            found.digest()

    return do, SKETCHED


PEERS = {"datatrove": _datatrove, "py3langid": _py3langid, "datasketch": _datasketch, "rensa": _rensa}


def figures() -> dict[str, float]:
    """MB/s of every step of ours once, for a look: `python -m benchmarks.corpus_steps`."""
    texts = pieces(ENGLISH, PIECES) + pieces(CHINESE, PIECES)
    found = {name: rate(step, texts) for name, step in OURS.items()}
    model = perplexity.train(texts[::2])
    found["perplexity"] = rate(lambda these: perplexity.scores(these, model), texts[1::2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.txt"
        path.write_text("\n".join(" ".join(text.split()[:60]) for text in texts[::9]), "utf-8")
        index = contamination.index([path])
    found["contamination"] = rate(lambda these: contamination.overlaps(these, index), texts)
    return {name: round(max(do() for _ in range(3)), 1) for name, do in found.items()}


if __name__ == "__main__":
    for step, value in figures().items():
        print(f"{step:15} {value:8.1f} MB/s")
