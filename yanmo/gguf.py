"""The header of a GGUF file, the format of llama.cpp: what it says of a model, and where its tensors lie.

In: a path. Out: `Header`, or a FileError of one sentence; every count, length, offset and type is checked against the
size of the file before anything as large as it says is made.

    is_gguf         the first four bytes
    read_header     path → Header
    parse_header    the same for an open file
    Header          metadata, tensors; `get` a value of a type

Format, little-endian (github.com/ggml-org/ggml, docs/gguf.md): "GGUF", version, number of tensors, number of keys; the
keys, each with a type and a value; the tensors, each with its name, its sizes from the innermost, type and offset;
filled up to the alignment, the bytes of the tensors, each filled up too. No tensor of a file may be skipped or shared.
"""

from __future__ import annotations

import math
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from yanmo.errors import FileError
from yanmo.files import reason

MAGIC, VERSIONS = b"GGUF", (2, 3)
MAX_HEADER_BYTES = 64 * 2**20  # the largest public vocabularies take about 15 MB with their merges
MAX_ITEMS = 2**22  # of an array; the largest public one has about 800,000
MAX_KEYS, MAX_TENSORS, MAX_NAME = 2**14, 2**16, 1024
MAX_SIZE = 2**40  # of one dimension
PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY, BOOL = 8, 9, 7


@dataclass(frozen=True)
class Kind:
    """A type of tensor: `items` numbers of the innermost dimension lie in a block of `nbytes`."""

    name: str
    items: int
    nbytes: int


KINDS = {
    0: Kind("F32", 1, 4),
    1: Kind("F16", 1, 2),
    2: Kind("Q4_0", 32, 18),
    3: Kind("Q4_1", 32, 20),
    6: Kind("Q5_0", 32, 22),
    7: Kind("Q5_1", 32, 24),
    8: Kind("Q8_0", 32, 34),
    12: Kind("Q4_K", 256, 144),
    13: Kind("Q5_K", 256, 176),
    14: Kind("Q6_K", 256, 210),
    30: Kind("BF16", 1, 2),
}


@dataclass(frozen=True)
class TensorPlace:
    """One tensor: its shape from the outermost dimension, and where it begins in the file, or in which of its parts."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    offset: int
    part: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) // self.kind.items * self.kind.nbytes


@dataclass(frozen=True)
class Header:
    """What a file says: keys and values (arrays of numbers as numpy arrays, of texts as lists), and its tensors.

    parts: path and size of each file of a model in parts, this one first.
    """

    path: Path
    size: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorPlace]
    parts: tuple[tuple[Path, int], ...]

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """A value that must be of `kind` (str, int, float, bool, list, numpy.ndarray); absent: `default`."""
        if key not in self.metadata:
            return default
        value = self.metadata[key]
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            raise FileError(
                f"{self.path}: {key} is {_shown(value)}, and must be of the type {kind.__name__}; do not trust the file"
            )
        return value


def is_gguf(path: str | Path) -> bool:
    """Whether a path is a regular file that begins as a GGUF file does."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe would block for ever
            return False
        with open(path, "rb") as file:
            return file.read(4) == MAGIC
    except (OSError, ValueError):
        return False


def read_header(path: str | Path) -> Header:
    """Read and check the header of a file, and of a model in parts (…-00001-of-00003.gguf) those of all its files."""
    first = _read(Path(path))
    count = first.get("split.count", int, 1)
    if count <= 1:
        return first
    match = PART.fullmatch(first.path.name)
    if match is None or int(match[3]) != count or first.get("split.no", int, 0) != int(match[2]) - 1:
        raise FileError(f"{path}: a part of a model in {count} files, and not named as one; restore its name")
    if int(match[2]) != 1:
        raise FileError(f"{path}: part {int(match[2])} of a model in {count} files; give the first, {match[1]}-00001-…")
    headers = [first]
    for number in range(2, count + 1):
        headers.append(_read(first.path.with_name(f"{match[1]}-{number:05}-of-{count:05}.gguf")))
        other = headers[-1]
        if other.get("split.count", int, 1) != count or other.get("split.no", int, -1) != number - 1:
            raise FileError(f"{other.path}: not part {number} of {first.path.name}; fetch it again")
    tensors = {n: replace(t, part=i) for i, header in enumerate(headers) for n, t in header.tensors.items()}
    total, claimed = sum(len(header.tensors) for header in headers), first.get("split.tensors.count", int)
    if len(tensors) != total or claimed not in (None, total):
        raise FileError(
            f"{path}: {total:,} tensors in its parts, {claimed or len(tensors):,} of a name; fetch it again"
        )
    return replace(first, tensors=tensors, parts=tuple((header.path, header.size) for header in headers))


