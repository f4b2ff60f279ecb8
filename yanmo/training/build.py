"""Recipe → the objects that training needs.

In: sections of a Recipe, and what the tokenizer says. Out: configs, a network with its first weights, settings.

    build_network      [model] → a network with weights drawn from a seed; models/sketch.py says its config
    build_settings     [train] → Settings of the loop
"""

from __future__ import annotations

import torch

from yanmo.models.checkpoint import Network, build
from yanmo.models.initial import initialise
from yanmo.models.sketch import FAMILIES, network_config, public_family, without_dropout
from yanmo.recipe import ModelSection, TrainSection
from yanmo.training.loop import Settings

__all__ = ["FAMILIES", "build_network", "build_settings", "network_config", "public_family", "without_dropout"]


def build_network(
    model: ModelSection, *, vocab_size: int, length: int, start_id: int, end_id: int, seed: int = 0
) -> Network:
    """A network with first weights; the same arguments give the same bytes, and the global generator is not touched."""
    config = network_config(model, vocab_size=vocab_size, length=length, start_id=start_id, end_id=end_id)
    network = build(config)
    initialise(network, torch.Generator().manual_seed(seed))
    return network


def build_settings(train: TrainSection, precision: str) -> Settings:
    """The loop's settings; `precision` takes the place of "auto". Every evaluated step is saved."""
    return Settings(
        steps=train.steps,
        seconds=None if train.minutes is None else train.minutes * 60,
        accumulation=train.accumulation,
        optimizer=train.optimizer,
        learning_rate=train.learning_rate,
        betas=(train.beta1, train.beta2),
        weight_decay=train.weight_decay,
        clip=train.clip,
        schedule=train.schedule,
        warmup=train.warmup,
        decay=train.decay,
        floor=train.floor,
        precision=precision,
        seed=train.seed,
        save_steps=train.eval_every,
        save_seconds=train.save_every,
        keep=train.keep,
    )
