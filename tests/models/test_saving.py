"""Saved weights are the bytes that the safetensors library writes, for any order of calls; memory stays bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from weight_files import of_every_kind

from yanmo.errors import FileError, InputError
from yanmo.models.saving import save_weights
from yanmo.models.weights import open_weights


def test_saved_bytes_are_those_of_the_library(tmp_path: Path) -> None:
    tensors = of_every_kind()
    tensors['a "quoted"\n\x01 name é 名'] = torch.ones(2)
    assert save_weights(tensors, tmp_path) == [tmp_path / "model.safetensors"]
    safetensors.torch.save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_saving_writes_equal_bytes_for_any_order_layout_and_metadata(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "c": torch.tensor(1)}
    mixed = {"c": tensors["c"], "b": torch.nn.Parameter(tensors["b"]), "a": tensors["a"].T.contiguous().T}
    written = []
    for i, values in enumerate([tensors, mixed, mixed.items()]):
        folder = tmp_path / str(i)
        folder.mkdir()
        metadata = {"format": "pt", "x": "1", "y": "2", "z": "3"}
        if i:
            metadata = dict(reversed(metadata.items()))
        save_weights(values, folder, metadata=metadata)
        written.append((folder / "model.safetensors").read_bytes())
    assert written[0] == written[1] == written[2]


def test_shards_have_the_public_names_and_an_index(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.full((i + 1, 10), float(i), dtype=torch.float32) for i in range(6)}
    paths = save_weights(iter(tensors.items()), tmp_path, max_shard_bytes=250)
    assert [p.name for p in paths[:-1]] == [f"model-{i:05d}-of-00004.safetensors" for i in range(1, 5)]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    index = json.loads(paths[-1].read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    for name, file in index["weight_map"].items():
        assert torch.equal(safetensors.torch.load_file(tmp_path / file)[name], tensors[name])
    with open_weights(tmp_path) as weights:
        assert all(torch.equal(weights.read(name), tensor) for name, tensor in tensors.items())


class OnDemand(Mapping[str, torch.Tensor]):
    """Tensors that are made when asked for; it counts how many are alive."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> torch.Tensor:
        self.asked.append(name)
        return torch.full((3,), float(name))

    def __iter__(self) -> Iterator[str]:
        return iter(["2", "0", "1"])

    def __len__(self) -> int:
        return 3


def test_a_mapping_that_makes_its_tensors_is_asked_for_one_at_a_time(tmp_path: Path) -> None:
    made = OnDemand()
    save_weights(made, tmp_path)
    assert made.asked == ["2", "0", "1", "0", "1", "2"]
    assert safetensors.torch.load_file(tmp_path / "model.safetensors")["2"].tolist() == [2, 2, 2]


def test_two_names_of_one_memory_are_both_saved(tmp_path: Path) -> None:
    tensor = torch.arange(4.0)
    save_weights({"a": tensor, "b": tensor}, tmp_path)
    assert all(torch.equal(t, tensor) for t in safetensors.torch.load_file(tmp_path / "model.safetensors").values())


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"a": torch.ones(1, dtype=torch.complex64)}, "'a' .torch.complex64.* cannot be saved"),
        ({"a": torch.ones(2, 2).to_sparse()}, "cannot be saved"),
        ({"a": torch.ones(1, device="meta")}, "cannot be saved"),
        ({"__metadata__": torch.ones(1)}, "under the name '__metadata__'"),
        ([("a", torch.ones(1)), ("a", torch.ones(1))], "'a' is given twice"),
    ],
)
def test_what_cannot_be_saved_is_one_sentence(tmp_path: Path, tensors: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        save_weights(tensors, tmp_path)  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be written"):
        save_weights({"a": torch.ones(1)}, tmp_path / "absent")


# Memory ------------------------------------------------------------------------------------------------------------

MEASURE = """
import sys, torch
from pathlib import Path
from yanmo.models.saving import save_weights
from yanmo.models.weights import open_weights

def now(key):
    text = Path("/proc/self/status").read_text()
    return int(text.split(key + ":")[1].split()[0]) * 1024

verb, folder, dtype = sys.argv[1], Path(sys.argv[2]), getattr(torch, sys.argv[3])
sizes = [10_000_000, 25_000_000, 5_000_000, 10_000_000]
if verb == "load":
    with open_weights(folder) as weights:
        torch.zeros(10, dtype=dtype).copy_(torch.zeros(10))
        before = now("VmRSS")
        model = {name: weights.read(name, dtype) for name in weights.names}
    assert all(tensor.view(-1)[-1] == int(name) for name, tensor in model.items())
else:
    model = {str(i): torch.full((n // 100, 100), float(i), dtype=dtype) for i, n in enumerate(sizes)}
    before = now("VmRSS") - sum(tensor.nbytes for tensor in model.values())
    save_weights({name: tensor if verb == "save" else tensor.T for name, tensor in model.items()}, folder)
print(now("VmHWM") - before, sum(tensor.nbytes for tensor in model.values()))
"""


def measure(verb: str, folder: Path, dtype: str) -> tuple[int, int]:
    """Peak of resident memory above what the process had before, and the bytes of the model."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, verb, str(folder), dtype],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    peak, model = map(int, done.stdout.split())
    return peak, model


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_loading_peaks_at_the_weights_and_one_block(tmp_path: Path) -> None:
    sizes = [10_000_000, 25_000_000, 5_000_000, 10_000_000]
    save_weights(((str(i), torch.full((n,), float(i))) for i, n in enumerate(sizes)), tmp_path)
    for dtype in ("float32", "bfloat16"):
        peak, model = measure("load", tmp_path, dtype)
        assert peak <= 1.2 * model + 32 * 2**20, f"{dtype}: {peak / model:.2f} × the weights"
    (tmp_path / "model.safetensors").unlink()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_loading_transposed_pickled_weights_peaks_no_higher(tmp_path: Path) -> None:
    sizes = [10_000_000, 25_000_000]
    tensors = {str(i): torch.full((n // 1000, 1000), float(i)).T for i, n in enumerate(sizes)}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    peak, model = measure("load", tmp_path, "bfloat16")
    assert peak <= 1.2 * model + 32 * 2**20
    (tmp_path / "pytorch_model.bin").unlink()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_saving_copies_at_most_one_tensor(tmp_path: Path) -> None:
    peak, model = measure("save", tmp_path, "float32")
    assert peak <= model + 32 * 2**20
    peak, model = measure("save-transposed", tmp_path, "float32")
    assert peak <= model + 100_000_000 + 32 * 2**20  # the largest tensor
    (tmp_path / "model.safetensors").unlink()
