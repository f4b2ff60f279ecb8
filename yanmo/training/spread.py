"""How a network lies over several ranks: the same on each, in parts (FSDP2), or with every matrix cut (DTensor).

In: a network, the same on every rank, and Ranks. Out: the same network, spread; what the loop and the optimizer need.

    spread            share the network out, as [scale] says
    wrapped           an objective → the same for a spread network
    speed             tokens per second of all ranks together
    evaluate          the loss of validation batches, each rank computing its share of the rows
    gathered          anything else that is computed with a spread network, by every rank alike
    precision         in which precision a step computes: `lowered`, or FSDP's own policy
    sum_gradients     after a window: the gradients that each rank lacks
    total_norm        of gradients that lie in parts
    orthogonalised    Muon's update of matrices that lie in parts

    none    every rank holds all; gradients are summed once for each window
    full    FSDP2 (torch.distributed.fsdp.fully_shard), layer by layer and then the rest: a rank holds 1/parts of the
            weights, gradients and optimizer, and has one layer whole while it computes it
    tensor  in addition, neighbours cut the matrices of each decoder layer (Shoeybi et al. 2019): queries, keys, values
            and the inner vectors by rows, what writes into the residual stream by columns

**Precision under FSDP.** Its MixedPrecisionPolicy does what `lowered` does (precision.py): float32 masters, bfloat16
copies for the computation, float32 sums. `lowered` itself cannot be used: it puts copies in the place of
`parameter.data`, and FSDP gathers from shards of its own, which that assignment does not reach.

**Gradients are sums**, never means over ranks: the loop divides by the number of targets of all ranks.
"""

from __future__ import annotations

import functools
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from yanmo.errors import ConfigError
from yanmo.models.config import TransformerConfig
from yanmo.models.initial import Whole
from yanmo.models.transformer import Stack
from yanmo.system import usable_memory
from yanmo.training import objectives
from yanmo.training.distributed import Ranks
from yanmo.training.muon import orthogonalise
from yanmo.training.objectives import Evaluation
from yanmo.training.optimizer import split_parameters
from yanmo.training.precision import DTYPES, Lowering
from yanmo.training.randomness import kept
from yanmo.training.sharded import local

T = TypeVar("T")
Objective = Callable[[Any, Any], tuple[Tensor, int]]
Draw = Callable[[Any, Whole], None]

BUCKET = 1 << 23  # numbers that are summed in one exchange: 32 MiB
STATE_BYTES = 18  # of a parameter that is trained: weight, gradient, two of AdamW in float32, a copy in bfloat16
ROOM = 1 / 3  # of the memory of a rank may hold that where nothing is sharded; activations need the rest
CUT = {  # Megatron's cut of a layer
    "rows": ("attention.query", "attention.key", "attention.value", "ffn.gate", "ffn.up"),
    "columns": ("attention.out", "ffn.down"),
}
WITHIN_HEADS = ("attention.query_norm", "attention.key_norm")  # every neighbour uses them, on heads of its own


def spread(network: nn.Module, ranks: Ranks, precision: str = "float32", draw: Draw | None = None) -> None:
    """Share the network out in place; every rank must hold the same, on its device, before its optimizer is made.

    It may be empty (on torch's device "meta"), so that no rank ever holds all of a large one: `draw(network, whole)`
    then fills it, weight by weight (models/initial.py). A model that `tensor_parallel` cannot cut is a ConfigError.
    """
    if ranks.alone:
        return
    empty = any(parameter.is_meta for parameter in network.parameters())
    assert not empty or draw is not None, "an empty network needs to be filled"
    if not ranks.by_main(lambda: _needs_sharding(network, ranks)):
        if empty and draw is not None:
            _fill(network, ranks, draw)
        for tensor in [*network.parameters(), *network.buffers()]:  # machines may round first weights differently
            dist.broadcast(tensor.data, 0)
        return
    ranks.treated = {kind: list(group) for kind, group in split_parameters(network).items()}
    if ranks.tensor > 1:
        check_cut(network, ranks.tensor)
        ranks.partial = set(_cut(network, ranks.mesh["tensor"]))
    _fully_shard(network, ranks, DTYPES[precision])
    ranks.sharded = True
    if empty and draw is not None:
        _fill(network, ranks, draw)


