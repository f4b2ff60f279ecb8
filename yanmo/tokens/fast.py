"""The engine for everything that the tokenizers library runs.

In: a `tokenizers.Tokenizer`, the roles of its tokens. Out: ids for text and text for ids.

    roles          which token begins, ends, pads …: from the settings, the frame, or the usual names
    FastEngine     encode, decode, stream, fingerprint

A text of n characters costs O(n log n): the library's merges run over a heap, so one line of 10 MB is no trap.
Byte-level vocabularies encode much text by the compiled library (bytelevel.py), with the same ids.
"""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Library

from yanmo.tokens.bytelevel import Compiled, compile_library
from yanmo.tokens.formats import guarded
from yanmo.tokens.offsets import Range, covered
from yanmo.tokens.settings import ROLES, Added, Settings
from yanmo.tokens.stream import ByteStream, HoldStream, Stream, WindowStream

MUCH = 1 << 20  # characters, from which on it pays to compile a vocabulary: that takes about a second
UNDEFINED = "\ufffd"  # stands for an id without a token, so that it is seen
USUAL = {
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|bos|>"),
    "eos": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "<|eos|>"),
    "pad": ("<pad>", "[PAD]", "<|pad|>"),
    "unk": ("<unk>", "[UNK]"),
    "cls": ("[CLS]", "<cls>"),
    "sep": ("[SEP]", "<sep>"),
    "mask": ("[MASK]", "<mask>"),
}


def roles(library: Library, settings: Settings) -> dict[str, str | None]:
    """The token of each role: what the settings say; where they say nothing, a special token with a usual name."""
    special = {token.content for token in library.get_added_tokens_decoder().values() if token.special}
    found: dict[str, str | None] = {}
    for role in ROLES:
        name = settings.name(role)
        if name is None and not settings.names:
            name = next((usual for usual in USUAL[role] if usual in special), None)
        found[role] = name if name is not None and library.token_to_id(name) is not None else None
    return found


