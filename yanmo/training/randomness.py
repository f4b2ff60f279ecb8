"""Every random state that training depends on, kept apart from the caller's.

In: a seed, or what a checkpoint holds. Out: states to put in place for one step, and to save.

    RandomStates     Python's, numpy's, torch's and the device's generators at one moment
    seeded           the states that a seed gives
    kept             the caller's states, put back whatever happens in between

A step runs on states of its own: what the caller draws between two steps (samples to look at) changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yanmo.errors import FileError


@dataclass(frozen=True)
class RandomStates:
    """States of all generators; `device_state` is None for a CPU."""

    python: Any
    numpy: Any
    torch_state: Tensor
    device_state: Tensor | None
    device: torch.device

    @classmethod
    def capture(cls, device: torch.device) -> RandomStates:
        """The states as they are now."""
        on_device = _module(device)
        return cls(
            random.getstate(),
            np.random.get_state(),
            torch.get_rng_state(),
            None if on_device is None else on_device.get_rng_state(),
            device,
        )

    def put(self) -> None:
        """Make these the states of this process."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch_state)
        on_device = _module(self.device)
        if on_device is not None and self.device_state is not None:
            on_device.set_rng_state(self.device_state)

    def tensors(self) -> dict[str, Tensor]:
        """Torch's states, for safetensors."""
        states = {"torch": self.torch_state}
        return states if self.device_state is None else states | {"device": self.device_state.cpu()}

    def values(self) -> dict[str, Any]:
        """Python's and numpy's states, for JSON."""
        name, keys, place, has_gauss, gauss = self.numpy
        version, state, following = self.python
        return {
            "python": [version, list(state), following],
            "numpy": [name, keys.tolist(), place, has_gauss, gauss],
        }

    @classmethod
    def read(cls, tensors: dict[str, Tensor], values: dict[str, Any], device: torch.device) -> RandomStates:
        """What `tensors` and `values` gave; a damaged state is an error."""
        try:
            (version, state, following), (name, keys, place, has_gauss, gauss) = values["python"], values["numpy"]
            python = (version, tuple(state), following)
            random.Random().setstate(python)
            numpy = (name, np.array(keys, np.uint32), place, has_gauss, gauss)
            np.random.RandomState().set_state(numpy)
            torch.Generator().set_state(tensors["torch"])
            device_state = None if _module(device) is None else tensors.get("device")
            return cls(python, numpy, tensors["torch"], device_state, device)
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError):
            raise FileError("the checkpoint's random states are damaged; continue from another checkpoint") from None


def seeded(seed: int, device: torch.device) -> RandomStates:
    """The states after seeding every generator; the caller's states stay as they are."""
    with kept(device):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        return RandomStates.capture(device)


@contextmanager
def kept(device: torch.device) -> Iterator[None]:
    """Put the caller's states back at the end."""
    states = RandomStates.capture(device)
    try:
        yield
    finally:
        states.put()


def _module(device: torch.device) -> Any:
    """The torch module that holds a device's generator; None for the CPU, whose generator is torch's own."""
    return None if device.type == "cpu" else getattr(torch, device.type, None)
