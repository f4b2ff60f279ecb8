"""Adapters against PEFT: the same logits, and files that both open.

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
from safetensors.torch import load_file

import yanmo
from tests.models.adapted import IDS, adapted, close, move, ours, peft_quietly, theirs
from tests.models.tiny import BART, BERT, GPT2, LLAMA, ROBERTA, T5, make, reopen
from yanmo.errors import FileError
from yanmo.models.adapterfiles import save_adapter
from yanmo.models.adapterloading import load_adapter
from yanmo.models.adapters import AdapterConfig, add_adapter, merge, set_adapter, unmerge
from yanmo.models.checkpoint import load_network
from yanmo.models.lowrank import slots
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
    "roberta-sequence-dense": (
        "RobertaForSequenceClassification",
        ROBERTA | THREE,
        {"task_type": "SEQ_CLS", "target_modules": ["dense", "query"]},  # not the classifier's, which is saved whole
    ),
    "gpt2": ("GPT2LMHeadModel", GPT2, {}),
    "gpt2-own-matrices": (
        "GPT2LMHeadModel",
        GPT2,
        {"target_modules": ["c_proj"], "modules_to_save": ["c_attn", "h.1.mlp.c_fc"]},
    ),
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


@pytest.mark.parametrize("shared", [False, True])
def test_parts_of_a_fused_matrix_may_have_scales_of_their_own(tmp_path: Path, shared: bool) -> None:
    make("GPT2LMHeadModel", GPT2, tmp_path / "base")
    network = load(tmp_path / "base")
    add_adapter(network, AdapterConfig(rank=3, targets=("query", "key")))
    move(network)
    for name, place in slots(network).items():
        adapter: Any = place.adapters["default"]
        adapter.alpha = 7.0 if name.endswith("key") else 2.0
        if shared:
            adapter.a = slots(network)[name.replace("key", "query")].adapters["default"].a
    expected = ours(network)
    save_adapter(network, tmp_path / "adapter")
    model = peft_quietly(
        peft.PeftModel.from_pretrained, reopen("GPT2LMHeadModel", tmp_path / "base"), tmp_path / "adapter"
    )
    close(theirs(model.eval()), expected)


def test_an_adapter_of_a_language_model_fits_the_model_without_its_head(tmp_path: Path) -> None:
    adapted(*CASES["llama"], tmp_path)
    network = load_network(tmp_path / "base", head="none")
    plain = network.decode(IDS)
    load_adapter(network, tmp_path / "adapter")
    whole = load_network(tmp_path / "base")
    load_adapter(whole, tmp_path / "adapter")
    assert torch.equal(network.decode(IDS), whole.decode(IDS)) and not torch.equal(network.decode(IDS), plain)


def test_a_pooler_of_the_base_is_no_part_of_the_head_but_a_new_one_is_kept(tmp_path: Path) -> None:
    make("BertForMaskedLM", BERT, tmp_path / "base")  # without a pooler

    def adapt(modules: tuple[str, ...] | None) -> Any:
        network = load_network(tmp_path / "base", head="sequence", labels=("no", "yes"))
        add_adapter(network, AdapterConfig(modules_to_save=modules))
        save_adapter(network, tmp_path / "adapter", base=tmp_path / "base")
        return network, json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())

    _, config = adapt(None)
    assert (config["modules_to_save"], config["task_type"]) == (["classifier"], "SEQ_CLS")
    with pytest.raises(FileError, match="its head needs pooler.dense.weight, which is neither .*modules_to_save"):
        yanmo.load(tmp_path / "adapter", device="cpu")
    network, config = adapt(("head", "head.dense"))
    assert (config["modules_to_save"], config["task_type"]) == (["bert.pooler.dense", "classifier"], "SEQ_CLS")
    assert torch.equal(ours(yanmo.load(tmp_path / "adapter", device="cpu").network), ours(network))


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
