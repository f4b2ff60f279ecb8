"""BART (Lewis et al. 2020) and Marian (Junczys-Dowmunt et al. 2018): encoder-decoders, norm after each part.

BART has learned positions (from row 2 of their table) and a norm on the embedding; Marian has sinusoids, no such norm,
and may have a vocabulary for each side. Both add a bias to the logits.
"""

from __future__ import annotations

import math
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


def read_config(f: Foreign, head: Head) -> TransformerConfig:
    """config.json → TransformerConfig."""
    bart = f.get("model_type") == "bart"
    f.only("is_decoder", False)
    f.only("normalize_before", False)
    f.only("add_final_layer_norm", False)
    f.only("normalize_embedding", bart)
    f.only("static_position_embeddings", not bart)
    f.only("add_bias_logits", False)  # final_logits_bias is read from the weights
    f.only("force_bos_token_to_be_generated", False, True)  # an option of generation
    f.only("extra_pos_embeddings", 2, 58101, 62518, 65001)  # a number that the first Marian files carry
    decoder = ("decoder_attention_heads", "decoder_ffn_dim", "decoder_vocab_size")
    for key in ("num_hidden_layers", "classif_dropout", "save_step", *decoder):
        f.get(key, None)
    heads, ffn = f.whole("encoder_attention_heads", 16), f.whole("encoder_ffn_dim", 4096)
    if f.values.get("decoder_attention_heads", heads) != heads or f.values.get("decoder_ffn_dim", ffn) != ffn:
        raise f.error("encoder and decoder differ in heads or feed-forward width, which no supported public model does")
    width, vocab = f.whole("d_model", 1024), f.whole("vocab_size", 50265 if bart else 58101)
    shared = True if bart else f.flag("share_encoder_decoder_embeddings", True)
    pad = f.token("pad_token_id", 1 if bart else 58100)
    dropout = f.number("dropout", 0.1)
    default_labels = 3 if bart else 2
    classifier = f.number("classifier_dropout", 0.0) if head == "sequence" else 0.0
    return TransformerConfig(
        vocab_size=vocab,
        width=width,
        n_heads=heads,
        ffn_width=ffn,
        encoder_layers=f.whole("encoder_layers", 12),
        decoder_layers=f.whole("decoder_layers", 12),
        decoder_vocab_size=0 if shared else f.whole("decoder_vocab_size", vocab),
        max_positions=f.whole("max_position_embeddings", 1024),
        position="learned" if bart else "sinusoidal",
        position_offset=2 if bart else 0,
        norm_order="post",
        norm_embedding=bart,
        norm_final=False,
        activation=f.activation("activation_function", "gelu"),
        embedding_scale=math.sqrt(width) if f.flag("scale_embedding", False) else 1.0,
        logit_bias=True,
        tie_embeddings=f.flag("tie_word_embeddings", True),
        pad_id=pad,
        bos_id=f.token("bos_token_id", 0 if bart else None),
        eos_ids=f.tokens("eos_token_id", 2 if bart else 0),
        decoder_start_id=f.token("decoder_start_token_id", 2 if bart else pad),
        dropout=dropout,
        embedding_dropout=dropout,
        attention_dropout=f.number("attention_dropout", 0.0),
        activation_dropout=f.number("activation_dropout", 0.0),
        head=head,
        pool="eos",
        pooler=head == "sequence",
        pooler_dropout=classifier,
        classifier_dropout=classifier,
        **f.labels(head, default_labels),
    )


