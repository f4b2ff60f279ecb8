"""A network without memory, whose layers draw no weights: what a file or a copy fills afterwards.

undrawn      `with undrawn(): network = build(config)` builds on the device "meta"
with_memory  gives such a network its memory, with nothing in it yet
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

DRAWS = frozenset({Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_})


class _Undrawn(TorchFunctionMode):
    """On "meta" torch computes normal_ in Python, and imports its compiler for that: 1.2 s, and nothing is drawn."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if function in DRAWS:
            return args[0] if args else given["tensor"]  # torch.nn.init passes all by name
        return function(*args, **given)


@contextmanager
def undrawn() -> Iterator[None]:
    """Tensors made inside have no memory, and what is drawn into them is left out."""
    with torch.device("meta"), _Undrawn():
        yield


def with_memory(network: nn.Module, device: torch.device | str) -> None:
    """`network.to_empty`, whose empty_like is Python on "meta" and imports sympy: 0.4 s for nothing."""
    network._apply(lambda t: torch.empty(t.shape, dtype=t.dtype, device=device))
