"""The measures that the rules of quality judge, of many texts at once.

In: Tokens and their texts. Out: measure → (texts,) float64; NaN where a measure does not apply, which breaks no rule.

    measure                   all of them
    TOP_GRAMS                 n whose most frequent n-gram is weighed: its occurrences' share of the characters
    DUPLICATE_GRAMS           n whose repeated n-grams are: the share of characters within their second and later ones

A repeated (n + 1)-gram begins with a repeated n-gram, so each order looks only where the order below repeats.
"""

from __future__ import annotations

import functools

import numpy as np

from yanmo.corpus.characters import (
    BRACE,
    BULLET,
    CLOSING,
    ELLIPSIS,
    END,
    HASH,
    LETTER,
    LINE,
    SPACE,
    SPACELESS,
    mix,
)
from yanmo.corpus.words import Tokens, characters_for, ngrams, tokenise

TOP_GRAMS = (2, 3, 4)
DUPLICATE_GRAMS = (5, 6, 7, 8, 9, 10)
SHORT = 30  # characters of a short line (FineWeb)
SHORT_SPACELESS = 10  # of a script without spaces: as much is said in about a third
FEW = 8  # lines: with fewer, shares of lines say nothing, and a page of one paragraph is no list
FEW_PARAGRAPHS = 3
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Gopher's
STOP_CHARACTERS = "的了是在不有一之人为為也"  # one of them is among any 20 characters of Chinese, old or new
SCRIPT_WARNINGS = ("enable javascript", "javascript is disabled", "requires javascript", "turn on javascript")
SCRIPT_WARNINGS_ZH = ("启用javascript", "啟用javascript", "开启javascript", "不支持javascript", "禁用了javascript")
WARNED_BELOW = 2000  # characters: a longer text speaks of JavaScript, a shorter one asks for it


def measure(tokens: Tokens, texts: list[str]) -> dict[str, np.ndarray]:
    """Every measure of each text."""
    spaceless = tokens.spaceless
    words = np.diff(tokens.words)
    weights = tokens.weights
    counts = tokens.counts
    solid = counts.sum(1) - counts[:, SPACE] - counts[:, LINE]
    found = {"words": weights, "spaceless": spaceless.astype(np.float64)}
    letters = counts[:, LETTER] + counts[:, SPACELESS]
    with np.errstate(invalid="ignore", divide="ignore"):
        lengths = _sums(tokens.ends - tokens.starts, tokens.words) / words
        found["word_length"] = np.where(spaceless | (words == 0), np.nan, lengths)
        found["symbols"] = (counts[:, HASH] + counts[:, ELLIPSIS]) / weights
        found["braces"] = counts[:, BRACE] / solid
        found["alphabetic"] = _alphabetic(tokens) / words
        found["letters"] = letters / solid
    found["stop_words"] = _stop_words(tokens)
    lowered = [text.lower() if len(text) < WARNED_BELOW or "orem ipsum" in text else "" for text in texts]
    found["lorem_ipsum"] = np.array(["lorem ipsum" in text for text in lowered], np.float64)
    found["javascript"] = np.array([_warns(text) for text in lowered], np.float64)
    found |= _lines(tokens, spaceless, weights)
    found |= _repetition(tokens, spaceless)
    return found


def _warns(text: str) -> bool:
    if len(text) >= WARNED_BELOW or "javascript" not in text:
        return False
    return any(each in text for each in SCRIPT_WARNINGS) or any(
        each in text.replace(" ", "") for each in SCRIPT_WARNINGS_ZH
    )


def _sums(values: np.ndarray, borders: np.ndarray) -> np.ndarray:
    total = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=total[1:])
    return total[borders[1:]] - total[borders[:-1]]


def _alphabetic(tokens: Tokens) -> np.ndarray:
    """Words with a letter, of each text."""
    total = np.zeros(len(tokens.kinds) + 1, np.int64)
    np.cumsum((tokens.kinds == LETTER) | (tokens.kinds == SPACELESS), out=total[1:])
    return _sums(total[tokens.ends] > total[tokens.starts], tokens.words)


def _stop_words(tokens: Tokens) -> np.ndarray:
    """How many different stop words a text has, of Gopher's eight or of the Chinese twelve."""
    owner = _owners(tokens)
    result = np.zeros(len(tokens), np.float64)
    for word in _stop_hashes():
        result += np.bincount(owner[tokens.hashes == word], minlength=len(tokens)) > 0
    return result


