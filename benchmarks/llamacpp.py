"""llama.cpp as a peer: a transformers GPT-2 → a GGUF file, and its C interface without Python's sampling in between.

write_gpt2      network and quantisation → file, the matrices rounded by the gguf package as llama.cpp rounds them
Peer            one context on that file: feed ids, get logits
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from yanmo.errors import Error, need

NAMES = {  # transformers → gguf, of a layer
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def write_gpt2(network: Any, file: Path, kind: str) -> None:
    """kind: F32, BF16, Q8_0, Q4_0 …: of all matrices, the words' too; vectors and positions stay float32."""
    gguf = need("gguf", "test", "writing a GGUF file")
    config, quantisation = network.config, gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(str(file), "gpt2")
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    for name, tensor in _tensors(network).items():
        if tensor.ndim == 2 and "position" not in name:
            writer.add_tensor(name, gguf.quants.quantize(tensor, quantisation), raw_dtype=quantisation)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(network: Any) -> dict[str, np.ndarray]:
    state = {name: value.detach().float().numpy() for name, value in network.transformer.state_dict().items()}
    found = {"token_embd.weight": state["wte.weight"], "position_embd.weight": state["wpe.weight"]}
    for end in ("weight", "bias"):
        found[f"output_norm.{end}"] = state[f"ln_f.{end}"]
        for layer in range(network.config.n_layer):
            for theirs, ours in NAMES.items():
                value = state[f"h.{layer}.{theirs}.{end}"]
                turned = value.T if value.ndim == 2 else value  # GPT-2 keeps its matrices transposed
                found[f"blk.{layer}.{ours}.{end}"] = np.ascontiguousarray(turned)
    return found


class Peer:
    """One sequence of at most `length` tokens."""

    def __init__(self, file: Path, length: int, threads: int) -> None:
        self.api: Any = need("llama_cpp", "bench", "the benchmark against llama.cpp")
        self._quiet = self.api.llama_log_callback(lambda *_: None)
        self.api.llama_log_set(self._quiet, None)
        self.model = self.api.llama_model_load_from_file(str(file).encode(), self.api.llama_model_default_params())
        if not self.model:
            raise Error(f"{file}: llama.cpp cannot read it")
        settings = self.api.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = length
        settings.n_threads = settings.n_threads_batch = threads
        self.context = self.api.llama_init_from_model(self.model, settings)
        self.words = self.api.llama_vocab_n_tokens(self.api.llama_model_get_vocab(self.model))

    def feed(self, ids: list[int]) -> np.ndarray:
        """Read ids and return the logits after the last one."""
        array = (ctypes.c_int32 * len(ids))(*ids)
        if self.api.llama_decode(self.context, self.api.llama_batch_get_one(array, len(ids))):
            raise Error("llama.cpp could not decode")
        logits = self.api.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(logits, shape=(self.words,))

    def forget(self) -> None:
        """Empty the context."""
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def close(self) -> None:
        """Free what it holds."""
        self.api.llama_free(self.context)
        self.api.llama_model_free(self.model)
