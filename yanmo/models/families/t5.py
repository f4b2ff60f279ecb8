"""T5 1.0 and 1.1 (Raffel et al. 2020; Shazeer 2020), mT5 (Xue et al. 2021): encoder-decoders with relative positions.

No biases, no scale on QKᵀ, RMS norms before each part; one table of distances per side, kept in its first layer.
1.0: relu, words tied to the embedding and scaled by 1/√width. 1.1 and mT5: gated gelu, words of their own, not scaled.
"""

from __future__ import annotations

from typing import Any

from yanmo.models.config import Head, TransformerConfig
from yanmo.models.families.table import Family, Foreign, Rule, linear, norm, one_or_all, same, write_labels

_GATED = {"gated-gelu": "gelu_tanh", "gated-silu": "silu", "gated-relu": "relu"}
_PLAIN = {"relu": "relu", "gelu": "gelu", "silu": "silu"}


def read_config(f: Foreign, head: Head) -> TransformerConfig:
    """config.json → TransformerConfig."""
    f.only("is_decoder", False)
    for key in ("dense_act_fn", "is_gated_act", "n_positions", "output_past"):
        f.get(key, None)  # what feed_forward_proj says; a length that relative positions do not have
    small = f.get("model_type") == "mt5"
    width, layers = f.whole("d_model", 512), f.whole("num_layers", 8 if small else 6)
    encoder_alone = head == "token" or f.values.get("architectures") in (["T5EncoderModel"], ["MT5EncoderModel"])
    form = f.get("feed_forward_proj", "gated-gelu" if small else "relu")
    if form not in _GATED and form not in _PLAIN:
        raise f.error(f"feed_forward_proj is {form!r}, and must be one of {', '.join([*_PLAIN, *_GATED])}")
    tied_by_name = f.flag("tie_word_embeddings", True)
    scaled = f.flag("scale_decoder_outputs", tied_by_name) and not small
    decoder_layers = f.whole("num_decoder_layers", layers)
    dropout = f.number("dropout_rate", 0.1)
    classifier = f.number("classifier_dropout", 0.0) if head in ("sequence", "token") else 0.0
    return TransformerConfig(
        vocab_size=f.whole("vocab_size", 250112 if small else 32128),
        width=width,
        n_heads=f.whole("num_heads", 6 if small else 8),
        head_width=f.whole("d_kv", 64),
        ffn_width=f.whole("d_ff", 1024 if small else 2048),
        encoder_layers=layers,
        decoder_layers=0 if encoder_alone else decoder_layers,
        max_positions=2**20,  # relative distances have no last position
        position="relative",
        relative_buckets=f.whole("relative_attention_num_buckets", 32),
        relative_max_distance=f.whole("relative_attention_max_distance", 128),
        norm="rms",
        norm_eps=f.number("layer_norm_epsilon", 1e-6),
        activation=(_GATED | _PLAIN)[form],  # type: ignore[arg-type]
        gated=form in _GATED,
        bias_qkv=False,
        bias_out=False,
        bias_ffn=False,
        attention_scale=1.0,
        logit_scale=width**-0.5 if scaled else 1.0,
        tie_embeddings=tied_by_name,
        pad_id=f.token("pad_token_id", 0),
        bos_id=f.token("bos_token_id"),
        eos_ids=f.tokens("eos_token_id", 1),
        decoder_start_id=f.token("decoder_start_token_id", f.token("pad_token_id", 0)),
        dropout=dropout,
        embedding_dropout=dropout,
        attention_dropout=dropout,
        activation_dropout=dropout,
        head=head,
        pool="eos",
        pooler=head == "sequence",
        pooler_dropout=classifier if head == "sequence" else 0.0,
        classifier_dropout=classifier,
        **f.labels(head),
    )


