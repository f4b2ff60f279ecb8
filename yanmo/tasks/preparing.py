"""Data as people have it, a model, a task → a run that is ready to begin: its examples in RUN/data, and its recipe.

In: a task, a model (folder, hub id, a recipe's .toml, or "new"), files of examples, wishes. Out: `Prepared`.

    prepare      read → check → split → RUN/data → recipe; nothing is trained
    settings_of  what is kept with the model of a task that has no head of its own
    Wishes       what a user may say besides
    DEFAULTS     what is taken where nothing is said, by task
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from yanmo.errors import ConfigError, InputError, nearest, need
from yanmo.files import read_text
from yanmo.hub import resolve
from yanmo.models.checkpoint import load_config
from yanmo.models.config import TransformerConfig
from yanmo.recipe import MAX_RECIPE, Recipe, read_recipe, toml_value
from yanmo.runs import held
from yanmo.tasks import checks, keeping, translation
from yanmo.tasks.examples import Data, Example
from yanmo.tasks.hubdata import is_hub
from yanmo.tasks.opening import KIND_OF
from yanmo.tasks.reading import read
from yanmo.tasks.splits import split
from yanmo.tasks.stored import lines_of
from yanmo.tokens.tokenizer import load_tokenizer
from yanmo.tokens.train import train_tokenizer

NEW = "new"  # a model that is trained from nothing
LARGE = 50_000_000  # parameters, from which a smaller learning rate is taken
VOCABULARY = 8000  # of a new model's tokenizer

# tokens of a window, rows of a batch, tokens that windows share, epochs and learning rate of a small model that exists,
# and of a new one (docs/log.md); a large model takes a quarter of the rate
DEFAULTS: dict[str, dict[str, Any]] = {
    "classify": {"length": 256, "rows": 32, "stride": 64, "epochs": 3.0, "rate": 1e-4, "new": (10.0, 5e-4)},
    "extract": {"length": 256, "rows": 16, "stride": 64, "epochs": 4.0, "rate": 1e-4, "new": (20.0, 1e-3)},
    "answer": {"length": 384, "rows": 16, "stride": 128, "epochs": 3.0, "rate": 1e-4, "new": (10.0, 5e-4)},
    "translate": {"length": 128, "rows": 16, "epochs": 3.0, "rate": 1e-4, "new": (12.0, 6e-3)},
    "generate": {"length": 512, "rows": 8, "epochs": 3.0, "rate": 5e-5, "new": (10.0, 5e-4)},
}
OBJECTIVES: dict[str, dict[str, Any]] = {task: {"kind": kind} for task, kind in KIND_OF.items()} | {
    "generate": {"kind": "chat"},
}
SIZES = {"width": 256, "layers": 4, "heads": 4, "dropout": 0.1}
FAMILY: dict[str, dict[str, Any]] = {task: {"family": "bert"} for task in KIND_OF} | {
    "extract": {"family": "bert", "dropout": 0.3},
    "translate": translation.SIZES,
    "generate": {"family": "qwen3"},
}
VOCABULARIES = {"bert": "wordpiece"} | dict.fromkeys(("t5", "bart", "marian"), "unigram")  # the others: byte-level BPE
TRAIN: dict[str, Any] = {"schedule": "linear", "warmup": 0.06, "beta2": 0.999, "weight_decay": 0.01}
TRAIN |= {"save_every": 600.0, "keep": 1}  # seconds; checkpoints besides the best
AVERAGED = {"extract": 0.99}  # train.ema of a new model, which a few thousand texts would be learned by heart without
LORA = 10.0  # times the learning rate of all weights
Paths = str | Path | Sequence[str | Path]


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What may be said besides task, model and data; None and empty leave the choice to the defaults.

    columns: role → column of the data. valid, test: a file or several; without valid a share of the data is kept.
    adapter: an adapter's kind. overrides: "section.key=value" of the recipe.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    valid: Paths = ()
    test: Paths = ()
    valid_share: float = 0.1
    skip_bad: bool = False
    epochs: float | None = None
    rows: int | None = None
    length: int | None = None
    learning_rate: float | None = None
    adapter: str | None = None
    seed: int = 0
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class Prepared:
    """A run that can begin: its recipe, and the examples of each part; `data` says how they were read."""

    task: str
    recipe: Recipe
    train: list[Example]
    valid: list[Example]
    test: list[Example]
    data: Data
    kept: Mapping[str, bytes]  # what RUN/data holds, by part


def prepare(
    task: str,
    model: str | Path,
    data: Paths,
    out: str | Path,
    wishes: Wishes,
    understood: Callable[[Data], None] | None = None,
) -> Prepared:
    """Make RUN/data and the recipe; every mistake that can be known is told before anything is trained.

    understood: hears what the files were taken for, before they are used.
    """
    if task not in DEFAULTS:
        raise InputError(f"no task {task!r} to train{nearest(task, DEFAULTS)}; there are {', '.join(DEFAULTS)}")
    need("sklearn", "tasks", "a task")
    _check_numbers(wishes)
    sources = [_listed(paths) for paths in (data, wishes.valid, wishes.test)]
    read_data = read(task, sources[0], columns=wishes.columns, skip_bad=wishes.skip_bad)
    if understood is not None:
        understood(read_data)
    parts = _parts(task, read_data, wishes)
    known = Data(parts["train"] if task == "classify" else read_data.examples, read_data.understood)
    for name, part in (("valid", "validation"), ("test", "test")):  # what training does not know is told, or left out
        if parts[name]:
            other = Data(parts[name], read_data.understood, read_data.bad)
            checks.check(known, other, skip_bad=wishes.skip_bad, part=part)
            parts[name] = other.examples
    folder = Path(out)
    _check_apart(*sources)
    keeping.check_place(folder, [*chain(*sources)])
    kept = {name: kept_lines(task, part).encode() for name, part in parts.items() if part}
    with held(folder):
        keeping.keep(kept, folder)
        base = _base(task, model, parts["train"], folder)
        files = {name: str(keeping.place_of(folder, name)) for name in kept}
        recipe = _recipe(task, base, files, len(parts["train"]), wishes)
        keeping.follow(folder, recipe)
        test = parts["test"] or keeping.kept_test(task, folder)
    return Prepared(task, recipe, parts["train"], parts["valid"], test, read_data, kept)


def _check_numbers(wishes: Wishes) -> None:
    for name in ("epochs", "rows", "length", "learning_rate"):
        value = getattr(wishes, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"--{name.replace('_', '-')} is {value}, and a number above 0 is needed")


def _listed(paths: Paths) -> list[str | Path]:
    return [paths] if isinstance(paths, (str, Path)) else list(paths)


def _check_apart(data: Sequence[str | Path], valid: Sequence[str | Path], test: Sequence[str | Path]) -> None:
    """Refuse to choose or judge by files that are learned from: their figures would say nothing."""
    for option, paths, instead in (("valid", valid, "a part of training"), ("test", test, "validation")):
        path = next((path for path in paths if any(_same(path, learned) for learned in data)), None)
        if path is not None:
            raise InputError(
                f"{path}: is named as --{option}, and learned from too; leave --{option} out, and {instead} is taken"
            )


def _same(one: str | Path, other: str | Path) -> bool:
    """Whether two name the same data, or one lies in the other."""
    if is_hub(one) or is_hub(other):
        return str(one) == str(other)
    places = Path(one).resolve(), Path(other).resolve()
    return places[0].is_relative_to(places[1]) or places[1].is_relative_to(places[0])


def settings_of(prepared: Prepared) -> dict[str, Any]:
    """task.json of a task without a head of its own."""
    length = prepared.recipe.train.length
    if prepared.task == "translate":
        return translation.settings_of(prepared.train, length=length, prefix=prepared.recipe.objective.prefix)
    return {"task": prepared.task, "length": length}


def _parts(task: str, data: Data, wishes: Wishes) -> dict[str, list[Example]]:
    """Training, validation and test examples; ids of all parts are told apart by their file."""
    more = {"columns": wishes.columns, "skip_bad": wishes.skip_bad}
    parts = {"train": data.examples, "valid": [], "test": []}
    for name, paths in (("valid", _listed(wishes.valid)), ("test", _listed(wishes.test))):
        parts[name] = read(task, paths, **more).examples if paths else []  # type: ignore[arg-type]
    if not parts["valid"]:
        parts["train"], parts["valid"] = split(data.examples, wishes.valid_share, wishes.seed)
        if not parts["train"] or not parts["valid"]:
            raise InputError(
                f"{len(data.examples)} examples cannot be split into training and validation; give more, or --valid"
            )
    return parts


def kept_lines(task: str, part: Sequence[Example]) -> str:
    """What a run's file holds: examples, or the records that its objective reads."""
    if task != "generate":
        return lines_of(part)
    records = [{"messages": list(e.messages or _turns(e)), "id": e.id} for e in part]
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _turns(example: Example) -> list[dict[str, str]]:
    return [{"role": "user", "content": example.text}, {"role": "assistant", "content": example.target or ""}]


