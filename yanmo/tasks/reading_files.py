"""Files of labelled data → their text, whole, with limits. And what the readers of all formats share.

In: paths that a user names, plain or packed with gzip or bzip2. Out: decoded text, or a FileError of one sentence.

    find             paths → files; a folder gives the files in it, names sorted
    load             a file → its bytes, unpacked
    decode           bytes → text, by the mark, UTF-8, GB18030, Big5 or Windows-1252, or as the user says
    Reading          what a reader is told: the task, the user's columns, and where to write what was understood
    fit              a string as it may stand in an example, or a Refused that says why not
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from yanmo.corpus.encodings import BLOCK, Undecodable, declared_codec, find_encoding
from yanmo.corpus.sources import shown
from yanmo.errors import FileError, InputError
from yanmo.files import reason
from yanmo.tasks.examples import Bad, Example, Understood
from yanmo.tasks.reading_archives import is_archive, members

MAX_BYTES = 2**30  # of a file, unpacked: labelled data is read whole
WESTERN = 0.1  # share of bytes beyond ASCII, up to which a text is in one of the languages of Windows-1252
MAX_CELL = 2**22  # characters of a text: more than the longest of books
ABOUT = re.compile(r"(readme|licen[cs]e|copying|citation|changelog|changes|notice)\b", re.IGNORECASE)  # the data
SURROGATE = re.compile("[\ud800-\udfff]")
PACKED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
SUFFIXES = (".gz", ".bz2", ".xz")
BROKEN = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)

Rows = Iterator["Example | Bad"]


class Refused(Exception):
    """Why a row cannot be used: a clause without the place, which the reader knows."""


@dataclass(frozen=True)
class File:
    """A file to read: `name` is for messages, `suffix` is the last one before that of a packing, in small letters.

    data: its bytes, where it stands in an archive; `path` is then the archive's, and the name inside.
    """

    path: Path
    name: str
    data: bytes | None = None

    @property
    def bare(self) -> str:
        """The name without that of a packing, in small letters."""
        name = self.path.name.lower()
        for packing in SUFFIXES:
            name = name.removesuffix(packing)
        return name

    @property
    def suffix(self) -> str:
        return Path(self.bare).suffix

    @property
    def stem(self) -> tuple[str, str]:
        """The folder and the name without its last suffix, by which files belong together."""
        return str(self.path.parent), self.path.name[: len(self.bare) - len(self.suffix)]

    def at(self, line: int) -> str:
        """ "file:line" """
        return f"{self.name}:{line}"


@dataclass
class Reading:
    """What a reader is told, and where it writes down what it understood."""

    task: str
    columns: dict[str, str]
    understood: Understood
    counts: dict[str, list[str]] = field(default_factory=dict)

    def count(self, what: str, where: str) -> None:
        """Something that a note tells with its number and its first place."""
        self.counts.setdefault(what, []).append(where)

    def format(self, name: str) -> None:
        known = self.understood.format
        self.understood.format = name if not known or known == name else "several"

    def note(self, text: str) -> None:
        if text not in self.understood.notes:
            self.understood.notes.append(text)


def find(paths: list[Path]) -> list[File]:
    """The files behind the paths, in their order; hidden ones inside a folder are passed over."""
    found: list[tuple[Path, bytes | None]] = []
    for path in paths:
        try:
            if path.is_dir():
                inside = [p for p in sorted(path.rglob("*")) if p.is_file()]
                inside = [p for p in inside if not any(q.startswith(".") for q in p.relative_to(path).parts)]
                if not inside:
                    raise FileError(f"{path}: no files in this folder; name files of examples")
                found += _without_notes([(p, None) for p in inside])
            elif is_archive(path) and path.exists():
                held = [(path / name, data) for name, data in members(path, MAX_BYTES)]
                if not held:
                    raise FileError(f"{path}: no files in this archive; name files of examples")
                found += _without_notes(held)
            elif path.exists():
                found.append((path, None))
            else:
                raise FileError(f"{path}: no such file or folder; check the path")
        except FileError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise FileError(f"{shown(str(path))}: cannot be read ({reason(error)}); check the path") from None
    names = _names([path for path, _ in found])
    return [File(path, shown(name), data) for (path, data), name in zip(found, names)]


def _without_notes(files: Sequence[tuple[Path, bytes | None]]) -> Sequence[tuple[Path, bytes | None]]:
    """Without what is about the data, unless there is nothing else."""
    return [file for file in files if not ABOUT.match(file[0].name)] or files


def _names(paths: Sequence[Path]) -> list[str]:
    """The name of each file, with as many of its folders as tell it from the others: ids and groups are made of it."""
    depths = dict.fromkeys(paths, 1)
    while True:
        names = {path: "/".join(path.parts[-depth:]) for path, depth in depths.items()}
        counts = Counter(names.values())
        more = [path for path in depths if counts[names[path]] > 1 and depths[path] < len(path.parts)]
        if not more:
            return [names[path] for path in paths]
        for path in more:
            depths[path] += 1


def load(file: File) -> bytes:
    """The bytes of a file, unpacked by what they begin with; at most MAX_BYTES."""
    try:
        with _opened(file) as raw:
            head = raw.read(6)
        opener = next((action for magic, action in PACKED.items() if head.startswith(magic)), None)
        source = file.path if file.data is None else io.BytesIO(file.data)
        with _opened(file) if opener is None else cast(BinaryIO, opener(source, "rb")) as unpacked:
            parts, size = [], 0
            while block := unpacked.read(BLOCK):
                parts.append(block)
                size += len(block)
                if size > MAX_BYTES:
                    raise FileError(f"{file.path}: more than {MAX_BYTES:,} bytes of examples; split the file")
        return b"".join(parts)
    except FileError:
        raise
    except BROKEN as error:
        raise FileError(f"{file.path}: damaged inside its packing ({reason(error)}); fetch it again") from None
    except (OSError, ValueError) as error:
        raise FileError(f"{file.path}: cannot be read ({reason(error)}); check it") from None


def _opened(file: File) -> BinaryIO:
    return open(file.path, "rb") if file.data is None else io.BytesIO(file.data)


def decode(file: File, data: bytes, reading: Reading, exact: bool = False) -> str:
    """The text of a file; lines end in a line feed, unless it is wanted exactly. Raises FileError, InputError."""
    encoding = reading.columns.get("encoding")
    if encoding is not None:
        codec = declared_codec(encoding) or ("utf-16" if encoding.lower().startswith("utf-16") else None)
        if codec is None:
            raise InputError(f"{encoding!r} is no encoding of texts; name one such as gb18030, big5 or latin-1")
    else:
        try:
            codec = find_encoding(lambda: (data[at : at + BLOCK] for at in range(0, len(data), BLOCK)))
        except Undecodable as error:
            if not _western(data):
                raise FileError(
                    f"{file.path}: byte {error.offset:,} {error.what}; convert the file to UTF-8, or name its encoding"
                ) from None
            codec = "cp1252"
            reading.note(f"{file.name}: byte {error.offset:,} is not UTF-8; read as Windows-1252, as older files are")
    try:
        text = data.decode(codec)
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        raise FileError(f"{file.path}: byte {at:,} is not {codec}; name the file's true encoding") from None
    text = text.removeprefix("\ufeff")
    return text if exact else text.replace("\r\n", "\n").replace("\r", "\n")


def _western(data: bytes) -> bool:
    """Whether bytes that are not UTF-8 read as Windows-1252: few are beyond ASCII, and none of them form UTF-8.

    A text with true UTF-8 in it and a damaged byte is not of this kind: all its other letters would be spoiled.
    """
    high = len(data) - len(data.translate(None, bytes(range(128, 256))))
    if b"\0" in data or high > WESTERN * len(data):
        return False
    if any(letter not in "\ufffd" and letter > "\x7f" for letter in set(data.decode("utf-8", "replace"))):
        return False
    try:
        data.decode("cp1252")
    except UnicodeError:
        return False
    return True


def fit(value: Any, what: str, *, empty: bool = False) -> str:
    """A string out of foreign data: neither too long nor, unless allowed, empty, and without halves of surrogates."""
    if not isinstance(value, str):
        raise Refused(f"the {what} is {kind(value)}, where a text is needed")
    if len(value) > MAX_CELL:
        raise Refused(f"the {what} has {len(value):,} characters, and at most {MAX_CELL:,} are read")
    if "\0" in value:
        raise Refused(f"the {what} holds a NUL byte, which is no character of a text")
    if not value.isascii() and SURROGATE.search(value):
        raise Refused(f"the {what} holds half of a surrogate pair, which is no character")
    if not empty and not value.strip():
        raise Refused(f"the {what} is empty")
    return value


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number"}
    return "null" if value is None else names.get(type(value), "a number" if isinstance(value, float) else "a value")


def short(value: Any) -> str:
    """A foreign value inside a sentence: one line, at most 60 characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = SURROGATE.sub("\ufffd", text[:300])
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return repr(text if len(text) <= 60 else text[:59] + "…")


def whole(value: Any, what: str) -> int:
    """A whole number out of foreign data, also as digits in a text."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,15}", value.strip()):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refused(f"{what} is {short(value)}, where a whole number is needed")
    return value


def identity(value: Any, where: str) -> str:
    """An id as text; where a row has none, its place."""
    if value is None or value == "" or isinstance(value, (dict, list, bool)):
        return where
    return fit(str(value), "id")


def together(value: Any) -> str:
    """What a row's group is, as text: numbers name groups too; "" where it has none."""
    return "" if value is None else fit(str(value), "group", empty=True)
