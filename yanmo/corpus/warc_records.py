"""Blocks of an archive → its records, one after the other, and what of it is lost.

In: Blocks of warc_streams.py. Out: Records (WARC 0.18, 1.0, 1.1 and ARC, told apart record by record) and Losses.

    records                   blocks → records and losses
    Record                    header fields in small letters, the block of bytes, the place in the file

A record ends where its header says. Where that cannot be true (no header, no length, another record's first line
before the end, the archive ends) the record is one loss, and reading goes on at the next first line of a record. No
more than MAX_RECORD bytes of a record are held, whatever its header claims.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from yanmo.corpus.units import Loss
from yanmo.corpus.warc_streams import ARC_LINE, WARC_LINE, Block, starts_record

MAX_RECORD = 64 * 2**20
MAX_HEADER = 2**16
HELD = 2**18  # searched at once for the next record

_WARC = re.compile(WARC_LINE)
_ARC = re.compile(ARC_LINE)
_NEXT = re.compile(rb"(?:^|\n)(?=%b|%b)" % (WARC_LINE, ARC_LINE))
_BLANK = re.compile(rb"\r?\n\r?\n")
_NEWLINES = b"\r\n"
_WHAT = {
    "damaged": "is damaged inside its packing",
    "truncated": "ends before its end",
    "expansion": "unpacks to far more than web pages do",
    "no_header": "does not begin like a record",
    "bad_header": "has a header that does not end or names no type",
    "bad_length": "states no length that can be true",
    "too_large": f"has more than {MAX_RECORD:,} bytes",
}


@dataclass(frozen=True)
class Record:
    """One record; `fields` has the names of WARC in small letters, for ARC too (warc-type, warc-target-uri …)."""

    offset: int
    fields: dict[str, str]
    body: bytes
    arc: bool = False

    @property
    def url(self) -> str:
        """The address of the capture, "" where none is stated."""
        return self.fields.get("warc-target-uri", "").strip("<> ")


def loss(reason: str, offset: int, url: str = "", what: str = "", failed: bool = True, text: str = "") -> Loss:
    """A Loss at a byte of the file."""
    what = what or _WHAT[reason]
    return Loss(reason, f"a record {what}", f"byte {offset:,}", failed, text=text, url=url)


@dataclass
class _Tape:
    """Bytes that follow each other without a gap; it stops before a gap and before a member that begins a record."""

    source: Iterator[Block]
    held: bytes = b""
    at: int = 0  # read of `held`
    offset: int = 0  # in the file, of the member that `held` began with, or of held[0] in a plain file
    plain: bool = False
    ahead: Block | None = None
    gaps: list[Loss] = field(default_factory=list)
    stopped: bool = False

    def fill(self, size: int) -> bool:
        """Hold at least `size` bytes beyond the place that is read; False where fewer follow."""
        parts, have = [self.held[self.at :]], len(self.held) - self.at
        if have >= size:
            return True
        while have < size and not self.stopped:
            block = self.ahead or next(self.source, None)
            self.ahead = None
            if block is None or block.lost or (block.fresh and have and not self.plain and starts_record(block.data)):
                self.ahead, self.stopped = block, True
                break
            if not have and not self.plain:
                self.offset = block.offset
            parts.append(block.data)
            have += len(block.data)
        if self.plain:
            self.offset += self.at
        self.held, self.at = b"".join(parts), 0
        return have >= size

    def go_on(self) -> str | None:
        """Drop what is held and cross the stop: the reason of the gap, "" without one, None at the end."""
        self.held, self.at, self.stopped = b"", 0, False
        block = self.ahead
        if block is not None and block.lost:
            self.ahead = None
            self.offset = block.offset
            return block.lost
        return None if block is None else ""

    def skip(self, size: int) -> bool:
        """Pass `size` bytes by without holding them."""
        while size > 0:
            if not self.fill(1):
                return False
            step = min(size, len(self.held) - self.at)
            self.at += step
            size -= step
        return True

    def place(self) -> int:
        """Where the bytes that are read next lie in the file; within a member, where that begins."""
        return self.offset + (self.at if self.plain else 0)


def records(blocks: Iterator[Block], plain: bool, start: int = 0) -> Iterator[Record | Loss]:
    """The records and losses of a stream of blocks, in their order."""
    tape = _Tape(blocks, plain=plain, offset=start)
    while True:
        while tape.fill(1) and tape.held[tape.at] in _NEWLINES:
            rest = tape.held[tape.at :]
            tape.at += len(rest) - len(rest.lstrip(_NEWLINES))
        if tape.fill(1):
            yield from _record(tape)
            continue
        gap = tape.go_on()
        if gap is None:
            return
        if gap:
            yield loss(gap, tape.offset)


def _record(tape: _Tape) -> Iterator[Record | Loss]:
    tape.fill(MAX_HEADER if tape.plain else 4096)
    place, begin = tape.place(), tape.at
    arc = _ARC.match(tape.held, begin)
    if arc is not None:
        header_end, fields = arc.end(), _arc_fields(arc)
    elif _WARC.match(tape.held, begin):
        tape.fill(MAX_HEADER)
        begin = tape.at
        blank = _BLANK.search(tape.held, begin, begin + MAX_HEADER)
        if blank is None:
            yield from _lost(tape, "bad_header", place, "", 1)
            return
        header_end, fields = blank.end(), _warc_fields(tape.held[begin : blank.start()])
    else:
        yield from _lost(tape, "no_header", place, "", 0)
        return
    url = fields.get("warc-target-uri", "").strip("<> ")
    stated = fields.get("content-length", "").strip()
    if not (stated.isascii() and stated.isdigit() and len(stated) < 19):
        yield from _lost(tape, "bad_length", place, url, header_end - begin)
        return
    length = int(stated)
    tape.at = header_end
    if length > MAX_RECORD:
        whole = tape.skip(length)
        yield loss("too_large" if whole else _gap_reason(tape), place, url, _gap_what(tape, whole, length))
        if not whole:
            _cross(tape)
        return
    whole = tape.fill(length)
    body = tape.held[tape.at : tape.at + length]
    swallowed = None if whole and _ends_well(tape, length) else _NEXT.search(body)
    if swallowed is not None:  # the next record begins before this one's end: the length is wrong
        tape.at += swallowed.end()
        yield loss("bad_length", place, url)
    elif not whole and not _newlines_lost(tape, body, length):
        yield loss(_gap_reason(tape), place, url)
        _cross(tape)
    else:
        if fields.get("warc-type") in ("conversion", "warcinfo"):
            body += _rest_of_text(tape, length)
        tape.at += len(body)
        yield Record(place, fields, body, arc is not None)


def _ends_well(tape: _Tape, length: int) -> bool:
    """Whether a record, or nothing, follows where the one that is read ends."""
    tape.fill(length + 4096)
    end = tape.at + length
    rest = tape.held[end : end + 4096].lstrip(_NEWLINES)
    return not rest or starts_record(rest)


def _newlines_lost(tape: _Tape, body: bytes, length: int) -> bool:
    """Whether an archive ends early by the carriage returns that somebody took from the lines of its HTTP header."""
    header = body[: body.find(b"\n\n") + 2]
    return tape.ahead is None and b"\r" not in header and length - len(body) <= header.count(b"\n")


def _rest_of_text(tape: _Tape, length: int) -> bytes:
    """What follows a text whose length was stated in characters, or too small: all up to the next record, if text."""
    tape.fill(length + HELD)
    begin = tape.at + length
    rest = tape.held[begin : begin + HELD]
    if not rest.strip() or starts_record(rest.lstrip(_NEWLINES)):
        return b""
    found = _NEXT.search(rest)
    rest = rest[: found.start()] if found else rest
    odd = b"\0" in rest or b"WARC-" in rest or len(rest) >= HELD
    return b"" if odd else rest


def _gap_reason(tape: _Tape) -> str:
    return tape.ahead.lost if tape.ahead is not None and tape.ahead.lost else "truncated"


def _gap_what(tape: _Tape, whole: bool, length: int) -> str:
    return f"has {length:,} bytes, more than the {MAX_RECORD:,} that are read" if whole else _WHAT[_gap_reason(tape)]


def _cross(tape: _Tape) -> None:
    """Go beyond a gap whose loss has been counted with the record that it cut."""
    tape.go_on()


def _lost(tape: _Tape, reason: str, place: int, url: str, passed: int) -> Iterator[Loss]:
    """One loss, then the place of the next first line of a record."""
    yield loss(reason, place, url)
    tape.at += passed
    while tape.fill(1):
        tape.fill(HELD)
        found = _NEXT.search(tape.held, tape.at)
        if found is not None:
            tape.at = found.end()
            return
        whole = len(tape.held) - tape.at < HELD
        tape.at = len(tape.held) if whole else max(tape.at + 1, len(tape.held) - 4096)


def _warc_fields(header: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in header.decode("utf-8", "replace").splitlines()[1:]:
        if line[:1] in " \t" and name:
            fields[name] += " " + line.strip()
        elif ":" in line:
            name, value = line.split(":", 1)
            name = name.strip().lower()
            fields.setdefault(name, value.strip())
    return fields


def _arc_fields(line: re.Match[bytes]) -> dict[str, str]:
    url = line["url"].decode("utf-8", "replace")
    date = line["date"].decode("ascii")[:14].ljust(14, "0")
    stamp = f"{date[:4]}-{date[4:6]}-{date[6:8]}T{date[8:10]}:{date[10:12]}:{date[12:14]}Z"
    return {
        "warc-type": "warcinfo" if url.startswith("filedesc:") else "response",
        "warc-target-uri": url,
        "warc-date": stamp,
        "content-type": line["type"].decode("utf-8", "replace"),
        "content-length": line["length"].decode("ascii"),
    }
