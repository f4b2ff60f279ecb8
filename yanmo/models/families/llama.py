"""Llama (Touvron et al. 2023; Llama 3 2024), Mistral (Jiang et al. 2023), Qwen2 and Qwen3 (Qwen team 2024, 2025).

Decoders with rotary positions, RMS norms before each part, gated feed-forward, grouped heads. They differ in biases
(Qwen2: query, key, value), normed queries and keys (Qwen3), and windows (Mistral; Qwen from a layer on).
"""

from __future__ import annotations

from typing import Any

from yanmo.models.config import MAX_LAYERS, Head, RopeScaling, TransformerConfig
from yanmo.models.families.table import (
    Family,
    Foreign,
    Rule,
    foreign_activation,
    linear,
    norm,
    one_or_all,
    same,
    write_labels,
)

# what a missing key means, where the families differ
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"vocab": 32000, "ffn": 11008, "positions": 2048, "bos": 1, "eos": 2, "kv": None},
    "mistral": {"vocab": 32000, "ffn": 14336, "positions": 131072, "bos": 1, "eos": 2, "kv": 8},
    "qwen2": {"vocab": 151936, "ffn": 22016, "positions": 32768, "bos": None, "eos": None, "kv": 32},
    "qwen3": {"vocab": 151936, "ffn": 22016, "positions": 32768, "bos": None, "eos": None, "kv": 32},
}


def read_config(f: Foreign, head: Head) -> TransformerConfig:
    """config.json → TransformerConfig."""
    kind = f.get("model_type")
    default = _DEFAULTS[kind]
    width, heads = f.whole("hidden_size", 4096), f.whole("num_attention_heads", 32)
    positions = f.whole("max_position_embeddings", default["positions"])
    theta, scaling = read_rope(f, positions)
    bias = f.flag("attention_bias", False) if kind in ("llama", "qwen3") else kind == "qwen2"
    layers = f.whole("num_hidden_layers", 32)
    if not 0 <= layers <= MAX_LAYERS:  # before a list is made that is as long
        raise f.error(f"num_hidden_layers is {layers}, and must be from 1 to {MAX_LAYERS}")
    classifier = f.get("classifier_dropout", None)
    own_head_width = 128 if kind == "qwen3" else width // max(heads, 1)
    return TransformerConfig(
        vocab_size=f.whole("vocab_size", default["vocab"]),
        width=width,
        n_heads=heads,
        n_kv_heads=f.whole("num_key_value_heads", default["kv"] or heads),
        head_width=own_head_width if kind == "qwen2" else f.whole("head_dim", own_head_width),
        ffn_width=f.whole("intermediate_size", default["ffn"]),
        decoder_layers=layers,
        max_positions=positions,
        position="rotary",
        rope_theta=theta,
        rope_scaling=scaling,
        windows=_read_windows(f, kind, layers),
        norm="rms",
        norm_eps=f.number("rms_norm_eps", 1e-6),
        norm_query_key=kind == "qwen3",
        activation=f.activation("hidden_act", "silu"),
        gated=True,
        bias_qkv=bias,
        bias_out=bias and kind != "qwen2",
        bias_ffn=f.flag("mlp_bias", False) if kind == "llama" else False,
        tie_embeddings=f.flag("tie_word_embeddings", False),
        pad_id=f.token("pad_token_id"),
        bos_id=f.token("bos_token_id", default["bos"]),
        eos_ids=f.tokens("eos_token_id", default["eos"]),
        attention_dropout=f.number("attention_dropout", 0.0),
        head=head,
        pool="last",
        classifier_dropout=(0.1 if classifier is None else f.number("classifier_dropout")) if head == "token" else 0.0,
        **f.labels(head),
    )


