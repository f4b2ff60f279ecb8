"""Texts keep to what they must be, also side by side; what is certain costs no step; mistakes are one sentence."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import yanmo
from yanmo.cli import main
from yanmo.errors import Error, InputError, MissingExtra
from yanmo.inference import grammar as module
from yanmo.inference.generate import generate_ids, options_of
from yanmo.inference.grammar import Grammar, Words, grammar_of, guides_of
from yanmo.inference.model import Model
from yanmo.kernels import native
from yanmo.tokens.tokenizer import load_tokenizer

pytest.importorskip("llguidance")
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "tokenizers"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@cache
def writer(layers: int = 1) -> Model:
    """A random GPT-2 over bytes."""
    from benchmarks.b0 import make_model

    sizes = {"n_layer": layers, "n_embd": 32, "n_head": 2, "vocab_size": 300, "bos_token_id": 0, "eos_token_id": 0}
    with TemporaryDirectory() as folder:
        make_model(pytest.importorskip("transformers"), Path(folder), **sizes)
        return yanmo.load(folder)


def reference(model: Model, prompt: str, **options: Any) -> list[int]:
    """The plain loop, one token a step, each of which is hidden or not."""
    chosen = options_of(options)
    assert chosen.grammar is not None
    guides = guides_of(chosen.grammar, model.tokenizer, model.config.output_size, model.ends.eos_ids)
    ids: list[int] = []
    with torch.inference_mode():
        steps = generate_ids(model.network, [model.prompt_ids(prompt)], chosen, model.ends, [guides.guide()])
        for tokens in steps:
            ids += [token.id for token in tokens]
    return ids


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_text_is_valid_json_and_what_is_certain_costs_no_step(temperature: float) -> None:
    model = writer()
    with model.engine() as engine:
        text = engine.submit("The ink", json_schema=PERSON, max_new_tokens=120, temperature=temperature, seed=4)
        found, stats = text.result(60), engine.stats()
    person = json.loads(found.text)
    assert list(person) == ["name", "age", "tags"] and len(person["name"]) <= 4 and 0 <= person["age"] <= 99
    assert set(person["tags"]) <= {"red", "blue"} and found.finish == "stop"
    assert stats.steps < len(found.ids) / 2 and stats.new_tokens == len(found.ids) and stats.drafted == 0
    assert found.ids == reference(
        model, "The ink", json_schema=PERSON, max_new_tokens=120, temperature=temperature, seed=4
    )


def test_texts_of_many_kinds_side_by_side_are_what_each_is_alone() -> None:
    model = writer()
    asked: list[dict[str, Any]] = [
        {"json_schema": PERSON},
        {"regex": "[0-9]{3}-[a-c]{2,5}x"},
        {},
        {"choices": ["yes", "no", 'may"be\n\\', "日本"], "temperature": 1.0, "seed": 2},
        {"grammar": 'start: item ("," item){1,3}\nitem: "a" | "b" "c"'},
        {"json_schema": True, "repetition_penalty": 1.3},
        {"stop": ["q"], "temperature": 1.0, "seed": 3},
    ]
    prompts = ["ab", "The ink is", "x"]
    with model.engine(rows=5) as engine:
        handles = [engine.submit(p, **one, max_new_tokens=90) for p in prompts for one in asked]
        alone = iter(handles)
        for prompt in prompts:
            for one in asked:
                if "stop" in one or not one:
                    expected: Any = [model.generate(prompt, **one, max_new_tokens=90)]
                    assert [next(alone).result(60).text] == expected
                    continue
                try:
                    ids = reference(model, prompt, **one, max_new_tokens=90)
                except Error:  # it did not come to an end
                    with pytest.raises(Error, match="ends after 90 tokens"):
                        next(alone).result(60)
                    continue
                assert next(alone).result(60).ids == ids


def test_several_texts_of_a_prompt_streams_and_drafts() -> None:
    model = writer()
    texts = model.generate("a", regex="(red|green|blue)!", n=4, temperature=2.0, seed=1, max_new_tokens=20)
    assert len(texts) == 4 and all(re.fullmatch("(red|green|blue)!", text) for text in texts) and len(set(texts)) > 1
    assert "".join(model.stream("a", choices=["red", "green"])) in ("red", "green")
    plain = model.generate("a", json_schema=PERSON, max_new_tokens=120)
    assert model.generate("a", json_schema=PERSON, max_new_tokens=120, draft=writer(2)) == plain
    with model.engine(draft=0) as engine:
        assert engine.submit("a", json_schema=PERSON, max_new_tokens=120).result(60).text == plain


@pytest.mark.skipif(native.library() is None, reason="no native kernels")
def test_a_packed_model_keeps_to_it_too() -> None:
    with TemporaryDirectory() as folder:
        writer().save(folder)
        model = yanmo.load(folder, bits=8)
    found = model.generations(["a"], json_schema=PERSON, max_new_tokens=120)[0][0]
    assert set(json.loads(found.text)) == {"name", "age", "tags"}


def test_a_text_that_cannot_end_in_time_is_an_error_of_its_own_request() -> None:
    model = writer()
    with model.engine() as engine:
        short = engine.submit("a", json_schema=PERSON, max_new_tokens=12)
        other = engine.submit("b", max_new_tokens=20)
        whole = engine.submit("a", regex="[ab]+", max_new_tokens=12)
        with pytest.raises(Error, match="ends after 12 tokens, before it is what json_schema asks for"):
            short.result(60)
        assert other.result(60).text == model.generate("b", max_new_tokens=20)
        assert re.fullmatch("[ab]+", whole.result(60).text)
    with pytest.raises(Error, match="raise max_new_tokens"):
        list(model.stream("a", choices=["longer than that"], max_new_tokens=2))
    with pytest.raises(Error, match="ends after 0 tokens, before it is what regex asks for"):
        model.generate("a", regex="abc", max_new_tokens=0)
    assert model.generate("a", regex="a*", max_new_tokens=0) == ""


def test_a_model_without_an_end_token_and_one_that_may_not_write_what_it_must() -> None:
    model = writer()
    never = Model(model.network, model.tokenizer, dataclasses.replace(model.ends, eos_ids=frozenset()))
    assert json.loads(never.generate("a", json_schema=PERSON, max_new_tokens=120))["tags"] is not None
    digits = tuple(model.tokenizer.encode("0123456789"))
    mute = Model(model.network, model.tokenizer, dataclasses.replace(model.ends, never_ids=digits))
    with pytest.raises(Error, match="must not write"):
        mute.generate("a", regex="[0-9]")


def test_mistakes_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    model = writer()
    for wrong, said in [
        ({"json_schema": {"type": 5}}, "type must be a string"),
        ({"json_schema": "{"}, "the schema is not JSON"),
        ({"json_schema": [1]}, "must be an object"),
        ({"json_schema": {"if": {}}}, "Unimplemented keys"),
        ({"regex": "("}, "invalid regex"),
        ({"regex": ""}, "not empty"),
        ({"choices": []}, "at least one"),
        ({"choices": ["a", ""]}, "not empty"),
        ({"choices": 5}, "at least one"),
        ({"choices": ["\ud800"]}, "surrogates"),
        ({"regex": "a\udcff"}, "surrogates"),
        ({"json_schema": {"const": "\ud800"}}, "hex escape"),
        ({"json_schema": {"const": float("nan")}}, "expected value"),
        ({"grammar": "start: foo"}, "unknown name"),
        ({"regex": "a", "choices": ["a"]}, "give one of them"),
        ({"regex": "a", "stop": "b"}, "give one of them"),
        ({"regexp": "a"}, "nearest: 'regex'"),
    ]:
        with pytest.raises(InputError, match=said) as caught:
            model.generate("x", **wrong)
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtra, match=re.escape("yanmo[grammar]")):
        model.generate("x", regex="abc")


def test_threads_that_ask_at_once_take_turns_at_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inside, most = writer(), 0, 0

    class Slow(module.Guides):
        def __init__(self, *given: Any) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            super().__init__(*given)
            inside -= 1

    monkeypatch.setattr(module, "Guides", Slow)
    asked = [Grammar.regex(f"b{{{count}}}") for count in range(1, 2 * module.KEPT)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: guides_of(one, model.tokenizer, 300, {0}), asked))
    assert [guides.grammar for guides in found] == asked and most == 1


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["json_schema", "regex", "grammar"]), st.text(max_size=40) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["type", "properties", "items", "enum", "pattern", "$ref", "anyOf"]), inner),
    max_leaves=8,
))  # fmt: skip
def test_whatever_is_asked_for_only_errors_come_out(kind: str, value: Any) -> None:
    model = writer()
    try:
        grammar = grammar_of({kind: value})
        if grammar is not None:
            guides_of(grammar, model.tokenizer, 300, {0}).guide().hide(torch.zeros(300))
    except Error as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["llama2-tokenizer.json.gz", "llama2-tokenizer.model", "gpt2"])
def test_vocabularies_that_set_spaces_before_words_write_just_the_bytes(name: str, tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip("no real tokenizers here")
    if name.endswith(".gz"):
        (tmp_path / "tokenizer.json").write_bytes(gzip.decompress((DATA / name).read_bytes()))
        tokenizer = load_tokenizer(tmp_path)
    elif name == "gpt2":
        for file, plain in (("gpt2-encoder.json", "vocab.json"), ("gpt2-vocab.bpe", "merges.txt")):
            (tmp_path / plain).write_bytes((DATA / file).read_bytes())
        tokenizer = load_tokenizer(tmp_path)
    else:
        tokenizer = load_tokenizer(DATA / name)
    words = Words(tokenizer, tokenizer.vocab_size, [])
    for text in ('{"name": "', '"age"', " x", "a", "日本", '": [1, 2', "\n\t"):
        assert b"".join(words.tokens[id] for id in words(text)) == text.encode()
    guide = guides_of(Grammar.json_schema(PERSON), tokenizer, tokenizer.vocab_size, []).guide()
    forced = guide.forced(99)
    assert b"".join(words.tokens[id] for id in forced).startswith(b'{"name":') and len(forced) < 6
    scores = torch.zeros(tokenizer.vocab_size)
    guide.hide(scores)
    assert scores.isfinite().nonzero().flatten().tolist() == forced[:1]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(tmp_path / "model")
    writer().save(model)
    (tmp_path / "schema.json").write_text(json.dumps(PERSON), "utf-8")
    (tmp_path / "rules.lark").write_text('start: ("x" | "y")~3', "utf-8")

    def said(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["generate", model, "The ink", "--max-new-tokens", "120", *args])
        return end.value.code, *capsys.readouterr()  # type: ignore[return-value]

    plain = said("--json-schema", str(tmp_path / "schema.json"))
    assert plain[0] == 0 and list(json.loads(plain[1])) == ["name", "age", "tags"]
    assert said("--json-schema", str(tmp_path / "schema.json"), "--draft", model) == plain
    assert re.fullmatch("[xy]{3}\n", said("--grammar", str(tmp_path / "rules.lark"))[1])
    assert said("--choices", "yes", "--choices", "no", "--n", "2", "--temperature", "1")[1].count("----") == 1
    assert re.fullmatch("[ab]+c\n", said("--regex", "[ab]{1,5}c")[1])
    assert said("--json-schema", str(tmp_path / "nothing.json"))[0] == 2
