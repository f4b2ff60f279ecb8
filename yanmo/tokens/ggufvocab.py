"""The vocabulary of a GGUF file.

In: the header of a file (keys tokenizer.*). Out: one of our two engines with its settings; ids are llama.cpp's.

    from_gguf     tokenizer.ggml.model decides: "gpt2" or "llama"
    _byte_level   gpt2: byte-level BPE, cut first as tokenizer.ggml.pre says (SPLITS)
    _pieces       llama: a SentencePiece model of the BPE kind, written anew from pieces, scores and types

A token of the type "control" is special, one of the type "user defined" is found in text but not special. Texts for
Qwen are put into Unicode's form NFC first, as its own tokenizer does and llama.cpp does not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from yanmo.errors import FileError, nearest
from yanmo.gguf import Header
from yanmo.tokens.fast import FastEngine, roles
from yanmo.tokens.formats import QWEN2, check_ids, guarded, prepare
from yanmo.tokens.pieceformats import llama
from yanmo.tokens.piecemodel import BYTE, CONTROL, NORMAL, UNKNOWN, USER, PieceModel, parse_model
from yanmo.tokens.sentencepieces import PieceEngine
from yanmo.tokens.settings import MAX_ID, MAX_TEMPLATE, ROLES, Added, Settings

PREFIX = "tokenizer.ggml."
NO_TOKEN = 2**32 - 1  # what old converters wrote for -1
KEYS = {"unk": "unknown", "pad": "padding", "sep": "seperator"}  # the spelling is the format's

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
# The patterns by which texts are cut before the merges, and whether a whole word that is a token is taken at once, by
# the names that llama.cpp's converter gives them.
SPLITS: dict[str, tuple[tuple[str, ...], bool]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais"), ((GPT2,), False)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), ((LLAMA3,), True)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), ((QWEN2,), False)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell", "command-r"), ((r"\p{N}", GPT2), False)),
}


def from_gguf(header: Header) -> tuple[FastEngine | PieceEngine, Settings]:
    """Engine and settings of the vocabulary of a file; a file without one is a FileError."""
    kind = header.get(PREFIX + "model", str)
    if kind is None:
        raise FileError(f"{header.path}: no vocabulary in it (tokenizer.ggml.model); give a tokenizer of its own")
    tokens = _tokens(header)
    types = _types(header, len(tokens))
    settings = _settings(header, tokens, types, "llama" if kind == "llama" else "")
    if kind == "gpt2":
        return _byte_level(header, tokens, settings), settings
    if kind == "llama":
        return _pieces(header, tokens, types, settings), settings
    raise FileError(f"{header.path}: a vocabulary of the kind {kind[:40]!r}; read are 'gpt2' and 'llama'")


def _tokens(header: Header) -> list[str]:
    tokens = header.get(PREFIX + "tokens", list, [])
    if not tokens or len(tokens) > MAX_ID:
        raise FileError(f"{header.path}: {len(tokens):,} tokens in it, from 1 to {MAX_ID:,} are read; fetch it again")
    table: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if table.setdefault(token, number) != number:
            raise FileError(
                f"{header.path}: the ids {table[token]} and {number} are both the token {token[:80]!r}; fetch it again"
            )
    return tokens


def _types(header: Header, count: int) -> list[int]:
    types = header.get(PREFIX + "token_type", np.ndarray, np.full(count, NORMAL))
    known = {NORMAL, UNKNOWN, CONTROL, USER, 5, BYTE}
    if len(types) != count or types.dtype.kind not in "iu" or not set(types.tolist()) <= known:
        raise FileError(
            f"{header.path}: tokenizer.ggml.token_type holds {len(types):,} types for {count:,} tokens, or one that "
            "does not exist; fetch the file again"
        )
    return types.tolist()


def _settings(header: Header, tokens: list[str], types: list[int], family: str) -> Settings:
    """What a folder's small files would say: roles, special tokens, templates, the frame."""
    names: dict[str, str | None] = {}
    for role in ROLES:
        key = f"{PREFIX}{KEYS.get(role, role)}_token_id"
        number = header.get(key, int, NO_TOKEN)
        if number != NO_TOKEN and not 0 <= number < len(tokens):
            raise FileError(f"{header.path}: {key} is {number}, and there are {len(tokens):,} tokens; fetch it again")
        names[role] = None if number == NO_TOKEN else tokens[number]
    if family and header.get(PREFIX + "unknown_token_id", int) is None and UNKNOWN in types:
        names["unk"] = tokens[types.index(UNKNOWN)]
    found = [(token, number, kind) for number, (token, kind) in enumerate(zip(tokens, types)) if token]
    added = tuple(
        Added(token, number, special=kind == CONTROL) for token, number, kind in found if kind in (CONTROL, USER)
    )
    pre = header.get(PREFIX + "pre", str, "")
    framed = bool(family) or (pre in SPLITS and SPLITS[pre][1])  # what an absent key means
    raw: dict[str, Any] = {
        "add_bos_token": header.get(PREFIX + "add_bos_token", bool, framed) and names["bos"] is not None,
        "add_eos_token": header.get(PREFIX + "add_eos_token", bool, False) and names["eos"] is not None,
    }
    if family:  # llama.cpp puts a space after each special token too
        raw |= {"legacy": True, "add_prefix_space": header.get(PREFIX + "add_space_prefix", bool, True)}
    return Settings(header.path, family, names, added, _templates(header), raw)


