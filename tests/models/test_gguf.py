"""GGUF files as models: logits as from the folder, within what the blocks lose; equal to what llama.cpp computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import GPT2, LLAMA, LLAMA3, VARIANTS, make, random_ids

import yanmo
from yanmo.errors import Error, FileError, InputError
from yanmo.gguf import KINDS, TensorPlace
from yanmo.kernels.matrix import dense
from yanmo.models.blocks import READERS, Blocks, copy_blocks, numbers_of
from yanmo.models.checkpoint import load_config, load_network
from yanmo.models.packed import packed_matrices
from yanmo.models.stored import open_file
from yanmo.tokens.fast import byte_alphabet

gguf = pytest.importorskip("gguf")
import gguf_files as files  # noqa: E402  (imports gguf)

NAMES = ["gpt2", "gpt2-untied", "llama", "llama-tied", "llama-biases", "llama-llama3", "llama-linear", "llama-yarn"]
NAMES += ["qwen2", "qwen3"]
TOKENS = [*byte_alphabet(), "th", "in", *(f"<{i}>" for i in range(61)), "<|endoftext|>"]  # 320
WIDE = {"vocab_size": len(TOKENS), "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "head_dim": 64}
WIDE = LLAMA | WIDE | {"num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_a_file_computes_what_its_folder_computes(tmp_path: Path, name: str, kind: str) -> None:
    theirs = make(*VARIANTS[name], tmp_path / "folder")
    held = files.write_model(tmp_path / "folder", tmp_path / "x.gguf", kind)
    theirs.load_state_dict(held, strict=False)
    ids = random_ids(2, 30)
    with torch.inference_mode():
        expected = theirs(ids).logits
    network = load_network(tmp_path / "x.gguf", dtype=torch.float32)
    found = network.logits(network.decode(ids))
    assert (found - expected).abs().max() < 2e-4 * expected.abs().max()
    stored = load_network(tmp_path / "x.gguf").dtype
    assert stored == {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]


def test_a_model_in_parts_is_the_one_in_a_file(tmp_path: Path) -> None:
    make("LlamaForCausalLM", WIDE, tmp_path / "folder")
    files.write_model(tmp_path / "folder", tmp_path / "x.gguf", "Q8_0", tokens=TOKENS)
    files.write_model(tmp_path / "folder", tmp_path / "y.gguf", "Q8_0", tokens=TOKENS, split=7)
    parts = sorted(tmp_path.glob("y-*.gguf"))
    assert len(parts) > 2
    one, other = yanmo.load(tmp_path / "x.gguf"), yanmo.load(parts[0])
    ids = torch.tensor([[3, 5, 8, 2]])
    assert torch.equal(one.logits(ids), other.logits(ids)) and other.tokenizer.encode("ab") == one.tokenizer.encode(
        "ab"
    )
    with pytest.raises(FileError, match="give the first, y-00001-"):
        yanmo.load(parts[1])
    kept = parts[1].read_bytes()
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(FileError, match="not part 2 of y-00001-of-"):
        yanmo.load(parts[0])
    parts[1].unlink()
    with pytest.raises(FileError, match=f"{parts[1].name}: no such file"):
        yanmo.load(parts[0])
    parts[1].write_bytes(kept)
    with pytest.raises(FileError, match="not named as one"):
        yanmo.load(parts[0].rename(tmp_path / "z.gguf"))


@pytest.mark.parametrize("name", NAMES)
def test_the_config_is_that_of_the_folder(tmp_path: Path, name: str) -> None:
    make(*VARIANTS[name], tmp_path / "folder")
    files.write_model(tmp_path / "folder", tmp_path / "x.gguf")
    _, expected = load_config(tmp_path / "folder")
    family, found = load_config(tmp_path / "x.gguf")
    unsaid = {"pad_id", "bos_id", "eos_ids", "dropout", "embedding_dropout", "attention_dropout"}
    differing = {k for k in found.as_dict() if found.as_dict()[k] != expected.as_dict()[k]} - unsaid
    assert not differing
    assert family.model_type == VARIANTS[name][0].partition("For")[0].lower().replace("lmheadmodel", "")


def test_a_model_from_a_file_is_saved_as_a_folder_that_transformers_opens(tmp_path: Path) -> None:
    theirs = make("LlamaForCausalLM", WIDE, tmp_path / "folder")
    files.write_model(tmp_path / "folder", tmp_path / "x.gguf", tokens=TOKENS)
    yanmo.load(tmp_path / "x.gguf", dtype="float32").save(tmp_path / "saved")
    again = type(theirs).from_pretrained(tmp_path / "saved")
    ids = random_ids(1, 20)
    with torch.inference_mode():
        assert torch.equal(again(ids).logits, theirs(ids).logits)
    saved = yanmo.load(tmp_path / "saved")
    assert saved.ends.eos_ids == {len(TOKENS) - 1}
    assert saved.tokenizer.encode("thing") == yanmo.load(tmp_path / "x.gguf").tokenizer.encode("thing")


@pytest.mark.parametrize("kind", READERS)
def test_blocks_are_read_as_the_format_s_own_package_reads_them(tmp_path: Path, kind: str) -> None:
    raw = files.random_blocks(kind, 40, 512)
    expected = torch.from_numpy(gguf.quants.dequantize(raw, files.KINDS[kind]))
    number = files.KINDS[kind].value
    assert torch.equal(numbers_of(kind, torch.from_numpy(raw).view(-1, KINDS[number].nbytes)).view(40, 512), expected)
    path = tmp_path / "raw"
    path.write_bytes(bytes(3) + raw.tobytes())
    file = open_file(path)
    target = torch.empty(512, 40, dtype=torch.float64).t()
    order = torch.randperm(40)
    copy_blocks(Blocks(file, TensorPlace("a", KINDS[number], (40, 512), 3), order), target)
    file.close()
    assert torch.equal(target[order], expected.double())


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_0"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_quantised_files_compute_with_the_numbers_that_they_hold(tmp_path: Path, kind: str, family: str) -> None:
    settings = {"gpt2": GPT2 | {"n_embd": 64, "n_inner": 128}, "llama": WIDE, "qwen3": WIDE}[family]
    theirs = make(VARIANTS[family][0], settings, tmp_path / "folder")
    held = files.write_model(tmp_path / "folder", tmp_path / "x.gguf", kind)
    theirs.load_state_dict(held, strict=False)
    ids = random_ids(2, 20)
    with torch.inference_mode():
        expected = theirs(ids).logits
    network = load_network(tmp_path / "x.gguf", dtype=torch.float32)
    assert (network.logits(network.decode(ids)) - expected).abs().max() < 2e-4 * expected.abs().max()


# --- llama.cpp itself

LLAMA_CPP = {
    "gpt2": ("GPT2LMHeadModel", GPT2 | {"vocab_size": len(TOKENS), "n_embd": 256, "n_layer": 2}),
    "llama": ("LlamaForCausalLM", WIDE),
    "llama-tied": ("LlamaForCausalLM", WIDE | {"tie_word_embeddings": True}),
    "llama-llama3": ("LlamaForCausalLM", WIDE | {"rope_parameters": LLAMA3}),
    "llama-linear": ("LlamaForCausalLM", WIDE | {"rope_parameters": VARIANTS["llama-linear"][1]["rope_parameters"]}),
    "llama-yarn": ("LlamaForCausalLM", WIDE | {"rope_parameters": VARIANTS["llama-yarn"][1]["rope_parameters"]}),
    "qwen2": ("Qwen2ForCausalLM", {k: v for k, v in WIDE.items() if k != "head_dim"}),
    "qwen3": ("Qwen3ForCausalLM", WIDE),
}
CASES = [(name, "F32") for name in LLAMA_CPP] + [
    (name, kind) for name in ("gpt2", "llama") for kind in ("Q8_0", "Q4_0")
]
TEXT = "A thin string, and 数字 7"
THEIRS = """
import sys, llama_cpp, numpy
usual = llama_cpp.llama_model_default_params
def without_packing():  # its AMX code ends the process on some virtual machines
    params = usual()
    params.use_extra_bufts = False
    return params
