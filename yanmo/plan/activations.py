"""What one micro-batch keeps between forward and backward, and what the loss needs for a while, in bytes.

In: a config, the shape of a micro-batch. Out: Activations. Every term is a tensor that autograd saves in this package's
own layers; a test counts the saved tensors of real networks and finds the same.

    activations     all of it
    _norm, _attention, _feed_forward     one layer's parts
    _head           the loss, in chunks (training/objectives.py)

    n tokens, B rows, T columns, W width, H, K heads, D head width, F feed-forward width, V vocabulary, e bytes a value

Attention of up to MAX_KEPT columns on a CPU keeps query, key, value and weights (models/fast.py); a layer of the Llama
kind is one step of autograd there (models/fastlayer.py). What torch itself keeps: fused attention query, key, value,
output and one float32 per query, and a mask as numbers of the query's type; attention with dropout or with a bias that
learns goes without the fused kernel, in float32, and keeps its weights; dropout keeps its mask as numbers. GPUs keep
less in some of these.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.plan.count import GATES, PLAIN, adapted, head_matrices, layer_matrices
from yanmo.plan.method import Adapter, Config, Method

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MAX_KEPT = 512  # columns up to which a CPU keeps the weights of attention (models/attention.py)
BLOCK = 128  # queries of causal attention that are computed at once there (models/fast.py)
FILLED = 4  # cells for each token of an LSTM that reads both ways, at most (models/recurrent.py)
CHUNK = 1 << 23  # logits that exist at once (training/objectives.py)
INDEX = 8  # bytes of a token number
TAUGHT = 24  # bytes of a logit more where a teacher has one too, as measured


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A micro-batch on one device. context: columns of the side that predicts; source: of the other, if any."""

    rows: int
    context: int
    precision: str = "float32"
    source: int = 0  # 0: as many as context
    recompute: bool = False
    device: str = "cpu"

    @property
    def source_columns(self) -> int:
        """Columns of the encoder's side."""
        return self.source or self.context

    @property
    def tokens(self) -> int:
        """Tokens of one side."""
        return self.rows * self.context

    @property
    def size(self) -> int:
        """Bytes of a value."""
        return BYTES[self.precision]


@dataclass(frozen=True)
class Activations:
    """Bytes. kept: by the layers, from forward to backward. loss: on top, in the head. layer: on top, in a layer."""

    kept: float
    loss: float
    layer: float


@dataclass(frozen=True)
class _Kept:
    """Which matrices of a layer keep what they read: for their own gradient, or for their adapter's.

    low: numbers between an adapter's two matrices, for a column, by part. long: of DoRA, what the matrices write.
    """

    stream: bool = True  # query, key or value
    output: bool = True
    up: bool = True
    down: bool = True
    low: dict[str, int] = field(default_factory=dict)
    long: dict[str, int] = field(default_factory=dict)

    def low_rank(self, part: str, columns: int, others: int = 0) -> int:
        """Numbers of the adapters of a part: of its own columns, and of those of the memory that key and value read."""
        numbers = 0
        for name, width in (*self.low.items(), *self.long.items()):
            if name.startswith(part):
                numbers += width * (others if others and name.split(".")[1] in ("key", "value") else columns)
        return numbers


def _kept(config: TransformerConfig, adapter: Adapter | None) -> _Kept:
    """The layers that have adapters are taken to be all; the names are those of count.named_matrices."""
    if adapter is None:
        return _Kept()
    low: dict[str, int] = {}
    long: dict[str, int] = {}
    for name, _, out in adapted(config, adapter.targets):
        part = ".".join(name.split(".")[-2:])
        low[part] = adapter.rank
        if adapter.lengths:
            long[part] = 2 * out
    return _Kept(
        stream=bool({"attention.query", "attention.key", "attention.value"} & low.keys()),
        output="attention.out" in low,
        up=bool({"ffn.gate", "ffn.up"} & low.keys()),
        down="ffn.down" in low,
        low=low,
        long=long,
    )


def activations(config: Config, shape: Shape, method: Method = PLAIN) -> Activations:
    """What a micro-batch needs besides weights, gradients and optimizer."""
    loss = _head(config, shape, method)
    batch = 3 * shape.tokens * INDEX  # ids, targets, mask
    if isinstance(config, RecurrentConfig):
        kept, layer = _recurrent(config, shape, method.packed)
        return Activations(kept + batch, loss, layer)
    sides = []
    if config.encoder_layers:
        sides.append((config.encoder_layers, shape.source_columns if config.decoder_layers else shape.context, False))
    if config.decoder_layers:
        sides.append((config.decoder_layers, shape.context, True))
    kept = float(batch)
    layer = 0.0
    reads = _kept(config, method.adapter)
    for layers, columns, is_decoder in sides:
        one = _layer(config, shape, method, reads, columns)
        stored = layers * one[is_decoder]
        if shape.recompute:
            stored = layers * shape.rows * columns * config.width * shape.size  # the input of each layer
            stored += _shared(config, shape, columns, method.packed, is_decoder)
            layer = max(layer, one[is_decoder])
        kept += (
            stored
            + _embedding(config, shape, columns, packed=method.packed)
            + config.norm_final * _norm(config, shape, columns)
        )
        layer = max(layer, shape.recompute * one[is_decoder] + _workspace(config, shape, columns))
        if method.adapter:  # before the first adapter nothing is kept
            kept -= _norm(config, shape, columns) * ((config.norm_order == "pre") + config.norm_embedding)
        if is_decoder and config.encoder_layers:
            kept += shape.rows * shape.source_columns * config.width * shape.size  # the memory
    if method.adapter and method.adapter.bits:
        layer += max(i * o for i, o in layer_matrices(config)) * (2 * shape.size + 2)  # one matrix, unpacked
    return Activations(kept, loss, layer)