# --- the recipe


@dataclass(frozen=True)
class _Base:
    """What is trained: sections of a recipe, how many tokens it reads at most (0: as wanted), and its size class."""

    sections: dict[str, dict[str, Any]]
    positions: int = 0
    kind: str = "small"  # small, large, new


def _base(task: str, model: str | Path, train: Sequence[Example], folder: Path) -> _Base:
    """The sections [model] and [tokenizer], and others that a recipe brings."""
    name = str(model)
    if name == NEW or name.endswith(".toml"):
        sections: dict[str, dict[str, Any]] = {"model": SIZES | FAMILY[task]} if name == NEW else _sections(Path(name))
        if sections.get("model", {}).get("path") is None:
            sections |= _of_task(task, sections, train, folder, new="path" not in sections.get("tokenizer", {}))
            return _Base(sections, kind="new")
        name = str(sections["model"]["path"])
        base = _base(task, name, train, folder)
        return _Base(sections, base.positions, base.kind)
    found = resolve(name)
    config = load_config(found)[1]
    load_tokenizer(found)
    count = 12 * config.width**2 * max(getattr(config, "encoder_layers", 0) + getattr(config, "decoder_layers", 0), 1)
    large = isinstance(config, TransformerConfig) and count > LARGE
    sections = {"model": {"path": name}} | _of_task(task, {}, train, folder, new=False)
    return _Base(sections, config.max_positions, "large" if large else "small")


