"""Model folders: what is refused, in one sentence, and what it costs to open them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import yanmo
from tests.models.tiny import BERT, GPT2, LLAMA, VARIANTS, make, random_ids
from yanmo.errors import ConfigError, Error, FileError, InputError
from yanmo.models.checkpoint import load_network, save_network
from yanmo.models.config import TransformerConfig
from yanmo.models.transformer import Transformer
from yanmo.tokens.train import train_tokenizer


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good folder with a tokenizer."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = train_tokenizer(["The ink is ground before one writes. 先研墨，后写字。"] * 9, "bpe", 270)
    make("LlamaForCausalLM", LLAMA | {"vocab_size": tokenizer.vocab_size}, folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(llama, tmp_path / "model"))


def edit(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def test_an_unknown_key_is_named_and_can_be_allowed(folder: Path) -> None:
    edit(folder, rope_thetta=5e5)
    with pytest.raises(ConfigError, match="'rope_thetta' .nearest: 'rope_theta'.*allow_unknown"):
        yanmo.load(folder)
    with pytest.warns(UserWarning, match="rope_thetta"):
        yanmo.load(folder, allow_unknown=True)


@pytest.mark.parametrize(
    "values, named",
    [
        ({"model_type": "lama"}, "nearest: 'llama'"),
        ({"model_type": None}, "model_type None"),
        ({"model_type": 3}, "model_type 3"),
        ({"architectures": ["LlamaForCausalLn"]}, "nearest: 'LlamaForCausalLM'"),
        ({"hidden_size": -4}, "width is -4"),
        ({"hidden_size": 10**12}, "width"),
        ({"hidden_size": "36"}, "hidden_size is '36'"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"vocab_size": 2**31 - 1, "hidden_size": 2**31 - 2}, "config.json|sizes|weights"),
        ({"num_hidden_layers": 10**6}, "layers"),
        ({"num_key_value_heads": 4}, "n_kv_heads is 4"),
        ({"num_attention_heads": 0}, "n_heads is 0"),
        ({"head_dim": 9}, "head_width is 9"),
        ({"rms_norm_eps": float("nan")}, "norm_eps"),
        ({"hidden_act": "exp"}, "hidden_act is 'exp'"),
        ({"rope_parameters": {"rope_type": "magic", "rope_theta": 1e4}}, "'magic'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "low_freq_factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0, "rope_theta": 1e4}}, "factor is 0"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4, "fcator": 1}}, "fcator"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"num_hidden_layers": 4}, "missing .model.layers.3"),
        ({"num_hidden_layers": 2}, "unexpected .model.layers.2"),
        ({"intermediate_size": 48}, r"mlp.*is \[50, 36\], not \[48, 36\]"),
        ({"tie_word_embeddings": True}, None),
    ],
)
def test_a_config_that_lies_is_one_sentence(folder: Path, values: dict, named: str | None) -> None:
    edit(folder, **values)
    if named is None:  # words of their own under a config that ties them: loaded as they are, with a warning
        with pytest.warns(UserWarning, match="untied"):
            assert not yanmo.load(folder).config.tie_embeddings  # type: ignore[union-attr]
        return
    with pytest.raises(Error, match=named) as caught:
        yanmo.load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "variant, key", [("gpt2", "n_layer"), ("llama", "num_hidden_layers"), ("qwen3", "num_hidden_layers")]
)
@pytest.mark.parametrize("layers", [5000, 2**31 - 1, 6281158577, -1])
def test_a_number_of_layers_that_no_memory_holds_is_one_sentence(
    variant: str, key: str, layers: int, tmp_path: Path
) -> None:
    make(*VARIANTS[variant], tmp_path)
    edit(tmp_path, **{key: layers})
    with pytest.raises(Error, match="layers"):
        load_network(tmp_path)


def test_all_that_does_not_fit_is_reported_at_once(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"], tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.0.extra.weight"] = torch.zeros(2)
    tensors["model.layers.0.mlp.down_proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(FileError) as caught:
        yanmo.load(folder)
    for part in ("2 missing", "model.norm.weight", "1 unexpected", "extra.weight", "1 of another shape", "[3, 3]"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize(
    "content", [None, b"", b"\x00" * 64, b"{", b"[]", b"version https://git-lfs.github.com/spec/v1"]
)
def test_a_missing_empty_or_foreign_file_is_one_sentence(folder: Path, name: str, content: bytes | None) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(Error) as caught:
        yanmo.load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_paths_that_lead_nowhere_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "absent", tmp_path / "file", tmp_path, "/", "a\0b", ""):
        with pytest.raises(Error):
            yanmo.load(path)


FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_ends_in_a_yanmo_error_or_in_a_model(llama: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(llama, folder)
    name = data.draw(st.sampled_from([n for n in FILES if (folder / n).exists()]))
    content = bytearray((folder / name).read_bytes())
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "replace"]))
    reach = min(len(content), 4096) - 1  # headers and the beginnings of texts are where structure lies
    place = data.draw(st.integers(0, reach))
    if kind == "flip":
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del content[place:]
    elif kind == "insert":
        content[place:place] = data.draw(st.binary(min_size=1, max_size=8))
    else:
        content[:] = data.draw(st.binary(max_size=200))
    (folder / name).write_bytes(bytes(content))
    before = sorted(p.name for p in folder.iterdir())
    try:
        with _quiet():
            model = yanmo.load(folder)
            model.generate("The ink", max_new_tokens=2)
    except Error as error:
        assert "\n" not in str(error)
    assert sorted(p.name for p in folder.iterdir()) == before, "reading writes nothing"


def _quiet() -> Any:
    return warnings.catch_warnings(action="ignore")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("variant", ["gpt2", "bert", "t5", "marian", "qwen3-windows"])
def test_any_value_under_any_key_of_a_config_is_refused_or_read(
    variant: str, tmp_path: Path, data: st.DataObject
) -> None:
    folder = tmp_path / variant
    if not folder.exists():
        make(*VARIANTS[variant], folder)
        (folder / "good.json").write_bytes((folder / "config.json").read_bytes())
    config = json.loads((folder / "good.json").read_text())
    key = data.draw(st.sampled_from(sorted(config)))
    config[key] = data.draw(JSON_VALUES)
    (folder / "config.json").write_text(json.dumps(config))
    try:
        with _quiet():
            load_network(folder)
    except Error as error:
        assert "\n" not in str(error)


def test_a_bert_file_of_the_oldest_kind_opens(tmp_path: Path) -> None:
    """gamma and beta for norms, a next-sentence head beside the words, position ids."""
    theirs = make("BertForMaskedLM", BERT, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in tensors.items()
    }
    old["cls.seq_relationship.weight"] = torch.zeros(2, 36)
    old["bert.embeddings.position_ids"] = torch.arange(40)[None]
    old["bert.pooler.dense.weight"] = torch.zeros(36, 36)
    save_file(old, tmp_path / "model.safetensors")
    ids = random_ids(1, 7)
    with torch.no_grad():
        assert (yanmo.load(tmp_path).logits(ids) - theirs(input_ids=ids).logits).abs().max() < 1e-4


def test_names_without_the_prefix_of_the_base_model_open(tmp_path: Path) -> None:
    """The public GPT-2 file leaves `transformer.` out and carries the causal mask."""
    theirs = make("GPT2LMHeadModel", GPT2, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {k.removeprefix("transformer."): v for k, v in tensors.items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 40, 40)
    save_file(bare, tmp_path / "model.safetensors")
    ids = random_ids(1, 7)
    with torch.no_grad():
        assert (yanmo.load(tmp_path).logits(ids) - theirs(input_ids=ids).logits).abs().max() < 1e-4


def test_a_new_head_starts_from_nothing_on_a_body_that_is_kept(tmp_path: Path) -> None:
    theirs = make("BertForMaskedLM", BERT, tmp_path)
    network = load_network(tmp_path, head="sequence", labels=("bad", "so-so", "good"))
    assert isinstance(network, Transformer) and network.config.labels == ("bad", "so-so", "good")
    ids = random_ids(2, 7)
    with torch.no_grad():
        hidden = network.encode(ids)
        assert (hidden - theirs.bert(input_ids=ids).last_hidden_state).abs().max() < 1e-4
        assert network.scores(hidden, ids).shape == (2, 3)
    with pytest.raises(InputError, match="no head 'causal'"):
        load_network(tmp_path, head="causal")


def test_a_config_that_a_family_cannot_say_is_not_saved(tmp_path: Path) -> None:
    config = TransformerConfig(vocab_size=20, width=8, n_heads=2, ffn_width=16, decoder_layers=1, norm="rms")
    with pytest.raises(ConfigError, match="llama cannot say"):
        save_network(Transformer(config), tmp_path, family="llama")
    with pytest.raises(InputError, match="nearest: 'llama'"):
        save_network(Transformer(config), tmp_path, family="lama")
    assert not list(tmp_path.iterdir())


PEAK = """
import resource, sys
import torch, yanmo
from yanmo.models import checkpoint, transformer
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if sys.argv[2] != "none":
    yanmo.models.checkpoint.load_network(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read as Linux counts it")
@pytest.mark.parametrize("dtype, size", [("float32", 4), ("bfloat16", 2)])
def test_opening_takes_at_most_a_fifth_more_memory_than_the_weights(tmp_path: Path, dtype: str, size: int) -> None:
    config = TransformerConfig(
        vocab_size=30000,
        width=512,
        n_heads=8,
        ffn_width=2048,
        decoder_layers=8,
        activation="gelu_tanh",
        max_positions=64,
    )
    network = Transformer(config)
    save_network(network, tmp_path, family="gpt2")
    weights = sum(p.numel() for p in network.parameters()) * size
    out = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), dtype], capture_output=True, text=True, check=True
    ).stdout
    assert weights > 80e6
    assert int(out) * 1024 <= 1.2 * weights
