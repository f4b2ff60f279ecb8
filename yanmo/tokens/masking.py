"""Which tokens are hidden, and what stands in their place: numpy alone, on one row or one stretch of text.

In: ids, and random draws (rows.py). Out: ids with something hidden, and what was hidden.

    Masking            the settings of masked language modelling
    Masker             a row → ids and targets (Devlin et al. 2019, §3.1)
    choose             a share of the tokens, or of whole words
    Spans              the settings of span corruption and infilling
    noise_spans        which tokens are noise, in spans (Raffel et al. 2020, §3.1.4)
    corrupt_spans      source and target with a sentinel for each span (Raffel et al. 2020, figure 2)
    infill             spans of random length, each behind one mask (Lewis et al. 2020, §2.2)
    sentinels          the ids of <extra_id_0>, <extra_id_1>, …
    frame              what a vocabulary puts before and after a text
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from yanmo.errors import InputError
from yanmo.tokens.rows import Draws
from yanmo.tokens.tokenizer import Tokenizer
from yanmo.tokens.words import Words

NO_TARGET = -100  # as in batches.py, which needs torch
WAYS = {"bert": (0.8, 0.1), "mask": (1.0, 0.0)}  # shares of the chosen that become the mask, and a random token


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How to mask: the share of tokens that are chosen, what becomes of them, whole words or single tokens.

    way: "bert" makes 80 % of them the mask token and 10 % a random token and leaves 10 % (Devlin et al. 2019); "mask"
    makes all the mask. chinese: see `Words`.
    """

    share: float = 0.15
    way: str = "bert"
    whole_words: bool = False
    chinese: bool | None = None

    def __post_init__(self) -> None:
        _share(self.share)
        if self.way not in WAYS:
            raise InputError(f"the way of masking is {self.way!r}; choose one of {', '.join(WAYS)}")


