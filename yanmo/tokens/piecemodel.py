"""A SentencePiece .model, checked before the library sees it.

In: the bytes of a file. Out: `PieceModel`, or a FileError.

    read_model     parse the protobuf, check its pieces and its table of characters
    parse_model    the same for bytes
    open_model     the library's processor over it
    read_fields    the fields of any protobuf message

The library trusts two things in a model that a damaged file can get wrong: the double-array trie of its normalizer
(`precompiled_charsmap`), whose offsets it follows without a bound, and the strings that the trie points to. Both are
checked here for every unit. Field numbers: sentencepiece_model.proto of the SentencePiece project.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from yanmo.errors import FileError
from yanmo.files import MAX_JSON_BYTES, read_bytes, reason
from yanmo.tokens.settings import MAX_ID

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
NO_PREFIX = b"\x1a\x02\x18\x00"  # normalizer_spec.add_dummy_prefix = false; a repeated message is merged by protobuf


@dataclass(frozen=True)
class PieceModel:
    """What a .model says; `pieces` and `types` by id."""

    path: Path
    data: bytes
    pieces: list[str]
    scores: list[float]
    types: list[int]
    kind: int  # 1 unigram, 2 BPE, 3 word, 4 character
    charsmap: bytes
    dummy_prefix: bool
    strips: bool  # remove_extra_whitespaces
    unk_surface: str


def open_model(model: PieceModel, *, prefix: bool = True) -> sentencepiece.SentencePieceProcessor:
    """The library over a checked model; `prefix=False` never puts a space before the text."""
    sentencepiece.set_min_log_level(3)  # it writes to stderr what it also raises
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model.data if prefix else model.data + NO_PREFIX)
    except Exception as error:
        raise _damaged(model.path, reason(error)) from None
    return processor


def read_model(path: Path) -> PieceModel:
    """Read and check a .model."""
    return parse_model(path, read_bytes(path, MAX_JSON_BYTES))


def parse_model(path: Path, data: bytes) -> PieceModel:
    """Check the bytes of a .model; `path` is named in errors."""
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    try:
        for number, value in read_fields(data):
            if number == 1:
                piece = dict(read_fields(_message(value)))
                pieces.append(_message(piece.get(1, b"")).decode())
                scores.append(struct.unpack("<f", piece.get(2, bytes(4)))[0])
                types.append(piece.get(3, NORMAL))
            elif number == 2:
                trainer.update(read_fields(_message(value)))
            elif number == 3:
                normalizer.update(read_fields(_message(value)))
            elif number == 5:
                _check_charsmap(_message(dict(read_fields(_message(value))).get(2, b"")))
        charsmap = _message(normalizer.get(2, b""))
        _check_charsmap(charsmap)
        surface = _message(trainer.get(44, " ⁇ ".encode())).decode()
    except (ValueError, TypeError, struct.error) as error:
        raise _damaged(path, reason(error)) from None
    if not pieces or len(pieces) > MAX_ID:
        raise _damaged(path, f"{len(pieces)} pieces")
    if not np.isfinite(scores).all():
        raise _damaged(path, "a score that is no number")
    if types.count(UNKNOWN) != 1:
        raise _damaged(path, f"{types.count(UNKNOWN)} unknown pieces, where one is needed")
    if trainer.get(24):
        raise FileError(f"{path}: writes spaces after words (treat_whitespace_as_suffix), which is not read here")
    kind = trainer.get(3, 1)
    return PieceModel(
        path,
        data,
        pieces,
        scores,
        types,
        kind,
        charsmap,
        dummy_prefix=bool(normalizer.get(3, True)),
        strips=bool(normalizer.get(4, True)),
        unk_surface=surface,
    )


def _damaged(path: Path, why: str) -> FileError:
    return FileError(f"{path}: not a usable SentencePiece model ({why[:160]}); fetch the file again")


def _message(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where bytes are needed")
    return value


def read_fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: (number, an int or bytes)."""
    place, end = 0, len(data)
    while place < end:
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        value: Any
        if wire == 0:
            value, place = _varint(data, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value, place = data[place : place + size], place + size
        elif wire == 2:
            size, place = _varint(data, place)
            value, place = data[place : place + size], place + size
        else:
            raise ValueError(f"wire type {wire} at offset {place}")
        if place > end:
            raise ValueError(f"a field runs {place - end} bytes over the end")
        if number == 0:
            raise ValueError(f"field 0 at offset {place}")
        yield number, value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise ValueError(f"a number breaks off at offset {place}")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _check_charsmap(blob: bytes) -> None:
    """Every unit of the trie leads to a unit inside it, every value to a string inside the block that follows.

    A blob is the trie's size in bytes (uint32), the trie, and strings that end in NUL. A unit of the trie (Darts-clone)
    is a value where bit 31 is set, else an offset; the children of the unit at place p are at p ^ offset ^ byte.
    """
    if not blob:
        return
    if len(blob) < 8:
        raise ValueError("a table of characters that breaks off")
    (size,) = struct.unpack_from("<I", blob)
    if size == 0 or size % 1024 or 4 + size >= len(blob):
        raise ValueError(f"a table of characters of {size} bytes in {len(blob)}")
    units = np.frombuffer(blob, dtype="<u4", count=size // 4, offset=4)
    strings = len(blob) - 4 - size
    values = units >> 31 == 1
    offset = (units >> 10) << ((units & 0x200) >> 6)
    target = np.arange(len(units), dtype=np.uint32) ^ offset
    if (target[~values] >= len(units)).any():  # 256 children lie within one block, since the size is a multiple of it
        raise ValueError("a table of characters that leads outside of itself")
    if (units[values] & 0x7FFFFFFF >= strings).any() or blob[-1] != 0:
        raise ValueError("a table of characters whose strings break off")
