"""A model that is ready to use: network, tokenizer, and what its folder says. This is what `yanmo.load` returns.

load     a hub id, a model folder, a run folder, a .gguf file → Model
Model    logits, hidden, attentions; encode; generate, stream, search, choices, engine; save
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from yanmo.errors import FileError, InputError
from yanmo.files import atomic_folder, read_json_object, read_text, write_atomic, write_json
from yanmo.gguf import is_gguf
from yanmo.hub import resolve
from yanmo.inference.contrastive import contrastive
from yanmo.inference.defaults import generation_values, read_ends, read_tokenizer
from yanmo.inference.drafting import with_draft
from yanmo.inference.generate import Ends, Options, Token, generate_ids, options_of
from yanmo.inference.text import Generation, TextRow, stops_of
from yanmo.models.adapterfiles import is_adapter
from yanmo.models.adapterloading import open_adapter
from yanmo.models.checkpoint import Network, load_network, packed_entry, save_network
from yanmo.models.config import Head, RecurrentConfig, TransformerConfig
from yanmo.models.held import hold
from yanmo.models.packed import count_parameters
from yanmo.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from yanmo.inference.choices import Choice
    from yanmo.inference.engine import Engine
    from yanmo.inference.quantize import Bits

Ids = Tensor | Sequence[int] | Sequence[Sequence[int]]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    path_or_id: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    head: Head | None = None,
    labels: Sequence[str] = (),
    bits: int | None = None,
    cache: str | None = None,
    allow_unknown: bool = False,
) -> Model:
    """Load a model folder, a run folder, an adapter folder, a .gguf file, or a hub id (downloaded once, then cached).

    An adapter folder (PEFT's format) brings the base that it names. Raises yanmo.Error with the file and the remedy.
    dtype: None keeps the stored one. device: None takes a GPU where there is one, a CPU for packed matrices. head: see
    checkpoint.load_network. bits: 8 or 4 packs the matrices (docs/quantize.md). cache: "int8", "bfloat16", "float32":
    how keys and values are kept while texts are written; None: as they are computed (docs/engine.md).
    """
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise InputError(f"dtype is {dtype!r}, and must be one of {', '.join(DTYPES)}")
        dtype = DTYPES[dtype]
    folder = resolve(str(path_or_id), revision=revision)
    if not folder.is_dir() and not is_gguf(folder):
        raise FileError(f"{folder}: one file, and no GGUF file, where a model folder is needed")
    if device is None:
        packed = bits is not None or packed_entry(folder) is not None
        device = "cuda" if torch.cuda.is_available() and not packed else "cpu"
    options: dict[str, Any] = {"dtype": dtype, "device": device, "head": head, "labels": tuple(labels)}
    tokenizer = read_tokenizer(folder)
    if is_adapter(folder):
        network, folder = open_adapter(folder, **options, allow_unknown=allow_unknown)
        tokenizer = tokenizer or read_tokenizer(folder)
    else:
        network = load_network(folder, **options, allow_unknown=allow_unknown)
    if tokenizer is not None and tokenizer.vocab_size > network.config.vocab_size:
        warnings.warn(
            f"{folder}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model {network.config.vocab_size:,}; "
            "a text that uses the rest is refused",
            stacklevel=2,
        )
    hold(network, cache)
    model = Model(network, tokenizer, read_ends(folder, network.config), folder)
    return model if bits is None else model.quantize(bits)


class Model:
    """A network with its tokenizer."""

    def __init__(
        self, network: Network, tokenizer: Tokenizer | None, ends: Ends | None = None, folder: Path | None = None
    ) -> None:
        self.network = network
        self._tokenizer = tokenizer
        self.ends = read_ends(None, network.config) if ends is None else ends
        self.folder = folder

    def __repr__(self) -> str:
        config, count = self.config, count_parameters(self.network)
        return f"Model({self.network.family or type(self.network).__name__}, {config.kind}, {count:,} parameters)"

    @property
    def config(self) -> TransformerConfig | RecurrentConfig:
        """The definition of the network."""
        return self.network.config

    @property
    def tokenizer_or_none(self) -> Tokenizer | None:
        """The tokenizer, where the folder has one."""
        return self._tokenizer

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; a folder without one is an error here, not when it is loaded."""
        if self._tokenizer is None:
            raise FileError(f"{self.folder}: no tokenizer there (tokenizer.json, vocab or .model); copy it there")
        return self._tokenizer

    def quantize(self, bits: Bits | int = 8, text: str = "", most_loss: float = 0.02) -> Model:
        """Pack the matrices in 8 or 4 bits, in place, for inference on a CPU, and return the model (docs/quantize.md).

        text, most_loss: quantize.pack_model has both. Raises InputError for what cannot be packed.
        """
        from yanmo.inference.quantize import pack_model

        pack_model(self, bits, text, most_loss)
        return self

    @torch.inference_mode()
    def logits(
        self, ids: Ids, mask: Ids | None = None, *, decoder_ids: Ids | None = None, token_types: Ids | None = None
    ) -> Tensor:
        """Return the scores (batch, position, vocabulary) in float32.

        ids: numbers (batch, position) or one list of them; mask: 0 for padding, k for the k-th document of the row.
        An encoder-decoder reads `ids` and scores what follows each of `decoder_ids`. token_types: 0 for the first text
        of a pair, 1 for the second (BERT).
        """
        return self.network.logits(self._hidden(ids, mask, decoder_ids, token_types)).float()

    @torch.inference_mode()
    def hidden(
        self, ids: Ids, mask: Ids | None = None, *, decoder_ids: Ids | None = None, token_types: Ids | None = None
    ) -> Tensor:
        """Return the last hidden vectors (batch, position, width) in float32; without decoder_ids, of the encoder."""
        return self._hidden(ids, mask, decoder_ids, token_types, encoder_alone=decoder_ids is None).float()

    @torch.inference_mode()
    def scores(
        self, ids: Ids, mask: Ids | None = None, *, decoder_ids: Ids | None = None, token_types: Ids | None = None
    ) -> Tensor:
        """Return the scores of a label head in float32: (batch, labels) or, of tokens, (batch, position, labels).

        An encoder-decoder whose head reads the decoder feeds it `ids` shifted right by its start token.
        """
        network, tensor = self.network, self._tensor(ids, "ids")
        marks = self._mask(mask, tensor)
        if self.config.kind == "encoder-decoder" and decoder_ids is None:
            decoder_ids = torch.roll(tensor, 1, 1)
            decoder_ids[:, 0] = self.config.decoder_start_id or 0  # type: ignore[union-attr]
        hidden = self._hidden(tensor, marks, decoder_ids, token_types)
        return network.scores(hidden, tensor, marks).float()

    @torch.inference_mode()
    def attentions(self, ids: Ids, mask: Ids | None = None) -> list[Tensor]:
        """Return the attention weights (batch, head, query, key) of each layer, by the reference formula."""
        tensor = self._tensor(ids, "ids")
        record: list[Tensor] = []
        if isinstance(self.network.config, RecurrentConfig):
            raise InputError("a recurrent model has no attention")
        run = self.network.encode if self.network.encoder is not None else self.network.decode
        run(tensor, self._mask(mask, tensor), record=record)
        return record

    def _hidden(
        self,
        ids: Ids,
        mask: Ids | None,
        decoder_ids: Ids | None,
        token_types: Ids | None = None,
        *,
        encoder_alone: bool = False,
    ) -> Tensor:
        tensor = self._tensor(ids, "ids")
        marks, kind = self._mask(mask, tensor), self.config.kind
        if kind == "decoder":
            if decoder_ids is not None:
                raise InputError("decoder_ids are for encoder-decoders; this model is a decoder alone")
            return self.network.decode(tensor, marks)
        if token_types is not None and not getattr(self.config, "n_token_types", 0):
            raise InputError("this model has no token types; leave token_types out")
        if kind == "encoder" or encoder_alone:
            if decoder_ids is not None:
                raise InputError("decoder_ids are for encoder-decoders; this model is an encoder alone")
            if token_types is None:
                return self.network.encode(tensor, marks)
            types = self._tensor(token_types, "token_types", self.config.n_token_types)
            return self.network.encode(tensor, marks, token_types=types)  # type: ignore[call-arg]
        if decoder_ids is None:
            raise InputError("an encoder-decoder needs decoder_ids: the tokens after which it is to score the next one")
        target = self._tensor(decoder_ids, "decoder_ids", self.config.output_size)
        memory = self.network.encode(tensor, marks)
        return self.network.decode(target, memory=memory, memory_mask=marks)

    def _tensor(self, ids: Ids, name: str, size: int = 0) -> Tensor:
        size = size or self.config.vocab_size
        try:
            tensor = torch.as_tensor(ids)
        except (ValueError, TypeError, RuntimeError, OverflowError):
            raise InputError(f"{name} must be numbers in rows of equal length; pad them and pass a mask") from None
        tensor = tensor[None] if tensor.ndim == 1 else tensor
        if tensor.ndim != 2 or tensor.numel() == 0 or tensor.is_floating_point() or tensor.is_complex():
            raise InputError(f"{name} must be whole numbers (batch, position), not {[*tensor.shape]} {tensor.dtype}")
        tensor = tensor.to(self.network.device, torch.long)
        low, high = int(tensor.min()), int(tensor.max())
        if low < 0 or high >= size:
            raise InputError(f"{name} holds {low if low < 0 else high}, and the model has the tokens 0 to {size - 1}")
        return tensor

    def _mask(self, mask: Ids | None, ids: Tensor) -> Tensor | None:
        if mask is None:
            return None
        tensor = torch.as_tensor(mask)
        tensor = (tensor[None] if tensor.ndim == 1 else tensor).to(ids)
        if tensor.shape != ids.shape or bool((tensor < 0).any()):
            raise InputError(f"mask is {list(tensor.shape)}, and must be {list(ids.shape)} like ids, numbers from 0 on")
        if bool(((tensor > 0) & (tensor < tensor.cummax(1).values)).any()):
            raise InputError("mask numbers the documents of a row in falling order; number them from left to right")
        return tensor

    def generate(self, prompt: str | Sequence[str], *, stop: str | Sequence[str] = (), **options: Any) -> Any:
        """Continue a prompt (or several at once, each as it would be alone) and return the new text.

        Options: max_new_tokens (256) or max_length (prompt included), temperature (0: greedy; above: samples), top_k,
        top_p, min_p, typical_p, repetition_penalty, presence_penalty, frequency_penalty, stop (strings that end the
        text and are left out), seed, n (texts per prompt), logprobs (k: return Generation objects with probabilities),
        draft (a smaller Model of the same vocabulary, whose guesses are checked), penalty_alpha (contrastive search),
        and one of json_schema, regex, choices, grammar (what the text must be: grammar.py).
        Returns a string for a string, a list for a list; lists of n where n is given.
        """
        several, prompts = not isinstance(prompt, str), [prompt] if isinstance(prompt, str) else list(prompt)
        rich = options.get("logprobs") is not None
        found = self.generations(prompts, stop=stop, **options)
        groups: list[Any] = [[g if rich else g.text for g in group] for group in found]
        groups = groups if "n" in options else [group[0] for group in groups]
        return groups if several else groups[0]

    def generations(
        self, prompts: Sequence[str], *, stop: str | Sequence[str] = (), **options: Any
    ) -> list[list[Generation]]:
        """The same as `generate`, with everything that is known of each text: n of them for each prompt."""
        alpha = options.pop("penalty_alpha", None)
        if alpha is not None:
            return contrastive(self, prompts, stop, alpha, options)
        draft = options.pop("draft", None)
        chosen = options_of(options)
        if not prompts:
            return []
        if draft is not None or chosen.grammar is not None:
            with with_draft(self, draft, prompts, stop, options) as handles:
                return [handle.generations() for handle in handles]
        rows = self._rows(prompts, chosen, stop)
        for _ in self._run(rows, chosen):
            pass
        texts = [row.generation() for row in rows]
        return [texts[i : i + chosen.n] for i in range(0, len(texts), chosen.n)]

    def stream(self, prompt: str, *, stop: str | Sequence[str] = (), **options: Any) -> Iterator[str]:
        """Continue one prompt piece by piece; no piece splits a character, and their sum is what `generate` returns."""
        alpha = options.pop("penalty_alpha", None)
        if alpha is not None:
            return (yield contrastive(self, [prompt], stop, alpha, options)[0][0].text)
        draft = options.pop("draft", None)
        chosen = options_of(options)
        if chosen.n != 1:
            raise InputError(f"n is {chosen.n}, and a stream has one text; use generate")
        if draft is not None or chosen.grammar is not None:
            with with_draft(self, draft, [prompt], stop, options) as handles:
                yield from handles[0]
            return
        rows = self._rows([prompt], chosen, stop)
        for _ in self._run(rows, chosen):
            piece = rows[0].take()
            if piece:
                yield piece
        rest = rows[0].take()
        if rest:
            yield rest

    def engine(self, *, draft_model: Model | None = None, **limits: int) -> Engine:
        """Many texts at once, from any thread (docs/engine.md). limits: see Limits; draft_model: guesses for it."""
        from yanmo.inference.engine import Engine
        from yanmo.inference.requests import limits_of

        return Engine(self, limits_of(limits), draft_model)

    def choices(self, prompt: str, choices: Sequence[str]) -> list[Choice]:
        """Score several continuations of one prompt (the targets of one source), in their order: see choices.py."""
        from yanmo.inference.choices import choices as score

        return score(self, prompt, choices)

    def encode(
        self, texts: Iterable[str], *, pool: str | None = None, normalize: bool | None = None, budget: int = 4096
    ) -> Tensor:
        """One vector of each text, (n, width) in float32, pooled as the folder says: see embeddings.py.

        pool: first, last or mean; normalize: length 1; budget: tokens that are computed together.
        """
        from yanmo.inference.embeddings import embed

        return embed(self, texts, pool=pool, normalize=normalize, budget=budget)

    def search(self, prompt: str | Sequence[str], **beams: Any) -> Any:
        """The n best texts by beam search, best first, as Ranked; for a list of prompts a list of such lists.

        beams (4), n (1), length_penalty (1.0), patience: see search.Beams. max_new_tokens, max_length: as `generate`.
        """
        from yanmo.inference.search import search

        several, prompts = not isinstance(prompt, str), [prompt] if isinstance(prompt, str) else list(prompt)
        found = search(self, prompts, beams)
        return found if several else found[0]

    def _rows(self, prompts: Sequence[Any], options: Options, stop: str | Sequence[str]) -> list[TextRow]:
        primed = self.config.kind == "decoder"
        stops = stops_of(stop)
        encoded = [self.prompt_ids(p) if isinstance(p, list) else self._encode(p) for p in prompts]
        return [TextRow(self.tokenizer, e, stops, primed=primed) for e in encoded for _ in range(options.n)]

    def _encode(self, prompt: str) -> list[int]:
        if not isinstance(prompt, str):
            raise InputError(f"a prompt is a string, not {type(prompt).__name__}")
        ids = self.tokenizer.encode(prompt)
        size = self.config.vocab_size
        if any(i >= size for i in ids):
            raise InputError(
                f"the tokenizer gives the token {max(ids)}, and the model has {size:,}; they do not belong together"
            )
        if not ids and self.config.kind == "decoder":  # nothing to begin with: the token that begins or ends texts
            first = self.tokenizer.bos_id if self.tokenizer.bos_id is not None else self.tokenizer.eos_id
            ids = [] if first is None else [first]
        return ids

    def prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        """The ids of a prompt that is text or ids already; InputError for what is not of this model."""
        if isinstance(prompt, str):
            return self._encode(prompt)
        ids = self._tensor(list(prompt), "prompt") if len(prompt) else torch.zeros((1, 0))
        if len(ids) != 1:
            raise InputError(f"prompt holds {len(ids)} rows of ids, and is to be one; submit each by itself")
        return [int(i) for i in ids[0]]

    def check_writes(self) -> None:
        """InputError for a model that does not write text."""
        if self.config.kind == "encoder" or self.config.head != "causal":
            raise InputError(f"a model with the head {self.config.head!r} ({self.config.kind}) does not write text")

    def _run(self, rows: list[TextRow], options: Options) -> Iterator[list[Token]]:
        """Drive the reference loop, feed the rows, and end those whose text holds a stop string."""
        self.check_writes()
        prompt_ids = [rows[i].prompt for i in range(0, len(rows), options.n)]
        with torch.inference_mode():
            steps = generate_ids(self.network, prompt_ids, options, self.ends)
            ended: list[int] | None = None
            while True:
                try:
                    tokens = next(steps) if ended is None else steps.send(ended)
                except StopIteration:
                    break
                for token in tokens:
                    rows[token.row].push(token, is_end=token.id in self.ends.eos_ids, rich=options.logprobs is not None)
                ended = [t.row for t in tokens if rows[t.row].finish]
                yield tokens
        for row in rows:
            row.close()

    def save(self, path: str | Path, *, card: str = "", family: str = "", files: dict[str, Any] | None = None) -> None:
        """Write a model folder that Yanmo and transformers open: complete, or not at all.

        card: README.md, else the model's own. family: another format than its own. files: JSON objects beside, by name.
        """
        generation: dict[str, Any] = {}
        if self.folder is not None:  # a copy keeps what came with the model: sampling advice, licence, provenance
            known = self.folder / "generation_config.json"
            generation = read_json_object(known) if known.is_file() else {}
            if not card and (self.folder / "README.md").is_file():
                card = read_text(self.folder / "README.md")
        with atomic_folder(path) as folder:
            save_network(self.network, folder, family=family)
            if self._tokenizer is not None:
                self._tokenizer.save(folder)
            write_json(folder / "generation_config.json", generation | generation_values(self.ends, self.config))
            for name, value in (files or {}).items():
                write_json(folder / name, value)
            if card:
                write_atomic(folder / "README.md", card)
