"""README.md of a trained model: what it is, what it learned from under which licence, how well, and its recipe.

In: a recipe, the plan, the result, what is known of the data. Out: Markdown with the hub's front matter.
"""

from __future__ import annotations

from typing import Any

from yanmo import __version__
from yanmo.recipe import Recipe, dump_recipe

TASKS = {"masked": "fill-mask", "seq2seq": "text2text-generation", "spans": "text2text-generation"}
TASKS["infilling"] = "text2text-generation"  # the rest write text
TASKS |= {"labels": "text-classification", "tokens": "token-classification", "answers": "question-answering"}


def model_card(recipe: Recipe, plan: dict[str, Any], result: dict[str, Any], source: dict[str, Any]) -> str:
    """The card; `source` is the card of the corpus, or names the shards or the files of records."""
    kind = recipe.objective.kind
    adapter = recipe.adapter.kind != "none"
    library = "peft" if adapter else "transformers" if recipe.model.kind == "transformer" else "yanmo"
    base = f"base_model: {recipe.model.path}\n" if recipe.model.path else ""
    what = f"An adapter ({recipe.adapter.kind})" if adapter else f"A {recipe.model.kind}"
    made = f"Fine-tuned from {recipe.model.path}" if recipe.model.path else "Trained from nothing"
    return f"""---
library_name: {library}
pipeline_tag: {TASKS.get(kind, "text-generation")}
{base}---

# {what} of {result["parameters"]:,} parameters

{made} by Yanmo {__version__} (objective: {kind}).

{_source(source)}

A model can repeat parts of its training text, so the licences of the text bear on what it writes.

## Measured

{_scores(result)} after step {result["step"]:,} of {plan["tokens_per_step"]:,} tokens each.

## Recipe

```toml
{dump_recipe(recipe)}```
"""


def _scores(result: dict[str, Any]) -> str:
    if "bits_per_byte" in result:
        return (
            f"{result['bits_per_byte']:.4f} bits per byte of the validation documents "
            f"({result['valid_loss']:.4f} nats per token)"
        )
    known = ("step", "valid_loss", "valid_error", "valid_targets", "valid_tokens", "parameters")
    more = "".join(f", {n} {v:.4f}" for n, v in result.items() if isinstance(v, float) and n not in known)
    return f"A loss of {result['valid_loss']:.4f} per target on what was kept for validation{more}"


def _source(source: dict[str, Any]) -> str:
    if "splits" in source:
        licenses = "\n".join(f"| {_cell(name)} | {count:,} |" for name, count in source["license"].items())
        splits = source["splits"]
        return f"""## Corpus

{splits["train"]["documents"]:,} documents of {splits["train"]["bytes"]:,} bytes for training,
{splits["valid"]["documents"]:,} of {splits["valid"]["bytes"]:,} bytes kept apart for validation.

| licence of the text | documents |
| --- | --- |
{licenses}"""
    if "shards" in source:
        return "## Corpus\n\nToken shards: " + ", ".join(_cell(name) for name in source["shards"]) + "."
    rows = [f"| {_cell(f['name'])} | {f['records']:,} | {f['sha256'][:16]} |" for f in source["files"]]
    files = "\n".join(rows)
    return f"""## Data

{source["train_records"]:,} records for training, {source["valid_records"]:,} for validation.

| file | records | SHA-256 begins |
| --- | --- | --- |
{files}"""


def _cell(text: str) -> str:
    flat = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "|`*_[]<>#\\" else letter for letter in flat)
