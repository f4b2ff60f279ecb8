"""The statistical language model: interpolated modified Kneser-Ney over token ids, with numpy alone.

In: documents as sequences of ids. Out: the probability of every next id. p_k is the estimate from the k - 1 ids before:

    p_k(w | h) = max(a(hw) - D(a(hw)), 0) / A(h) + gamma(h) p_{k-1}(w | h')         A(h) = sum over w of a(hw)
    gamma(h)   = (D1 N1(h) + D2 N2(h) + D3 N3(h)) / A(h)                            p_0(w) = 1 / vocab_size

where h' is h without its first id, N_i(h) counts the ids w with a(hw) = i (3: or more), and D(a) is D1, D2 or D3. After
a context that was never followed by anything, p_k = p_{k-1}. At the highest order a is the number of times hw occurs;
below, it is the number of different ids that occur before hw (S. Chen, J. Goodman: An Empirical Study of Smoothing
Techniques for Language Modeling, Harvard TR-10-98, 1998, section 3).

    NGram.fit                 documents → model
    log_probs, next_probs     a document → what each id cost; a beginning → the distribution of the next id
    save, load                one .npz file without pickles
    discounts_of              counts of counts → D1, D2, D3

A document begins with one symbol of its own, which is context and is never predicted. An n-gram that begins with it can
have nothing before it, so there a is the number of occurrences at every order. No context leaves its document.

Storage: the n-grams of one order are numbered in sorted order. An n-gram is the number of its first k - 1 ids among
those of order k - 1, times the size of the alphabet, plus its last id: one int64, found by binary search. The number
of the k-gram that ends at a place follows from that of the (k - 1)-gram one place before, for all places at once.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yanmo.errors import FileError, InputError
from yanmo.files import reason, write_atomic

FORMAT = 1
MAX_ORDER = 10
FALLBACK = (0.5, 1.0, 1.5)  # half of what the formulas tend to, where the counts of counts cannot give them
END = np.iinfo(np.int64).max  # behind the last key, so that every search ends inside the array

Ids = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Level:
    """The n-grams of one order k > 1; each array has one more element, which index -1 (not found) reads."""

    keys: np.ndarray  # (n + 1,) int64, sorted
    term: np.ndarray  # (n + 1,) float64: max(a - D, 0) / A
    gamma: np.ndarray  # (n of order k - 1, + 1) float64: 1 after what is no context

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """The number of each key, or -1."""
        order = np.argsort(wanted)  # neighbours in the table are then asked for one after the other: half the time
        asked = wanted[order]
        place = np.searchsorted(self.keys, asked)
        found = np.empty_like(place)
        found[order] = np.where(self.keys[place] == asked, place, -1)
        return found


class NGram:
    """An n-gram model; `discounts` is (order, 3), `fallbacks` the orders whose discounts are FALLBACK."""

    def __init__(self, vocab_size: int, counts: list[np.ndarray], keys: list[np.ndarray], discounts: np.ndarray):
        """`counts` are the a of each order, `keys` the sorted n-grams from order 2 on; use `fit` or `load`."""
        self.order, self.vocab_size = len(counts), vocab_size
        self.discounts = discounts
        self.fallbacks = tuple(k + 1 for k, row in enumerate(discounts) if tuple(row) == FALLBACK)
        self._counts, self._keys = counts, keys
        unigrams, gamma = _interpolation(counts[0], np.zeros(vocab_size, np.int64), 1, discounts[0])
        self._unigrams = unigrams[:-1] + gamma[0] / vocab_size
        self._levels = []
        before = vocab_size + 1  # order 1 is numbered by the ids; the beginning of a document is the last
        for k, key in enumerate(keys, start=1):
            term, gamma = _interpolation(counts[k], key // (vocab_size + 1), before, discounts[k])
            self._levels.append(Level(np.append(key, END), term, gamma))
            before = len(key)

    def __repr__(self) -> str:
        return f"NGram(order={self.order}, vocab_size={self.vocab_size:,}, n_ngrams={self.n_ngrams:,})"

    @property
    def n_ngrams(self) -> int:
        """Different n-grams of all orders."""
        return int(np.count_nonzero(self._counts[0])) + sum(len(keys) for keys in self._keys)

    @classmethod
    def fit(cls, sequences: Iterable[Ids], *, order: int = 5, vocab_size: int) -> NGram:
        """Count and discount; each sequence of ids is a document of its own. Raises InputError for no ids at all."""
        if not 1 <= order <= MAX_ORDER:
            raise InputError(f"order={order}: must lie between 1 and {MAX_ORDER}")
        if not 1 <= vocab_size < 2**31:
            raise InputError(f"vocab_size={vocab_size}: must lie between 1 and {2**31 - 1}")
        stream, place = _stream(sequences, vocab_size)
        counts, keys = _count(stream, place, order, vocab_size)
        return cls(vocab_size, counts, keys, np.array([discounts_of(count) for count in counts]))

    def log_probs(self, ids: Ids) -> np.ndarray:
        """The natural logarithm of the probability of each id of one document, from its beginning: (T,) float64."""
        stream = self._document(ids)
        probs = self._unigrams[stream[1:]]
        held = stream  # (T + 1,): the number of the (k - 1)-gram that ends at each place, from place k - 2 on
        for k, level in enumerate(self._levels, start=2):
            context = held[:-1]
            held = level.find(context * (self.vocab_size + 1) + stream[k - 1 :])
            probs[k - 2 :] = level.term[held] + level.gamma[context] * probs[k - 2 :]
        return np.log(probs)

    def next_probs(self, context: Ids) -> np.ndarray:
        """The distribution of the id after `context`, which holds the document from its beginning: (V,) float64."""
        tail = self._document(context)[-(self.order - 1) :] if self.order > 1 else np.empty(0, np.int64)
        probs = self._unigrams.copy()
        alphabet = self.vocab_size + 1
        held = tail
        for k, level in enumerate(self._levels[: len(tail)], start=2):
            if k > 2:
                held = self._levels[k - 3].find(held[:-1] * alphabet + tail[k - 2 :])
            number = held[-1]
            if number < 0:
                break
            first, last = np.searchsorted(level.keys, [number * alphabet, (number + 1) * alphabet])
            probs *= level.gamma[number]
            probs[level.keys[first:last] - number * alphabet] += level.term[first:last]
        return probs

    def save(self, path: str | Path, **more: np.ndarray) -> None:
        """Write one .npz file, complete or not at all; equal models give equal bytes. `more`: further arrays in it."""
        arrays = {"head": np.array([FORMAT, self.order, self.vocab_size], np.int64), "discounts": self.discounts}
        arrays |= {f"counts{k}": count for k, count in enumerate(self._counts, start=1)}
        arrays |= {f"keys{k}": keys for k, keys in enumerate(self._keys, start=2)}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays, **more)  # type: ignore[arg-type]
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> NGram:
        """Open a saved model; a missing, damaged or foreign file is a FileError."""
        path = Path(path)
        try:
            with zipfile.ZipFile(path) as file:
                size = path.stat().st_size
                head = stored_array(file, "head", np.int64, size)
                if head.shape != (3,) or head[0] != FORMAT or not 1 <= head[1] <= MAX_ORDER or not 1 <= head[2] < 2**31:
                    raise ValueError(f"its head is {head.tolist()!r:.60}")
                order, vocab_size = int(head[1]), int(head[2])
                discounts = stored_array(file, "discounts", np.float64, size)
                counts = [stored_array(file, f"counts{k}", np.int64, size) for k in range(1, order + 1)]
                keys = [stored_array(file, f"keys{k}", np.int64, size) for k in range(2, order + 1)]
            _check(vocab_size, counts, keys, discounts)
            return cls(vocab_size, counts, keys, discounts)
        except Exception as error:  # zipfile and numpy raise a dozen kinds for foreign bytes
            raise FileError(f"{path}: no readable n-gram model ({reason(error)}); fit and save it again") from None

    def _document(self, ids: Ids) -> np.ndarray:
        return np.concatenate([np.array([self.vocab_size], np.int64), _checked(ids, self.vocab_size)])


def discounts_of(counts: np.ndarray) -> tuple[float, float, float]:
    """D1, D2 and D3 from the numbers of n-grams with count 1, 2, 3 and 4 (Chen & Goodman, equation 26).

    FALLBACK where one of these numbers is 0, or where the formulas leave (0, i]: small or very regular data.
    """
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == i)) for i in (1, 2, 3, 4))
    if 0 in (n1, n2, n3, n4):
        return FALLBACK
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return found if all(0 < discount <= i for i, discount in enumerate(found, start=1)) else FALLBACK


def _checked(ids: Ids, vocab_size: int) -> np.ndarray:
    array = np.asarray(ids)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"a document of {array.dtype} with shape {array.shape}: a row of whole numbers is needed")
    array = array.astype(np.int64)
    if array.size and not (array.min() >= 0 and array.max() < vocab_size):
        wrong = array[(array < 0) | (array >= vocab_size)][0]
        raise InputError(f"id {wrong}: must lie between 0 and {vocab_size - 1}, the vocabulary has {vocab_size:,} ids")
    return array


def _stream(sequences: Iterable[Ids], vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """All documents in a row, each behind its beginning, and the place of every id in its document, 1 being first."""
    begin = np.array([vocab_size], np.int64)
    parts: list[np.ndarray] = []
    for ids in sequences:
        array = _checked(ids, vocab_size)
        if array.size:
            parts += [begin, array]
    if not parts:
        raise InputError("no id in any document; give at least one")
    stream = np.concatenate(parts)
    starts = np.flatnonzero(stream == vocab_size)
    lengths = np.diff(np.append(starts, len(stream)))
    return stream, np.arange(len(stream)) - np.repeat(starts, lengths)


def _count(
    stream: np.ndarray, place: np.ndarray, order: int, vocab_size: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The a of every order, and the sorted n-grams of the orders above 1."""
    counts = [np.bincount(stream, minlength=vocab_size + 1)[:vocab_size].astype(np.int64)]
    keys: list[np.ndarray] = []
    held = stream  # the number of the (k - 1)-gram that ends at each place
    for k in range(2, order + 1):
        ends = np.flatnonzero(place >= k - 1)  # the k-gram that ends here lies in one document
        unique, number, times, where = _unique(held[ends - 1] * (vocab_size + 1) + stream[ends])
        where = ends[where]  # of one occurrence of each
        before = np.bincount(held[where], minlength=len(counts[-1])).astype(np.int64)[: len(counts[-1])]
        counts[-1] = np.where(before > 0, before, counts[-1]) if k > 2 else before
        keys.append(unique)
        counts.append(times)
        held = np.full(len(stream), -1, np.int64)
        held[ends] = number
    return counts, keys


