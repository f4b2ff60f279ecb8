"""Archives whose directory lies, or that are damaged, end in one sentence."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pickled import archive, tensor
from weight_files import KINDS, QUICK, damaged, read_all

from yanmo.errors import FileError
from yanmo.models.weights import open_weights


def written(path: Path, *names: str, method: int = zipfile.ZIP_STORED, data: bytes = b"little") -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name in names:
            file.writestr(name, data)
    return path


def patched(path: Path, *changes: tuple[bytes, bytes, int]) -> None:
    """Replace bytes at a place relative to the last occurrence of a signature."""
    data = bytearray(path.read_bytes())
    for signature, new, at in changes:
        start = data.rindex(signature) + at
        data[start : start + len(new)] = new
    path.write_bytes(data)


LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([(CENTRAL, b"\x01\x00", 8)], "is encrypted"),
        ([(LOCAL, b"\x01\x00", 6)], "described differently"),
        ([(CENTRAL, b"\x08\x00", 10)], "is compressed"),
        ([(CENTRAL, struct.pack("<II", 2**31, 2**31), 20)], "described differently|beyond"),
        ([(CENTRAL, struct.pack("<I", 7), 24)], "is compressed"),
        (
            [(at, struct.pack("<II", 999, 999), 20 if at == CENTRAL else 18) for at in (CENTRAL, LOCAL)],
            "ends at byte .* beyond",
        ),
        ([(CENTRAL, struct.pack("<I", 0), 42)], "overlaps|described differently"),
        ([(CENTRAL, struct.pack("<I", 2**30), 42)], "overlaps"),
        ([(LOCAL, b"X", 0)], "described differently"),
        ([(LOCAL, struct.pack("<H", 60_000), 28)], "described differently"),
        ([(LOCAL, b"X", 30)], "described differently"),
        ([(LOCAL, struct.pack("<II", 9, 9), 18)], "described differently"),
        ([(END, struct.pack("<I", 2**30), 12)], "damaged zip archive|zip directory"),
        ([(END, struct.pack("<I", 2**30), 16)], "damaged zip archive|overlaps"),
    ],
)
def test_a_zip_directory_that_lies_is_one_sentence(
    tmp_path: Path, changes: list[tuple[bytes, bytes, int]], sentence: str
) -> None:
    path = archive(tmp_path / "pytorch_model.bin", tensor())
    patched(path, *changes)
    with pytest.raises(FileError, match=sentence):
        open_weights(tmp_path)


@pytest.mark.parametrize("name", ["/data.pkl", "../data.pkl", "archive/../x", "archive\\x"])
def test_names_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    written(tmp_path / "pytorch_model.bin", "archive/data.pkl", name)
    with pytest.raises(FileError, match="leaves its folder"):
        open_weights(tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "pytorch_model.bin", "archive/data.pkl", "archive/data.pkl")
    with pytest.raises(FileError, match="twice"):
        open_weights(tmp_path)


def test_an_archive_without_a_pickle_or_with_two_is_refused(tmp_path: Path) -> None:
    for names in [("archive/x",), ("data.pkl",), ("a/data.pkl", "b/data.pkl")]:
        written(tmp_path / "pytorch_model.bin", *names)
        with pytest.raises(FileError, match="torch.save did not write"):
            open_weights(tmp_path)


def test_a_zip_bomb_is_refused_without_unpacking(tmp_path: Path) -> None:
    written(tmp_path / "pytorch_model.bin", "archive/data.pkl", method=zipfile.ZIP_DEFLATED, data=bytes(50_000_000))
    with pytest.raises(FileError, match="is compressed"):
        open_weights(tmp_path)


def test_a_directory_that_is_too_large_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yanmo.models.archives.MAX_DIRECTORY_BYTES", 100_000)
    written(tmp_path / "pytorch_model.bin", *(f"archive/{i}" for i in range(2000)))
    with pytest.raises(FileError, match="a zip directory of .* bytes, at most 100,000"):
        open_weights(tmp_path)


def test_a_pickle_with_a_wrong_checksum_is_damaged(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    data = (tmp_path / "pytorch_model.bin").read_bytes()
    (tmp_path / "pytorch_model.bin").write_bytes(data.replace(b"weight", b"weighs"))
    with pytest.raises(FileError, match="does not match its checksum"):
        open_weights(tmp_path)


@QUICK
@given(seed=st.integers(0, 2**32), kind=KINDS)
def test_a_damaged_archive_never_ends_in_anything_but_our_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kind: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged-archive"
    folder.mkdir(exist_ok=True)
    path = folder / "pytorch_model.bin"
    torch.save({"a": torch.ones(3, 2), "b": torch.nn.Parameter(torch.ones(2)), "c": torch.tensor(True)}, path)
    path.write_bytes(damaged(path.read_bytes(), seed, kind))
    read_all(folder)
