"""How many parameters a config has, and how many FLOPs a token costs.

In: a config. Out: whole numbers, exact: `parameters` equals the sum of numel() over the network's parameters.

    parameters          all weights
    matrices            those that a token is multiplied with, the output matrix included, tied or not
    layer_matrices      the matrices of the layers, as (in, out); adapted: those that an adapter stands beside
    forward_flops       2 FLOPs per weight of a matrix and token, and attention
    training_flops      forward, and twice as much backward

    H query heads, K key heads, D head width, W width, F feed-forward width, T context, L layers

A multiplication and an addition are two FLOPs. A matrix costs 2 FLOPs per weight and token forward and 4 backward
(Kaplan et al. 2020, arXiv 2001.08361, §2.1; Hoffmann et al. 2022, arXiv 2203.15556, appendix F). Attention costs
4 T H D per layer and token forward, for QKᵀ and for its product with V, each over the whole context, the hidden half of
a causal mask counted: so training costs 6 N + 12 L H D T (Chowdhery et al. 2022, arXiv 2204.02311, appendix B). Norms,
activations and the look-up of embeddings are not counted.
"""

from __future__ import annotations

from yanmo.errors import InputError
from yanmo.models.config import LABEL_HEADS, RecurrentConfig, TransformerConfig

Config = TransformerConfig | RecurrentConfig
GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def parameters(config: Config) -> int:
    """The number of weights, each counted once."""
    if isinstance(config, RecurrentConfig):
        return _recurrent(config)
    c = config
    total = (c.vocab_size + c.decoder_vocab_size) * c.width
    if c.encoder_layers:
        total += _stack(c) + c.encoder_layers * (_attention(c) + _feed_forward(c) + 2 * _norm(c, c.width))
    if c.decoder_layers:
        layer = _attention(c) + _feed_forward(c) + 2 * _norm(c, c.width)
        if c.encoder_layers:
            layer += _attention(c, cross=True) + _norm(c, c.width)
        total += _stack(c) + c.decoder_layers * layer
    return total + _head(c)


def _stack(c: TransformerConfig) -> int:
    """Positions, token types and the norms around the layers."""
    total = (c.norm_embedding + c.norm_final) * _norm(c, c.width) + c.n_token_types * c.width
    if c.position == "learned":
        total += (c.max_positions + c.position_offset) * c.width
    if c.position == "relative":
        total += c.relative_buckets * c.n_heads
    return total


def _norm(c: TransformerConfig, width: int) -> int:
    return width * (2 if c.norm == "layer" else 1)


def _attention(c: TransformerConfig, cross: bool = False) -> int:
    total = sum(i * o + (o if bias else 0) for i, o, bias in _attention_matrices(c))
    return total + 2 * _norm(c, c.head_width) * (c.norm_query_key and not cross)


def _attention_matrices(c: TransformerConfig) -> list[tuple[int, int, bool]]:
    """(in, out, bias) of query, key, value and output."""
    queries, keys = c.n_heads * c.head_width, c.n_kv_heads * c.head_width
    inputs = [(c.width, out, c.bias_qkv) for out in (queries, keys, keys)]
    return [*inputs, (queries, c.width, c.bias_out)]


def _feed_forward(c: TransformerConfig) -> int:
    return sum(i * o + (o if c.bias_ffn else 0) for i, o in _feed_forward_matrices(c))


def _feed_forward_matrices(c: TransformerConfig) -> list[tuple[int, int]]:
    return [(c.width, c.ffn_width)] * (2 if c.gated else 1) + [(c.ffn_width, c.width)]


def _head(c: TransformerConfig) -> int:
    words = c.head in ("causal", "masked")
    total = 0
    if c.head == "masked" or c.pooler:
        total += c.width * c.width + c.width
    if c.head == "masked":
        total += _norm(c, c.width)
    if words and not c.tie_embeddings:
        total += c.output_size * c.width
    if words and c.logit_bias:
        total += c.output_size
    if c.head in LABEL_HEADS:
        bias = not (c.head == "sequence" and c.pool == "last")
        total += len(c.labels) * (c.width + bias)
    return total