class FastEngine:
    """A tokenizer of the tokenizers library."""

    kind = "tokenizers"

    def __init__(self, library: Library, path: Path, names: dict[str, str | None]) -> None:
        self.library = library
        self.path = path
        self.names = names
        entries = library.get_added_tokens_decoder()
        table = library.get_vocab(True)
        self.size = max(table.values()) + 1
        self.tokens: list[str | None] = [None] * self.size
        for token, number in table.items():
            self.tokens[number] = token
        self.special = frozenset(number for number, token in entries.items() if token.special)
        self._decoder = json.loads(library.decoder.__getstate__()) if library.decoder is not None else None
        self._types = _types(self._decoder)
        self._encoded = 0  # characters so far
        self._lock = threading.Lock()

    def encode(self, text: str, special: bool, target: bool) -> list[int]:
        return self.encode_batch([text], special, target)[0]

    def encode_batch(self, texts: Sequence[str], special: bool, target: bool) -> list[list[int]]:
        if not special and self._much(texts) and self._compiled is not None:
            return [ids.tolist() for ids in self._by_compiled(texts)]
        found = guarded(self.path, lambda: self.library.encode_batch_fast(list(texts), add_special_tokens=special))
        return [encoding.ids for encoding in found]

    def encode_offsets(self, texts: Sequence[str], special: bool) -> list[tuple[list[int], list[Range]]]:
        found = guarded(self.path, lambda: self.library.encode_batch(list(texts), add_special_tokens=special))
        return [(encoding.ids, covered(text, encoding.offsets)) for text, encoding in zip(texts, found, strict=True)]

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text without a frame, (n,) uint32."""
        if self._much(texts) and self._compiled is not None:
            return self._by_compiled(texts)
        return [np.array(ids, np.uint32) for ids in self.encode_batch(texts, False, False)]

    def _much(self, texts: Sequence[str]) -> bool:
        self._encoded += sum(map(len, texts))
        return self._encoded >= MUCH

    def _by_compiled(self, texts: Sequence[str]) -> list[np.ndarray]:
        assert self._compiled is not None
        with self._lock:
            return guarded(self.path, self._compiled.encode, texts)

    @cached_property
    def _compiled(self) -> Compiled | None:
        return guarded(self.path, compile_library, self.library)

    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        encoding = guarded(self.path, self.library.encode, first, second)
        return encoding.ids, encoding.type_ids

    def decode(self, ids: Sequence[int], skip: bool) -> str:
        return self._join([self._shown(number) for number in ids if not (skip and number in self.special)])

    def stream(self, skip: bool) -> Stream:
        hidden = self.special if skip else frozenset()
        if self._types == ["ByteLevel"]:
            return ByteStream(self.id_bytes, hidden)
        if self._anchor is None:
            return HoldStream(lambda ids: self.decode(ids, False), hidden)
        fallback = self._byte_tokens if "ByteFallback" in self._types else frozenset()
        return WindowStream(lambda ids: self.decode(ids, False), hidden, fallback, self._anchor)

    def token(self, number: int) -> str | None:
        return self.tokens[number] if 0 <= number < self.size else None

    def id(self, token: str) -> int | None:
        return self.library.token_to_id(token)

    def id_bytes(self, number: int) -> bytes:
        token = self._shown(number)
        if "ByteLevel" in self._types:
            try:
                return bytes(self._alphabet[character] for character in token)
            except KeyError:  # an added token with characters outside the alphabet stands for itself
                return token.encode()
        if "ByteFallback" in self._types and number in self._byte_tokens:
            return bytes([int(token[3:5], 16)])
        if "WordPiece" in self._types:
            return (token.removeprefix("##") if token.startswith("##") else " " + token).encode()
        if number in self.special:
            return token.encode()
        return token.replace("▁", " ").encode() if self._marks_spaces else token.encode()

    def added(self) -> list[Added]:
        """The added tokens, with their ids and flags."""
        return [
            Added(token.content, number, token.special, token.lstrip, token.rstrip, token.single_word, token.normalized)
            for number, token in self.library.get_added_tokens_decoder().items()
        ]

    def fingerprint(self) -> str:
        """A SHA-256 of what decides ids; settings at their usual value (null, false) do not count, so that a newer
        library with one more of them gives the same."""
        value = json.loads(self.library.to_str())
        for key in ("version", "truncation", "padding"):
            value.pop(key, None)
        merges = value["model"].get("merges")
        if merges and isinstance(merges[0], str):
            value["model"]["merges"] = [merge.split(" ", 1) for merge in merges]
        text = json.dumps(_plain(value), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def files(self) -> dict[str, bytes]:
        """What a folder of this tokenizer holds beside tokenizer_config.json."""
        return {"tokenizer.json": self.library.to_str(pretty=True).encode()}

    def config(self) -> dict[str, Any]:
        """What tokenizer_config.json must say so that the classes of transformers read the folder alike."""
        normalizer = self.library.normalizer
        state = json.loads(normalizer.__getstate__()) if normalizer is not None else {}
        if state.get("type") != "BertNormalizer":
            return {}
        return {
            "do_lower_case": state["lowercase"],
            "strip_accents": state["strip_accents"],
            "tokenize_chinese_chars": state["handle_chinese_chars"],
        }

    def _shown(self, number: int) -> str:
        token = self.tokens[number] if 0 <= number < self.size else None
        return UNDEFINED if token is None else token

    def _join(self, tokens: list[str]) -> str:
        decoder = self.library.decoder
        return " ".join(tokens) if decoder is None else guarded(self.path, decoder.decode, tokens)

    @cached_property
    def _alphabet(self) -> dict[str, int]:
        return byte_alphabet()

    @cached_property
    def _byte_tokens(self) -> frozenset[int]:
        names = {f"<0x{value:02X}>" for value in range(256)} | {f"<0x{value:02x}>" for value in range(256)}
        return frozenset(number for number, token in enumerate(self.tokens) if token in names)

    @property
    def _marks_spaces(self) -> bool:
        return "Metaspace" in self._types or '"▁"' in json.dumps(self._decoder, ensure_ascii=False)

    @cached_property
    def _anchor(self) -> int | None:
        """A plain token; what is decoded after it does not depend on what stood before. None where the decoder is
        not of that kind."""
        if not _is_local(self._decoder):
            return None
        for number, token in enumerate(self.tokens):
            if token and token.isascii() and token.isalnum() and number not in self.special:
                text = self.decode([number], False)
                twice = self.decode([number, number], False)
                if text == token and twice.startswith(text):
                    return number
        return None


def byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for the 256 bytes: printable ones stand for themselves, the others follow from U+0100."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(value): value for value in shown}
    hidden = [value for value in range(256) if value not in set(shown)]
    table.update({chr(0x100 + place): value for place, value in enumerate(hidden)})
    return table


def _types(decoder: dict[str, Any] | None) -> list[str]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [name for part in decoder["decoders"] for name in _types(part)]
    return [decoder["type"]]


def _is_local(decoder: dict[str, Any] | None) -> bool:
    """Whether each token's text depends on nothing but being the first, or on standing in a run of byte tokens."""
    if decoder is None:
        return True
    parts = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    fused = False
    for part in parts:
        kind = part["type"]
        if kind == "Fuse":
            fused = True
        elif kind == "Strip":
            if part["stop"] > 0:
                return False
        elif kind == "Replace":
            fixed = part["pattern"].get("String")
            if fused and (fixed is None or len(fixed) != 1):
                return False
        elif kind not in ("Metaspace", "WordPiece", "ByteFallback") or (fused and kind != "Metaspace"):
            return False
    return True


def _plain(value: Any) -> Any:
    """A JSON value without the keys that are null or false; scores in single precision, since the library's own
    reading and writing moves the last digit of a double."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None and item is not False}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return struct.pack("<f", value).hex() if abs(value) < 3e38 else repr(value)
    return value