def _sections(path: Path) -> dict[str, dict[str, Any]]:
    try:
        values = tomllib.loads(read_text(path, MAX_RECIPE))
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: not TOML ({error}); see recipes/ for examples") from None
    for name in ("data", "objective"):
        if values.pop(name, None) is not None and name == "objective":
            raise ConfigError(f"{path}: has an [objective], and the task says it; leave the section out")
    return values


def _of_task(
    task: str, sections: Mapping[str, Any], train: Sequence[Example], folder: Path, *, new: bool
) -> dict[str, dict[str, Any]]:
    """The objective, and of a new model the tokenizer, which is trained on the training texts; made once."""
    place = folder / "data" / "tokenizer"
    said = sections.get("tokenizer", {})
    if task == "translate":
        known = {k: said[k] for k in ("kind", "vocab_size", "separate") if k in said}
        return translation.prepare(train, place, new=new, **known)
    objective = dict(OBJECTIVES[task])
    if not new:
        return {"objective": objective}
    kind = said.get("kind", VOCABULARIES.get(sections.get("model", {}).get("family", ""), "bpe"))
    if not place.is_dir():
        texts = (text for e in train for text in (e.text, e.text_pair, e.question, e.target) if text)
        made = train_tokenizer(texts, kind, said.get("vocab_size", VOCABULARY), lowercase=task != "extract")
        made.save(place)
    return {"objective": objective, "tokenizer": {"path": str(place)}}


def _recipe(task: str, base: _Base, files: Mapping[str, str], examples: int, wishes: Wishes) -> Recipe:
    """The recipe of a task: defaults, then what the base brings, then what was said."""
    train = _train(task, base, examples, wishes)
    sections = {name: dict(values) for name, values in base.sections.items()}
    if wishes.adapter is not None:
        sections["adapter"] = {"kind": wishes.adapter, "rank": 16, "alpha": 32.0}
    sections["train"] = train
    sections["data"] = {"paths": [files["train"]], "valid": [files["valid"]]}
    if "stride" in DEFAULTS[task]:
        sections["objective"]["stride"] = min(DEFAULTS[task]["stride"], train["length"] // 4)
    blocks = [[f"[{name}]", *(f"{k} = {toml_value(v)}" for k, v in part.items())] for name, part in sections.items()]
    return read_recipe("\n".join(chain.from_iterable(blocks)), f"the recipe of {task}", list(wishes.overrides))


def _train(task: str, base: _Base, examples: int, wishes: Wishes) -> dict[str, Any]:
    """[train]: how long and how fast, with an evaluation after each half of an epoch."""
    usual = DEFAULTS[task]
    epochs, rate = usual["new"] if base.kind == "new" else (usual["epochs"], usual["rate"])
    rate = rate / 4 if base.kind == "large" else rate
    rate = rate if wishes.adapter is None else rate * LORA
    length = min(usual["length"], base.positions or usual["length"])
    found = TRAIN | {"length": length, "rows": usual["rows"], "learning_rate": rate, "seed": wishes.seed}
    if base.kind == "new" and task in AVERAGED:
        found["ema"] = AVERAGED[task]
    found |= translation.TRAINING if task == "translate" and base.kind == "new" else {}
    found |= base.sections.get("train", {})
    said = {name: getattr(wishes, name) for name in ("epochs", "rows", "length", "learning_rate")}
    found |= {name: value for name, value in said.items() if value is not None}
    if wishes.epochs is not None:
        found = {name: value for name, value in found.items() if name not in ("steps", "minutes")}
    elif not found.keys() & {"steps", "minutes", "epochs"}:
        found["epochs"] = epochs
    return {"eval_every": max(20, round(examples / found["rows"] / 2))} | found