def _read(path: Path) -> Header:
    """Read and check the header of one file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise FileError(f"{path}: not a regular file; give the path of a .gguf file")
        with open(path, "rb", buffering=2**18) as file:
            return parse_header(file, path.stat().st_size, path)
    except FileError:
        raise
    except FileNotFoundError:
        raise FileError(f"{path}: no such file; check the path or fetch the file again") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise FileError(f"{path}: cannot be read ({reason(error)}); check the path and its permissions") from None


def parse_header(file: BinaryIO, size: int, path: Path) -> Header:
    """Read and check the header at the beginning of `file`, which has `size` bytes; `path` is named in errors."""
    reader = _Reader(file, size, path)
    if reader.take(4, "the magic number") != MAGIC:
        raise FileError(f"{path}: does not begin with GGUF; is it the right file?")
    version = reader.number("I", "the version")
    if version not in VERSIONS:
        remedy = "a file for big-endian machines" if version & 0xFFFF == 0 and version else "an old or damaged file"
        raise FileError(
            f"{path}: version {version}, read are {' and '.join(map(str, VERSIONS))}; {remedy}: convert it again"
        )
    tensors, keys = reader.number("Q", "the number of tensors"), reader.number("Q", "the number of keys")
    reader.fits(tensors, 8 + 4 + 8 + 4 + 8, MAX_TENSORS, "tensors")
    reader.fits(keys, 8 + 4 + 1, MAX_KEYS, "keys")
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = reader.name("a key")
        if key in metadata:
            raise reader.error(f"the key {_shown(key)} stands in it twice")
        metadata[key] = _value(reader, key)
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 2**20 or alignment & (alignment - 1):
        raise reader.error(f"general.alignment is {_shown(alignment)}, and must be a power of two up to 2^20")
    entries = [_tensor(reader) for _ in range(tensors)]
    start = -(-reader.position // alignment) * alignment
    return Header(path, size, metadata, _placed(reader, entries, start, alignment), ((path, size),))


class _Reader:
    """The bytes of a header from front to back; none is asked for that the file does not have."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self.file, self.size, self.path = file, size, path
        self.position = 0

    @property
    def left(self) -> int:
        """Bytes that may still be read."""
        return min(self.size, MAX_HEADER_BYTES) - self.position

    def error(self, text: str) -> FileError:
        """An error that names file and place."""
        return FileError(f"{self.path}: at byte {self.position:,}: {text}; fetch the file again, or do not trust it")

    def take(self, length: int, what: str) -> bytes:
        """The next `length` bytes."""
        if length > self.left:
            raise self.error(
                f"{what} needs {length:,} bytes and {self.left:,} are left of a file of {self.size:,} "
                f"(a header has at most {MAX_HEADER_BYTES:,})"
            )
        data = self.file.read(length)
        if len(data) != length:
            raise self.error(f"the file ends within {what}")
        self.position += length
        return data

    def number(self, form: str, what: str) -> Any:
        """The next number, of a type of `struct`."""
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form), what))[0]

    def fits(self, count: int, least: int, limit: int, what: str) -> None:
        """Refuse a count of things, each of `least` bytes and more, that cannot stand in what is left."""
        if count > limit or count * least > self.left:
            raise self.error(f"{count:,} {what} are claimed, at most {min(limit, max(self.left, 0) // least):,} fit")

    def text(self, what: str) -> str:
        """The next string: its length, and UTF-8."""
        length = self.number("Q", what)
        data = self.take(length, what)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8 ({error.reason})") from None

    def name(self, what: str) -> str:
        """A string that names something."""
        text = self.text(what)
        if not text or len(text) > MAX_NAME:
            raise self.error(f"{what} has a name of {len(text):,} characters, from 1 to {MAX_NAME:,} are read")
        return text


