"""Recipes: what a user writes to train a model.

In: a TOML file, and overrides "section.key=value". Out: a checked, frozen Recipe; the same as TOML again.

    load_recipe      file + overrides → Recipe; the first mistake is one sentence, with the nearest key
    read_recipe      TOML text → Recipe
    dump_recipe      Recipe → TOML: what a run folder keeps
    identity         the same without [scale]

Every key has a default but [data] paths, and [train] needs one of steps, epochs and minutes. Paths are taken from the
folder in which the command runs, as everywhere on a command line. [scale] says how a run is spread over processes,
which may change while it goes on: `identity` is the recipe without it, and what makes a run the same run.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from yanmo.errors import ConfigError, nearest
from yanmo.files import read_text

MAX_RECIPE = 1 << 20
Whole = Annotated[int, Field(ge=1, le=2**31)]
Share = Annotated[float, Field(ge=0, le=1)]
EXCLUSIVE = {("tokenizer", "path"): ("vocab_size",)} | {
    ("train", name): tuple({"steps", "epochs", "minutes"} - {name}) for name in ("steps", "epochs", "minutes")
}


class Section(BaseModel):
    """What all sections share: no unknown key, no silent conversion, no change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ModelSection(Section):
    """The network: `path`, a model to go on from, which brings its own sizes and tokenizer, or a new one.

    `family` is the public format of a new transformer; the other kinds have Yanmo's own.
    """

    path: str | None = None  # a model folder, a run folder or a hub id
    kind: Literal["transformer", "lstm", "gru", "rnn"] = "transformer"
    family: Literal["llama", "qwen3", "gpt2", "bert", "t5", "bart", "marian"] = "qwen3"
    width: Whole = 256
    layers: Annotated[int, Field(ge=1, le=4096)] = 6  # t5, bart, marian: of the encoder, and as many of the decoder
    heads: Whole = 4
    kv_heads: Whole | None = None  # as many as heads
    head_width: Whole | None = None  # width / heads
    ffn_width: Whole | None = None  # 4 width; llama, qwen3: 8/3 width, a multiple of 32; recurrent: width of the state
    tie_embeddings: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class TokenizerSection(Section):
    """A tokenizer that exists (`path`), or one that is trained on the training documents."""

    path: str | None = None
    kind: Literal["bpe", "wordpiece", "unigram"] = "bpe"
    vocab_size: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    separate: bool = False  # of the task translate: a model of pieces for each side, over one table of ids (Marian's)


class DataSection(Section):
    """Text files, folders of them, corpus folders or token shards; for seq2seq, chat, dpo and orpo files of records.

    `valid_share` of the documents or records are kept for validation, unless files of records are named in `valid`.
    """

    paths: list[str] = Field(min_length=1)
    valid: list[str] = Field(default_factory=list)
    columns: list[str] = Field(default_factory=list)  # names, for .csv and .tsv files that have no line of them
    text_column: list[str] = Field(default_factory=list)  # names of columns of texts; the first that is there
    valid_share: Annotated[float, Field(gt=0, lt=1)] = 0.05


class ObjectiveSection(Section):
    """What is learned. Keys that a kind does not use have no effect, and a warning says so.

    causal: the next token · masked: what is hidden (BERT) · spans, infilling: what is missing (T5, BART) · seq2seq: the
    target of a source · chat: the answers of conversations · dpo, orpo: the better one of two answers · labels, tokens,
    answers: what texts are, what their words are, where a question is answered. With a `teacher` those from causal to
    chat learn what a larger model thinks as well.
    """

    kind: Literal[
        "causal", "masked", "spans", "infilling", "seq2seq", "chat", "dpo", "orpo", "labels", "tokens", "answers"
    ] = "causal"
    share: Annotated[float, Field(gt=0, lt=1)] | None = None  # hidden: 0.15, infilling 0.3
    span: Annotated[float, Field(ge=1)] = 3.0  # spans, infilling: tokens of a span on average
    way: Literal["bert", "mask"] = "bert"  # masked: 80 % mask, 10 % random, 10 % as they are; or all mask
    whole_words: bool = False  # masked; Chinese words too
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0  # seq2seq: of labels; dpo: share of wrongly labelled pairs
    turns: Literal["all", "last", "each"] = "all"  # chat: which answers are learned
    too_long: Literal["skip", "cut", "error"] = "skip"  # of records: what does not fit into a row; cut: chat alone
    template: str | None = None  # chat, dpo, orpo: "plain", or a .jinja file; none: the model's own, else plain
    source: str | None = None  # seq2seq, chat: the field of a record that is read; none: source, or a known name
    target: str | None = None  # the field that is written
    prefix: str = ""  # seq2seq: text before each source, as T5's "translate English to German: "
    beta: Annotated[float, Field(gt=0)] = 0.1  # dpo: strength of the tie to the model at the start
    weight: Annotated[float, Field(gt=0)] = 0.1  # orpo: of the preference
    teacher: str | None = None  # causal, masked, spans, infilling, seq2seq, chat: a model with the same tokenizer
    teacher_weight: Share = 0.5
    temperature: Annotated[float, Field(gt=0)] = 2.0  # of the teacher
    labels: list[str] = Field(default_factory=list)  # labels, tokens: the head's, in its order; none: the data's
    problem: Literal["auto", "single", "multi", "regression"] = "auto"  # labels: one, several, or a number each
    class_weights: Literal["none", "balanced"] = "none"  # labels: balanced counts rare ones more
    stride: Annotated[int, Field(ge=0)] = 64  # labels, tokens, answers: tokens that two windows of a long text share
    crf: bool = False  # tokens: transitions between tags are learned (Lample et al. 2016)
    nested: bool = False  # tokens: spans may lie in each other


