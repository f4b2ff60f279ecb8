"""One new token of each row through a packed decoder, as one call of the native library.

    B rows, W width, H heads, K key heads, D head width, F inner width, V vocabulary

    can_step      whether a network can be recorded
    as_one        matrices that lie one after the other, as one product
    Step          the layers of a network as a list of native steps, recorded once; a call runs them

A product of one row reads megabytes in a tenth of a millisecond; two hundred calls from Python between the products of
a small model cost as much as the products themselves. The buffers between the steps are float32, whatever the network
computes in elsewhere. The plain twin is `network.decode` and `network.logits`.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from yanmo.errors import Error, InputError
from yanmo.kernels import native
from yanmo.kernels.matrix import LANES, NUMBERS, Matrix
from yanmo.kernels.ops import ACTIVATIONS, TYPES
from yanmo.models import layers
from yanmo.models.beams import BeamCache
from yanmo.models.cache import Cache
from yanmo.models.held import SCALE
from yanmo.models.layers import Norm, rotation_at, sinusoids
from yanmo.models.packed import PackedEmbedding, PackedLinear, PackedWords, packed_matrices
from yanmo.models.transformer import DecoderLayer, Stack, Transformer

LINEAR, NORM, ADD, ACTIVATE, ROTATE, APPEND, ATTEND, EMBED = range(8)  # Kind of step.cpp
NAMES = {function: name for name, function in layers.ACTIVATIONS.items()}


def can_step(network: object) -> bool:
    """Whether `Step` can record this network: a packed decoder alone, on a machine with the native library."""
    if not isinstance(network, Transformer) or not isinstance(network.embedding, PackedEmbedding):
        return False
    config = network.config
    fits = (
        config.kind == "decoder"
        and config.head == "causal"
        and config.position != "relative"
        and not config.n_token_types
    )
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
        self._seen: weakref.ref[Tensor] | None = None  # of the cache at which the steps point
        self.hidden, self.normed = self._buffers(config.width), self._buffers(config.width)
        heads, kv_heads = config.n_heads * config.head_width, config.n_kv_heads * config.head_width
        self.parts = self._buffers(heads + 2 * kv_heads)
        self.query, self.key, self.value = self.parts.split([heads, kv_heads, kv_heads], 1)
        self.mixed = self._buffers(heads)
        self.inner = self._buffers(config.ffn_width * (2 if config.gated else 1))
        self.logits = self._buffers(config.output_size)
        self.columns = torch.zeros(most_rows, dtype=torch.long)
        self._embed(network.decoder)
        for layer, window in zip(network.decoder.layers, config.windows, strict=True):
            assert isinstance(layer, DecoderLayer)
            self._layer(layer, window)
        self._end(network.decoder)
        self._list = (native.Step * len(self._steps))(*self._steps)
        # the array holds copies: those that follow the cache are the ones in it
        appends = [step for step in self._list if step.kind == APPEND]
        self._appends = list(zip(appends[::2], appends[1::2]))
        self._turned = 0  # positions whose angles are known
        self._turns = [step for step in self._list if step.kind == ROTATE]

    @torch.inference_mode()
    def __call__(self, ids: Tensor, cache: Cache | BeamCache) -> Tensor:
        """Feed one id per row; the cache grows by a column."""
        rows, config = len(ids), self.network.config
        if rows > self.most_rows or rows != cache.rows or ids.dtype != torch.long or not ids.is_contiguous():
            raise InputError(f"{rows} ids {ids.dtype}; a step takes {cache.rows} int64, at most {self.most_rows}")
        loaded = native.library()
        if loaded is None:
            raise InputError("the native kernels were switched off after the network was recorded; use decode")
        if config.position in ("learned", "sinusoidal") and cache.longest >= config.max_positions:
            length, most = cache.longest + 1, config.max_positions
            raise InputError(f"the text has {length:,} tokens, the model positions for {most:,}; shorten it")
        cache.make_room()
        self._follow(cache)
        self.columns[:rows] = cache.lengths
        threads = torch.get_num_threads()
        failed = loaded.yanmo_run(
            ctypes.addressof(self._list), len(self._list), rows, ids.data_ptr(), self.columns.data_ptr(), threads
        )
        if failed:
            raise (
                InputError(f"ids are from {int(ids.min())} to {int(ids.max())}, the model has {config.vocab_size:,}")
                if failed == 2
                else Error("the kernels got no memory for one step; close other programs, or take fewer rows")
            )
        cache.count_one()
        logits = self.logits[:rows]
        if self._words_bias is not None:
            torch.add(self._words_bias, logits, alpha=config.logit_scale, out=logits)
        elif config.logit_scale != 1:
            logits *= config.logit_scale
        return logits

    # --- recording

    def _buffers(self, width: int) -> Tensor:
        return torch.zeros(self.most_rows, width)

    def _embed(self, stack: Stack) -> None:
        config, table = self.network.config, self.network.embedding
        assert isinstance(table, PackedEmbedding)
        added, offset = None, 0
        if config.position == "learned":
            added, offset = stack.positions.weight.detach().float().contiguous(), config.position_offset
        elif config.position == "sinusoidal":
            offset = config.position_offset
            added = sinusoids(config.max_positions + offset, config.width, config.rope_theta)
        given = self._matrix(table.matrix, None)
        scale = config.embedding_scale
        self._record(EMBED, self.hidden, self.hidden, None, added, what=given, row=offset, eps=scale)
        if stack.embedding_norm is not None:
            self._norm(stack.embedding_norm, self.hidden, self.hidden)

    def _layer(self, layer: DecoderLayer, window: int) -> None:
        attention, ffn = layer.attention, layer.ffn
        source = self.hidden
        if layer.pre_norm:
            source = self.normed
            self._norm(layer.attention_norm, self.hidden, source)
        self._linears(source, self.parts, attention.query, attention.key, attention.value)
        for norm, part in ((attention.query_norm, self.query), (attention.key_norm, self.key)):
            if norm is not None:
                self._norm(norm, part, part, parts=part.shape[1] // attention.head_width)
        if self.network.config.position == "rotary":
            self._rotate(self.query)
            self._rotate(self.key)
        self._attend(attention.scale, window)
        self._linears(self.mixed, self.normed, attention.out)
        self._add(layer.attention_norm, layer.pre_norm)
        source = self.hidden
        if layer.pre_norm:
            source = self.normed
            self._norm(layer.ffn_norm, self.hidden, source)
        gate, up = self.inner[:, : -self.network.config.ffn_width], self.inner[:, -self.network.config.ffn_width :]
        self._linears(source, self.inner, *([] if ffn.gate is None else [ffn.gate]), ffn.up)
        self._activate(NAMES[ffn.activation], up if ffn.gate is None else gate, None if ffn.gate is None else up, up)
        self._linears(up, self.normed, ffn.down)
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

    def _linears(self, x: Tensor, out: Tensor, *layers: nn.Module) -> None:
        """Layers with the same input, their outputs side by side: as one product where their matrices lie so."""
        packed = [layer for layer in layers if isinstance(layer, PackedLinear)]
        assert len(packed) == len(layers)
        whole = as_one([layer.matrix for layer in packed])
        if whole is not None and len({layer.bias is None for layer in packed}) == 1:
            biases = [layer.bias for layer in packed if layer.bias is not None]
            self._product(whole, torch.cat(biases) if biases else None, packed[0].wide, x, out)
            return
        for layer, part in zip(packed, out.split([layer.matrix.outputs for layer in packed], 1)):
            self._product(layer.matrix, layer.bias, layer.wide, x, part)

    def _product(self, matrix: Matrix, bias: Tensor | None, wide: bool, x: Tensor, out: Tensor) -> None:
        self._record(LINEAR, x, out, what=self._matrix(matrix, bias), flag=int(wide))

    def _matrix(self, matrix: Matrix, bias: Tensor | None) -> int:
        """The address of a matrix as the library takes it."""
        given = native.Matrix(*(t.data_ptr() for t in (*matrix.tensors, bias) if t is not None))
        given.outputs, given.inputs, given.format = matrix.outputs, matrix.inputs, NUMBERS[matrix.format]
        self._kept += [given, bias, matrix]
        return ctypes.addressof(given)

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
        self._record(ROTATE, x, x, width=width, parts=x.shape[1] // width)  # _follow gives it the tables

    def _activate(self, name: str, x: Tensor, times: Tensor | None, out: Tensor) -> None:
        self._record(ACTIVATE, x, out, None, times, flag=ACTIVATIONS[name])

    def _attend(self, scale: float, window: int) -> None:
        config, width = self.network.config, self.network.config.head_width
        for x in (self.key, self.value):
            self._record(APPEND, x, x, width=width, parts=config.n_kv_heads)  # _follow says where and as what
        job = native.AttendJob(query=self.query.data_ptr(), last=self.columns.data_ptr(), out=self.mixed.data_ptr())
        job.query_row, job.out_row, job.out_token = self.query.stride(0), self.mixed.stride(0), self.mixed.stride(0)
        job.query_head = job.out_head = width
        job.kv_heads, job.groups, job.tokens = config.n_kv_heads, config.n_heads // config.n_kv_heads, 1
        job.head_width, job.window, job.scale = width, window, scale
        job.type = TYPES[torch.float32]
        self._kept.append(job)
        self._jobs.append(job)
        self._record(ATTEND, self.query, self.mixed, what=ctypes.addressof(job))

    def _follow(self, cache: Cache | BeamCache) -> None:
        """Point the steps at the cache where it has moved, and at the angles of its columns."""
        if isinstance(cache, BeamCache):
            self._follow_beams(cache)
            return
        if self._seen is not None and self._seen() is cache.keys[0]:
            return
        self._turn(cache.keys[0].shape[2])
        for keys, values, job, (append_key, append_value) in zip(cache.keys, cache.values, self._jobs, self._appends):
            for held, append in ((keys, append_key), (values, append_value)):
                append.out, append.flag = held.data_ptr(), TYPES[held.dtype]
                append.row, append.part, append.out_stride, _ = held.stride()
            job.key, job.value = keys.data_ptr(), values.data_ptr()
            job.key_row, job.key_head, job.key_column, _ = keys.stride()
            job.value_row, job.value_head, job.value_column, _ = values.stride()
            job.cached, job.key_scale, job.value_scale = TYPES[keys.dtype], None, None
            if keys.dtype == torch.int8:  # a row of bytes ends with its scale
                scale = keys.shape[3] - SCALE
                job.key_scale, job.value_scale = keys.data_ptr() + scale, values.data_ptr() + scale
                job.scale_row, job.scale_head, job.scale_column = (n // SCALE for n in keys.stride()[:3])
            job.places = None
        self._seen = weakref.ref(cache.keys[0])

    def _follow_beams(self, cache: BeamCache) -> None:
        """The same for rows that share columns, each of which has its place: the new tokens go to the next ones."""
        self._turn(cache.places.shape[1])
        self._seen = None
        for keys, values, job, appends in zip(cache.keys, cache.values, self._jobs, self._appends):
            _, head, column, _ = keys.stride()
            for held, append in zip((keys, values), appends):
                append.out = held.data_ptr() + cache.first * column * held.itemsize
                append.row, append.part, append.out_stride, append.flag = column, head, 0, TYPES[held.dtype]
            job.cached, job.key_scale, job.value_scale = TYPES[keys.dtype], None, None
            job.key, job.value, job.key_row, job.value_row = keys.data_ptr(), values.data_ptr(), 0, 0
            job.key_head, job.key_column, job.value_head, job.value_column = head, column, head, column
            job.places, job.place_row = cache.places.data_ptr(), cache.places.stride(0)

    def _turn(self, columns: int) -> None:
        """Make the angles of so many columns."""
        if self._turns and columns > self._turned:
            self._turned = columns + columns // 2
            positions = torch.arange(self._turned)[:, None]  # a row each, since some angles depend on a row's last one
            cosine, sine = rotation_at(self.network.config, positions, torch.float32)
            self._angles = cosine.contiguous(), sine.contiguous()
            for turn in self._turns:
                turn.what, turn.more = (table.data_ptr() for table in self._angles)


def as_one(matrices: Sequence[Matrix]) -> Matrix | None:
    """Matrices that lie one after the other (packed.hold_together), as one; None where they do not."""
    first = matrices[0]
    for one, other in pairwise(matrices):
        alike = (one.format, one.inputs) == (other.format, other.inputs) and one.outputs % LANES == 0
        pairs = [(a, b) for a, b in zip(one.tensors, other.tensors) if a.numel() or b.numel()]
        if not alike or any(a.data_ptr() + a.nbytes != b.data_ptr() for a, b in pairs):
            return None
    # tensors of the first one, of which the library takes the addresses alone; the caller keeps the others
    return Matrix(first.format, sum(m.outputs for m in matrices), first.inputs, *first.tensors)
