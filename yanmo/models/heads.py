"""What stands on top of the hidden: words, or labels.

B rows, T columns, W width, V vocabulary, L labels

causal      hidden → words (through the embedding where it is tied)
masked      hidden → dense, activation, norm → words (Devlin et al. 2019; RoBERTa the same)
sequence    one token of each document → (dense, tanh) → labels
token       each token → labels
span        each token → start and end
none        nothing; an encoder may keep its pooler, so that it is saved as it came

Documents of a row (docs/design.md, Ids, masks) are labelled one by one, row by row; without a mask a row is one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yanmo.errors import InputError
from yanmo.models.config import LABEL_HEADS, TransformerConfig
from yanmo.models.fast import dropout
from yanmo.models.layers import ACTIVATIONS, Norm


class Head(nn.Module):
    """The head that `config.head` names."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        words = config.head in ("causal", "masked")
        if config.head == "masked" or config.pooler:
            self.dense = nn.Linear(width, width)
        if config.head == "masked":
            self.norm = Norm(config)
        if words and not config.tie_embeddings:
            self.weight = nn.Parameter(torch.empty(config.output_size, width))
            nn.init.normal_(self.weight, std=0.02)
        if words and config.logit_bias:
            self.bias = nn.Parameter(torch.zeros(config.output_size))
        if config.head in LABEL_HEADS:
            one_vector = config.head == "sequence" and config.pool == "last"  # decoders: a bare matrix
            self.out = nn.Linear(width, len(config.labels), bias=not one_vector)
        self.adapted: nn.Module | None = None  # adapters of the words' matrix (lowrank.py), which may be the embedding

    def words(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """Return (…, V) from (…, W)."""
        if self.config.head == "masked":
            hidden = self.norm(ACTIVATIONS[self.config.activation](self.dense(hidden)))
        weight = embedding if self.config.tie_embeddings else self.weight
        bias = self.bias if self.config.logit_bias else None
        return F.linear(hidden, weight, bias) if self.adapted is None else self.adapted(hidden, weight, bias)

    def labels(self, hidden: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return (D, L) for a sequence head, D documents, (B, T, L) for a token or span head."""
        if self.config.head not in LABEL_HEADS:
            raise InputError(f"this model has the head {self.config.head!r}, which gives no labels; use logits")
        if self.config.head == "sequence":
            hidden = hidden.flatten(0, 1)[self._places(ids, mask)]  # (D, W)
            if self.config.pooler:
                hidden = torch.tanh(self.dense(self._drop(hidden, self.config.pooler_dropout)))
        return self.out(self._drop(hidden, self.config.classifier_dropout))

    def _places(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """The place in the flattened rows of the token that stands for each document: its first, last, or last end."""
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask > 0
        starts = document_starts(real.long() if mask is None else mask)
        starts[:, 0] |= ~real.any(1)  # a row without a token has scores too, as it had a place in the batch
        first = starts.flatten().nonzero().squeeze(1)  # (D,)
        if self.config.pool == "first":
            return first
        ends = real
        if self.config.pool == "eos":
            ends = torch.isin(ids, torch.tensor(self.config.eos_ids, device=ids.device)) & real
        places = torch.where(ends.flatten(), torch.arange(ids.numel(), device=ids.device), -1)
        document = (starts.flatten().cumsum(0) - 1).clamp(min=0)  # padding in front has the place -1
        last = torch.full_like(first, -1).scatter_reduce(0, document, places, "amax")
        if self.config.pool == "eos" and bool((last < 0).any()):
            row = int(first[int((last < 0).nonzero()[0])]) // ids.shape[1]
            raise InputError(f"row {row} has no end token {self.config.eos_ids}, which this head reads; add it")
        return torch.where(last < 0, first, last)

    def _drop(self, hidden: Tensor, rate: float) -> Tensor:
        return dropout(hidden, rate) if self.training and rate else hidden


def document_starts(mask: Tensor) -> Tensor:
    """Return where a document of the mask (B, T) has its first token, bool; numbers of a row must not decrease."""
    return mask > F.pad(mask.cummax(1).values[:, :-1], (1, 0))
