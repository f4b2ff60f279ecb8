"""How a training pass goes through the layers of a Transformer: with recomputation, through a compiler, or plainly.

In: a network. Out: for a while, another way from what a layer reads to what it returns; the numbers stay the same.

    Passage             the way, made once for a run; `open` puts it in place
    recomputed          a layer keeps what it reads, and computes the rest again in backward (Chen et al. 2016)
    compiled_layer      torch.compile over one layer, shared by all; one graph for each shape

Recomputation takes the random state of the forward pass again, so that dropout hides the same: loss and gradients are
equal to the bit. Compiled layers sum in another order, and draw other dropout, than plain ones; as a graph depends on
the shape alone, a resumed run has the same bits. Weights keep their names in both. Passes without gradients
(evaluation, a teacher) go the plain way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from yanmo.errors import Error, InputError
from yanmo.files import reason
from yanmo.models.transformer import Stack

Way = Callable[..., Tensor]  # (layer, what it reads …) → hidden
MAX_GRAPHS = 64  # compiled for all shapes; more mean that hardly any is used twice


class Passage:
    """The way through the layers of one network."""

    def __init__(self, network: nn.Module, *, recompute: bool = False, compiled: bool = False) -> None:
        self.stacks = [module for module in network.modules() if isinstance(module, Stack)]
        wanted = [name for name, on in (("recompute", recompute), ("compile", compiled)) if on]
        if wanted and not self.stacks:
            warnings.warn(f"{wanted[0]} has no effect on this network, which has no Transformer layers", stacklevel=2)
            wanted = []
        self.compiles = "compile" in wanted
        way: Way | None = compiled_layer() if self.compiles else None
        self.way = recomputed(way or plain) if "recompute" in wanted else way

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let passes with gradients go this way for a while."""
        for stack in self.stacks:
            stack.way = self.way
        try:
            with _bounded() if self.compiles else nullcontext():
                yield
        finally:
            for stack in self.stacks:
                stack.way = None


def plain(layer: nn.Module, *given: Any) -> Tensor:
    """Call the layer."""
    return layer(*given)


def recomputed(way: Way) -> Way:
    """The same way, of which only the beginning is remembered."""

    def again(layer: nn.Module, *given: Any) -> Tensor:
        return checkpoint(way, layer, *given, use_reentrant=False)

    return again


def compiled_layer() -> Way:
    """One compiled function for all layers; an Error of one sentence where this machine cannot compile."""
    try:
        with _bounded():
            torch.compile(torch.sin, dynamic=False)(torch.ones(2))
    except Exception as error:  # each compiler has errors of its own
        raise Error(
            f"this machine cannot compile ({reason(error)}); install a C++ compiler (on a GPU: Triton), "
            "or set train.compile = false"
        ) from None
    from torch._dynamo.exc import FailOnRecompileLimitHit

    run = torch.compile(plain, dynamic=False)

    def way(layer: nn.Module, *given: Any) -> Tensor:
        try:
            return run(layer, *given)
        except FailOnRecompileLimitHit:
            raise InputError(
                f"the batches have too many shapes to compile ({MAX_GRAPHS} graphs at most); "
                "set train.compile = false, or give rows of one length"
            ) from None

    return way


@contextmanager
def _bounded() -> Iterator[None]:
    """No more graphs than MAX_GRAPHS, no silent return to plain layers beyond them, and no warnings of torch's own."""
    from torch._dynamo import config  # imported here, as it takes a second

    with config.patch(recompile_limit=MAX_GRAPHS, fail_on_recompile_limit_hit=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor")  # the compiler looks at it
        yield
