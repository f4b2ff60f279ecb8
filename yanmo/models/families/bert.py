"""BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019), XLM-RoBERTa (Conneau et al. 2020): encoders, norm after a part.

RoBERTa is BERT with positions that start after the padding id, other names for its heads, and a sequence head that
keeps its dense layer in the head where BERT keeps it in the pooler.
"""

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


def _read(f: Foreign, head: Head, *, roberta: bool) -> TransformerConfig:
    f.only("is_decoder", False)
    f.only("add_cross_attention", False)
    f.only("position_embedding_type", "absolute")
    f.only("pruned_heads", {}, None)
    for key in ("directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"):
        f.get(key, None)  # of a pooler that the public Chinese BERT names and does not have
    for key in ("pooler_size_per_head", "pooler_type", "max_seq_length"):
        f.get(key, None)
    pad = f.token("pad_token_id", 1 if roberta else 0)
    offset = (pad or 0) + 1 if roberta else 0
    dropout = f.number("hidden_dropout_prob", 0.1)
    classifier = f.number("classifier_dropout", dropout) if head in ("sequence", "token") else 0.0
    return TransformerConfig(
        vocab_size=f.whole("vocab_size", 50265 if roberta else 30522),
        width=f.whole("hidden_size", 768),
        n_heads=f.whole("num_attention_heads", 12),
        ffn_width=f.whole("intermediate_size", 3072),
        encoder_layers=f.whole("num_hidden_layers", 12),
        max_positions=f.whole("max_position_embeddings", 512) - offset,
        position_offset=offset,
        norm_eps=f.number("layer_norm_eps", 1e-12),
        norm_order="post",
        norm_embedding=True,
        norm_final=False,
        activation=f.activation("hidden_act", "gelu"),
        logit_bias=True,
        tie_embeddings=f.flag("tie_word_embeddings", True),
        n_token_types=f.whole("type_vocab_size", 2),
        pad_id=pad,
        bos_id=f.token("bos_token_id", 0 if roberta else None),
        eos_ids=f.tokens("eos_token_id", 2 if roberta else None),
        dropout=dropout,
        embedding_dropout=dropout,
        attention_dropout=f.number("attention_probs_dropout_prob", 0.1),
        head=head,
        pooler=head in ("none", "sequence"),
        pooler_dropout=classifier if roberta and head == "sequence" else 0.0,
        classifier_dropout=classifier,
        **f.labels(head),
    )


def read_bert(f: Foreign, head: Head) -> TransformerConfig:
    """config.json → TransformerConfig."""
    return _read(f, head, roberta=False)


def read_roberta(f: Foreign, head: Head) -> TransformerConfig:
    """config.json → TransformerConfig."""
    return _read(f, head, roberta=True)


def write_config(c: TransformerConfig) -> dict[str, Any]:
    """TransformerConfig → config.json."""
    return {
        "vocab_size": c.vocab_size,
        "hidden_size": c.width,
        "num_hidden_layers": c.encoder_layers,
        "num_attention_heads": c.n_heads,
        "intermediate_size": c.ffn_width,
        "hidden_act": foreign_activation(c.activation),
        "hidden_dropout_prob": c.dropout,
        "attention_probs_dropout_prob": c.attention_dropout,
        "max_position_embeddings": c.max_positions + c.position_offset,
        "type_vocab_size": c.n_token_types,
        "layer_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tie_embeddings,
        "pad_token_id": c.pad_id,
        "bos_token_id": c.bos_id,
        "eos_token_id": one_or_all(c.eos_ids),
        "classifier_dropout": c.classifier_dropout if c.labels else None,
        **write_labels(c),
    }


