"""What is planned: a recipe, a model folder, a hub id or a published model's name → a config and how it is trained.

read_subject    what a user typed, or a Recipe, or a config → Subject
read_config     config.json → config, through the families alone: no torch
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yanmo.errors import ConfigError, Error, FileError, InputError, nearest
from yanmo.files import read_json_object, read_text
from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.models.families.catalog import FAMILIES
from yanmo.models.families.table import Foreign
from yanmo.models.sketch import network_config
from yanmo.plan.count import Config
from yanmo.plan.published import PUBLISHED, Published
from yanmo.recipe import MAX_RECIPE, Recipe, TrainSection, read_recipe

MASKED_SHARE = 0.15  # of an encoder's tokens are predicted (Devlin et al. 2019, §3.1)
NO_TEXT = "data.paths=[none]"  # a plan needs no text


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A config and how it is trained; None where nothing says it."""

    name: str
    kind: str  # "recipe", "model" or "published"
    config: Config
    context: int
    rows: int = 1
    accumulation: int = 1
    steps: int | None = None
    minutes: float | None = None
    tokens: float | None = None
    optimizer: str = "adamw"
    precision: str = "auto"
    packed: bool = False
    can_recompute: bool = True
    recompute: bool = False
    tensor_parallel: int = 1  # devices that share the rows of one
    published: Published | None = None

    @property
    def target_share(self) -> float:
        """The share of tokens that the loss looks at."""
        masked = isinstance(self.config, TransformerConfig) and self.config.head == "masked"
        return MASKED_SHARE if masked else 1.0


def read_subject(subject: str | Path | Recipe | Config | Subject, overrides: Sequence[str] = ()) -> Subject:
    """Find out what is meant; `overrides` change a recipe, and are refused elsewhere."""
    if isinstance(subject, Subject):
        return subject
    if isinstance(subject, Recipe):
        return _of_recipe(subject, "recipe")
    if isinstance(subject, (TransformerConfig, RecurrentConfig)):
        return _of_config(subject, "config")
    path = Path(subject)
    name = str(subject)
    if path.is_file() or path.suffix == ".toml":
        return _of_recipe(_recipe(path, overrides), path.name)
    if (path / "recipe.toml").is_file():
        return _of_recipe(_recipe(path / "recipe.toml", overrides), name)
    if overrides:
        raise InputError(f"{name} is not a recipe, so {overrides[0]!r} changes nothing; use the options instead")
    if name.lower() in PUBLISHED and not path.is_dir():
        published = PUBLISHED[name.lower()]
        return Subject(
            name=published.name,
            kind="published",
            config=published.config,
            context=published.context,
            tokens=published.tokens,
            published=published,
        )
    return _of_config(read_config(_folder(name)), name)


def _folder(name: str) -> Path:
    from yanmo.hub import resolve

    try:
        return Path(resolve(name, want="config"))
    except Error as error:
        close = nearest(name.lower(), PUBLISHED)
        if not close:
            raise
        raise type(error)(f"{error}; or is one of the published models meant{close}") from None


def read_config(folder: Path) -> Config:
    """Read a model folder's config.json; keys that are not known are no reason to refuse a plan."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileError(f"{folder}: no recipe and no model folder (config.json is missing); check the path")
    values = read_json_object(path)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        close = nearest(kind, FAMILIES) if isinstance(kind, str) else ""
        raise ConfigError(
            f"{path}: model_type {kind!r} is not supported{close}; supported are {', '.join(sorted(FAMILIES))}"
        )
    foreign = Foreign(values, path)
    try:
        return FAMILIES[kind].read_config(foreign, FAMILIES[kind].head_of(foreign))
    except ConfigError as error:
        raise error if str(path) in str(error) else ConfigError(f"{path}: {error}") from None
    except (
        OverflowError,
        ZeroDivisionError,
        TypeError,
        ValueError,
        MemoryError,
    ) as error:  # sizes that no arithmetic survives
        raise ConfigError(
            f"{path}: values that no model has ({str(error) or type(error).__name__}); fetch the file again"
        ) from None


def _of_config(config: Config, name: str) -> Subject:
    context = 1024 if isinstance(config, RecurrentConfig) else min(config.max_positions, 4096)
    return Subject(name=name, kind="model", config=config, context=context)


def _recipe(path: Path, overrides: Sequence[str]) -> Recipe:
    text = read_text(path, MAX_RECIPE)
    named = any(override.split("=")[0].strip() == "data.paths" for override in overrides)
    try:
        named |= "data" in tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        named = True  # read_recipe tells what is wrong
    return read_recipe(text, str(path), overrides if named else [*overrides, NO_TEXT])


def _of_recipe(recipe: Recipe, name: str) -> Subject:
    train = recipe.train
    config = network_config(recipe.model, vocab_size=_vocab_size(recipe), length=train.length, start_id=0, end_id=0)
    return Subject(
        name=name,
        kind="recipe",
        config=config,
        context=train.length,
        rows=train.rows,
        accumulation=train.accumulation,
        steps=train.steps,
        minutes=train.minutes,
        optimizer=train.optimizer,
        precision=train.precision,
        packed=True,
        can_recompute="recompute" in TrainSection.model_fields,
        recompute=train.recompute,
        tensor_parallel=recipe.scale.tensor_parallel,
    )


def _vocab_size(recipe: Recipe) -> int:
    if recipe.tokenizer.path is None:
        return recipe.tokenizer.vocab_size
    from yanmo.hub import resolve
    from yanmo.tokens.tokenizer import load_tokenizer

    return load_tokenizer(resolve(recipe.tokenizer.path, want="tokenizer")).vocab_size
