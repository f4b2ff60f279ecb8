"""The Transformer (Vaswani et al. 2017, figure 1): an encoder, a decoder, or both.

    B rows, T columns, S columns of the memory, W width, V vocabulary

    EncoderLayer    self-attention, feed-forward
    DecoderLayer    self-attention, cross-attention (where there is an encoder), feed-forward
    Stack           embedding with positions → layers → norm
    Transformer     encode, decode, logits, new_cache: the protocol of protocol.py

In: ids (B, T) and a mask (B, T) of document numbers, 0 for padding. Out: hidden (B, T, W), logits (…, V).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from yanmo.errors import InputError
from yanmo.models import fastencoder, fastlayer
from yanmo.models.attention import Attention, Visible, positions_of, see_back, see_both_ways, see_cached
from yanmo.models.cache import Cache
from yanmo.models.config import TransformerConfig
from yanmo.models.fast import dropout
from yanmo.models.heads import Head
from yanmo.models.layers import FeedForward, Norm, Rotation, relative_bucket, rotation_at, sinusoids


class Layer(nn.Module):
    """What both kinds of layer share: a residual stream, normalised before each part or after it."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pre_norm = config.norm_order == "pre"
        self.dropout = config.dropout

    def add(self, hidden: Tensor, norm: Norm, part: Callable[[Tensor], Tensor]) -> Tensor:
        """hidden + part(norm(hidden)), or norm(hidden + part(hidden))."""
        change = part(norm(hidden) if self.pre_norm else hidden)
        if self.training and self.dropout:
            change = dropout(change, self.dropout)
        return hidden + change if self.pre_norm else norm(hidden + change)


class EncoderLayer(Layer):
    """Self-attention over the whole document, then feed-forward."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__(config)
        self.attention = Attention(config, layer)
        self.attention_norm = Norm(config)
        self.ffn = FeedForward(config)
        self.ffn_norm = Norm(config)

    def forward(self, hidden: Tensor, visible: Visible, record: list[Tensor] | None = None) -> Tensor:
        """Transform (B, T, W)."""
        if record is None and fastencoder.usable(self, hidden, visible):
            return fastencoder.run(self, hidden, visible)
        hidden = self.add(hidden, self.attention_norm, lambda x: self.attention(x, visible, record=record))
        return self.add(hidden, self.ffn_norm, self.ffn)


class DecoderLayer(Layer):
    """Self-attention over what came before, cross-attention over the memory, then feed-forward."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__(config)
        self.attention = Attention(config, layer)
        self.attention_norm = Norm(config)
        crossed = config.encoder_layers > 0
        self.cross = Attention(config, layer, cross=True) if crossed else None
        self.cross_norm = Norm(config) if crossed else None
        self.ffn = FeedForward(config)
        self.ffn_norm = Norm(config)

    def forward(
        self,
        hidden: Tensor,
        visible: Visible,
        rotation: Rotation | None,
        cache: Cache | None,
        memory: Tensor | None,
        memory_visible: Visible,
        record: list[Tensor] | None = None,
        attended: list[Tensor] | None = None,
    ) -> Tensor:
        """Transform (B, T, W)."""
        if rotation is not None and cache is None and record is None and fastlayer.usable(self, hidden):
            bias = visible.trained(hidden.shape[1], hidden.shape[1], hidden)
            if bias is not None:
                return fastlayer.run(self, hidden, rotation, bias, visible.causal or visible.ordered)
        hidden = self.add(
            hidden,
            self.attention_norm,
            lambda x: self.attention(x, visible, rotation=rotation, cache=cache, record=record),
        )
        if self.cross is not None and self.cross_norm is not None:
            cross, more = self.cross, {"cache": cache, "record": attended}
            hidden = self.add(hidden, self.cross_norm, lambda x: cross(x, memory_visible, memory=memory, **more))
        return self.add(hidden, self.ffn_norm, self.ffn)


