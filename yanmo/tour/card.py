"""The model card of a tour: README.md with what the model is, what it learned from under which licence, and how well.

In: the kept results. Out: Markdown with a YAML header that the Hugging Face hub reads.
"""

from __future__ import annotations

import json
from typing import Any

from yanmo import __version__
from yanmo.tour.folder import Tour

UNKNOWN = "not stated"


def model_card(tour: Tour, name: str, result: dict[str, Any]) -> str:
    """The text of README.md; foreign words stand in quotes or tables, where they cannot become structure."""
    corpus, tokens, machine = (tour.stages[stage] for stage in ("corpus", "tokens", "machine"))
    licenses = [license for license, _ in corpus["licenses"]]
    stated = [license for license in licenses if license != UNKNOWN]
    languages = [language for language, _ in corpus["languages"] if language != UNKNOWN]
    header = ["---", "library_name: transformers" if name == "Transformer" else "library_name: yanmo"]
    header += ["pipeline_tag: text-generation", "license: other" if stated else "license: unknown"]
    if stated:
        header.append(f"license_name: {_quoted(', '.join(stated))}")
    if languages:
        header += ["language:", *[f"- {_quoted(language)}" for language in languages]]
    header.append("---")
    listed = "\n".join(
        f"| {_cell(license) if license != UNKNOWN else 'not stated'} | {count:,} |"
        for license, count in corpus["licenses"]
    )
    return (
        "\n".join(header)
        + f"""

# A {name} of {result["parameters"]:,} parameters

Trained by `yanmo tour` (Yanmo {__version__}) in {result["train_seconds"]:.0f} seconds on {_cell(machine["name"])}.
It shows what raw text becomes in minutes: it imitates the style of its corpus and knows nothing. Do not rely on what
it writes.

## Corpus

{_cell(corpus["source"])}: {corpus["train_documents"]:,} documents, {corpus["train_bytes"]:,} bytes for training;
{corpus["valid_documents"]:,} documents, {corpus["valid_bytes"]:,} bytes kept apart for validation.

| licence of the text | documents |
| --- | --- |
{listed}

A model can repeat parts of its training text, so the licences of the text bear on what it writes.

## Measured

| | |
| --- | --- |
| bits per byte of {tokens["valid_documents"]:,} validation documents | {result["bits_per_byte"]:.4f} |
| tokens read | {result["tokens"]:,} ({result["epochs"]:.2f} times the training text) |
| steps | {result["steps"]:,} |
| shape | {result["shape"]} |
| vocabulary | byte-level BPE, {tokens["vocab_size"]:,} tokens, {tokens["bytes_per_token"]:.2f} bytes per token |

The rows that it was trained on have {tour.stages["plan"]["length"]} tokens; longer texts are new to it.
"""
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a YAML string


def _cell(text: str) -> str:
    """Text on one line of a Markdown table, without markup of its own."""
    flat = " ".join(text.split())
    return "".join(f"\\{c}" if c in "|`*_[]<>#\\" else c for c in flat)