llama_cpp.llama_cpp.llama_model_default_params = llama_cpp.llama_model_default_params = without_packing
text, *files = sys.argv[1:]
for file in files:
    model = llama_cpp.Llama(file, logits_all=True, n_ctx=64, n_threads=1, verbose=False)
    ids = model.tokenize(text.encode(), add_bos=True, special=True)
    model.eval(ids)
    numpy.savez(file + ".npz", ids=ids, scores=model.scores[: len(ids)])
    model.close()
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file for each case, and what llama.cpp computes with it, in a process that it may end."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: nothing to compare with")
    place = tmp_path_factory.mktemp("llama-cpp")
    for name, kind in CASES:
        model = make(*LLAMA_CPP[name], place / name)
        with torch.no_grad():
            for parameter in model.parameters():  # calm: an input rounded to 8 bits may not change everything
                parameter.mul_(0.25 if parameter.ndim > 1 else 1)
        model.save_pretrained(place / name)
        files.write_model(place / name, place / f"{name}-{kind}.gguf", kind, tokens=TOKENS)
    command = [sys.executable, "-c", THEIRS, TEXT, *(str(place / f"{name}-{kind}.gguf") for name, kind in CASES)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode < 0:
        pytest.skip(f"llama.cpp ended with the signal {-done.returncode} on this machine")
    assert done.returncode == 0, done.stderr[-500:]
    return place


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_logits_and_ids_are_those_of_llama_cpp(theirs: Path, name: str, kind: str) -> None:
    found = np.load(theirs / f"{name}-{kind}.gguf.npz")
    model = yanmo.load(theirs / f"{name}-{kind}.gguf", dtype="float32")
    ids = model.tokenizer.encode(TEXT)
    assert ids == found["ids"].tolist()
    expected = torch.from_numpy(found["scores"])
    apart = (model.logits(ids)[0] - expected).norm() / expected.norm()
    # llama.cpp rounds the inputs of a product to 8 bits where the matrix has them, and tables and its cache to float16
    assert apart < (0.08 if kind.startswith("Q") else 5e-3), f"{apart:.4f}"


# --- matrices that stay packed


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "llama-biases", "qwen3"])
def test_packed_matrices_hold_the_file_s_numbers_bit_for_bit(tmp_path: Path, kind: str, family: str) -> None:
    settings = WIDE | {"tie_word_embeddings": family == "qwen3", "attention_bias": family == "llama-biases"}
    settings = GPT2 | {"n_embd": 64, "n_inner": 160} if family == "gpt2" else settings
    make(VARIANTS[family][0], settings, tmp_path / "folder")
    files.write_model(tmp_path / "folder", tmp_path / "x.gguf", kind)
    packed, floats = load_network(tmp_path / "x.gguf"), load_network(tmp_path / "x.gguf", dtype=torch.float32)
    matrices = packed_matrices(packed)
    expected = {name: m.weight for name, m in floats.named_modules() if type(m) is torch.nn.Linear}
    expected |= {"embedding": floats.embedding.weight}
    tied = floats.config.tie_embeddings
    expected |= {"head.adapted": floats.embedding.weight if tied else floats.head.weight}
    assert matrices.keys() == expected.keys()
    for name, matrix in matrices.items():
        assert torch.equal(dense(matrix), expected[name]), name
        assert matrix.format == {"Q8_0": "groups8", "Q4_0": "groups4"}[kind]
    left = {name: p for name, p in packed.named_parameters() if p.numel()}
    for name, parameter in left.items():
        assert torch.equal(parameter, floats.get_parameter(name)), name
    ids = random_ids(2, 12)
    with torch.inference_mode():
        exact = floats.logits(floats.decode(ids))
        apart = (packed.logits(packed.decode(ids)) - exact).norm() / exact.norm()
    assert apart < 0.2  # inputs in 8 bits; the weights of these models are large


