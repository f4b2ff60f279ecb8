"""Attention: softmax(QKᵀ/√d_k)V (Vaswani et al. 2017, §3.2), and what its tokens may see.

B rows, T query columns, S key columns, H query heads, K key heads, D head width, W width

reference_attention     the formula, in a dozen lines; every faster path is tested equal to it
attention               the same through torch's fused kernel, or where that is slow to train through fast.py
positions_of            mask → the position of each token in its own document
Visible                 which keys a query sees: padding, packed documents, causality, windows, a cache
Attention               the layer: project, turn, (remember,) attend, project
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yanmo.kernels import native, ops
from yanmo.models.beams import BeamCache
from yanmo.models.cache import Cache
from yanmo.models.config import TransformerConfig
from yanmo.models.fast import attend, on_cpu, project
from yanmo.models.held import codes_of
from yanmo.models.layers import Norm, Rotation, rotate

MAX_KEPT = 512  # columns up to which training keeps the weights of attention
FEW = 8  # queries up to which a cache is read as it is held; for more it becomes numbers once, for all of them


def reference_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, visible: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return softmax(scale · QKᵀ + bias) V and the weights themselves, over the keys that are visible.

    query (B, H, T, D); key, value (B, K, S, D); visible bool and bias float, both broadcast to (B, H, T, S).
    """
    groups = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(groups, dim=1)  # (B, H, S, D): each key head serves `groups` query heads
    value = value.repeat_interleave(groups, dim=1)
    scores = scale * (query @ key.transpose(-2, -1)).float()  # (B, H, T, S)
    if bias is not None:
        scores = scores + bias
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    weights = torch.softmax(scores, dim=-1).nan_to_num(0.0)  # a query that sees nothing returns 0
    return weights.to(value.dtype) @ value, weights


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float, visible: Visible, dropout: float) -> Tensor:
    """The same as `reference_attention`, without the weights, through a faster kernel."""
    heads, columns, kv_heads = query.shape[1], query.shape[2], key.shape[1]
    if query.requires_grad and on_cpu(query):
        bias = visible.trained(columns, key.shape[2], query)
        if bias is not None:
            keys, values = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (key, value))
            return attend(query, keys, values, scale, bias, dropout, causal=visible.causal or visible.ordered)
    seen = visible.as_bias(query.dtype)  # None, or (B or 1, 1 or H, T, S)
    if kv_heads != heads:
        if columns == 1 and (seen is None or seen.shape[1] == 1):  # the heads of a group become the columns of one head
            grouped = query.view(query.shape[0], kv_heads, heads // kv_heads, -1)
            mixed = F.scaled_dot_product_attention(grouped, key, value, seen, dropout, False, scale=scale)
            return mixed.reshape(query.shape)
        key = key.repeat_interleave(heads // kv_heads, dim=1)
        value = value.repeat_interleave(heads // kv_heads, dim=1)
    return F.scaled_dot_product_attention(query, key, value, seen, dropout, visible.causal, scale=scale)


def of_beams(query: Tensor, key: Tensor, value: Tensor, scale: float, visible: Visible, dropout: float) -> Tensor:
    """`attention` of beams (B · n, H, 1, D) over one memory for each n of them, (B, K, S, D): n columns of one row."""
    rows, heads, columns, width = query.shape
    folded = query.reshape(key.shape[0], -1, heads, width).transpose(1, 2)  # (B, H, n, D)
    assert columns == 1
    return attention(folded, key, value, scale, visible, dropout).transpose(1, 2).reshape(rows, heads, 1, width)


def of_held(query: Tensor, key: Tensor, value: Tensor, scale: float, visible: Visible) -> Tensor:
    """`attention` of few queries (B, H, T, D) over keys and values as a cache holds them, (B, K, S, W): see held.py."""
    assert visible.last is not None
    scales: dict[str, Tensor] = {}
    if key.dtype == torch.int8:
        width = query.shape[-1]
        key, scales["key_scale"] = codes_of(key, width)
        value, scales["value_scale"] = codes_of(value, width)
    mixed = ops.attend(query, key, value, visible.last, scale, window=visible.window, **scales)
    return mixed.transpose(1, 2)  # (B, H, T, D)


def positions_of(mask: Tensor) -> Tensor:
    """Return (B, T): how many tokens of its own document stand before each token; padding gets 0.

    The document numbers of a row must not decrease.
    """
    real = mask > 0
    count = real.long().cumsum(1) - 1
    before = F.pad(mask.cummax(1).values[:, :-1], (1, 0))
    first = torch.where(real & (mask > before), count, 0)
    return torch.where(real, count - first.cummax(1).values, 0)


@dataclass(frozen=True)
class Visible:
    """Which keys each query sees; made once per call and read by every layer.

    mask: bool (B or 1, 1, T, S), or None where nothing is hidden, or where `causal` alone says it.
    ordered: the mask hides every key that stands behind its query.
    bias: float (B or 1, H, T, S), added to the scores (T5's relative positions).
    last, window: the same as `mask` where a cache hides nothing else: the last column that a query sees (B, T), and how
    many up to it (0: all).
    """

    mask: Tensor | None = None
    causal: bool = False
    ordered: bool = False
    bias: Tensor | None = None
    last: Tensor | None = None
    window: int = 0
    made: dict[torch.dtype, Tensor | None] = field(default_factory=dict, repr=False, compare=False)

    def dense(self, columns: int, keys: int, device: torch.device) -> Tensor | None:
        """The mask alone, causality written out."""
        if not self.causal:
            return self.mask
        order = torch.arange(keys, device=device)
        return (order[None, :] <= order[:columns, None])[None, None]

    def as_bias(self, dtype: torch.dtype) -> Tensor | None:
        """Mask and bias as the one argument that the fused kernel takes."""
        if self.bias is None:
            return self.mask
        bias = self.bias.to(dtype)
        return bias if self.mask is None else bias.masked_fill(~self.mask, -torch.inf)

    def trained(self, columns: int, keys: int, like: Tensor) -> Tensor | None:
        """`additive` where training keeps the weights of attention: None, too, where there are too many columns."""
        return self.additive(columns, keys, like) if max(columns, keys) <= MAX_KEPT else None

    def additive(self, columns: int, keys: int, like: Tensor) -> Tensor | None:
        """All of it as one number to be added to each score, made once; None where some query sees nothing."""
        if like.dtype not in self.made:
            bias = like.new_zeros(()) if self.bias is None else self.bias.detach().to(like.dtype)
            mask = self.dense(columns, keys, like.device)
            if mask is not None:
                bias = torch.where(mask, bias, -torch.inf)
            usable = self.bias is None or not self.bias.requires_grad
            sound = mask is None or bool(mask.any(-1).all())
            self.made[like.dtype] = bias if usable and sound else None
        return self.made[like.dtype]


def see_both_ways(mask: Tensor | None, memory_mask: Tensor | None) -> Visible:
    """Every token of the same document: an encoder's own tokens, or a decoder's view of its memory.

    Where the rows of `mask` are the beams of fewer memories (see `of_beams`), they have one column without padding.
    """
    if mask is None or memory_mask is None:
        return Visible()
    if mask.shape[0] > memory_mask.shape[0]:
        mask = mask[:: mask.shape[0] // memory_mask.shape[0]]
    return Visible((mask[:, :, None] == memory_mask[:, None, :])[:, None])


def see_back(mask: Tensor | None, columns: int, window: int, device: torch.device) -> Visible:
    """The same document, up to the token itself, and at most `window` tokens back (0: no limit)."""
    if mask is None and not 0 < window < columns:
        return Visible(causal=True)
    order = torch.arange(columns, device=device)
    distance = order[:, None] - order[None, :]
    seen = distance >= 0
    if window:
        place = order[None] if mask is None else (mask > 0).long().cumsum(1)
        seen = seen & (place[:, :, None] - place[:, None, :] < window)
    if mask is not None:
        seen = seen & (mask[:, :, None] == mask[:, None, :])
    return Visible(seen.view(-1, 1, columns, columns), ordered=True)


def see_cached(positions: Tensor, keys: int, window: int) -> Visible:
    """In a cache the column of a key is its position: a query sees the columns up to its own."""
    column = torch.arange(keys, device=positions.device)
    seen = column <= positions[:, :, None]  # (B, T, S)
    if window:
        seen &= column > positions[:, :, None] - window
    return Visible(seen[:, None])


def reads_held(query: Tensor, cache: Cache, visible: Visible) -> bool:
    """Whether `of_held` computes it: few queries on a CPU, and a cache of another type than that of the network."""
    few = cache.held != cache.dtype and visible.last is not None and query.shape[2] <= FEW
    return few and on_cpu(query) and not query.requires_grad and native.library() is not None


class Attention(nn.Module):
    """Multi-head attention of one layer; self-attention where `memory` is None."""

    def __init__(self, config: TransformerConfig, layer: int, *, cross: bool = False) -> None:
        super().__init__()
        width, heads, kv_heads, head = config.width, config.n_heads, config.n_kv_heads, config.head_width
        self.head_width = head
        self.layer = layer
        self.cross = cross
        self.dropout = config.attention_dropout
        self.scale = head**-0.5 if config.attention_scale is None else config.attention_scale
        if config.attention_scale_by_layer:
            self.scale /= layer + 1
        self.query = nn.Linear(width, heads * head, bias=config.bias_qkv)
        self.key = nn.Linear(width, kv_heads * head, bias=config.bias_qkv)
        self.value = nn.Linear(width, kv_heads * head, bias=config.bias_qkv)
        self.out = nn.Linear(heads * head, width, bias=config.bias_out)
        normed = config.norm_query_key and not cross
        self.query_norm = Norm(config, head) if normed else None
        self.key_norm = Norm(config, head) if normed else None

    def forward(
        self,
        hidden: Tensor,
        visible: Visible,
        *,
        memory: Tensor | None = None,
        rotation: Rotation | None = None,
        cache: Cache | BeamCache | None = None,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """Mix `hidden` (B, T, W) with itself or with `memory` (B, S, W); `record` collects the weights (B, H, T, S)."""
        own = () if memory is not None else (self.key, self.value)
        projected, *given = project(hidden, self.query, *own)
        query = self._heads(projected)
        if self.query_norm is not None:
            query = self.query_norm(query)
        if rotation is not None:
            query = rotate(query, rotation)
        shared = cache if record is None and not self.cross and isinstance(cache, BeamCache) else None
        held = record is None and not self.cross and isinstance(cache, Cache) and reads_held(query, cache, visible)
        key, value = self._keys(memory, given, rotation, cache, held)
        if shared is not None:
            mixed = shared.attend(self.layer, query, self.scale)
        elif held:
            mixed = of_held(query, key, value, self.scale, visible)
        elif record is None:
            mix = of_beams if query.shape[0] > key.shape[0] else attention
            mixed = mix(query, key, value, self.scale, visible, self.dropout if self.training else 0.0)
        else:
            seen = visible.dense(query.shape[2], key.shape[2], query.device)
            beams = query.shape[0] // key.shape[0]  # rows of one memory
            if beams > 1:
                key, value = (x.repeat_interleave(beams, dim=0) for x in (key, value))
                seen = None if seen is None else seen.repeat_interleave(beams, dim=0)
            mixed, weights = reference_attention(query, key, value, self.scale, seen, visible.bias)
            record.append(weights)
        return project(mixed.transpose(1, 2).flatten(2), self.out)[0]  # (B, H, T, D) → (B, T, W)

    def _keys(
        self,
        memory: Tensor | None,
        given: list[Tensor],
        rotation: Rotation | None,
        cache: Cache | BeamCache | None,
        held: bool,
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of the memory, or those that are given, before the heads are parted; `held`: see of_held."""
        if self.cross and cache is not None and cache.memory[self.layer] is not None:
            return cache.memory[self.layer]  # type: ignore[return-value]
        key, value = map(self._heads, given if memory is None else project(memory, self.key, self.value))
        if self.key_norm is not None:
            key = self.key_norm(key)
        if rotation is not None:
            key = rotate(key, rotation)
        if cache is None:
            return key, value
        if self.cross:
            cache.memory[self.layer] = key, value
            return key, value
        return (
            cache.write(self.layer, key, value)
            if held and isinstance(cache, Cache)
            else cache.append(self.layer, key, value)
        )

    def _heads(self, projected: Tensor) -> Tensor:
        rows, columns, _ = projected.shape
        return projected.view(rows, columns, -1, self.head_width).transpose(1, 2)  # (B, H, T, D)
