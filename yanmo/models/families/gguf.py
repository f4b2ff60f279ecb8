"""The families as GGUF files name them: llama (Mistral's among them), qwen2, qwen3, gpt2.

In: the keys of a file that begin with its architecture, and what its tensors say of themselves. Out: our config, and
the table of names. What such a file does not say (dropout, a head of labels) has no key here.

    foreign_of       header → family, and the values that its config is read from
    ARCHITECTURES    general.architecture → Family
    turned_heads     the heads of a tensor whose rows llama.cpp's converter has put in another order
    read_scaling     rope.scaling.*, and Llama 3's factors, which lie in a tensor

Keys: docs/gguf.md of github.com/ggml-org/ggml; names of tensors: gguf-py of github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from yanmo.errors import ConfigError, nearest
from yanmo.gguf import Header
from yanmo.models.config import MAX_LAYERS, Head, RopeScaling, TransformerConfig
from yanmo.models.families import gpt2, llama
from yanmo.models.families.table import Family, Foreign, Rule, linear, norm, same

NO_TOKEN = 2**32 - 1  # what old converters wrote for -1
FACTORS = "rope_freqs.weight"
INERT = {
    "rope.scaling.finetuned": "a note",
    "tensor_data_layout": "a note of the first converters, all of which order rows alike",
}


def foreign_of(header: Header, factors: Sequence[float] = ()) -> tuple[Family, Foreign]:
    """The family of a file and the values that its config is read from; `factors`: the numbers of rope_freqs.weight."""
    kind = header.get("general.architecture", str, "")
    if kind not in ARCHITECTURES:
        raise ConfigError(
            f"{header.path}: general.architecture is {kind[:80]!r}, which is not supported"
            f"{nearest(kind[:80], ARCHITECTURES)}; supported are {', '.join(ARCHITECTURES)}"
        )
    if "token_embd.weight" not in header.tensors:
        raise ConfigError(f"{header.path}: no tensor token_embd.weight in it; a vocabulary alone, or a part of a model")
    keys = {key.removeprefix(f"{kind}."): value for key, value in header.metadata.items() if key.startswith(f"{kind}.")}
    values = {key: _plain(value) for key, value in keys.items()}
    values |= {"tensors": header.tensors, "factors": tuple(factors), "kind": kind, "ids": _ids(header)}
    foreign = Foreign(values, header.path)
    foreign.used.update(INERT, ("tensors", "factors", "kind", "ids"))
    return ARCHITECTURES[kind], foreign


def _plain(value: Any) -> Any:
    """A value as a config.json would have it: floats as they were written, one number for layers that agree."""
    if isinstance(value, np.ndarray):
        agree = len(value) > 0 and (value == value[0]).all()
        return _plain(value[0].item()) if agree else f"a list of {len(value)} numbers that differ"
    if isinstance(value, float) and np.float32(value) == value:
        return float(str(np.float32(value)))
    return value[:80] if isinstance(value, str | list) else value


def _ids(header: Header) -> dict[str, Any]:
    """Where texts begin and end: the tokens of a file that has a vocabulary."""
    names = ("bos", "eos", "eot", "eom", "padding")
    found = {name: header.get(f"tokenizer.ggml.{name}_token_id", int) for name in names}
    found = {name: None if number == NO_TOKEN else number for name, number in found.items()}
    ends = dict.fromkeys(number for name in ("eos", "eot", "eom") if (number := found[name]) is not None)
    return {"bos_id": found["bos"], "pad_id": found["padding"], "eos_ids": tuple(ends)}


# --- configs


def _shared(f: Foreign, head: Head) -> dict[str, Any]:
    """What all of these families have."""
    tensors = f.get("tensors")
    embedding = tensors["token_embd.weight"].shape
    width, layers = f.whole("embedding_length"), f.whole("block_count")
    if len(embedding) != 2 or embedding[1] != width:
        raise f.error(f"token_embd.weight is {list(embedding)}, and must be tokens by {width}; do not trust the file")
    if not 0 <= layers <= MAX_LAYERS:
        raise f.error(f"block_count is {layers}, and must be from 1 to {MAX_LAYERS}")
    said = f.whole("vocab_size", embedding[0])
    if said != embedding[0]:
        raise f.error(f"vocab_size is {said}, and token_embd.weight has {embedding[0]} rows; do not trust the file")
    return {
        "vocab_size": embedding[0],
        "width": width,
        "n_heads": f.whole("attention.head_count"),
        "ffn_width": f.whole("feed_forward_length"),
        "decoder_layers": layers,
        "max_positions": f.whole("context_length"),
        "tie_embeddings": "output.weight" not in tensors,
        "head": head,
        "pool": "last",
        **f.get("ids"),
    }


def _read_llama(f: Foreign, head: Head) -> TransformerConfig:
    shared, kind, tensors = _shared(f, head), f.get("kind"), f.get("tensors")
    for key in ("expert_count", "expert_used_count"):
        f.only(key, 0)
    f.only("attention.causal", True)
    own = shared["width"] // max(shared["n_heads"], 1)
    head_width = f.whole("attention.key_length", own)
    for key in ("attention.value_length", "rope.dimension_count"):
        if f.whole(key, head_width) != head_width:
            raise f.error(f"{key} is {f.whole(key)}, and only the width of a head, {head_width}, is supported")
    theta = f.number("rope.freq_base", 10000.0)
    return TransformerConfig(
        **shared,
        n_kv_heads=f.whole("attention.head_count_kv", shared["n_heads"]),
        head_width=head_width,
        position="rotary",
        rope_theta=theta,
        rope_scaling=read_scaling(f, theta, head_width, shared["max_positions"]),
        norm="rms",
        norm_eps=f.number("attention.layer_norm_rms_epsilon"),
        norm_query_key=kind == "qwen3",
        activation="silu",
        gated=True,
        bias_qkv=kind == "qwen2" or "blk.0.attn_q.bias" in tensors,
        bias_out="blk.0.attn_output.bias" in tensors,
        bias_ffn="blk.0.ffn_up.bias" in tensors,
    )


def _read_gpt2(f: Foreign, head: Head) -> TransformerConfig:
    f.only("attention.causal", True)
    return TransformerConfig(
        **_shared(f, head), norm_eps=f.number("attention.layer_norm_epsilon"), activation="gelu_tanh"
    )


def read_scaling(f: Foreign, theta: float, head_width: int, positions: int) -> RopeScaling | None:
    """How rotary frequencies are stretched; a file without a type has the linear one, where it has a factor."""
    kind = f.get("rope.scaling.type", "linear")
    factor = f.number("rope.scaling.factor", f.number("rope.scale_linear", 0.0)) or 1.0
    trained = f.whole("rope.scaling.original_context_length", positions)
    for key in ("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor"):
        f.only(key, 1.0)
    fast = f.number("rope.scaling.yarn_beta_fast", 32.0)
    slow = f.number("rope.scaling.yarn_beta_slow", 1.0)
    factors = f.get("factors")
    stretched = any(number != 1 for number in factors)
    if kind not in ("none", "linear", "yarn") or (stretched and kind != "none" and factor != 1):
        raise f.error(f"rope.scaling.type is {kind!r}{' with rope_freqs.weight' * stretched}, which is not supported")
    if stretched:
        return _llama3(f, np.asarray(factors), theta ** (-np.arange(0, head_width, 2) / head_width), trained)
    if kind == "yarn":
        return RopeScaling(kind="yarn", factor=factor, original_positions=trained, beta_fast=fast, beta_slow=slow)
    return None if kind == "none" or factor == 1 else RopeScaling(kind="linear", factor=factor)


def _llama3(f: Foreign, factors: np.ndarray, frequencies: np.ndarray, trained: int) -> RopeScaling:
    """The scaling that divides each frequency by its factor (Llama 3.1); its numbers are not in the file.

    1 / factor goes from 1 / largest to 1 along a line in the frequency. The line says two of the three numbers
    (trained length, low, high); all three may be multiplied by one number, and low is 1 in every public model. What
    is found must give every factor back.
    """
    problem = f.error(f"{FACTORS} holds factors of no scaling that is known here; take the model in another format")
    if len(factors) != len(frequencies) or not np.isfinite(factors).all() or factors.min() < 1:
        raise problem
    largest = float(factors.max())
    share = (1 / factors - 1 / largest) / (1 - 1 / largest)
    inner = (share > 1e-4) & (share < 1 - 1e-4)
    found = [(8192, 4.0), (trained, 4.0)]
    if inner.any():
        found.append((round(2 * np.pi * (1 + 3 * share[inner][0]) / frequencies[inner][0]), 4.0))
    if inner.sum() > 1:
        slope, start = np.polyfit(frequencies[inner], share[inner], 1)
        if start < 0 < slope:
            high = 1 - 1 / start
            found.append((round(slope * 2 * np.pi * (high - 1)), float(high)))
    for length, high in found:
        turns = length * frequencies / (2 * np.pi)
        blend = np.clip((turns - 1) / (high - 1), 0, 1)
        if np.abs(factors * (blend + (1 - blend) / largest) - 1).max() < 1e-4:
            return RopeScaling(kind="llama3", factor=largest, original_positions=length, high_frequency=high)
    raise problem


# --- names


def _llama_rules(c: TransformerConfig) -> list[Rule]:
    table = [same("token_embd.weight", "embedding.weight")]
    for i in range(c.decoder_layers):
        theirs, ours = f"blk.{i}", f"decoder.layers.{i}"
        table += norm(f"{theirs}.attn_norm", f"{ours}.attention_norm", bias=False)
        for part in ("query", "key", "value"):
            table += linear(f"{theirs}.attn_{part[0]}", f"{ours}.attention.{part}", bias=c.bias_qkv)
        table += linear(f"{theirs}.attn_output", f"{ours}.attention.out", bias=c.bias_out)
        if c.norm_query_key:
            table += norm(f"{theirs}.attn_q_norm", f"{ours}.attention.query_norm", bias=False)
            table += norm(f"{theirs}.attn_k_norm", f"{ours}.attention.key_norm", bias=False)
        table += norm(f"{theirs}.ffn_norm", f"{ours}.ffn_norm", bias=False)
        for part in ("gate", "up", "down"):
            table += linear(f"{theirs}.ffn_{part}", f"{ours}.ffn.{part}", bias=c.bias_ffn)
    table += norm("output_norm", "decoder.norm", bias=False)
    return table + _output(c)


def _gpt2_rules(c: TransformerConfig) -> list[Rule]:
    table = [same("token_embd.weight", "embedding.weight"), same("position_embd.weight", "decoder.positions.weight")]
    for i in range(c.decoder_layers):
        theirs, ours = f"blk.{i}", f"decoder.layers.{i}"
        parts = [f"{ours}.attention.{part}" for part in ("query", "key", "value")]
        table += norm(f"{theirs}.attn_norm", f"{ours}.attention_norm")
        table += [Rule(f"{theirs}.attn_qkv.{w}", tuple(f"{name}.{w}" for name in parts)) for w in ("weight", "bias")]
        table += linear(f"{theirs}.attn_output", f"{ours}.attention.out", bias=True)
        table += norm(f"{theirs}.ffn_norm", f"{ours}.ffn_norm")
        table += linear(f"{theirs}.ffn_up", f"{ours}.ffn.up", bias=True)
        table += linear(f"{theirs}.ffn_down", f"{ours}.ffn.down", bias=True)
    table += norm("output_norm", "decoder.norm")
    return table + _output(c)


def _output(c: TransformerConfig) -> list[Rule]:
    return [same("output.weight", "head.weight")] if c.head == "causal" and not c.tie_embeddings else []


def turned_heads(name: str, config: TransformerConfig, family: Family) -> int:
    """The number of heads whose rows stand in the order of Llama's first code, even and odd in turn; 0 for none.

    Here, as in every config.json, a pair of a head that turns together is (i, i + half).
    """
    found = re.fullmatch(r"blk\.\d+\.attn_([qk])\.(weight|bias)", name)
    if family.model_type != "llama" or found is None:
        return 0
    return config.n_heads if found[1] == "q" else config.n_kv_heads


def _family(like: Family, read: Any, rules: Any) -> Family:
    return Family(
        model_type=like.model_type,
        heads={head: name for head, name in like.heads.items() if head in ("causal", "none")},
        prefixes={"causal": "", "none": ""},
        read_config=read,
        write_config=like.write_config,
        rules=rules,
        ignored=[(re.escape(FACTORS), "read into the config"), (r"attn_rot_embd$", "frequencies, which are computed")],
        output="output.weight",
    )


ARCHITECTURES: dict[str, Family] = {
    "gpt2": _family(gpt2.FAMILY, _read_gpt2, _gpt2_rules),
    "llama": _family(llama.LLAMA, _read_llama, _llama_rules),
    "qwen2": _family(llama.QWEN2, _read_llama, _llama_rules),
    "qwen3": _family(llama.QWEN3, _read_llama, _llama_rules),
}
