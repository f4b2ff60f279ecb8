"""Cleaning: text → the same text without what only machines see, or a named reason to leave it out.

    clean                     line ends, control and zero-width characters, NFC, trailing spaces, runs of blank lines
    reject                    a reason from REASONS, or None for a text that is kept

Both are pure functions, and clean(clean(text)) == clean(text). Text in Chinese needs no spaces to count as text: sizes
are measured without white space in bytes of UTF-8, in which a Han character weighs as much as three Latin letters,
about what it says.
"""

from __future__ import annotations

import re
import unicodedata
import zlib

MIN_BYTES = 12  # four Han characters, twelve Latin letters
MAX_BROKEN = 0.01  # share of U+FFFD, the scar of an earlier wrong decoding
MIN_WORDLIKE = 0.4  # share of letters and digits; source code has about 0.8
MAX_DIGITS = 0.6
MIN_COMPRESSED = 0.05  # of the size, by zlib; prose has about 0.4, a repeated sentence below 0.02
COMPRESSED_FROM = 1000  # bytes; below, the overhead of zlib hides the measure

REASONS = {
    "empty": "no character but white space",
    "too_short": f"fewer than {MIN_BYTES} bytes without white space",
    "broken_encoding": f"more than {MAX_BROKEN:.0%} replacement characters (U+FFFD)",
    "mostly_symbols": f"fewer than {MIN_WORDLIKE:.0%} letters and digits",
    "mostly_digits": f"more than {MAX_DIGITS:.0%} digits",
    "repetitive": f"compresses to less than {MIN_COMPRESSED:.0%}",
    "duplicate": "the same text, white space aside, came before",
}

# Tab and line feed stay. The joiners U+200C and U+200D stay: emoji and several scripts are spelt with them.
_REMOVED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff]+")
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")  # half characters, which JSON can spell and UTF-8 cannot
_BLANK_LINES = re.compile("\n{4,}")
_SPACES = " \t\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_ASCII_DIGITS = b"0123456789"
_ASCII_LETTERS = bytes(range(65, 91)) + bytes(range(97, 123))
_ASCII_SPACES = b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"


def clean(text: str) -> str:
    """The text in NFC, lines ended by line feeds, without invisible characters, at most two blank lines in a row."""
    text = _REMOVED.sub("", text)  # first: a NUL between CR and LF would hide one line end as two
    text = _LINE_ENDS.sub("\n", text)
    text = _SURROGATES.sub("\ufffd", text)
    text = unicodedata.normalize("NFC", text)
    text = "\n".join([line.rstrip(_SPACES) for line in text.split("\n")])
    return _BLANK_LINES.sub("\n\n\n", text).strip("\n")


def reject(text: str) -> str | None:
    """The first reason of REASONS for which a cleaned text is left out, or None."""
    data = text.encode("utf-8")
    characters, size, letters, digits = _measure(text, data)
    if characters == 0:
        return "empty"
    if size < MIN_BYTES:
        return "too_short"
    if text.count("\ufffd") > MAX_BROKEN * characters:
        return "broken_encoding"
    if letters + digits < MIN_WORDLIKE * characters:
        return "mostly_symbols"
    if digits > MAX_DIGITS * characters:
        return "mostly_digits"
    if len(data) >= COMPRESSED_FROM and len(zlib.compress(data, 1)) < MIN_COMPRESSED * len(data):
        return "repetitive"
    return None


def _measure(text: str, data: bytes) -> tuple[int, int, int, int]:
    """Characters and bytes without white space, letters (with their marks), digits."""
    if text.isascii():
        solid = len(data.translate(None, _ASCII_SPACES))
        letters = len(data) - len(data.translate(None, _ASCII_LETTERS))
        digits = len(data) - len(data.translate(None, _ASCII_DIGITS))
        return solid, solid, letters, digits
    solid_text = "".join(text.split())
    digits = sum(map(str.isdecimal, solid_text))
    words = sum(map(str.isalnum, solid_text))
    marks = sum(map(_is_mark, solid_text)) if words < MIN_WORDLIKE * len(solid_text) else 0  # Indic vowels are marks
    return len(solid_text), len(solid_text.encode("utf-8")), words + marks - digits, digits


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"
