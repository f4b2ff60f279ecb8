"""First weights for a model that starts from nothing.

In: a network and a generator. Out: the same network, its weights drawn anew; the same seed gives the same bytes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from yanmo.models.recurrent import Recurrent
from yanmo.models.transformer import Transformer

STD = 0.02  # of every matrix (Radford et al. 2019; Devlin et al. 2019)


@torch.no_grad()
def initialise(network: Transformer | Recurrent, generator: torch.Generator) -> None:
    """Draw all weights: normal(0, 0.02), what writes into the residual stream divided by √(2 layers); norms start at 1.

    The cells of a recurrent network are uniform within ±1/√width of their state, the forget gate of an LSTM is biased
    towards remembering (Jozefowicz et al. 2015).
    """
    for name, parameter in network.named_parameters():
        parts = name.split(".")
        if "norm" in parts[-2] if len(parts) > 1 else False:
            parameter.fill_(1.0 if parts[-1] == "weight" else 0.0)
        elif parts[0] == "cells":
            bound = 1 / math.sqrt(network.config.hidden_width)  # type: ignore[union-attr]
            parameter.uniform_(-bound, bound, generator=generator)
        elif parameter.ndim < 2:
            parameter.zero_()
        else:
            parameter.normal_(0.0, STD * _residual_factor(network, parts), generator=generator)
    if isinstance(network, Recurrent) and network.config.cell == "lstm":
        _remember(network.cells, network.config.hidden_width)


def _residual_factor(network: nn.Module, parts: list[str]) -> float:
    if parts[-2:] not in (["out", "weight"], ["down", "weight"]) or "layers" not in parts:
        return 1.0
    config = network.config
    layers = config.encoder_layers if parts[0] == "encoder" else config.decoder_layers  # type: ignore[union-attr]
    return 1 / math.sqrt(2 * layers)  # type: ignore[operator]


def _remember(cells: nn.Module, width: int) -> None:
    for name, parameter in cells.named_parameters():
        if name.startswith("bias_ih"):
            gates: Tensor = parameter.data.view(4, width)  # torch's order: input, forget, cell, output
            gates[1] = 1.0
