"""Adapters against PEFT: the same logits, files that both open, and folders that are refused in one sentence.

Both sides compute in float64, where a wrong scale, norm or row cannot hide behind rounding; what is left between them
is that some norms and positions of transformers stay in float32.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import yanmo
from tests.models.tiny import BART, BERT, GPT2, LLAMA, ROBERTA, T5, make, random_ids, reopen
from yanmo.errors import ConfigError, Error, FileError, InputError
from yanmo.models.adapterfiles import save_adapter
from yanmo.models.adapterloading import load_adapter
from yanmo.models.adapters import AdapterConfig, add_adapter, merge, set_adapter, unmerge
from yanmo.models.checkpoint import load_network
from yanmo.models.lowrank import LowRank, slots
from yanmo.models.transformer import Transformer
from yanmo.tokens.train import train_tokenizer

TIED = LLAMA | {"tie_word_embeddings": True}
THREE = {"num_labels": 3}
# name → (class, settings of its config, settings of PEFT's LoraConfig)
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", LLAMA, {"target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "llama-all": ("LlamaForCausalLM", LLAMA, {"target_modules": "all-linear"}),
    "llama-patterns": (
        "LlamaForCausalLM",
        LLAMA,
        {
            "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 5},
            "alpha_pattern": {"v_proj": 3},
        },
    ),
    "llama-one-layer": ("LlamaForCausalLM", LLAMA, {"target_modules": ["up_proj"], "layers_to_transform": [1]}),
    "llama-words": ("LlamaForCausalLM", LLAMA, {"target_modules": ["q_proj", "lm_head"], "use_dora": True}),
    "llama-tied-words": ("LlamaForCausalLM", TIED, {"target_modules": ["q_proj", "lm_head"]}),
    "llama-tied-embedding": (
        "LlamaForCausalLM",
        TIED,
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ),
    "llama-both-ends": (
        "LlamaForCausalLM",
        LLAMA,
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ),
    "qwen3-rslora": ("Qwen3ForCausalLM", LLAMA, {"target_modules": ["k_proj", "o_proj"], "use_rslora": True}),
    "qwen3-dora": ("Qwen3ForCausalLM", LLAMA, {"target_modules": ["q_proj", "gate_proj"], "use_dora": True}),
    "bert-sequence": ("BertForSequenceClassification", BERT | THREE, {"task_type": "SEQ_CLS"}),
    "bert-token": ("BertForTokenClassification", BERT | THREE, {"task_type": "TOKEN_CLS", "use_dora": True}),
    "bert-masked": ("BertForMaskedLM", BERT, {"target_modules": ["dense", "query", "decoder"], "use_dora": True}),
    "roberta-sequence": ("RobertaForSequenceClassification", ROBERTA | THREE, {"task_type": "SEQ_CLS"}),
    "gpt2": ("GPT2LMHeadModel", GPT2, {}),
    "gpt2-dora": ("GPT2LMHeadModel", GPT2, {"target_modules": ["c_attn", "c_proj", "c_fc"], "use_dora": True}),
    "gpt2-sequence": ("GPT2ForSequenceClassification", GPT2 | THREE, {"task_type": "SEQ_CLS"}),
    "t5": ("T5ForConditionalGeneration", T5, {"target_modules": ["q", "k", "v", "o", "wi", "wo"], "use_rslora": True}),
    "bart-own-words": (
        "BartForConditionalGeneration",
        BART,
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ),
    "bart": ("BartForConditionalGeneration", BART, {"target_modules": ["q_proj", "fc1", "lm_head"]}),
}
IDS = random_ids(3, 9)


def theirs(model: Any) -> torch.Tensor:
    """Logits of transformers' or PEFT's model."""
    decoder = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.double()(input_ids=IDS, **decoder).logits


def ours(network: Any) -> torch.Tensor:
    with torch.no_grad():
        memory = network.encode(IDS) if network.encoder is not None else None
        if network.decoder is None:
            hidden = memory
        else:
            hidden = network.decode(IDS) if memory is None else network.decode(IDS, memory=memory)
        return network.logits(hidden) if network.config.head in ("causal", "masked") else network.scores(hidden, IDS)


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    """Within 1e-5 of the largest value."""
    assert one.shape == other.shape
    assert (one - other).abs().max() <= 1e-5 * max(1.0, float(other.abs().max()))


def peft_quietly(call: Any, *arguments: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments, **options)


def adapted(cls: str, values: dict[str, Any], options: dict[str, Any], folder: Path) -> Any:
    """A base in folder/base, and an adapter of PEFT on it, not at its beginning, saved in folder/adapter."""
    base = make(cls, values, folder / "base")
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, lora_alpha=12, base_model_name_or_path="base", **options)
    model = peft_quietly(peft.get_peft_model, base, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter += 0.2 * torch.randn_like(parameter)
    model.peft_config["default"].base_model_name_or_path = "base"
    peft_quietly(model.save_pretrained, folder / "adapter")
    return model


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, torch.Tensor, Path]:
    """(class, PEFT's logits, folder with base and adapter)."""
    folder = tmp_path_factory.mktemp(request.param)
    cls, values, options = CASES[request.param]
    return cls, theirs(adapted(cls, values, options, folder)), folder


def load(folder: Path) -> Any:
    return load_network(folder, dtype=torch.float64)


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_an_adapter_of_peft_computes_what_peft_does(case: Any) -> None:
    cls, expected, folder = case
    network = load(folder / "base")
    plain = ours(network)
    load_adapter(network, folder / "adapter")
    assert (plain - expected).abs().max() > 0.05, "the adapter changes nothing, so the test shows nothing"
    close(ours(network), expected)
    if cls.startswith(("Bert", "Roberta", "GPT2", "Bart")):  # all of it is float64 there
        assert (ours(network) - expected).abs().max() < 1e-11
    set_adapter(network, None)
    assert torch.equal(ours(network), plain)


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_saved_again_peft_opens_it_and_computes_the_same(case: Any, tmp_path: Path) -> None:
    cls, expected, folder = case
    network = load(folder / "base")
    load_adapter(network, folder / "adapter")
    save_adapter(network, tmp_path / "again")
    base = reopen(cls, folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", ".*tie_word_embeddings.*")
        model = peft.PeftModel.from_pretrained(base, tmp_path / "again").eval()  # names that it misses are a warning
    close(theirs(model), expected)
    one, other = (load_file(f / "adapter_model.safetensors") for f in (folder / "adapter", tmp_path / "again"))
    one = {name: tensor for name, tensor in one.items() if "base_layer" not in name}
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_merged_equals_unmerged_and_every_bit_comes_back(case: Any, tmp_path: Path) -> None:
    cls, expected, folder = case
    network = load(folder / "base")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    load_adapter(network, folder / "adapter")
    unmerged = ours(network)
    merge(network)
    close(ours(network), unmerged)
    unmerge(network)
    assert torch.equal(ours(network), unmerged)
    now = network.state_dict()
    assert all(torch.equal(before[name], now[name]) for name in before)
    merge(network, drop=True)
    assert not slots(network) and "adapter_board" not in vars(network)
    yanmo.Model(network, None).save(tmp_path / "merged")
    close(theirs(reopen(cls, tmp_path / "merged")), expected)
    close(ours(load(tmp_path / "merged")), expected)


@pytest.mark.parametrize("case", ["bert-sequence", "roberta-sequence", "gpt2", "t5"], indirect=True)
def test_yanmo_load_opens_an_adapter_with_its_base(case: Any) -> None:
    _, expected, folder = case
    close(ours(yanmo.load(folder / "adapter", device="cpu").network.double()), expected)


def test_a_classifier_on_a_language_model_brings_its_head_and_labels(tmp_path: Path) -> None:
    make("LlamaForCausalLM", LLAMA, tmp_path / "base")
    network = load_network(tmp_path / "base", head="sequence", labels=("no", "yes", "无"))
    add_adapter(network, AdapterConfig(rank=2))
    move(network)
    expected = ours(network)
    save_adapter(network, tmp_path / "adapter", base=tmp_path / "base")
    shutil.move(tmp_path, tmp_path.with_name("moved"))
    folder = tmp_path.with_name("moved")
    model = yanmo.load(folder / "adapter", device="cpu")
    assert torch.equal(ours(model.network), expected) and model.config.labels == ("no", "yes", "无")
    (folder / "adapter" / "labels.json").unlink()
    assert yanmo.load(folder / "adapter", device="cpu").config.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_an_adapter_writes_text_with_the_tokenizer_of_its_base(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["The ink is ground before one writes. 先研墨，后写字。"] * 9, "bpe", 270)
    adapted("LlamaForCausalLM", LLAMA | {"vocab_size": tokenizer.vocab_size}, CASES["llama"][2], tmp_path)
    tokenizer.save(tmp_path / "base")
    model, base = yanmo.load(tmp_path / "adapter", device="cpu"), yanmo.load(tmp_path / "base", device="cpu")
    text = model.generate("The ink", max_new_tokens=12)
    assert text != base.generate("The ink", max_new_tokens=12)
    merge(model.network, drop=True)
    assert model.generate("The ink", max_new_tokens=12) == text
    model.save(tmp_path / "merged")
    assert yanmo.load(tmp_path / "merged", device="cpu").generate("The ink", max_new_tokens=12) == text


def move(network: Transformer, seed: int = 5) -> None:
    """Move an adapter away from its beginning, at which it changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".adapters." in name and parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "rsdora"])
@pytest.mark.parametrize("targets", [("all",), ("query", "value"), ("key",)])
def test_separate_adapters_of_gpt2_become_one_of_a_larger_rank(
    tmp_path: Path, kind: Any, targets: tuple[str, ...]
) -> None:
    make("GPT2LMHeadModel", GPT2, tmp_path / "base")
    network = load(tmp_path / "base")
    add_adapter(network, AdapterConfig(rank=3, alpha=5, targets=targets, kind=kind))
    move(network)
    expected = ours(network)
    save_adapter(network, tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    fused = 3 if targets == ("all",) else len(targets)
    assert tensors["base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"].shape == (3 * fused, 36)
    model = peft_quietly(
        peft.PeftModel.from_pretrained, reopen("GPT2LMHeadModel", tmp_path / "base"), tmp_path / "adapter"
    )
    close(theirs(model.eval()), expected)
    again = load(tmp_path / "base")
    load_adapter(again, tmp_path / "adapter")
    close(ours(again), expected)


def test_a_fused_adapter_keeps_its_number_of_parameters(tmp_path: Path) -> None:
    model = adapted("GPT2LMHeadModel", GPT2, {}, tmp_path)
    network = load(tmp_path / "base")
    load_adapter(network, tmp_path / "adapter")
    own = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert own == sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)


@pytest.mark.parametrize("cls, values", [("BertForMaskedLM", BERT), ("T5ForConditionalGeneration", T5)])
def test_a_fresh_adapter_changes_nothing_and_is_peft_s_after_it_learnt(
    tmp_path: Path, cls: str, values: dict[str, Any]
) -> None:
    make(cls, values, tmp_path / "base")
    network = load(tmp_path / "base")
    plain = ours(network)
    add_adapter(network, AdapterConfig(rank=2, kind="dora", targets=("all", "head")))
    close(ours(network), plain)
    move(network)
    save_adapter(network, tmp_path / "adapter")
    model = peft_quietly(peft.PeftModel.from_pretrained, reopen(cls, tmp_path / "base"), tmp_path / "adapter")
    close(theirs(model.eval()), ours(network))


# --- what is refused


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
    adapted(*CASES["llama-tied-words"], tmp_path)
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
