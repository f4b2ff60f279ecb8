"""What of a recipe can be known to be wrong, or to have no effect, before any text is read.

In: a Recipe. Out: nothing, a ConfigError of one sentence, or warnings.

    check      contradictions between sections, then settings that change nothing
    EFFECTS    keys of [objective] and the kinds that use them
"""

from __future__ import annotations

import warnings

from yanmo.errors import ConfigError
from yanmo.models.sketch import SHAPES, check_shape, network_config
from yanmo.recipe import Recipe, Section, TokenizerSection

TEXT = ("causal", "masked", "spans", "infilling")  # objectives that learn from text; the others from records
TASKS = ("labels", "tokens", "answers")  # those that learn from examples of a task (tasks/), with a head of their own
EFFECTS = {
    "share": ("masked", "spans", "infilling"),
    "span": ("spans", "infilling"),
    "way": ("masked",),
    "whole_words": ("masked",),
    "smoothing": ("seq2seq", "dpo"),
    "turns": ("chat",),
    "too_long": ("seq2seq", "chat", "dpo", "orpo"),
    "template": ("chat", "dpo", "orpo"),
    "source": ("seq2seq", "chat"),
    "target": ("seq2seq", "chat"),
    "prefix": ("seq2seq",),
    "beta": ("dpo",),
    "weight": ("orpo",),
    "teacher": ("causal", "masked", "spans", "infilling", "seq2seq", "chat"),
    "labels": ("labels", "tokens"),
    "problem": ("labels",),
    "class_weights": ("labels",),
    "stride": TASKS,
    "crf": ("tokens",),
    "nested": ("tokens",),
}


def check(recipe: Recipe) -> None:
    """Raise ConfigError for what can be known to be wrong before any text is read, and warn of what has no effect."""
    o, model = recipe.objective, recipe.model
    if recipe.train.length < 2:
        raise ConfigError("train.length is 1, at least 2 are needed: one token to read and one to predict")
    if model.path is None:
        network_config(model, vocab_size=2, length=recipe.train.length, start_id=0, end_id=1, pad_id=0)
        shape = SHAPES.get(model.family, "decoder") if model.kind == "transformer" else "decoder"
        name = f"model.family {model.family!r}" if model.kind == "transformer" else f"model.kind {model.kind!r}"
        check_shape(o.kind, shape, name)
        _check_tokenizer(recipe, shape)
        if recipe.adapter.kind != "none":
            raise ConfigError("an adapter needs a model to lie on; give model.path, or leave out [adapter]")
    elif recipe.tokenizer != TokenizerSection():
        raise ConfigError(f"{model.path} brings its own tokenizer; leave out [tokenizer]")
    if o.kind not in TEXT and recipe.adapter.bits is not None and recipe.adapter.kind == "none":
        raise ConfigError("adapter.bits keeps the weights under an adapter in fewer bits; choose an adapter.kind")
    for sentence in _without_effect(recipe):
        warnings.warn(sentence, stacklevel=3)


def _check_tokenizer(recipe: Recipe, shape: str) -> None:
    """A vocabulary that is trained has what the objective needs, or is refused before hours are spent on it."""
    if recipe.tokenizer.separate and recipe.tokenizer.path is None:
        raise ConfigError("tokenizer.separate is of the task translate; use yanmo finetune translate RECIPE DATA")
    section, needed = recipe.tokenizer, {"encoder": "wordpiece", "encoder-decoder": "unigram"}.get(shape)
    if section.path is not None:
        return
    if shape == "decoder" and section.kind == "wordpiece":
        raise ConfigError(
            "tokenizer.kind is 'wordpiece', which has no token for the end of a text; choose bpe or unigram"
        )
    if needed is not None and section.kind != needed:
        raise ConfigError(
            f"tokenizer.kind is {section.kind!r}, and an {shape} needs the frame of a {needed} vocabulary; "
            f"set tokenizer.kind={needed}"
        )


def _without_effect(recipe: Recipe) -> list[str]:
    """What is set and changes nothing; a value that is the default is no wish, as a run's own recipe has them all."""
    o, model, found = recipe.objective, recipe.model, []
    if model.path is not None:
        found += [f"model.{name} has no effect on a model that exists" for name in _set(model) - {"path", "dropout"}]
    elif model.kind != "transformer":
        idle = {"family", "heads", "kv_heads", "head_width"} & model.model_fields_set & _set(model)
        found += [f"model.{name} has no effect on the kind {model.kind!r}" for name in idle]
    idle = {name for name in _set(o) & EFFECTS.keys() if o.kind not in EFFECTS[name]}
    found += [f"objective.{name} has no effect on the kind {o.kind!r}" for name in idle]
    if o.teacher is None:
        idle = _set(o) & {"teacher_weight", "temperature"}
        found += [f"objective.{name} has no effect without objective.teacher" for name in idle]
    if recipe.adapter.kind == "none":
        found += [f"adapter.{name} has no effect without adapter.kind" for name in _set(recipe.adapter)]
    if o.kind in TEXT:
        idle, what = {"valid", "columns"}, "text"
    elif o.kind in TASKS:
        idle, what = {"columns", "text_column", "valid_share"}, "examples that were read and split before (--column)"
    else:
        idle, what = {"text_column"}, "records (objective.source and target name fields)"
    idle &= _set(recipe.data)
    found += [f"data.{name} has no effect on the objective {o.kind!r}, which learns from {what}" for name in idle]
    return sorted(found)


def _set(section: Section) -> set[str]:
    """The keys of a section whose value is not the default."""
    fields = type(section).model_fields
    return {
        name for name, field in fields.items() if getattr(section, name) != field.get_default(call_default_factory=True)
    }
