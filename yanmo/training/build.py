"""Recipe → the objects that training needs.

In: sections of a Recipe, and what the tokenizer says. Out: a network, settings.

    Top                a head of labels, of the objectives of tasks
    build_network      [model] → a network with weights drawn from a seed; models/sketch.py says its config
    open_network       [model] path → the network of a model folder, with the head that the objective needs
    saved_config       the config of the finished model
    adapt              [adapter] → the same network, its weights frozen and an adapter on them
    build_settings     [train] → Settings of the loop
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from yanmo.errors import ConfigError
from yanmo.models.adapterfiles import is_adapter
from yanmo.models.adapters import AdapterConfig, add_adapter, quantize_base
from yanmo.models.checkpoint import Network, build, load_config, load_network
from yanmo.models.config import Head, TransformerConfig
from yanmo.models.initial import Whole, initialise
from yanmo.models.sketch import Config, check_shape, network_config, without_dropout
from yanmo.recipe import AdapterSection, ModelSection, Recipe, TrainSection
from yanmo.tokens.making import ends
from yanmo.tokens.tokenizer import Tokenizer
from yanmo.training.loop import Settings
from yanmo.training.randomness import kept


@dataclass(frozen=True)
class Top:
    """A head of labels: which one, the names of its labels in their order, and what they are."""

    head: Head
    labels: tuple[str, ...]
    problem: Literal["", "regression", "single_label", "multi_label"] = ""

    def on(self, config: Config) -> Config:
        """The config of the same network with this head; one that can have none is a ConfigError."""
        if not isinstance(config, TransformerConfig):
            if self.head == "span":
                raise ConfigError(f"a {config.cell} has no head of spans; choose model.kind=transformer")
            chosen = {"head": self.head, "labels": self.labels, "problem": self.problem}
            return dataclasses.replace(config, **chosen, bidirectional=True)  # type: ignore[arg-type]
        values = {"head": self.head, "labels": self.labels, "problem": self.problem}
        encodes = config.kind == "encoder" and self.head == "sequence"
        return dataclasses.replace(config, **values, pooler=encodes, classifier_dropout=config.dropout)  # type: ignore[arg-type]


def build_network(
    model: ModelSection,
    tokenizer: Tokenizer,
    *,
    length: int,
    seed: int = 0,
    empty: bool = False,
    top: Top | None = None,
) -> Network:
    """A network with first weights; the same arguments give the same bytes, and the global generator is not touched.

    empty: without memory (torch's device "meta"), for `spread` to give it its parts and `first_weights` to fill them.
    top: a head of labels in place of the words.
    """
    start_id, end_id = ends(tokenizer)
    ids = {"start_id": start_id, "end_id": end_id, "pad_id": tokenizer.pad_id}
    config = network_config(model, vocab_size=tokenizer.vocab_size, length=length, **ids)  # type: ignore[arg-type]
    with torch.device("meta") if empty else nullcontext():
        network = build(config if top is None else top.on(config))
    if not empty:
        first_weights(network, seed)
    return network


def first_weights(network: Network, seed: int, whole: Whole = nullcontext) -> None:
    """Draw the weights of a network that begins from nothing."""
    initialise(network, torch.Generator().manual_seed(seed), whole)


def open_network(recipe: Recipe, folder: Path, top: Top | None = None) -> Network:
    """The network of a model folder in float32, ready for the objective; dropout is the recipe's where it says one.

    top: a head of labels, which is drawn from the recipe's seed where the folder has none of its size. An objective
    that the model's shape cannot learn, and rows longer than it can read, are a ConfigError.
    """
    if is_adapter(folder):
        raise ConfigError(f"{folder}: an adapter, not a model; merge it into its base first, and start from that")
    head: Head = "masked" if recipe.objective.kind == "masked" else "causal"
    family, config = load_config(folder)
    check_shape(recipe.objective.kind, config.kind, f"the model {folder}")
    if recipe.train.length > config.max_positions:
        raise ConfigError(
            f"train.length is {recipe.train.length}, and the model {folder} reads {config.max_positions} tokens at "
            f"most; set train.length={config.max_positions}"
        )
    dropout = recipe.model.dropout if "dropout" in recipe.model.model_fields_set else None
    if top is None:
        return load_network(folder, dtype=torch.float32, head=None if config.head == head else head, dropout=dropout)
    if not isinstance(config, TransformerConfig):
        raise ConfigError(f"{folder}: a {config.cell} has no head of labels; choose a Transformer")
    with kept(torch.device("cpu")):
        torch.manual_seed(recipe.train.seed)
        network = load_network(folder, dtype=torch.float32, head=top.head, labels=top.labels, dropout=dropout)
    network.config = dataclasses.replace(network.config, problem=top.problem)  # type: ignore[arg-type, unused-ignore]
    return network


def saved_config(network: Network, folder: Path | None) -> Config:
    """The config of the finished model: dropout belongs to the training, and a model from `folder` keeps its own."""
    if folder is None:
        return without_dropout(network.config)
    _, config = load_config(folder)
    rates = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if "dropout" in field.name}
    return dataclasses.replace(network.config, **rates)  # type: ignore[arg-type, unused-ignore]


def adapt(network: Network, adapter: AdapterSection, seed: int) -> None:
    """Put the adapter of the recipe on the network, over a base in fewer bits where it says so."""
    if adapter.kind == "none":
        return
    if adapter.bits is not None:
        quantize_base(network, adapter.bits)
    config = AdapterConfig(
        rank=adapter.rank,
        alpha=adapter.alpha,
        dropout=adapter.dropout,
        kind=adapter.kind,
        targets=tuple(adapter.targets),
    )
    add_adapter(network, config, seed=seed)


def build_settings(train: TrainSection, precision: str) -> Settings:
    """The loop's settings; `precision` takes the place of "auto". Every evaluated step is saved."""
    return Settings(
        steps=train.steps,
        seconds=None if train.minutes is None else train.minutes * 60,
        accumulation=train.accumulation,
        optimizer=train.optimizer,
        learning_rate=train.learning_rate,
        betas=(train.beta1, train.beta2),
        momentum=train.momentum,
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
        ema=train.ema,
        recompute=train.recompute,
        compile=train.compile,
    )
