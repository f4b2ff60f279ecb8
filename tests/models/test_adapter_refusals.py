"""Adapter folders that are damaged, foreign or of another base: one sentence each, and nothing is changed or lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import yanmo
from tests.models.adapted import adapted, ours
from tests.models.tiny import BERT, LLAMA, make
from yanmo.errors import ConfigError, Error, FileError, InputError
from yanmo.models.adapterfiles import save_adapter
from yanmo.models.adapterloading import load_adapter
from yanmo.models.adapters import AdapterConfig, add_adapter, set_adapter
from yanmo.models.checkpoint import load_network
from yanmo.models.lowrank import LowRank, slots


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/ and adapter/ of a small Llama."""
    folder = tmp_path_factory.mktemp("good")
    adapted("LlamaForCausalLM", LLAMA, {"target_modules": ["q_proj", "v_proj"]}, folder)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "copy"))


def edit(folder: Path, **values: Any) -> None:
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    "values, error, named",
    [
        ({"peft_type": "IA3"}, ConfigError, "type 'IA3'.*only 'LORA'"),
        ({"peft_type": ["LORA"]}, ConfigError, "only 'LORA'"),
        ({"lora_alhpa": 9}, ConfigError, "unknown keys 'lora_alhpa' .nearest: 'lora_alpha'"),
        ({"bias": "all"}, ConfigError, "bias is 'all'"),
        ({"init_lora_weights": "pissa"}, ConfigError, "init_lora_weights is 'pissa'"),
        ({"use_dora": "yes"}, ConfigError, "use_dora is 'yes'"),
        ({"r": 0}, ConfigError, "adapter_config.json: rank is 0"),
        ({"r": 5}, FileError, "6 of another shape|12 of another shape"),
        ({"lora_alpha": None, "r": True}, ConfigError, "r is True"),
        ({"lora_alpha": -1}, ConfigError, "alpha is -1"),
        ({"rank_pattern": {"(a+)+$": 3}}, ConfigError, "a regular expression"),
        ({"alpha_pattern": {"q_proj": "x"}}, ConfigError, "no number above 0"),
        ({"target_modules": ["q_proj"]}, FileError, "6 unexpected"),
        ({"target_modules": ["q_proj", "v_proj", "k_proj"]}, FileError, "3 missing .*k_proj.lora_A"),
        ({"target_modules": [1]}, ConfigError, "target_modules must be a list of names"),
        ({"modules_to_save": ["norm"]}, FileError, "is no matrix"),
        ({"use_dora": True}, FileError, "6 missing .*lora_magnitude_vector"),
        ({"base_model_name_or_path": None}, FileError, "names no base"),
        ({"base_model_name_or_path": "../base"}, FileError, "leaves its place"),
        ({"base_model_name_or_path": "x/../../base"}, FileError, "leaves its place"),
        ({"base_model_name_or_path": "\\\\server\\share"}, FileError, "leaves its place"),
        ({"base_model_name_or_path": "~/base"}, FileError, "leaves its place"),
        ({"base_model_name_or_path": "./nowhere"}, FileError, "its base is not here"),
        ({"base_model_name_or_path": "adapter"}, FileError, "no model folder"),
    ],
)
def test_a_setting_that_cannot_be_kept_is_named(
    folder: Path, values: dict[str, Any], error: type[Error], named: str
) -> None:
    edit(folder, **values)
    with pytest.raises(error, match=named) as caught:
        yanmo.load(folder / "adapter", device="cpu")
    assert "\n" not in str(caught.value)


def test_a_refused_adapter_leaves_the_network_as_it_was(folder: Path) -> None:
    network = load_network(folder / "base")
    before = [name for name, _ in network.named_modules()]
    edit(folder, target_modules=["q_proj"])
    with pytest.raises(FileError):
        load_adapter(network, folder / "adapter")
    assert before == [name for name, _ in network.named_modules()]
    assert all(p.requires_grad for p in network.parameters())


