"""How many parameters a config has, and how many FLOPs a token costs.

In: a config. Out: whole numbers, exact: `parameters` equals the sum of numel() over the network's parameters.

    parameters          all weights
    layer_matrices      the matrices of the layers, as (in, out)
    adapted             the matrices that an adapter stands beside; adapter_parameters: its weights
    passed              weights that a token is multiplied with, the output matrix included, tied or not
    forward_flops       2 FLOPs per weight of a matrix and token, and attention
    training_flops      forward, and twice as much backward; a frozen reference runs forward

    H query heads, K key heads, D head width, W width, F feed-forward width, T context, L layers

A multiplication and an addition are two FLOPs. A matrix costs 2 FLOPs per weight and token forward and 4 backward
(Kaplan et al. 2020, arXiv 2001.08361, §2.1; Hoffmann et al. 2022, arXiv 2203.15556, appendix F). Attention costs
4 T H D per layer and token forward, for QKᵀ and for its product with V, each over the whole context, the hidden half of
a causal mask counted: so training costs 6 N + 12 L H D T (Chowdhery et al. 2022, arXiv 2204.02311, appendix B). Norms,
activations and the look-up of embeddings are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from yanmo.errors import InputError
from yanmo.models.config import LABEL_HEADS, RecurrentConfig, TransformerConfig
from yanmo.models.names import DEFAULT_TARGETS, chosen
from yanmo.plan.method import Adapter, Config, Method

PLAIN = Method()
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
    total = c.vocab_size * c.width
    total += len(c.labels) * (c.width + 1) if c.labels else c.vocab_size + total * (not c.tie_embeddings)
    if c.state_width != c.width:
        total += c.state_width * c.width + c.width
    biases = 2 * GATES[c.cell] * c.state_width * c.layers
    return total + sum(i * o for i, o in _cells(c)) + biases


def _cells(c: RecurrentConfig) -> list[tuple[int, int]]:
    """(in, out) of the matrices of every layer: from the input, from the state."""
    gates = GATES[c.cell] * c.hidden_width
    inputs = [c.width] + [c.state_width] * (c.layers - 1)
    return [pair for width in inputs for pair in ((width, gates), (c.hidden_width, gates)) for _ in range(c.directions)]


def layer_matrices(config: Config) -> list[tuple[int, int]]:
    """(in, out) of every matrix between hidden vectors: those of attention, feed-forward and cells."""
    if isinstance(config, RecurrentConfig):
        return _cells(config)
    c = config
    attention = [(i, o) for i, o, _ in _attention_matrices(c)]
    layer = attention + _feed_forward_matrices(c)
    crossed = attention if c.encoder_layers else []
    return layer * (c.encoder_layers + c.decoder_layers) + crossed * c.decoder_layers


def named_matrices(config: Config) -> list[tuple[str, int, int]]:
    """(name, in, out) of every matrix that may have an adapter, by the names of the network's modules."""
    if isinstance(config, RecurrentConfig):
        raise InputError("a recurrent model takes no adapter; plan it without one")
    c = config
    attention = [(name, i, o) for name, (i, o, _) in zip(("query", "key", "value", "out"), _attention_matrices(c))]
    names = ("gate", "up", "down") if c.gated else ("up", "down")
    parts = [("attention", attention), ("ffn", [(n, i, o) for n, (i, o) in zip(names, _feed_forward_matrices(c))])]
    found = []
    for side, layers in (("encoder", c.encoder_layers), ("decoder", c.decoder_layers)):
        crossed = [("cross", attention)] if side == "decoder" and c.encoder_layers else []
        for layer in range(layers):
            path = f"{side}.layers.{layer}"
            found += [(f"{path}.{part}.{n}", i, o) for part, group in (*parts, *crossed) for n, i, o in group]
    if c.head == "masked" or c.pooler:
        found.append(("head.dense", c.width, c.width))
    if c.head in ("causal", "masked"):
        return [*found, ("head", c.width, c.output_size)]
    return [*found, ("head.out", c.width, len(c.labels))] if c.head in LABEL_HEADS else found


def adapted(config: Config, targets: Sequence[str] = ()) -> list[tuple[str, int, int]]:
    """(name, in, out) of the matrices that get an adapter.

    By default all of a decoder's layers, query and value of an encoder's and of an encoder-decoder's (models/names.py).
    A target that names nothing is an InputError.
    """
    known = named_matrices(config)
    names = chosen([name for name, _, _ in known], targets or DEFAULT_TARGETS[config.kind])
    return [matrix for matrix in known if matrix[0] in names]


