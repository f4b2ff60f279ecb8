"""The header of a GGUF file: what is read, and what is refused in one sentence, whatever stands in it."""

from __future__ import annotations

import io
import os
import random
import struct
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import yanmo
from yanmo.errors import Error, FileError
from yanmo.gguf import KINDS, MAX_HEADER_BYTES, is_gguf, parse_header, read_header
from yanmo.models.ggufmodel import gguf_config
from yanmo.tokens.tokenizer import load_tokenizer

HUGE = [0, 1, 2, 7, 8, 9, 13, 31, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**48, 2**63 - 1, 2**63, 2**64 - 1]


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, data: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + data


def number(name: str, value: int) -> bytes:
    return key(name, 4, struct.pack("<I", value))


def word(name: str, value: str) -> bytes:
    return key(name, 8, text(value))


def array(name: str, kind: int, count: int, data: bytes) -> bytes:
    return key(name, 9, struct.pack("<IQ", kind, count) + data)


def tensor(name: str, sizes: list[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def raw(
    keys: list[bytes],
    tensors: tuple[bytes, ...] | list[bytes] = (),
    data: int = 0,
    *,
    counts: tuple[int, int] | None = None,
    version: int = 3,
    align: int = 32,
) -> bytes:
    """A file; `counts`: other numbers of tensors and keys than there are."""
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(keys))))
    head += b"".join([*keys, *tensors])
    return head + bytes(-len(head) % align + data)


def parse(data: bytes) -> Any:
    return parse_header(io.BytesIO(data), len(data), Path("x.gguf"))


def test_every_kind_of_value_is_read() -> None:
    forms = ["B", "b", "H", "h", "I", "i", "f", "?", None, None, "Q", "q", "d"]
    keys = [key(f"k{n}", n, struct.pack(f"<{form}", 1)) for n, form in enumerate(forms) if form]
    keys += [word("名", "值"), array("words", 8, 2, text("a") + text("")), array("none", 8, 0, b"")]
    keys += [array("numbers", 5, 2, struct.pack("<ii", -1, 2)), array("flags", 7, 2, b"\1\0")]
    found = parse(raw(keys)).metadata
    assert all(found[f"k{n}"] == 1 for n, form in enumerate(forms) if form)
    assert found["k7"] is True and type(found["k6"]) is float
    assert found["名"] == "值" and found["words"] == ["a", ""] and found["none"] == []
    assert found["numbers"].tolist() == [-1, 2] and found["flags"].tolist() == [True, False]


def test_tensors_are_where_the_format_puts_them() -> None:
    parts = [number("general.alignment", 64)], [tensor("b", [32, 3], 8, 64), tensor("a", [5], 0, 0)]
    found = parse(raw(*parts, 64 + 3 * 34, align=64))
    start = len(raw(*parts, align=64))
    assert [*found.tensors] == ["b", "a"]
    assert found.tensors["b"].shape == (3, 32) and found.tensors["b"].kind.name == "Q8_0"
    assert found.tensors["b"].offset == start + 64 and found.tensors["b"].nbytes == 3 * 34
    assert found.tensors["a"].offset == start and found.tensors["a"].nbytes == 20


def test_kinds_have_the_sizes_of_the_format_s_own_package() -> None:
    gguf = pytest.importorskip("gguf")
    for value, kind in KINDS.items():
        theirs = gguf.GGMLQuantizationType(value)
        assert (theirs.name, gguf.GGML_QUANT_SIZES[theirs]) == (kind.name, (kind.items, kind.nbytes))


