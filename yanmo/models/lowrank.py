"""What stands in a network where an adapter is: matrices with named low-rank additions, and copies of whole modules.

    O rows (outputs), I columns (inputs), r rank

    LowRank       one adapter of one matrix: W + s·BA (Hu et al. 2021), s = α/r, or α/√r (Kalajdzievski 2023);
                  with a magnitude m/‖W + s·BA‖ · (W + s·BA), row by row (DoRA: Liu et al. 2024)
    Whole         one adapter's own copy of a matrix
    Projection    in the place of an nn.Linear, its weights or their packed form, and its adapters
    Table         in the place of an nn.Embedding
    Words         in the head, beside the matrix of the words
    Board         one for a network: which adapters there are and which of them works
    selected      for the calls of a `with` block, another adapter than the active one, or one for each row

The names of the base's weights stay what they were. A network without adapters has none of these.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yanmo.errors import InputError, nearest
from yanmo.models.quantized import Packed, packed_linear

Choice = str | None | tuple[str | None, ...]  # an adapter, none, or one of these for each row

# By id(Board), for the calls of this thread or task alone, so that requests with different adapters share a network.
_CHOICES: ContextVar[dict[int, Choice]] = ContextVar("adapters of this call")
_COUNTING = threading.Lock()


@dataclass
class Board:
    """The adapters of a network by name (name → what add_adapter was given), the active and the merged one."""

    configs: dict[str, Any] = field(default_factory=dict)
    active: str | None = None
    merged: str | None = None
    thawed: tuple[str, ...] = ()  # the weights of the base that were trainable before
    untied: Any = None  # the network's config before a merge untied its words
    selecting: int = 0  # `selected` blocks that are open in any thread

    def choice(self) -> Choice:
        """The adapters that this call uses."""
        if not self.selecting:  # torch.compile cannot look at a ContextVar
            return self.active
        choices = _CHOICES.get(None)
        return self.active if choices is None else choices.get(id(self), self.active)

    def check(self, name: str | None) -> None:
        """Raise InputError for a name that no adapter has."""
        if name is not None and name not in self.configs:
            known = ", ".join(self.configs) or "none"
            raise InputError(f"there is no adapter {name!r}{nearest(name, self.configs)}; there are {known}")


def board_of(network: nn.Module) -> Board | None:
    """The board of a network; None where it never had an adapter."""
    return vars(network).get("adapter_board")


@contextmanager
def selected(network: nn.Module, adapter: str | None | Sequence[str | None]) -> Iterator[None]:
    """Use another adapter, or none, or one for each row of the batch, in the calls of a `with` block.

    Other threads are not concerned. A label head and `decode` know rows; `logits` of hidden in another order does not.
    """
    board = board_of(network)
    if board is None:
        raise InputError("this network has no adapters; add or load one first")
    choice: Choice = adapter if adapter is None or isinstance(adapter, str) else tuple(adapter)
    for name in choice if isinstance(choice, tuple) else (choice,):
        board.check(name)
    if board.merged is not None:
        raise InputError(f"the adapter {board.merged!r} is merged into the weights; unmerge it first")
    token = _CHOICES.set({**_CHOICES.get({}), id(board): choice})
    with _COUNTING:
        board.selecting += 1
    try:
        yield
    finally:
        _CHOICES.reset(token)
        with _COUNTING:
            board.selecting -= 1


# --- what an adapter holds


class LowRank(nn.Module):
    """One adapter of one matrix: a (r, I), b (O, r) and for DoRA magnitude (O,)."""

    def __init__(
        self, a: nn.Parameter, b: nn.Parameter, alpha: float, magnitude: nn.Parameter | None = None, *, rooted: bool
    ) -> None:
        super().__init__()
        self.a, self.b, self.magnitude = a, b, magnitude
        self.alpha, self.rooted = alpha, rooted
        self.dropout = 0.0

    @property
    def scale(self) -> float:
        """α/r, or α/√r where `rooted`."""
        rank = self.a.shape[0]
        return self.alpha / (math.sqrt(rank) if self.rooted else rank)

    def forward(self, x: Tensor, out: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return what the adapted matrix makes of x (…, I), where the base made `out`; weight is DoRA's alone."""
        dropped = F.dropout(x, self.dropout) if self.training and self.dropout else x
        inner = F.linear(dropped.to(self.a.dtype), self.a) * self.scale  # (…, r)
        change = F.linear(inner, self.b)  # (…, O)
        if self.magnitude is None:
            return (out + change).to(out.dtype)
        assert weight is not None
        with torch.no_grad():  # a constant of the gradient: Liu et al. 2024, §4.3
            norms = torch.linalg.vector_norm(self._sum(weight), dim=1)
        gain = self.magnitude / norms
        if dropped is x:
            plain = out if bias is None else out - bias
        else:
            plain = F.linear(dropped, weight)
        return (out + (gain - 1) * plain + gain * change).to(out.dtype)

    def merged(self, weight: Tensor) -> Tensor:
        """The adapted matrix, in the dtype of `weight`."""
        total = self._sum(weight)
        if self.magnitude is not None:
            total = total * (self.magnitude / torch.linalg.vector_norm(total, dim=1))[:, None]
        return total.detach().to(weight.dtype)

    def _sum(self, weight: Tensor) -> Tensor:
        return weight.to(self.a.dtype) + self.scale * (self.b @ self.a)


class Whole(nn.Module):
    """One adapter's own copy of a matrix and, where it has one, its bias."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x Wᵀ + b; `bias` where the copy has none."""
        bias = self.bias if self.bias is not None else bias
        out = F.linear(x.to(self.weight.dtype), self.weight, None if bias is None else bias.to(self.weight.dtype))
        return out.to(x.dtype)


