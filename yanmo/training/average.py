"""An average of the weights over the steps of a run, which often scores better than the last weights alone.

In: the trainable weights after every step. Out: their exponential moving average in float32, to be put in their place.

    Average      update after each step; state and restore for checkpoints; in_place for evaluation and saving

After step t the average is Σ dᵗ⁻ⁱ(1 − d)·wᵢ / (1 − dᵗ) over the steps i from 1 to t: the weights before the first step
have no share in it (Polyak & Juditsky 1992 on averages; the division is Kingma & Ba 2015, §3). It is kept divided, so
that it can be used at any moment; that makes the share of the newest weights (1 − d) / (1 − dᵗ), 1 in the first step.
A tied weight is averaged once, and a frozen one is its own average.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from yanmo.errors import FileError, InputError
from yanmo.training.interrupts import uninterrupted
from yanmo.training.sharded import in_parts, local


class Average:
    """The average of `parameters` (name → parameter), with the decay d in [0, 1) for each step."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        assert 0 <= decay < 1, decay
        self.decay = decay
        self.parameters = parameters
        self.values = {name: parameter.detach().float().clone() for name, parameter in parameters.items()}
        self.placed = False  # whether the averages stand in the network now

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step`, from 1 on."""
        self.check()
        share = (1 - self.decay) / (1 - self.decay**step)
        weights = [parameter.detach().float() for parameter in self.parameters.values()]
        torch._foreach_lerp_(list(self.values.values()), weights, share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network hold the averages for a while: to evaluate and to save; it trains with its own weights."""
        self.check()
        own = {name: parameter.data for name, parameter in self.parameters.items()}
        own = {name: data.clone() if in_parts(data) else data for name, data in own.items()}
        try:
            self.placed = True
            for name, parameter in self.parameters.items():
                _put(parameter, self.values[name].to(parameter.dtype))
            yield
        finally:
            with uninterrupted():  # a second Ctrl-C here would lose weights
                for name, parameter in self.parameters.items():
                    _put(parameter, own[name])
                self.placed = False

    def check(self) -> None:
        """Raise InputError where the averages stand in the network."""
        if self.placed:
            raise InputError("the network holds the average of its weights; leave that block before the next step")

    def state(self) -> dict[str, Tensor]:
        """The averages, under the names of the weights."""
        return dict(self.values)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave; a missing, unknown or mis-shaped tensor is an error."""
        for name in sorted(tensors.keys() | self.values.keys()):
            shapes = [tuple(found[name].shape) if name in found else "none" for found in (tensors, self.values)]
            if shapes[0] != shapes[1]:
                raise FileError(
                    f"the checkpoint's average of the weights has {name} {shapes[0]}, and this model {shapes[1]}; "
                    "continue with the recipe that made it"
                )
        for name, value in self.values.items():
            value.copy_(tensors[name])


def _put(parameter: nn.Parameter, data: Tensor) -> None:
    """Let a parameter have this data; of one in parts the memory stays, since what gathers the parts reads it."""
    if in_parts(parameter):
        local(parameter.data).copy_(local(data))
    else:
        parameter.data = data
