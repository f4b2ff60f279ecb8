"""[data] and [tokenizer] of a recipe → a corpus, a tokenizer, token shards, in a folder that keeps what is finished.

In: sections of a recipe and the run's folder. Out: RUN/corpus, RUN/tokenizer, RUN/tokens.

    make_corpus        text → corpus folder, or the corpus folder that is named
    make_tokenizer     the tokenizer that is named, or one that is trained on the training documents
    make_shards        corpus → tokens/train, tokens/valid
    take_shards        the same from token shards that are named: as they are, or shared out
    make_live          tokens/live: the part of valid that is measured during training
    ends               which ids open and close a document of a vocabulary

`say(stage, values)` hears of the progress: "corpus", "tokenizer", "tokens" with `share` and `text`, "note" with `text`.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from yanmo.corpus.documents import TEXT_COLUMNS
from yanmo.corpus.engine import make_corpus as make_folder
from yanmo.corpus.folder import Corpus, load_corpus
from yanmo.corpus.ledger import ReadReport
from yanmo.corpus.readers import kind_by_content
from yanmo.corpus.settings import CorpusRecipe, with_values
from yanmo.corpus.sources import find_sources
from yanmo.errors import ConfigError, InputError
from yanmo.files import write_json
from yanmo.hub import resolve
from yanmo.recipe import DataSection, TokenizerSection
from yanmo.tokens.shards import TokenShards, is_shards, open_shards, start_and_end, write_shards
from yanmo.tokens.tokenise import tokenise
from yanmo.tokens.tokenizer import Tokenizer, load_tokenizer
from yanmo.tokens.train import train_tokenizer

Say = Callable[[str, dict[str, Any]], None]
ALONE = 32 * 2**20  # bytes of text files above which workers read them
ENCODED_AT_ONCE = 64  # documents
SENTINELS = tuple(f"<extra_id_{number}>" for number in range(100))  # T5's


def ends(tokenizer: Tokenizer) -> tuple[int, int]:
    """Which ids open and close a document: BOS and EOS, or of an encoder's vocabulary what frames a text."""
    bos = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.cls_id
    eos = tokenizer.eos_id if tokenizer.eos_id is not None else tokenizer.sep_id
    return start_and_end(bos, eos)


# --- text


def make_corpus(data: DataSection, folder: Path, say: Say) -> Corpus:
    """Read, clean and split the text; a corpus folder, made before or named alone by the recipe, is taken as it is."""
    if folder.is_dir():
        return load_corpus(folder)
    if len(data.paths) == 1 and (Path(data.paths[0]) / "card.json").is_file():
        return load_corpus(data.paths[0])
    columns = tuple(data.text_column) or TEXT_COLUMNS
    size = sum(source.size for source in find_sources(data.paths, ReadReport(), kind_by_content, columns))

    def progress(step: str, done: int, total: int) -> None:
        share = done / total if total and step == "read" else None
        say("corpus", {"share": share, "text": f"{done / 1e6:.1f} MB" if step == "read" else step})

    given = {"out.valid_share": data.valid_share, "sources.text_column": data.text_column}
    recipe = with_values(CorpusRecipe(), given)
    engine = "local" if size > ALONE else "here"
    corpus = make_folder(data.paths, folder, recipe, engine=engine, progress=progress)
    for problem in corpus.card["problems"]:
        say("note", {"text": problem["what"]})
    for note in corpus.card["notes"]:
        say("note", {"text": note})
    return corpus


def make_tokenizer(
    section: TokenizerSection, corpus: Corpus | None, folder: Path, say: Say, special_tokens: Sequence[str] = ()
) -> Tokenizer:
    """Open the tokenizer that the recipe names, or train one on the training documents; a copy is kept in `folder`.

    special_tokens: of a trained one, after its kind's own.
    """
    if folder.is_dir():
        return load_tokenizer(folder)
    if section.path is not None:
        tokenizer = load_tokenizer(resolve(section.path, want="tokenizer"))
    else:
        assert corpus is not None, "token shards come with a tokenizer"
        texts = (document.text for document in corpus.documents("train"))
        total = corpus.card["splits"]["train"]["bytes"]
        watched = _watched(texts, total, "tokenizer", say)
        tokenizer = train_tokenizer(watched, section.kind, section.vocab_size, special_tokens=special_tokens)
    ends(tokenizer)
    tokenizer.save(folder)
    return tokenizer


def make_shards(corpus: Corpus, tokenizer: Tokenizer, folder: Path, say: Say) -> None:
    """Write the ids of both splits, on all cores; a finished one is kept, a part of one is continued."""

    def progress(done: int, total: int) -> None:
        say("tokens", {"share": done / max(total, 1), "text": f"{done / 1e6:.1f} MB"})

    for name in ("train", "valid"):
        if not (folder / name).is_dir():
            tokenise(corpus, name, tokenizer, folder / name, ends=ends(tokenizer), progress=progress)


def _encode(texts: Iterable[str], tokenizer: Tokenizer, folder: Path) -> TokenShards:
    n_bytes, texts = 0, iter(texts)

    def ids() -> Iterator[list[int]]:
        nonlocal n_bytes
        while block := list(itertools.islice(texts, ENCODED_AT_ONCE)):
            n_bytes += sum(len(text.encode()) for text in block)
            yield from tokenizer.encode_batch(block, add_special_tokens=False)

    return _write(ids(), tokenizer, folder, lambda: n_bytes)


