"""Characters as numbers: what kind each one is, and hashes of stretches of text, for whole arrays at once.

In: texts. Out: arrays over their code points.

    codes_of                  text → its code points, (n,) uint32
    kinds_of                  code points → SPACE, LINE, LETTER, …, (n,) uint8
    Ranges                    hashes of any stretches of one array of code points, upper and lower case alike
    mix                       one 64-bit number → another, all bits of which depend on all bits

A script without spaces between words (Han, kana, Thai, Lao, Khmer, Burmese, Tibetan) is SPACELESS: a character there is
a unit of its own. A Chinese word has 1.6 characters in the mean, so that n words of English weigh as much as 1.6 n
characters of Chinese; every rule and every n-gram here uses this one rate.

The tables come from Python's Unicode data, the same for every character assigned by Unicode 14. Hashes are sums of one
random-looking number a character times a power of an odd constant, modulo 2**64 (M. O. Rabin: Fingerprinting by Random
Polynomials, 1981), mixed at the end: no seed, no time, the same on any machine.
"""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass

import numpy as np

SPACE, LINE, LETTER, DIGIT, SPACELESS, END, CLOSING, BULLET, HASH, ELLIPSIS, BRACE, OTHER, BROKEN = range(13)
KINDS = 16  # of counts: a power of two above the last kind
CHARACTERS_PER_WORD = 1.6

PLANES = 0x40000  # code points from here on are unassigned or private: OTHER
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2**64
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))
_SPACELESS = (  # first and last code point
    (0x0E00, 0x0EFF),
    (0x0F00, 0x0FFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3005, 0x3007),
    (0x3041, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9D),
    (0x1B000, 0x1B2FF),
    (0x20000, 0x3FFFF),
)
_MARKS = {
    END: ".!?。！？｡．；;:：。؟۔।॥။។።՜",
    CLOSING: "\"'”’»›」』）)]】》〉〕］",
    BULLET: "-–—*•·●○■□▪▫◆◇►▶➢✓※・‣⁃",
    HASH: "#＃",
    ELLIPSIS: "…",
    BRACE: "{}",
    BROKEN: "\ufffd",
}


def codes_of(text: str) -> np.ndarray:
    """The code points of a text, half characters (lone surrogates) too: (n,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def kinds_of(codes: np.ndarray) -> np.ndarray:
    """The kind of each code point: (n,) uint8."""
    return _kinds().take(codes, mode="clip")


def mix(values: np.ndarray) -> np.ndarray:
    """splitmix64's last step, for uint64 (S. Vigna, 2015)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True)
class Ranges:
    """Sums over the code points before each place, from which the hash of any stretch follows in constant time."""

    sums: np.ndarray  # (n + 1,) uint64

    @classmethod
    def of(cls, codes: np.ndarray, counted: np.ndarray | None = None) -> Ranges:
        """`counted` (n,) bool: the others weigh nothing, though their places count."""
        values = _values().take(codes, mode="clip")
        values *= powers(len(codes))[0]
        if counted is not None:
            values *= counted
        sums = np.zeros(len(codes) + 1, np.uint64)
        np.cumsum(values, out=sums[1:])
        return cls(sums)

    def hashes(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """The hash of each stretch, equal for equal stretches wherever they lie: uint64."""
        inverse = powers(len(self.sums))[1]
        return mix((self.sums[ends] - self.sums[starts]) * inverse[starts])


def rolled(hashes: np.ndarray, token: np.ndarray) -> np.ndarray:
    """The unmixed hash of an n-gram of tokens from that of its first n - 1 tokens and its last token."""
    return hashes * _BASE + token


_POWERS: list[tuple[np.ndarray, np.ndarray]] = []
MIN_POWERS = 1 << 16


def powers(length: int) -> tuple[np.ndarray, np.ndarray]:
    """The first powers of the base and of its inverse, at least `length` of each the first time, cut to it: uint64."""
    if length > MIN_POWERS:  # a long text's own: not kept, or one book would hold its memory for ever
        return _powers(length)
    if not _POWERS:
        _POWERS.append(_powers(MIN_POWERS))
    up, down = _POWERS[0]
    return up[:length], down[:length]


def _powers(length: int) -> tuple[np.ndarray, np.ndarray]:
    up = np.full(length, _BASE, np.uint64)
    down = np.full(length, _INVERSE, np.uint64)
    up[:1] = down[:1] = 1
    return np.cumprod(up), np.cumprod(down)


@functools.cache
def _kinds() -> np.ndarray:
    table = np.full(PLANES, OTHER, np.uint8)
    kinds = {"L": LETTER, "M": LETTER, "Z": SPACE}
    for code in range(PLANES):
        category = unicodedata.category(chr(code))
        if category in ("Nd", "Cc"):
            table[code] = DIGIT if category == "Nd" else SPACE
        elif category[0] in kinds:
            table[code] = kinds[category[0]]
    for first, last in _SPACELESS:
        spaceless = table[first : last + 1]
        spaceless[spaceless == LETTER] = SPACELESS
    table[0x3007] = SPACELESS  # 〇, a numeral by its category
    for kind, marks in _MARKS.items():
        table[[ord(mark) for mark in marks]] = kind
    table[ord("\n")] = LINE
    return table


@functools.cache
def _values() -> np.ndarray:
    """One number a code point, that of its lower case where that is one character."""
    lower = np.arange(PLANES, dtype=np.uint64)
    for code in range(PLANES):
        small = chr(code).lower()
        if len(small) == 1:
            lower[code] = ord(small)
    return mix(lower * _BASE + np.uint64(1))
