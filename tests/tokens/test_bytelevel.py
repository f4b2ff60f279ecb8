"""Byte-level BPE by the compiled library: the ids of the tokenizers library, on real files and on any Unicode."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from yanmo import nativetext
from yanmo.tokens import fast
from yanmo.tokens.bytelevel import GPT2, LLAMA3, Compiled, compile_library
from yanmo.tokens.formats import QWEN2
from yanmo.tokens.tokenizer import load_tokenizer

pytestmark = pytest.mark.skipif(nativetext.library() is None, reason=f"texts: {nativetext.why_absent()}")
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TAKEN = 3000  # characters of each file, at three places
KINDS = ("gpt2", "prefixed", "qwen2", "llama3")


def trained(kind: str, corpus: list[str]) -> Tokenizer:
    """A vocabulary with the rules of GPT-2, Qwen 2 (NFC) or Llama 3 (whole words first)."""
    library = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=kind == "prefixed", use_regex=kind in ("gpt2", "prefixed"))
    pattern = {"qwen2": QWEN2, "llama3": LLAMA3}.get(kind)
    library.pre_tokenizer = byte_level
    if pattern is not None:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        library.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    if kind == "qwen2":
        library.normalizer = normalizers.NFC()
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(corpus, trainer)
    library.add_tokens([AddedToken("é<tag>", normalized=True, lstrip=True)])
    return library


@pytest.fixture(scope="module")
def pairs(corpus: list[str]) -> dict[str, tuple[Compiled, Tokenizer]]:
    found = {}
    for kind in KINDS:
        library = trained(kind, corpus)
        compiled = compile_library(library)
        assert compiled is not None, kind
        found[kind] = compiled, library
    return found


def same(compiled: Compiled, library: Tokenizer, texts: list[str]) -> None:
    wanted = [encoding.ids for encoding in library.encode_batch_fast(texts, add_special_tokens=False)]
    for text, ids, expected in zip(texts, compiled.encode(texts), wanted, strict=True):
        assert ids.tolist() == expected, repr(text[:200])


def whole(points: list[int]) -> str:
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


ODD = st.sampled_from(
    [*"'''stremvldSTREMVLD  \n\r\t09.!-", "\u017f", "\u3000", "\x85", "\u0301", "\u1100", "\u1161", "\u11a8", "\u2126"]
    + [
        "<|endoftext|>",
        "é<tag>",
        "e\u0301<tag>",
        "½",
        "٣",
        "〇",
        "中文",
        "😀",
        "\U000e0041",
        "\u180e",
        "'LL",
        "'re",
        " ",
    ]
)


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.one_of(ODD, st.text(max_size=8)), max_size=30).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_text_has_the_ids_of_the_library(pairs, kind: str, text: str) -> None:
    same(*pairs[kind], [text])


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_point_has_the_ids_of_the_library(pairs, kind: str) -> None:
    points = [p for p in range(0x3400) if not 0xD800 <= p < 0xE000] + list(range(0x3400, 0x110000, 131))
    same(*pairs[kind], [whole([97, 39, p, 32, p, 49, p, 10, p]) for p in points])


@pytest.mark.parametrize("text", ["", "a", " ", "a" * 5000, "ab" * 3000, "中" * 2000, " \n" * 999, "'" * 77, "1" * 999])
def test_long_runs_have_the_ids_of_the_library(pairs, text: str) -> None:
    for compiled, library in pairs.values():
        same(compiled, library, [text, text + "x", "x" + text])


def test_what_is_left_to_the_library_is_little(pairs) -> None:
    """A text with an added token, or one that NFC may change; else nobody would see how slow it is."""
    for kind, (compiled, _) in pairs.items():
        assert compiled._one("Plain words, 中文 and émigré.") is not None
        assert compiled._one("a <|endoftext|> b") is None
        assert (compiled._one("e\u0301") is None) == (kind == "qwen2")


def test_characters_that_are_called_safe_are_left_alone_by_nfc(pairs) -> None:
    from yanmo.tokens.bytelevel import _unsafe

    safe = [chr(point) for point in np.flatnonzero(_unsafe() == 0)]
    text = "".join(safe) + "".join(reversed(safe))
    assert len(safe) > 100_000 and unicodedata.normalize("NFC", text) == text
    assert normalizers.NFC().normalize_str(text) == text


@pytest.mark.parametrize("change", ["dropout", "pattern", "lowercase", "prefix", "alphabet"])
def test_other_rules_are_left_to_the_library(corpus: list[str], change: str) -> None:
    library = trained("gpt2", corpus[:50])
    if change == "dropout":
        library.model.dropout = 0.1
    if change == "pattern":
        split = pre_tokenizers.Split(Regex(GPT2.replace("'s", "'x")), "isolated")
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        library.pre_tokenizer = pre_tokenizers.Sequence([split, last])
    if change == "lowercase":
        library.normalizer = normalizers.Lowercase()
    if change == "prefix":
        split = pre_tokenizers.Split(Regex(GPT2), "isolated")
        last = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
        library.pre_tokenizer = pre_tokenizers.Sequence([split, last])
    if change == "alphabet":
        library.model = models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")])
    assert compile_library(library) is None


def test_much_text_goes_through_the_compiled_library_with_equal_ids(tmp_path: Path, corpus, monkeypatch) -> None:
    trained("qwen2", corpus).save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    texts = ["\n".join(corpus[:400]), "", "<|endoftext|> e\u0301"]
    before = tokenizer.encode_batch(texts, add_special_tokens=False)
    assert "_compiled" not in vars(tokenizer.engine), "a few texts are not worth a second"
    monkeypatch.setattr(fast, "MUCH", 100)
    assert tokenizer.encode_batch(texts, add_special_tokens=False) == before
    assert [ids.tolist() for ids in tokenizer.encode_arrays(texts)] == before
    assert vars(tokenizer.engine)["_compiled"] is not None


def contents(path: Path) -> Iterator[bytes]:
    """What a file holds, unpacked; a damaged one as it is."""
    data = path.read_bytes()
    try:
        if path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                for member in list(archive)[:12]:
                    if member.isfile():
                        yield archive.extractfile(member).read()  # type: ignore[union-attr]
            return
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                yield from (archive.read(name) for name in archive.namelist()[:12])
            return
        unpack = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}.get(path.suffix)
        yield unpack(data) if unpack else data
    except (OSError, EOFError, zlib.error):
        yield data


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared files are not here")
@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_the_shared_files_have_the_ids_of_the_library(pairs, kind: str) -> None:
    texts = []
    for path in sorted(path for path in DATA.rglob("*") if path.is_file()):
        for data in contents(path):
            text = data.decode("utf-8", "replace")
            places = sorted({0, len(text) // 2, max(0, len(text) - TAKEN)})
            texts += [text[place : place + TAKEN] for place in places]
    assert len(texts) > 300
    same(*pairs[kind], texts)


@pytest.mark.skipif(not (DATA / "tokenizers/gpt2-vocab.bpe").is_file(), reason="GPT-2's vocabulary is not here")
def test_the_vocabulary_of_gpt2_has_the_ids_of_the_library() -> None:
    library = load_tokenizer(DATA / "tokenizers/gpt2-vocab.bpe").engine.library
    compiled = compile_library(library)
    assert compiled is not None
    names = ("tinyshakespeare.txt", "wikitext-2-valid.txt", "zh-novel-红楼梦.txt.gz")
    texts = [data.decode("utf-8", "replace")[:300_000] for name in names for data in contents(DATA / "corpora" / name)]
    same(compiled, library, texts)