class Stack(nn.Module):
    """Positions, layers and the last norm: all of one side but the table of tokens."""

    way: Callable[..., Tensor] | None = None  # (layer, what it reads) → hidden, in training (training/layerwise.py)

    def __init__(self, config: TransformerConfig, layers: list[Layer], *, both_ways: bool) -> None:
        super().__init__()
        self.config = config
        self.both_ways = both_ways
        if config.position == "learned":
            self.positions = nn.Embedding(config.max_positions + config.position_offset, config.width)
        if config.position == "relative":
            self.distances = nn.Embedding(config.relative_buckets, config.n_heads)
        if config.n_token_types:
            self.token_types = nn.Embedding(config.n_token_types, config.width)
        self.embedding_norm = Norm(config) if config.norm_embedding else None
        self.layers = nn.ModuleList(layers)
        self.norm = Norm(config) if config.norm_final else None

    def embed(self, tokens: Tensor, positions: Tensor, token_types: Tensor | None) -> Tensor:
        """Add to the token vectors (B, T, W) what says where they stand."""
        config = self.config
        hidden = tokens * config.embedding_scale if config.embedding_scale != 1 else tokens
        if config.position in ("learned", "sinusoidal"):
            last = int(positions.max()) if positions.numel() else 0
            if last >= config.max_positions:
                raise InputError(
                    f"the text has {last + 1:,} tokens, the model positions for {config.max_positions:,}; shorten it"
                )
        if config.position == "learned":
            hidden = hidden + self.positions(positions + config.position_offset)
        elif config.position == "sinusoidal":
            places = positions + config.position_offset
            table = sinusoids(int(places.max()) + 1, config.width, config.rope_theta)
            hidden = hidden + table.to(hidden)[places]
        if config.n_token_types:
            types = torch.zeros_like(positions) if token_types is None else token_types
            hidden = hidden + self.token_types(types)
        if self.embedding_norm is not None:
            hidden = self.embedding_norm(hidden)
        rate = config.embedding_dropout
        return dropout(hidden, rate) if self.training and rate else hidden

    def through(self, layer: nn.Module, *given: object) -> Tensor:
        """Call a layer, where gradients are wanted in the way that is set."""
        if self.way is None or not torch.is_grad_enabled():
            return layer(*given)
        return self.way(layer, *given)

    def with_distances(self, visible: Visible, queries: Tensor, keys: Tensor) -> Visible:
        """Add the bias of relative positions, (B or 1, H, T, S), from the positions of queries and keys."""
        if self.config.position != "relative":
            return visible
        distance = keys[:, None, :] - queries[:, :, None]
        bucket = relative_bucket(
            distance, self.config.relative_buckets, self.config.relative_max_distance, both_ways=self.both_ways
        )
        bias = self.distances(bucket).permute(0, 3, 1, 2).float()
        return Visible(visible.dense(queries.shape[1], keys.shape[1], queries.device), bias=bias)


