"""Networks with adapters that change something."""

from __future__ import annotations

from typing import Any

import torch

from tests.training.small import batch, network
from yanmo.models.adapters import (
    AdapterConfig,
    add_adapter,
)
from yanmo.models.config import TransformerConfig
from yanmo.models.initial import initialise
from yanmo.models.transformer import Transformer

ALL = ("all", "head")
IDS = batch(3, 8, seed=4).ids


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model.decode(ids))


def moved(kind: str = "qwen3", config: AdapterConfig | None = None, **options: Any) -> Any:
    """A network with an adapter that changes something."""
    model = network(kind, **options)
    add_adapter(model, config or AdapterConfig(rank=2))
    move(model)
    return model


def move(model: Any, seed: int = 1) -> None:
    """Change the trainable weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def near(one: torch.Tensor, other: torch.Tensor) -> None:
    """Within 1e-5 of the largest value."""
    assert (one - other).abs().max() < 1e-5 * max(1.0, float(other.abs().max()))


def names(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def labelled(**options: Any) -> Transformer:
    """An encoder with a label head whose dense layer is part of the head."""
    values: dict[str, Any] = {"vocab_size": 61, "width": 16, "n_heads": 2, "ffn_width": 24, "encoder_layers": 2}
    model = Transformer(TransformerConfig(**values, head="sequence", labels=("a", "b", "c"), **options))
    initialise(model, torch.Generator().manual_seed(0))
    return model.eval()
