"""Token shards → batches with something hidden: masked language modelling, span corruption, infilling.

In: TokenShards, the tokenizer that made them, settings (masking.py). Out: endless batches that can be taken up again
(rows.py); a new epoch hides something else.

    masked_batches       rows for an encoder, targets where something is hidden
    span_batches         source → target: the spans behind sentinels (T5)
    infilling_batches    source → target: the whole text (BART)

A row is filled with documents, each in the frame that `encode` gives to a text; a document that does not fit is cut,
and its next part begins the next row in a frame of its own. So a row has less padding than a frame has tokens, and each
token is read once per epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from yanmo.errors import FileError, InputError
from yanmo.tokens.batches import NO_TARGET, Batch
from yanmo.tokens.masking import Masker, Masking, Spans, corrupt_spans, frame, infill, mask_of, noise_spans, sentinels
from yanmo.tokens.pairs import PairBatch, pair_rows
from yanmo.tokens.rows import Draws, RowBatches, fill
from yanmo.tokens.shards import TokenShards
from yanmo.tokens.tokenizer import Tokenizer

Drawn = list[tuple[np.ndarray, Draws]]
Corrupt = Callable[[np.ndarray, Draws], tuple[np.ndarray, np.ndarray]]


def masked_batches(
    shards: TokenShards,
    tokenizer: Tokenizer,
    rows: int,
    length: int,
    *,
    masking: Masking | None = None,
    seed: int = 0,
) -> RowBatches[Batch]:
    """Endless batches (rows, length) for an encoder, by default masked as BERT's are."""
    _same(shards, tokenizer)
    masker = Masker(tokenizer, masking or Masking())
    before, behind = frame(tokenizer)
    costs = [[0, *range(len(before) + len(behind) + 1, length + 1)]]

    def row(items: np.ndarray, draws: Draws) -> np.ndarray:
        cells = np.zeros((3, length), np.int64)
        cells[1] = NO_TARGET
        column = 0
        for number, (document, begin, count) in enumerate(items.tolist(), start=1):
            text = [*before, *_stretch(shards, document, begin, count).tolist(), *behind]
            cells[0, column : column + len(text)] = text
            cells[2, column : column + len(text)] = number
            column += len(text)
        cells[0, :column], cells[1, :column] = masker(cells[0, :column], cells[2, :column], draws)
        return cells

    def make(drawn: Drawn) -> Batch:
        import torch

        block = torch.from_numpy(np.stack([row(items, draws) for items, draws in drawn], axis=1))
        return Batch(block[0], block[1], block[2])

    return RowBatches(
        _layout(shards, costs, [length]),
        make,
        rows=rows,
        seed=seed,
        identity={"shards": shards.sha256, "length": length, "masking": masker.identity},
        source=str(shards.folder),
    )


def span_batches(
    shards: TokenShards,
    tokenizer: Tokenizer,
    rows: int,
    length: int,
    *,
    start_id: int,
    spans: Spans | None = None,
    target_length: int = 0,
    seed: int = 0,
) -> RowBatches[PairBatch]:
    """Endless batches of span corruption: sources of `length` columns, targets of `target_length` at most.

    `start_id` is the model's `decoder_start_id`. A `target_length` of 0 takes a quarter more than one document as long
    as the row needs, since short documents have longer targets for their size.
    """
    _same(shards, tokenizer)
    spans = spans or Spans()
    marks = sentinels(tokenizer)
    before, behind = frame(tokenizer)
    framed = len(before) + len(behind)
    source_costs, target_costs = [0], [0]
    for size in range(1, max(2, int(length / (1 - spans.share)) + 8)):
        noise, count = spans.counts(size)
        source_costs.append(framed + size - noise + count)
        target_costs.append(framed + noise + count)
        if source_costs[-1] > length:
            break
    if not target_length:
        target_length = -(-target_costs[-1] * 5 // 4)
    largest = spans.counts(len(source_costs) - 1)[1]
    if largest > len(marks):
        raise InputError(
            f"rows of {length} columns have up to {largest} noise spans, the vocabulary has {len(marks)} sentinels; "
            "shorten the rows, lengthen the spans, or add tokens <extra_id_N>"
        )

    def corrupt(ids: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        return corrupt_spans(ids, noise_spans(len(ids), spans, draws), marks)

    return RowBatches(
        _layout(shards, [source_costs, target_costs], [length, target_length]),
        _maker(shards, (before, behind), start_id, corrupt),
        rows=rows,
        seed=seed,
        identity=_identity(shards, "spans", spans, [length, target_length], start_id),
        source=str(shards.folder),
    )


def infilling_batches(
    shards: TokenShards,
    tokenizer: Tokenizer,
    rows: int,
    length: int,
    *,
    start_id: int,
    spans: Spans | None = None,
    seed: int = 0,
) -> RowBatches[PairBatch]:
    """Endless batches of text infilling: targets of `length` columns at most, which are the texts, sources not longer.

    `start_id` is the model's `decoder_start_id`.
    """
    _same(shards, tokenizer)
    spans = spans or Spans(share=0.3)
    mask_id = mask_of(tokenizer)
    before, behind = frame(tokenizer)
    costs = [[0, *range(len(before) + len(behind) + 1, length + 1)]]
    return RowBatches(
        _layout(shards, costs, [length]),
        _maker(shards, (before, behind), start_id, lambda ids, draws: (infill(ids, spans, mask_id, draws), ids)),
        rows=rows,
        seed=seed,
        identity=_identity(shards, "infilling", spans, [length], start_id),
        source=str(shards.folder),
    )


def _layout(
    shards: TokenShards, costs: Sequence[Sequence[int]], lengths: Sequence[int]
) -> Callable[[Draws], tuple[np.ndarray, np.ndarray]]:
    sizes = np.diff(shards.bounds) - 1  # without the stored end of the document: the frame has it
    if min(len(cost) for cost in costs) < 2:
        raise InputError(f"rows of {lengths[0]} columns cannot hold one token in its frame; lengthen them")
    return lambda draws: fill(draws.order(shards.n_documents), sizes, costs, lengths)  # type: ignore[arg-type]


def _maker(
    shards: TokenShards, framed: tuple[list[int], list[int]], start_id: int, corrupt: Corrupt
) -> Callable[[Drawn], PairBatch]:
    before, behind = framed

    def pair(item: list[int], draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        source, target = corrupt(_stretch(shards, *item), draws)
        return np.array([*before, *source, *behind]), np.array([*before, *target, *behind])

    return lambda drawn: pair_rows([[pair(item, draws) for item in items.tolist()] for items, draws in drawn], start_id)


def _stretch(shards: TokenShards, document: int, begin: int, count: int) -> np.ndarray:
    first = int(shards.bounds[document]) + begin
    return np.asarray(shards.ids[first : first + count]).astype(np.int64)


def _identity(shards: TokenShards, kind: str, spans: Spans, lengths: list[int], start_id: int) -> dict[str, Any]:
    return {"shards": shards.sha256, "lengths": lengths, "start_id": start_id, kind: asdict(spans)}


def _same(shards: TokenShards, tokenizer: Tokenizer) -> None:
    if shards.meta["tokenizer"] != tokenizer.hash:
        raise FileError(
            f"{shards.folder}: its ids come from the tokenizer {shards.meta['tokenizer'][:12]}, not from "
            f"{tokenizer.hash[:12]}; make the shards again with the tokenizer of this run"
        )
