"""Ids equal those of the reference libraries, for every format, on clean, mixed and broken text."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
import time
import warnings
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from vocabularies import TEXTS, config

from yanmo.errors import FileError, InputError
from yanmo.tokens.tokenizer import Tokenizer, load_tokenizer

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.lists(
    st.sampled_from([*TEXTS, " ", "\n", "▁", "</s>", "<unk>", "你好", "the"]), max_size=5
).map("".join)


def reference(folder: Path):
    """What transformers opens a folder with."""
    from transformers import AutoTokenizer

    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Marian asks for sacremoses
        return AutoTokenizer.from_pretrained(folder)


def same(ours: Tokenizer, theirs, texts=TEXTS) -> None:
    for text in texts:
        assert ours.encode(text) == theirs(text)["input_ids"], text
        bare = ours.encode(text, add_special_tokens=False)
        assert bare == theirs(text, add_special_tokens=False)["input_ids"], text
        assert [ours.token(number) for number in bare] == theirs.convert_ids_to_tokens(bare)


def vectors(data: Path, name: str) -> list[tuple[str, list[int]]]:
    texts = (data / f"tokenizers/ggml-vocab-{name}.gguf.inp").read_text("utf-8").split("\n__ggml_vocab_test__\n")
    lines = (data / f"tokenizers/ggml-vocab-{name}.gguf.out").read_text("utf-8").split("\n")
    return [(text, [int(word) for word in line.split()]) for text, line in zip(texts, lines, strict=True)]


@pytest.mark.parametrize("file", ["gpt2-encoder.json", "gpt2-vocab.bpe"])
def test_gpt2_ids_are_those_of_the_public_test_vectors(shared_data, file):
    tokenizer = load_tokenizer(shared_data / "tokenizers" / file)
    for text, ids in vectors(shared_data, "gpt-2"):
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == text
    assert tokenizer.vocab_size == 50257
    assert tokenizer.eos_id == 50256
    assert tokenizer.encode("a<|endoftext|>") == [64, 50256]


def test_llama_ids_are_those_of_the_public_test_vectors(shared_data, tmp_path):
    packed = (shared_data / "tokenizers/llama2-tokenizer.json.gz").read_bytes()
    (tmp_path / "llama.json").write_bytes(gzip.decompress(packed))
    alone = load_tokenizer(shared_data / "tokenizers/llama2-tokenizer.model")
    fast = load_tokenizer(tmp_path / "llama.json")
    for text, ids in vectors(shared_data, "llama-spm"):
        assert alone.encode(text) == ids
        assert fast.encode(text, add_special_tokens=False) == ids
        assert fast.encode(text) == [1, *ids]
        assert alone.decode(ids) == fast.decode(ids) == text
    assert (alone.bos_id, alone.eos_id, alone.unk_id, alone.pad_id) == (1, 2, 0, None)


@pytest.mark.parametrize("file", ["llama2-tokenizer.model", "spm-botchan-test_model.model"])
def test_a_model_alone_is_the_sentencepiece_library(shared_data, file):
    path = shared_data / "tokenizers" / file
    tokenizer, library = load_tokenizer(path), sentencepiece.SentencePieceProcessor(model_file=str(path))

    low = st.integers(0, 300)  # Llama's bytes are among these, so that characters come whole and broken

    @QUICK
    @given(ANY_TEXT, st.lists(low | st.integers(0, library.get_piece_size() - 1), max_size=12))
    def check(text, ids):
        assert tokenizer.encode(text) == library.encode(text)
        assert tokenizer.decode(ids) == library.decode(ids)

    check()


def test_a_token_without_text_ends_the_bytes_before_it(shared_data):
    path = shared_data / "tokenizers/llama2-tokenizer.model"
    ids = [197, 1, 131]  # two bytes of one character, and the beginning of a text between them
    assert load_tokenizer(path).decode(ids) == sentencepiece.SentencePieceProcessor(model_file=str(path)).decode(ids)


@pytest.mark.parametrize("file", ["bert-base-chinese-vocab.txt", "bert-base-uncased-vocab.txt"])
def test_bert_ids_are_those_of_transformers(shared_data, folder, file):
    shutil.copy(shared_data / "tokenizers" / file, folder / "vocab.txt")
    alone = load_tokenizer(folder / "vocab.txt")
    config(folder, tokenizer_class="BertTokenizer", do_lower_case=True)
    tokenizer, theirs = load_tokenizer(folder), reference(folder)
    same(tokenizer, theirs)
    assert alone.encode("Hello World 你好") == tokenizer.encode("Hello World 你好")  # no capital word in either
    check_property(tokenizer, theirs)


def check_property(tokenizer: Tokenizer, theirs) -> None:
    @QUICK
    @given(ANY_TEXT)
    def check(text):
        assert tokenizer.encode(text) == theirs(text)["input_ids"]

    check()


@pytest.mark.parametrize(
    "flags", [{}, {"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}]
)
def test_bert_flags_are_those_of_its_config(bert, flags):
    config(bert, **{"tokenizer_class": "BertTokenizer", "do_lower_case": True, **flags})
    tokenizer, theirs = load_tokenizer(bert), reference(bert)
    same(tokenizer, theirs)
    ids, types = tokenizer.encode_pair("hello", "你好 world")
    pair = theirs("hello", "你好 world")
    assert (ids, types) == (pair["input_ids"], pair["token_type_ids"])
    assert (tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id, tokenizer.unk_id) == (
        2,
        3,
        4,
        0,
        1,
    )


def test_a_vocabulary_without_capitals_lowers_and_one_with_them_does_not(folder, vocab_text):
    (folder / "lower.txt").write_text(vocab_text, "utf-8")
    (folder / "cased.txt").write_text(vocab_text + "Hello\n", "utf-8")
    lower, cased = load_tokenizer(folder / "lower.txt"), load_tokenizer(folder / "cased.txt")
    assert lower.encode("HELLO") == lower.encode("hello")
    assert cased.token(cased.encode("Hello")[1]) == "Hello"
    assert cased.token(cased.encode("HELLO")[1]) == "[UNK]"


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "RobertaTokenizer", "Qwen2Tokenizer"])
def test_byte_level_pairs_are_those_of_transformers(pair, kind):
    config(pair, tokenizer_class=kind)
    tokenizer, theirs = load_tokenizer(pair), reference(pair)
    same(tokenizer, theirs)
    check_property(tokenizer, theirs)
    check_bytes(tokenizer)


def check_bytes(tokenizer: Tokenizer) -> None:
    text = "naïve 你好 \0"
    assert b"".join(map(tokenizer.id_bytes, tokenizer.encode(text, add_special_tokens=False))) == text.encode()


def test_roberta_frames_texts_and_pairs(pair):
    config(pair, tokenizer_class="RobertaTokenizer")
    tokenizer, theirs = load_tokenizer(pair), reference(pair)
    assert tokenizer.encode_pair("a", "b")[0] == theirs("a", "b")["input_ids"]
    assert (tokenizer.bos_id, tokenizer.pad_id, tokenizer.eos_id, tokenizer.mask_id) == (0, 1, 2, 5)


def test_the_name_of_one_file_finds_the_other(folder, pair_files):
    for vocab, merges in (("x-encoder.json", "x-vocab.bpe"), ("my.vocab.json", "my.merges.txt")):
        (folder / vocab).write_text(pair_files[0], "utf-8")
        with pytest.raises(FileError, match=f"{merges} is not beside it"):
            load_tokenizer(folder / vocab)
        (folder / merges).write_text(pair_files[1], "utf-8")
        assert load_tokenizer(folder / vocab).encode("the model") == load_tokenizer(folder / merges).encode("the model")


def test_llama_adds_bos_and_finds_special_tokens(llama):
    tokenizer = load_tokenizer(llama)
    library = sentencepiece.SentencePieceProcessor(model_file=str(llama / "tokenizer.model"))
    for text in TEXTS:
        if "<" not in text:
            assert tokenizer.encode(text) == [1, *library.encode(text)]
            assert tokenizer.decode(tokenizer.encode(text)) == text.replace("▁", " ")  # the mark means a space
    assert tokenizer.encode("</s>x", add_special_tokens=False)[0] == 2
    assert tokenizer.decode([1, *library.encode("Hi there"), 2], skip_special_tokens=False) == "<s> Hi there</s>"


def test_llama_ids_are_those_of_transformers(llama):
    texts = [text for text in TEXTS if text.strip() and not text.startswith((" ", "▁"))]
    same(load_tokenizer(llama), reference(llama), texts)  # transformers drops one leading space, sentencepiece keeps it


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("eos", [True, False])
def test_llama_frames_as_its_config_says(llama, bos, eos):
    config(llama, tokenizer_class="LlamaTokenizer", add_bos_token=bos, add_eos_token=eos)
    tokenizer, theirs = load_tokenizer(llama), reference(llama)
    assert tokenizer.encode("the model") == theirs("the model")["input_ids"]
    pair = theirs("the", "model")
    assert tokenizer.encode_pair("the", "model")[0] == pair["input_ids"]


def test_llama_adds_bos_where_its_config_is_silent(llama):
    config(llama, tokenizer_class="LlamaTokenizer")
    assert load_tokenizer(llama).encode("the")[0] == 1


def test_added_tokens_of_a_model_are_found_with_their_flags(llama, llama_model):
    size = sentencepiece.SentencePieceProcessor(model_proto=llama_model).get_piece_size()
    added = {
        str(size): {"content": "<|im_start|>", "special": True},
        str(size + 1): {"content": "<mask>", "special": True, "lstrip": True},
        str(size + 2): {"content": "<r>", "special": False, "rstrip": True},
        str(size + 3): {"content": "cat", "special": False, "single_word": True},
    }
    config(llama, tokenizer_class="LlamaTokenizer", added_tokens_decoder=added)
    tokenizer = load_tokenizer(llama)
    assert tokenizer.vocab_size == size + 4
    assert tokenizer.encode("<|im_start|>  <mask><r>   <|im_start|>", False) == [size, size + 1, size + 2, size]
    assert size + 3 in tokenizer.encode("a cat sat", False)
    assert size + 3 not in tokenizer.encode("concatenate", False)
    assert size in tokenizer.special_ids and size + 2 not in tokenizer.special_ids


def test_t5_ids_are_those_of_transformers(t5):
    tokenizer, theirs = load_tokenizer(t5), reference(t5)
    same(tokenizer, theirs, [text for text in TEXTS if "\0" not in text])  # it drops U+0085, sentencepiece does not
    assert tokenizer.vocab_size == len(theirs)
    assert tokenizer.token(tokenizer.vocab_size - 1) == "<extra_id_0>"
    assert tokenizer.id("<extra_id_99>") == tokenizer.vocab_size - 100
    assert tokenizer.encode_pair("a", "b")[0] == theirs("a", "b")["input_ids"]
    assert tokenizer.encode("x")[-1] == tokenizer.eos_id == 1


def test_xlm_roberta_ids_are_those_of_transformers(xlmr):
    tokenizer, theirs = load_tokenizer(xlmr), reference(xlmr)
    same(tokenizer, theirs, [text for text in TEXTS if "\0" not in text])
    assert tokenizer.vocab_size == len(theirs)
    assert (tokenizer.bos_id, tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert tokenizer.mask_id == theirs.mask_token_id
    assert tokenizer.encode_pair("a", "b")[0] == theirs("a", "b")["input_ids"]


def test_marian_ids_are_those_of_transformers_on_both_sides(marian):
    tokenizer, theirs = load_tokenizer(marian), reference(marian)
    for text in [*TEXTS, ">>zh<< the model", ">>xx<< the model"]:
        assert tokenizer.encode(text) == theirs(text)["input_ids"], text
        assert tokenizer.encode(text, target=True) == theirs(text_target=text)["input_ids"], text
    text = "今天天气很好"
    assert tokenizer.decode(tokenizer.encode(text, target=True)) == text
    assert tokenizer.encode(text) != tokenizer.encode(text, target=True)


def test_m2m_ids_are_those_of_transformers_and_stand_behind_their_language(m2m):
    tokenizer, theirs = load_tokenizer(m2m), reference(m2m)
    for text in TEXTS:
        assert tokenizer.encode(text) == theirs(text)["input_ids"], text
    assert tokenizer.vocab_size == theirs.get_lang_id("zu") + 1
    for code in ("af", "zh", "de"):
        assert tokenizer.id(f"__{code}__") == theirs.get_lang_id(code)
    assert tokenizer.encode("你好")[0] == theirs.get_lang_id("zh") and tokenizer.encode("你好")[-1] == tokenizer.eos_id
    ids = [2, theirs.get_lang_id("de"), *tokenizer.encode("the model", add_special_tokens=False), 2]
    assert tokenizer.decode(ids) == "the model"  # transformers 5 forgets that a language is a special token
    tokenizer.save(m2m / "saved")
    again, opened = load_tokenizer(m2m / "saved"), reference(m2m / "saved")
    assert again.hash == tokenizer.hash
    assert opened("你好 the model")["input_ids"] == tokenizer.encode("你好 the model")


def test_m2m_names_what_is_missing(m2m):
    config(m2m, tokenizer_class="M2M100Tokenizer", language_codes="klingon")
    with pytest.raises(FileError, match="language_codes is 'klingon'; known are m2m100 and wmt21"):
        load_tokenizer(m2m)
    (m2m / "vocab.json").unlink()
    with pytest.raises(FileError, match="M2M100 needs it beside sentencepiece.bpe.model"):
        load_tokenizer(m2m)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("MBartTokenizer", {"src_lang": "de_DE"}),
        ("MBart50Tokenizer", {}),
        ("NllbTokenizer", {"src_lang": "deu_Latn"}),
        ("NllbTokenizer", {"legacy_behaviour": True}),
    ],
)
def test_a_source_stands_in_the_frame_of_its_family_whatever_the_file_was_saved_with(folder, kind, more):
    import transformers

    words = {"▁the": 4, "▁model": 5, "▁": 6, "en_XX": 7, "de_DE": 8, "eng_Latn": 9, "deu_Latn": 10, "<mask>": 11}
    vocab = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3} | words
    given = [(word, -1.0) for word in vocab] if "MBart" in kind else vocab
    made = getattr(transformers, kind)(given, additional_special_tokens=[w for w in words if "_" in w])
    made.save_pretrained(folder)
    said = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    config(folder, **said | more)
    tokenizer, theirs = load_tokenizer(folder), reference(folder)
    for text in ("the model", "the", ""):
        assert tokenizer.encode(text) == theirs(text)["input_ids"]


def test_t5_and_xlm_roberta_are_sentencepiece_with_moved_ids(t5, xlmr_model, t5_model, tmp_path):
    other = tmp_path / "xlmr"
    other.mkdir()
    (other / "sentencepiece.bpe.model").write_bytes(xlmr_model)
    config(other, tokenizer_class="XLMRobertaTokenizer")
    first, second = load_tokenizer(t5), load_tokenizer(other)
    plain = sentencepiece.SentencePieceProcessor(model_proto=t5_model)
    moved = sentencepiece.SentencePieceProcessor(model_proto=xlmr_model)

    @QUICK
    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=40))
    def check(text):
        assert first.encode(text, False) == plain.encode(text)
        assert second.encode(text, False) == [{0: 3, 1: 0, 2: 2}.get(n, n + 1) for n in moved.encode(text)]

    check()


def test_a_tokenizer_json_is_the_tokenizers_library(pair):
    config(pair, tokenizer_class="RobertaTokenizer")
    load_tokenizer(pair).save(pair / "saved")
    path = pair / "saved/tokenizer.json"
    tokenizer, library = load_tokenizer(path), Library.from_file(str(path))

    @QUICK
    @given(ANY_TEXT, ANY_TEXT, st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12), st.booleans())
    def check(text, other, ids, skip):
        assert tokenizer.encode(text) == library.encode(text).ids
        assert tokenizer.encode_batch([text, other]) == [library.encode(t).ids for t in (text, other)]
        both = library.encode(text, other)
        assert tokenizer.encode_pair(text, other) == (both.ids, both.type_ids)
        assert tokenizer.decode(ids, skip) == library.decode(ids, skip)

    check()


def test_truncation_and_padding_inside_a_tokenizer_json_do_not_act(bert):
    tokenizer = load_tokenizer(bert)
    library = Library.from_str(tokenizer.engine.files()["tokenizer.json"].decode())
    library.enable_truncation(3)
    library.enable_padding(length=9)
    library.save(str(bert / "cut.json"))
    assert load_tokenizer(bert / "cut.json").encode("hello world the model") == tokenizer.encode(
        "hello world the model"
    )


def test_a_folder_without_a_class_is_read_by_the_model_type_of_its_config(pair):
    (pair / "config.json").write_text(json.dumps({"model_type": "roberta"}), "utf-8")
    assert load_tokenizer(pair).encode("the")[0] == 0
    (pair / "config.json").write_text(json.dumps({"model_type": "gpt2"}), "utf-8")
    assert load_tokenizer(pair).encode("the")[0] != 0


@pytest.mark.parametrize("bad", ["a\ud800b", "\udfff"])
def test_a_lone_surrogate_is_refused_with_its_position(bert, llama_model, tmp_path, bad):
    (tmp_path / "x.model").write_bytes(llama_model)
    for tokenizer in (load_tokenizer(bert), load_tokenizer(tmp_path / "x.model")):
        for call in (tokenizer.encode, lambda text, t=tokenizer: t.encode_pair("a", text)):
            with pytest.raises(InputError, match=f"position {bad.index(max(bad))}"):
                call(bad)


def test_ids_without_a_token_are_seen_and_no_ids_are_refused(bert):
    tokenizer = load_tokenizer(bert)
    assert tokenizer.decode([tokenizer.id("hello"), 10**6, tokenizer.id("world")]) == "hello � world"
    with pytest.raises(InputError, match="no token has the id 1000000"):
        tokenizer.token(10**6)
    for wrong in ([-1], [1.5], ["a"], 3, None):
        with pytest.raises(InputError):
            tokenizer.decode(wrong)


def test_a_line_of_five_million_characters_takes_seconds(llama_model, pair, tmp_path):
    (tmp_path / "x.model").write_bytes(llama_model)
    for tokenizer in (load_tokenizer(tmp_path / "x.model"), load_tokenizer(pair)):
        small, large = (measure(tokenizer, "the word 你好 " * (size // 11)) for size in (500_000, 5_000_000))
        assert large < 25 * max(small, 0.05), "encoding is not linear"


def measure(tokenizer: Tokenizer, text: str) -> float:
    start = time.process_time()
    tokenizer.encode(text)
    return time.process_time() - start