def _templates(header: Header) -> dict[str, str]:
    """Chat templates by name; the plain key is the one named default."""
    key = "tokenizer.chat_template"
    found = {"default": header.get(key, str)}
    for name in header.get("tokenizer.chat_templates", list, []):
        found[name] = header.get(f"{key}.{name}", str)
    templates = {name: text for name, text in found.items() if text is not None}
    for name, text in templates.items():
        if len(text) > MAX_TEMPLATE:
            raise FileError(
                f"{header.path}: the chat template {name[:40]!r} has {len(text):,} characters, at most "
                f"{MAX_TEMPLATE:,} are read; is it a template?"
            )
    return templates


# --- byte-level BPE


def _byte_level(header: Header, tokens: list[str], settings: Settings) -> FastEngine:
    pre = header.get(PREFIX + "pre", str)
    if pre not in SPLITS:
        said = "no tokenizer.ggml.pre" if pre is None else f"tokenizer.ggml.pre {pre[:40]!r}"
        raise FileError(
            f"{header.path}: {said}{nearest(pre, SPLITS) if pre else ''}, which says how texts are cut; known are "
            f"{', '.join(SPLITS)}: convert the model again with a newer converter"
        )
    patterns, whole = SPLITS[pre]
    table = {token: number for number, token in enumerate(tokens)}
    check_ids(header.path, table)
    pairs = list(_merges(header))
    library = Library(
        guarded(header.path, lambda: models.BPE(vocab=table, merges=pairs, fuse_unk=False, ignore_merges=whole))
    )
    if patterns == (QWEN2,):
        library.normalizer = normalizers.NFC()
    parts: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([*parts, byte_level])
    library.decoder = decoders.ByteLevel()
    prepare(library, header.path, settings)
    return FastEngine(library, header.path, roles(library, settings))


def _merges(header: Header) -> Iterable[tuple[str, str]]:
    """Merges as pairs; "a b" parts at its first space behind the first letter, since a token may begin with one."""
    for number, merge in enumerate(header.get(PREFIX + "merges", list, [])):
        place = merge.find(" ", 1)
        if place < 1 or place + 1 == len(merge):
            raise FileError(f"{header.path}: the merge {number} is {merge[:80]!r}, no two tokens; fetch it again")
        yield merge[:place], merge[place + 1 :]


# --- SentencePiece


def _pieces(header: Header, tokens: list[str], types: list[int], settings: Settings) -> PieceEngine:
    scores = header.get(PREFIX + "scores", np.ndarray)
    if scores is None or len(scores) != len(tokens) or scores.dtype != np.float32:
        raise FileError(
            f"{header.path}: {0 if scores is None else len(scores):,} scores for {len(tokens):,} tokens; fetch it again"
        )
    strips = header.get(PREFIX + "remove_extra_whitespaces", bool, False)
    return llama(piece_model(header, tokens, scores.tolist(), types, strips), settings)


def piece_model(
    header: Header, tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], strips: bool
) -> PieceModel:
    """The .model that these pieces would have come from (sentencepiece_model.proto)."""
    parts = [
        _message(1, _message(1, token.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + _varint(kind))
        for token, score, kind in zip(tokens, scores, types)
    ]
    fallback = BYTE in types
    trainer = b"\x18\x02" + b"\x98\x02" + _varint(int(fallback))  # model_type = BPE; byte_fallback (field 35)
    places = [(40, UNKNOWN, "unk"), (41, CONTROL, "bos"), (42, CONTROL, "eos")]
    for field, kind, role in places:
        trainer += _varint(field << 3) + _varint(_role(header, tokens, types, kind, role) & (2**64 - 1))
    trainer += _varint(43 << 3) + _varint(2**64 - 1)  # no padding
    normalizer = _message(1, b"identity") + b"\x18\x01" + b"\x20" + _varint(int(strips)) + b"\x28\x01"
    charsmap = header.metadata.get(PREFIX + "precompiled_charsmap")
    if charsmap is not None:
        if not isinstance(charsmap, np.ndarray) or charsmap.dtype.itemsize != 1:
            raise FileError(f"{header.path}: tokenizer.ggml.precompiled_charsmap is no array of bytes; fetch it again")
        normalizer += _message(2, charsmap.tobytes())
    return parse_model(header.path, b"".join(parts) + _message(2, trainer) + _message(3, normalizer))


def _role(header: Header, tokens: Sequence[str], types: Sequence[int], kind: int, role: str) -> int:
    """The id of a role, where its piece has the type that the library needs; -1 for none."""
    if role == "unk":
        return types.index(UNKNOWN) if UNKNOWN in types else -1
    number = header.get(f"{PREFIX}{role}_token_id", int, NO_TOKEN)
    return number if number < len(tokens) and types[number] == kind else -1


def _message(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
