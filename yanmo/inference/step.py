"""One new token of each row through a packed decoder, as one call of the native library.

    B rows, W width, H heads, K key heads, D head width, F inner width, V vocabulary

    can_step      whether a network can be recorded
    Step          the layers of a network as a list of native steps, recorded once; a call runs them

A product of one row reads megabytes in a tenth of a millisecond; two hundred calls from Python between the products of
a small model cost as much as the products themselves. The buffers between the steps are float32, whatever the network
computes in elsewhere. The plain twin is `network.decode` and `network.logits`.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from yanmo.errors import Error, InputError
from yanmo.kernels import native
from yanmo.kernels.matrix import NUMBERS, Matrix
from yanmo.kernels.ops import ACTIVATIONS, TYPES
from yanmo.models import layers
from yanmo.models.cache import Cache
from yanmo.models.layers import Norm, rotation_at
from yanmo.models.packed import PackedEmbedding, PackedLinear, PackedWords, packed_matrices
from yanmo.models.transformer import DecoderLayer, Stack, Transformer

LINEAR, NORM, ADD, ACTIVATE, ROTATE, APPEND, ATTEND = range(7)  # Kind of step.cpp
NAMES = {function: name for name, function in layers.ACTIVATIONS.items()}


def can_step(network: object) -> bool:
    """Whether `Step` can record this network: a packed decoder alone, on a machine with the native library."""
    if not isinstance(network, Transformer) or not isinstance(network.embedding, PackedEmbedding):
        return False
    config = network.config
    fits = config.kind == "decoder" and config.head == "causal" and config.position != "relative"
    whole = isinstance(network.head.adapted, PackedWords) and not any(
        isinstance(m, nn.Linear) for m in network.modules()
    )
    laid = all(matrix.panels.ndim > 2 for matrix in packed_matrices(network).values())  # packed for the library
    return fits and whole and laid and native.library() is not None


class Step:
    """Call it with ids (B,) and their cache: it returns the logits (B, V), float32, in memory that it reuses.

    Any B up to `most_rows` in any call, in any cache of this network, each row with its own length; the rows of a cache
    are what `cache.select` made of them. Prompts go through `network.decode(ids, mask, cache=cache)` first.
    """

    def __init__(self, network: Transformer, most_rows: int = 16) -> None:
        if not can_step(network):
            raise InputError("only a packed decoder can be recorded, and only where the native kernels are; use decode")
        assert network.decoder is not None
        config = network.config
        self.network, self.most_rows = network, most_rows
        self._kept: list[Any] = []  # what the steps point to
        self._steps: list[native.Step] = []
        self._jobs: list[native.AttendJob] = []
        self._seen: list[int] = []  # where the cache lay when the steps were last pointed at it
        heads, kv_heads = config.n_heads * config.head_width, config.n_kv_heads * config.head_width
        self.hidden, self.normed = self._buffer(config.width), self._buffer(config.width)
        self.query, self.mixed = self._buffer(heads), self._buffer(heads)
        self.key, self.value = self._buffer(kv_heads), self._buffer(kv_heads)
        self.up, self.gate = self._buffer(config.ffn_width), self._buffer(config.ffn_width)
        self.cosine, self.sine = self._buffer(config.head_width), self._buffer(config.head_width)
        self.logits = self._buffer(config.output_size)
        self.columns = torch.zeros(most_rows, dtype=torch.long)
        for layer, window in zip(network.decoder.layers, config.windows, strict=True):
            assert isinstance(layer, DecoderLayer)
            self._layer(layer, window)
        self._end(network.decoder)
        self._list = (native.Step * len(self._steps))(*self._steps)
        # the array holds copies: those that follow the cache are the ones in it
        places = [i for i, step in enumerate(self._steps) if step.kind == APPEND]
        self._appends = [(self._list[k], self._list[v]) for k, v in zip(places[::2], places[1::2])]

    @torch.inference_mode()
    def __call__(self, ids: Tensor, cache: Cache) -> Tensor:
        """Feed one id per row; the cache grows by a column."""
        rows, network = len(ids), self.network
        assert rows <= self.most_rows and network.decoder is not None
        positions = cache.place(None, 1)
        self.columns[:rows] = positions[:, 0]
        embedded = network.decoder.embed(network.embedding(ids[:, None]), positions, None)
        self.hidden[:rows] = embedded[:, 0]
        if network.config.position == "rotary":
            cosine, sine = rotation_at(network.config, positions, torch.float32)
            self.cosine[:rows], self.sine[:rows] = cosine[:, 0, 0], sine[:, 0, 0]
        self._follow(cache)
        loaded = native.library()
        if loaded is None:
            raise InputError("the native kernels were switched off after the network was recorded; use decode")
        columns, threads = self.columns.data_ptr(), torch.get_num_threads()
        if loaded.yanmo_run(ctypes.addressof(self._list), len(self._list), rows, columns, threads):
            raise Error("the kernels got no memory for one step; close other programs, or take fewer rows")
        cache.advance()
        logits = self.logits[:rows]
        if self._words_bias is not None:
            torch.add(self._words_bias, logits, alpha=network.config.logit_scale, out=logits)
        elif network.config.logit_scale != 1:
            logits *= network.config.logit_scale
        return logits

    # --- recording

    def _buffer(self, width: int) -> Tensor:
        return torch.zeros(self.most_rows, width)

    def _layer(self, layer: DecoderLayer, window: int) -> None:
        attention, ffn = layer.attention, layer.ffn
        source = self.hidden
        if layer.pre_norm:
            source = self.normed
            self._norm(layer.attention_norm, self.hidden, source)
        for linear, out in ((attention.query, self.query), (attention.key, self.key), (attention.value, self.value)):
            self._linear(linear, source, out)
        for norm, part in ((attention.query_norm, self.query), (attention.key_norm, self.key)):
            if norm is not None:
                self._norm(norm, part, part, parts=part.shape[1] // attention.head_width)
        if self.network.config.position == "rotary":
            self._rotate(self.query)
            self._rotate(self.key)
        self._attend(attention.scale, window)
        self._linear(attention.out, self.mixed, self.normed)
        self._add(layer.attention_norm, layer.pre_norm)
        source = self.hidden
        if layer.pre_norm:
            source = self.normed
            self._norm(layer.ffn_norm, self.hidden, source)
        self._linear(ffn.up, source, self.up)
        if ffn.gate is not None:
            self._linear(ffn.gate, source, self.gate)
        self._activate(NAMES[ffn.activation], gated=ffn.gate is not None)
        self._linear(ffn.down, self.up, self.normed)
        self._add(layer.ffn_norm, layer.pre_norm)

    def _end(self, stack: Stack) -> None:
        last = self.hidden
        if stack.norm is not None:
            last = self.normed
            self._norm(stack.norm, self.hidden, last)
        words = self.network.head.adapted
        assert isinstance(words, PackedWords)
        config = self.network.config
        bias = self.network.head.bias.detach().float() if config.logit_bias else None
        scaled = config.logit_scale != 1  # the hidden is scaled, and the bias is not
        self._words_bias = bias if scaled else None
        self._product(words.matrix, None if scaled else bias, words.wide, last, self.logits)

    def _record(self, kind: int, x: Tensor, out: Tensor, *pointed: Tensor | None, **fields: Any) -> native.Step:
        what, more = (None if t is None else t.data_ptr() for t in (*pointed, None, None)[:2])
        step = native.Step(kind, what, more, x.data_ptr(), out.data_ptr(), x.stride(0), out.stride(0), x.shape[1], 1)
        for name, value in fields.items():
            setattr(step, name, value)
        self._kept += [x, out, *pointed]
        self._steps.append(step)
        return step

    def _linear(self, linear: nn.Module, x: Tensor, out: Tensor) -> None:
        assert isinstance(linear, PackedLinear)
        self._product(linear.matrix, linear.bias, linear.wide, x, out)

    def _product(self, matrix: Matrix, bias: Tensor | None, wide: bool, x: Tensor, out: Tensor) -> None:
        pointers = [t.data_ptr() for t in (*matrix.tensors, bias) if t is not None]
        given = native.Matrix(*pointers)
        given.outputs, given.inputs, given.format = matrix.outputs, matrix.inputs, NUMBERS[matrix.format]
        self._kept += [given, bias, matrix]
        self._record(LINEAR, x, out, what=ctypes.addressof(given), flag=int(wide))

    def _norm(self, norm: Norm, x: Tensor, out: Tensor, parts: int = 1) -> None:
        weight = norm.weight.detach().float().contiguous()
        bias = None if norm.bias is None else norm.bias.detach().float().contiguous()
        self._record(NORM, x, out, weight, bias, width=x.shape[1] // parts, parts=parts, eps=norm.eps)

    def _add(self, norm: Norm, pre_norm: bool) -> None:
        self._record(ADD, self.normed, self.hidden)
        if not pre_norm:
            self._norm(norm, self.hidden, self.hidden)

    def _rotate(self, x: Tensor) -> None:
        width = self.network.config.head_width
        self._record(ROTATE, x, x, self.cosine, self.sine, width=width, parts=x.shape[1] // width)

    def _activate(self, name: str, *, gated: bool) -> None:
        x, times = (self.gate, self.up) if gated else (self.up, None)
        self._record(ACTIVATE, x, self.up, None, times, flag=ACTIVATIONS[name])

    def _attend(self, scale: float, window: int) -> None:
        config, width = self.network.config, self.network.config.head_width
        kind = TYPES[self.network.dtype]
        for x in (self.key, self.value):
            self._record(APPEND, x, x, width=width, parts=config.n_kv_heads, flag=kind)
        job = native.AttendJob(query=self.query.data_ptr(), last=self.columns.data_ptr(), out=self.mixed.data_ptr())
        job.query_row = job.out_row = job.out_token = self.query.stride(0)
        job.query_head = job.out_head = width
        job.kv_heads, job.groups, job.tokens = config.n_kv_heads, config.n_heads // config.n_kv_heads, 1
        job.head_width, job.window, job.scale = width, window, scale
        job.type, job.cached = TYPES[torch.float32], kind
        self._kept.append(job)
        self._jobs.append(job)
        self._record(ATTEND, self.query, self.mixed, what=ctypes.addressof(job))

    def _follow(self, cache: Cache) -> None:
        """Point the steps at the cache where it has moved."""
        where = [t.data_ptr() for t in (*cache.keys, *cache.values)] + list(cache.keys[0].stride())
        if where == self._seen:
            return
        for keys, values, job, (append_key, append_value) in zip(cache.keys, cache.values, self._jobs, self._appends):
            for held, append in ((keys, append_key), (values, append_value)):
                append.out = held.data_ptr()
                append.row, append.part, append.out_stride, _ = held.stride()
            job.key, job.value = keys.data_ptr(), values.data_ptr()
            job.key_row, job.key_head, job.key_column, _ = keys.stride()
            job.value_row, job.value_head, job.value_column, _ = values.stride()
        self._seen = where