def _fill(network: nn.Module, ranks: Ranks, draw: Draw) -> None:
    network.to_empty(device=ranks.device)

    @contextmanager
    def whole(parameter: nn.Parameter) -> Iterator[Tensor]:
        tensor = torch.empty(parameter.shape, dtype=parameter.dtype)  # on the CPU, whose generator draws everywhere
        yield tensor
        local(parameter).copy_(_part_of(tensor, parameter))

    with torch.no_grad():
        draw(network, whole)


def _part_of(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The part of a whole tensor that a parameter holds here: cut by the neighbours first, and FSDP shards the cuts."""
    mesh: Any = getattr(parameter, "device_mesh", None)
    for name in () if mesh is None else reversed(mesh.mesh_dim_names):
        placement = parameter.placements[mesh.mesh_dim_names.index(name)]  # type: ignore[attr-defined]
        if not placement.is_replicate():
            size, place = mesh[name].size(), mesh[name].get_local_rank()
            parts = tensor.chunk(size, placement.dim)
            tensor = parts[place] if place < len(parts) else tensor.narrow(placement.dim, 0, 0)
    return tensor


def _needs_sharding(network: nn.Module, ranks: Ranks) -> bool:
    if ranks.shard != "auto":
        return ranks.shard == "full"
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    frozen = sum(p.numel() * p.element_size() for p in network.parameters() if not p.requires_grad)
    if ranks.device.type == "cuda":
        room: float = torch.cuda.get_device_properties(ranks.device).total_memory
    else:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.count))  # the processes of one machine share its memory
        room = (usable_memory() or math.inf) / here
    return trained * STATE_BYTES + frozen > room * ROOM


# --- FSDP2


def _fully_shard(network: nn.Module, ranks: Ranks, dtype: torch.dtype) -> None:
    """Layer by layer, then what is left; the whole computation becomes the network's forward pass.

    FSDP gathers a module's weights when its forward is called. Networks here have none (models/protocol.py), so that
    `wrapped` makes a whole objective one forward pass of the root.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    lower = dtype != torch.float32
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32) if lower else MixedPrecisionPolicy()
    options: dict[str, Any] = {"mesh": ranks.mesh["data"], "mp_policy": policy}
    if ranks.tensor > 1:
        options["shard_placement_fn"] = functools.partial(_other_side, ranks.parts)
    for layer in layers(network):
        fully_shard(layer, **options)
    fully_shard(network, **options)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # sums
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
            module.set_reduce_scatter_unused_params(True, recurse=False)  # a rank without a target does not use all
    network.forward = lambda objective, batch: objective(network, batch)


def _other_side(parts: int, parameter: nn.Parameter) -> Any:
    """Shard along the side of a matrix that the tensor neighbours have not cut: parts stay in one piece."""
    from torch.distributed.tensor import DTensor, Shard

    cut = isinstance(parameter, DTensor) and parameter.ndim == 2 and parameter.placements[0] == Shard(0)
    return Shard(1) if cut and parameter.shape[1] % parts == 0 else None


def layers(network: nn.Module) -> list[nn.Module]:
    """The layers of all stacks; a recurrent network has none, and is sharded as one."""
    stacks = [getattr(network, side, None) for side in ("encoder", "decoder")]
    return [layer for stack in stacks if isinstance(stack, Stack) for layer in stack.layers]


def wrapped(objective: Objective, ranks: Ranks) -> Objective:
    """The objective for a spread network; of an objective that uses a second network, that one is not spread."""
    if not ranks.sharded:
        return objective

    def whole(network: Any, batch: Any) -> tuple[Tensor, int]:
        with warnings.catch_warnings():
            # a view would lose FSDP's hook if it were changed in place, which no layer does with what it reads
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
            result = network(objective, batch)
        if not torch.is_grad_enabled():
            network.reshard()  # after a backward pass it is done without saying
        return result

    return whole


def evaluate(
    ranks: Ranks,
    network: nn.Module,
    batches: Iterable[Any],
    n_bytes: int | None = None,
    objective: Objective = objectives.causal,
) -> Evaluation:
    """The same as objectives.evaluate, on all ranks together; all of them must call it, with the same batches."""
    if ranks.alone:
        return objectives.evaluate(network, batches, n_bytes, objective)
    whole = wrapped(objective, ranks)

    def shared(network: Any, batch: Any) -> tuple[Tensor, int]:
        loss, count = whole(network, ranks.share(batch))
        nats, tokens = ranks.total([float(loss), float(count)])
        return torch.tensor(nats, dtype=torch.float64), round(tokens)

    return objectives.evaluate(network, batches, n_bytes, shared)


