"""What a model is: flat, frozen definitions. A public checkpoint family is a point in `TransformerConfig`.

In: numbers from a foreign config.json (families/) or a recipe. Out: a checked, immutable object; no torch here, so that
plans and command lines can read it in milliseconds.

A field is here because two supported public checkpoints differ in it, and it never carries a model's name.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from yanmo.errors import ConfigError

Position = Literal["none", "learned", "sinusoidal", "rotary", "relative"]
Head = Literal["none", "causal", "masked", "sequence", "token", "span"]
Activation = Literal["gelu", "gelu_tanh", "relu", "relu_squared", "silu", "tanh"]
LABEL_HEADS = ("sequence", "token", "span")


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched past the trained length.

    kind: linear (Chen et al. 2023), dynamic (NTK by length), yarn (Peng et al. 2023), llama3 (Llama 3.1, §3.4).
    """

    kind: Literal["linear", "dynamic", "yarn", "llama3"]
    factor: float
    original_positions: int = 0  # yarn, llama3: the trained length
    low_frequency: float = 1.0  # llama3
    high_frequency: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn; None: 0.1 ln(factor) + 1
    mscale: float = 0.0  # yarn, with mscale_all: a ratio of two such terms
    mscale_all: float = 0.0
    truncate: bool = True  # yarn: round the borders of the ramp to whole dimensions

    def __post_init__(self) -> None:
        _check(self.factor >= 1 and math.isfinite(self.factor), "rope scaling factor", self.factor, "1 or more")
        if self.kind in ("yarn", "llama3"):
            _check(
                self.original_positions > 0, "the rope scaling's trained length", self.original_positions, "1 or more"
            )
        if self.kind == "llama3":
            _check(
                0 < self.low_frequency < self.high_frequency,
                "the rope scaling's low frequency factor",
                self.low_frequency,
                f"between 0 and the high one, {self.high_frequency}",
            )


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A decoder (encoder_layers 0), an encoder (decoder_layers 0) or an encoder-decoder (Vaswani et al. 2017)."""

    # size
    vocab_size: int
    width: int
    n_heads: int
    ffn_width: int
    encoder_layers: int = 0
    decoder_layers: int = 0
    n_kv_heads: int = 0  # 0: as many as n_heads
    head_width: int = 0  # 0: width / n_heads
    decoder_vocab_size: int = 0  # 0: one vocabulary for both sides
    max_positions: int = 1024
    # positions
    position: Position = "learned"
    position_offset: int = 0  # rows of the table before the one of position 0
    rope_theta: float = 10000.0  # the base of the frequencies of rotary positions, and of sinusoids
    rope_scaling: RopeScaling | None = None
    relative_buckets: int = 32
    relative_max_distance: int = 128
    windows: tuple[int, ...] = ()  # a token sees the last N tokens, itself included, in each decoder layer; 0: all
    # norm
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-5
    norm_order: Literal["pre", "post"] = "pre"
    norm_embedding: bool = False
    norm_final: bool = True
    norm_query_key: bool = False
    # feed-forward
    activation: Activation = "gelu"
    gated: bool = False
    # bias
    bias_qkv: bool = True
    bias_out: bool = True
    bias_ffn: bool = True
    # scales and ties
    attention_scale: float | None = None  # None: 1 / sqrt(head_width)
    attention_scale_by_layer: bool = False  # divide by the number of the layer, from 1
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_bias: bool = False
    tie_embeddings: bool = True
    n_token_types: int = 0
    # ids
    pad_id: int | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    decoder_start_id: int | None = None
    # dropout, in training alone
    dropout: float = 0.0
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    # head
    head: Head = "causal"
    labels: tuple[str, ...] = ()
    problem: Literal["", "regression", "single_label", "multi_label"] = ""
    pool: Literal["first", "last", "eos"] = "first"  # which token stands for a sequence
    pooler: bool = False  # a dense layer and tanh on that token
    pooler_dropout: float = 0.0  # of what that layer reads: BERT has none, RoBERTa, BART and T5 the classifier's
    classifier_dropout: float = 0.0

    def __post_init__(self) -> None:
        derive = object.__setattr__
        if not self.n_kv_heads:
            derive(self, "n_kv_heads", self.n_heads)
        if not self.head_width and self.n_heads > 0:
            _check(
                self.width % self.n_heads == 0,
                "width",
                self.width,
                f"a multiple of the number of heads, {self.n_heads}",
            )
            derive(self, "head_width", self.width // self.n_heads)
        _whole(self, encoder_layers=0, decoder_layers=0)
        for name in ("encoder_layers", "decoder_layers"):  # before anything is as long as they say
            _check(getattr(self, name) <= MAX_LAYERS, name, getattr(self, name), f"at most {MAX_LAYERS}")
        if not self.windows:
            derive(self, "windows", (0,) * self.decoder_layers)
        check_transformer(self)

    @property
    def kind(self) -> Literal["decoder", "encoder", "encoder-decoder"]:
        """Which of the three shapes of a Transformer this is."""
        if self.encoder_layers and self.decoder_layers:
            return "encoder-decoder"
        return "encoder" if self.encoder_layers else "decoder"

    @property
    def output_size(self) -> int:
        """The number of logits of a language model head."""
        return self.decoder_vocab_size or self.vocab_size

    def as_dict(self) -> dict[str, Any]:
        """All fields, derived ones included."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig:
    """A recurrent language model: tanh RNN (Elman 1990), LSTM (Hochreiter et al. 1997) or GRU (Cho et al. 2014).

    With a head of labels it may read in both directions (Graves and Schmidhuber 2005), and a sequence is the maximum
    over its tokens in each dimension (Conneau et al. 2017).
    """

    cell: Literal["rnn", "lstm", "gru"]
    vocab_size: int
    width: int  # of the embedding
    hidden_width: int = 0  # of the state; 0: as the embedding
    layers: int = 1
    tie_embeddings: bool = True  # output through the embedding (Press & Wolf 2017), projected where the widths differ
    dropout: float = 0.0
    pad_id: int | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    head: Literal["causal", "sequence", "token"] = "causal"
    labels: tuple[str, ...] = ()
    problem: Literal["", "regression", "single_label", "multi_label"] = ""
    bidirectional: bool = False  # hidden_width is that of each direction

    kind = "decoder"
    n_token_types = 0
    max_positions = 2**31  # the state has no end

    def __post_init__(self) -> None:
        if not self.hidden_width:
            object.__setattr__(self, "hidden_width", self.width)
        _check(self.cell in ("rnn", "lstm", "gru"), "cell", self.cell, "rnn, lstm or gru")
        labelled = self.head in LABEL_HEADS
        _check(self.head in ("causal", "sequence", "token"), "head", self.head, "causal, sequence or token")
        _check(bool(self.labels) == labelled, "labels", list(self.labels)[:8], "those of a head of labels, 1 or more")
        _check(labelled or not self.bidirectional, "bidirectional", True, "false where words are predicted")
        _whole(self, vocab_size=1, width=1, hidden_width=1, layers=1)
        _dropouts(self)
        _ids(self)

    @property
    def directions(self) -> int:
        """2 where it reads both ways."""
        return 2 if self.bidirectional else 1

    @property
    def state_width(self) -> int:
        """The width of what all directions give for a token."""
        return self.directions * self.hidden_width

    @property
    def output_size(self) -> int:
        """The number of logits."""
        return self.vocab_size

    def as_dict(self) -> dict[str, Any]:
        """All fields, derived ones included."""
        return dataclasses.asdict(self)