A, B = tensor("a", [8], 0, 0), tensor("b", [8], 0, 32)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the magic number needs 4 bytes"),
        (b"GGML" + bytes(20), "does not begin with GGUF"),
        (raw([], version=1), "version 1, read are 2 and 3"),
        (raw([], version=3 << 24), "a file for big-endian machines"),
        (b"GGUF\3\0\0\0", "the number of tensors needs 8 bytes"),
        (raw([], counts=(2**63, 0)), "tensors are claimed"),
        (raw([], counts=(0, 2**64 - 1)), "keys are claimed"),
        (raw([], counts=(0, 1)), "keys are claimed, at most 0 fit"),
        (raw([struct.pack("<Q", 2**64 - 1)], counts=(0, 1)) + bytes(99), "a key needs 18,446,744"),
        (raw([number("", 1)]), "has a name of 0 characters"),
        (raw([number("n" * 5000, 1)]), "has a name of 5,000 characters"),
        (raw([number("a", 1), number("a", 1)]), "'a' stands in it twice"),
        (raw([key("a", 77, bytes(8))]), "a value of type 77"),
        (raw([key("a", 7, b"\2")]), "the truth value 2"),
        (raw([array("a", 7, 2, b"\0\3")]), "neither 0 nor 1"),
        (raw([array("a", 9, 1, bytes(16))]), "an array of type 9"),
        (raw([array("a", 8, 2**61, b"")]), "texts of 'a' are claimed"),
        (raw([array("a", 10, 2**61, b"")]), "numbers of 'a' are claimed"),
        (raw([key("a", 8, text(b"\xff"))]), "is not UTF-8"),
        (raw([key("a", 8, struct.pack("<Q", 2**40))]), "the value of a key needs 1,099,511,627,776 bytes"),
        (raw([number("general.alignment", 0)]), "must be a power of two"),
        (raw([number("general.alignment", 48)]), "must be a power of two"),
        (raw([number("general.alignment", 2**31)]), "must be a power of two"),
        (raw([word("general.alignment", "32")]), "must be a power of two"),
        (raw([], [tensor("a", [], 0, 0)], 64), "0 dimensions"),
        (raw([], [tensor("a", [1] * 5, 0, 0)], 64), "5 dimensions"),
        (raw([], [tensor("a", [8], 99, 0)], 64), "has the type 99, read are F32, F16, Q4_0"),
        (raw([], [tensor("a", [0], 0, 0)], 64), "the sizes .0., which no tensor"),
        (raw([], [tensor("a", [2**63], 0, 0)], 64), "which no tensor of F32 has"),
        (raw([], [tensor("a", [33], 8, 0)], 64), "which no tensor of Q8_0 has"),
        (raw([], [tensor("a", [2**32, 2**32], 0, 0)], 64), "needs 73,786,976,294,838,206,464 bytes and 64 are left"),
        (raw([], [tensor("a", [2**32, 2**32], 0, 0)], 64), "the download is incomplete"),
        (raw([], [A, A], 64), "the tensor 'a' stands in it twice"),
        (raw([], [A, tensor("b", [8], 0, 0)], 64), "'b' begins at byte .* ends at"),
        (raw([], [A, tensor("b", [8], 0, 31)], 64), "'b' begins at byte"),
        (raw([], [A, tensor("b", [8], 0, 64)], 96), "'b' begins at byte"),
        (raw([], [tensor("a", [8], 0, 2**64 - 32)], 64), "'a' begins at byte"),
        (raw([], [A, B], 63), "needs 32 bytes and 31 are left"),
    ],
)
def test_a_header_that_lies_is_one_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(FileError, match=sentence) as caught:
        parse(data)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GG")
    os.mkfifo(tmp_path / "pipe")
    for path, sentence in [("nowhere", "no such file"), ("pipe", "not a regular"), (".", "not a regular")]:
        with pytest.raises(FileError, match=sentence):
            read_header(tmp_path / path)
    assert not any(is_gguf(tmp_path / name) for name in ("x.gguf", "nowhere", "pipe", ".", "a\0b"))
    with pytest.raises(FileError, match="no GGUF file, where a model folder"):
        yanmo.load(tmp_path / "x.gguf")


def test_a_header_larger_than_any_is_not_read() -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) if size == 4 else bytes(size)

    with pytest.raises(FileError, match="the magic number|needs|claimed"):
        parse_header(Endless(), 2**60, Path("x.gguf"))  # type: ignore[arg-type]
    data = raw([key("a", 8, struct.pack("<Q", MAX_HEADER_BYTES))])
    with pytest.raises(FileError, match="a header has at most"):
        parse_header(io.BytesIO(data), 2**40, Path("x.gguf"))


# --- files that were changed