def _write(c: TransformerConfig, *, bart: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "vocab_size": c.vocab_size,
        "d_model": c.width,
        "encoder_layers": c.encoder_layers,
        "decoder_layers": c.decoder_layers,
        "encoder_attention_heads": c.n_heads,
        "decoder_attention_heads": c.n_heads,
        "encoder_ffn_dim": c.ffn_width,
        "decoder_ffn_dim": c.ffn_width,
        "max_position_embeddings": c.max_positions,
        "activation_function": foreign_activation(c.activation),
        "scale_embedding": c.embedding_scale != 1,
        "tie_word_embeddings": c.tie_embeddings,
        "pad_token_id": c.pad_id,
        "bos_token_id": c.bos_id,
        "eos_token_id": one_or_all(c.eos_ids),
        "decoder_start_token_id": c.decoder_start_id,
        "is_encoder_decoder": True,
        "dropout": c.dropout,
        "attention_dropout": c.attention_dropout,
        "activation_dropout": c.activation_dropout,
        **write_labels(c),
    }
    if bart:
        return values | {"classifier_dropout": c.classifier_dropout}
    sides = {"share_encoder_decoder_embeddings": not c.decoder_vocab_size}
    return values | sides | {"decoder_vocab_size": c.output_size}


def _layer(theirs: str, ours: str, *, cross: bool) -> list[Rule]:
    parts = [("self_attn", "attention", "self_attn_layer_norm")]
    parts += [("encoder_attn", "cross", "encoder_attn_layer_norm")] if cross else []
    table: list[Rule] = []
    for name, own, layer_norm in parts:
        for a, b in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
            table += linear(f"{theirs}.{name}.{a}", f"{ours}.{own}.{b}", bias=True)
        table += norm(f"{theirs}.{layer_norm}", f"{ours}.{own}_norm")
    table += linear(f"{theirs}.fc1", f"{ours}.ffn.up", bias=True)
    table += linear(f"{theirs}.fc2", f"{ours}.ffn.down", bias=True)
    return table + norm(f"{theirs}.final_layer_norm", f"{ours}.ffn_norm")


def rules(c: TransformerConfig) -> list[Rule]:
    """Their names ↔ ours."""
    if c.decoder_vocab_size:
        table = [
            same("~encoder.embed_tokens.weight", "embedding.weight", "~shared.weight"),
            same("~decoder.embed_tokens.weight", "decoder_embedding.weight"),
        ]
    else:
        others = ("~encoder.embed_tokens.weight", "~decoder.embed_tokens.weight")
        copies = () if c.tie_embeddings else others  # untied words untie these names too, for their reader
        table = [Rule("~shared.weight", ("embedding.weight",), others=others, copies=copies)]
    for side, layers in (("encoder", c.encoder_layers), ("decoder", c.decoder_layers)):
        if c.position == "learned":
            table.append(same(f"~{side}.embed_positions.weight", f"{side}.positions.weight"))
        if c.norm_embedding:
            table += norm(f"~{side}.layernorm_embedding", f"{side}.embedding_norm")
        for i in range(layers):
            table += _layer(f"~{side}.layers.{i}", f"{side}.layers.{i}", cross=side == "decoder")
    if c.head == "causal":
        if c.logit_bias:
            table.append(same("final_logits_bias", "head.bias", lead=True))
        if not c.tie_embeddings:
            table.append(same("lm_head.weight", "head.weight"))
    if c.head == "sequence":
        table += linear("classification_head.dense", "head.dense", bias=True)
        table += linear("classification_head.out_proj", "head.out", bias=True)
    if c.head == "span":
        table += linear("qa_outputs", "head.out", bias=True)
    return table


BART = Family(
    model_type="bart",
    heads={
        "none": "BartModel",
        "causal": "BartForConditionalGeneration",
        "sequence": "BartForSequenceClassification",
        "span": "BartForQuestionAnswering",
    },
    prefixes={"none": "", "causal": "model.", "sequence": "model.", "span": "model."},
    read_config=read_config,
    write_config=lambda c: _write(c, bart=True),
    rules=rules,
    ignored=[(r"^(model\.)?(encoder|decoder)\.version$", "a number of the training library")],
)
MARIAN = Family(
    model_type="marian",
    heads={"none": "MarianModel", "causal": "MarianMTModel"},
    prefixes={"none": "", "causal": "model."},
    read_config=read_config,
    write_config=lambda c: _write(c, bart=False),
    rules=rules,
    ignored=[(r"embed_positions\.weight$", "sinusoids, which are computed")],
)
