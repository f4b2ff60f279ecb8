"""Files of weights for the tests: whole ones, damaged ones, and a reader that lets only our errors pass."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from yanmo.errors import Error
from yanmo.models.headers import DTYPES
from yanmo.models.weights import open_weights

QUICK = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


KINDS = st.sampled_from(["cut", "grown", "bit", "bits"])


def of_every_kind() -> dict[str, torch.Tensor]:
    """A tensor of each dtype, a scalar, empty ones, and one whose data are not aligned."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 5, generator=generator) * 3
    tensors = {name: values.to(dtype) for name, dtype in DTYPES.items()}
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 4), "hollow": torch.empty(3, 0, 2)}
    tensors |= {"one": torch.ones(1, 1, 7, 1), "odd": torch.ones(3, dtype=torch.uint8), "名": torch.arange(4)}
    return tensors


def raw_file(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_all(folder: Path) -> None:
    """Open and read everything; any error but ours fails the test, and so does a file that changed."""
    before = snapshot(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with open_weights(folder) as weights:
                for name in weights.names:
                    weights.read(name)
    except Error as error:
        assert "\n" not in str(error)
    assert snapshot(folder) == before


def damaged(data: bytes, seed: int, kind: str) -> bytes:
    chance = random.Random(seed)
    if kind == "cut":
        return data[: chance.randrange(len(data))]
    if kind == "grown":
        return data + chance.randbytes(chance.randrange(1, 40))
    changed = bytearray(data)
    for _ in range(1 if kind == "bit" else 8):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)
