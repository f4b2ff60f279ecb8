"""Trained tokenizers: the same text gives the same bytes, and any text comes back."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabularies import CHINESE, TEXTS

from yanmo.errors import InputError
from yanmo.tokens.train import KINDS, compression, train_tokenizer

SMALL = {"bpe": 400, "wordpiece": 300, "unigram": 300}
SCRIPT = """
import hashlib, sys, textwrap, typing, pathlib
sys.path[:0] = sys.argv[2:]
from yanmo.tokens.train import train_tokenizer
texts = [line for m in (textwrap, typing) for line in pathlib.Path(m.__file__).read_text("utf-8").split("\\n")]
texts += ["今天天气很好，我们去公园散步。" * 3] * 4
for size in (420, 900):
    tokenizer = train_tokenizer(texts, sys.argv[1], size)
    print(hashlib.sha256(tokenizer.engine.files()["tokenizer.json"]).hexdigest())
"""


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_text_gives_the_same_bytes_in_every_process_and_on_every_number_of_threads(kind):
    root = str(Path(__file__).resolve().parents[2])
    seen = set()
    for seed, parallel in (("0", "true"), ("1", "true"), ("2", "false")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": parallel}
        command = [sys.executable, "-c", SCRIPT, kind, root]
        seen.add(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    assert len(seen) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_tiny_text_gives_the_same_bytes_too(kind):
    texts = ["abc abd acd bcd"] * 9 + ["xyz xzy yxz"] * 9  # ties everywhere
    size = {"bpe": 270, "wordpiece": 25, "unigram": 18}[kind]
    made = {
        hashlib.sha256(train_tokenizer(texts, kind, size).engine.files()["tokenizer.json"]).hexdigest()
        for _ in range(5)
    }
    assert len(made) == 1


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(TEXTS))
def test_any_text_comes_back_from_byte_level_bpe(text):
    tokenizer = _bpe()
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


def _bpe(made: dict = {}):  # noqa: B006  trained once for all examples
    if not made:
        made["bpe"] = train_tokenizer([CHINESE, "the cat sat on the mat"] * 9, "bpe", 320)
    return made["bpe"]


def test_bpe_ends_documents_with_its_own_token(corpus):
    tokenizer = train_tokenizer(corpus, "bpe", 400, special_tokens=["<|im_start|>", "<|im_end|>"])
    assert tokenizer.token(tokenizer.eos_id) == "<|endoftext|>"
    assert (tokenizer.bos_id, tokenizer.pad_id, tokenizer.unk_id) == (None, None, None)
    assert tokenizer.encode("the") == tokenizer.encode("the", add_special_tokens=False)
    assert tokenizer.special_ids == {0, 1, 2}
    assert tokenizer.encode("<|im_start|>") == [1]
    assert tokenizer.vocab_size == 400


def test_bpe_splits_digits_and_joins_chinese(corpus):
    tokenizer = train_tokenizer([*corpus, *["今天天气很好，今天1234"] * 200], "bpe", 900)
    tokens = [tokenizer.decode([number]) for number in tokenizer.encode("今天1234")]
    assert tokens == ["今天", "1", "2", "3", "4"]


def test_wordpiece_is_bert(corpus):
    tokenizer = train_tokenizer(corpus, "wordpiece", 400)
    ids = tokenizer.encode("The  THE 今天")
    names = [tokenizer.token(number) for number in ids]
    assert names[0] == "[CLS]" and names[-1] == "[SEP]" and names[1] == names[2] == "the"
    assert names[3:5] == ["今", "天"]
    assert tokenizer.encode_pair("the", "the")[1] == [0, 0, 0, 1, 1]
    cased = train_tokenizer(corpus, "wordpiece", 400, lowercase=False)
    assert cased.encode("The") != cased.encode("the")


def test_wordpiece_leaves_room_for_words_beside_thousands_of_letters():
    han = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]
    tokenizer = train_tokenizer(["".join(han), *["window window"] * 50], "wordpiece", 1000)
    assert tokenizer.vocab_size <= 1000
    assert len(tokenizer.encode("window", add_special_tokens=False)) == 1


def test_unigram_is_t5(corpus):
    tokenizer = train_tokenizer(corpus, "unigram", 300, special_tokens=["<extra_id_0>"])
    assert [tokenizer.token(number) for number in range(3)] == ["<pad>", "</s>", "<unk>"]
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2)
    assert tokenizer.encode("the model")[-1] == 1
    assert tokenizer.decode(tokenizer.encode("  the   model ")) == "the model"
    assert tokenizer.encode("<extra_id_0>")[0] == tokenizer.vocab_size - 1


def test_unigram_counts_lines_of_any_length():
    tokenizer = train_tokenizer(["wonderful " * 3000, "字" * 9000, "a\0b" * 50], "unigram", 60)
    assert tokenizer.unk_id not in tokenizer.encode("wonderful 字字 ab")


@pytest.mark.parametrize("kind", KINDS)
def test_compression_is_bytes_per_token(kind, corpus):
    tokenizer = train_tokenizer(corpus, kind, SMALL[kind])
    bigger = train_tokenizer(corpus, kind, 2 * SMALL[kind])
    assert 1 < compression(tokenizer, corpus) < compression(bigger, corpus)
    with pytest.raises(InputError, match="no tokens to count"):
        compression(tokenizer, [""])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], [""], [" \n", "\t"]])
def test_nothing_to_train_on_is_an_error(kind, texts):
    with pytest.raises(InputError, match="no text to train"):
        train_tokenizer(texts, kind, 500)


@pytest.mark.parametrize(
    ("settings_", "why"),
    [
        ({"kind": "bpe", "vocab_size": 256}, "at least 257"),
        ({"kind": "wordpiece", "vocab_size": 5}, "cannot hold"),
        ({"kind": "unigram", "vocab_size": 3}, "at least 4"),
        ({"kind": "unigram", "vocab_size": 8}, "no unigram vocabulary of 8"),
        ({"vocab_size": 0}, "from 1 to"),
        ({"vocab_size": 10**9}, "from 1 to"),
        ({"vocab_size": True}, "from 1 to"),
        ({"kind": "char"}, "kinds are bpe, wordpiece, unigram"),
        ({"min_frequency": 0}, "from 1"),
        ({"special_tokens": ["<|endoftext|>"]}, "repeated"),
        ({"special_tokens": ["a", "a"]}, "repeated"),
        ({"special_tokens": [""]}, "empty"),
    ],
)
def test_a_wrong_setting_is_named(settings_, why):
    with pytest.raises(InputError, match=why):
        train_tokenizer(["the cat sat on the mat, quickly"] * 3, **settings_)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_text_is_named_with_its_place(kind):
    with pytest.raises(InputError, match="text 1 holds the lone surrogate .* at position 2"):
        train_tokenizer(["abc", "de\udc80"], kind, 500)
    with pytest.raises(InputError, match="text 1 is a bytes"):
        train_tokenizer(["abc", b"de"], kind, 500)
    with pytest.raises(InputError, match="one text where a list"):
        train_tokenizer("abc", kind, 500)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_while_the_texts_are_read_is_the_callers_own(kind):
    def texts():
        yield "the cat sat on the mat " * 20
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        train_tokenizer(texts(), kind, 500)
