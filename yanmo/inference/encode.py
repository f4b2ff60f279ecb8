"""Many texts through an encoder: sorted by length, packed without padding, given back in their order.

In: a model whose network has an encoder, and texts, any number of them. Out: one tensor for each text, in the order of
the texts, each equal to what the model gives for the text alone.

    encode     hidden vectors of each text, or one vector of it
    score      what a head of labels says of each text
    batches    lengths → which texts are computed together

    N tokens of all documents of a batch, one after the other; D documents of L tokens each; W width, H heads

A batch is one row of documents without a mask. All but attention sees N vectors; attention sees the documents of each
length as (D, H, L, …). Texts are read ahead up to a number and a sum of tokens, so that memory has a bound whatever
their number; sorting reaches as far as reading ahead does.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from yanmo.errors import InputError, nearest
from yanmo.models.attention import Attention, Visible
from yanmo.models.config import LABEL_HEADS
from yanmo.models.fast import project
from yanmo.models.transformer import EncoderLayer, Transformer

if TYPE_CHECKING:
    from yanmo.inference.model import Model

BUDGET = 4096  # tokens of a batch (docs/log.md)
AHEAD_TEXTS, AHEAD_TOKENS = 2048, 2**17
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda hidden: hidden,
    "first": lambda hidden: hidden[0],
    "last": lambda hidden: hidden[-1],
    "mean": lambda hidden: hidden.mean(0),
}


@dataclass(frozen=True)
class Piece:
    """Documents of one length that follow each other; `bias` (1, H, L, L) of their positions, where there is one."""

    documents: int
    length: int
    bias: Tensor | None


def encode(model: Model, texts: Iterable[str], *, pool: str = "", budget: int = BUDGET) -> Iterator[Tensor]:
    """Yield the hidden vectors of each text, (L, W) in float32, or (W,) where `pool` is first, last or mean.

    budget: tokens that are computed together; a text that has more is computed alone. Raises InputError for a text that
    is longer than the model's positions, with its number, before anything of the texts around it is computed.
    """
    if pool not in POOLS:
        raise InputError(f"pool is {pool!r}{nearest(pool, POOLS)}, and must be first, last, mean or empty")
    take = POOLS[pool]

    def run(ids: Tensor, lengths: list[int]) -> list[Tensor]:
        hidden = _hidden(_network(model), ids, lengths)
        return [take(part.float()).clone() for part in hidden.split(lengths)]

    return _in_order(model, texts, run, budget)


def score(model: Model, texts: Iterable[str], *, budget: int = BUDGET) -> Iterator[Tensor]:
    """Yield what a head says of each text in float32: (labels,) of a sequence head, (L, labels) of the others."""
    network = _network(model)
    if network.config.head not in LABEL_HEADS or network.decoder is not None:
        raise InputError(f"a model with the head {network.config.head!r} ({network.config.kind}) scores no texts")

    def run(ids: Tensor, lengths: list[int]) -> list[Tensor]:
        numbers = torch.arange(1, len(lengths) + 1).repeat_interleave(torch.tensor(lengths))[None].to(ids.device)
        found = network.scores(_hidden(network, ids, lengths)[None], ids[None], numbers).float()
        parts = found.unbind() if network.config.head == "sequence" else found[0].split(lengths)
        return [part.clone() for part in parts]

    return _in_order(model, texts, run, budget)


def _network(model: Model) -> Transformer:
    network = model.network
    if not isinstance(network, Transformer) or network.encoder is None:
        raise InputError(f"a {model.config.kind} has no encoder; load a model that has one")
    return network


def _in_order(
    model: Model, texts: Iterable[str], run: Callable[[Tensor, list[int]], list[Tensor]], budget: int
) -> Iterator[Tensor]:
    """Run batches of texts that were read ahead, and yield what belongs to each in the order of the texts."""
    if budget < 1:
        raise InputError(f"budget is {budget}, and must be at least one token")
    if isinstance(texts, str):
        raise InputError("texts are several strings, and this is one; put it into a list")
    network = _network(model)
    for rows in _ahead(model, iter(texts)):
        results: list[Any] = [None] * len(rows)
        for batch in batches([len(row) for row in rows], budget):
            ids = torch.tensor([id for place in batch for id in rows[place]], device=network.device)
            with torch.inference_mode():
                found = run(ids, [len(rows[place]) for place in batch])
            for place, part in zip(batch, found, strict=True):
                results[place] = part
        yield from results


def _ahead(model: Model, texts: Iterator[str]) -> Iterator[list[list[int]]]:
    """The ids of texts, as many as are read ahead at once."""
    rows: list[list[int]] = []
    first, tokens = 0, 0
    while chunk := list(itertools.islice(texts, 64)):
        found = model.tokenizer.encode_batch(chunk)
        for place, row in enumerate(found):
            _check(model, row, first + len(rows) + place)
        rows += found
        tokens += sum(map(len, found))
        if len(rows) >= AHEAD_TEXTS or tokens >= AHEAD_TOKENS:
            yield rows
            first, rows, tokens = first + len(rows), [], 0
    if rows:
        yield rows


def _check(model: Model, row: list[int], number: int) -> None:
    config = model.config
    limit = config.max_positions if getattr(config, "position", "") in ("learned", "sinusoidal") else len(row)
    if not row or len(row) > limit:
        raise InputError(
            f"the text {number} has {len(row):,} tokens, the model positions for {limit:,}; "
            f"{'shorten it or cut it into several' if row else 'leave it out'}"
        )
    if max(row) >= config.vocab_size:
        raise InputError(
            f"the text {number} has the token {max(row)}, and the model has {config.vocab_size:,}; tokenizer and model "
            "do not belong together"
        )


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """The places of texts that are computed together, sorted by length: `budget` tokens at most, or one text."""
    found: list[list[int]] = []
    left = 0
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not found or lengths[place] > left:
            found.append([])
            left = budget
        found[-1].append(place)
        left -= lengths[place]
    return found


def _hidden(network: Transformer, ids: Tensor, lengths: list[int]) -> Tensor:
    """The hidden vectors (N, W) of documents of the given lengths, the shortest first; ids (N,)."""
    stack = network.encoder
    assert stack is not None and network.config.n_heads == network.config.n_kv_heads
    pieces, positions = [], []
    for length, group in itertools.groupby(lengths):
        count = len(list(group))
        order = torch.arange(length, device=ids.device)
        bias = stack.with_distances(Visible(), order[None], order[None]).as_bias(network.dtype)
        pieces.append(Piece(count, length, bias))
        positions.append(order.repeat(count))
    hidden = stack.embed(network.embedding(ids), torch.cat(positions), None)
    for layer in stack.layers:
        assert isinstance(layer, EncoderLayer)
        hidden = layer.add(hidden, layer.attention_norm, functools.partial(_attend, layer.attention, pieces))
        hidden = layer.add(hidden, layer.ffn_norm, layer.ffn)
    return hidden if stack.norm is None else stack.norm(hidden)


def _attend(layer: Attention, pieces: Sequence[Piece], x: Tensor) -> Tensor:
    """Attention of each document with itself, (N, W) → (N, W)."""
    assert layer.query_norm is None, "no encoder of these norms its queries"
    projected = [part.unflatten(1, (-1, layer.head_width)) for part in project(x, layer.query, layer.key, layer.value)]
    mixed, begin = torch.empty_like(projected[0]), 0
    for piece in pieces:
        end = begin + piece.documents * piece.length
        query, key, value = (
            part[begin:end].unflatten(0, (piece.documents, piece.length)).transpose(1, 2) for part in projected
        )  # (D, H, L, head width)
        found = F.scaled_dot_product_attention(query, key, value, piece.bias, scale=layer.scale)
        mixed[begin:end] = found.transpose(1, 2).flatten(0, 1)
        begin = end
    return layer.out(mixed.flatten(1))
