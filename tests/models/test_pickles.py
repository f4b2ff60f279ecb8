"""Pickled weights are read as torch.load reads them, and nothing that a pickle asks for is ever run."""

from __future__ import annotations

import builtins
import collections
import contextlib
import io
import os
import pickle
import pickletools
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pickled import archive, tensor
from weight_files import KINDS, QUICK, damaged, of_every_kind, read_all, snapshot

from yanmo.errors import Error, FileError
from yanmo.models import pickles, stored
from yanmo.models.weights import open_weights, open_weights_file


def equal(weights: dict[str, torch.Tensor], file: Path) -> bool:
    with open_weights_file(file) as opened:
        assert opened.names == list(weights)
        for name, tensor in weights.items():
            info = opened.info(name)
            assert (info.dtype, info.shape) == (tensor.dtype, tuple(tensor.shape))
            assert torch.equal(opened.read(name), tensor), name
            target = torch.zeros(tensor.shape[::-1], dtype=torch.float64).permute([*reversed(range(tensor.ndim))])
            opened.read_into(name, target)
            assert torch.equal(target, tensor.double()), name
    return True


def state_dict() -> dict[str, torch.Tensor]:
    """What torch.save writes differently from a plain tensor, once each."""
    generator = torch.Generator().manual_seed(0)
    large = torch.randn(40, 30, generator=generator)
    tensors = {name: tensor for name, tensor in of_every_kind().items() if not name.startswith("F8")}
    return tensors | {
        "large": large,
        "rows of large": large[3:7],
        "columns of large": large[:, 3:20:4],
        "turned": torch.randn(3, 4, 5, generator=generator).permute(2, 0, 1),
        "parameter": torch.nn.Parameter(large.clone()),
        "turned parameter": torch.nn.Parameter(large.T),
        "element": large[4, 4],
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("block", [8, 100, 2**24])
def test_a_state_dict_is_read_as_torch_reads_it(
    tmp_path: Path, protocol: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "BLOCK", block)
    path = tmp_path / "pytorch_model.bin"
    torch.save(state_dict(), path, pickle_protocol=protocol)
    assert equal(state_dict(), path)
    if protocol == 2:  # torch.load with weights_only knows no other
        assert equal(torch.load(path, weights_only=True), path)


def test_the_state_dict_of_a_module_is_read_without_its_metadata(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).to(torch.bfloat16)
    assert module.state_dict()._metadata
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    assert equal(dict(module.state_dict()), tmp_path / "pytorch_model.bin")


def test_a_state_dict_under_its_name_is_unwrapped(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "x.pt")
    assert equal({"a": torch.ones(2)}, tmp_path / "x.pt")


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    finally:
        torch.serialization.set_crc32_options(True)
    assert equal({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")


def test_a_real_pickled_model_is_read(shared_data: Path) -> None:
    path = shared_data / "weights" / "tinypellm-untrained" / "pytorch_model.bin"
    assert equal(torch.load(path, weights_only=True), path)


def test_pickled_shards_are_one_set_of_weights(tmp_path: Path) -> None:
    for i in (1, 2):
        torch.save({f"t{i}": torch.full((3,), float(i))}, tmp_path / f"pytorch_model-{i:05d}-of-00002.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(
        '{"weight_map": {"t1": "pytorch_model-00001-of-00002.bin", "t2": "pytorch_model-00002-of-00002.bin"}}'
    )
    with open_weights(tmp_path) as weights:
        assert weights.read("t2").tolist() == [2, 2, 2]


def test_torch_with_weights_only_would_be_no_oracle_if_we_called_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is unpickled: every door to the unpickler is shut, and the weights are read all the same."""
    torch.save(state_dict(), tmp_path / "pytorch_model.bin")

    def shut(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for module, name in [(pickle, "loads"), (pickle, "load"), (pickle, "Unpickler"), (torch, "load")]:
        monkeypatch.setattr(module, name, shut)
    with open_weights(tmp_path) as weights:
        assert weights.read("large").shape == (40, 30)


# Hostile pickles ---------------------------------------------------------------------------------------------------


class Calls:
    """An object whose pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Calls(os.system, "touch /tmp/owned"), "posix.system"),
        (Calls(builtins.eval, "1"), "(builtins|__builtin__).eval"),
        (Calls(subprocess.Popen, ["true"]), "(subprocess|commands).Popen"),
        (numpy.zeros(3), "numpy"),
        (torch.float32, "'torch.float32'"),
        (io.BytesIO, "io.BytesIO"),
        (collections.Counter("a"), "collections.Counter"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_any_other_name_is_refused_by_name_and_never_imported(
    tmp_path: Path, value: object, named: str, protocol: int
) -> None:
    torch.save({"a": torch.ones(2), "b": value}, tmp_path / "pytorch_model.bin", pickle_protocol=protocol)
    with pytest.raises(FileError, match=f"holds .*{named}.*, which is not a tensor; it is not read, convert"):
        open_weights(tmp_path)


def test_a_module_that_is_named_is_not_imported(tmp_path: Path) -> None:
    archive(tmp_path / "pytorch_model.bin", b"\x80\x02cantigravity\nfly\n)R.")
    with pytest.raises(FileError, match="antigravity.fly"):
        open_weights(tmp_path)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (torch.ones(2), "holds a tensor and not a dictionary"),
        ([torch.ones(2)], "pickle opcode EMPTY_LIST"),
        ({"a": torch.ones(2), "epoch": 3}, "holds 3 under 'epoch', which is not a tensor"),
        ({"a": torch.ones(2), "lr": 0.1}, "pickle opcode BINFLOAT"),
        ({"a": torch.ones(2), "config": {"x": 1}}, "holds a dict under 'config'"),
        ({"state_dict": {"a": torch.ones(2)}, "epoch": 1}, "holds a dict under 'state_dict'"),
        ({"state_dict": {"a": 1}}, "holds 1 under 'a'"),
        ({1: torch.ones(2)}, "the key 1, which is not a name"),
        ({"a": "x" * 10_000}, "holds 'xxx"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "torch.ComplexFloatStorage"),
        ({"a": torch.ones(1).expand(4)}, "overlaps itself"),
        ({"a": torch.ones(1, device="meta")}, "is not a tensor"),
        ({"a": torch.ones(2, 2).to_sparse()}, "_rebuild_sparse_tensor"),
        ({"a": torch.ones(2, dtype=torch.float8_e5m2)}, "is not a tensor"),
    ],
)
def test_what_is_not_a_dictionary_of_dense_tensors_is_one_sentence(
    tmp_path: Path, value: object, sentence: str
) -> None:
    torch.save(value, tmp_path / "pytorch_model.bin")
    with pytest.raises(FileError, match=sentence) as caught:
        open_weights(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_the_pickle_written_by_hand_is_a_tensor(tmp_path: Path) -> None:
    values = torch.arange(16.0)
    archive(tmp_path / "x.bin", tensor(), storage=values.numpy().tobytes())
    assert equal({"a": values[:8]}, tmp_path / "x.bin")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (tensor(shape="K\x09\x85"), "needs 36 bytes and its place has 32"),
        (tensor(offset="K\x01"), "needs 32 bytes and its place has 28"),
        (tensor(offset="K\x09"), "begins at element 9 of 8"),
        (tensor(offset="J\xff\xff\xff\xff"), "shape is not made of sizes"),
        (tensor(strides="K\x02\x85"), "needs 60 bytes"),
        (tensor(strides="J\xff\xff\xff\xff\x85"), "the size or stride -1"),
        (tensor(shape="J\xff\xff\xff\xff\x85"), "the size or stride -1"),
        (tensor(shape="\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85"), "the size or stride 9223372036854775807"),
        (tensor(shape="\x88\x85"), "shape is not made of sizes"),
        (tensor(shape="}\x85"), "shape is not made of sizes"),
        (tensor(shape="K\x02K\x04\x86"), "2 dimensions and 1 strides"),
        (tensor(shape="(" + "K\x01" * 40 + "t", strides="(" + "K\x01" * 40 + "t"), "40 dimensions"),
        (tensor(shape="K\x04K\x04\x86", strides="K\x01K\x01\x86"), "overlaps itself"),
        (tensor(shape="K\x7fK\x7f\x86", strides="K\x00K\x00\x86"), "overlaps itself"),
        (tensor(numel="K\x11"), "a storage of 68 bytes, its entry has 64"),
        (tensor(numel="J\xff\xff\xff\xff"), "not a storage of numbers"),
        (tensor(numel="\x88"), "not a storage of numbers"),
        (tensor(key="7"), "stored in '7', which the archive lacks"),
        (tensor(storage="QInt8Storage"), "torch.QInt8Storage"),
        (tensor(end="K\x00}"), "arguments that make no tensor"),
        (tensor(end="\x89}X\x01\0\0\0b"), "with metadata"),
        (b"", "ends without its last opcode"),
        (b".", "an empty stack"),
        (b"\x80\x02}", "ends without its last opcode|is damaged"),
        (b"\x80\x02(((t.", "a tuple and not a dictionary|an empty stack"),
        (b"\x80\x02t.", "lacks a mark"),
        (b"\x80\x02}K\x01s.", "an empty stack|takes a value"),
        (b"\x80\x02K\x01}K\x01K\x02su.", "lacks a mark"),
        (b"\x80\x02K\x01K\x02K\x03s.", "not a dictionary"),
        (b"\x80\x02}(K\x01u.", "not a dictionary"),
        (b"\x80\x02h\x05.", "recalls the value 5"),
        (b"\x80\x02)}b.", "sets the attributes of"),
        (b"\x80\x02K\x01}b.", "sets the attributes of"),
        (b"\x80\x02K\x01Q.", "not a storage"),
        (b"\x80\x02K\x01)R.", "calls 1"),
        (b"\x80\x02}X\x01\0\0\0aK\x01sX\x01\0\0\0aK\x01s.", "holds the key 'a' twice"),
        (b"\x80\x02}()K\x01u.", "a tuple as a key"),
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"(S'true'\nios\nsystem\n.", "opcode STRING"),
        (b"(ios\nsystem\n.", "opcode INST"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
        (b"\x80\x02I" + b"9" * 10_000 + b"\n.", "is damaged|opcode INT"),
        (b"\x80\x04\x8d" + b"\xff" * 8 + b".", "opcode BINUNICODE8"),
        (tensor().replace(b"\x01\0\0\0a", b"\x03\0\0\0\xed\xa0\x80", 1), "the key '.ud800', which is not a name"),
        (b"\x80\x02X\xff\xff\xff\xff.", "is damaged"),
        (b"\x80\x02X\x01\0\0\0\xff.", "is damaged"),
        (b"\xff", "a byte that is no opcode at byte 0"),
        (b"\x80\x02ctorch\nFloat\\x53torage\n.", "which is not a tensor"),
        (b"\x80\x02c\xff\n\xfe\n.", "is damaged"),
    ],
)
def test_a_hostile_pickle_is_one_sentence(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = archive(tmp_path / "pytorch_model.bin", data)
    before = snapshot(tmp_path)
    with pytest.raises(FileError, match=sentence) as caught:
        open_weights(tmp_path).close()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert snapshot(tmp_path) == before


def test_tuples_that_double_and_nest_cost_nothing(tmp_path: Path) -> None:
    doubled = b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 10_000 + b"."  # would print as 2^10000 brackets
    nested = b"\x80\x02)" + b"\x85" * 200_000 + b"."
    deep = b"\x80\x02" + b"}X\x01\0\0\0a" * 50_000 + b"}" + b"s" * 50_000 + b"."
    for data, sentence in [(doubled, "holds a tuple"), (nested, "holds a tuple"), (deep, "holds a dict under 'a'")]:
        archive(tmp_path / "pytorch_model.bin", data)
        with pytest.raises(FileError, match=sentence):
            open_weights(tmp_path)


def test_millions_of_opcodes_are_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPCODES", 10_000)
    archive(tmp_path / "pytorch_model.bin", b"\x80\x02" + b"N" * 10_001 + b".")
    with pytest.raises(FileError, match="more than 10,000 pickle opcodes"):
        open_weights(tmp_path)


def test_a_pickle_that_is_too_large_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickles, "MAX_PICKLE_BYTES", 100)
    archive(tmp_path / "pytorch_model.bin", bytes(101))
    with pytest.raises(FileError, match="data.pkl has 101 bytes, at most 100"):
        open_weights(tmp_path)