def _write(
    documents: Iterable[Sequence[int]], tokenizer: Tokenizer, folder: Path, n_bytes: int | Callable[[], int]
) -> TokenShards:
    start_id, end_id = ends(tokenizer)
    return write_shards(
        documents,
        folder,
        tokenizer_hash=tokenizer.hash,
        vocab_size=tokenizer.vocab_size,
        n_bytes=n_bytes,
        start_id=start_id,
        end_id=end_id,
    )


def _watched(texts: Iterable[str], total: int, stage: str, say: Say) -> Iterator[str]:
    done = 0
    for text in texts:
        done += len(text.encode())
        say(stage, {"share": done / max(total, 1), "text": f"{done / 1e6:.1f} MB"})
        yield text


# --- token shards that exist


def shard_folders(paths: Sequence[str]) -> list[Path]:
    """The folders of token shards among the paths, a folder of `train` and `valid` being one of them; [] for text.

    Text and shards together are a ConfigError.
    """
    found = [Path(path) for path in paths if is_shards(path) or is_shards(Path(path) / "train")]
    if found and len(found) < len(paths):
        raise ConfigError(f"data.paths names token shards ({found[0]}) and text; give the one or the other")
    return found


def tokenizer_beside(folder: Path) -> str | None:
    """The tokenizer of the run to which shards belong, if they lie in one."""
    for place in (folder.resolve().parent, folder.resolve().parent.parent):
        if (place / "tokenizer").is_dir():
            return str(place / "tokenizer")
    return None


def take_shards(folders: Sequence[Path], tokenizer: Tokenizer, folder: Path, valid_share: float, say: Say) -> None:
    """Fill `folder` with train and valid out of token shards of the same tokenizer, which is checked.

    Shards that are split already stay split; the documents of others go to one side by a hash of their ids. The bytes
    of a document there are those of the text that its ids decode to.
    """
    opened: dict[str, list[TokenShards]] = {name: [] for name in ("train", "valid", "both")}
    for place in folders:
        for name in ("train", "valid") if is_shards(place / "train") else ("both",):
            opened[name].append(open_shards(place if name == "both" else place / name, tokenizer.hash))
    total = sum(shards.n_documents for group in opened.values() for shards in group)
    limit = _limit(opened["both"], valid_share) if opened["both"] and not opened["valid"] else 0
    for name in ("train", "valid"):
        if not (folder / name).is_dir():
            counted = _Counted(tokenizer, sum(shards.n_bytes for shards in opened[name]))
            documents = counted.through(_documents(opened, name, limit), total, say)
            _write(documents, tokenizer, folder / name, lambda counted=counted: counted.n_bytes)  # type: ignore[misc]


class _Counted:
    """The bytes of documents whose ids pass through; those of a whole folder of shards are known before."""

    def __init__(self, tokenizer: Tokenizer, n_bytes: int) -> None:
        self.tokenizer, self.n_bytes = tokenizer, n_bytes

    def through(self, documents: Iterable[tuple[str, list[int]]], total: int, say: Say) -> Iterator[list[int]]:
        for number, (side, ids) in enumerate(documents):
            say("tokens", {"share": number / max(total, 1), "text": f"{number:,} documents"})
            if side == "both":
                self.n_bytes += len(self.tokenizer.decode(ids).encode())
            yield ids


def _documents(opened: dict[str, list[TokenShards]], name: str, limit: int) -> Iterator[tuple[str, list[int]]]:
    for side in (name, "both"):
        for shards in opened[side]:
            for number in range(shards.n_documents):
                ids = shards.document(number)[:-1]
                if side == name or (_mark(ids) < limit) == (name == "valid"):
                    yield side, ids.tolist()


def _limit(opened: Sequence[TokenShards], valid_share: float) -> int:
    """Below which mark a document is for validation; each side gets one."""
    marks = sorted({_mark(shards.document(n)[:-1]) for shards in opened for n in range(shards.n_documents)})
    if len(marks) < 2:
        raise InputError(
            f"{opened[0].folder}: {len(marks)} different documents, too few for training and validation; add shards, "
            "or give a folder of train and valid"
        )
    return min(max(int(valid_share * 2**64), marks[0] + 1), marks[-1])


def _mark(ids: Any) -> int:
    return int.from_bytes(hashlib.blake2b(ids.astype("<u4").tobytes(), digest_size=8).digest(), "little")


# --- what is measured during training


def make_live(corpus: Corpus | None, folder: Path, tokenizer: Tokenizer, live_tokens: int) -> None:
    """Write about `live_tokens` of validation to folder/live: documents evenly over the whole split.

    Where there is no corpus, only shards, the bytes of a part are those of the text that its ids decode to.
    """
    valid = open_shards(folder / "valid", tokenizer.hash, verify=False)
    every = max(1, math.ceil(valid.n_tokens / live_tokens))
    if corpus is not None:
        some = (document.text for document in itertools.islice(corpus.documents("valid"), 0, None, every))
        _encode(some, tokenizer, folder / "live")
        return
    part = [valid.document(number)[:-1].tolist() for number in range(0, valid.n_documents, every)]
    n_bytes = valid.n_bytes if every == 1 else sum(len(tokenizer.decode(ids).encode()) for ids in part)
    _write(part, tokenizer, folder / "live", n_bytes)


def write_source(folder: Path, corpus: Corpus | None, folders: Sequence[Path]) -> None:
    """Keep what the model card will say of the text: a corpus elsewhere may be gone by then."""
    card = corpus.card if corpus is not None else {"shards": [str(place) for place in folders]}
    write_json(folder / "corpus.json", card)