def whole() -> bytes:
    """A complete model of two layers with a vocabulary of each kind of token, as small as it can be."""
    names = ["embedding_length", "context_length", "block_count", "feed_forward_length"]
    keys = [
        word("general.architecture", "llama"),
        *(number(f"llama.{name}", 8 if name[0] != "b" else 2) for name in names),
    ]
    keys += [number("llama.attention.head_count", 2), number("llama.attention.head_count_kv", 1)]
    keys += [key("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)), number("general.alignment", 32)]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a", "b", "▁", "▁ab", "a"]
    types = [2, 3, 3] + [6] * 256 + [1] * 5
    keys += [
        word("tokenizer.ggml.model", "llama"),
        array("tokenizer.ggml.tokens", 8, len(tokens), b"".join(map(text, tokens))),
    ]
    keys += [array("tokenizer.ggml.scores", 6, len(tokens), struct.pack(f"<{len(tokens)}f", *range(len(tokens))))]
    keys += [array("tokenizer.ggml.token_type", 5, len(types), struct.pack(f"<{len(types)}i", *types))]
    keys += [number("tokenizer.ggml.bos_token_id", 1), number("tokenizer.ggml.eos_token_id", 2)]
    keys += [word("tokenizer.chat_template", "{{ messages[0]['content'] }}")]
    shapes = {"token_embd.weight": [8, len(tokens)], "output_norm.weight": [8]}
    for layer in range(2):
        sizes = {"attn_q": [8, 8], "attn_k": [8, 4], "attn_v": [8, 4], "attn_output": [8, 8], "attn_norm": [8]}
        sizes |= {"ffn_norm": [8], "ffn_gate": [8, 8], "ffn_up": [8, 8], "ffn_down": [8, 8]}
        shapes |= {f"blk.{layer}.{name}.weight": size for name, size in sizes.items()}
    tensors, offset = [], 0
    for name, size in shapes.items():
        tensors.append(tensor(name, size, 0, offset))
        offset += -(-4 * int(np.prod(size)) // 32) * 32
    return raw(keys, tensors, offset)


WHOLE = whole()
HEADER = WHOLE.index(b"blk.1.ffn_down.weight") + 21 + 4 + 16 + 4 + 8
FIELDS = [place for place in range(4, HEADER) if WHOLE[place : place + 8].count(0) >= 3]  # lengths, counts, types


def mutated(chance: random.Random) -> bytes:
    """The file with its header changed: a few bits, other numbers, a piece cut out or written twice."""
    data = bytearray(WHOLE)
    kind = chance.randrange(5)
    for _ in range(chance.choice((1, 1, 1, 3))):
        place = chance.choice(FIELDS) if chance.random() < 0.7 else chance.randrange(HEADER)
        if kind == 0:
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[place : place + 8] = struct.pack("<Q", chance.choice(HUGE))
        elif kind == 2:
            data[place : place + 4] = struct.pack("<I", chance.choice(HUGE) % 2**32)
        elif kind == 3:
            del data[place : place + chance.randrange(1, 40)]
        else:
            data[place:place] = data[place : place + chance.randrange(1, 40)]
    return bytes(data)


def all_refused_or_read(chance: random.Random, count: int) -> int:
    """How many of so many changed headers are read; any error but ours fails the test."""
    read = 0
    for _ in range(count):
        try:
            gguf_config(parse(mutated(chance)))
            read += 1
        except Error as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
    return read


def test_ten_thousand_changed_headers_end_in_nothing_but_our_error() -> None:
    read = all_refused_or_read(random.Random(5), 10_000)
    assert 100 < read < 9000  # neither was all refused, nor all read


def test_a_changed_header_takes_little_memory_whatever_it_claims() -> None:
    tracemalloc.start()
    try:
        all_refused_or_read(random.Random(6), 600)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * 2**20


@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), cut=st.none() | st.integers(0, len(WHOLE)))
def test_a_changed_file_is_loaded_whole_or_refused(tmp_path_factory: Any, seed: int, cut: int | None) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.gguf"
    path.write_bytes(mutated(random.Random(seed))[:cut] if seed % 4 else WHOLE[:cut])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = yanmo.load(path)
            model.logits(torch.tensor([[1, 2]]))
            model.tokenizer.encode("a b </s>")
    except Error as error:
        assert "\n" not in str(error)


def test_the_file_that_is_changed_above_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(WHOLE)
    model = yanmo.load(path)
    assert model.config.n_kv_heads == 1 and model.config.tie_embeddings and model.ends.eos_ids == {2}
    assert model.tokenizer.encode("ab") == [1, 262]
    assert load_tokenizer(path).chat_template == "{{ messages[0]['content'] }}"
