"""Text → ids and back, for every public vocabulary format.

In: a folder, or one file of it, or a GGUF file. Out: a `Tokenizer`.

    load_tokenizer    path → Tokenizer; tokenizer.json first, then Marian's pair, .model, vocab.txt, vocab.json + merges
    Tokenizer         encode, decode, the ids of special tokens, hash, save

What a text is framed with is what the folder says (BOS, [CLS] … [SEP], </s>). A file alone gives what the library of
its format gives: tokenizer.json its own frame, vocab.txt [CLS] … [SEP], a .model and GPT-2's pair nothing.

Behind it stand two engines (fast.py, sentencepieces.py); formats.py, pieceformats.py and settings.py read the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from yanmo.errors import FileError, InputError
from yanmo.files import atomic_folder, read_json_object, write_atomic, write_json
from yanmo.gguf import is_gguf, read_header
from yanmo.tokens.fast import FastEngine, roles
from yanmo.tokens.formats import PAIRS, byte_level, from_json, partner, prepare, wordpiece
from yanmo.tokens.ggufvocab import from_gguf
from yanmo.tokens.offsets import Range
from yanmo.tokens.pieceformats import FILES, marian, read_pieces
from yanmo.tokens.settings import Added, Settings, lone, read_settings, to_config
from yanmo.tokens.stream import Stream


class Engine(Protocol):
    """What a library must give; `special`: put the frame around the text, `skip`: leave special tokens out."""

    kind: str
    size: int
    names: dict[str, str | None]
    special: frozenset[int]

    def encode(self, text: str, special: bool, target: bool) -> list[int]: ...
    def encode_batch(self, texts: Sequence[str], special: bool, target: bool) -> list[list[int]]: ...
    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]: ...
    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]: ...
    def encode_offsets(self, texts: Sequence[str], special: bool) -> list[tuple[list[int], list[Range]]]: ...
    def decode(self, ids: Sequence[int], skip: bool) -> str: ...
    def stream(self, skip: bool) -> Stream: ...
    def token(self, number: int) -> str | None: ...
    def id(self, token: str) -> int | None: ...
    def id_bytes(self, number: int) -> bytes: ...
    def added(self) -> list[Added]: ...
    def fingerprint(self) -> str: ...
    def files(self) -> dict[str, bytes]: ...
    def config(self) -> dict[str, Any]: ...


class Tokenizer:
    """A vocabulary with the rules that cut text into it."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self._roles = {role: engine.id(name) for role, name in engine.names.items() if name is not None}

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size:,} ids, {self.engine.kind}, {str(self.settings.source)!r})"

    def encode(self, text: str, add_special_tokens: bool = True, target: bool = False) -> list[int]:
        """The ids of a text; special tokens that the text spells out are found, except by a .model alone.

        `target` encodes in the language to translate into, where a vocabulary has two (Marian). A lone surrogate,
        which no text in Unicode holds, is an InputError.
        """
        return self.engine.encode(_whole(text), add_special_tokens, target)

    def encode_batch(
        self, texts: Iterable[str], add_special_tokens: bool = True, target: bool = False
    ) -> list[list[int]]:
        """The ids of each text, as `encode` gives them; faster, since the library may use several cores."""
        return self.engine.encode_batch([_whole(text) for text in texts], add_special_tokens, target)

    def encode_arrays(self, texts: Iterable[str]) -> list[np.ndarray]:
        """The ids of each text without special tokens around it, (n,) uint32: the fastest way for many texts."""
        return self.engine.encode_arrays([_whole(text) for text in texts])

    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        """(ids, token types) of two texts in the frame that the vocabulary has for a pair."""
        return self.engine.encode_pair(_whole(first), _whole(second))

    def encode_offsets(
        self, texts: Iterable[str], add_special_tokens: bool = False
    ) -> list[tuple[list[int], list[Range]]]:
        """(ids, ranges) of each text: the ids that `encode` gives, and the characters of the text that each stands for.

        Ranges are code points of the text as it was given, ends exclusive, in its order. Left out are white space and
        words of characters that the vocabulary drops (offsets.py); ids of the frame have the range (0, 0).
        """
        return self.engine.encode_offsets([_whole(text) for text in texts], add_special_tokens)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of ids; broken UTF-8, and an id without a token, are U+FFFD, so that nothing is lost unseen."""
        return self.engine.decode(self.checked(ids), skip_special_tokens)

    def checked(self, ids: Iterable[int]) -> list[int]:
        """Ids as a list of ints; anything that is no id is an InputError."""
        try:
            numbers = [number.__index__() for number in ids]
        except (TypeError, AttributeError):
            raise InputError(f"ids are whole numbers in a list, not {_short(ids)}; give them as [1, 2, 3]") from None
        if numbers and min(numbers) < 0:
            raise InputError(f"the id {min(numbers)} is negative; ids run from 0 to {self.vocab_size - 1}")
        return numbers

    @property
    def vocab_size(self) -> int:
        """The number of ids, added tokens and gaps included: the highest id and one."""
        return self.engine.size

    @property
    def bos_id(self) -> int | None:
        """The id that begins a text."""
        return self._roles.get("bos")

    @property
    def eos_id(self) -> int | None:
        """The id that ends a text."""
        return self._roles.get("eos")

    @property
    def pad_id(self) -> int | None:
        """The id that fills a row."""
        return self._roles.get("pad")

    @property
    def unk_id(self) -> int | None:
        """The id of what the vocabulary cannot spell."""
        return self._roles.get("unk")

    @property
    def cls_id(self) -> int | None:
        """The id before a text, which a classifier reads."""
        return self._roles.get("cls")

    @property
    def sep_id(self) -> int | None:
        """The id between two texts."""
        return self._roles.get("sep")

    @property
    def mask_id(self) -> int | None:
        """The id in the place of a hidden token."""
        return self._roles.get("mask")

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids that `decode` leaves out: control tokens and tokens with a role."""
        return self.engine.special

    def token(self, id: int) -> str:
        """The name of an id, as the vocabulary spells it."""
        number = self.checked([id])[0]
        token = self.engine.token(number)
        if token is None:
            raise InputError(f"no token has the id {number}; ids run from 0 to {self.vocab_size - 1}")
        return token

    def id(self, token: str) -> int | None:
        """The id of a token by its name, or None."""
        try:
            token.encode()
        except UnicodeEncodeError:
            return None
        return self.engine.id(token)

    def id_bytes(self, id: int) -> bytes:
        """The bytes that an id writes in the middle of a text; a mark of a space (▁, Ġ) is the space."""
        self.token(id)
        return self.engine.id_bytes(id)

    @cached_property
    def hash(self) -> str:
        """SHA-256 in hex of everything that decides ids; equal for a saved and reloaded tokenizer."""
        return self.engine.fingerprint()

    @property
    def chat_template(self) -> str | None:
        """The folder's chat template (the one named default), or None."""
        return self.settings.templates.get("default")

    @property
    def chat_templates(self) -> dict[str, str]:
        """All chat templates of the folder by name."""
        return dict(self.settings.templates)

    def save(self, folder: str | Path) -> None:
        """Write the vocabulary and tokenizer_config.json into a folder, where transformers' AutoTokenizer and
        `load_tokenizer` open it with equal ids; a new folder appears complete or not at all."""
        folder = Path(folder)
        config = to_config(self.settings, self.engine.names, self.engine.added()) | self.engine.config()
        if folder.exists():
            self._write(folder, config)
            return
        with atomic_folder(folder) as partial:
            self._write(partial, config)

    def _write(self, folder: Path, config: dict[str, Any]) -> None:
        if folder.exists() and not folder.is_dir():
            raise FileError(f"{folder}: a file, where a folder is needed; choose another place")
        for name, data in self.engine.files().items():
            write_atomic(folder / name, data)
        write_json(folder / "tokenizer_config.json", config)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Open the tokenizer of a folder or of one file; a FileError says what is missing or damaged."""
    path = Path(path)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:  # a name too long; a NUL in it
        raise FileError(f"{str(path)!r}: no usable path ({error}); check it") from None
    if not exists:
        raise FileError(f"{path}: no such file or folder; check the path")
    return _folder(path) if is_folder else _file(path)


def _folder(folder: Path) -> Tokenizer:
    settings = read_settings(folder)
    if (folder / "tokenizer.json").is_file():
        path = folder / "tokenizer.json"
        library = from_json(path)
        prepare(library, path, settings)
        return _fast(library, path, settings)
    if (folder / "source.spm").is_file() or settings.family == "marian":
        return Tokenizer(marian(folder, settings), settings)
    for name in FILES:
        if (folder / name).is_file():
            return Tokenizer(read_pieces(folder / name, settings), settings)
    if (folder / "vocab.txt").is_file():
        _only(folder, settings, "vocab.txt", ("bert", ""))
        return _fast(wordpiece(folder / "vocab.txt", settings), folder / "vocab.txt", settings)
    for name in PAIRS:
        if (folder / name).is_file():
            _only(folder, settings, name, ("gpt2", "roberta", "qwen2", ""))
            vocab, merges = partner(folder / name)
            return _fast(byte_level(vocab, merges, _guess(vocab, settings)), vocab, settings)
    raise FileError(
        f"{folder}: no tokenizer in it (tokenizer.json, {', '.join(FILES)}, vocab.txt, or vocab.json with merges.txt); "
        "copy the vocabulary's files there"
    )


def _file(path: Path) -> Tokenizer:
    if is_gguf(path):
        return Tokenizer(*from_gguf(read_header(path)))
    settings = lone(path)
    name = path.name
    if name.endswith((".model", ".spm")):
        return Tokenizer(read_pieces(path, Settings(path, "")), settings)
    pair = any(name.endswith((vocab, merges)) for vocab, merges in PAIRS.items())
    if name.endswith(".json") and not pair and isinstance(read_json_object(path).get("model"), dict):
        return _fast(from_json(path), path, settings)
    if name.endswith(".json") or pair:
        vocab, merges = partner(path)
        settings = Settings(path, "gpt2")
        return _fast(byte_level(vocab, merges, settings), vocab, settings)
    if name.endswith(".txt"):
        settings = Settings(path, "bert")
        return _fast(wordpiece(path, settings), path, settings)
    raise FileError(
        f"{path}: no kind of tokenizer that is known by its name; known are tokenizer.json, *.model, *.spm, vocab.txt, "
        "vocab.json with merges.txt, and *.gguf"
    )


def _fast(library: Any, path: Path, settings: Settings) -> Tokenizer:
    return Tokenizer(FastEngine(library, path, roles(library, settings)), settings)


def _only(folder: Path, settings: Settings, name: str, families: tuple[str, ...]) -> None:
    """Refuse to guess how a class that is not known reads a vocabulary."""
    if settings.family not in families:
        raise FileError(
            f"{folder}: {settings.declared} has no reader for {name} here; save a tokenizer.json beside it "
            "(transformers: AutoTokenizer.from_pretrained(…).save_pretrained(…))"
        )


def _guess(vocab: Path, settings: Settings) -> Settings:
    """A folder that names no family: RoBERTa's where its frame is in the vocabulary, else GPT-2's."""
    if settings.family:
        return settings
    table = read_json_object(vocab)
    family = "roberta" if {"<s>", "</s>", "<mask>"} <= table.keys() else "gpt2"
    return Settings(settings.source, family, settings.names, settings.added, settings.templates, settings.raw)


def _whole(text: str) -> str:
    if not isinstance(text, str):
        raise InputError(f"a text is needed, not {_short(text)}; decode bytes first")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text holds the lone surrogate {text[error.start]!r} at position {error.start}, which is no "
            "character; remove it, or decode the source with the right encoding"
        ) from None
    return text


def _short(value: object) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