@functools.cache
def _stop_hashes() -> tuple[np.uint64, ...]:
    return tuple(np.unique(tokenise([" ".join([*STOP_WORDS, *STOP_CHARACTERS])]).hashes))


def _owners(tokens: Tokens) -> np.ndarray:
    return np.repeat(np.arange(len(tokens)), np.diff(tokens.words))


def _lines(tokens: Tokens, spaceless: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Shares of the lines that are not blank, and what of them and of the paragraphs is repeated."""
    number, kinds = len(tokens), tokens.kinds
    breaks = np.flatnonzero(kinds == LINE)
    solid = np.flatnonzero((kinds != SPACE) & (kinds != LINE))
    borders = np.searchsorted(solid, np.concatenate([[0], breaks]))
    filled = np.flatnonzero(np.diff(borders))
    if not len(filled):
        zero = np.full(number, np.nan)
        names = ("bullets", "ellipses", "ended_lines", "short_lines", "line_breaks")
        return dict.fromkeys((*names, *_REPEATED), zero)
    starts, last = solid[borders[filled]], solid[borders[filled + 1] - 1]
    owner = np.searchsorted(tokens.texts, starts, side="right") - 1
    lines = np.bincount(owner, minlength=number)
    before = solid[np.maximum(borders[filled + 1] - 2, 0)]
    two = last > starts  # and not the end of another line, where this one has a single character
    end, inner = kinds[last], np.where(two, kinds[before], SPACE)
    ended = (end == END) | (end == ELLIPSIS) | (end == CLOSING) & ((inner == END) | (inner == ELLIPSIS))
    dots = (end == ELLIPSIS) | two & (tokens.codes[last] == 46) & (tokens.codes[before] == 46)
    short = last + 1 - starts <= np.where(spaceless, SHORT_SPACELESS, SHORT)[owner]

    def share(those: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.bincount(owner[those], minlength=number) / lines

    head = np.concatenate([[True], (np.diff(filled) > 1) | (np.diff(owner) > 0)])  # a blank line or a text before it
    first = np.flatnonzero(head)
    final = np.append(first[1:] - 1, len(last) - 1)  # the last line of each paragraph
    enough = lines >= FEW
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            "bullets": share(kinds[starts] == BULLET),
            "ellipses": share(dots),
            "ended_lines": np.where(
                enough, np.fmax(share(ended), _paragraphs(owner[final], ended[final], number)), np.nan
            ),
            "short_lines": np.where(enough, share(short), np.nan),
            "line_breaks": np.where(enough, lines / weights, np.nan),
        }
    parts = [(starts, last), (starts[first], last[final])]
    for name, (begins, ends) in zip(("line", "paragraph"), parts):
        found |= _copies(tokens, name, begins, ends + 1, owner if name == "line" else owner[first])
    return found


def _paragraphs(owner: np.ndarray, ended: np.ndarray, number: int) -> np.ndarray:
    """The share of paragraphs that end a sentence: lines of a book are broken wherever its page ends."""
    total = np.bincount(owner, minlength=number)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total >= FEW_PARAGRAPHS, np.bincount(owner[ended], minlength=number) / total, np.nan)


_REPEATED = (
    "duplicate_lines",
    "duplicate_line_characters",
    "duplicate_paragraphs",
    "duplicate_paragraph_characters",
)


def _copies(
    tokens: Tokens, name: str, starts: np.ndarray, ends: np.ndarray, owner: np.ndarray
) -> dict[str, np.ndarray]:
    """The share of lines or paragraphs that came before in the same text, and of their characters."""
    number = len(tokens)
    hashes = tokens.ranges.hashes(starts, ends) ^ mix(owner.astype(np.uint64))
    again = _again(hashes)
    sizes = ends - starts
    total, all_sizes = np.bincount(owner, minlength=number), np.bincount(owner, sizes, number)
    with np.errstate(invalid="ignore"):
        return {
            f"duplicate_{name}s": np.bincount(owner[again], minlength=number) / total,
            f"duplicate_{name}_characters": np.bincount(owner[again], sizes[again], number) / all_sizes,
        }


def _again(hashes: np.ndarray) -> np.ndarray:
    """(n,) bool: an equal hash came before."""
    order, first = _sorted(hashes)
    result = np.zeros(len(hashes), bool)
    result[order[~first]] = True
    return result


def _sorted(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in the order of their hashes, equal ones by place; and which of them is the first of its hash.

    The place stands in the lowest bits of what is sorted: one sort of numbers instead of a stable one of places.
    """
    bits = max(int(len(hashes)).bit_length(), 1)
    low = np.uint64((1 << bits) - 1)
    keys = (hashes & ~low) | np.arange(len(hashes), dtype=np.uint64)
    keys.sort()
    first = np.ones(len(keys), bool)
    high = keys >> np.uint64(bits)
    first[1:] = high[1:] != high[:-1]
    return (keys & low).astype(np.int64), first


def _repetition(tokens: Tokens, spaceless: np.ndarray) -> dict[str, np.ndarray]:
    number = len(tokens)
    names = [f"top_{n}_gram" for n in TOP_GRAMS] + [f"duplicate_{n}_grams" for n in DUPLICATE_GRAMS]
    found = {name: np.zeros(number) for name in names}
    owner = _owners(tokens)
    size = np.maximum(_sums(tokens.ends - tokens.starts, tokens.words), 1)  # characters of all words
    alone = np.zeros(number, np.uint64)
    alone[:] = mix(np.arange(1, number + 1, dtype=np.uint64))
    for single in (False, True):
        texts = spaceless == single
        if not texts.any():
            continue
        inside = texts[owner]
        grams: tuple[int, np.ndarray] | None = None
        for n in TOP_GRAMS:
            width = characters_for(n) if single else n
            grams = (width, ngrams(tokens.hashes, width, grams))
            _top(tokens, grams, (owner, inside, alone), found[f"top_{n}_gram"])
        places: np.ndarray | None = None
        for n in DUPLICATE_GRAMS:
            width = characters_for(n) if single else n
            grams = (width, ngrams(tokens.hashes, width, grams))
            places = _repeated(tokens, grams, (owner, inside, alone), places, found[f"duplicate_{n}_grams"])
    for values in found.values():
        values /= size
    return found


Where = tuple[np.ndarray, np.ndarray, np.ndarray]  # owner of each word, whether its text is of this kind, salts


def _grams(tokens: Tokens, grams: tuple[int, np.ndarray], where: Where, places: np.ndarray | None) -> np.ndarray:
    """Places whose n-gram lies in one text of this kind."""
    width, values = grams
    owner, inside, _ = where
    if places is None:
        return np.flatnonzero(inside[: len(values)] & (owner[: len(values)] == owner[width - 1 :][: len(values)]))
    places = places[places < len(values)]
    return places[owner[places] == owner[places + width - 1]]


def _top(tokens: Tokens, grams: tuple[int, np.ndarray], where: Where, result: np.ndarray) -> None:
    """Enter into `result` the characters that the most frequent n-gram of each text takes; none where all differ."""
    width, values = grams
    owner, _, salts = where
    places = _grams(tokens, grams, where, None)
    if not len(places):
        return
    order, first = _sorted(mix(values[places] ^ salts[owner[places]]))
    heads = np.flatnonzero(first)
    times = np.diff(np.append(heads, len(first)))
    often = times > 1
    place = places[order[heads[often]]]
    taken = times[often] * (tokens.ends[place + width - 1] - tokens.starts[place])
    np.maximum.at(result, owner[place], taken)


def _repeated(
    tokens: Tokens, grams: tuple[int, np.ndarray], where: Where, among: np.ndarray | None, result: np.ndarray
) -> np.ndarray:
    """Enter the characters of words that lie in an n-gram that came before; gives the places of all that repeat."""
    width, values = grams
    owner, _, salts = where
    places = _grams(tokens, grams, where, among)
    if not len(places):
        return places
    order, first = _sorted(mix(values[places] ^ salts[owner[places]]))
    later = np.sort(places[order[~first]])
    repeats = ~first
    repeats[:-1] |= ~first[1:]
    if len(later):
        edges = np.zeros(len(tokens.starts) + 1, np.int64)
        np.add.at(edges, later, 1)
        np.add.at(edges, later + width, -1)
        covered = np.flatnonzero(np.cumsum(edges[:-1]) > 0)
        result += np.bincount(owner[covered], tokens.ends[covered] - tokens.starts[covered], len(result))
    return np.sort(places[order[repeats]])
