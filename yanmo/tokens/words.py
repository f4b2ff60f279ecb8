"""Which tokens make up a word, for masking whole words.

In: ids of any vocabulary. Out: for each token the number of its word in the row.

    Words              ids → word numbers
    chinese_words      Chinese text → words, by the package rjieba

The text is put together again from the tokens' bytes, its words are found, and a token begins a new word where its
first character that is no space does. So one rule serves WordPiece (##), byte-level BPE and SentencePiece, and holds
for a character that is spread over several tokens.

A word is a run of letters, digits and their marks. Chinese has no spaces: its words come from a segmenter, and without
one each character is a word. Scripts without spaces and without a segmenter here (Japanese kana, Thai, Lao, Khmer,
Burmese, Tibetan) count each letter as a word, as do signs.
"""

from __future__ import annotations

import functools
import importlib.util
import unicodedata
import warnings
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from yanmo.errors import need
from yanmo.tokens.tokenizer import Tokenizer

SPACE, LETTER, HAN, ALONE, MARK = range(5)
HAN_RANGES = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF), (0x3005, 0x3005), (0x3007,) * 2)
UNSPACED = ((0x0E00, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F))

Segmenter = Callable[[str], list[str]]


class Words:
    """The words of one vocabulary's texts.

    chinese: True needs rjieba, False takes each Chinese character as a word, None takes rjieba where it is installed
    and else warns at the first Chinese text. `name` says which it is, since other words give other masks.
    """

    def __init__(self, tokenizer: Tokenizer, chinese: bool | None = None) -> None:
        found = importlib.util.find_spec("rjieba") is not None
        self._segment: Segmenter | None = None
        self.name = "characters"
        if chinese or (chinese is None and found):
            self._segment = chinese_words()
            self.name = f"rjieba {version('rjieba')}"
        self._warns = chinese is None and not found
        self._tokenizer = tokenizer
        self._special = tokenizer.special_ids
        self._bytes = functools.lru_cache(maxsize=None)(self._surface)
        self._joined = _wordpiece(tokenizer)

    def numbers(self, ids: np.ndarray) -> np.ndarray:
        """The word of each token, (T,), counted from 0; a special token is a word of its own."""
        pieces = [self._bytes(number) for number in ids.tolist()]
        if self._joined:  # WordPiece sets spaces around every Chinese character
            for place in range(1, len(pieces)):
                if pieces[place][:1] == b" " and _is_han(pieces[place][1:5], 0) and _is_han(pieces[place - 1][-4:], -1):
                    pieces[place] = pieces[place][1:]
        whole = b"".join(pieces)
        begins = self._begins(whole)
        new = np.empty(len(pieces), bool)
        offset = 0
        for place, piece in enumerate(pieces):
            first = len(piece) - len(piece.lstrip()) if piece.strip() else 0
            new[place] = begins[offset + first]
            offset += len(piece)
        new[:1] = True
        return np.cumsum(new) - 1

    def _begins(self, whole: bytes) -> np.ndarray:
        """Whether a word begins at each byte, and one more for the end."""
        text = whole.decode("utf-8", "surrogateescape")
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        widths = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
        widths[(codes >= 0xDC80) & (codes <= 0xDCFF)] = 1  # a byte that belongs to no character
        begins = np.zeros(len(whole) + 1, bool)
        begins[np.cumsum(widths)[self._borders(text)] - widths[self._borders(text)]] = True
        return begins

    def _borders(self, text: str) -> np.ndarray:
        """The characters at which a word begins, in order."""
        kinds = np.fromiter(map(_kind, text), np.int64, len(text))
        place = np.arange(len(text))
        before = np.maximum.accumulate(np.where(kinds != MARK, place, 0))  # a mark is of the kind it stands on
        solid = kinds[before] if len(text) else kinds
        border = (kinds != MARK) & (solid != LETTER)
        border |= (kinds == LETTER) & (np.concatenate([[SPACE], solid[:-1]]) != LETTER)
        if len(text):
            border[0] = True
        edges = np.flatnonzero(np.diff(np.concatenate([[0], (solid == HAN).astype(np.int64), [0]])))
        for begin, end in edges.reshape(-1, 2).tolist():
            if end - begin > 1:
                self._cut(text[begin:end], border[begin:end])
        return np.flatnonzero(border)

    def _cut(self, run: str, border: np.ndarray) -> None:
        """Keep the borders of a run of Chinese characters that lie between words."""
        if self._segment is None:
            if self._warns:
                self._warns = False
                warnings.warn(
                    "the text is Chinese and rjieba is not installed, so each character counts as a word; for whole "
                    'Chinese words: pip install "yanmo[chinese]"',
                    stacklevel=2,
                )
            return
        words = self._segment(run)
        ends = np.cumsum([len(word) for word in words])
        kept = np.zeros(len(run), bool)
        kept[np.concatenate([[0], ends[:-1]])] = True
        border &= kept

    def _surface(self, number: int) -> bytes:
        """An id's bytes; a special token is a line end, which parts words."""
        return b"\n" if number in self._special else self._tokenizer.id_bytes(number)


def chinese_words() -> Segmenter:
    """rjieba's segmenter: a dictionary, and a hidden Markov model for words that are not in it."""
    return need("rjieba", "chinese", "finding Chinese words").cut


def _wordpiece(tokenizer: Tokenizer) -> bool:
    """Whether ## marks the tokens that go on with a word."""
    for number in range(tokenizer.vocab_size):
        token = tokenizer.engine.token(number)
        if token is not None and token.startswith("##") and len(token) > 2 and number not in tokenizer.special_ids:
            return tokenizer.id_bytes(number) == token[2:].encode()
    return False


def _is_han(data: bytes, place: int) -> bool:
    text = data.decode("utf-8", "ignore")
    return bool(text) and _kind(text[place]) == HAN


@functools.lru_cache(maxsize=1 << 16)
def _kind(character: str) -> int:
    code = ord(character)
    if character.isspace():
        return SPACE
    if any(low <= code <= high for low, high in HAN_RANGES):
        return HAN
    category = unicodedata.category(character)[0]
    if category == "M":
        return MARK
    unspaced = any(low <= code <= high for low, high in UNSPACED)
    return LETTER if category in "LN" and not unspaced else ALONE
