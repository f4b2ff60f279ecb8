"""Adapters of PEFT on tiny models, and the logits of both sides in float64."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import torch

from tests.models.tiny import make, random_ids
from yanmo.models.transformer import Transformer

IDS = random_ids(3, 9)


def theirs(model: Any) -> torch.Tensor:
    """Logits of transformers' or PEFT's model."""
    decoder = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.double()(input_ids=IDS, **decoder).logits


def ours(network: Any) -> torch.Tensor:
    with torch.no_grad():
        memory = network.encode(IDS) if network.encoder is not None else None
        if network.decoder is None:
            hidden = memory
        else:
            hidden = network.decode(IDS) if memory is None else network.decode(IDS, memory=memory)
        return network.logits(hidden) if network.config.head in ("causal", "masked") else network.scores(hidden, IDS)


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    """Within 1e-5 of the largest value."""
    assert one.shape == other.shape
    assert (one - other).abs().max() <= 1e-5 * max(1.0, float(other.abs().max()))


def peft_quietly(call: Any, *arguments: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments, **options)


def adapted(cls: str, values: dict[str, Any], options: dict[str, Any], folder: Path) -> Any:
    """A base in folder/base, and an adapter of PEFT on it, not at its beginning, saved in folder/adapter."""
    base = make(cls, values, folder / "base")
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, lora_alpha=12, base_model_name_or_path="base", **options)
    model = peft_quietly(peft.get_peft_model, base, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter += 0.2 * torch.randn_like(parameter)
    model.peft_config["default"].base_model_name_or_path = "base"
    peft_quietly(model.save_pretrained, folder / "adapter")
    return model


def move(network: Transformer, seed: int = 5) -> None:
    """Move an adapter away from its beginning, at which it changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".adapters." in name and parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
