"""Tiny random models of every family, built by transformers, with shapes that catch mistakes.

No size is a multiple of 8, heads are grouped, head widths differ from width / heads where the family allows it, and
weights are large enough that a missing scale, bias or norm moves the logits by far more than the tolerance.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import transformers as hf

SMALL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"vocab_size": 61, "n_positions": 40, "n_embd": 36, "n_layer": 3, "n_head": 4, **SMALL}
BERT = {
    "vocab_size": 61,
    "hidden_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 50,
    "max_position_embeddings": 40,
    **SMALL,
}
ROBERTA = BERT | {"pad_token_id": 1, "bos_token_id": 0, "type_vocab_size": 1, "max_position_embeddings": 42}
LLAMA = {
    "vocab_size": 61,
    "hidden_size": 36,
    "intermediate_size": 50,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 64,
    **SMALL,
}
QWEN2 = {k: v for k, v in LLAMA.items() if k != "head_dim"}
T5 = {
    "vocab_size": 61,
    "d_model": 36,
    "d_kv": 10,
    "d_ff": 50,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 11,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
BART = {
    "vocab_size": 61,
    "d_model": 36,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 50,
    "decoder_ffn_dim": 50,
    "max_position_embeddings": 40,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
    **SMALL,
}
MARIAN = BART | {"decoder_start_token_id": 0, "activation_function": "swish", "scale_embedding": True}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 20,
}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16}

# name → (class, settings of its config)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2-untied": ("GPT2LMHeadModel", GPT2 | {"tie_word_embeddings": False, "n_inner": 50}),
    "gpt2-scales": ("GPT2LMHeadModel", GPT2 | {"scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"}),
    "gpt2-unscaled": ("GPT2LMHeadModel", GPT2 | {"scale_attn_weights": False}),
    "llama": ("LlamaForCausalLM", LLAMA),
    "llama-tied": ("LlamaForCausalLM", LLAMA | {"tie_word_embeddings": True}),
    "llama-biases": ("LlamaForCausalLM", LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "llama-llama3": ("LlamaForCausalLM", LLAMA | {"rope_parameters": LLAMA3}),
    "llama-linear": (
        "LlamaForCausalLM",
        LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 10000.0}},
    ),
    "llama-dynamic": (
        "LlamaForCausalLM",
        LLAMA
        | {
            "max_position_embeddings": 8,
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        },
    ),
    "llama-yarn": ("LlamaForCausalLM", LLAMA | {"rope_parameters": YARN}),
    "llama-yarn-mscale": (
        "LlamaForCausalLM",
        LLAMA
        | {"rope_parameters": YARN | {"mscale": 1.5, "mscale_all_dim": 0.8, "beta_fast": 16.0, "truncate": False}},
    ),
    "mistral": ("MistralForCausalLM", LLAMA | {"sliding_window": 5}),
    "mistral-no-window": ("MistralForCausalLM", LLAMA | {"sliding_window": None}),
    "qwen2": ("Qwen2ForCausalLM", QWEN2),
    "qwen2-windows": (
        "Qwen2ForCausalLM",
        QWEN2 | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "tie_word_embeddings": True},
    ),
    "qwen3": ("Qwen3ForCausalLM", LLAMA),
    "qwen3-windows": (
        "Qwen3ForCausalLM",
        LLAMA
        | {
            "use_sliding_window": True,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "bert": ("BertForMaskedLM", BERT),
    "bert-untied": ("BertForMaskedLM", BERT | {"tie_word_embeddings": False, "hidden_act": "relu"}),
    "roberta": ("RobertaForMaskedLM", ROBERTA),
    "xlm-roberta": ("XLMRobertaForMaskedLM", ROBERTA),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5-1.1": (
        "T5ForConditionalGeneration",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "mt5": ("MT5ForConditionalGeneration", T5 | {"feed_forward_proj": "gated-gelu"}),
    "marian": ("MarianMTModel", MARIAN),
    "marian-two-vocabularies": (
        "MarianMTModel",
        MARIAN | {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 53, "tie_word_embeddings": False},
    ),
    "bart": ("BartForConditionalGeneration", BART),
    "mbart": ("MBartForConditionalGeneration", BART | {"scale_embedding": True}),
    "m2m": ("M2M100ForConditionalGeneration", BART | {"max_position_embeddings": 41, "tie_word_embeddings": True}),
    "bart-scaled": ("BartForConditionalGeneration", BART | {"scale_embedding": True, "activation_function": "relu"}),
}

DECODERS = [name for name, (cls, _) in VARIANTS.items() if cls.endswith(("LMHeadModel", "ForCausalLM"))]
ENCODERS = [name for name, (cls, _) in VARIANTS.items() if cls.endswith("ForMaskedLM")]
PAIRS = [name for name in VARIANTS if name not in DECODERS + ENCODERS]

HEADS = [
    (prefix + suffix, settings)
    for prefix, settings in [
        ("GPT2", GPT2),
        ("Llama", LLAMA),
        ("Mistral", LLAMA),
        ("Qwen2", QWEN2),
        ("Qwen3", LLAMA),
        ("Bert", BERT),
        ("Roberta", ROBERTA),
        ("XLMRoberta", ROBERTA),
        ("T5", T5),
        ("MT5", T5),
        ("Bart", BART),
    ]
    for suffix in ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
    if prefix + suffix != "BartForTokenClassification"
]


def make(cls: str, settings: dict[str, Any], folder: Path, *, seed: int = 0) -> Any:
    """Build, save and return a random transformers model in evaluation mode."""
    torch.manual_seed(seed)
    model_class = getattr(hf, cls)
    model = model_class(model_class.config_class(**settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.3 if parameter.ndim > 1 else 0.2
            centre = (
                1.0 if "norm" in name.lower() and name.endswith("weight") or "ln_" in name and "weight" in name else 0.0
            )
            if "embed_positions" in name and "Marian" in cls:
                continue  # sinusoids, which are computed
            parameter.copy_(centre + spread * torch.randn_like(parameter))
        bias = getattr(model, "final_logits_bias", None)
        if bias is not None:
            bias.copy_(0.5 * torch.randn_like(bias))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return model


def reopen(cls: str, folder: Path) -> Any:
    """Open a folder with transformers; anything missing or unexpected is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, info = getattr(hf, cls).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.eval()


def random_ids(rows: int, columns: int, *, low: int = 3, high: int = 53, seed: int = 1) -> torch.Tensor:
    """Ids without special tokens."""
    return torch.randint(low, high, (rows, columns), generator=torch.Generator().manual_seed(seed))