class AdapterSection(Section):
    """A few weights that learn in place of all (LoRA and its kin); `bits` keeps the others quantised (QLoRA)."""

    kind: Literal["none", "lora", "rslora", "dora", "rsdora"] = "none"
    rank: Whole = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: list[str] = Field(default_factory=list)  # none: all matrices of a decoder, query and value of others
    bits: Literal[4, 8] | None = None


class TrainSection(Section):
    """How to train. A step reads rows × length × accumulation tokens."""

    rows: Whole = 16
    length: Whole = 256
    accumulation: Whole = 1
    steps: Whole | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None  # times over the training data
    minutes: Annotated[float, Field(gt=0)] | None = None
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95  # Muon's; 0.9 learns more in a few hundred steps
    schedule: Literal["wsd", "cosine", "linear"] = "wsd"
    warmup: Share = 0.02  # share of the run
    decay: Share = 0.3  # wsd: share of the run
    floor: Share = 0.0  # share of the learning rate
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    clip: Annotated[float, Field(ge=0)] = 1.0  # 0: none
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    eval_every: Whole = 200  # steps
    save_every: Annotated[float, Field(gt=0)] = 300.0  # seconds; each evaluated step is saved as well
    keep: Annotated[int, Field(ge=1, le=1000)] = 2  # checkpoints, besides the best one
    patience: Annotated[int, Field(ge=0, le=2**31)] = 0  # evaluations in a row that may be no better; 0: to the end
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the averaged weights, which are evaluated; 0: none
    recompute: bool = False  # activations in the backward pass: less memory, a third more time
    compile: bool = False  # torch.compile
    tensorboard: bool = False  # event files in RUN/events

    @model_validator(mode="after")
    def _one_length(self) -> TrainSection:
        if sum(value is not None for value in (self.steps, self.epochs, self.minutes)) != 1:
            raise ValueError("give either steps, epochs or minutes")
        return self


class ScaleSection(Section):
    """How a run is spread over the processes of torchrun. Rows, and so the steps, stay those of the whole run."""

    shard: Literal["auto", "none", "full"] = "auto"  # full: each rank holds a part of weights and optimizer
    tensor_parallel: Whole = 1  # ranks that share each matrix of a decoder
    check_memory: bool = True  # refuse a run whose plan does not fit into this machine


class Recipe(Section):
    """Everything that a run depends on but the text itself."""

    model: ModelSection = ModelSection()
    tokenizer: TokenizerSection = TokenizerSection()
    data: DataSection
    objective: ObjectiveSection = ObjectiveSection()
    adapter: AdapterSection = AdapterSection()
    train: TrainSection
    scale: ScaleSection = ScaleSection()