def own(tensor: Tensor, base: torch.dtype) -> nn.Parameter:
    """A copy that can be trained beside a base of this dtype: in float32 at least, so that small updates count."""
    return nn.Parameter(tensor.detach().to(torch.promote_types(base, torch.float32), copy=True))


# --- what stands in the network


class Projection(nn.Module):
    """x → x Wᵀ + b with adapters. W is `weight`, or `packed` where the base is quantised."""

    original: Tensor | None
    original_bias: Tensor | None

    def __init__(self, base: nn.Linear, board: Board) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight: nn.Parameter | None = base.weight  # type: ignore[assignment]
        self.bias: nn.Parameter | None = base.bias
        self.packed: Packed | None = None
        self.board = board
        self.adapters = nn.ModuleDict()
        self.register_buffer("original", None, persistent=False)  # W before a merge
        self.register_buffer("original_bias", None, persistent=False)

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """W (O, I): as it is, or dequantised into `dtype`."""
        if self.weight is not None:
            return self.weight
        assert self.packed is not None
        return self.packed.dense(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, O) from (…, I)."""
        choice = None if self.board.merged is not None else self.board.choice()
        return by_rows(x, choice, self._one) if isinstance(choice, tuple) else self._one(x, choice)

    def _one(self, x: Tensor, name: str | None) -> Tensor:
        adapter = self.adapters[name] if name is not None and name in self.adapters else None
        if isinstance(adapter, Whole):
            return adapter(x)
        if self.weight is None and self.packed is not None:
            out = packed_linear(x, self.packed, self.bias)
        else:
            assert self.weight is not None
            out = F.linear(x, self.weight, self.bias)
        if adapter is None:
            return out
        weight = None if adapter.magnitude is None else self.matrix(x.dtype)
        return adapter(x, out, weight, self.bias)

    def plain(self) -> nn.Linear:
        """The nn.Linear with the same weights."""
        assert self.weight is not None
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = self.weight
        linear.bias = self.bias  # type: ignore[assignment, unused-ignore]
        return linear.train(self.training)


class Table(nn.Module):
    """An embedding of which an adapter may have its own copy."""

    original: Tensor | None

    def __init__(self, base: nn.Embedding, board: Board) -> None:
        super().__init__()
        self.weight = base.weight
        self.board = board
        self.adapters = nn.ModuleDict()
        self.register_buffer("original", None, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return (B, T, W) from (B, T)."""
        choice = None if self.board.merged is not None else self.board.choice()
        return by_rows(ids, choice, self._one) if isinstance(choice, tuple) else self._one(ids, choice)

    def _one(self, ids: Tensor, name: str | None) -> Tensor:
        adapter = self.adapters[name] if name is not None and name in self.adapters else self
        assert isinstance(adapter.weight, Tensor)
        return F.embedding(ids, adapter.weight).to(self.weight.dtype)

    def plain(self) -> nn.Embedding:
        """The nn.Embedding with the same weights."""
        rows, width = self.weight.shape
        table = nn.Embedding(rows, width, device="meta")
        table.weight = self.weight
        return table.train(self.training)


class Words(nn.Module):
    """The adapters of the matrix of the words, which may be the embedding and is not its own."""

    original: Tensor | None

    def __init__(self, board: Board) -> None:
        super().__init__()
        self.board = board
        self.adapters = nn.ModuleDict()
        self.register_buffer("original", None, persistent=False)

    def forward(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return (…, V) from (…, W)."""

        def one(x: Tensor, name: str | None) -> Tensor:
            adapter = self.adapters[name] if name is not None and name in self.adapters else None
            if isinstance(adapter, Whole):
                return adapter(x, bias)
            out = F.linear(x, weight, bias)
            return out if adapter is None else adapter(x, out, weight, bias)

        choice = None if self.board.merged is not None else self.board.choice()
        return by_rows(hidden, choice, one) if isinstance(choice, tuple) else one(hidden, choice)


Slot = Projection | Table | Words


def by_rows(x: Tensor, names: tuple[str | None, ...], one: Any) -> Tensor:
    """one(rows of x, name) for each name, put together in the order of the rows."""
    if len(names) != len(x):
        raise InputError(f"adapters are chosen for {len(names)} rows, and this call has {len(x)}")
    groups: dict[str | None, list[int]] = {}
    for row, name in enumerate(names):
        groups.setdefault(name, []).append(row)
    places = torch.tensor([row for rows in groups.values() for row in rows], device=x.device)
    parts = [one(x[torch.tensor(rows, device=x.device)], name) for name, rows in groups.items()]
    return torch.cat(parts)[places.argsort()]


def slots(network: nn.Module) -> dict[str, Slot]:
    """Every place of a network that has adapters or is quantised, by the name of its module ("head" for the words)."""
    found = {n: m for n, m in network.named_modules() if isinstance(m, Slot)}
    return {"head" if isinstance(m, Words) else name: m for name, m in found.items()}


def base_tensor(network: nn.Module, parameters: dict[str, nn.Parameter], name: str) -> Tensor:
    """A weight of the base by its name in a network without adapters; a quantised one is dequantised."""
    if name in parameters:
        return parameters[name].detach()
    slot = network.get_submodule(name.removesuffix(".weight"))
    assert isinstance(slot, Projection), name
    return slot.matrix(network.dtype).detach()  # type: ignore[arg-type]


def check_no_adapter_is_lost(network: nn.Module) -> None:
    """Raise InputError where the weights of the base alone are not what the network computes."""
    board = board_of(network)
    if board is not None and board.active is not None and board.merged is None:
        raise InputError(
            f"the adapter {board.active!r} is active and not part of the weights; merge it, save it with save_adapter, "
            "or set_adapter(network, None) to save the base alone"
        )
