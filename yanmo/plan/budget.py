"""How much memory a model needs, by kind, in training and in inference, per device.

In: a config, the shape of a micro-batch, how it is trained. Out: Memory, in bytes.

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

from dataclasses import dataclass

from yanmo.models.config import RecurrentConfig
from yanmo.plan.activations import BYTES, INDEX, Activations, Shape, activations
from yanmo.plan.count import Config, adapted, adapter_parameters, layer_matrices, parameters

MASTER = 4  # bytes of a weight, a gradient and each state of the optimizer, in float32
GATHERED = 2  # layers that exist whole at once with FSDP: the one at work and the next
SAFETY = 0.95  # share of a device's memory that a plan may fill
# Interpreter and libraries as measured on Linux with torch 2.13; a GPU's context and workspaces are assumed.
FRAMEWORK = {"cpu": 0.35e9, "cuda": 1.0e9, "mps": 0.5e9}
# What the allocator holds beside what is alive: a share of what a step allocates, and a constant. glibc's were fitted
# to 12 measured runs of 50 MB to 1 GB, the share with adapters, which make many blocks for a moment, to two more;
# blocks above its largest threshold go back at once. A GPU's caching allocator is assumed to hold 5 %.
HELD_FREE = {"cpu": (0.30, 30e6), "cuda": (0.05, 0.0), "mps": (0.05, 0.0)}
HELD_FREE_ADAPTED = 0.75
BLOCK = 32 * 2**20
KINDS = ("weights", "gradients", "optimizer", "activations", "logits", "cache", "allocator", "framework")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the loop treats a micro-batch: micro-batches per step, optimizer, devices that share the weights."""

    accumulation: int = 1
    optimizer: str = "adamw"
    shards: int = 1


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


def training_memory(config: Config, shape: Shape, training: Training, device: str = "cpu") -> Memory:
    """The peak of a training step on one device of the kind "cpu", "cuda" or "mps"."""
    n, size = parameters(config), shape.size
    trained = adapter_parameters(config, shape.rank) if shape.rank else n
    total = n + (trained if shape.rank else 0)
    low = size < MASTER
    shards = training.shards
    copies = 0.0
    if low:  # the weights of the step, cast once; with FSDP only of the layers at work
        copies = size * (total if shards == 1 else min(total, GATHERED * largest_layer(config)))
    elif shards > 1:
        copies = MASTER * min(total, GATHERED * largest_layer(config))
    weights = MASTER * total / shards + copies
    gradients = MASTER * trained / shards
    states = MASTER * optimizer_states(config, training.optimizer, trained) / shards
    work = activations(config, shape)
    batches = 3 * shape.tokens * INDEX * (training.accumulation - 1)
    earlier = gradients if training.accumulation > 1 else 0.0
    again = tied_twice(config, shape) * size / shards  # what the embedding and the tied output send to one gradient
    fresh = size * trained / shards if low or training.accumulation > 1 else 0.0
    if not low and training.accumulation > 1:
        fresh = MASTER * largest_matrix(config, shape.rank) / shards  # added to the sum one by one
    used = work.kept + max(work.loss, work.layer) + earlier
    free = _held_free(device, used, shape.tokens * config.width * size, shape.rank)
    base = weights + states + FRAMEWORK[device] + batches + free
    moments = {
        "loss": base + earlier + work.kept + max(work.loss, work.layer),
        "gradients": base + gradients + max(fresh, again) + _embedded(work, config),
        "update": base + gradients + update_work(config, training.optimizer, shape) / shards,
    }
    kinds = {
        "weights": weights,
        "gradients": gradients + max(fresh, again),
        "optimizer": states,
        "activations": work.kept + work.layer,
        "logits": work.loss,
        "cache": 0.0,
        "allocator": free,
        "framework": FRAMEWORK[device],
    }
    return Memory(kinds, moments)


def _held_free(device: str, used: float, block: float, rank: int = 0) -> float:
    """Bytes that the allocator holds free, of `used` bytes in blocks of about `block`."""
    share, constant = HELD_FREE[device]
    if device == "cpu" and rank:
        share = HELD_FREE_ADAPTED
    return constant if device == "cpu" and block > BLOCK else share * used + constant


def _embedded(work: Activations, config: Config) -> float:
    """What is left of the activations when the last gradients are made: those of the first layer."""
    layers = config.layers if isinstance(config, RecurrentConfig) else config.encoder_layers + config.decoder_layers
    return work.kept / layers


def optimizer_states(config: Config, optimizer: str, trained: int) -> int:
    """Numbers that the optimizer keeps: two per weight in AdamW, one per hidden matrix in Muon."""
    if optimizer == "adamw":
        return 2 * trained
    return 2 * trained - min(trained, _hidden(config))


def _hidden(config: Config) -> int:
    """Weights of the matrices that Muon updates (training/optimizer.py)."""
    return sum(i * o for i, o in layer_matrices(config))


def update_work(config: Config, optimizer: str, shape: Shape) -> float:
    """Bytes that Muon works with: for the largest group of equal matrices five copies, two of them in the precision."""
    if optimizer == "adamw" or shape.rank:
        return 0.0
    groups: dict[tuple[int, int], int] = {}
    for pair in layer_matrices(config):
        groups[pair] = groups.get(pair, 0) + pair[0] * pair[1]
    return max(groups.values()) * (3 * MASTER + 2 * shape.size)


def largest_layer(config: Config) -> int:
    """Weights of the largest unit that FSDP gathers: a layer, or the embedding."""
    layers = config.layers if isinstance(config, RecurrentConfig) else config.encoder_layers + config.decoder_layers
    return max(_hidden(config) // layers, config.vocab_size * config.width)


def largest_matrix(config: Config, rank: int = 0) -> int:
    """Weights of the largest trained matrix."""
    if rank:
        return max(rank * max(pair) for pair in adapted(config))
    return max(config.vocab_size * config.width, *(i * o for i, o in layer_matrices(config)))


def tied_twice(config: Config, shape: Shape) -> int:
    """Weights of a tied embedding, whose two gradients exist at once before they are added."""
    tied = config.tie_embeddings and not shape.rank and config.head in ("causal", "masked")
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
    parts = (weights, 0.0, 0.0, work, logits, cache, free, FRAMEWORK[device])
    return Memory(dict(zip(KINDS, parts)), {"prompt": sum(parts)})


def cache_bytes(config: Config, rows: int, context: int, precision: str) -> float:
    """Keys and values of every decoder layer, and of the memory where there is an encoder; or the recurrent state."""
    size = BYTES[precision]
    if isinstance(config, RecurrentConfig):
        return config.layers * rows * config.hidden_width * size * (2 if config.cell == "lstm" else 1)
    both = 2 if config.encoder_layers else 1
    return 2 * both * config.decoder_layers * rows * context * config.n_kv_heads * config.head_width * size