# Archives ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [True, False])
def test_what_is_no_archive_of_torch_names_the_remedy(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "pytorch_model.bin"
    if old:
        torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(b"not weights")
    with pytest.raises(FileError, match=("before 1.6" if old else "not a zip archive") + ".*save_pretrained"):
        open_weights(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "pytorch_model.bin"))
    with pytest.raises(FileError, match="TorchScript"):
        open_weights(tmp_path)


def test_big_endian_weights_are_refused(tmp_path: Path) -> None:
    archive(tmp_path / "pytorch_model.bin", tensor(), byteorder=b"big")
    with pytest.raises(FileError, match="byte order is \"b'big'\""):
        open_weights(tmp_path)


# Damage ------------------------------------------------------------------------------------------------------------


@QUICK
@given(seed=st.integers(0, 2**32), kind=KINDS)
def test_a_damaged_pickle_in_a_whole_archive_never_ends_in_anything_but_our_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kind: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged-pickle"
    folder.mkdir(exist_ok=True)
    archive(folder / "pytorch_model.bin", damaged(tensor() if seed % 2 else tensor(shape="K\x02K\x04\x86"), seed, kind))
    read_all(folder)


OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]


@QUICK
@given(seed=st.integers(0, 2**32), length=st.integers(1, 60))
def test_a_pickle_of_any_opcodes_never_ends_in_anything_but_our_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, length: int
) -> None:
    chance = random.Random(seed)
    known = [b"K\x01", b"}", b")", b"(", b"t", b"\x85", b"\x86", b"s", b"u", b"b", b"Q", b"R", b"h\x00", b"q\x00", b"N"]
    known += [b"X\x01\0\0\0a", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"\x94", b"\x93", b"."]
    data = b"".join(chance.choice(known) if chance.random() < 0.95 else chance.choice(OPCODES) for _ in range(length))
    with contextlib.suppress(pickles._Refused):
        pickles.run(data)
    folder = tmp_path_factory.getbasetemp() / "any-opcodes"
    folder.mkdir(exist_ok=True)
    archive(folder / "pytorch_model.bin", data)
    read_all(folder)


def test_every_prefix_of_a_file_ends_in_our_error(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(2)}, path)
    data = path.read_bytes()
    for length in range(0, len(data), 5):
        path.write_bytes(data[:length])
        with pytest.raises(Error):
            open_weights(tmp_path)
