"""Streamed text is decoded text, character by character, at constant cost."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models
from vocabularies import TEXTS

from yanmo.tokens.fast import FastEngine
from yanmo.tokens.settings import Settings
from yanmo.tokens.stream import StreamDecoder
from yanmo.tokens.tokenizer import Tokenizer, load_tokenizer
from yanmo.tokens.train import train_tokenizer

KINDS = ["llama", "alone", "t5", "xlmr", "marian", "bert", "pair", "json-llama"]


@pytest.fixture
def tokenizer(request, tmp_path) -> Tokenizer:
    if request.param == "alone":
        (tmp_path / "x.model").write_bytes(request.getfixturevalue("llama_model"))
        return load_tokenizer(tmp_path / "x.model")
    if request.param == "json-llama":
        return byte_fallback(tmp_path)
    return load_tokenizer(request.getfixturevalue(request.param))


def byte_fallback(folder) -> Tokenizer:
    """Llama's decoder in the tokenizers library: a run of byte tokens is text only as a whole."""
    table = {f"<0x{value:02X}>": value for value in range(256)}
    table |= {token: 256 + place for place, token in enumerate(["▁", "▁a", "b", "▁▁", "你", "<unk>", "</s>"])}
    library = Library(models.BPE(table, [], byte_fallback=True, unk_token="<unk>"))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    library.decoder = decoders.Sequence(parts)
    library.add_special_tokens(["</s>"])
    library.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder / "tokenizer.json")


def stream(tokenizer: Tokenizer, ids: list[int], skip: bool = True) -> list[str]:
    decoder = StreamDecoder(tokenizer, skip)
    return [*map(decoder.push, ids), decoder.finish()]


@pytest.mark.parametrize("tokenizer", KINDS, indirect=True)
def test_pieces_join_to_the_decoded_text_for_any_ids(tokenizer):
    special = sorted(tokenizer.special_ids)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.integers(0, tokenizer.vocab_size + 3) | st.sampled_from(special), max_size=20), st.booleans())
    def check(ids, skip):
        assert "".join(stream(tokenizer, ids, skip)) == tokenizer.decode(ids, skip)

    check()


@pytest.mark.parametrize("tokenizer", KINDS, indirect=True)
def test_a_character_is_never_split(tokenizer):
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        pieces = stream(tokenizer, ids)
        assert "".join(pieces) == tokenizer.decode(ids)
        if "�" not in tokenizer.decode(ids):
            assert not any("�" in piece for piece in pieces)


def test_text_comes_as_soon_as_it_is_certain(corpus):
    tokenizer = train_tokenizer(["the cat sat"] * 3, "bpe", 300)
    ids = tokenizer.encode("你 a")
    assert stream(tokenizer, ids) == ["", "", "你", " ", "a", ""]


def test_a_prompt_is_taken_and_what_follows_continues_it(llama, tmp_path):
    for tokenizer in (load_tokenizer(llama), byte_fallback(tmp_path)):
        ids = tokenizer.encode("a b\n", add_special_tokens=False)
        more = [tokenizer.id("▁a"), tokenizer.id("b")]
        decoder = StreamDecoder(tokenizer)
        decoder.prime(ids)
        text = "".join(map(decoder.push, more)) + decoder.finish()
        assert text == tokenizer.decode([*ids, *more])[len(tokenizer.decode(ids)) :] == " ab"


def test_a_decoder_begins_anew_after_its_end(llama):
    tokenizer = load_tokenizer(llama)
    decoder = StreamDecoder(tokenizer)
    ids = tokenizer.encode("the model")
    texts = ["".join(map(decoder.push, ids)) + decoder.finish() for _ in range(2)]
    assert texts == ["the model"] * 2


def test_a_decoder_that_needs_the_whole_text_gives_it_at_the_end(tmp_path):
    library = Library(models.BPE({"a": 0, "b</w>": 1}, []))
    library.decoder = decoders.BPEDecoder("</w>")
    engine = FastEngine(library, tmp_path, dict.fromkeys(["bos"]))
    tokenizer = Tokenizer(engine, Settings(tmp_path))
    assert stream(tokenizer, [0, 1, 0, 1]) == ["", "", "", "", "ab ab"]


@pytest.mark.parametrize("tokenizer", ["llama", "bert", "pair", "json-llama"], indirect=True)
def test_the_cost_of_an_id_does_not_grow(tokenizer):
    ids = tokenizer.encode("the model of b 你 the ", add_special_tokens=False)
    small, large = (seconds(tokenizer, ids * repeats) for repeats in (100, 1000))
    assert large < 30 * max(small, 0.005)


def seconds(tokenizer: Tokenizer, ids: list[int]) -> float:
    start = time.process_time()
    stream(tokenizer, ids)
    return time.process_time() - start


@pytest.mark.parametrize("tokenizer", ["llama", "alone", "pair", "json-llama"], indirect=True)
def test_the_bytes_of_ids_are_the_bytes_of_the_text(tokenizer):
    text = "a b 你 🙂\n\0 "
    ids = tokenizer.encode(text, add_special_tokens=False)
    joined = b"".join(map(tokenizer.id_bytes, ids)).decode()
    assert joined.removeprefix(" ") == tokenizer.decode(ids)