SECTIONS: dict[str, type[Section]] = {
    "model": ModelSection,
    "tokenizer": TokenizerSection,
    "data": DataSection,
    "objective": ObjectiveSection,
    "adapter": AdapterSection,
    "train": TrainSection,
    "scale": ScaleSection,
}


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and change it by overrides such as "train.steps=10" or "data.paths=[a.txt, b.txt]".

    A value is TOML, or a plain word, which is a string. An override of steps takes the place of the file's minutes or
    epochs, and the other way round. Raises FileError for a file that cannot be read, else ConfigError of one sentence.
    """
    return read_recipe(read_text(path, MAX_RECIPE), str(path), overrides)


def read_recipe(text: str, source: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """The same from TOML text; `source` names it in errors."""
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"{source}: not TOML ({error}); see recipes/ for examples") from None
    given = [override(each, SECTIONS) for each in overrides]
    for section, key, value in given:
        table = values.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{source}: {section} is {table!r:.40}, a section [{section}] is needed")
        for other in EXCLUSIVE.get((section, key), ()):
            if not any((section, other) == (s, k) for s, k, _ in given):
                table.pop(other, None)
        table[key] = value
    for section, key in (
        ("data", "paths"),
        ("data", "valid"),
        ("data", "columns"),
        ("data", "text_column"),
        ("adapter", "targets"),
        ("objective", "labels"),
    ):
        table = values.get(section)
        if isinstance(table, dict) and isinstance(table.get(key), str):  # one of them needs no brackets
            table[key] = [table[key]]
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {mistake(error, SECTIONS)}") from None


def override(text: str, sections: Mapping[str, type[Section]]) -> tuple[str, str, Any]:
    """Split "section.key=value"; ConfigError names the nearest where one of them is unknown."""
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise ConfigError(f"the override {text!r} is not of the form section.key=value, e.g. train.steps=100")
    if section not in sections:
        raise ConfigError(f"the override {text!r} names no section{nearest(section, sections)}: {', '.join(sections)}")
    if key not in sections[section].model_fields:
        known = sections[section].model_fields
        raise ConfigError(
            f"the override {text!r} names an unknown key{nearest(key, known)}; [{section}] has {', '.join(known)}"
        )
    return section, key, _value(value.strip())


def _value(text: str) -> Any:
    """A TOML value; what is none is taken as a word, and [a, b] as a list of words: shells eat quotation marks."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        if text.startswith("[") and text.endswith("]"):
            return [part.strip().strip("'\"") for part in text[1:-1].split(",") if part.strip()]
        return text


KINDS = {  # what pydantic calls a mistake → what is needed, in our words
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text in quotation marks",
    "bool_type": "true or false",
    "list_type": "a list of texts",
    "model_type": "a section",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "one of {expected}",
    "finite_number": "a finite number",
}


def mistake(error: ValidationError, sections: Mapping[str, type[Section]]) -> str:
    """The first mistake as one sentence, and the number of others; misspelt names come before what they leave out."""
    first, *others = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    place, kind = [str(part) for part in first["loc"]], first["type"]
    name, more = ".".join(place), f" (and {len(others)} more)" if others else ""
    if kind == "extra_forbidden":
        known = list(sections) if len(place) == 1 else list(sections[place[0]].model_fields)
        what = "section" if len(place) == 1 else "key"
        return f"unknown {what} {name}{nearest(place[-1], known)}; known are {', '.join(known)}{more}"
    if place[0] == "data" and kind in ("missing", "too_short"):
        return f'no text is named; write [data] paths = ["my-text.txt"], or give data.paths=my-text.txt{more}'
    if kind == "missing":
        return f"the section [{name}] is missing; it needs steps, epochs or minutes{more}"
    if kind == "value_error":
        return f"[{name}]: {first['ctx']['error']}{more}"
    needed = KINDS[kind].format(**first.get("ctx", {})) if kind in KINDS else first["msg"]
    return f"{name} is {first.get('input')!r:.60}, {needed} is needed{more}"


def identity(recipe: Recipe) -> str:
    """The TOML of everything but [scale]: what two recipes of the same run have in common."""
    return dump_recipe(recipe, [section for section in SECTIONS if section != "scale"])


def dump_recipe(recipe: Recipe, sections: Sequence[str] = tuple(SECTIONS)) -> str:
    """Write a recipe as TOML, every key that has a value included; `read_recipe` gives the same recipe back."""
    blocks = []
    for section in sections:
        values = getattr(recipe, section).model_dump()
        lines = [f"{key} = {toml_value(value)}" for key, value in values.items() if value is not None]
        blocks.append("\n".join([f"[{section}]", *lines]))
    return "\n\n".join(blocks) + "\n"


def toml_value(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        assert math.isfinite(value)
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{value!r} has characters that no text file can hold; rename the file") from None
    return '"' + "".join(_escaped(letter) for letter in value) + '"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    return f"\\u{ord(letter):04X}" if ord(letter) < 32 or ord(letter) == 127 else letter
