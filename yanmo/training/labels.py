"""Objectives for label heads: a class or numbers for each document, a class for each token, a span of tokens.

In: a network with a label head (models/heads.py) and a LabelBatch (tokens/labelled.py). Out: (loss_sum, n_targets), as
in objectives.py: divided, they are the mean over documents (or tokens) that the Hugging Face heads give.

    labelled        the loss that config.problem names: cross-entropy, squared error, or binary cross-entropy
    check_labels    before training: whether the labels of the data are those of the model
    label_scores    the scores of every document, for evaluation, in bounded memory
    by_document     the scores of tokens with a row for each document
    label_hidden    the hidden that a label head reads, whatever the shape of the Transformer

    B rows, T columns, W width, L labels, D documents
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from yanmo.errors import InputError
from yanmo.models.config import TransformerConfig
from yanmo.models.heads import document_starts
from yanmo.tokens.batches import NO_TARGET
from yanmo.tokens.labelled import LabelBatch, Labelled, labelled_once
from yanmo.training.objectives import evaluating


def labelled(network: Any, batch: LabelBatch, weights: Tensor | None = None) -> tuple[Tensor, int]:
    """Return the loss summed over documents, or over tokens for a token head, and their number.

    Several numbers of one document count with their mean, and so do the start and the end of a span, each a choice
    among the tokens of its document (Devlin et al. 2019, §4.2). Padding, and tokens or documents without a label, do
    not count; a batch without any has the loss 0 with a zero gradient. weights (L,): of classes, 1 on average.
    """
    hidden = label_hidden(network, batch)
    wanted = batch.wanted
    count = int(wanted.sum())
    if not count:
        return hidden.sum().float() * 0, 0
    scores = network.scores(hidden, batch.ids, batch.mask)
    if network.config.head == "span":
        chosen = by_document(scores, batch.mask)[wanted[document_starts(batch.mask)]].float()  # (D, longest, 2)
        return F.cross_entropy(chosen, batch.targets[wanted], reduction="sum") / 2, count
    if network.config.head == "sequence":
        scores = scores[wanted[document_starts(batch.mask)]]  # (D, L) of the documents that have a label
    else:
        scores = scores[wanted]
    scores, targets = scores.float(), batch.targets[wanted]
    if not targets.is_floating_point():
        weight = None if weights is None else weights.to(scores.device)
        return F.cross_entropy(scores, targets, weight, reduction="sum"), count
    if network.config.problem == "regression":
        return F.mse_loss(scores, targets, reduction="sum") / scores.shape[-1], count
    return F.binary_cross_entropy_with_logits(scores, targets, reduction="sum") / scores.shape[-1], count


def by_document(scores: Tensor, mask: Tensor) -> Tensor:
    """The scores (B, T, L) of tokens as (D, longest, L), row by row, with -inf where a document has no token."""
    real = (mask > 0).flatten()
    starts = document_starts(mask).flatten()[real]
    document = starts.cumsum(0) - 1  # of each real token
    place = torch.arange(len(starts), device=mask.device)
    place = place - place[starts][document]
    longest = int(place.max()) + 1 if len(place) else 0
    found = scores.new_full((int(starts.sum()), longest, scores.shape[-1]), -math.inf)
    return found.index_put((document, place), scores.flatten(0, 1)[real])


def label_hidden(network: Any, batch: LabelBatch) -> Tensor:
    """The hidden (B, T, W) that the label head reads: of an encoder-decoder, its decoder's on the shifted ids."""
    config = network.config
    if config.kind == "decoder":
        return network.decode(batch.ids, batch.mask)
    types = {"token_types": batch.token_types} if config.n_token_types else {}
    memory = network.encode(batch.ids, batch.mask, **types)
    if config.kind == "encoder":
        return memory
    shifted = torch.where(document_starts(batch.mask), config.decoder_start_id or 0, torch.roll(batch.ids, 1, 1))
    return network.decode(shifted, batch.mask, memory=memory, memory_mask=batch.mask)


def check_labels(data: Labelled, config: TransformerConfig) -> None:
    """Refuse, before anything is trained, labels that the model's head does not have, with the first of them."""
    kinds = {"sequence": ("class", "numbers"), "token": ("tokens",), "span": ("spans",)}.get(config.head, ())
    if data.kind not in kinds:
        raise InputError(f"the data have labels of the kind {data.kind!r}, and the model the head {config.head!r}")
    count = len(config.labels)
    if data.token_types.any() and not config.n_token_types:
        raise InputError("the data are pairs with token types, which this model lacks; encode each pair as one text")
    if data.kind == "numbers":
        if data.labels.shape[1] != count:
            raise InputError(
                f"a document has {data.labels.shape[1]} numbers, and the model {count} labels; give the head as many"
            )
        if config.problem not in ("regression", "multi_label"):
            raise InputError(f"numbers as labels need the problem regression or multi_label, not {config.problem!r}")
        wrong = ((data.labels < 0) | (data.labels > 1)).any(1) if config.problem == "multi_label" else np.zeros(1, bool)
        if wrong.any():
            number = int(wrong.argmax())
            raise InputError(f"document {number} has the labels {data.labels[number]}, and each must be from 0 to 1")
        return
    if data.kind == "spans":
        if count != 2:
            raise InputError(f"a span has a start and an end, and the model {count} labels; give its head 2")
        return
    if config.problem not in ("", "single_label"):
        raise InputError(f"the model is made for {config.problem}, which takes numbers as labels, not classes")
    wrong = (data.labels >= count) | ((data.labels < 0) & (data.labels != NO_TARGET))
    if data.kind == "class":
        wrong |= data.labels < 0
    if wrong.any():
        place = int(wrong.argmax())
        number = place if data.kind == "class" else int(np.searchsorted(data.bounds, place, side="right")) - 1
        raise InputError(
            f"document {number} has the label {data.labels[place]}, and the model has {count} labels, 0 "
            f"({config.labels[0]}) to {count - 1} ({config.labels[-1]}); correct the labels, or make the head larger"
        )


def label_scores(network: Any, data: Labelled, documents: int = 64) -> Tensor:
    """Return the scores (N, L), float32, of every document in the order of the data; the network's mode is kept."""
    scores = torch.empty(len(data), len(network.config.labels))
    device = next(network.parameters()).device
    with evaluating(network), torch.inference_mode():
        for batch, numbers in labelled_once(data, documents):
            moved = batch.to(device)
            found = network.scores(label_hidden(network, moved), moved.ids, moved.mask)
            scores[torch.from_numpy(numbers)] = found.float().cpu()
    return scores
