"""A damaged, foreign or hostile vocabulary is a FileError of one sentence, whatever its bytes."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vocabularies import config

from yanmo.errors import Error, FileError
from yanmo.tokens.settings import MAX_ID
from yanmo.tokens.tokenizer import load_tokenizer

MANY = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PLACES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8)


def use(path: Path) -> None:
    """Open and use what is there; nothing but an Error may come out."""
    try:
        tokenizer = load_tokenizer(path)
        for text in ("Hello 你好 ①", "</s> <mask>\0", ""):
            tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False)
        assert len(tokenizer.hash) == 64
    except Error as error:
        assert "\n" not in str(error)


def damage(data: bytes, cut: float, places) -> bytes:
    changed = bytearray(data[: int(len(data) * cut)] if cut < 0.5 else data)
    for place, value in places:
        if changed:
            changed[int(place * (len(changed) - 1))] = value
    return bytes(changed)


@pytest.mark.parametrize("kind", ["bert", "pair", "json"])
def test_damaged_text_files_end_in_an_error_or_a_tokenizer(kind, request, tmp_path):
    if kind == "json":
        folder = tmp_path / "saved"
        load_tokenizer(request.getfixturevalue("bert")).save(folder)
    else:
        folder = request.getfixturevalue(kind)
    originals = {path: path.read_bytes() for path in folder.iterdir()}

    @MANY
    @given(st.sampled_from(sorted(originals)), st.floats(0, 1), PLACES)
    def check(path, cut, places):
        path.write_bytes(damage(originals[path], cut, places))
        use(folder)
        use(path)
        path.write_bytes(originals[path])

    check()


FUZZ = """
import random, sys, pathlib
sys.path[:0] = sys.argv[3:]
from yanmo.errors import Error
from yanmo.tokens.tokenizer import load_tokenizer
source, path = pathlib.Path(sys.argv[1]).read_bytes(), pathlib.Path(sys.argv[2])
opened = 0
for seed in range(400):
    dice = random.Random(seed)
    data = bytearray(source)
    start = dice.choice([0, 0, len(data) // 2])
    for _ in range(dice.choice([1, 1, 3, 30])):
        data[dice.randrange(start, len(data))] = dice.randrange(256)
    if seed % 5 == 0:
        del data[dice.randrange(len(data)):]
    path.write_bytes(bytes(data))
    try:
        tokenizer = load_tokenizer(path)
        for text in ("Hello \\uFDFA ① ﬁ ㍿", "你好 <s>\\0", "a" * 300):
            tokenizer.decode(tokenizer.encode(text))
        opened += 1
    except Error as error:
        assert "\\n" not in str(error)
print(opened)
"""


@pytest.mark.parametrize("kind", ["llama_model", "t5_model"])
def test_damaged_models_end_in_an_error_or_a_tokenizer_and_never_in_a_crash(kind, request, tmp_path):
    (tmp_path / "whole.model").write_bytes(request.getfixturevalue(kind))
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", FUZZ, str(tmp_path / "whole.model"), str(tmp_path / "damaged.model"), root]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")  # a crash would end the process, and the library is silent
    assert 20 < int(done.stdout) < 400


def charsmap(trie: bytes, strings: bytes) -> bytes:
    """A .model of one piece with this table of characters."""
    blob = len(trie).to_bytes(4, "little") + trie + strings
    piece = b"\x0a\x05<unk>\x18\x02"
    size = bytes([len(blob) & 0x7F | 0x80, len(blob) >> 7 & 0x7F | 0x80, len(blob) >> 14])
    inner = b"\x12" + size + blob
    total = bytes([len(inner) & 0x7F | 0x80, len(inner) >> 7 & 0x7F | 0x80, len(inner) >> 14])
    return b"\x0a" + bytes([len(piece)]) + piece + b"\x1a" + total + inner


@pytest.mark.parametrize(
    ("trie", "strings", "why"),
    [
        (b"\xff\xff\xff\x7f" * 256, b"x\0", "leads outside"),
        (b"\xff\xff\x00\x80" * 256, b"x\0", "strings break off"),
        (bytes(1024), b"xx", "strings break off"),
        (bytes(1000), b"x\0", "of 1000 bytes"),
        (b"", b"x\0\0\0\0", "of 0 bytes"),
    ],
)
def test_a_table_of_characters_that_would_read_foreign_memory_is_refused(tmp_path, trie, strings, why):
    (tmp_path / "x.model").write_bytes(charsmap(trie, strings))
    with pytest.raises(FileError, match=why):
        load_tokenizer(tmp_path / "x.model")


@pytest.mark.parametrize(
    "data", [b"", b"\0", bytes(range(7, 250)) * 2, b"<html>", b"\x0a\xff\xff\xff\xff\x0f", b"\x80" * 50]
)
def test_what_is_no_model_is_refused(tmp_path, data):
    (tmp_path / "x.model").write_bytes(data)
    with pytest.raises(FileError, match=r"x\.model: not a usable SentencePiece model"):
        load_tokenizer(tmp_path / "x.model")


def test_a_scalar_where_the_protobuf_has_a_message_is_refused(tmp_path):
    (tmp_path / "x.model").write_bytes(b"\x08\x01")
    with pytest.raises(FileError, match="a number where bytes are needed"):
        load_tokenizer(tmp_path / "x.model")


def written(folder: Path, change) -> Path:
    """A tokenizer.json, changed."""
    value = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    change(value)
    (folder / "tokenizer.json").write_text(json.dumps(value), "utf-8")
    return folder


def put(*path_and_value):
    *path, value = path_and_value

    def change(tree):
        for key in path[:-1]:
            tree = tree[key]
        tree[path[-1]] = value

    return change


DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
SPLIT = {"type": "Replace", "pattern": {"Regex": ""}, "content": "x" * 2000}
TWICE = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 40,
    "pair": [],
    "special_tokens": {},
}


@pytest.mark.parametrize(
    "change",
    [
        put("model", "vocab", {}),
        put("model", "vocab", "[UNK]", -1),
        put("model", "vocab", "[UNK]", 2**40),
        put("model", "vocab", "[UNK]", MAX_ID),
        put("model", "vocab", "[UNK]", 2**32 - 1),
        put("model", "vocab", "hello", 0),
        put("model", "vocab", [1, 2]),
        put("model", []),
        put("model", None),
        put("model", "type", "Nonsense"),
        put("normalizer", {"type": "Sequence", "normalizers": [DOUBLE] * 40}),
        put("normalizer", SPLIT),
        put("decoder", {"type": "Sequence", "decoders": [DOUBLE] * 40}),
        put("post_processor", {"type": "Sequence", "processors": [TWICE] * 10}),
        put("normalizer", {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\xff" * 40).decode()}),
        put("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}),
        put("added_tokens", 0, "id", 9999),
        put("added_tokens", 0, "content", ""),
        put("added_tokens", [{"id": 0}]),
        put("added_tokens", 5),
        put("model", "unk_token", 7),
    ],
)
def test_a_hostile_tokenizer_json_is_a_file_error(bert, tmp_path, change):
    load_tokenizer(bert).save(tmp_path / "saved")
    folder = written(tmp_path / "saved", change)
    with pytest.raises(FileError, match=r"tokenizer\.json") as caught:
        load_tokenizer(folder).encode("abc")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", '"x"', "[" * 100_000, '{"model": {"vocab": ' + "{" * 200, "\ufeff", "{}"]
)
def test_a_tokenizer_json_that_is_no_object_is_a_file_error(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text, "utf-8")
    with pytest.raises(FileError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_model_that_lacks_its_unknown_token_is_a_file_error_when_it_is_needed(bert, tmp_path):
    load_tokenizer(bert).save(tmp_path / "saved")
    folder = written(tmp_path / "saved", lambda tree: tree["model"].update(unk_token="nowhere"))
    with pytest.raises(FileError, match=r"tokenizer\.json"):
        load_tokenizer(folder).encode("한")


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({}, "no tokens"),
        ({"a": -1}, "has the id -1"),
        ({"a": 0, "b": 0}, "share the id 0"),
        ({"a": 2**70}, "where a whole number"),
        ({"a": "0"}, "has the id '0'"),
        ({"a": True}, "has the id True"),
        ({"a": 0.5}, "has the id 0.5"),
    ],
)
def test_a_vocabulary_with_wrong_ids_is_refused(pair, table, why):
    (pair / "vocab.json").write_text(json.dumps(table), "utf-8")
    with pytest.raises(FileError, match=why):
        load_tokenizer(pair)


@pytest.mark.parametrize(
    ("merges", "why"),
    [("a\n", "line 1 is 'a'"), ("a b c\n", "line 1"), (" a\n", "line 1"), ("qqq zzz\n", "not a usable tokenizer")],
)
def test_merges_that_join_nothing_are_refused_with_their_line(pair, merges, why):
    (pair / "merges.txt").write_text(merges, "utf-8")
    with pytest.raises(FileError, match=why):
        load_tokenizer(pair)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"add_bos_token": "yes"}, "add_bos_token is 'yes'"),
        ({"bos_token": 3}, "bos_token is 3"),
        ({"bos_token": "\ud800"}, "bos_token"),
        ({"bos_token": {"content": ["<s>"]}}, "bos_token is"),
        ({"added_tokens_decoder": []}, "added_tokens_decoder is"),
        ({"added_tokens_decoder": {"-1": {"content": "x"}}}, "'-1'"),
        ({"added_tokens_decoder": {"99999999999": {"content": "x"}}}, "99999999999"),
        ({"added_tokens_decoder": {"5": {"content": "<a>"}}}, "the id 5"),
        ({"added_tokens_decoder": {"900": {"content": "<a>"}, "901": {"content": "<a>", "lstrip": 1}}}, "lstrip"),
        ({"additional_special_tokens": "x"}, "a list of tokens"),
        ({"chat_template": 5}, "chat_template is 5"),
        ({"chat_template": [{"name": "a"}]}, "an object with name and template"),
        ({"chat_template": "x" * 2**21}, "characters"),
        ({"tokenizer_class": 5}, "tokenizer_class is 5"),
        ({"tokenizer_class": "StrangeTokenizer"}, "StrangeTokenizer.*no reader"),
        ({"tokenizer_class": "BertTokenizer"}, "BertTokenizer.*no reader"),
    ],
)
def test_a_wrong_config_is_named_with_file_and_key(llama, values, why):
    config(llama, **{"tokenizer_class": "LlamaTokenizer", **values})
    with pytest.raises(FileError, match=why):
        load_tokenizer(llama)


def test_a_piece_table_of_the_wrong_family_is_refused(xlmr, t5_model):
    (xlmr / "sentencepiece.bpe.model").write_bytes(t5_model)
    with pytest.raises(FileError, match="needed for XLM-R"):
        load_tokenizer(xlmr)


@pytest.mark.parametrize("name", ["source.spm", "target.spm", "vocab.json"])
def test_marian_says_which_of_its_files_is_missing(marian, name):
    (marian / name).unlink()
    with pytest.raises(FileError, match=name):
        load_tokenizer(marian)


@pytest.mark.parametrize("path", ["", "nowhere", "a\0b", "x" * 5000])
def test_a_path_to_nothing_is_a_file_error(tmp_path, path):
    with pytest.raises(FileError):
        load_tokenizer(str(tmp_path / path))


@pytest.mark.parametrize("name", ["x.bin", "x.json", "x.txt", "merges.txt", "vocab.json"])
def test_a_file_of_no_known_kind_is_a_file_error(tmp_path, name):
    (tmp_path / name).write_text("{}", "utf-8")
    with pytest.raises(FileError):
        load_tokenizer(tmp_path / name)