class Transformer(nn.Module):
    """An encoder, a decoder or an encoder-decoder with a head, as `config` says."""

    family: str = ""  # the model_type under which it was loaded or is to be saved
    held: torch.dtype | None = None  # in which caches hold keys and values, None: the type of the weights (held.py)

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        if config.decoder_vocab_size:
            self.decoder_embedding = nn.Embedding(config.decoder_vocab_size, config.width)
        self.encoder = self.decoder = None
        if config.encoder_layers:
            layers: list[Layer] = [EncoderLayer(config, i) for i in range(config.encoder_layers)]
            self.encoder = Stack(config, layers, both_ways=True)
        if config.decoder_layers:
            layers = [DecoderLayer(config, i) for i in range(config.decoder_layers)]
            self.decoder = Stack(config, layers, both_ways=False)
        self.head = Head(config)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.embedding.weight.dtype

    def encode(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        *,
        token_types: Tensor | None = None,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """Return the memory (B, S, W); `record` collects the attention weights of each layer, (B, H, S, S)."""
        if self.encoder is None:
            raise InputError("this model has no encoder; use decode")
        mask = _needed(mask)
        positions = _positions(ids, mask)
        visible = self.encoder.with_distances(see_both_ways(mask, mask), positions, positions)
        hidden = self.encoder.embed(self.embedding(ids), positions, token_types)
        for layer in self.encoder.layers:
            hidden = self.encoder.through(layer, hidden, visible, record)
        return hidden if self.encoder.norm is None else self.encoder.norm(hidden)

    def decode(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: Cache | None = None,
        record: list[Tensor] | None = None,
        attended: list[Tensor] | None = None,
    ) -> Tensor:
        """Return the hidden (B, T, W); with a cache, of the tokens that follow those it holds.

        `record` collects the attention weights of each layer, (B, H, T, S), `attended` those to the memory.
        """
        stack, config = self.decoder, self.config
        if stack is None:
            raise InputError("this model has no decoder; use encode")
        assert (memory is None) == (self.encoder is None), "a memory, where and only where there is an encoder"
        mask = _needed(mask)
        positions = _positions(ids, mask) if cache is None else cache.place(mask, ids.shape[1])
        seen = {window: self._visible(mask, positions, window, cache) for window in set(config.windows)}
        memory_visible = Visible()
        if memory is not None and memory_mask is not None:
            queries = torch.ones_like(ids) if mask is None else mask
            memory_visible = see_both_ways(queries, memory_mask)
        token_table = self.decoder_embedding if config.decoder_vocab_size else self.embedding
        hidden = stack.embed(token_table(ids), positions, None)
        rotation = None
        if config.position == "rotary":  # rows without a mask and a cache have the same positions
            rotation = rotation_at(
                config, positions if cache is not None or mask is not None else positions[:1], hidden.dtype
            )
        for layer, window in zip(stack.layers, config.windows, strict=True):
            hidden = stack.through(
                layer, hidden, seen[window], rotation, cache, memory, memory_visible, record, attended
            )
        if cache is not None:
            cache.advance()
        return hidden if stack.norm is None else stack.norm(hidden)

    def _visible(self, mask: Tensor | None, positions: Tensor, window: int, cache: Cache | None) -> Visible:
        assert self.decoder is not None
        columns, device = positions.shape[1], positions.device
        if cache is None or (cache.longest == 0 and mask is None):
            visible = see_back(mask, columns, window, device)
            return self.decoder.with_distances(visible, positions, positions)
        keys = cache.reach
        whole = columns == 1 and cache.even and mask is None and not 0 < window < keys
        visible = Visible() if whole else see_cached(positions, keys, window)
        visible = replace(visible, last=positions.clamp(max=keys - 1), window=window)  # a row may have nothing new
        order = torch.arange(keys, device=device)[None]
        return self.decoder.with_distances(visible, positions, order)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores (…, V) of the language model head."""
        config = self.config
        if config.head not in ("causal", "masked"):
            raise InputError(f"this model has the head {config.head!r}, which gives no token scores; use scores")
        if config.logit_scale != 1:
            hidden = hidden * config.logit_scale
        tied = self.decoder_embedding if config.decoder_vocab_size else self.embedding
        return self.head.words(hidden, tied.weight)

    def scores(self, hidden: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the scores of a label head: sequence (B, L), token and span (B, T, L), from its hidden (B, T, W)."""
        return self.head.labels(hidden, ids, _needed(mask))

    def new_cache(self, rows: int, length: int) -> Cache:
        """Return an empty cache for `rows` texts of about `length` tokens."""
        c = self.config
        return Cache(c.decoder_layers, rows, length, c.n_kv_heads, c.head_width, self.dtype, self.device, self.held)


def _needed(mask: Tensor | None) -> Tensor | None:
    """None where every token belongs to one document, so that the fast paths are taken."""
    return None if mask is None or bool((mask == 1).all()) else mask


def _positions(ids: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.arange(ids.shape[1], device=ids.device)[None].expand(ids.shape[0], -1)
    return positions_of(mask)
