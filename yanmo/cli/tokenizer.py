"""`yanmo tokenizer`: train one from text, and look at what one does.

In: the options. Out: ids, text or a table for people, JSON with --json.

    train     text → a folder with tokenizer.json
    encode    text → ids
    decode    ids → text
    shards    a corpus → its ids on disk, in parallel and resumable
    show      size, special tokens, fingerprint
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from yanmo.tokens.tokenizer import Tokenizer

app = typer.Typer(no_args_is_help=True, help="Train a tokenizer, or see what one does with a text.")

SAMPLE = 2**21  # characters of the training text on which compression is measured

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Where = Annotated[str, typer.Argument(metavar="PATH_OR_ID", help="A folder, a vocabulary file, or a hub id.")]


@app.command()
def train(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Text files or folders, or a corpus folder.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must be new or empty.")],
    kind: Annotated[str, typer.Option(help="bpe, wordpiece or unigram.")] = "bpe",
    vocab_size: Annotated[int, typer.Option(help="How many ids at most.")] = 8192,
    min_frequency: Annotated[int, typer.Option(help="Pairs seen less often are not joined.")] = 2,
    special: Annotated[list[str] | None, typer.Option(help="A further special token; may be repeated.")] = None,
    text_column: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="The column of texts; may be repeated: the first counts.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a tokenizer on text."""
    from yanmo.corpus.ledger import ReadReport
    from yanmo.corpus.text import read_documents
    from yanmo.errors import FileError
    from yanmo.tokens.train import compression, train_tokenizer

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileError(f"{out}: exists and is not empty; choose a new folder, or remove this one")
    report = ReadReport()
    count = _Count()
    texts = count.through(document.text for document in read_documents(paths, report, text_column or ()))
    if sys.stderr.isatty():
        print("reading, then joining pairs …", file=sys.stderr)
    tokenizer = train_tokenizer(
        texts, kind, vocab_size, special_tokens=tuple(special or ()), min_frequency=min_frequency
    )
    tokenizer.save(out)
    for problem in report.problems:
        print(f"yanmo: {problem['what']}", file=sys.stderr)
    result = {
        "out": str(out),
        "kind": kind,
        "ids": tokenizer.vocab_size,
        "documents": count.documents,
        "bytes": count.n_bytes,
        "bytes_per_token": round(compression(tokenizer, count.sample), 3),
        "failed": sum(sum(reasons.values()) for reasons in report.failed.values()),
        "hash": tokenizer.hash,
    }
    _print(result, as_json)


@app.command()
def encode(
    where: Where,
    text: Annotated[str, typer.Argument(help="The text; - reads it from standard input.")],
    special: Annotated[bool, typer.Option("--special/--no-special", help="With what stands around a text.")] = True,
    as_json: Json = False,
) -> None:
    """Print the ids of a text."""
    tokenizer = _open(where)
    ids = tokenizer.encode(_read_input() if text == "-" else text, add_special_tokens=special)
    if as_json:
        print(json.dumps({"ids": ids, "tokens": [tokenizer.token(number) for number in ids]}, ensure_ascii=False))
    else:
        print(*ids)


@app.command()
def decode(
    where: Where,
    ids: Annotated[list[int], typer.Argument(metavar="IDS…", help="Whole numbers, as encode prints them.")],
    special: Annotated[bool, typer.Option("--special/--no-special", help="Write special tokens too.")] = False,
    as_json: Json = False,
) -> None:
    """Print the text of ids."""
    tokenizer = _open(where)
    tokens = [tokenizer.token(number) for number in ids]
    text = tokenizer.decode(ids, skip_special_tokens=not special)
    print(json.dumps({"text": text, "tokens": tokens}, ensure_ascii=False) if as_json else text)


@app.command()
def shards(
    where: Where,
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="A corpus folder, which `yanmo corpus` makes.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write: train and valid.")],
    workers: Annotated[int | None, typer.Option(help="Processes; by default one for each core.")] = None,
    as_json: Json = False,
) -> None:
    """Write a corpus as token shards; run again after a break, it goes on."""
    from yanmo.corpus.build import load_corpus
    from yanmo.tokens.making import ends
    from yanmo.tokens.tokenise import tokenise

    tokenizer, opened = _open(where), load_corpus(corpus)
    result: dict[str, Any] = {"out": str(out), "hash": tokenizer.hash}
    for split in ("train", "valid"):
        made = tokenise(
            opened, split, tokenizer, out / split, ends=ends(tokenizer), workers=workers, progress=_progress(split)
        )
        result |= {f"{split}_{name}": made.meta[f"n_{name}"] for name in ("documents", "tokens", "bytes")}
    _print(result, as_json)


@app.command()
def show(where: Where, as_json: Json = False) -> None:
    """Show the size, the special tokens and the fingerprint."""
    tokenizer = _open(where)
    special = {str(number): tokenizer.token(number) for number in sorted(tokenizer.special_ids)}
    roles = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")
    numbers = {role: getattr(tokenizer, f"{role}_id") for role in roles}
    result: dict[str, Any] = {"ids": tokenizer.vocab_size, "library": tokenizer.engine.kind}
    result |= {f"{role}_id": number for role, number in numbers.items() if number is not None or as_json}
    framed = tokenizer.encode("")
    result["around_a_text"] = [tokenizer.token(number) for number in framed]
    result["special"] = special
    result["chat_templates"] = list(tokenizer.chat_templates)
    result["hash"] = tokenizer.hash
    if not as_json:
        result["special"] = f"{len(special)}: " + " ".join(map(_plain, list(special.values())[:12]))
        result["around_a_text"] = " ".join(map(_plain, result["around_a_text"])) or "nothing"
        result["chat_templates"] = list(map(_plain, result["chat_templates"]))
        result["chat_templates"] = " ".join(result["chat_templates"]) or "none"
    _print(result, as_json)


class _Count:
    """What went into a training: counted, and a sample kept, while it passes."""

    def __init__(self) -> None:
        self.documents = 0
        self.n_bytes = 0
        self.sample: list[str] = []
        self._room = SAMPLE

    def through(self, texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            self.documents += 1
            self.n_bytes += len(text.encode("utf-8", "surrogatepass"))
            if self._room > 0:
                self.sample.append(text[: self._room])
                self._room -= len(text)
            yield text


def _progress(name: str) -> Callable[[int, int], None] | None:
    """A line on a terminal that grows to 100 %."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        share = 100 * done // max(total, 1)
        end = "\n" if done >= total else ""
        print(f"\r{name} {share:3d} % of {total / 1e6:,.1f} MB", end=end, file=sys.stderr)

    return show


def _open(where: str) -> Tokenizer:
    from yanmo.hub import resolve
    from yanmo.tokens.tokenizer import load_tokenizer

    return load_tokenizer(resolve(where, want="tokenizer"))


def _read_input() -> str:
    from yanmo.errors import InputError

    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"byte {data[error.start]:#04x} at offset {error.start} of standard input is not UTF-8; convert it first"
        ) from None


def _plain(token: str) -> str:
    """A token of a foreign file without what could steer a terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in token)


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    width = max(map(len, result))
    for key, value in result.items():
        print(
            f"{key.replace('_', ' '):<{width}}  {value:,}"
            if isinstance(value, int)
            else f"{key.replace('_', ' '):<{width}}  {value}"
        )
