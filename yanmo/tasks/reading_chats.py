"""Conversations, instructions and pairs of texts → examples of generate.

In: rows of JSON or of a table: messages, ShareGPT's conversations, Alpaca's instruction, input and output, or two
columns of texts. Out: examples with `messages`; `text` is what the last answer follows on, `target` that answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from yanmo.errors import InputError
from yanmo.tasks import columns
from yanmo.tasks.columns import Row
from yanmo.tasks.examples import Bad, Example
from yanmo.tasks.reading_files import File, Reading, Refused, Rows, fit, identity, short, together
from yanmo.tokens.chat import check
from yanmo.tokens.conversations import ANSWERED, ASKED, conversation

TALKS = ("messages", "conversations")
TEXT = (*ASKED, "input", "text", "source", "mr", "article", "document", "content", "问题", "指令")
TARGET = (*ANSWERED, "target", "summary", "ref", "reference", "headline", "highlights", "答案", "回答")


def rows(file: File, names: list[str], held: Sequence[Row], reading: Reading) -> Rows:
    """Yield rows as conversations."""
    roles = _roles(file, names, held, reading)
    for line, row in held:
        where = file.at(line)
        try:
            yield _example(row, roles, where)
        except (Refused, InputError) as refused:
            yield Bad(where, str(refused))


def _roles(file: File, names: list[str], held: Sequence[Row], reading: Reading) -> dict[str, str]:
    said = reading.columns
    roles: dict[str, str] = {
        role: columns.resolve(said[role], names, file) for role in ("id", "group", "text", "target") if role in said
    }
    talk = next(
        (name for name in TALKS if any(isinstance(row.get(name), (list, tuple)) for _, row in held[:100])), None
    )
    if talk is not None and not said.keys() & {"text", "target"}:
        reading.understood.columns.setdefault("messages", talk)
        return roles
    small = {name.lower(): name for name in reversed(names)}
    for role, known in (("text", TEXT), ("target", TARGET)):
        found = next((small[name] for name in known if name in small and small[name] not in roles.values()), None)
        if role not in roles and found is not None:
            roles[role] = found
    if len(names) == 2 and not roles.keys() & {"text", "target"}:
        roles |= {"text": names[0], "target": names[1]}
    missing = next((role for role in ("text", "target") if role not in roles), None)
    if missing is not None:
        listed = ", ".join(map(short, names[:12]))
        raise InputError(
            f"{file.name}: which column is the {missing} cannot be told; its columns are {listed}; give messages, or "
            "name text and target"
        )
    reading.understood.columns |= {role: roles[role] for role in ("text", "target")}
    if roles["text"] == "instruction" and "input" in names:
        reading.note(f"{file.name}: input follows instruction after an empty line")
    return roles


def _example(row: Mapping[str, Any], roles: Mapping[str, str], where: str) -> Example:
    if "text" in roles:
        values = {
            **row,
            roles["text"]: columns.value(row, roles["text"]),
            roles["target"]: columns.value(row, roles["target"]),
        }
        talk = conversation(values, roles["text"], roles["target"])
    else:
        talk = conversation(row)
    messages = check(talk["messages"])
    for place, message in enumerate(messages):
        fit(_content(message), f"content of message {place}", empty=message["role"] != "user")
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers or not _content(messages[answers[-1]]).strip():
        raise Refused("it has no answer of the assistant; there is nothing to learn")
    asked = next((_content(m) for m in reversed(messages[: answers[-1]]) if m["role"] in ("user", "tool")), "")
    key = columns.value(row, roles.get("id", "id"))
    group = columns.value(row, roles["group"]) if "group" in roles else ""
    return Example(
        id=identity(key, where),
        where=where,
        text=asked,
        target=_content(messages[answers[-1]]),
        messages=tuple(messages),
        group=together(group),
    )


def _content(message: Mapping[str, Any]) -> str:
    held = message.get("content") or ""
    return held if isinstance(held, str) else "".join(part["text"] for part in held)