MAX_SIZE = 2**31  # no size of a public model comes near; a larger one is a lie or an attack
MAX_LAYERS = 4096


def check_transformer(config: TransformerConfig) -> None:
    """Raise ConfigError for the first value outside its range or in contradiction with another."""
    c = config
    _whole(c, vocab_size=1, width=1, n_heads=1, n_kv_heads=1, head_width=1, ffn_width=1, max_positions=1)
    _whole(c, decoder_vocab_size=0, n_token_types=0, position_offset=0)
    _check(c.encoder_layers + c.decoder_layers > 0, "the number of layers", 0, "1 or more")
    _check(c.n_heads % c.n_kv_heads == 0, "n_kv_heads", c.n_kv_heads, f"a divisor of n_heads, {c.n_heads}")
    _check(
        c.position in ("none", "learned", "sinusoidal", "rotary", "relative"), "position", c.position, "a known kind"
    )
    if c.position == "rotary":
        _check(c.head_width % 2 == 0, "head_width", c.head_width, "even for rotary positions")
        _check(c.rope_theta > 0 and math.isfinite(c.rope_theta), "rope_theta", c.rope_theta, "above 0")
    if c.position == "relative":
        _check(c.relative_buckets >= 4, "relative_buckets", c.relative_buckets, "4 or more")
        exact = c.relative_buckets // 2
        _check(c.relative_max_distance > exact, "relative_max_distance", c.relative_max_distance, f"above {exact}")
    _check(
        len(c.windows) == c.decoder_layers and all(isinstance(w, int) and w >= 0 for w in c.windows),
        "windows",
        list(c.windows)[:8],
        f"one number of tokens for each of the {c.decoder_layers} decoder layers",
    )
    _check(0 < c.norm_eps < 1, "norm_eps", c.norm_eps, "between 0 and 1")
    for name in ("embedding_scale", "logit_scale", "attention_scale"):
        value = getattr(c, name)
        _check(value is None or (math.isfinite(value) and value > 0), name, value, "above 0")
    if c.head in LABEL_HEADS:
        _check(len(c.labels) > 0, "the number of labels", 0, f"1 or more for the head {c.head!r}")
    _dropouts(c)
    _ids(c)


def _check(holds: bool, name: str, value: object, limit: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value!r}, and must be {limit}")


def _whole(config: TransformerConfig | RecurrentConfig, **least: int) -> None:
    for name, low in least.items():
        value = getattr(config, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        _check(whole and low <= value <= MAX_SIZE, name, value, f"a whole number from {low} to {MAX_SIZE}")


def _dropouts(config: TransformerConfig | RecurrentConfig) -> None:
    for field in dataclasses.fields(config):
        if field.name.endswith("dropout"):
            value = getattr(config, field.name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            _check(number and 0 <= value < 1, field.name, value, "at least 0 and below 1")


def _ids(config: TransformerConfig | RecurrentConfig) -> None:
    named: list[tuple[str, int | None]] = [("pad_id", config.pad_id), ("bos_id", config.bos_id)]
    named += [("eos_ids", i) for i in config.eos_ids]
    if isinstance(config, TransformerConfig):
        named.append(("decoder_start_id", config.decoder_start_id))
    for name, value in named:
        whole = isinstance(value, int) and not isinstance(value, bool)
        _check(value is None or (whole and value >= 0), name, value, "a token number, 0 or more")
