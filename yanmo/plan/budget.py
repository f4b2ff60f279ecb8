"""How much memory a model needs, by kind, in training and in inference, per device.

In: a config, the shape of a micro-batch, the method of training. Out: Memory, in bytes.

    training_memory     the peak of a training step: the largest of its moments
    inference_memory    weights, cache, logits and one layer's work
    Memory              bytes by kind, and the moments

A step has three moments (training/loop.py, precision.py, optimizer.py), and not everything is alive in each:

    loss        weights, optimizer, everything that backward will need, logits; gradients of earlier micro-batches
    gradients   weights, optimizer, all gradients; the activations are gone
    update      the same, and what the optimizer works with

On several devices weights, gradients and optimizer are split evenly (FSDP, Zhao et al. 2023, arXiv 2304.11277, the same
as ZeRO stage 3, Rajbhandari et al. 2020, arXiv 1910.02054, §5), and the layers at work are gathered whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.plan.activations import BYTES, INDEX, Activations, Shape, activations, written_out
from yanmo.plan.count import PLAIN, adapted, adapter_parameters, layer_matrices, packed_bytes, parameters
from yanmo.plan.method import Config, Method

MASTER = 4  # bytes of a weight, a gradient and each state of the optimizer, in float32
GATHERED = 2  # layers that exist whole at once with FSDP: the one at work and the next
SAFETY = 0.95  # share of a device's memory that a plan may fill
# Interpreter and libraries as measured on Linux with torch 2.13; a GPU's context and workspaces are assumed.
FRAMEWORK = {"cpu": 0.33e9, "cuda": 1.0e9, "mps": 0.5e9}
# What the allocator holds beside what is alive: a share of what a step allocates. Those of a CPU, with training/heap.py
# were fitted to networks that are none of the benchmark's (benchmarks/plan_fit.py): adapters and Muon make many blocks
# for a moment. Blocks above glibc's largest threshold go back at once. A GPU's caching allocator is taken to hold 5 %.
HELD_FREE = {"cpu": 0.17, "cuda": 0.05, "mps": 0.05}
HELD_FREE_MUON, HELD_FREE_ADAPTED = 0.42, 0.64
# Where the number of rows of a product changes all the time, the library compiles and keeps code for each (a CPU; the
# targets of masked models, the cells of recurrent ones in low precision): bytes, fitted likewise.
COMPILED = {"masked": 60e6, "cells": 70e6}
BLOCK = 32 * 2**20
KINDS = (
    *("weights", "reference", "gradients", "optimizer", "average"),
    *("activations", "logits", "cache", "allocator", "framework"),
)


@dataclass(frozen=True)
class Memory:
    """Bytes per device: each kind at its own largest, all that is alive at each moment, and the largest of these."""

    kinds: dict[str, float]
    moments: dict[str, float]

    @property
    def total(self) -> float:
        """The peak."""
        return max(self.moments.values())

    @property
    def moment(self) -> str:
        """When the peak is."""
        return max(self.moments, key=lambda name: self.moments[name])

    def as_dict(self) -> dict[str, int]:
        """Whole bytes by kind, and the total, which is at most their sum."""
        return {**{kind: round(size) for kind, size in self.kinds.items()}, "total": round(self.total)}


def training_memory(
    config: Config, shape: Shape, method: Method = PLAIN, device: str = "cpu", *, accumulation: int = 1, shards: int = 1
) -> Memory:
    """The peak of a training step on one device of the kind "cpu", "cuda" or "mps".

    accumulation: micro-batches of a step. shards: devices that share weights, gradients and optimizer.
    """
    size, several = shape.size, accumulation > 1
    weights, trained = training_weights(config, method, size, shards)
    once = device == "cpu" and size < MASTER and not several and shards == 1 and method.optimizer == "adamw"
    gradients = (size * (trained - _in_place(config, shape, method)) if once else MASTER * trained) / shards
    states = MASTER * optimizer_states(config, method, trained) / shards
    average = MASTER * trained / shards * method.ema
    reference = 0.0 if method.reference is None else MASTER * parameters(method.reference) / shards
    work = activations(config, replace(shape, device=device), method)
    batches = 3 * shape.tokens * INDEX * (accumulation - 1)
    earlier = gradients if several else 0.0
    again = tied_twice(config, method) * size / shards  # what the embedding and the tied output send to one gradient
    fresh = size * trained / shards if size < MASTER and not once else 0.0
    if size == MASTER and several:
        fresh = MASTER * largest_matrix(config, method) / shards  # added to the sum one by one
    used = work.kept + max(work.loss, work.layer) + earlier
    free = _held_free(device, used, shape.tokens * config.width * size, method)
    framework = _framework(config, size, method, device)
    base = weights + states + average + reference + framework + batches + free
    moments = {
        "loss": base + earlier + work.kept + max(work.loss, work.layer),
        "gradients": base + gradients + max(fresh, again) + _embedded(work, config),
        "update": base + gradients + update_work(config, method, shape) / shards,
    }
    kinds = {
        "weights": weights,
        "reference": reference,
        "gradients": gradients + max(fresh, again),
        "optimizer": states,
        "average": average,
        "activations": work.kept + work.layer,
        "logits": work.loss,
        "cache": 0.0,
        "allocator": free,
        "framework": framework,
    }
    return Memory(kinds, moments)


def training_weights(config: Config, method: Method, size: int, shards: int) -> tuple[float, int]:
    """(bytes of the weights in training, weights that learn) for values of `size` bytes in a step.

    In low precision the step computes with copies, cast once; with FSDP only of the layers at work.
    """
    n, adapter = parameters(config), method.adapter
    trained = n if adapter is None else adapter_parameters(config, adapter)
    floating = n + (trained if adapter else 0)
    packed = 0.0
    if adapter and adapter.bits:
        packed = packed_bytes(config, adapter.bits)
        floating -= sum(i * o for i, o in layer_matrices(config))
    copies = 0.0
    if size < MASTER:
        copies = size * (floating if shards == 1 else min(floating, GATHERED * largest_layer(config)))
    elif shards > 1:
        copies = MASTER * min(floating, GATHERED * largest_layer(config))
    return (MASTER * floating + packed) / shards + copies, trained


def _held_free(device: str, used: float, block: float, method: Method = PLAIN) -> float:
    """Bytes that the allocator holds free, of `used` bytes in blocks of about `block`."""
    share = HELD_FREE[device]
    if device == "cpu" and method.adapter:
        share = HELD_FREE_ADAPTED
    elif device == "cpu" and method.optimizer == "muon":
        share = HELD_FREE_MUON
    return 0.0 if device == "cpu" and block > BLOCK else share * used


def _framework(config: Config, size: int, method: Method, device: str) -> float:
    """Interpreter, libraries, and the code that they compile."""
    total = FRAMEWORK[device]
    if device == "cpu" and config.head == "masked" and not method.adapter:
        total += COMPILED["masked"]
    if device == "cpu" and isinstance(config, RecurrentConfig) and method.packed and size < MASTER:
        total += COMPILED["cells"]
    return total


def _in_place(config: Config, shape: Shape, method: Method) -> int:
    """Weights whose gradients take the place of their copies in low precision, in a step of one backward (fast.py)."""
    if not isinstance(config, TransformerConfig) or method.adapter or shape.recompute:
        return 0
    return 0 if written_out(config, replace(shape, device="cpu"), method, shape.context) else _hidden(config)


def _embedded(work: Activations, config: Config) -> float:
    """What is left of the activations when the last gradients are made: those of the first layer."""
    layers = config.layers if isinstance(config, RecurrentConfig) else config.encoder_layers + config.decoder_layers
    return work.kept / layers


def optimizer_states(config: Config, method: Method, trained: int) -> int:
    """Numbers that the optimizer keeps: two per weight in AdamW, one per hidden matrix in Muon."""
    if method.optimizer == "adamw":
        return 2 * trained
    return 2 * trained - min(trained, _hidden(config))


def _hidden(config: Config) -> int:
    """Weights of the matrices that Muon updates (training/optimizer.py)."""
    return sum(i * o for i, o in layer_matrices(config))


def update_work(config: Config, method: Method, shape: Shape) -> float:
    """Bytes that Muon works with: for the largest group of equal matrices five copies, two of them in the precision."""
    if method.optimizer == "adamw" or method.adapter:
        return 0.0
    groups: dict[tuple[int, int], int] = {}
    for pair in layer_matrices(config):
        groups[pair] = groups.get(pair, 0) + pair[0] * pair[1]
    return max(groups.values()) * (3 * MASTER + 2 * shape.size)


def largest_layer(config: Config) -> int:
    """Weights of the largest unit that FSDP gathers: a layer, or the embedding."""
    layers = config.layers if isinstance(config, RecurrentConfig) else config.encoder_layers + config.decoder_layers
    return max(_hidden(config) // layers, config.vocab_size * config.width)


def largest_matrix(config: Config, method: Method = PLAIN) -> int:
    """Weights of the largest trained matrix."""
    if method.adapter:
        return max(method.adapter.rank * max(i, o) for _, i, o in adapted(config, method.adapter.targets))
    return max(config.vocab_size * config.width, *(i * o for i, o in layer_matrices(config)))


def tied_twice(config: Config, method: Method = PLAIN) -> int:
    """Weights of a tied embedding, whose two gradients exist at once before they are added."""
    tied = config.tie_embeddings and not method.adapter and config.head in ("causal", "masked")
    return config.vocab_size * config.width if tied else 0


def inference_memory(config: Config, rows: int, context: int, precision: str, device: str = "cpu") -> Memory:
    """Weights in `precision`, the keys and values of `rows` texts of `context` tokens, and one prompt's work."""
    size = BYTES[precision]
    weights = size * parameters(config)
    cache = cache_bytes(config, rows, context, precision)
    logits = rows * config.output_size * (size + MASTER)
    if isinstance(config, RecurrentConfig):
        work = rows * context * (config.width + 2 * config.hidden_width) * size
    else:
        inner = (3 if config.gated else 2) * config.ffn_width
        work = rows * context * (max(inner, 4 * config.n_heads * config.head_width) + 3 * config.width) * size
    free = _held_free(device, work + logits, rows * context * config.width * size)
    kinds = dict.fromkeys(KINDS, 0.0)
    kinds |= {"weights": weights, "activations": work, "logits": logits, "cache": cache}
    kinds |= {"allocator": free, "framework": FRAMEWORK[device]}
    return Memory(kinds, {"prompt": sum(kinds.values())})


def cache_bytes(config: Config, rows: int, context: int, precision: str) -> float:
    """Keys and values of every decoder layer, and of the memory where there is an encoder; or the recurrent state."""
    size = BYTES[precision]
    if isinstance(config, RecurrentConfig):
        return config.layers * rows * config.hidden_width * size * (2 if config.cell == "lstm" else 1)
    both = 2 if config.encoder_layers else 1
    return 2 * both * config.decoder_layers * rows * context * config.n_kv_heads * config.head_width * size
