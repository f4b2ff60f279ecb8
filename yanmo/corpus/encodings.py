"""The encoding of foreign bytes: found by strict decoding, or an Undecodable that says why and where. Never a guess.

In: the bytes of a file as a stream of blocks that can be started anew. Out: the name of a Python codec that decodes
all of them without an error.

    find_encoding             byte-order mark → UTF-8 → (what HTML declares) → GB18030 or Big5 → Undecodable
    plausible                 how Chinese a wrongly decodable text reads
    declared_charset          the charset of an HTML page's <meta>, as a Python codec

Nearly every sequence of bytes decodes as something. UTF-8 is strict enough to be its own proof. GB18030 and Big5 are
not: bytes of EUC-KR, EUC-JP, Latin-1 and of each other often decode too. So both are tried, and one is believed only if
the result reads like Chinese: the most frequent characters of the language are at least FREQUENT of its Han characters
(prose has 0.2 to 0.45, Tang poetry 0.1 to 0.2, Korean and Japanese read with the wrong codec 0.02 to 0.07) and
MIN_FREQUENT in number, and COMMON of what is not ASCII are characters that the standards list as common. A text that is
too short or too unusual to show this fails; the remedy is to convert the file to UTF-8. charset-normalizer 3.5, tried
on the same texts, named Chinese encodings for Thai, Vietnamese and Japanese bytes; a corpus is better off with a
refusal that is counted.
"""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Callable, Iterable

Blocks = Callable[[], Iterable[bytes]]

BLOCK = 1 << 20
FREQUENT = 0.1
MIN_FREQUENT = 4
COMMON = 0.9
SAMPLE = 200_000  # characters that are judged; all of them must decode
BINARY = 0.05  # share of NUL bytes from which bytes are no text (an UTF-16 text without a mark has up to 0.5)

