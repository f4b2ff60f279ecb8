"""A saved tokenizer opens here and in transformers with equal ids, and has the same hash."""

from __future__ import annotations

import json

import pytest
from test_formats import reference, same
from vocabularies import TEXTS, config

from yanmo.errors import FileError
from yanmo.tokens.tokenizer import load_tokenizer
from yanmo.tokens.train import KINDS, train_tokenizer

SAFE = [text for text in TEXTS if "\0" not in text and text.strip() and not text.startswith((" ", "▁"))]


@pytest.mark.parametrize("kind", ["llama", "t5", "xlmr", "marian", "bert", "pair"])
def test_a_saved_folder_opens_with_equal_ids(kind, request, tmp_path):
    tokenizer = load_tokenizer(request.getfixturevalue(kind))
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    for text in TEXTS:
        assert again.encode(text) == tokenizer.encode(text)
        assert again.encode_pair(text, "the") == tokenizer.encode_pair(text, "the")
        assert again.encode(text, target=True) == tokenizer.encode(text, target=True)
    assert again.hash == tokenizer.hash
    assert again.special_ids == tokenizer.special_ids
    assert (again.bos_id, again.eos_id, again.pad_id) == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    same(again, reference(tmp_path / "saved"), SAFE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", [None, "qwen3", "llama", "bert", "t5"])
def test_a_trained_tokenizer_opens_in_transformers_beside_any_model(kind, model_type, corpus, tmp_path):
    size = {"bpe": 400, "wordpiece": 300, "unigram": 300}[kind]
    tokenizer = train_tokenizer(corpus[:300], kind, size)
    tokenizer.save(tmp_path / "saved")
    if model_type:
        (tmp_path / "saved/config.json").write_text(json.dumps({"model_type": model_type}), "utf-8")
    again, theirs = load_tokenizer(tmp_path / "saved"), reference(tmp_path / "saved")
    same(again, theirs)
    assert again.hash == tokenizer.hash
    assert again.eos_id == tokenizer.eos_id == theirs.eos_token_id
    assert again.pad_id == theirs.pad_token_id
    assert len(theirs) == tokenizer.vocab_size


def test_a_model_alone_is_saved_so_that_it_stays_alone(llama_model, tmp_path):
    (tmp_path / "x.model").write_bytes(llama_model)
    tokenizer = load_tokenizer(tmp_path / "x.model")
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    for text in TEXTS:
        assert again.encode(text) == tokenizer.encode(text)
    assert again.hash == tokenizer.hash
    theirs = reference(tmp_path / "saved")
    for text in ("The model", "你好 world", "a\nb"):
        assert theirs(text)["input_ids"] == tokenizer.encode(text)


def test_saving_keeps_what_the_folder_said_and_drops_what_runs_code(llama, tmp_path):
    value = json.loads((llama / "tokenizer_config.json").read_text("utf-8"))
    config(llama, **value, model_max_length=77, auto_map={"AutoTokenizer": ["x.X", None]}, chat_template="{{ 1 }}")
    load_tokenizer(llama).save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/tokenizer_config.json").read_text("utf-8"))
    assert saved["model_max_length"] == 77
    assert "auto_map" not in saved
    assert load_tokenizer(tmp_path / "saved").chat_template == "{{ 1 }}"


def test_saving_into_a_model_folder_leaves_the_other_files(bert, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}", "utf-8")
    load_tokenizer(bert).save(tmp_path / "model")
    assert (tmp_path / "model/config.json").read_text("utf-8") == "{}"
    assert load_tokenizer(tmp_path / "model").hash == load_tokenizer(bert).hash
    with pytest.raises(FileError, match="a file, where a folder is needed"):
        load_tokenizer(bert).save(tmp_path / "model/config.json")


def test_the_hash_tells_tokenizers_apart_and_is_fixed(bert, vocab_text):
    first = load_tokenizer(bert).hash
    assert first == "b15c8a989272d30f23f37fdae4f357b0d2d8495b1d7d4c851a5d2c92fa424735"  # for every library version
    config(bert, tokenizer_class="BertTokenizer", do_lower_case=False)
    second = load_tokenizer(bert).hash
    (bert / "vocab.txt").write_text(vocab_text + "more\n", "utf-8")
    third = load_tokenizer(bert).hash
    assert len({first, second, third}) == 3
