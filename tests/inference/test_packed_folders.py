"""Folders of packed models: what is loaded is what was saved, bit for bit; what does not fit is one sentence."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import yanmo
from tests.inference.test_quantize import LLAMA, network
from yanmo.errors import ConfigError, FileError, InputError
from yanmo.inference.model import Model
from yanmo.inference.quantize import MOST_ERROR, Bits, error_of
from yanmo.kernels import native
from yanmo.kernels.arena import HUGE_PAGE
from yanmo.kernels.matrix import size_of
from yanmo.models.packed import packed_matrices
from yanmo.tokens.train import train_tokenizer

FAMILIES = {
    "gpt2": {"position": "learned", "activation": "gelu_tanh"},
    "llama": LLAMA,
    "qwen3": {**LLAMA, "norm_query_key": True, "tie_embeddings": True},
}
BITS = [Bits(), Bits(weights=4), Bits(weights=4, words=4), Bits(layout="groups")]


def model(family: str, dtype: torch.dtype = torch.float32) -> Model:
    made = network(dtype, **FAMILIES[family])
    made.family = family
    return Model(made, None)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_loaded_computes_the_same_bit_for_bit(family, dtype, bits, tmp_path):
    small = model(family, dtype).quantize(bits)
    ids = torch.randint(0, 203, (2, 9))
    expected = small.logits(ids)
    small.save(tmp_path / "small")
    loaded = yanmo.load(tmp_path / "small")
    assert loaded.network.dtype == dtype
    assert torch.equal(loaded.logits(ids), expected)
    assert repr(loaded) == repr(small)
    formats = {name: m.format for name, m in packed_matrices(loaded.network).items()}
    assert formats == {name: m.format for name, m in packed_matrices(small.network).items()}
    first = min(m.panels.data_ptr() for m in packed_matrices(loaded.network).values())
    assert first % HUGE_PAGE == 0 or native.library() is None
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "small/model.safetensors").read_bytes()


def test_the_file_has_the_bytes_of_the_matrices_and_no_floats_beside_vectors_and_positions(tmp_path):
    small = model("llama").quantize(8)
    small.save(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    assert not [name for name, t in held.items() if t.is_floating_point() and t.ndim > 1]
    values = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert values["quantization_config"]["quant_method"] == "yanmo"
    assert set(values["quantization_config"]["formats"].values()) == {"rows8"}
    size = (tmp_path / "model.safetensors").stat().st_size
    packed = packed_matrices(small.network).values()
    assert size < 1.05 * sum(size_of(m.outputs, m.inputs, m.format) for m in packed) + 20_000  # as the kernels read it


@pytest.mark.parametrize("bits", BITS)
def test_a_folder_written_without_the_library_is_read_with_it_and_the_other_way_round(bits, tmp_path):
    ids = torch.randint(0, 203, (1, 8))
    with native.using("off"):
        small = model("llama").quantize(bits)
        expected = small.logits(ids)
        small.save(tmp_path / "without")
    loaded = yanmo.load(tmp_path / "without")
    apart = (loaded.logits(ids) - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert apart.median() < 1e-5
    loaded.save(tmp_path / "with")
    one, other = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("without", "with"))
    assert one == other
    with native.using("off"):
        assert torch.equal(yanmo.load(tmp_path / "with").logits(ids), expected)


def test_load_packs_and_generate_goes_on_in_recorded_steps(tmp_path, monkeypatch):
    tokenizer = train_tokenizer(["The ink is ground before one writes. 先研墨，后写字。"] * 30, "bpe", 280)
    made = network(**LLAMA | {"vocab_size": tokenizer.vocab_size, "max_positions": 200})
    made.family = "llama"
    whole = Model(made, tokenizer)
    whole.save(tmp_path / "whole")
    small = yanmo.load(tmp_path / "whole", bits=8)
    written = small.generate(["The ink", "先研"], max_new_tokens=12)
    calls: list[int] = []
    if native.library() is not None:
        from yanmo.inference.step import Step

        call = Step.__call__
        monkeypatch.setattr(Step, "__call__", lambda self, ids, cache: calls.append(len(ids)) or call(self, ids, cache))
    assert small.generate(["The ink", "先研"], max_new_tokens=12) == written
    assert sum(calls) == (2 * 11 if native.library() is not None else 0)
    with native.using("off"):
        assert small.generate(["The ink", "先研"], max_new_tokens=12) == written
    small.save(tmp_path / "small")
    assert yanmo.load(tmp_path / "small").generate(["The ink", "先研"], max_new_tokens=12) == written


@pytest.mark.parametrize("reads", [False, True])
def test_loading_takes_hardly_more_memory_than_the_file(tmp_path, reads):
    """What a process holds at most while it loads, and reads a few ids, beside what it held before."""
    for name, fields in (("small", {}), ("large", {"width": 1024, "ffn_width": 4096, "decoder_layers": 8})):
        made = network(**LLAMA | fields)
        made.family = "llama"
        Model(made, None).quantize(8).save(tmp_path / name)
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, yanmo; from yanmo import system; yanmo.load(sys.argv[1]).logits([[1, 2]]);"
            "system.reset_peak_memory() or sys.exit('no'); before = system.peak_memory();"
            f"yanmo.load(sys.argv[2]){'.logits([[1, 2, 3]])' * reads}; print(system.peak_memory() - before)",
            tmp_path / "small",
            tmp_path / "large",
        ],
        capture_output=True,
        text=True,
    )
    if said.stderr.strip() == "no":
        pytest.skip("the peak of a process cannot be counted anew here")
    size = (tmp_path / "large/model.safetensors").stat().st_size
    assert size > 16 * 2**20, "pages that were taken before do not count"
    most = 1.2 if native.library() is not None else 1.5  # the twin lays matrices out anew, one group after the other
    assert 0.8 * size <= int(said.stdout) < most * size, said.stderr


@pytest.mark.parametrize(("layout", "next_format"), [("rows", "rows8"), ("groups", "groups8")])
def test_a_matrix_that_few_bits_lose_gets_more(layout, next_format):
    made = model("llama")
    with torch.no_grad():
        made.network.decoder.layers[1].ffn.up.weight[:, ::32] *= 30  # beside it the rest of its group is rounded away
    weights = {f"decoder.layers.{i}.ffn.up": made.network.decoder.layers[i].ffn.up.weight.clone() for i in range(3)}
    matrices = packed_matrices(made.quantize(Bits(weights=4, layout=layout)).network)
    assert [matrices[name].format for name in weights] == ["groups4", next_format, "groups4"]
    for name, weight in weights.items():
        assert error_of(matrices[name], weight) < MOST_ERROR.get(matrices[name].format, 0.02)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda held: held.pop("decoder.layers.0.ffn.up.scales"), "scales"),
        (lambda held: held.pop("decoder.norm.weight"), "missing"),
        (lambda held: held.update(more=torch.zeros(3)), "unexpected"),
        (lambda held: held.update({"decoder.layers.9.ffn.up.panels": torch.zeros(3)}), "no matrix"),
        (lambda held: held.update({"embedding.panels": held["embedding.panels"][1:]}), "no format"),
        (lambda held: held.update({"embedding.sums": held["embedding.sums"].float()}), "float32 and int32"),
        (lambda held: held.update({"decoder.norm.weight": torch.ones(3)}), "not \\[48\\]"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(change, words, tmp_path):
    model("llama").quantize(8).save(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    change(held)
    save_file(held, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FileError, match=words):
        yanmo.load(tmp_path)


def test_what_a_packed_folder_cannot_do_is_said(tmp_path):
    model("llama").quantize(8).save(tmp_path)
    for options in ({"dtype": "float32"}, {"head": "sequence"}, {"device": "meta"}):
        with pytest.raises(InputError, match="load the folder that it was made of"):
            yanmo.load(tmp_path, **options)
    with pytest.raises(InputError, match="packed already"):
        yanmo.load(tmp_path, bits=4)
    saved = (tmp_path / "config.json").read_text("utf-8")
    for change, words in (({"version": 2}, "update Yanmo"), ({"computes_in": "int8"}, "computes_in")):
        values = json.loads(saved)
        values["quantization_config"] |= change
        (tmp_path / "config.json").write_text(json.dumps(values), "utf-8")
        with pytest.raises(ConfigError, match=words):
            yanmo.load(tmp_path)
