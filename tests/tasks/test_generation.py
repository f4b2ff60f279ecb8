"""Generate: rows equal what the model writes for their prompts, chats go through the template, code is filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from yanmo.errors import InputError
from yanmo.inference.model import Model, load
from yanmo.recipe import ModelSection
from yanmo.tasks.generation import infilling, predict
from yanmo.tokens.chat import PLAIN, chat_ids, with_template
from yanmo.tokens.train import train_tokenizer
from yanmo.training.build import build_network

TEXTS = ["def add(a, b):\n    return a + b\n", "The cat sat on the mat. User: Assistant:"] * 8
FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


def model_of(folder: Path, *, special: tuple[str, ...] = (), template: str = "") -> Model:
    tokenizer = train_tokenizer(TEXTS, "bpe", 300, special_tokens=special)
    tokenizer = with_template(tokenizer, template) if template else tokenizer
    network = build_network(ModelSection(family="gpt2", width=32, layers=2, heads=2), tokenizer, length=128, seed=2)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10.0)
    Model(network, tokenizer).save(folder, family="gpt2")
    return load(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return model_of(tmp_path_factory.mktemp("plain") / "m")


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return model_of(tmp_path_factory.mktemp("coder") / "m", special=FIM, template=PLAIN)


def test_rows_are_what_the_model_writes_alone(plain: Model) -> None:
    prompts = ["The cat", "def add(", "mat. The cat sat"]
    rows = [{"id": f"r{n}", "text": text} for n, text in enumerate(prompts)]
    rows[1]["max_new_tokens"] = 3
    found = predict(plain, {"task": "generate", "length": 64, "max_new_tokens": 7}, rows)
    assert [row["id"] for row in found] == ["r0", "r1", "r2"]
    for row, prompt, new in zip(found, prompts, (7, 3, 7)):
        assert row["text"] == plain.generate(prompt, max_new_tokens=new)
    assert predict(plain, {"max_new_tokens": 5}, [{"text": "The"}]) == [
        {"text": plain.generate("The", max_new_tokens=5)}
    ]


def test_a_chat_is_written_in_its_template(coder: Model) -> None:
    talk = [{"role": "user", "content": "The cat?"}]
    ids = chat_ids(coder.tokenizer, talk)
    wanted = coder.generations([ids], max_new_tokens=6)[0][0].text  # type: ignore[list-item]
    assert predict(coder, {"max_new_tokens": 6}, [{"messages": talk}])[0]["text"] == wanted
    assert predict(coder, {"max_new_tokens": 6}, [{"text": "The cat?"}])[0]["text"] == wanted
    ranked = coder.search([ids], beams=3, max_new_tokens=6)[0][0].text  # type: ignore[list-item]
    assert predict(coder, {"max_new_tokens": 6, "beams": 3}, [{"messages": talk}, {"text": "A"}])[0]["text"] == ranked
    bare = predict(coder, {"max_new_tokens": 6, "mode": "plain"}, [{"text": "The cat?"}])[0]["text"]
    assert bare == coder.generate("The cat?", max_new_tokens=6)


def test_code_is_written_between_prefix_and_suffix(coder: Model) -> None:
    assert infilling(coder.tokenizer) == FIM
    row = {"id": 1, "prefix": "def add(a, b):\n    return ", "suffix": "\n"}
    prompt = FIM[0] + row["prefix"] + FIM[1] + row["suffix"] + FIM[2]  # type: ignore[operator]
    assert coder.tokenizer.encode(prompt)[0] == coder.tokenizer.id(FIM[0])
    found = predict(coder, {"max_new_tokens": 8}, [row])[0]["text"]
    whole = coder.generate(prompt, max_new_tokens=8)
    assert whole.startswith(found), "the same text, or its part before a token that marks another place"
    with pytest.raises(InputError, match=r"row 1: prefix spells out <\|fim_middle\|>"):
        predict(coder, {}, [row | {"prefix": "x" + FIM[2]}])


def test_a_model_without_the_tokens_says_so(plain: Model) -> None:
    with pytest.raises(InputError, match="no tokens for infilling"):
        predict(plain, {}, [{"prefix": "a", "suffix": "b"}])


def test_options_reach_the_search(plain: Model) -> None:
    row: list[dict[str, Any]] = [{"text": "The cat"}]
    ranked = plain.search("The cat", beams=4, n=2, max_new_tokens=5)
    found = predict(plain, {"beams": 4, "n": 2, "max_new_tokens": 5}, row)[0]
    assert found["texts"] == [one.text for one in ranked] and found["text"] == ranked[0].text
    with pytest.raises(InputError, match="search has no option 'temperature'"):
        predict(plain, {"beams": 4}, [row[0] | {"temperature": 0.5}])
    contrast = predict(plain, {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 5}, row)[0]["text"]
    assert contrast == plain.generate("The cat", penalty_alpha=0.6, top_k=4, max_new_tokens=5)


def test_a_schema_is_kept(plain: Model) -> None:
    pytest.importorskip("llguidance")
    found = predict(plain, {"max_new_tokens": 20}, [{"text": "The cat", "choices": ["yes", "no"]}])[0]["text"]
    assert found in ("yes", "no")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"id": 3}, "row 3 has nothing to go on from"),
        ({"id": 3, "text": "a", "messages": []}, "row 3 has text and messages"),
        ({"id": 3, "text": 5}, "row 3: text is int"),
        ({"id": 3, "messages": [{"role": "user", "content": "a"}]}, "no chat template"),
        ({"id": 3, "suffix": 5, "prefix": "a"}, "no tokens for infilling"),
    ],
)
def test_a_row_that_cannot_be_is_one_sentence(plain: Model, row: dict[str, Any], says: str) -> None:
    from yanmo.errors import Error

    with pytest.raises(Error, match=says):
        predict(plain, {}, [row])
    with pytest.raises(InputError, match="mode is 'x'"):
        predict(plain, {"mode": "x"}, [])
