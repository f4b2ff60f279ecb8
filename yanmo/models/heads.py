"""What stands on top of the hidden: words, or labels.

B rows, T columns, W width, V vocabulary, L labels

causal      hidden → words (through the embedding where it is tied)
masked      hidden → dense, activation, norm → words (Devlin et al. 2019; RoBERTa the same)
sequence    one token of the row → (dense, tanh) → labels
token       each token → labels
span        each token → start and end
none        nothing; an encoder may keep its pooler, so that it is saved as it came
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yanmo.errors import InputError
from yanmo.models.config import LABEL_HEADS, TransformerConfig
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
        """Return (B, L) for a sequence head, (B, T, L) for a token or span head."""
        if self.config.head not in LABEL_HEADS:
            raise InputError(f"this model has the head {self.config.head!r}, which gives no labels; use logits")
        if self.config.head == "sequence":
            hidden = hidden[torch.arange(len(ids), device=ids.device), self._place(ids, mask)]  # (B, W)
            if self.config.pooler:
                hidden = torch.tanh(self.dense(self._drop(hidden)))
        return self.out(self._drop(hidden))

    def _place(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """The column of the token that stands for each row: its first, its last, or its last end of text."""
        order = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask > 0
        if self.config.pool == "first":
            return real.long().argmax(1)
        if self.config.pool == "eos":
            ends = torch.isin(ids, torch.tensor(self.config.eos_ids, device=ids.device)) & real
            if not bool(ends.any(1).all()):
                row = int((~ends.any(1)).nonzero()[0])
                raise InputError(f"row {row} has no end token {self.config.eos_ids}, which this head reads; add it")
            real = ends
        return torch.where(real, order, -1).amax(1).clamp(min=0)

    def _drop(self, hidden: Tensor) -> Tensor:
        rate = self.config.classifier_dropout
        return F.dropout(hidden, rate) if self.training and rate else hidden