def _unique(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sorted different values; the number of each value among them; how often and where (once) each occurs."""
    order = np.argsort(values)
    ordered = values[order]
    new = np.ones(len(values), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(new)
    number = np.empty(len(values), np.int64)
    number[order] = np.cumsum(new) - 1
    return ordered[starts], number, np.diff(np.append(starts, len(values))), order[starts]


def _interpolation(
    counts: np.ndarray, context: np.ndarray, n_contexts: int, discounts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """max(a - D, 0) / A of every n-gram and gamma of every context, each with what index -1 reads behind it."""
    discount = np.concatenate([[0.0], discounts])[np.minimum(counts, 3)]
    total = np.bincount(context, weights=counts, minlength=n_contexts)
    taken = np.bincount(context, weights=discount, minlength=n_contexts)
    gamma = np.divide(taken, total, out=np.ones(n_contexts), where=total > 0)
    term = (counts - discount) / total[context] if len(counts) else np.empty(0)
    return np.append(term, 0.0), np.append(gamma, 1.0)


def stored_array(file: zipfile.ZipFile, name: str, dtype: Any, size: int) -> np.ndarray:
    """One array of an .npz file, refused where it is packed or larger than the file says it can be."""
    info = file.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
        raise ValueError(f"{name} is not stored as it was saved")
    stream = io.BytesIO(file.read(info))
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"{name} has the array format {version}")
    shape, fortran, found = np.lib.format.read_array_header_1_0(stream)
    data = stream.getbuffer()[stream.tell() :]
    if found != dtype or fortran or len(shape) > 2 or int(np.prod([*shape, 1.0])) * found.itemsize != len(data):
        raise ValueError(f"{name} is {found} of shape {shape} in {len(data):,} bytes")
    return np.frombuffer(data, dtype).reshape(shape)


def _check(vocab_size: int, counts: list[np.ndarray], keys: list[np.ndarray], discounts: np.ndarray) -> None:
    """What `fit` makes true: sorted keys of n-grams whose beginnings exist, counts, discounts within their limits."""
    if discounts.shape != (len(counts), 3) or not ((discounts > 0) & (discounts <= [1, 2, 3])).all():
        raise ValueError("its discounts are out of range")
    if counts[0].shape != (vocab_size,) or counts[0].min() < 0 or not counts[0].sum() > 0:
        raise ValueError("its counts of single ids are out of range")
    before = vocab_size + 1
    for count, key in zip(counts[1:], keys):
        if key.ndim != 1 or count.shape != key.shape or (count < 1).any() or (count > 2**53).any():
            raise ValueError("its counts are out of range")
        ids = key % (vocab_size + 1)
        if len(key) and (key[0] < 0 or key[-1] >= before * (vocab_size + 1) or (np.diff(key) <= 0).any()):
            raise ValueError("its n-grams are out of order")
        if (ids == vocab_size).any():
            raise ValueError("one of its n-grams predicts the beginning of a document")
        before = len(key)