def adapter_parameters(config: Config, adapter: Adapter) -> int:
    """Weights of a low-rank adapter (Hu et al. 2021, §4.1): rank × (in + out) each; a label head is trained whole.

    DoRA learns a length for each row too (Liu et al. 2024, §4.1).
    """
    head = _head(config) if config.head in LABEL_HEADS and isinstance(config, TransformerConfig) else 0
    matrices = adapted(config, adapter.targets)
    return sum(adapter.rank * (i + o) + o * adapter.lengths for _, i, o in matrices) + head


def packed_bytes(config: Config, bits: int) -> int:
    """Bytes of the layers' matrices: 8 bits, a scale for each row; or 4 bits, one for 32 columns (quantized.py)."""
    if bits == 8:
        return sum(i * o + 4 * o for i, o in layer_matrices(config))
    return sum(o * -(-i // 32) * (16 + 2) for i, o in layer_matrices(config))


def head_matrices(config: Config) -> int:
    """Weights of the matrices between the last hidden vector and the logits."""
    if isinstance(config, RecurrentConfig):
        project = config.state_width * config.width if config.state_width != config.width else 0
        return project + (len(config.labels) or config.vocab_size) * config.width
    c = config
    dense = c.width * c.width if c.head == "masked" or c.pooler else 0
    if c.head in ("causal", "masked"):
        return dense + c.output_size * c.width
    return dense + len(c.labels) * c.width


def passed(config: Config, method: Method = PLAIN) -> float:
    """Weights of the matrices that a column of the context passes; the head counts where there is a target.

    In an encoder-decoder those of both sides, each for its share of columns.
    """
    return _layers_passed(config, method) + _predicted(config, method) * head_matrices(config)


def _layers_passed(config: Config, method: Method) -> float:
    if isinstance(config, RecurrentConfig) or config.kind != "encoder-decoder":
        return float(sum(i * o for i, o in layer_matrices(config)))
    c = config
    attention = [i * o for i, o, _ in _attention_matrices(c)]
    layer = sum(attention) + sum(i * o for i, o in _feed_forward_matrices(c))
    query, key, value, out = attention
    read = c.encoder_layers * layer + c.decoder_layers * (key + value)  # the memory's keys and values
    return method.source * read + method.target * c.decoder_layers * (layer + query + out)


def _predicted(config: Config, method: Method) -> float:
    """Targets for a column of the context."""
    return method.targets * (method.target if config.kind == "encoder-decoder" else 1.0)


def forward_flops(config: Config, context: int, method: Method = PLAIN) -> float:
    """FLOPs forward for one column of rows of `context` tokens."""
    return 2 * passed(config, method) + attention_flops(config, context, method)


def attention_flops(config: Config, context: int, method: Method = PLAIN) -> float:
    """The part of `forward_flops` that no weight takes part in."""
    if isinstance(config, RecurrentConfig):
        return 0.0
    c = config
    if c.kind == "encoder-decoder":
        read, written = method.source * context, method.target * context
        columns = c.encoder_layers * method.source * read
        columns += sum(method.target * (min(w, written) if w else written) for w in c.windows)
        columns += c.decoder_layers * method.target * read  # what the decoder sees of its memory
    else:
        columns = float(context * c.encoder_layers)
        columns += sum(min(window, context) if window else context for window in c.windows)
    return 4 * c.n_heads * c.head_width * columns


def training_flops(config: Config, context: int, method: Method = PLAIN) -> float:
    """FLOPs of one column, forward and backward, and forward through a frozen reference.

    Backward costs two products per matrix, one for its input's gradient and one for its own. With an adapter only the
    first of the two for the frozen matrices, and both for the adapter's.
    """
    forward = forward_flops(config, context, method)
    extra = forward if method.twice else 0.0
    if method.reference is not None:
        extra = forward_flops(method.reference, context, method)
    if method.adapter is None:
        return 3 * forward + extra
    frozen = 2 * passed(config, method)
    low = 6 * adapter_parameters(config, method.adapter)
    return forward + frozen + 2 * attention_flops(config, context, method) + low + extra
