"""Adapters: a network that keeps its weights and learns a few more (LoRA, rank-stabilised LoRA, DoRA, QLoRA).

    add_adapter       put a new adapter on chosen matrices; only it is trainable from then on
    set_adapter       which adapter works and learns; `selected` (lowrank.py) chooses one for a call or a row
    merge, unmerge    write the active adapter into the weights, and back: unmerge restores every bit, from a copy
    drop_adapter      take adapters away; the modules of the plain network stand in their places again
    quantize_base     keep the layers' matrices in 8 or 4 bits (Dettmers et al. 2023)

adapterfiles.py saves and loads them in PEFT's format; lowrank.py has the arithmetic.

Matrices are named as in the network: "query", "key", "value", "out", "gate", "up", "down" in every layer, or longer:
"attention.query", "cross.query", "cross.*", "decoder.layers.0.ffn.up"; "all" means all of the layers; "head" is the
matrix of the words or labels, "head.dense" the one before it.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
import warnings
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yanmo.errors import ConfigError, InputError, nearest
from yanmo.models.config import TransformerConfig
from yanmo.models.lowrank import Board, LowRank, Projection, Slot, Table, Whole, Words, board_of, own, slots
from yanmo.models.matrices import chosen_matrices, matrices, saved_modules, transformer, weights_of, word_matrix
from yanmo.models.names import DEFAULT_TARGETS
from yanmo.models.quantized import Packed, pack
from yanmo.models.transformer import Transformer

Kind = Literal["lora", "rslora", "dora", "rsdora"]
KINDS = ("lora", "rslora", "dora", "rsdora")
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
ROWS = 256  # of a product that is measured
PAYS = 1.1  # a product of quantised weights that takes this many times as long is worth a warning


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What an adapter is.

    kind: lora scales by α/r (Hu et al. 2021), rslora by α/√r (Kalajdzievski 2023), dora learns each row's length too
    (Liu et al. 2024), rsdora both. targets: the matrices; () takes all of a decoder's layers (Dettmers et al. 2023,
    §4) and query and value of the others (Hu et al. 2021, §7.1). dropout: on the adapter's input, in training.
    modules_to_save: modules of which the adapter has its own copy, trained in full: "head", "head.dense", "embedding",
    or a matrix; None takes a label head's own matrices and nothing of a language model.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ()
    dropout: float = 0.0
    kind: Kind = "lora"
    modules_to_save: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.targets, str) or isinstance(self.modules_to_save, str):
            raise ConfigError("targets and modules_to_save are lists of names; write a single one as a list too")
        if self.kind not in KINDS:
            raise ConfigError(
                f"kind is {self.kind!r}{nearest(str(self.kind), KINDS)}; choose one of {', '.join(KINDS)}"
            )
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ConfigError(f"rank is {self.rank!r}, and must be a whole number from 1 on")
        if not _is_number(self.alpha) or not 0 < self.alpha < math.inf:
            raise ConfigError(f"alpha is {self.alpha!r}, and must be a number above 0")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout!r}, and must be a number from 0 to below 1")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# --- adding, choosing, taking away


def add_adapter(network: nn.Module, config: AdapterConfig, name: str = "default", *, seed: int = 0) -> None:
    """Put an adapter on a network and make it the active one; of all parameters only its own are trainable after.

    It changes nothing before it is trained: b starts at 0, a uniform within ±1/√I, and copies as what they copy. They
    are float32 whatever the base is. The same seed gives the same bytes.
    """
    assert_free(network, name)
    network = transformer(network)
    wanted = chosen_matrices(network, config.targets or DEFAULT_TARGETS[network.config.kind])
    saved = saved_modules(network, config.modules_to_save)
    generator = torch.Generator().manual_seed(seed)
    entries: dict[str, LowRank | Whole] = {}
    for module in saved:
        weight, bias = weights_of(network, module)
        entries[module] = Whole(own(weight, weight.dtype), None if bias is None else own(bias, weight.dtype))
    for module in [m for m in wanted if m not in saved]:
        weight, _ = weights_of(network, module)
        entries[module] = fresh(weight, config, generator)
    install(network, config, name, entries)


def fresh(weight: Tensor, config: AdapterConfig, generator: torch.Generator) -> LowRank:
    """A new adapter of a matrix (O, I)."""
    rows, columns = weight.shape
    dtype = torch.promote_types(weight.dtype, torch.float32)
    bound = 1 / math.sqrt(columns)
    a = torch.empty(config.rank, columns).uniform_(-bound, bound, generator=generator)
    magnitude = None
    if config.kind.endswith("dora"):
        magnitude = nn.Parameter(torch.linalg.vector_norm(weight.detach().to(dtype), dim=1))
    b = nn.Parameter(torch.zeros(rows, config.rank, dtype=dtype, device=weight.device))
    return LowRank(
        nn.Parameter(a.to(weight.device, dtype)), b, config.alpha, magnitude, rooted=config.kind.startswith("rs")
    )


def assert_free(network: nn.Module, name: str) -> None:
    """Raise InputError where no adapter of this name can be added."""
    board = board_of(network)
    if not isinstance(name, str) or not NAME.fullmatch(name) or hasattr(nn.ModuleDict(), name):
        raise InputError(f"an adapter cannot have the name {name!r}; use at most 64 letters, digits, - and _")
    if board is not None and name in board.configs:
        raise InputError(f"there is an adapter {name!r} already; drop it or choose another name")
    if board is not None and board.merged is not None:
        raise InputError(f"the adapter {board.merged!r} is merged into the weights; unmerge it first")


def install(network: Transformer, config: AdapterConfig, name: str, entries: dict[str, LowRank | Whole]) -> None:
    """Put the parts of an adapter in their places, by the names of their modules, and make it the active one."""
    board = board_of(network)
    if board is None:
        board = network.adapter_board = Board()  # type: ignore[assignment]
    if not board.configs:
        board.thawed = tuple(n for n, p in network.named_parameters() if p.requires_grad)
        network.requires_grad_(False)
    board.configs[name] = config
    for module, entry in entries.items():
        if isinstance(entry, LowRank):
            entry.dropout = config.dropout
        slot(network, module, board).adapters[name] = entry.to(network.device).train(network.training)
    set_adapter(network, name)


def slot(network: Transformer, module: str, board: Board) -> Slot:
    """The place of adapters at a module; made where there is none."""
    if module == "head":
        if network.head.adapted is None:
            network.head.adapted = Words(board)
        return cast(Words, network.head.adapted)
    found = network.get_submodule(module)
    if isinstance(found, Slot):
        return found
    place: Slot = Table(found, board) if isinstance(found, nn.Embedding) else Projection(cast(nn.Linear, found), board)
    put(network, module, place.train(found.training))
    return place


def put(network: nn.Module, name: str, module: nn.Module) -> None:
    """Replace a submodule."""
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)


def set_adapter(network: nn.Module, name: str | None) -> None:
    """Make one adapter the active and trainable one; None: the base alone works, and nothing is trainable."""
    board = board_of(network)
    if board is None:
        if name is not None:
            raise InputError(f"there is no adapter {name!r}; this network has none")
        return
    board.check(name)
    if board.merged not in (None, name):
        raise InputError(f"the adapter {board.merged!r} is merged into the weights; unmerge it first")
    board.active = name
    for place in slots(network).values():
        for own_name, adapter in place.adapters.items():
            adapter.requires_grad_(own_name == name)


def drop_adapter(network: nn.Module, name: str | None = None) -> None:
    """Take an adapter away, or all; after the last one the plain modules stand in their places and train again.

    A merged adapter stays in the weights for good.
    """
    board = board_of(network)
    if board is None:
        return
    board.check(name)
    if board.merged is not None and name not in (None, board.merged):
        raise InputError(f"the adapter {board.merged!r} is merged into the weights; unmerge it first")
    gone = list(board.configs) if name is None else [name]
    merged = board.merged in gone
    for module, place in slots(network).items():
        for own_name in gone:
            place.adapters.pop(own_name) if own_name in place.adapters else None
        if merged:
            place.original = None
            if isinstance(place, Projection):
                place.original_bias = None
                place.packed = None if place.weight is not None else place.packed
        if not place.adapters and getattr(place, "packed", None) is None:
            _plain(network, module, place)
    for own_name in gone:
        del board.configs[own_name]
    if merged:
        if board.untied is not None:  # the words have a matrix of their own now
            board.thawed += ("head.weight",) if "embedding.weight" in board.thawed else ()
        board.merged = board.untied = None
    if board.active in gone:
        board.active = None
    if not board.configs:
        names = dict(network.named_parameters())
        for own_name in board.thawed:
            if own_name in names:  # a packed matrix is no parameter any more
                names[own_name].requires_grad_()
        if not slots(network):
            del network.adapter_board


def _plain(network: nn.Module, module: str, place: Slot) -> None:
    if isinstance(place, Words):
        del network.head.adapted  # type: ignore[union-attr]
        network.head.adapted = None  # type: ignore[union-attr]  # no module, as in a fresh head
    else:
        put(network, module, place.plain())


# --- merging


@torch.no_grad()
def merge(network: nn.Module, *, drop: bool = False) -> None:
    """Write the active adapter into the weights; the network then computes at the speed of the base.

    The weights before are kept beside them, so that `unmerge` restores them bit by bit, and cost their memory; with
    `drop` they are not, and all adapters are taken away. A quantised matrix is merged as what it dequantises to, and is
    not quantised after. Words that are tied to the embedding are untied where they or the embedding differ after.
    """
    board = board_of(network)
    if board is None or board.active is None:
        raise InputError("no adapter is active, so there is nothing to merge; set_adapter chooses one")
    network = transformer(network)
    if board.merged is None:
        _merge(network, board, board.active)
        board.merged = board.active
    if drop:
        drop_adapter(network)


def _merge(network: Transformer, board: Board, name: str) -> None:
    places = {module: place for module, place in slots(network).items() if name in place.adapters}
    tied = network.config.tie_embeddings and network.config.head in ("causal", "masked")
    if tied and ("head" in places or "embedding" in places):
        board.untied = network.config
        network.head.weight = nn.Parameter(word_matrix(network).clone(), requires_grad=False)
        _set_config(network, dataclasses.replace(network.config, tie_embeddings=False))
    for module, place in places.items():
        adapter = cast(LowRank | Whole, place.adapters[name])
        weight, bias = weights_of(network, module)
        after = adapter.merged(weight) if isinstance(adapter, LowRank) else adapter.weight.to(weight.dtype)
        if isinstance(place, Projection) and place.weight is None:
            place.weight = nn.Parameter(after.clone(), requires_grad=False)
        else:
            place.original = weight.detach().clone()
            weight.copy_(after)
        if isinstance(place, Projection) and isinstance(adapter, Whole) and bias is not None:
            place.original_bias = bias.detach().clone()
            bias.copy_(cast(Tensor, adapter.bias))


@torch.no_grad()
def unmerge(network: nn.Module) -> None:
    """Take the merged adapter out of the weights again: every bit of the base is as it was before `merge`."""
    board = board_of(network)
    if board is None or board.merged is None:
        raise InputError("no adapter is merged into the weights, so there is nothing to take out")
    network = transformer(network)
    for module, place in slots(network).items():
        if isinstance(place, Projection) and place.packed is not None:
            place.weight = None
        elif place.original is not None:
            weights_of(network, module)[0].copy_(place.original)
            place.original = None
        if isinstance(place, Projection) and place.original_bias is not None:
            assert place.bias is not None
            place.bias.copy_(place.original_bias)
            place.original_bias = None
    if board.untied is not None:
        del network.head.weight
        _set_config(network, board.untied)
    board.merged = board.untied = None


def _set_config(network: Transformer, config: TransformerConfig) -> None:
    network.config = network.head.config = config


# --- quantising


@dataclass(frozen=True)
class Quantized:
    """Bytes of the layers' matrices, and how many times as long a product takes with ROWS rows and with one.

    The times are 0 where they were not measured.
    """

    before: int
    after: int
    slowdown: float
    slowdown_one: float


@torch.no_grad()
def quantize_base(network: nn.Module, bits: int = 8, *, group: int = 32, measure: bool = True) -> Quantized:
    """Keep the matrices of all layers in 8 bits, or in 4 bits by groups of 32 or 64 columns; they no longer train.

    Each is dequantised for its own product, forward and backward. That saves memory and costs time: `measure` compares
    products of the largest matrix on this machine, and warns with both numbers where they are slower.
    """
    board = board_of(network)
    if board is not None and board.merged is not None:
        raise InputError(f"the adapter {board.merged!r} is merged into the weights; unmerge it first")
    network = transformer(network)
    found = {n: m for n, m in matrices(network).items() if not n.startswith("head")}
    dense = {n: weights_of(network, n)[0] for n, m in found.items() if getattr(m, "packed", None) is None}
    if not dense:
        raise InputError("the matrices of this network are quantised already; load it again for other bits")
    packed = {name: pack(weight, bits, group) for name, weight in dense.items()}
    largest = max(dense, key=lambda name: dense[name].numel())
    many, one = (_slowdown(dense[largest], packed[largest], n) if measure else 0.0 for n in (ROWS, 1))
    before, after = sum(w.nbytes for w in dense.values()), sum(p.nbytes for p in packed.values())
    if board is None:
        board = network.adapter_board = Board()  # type: ignore[assignment]
    for name, matrix in packed.items():
        place = slot(network, name, board)
        assert isinstance(place, Projection)
        place.packed, place.weight = matrix, None
    if max(many, one) > PAYS:
        warnings.warn(
            f"the matrices take {after / 1e6:,.1f} MB instead of {before / 1e6:,.1f} MB in {bits} bits, and on this "
            f"{network.device.type} a product takes {many:.1f} times as long with {ROWS} rows (training) and "
            f"{one:.1f} times with one (writing text); quantise only what does not fit otherwise",
            stacklevel=2,
        )
    return Quantized(before, after, many, one)


def _slowdown(weight: Tensor, packed: Packed, rows: int, runs: int = 5) -> float:
    """How many times as long a product of the packed matrix takes, best of `runs` each."""
    x = torch.ones(rows, weight.shape[1], dtype=weight.dtype, device=weight.device)

    def best(dense: bool) -> float:
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            F.linear(x, weight if dense else packed.dense(x.dtype)).sum().item()  # item waits for the device
            times.append(time.perf_counter() - start)
        return min(times)

    return best(dense=False) / best(dense=True)