class Masker:
    """Masking of one vocabulary's rows; special tokens and padding are never hidden, and never stand in."""

    def __init__(self, tokenizer: Tokenizer, masking: Masking) -> None:
        self.mask_id = mask_of(tokenizer)
        self.masking = masking
        self.words = Words(tokenizer, masking.chinese) if masking.whole_words else None
        known = [number for number in range(tokenizer.vocab_size) if tokenizer.engine.token(number) is not None]
        self.ordinary = np.array([number for number in known if number not in tokenizer.special_ids], np.int64)
        if not len(self.ordinary):
            raise InputError("the vocabulary has special tokens alone, so there is nothing to mask; use another one")
        self._maskable = np.zeros(tokenizer.vocab_size, bool)
        self._maskable[self.ordinary] = True

    @property
    def identity(self) -> dict[str, object]:
        """What decides the masks besides the text and the seed, as JSON."""
        values: dict[str, object] = {"share": self.masking.share, "way": self.masking.way}
        return values | {"words": "" if self.words is None else self.words.name}

    def __call__(self, ids: np.ndarray, mask: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Return ids with something hidden, and targets: what stood there, -100 elsewhere; each (T,)."""
        words = None if self.words is None else self.words.numbers(ids)
        chosen, unit = choose(self._maskable[ids] & (mask > 0), self.masking.share, draws, words)
        masked, random = WAYS[self.masking.way]
        luck = draws.uniform(len(ids))[unit]  # one fate for a whole word: a piece that stayed would give it away
        others = self.ordinary[draws.below(len(self.ordinary), len(ids))]
        hidden = np.where(luck < masked, self.mask_id, np.where(luck < masked + random, others, ids))
        return np.where(chosen, hidden, ids), np.where(chosen, ids, NO_TARGET)


def choose(
    maskable: np.ndarray, share: float, draws: Draws, words: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Choose a share of the maskable tokens (T,), by words where their numbers are given; returns (chosen, unit), (T,).

    `unit` numbers what is chosen together. Units lie in random order on a circle, and those that begin on an arc of it
    are chosen: each is as likely as any other, whatever its size, and the expected share is exact.
    """
    places = np.flatnonzero(maskable)
    names = places if words is None else words[places]
    begins = np.flatnonzero(np.diff(names, prepend=-1))
    sizes = np.diff(begins, append=len(places))
    order = draws.order(len(sizes))
    taken = np.zeros(len(sizes), bool)
    place = np.cumsum(sizes[order]) - sizes[order] + draws.uniform(1)[0] * len(places)
    taken[order] = place % max(len(places), 1) < share * len(places)
    chosen, unit = np.zeros(len(maskable), bool), np.zeros(len(maskable), np.int64)
    chosen[places] = np.repeat(taken, sizes)
    unit[places] = np.repeat(np.arange(len(sizes)), sizes)
    return chosen, unit


# --- spans


@dataclass(frozen=True, kw_only=True)
class Spans:
    """How much is noise, and how many tokens a span of it has on average: T5's 0.15 and 3, BART's 0.3 and 3."""

    share: float = 0.15
    length: float = 3.0

    def __post_init__(self) -> None:
        _share(self.share)
        if not (self.length >= 1 and math.isfinite(self.length)):
            raise InputError(f"spans of {self.length} tokens on average; at least 1 is needed")

    def counts(self, size: int) -> tuple[int, int]:
        """(noise tokens, spans) of a text of `size` tokens; at least one of each, and one token that is no noise."""
        noise = min(max(round(size * self.share), 1), max(size - 1, 1))
        spans = max(round(noise / self.length), 1)
        return noise, min(spans, max(size - noise, 1))


def noise_spans(size: int, spans: Spans, draws: Draws) -> np.ndarray:
    """Which of `size` tokens are noise: spans of random length between stretches of random length, which come first."""
    noise, count = spans.counts(size)
    if size < 2:
        return np.ones(size, bool)
    lengths = np.stack([_parts(size - noise, count, draws), _parts(noise, count, draws)], axis=1)
    return np.repeat(np.arange(2 * count) % 2 == 1, lengths.reshape(-1))


def corrupt_spans(ids: np.ndarray, noise: np.ndarray, sentinel_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (source, target): each run of noise is one sentinel in the source, each run between one in the target.

    In the target a sentinel stands before the noise that it hides, and one more at the end where the text goes on.
    """
    source = _collapse(ids, noise, sentinel_ids)
    if len(noise) and noise[0]:  # an empty run between stands before the first noise
        ids, noise = np.concatenate([ids[:1], ids]), np.concatenate([[False], noise])
    return source, _collapse(ids, ~noise, sentinel_ids)


def _collapse(ids: np.ndarray, gone: np.ndarray, sentinel_ids: np.ndarray) -> np.ndarray:
    first = gone & ~np.concatenate([[False], gone[:-1]])
    count = int(first.sum())
    if count > len(sentinel_ids):
        raise InputError(
            f"a text has {count} noise spans, the vocabulary {len(sentinel_ids)} sentinels; shorten the rows, or add "
            "tokens <extra_id_N> to the vocabulary"
        )
    kept = ids.copy()
    kept[first] = sentinel_ids[:count]
    return kept[first | ~gone]


def infill(ids: np.ndarray, spans: Spans, mask_id: int, draws: Draws) -> np.ndarray:
    """Return the source: spans with lengths from Poisson(`spans.length`), each replaced by one mask, in random places.

    A span of length 0 is a mask that hides nothing. The last span is cut so that the share of hidden tokens is exact in
    expectation. There are never more masks than hidden tokens, so the source is never longer than the text.
    """
    budget = int(spans.share * len(ids) + draws.uniform(1)[0])
    lengths: list[int] = []
    while (left := budget - sum(lengths)) > 0:
        drawn = _poisson(spans.length, draws.uniform(8 + int(2 * left / spans.length)))
        ends = np.cumsum(drawn)
        count = int(np.searchsorted(ends, left)) + 1
        lengths += drawn[:count].tolist()
        if count <= len(drawn):
            lengths[-1] -= max(int(ends[count - 1]) - left, 0)
    while len(lengths) > budget:
        lengths.remove(0)
    slots = len(ids) - budget + len(lengths)  # kept tokens and masks
    masked = np.zeros(slots, bool)
    masked[draws.order(slots)[: len(lengths)]] = True
    widths = np.ones(slots, np.int64)
    widths[masked] = np.array(lengths, np.int64)[draws.order(len(lengths))]
    begins = np.cumsum(widths) - widths
    return np.where(masked, mask_id, np.append(ids, mask_id)[begins])  # a mask at the end begins behind the text


def sentinels(tokenizer: Tokenizer) -> np.ndarray:
    """The ids of <extra_id_0>, <extra_id_1>, … in this order; T5 counts them down from the end of its vocabulary."""
    found: list[int] = []
    while (number := tokenizer.id(f"<extra_id_{len(found)}>")) is not None and number != tokenizer.unk_id:
        found.append(number)
    if not found:
        raise InputError(
            "the vocabulary has no sentinels <extra_id_0>, <extra_id_1>, …, which span corruption needs; train it with "
            "them as special tokens, or use infilling"
        )
    return np.array(found, np.int64)


def mask_of(tokenizer: Tokenizer) -> int:
    """The id of the mask: the token with that role, or the special token [MASK] or <mask>; none is an InputError."""
    for number in (tokenizer.mask_id, tokenizer.id("[MASK]"), tokenizer.id("<mask>")):
        if number is not None and (number == tokenizer.mask_id or number in tokenizer.special_ids - {tokenizer.unk_id}):
            return number
    raise InputError(
        "the vocabulary has no mask token; train it with one ([MASK] or <mask>), or choose another objective"
    )


def frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that `encode` puts before and after a text ([CLS] … [SEP]; </s> behind)."""
    for sample in ("a", "0", "the", "."):
        bare = tokenizer.encode(sample, add_special_tokens=False)
        whole = tokenizer.encode(sample)
        for place in range(len(whole) - len(bare) + 1):
            if bare and whole[place : place + len(bare)] == bare:
                return whole[:place], whole[place + len(bare) :]
    raise InputError("the frame of the vocabulary cannot be told: it encodes no sample text; check the vocabulary")


def _parts(total: int, count: int, draws: Draws) -> np.ndarray:
    """`total` as a sum of `count` whole numbers from 1, every such sum equally likely."""
    cuts = np.sort(draws.order(total - 1)[: count - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def _poisson(mean: float, uniform: np.ndarray) -> np.ndarray:
    """Poisson numbers by the inverse of their distribution."""
    counts = np.arange(int(mean + 20 * math.sqrt(mean) + 20))
    logs = counts * math.log(mean) - mean - np.array([math.lgamma(count + 1) for count in counts])
    return np.searchsorted(np.cumsum(np.exp(logs)), uniform, side="right")


def _share(share: float) -> None:
    if not 0 < share < 1:
        raise InputError(f"a share of {share} of the tokens is to be hidden; choose one between 0 and 1")