def _read_windows(f: Foreign, kind: str, layers: int) -> tuple[int, ...]:
    if kind == "llama":
        return (0,) * layers
    window = f.whole("sliding_window", 0) if f.values.get("sliding_window", 0) is not None else 0
    f.used.add("sliding_window")
    if kind == "mistral":
        f.get("layer_types", None)  # not read by this family: every layer has the window
        return ((4096 if "sliding_window" not in f.values else window),) * layers
    used = f.flag("use_sliding_window", False)
    first = f.whole("max_window_layers", 28)
    types = f.get("layer_types", None)
    if types is None:
        types = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    known = {"sliding_attention", "full_attention"}
    if not isinstance(types, list) or len(types) != layers or not all(isinstance(t, str) and t in known for t in types):
        raise f.error(f"layer_types must hold {layers} names, each one of {', '.join(sorted(known))}")
    if not used:
        return (0,) * layers
    return tuple(window if t == "sliding_attention" else 0 for t in types)


def read_rope(f: Foreign, positions: int) -> tuple[float, RopeScaling | None]:
    """rope_theta and rope_scaling, or the newer rope_parameters that holds both."""
    values = f.get("rope_parameters", None)
    older = f.get("rope_scaling", None)
    if values is None:
        values = {"rope_theta": f.number("rope_theta", 10000.0), **(older if isinstance(older, dict) else {})}
        if older is not None and not isinstance(older, dict):
            raise f.error(f"rope_scaling is {older!r}, and must be an object or null")
    elif older is not None and older != values and isinstance(older, dict):
        raise f.error("rope_parameters and rope_scaling disagree; keep one of them")
    else:
        f.get("rope_theta", None)
    if not isinstance(values, dict):
        raise f.error(f"rope_parameters is {values!r}, and must be an object")
    rope = Foreign(dict(values), f"{f.source}: rope")
    theta = rope.number("rope_theta", f.values.get("rope_theta") or 10000.0)
    kind = rope.get("rope_type", None) or rope.get("type", None) or "default"
    rope.get("type", None)
    rope.only("partial_rotary_factor", 1.0, 1)
    trained = rope.whole(
        "original_max_position_embeddings", f.values.get("original_max_position_embeddings") or positions
    )
    f.used.add("original_max_position_embeddings")
    scaling = None if kind == "default" else _read_scaling(rope, kind, trained)
    rope.finish(allow_unknown=False)
    return theta, scaling


def _read_scaling(rope: Foreign, kind: Any, trained: int) -> RopeScaling:
    if kind in ("linear", "dynamic"):
        return RopeScaling(kind=kind, factor=rope.number("factor"))
    if kind == "llama3":
        low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
        return RopeScaling(
            kind=kind, factor=rope.number("factor"), original_positions=trained, low_frequency=low, high_frequency=high
        )
    if kind == "yarn":
        given = rope.get("attention_factor", None)
        return RopeScaling(
            kind=kind,
            factor=rope.number("factor"),
            original_positions=trained,
            beta_fast=rope.number("beta_fast", 32.0),
            beta_slow=rope.number("beta_slow", 1.0),
            attention_factor=None if given is None else rope.number("attention_factor"),
            mscale=rope.number("mscale", 0.0),
            mscale_all=rope.number("mscale_all_dim", 0.0),
            truncate=rope.flag("truncate", True),
        )
    raise rope.error(f"the type {kind!r} is not supported; supported are default, linear, dynamic, yarn, llama3")


def write_rope(c: TransformerConfig) -> dict[str, Any]:
    """rope_theta and rope_scaling, which every reader of these families knows."""
    s = c.rope_scaling
    if s is None:
        return {"rope_theta": c.rope_theta, "rope_scaling": None}
    values: dict[str, Any] = {"rope_type": s.kind, "factor": s.factor}
    if s.kind in ("yarn", "llama3"):
        values["original_max_position_embeddings"] = s.original_positions
    if s.kind == "llama3":
        values |= {"low_freq_factor": s.low_frequency, "high_freq_factor": s.high_frequency}
    if s.kind == "yarn":
        values |= {"beta_fast": s.beta_fast, "beta_slow": s.beta_slow, "truncate": s.truncate}
        if s.attention_factor is not None:
            values["attention_factor"] = s.attention_factor
        if s.mscale and s.mscale_all:
            values |= {"mscale": s.mscale, "mscale_all_dim": s.mscale_all}
    return {"rope_theta": c.rope_theta, "rope_scaling": values}


