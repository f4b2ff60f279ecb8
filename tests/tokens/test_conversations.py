"""The forms in which people write conversations and preferences lead to one."""

from __future__ import annotations

from typing import Any

import pytest

from yanmo.errors import InputError
from yanmo.tokens.conversations import conversation, preference

ASK, SAY = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


@pytest.mark.parametrize(
    "values",
    [
        {"messages": [ASK, SAY]},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"prompt": "Q", "response": "A"},
        {"instruction": "Q", "input": "", "output": "A"},
        {"question": "Q", "std_answer": "A"},
    ],
)
def test_known_forms_of_a_conversation(values: dict[str, Any]) -> None:
    assert conversation(values) == {"messages": [ASK, SAY]}


def test_input_follows_the_instruction_and_system_comes_first() -> None:
    found = conversation({"system": "S", "instruction": "Q", "input": "X", "output": "A", "tools": [{"name": "t"}]})
    assert found["messages"][0] == {"role": "system", "content": "S"}
    assert found["messages"][1]["content"] == "Q\n\nX" and found["tools"] == [{"name": "t"}]


def test_named_fields_win_over_known_ones() -> None:
    assert conversation({"prompt": "P", "x": "Q", "y": "A"}, "x", "y") == {"messages": [ASK, SAY]}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"text": "x"}, "no conversation in it: its fields are text"),
        ({"prompt": 3, "response": "A"}, "prompt is int, a text is needed"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "known are human"),
    ],
)
def test_what_is_no_conversation_is_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        conversation(values)


def test_preferences_with_a_prompt_or_as_whole_conversations() -> None:
    expected = {"prompt": [ASK], "chosen": [SAY], "rejected": [{"role": "assistant", "content": "B"}]}
    whole = {"chosen": [ASK, SAY], "rejected": [ASK, expected["rejected"][0]]}
    assert preference(whole) == expected
    assert preference({"prompt": "Q", **whole}) == expected, "the prompt stands in both conversations already"
    assert preference({"prompt": "Q", "chosen": "A", "rejected": "B"})["chosen"] == "A"


@pytest.mark.parametrize(
    "values",
    [{"prompt": "Q", "chosen": "A"}, {"chosen": "A", "rejected": "B"}, {"chosen": [SAY], "rejected": [ASK]}],
)
def test_what_is_no_preference_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        preference(values)