def _layer(c: TransformerConfig, s: Shape, method: Method, reads: _Kept, columns: int) -> tuple[float, float]:
    """What a layer of `columns` keeps, of an encoder and of a decoder."""
    n = s.rows * columns
    if written_out(c, s, method, columns):
        vectors = 2 * (c.width + 1) + 4 * c.ffn_width + 4 * c.n_heads * c.head_width
        vectors += c.norm_query_key * (c.n_heads + c.n_kv_heads) * (c.head_width + 1)
        return 0.0, (n * vectors + s.rows * c.n_heads * _scores(columns, columns, causal=True)) * s.size
    total = 2 * _norm(c, s, columns) + (reads.stream + reads.up) * n * c.width * s.size  # what the two parts read
    total += 2 * n * c.width * s.size * bool(c.dropout)
    total += _feed_forward(c, s, n, reads)
    encoder = total + _attention(c, s, method, reads, (columns, columns))
    decoder = total + _attention(c, s, method, reads, (columns, columns), causal=True)
    if c.encoder_layers and c.decoder_layers:
        decoder += _norm(c, s, columns) + n * c.width * s.size * (reads.stream + bool(c.dropout))
        decoder += _attention(c, s, method, reads, (columns, s.source_columns), cross=True)
    return encoder, decoder


def written_out(c: TransformerConfig, s: Shape, method: Method, columns: int) -> bool:
    """Whether a decoder's layers are single steps of autograd (models/fastlayer.py)."""
    llama = c.position == "rotary" and c.norm == "rms" and c.norm_order == "pre" and c.gated and c.activation == "silu"
    plain = not (c.bias_qkv or c.bias_out or c.bias_ffn or c.dropout or c.attention_dropout or c.activation_dropout)
    here = s.device == "cpu" and columns <= MAX_KEPT and not method.adapter
    return llama and plain and here and c.kind == "decoder"


def _shared(c: TransformerConfig, s: Shape, columns: int, packed: bool, is_decoder: bool) -> float:
    """What all layers read beside their input, kept once where they are computed again: masks, and a bias."""
    pairs = s.rows * columns * columns
    windows = {window for window in c.windows if 0 < window < columns} if is_decoder else set()
    whole = len(windows) < len(set(c.windows)) if is_decoder else True
    total = float((len(windows) + whole) * pairs if packed else len(windows) * columns * columns)
    if c.position == "relative":
        total += pairs * c.n_heads * 4 + (pairs if is_decoder and not packed else 0)  # causality is written out
    if is_decoder and c.encoder_layers:
        total += s.rows * columns * s.source_columns
    return total


def _norm(c: TransformerConfig, s: Shape, columns: int, width: int = 0, vectors: int = 0) -> float:
    """One norm over `vectors` vectors of `width`."""
    width, vectors = width or c.width, vectors or s.rows * columns
    return vectors * (width + (2 if c.norm == "layer" else 1)) * s.size  # the input, or what was normalised; scales


def _attention(
    c: TransformerConfig,
    s: Shape,
    method: Method,
    reads: _Kept,
    sizes: tuple[int, int],
    *,
    causal: bool = False,
    cross: bool = False,
) -> float:
    """One attention; sizes: columns of its queries and of its keys."""
    columns, keys = sizes
    n, m = s.rows * columns, s.rows * keys
    queries, e = c.n_heads * c.head_width, s.size
    biased = c.position == "relative" and not cross and not method.adapter
    total = float(reads.low_rank("cross" if cross else "attention", n, m) * e)
    if c.norm_query_key and not cross:
        total += _norm(c, s, columns, c.head_width, n * c.n_heads) + _norm(c, s, keys, c.head_width, m * c.n_kv_heads)
    if s.device == "cpu" and not biased and max(columns, keys) <= MAX_KEPT:
        weights = s.rows * c.n_heads * _scores(columns, keys, causal and c.position != "relative") * e
        total += weights * (2 if c.attention_dropout else 1)  # and which of them are dropped
        return total + (n + 2 * m + n * reads.output) * queries * e
    if biased or c.attention_dropout:  # scaled query and key, value; what the output matrix reads
        total += (n + 2 * m) * queries * 4 + n * queries * e
        weights = s.rows * c.n_heads * columns * keys * 4
        total += weights * (3 if c.attention_dropout else 1)
        if biased and method.packed:
            total += s.rows * columns * keys  # which scores are hidden
        return total
    total += (2 * n + 2 * m) * queries * e + n * c.n_heads * 4
    if c.norm_query_key and c.norm == "layer" and not cross:
        total += n * queries * e * reads.output  # the output, in the order that its matrix reads
    windowed = causal and any(0 < window < columns for window in c.windows)
    if method.adapter and c.position == "relative" and not cross:  # the bias learns nothing: a mask of every head
        total += s.rows * c.n_heads * columns * keys * e
    elif method.packed or cross:  # the memory's mask is always given
        total += s.rows * columns * keys * e
    elif windowed:
        total += columns * keys * e
    return total


