"""First weights for a model that starts from nothing.

In: a network and a generator. Out: the same network, its weights drawn anew; the same seed gives the same bytes, also
where `whole` gives each weight as a tensor of its own, of which several ranks keep their parts (training/spread.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from yanmo.models.recurrent import Recurrent
from yanmo.models.transformer import Transformer

STD = 0.02  # of every matrix (Radford et al. 2019; Devlin et al. 2019)

Whole = Callable[[nn.Parameter], AbstractContextManager[Tensor]]  # a parameter → a tensor to be filled for it


@torch.no_grad()
def initialise(network: Transformer | Recurrent, generator: torch.Generator, whole: Whole = nullcontext) -> None:
    """Draw all weights: normal(0, 0.02), what writes into the residual stream divided by √(2 layers); norms start at 1.

    The cells of a recurrent network are uniform within ±1/√width of their state, the forget gate of an LSTM is biased
    towards remembering (Jozefowicz et al. 2015).
    """
    for name, parameter in network.named_parameters():
        with whole(parameter) as tensor:
            _draw(network, name.split("."), tensor, generator)


def _draw(network: Transformer | Recurrent, parts: list[str], tensor: Tensor, generator: torch.Generator) -> None:
    if len(parts) > 1 and "norm" in parts[-2]:
        tensor.fill_(1.0 if parts[-1] == "weight" else 0.0)
    elif parts[0] == "cells":
        bound = 1 / math.sqrt(network.config.hidden_width)  # type: ignore[union-attr]
        tensor.uniform_(-bound, bound, generator=generator)
        if network.config.cell == "lstm" and parts[-1].startswith("bias_ih"):  # type: ignore[union-attr]
            tensor.view(4, -1)[1] = 1.0  # torch's order: input, forget, cell, output
    elif tensor.ndim < 2 or parts[0] == "transitions":  # of tags, which a task puts beside the network (tasks/crf.py)
        tensor.zero_()
    else:
        tensor.normal_(0.0, STD * _residual_factor(network, parts), generator=generator)


def _residual_factor(network: nn.Module, parts: list[str]) -> float:
    if parts[-2:] not in (["out", "weight"], ["down", "weight"]) or "layers" not in parts:
        return 1.0
    config = network.config
    layers = config.encoder_layers if parts[0] == "encoder" else config.decoder_layers  # type: ignore[union-attr]
    return 1 / math.sqrt(2 * layers)  # type: ignore[operator]