def gathered(network: Any, ranks: Ranks, action: Callable[[Any], T]) -> T:
    """What `action(network)` finds of a network that may lie in parts; all ranks call it and compute the same."""
    if not ranks.sharded:
        return action(network)
    from torch.distributed.fsdp import FSDPModule

    found: list[T] = []
    with torch.no_grad():
        for module in network.modules():  # here, since tensors of inference_mode could not be trained
            if isinstance(module, FSDPModule):
                module.unshard()
        network(lambda net, _: found.append(action(net)), None)
        network.reshard()
    return found[0]


def precision(network: nn.Module, ranks: Ranks, dtype: torch.dtype, *, once: bool = False) -> Lowering:
    """What lowers the network for a step, or nothing where FSDP lowers."""
    return Lowering(network, torch.float32 if ranks.sharded else dtype, once=once)


def speed(network: nn.Module, ranks: Ranks, batch: Any, objective: Objective, dtype: torch.dtype) -> float:
    """Tokens per second of all ranks together, forward and backward: the better of two passes after one to warm up.

    Nothing is changed but gradients, which are gone; all ranks must call it, with the same batch.
    """
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    whole, share, times = wrapped(objective, ranks), ranks.share(batch).to(ranks.device), []
    network.train()
    with kept(ranks.device):
        for _ in range(3):
            ranks.total([0.0])  # all begin together
            began = time.perf_counter()
            with precision(network, ranks, dtype).open() as gather:
                loss, count = whole(network, share)
                if count or ranks.sharded:
                    loss.backward()
                    gather()
            sum_gradients(parameters, ranks)
            ranks.total([float(loss.detach())])
            times.append(time.perf_counter() - began)
            for parameter in parameters.values():
                parameter.grad = None
    return ranks.by_main(lambda: batch.ids.numel() / min(times[1:]))


# --- matrices that are cut


def check_cut(network: nn.Module, tensor: int) -> None:
    """Refuse a model whose layers cannot be cut in `tensor` parts."""
    config = getattr(network, "config", None)
    if not isinstance(config, TransformerConfig) or config.encoder_layers or not config.decoder_layers:
        raise ConfigError("scale.tensor_parallel is for decoders; set scale.tensor_parallel=1")
    sizes = {"heads": config.n_heads, "kv_heads": config.n_kv_heads, "ffn_width": config.ffn_width}
    for name, size in sizes.items():
        if size % tensor:
            raise ConfigError(
                f"model.{name} is {size}, which scale.tensor_parallel = {tensor} does not divide; choose a divisor"
            )
    for name in ("attention_dropout", "activation_dropout"):
        if getattr(config, name):
            raise ConfigError(
                f"{name} is {getattr(config, name)}: neighbours would drop the same of different heads; "
                "set model.dropout=0, or scale.tensor_parallel=1"
            )
    wrong = [n for layer in layers(network) for n, m in _matrices(layer) if type(m) is not nn.Linear]
    if wrong:
        raise ConfigError(f"{wrong[0]} has an adapter or few bits, and cannot be cut; set scale.tensor_parallel=1")


