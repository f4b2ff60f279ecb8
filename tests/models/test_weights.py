"""Weights are found in a folder and read into any dtype and layout; the safetensors library is the oracle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from weight_files import of_every_kind, raw_file

from yanmo.errors import FileError
from yanmo.hubfiles import find_weights
from yanmo.models import stored
from yanmo.models.saving import save_weights
from yanmo.models.weights import TensorInfo, open_weights, open_weights_file


def test_every_dtype_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    tensors = of_every_kind()
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with open_weights(tmp_path) as weights:
        assert set(weights.names) == set(tensors)
        for name, tensor in tensors.items():
            got = weights.read(name)
            assert got.dtype == tensor.dtype and got.shape == tensor.shape and got.is_contiguous()
            assert torch.equal(got.float(), tensor.float())
            assert weights.info(name) == TensorInfo(tensor.dtype, tuple(tensor.shape), tensor.nbytes)


def test_a_file_whose_data_begin_at_an_odd_byte_is_read(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} '
    header += b" " * (1 - len(header) % 2)
    raw_file(tmp_path / "model.safetensors", header, torch.tensor([1.5, -2.0]).numpy().tobytes())
    assert len(header) % 2 == 1
    with open_weights(tmp_path) as weights:
        assert weights.read("a").tolist() == [1.5, -2.0]
        place = weights._tensors["a"]
        assert place.offset % 4 and stored.map_window(place.file, place.offset, 8, 4).data_ptr() % 4 == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int32])
def test_reading_converts_like_torch(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = of_every_kind()
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    with open_weights(tmp_path) as weights:
        for name, tensor in tensors.items():
            if not (dtype == torch.int32 and tensor.dtype.itemsize == 1 and tensor.is_floating_point()):
                assert torch.equal(weights.read(name, dtype), tensor.to(dtype)), name


def test_a_byte_that_is_neither_0_nor_1_is_true(tmp_path: Path) -> None:
    header = {"a": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}
    raw_file(tmp_path / "model.safetensors", header, b"\x00\x02\x01")
    with open_weights(tmp_path) as weights:
        assert weights.read("a").view(torch.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize("block", [1, 8, 64, 1000, 2**24])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 1, 3), (4, 3, 2), (2, 0), (3, 40), (1, 1)])
def test_blocks_of_any_size_fill_targets_of_any_layout(
    tmp_path: Path, shape: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "BLOCK", block)
    values = torch.arange(max(1, torch.Size(shape).numel()), dtype=torch.float32)[: torch.Size(shape).numel()]
    values = values.reshape(shape)
    safetensors.torch.save_file({"a": values}, tmp_path / "model.safetensors")
    with open_weights(tmp_path) as weights:
        assert torch.equal(weights.read("a"), values)
        wide = torch.zeros([2 * n for n in shape])[tuple(slice(None, None, 2) for _ in shape)]
        weights.read_into("a", wide)
        turned = torch.zeros(shape[::-1], dtype=torch.float64).permute([*reversed(range(len(shape)))])
        weights.read_into("a", turned)
        assert torch.equal(wide, values) and torch.equal(turned, values.double())


def test_a_parameter_and_a_part_of_one_are_filled_without_a_gradient(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(2, 3)}, tmp_path / "model.safetensors")
    parameter = torch.nn.Parameter(torch.zeros(4, 3))
    with open_weights(tmp_path) as weights:
        weights.read_into("a", parameter[2:])
    assert parameter.sum() == 6 and parameter.grad_fn is None


def test_a_shape_or_name_that_the_file_lacks_is_one_sentence(tmp_path: Path) -> None:
    safetensors.torch.save_file({"layer.weight": torch.ones(2, 3)}, tmp_path / "model.safetensors")
    with open_weights(tmp_path) as weights:
        with pytest.raises(FileError, match=r"'layer.weight' has the shape \[2, 3\] and the model needs \[3, 2\]"):
            weights.read_into("layer.weight", torch.zeros(3, 2))
        with pytest.raises(FileError, match="nearest: 'layer.weight'"):
            weights.info("layer.weigth")


def test_tensors_outlive_their_file(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(2, 3)}, tmp_path / "model.safetensors")
    with open_weights(tmp_path) as weights:
        tensor = weights.read("a")
    (tmp_path / "model.safetensors").unlink()
    tensor += 1
    assert tensor.sum() == 12


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"a": torch.ones(100_000)}, path)
    with open_weights(tmp_path) as weights:
        os.truncate(path, 5000)
        with pytest.raises(FileError, match="became shorter"):
            weights.read("a")


# Finding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"], "model.safetensors"),
        (["model.safetensors.index.json", "x.safetensors"], "model.safetensors.index.json"),
        (["x.safetensors", "config.json"], "x.safetensors"),
        (["x.safetensors", "y.safetensors", "pytorch_model.bin"], "pytorch_model.bin"),
        (["pytorch_model.bin", "pytorch_model.bin.index.json"], "pytorch_model.bin"),
        (["pytorch_model.bin.index.json", "tf_model.h5"], "pytorch_model.bin.index.json"),
    ],
)
def test_safetensors_come_first_and_one_file_before_shards(names: list[str], chosen: str) -> None:
    assert find_weights(names, "folder") == chosen


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([], "but nothing"),
        (["config.json"], "but 'config.json'"),
        (
            ["config.json", "tf_model.h5", "x.gguf"],
            "but 'tf_model.h5', 'x.gguf'; not read here are .h5, .msgpack, .ckpt",
        ),
        (["x.safetensors", "y.safetensors"], "but 'x.safetensors', 'y.safetensors'; rename the one"),
        (["model-00001-of-00002.safetensors"], "fetch the index of these shards"),
    ],
)
def test_a_folder_without_weights_says_what_it_holds(names: list[str], sentence: str) -> None:
    with pytest.raises(FileError, match=sentence):
        find_weights(names, "folder")


def test_a_lone_file_of_another_name_is_opened_and_named(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    with open_weights(tmp_path) as weights:
        assert weights.source == tmp_path / "adapter_model.safetensors"


def test_a_file_of_any_name_is_opened_by_its_content(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "x.weights")
    torch.save({"a": torch.ones(1)}, tmp_path / "y.weights")
    for name in ("x.weights", "y.weights"):
        with open_weights_file(tmp_path / name) as weights:
            assert weights.read("a").item() == 1


def test_paths_that_are_no_weights_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "link.safetensors").symlink_to("nowhere")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    (tmp_path / "lfs.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for name, sentence in [
        ("folder.safetensors", "not a regular file"),
        ("pipe.safetensors", "not a regular file"),
        ("link.safetensors", "no such file"),
        ("x.gguf", "the format of llama.cpp"),
        ("lfs.safetensors", "git lfs pull"),
        ("a\0b.safetensors", "cannot be read"),
    ]:
        with pytest.raises(FileError, match=sentence):
            open_weights_file(tmp_path / name)
    for folder in (tmp_path / "nowhere", tmp_path / "x.gguf"):
        with pytest.raises(FileError, match="folder"):
            open_weights(folder)


# Shards ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_weights({f"layer.{i}": torch.full((4,), float(i)) for i in range(5)}, tmp_path, max_shard_bytes=32)
    return tmp_path


def rewrite(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    change(content["weight_map"])
    index.write_text(json.dumps(content))


def test_shards_are_one_set_of_weights(sharded: Path) -> None:
    with open_weights(sharded) as weights:
        assert sorted(weights.names) == [f"layer.{i}" for i in range(5)]
        assert [weights.read(f"layer.{i}")[0].item() for i in range(5)] == [0, 1, 2, 3, 4]


def test_shards_may_be_links_of_the_hubs_cache(sharded: Path) -> None:
    blobs, snapshot = sharded / "blobs", sharded / "snapshots" / "0"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for i, path in enumerate(p for p in sorted(sharded.iterdir()) if p.is_file()):
        path.rename(blobs / str(i))
        (snapshot / path.name).symlink_to(f"../../blobs/{i}")
    with open_weights(snapshot) as weights:
        assert weights.read("layer.4")[0] == 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.update({"layer.0": "../x.safetensors"}), "not a plain name"),
        (lambda m: m.update({"layer.0": "/etc/passwd"}), "not a plain name"),
        (lambda m: m.update({"layer.0": ["x"]}), "not a plain name"),
        (
            lambda m: m.update({"layer.0": "lost.safetensors"}),
            "names the shard 'lost.safetensors', which is not beside",
        ),
        (lambda m: m.update({"layer.9": "model-00001-of-00003.safetensors"}), "'layer.9' is not in"),
        (lambda m: m.update({"layer.0": "model-00003-of-00003.safetensors"}), "'layer.0' is not in"),
        (lambda m: m.clear(), "no weight_map"),
    ],
)
def test_an_index_that_lies_is_one_sentence(
    sharded: Path, change: Callable[[dict[str, object]], object], sentence: str
) -> None:
    rewrite(sharded, change)
    with pytest.raises(FileError, match=sentence):
        open_weights(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    safetensors.torch.save_file({"layer.0": torch.ones(4), "x": torch.ones(1)}, sharded / "more.safetensors")
    rewrite(sharded, lambda m: m.update({"x": "more.safetensors"}))
    with pytest.raises(FileError, match="'layer.0' is in .* and in more.safetensors"):
        open_weights(sharded)


def test_a_tensor_that_the_index_forgets_is_still_there(sharded: Path) -> None:
    rewrite(sharded, lambda m: m.pop("layer.0"))
    with open_weights(sharded) as weights:
        assert weights.read("layer.0")[0] == 0