def _value(reader: _Reader, key: str) -> Any:
    """A value with its type before it."""
    kind = reader.number("I", "a type")
    if kind in SCALARS:
        return _scalar(reader, kind, key)
    if kind == STRING:
        return reader.text("the value of a key")
    if kind != ARRAY:
        raise reader.error(f"the key {_shown(key)} has a value of type {kind}, which does not exist")
    inner, count = reader.number("I", "a type"), reader.number("Q", "the length of an array")
    if inner == STRING:
        reader.fits(count, 8, MAX_ITEMS, f"texts of {_shown(key)}")
        return [reader.text("a text of an array") for _ in range(count)]
    if inner not in SCALARS:
        raise reader.error(f"the key {_shown(key)} is an array of type {inner}, which is not read")
    form = np.dtype("<" + SCALARS[inner]) if inner != BOOL else np.dtype("u1")
    reader.fits(count, form.itemsize, MAX_ITEMS, f"numbers of {_shown(key)}")
    values = np.frombuffer(reader.take(count * form.itemsize, "an array"), form)
    if inner == BOOL and (values > 1).any():
        raise reader.error(f"the key {_shown(key)} holds a truth value that is neither 0 nor 1")
    return values.astype(bool) if inner == BOOL else values


def _scalar(reader: _Reader, kind: int, key: str) -> Any:
    if kind != BOOL:
        return reader.number(SCALARS[kind], "the value of a key")
    value = reader.number("B", "the value of a key")
    if value > 1:
        raise reader.error(f"the key {_shown(key)} is the truth value {value}, and must be 0 or 1")
    return bool(value)


def _tensor(reader: _Reader) -> TensorPlace:
    """One entry; its offset still counts from the beginning of the data."""
    name = reader.name("a tensor")
    dimensions = reader.number("I", "a number of dimensions")
    if not 1 <= dimensions <= 4:
        raise reader.error(f"the tensor {_shown(name)} has {dimensions} dimensions, from 1 to 4 are read")
    sizes = [reader.number("Q", "a size") for _ in range(dimensions)]
    number, offset = reader.number("I", "a type"), reader.number("Q", "an offset")
    kind = KINDS.get(number)
    if kind is None:
        known = ", ".join(kind.name for kind in KINDS.values())
        raise FileError(
            f"{reader.path}: the tensor {_shown(name)} has the type {number}, read are {known}; "
            "take a file quantised as one of these"
        )
    if not all(1 <= size <= MAX_SIZE for size in sizes) or sizes[0] % kind.items:
        raise reader.error(f"the tensor {_shown(name)} has the sizes {sizes}, which no tensor of {kind.name} has")
    return TensorPlace(name, kind, tuple(reversed(sizes)), offset)


def _placed(reader: _Reader, entries: list[TensorPlace], start: int, alignment: int) -> dict[str, TensorPlace]:
    """The tensors with offsets from the beginning of the file; each begins where the one before it ends."""
    tensors: dict[str, TensorPlace] = {}
    for entry in entries:
        if entry.name in tensors:
            raise reader.error(f"the tensor {_shown(entry.name)} stands in it twice")
        tensors[entry.name] = TensorPlace(entry.name, entry.kind, entry.shape, start + entry.offset)
    end = start
    for entry in sorted(tensors.values(), key=lambda entry: entry.offset):
        if entry.offset != end:
            raise reader.error(
                f"the tensor {_shown(entry.name)} begins at byte {entry.offset:,}, and the one before it (filled up to "
                f"{alignment}) ends at {end:,}"
            )
        if entry.nbytes > reader.size - entry.offset:
            raise reader.error(
                f"the tensor {_shown(entry.name)} needs {entry.nbytes:,} bytes and {reader.size - entry.offset:,} are "
                "left; the download is incomplete or the file is damaged"
            )
        end += -(-entry.nbytes // alignment) * alignment
    return tensors


def _shown(value: Any) -> str:
    """A foreign value as it may stand in a sentence."""
    if not isinstance(value, str | int | float | bool):
        return f"a {type(value).__name__}"
    text = repr(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 90 else text[:90] + "…"
