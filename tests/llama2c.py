"""llama2.c's files → a Llama folder. The format: 7 int32 of header, then float32 weights, rotary pairs interleaved."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2 as proto

from yanmo.files import write_json


def convert(weights: Path, tokenizer: Path, folder: Path) -> None:
    """Write config.json, model.safetensors and tokenizer.model."""
    folder.mkdir(parents=True, exist_ok=True)
    data = np.fromfile(weights, dtype=np.float32)
    dim, hidden, layers, heads, kv_heads, vocab, length = np.fromfile(weights, dtype=np.int32, count=7).tolist()
    head = dim // heads
    place = 7

    def take(*shape: int) -> torch.Tensor:
        nonlocal place
        part = torch.from_numpy(data[place : place + int(np.prod(shape))].copy()).view(shape)
        place += part.numel()
        return part

    def halves(matrix: torch.Tensor) -> torch.Tensor:
        """Rotary pairs (2i, 2i + 1) → (i, i + head / 2)."""
        return matrix.view(-1, head // 2, 2, dim).transpose(1, 2).reshape(-1, dim).contiguous()

    tensors = {"model.embed_tokens.weight": take(abs(vocab), dim)}
    parts = [
        ("input_layernorm", (dim,)),
        ("self_attn.q_proj", (heads * head, dim)),
        ("self_attn.k_proj", (kv_heads * head, dim)),
        ("self_attn.v_proj", (kv_heads * head, dim)),
        ("self_attn.o_proj", (dim, heads * head)),
        ("post_attention_layernorm", (dim,)),
        ("mlp.gate_proj", (hidden, dim)),
        ("mlp.down_proj", (dim, hidden)),
        ("mlp.up_proj", (hidden, dim)),
    ]
    for name, shape in parts:
        for i, layer in enumerate(take(layers, *shape)):
            turned = halves(layer) if name.endswith(("q_proj", "k_proj")) else layer.clone()
            tensors[f"model.layers.{i}.{name}.weight"] = turned
    tensors["model.norm.weight"] = take(dim)
    save_file(tensors, folder / "model.safetensors")
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": abs(vocab),
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": length,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": vocab > 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    write_json(folder / "config.json", config)
    _tokenizer(tokenizer, folder, abs(vocab))


def _tokenizer(source: Path, folder: Path, vocab: int) -> None:
    data, place = source.read_bytes(), 4
    model = proto.ModelProto()
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = vocab
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.remove_extra_whitespaces = False
    for i in range(vocab):
        score, size = struct.unpack_from("<fi", data, place)
        text = data[place + 8 : place + 8 + size].decode()
        place += 8 + size
        kinds = {0: ("<unk>", 2), 1: ("<s>", 3), 2: ("</s>", 3)}  # unknown, control, control
        piece, kind = kinds.get(i, (text.replace(" ", "▁"), 6 if i < 259 else 1))  # bytes, then ordinary pieces
        model.pieces.add(piece=piece, score=score, type=kind)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True})
