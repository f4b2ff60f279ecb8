"""Vocabularies of GGUF files give the ids of the tokenizers that they were made from, and of llama.cpp."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library
from vocabularies import CHINESE, TEXTS, config, spm

from yanmo.errors import FileError
from yanmo.tokens.chat import chat_ids
from yanmo.tokens.ggufvocab import SPLITS
from yanmo.tokens.piecemodel import parse_model
from yanmo.tokens.tokenizer import load_tokenizer

gguf = pytest.importorskip("gguf")

CORPUS = [
    CHINESE,
    "The quick brown fox isn't here; it's 1234567 o'clock.",
    "hello hello world world the then these",
    "  a",
]
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write(path: Path, architecture: str, **keys: Any) -> Path:
    """A file without tensors; "__" in a key stands for a point."""
    writer = gguf.GGUFWriter(str(path), architecture)
    for name, value in keys.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string, list: writer.add_array}[
            type(value)
        ]
        add(name.replace("__", "."), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Keys of a byte-level vocabulary with three marks, and a folder with its tokenizer.json for each way to cut."""
    place = tmp_path_factory.mktemp("byte-level")
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.train_from_iterator(
        CORPUS * 3,
        trainers.BpeTrainer(vocab_size=380, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(MARKS)
    library.add_tokens(["<tool>"])
    table = library.get_vocab()
    tokens = sorted(table, key=table.__getitem__)
    merges = [" ".join(pair) for pair in json.loads(library.to_str())["model"]["merges"]]
    kinds = [3 if token in MARKS else 4 if token == "<tool>" else 1 for token in tokens]
    keys = {
        "tokenizer__ggml__model": "gpt2",
        "tokenizer__ggml__tokens": tokens,
        "tokenizer__ggml__token_type": kinds,
        "tokenizer__ggml__merges": merges,
        "tokenizer__ggml__eos_token_id": table["<|im_end|>"],
        "tokenizer__ggml__bos_token_id": table["<|endoftext|>"],
    }
    for name, (patterns, whole) in SPLITS.items():
        parts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
        library.pre_tokenizer = pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(False, use_regex=False)])
        value = json.loads(library.to_str())
        value["model"]["ignore_merges"] = whole
        (place / name).mkdir()
        (place / name / "tokenizer.json").write_text(json.dumps(value))
    return keys, place


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "smollm"])
def test_byte_level_ids_are_those_of_the_tokenizer_json(tmp_path: Path, byte_level: Any, pre: str) -> None:
    keys, place = byte_level
    found = load_tokenizer(write(tmp_path / "x.gguf", "qwen2", tokenizer__ggml__pre=pre, **keys))
    expected = load_tokenizer(place / pre)
    assert found.vocab_size == expected.vocab_size and found.special_ids == expected.special_ids
    texts = [t for t in TEXTS if pre != "qwen2" or "combining" not in t and "Å" not in t]  # NFC: see below
    for text in [*texts, "a<|im_start|>user\n<tool> 12345</tool><|im_end|>", *CORPUS]:
        ids = expected.encode(text, add_special_tokens=False)
        assert found.encode(text, add_special_tokens=False) == ids, text
        assert found.decode(ids) == expected.decode(ids)
    framed = [found.id("<|endoftext|>")] if pre == "llama-bpe" else []  # what an absent add_bos_token means
    assert found.encode("hello") == framed + found.encode("hello", add_special_tokens=False)


def test_texts_for_qwen_are_composed_first_as_its_own_tokenizer_does(tmp_path: Path, byte_level: Any) -> None:
    found = load_tokenizer(write(tmp_path / "x.gguf", "qwen2", tokenizer__ggml__pre="qwen2", **byte_level[0]))
    assert found.encode("e\u0301") == found.encode("\u00e9")


@pytest.mark.parametrize("frame", [(True, False), (False, True), (None, None)])
def test_the_frame_is_what_the_file_says(tmp_path: Path, byte_level: Any, frame: Any) -> None:
    keys = dict(byte_level[0]) | {"tokenizer__ggml__pre": "gpt-2"}
    keys |= {f"tokenizer__ggml__add_{n}_token": flag for n, flag in zip(("bos", "eos"), frame) if flag is not None}
    found = load_tokenizer(write(tmp_path / "x.gguf", "gpt2", **keys))
    plain = found.encode("hello", add_special_tokens=False)
    assert found.encode("hello") == [found.bos_id] * bool(frame[0]) + plain + [found.eos_id] * bool(frame[1])