def _matrices(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name in (*CUT["rows"], *CUT["columns"]):
        part, leaf = name.split(".")
        module = getattr(getattr(layer, part), leaf)
        if module is not None:  # no gate
            yield name, module


def _cut(network: nn.Module, mesh: Any) -> Iterator[str]:
    """Cut the matrices; yields the parameters of which a neighbour computes only a part of the gradient."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    for layer in layers(network):
        # torch names the styles after the columns of xW, where W is stored transposed: Colwise cuts rows of the weight
        plan: dict[str, Any] = {
            n: ColwiseParallel() if n in CUT["rows"] else RowwiseParallel() for n, _ in _matrices(layer)
        }
        parallelize_module(layer, mesh, plan)
    for name, _ in network.named_parameters():
        if any(f".{norm}." in name for norm in WITHIN_HEADS):
            yield name


# --- gradients


def sum_gradients(parameters: dict[str, nn.Parameter], ranks: Ranks) -> None:
    """After the backward passes of a window: add what other ranks found. Sharded gradients FSDP has added already."""
    if ranks.alone:
        return
    if not ranks.sharded:
        _fill_up(list(parameters.values()), ranks)
        _all_reduce([p.grad for p in parameters.values() if p.grad is not None])
    if ranks.tensor > 1:
        _agree_with_neighbours(parameters, ranks)


def _fill_up(parameters: list[nn.Parameter], ranks: Ranks) -> None:
    """Zeros where this rank has no gradient and another has one; where nobody has one, there is none."""
    there = torch.tensor([float(p.grad is not None) for p in parameters], device=ranks.device)
    dist.all_reduce(there)
    for parameter, count in zip(parameters, there.tolist()):
        if count and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _agree_with_neighbours(parameters: dict[str, nn.Parameter], ranks: Ranks) -> None:
    """Sum what each tensor neighbour computed a part of, and take the mean of what all computed alike.

    The mean keeps copies equal: some kernels of accelerators sum in an order that changes from run to run.
    """
    group, gradients = ranks.mesh["tensor"].get_group(), []
    for name, parameter in parameters.items():
        if parameter.grad is not None and not _is_cut(parameter):
            gradient = local(parameter.grad)
            gradients.append(gradient if name in ranks.partial else gradient.div_(ranks.tensor))
    _all_reduce(gradients, group)


def _is_cut(parameter: Tensor) -> bool:
    """Whether tensor neighbours hold different parts."""
    names = getattr(parameter, "device_mesh", None)
    if names is None or "tensor" not in (names.mesh_dim_names or ()):
        return False
    return not parameter.placements[names.mesh_dim_names.index("tensor")].is_replicate()  # type: ignore[attr-defined]


def _all_reduce(tensors: Sequence[Tensor], group: Any = None) -> None:
    """Sum tensors of one dtype over ranks, in place, in a few large exchanges."""
    bucket: list[Tensor] = []
    for place, tensor in enumerate(tensors):
        bucket.append(tensor)
        if sum(t.numel() for t in bucket) < BUCKET and place + 1 < len(tensors):
            continue
        flat = torch.cat([t.reshape(-1) for t in bucket])
        dist.all_reduce(flat, group=group)
        for tensor_, part in zip(bucket, flat.split([t.numel() for t in bucket])):
            tensor_.copy_(part.view_as(tensor_))
        bucket = []


def total_norm(gradients: Sequence[Tensor], ranks: Ranks) -> float:
    """The norm of all gradients together, the same on every rank."""
    if not ranks.sharded:
        return float(torch.nn.utils.get_total_norm(list(gradients)))
    squares = torch.zeros((), dtype=torch.float64, device=ranks.device)
    for gradient in gradients:
        copies = 1 if ranks.tensor == 1 or _is_cut(gradient) else ranks.tensor
        squares += torch.linalg.vector_norm(local(gradient), dtype=torch.float32).double().square() / copies
    dist.all_reduce(squares)
    return float(squares.sqrt())


def orthogonalised(matrices: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    """`orthogonalise` of sharded matrices of one shape; returns the parts that lie here.

    A matrix must be whole for it. So the ranks trade parts for whole matrices, each gets its share of them, and after
    the computation, which is so divided among the ranks, they trade back.
    """
    from torch.distributed.tensor import DTensor, Replicate, Shard

    results: list[Tensor | None] = [None] * len(matrices)
    for placements in dict.fromkeys(m.placements for m in matrices):  # type: ignore[attr-defined]
        places = [i for i, m in enumerate(matrices) if m.placements == placements]  # type: ignore[attr-defined]
        stacked = torch.stack([matrices[i] for i in places])
        mesh, parts = stacked.device_mesh, stacked.placements  # type: ignore[attr-defined]
        plain = all(type(p) is Shard for p in parts)
        whole = [Shard(0), *[Replicate()] * (mesh.ndim - 1)] if plain else [Replicate()] * mesh.ndim
        mine = stacked.redistribute(placements=whole)  # type: ignore[attr-defined]
        updates = orthogonalise(mine.to_local(), dtype).contiguous()
        shape, stride = stacked.shape, stacked.stride()
        done = DTensor.from_local(updates, mesh, whole, run_check=False, shape=shape, stride=stride)
        for i, update in zip(places, done.redistribute(placements=parts).to_local().unbind()):
            results[i] = update
    return [result for result in results if result is not None]
