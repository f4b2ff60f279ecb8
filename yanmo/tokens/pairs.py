"""Source → target: batches for encoder-decoders, packed without leaks.

In: pairs of ids. Out: endless `PairBatch`es that can be taken up again (rows.py).

    PairBatch       what an encoder reads, what a decoder reads, what it shall write
    Pairs           pairs of ids in memory, what was left out counted
    encode_pairs    pairs of texts → Pairs
    pair_batches    Pairs → batches
    pair_rows       sources and targets of some rows → PairBatch

A row holds several pairs. In the encoder's row and in the decoder's row the k-th pair has the number k in the mask, so
a decoder sees its own source and nothing else (docs/design.md). The decoder reads its target shifted right by one,
behind the model's start id, so each token of the target, its end included, is a target once.
"""

from __future__ import annotations

import hashlib
import warnings
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from yanmo.errors import InputError
from yanmo.tokens.batches import NO_TARGET
from yanmo.tokens.rows import Draws, RowBatches, pack
from yanmo.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

CHUNK = 1024  # texts that are encoded at once


class PairBatch(NamedTuple):
    """Rows of pairs, int64: `source` and `source_mask` (B, S); `ids`, `targets` and `mask` (B, T).

    `targets` has -100 where there is none; masks are 0 for padding and k for the k-th pair of the row.
    """

    source: torch.Tensor
    source_mask: torch.Tensor
    ids: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor

    @property
    def n_targets(self) -> int:
        return int((self.targets != NO_TARGET).sum())

    def to(self, device: torch.device | str) -> PairBatch:
        return PairBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


@dataclass(frozen=True)
class Pairs:
    """Pairs of ids, each side one array with the bounds of its texts; `skipped` pairs were too long."""

    sides: tuple[np.ndarray, np.ndarray]  # int32
    bounds: tuple[np.ndarray, np.ndarray]  # (N + 1,) each
    lengths: tuple[int, int]  # the longest that may be
    skipped: int

    @classmethod
    def gather(
        cls,
        pairs: Iterable[tuple[Sequence[int], Sequence[int]]],
        source_length: int,
        target_length: int,
        *,
        too_long: str = "skip",
    ) -> Pairs:
        """Keep pairs of at most `source_length` and `target_length` ids, frames included.

        A longer one is left out, counted, and said in a warning; with too_long="error" it is an InputError. An empty
        side is an InputError, since nothing could be read or written.
        """
        if too_long not in ("skip", "error"):
            raise InputError(f"too_long is {too_long!r}; choose skip or error")
        limits = (source_length, target_length)
        sides, bounds = (array("i"), array("i")), (array("q", [0]), array("q", [0]))
        number, skipped = -1, 0
        for number, pair in enumerate(pairs):
            sizes = tuple(map(len, pair))
            if len(pair) != 2 or not all(sizes):
                raise InputError(f"pair {number} has {' and '.join(map(str, sizes))} ids; both sides need at least one")
            if any(size > limit for size, limit in zip(sizes, limits)):
                if too_long == "error":
                    raise InputError(
                        f"pair {number} has {sizes[0]} and {sizes[1]} ids, rows hold {limits[0]} and {limits[1]}; "
                        "lengthen the rows, or skip such pairs"
                    )
                skipped += 1
                continue
            for side, bound, ids in zip(sides, bounds, pair):
                side.extend(ids)
                bound.append(len(side))
        if len(bounds[0]) == 1:
            why = f"all {skipped:,} pairs are longer than {limits[0]} and {limits[1]} ids; lengthen the rows"
            raise InputError(why if skipped else "there are no pairs; give at least one")
        if skipped:
            warnings.warn(
                f"{skipped:,} of {number + 1:,} pairs are left out, being longer than {limits[0]} or {limits[1]} ids; "
                "lengthen the rows to keep them",
                stacklevel=2,
            )
        arrays = tuple(np.frombuffer(side, np.int32) for side in sides)
        ends = tuple(np.frombuffer(bound, np.int64) for bound in bounds)
        return cls(arrays, ends, limits, skipped)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.bounds[0]) - 1

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(source, target) ids."""
        source, target = (side[ends[number] : ends[number + 1]] for side, ends in zip(self.sides, self.bounds))
        return source, target

    @property
    def sha256(self) -> str:
        """The fingerprint of all ids; a data position is only valid for the pairs that have it."""
        digest = hashlib.sha256()
        for data in (*self.sides, *self.bounds):
            digest.update(data.tobytes())
        return digest.hexdigest()


def encode_pairs(
    tokenizer: Tokenizer,
    texts: Iterable[tuple[str, str]],
    source_length: int,
    target_length: int,
    *,
    too_long: str = "skip",
) -> Pairs:
    """Encode (source, target) texts as at inference: each in the vocabulary's frame, targets in the target language."""
    ends = {tokenizer.eos_id, tokenizer.sep_id} - {None}

    def encoded() -> Iterable[tuple[list[int], list[int]]]:
        for chunk in _chunks(texts):
            sources = tokenizer.encode_batch([source for source, _ in chunk])
            targets = tokenizer.encode_batch([target for _, target in chunk], target=True)
            for source, target in zip(sources, targets):
                if not target or target[-1] not in ends:
                    raise InputError(
                        "the vocabulary ends no text with its eos token, so the model would never learn to stop; use "
                        "the tokenizer of an encoder-decoder"
                    )
                yield source, target

    return Pairs.gather(encoded(), source_length, target_length, too_long=too_long)


def _chunks(texts: Iterable[tuple[str, str]]) -> Iterable[list[tuple[str, str]]]:
    chunk: list[tuple[str, str]] = []
    for pair in texts:
        chunk.append(pair)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def pair_batches(pairs: Pairs, rows: int, *, start_id: int, seed: int = 0) -> RowBatches[PairBatch]:
    """Endless batches of `rows` packed rows; each pair is read once per epoch.

    `start_id` is the model's `decoder_start_id`. Columns that are padding in every row of a batch are cut.
    """
    sizes = np.stack([np.diff(ends) for ends in pairs.bounds], axis=1)

    def make(drawn: list[tuple[np.ndarray, Draws]]) -> PairBatch:
        return pair_rows([[pairs[number] for number in items.tolist()] for items, _ in drawn], start_id)

    return RowBatches(
        lambda draws: pack(draws.order(len(pairs)), sizes, pairs.lengths),
        make,
        rows=rows,
        seed=seed,
        identity={"pairs": pairs.sha256, "lengths": list(pairs.lengths), "start_id": start_id},
        source="pairs",
    )


def pair_rows(rows: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]], start_id: int) -> PairBatch:
    """The batch of rows of (source, target) ids, as wide as its longest row on each side."""
    import torch

    widths = [max(sum(len(pair[side]) for pair in row) for row in rows) for side in (0, 1)]
    source = np.zeros((2, len(rows), widths[0]), np.int64)
    target = np.zeros((3, len(rows), widths[1]), np.int64)
    target[0], target[1] = start_id, NO_TARGET
    for place, row in enumerate(rows):
        first, second = 0, 0
        for number, (given, wanted) in enumerate(row, start=1):
            end = first + len(given)
            source[0, place, first:end], source[1, place, first:end] = given, number
            first, end = end, second + len(wanted)
            target[0, place, second + 1 : end] = wanted[:-1]
            target[1, place, second:end], target[2, place, second:end] = wanted, number
            second = end
    return PairBatch(*torch.from_numpy(source), *torch.from_numpy(target))
