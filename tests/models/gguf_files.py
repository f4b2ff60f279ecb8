"""GGUF files for the tests, written by the gguf package from random transformers models, as llama.cpp's converter does.

write_model      a folder of tiny.py's → a file; the same formulas as convert_hf_to_gguf.py
vocabulary       keys of a small byte-level vocabulary, so that llama.cpp opens the file too
random_blocks    blocks of a kind that the package cannot make
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

KINDS = gguf.GGMLQuantizationType


def write_model(
    folder: Path,
    file: Path,
    kind: str = "F32",
    *,
    tokens: list[str] | None = None,
    random: dict[str, str] | None = None,
    fast: bool = False,
    split: int = 0,
) -> dict[str, torch.Tensor]:
    """Write the model; `kind` of all matrices but those whose rows it cannot hold.

    split: tensors of each part, 0: one file. random: tensors of random blocks, and their kinds. fast: all blocks are
    random. Returns the numbers that the file holds, by the names of the folder's tensors.
    """
    config = json.loads((folder / "config.json").read_text())
    state = {name: tensor.float().numpy() for name, tensor in load_file(folder / "model.safetensors").items()}
    arch = config["model_type"]
    writer = gguf.GGUFWriter(str(file), arch, split_max_tensors=split)
    keys(writer, config)
    if tokens is None:
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(config["vocab_size"])
    else:
        vocabulary(writer, tokens)
    names = gguf.get_tensor_name_map(
        {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}[arch], config.get("num_hidden_layers") or 99
    )
    held = {}
    for theirs, value in state.items():
        if theirs.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        turned = value
        if arch == "gpt2" and theirs.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            turned = value.T
        heads = {"q": config.get("num_attention_heads"), "k": config.get("num_key_value_heads")}
        if arch == "llama" and (part := theirs.split(".")[-2][:1]) in heads and "self_attn" in theirs:
            turned = permuted(value, heads[part])
        name = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        assert name is not None, theirs
        own = kind if value.ndim == 2 and "position" not in name else "F32"
        if turned.shape[-1] % gguf.GGML_QUANT_SIZES[KINDS[own]][0]:
            own = "F16"
        if name in (random or {}) or (fast and own == kind):
            own = (random or {}).get(name, own)
            raw = random_blocks(own, *turned.shape)
        else:
            raw = gguf.quants.quantize(np.ascontiguousarray(turned), KINDS[own])
        writer.add_tensor(name, raw, raw_dtype=KINDS[own])
        if fast:
            continue
        back = gguf.quants.dequantize(raw, KINDS[own]).reshape(turned.shape)
        held[theirs] = torch.from_numpy(
            np.ascontiguousarray(back.T if turned is not value and arch == "gpt2" else back)
        )
        if arch == "llama" and turned is not value:
            held[theirs] = torch.from_numpy(unpermuted(back, heads[part]))
    for name, factors in rope_factors(config):
        writer.add_tensor(name, factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def permuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """LlamaModel.permute of convert_hf_to_gguf.py."""
    return (
        weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def unpermuted(weights: np.ndarray, heads: int) -> np.ndarray:
    found = weights.reshape(heads, weights.shape[0] // heads // 2, 2, *weights.shape[1:]).swapaxes(1, 2)
    return np.ascontiguousarray(found.reshape(weights.shape))


def keys(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """The keys that the converter writes for a config.json."""
    if config["model_type"] == "gpt2":
        writer.add_context_length(config["n_positions"])
        writer.add_embedding_length(config["n_embd"])
        writer.add_feed_forward_length(config.get("n_inner") or 4 * config["n_embd"])
        writer.add_block_count(config["n_layer"])
        writer.add_head_count(config["n_head"])
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        return
    head_width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rope = config.get("rope_parameters") or {}
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if config["model_type"] != "qwen2":
        writer.add_key_length(head_width)
        writer.add_value_length(head_width)
    writer.add_rope_dimension_count(head_width)
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def rope_factors(config: dict[str, Any]) -> list[tuple[str, np.ndarray]]:
    """generate_extra_tensors of the converter: Llama 3's scaling as a factor for each pair."""
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") != "llama3":
        return []
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    frequencies = 1.0 / (rope["rope_theta"] ** (np.arange(0, width, 2, dtype=np.float32) / width))
    low, high, length = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    factors = []
    for frequency in frequencies:
        wave = 2 * math.pi / frequency
        if wave < length / high:
            factors.append(1.0)
        elif wave > length / low:
            factors.append(rope["factor"])
        else:
            smooth = (length / wave - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return [("rope_freqs.weight", np.array(factors, dtype=np.float32))]


def vocabulary(writer: gguf.GGUFWriter, tokens: list[str]) -> None:
    """Byte-level BPE without merges; the last token is <|endoftext|>."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_token_merges(["t h", "i n"])
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)


def random_blocks(kind: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """uint8 (rows, bytes) whose scales are small and finite."""
    items, size = gguf.GGML_QUANT_SIZES[KINDS[kind]]
    chance = np.random.default_rng(seed)
    blocks = chance.integers(0, 256, (rows * columns // items, size), dtype=np.uint8)
    half = chance.uniform(-0.01, 0.01, (len(blocks), 2)).astype(np.float16).view(np.uint8)
    places = {"Q6_K": [208], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q4_1": [0, 2], "Q5_1": [0, 2]}.get(kind, [0])
    for number, place in enumerate(places):
        blocks[:, place : place + 2] = half[:, 2 * number : 2 * number + 2]
    return blocks.reshape(rows, -1)