def test_an_adapter_of_another_base_is_named(folder: Path) -> None:
    make("LlamaForCausalLM", LLAMA | {"hidden_size": 48}, folder / "wide")
    with pytest.raises(FileError, match="made for 'base', does not fit .*6 of another shape"):
        load_adapter(load_network(folder / "wide"), folder / "adapter")
    make("LlamaForCausalLM", LLAMA | {"num_hidden_layers": 2}, folder / "short")
    with pytest.raises(FileError, match="4 unexpected"):
        load_adapter(load_network(folder / "short"), folder / "adapter")
    make("BertForMaskedLM", BERT, folder / "bert")
    with pytest.raises(FileError, match="12 unexpected"):
        load_adapter(load_network(folder / "bert"), folder / "adapter")


def test_words_that_differ_from_the_base_are_not_dropped(tmp_path: Path) -> None:
    values = LLAMA | {"tie_word_embeddings": True}
    adapted("LlamaForCausalLM", values, {"target_modules": ["q_proj", "lm_head"]}, tmp_path)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.lm_head.base_layer.weight"][3, 3] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(FileError, match="brings a lm_head"):
        yanmo.load(tmp_path / "adapter", device="cpu")


def test_a_file_that_is_cut_or_gone_is_named(folder: Path) -> None:
    file = folder / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(FileError, match="incomplete"):
        yanmo.load(folder / "adapter", device="cpu")
    file.unlink()
    with pytest.raises(FileError, match="no adapter_model.safetensors"):
        yanmo.load(folder / "adapter", device="cpu")


def test_a_tensor_that_is_missing_or_too_many_is_named(folder: Path) -> None:
    file = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    tensors[name.replace("lora_B", "lora_C")] = tensors.pop(name)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(FileError, match="1 missing .*lora_B.*; 1 unexpected .*lora_C"):
        yanmo.load(folder / "adapter", device="cpu")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    key=st.sampled_from(sorted(peft.LoraConfig().to_dict())),
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-9, 10**12) | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
        max_leaves=4,
    ),
)
def test_no_value_of_the_config_ends_in_anything_but_our_errors(good: Path, key: str, value: Any) -> None:
    path = good / "adapter" / "adapter_config.json"
    original = path.read_text()
    network = load_network(good / "base")
    try:
        path.write_text(json.dumps(json.loads(original) | {key: value}))
        load_adapter(network, good / "adapter")
    except Error as error:
        assert "\n" not in str(error)
    finally:
        path.write_text(original)


def test_a_folder_with_other_files_is_not_replaced(folder: Path) -> None:
    network = load_network(folder / "base")
    with pytest.raises(InputError, match="no adapter is active"):
        save_adapter(network, folder / "base")
    add_adapter(network, AdapterConfig())
    with pytest.raises(FileError, match="holds other files"):
        save_adapter(network, folder / "base")
    assert (folder / "base" / "config.json").exists()
    save_adapter(network, folder / "adapter")  # an adapter's own folder is


def test_a_model_with_an_unmerged_adapter_is_not_saved_without_it(folder: Path) -> None:
    model = yanmo.load(folder / "adapter", device="cpu")
    with pytest.raises(InputError, match="'default' is active and not part of the weights"):
        model.save(folder / "lost")
    set_adapter(model.network, None)
    model.save(folder / "base-alone")
    assert torch.equal(ours(load_network(folder / "base-alone")), ours(load_network(folder / "base")))


def test_an_adapter_is_float32_on_a_bfloat16_base(folder: Path) -> None:
    network = yanmo.load(folder / "adapter", device="cpu", dtype="bfloat16").network
    parts = [m for slot in slots(network).values() for m in slot.adapters.values()]
    assert all(isinstance(part, LowRank) and part.a.dtype == torch.float32 for part in parts)
    exact = ours(yanmo.load(folder / "adapter", device="cpu").network)
    assert ours(network).dtype == torch.bfloat16
    assert (ours(network).float() - exact).abs().mean() < 0.02 * exact.abs().max()