def _recurrent(c: RecurrentConfig) -> int:
    total = c.vocab_size * c.width * (1 if c.tie_embeddings else 2) + c.vocab_size
    if c.hidden_width != c.width:
        total += c.hidden_width * c.width + c.width
    return total + sum(i * o for i, o in _cells(c)) + 2 * GATES[c.cell] * c.hidden_width * c.layers


def _cells(c: RecurrentConfig) -> list[tuple[int, int]]:
    """(in, out) of the matrices of every layer: from the input, from the state."""
    gates = GATES[c.cell] * c.hidden_width
    inputs = [c.width] + [c.hidden_width] * (c.layers - 1)
    return [pair for width in inputs for pair in ((width, gates), (c.hidden_width, gates))]


def layer_matrices(config: Config) -> list[tuple[int, int]]:
    """(in, out) of every matrix between hidden vectors: those of attention, feed-forward and cells."""
    if isinstance(config, RecurrentConfig):
        return _cells(config)
    c = config
    attention = [(i, o) for i, o, _ in _attention_matrices(c)]
    layer = attention + _feed_forward_matrices(c)
    crossed = attention if c.encoder_layers else []
    return layer * (c.encoder_layers + c.decoder_layers) + crossed * c.decoder_layers


def adapted(config: Config) -> list[tuple[int, int]]:
    """(in, out) of the matrices that get an adapter by default (models/adapters.py).

    All of a decoder's layers; query and value of an encoder's and of an encoder-decoder's.
    """
    if isinstance(config, RecurrentConfig):
        raise InputError("a recurrent model takes no adapter; plan it without one")
    if config.kind == "decoder":
        return layer_matrices(config)
    query, _, value, _ = [(i, o) for i, o, _ in _attention_matrices(config)]
    crossed = config.decoder_layers if config.encoder_layers else 0
    return [query, value] * (config.encoder_layers + config.decoder_layers + crossed)


def adapter_parameters(config: Config, rank: int) -> int:
    """Weights of a low-rank adapter (Hu et al. 2021, §4.1): rank × (in + out) each; a label head is trained whole."""
    head = _head(config) if config.head in LABEL_HEADS and isinstance(config, TransformerConfig) else 0
    return sum(rank * (i + o) for i, o in adapted(config)) + head


def matrices(config: Config, target_share: float = 1.0) -> int:
    """Weights of the matrices that a token passes; the head counts for the share of tokens that have a target.

    In an encoder-decoder one token of each side: the weights of both sides.
    """
    return round(sum(i * o for i, o in layer_matrices(config)) + target_share * head_matrices(config))


def head_matrices(config: Config) -> int:
    """Weights of the matrices between the last hidden vector and the logits."""
    if isinstance(config, RecurrentConfig):
        project = config.hidden_width * config.width if config.hidden_width != config.width else 0
        return project + config.vocab_size * config.width
    c = config
    dense = c.width * c.width if c.head == "masked" or c.pooler else 0
    if c.head in ("causal", "masked"):
        return dense + c.output_size * c.width
    return dense + len(c.labels) * c.width


def forward_flops(config: Config, context: int, target_share: float = 1.0) -> float:
    """FLOPs of one token forward, in rows of `context` tokens; in an encoder-decoder, of one token of each side."""
    return 2 * matrices(config, target_share) + attention_flops(config, context)


def attention_flops(config: Config, context: int) -> float:
    """The part of `forward_flops` that no weight takes part in."""
    if isinstance(config, RecurrentConfig):
        return 0
    c = config
    columns = [context] * c.encoder_layers
    columns += [min(window, context) if window else context for window in c.windows]
    columns += [context] * (c.decoder_layers if c.encoder_layers else 0)  # what the decoder sees of its memory
    return 4 * c.n_heads * c.head_width * sum(columns)


def training_flops(config: Config, context: int, *, target_share: float = 1.0, rank: int = 0) -> float:
    """FLOPs of one token, forward and backward.

    Backward costs two products per matrix, one for its input's gradient and one for its own. With an adapter of `rank`
    only the first of the two for the frozen matrices, and both for the adapter's.
    """
    forward = forward_flops(config, context, target_share)
    if not rank:
        return 3 * forward
    frozen = 2 * matrices(config, target_share)
    return forward + frozen + 2 * attention_flops(config, context) + 6 * adapter_parameters(config, rank)
