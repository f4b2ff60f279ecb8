"""The script of a text: han, latin or other, by counting letters. A measure of writing, not of language.

    script                    text → "han", "latin" or "other"

Chinese counts as han and English as latin, but so do classical Japanese and German: a corpus says what was measured.
"""

from __future__ import annotations

import numpy as np

SCRIPTS = ("han", "latin", "other")
SAMPLE = 20_000  # characters from the start, enough for a share of a few per cent
MIN_HAN = 0.3  # of the letters: Chinese technical prose mixes in much Latin
MAX_KANA = 0.05  # above, the Han characters are Japanese
MIN_LATIN = 0.5


def script(text: str) -> str:
    """The script that most letters of the first 20,000 characters are written in."""
    codes = np.frombuffer(text[:SAMPLE].encode("utf-32-le", "replace"), dtype="<u4")
    han = _between(codes, (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
    kana = _between(codes, (0x3040, 0x30FF))
    latin = _between(codes, (0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF))
    foreign = _between(codes, (0x250, 0x1DFF), (0x1F00, 0x1FFF), (0xA000, 0xD7FF))
    letters = max(han + kana + latin + foreign, 1)
    if han >= MIN_HAN * letters and kana <= MAX_KANA * letters:
        return "han"
    return "latin" if latin >= MIN_LATIN * letters else "other"


def _between(codes: np.ndarray, *ranges: tuple[int, int]) -> int:
    return sum(int(np.count_nonzero((codes >= low) & (codes <= high))) for low, high in ranges)
