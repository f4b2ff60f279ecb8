"""The time of a training step by arithmetic alone: how much of each kind of work, over how fast this machine does it.

In: a subject, a setting, Rates (yanmo/rates.py). Out: seconds.

    counted_seconds     one optimizer step: its micro-batches and the update
    parts               seconds of a micro-batch by kind, and of the update
    update_seconds      of the optimizer alone

The kinds: products of matrices, attention, everything that is done to each value (norms, activations, sums, copies),
logits, cells of recurrent networks that run column by column, and the update. Products and attention follow from the
config. The others are in proportion to bytes that the plan knows; these proportions were fitted, with one machine, to
eleven small networks that are none of the benchmark's (docs/log.md), so this is an estimate of about 20 %, and the plan
prefers to time the network.
"""

from __future__ import annotations

from dataclasses import replace

from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.plan import spreading
from yanmo.plan.activations import BYTES, MAX_KEPT, Shape, activations
from yanmo.plan.budget import MASTER
from yanmo.plan.count import (
    GATES,
    adapted,
    adapter_parameters,
    attention_flops,
    layer_matrices,
    parameters,
    training_flops,
)
from yanmo.plan.subject import Subject
from yanmo.plan.wishes import Setting
from yanmo.rates import Rates

PASSES = 14.3  # bytes read and written for each byte that is kept for backward
ADAPTED = 1.0  # for each byte that an adapted matrix reads and writes
BIASED = 87.0  # for each byte of scores in attention with a bias that learns
LOGIT = 67.0  # bytes for each logit: softmax, its gradient, copies
KEPT_ATTENTION = 0.53  # share of the rate of products that attention in small matrices reaches
UPDATED = {"adamw": 30.0, "muon": 36.0}  # bytes for each weight: norm, scale, moments, weight
LOWERED, AVERAGED = 12.0, 12.0
MUON_STEPS = 5
BATCHED = 0.9  # share of the rate of products that Muon's small batched ones reach
CELL_CALLS = 104.0  # operations of a column in a recurrent layer that runs step by step
CELL_PASSES = 4.8  # bytes for each byte of the layer's state matrix, whose gradient is added up column by column
LONGEST = 0.8  # of a row's columns: the longest of its documents, as far as this runs


def counted_seconds(subject: Subject, setting: Setting, rates: Rates) -> float:
    """Seconds of one optimizer step."""
    found = parts(subject, setting, rates)
    update = found.pop("update")
    return setting.accumulation * sum(found.values()) + update


def parts(subject: Subject, setting: Setting, rates: Rates) -> dict[str, float]:
    """Seconds by kind: of a micro-batch, and "update", once in a step."""
    config, method = subject.config, subject.method
    tokens, size = setting.rows * setting.context, BYTES[setting.precision]
    attention = tokens * _attention_flops(subject, setting)
    whole = tokens * training_flops(config, setting.context, method)
    low = 6 * tokens * adapter_parameters(config, method.adapter) if method.adapter else 0
    again = 4 / 3 if setting.recompute else 1.0
    shape = replace(spreading.shape_of(subject, setting), recompute=False)
    moved = PASSES * activations(config, shape, method).kept + BIASED * _biased(subject, shape)
    moved += ADAPTED * tokens * size * _adapted(subject)
    classes = tokens * method.targets * (method.target if config.kind == "encoder-decoder" else 1.0)
    rate = KEPT_ATTENTION * rates.product if setting.context <= MAX_KEPT else rates.attention_at(setting.context)
    found = {
        "products": (whole - attention - low) * again / rates.product,
        "attention": attention * again / rate,
        "values": moved * again / rates.stream,
        "logits": LOGIT * classes * config.output_size / rates.stream,
        "update": update_seconds(subject, setting, rates.stream, rates.product),
    }
    if isinstance(config, RecurrentConfig):
        found["cells"] = _cells(config, subject, setting, rates)
    return found


def _attention_flops(subject: Subject, setting: Setting) -> float:
    """Of training, for a column; a reference's are part of the products."""
    return 3.0 * attention_flops(subject.config, setting.context, subject.method)


def _adapted(subject: Subject) -> float:
    """Values that the adapted matrices read and write, for a column."""
    adapter = subject.method.adapter
    if adapter is None or not isinstance(subject.config, TransformerConfig):
        return 0.0
    return sum(i + o for _, i, o in adapted(subject.config, adapter.targets)) * (1.0 + adapter.lengths)


def _biased(subject: Subject, shape: Shape) -> float:
    """Bytes of the scores, in float32, of attention with a bias that learns, which goes step by step."""
    c = subject.config
    if not isinstance(c, TransformerConfig) or c.position != "relative" or subject.method.adapter:
        return 0.0
    source = shape.source_columns if c.decoder_layers else shape.context
    return 4.0 * shape.rows * c.n_heads * (c.encoder_layers * source**2 + c.decoder_layers * shape.context**2)


def _cells(config: RecurrentConfig, subject: Subject, setting: Setting, rates: Rates) -> float:
    """Rows of several documents run column by column; whole rows of an LSTM run in one fused operation."""
    if config.cell == "lstm" and not subject.method.packed:
        return 0.0
    columns = setting.context * (LONGEST if subject.method.packed else 1.0)
    state = GATES[config.cell] * config.hidden_width**2 * MASTER
    return (
        config.directions
        * config.layers
        * columns
        * (CELL_CALLS * rates.operation + CELL_PASSES * state / rates.stream)
    )


def update_seconds(subject: Subject, setting: Setting, bandwidth: float, product: float) -> float:
    """Seconds of the optimizer's update, at bytes per second and FLOP/s of matrix products."""
    config, method = subject.config, subject.method
    trained = parameters(config) if method.adapter is None else adapter_parameters(config, method.adapter)
    passes = UPDATED[method.optimizer] + LOWERED * (BYTES[setting.precision] < MASTER) + AVERAGED * method.ema
    shards = setting.parts if setting.sharded else 1
    seconds = passes * trained / shards / bandwidth
    if method.optimizer == "muon" and method.adapter is None:
        work = 0.0
        for pair in layer_matrices(config):
            few, many = sorted(pair)
            work += MUON_STEPS * (4 * few * few * many + 2 * few**3)  # Jordan 2024: Newton-Schulz on the smaller side
        seconds += work / shards / (BATCHED * product)
    return seconds
