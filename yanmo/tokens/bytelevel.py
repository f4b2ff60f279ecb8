"""Byte-level BPE by the compiled library, several times as fast as the tokenizers library and with the same ids.

In: a `tokenizers.Tokenizer` of GPT-2's kind or its followers' (Llama 3, Qwen 2, Yanmo's own), texts. Out: ids.

    compile_library     a Tokenizer → Compiled, or None where its rules are others
    Compiled.encode     texts → arrays of ids, without a frame

What is a letter, a number or a space is asked of the library itself, so that both have the same version of Unicode.
A text that spells an added token, or that the normaliser may change, goes to the library: those are few.
"""

from __future__ import annotations

import ctypes
import functools
import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Library

from yanmo import nativetext
from yanmo.tokens.formats import QWEN2

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
STYLES = {GPT2: (0, 0), QWEN2: (1, 1), LLAMA3: (1, 3)}  # the scanner of words.h and the length of its numbers
LETTER, NUMBER, SPACE, NEWLINE, UNSAFE = 1, 2, 4, 8, 128  # of words.h
CODE_POINTS = 0x110000
ASSIGNED = 0x40000  # beyond lie tags, which are neither, and what is private or unassigned
CONTRACTED = "strevmld"  # the letters of 's 't 're 've 'm 'll 'd


class Compiled:
    """A byte-level BPE in the compiled library; used by one thread at a time."""

    def __init__(self, library: Library, parts: dict[str, Any]) -> None:
        self.library = library
        self.prefix = b" " if parts["prefix"] else b""
        native = nativetext.library()
        assert native is not None, "compile_library looks for it"
        self._native, self._free = native, native.yanmo_bpe_free
        self._out = np.zeros(0, np.uint32)
        given = nativetext.BpeParts()
        arrays = {name: value for name, value in parts.items() if isinstance(value, np.ndarray)}
        for name, array in arrays.items():
            setattr(given, name, array.ctypes.data)
        for name in ("n_merges", "n_folds", "n_words", "n_added", "style", "digits"):
            setattr(given, name, parts[name])
        self._bpe = native.yanmo_bpe_new(ctypes.byref(given))
        if not self._bpe:
            raise MemoryError

    def __del__(self) -> None:
        if getattr(self, "_bpe", None):
            self._free(self._bpe)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, (n,) uint32, as the library gives them without a frame."""
        found = [self._one(text) for text in texts]
        left = [place for place, ids in enumerate(found) if ids is None]
        if left:
            encoded = self.library.encode_batch_fast([texts[place] for place in left], add_special_tokens=False)
            for place, encoding in zip(left, encoded, strict=True):
                found[place] = np.array(encoding.ids, np.uint32)
        return found  # type: ignore[return-value]

    def _one(self, text: str) -> np.ndarray | None:
        """The ids, or None where the library must do it."""
        data = text.encode()
        if self.prefix and not data.startswith(b" "):
            if not data:
                return None
            data = self.prefix + data
        if len(self._out) < len(data) + 4:  # an id stands for a byte at least; 4: what the kernel may write beyond
            self._out = np.zeros(max(1 << 16, len(data) * 5 // 4 + 4), np.uint32)
        count = self._native.yanmo_bpe_encode(self._bpe, data, len(data), self._out.ctypes.data)
        if count == -2:
            raise MemoryError
        return self._out[:count].copy() if count >= 0 else None


def compile_library(library: Library) -> Compiled | None:
    """The same tokenizer in the compiled library, or None where its rules are others or nothing is compiled."""
    if nativetext.library() is None or library.truncation is not None or library.padding is not None:
        return None
    state = json.loads(library.to_str())
    rules = _rules(state)
    table = library.get_vocab(False)
    alphabet = _alphabet()
    if rules is None or not alphabet.keys() <= table.keys():
        return None
    letters = {character: bytes([value]) for character, value in alphabet.items()}
    ids = np.zeros(256, np.uint32)
    for character, value in alphabet.items():
        ids[value] = table[character]
    merges = [(table[left], table[right], table[left + right]) for left, right in _pairs(state["model"]["merges"])]
    words: list[tuple[bytes, int]] = []
    if state["model"].get("ignore_merges"):
        spelt = ((token, number) for token, number in table.items() if letters.keys() >= set(token))
        words = [(b"".join(letters[c] for c in token), number) for token, number in spelt]
    nfc = rules.pop("nfc")
    folds = [(point, ord(letter)) for point, letter in _folds()]
    contents = {token.content for token in library.get_added_tokens_decoder().values()}
    added = sorted({text.encode() for c in contents for text in (c, unicodedata.normalize("NFC", c))} - {b""})
    parts = {
        "classes": _classes() | _unsafe() if nfc else _classes(),
        "byte_ids": ids,
        "merges": np.array(merges, np.uint32).reshape(-1, 3),
        "folds": np.array(folds, np.uint32).reshape(-1, 2),
        **_packed("words", "word_ends", [word for word, _ in words]),
        "word_ids": np.array([number for _, number in words], np.uint32),
        **_packed("added", "added_ends", added),
        "n_merges": len(merges),
        "n_folds": len(folds),
        "n_words": len(words),
        "n_added": len(added),
    }
    return Compiled(library, parts | rules)


def _rules(state: dict[str, Any]) -> dict[str, Any] | None:
    """style, digits, prefix, nfc of a tokenizer.json; None for rules that are not those of words.h."""
    model, normalizer, cutter = state["model"], state.get("normalizer"), state.get("pre_tokenizer") or {}
    odd = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback")
    if model.get("type") != "BPE" or any(model.get(name) for name in odd):
        return None
    if normalizer is not None and normalizer.get("type") == "Sequence" and len(normalizer["normalizers"]) == 1:
        normalizer = normalizer["normalizers"][0]
    if normalizer is not None and normalizer.get("type") != "NFC":
        return None
    nfc = normalizer is not None
    if cutter.get("type") == "ByteLevel" and cutter.get("use_regex", True):
        return {"style": 0, "digits": 0, "prefix": cutter["add_prefix_space"], "nfc": nfc}
    parts = cutter.get("pretokenizers", []) if cutter.get("type") == "Sequence" else []
    if [part["type"] for part in parts] != ["Split", "ByteLevel"]:
        return None
    split, last = parts
    style = STYLES.get(split["pattern"].get("Regex", ""))
    if style is None or split["behavior"] != "Isolated" or split["invert"]:
        return None
    if last.get("use_regex", True) or last["add_prefix_space"]:  # a space before each word: nobody's rule
        return None
    return {"style": style[0], "digits": style[1], "prefix": False, "nfc": nfc}


def _pairs(merges: Iterable[Any]) -> Iterable[tuple[str, str]]:
    for merge in merges:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield left, right


def _packed(name: str, ends: str, texts: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Byte strings one after the other, and the places where they begin and end."""
    places = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=places[1:])
    return {name: np.frombuffer(b"".join(texts) or b"\0", np.uint8), ends: places}


