"""What is planned: a recipe, a model folder, a hub id or a published model's name → a config and how it is trained.

read_subject    what a user typed, or a Recipe, or a config → Subject
read_config     config.json → config, through the families alone: no torch
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from yanmo.errors import ConfigError, Error, FileError, InputError, nearest
from yanmo.files import read_json_object, read_text
from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.models.families.catalog import FAMILIES
from yanmo.models.families.table import Foreign
from yanmo.models.sketch import check_shape, network_config
from yanmo.plan.method import Config, Method, of_recipe, usual
from yanmo.plan.published import PUBLISHED, Published
from yanmo.recipe import MAX_RECIPE, Recipe, read_recipe

NO_TEXT = "data.paths=[none]"  # a plan needs no text


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A config and how it is trained; None where nothing says it.

    rows: of one device, or where they are `shared`, as a recipe's are, of all together. shard, tensor: how several
    devices share the weights (recipe.py ScaleSection).
    """

    name: str
    kind: str  # "recipe", "model" or "published"
    config: Config
    context: int
    method: Method = Method()
    rows: int = 1
    shared: bool = False
    accumulation: int = 1
    steps: int | None = None
    minutes: float | None = None
    tokens: float | None = None
    precision: str = "auto"
    recompute: bool = False
    shard: str = "full"
    tensor: int = 1
    published: Published | None = None


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
            method=usual(published.config),
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
    return Subject(name=name, kind="model", config=config, context=context, method=usual(config))


def _recipe(path: Path, overrides: Sequence[str]) -> Recipe:
    text = read_text(path, MAX_RECIPE)
    named = any(override.split("=")[0].strip() == "data.paths" for override in overrides)
    try:
        named |= "data" in tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        named = True  # read_recipe tells what is wrong
    return read_recipe(text, str(path), overrides if named else [*overrides, NO_TEXT])


def _of_recipe(recipe: Recipe, name: str) -> Subject:
    config = _opened(recipe) if recipe.model.path is not None else _new(recipe)
    teacher = None if recipe.objective.teacher is None else _config_of(recipe.objective.teacher)
    return of_recipe_and_config(recipe, config, name, teacher)


def of_recipe_and_config(recipe: Recipe, config: Config, name: str, teacher: Config | None = None) -> Subject:
    """The subject of a recipe whose network is known."""
    train = recipe.train
    return Subject(
        name=name,
        kind="recipe",
        config=config,
        context=train.length,
        method=of_recipe(recipe, config, teacher),
        rows=train.rows,
        shared=True,
        accumulation=train.accumulation,
        steps=train.steps,
        minutes=train.minutes,
        precision=train.precision,
        recompute=train.recompute,
        shard=recipe.scale.shard,
        tensor=recipe.scale.tensor_parallel,
    )


def _new(recipe: Recipe) -> Config:
    """The config of a network that is trained from nothing."""
    config = network_config(
        recipe.model, vocab_size=_vocab_size(recipe), length=recipe.train.length, start_id=0, end_id=0, pad_id=0
    )
    check_shape(recipe.objective.kind, _shape(config), f"the model of this recipe ({recipe.model.family})")
    return config


def _opened(recipe: Recipe) -> Config:
    """The config of the model that a recipe starts from, with the head that its objective needs (training/build.py)."""
    name, length = str(recipe.model.path), recipe.train.length
    config = _config_of(name)
    check_shape(recipe.objective.kind, _shape(config), f"the model {name}")
    if isinstance(config, RecurrentConfig):
        return config
    if length > config.max_positions:
        raise ConfigError(
            f"train.length is {length}, and the model {name} reads {config.max_positions} tokens at most; "
            f"set train.length={config.max_positions}"
        )
    return replace(config, head="masked" if recipe.objective.kind == "masked" else "causal")


def _shape(config: Config) -> str:
    return config.kind if isinstance(config, TransformerConfig) else "decoder"


def _config_of(name: str) -> Config:
    """The config of a model folder, a hub id, or a published model."""
    if name.lower() in PUBLISHED and not Path(name).exists():
        return PUBLISHED[name.lower()].config
    return read_config(_folder(name))


def _vocab_size(recipe: Recipe) -> int:
    if recipe.tokenizer.path is None:
        return recipe.tokenizer.vocab_size
    from yanmo.hub import resolve
    from yanmo.tokens.tokenizer import load_tokenizer

    return load_tokenizer(resolve(recipe.tokenizer.path, want="tokenizer")).vocab_size
