"""Recurrent language models: tanh RNN, LSTM, GRU, and the same with labels. The Transformer's protocol.

    B rows, T columns, W width of the embedding, R width of the state, V vocabulary

In: ids (B, T) and a mask (B, T) of document numbers, 0 for padding. Out: hidden (B, T, W).

Each document of a row runs from a state of its own: rows are taken apart into documents, run as one packed sequence,
and put back. So padding never enters the state and packed documents do not leak.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from yanmo.errors import InputError
from yanmo.models.config import RecurrentConfig
from yanmo.models.heads import document_starts

FILLED = 4  # cells for each token up to which documents are filled up rather than packed
CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class RecurrentCache:
    """The state of each row after the tokens read so far: (layers, B, R), for an LSTM twice."""

    def __init__(self, states: list[Tensor], rows: int, device: torch.device) -> None:
        self.states = states
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)

    @property
    def rows(self) -> int:
        """The number of texts held."""
        return self.lengths.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes held, whatever the length."""
        return sum(t.nbytes for t in self.states)

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in the given order; a row may be repeated."""
        self.states = [t[:, rows] for t in self.states]
        self.lengths = self.lengths[rows]


class Recurrent(nn.Module):
    """Embedding → cells → (projection) → words, through the embedding where it is tied; or labels."""

    family = "yanmo_recurrent"  # the model_type of its config.json

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        between = config.dropout if config.layers > 1 else 0.0
        ways: dict[str, Any] = {"batch_first": True, "dropout": between, "bidirectional": config.bidirectional}
        self.cells = CELLS[config.cell](config.width, config.hidden_width, config.layers, **ways)
        self.project = nn.Linear(config.state_width, config.width) if config.state_width != config.width else None
        if config.labels:
            self.head = nn.Linear(config.width, len(config.labels))
            return
        self.weight = None if config.tie_embeddings else nn.Parameter(torch.empty(config.vocab_size, config.width))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        if self.weight is not None:
            nn.init.normal_(self.weight, std=0.02)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.embedding.weight.dtype

    def encode(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Refuse: a recurrent language model has no encoder."""
        raise InputError("a recurrent model has no encoder; use decode")

    def decode(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: RecurrentCache | None = None,
    ) -> Tensor:
        """Return the hidden (B, T, W); with a cache, of the tokens that follow those it holds."""
        assert memory is None and memory_mask is None, "a recurrent model has no memory to look at"
        assert cache is None or not self.config.bidirectional, "what follows is not known yet"
        inputs = self._drop(self.embedding(ids))
        if mask is None or bool((mask == 1).all()):
            states = None if cache is None else self._given(cache.states)
            hidden, after = self.cells(inputs, states)
            if cache is not None:
                cache.states = list(after) if isinstance(after, tuple) else [after]
                cache.lengths = cache.lengths + ids.shape[1]
        else:
            hidden = self._documents(inputs, mask, cache)
        hidden = self._drop(hidden)
        return hidden if self.project is None else self.project(hidden)

    def _documents(self, inputs: Tensor, mask: Tensor, cache: RecurrentCache | None) -> Tensor:
        """Run each document of each row as a sequence of its own and put the results back where its tokens stood."""
        row, column = (mask > 0).nonzero(as_tuple=True)  # tokens in reading order
        out = inputs.new_zeros((*inputs.shape[:2], self.config.state_width))
        if not row.numel():
            return out
        number = mask[row, column]
        first = torch.ones_like(row, dtype=torch.bool)
        first[1:] = (row[1:] != row[:-1]) | (number[1:] != number[:-1])
        document = first.long().cumsum(0) - 1
        start = first.nonzero().squeeze(1)
        lengths = torch.bincount(document)
        place = torch.arange(len(row), device=row.device) - start[document]
        padded = inputs.new_zeros((len(start), int(lengths.max()), inputs.shape[2]))
        padded[document, place] = inputs[row, column]
        if cache is None and self._fills(padded, len(row)):
            out[row, column] = self._padded(padded, lengths)[document, place]
            return out
        packed = pack_padded_sequence(padded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        owner = row[start]
        states = None
        if cache is not None:
            assert len(owner) == len(owner.unique()), "one document for each row of a cache"
            states = self._given([t[:, owner] for t in cache.states])
        result, after = self.cells(packed, states)
        assert isinstance(result, PackedSequence)
        out[row, column] = pad_packed_sequence(result, batch_first=True)[0][document, place]
        if cache is not None:
            new = list(after) if isinstance(after, tuple) else [after]
            cache.states = [old.index_copy(1, owner, n) for old, n in zip(cache.states, new)]
            cache.lengths = cache.lengths + (mask > 0).sum(1)
        return out

    def _fills(self, padded: Tensor, tokens: int) -> bool:
        """Whether the library's kernel for whole rows is faster: of the packed ones oneDNN has none (docs/log.md).

        A language model, which reads one way, keeps to packed documents: it is large, and this takes more memory.
        """
        both = self.config.cell == "lstm" and self.config.directions == 2
        return both and padded.device.type == "cpu" and padded[..., 0].numel() <= FILLED * tokens

    def _padded(self, x: Tensor, lengths: Tensor) -> Tensor:
        """An LSTM over documents (D, T, W) that are filled up; those read backwards begin at their own last token."""
        place = torch.arange(x.shape[1], device=x.device)
        mirror = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)[..., None]
        zero = x.new_zeros((1, x.shape[0], self.config.hidden_width))
        ways, dropout = self.config.directions, self.cells.dropout
        for layer in range(self.config.layers):
            if layer and dropout and self.training:
                x = F.dropout(x, dropout)
            read = [x, x.gather(1, mirror.expand_as(x))][:ways]
            weights = self.cells.all_weights[layer * ways :]
            done = [
                torch.lstm(one, (zero, zero), own, True, 1, 0.0, self.training, False, True)[0]
                for one, own in zip(read, weights, strict=False)
            ]
            done[1:] = [one.gather(1, mirror.expand_as(one)) for one in done[1:]]
            x = torch.cat(done, 2)
        return x

    def _given(self, states: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
        states = [t.contiguous() for t in states]
        return tuple(states) if self.config.cell == "lstm" else states[0]

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout) if self.training and self.config.dropout else x

    def scores(self, hidden: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the scores of a label head: of documents (D, L), or of tokens (B, T, L), from its hidden (B, T, W)."""
        if not self.config.labels:
            raise InputError("a recurrent language model has no label head")
        if self.config.head == "token":
            return self.head(self._drop(hidden))
        marks = torch.ones_like(ids) if mask is None else mask
        real = (marks > 0).flatten()
        starts = document_starts(marks)
        document = (starts.flatten().cumsum(0) - 1)[real]
        count = int(starts.sum())
        found = hidden.new_full((count, hidden.shape[-1]), -math.inf)
        index = document[:, None].expand(-1, hidden.shape[-1])
        return self.head(self._drop(found.scatter_reduce(0, index, hidden.flatten(0, 1)[real], "amax")))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores (…, V)."""
        if self.config.labels:
            raise InputError(f"a network with the head {self.config.head!r} predicts no words; use scores")
        weight = self.embedding.weight if self.weight is None else self.weight
        return F.linear(hidden, weight, self.bias)

    def new_cache(self, rows: int, length: int = 0) -> RecurrentCache:
        """Return the zero state for `rows` texts."""
        shape = (self.config.layers, rows, self.config.hidden_width)
        n_states = 2 if self.config.cell == "lstm" else 1
        states = [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(n_states)]
        return RecurrentCache(states, rows, self.device)