def test_blocks_that_no_kernel_reads_are_packed_in_8_bits_and_said_so(tmp_path: Path) -> None:
    make("LlamaForCausalLM", WIDE, tmp_path / "folder")
    kinds = {"token_embd": "Q6_K", "output": "Q6_K", "blk.0.ffn_up": "Q4_K", "blk.1.attn_q": "Q4_K"}
    files.write_model(
        tmp_path / "folder", tmp_path / "x.gguf", "Q8_0", random={f"{k}.weight": v for k, v in kinds.items()}
    )
    floats = load_network(tmp_path / "x.gguf", dtype=torch.float32)
    with pytest.warns(UserWarning, match="matrices in Q4_K, Q6_K are computed with in 8 bits"):
        packed = load_network(tmp_path / "x.gguf")
    matrix = packed_matrices(packed)["decoder.layers.1.attention.query"]
    exact = floats.get_parameter("decoder.layers.1.attention.query.weight")
    groups = exact.view(-1, 32).abs().amax(1) / 254  # half a step, and what a scale in float16 is off
    assert ((dense(matrix) - exact).view(-1, 32).abs() <= 1.15 * groups[:, None] + 1e-7).all()


PEAK = """
import resource, sys, warnings
import torch, yanmo
from yanmo.models import checkpoint, transformer
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
network = yanmo.models.checkpoint.load_network(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read as Linux counts it")
def test_a_packed_file_takes_at_most_a_fifth_more_memory_than_it_is_large(tmp_path: Path) -> None:
    settings = LLAMA | {"vocab_size": 20000, "hidden_size": 1024, "intermediate_size": 2048, "head_dim": 64}
    settings |= {"num_attention_heads": 16, "num_key_value_heads": 4, "num_hidden_layers": 4}
    make("LlamaForCausalLM", settings, tmp_path / "folder")
    files.write_model(tmp_path / "folder", tmp_path / "x.gguf", "Q8_0", fast=True)
    size = (tmp_path / "x.gguf").stat().st_size
    assert size > 80e6
    out = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "x.gguf")], capture_output=True, text=True, check=True
    ).stdout
    assert int(out) * 1024 <= 1.2 * size


# --- what is refused


def changed(file: Path, **keys: object) -> Path:
    """The file with other keys, written anew by the format's own package."""
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(str(file) + ".new", reader.fields["general.architecture"].contents())
    values = {field.name: field.contents() for field in reader.fields.values() if "." in field.name}
    values |= {name.replace("__", "."): value for name, value in keys.items()}
    for name, value in values.items():
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            if name != "general.architecture":
                writer.add_string(name, value)
        else:
            writer.add_array(name, value)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(str(file) + ".new")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"llama__expert_count": 8}, "expert_count is 8, and only 0 is supported"),
        ({"llama__rope__dimension_count": 4}, "rope.dimension_count is 4, and only the width of a head, 10"),
        ({"llama__attention__value_length": 4}, "attention.value_length is 4"),
        ({"llama__attention__head_count_kv": [2, 2, 1]}, "head_count_kv is 'a list of 3 numbers that differ'"),
        ({"llama__rope__scaling__type": "longrope"}, "rope.scaling.type is 'longrope'"),
        ({"llama__vocab_size": 7}, "vocab_size is 7, and token_embd.weight has 61 rows"),
        ({"llama__logit_scale": 2.0}, "unknown keys 'logit_scale'"),
        ({"llama__block_count": 2**31}, "block_count is 2147483648"),
        ({"llama__block_count": 4}, "9 missing .*blk.3.attn_norm.weight"),
        ({"llama__block_count": 2}, "9 unexpected .*blk.2"),
        ({"llama__embedding_length": 40}, "token_embd.weight is .61, 36., and must be tokens by 40"),
        ({"llama__feed_forward_length": 2**31}, "9 of another shape .blk.0.ffn_gate.weight is .50, 36., not"),
        ({"llama__feed_forward_length": 2**32 - 1}, "ffn_width is 4294967295, and must be"),
    ],
)
def test_a_file_that_is_no_such_model_is_one_sentence(tmp_path: Path, keys: dict, sentence: str) -> None:
    make(*VARIANTS["llama"], tmp_path / "folder")
    files.write_model(tmp_path / "folder", tmp_path / "x.gguf")
    with pytest.raises(Error, match=sentence) as caught:
        load_network(changed(tmp_path / "x.gguf", **keys))
    assert "x.gguf" in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_file_cannot_be_asked_for(tmp_path: Path) -> None:
    make(*VARIANTS["llama"], tmp_path / "folder")
    files.write_model(tmp_path / "folder", tmp_path / "x.gguf")
    with pytest.raises(InputError, match="has no head 'sequence'; save the model as a folder"):
        load_network(tmp_path / "x.gguf", head="sequence")
    with pytest.warns(UserWarning, match="unknown keys 'logit_scale'"):
        load_network(changed(tmp_path / "x.gguf", llama__logit_scale=2.0), allow_unknown=True)
    with pytest.raises(FileError, match="no tokenizer there"):
        yanmo.load(tmp_path / "x.gguf").tokenizer  # noqa: B018
