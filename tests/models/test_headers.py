"""A safetensors file that is damaged, foreign or hostile ends in one sentence, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from weight_files import KINDS, QUICK, damaged, raw_file, read_all

from yanmo.errors import FileError
from yanmo.models.headers import DTYPES
from yanmo.models.saving import save_weights
from yanmo.models.weights import open_weights


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "data", "length", "sentence"),
    [
        (b"{}", b"", 2**64 - 1, "claims a header of"),
        (b"{}", b"", 3, "claims a header of 3 bytes"),
        (b"{}", b"x", None, "describes 0 bytes of data and the file holds 1"),
        (b"not json", b"", None, "not usable JSON"),
        (b"[]", b"", None, "a list, not a JSON object"),
        (b"\xff\xfe", b"", None, "not usable JSON"),
        (b"[" * 100_000, b"", None, "not usable JSON"),
        (b'{"a":' * 50_000, b"", None, "not usable JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", b"", None, "not usable JSON"),
        (b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},' * 2, b"", None, "not usable JSON"),
        (
            b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
            b"",
            None,
            "'a' stands in it twice",
        ),
        (
            b'{"a":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}}',
            b"",
            None,
            "'dtype' stands in it twice",
        ),
        ({"a": 1}, b"", None, "not described by dtype"),
        ({"a": {"dtype": "F32", "shape": [2]}}, b"", None, "not described by dtype"),
        ({"a": entry(dtype="C64")}, bytes(8), None, "the dtype 'C64'"),
        ({"a": entry(dtype=["F32"])}, bytes(8), None, "the dtype a list"),
        ({"a": entry(shape=[-2])}, bytes(8), None, "a shape that is not"),
        ({"a": entry(shape=[2.0])}, bytes(8), None, "a shape that is not"),
        ({"a": entry(shape=[True, 2])}, bytes(8), None, "a shape that is not"),
        ({"a": entry(shape=[2**64])}, bytes(8), None, "a shape that is not"),
        ({"a": entry(shape="2")}, bytes(8), None, "a shape that is not"),
        ({"a": entry(shape=[2**32, 2**32])}, bytes(8), None, "needs .* bytes and its place has 8"),
        ({"a": entry(shape=[2**40, 2**40, 0], offsets=[0, 0])}, b"", None, "overflow"),
        ({"a": entry(shape=[0, 2**40, 2**40], offsets=[0, 0])}, b"", None, "the size or stride"),
        ({"a": entry(shape=[1] * 33, offsets=[0, 4])}, bytes(4), None, "33 dimensions"),
        ({"a": entry(shape=[1] * 10_000, offsets=[0, 4])}, bytes(4), None, "10000 dimensions"),
        ({"a": entry(shape=[3])}, bytes(8), None, "needs 12 bytes and its place has 8"),
        ({"a": entry(shape=[1])}, bytes(8), None, "has 4 bytes, the header gives it 8"),
        ({"a": entry(offsets=[0, 16])}, bytes(8), None, "claims the bytes 0 to 16 of 8"),
        ({"a": entry(offsets=[-8, 0])}, bytes(8), None, "claims the bytes -8"),
        ({"a": entry(offsets=[8, 0])}, bytes(8), None, "claims the bytes 8 to 0"),
        ({"a": entry(offsets=[0])}, bytes(8), None, "not two integers"),
        ({"a": entry(offsets=[False, 8])}, bytes(8), None, "not two integers"),
        (
            {"a": entry(), "b": entry()},
            bytes(8),
            None,
            "'b' begins at byte 0 of the data and the one before it ends at 8",
        ),
        ({"a": entry(offsets=[8, 16])}, bytes(16), None, "begins at byte 8"),
        ({"__metadata__": {"a": 1}, "a": entry()}, bytes(8), None, "not a safetensors file"),
        ({"__metadata__": [], "a": entry()}, bytes(8), None, "not a safetensors file"),
    ],
)
def test_a_header_that_lies_is_one_sentence(
    tmp_path: Path, header: object, data: bytes, length: int | None, sentence: str
) -> None:
    path = raw_file(tmp_path / "model.safetensors", header, data, length)
    with pytest.raises(FileError, match=sentence) as caught:
        open_weights(tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


@QUICK
@given(seed=st.integers(0, 2**32), kind=KINDS)
def test_a_damaged_safetensors_file_never_ends_in_anything_but_our_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kind: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged-safetensors"
    folder.mkdir(exist_ok=True)
    save_weights({"a": torch.ones(3, 2), "b": torch.ones(2, dtype=torch.int64), "c": torch.tensor(True)}, folder)
    path = folder / "model.safetensors"
    path.write_bytes(damaged(path.read_bytes(), seed, kind))
    read_all(folder)


@QUICK
@given(seed=st.integers(0, 2**32), kind=KINDS, index=st.booleans())
def test_a_damaged_set_of_shards_never_ends_in_anything_but_our_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kind: str, index: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged-shards"
    folder.mkdir(exist_ok=True)
    paths = save_weights({"a": torch.ones(3), "b": torch.ones(2), "c": torch.tensor(True)}, folder, max_shard_bytes=9)
    path = paths[-1 if index else 0]
    path.write_bytes(damaged(path.read_bytes(), seed, kind))
    read_all(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "F4", "X"]),
        "shape": st.lists(st.integers(-1, 2**65) | st.integers(0, 3), max_size=4),
        "data_offsets": st.lists(st.integers(-1, 2**65) | st.integers(0, 40), min_size=1, max_size=3),
    }
)


@QUICK
@given(header=st.dictionaries(st.text(max_size=8), ENTRIES | JSON, max_size=3) | JSON, data=st.binary(max_size=40))
def test_a_header_of_any_json_never_ends_in_anything_but_our_error(
    tmp_path_factory: pytest.TempPathFactory, header: object, data: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-json"
    folder.mkdir(exist_ok=True)
    raw_file(folder / "model.safetensors", header, data)
    read_all(folder)


@QUICK
@given(data=st.binary(max_size=200), name=st.sampled_from(["model.safetensors", "model.safetensors.index.json"]))
def test_random_bytes_never_end_in_anything_but_our_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"random-{name}"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    read_all(folder)