def _scores(columns: int, keys: int, causal: bool) -> int:
    """Weights of one head: of causal attention in blocks of queries, those up to the last of each."""
    if not causal:
        return columns * keys
    ends = [*range(BLOCK, columns, BLOCK), columns]
    return sum((end - begin) * end for begin, end in zip([0, *ends], ends))


def _feed_forward(c: TransformerConfig, s: Shape, n: int, reads: _Kept) -> float:
    inner = n * c.ffn_width * s.size
    saved_before = 0 if c.activation in ("relu", "tanh") else 1  # these two save what they return
    copies = 1 + saved_before + (2 if c.gated else 0)
    if c.activation == "relu_squared":
        copies = 2 + (2 if c.gated else 0)
    joined = s.device == "cpu" and s.precision == "bfloat16" and not reads.low
    if joined and c.gated and c.activation in ("relu", "relu_squared", "tanh"):
        copies += 1  # gate and up are one product there, so that what stands before the activation stays too
    low = reads.low_rank("ffn", n) * s.size
    unread = not reads.down and (c.gated or saved_before)
    return (copies - unread + bool(c.activation_dropout)) * inner + low


def _embedding(c: TransformerConfig, s: Shape, columns: int, *, packed: bool) -> float:
    n = s.rows * columns
    total = 0.0
    if c.position == "rotary":
        total += 2 * (n if packed else columns) * c.head_width * s.size
    elif c.position == "learned":
        total += n * INDEX
    elif c.position == "relative":
        total += s.rows * columns * columns * INDEX  # the bucket of each distance
    if c.norm_embedding:
        total += _norm(c, s, columns)
    return total + n * c.width * s.size * bool(c.embedding_dropout)


def _workspace(c: TransformerConfig, s: Shape, columns: int) -> float:
    """Gradients that a layer's backward holds at once: of its inner vectors and of the stream."""
    n = s.rows * columns
    inner = (3 if c.gated else 2) * c.ffn_width
    attended = 5 * c.n_heads * c.head_width
    return n * (max(inner, attended) + 2 * c.width) * s.size


def _recurrent(c: RecurrentConfig, s: Shape, packed: bool) -> tuple[float, float]:
    """What the cells keep, and their gradients in a layer.

    In rows of several documents torch runs step by step and keeps gates and states. A batch of whole rows runs an LSTM
    in oneDNN, whose workspace is 2.5 times as large as what is ever written to it; what is written counts here.
    """
    n, r, e = s.tokens, c.state_width, s.size
    per_state = {"rnn": 1.1, "gru": 7.1, "lstm": 7.1}[c.cell]
    inputs = c.width + (c.layers - 1) * r
    if c.cell == "lstm" and not packed:
        per_state = 6.5
        inputs = c.width + (c.layers - 1) * r * bool(c.dropout)  # else a layer reads what the one before has saved
    elif c.cell == "lstm" and c.directions == 2:
        per_state = 6.5 * FILLED  # documents are filled up to the longest, where that is not more
    kept = n * (inputs + c.layers * per_state * r) * e
    kept += n * c.width * e * bool(c.dropout) + n * r * e * bool(c.dropout) * c.layers
    if c.state_width != c.width:
        kept += n * r * e
    return kept, n * (2 * r + GATES[c.cell] * r) * e


def _head(config: Config, s: Shape, method: Method) -> float:
    """Hidden, logits, log-probabilities in float32, and their matrix's gradient where it is summed over chunks."""
    targets = max(1, round(s.tokens * method.targets))
    classes = config.output_size
    hidden = targets * config.width * s.size * (4 if config.head == "masked" else 1)  # dense layer, activation, norm
    # bfloat16 is copied first; a teacher has logits too, and both are softened, logarithms taken, compared
    each = (8 if s.size == 4 else 8 + s.size) + TAUGHT * method.taught
    logits = min(targets, max(1, CHUNK // classes)) * classes * each
    if method.taught and method.reference is not None:
        hidden += targets * method.reference.width * 4
    if targets <= max(1, CHUNK // classes):
        return hidden + logits
    sums = 0 if method.adapter else 2 * head_matrices(config) * 4  # of all chunks, and of the present one
    return 2 * hidden + logits + sums
