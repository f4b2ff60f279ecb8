"""The engine for SentencePiece models, which the sentencepiece library runs.

In: checked models, and a layout that says which id each piece has in the language model. Out: ids for text and text
for ids. Ids are the library's own for a .model alone; a family moves them (XLM-R) or looks them up (Marian), and finds
its special tokens in the text, which the library never does.

    Side           one model with its ids; Marian has two, source and target
    Layout         everything else that a family decides
    PieceEngine    encode, decode, stream, fingerprint
    PieceStream    ids → text, one by one; `decode` is the same loop
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import sentencepiece

from yanmo.errors import FileError
from yanmo.files import reason
from yanmo.tokens.offsets import Range, covered, piece_ranges
from yanmo.tokens.piecemodel import BYTE, CONTROL, UNKNOWN, PieceModel, open_model
from yanmo.tokens.settings import Added, Settings
from yanmo.tokens.stream import Stream

SPACE = "▁"
UNDEFINED = "\ufffd"


@dataclass(frozen=True)
class Side:
    """A model and the id of each of its pieces."""

    model: PieceModel
    ids: Sequence[int]

    @cached_property
    def processor(self) -> sentencepiece.SentencePieceProcessor:
        return open_model(self.model)

    @cached_property
    def bare(self) -> sentencepiece.SentencePieceProcessor:
        return open_model(self.model, prefix=False)


@dataclass(frozen=True)
class Layout:
    """What a family decides about its ids.

    prefix: where the library may put a space before a stretch of text between special tokens: "always", at the
    beginning of the whole text ("first"), or "never". frame: ids before the text, between a pair, after it.
    """

    family: str
    names: dict[str, str | None]
    added: tuple[Added, ...] = ()
    prefix: str = "always"
    frame: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] = ((), (), ())
    table: dict[str, int] | None = None  # Marian's vocab.json
    files: dict[str, bytes] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


class PieceEngine:
    """A tokenizer of one or two SentencePiece models."""

    kind = "sentencepiece"

    def __init__(self, source: Side, layout: Layout, settings: Settings, target: Side | None = None) -> None:
        self.source = source
        self.target = target or source
        self.layout = layout
        self.settings = settings
        self.names = layout.names
        self.path = source.model.path
        self._numbers = dict(layout.table) if layout.table is not None else {}
        if layout.table is None:
            self._numbers = {piece: source.ids[place] for place, piece in enumerate(source.model.pieces)}
        self._numbers.update({entry.content: entry.id for entry in layout.added if entry.id is not None})
        self.size = max(self._numbers.values()) + 1
        self.tokens: list[str | None] = [None] * self.size
        for token, number in self._numbers.items():
            self.tokens[number] = token
        self._verbatim = {entry.id for entry in layout.added}
        special = {entry.id for entry in layout.added if entry.special and entry.id is not None}
        self.unknown = source.ids[source.model.types.index(UNKNOWN)]
        self.bytes_: dict[int, int] = {}
        for place, kind in enumerate(source.model.types):
            if kind == BYTE:
                self.bytes_[source.ids[place]] = _byte(self.path, source.model.pieces[place])
            elif kind == CONTROL and layout.table is None:
                special.add(source.ids[place])
        self._verbatim |= special
        self.special = frozenset(special | {self.unknown})
        source.processor, self.target.processor  # noqa: B018  a model that the library refuses is refused now

    def encode(self, text: str, special: bool, target: bool) -> list[int]:
        ids = self._plain(text, self.target if target else self.source)
        if not special:
            return ids
        left, _, right = self.layout.frame
        return [*left, *ids, *right]

    def encode_batch(self, texts: Sequence[str], special: bool, target: bool) -> list[list[int]]:
        return [self.encode(text, special, target) for text in texts]

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text without a frame, (n,) uint32."""
        return [np.array(ids, np.uint32) for ids in self.encode_batch(texts, False, False)]

    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        left, middle, right = self.layout.frame
        head = [*left, *self._plain(first, self.source), *middle]
        tail = [*self._plain(second, self.source), *right]
        second_type = 1 if self.layout.family in ("llama", "gemma") else 0
        return head + tail, [0] * len(head) + [second_type] * len(tail)

    def encode_offsets(self, texts: Sequence[str], special: bool) -> list[tuple[list[int], list[Range]]]:
        left, _, right = self.layout.frame if special else ((), (), ())
        rows: list[tuple[list[int], list[Range]]] = []
        for text in texts:
            found = self._placed(text, self.source)
            ranges = covered(text, [place for _, place in found])
            ids = [number for number, _ in found]
            rows.append(([*left, *ids, *right], [*[(0, 0)] * len(left), *ranges, *[(0, 0)] * len(right)]))
        return rows

    def _placed(self, text: str, side: Side) -> list[tuple[int, Range]]:
        """`_plain` with the range of each id; slower, as the library writes out what it knows of each piece."""
        found: list[tuple[int, Range]] = []
        for start, chunk, number in self._split(text):
            if number is not None:
                found.append((number, (start, start + len(chunk))))
                continue
            processor = self._processor(side, start)
            code, chunk = self._language(chunk)
            if code is not None:
                found.append((self._numbers.get(code, self.unknown), (start, start + len(code))))
                start += len(code)
            table = self.layout.table
            try:
                pieces = piece_ranges(chunk, processor.encode(chunk, out_type="serialized_proto"))
            except Exception as error:
                raise self._unread(chunk, error) from None
            for piece, place, (begin, end) in pieces:
                id = side.ids[place] if table is None else table.get(piece, self.unknown)
                found.append((id, (start + begin, start + end)))
        return found

    def _plain(self, text: str, side: Side) -> list[int]:
        """The ids of a text without the frame; special tokens in it are found."""
        ids: list[int] = []
        for start, chunk, number in self._split(text):
            if number is not None:
                ids.append(number)
                continue
            processor = self._processor(side, start)
            code, chunk = self._language(chunk)
            if code is not None:
                ids.append(self._numbers.get(code, self.unknown))
            table = self.layout.table
            try:
                if table is None:
                    ids += [side.ids[piece] for piece in processor.encode(chunk)]
                else:  # by name: what one model cannot spell may still be a token of the other
                    ids += [table.get(piece, self.unknown) for piece in processor.encode(chunk, out_type=str)]
            except Exception as error:
                raise self._unread(chunk, error) from None
        return ids

    def _language(self, chunk: str) -> tuple[str | None, str]:
        """(the language to translate into, the text behind it): Marian has one token for it before the text."""
        end = chunk.find("<<")
        if self.layout.family != "marian" or chunk[:2] != ">>" or end == -1:
            return None, chunk
        return chunk[: end + 2], chunk[end + 2 :]

    def _processor(self, side: Side, start: int) -> sentencepiece.SentencePieceProcessor:
        spaced = self.layout.prefix == "always" or (self.layout.prefix == "first" and start == 0)
        return side.processor if spaced else side.bare

    def _unread(self, chunk: str, error: Exception) -> FileError:
        return FileError(
            f"{self.path}: the model cannot encode a text of {len(chunk):,} characters ({reason(error)}); "
            "fetch the file again"
        )

    def _split(self, text: str) -> Iterator[tuple[int, str, int | None]]:
        """(position, text, None) for ordinary stretches and (position, token, id) for added tokens, from left."""
        place = 0
        for match in self._matches(text):
            entry = self._entries[match.group()]
            before = text[place : match.start()]
            before = before.rstrip() if entry.lstrip else before
            if before:
                yield place, before, None
            yield match.start(), entry.content, entry.id
            place = match.end()
            if entry.rstrip:
                while place < len(text) and text[place].isspace():
                    place += 1
        if place < len(text):
            yield place, text[place:] if place else text, None

    def _matches(self, text: str) -> Iterator[re.Match[str]]:
        place = 0
        while self._pattern is not None and (match := self._pattern.search(text, place)) is not None:
            around = text[max(match.start() - 1, 0) : match.start()] + text[match.end() : match.end() + 1]
            if self._entries[match.group()].single_word and re.search(r"\w", around):
                place = match.start() + 1
                continue
            yield match
            place = match.end()

    @cached_property
    def _entries(self) -> dict[str, Added]:
        return {entry.content: entry for entry in self.layout.added}

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        """Finds the leftmost added token, and of those that begin there the longest."""
        tokens = sorted(self._entries, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, tokens))) if tokens else None

    def decode(self, ids: Sequence[int], skip: bool) -> str:
        stream = self.stream(skip)
        pieces = [stream.push(number) for number in ids]
        return "".join(pieces) + stream.finish()

    def stream(self, skip: bool) -> Stream:
        return PieceStream(self, skip)

    def token(self, number: int) -> str | None:
        return self.tokens[number] if 0 <= number < self.size else None

    def id(self, token: str) -> int | None:
        return self._numbers.get(token)

    def id_bytes(self, number: int) -> bytes:
        if number in self.bytes_:
            return bytes([self.bytes_[number]])
        return self.surface(number, False).encode()

    def surface(self, number: int, skip: bool) -> str:
        """The text of one id that is no byte, before anything is stripped."""
        if number == self.unknown and self.layout.family == "":
            return self.source.model.unk_surface
        if skip and number in self.special:
            return ""
        token = self.token(number)
        if token is None:
            return UNDEFINED
        return token if number in self._verbatim or number == self.unknown else token.replace(SPACE, " ")

    def added(self) -> list[Added]:
        return list(self.layout.added)

    def fingerprint(self) -> str:
        """A SHA-256 of the models and of what the family decides."""
        layout = [self.layout.family, self.layout.prefix, self.layout.frame, sorted(self.names.items())]
        added = [asdict(entry) for entry in sorted(self.layout.added, key=lambda entry: (entry.id or 0, entry.content))]
        models = [hashlib.sha256(side.model.data).hexdigest() for side in (self.source, self.target)]
        table = sorted(self.layout.table.items()) if self.layout.table is not None else None
        text = json.dumps([models, layout, added, table], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def files(self) -> dict[str, bytes]:
        return self.layout.files

    def config(self) -> dict[str, Any]:
        return self.layout.config


class PieceStream:
    """One text; as the library's own decoder, and special tokens as they are written.

    A space that the model put before the text is taken off: one from the first piece, or from every piece before
    the first that has text, where the model removes extra spaces. A byte that belongs to no character is one U+FFFD.
    """

    def __init__(self, engine: PieceEngine, skip: bool) -> None:
        self._engine = engine
        self._skip = skip
        model = engine.target.model
        self._strips = model.strips
        self._leading = engine.layout.prefix != "never" and (model.dummy_prefix or model.strips)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._mid = False  # bytes of a character that is not whole wait in the decoder

    def push(self, number: int) -> str:
        byte = self._engine.bytes_.get(number)
        if byte is not None:
            self._leading = False
            text = self._utf8.decode(bytes([byte]))
            self._mid = not text or self._utf8.getstate()[0] != b""
            return _shown(text)
        text = self._engine.surface(number, self._skip)
        alone = self._engine.layout.family == ""  # the library ends a run of bytes at any piece, also one without text
        if self._mid and (text or alone):
            return self._rest() + text
        if not text:
            return ""
        if self._leading and number not in self._engine.special:
            stripped = text.removeprefix(" ")
            self._leading = self._strips and not stripped
            return stripped
        self._leading = False
        return text

    def finish(self) -> str:
        return self._rest() if self._mid else ""

    def held(self) -> str:
        return ""

    def _rest(self) -> str:
        self._mid = False
        text = self._utf8.decode(b"", True)
        self._utf8.reset()
        return _shown(text)


def _shown(text: str) -> str:
    """One U+FFFD for each byte that the decoder could not place."""
    return re.sub("[\udc80-\udcff]", UNDEFINED, text)


def _byte(path: Any, piece: str) -> int:
    match = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
    if match is None:
        raise FileError(f"{path}: the byte piece {piece[:40]!r} is not of the form <0x0A>; fetch the file again")
    return int(match.group(1), 16)