_MARKS = (  # the longer first: the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# The most frequent characters of modern and classical prose, simplified and traditional.
_FREQUENT = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行"
    "所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日者意无"
    "這個們來為國說時會對於過發後裡種經麼學現當沒動還進樣開從實無與曰何乃若此皆又與矣見很把被"
)
_PUNCTUATION = re.compile("[\u2010-\u2027\u3000-\u303f\uff00-\uffef\u00b7\u2500-\u257f]")
_META = re.compile(rb"""<meta[^>]{0,300}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.\-]{2,40})""", re.IGNORECASE)
_WIDER = {  # what browsers decode under these names (WHATWG Encoding Standard)
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "iso8859-1": "cp1252",
    "ascii": "cp1252",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
# What the Encoding Standard knows; Python's other codecs unpack, escape or decode no text.
_DECLARABLE = re.compile(
    "utf-8|gb(2312|k|18030)|hz|big5(hkscs)?|euc_(jp|kr)|iso2022_jp|shift_jis|cp(932|949|866|874|125[0-8])|koi8-[ru]|"
    "iso8859-[0-9]+|ascii"
)


class Undecodable(Exception):
    """Bytes without a known encoding: a reason for the books, the offset of the first offence, a sentence's middle."""

    def __init__(self, reason: str, offset: int, what: str):
        super().__init__(what)
        self.reason, self.offset, self.what = reason, offset, what


class _Nul:
    """Counts the NULs of a stream as it passes by."""

    def __init__(self) -> None:
        self.nul = self.total = 0
        self.first = -1

    def count(self, blocks: Blocks) -> Blocks:
        def counted() -> Iterable[bytes]:
            for block in blocks():
                if self.first < 0 and (found := block.find(0)) >= 0:
                    self.first = self.total + found
                self.nul += block.count(0)
                self.total += len(block)
                yield block

        return counted

    def refuse(self) -> None:
        if self.nul > BINARY * self.total:
            what = f"is the first of {self.nul:,} NULs: the file is binary, or UTF-16 without its mark"
            raise Undecodable("binary", self.first, what)


def find_encoding(blocks: Blocks, declared: str | None = None) -> str:
    """The codec that decodes all bytes strictly; raises Undecodable.

    `blocks()` starts the stream of bytes anew at each call. `declared` is a codec that the text names for itself: it is
    tried after UTF-8, since pages are often converted to UTF-8 without a change to what they declare.
    """
    head = next(iter(blocks()), b"")
    for mark, codec in _MARKS:
        if head.startswith(mark):
            offset = _first_error(blocks, codec)
            if offset is None:
                return codec
            raise Undecodable("invalid_bytes", offset, f"is not the {codec.upper()} that its byte-order mark promises")
    nul = _Nul()
    offset = _first_error(nul.count(blocks), "utf-8")
    stateful = declared is not None and declared.startswith(("iso2022", "hz"))  # such bytes are all ASCII
    if offset is None and not stateful:
        nul.refuse()
        return "utf-8"
    if declared is not None and _first_error(blocks, declared) is None:
        return declared
    if offset is None:
        return "utf-8"
    nul = _Nul()
    for _ in nul.count(blocks)():
        pass
    nul.refuse()
    best = max(((plausible(blocks, codec), codec) for codec in ("gb18030", "big5hkscs")), key=lambda pair: pair[0])
    if best[0] > 0:
        return best[1]
    raise Undecodable("unknown_encoding", offset, "is not UTF-8, and the file does not read as GB18030 or Big5 either")


def is_utf8(blocks: Blocks) -> bool:
    """Whether all bytes are UTF-8."""
    return _first_error(blocks, "utf-8") is None


def is_wide(head: bytes) -> bool:
    """Whether a text's first bytes say that its line ends are not the single byte 10: UTF-16, UTF-32, or no text."""
    return b"\0" in head or any(head.startswith(mark) for mark, codec in _MARKS if codec != "utf-8-sig")


def plausible(blocks: Blocks, codec: str) -> float:
    """The share of the most frequent characters among the Han characters, or 0 where the text does not read as Chinese.

    0 too where the bytes do not all decode.
    """
    if _first_error(blocks, codec) is not None:
        return 0.0
    text = _sample(blocks, codec)
    foreign = [character for character in text if character > "\x7f"]
    han = [character for character in foreign if "\u3400" <= character <= "\u9fff" or character > "\U0001ffff"]
    if not han:
        return 0.0
    common = _common(codec)
    fitting = sum(c in common for c in han) + sum(_PUNCTUATION.match(c) is not None for c in foreign)
    frequent = sum(c in _FREQUENT for c in han)
    reads = frequent >= max(MIN_FREQUENT, FREQUENT * len(han)) and fitting >= COMMON * len(foreign)
    return frequent / len(han) if reads else 0.0


def declared_charset(head: bytes) -> str | None:
    """The codec that the first bytes of an HTML page name in a <meta>, if Python has it."""
    found = _META.search(head)
    return None if found is None else declared_codec(found.group(1).decode("ascii"))


def declared_codec(name: str) -> str | None:
    """The codec that browsers decode with under a charset's name, if Python has it."""
    try:
        name = codecs.lookup(name).name if name.isascii() and name else ""
    except LookupError:
        return None
    if not _DECLARABLE.fullmatch(name):
        return None
    return _WIDER.get(name, name)


def _first_error(blocks: Blocks, codec: str) -> int | None:
    """The offset of the first byte that does not decode, or None; holds one block in memory."""
    decoder = codecs.getincrementaldecoder(codec)()
    before = held = 0
    try:
        for block in blocks():
            held = len(decoder.getstate()[0])
            decoder.decode(block)
            before += len(block)
        held = len(decoder.getstate()[0])
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        return max(before - held + getattr(error, "start", 0), 0)
    return None


def _sample(blocks: Blocks, codec: str) -> str:
    decoder = codecs.getincrementaldecoder(codec)()
    parts: list[str] = []
    size = 0
    for block in blocks():
        parts.append("".join(c for c in decoder.decode(block) if c > "\x7f"))  # ASCII says nothing here
        size += len(parts[-1])
        if size >= SAMPLE:
            break
    return "".join(parts)[:SAMPLE]


@functools.cache
def _common(codec: str) -> frozenset[str]:
    """The Han characters that the standards list first: Big5 level 1 (5,401), with GB 2312 level 1 (3,755) for GB18030.

    Traditional text in GB18030 is common in Taiwan's and Hong Kong's exchange with the mainland; simplified text has no
    place in Big5.
    """
    trails = [*range(0x40, 0x7F), *range(0xA1, 0xFF)]
    traditional = [bytes([lead, trail]).decode("big5", "ignore") for lead in range(0xA4, 0xC7) for trail in trails]
    if codec == "big5hkscs":
        return frozenset("".join(traditional))
    cells = (bytes([lead, trail]) for lead in range(0xB0, 0xD8) for trail in range(0xA1, 0xFF))
    return frozenset("".join(traditional) + "".join(cell.decode("gb2312", "ignore") for cell in cells))