def test_chat_templates_come_with_the_vocabulary(tmp_path: Path, byte_level: Any) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"
    keys = {"tokenizer__chat_template": template, "tokenizer__chat_templates": ["tool_use"]}
    keys |= {"tokenizer__chat_template__tool_use": "tools", "tokenizer__ggml__pre": "qwen2"}
    found = load_tokenizer(write(tmp_path / "x.gguf", "qwen2", **byte_level[0], **keys))
    assert found.chat_templates == {"default": template, "tool_use": "tools"}
    ids = chat_ids(found, [{"role": "user", "content": "hello"}])
    assert found.decode(ids, skip_special_tokens=False) == "<|im_start|>user\nhello<|im_end|>"


def pieces(data: bytes) -> dict[str, Any]:
    """Keys for a .model, as the converter writes them."""
    model = parse_model(Path("x.model"), data)
    keys: dict[str, Any] = {"tokenizer__ggml__model": "llama", "tokenizer__ggml__tokens": model.pieces}
    keys |= {"tokenizer__ggml__scores": model.scores, "tokenizer__ggml__token_type": model.types}
    return keys | {"tokenizer__ggml__bos_token_id": 1, "tokenizer__ggml__eos_token_id": 2}


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_ids_are_those_of_the_model(tmp_path: Path, prefix: bool) -> None:
    settings = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    data = spm(CORPUS, "bpe", 400, **settings)
    keys = pieces(data) | ({} if prefix else {"tokenizer__ggml__add_space_prefix": False})
    found = load_tokenizer(write(tmp_path / "x.gguf", "llama", **keys))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(data)
    config(folder, tokenizer_class="LlamaTokenizer", legacy=True, add_prefix_space=prefix)
    expected = load_tokenizer(folder)
    for text in [*TEXTS, *CORPUS]:
        ids = expected.encode(text)
        assert found.encode(text) == ids and ids[0] == 1, text
        assert found.decode(ids) == expected.decode(ids)
    found.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert [again.encode(text) for text in TEXTS] == [found.encode(text) for text in TEXTS]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tokens": ["a", "b", "a"], "token_type": [1, 1, 1]}, "the ids 0 and 2 are both the token 'a'"),
        ({"token_type": [1, 1]}, "holds 2 types for"),
        ({"pre": "gpt2"}, "tokenizer.ggml.pre 'gpt2' .nearest: 'gpt-2'., which says how texts are cut"),
        ({"merges": ["ab"]}, "the merge 0 is 'ab', no two tokens"),
        ({"merges": ["a nothing"]}, "not a usable tokenizer"),
        ({"bos_token_id": 70000}, "bos_token_id is 70000, and there are"),
        ({"model": "wordpiece"}, "a vocabulary of the kind 'wordpiece'; read are"),
        ({"model": "llama"}, "0 scores for"),
        ({"tokens": "abc"}, "must be of the type list"),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, byte_level: Any, change: dict[str, Any], sentence: str
) -> None:
    keys = dict(byte_level[0]) | {"tokenizer__ggml__pre": "gpt-2"}
    keys |= {f"tokenizer__ggml__{name}": value for name, value in change.items()}
    with pytest.raises(FileError, match=sentence):
        load_tokenizer(write(tmp_path / "x.gguf", "gpt2", **keys))


@pytest.mark.parametrize("name", ["gpt-2", "llama-spm"])
def test_real_vocabularies_give_llama_cpp_s_ids(shared_data: Path, tmp_path: Path, name: str) -> None:
    source = shared_data / "tokenizers" / f"ggml-vocab-{name}.gguf.gz"
    path = tmp_path / "vocab.gguf"
    path.write_bytes(gzip.decompress(source.read_bytes()))
    found = load_tokenizer(path)
    texts = source.with_suffix(".inp").read_text("utf-8").split("\n__ggml_vocab_test__\n")
    lines = source.with_suffix(".out").read_text().split("\n")[: len(texts)]
    assert len(texts) > 40
    for text, line in zip(texts, lines, strict=True):
        assert found.encode(text, add_special_tokens=False) == [int(number) for number in line.split()], text
    theirs = pytest.importorskip("llama_cpp").Llama(str(path), vocab_only=True, verbose=False)
    for text in [*TEXTS, *CORPUS, "<|endoftext|>Hi <|endoftext|>"]:
        if "\0" not in text:
            assert found.encode(text) == theirs.tokenize(text.encode(), add_bos=True, special=True), text