def _alphabet() -> dict[str, int]:
    from yanmo.tokens.fast import byte_alphabet  # fast.py imports this file

    return byte_alphabet()


@functools.cache
def _classes() -> np.ndarray:
    r"""The class of each code point (words.h): what \p{L}, \p{N} and \s are in the library's regular expressions."""
    classes = np.zeros(CODE_POINTS, np.uint8)
    for pattern, bit in ((r"\p{L}", LETTER), (r"\p{N}", NUMBER), (r"\s", SPACE)):
        classes[_matched(pattern)] |= bit
    classes[[ord("\r"), ord("\n")]] |= NEWLINE
    return classes


@functools.cache
def _folds() -> list[tuple[int, str]]:
    """The characters beyond ASCII that count as a letter of a contraction where case is ignored: the long s."""
    points = [int(point) for point in _matched(f"(?i:[{CONTRACTED}])") if point > 127]
    return [(point, letter) for point in points for letter in CONTRACTED if _is(f"(?i:{letter})", chr(point))]


def _is(pattern: str, text: str) -> bool:
    return not pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(text)


def _matched(pattern: str) -> np.ndarray:
    """The code points that a pattern matches, by the library."""
    points = np.array([*range(0xD800), *range(0xE000, ASSIGNED)])
    split = pre_tokenizers.Split(Regex(pattern + "+"), "removed")
    hit = np.ones(len(points), bool)
    for _, (start, end) in split.pre_tokenize_str("".join(map(chr, points))):
        hit[start:end] = False
    return points[hit]


@functools.cache
def _unsafe() -> np.ndarray:
    """UNSAFE for each code point that NFC may change or join with its neighbours, and for those that Python's version
    of Unicode does not know: of what is assigned, no later version may change it (Unicode's stability policy)."""
    unsafe = np.full(CODE_POINTS, UNSAFE, np.uint8)
    seconds: set[int] = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # of Hangul syllables
    for point in range(CODE_POINTS):
        character = chr(point)
        category = unicodedata.category(character)
        if category in ("Cn", "Cs"):
            continue
        parts = unicodedata.decomposition(character).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(int(parts[1], 16))
        if not unicodedata.combining(character) and unicodedata.normalize("NFC", character) == character:
            unsafe[point] = 0
    unsafe[sorted(seconds)] = UNSAFE
    return unsafe
