"""Tokens → the text that they stand for, and where each token stands in it.

Files of tokens do not say where spaces stood. Between words there is one; none stands between two characters of a
script that is written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese), and in a file of single characters
none at all between two single ones.

    characters     whether a file is one of single characters
    rebuild        tokens → text, (start, end) of each token
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

SINGLE = 0.9  # share of tokens of one character from which a file is one of characters
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fff\u3000-\u312f\u31a0-\u31ff\u3200-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]"
)
QUOTES = "“”‘’…—·"  # of both kinds of scripts: they take no space beside an unspaced one


def characters(tokens: Iterable[str]) -> bool:
    """Whether tokens are the single characters of texts that are written without spaces."""
    count = single = foreign = 0
    for token in tokens:
        count += 1
        single += len(token) == 1
        foreign += UNSPACED.match(token) is not None
    return bool(count) and single >= SINGLE * count and foreign >= 0.3 * count


def rebuild(tokens: Sequence[str], single: bool = False) -> tuple[str, list[tuple[int, int]]]:
    """The text of tokens and the place of each in it, in characters. `single`: the file is one of characters."""
    parts: list[str] = []
    places: list[tuple[int, int]] = []
    at, before = 0, ""
    for token in tokens:
        if before and token and _spaced(before, token, single):
            parts.append(" ")
            at += 1
        parts.append(token)
        places.append((at, at + len(token)))
        at += len(token)
        before = token or before
    return "".join(parts), places


def _spaced(before: str, token: str, single: bool) -> bool:
    left, right = before[-1], token[0]
    if left.isspace() or right.isspace():
        return False
    if single and len(before) == len(token) == 1:
        return False
    unspaced = [UNSPACED.match(letter) is not None for letter in (left, right)]
    if all(unspaced):
        return False
    return not (any(unspaced) and (left in QUOTES or right in QUOTES))
