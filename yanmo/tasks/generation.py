"""Generate: texts that go on, answers of a chat model, code between two pieces of code, JSON that keeps to a schema.

In: a model that writes, settings, rows with `text` (a prompt), `messages`, or `prefix` and `suffix`. Out: rows with
`text`.

    predict     model, settings, rows → texts
    infilling   how a vocabulary marks the place between a prefix and a suffix

How the text is chosen is said by the options of `Model.generate`, in the settings or in a row: temperature,
penalty_alpha (contrastive search), json_schema, regex, choices, stop and the others; `beams` ranks whole texts instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from yanmo.errors import InputError
from yanmo.inference.generate import Ends
from yanmo.tokens.chat import chat_ids
from yanmo.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from yanmo.inference.model import Model

OWN = {"task", "format", "length", "problem", "stride", "mode", "batch", "id", "text", "messages", "prefix", "suffix"}
MODES = ("auto", "chat", "plain")
BATCH = 16  # texts that are written side by side
# the tokens before prefix, suffix and middle, as public models for code call them
FILLERS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
)
LATER = ("<|file_sep|>", "<file_sep>", "<|repo_name|>", "<|cursor|>", "<|fim_pad|>", "▁<EOT>", "<|endoftext|>")


def predict(model: Model, settings: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write a text for each row, `id` and `text`; with n or beams above 1 `texts` too.

    settings: mode (auto: a chat where the tokenizer has a template; chat; plain) and the options of Model.generate.
    A row's own keys of that kind (max_new_tokens, json_schema, seed …) come before the settings.
    """
    mode = settings.get("mode", "auto")
    if mode not in MODES:
        raise InputError(f"mode is {mode!r}, and must be one of {', '.join(MODES)}")
    model.check_writes()
    common = {name: value for name, value in settings.items() if name not in OWN and value is not None}
    found: list[dict[str, Any] | None] = [None] * len(rows)
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(repr(_kind(row)) + repr(sorted(_own(row).items(), key=str)), []).append(number)
    for places in groups.values():  # rows with the same options and ends are written side by side
        options = common | _own(rows[places[0]])
        writer = model if _kind(rows[places[0]]) != "infill" else _filler(model)
        for begin in range(0, len(places), BATCH):
            chunk = places[begin : begin + BATCH]
            prompts = [_prompt(model, mode, rows[place]) for place in chunk]
            for place, texts in zip(chunk, _write(writer, prompts, options)):
                row = rows[place]
                found[place] = ({"id": row["id"]} if "id" in row else {}) | {"text": texts[0]}
                found[place] |= {"texts": texts} if len(texts) > 1 else {}  # type: ignore[operator]
    return [one for one in found if one is not None]


def _own(row: dict[str, Any]) -> dict[str, Any]:
    """The options that a row brings; other fields of people's files are left alone."""
    known = ("max_new_tokens", "temperature", "top_k", "top_p", "seed", "stop", "json_schema", "regex", "choices")
    return {name: row[name] for name in known if row.get(name) is not None}


def _kind(row: dict[str, Any]) -> str:
    given = [kind for kind in ("text", "messages", "suffix") if row.get(kind) is not None]
    if len(given) != 1:
        raise InputError(
            f"row {row.get('id')!r} has {' and '.join(given) or 'nothing to go on from'}; give text, or messages, or "
            "prefix and suffix"
        )
    return "infill" if given[0] == "suffix" else given[0]


def _write(model: Model, prompts: Sequence[Any], options: dict[str, Any]) -> list[list[str]]:
    found = model.search(prompts, **options) if "beams" in options else model.generations(prompts, **options)
    return [[one.text for one in group] for group in found]


# --- prompts


def _prompt(model: Model, mode: str, row: dict[str, Any]) -> str | list[int]:
    """What the model reads: a text, or the ids of a conversation."""
    kind = _kind(row)
    if kind == "infill":
        return _between(model.tokenizer, row)
    value = row[kind]
    if kind == "text" and not isinstance(value, str):
        raise InputError(f"row {row.get('id')!r}: text is {type(value).__name__}, and must be a string")
    chats = model.tokenizer.chat_template is not None and model.config.kind == "decoder"
    if kind == "text" and (mode == "plain" or (mode == "auto" and not chats)):
        return value
    messages = value if kind == "messages" else [{"role": "user", "content": value}]
    try:
        return chat_ids(model.tokenizer, messages)
    except InputError as error:
        raise InputError(f"row {row.get('id')!r}: {error}") from None


def infilling(tokenizer: Tokenizer) -> tuple[str, str, str] | None:
    """The tokens before prefix, suffix and middle of a vocabulary that has them."""
    return next((names for names in FILLERS if all(tokenizer.id(name) is not None for name in names)), None)


def _between(tokenizer: Tokenizer, row: dict[str, Any]) -> str:
    names = infilling(tokenizer)
    if names is None:
        raise InputError(
            "the model's vocabulary has no tokens for infilling (such as <|fim_prefix|>), so it was not taught to "
            "write between two texts; take a model for code, or give a prompt"
        )
    parts = [row.get("prefix") or "", row["suffix"]]
    for name, part in zip(("prefix", "suffix"), parts):
        if not isinstance(part, str):
            raise InputError(f"row {row.get('id')!r}: {name} is {type(part).__name__}, and must be a string")
        spelt = next((token for token in names if token in part), None)
        if spelt is not None:
            raise InputError(f"row {row.get('id')!r}: {name} spells out {spelt}, which marks the place; remove it")
    return names[0] + parts[0] + names[1] + parts[1] + names[2]


def _filler(model: Model) -> Model:
    """The same model, which also ends where a file would end or another place would be marked."""
    from yanmo.inference.model import Model as Opened

    names = (*(infilling(model.tokenizer) or ()), *LATER)
    more = {id for name in names if (id := model.tokenizer.id(name)) is not None}
    ends: Ends = dataclasses.replace(model.ends, eos_ids=model.ends.eos_ids | more)
    return Opened(model.network, model.tokenizer, ends, model.folder)