def _write(c: TransformerConfig, kind: str) -> dict[str, Any]:
    values: dict[str, Any] = {
        "vocab_size": c.vocab_size,
        "hidden_size": c.width,
        "intermediate_size": c.ffn_width,
        "num_hidden_layers": c.decoder_layers,
        "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads,
        "hidden_act": foreign_activation(c.activation),
        "max_position_embeddings": c.max_positions,
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tie_embeddings,
        "attention_dropout": c.attention_dropout,
        "pad_token_id": c.pad_id,
        "bos_token_id": c.bos_id,
        "eos_token_id": one_or_all(c.eos_ids),
        **write_rope(c),
    }
    if kind != "qwen2":
        values["head_dim"] = c.head_width
    if kind in ("llama", "qwen3"):
        values["attention_bias"] = c.bias_qkv
    if kind == "llama":
        values["mlp_bias"] = c.bias_ffn
    if kind == "mistral":
        values["sliding_window"] = c.windows[0] or None
    if kind.startswith("qwen"):
        values |= _write_windows(c)
    if c.head == "token":
        values["classifier_dropout"] = c.classifier_dropout
    return values | write_labels(c)


def _write_windows(c: TransformerConfig) -> dict[str, Any]:
    window = max(c.windows)
    first = next((i for i, w in enumerate(c.windows) if w), c.decoder_layers)
    types = ["sliding_attention" if w else "full_attention" for w in c.windows]
    return {
        "use_sliding_window": bool(window),
        "sliding_window": window or None,
        "max_window_layers": first,
        "layer_types": types,
    }


def rules(c: TransformerConfig) -> list[Rule]:
    """Their names ↔ ours."""
    table = [same("~embed_tokens.weight", "embedding.weight")]
    for i in range(c.decoder_layers):
        theirs, ours = f"~layers.{i}", f"decoder.layers.{i}"
        table += norm(f"{theirs}.input_layernorm", f"{ours}.attention_norm", bias=False)
        for part in ("query", "key", "value"):
            table += linear(f"{theirs}.self_attn.{part[0]}_proj", f"{ours}.attention.{part}", bias=c.bias_qkv)
        table += linear(f"{theirs}.self_attn.o_proj", f"{ours}.attention.out", bias=c.bias_out)
        if c.norm_query_key:
            table += norm(f"{theirs}.self_attn.q_norm", f"{ours}.attention.query_norm", bias=False)
            table += norm(f"{theirs}.self_attn.k_norm", f"{ours}.attention.key_norm", bias=False)
        table += norm(f"{theirs}.post_attention_layernorm", f"{ours}.ffn_norm", bias=False)
        for part in ("gate", "up", "down"):
            table += linear(f"{theirs}.mlp.{part}_proj", f"{ours}.ffn.{part}", bias=c.bias_ffn)
    table += norm("~norm", "decoder.norm", bias=False)
    if c.head == "causal" and not c.tie_embeddings:
        table.append(same("lm_head.weight", "head.weight"))
    if c.head == "sequence":
        table.append(same("score.weight", "head.out.weight"))
    if c.head == "token":
        table += linear("score", "head.out", bias=True)
    if c.head == "span":
        table += linear("qa_outputs", "head.out", bias=True)
    return table


def _family(model_type: str, name: str) -> Family:
    span_prefix = "model." if model_type == "mistral" else "transformer."
    return Family(
        model_type=model_type,
        heads={
            "none": f"{name}Model",
            "causal": f"{name}ForCausalLM",
            "sequence": f"{name}ForSequenceClassification",
            "token": f"{name}ForTokenClassification",
            "span": f"{name}ForQuestionAnswering",
        },
        prefixes={"none": "", "causal": "model.", "sequence": "model.", "token": "model.", "span": span_prefix},
        read_config=read_config,
        write_config=lambda c: _write(c, model_type),
        rules=rules,
        ignored=[(r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$", "frequencies, which are computed")],
    )


LLAMA = _family("llama", "Llama")
MISTRAL = _family("mistral", "Mistral")
QWEN2 = _family("qwen2", "Qwen2")
QWEN3 = _family("qwen3", "Qwen3")
