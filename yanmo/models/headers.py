"""The header of a safetensors file.

In: a path. Out: the open file and where each of its tensors lies, or a FileError of one sentence.

    read_safetensors    both of the below, and the file left open
    parse_header        the bytes of the header → name → Stored; every claim is checked against the file
    _cross_check        the safetensors library opens the same file, as a second opinion

Format: 8 bytes, the length of the header as a little-endian integer; the header, a JSON object of
name → {dtype, shape, data_offsets}; the bytes of the tensors, without gaps (github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from yanmo.errors import FileError
from yanmo.files import reason
from yanmo.models.stored import OpenFile, Stored, check_stored, open_file, shown

MAX_HEADER_BYTES = 25_000_000  # the hub reads no larger one; a header of 100,000 tensors has about 10 MB
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
}  # in the order in which the library ranks them


def read_safetensors(path: Any) -> tuple[OpenFile, dict[str, Stored]]:
    """Open a safetensors file; return it and its tensors in the order of the header."""
    file = open_file(path)
    try:
        tensors = parse_header(file)
        _cross_check(file, tensors)
    except BaseException:
        file.close()
        raise
    return file, tensors


def parse_header(file: OpenFile) -> dict[str, Stored]:
    """Read and check the header of an open file."""
    if file.size < 8:
        raise FileError(f"{file.path}: {file.size} bytes, a safetensors file has more than 8; fetch the file again")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > min(MAX_HEADER_BYTES, file.size - 8):
        raise FileError(
            f"{file.path}: claims a header of {length:,} bytes (the file has {file.size:,}, at most "
            f"{MAX_HEADER_BYTES:,} are read); not a safetensors file, or a damaged one: fetch it again"
        )
    header = _json_object(file, file.read(8, length))
    header.pop("__metadata__", None)  # free text; the library checks its form
    tensors: dict[str, Stored] = {}
    ends: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        begin, end, stored = _tensor(file, name, entry, 8 + length)
        tensors[name] = stored
        ends.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(ends):
        if begin != position:
            raise FileError(
                f"{file.path}: the tensor {shown(name)} begins at byte {begin:,} of the data and the one before it "
                f"ends at {position:,}; the file is damaged: fetch it again"
            )
        position = end
    if position != file.size - 8 - length:
        raise FileError(
            f"{file.path}: the header describes {position:,} bytes of data and the file holds "
            f"{file.size - 8 - length:,}; the download is incomplete or the file is damaged: fetch it again"
        )
    return tensors


def _json_object(file: OpenFile, data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{file.path}: the header is not usable JSON ({reason(error)}); fetch the file again") from None
    if not isinstance(header, dict):
        raise FileError(f"{file.path}: the header is {shown(header)}, not a JSON object; fetch the file again")
    return header


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys must differ: two readers would choose different ones."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {shown(key)} stands in it twice")
        result[key] = value
    return result


def _tensor(file: OpenFile, name: str, entry: Any, data: int) -> tuple[int, int, Stored]:
    """Check one entry of the header; `data` is where the data begins in the file."""
    where = f"{file.path}: the tensor {shown(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FileError(f"{where} is not described by dtype, shape and data_offsets; fetch the file again")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FileError(
            f"{where} has the dtype {shown(dtype)}; read are {', '.join(DTYPES)}: convert it to one of these"
        )
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise FileError(f"{where} has a shape that is not a list of sizes from 0 to 2^48; do not trust the file")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int for n in offsets):
        raise FileError(f"{where} has data_offsets that are not two integers; do not trust the file")
    begin, end = offsets
    if not 0 <= begin <= end <= file.size - data:
        raise FileError(
            f"{where} claims the bytes {shown(begin)} to {shown(end)} of {file.size - data:,}; "
            "the download is incomplete or the file is damaged: fetch it again"
        )
    stored = Stored(file, data + begin, DTYPES[dtype], tuple(shape), _strides(shape))
    check_stored(stored, end - begin, where)
    if stored.nbytes != end - begin:
        raise FileError(
            f"{where} of shape {shown(str(shape))} and dtype {dtype} has {stored.nbytes:,} bytes, the header gives it "
            f"{end - begin:,}; fetch the file again"
        )
    return begin, end, stored


def _strides(shape: list[int]) -> tuple[int, ...]:
    return tuple(math.prod(max(n, 1) for n in shape[i + 1 :]) for i in range(len(shape))) if len(shape) <= 64 else ()


def _cross_check(file: OpenFile, tensors: dict[str, Stored]) -> None:
    try:
        with safe_open(str(file.path), framework="pt") as opened:
            names = set(opened.keys())
    except (SafetensorError, OSError, ValueError, UnicodeError) as error:
        raise FileError(f"{file.path}: not a safetensors file ({reason(error)}); fetch the file again") from None
    if names != set(tensors):
        raise FileError(f"{file.path}: two readers find different tensors in it; do not trust the file")