def _encoder(c: TransformerConfig) -> list[Rule]:
    table = [
        same("~embeddings.word_embeddings.weight", "embedding.weight"),
        same("~embeddings.position_embeddings.weight", "encoder.positions.weight"),
        same("~embeddings.token_type_embeddings.weight", "encoder.token_types.weight"),
        *norm("~embeddings.LayerNorm", "encoder.embedding_norm"),
    ]
    for i in range(c.encoder_layers):
        theirs, ours = f"~encoder.layer.{i}", f"encoder.layers.{i}"
        for part in ("query", "key", "value"):
            table += linear(f"{theirs}.attention.self.{part}", f"{ours}.attention.{part}", bias=True)
        table += [
            *linear(f"{theirs}.attention.output.dense", f"{ours}.attention.out", bias=True),
            *norm(f"{theirs}.attention.output.LayerNorm", f"{ours}.attention_norm"),
            *linear(f"{theirs}.intermediate.dense", f"{ours}.ffn.up", bias=True),
            *linear(f"{theirs}.output.dense", f"{ours}.ffn.down", bias=True),
            *norm(f"{theirs}.output.LayerNorm", f"{ours}.ffn_norm"),
        ]
    return table


def _words(c: TransformerConfig, theirs: str) -> list[Rule]:
    """Bias and, where it is not the embedding, matrix of the words; untied, the bias in use is the decoder's."""
    if c.tie_embeddings:
        return [same(f"{theirs}.bias", "head.bias", f"{theirs}.decoder.bias")]
    bias = Rule(f"{theirs}.decoder.bias", ("head.bias",), others=(f"{theirs}.bias",), copies=(f"{theirs}.bias",))
    return [bias, same(f"{theirs}.decoder.weight", "head.weight")]


def bert_rules(c: TransformerConfig) -> list[Rule]:
    """Their names ↔ ours."""
    table = _encoder(c)
    if c.pooler:
        table += linear("~pooler.dense", "head.dense", bias=True)
    if c.head == "masked":
        table += linear("cls.predictions.transform.dense", "head.dense", bias=True)
        table += norm("cls.predictions.transform.LayerNorm", "head.norm")
        table += _words(c, "cls.predictions")
    if c.labels:
        table += linear("qa_outputs" if c.head == "span" else "classifier", "head.out", bias=True)
    return table


def roberta_rules(c: TransformerConfig) -> list[Rule]:
    """Their names ↔ ours."""
    table = _encoder(c)
    if c.pooler and c.head == "none":
        table += linear("~pooler.dense", "head.dense", bias=True)
    if c.head == "masked":
        table += linear("lm_head.dense", "head.dense", bias=True)
        table += norm("lm_head.layer_norm", "head.norm")
        table += _words(c, "lm_head")
    if c.head == "sequence":
        table += linear("classifier.dense", "head.dense", bias=True)
        table += linear("classifier.out_proj", "head.out", bias=True)
    if c.head == "token":
        table += linear("classifier", "head.out", bias=True)
    if c.head == "span":
        table += linear("qa_outputs", "head.out", bias=True)
    return table


def _family(model_type: str, name: str) -> Family:
    bert = model_type == "bert"
    prefix = "bert." if bert else "roberta."
    return Family(
        model_type=model_type,
        heads={
            "none": f"{name}Model",
            "masked": f"{name}ForMaskedLM",
            "sequence": f"{name}ForSequenceClassification",
            "token": f"{name}ForTokenClassification",
            "span": f"{name}ForQuestionAnswering",
        },
        aliases={f"{name}ForPreTraining": "masked"} if bert else {},
        prefixes={"none": "", "masked": prefix, "sequence": prefix, "token": prefix, "span": prefix},
        read_config=read_bert if bert else read_roberta,
        write_config=write_config,
        rules=bert_rules if bert else roberta_rules,
        default_head="masked",
        ignored=[
            (r"embeddings\.position_ids$", "the numbers from 0 on"),
            (r"^cls\.seq_relationship\.", "the next-sentence head of pretraining"),
            (r"pooler\.dense\.", "a pooler that the head does not use"),
        ],
        optional=[("pooler", False, "~pooler.dense.weight")],
        output="cls.predictions.decoder.weight" if bert else "lm_head.decoder.weight",
    )


BERT = _family("bert", "Bert")
ROBERTA = _family("roberta", "Roberta")
XLM_ROBERTA = _family("xlm-roberta", "XLMRoberta")