def write_config(c: TransformerConfig) -> dict[str, Any]:
    """TransformerConfig → config.json."""
    forms = {v: k for k, v in (_GATED if c.gated else _PLAIN).items()}
    return {
        "vocab_size": c.vocab_size,
        "d_model": c.width,
        "d_kv": c.head_width,
        "d_ff": c.ffn_width,
        "num_layers": c.encoder_layers,
        "num_decoder_layers": c.decoder_layers or c.encoder_layers,
        "num_heads": c.n_heads,
        "relative_attention_num_buckets": c.relative_buckets,
        "relative_attention_max_distance": c.relative_max_distance,
        "dropout_rate": c.dropout,
        "layer_norm_epsilon": c.norm_eps,
        "feed_forward_proj": forms[c.activation],
        "is_encoder_decoder": c.decoder_layers > 0,
        "tie_word_embeddings": c.tie_embeddings,
        "scale_decoder_outputs": c.logit_scale != 1,
        "pad_token_id": c.pad_id,
        "bos_token_id": c.bos_id,
        "eos_token_id": one_or_all(c.eos_ids),
        "decoder_start_token_id": c.decoder_start_id,
        "classifier_dropout": c.classifier_dropout,
        **write_labels(c),
    }


def _attention(theirs: str, ours: str) -> list[Rule]:
    names = {"q": "query", "k": "key", "v": "value", "o": "out"}
    return [same(f"{theirs}.{a}.weight", f"{ours}.{b}.weight") for a, b in names.items()]


def _ffn(c: TransformerConfig, theirs: str, ours: str) -> list[Rule]:
    names = {"wi_0": "gate", "wi_1": "up", "wo": "down"} if c.gated else {"wi": "up", "wo": "down"}
    return [same(f"{theirs}.{a}.weight", f"{ours}.{b}.weight") for a, b in names.items()]


def rules(c: TransformerConfig) -> list[Rule]:
    """Their names ↔ ours."""
    table = [same("~shared.weight", "embedding.weight", "~encoder.embed_tokens.weight", "~decoder.embed_tokens.weight")]
    for side, layers in (("encoder", c.encoder_layers), ("decoder", c.decoder_layers)):
        if not layers:
            continue
        first = f"~{side}.block.0.layer.0.SelfAttention"
        table.append(same(f"{first}.relative_attention_bias.weight", f"{side}.distances.weight"))
        for i in range(layers):
            theirs, ours = f"~{side}.block.{i}.layer", f"{side}.layers.{i}"
            ffn = 2 if side == "decoder" else 1
            table += _attention(f"{theirs}.0.SelfAttention", f"{ours}.attention")
            table += norm(f"{theirs}.0.layer_norm", f"{ours}.attention_norm", bias=False)
            if side == "decoder":
                table += _attention(f"{theirs}.1.EncDecAttention", f"{ours}.cross")
                table += norm(f"{theirs}.1.layer_norm", f"{ours}.cross_norm", bias=False)
            table += _ffn(c, f"{theirs}.{ffn}.DenseReluDense", f"{ours}.ffn")
            table += norm(f"{theirs}.{ffn}.layer_norm", f"{ours}.ffn_norm", bias=False)
        table += norm(f"~{side}.final_layer_norm", f"{side}.norm", bias=False)
    if c.head == "causal" and not c.tie_embeddings:
        table.append(same("lm_head.weight", "head.weight"))
    if c.head == "sequence":
        table += linear("classification_head.dense", "head.dense", bias=True)
        table += linear("classification_head.out_proj", "head.out", bias=True)
    if c.head == "token":
        table += linear("classifier", "head.out", bias=True)
    if c.head == "span":
        table += linear("qa_outputs", "head.out", bias=True)
    return table


def _family(model_type: str, name: str) -> Family:
    return Family(
        model_type=model_type,
        heads={
            "none": f"{name}Model",
            "causal": f"{name}ForConditionalGeneration",
            "sequence": f"{name}ForSequenceClassification",
            "token": f"{name}ForTokenClassification",
            "span": f"{name}ForQuestionAnswering",
        },
        aliases={f"{name}EncoderModel": "none", f"{name}WithLMHeadModel": "causal"},
        prefixes={"none": "", "causal": "", "sequence": "transformer.", "token": "transformer.", "span": ""},
        read_config=read_config,
        write_config=write_config,
        rules=rules,
        ignored=[
            (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$", "a table nobody reads")
        ],
    )


T5 = _family("t5", "T5")
MT5 = _family("mt5", "MT5")
