"""Records as people write them → conversations and preferences in one form.

In: the values of a record (corpus/records.py). Out: {"messages": …, "tools": …}, or {"prompt", "chosen", "rejected"}.

    conversation     messages · conversations (ShareGPT) · instruction, input, output (Alpaca) · question and answer
    preference       prompt, chosen, rejected; or two whole conversations with the same beginning
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from yanmo.errors import InputError

ASKED = ("prompt", "instruction", "question", "query")
ANSWERED = ("response", "output", "answer", "completion", "std_answer")
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant"} | {
    "system": "system",
    "tool": "tool",
}


def conversation(values: Mapping[str, Any], source: str | None = None, target: str | None = None) -> dict[str, Any]:
    """The messages of a record; `source` and `target` name the fields of question and answer, else the known are taken.

    Alpaca's `input` follows the instruction after an empty line, `system` comes first. Raises InputError for a record
    in which there is no conversation.
    """
    tools = {"tools": values["tools"]} if values.get("tools") else {}
    if source is None and target is None:
        if isinstance(values.get("messages"), Sequence) and not isinstance(values["messages"], str):
            return {"messages": values["messages"], **tools}
        if isinstance(values.get("conversations"), Sequence) and not isinstance(values["conversations"], str):
            return {"messages": [_spoken(turn) for turn in values["conversations"]], **tools}
    asked = source or next((name for name in ASKED if name in values), None)
    answered = target or next((name for name in ANSWERED if name in values), None)
    if asked is None or answered is None or asked not in values or answered not in values:
        known = ", ".join(map(str, values)) or "none"
        raise InputError(
            f"no conversation in it: its fields are {known}; give messages, or name the fields of question and answer "
            "by objective.source and objective.target"
        )
    question = _text(values, asked)
    if asked == "instruction" and isinstance(values.get("input"), str) and values["input"].strip():
        question = f"{question}\n\n{values['input']}"
    first = [{"role": "system", "content": values["system"]}] if values.get("system") else []
    answer = {"role": "assistant", "content": _text(values, answered)}
    return {"messages": [*first, {"role": "user", "content": question}, answer], **tools}


def preference(values: Mapping[str, Any]) -> dict[str, Any]:
    """Prompt, chosen and rejected; of two whole conversations the common beginning is the prompt."""
    if not {"chosen", "rejected"} <= values.keys():
        known = ", ".join(map(str, values)) or "none"
        raise InputError(f"no preference in it: its fields are {known}; give prompt, chosen and rejected")
    chosen, rejected = values["chosen"], values["rejected"]
    if values.get("prompt") and not _begins(chosen, values["prompt"]):
        return {"prompt": values["prompt"], "chosen": chosen, "rejected": rejected}
    if not all(isinstance(side, Sequence) and not isinstance(side, str) for side in (chosen, rejected)):
        raise InputError("it has no prompt, and chosen and rejected are no whole conversations; give a prompt")
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    if not same or same == min(len(chosen), len(rejected)):
        raise InputError("chosen and rejected have no common beginning with an answer behind it; give a prompt")
    return {"prompt": list(chosen[:same]), "chosen": list(chosen[same:]), "rejected": list(rejected[same:])}


def _begins(talk: Any, prompt: Any) -> bool:
    """Whether a whole conversation begins with its prompt, as some files write it twice."""
    if isinstance(talk, str) or not isinstance(talk, Sequence) or not talk or not isinstance(talk[0], Mapping):
        return False
    return talk[0].get("content") == prompt or (isinstance(prompt, Sequence) and list(talk[: len(prompt)]) == prompt)


def _spoken(turn: Any) -> dict[str, Any]:
    if not isinstance(turn, Mapping) or turn.get("from") not in SPEAKERS or not isinstance(turn.get("value"), str):
        raise InputError(
            f"the turn {str(turn)[:80]!r} is no {{'from': …, 'value': …}}; known are {', '.join(SPEAKERS)}"
        )
    return {"role": SPEAKERS[turn["from"]], "content": turn["value"]}


def _text(values: Mapping[str, Any], name: str) -> str:
    if not isinstance(values[name], str):
        raise InputError(f"{name} is {type(values[name]).__name__}, a text is needed")
    return values[name]
