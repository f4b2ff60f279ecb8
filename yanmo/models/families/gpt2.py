"""GPT-2 (Radford et al. 2019): a decoder, learned positions, norm before each part; matrices stored transposed."""

from __future__ import annotations

from typing import Any

from yanmo.models.config import Head, TransformerConfig
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

HEADS = {
    "none": "GPT2Model",
    "causal": "GPT2LMHeadModel",
    "sequence": "GPT2ForSequenceClassification",
    "token": "GPT2ForTokenClassification",
    "span": "GPT2ForQuestionAnswering",
}


def read_config(f: Foreign, head: Head) -> TransformerConfig:
    """config.json → TransformerConfig."""
    f.only("add_cross_attention", False)
    for key in ("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"):
        f.get(key, None)  # of the double-heads model alone
    f.get("summary_first_dropout", None)
    f.get("reorder_and_upcast_attn", None)  # the order of the same product
    f.get("n_ctx", None)  # what n_positions says
    width = f.whole("n_embd", 768)
    scaled = f.flag("scale_attn_weights", True)
    classifier = f.get("classifier_dropout", None)
    return TransformerConfig(
        vocab_size=f.whole("vocab_size", 50257),
        width=width,
        n_heads=f.whole("n_head", 12),
        ffn_width=f.whole("n_inner", 4 * width),
        decoder_layers=f.whole("n_layer", 12),
        max_positions=f.whole("n_positions", 1024),
        norm_eps=f.number("layer_norm_epsilon", 1e-5),
        activation=f.activation("activation_function", "gelu_new"),
        attention_scale=None if scaled else 1.0,
        attention_scale_by_layer=f.flag("scale_attn_by_inverse_layer_idx", False),
        tie_embeddings=f.flag("tie_word_embeddings", True),
        pad_id=f.token("pad_token_id"),
        bos_id=f.token("bos_token_id", 50256),
        eos_ids=f.tokens("eos_token_id", 50256),
        dropout=f.number("resid_pdrop", 0.1),
        embedding_dropout=f.number("embd_pdrop", 0.1),
        attention_dropout=f.number("attn_pdrop", 0.1),
        head=head,
        pool="last",
        classifier_dropout=(0.1 if classifier is None else f.number("classifier_dropout")) if head == "token" else 0.0,
        **f.labels(head),
    )


def write_config(c: TransformerConfig) -> dict[str, Any]:
    """TransformerConfig → config.json."""
    return {
        "vocab_size": c.vocab_size,
        "n_positions": c.max_positions,
        "n_embd": c.width,
        "n_layer": c.decoder_layers,
        "n_head": c.n_heads,
        "n_inner": c.ffn_width,
        "activation_function": foreign_activation(c.activation),
        "resid_pdrop": c.dropout,
        "embd_pdrop": c.embedding_dropout,
        "attn_pdrop": c.attention_dropout,
        "layer_norm_epsilon": c.norm_eps,
        "scale_attn_weights": c.attention_scale is None,
        "scale_attn_by_inverse_layer_idx": c.attention_scale_by_layer,
        "tie_word_embeddings": c.tie_embeddings,
        "pad_token_id": c.pad_id,
        "bos_token_id": c.bos_id,
        "eos_token_id": one_or_all(c.eos_ids),
        **({"classifier_dropout": c.classifier_dropout} if c.head == "token" else {}),
        **write_labels(c),
    }


def rules(c: TransformerConfig) -> list[Rule]:
    """Their names ↔ ours."""
    table = [same("~wte.weight", "embedding.weight"), same("~wpe.weight", "decoder.positions.weight")]
    for i in range(c.decoder_layers):
        theirs, ours = f"~h.{i}", f"decoder.layers.{i}"
        qkv = [f"{ours}.attention.{part}" for part in ("query", "key", "value")]
        table += [
            *norm(f"{theirs}.ln_1", f"{ours}.attention_norm"),
            Rule(f"{theirs}.attn.c_attn.weight", tuple(f"{name}.weight" for name in qkv), transpose=True),
            Rule(f"{theirs}.attn.c_attn.bias", tuple(f"{name}.bias" for name in qkv)),
            *linear(f"{theirs}.attn.c_proj", f"{ours}.attention.out", bias=True, transpose=True),
            *norm(f"{theirs}.ln_2", f"{ours}.ffn_norm"),
            *linear(f"{theirs}.mlp.c_fc", f"{ours}.ffn.up", bias=True, transpose=True),
            *linear(f"{theirs}.mlp.c_proj", f"{ours}.ffn.down", bias=True, transpose=True),
        ]
    table += norm("~ln_f", "decoder.norm")
    if c.head == "causal" and not c.tie_embeddings:
        table.append(same("lm_head.weight", "head.weight"))
    if c.head == "sequence":
        table.append(same("score.weight", "head.out.weight"))
    if c.head == "token":
        table += linear("classifier", "head.out", bias=True)
    if c.head == "span":
        table += linear("qa_outputs", "head.out", bias=True)
    return table


FAMILY = Family(
    model_type="gpt2",
    heads=HEADS,
    prefixes={
        "none": "",
        "causal": "transformer.",
        "sequence": "transformer.",
        "token": "transformer.",
        "span": "transformer.",
    },
    read_config=read_config,
    write_config=write_config,
    rules=rules,
    ignored=[(r"\.attn\.(masked_)?bias$", "the causal mask, which is computed")],
)
