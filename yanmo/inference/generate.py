"""The plain reference of generation: one step after the other, nothing hidden.

    B rows, T columns, V vocabulary

In: prompts as ids. Out: a generator of steps, each with the new id of every row that is still writing.

    Options, Ends     what the caller wants; what the model's folder says
    generate_ids      prompts → steps: prefill, then one token per row and step
    scored, tokens_of what stands between logits and tokens; the engine uses the same two
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from yanmo.errors import InputError, nearest
from yanmo.inference.grammar import WORDS, Grammar, Guide, grammar_of
from yanmo.inference.sampling import Sampling, choose, generators_for, penalise
from yanmo.inference.step import Step, can_step
from yanmo.models.protocol import LanguageModel

DEFAULT_NEW_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the caller wants. max_length counts the prompt, as in transformers; max_new_tokens does not."""

    max_new_tokens: int | None = None
    max_length: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    n: int = 1  # texts per prompt
    logprobs: int | None = None  # None: none; k: of the chosen token and the k likeliest
    grammar: Grammar | None = None  # what the text must be

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None and self.max_length is not None:
            raise InputError("max_new_tokens and max_length both limit the text; give one of them")
        for name, low in (("max_new_tokens", 0), ("max_length", 1), ("n", 1), ("logprobs", 0)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
                raise InputError(f"{name} is {value!r}, and must be a whole number, at least {low}")

    def new_tokens(self, prompt: int) -> int:
        """How many tokens may follow a prompt of this length."""
        if self.max_length is not None:
            if prompt >= self.max_length:
                raise InputError(
                    f"the prompt has {prompt} tokens and max_length, which counts them, is {self.max_length}; raise it"
                )
            return self.max_length - prompt
        return DEFAULT_NEW_TOKENS if self.max_new_tokens is None else self.max_new_tokens


def options_of(given: dict[str, Any]) -> Options:
    """Checked Options from keywords, those of Sampling among them; an unknown one is an InputError."""
    sampling = Sampling.__dataclass_fields__
    own = [k for k in Options.__dataclass_fields__ if k not in ("sampling", "grammar")]
    for name in given:
        if name not in sampling and name not in own and name not in WORDS:
            raise InputError(f"generate has no option {name!r}{nearest(name, [*sampling, *own, *WORDS, 'stop'])}")
    chosen = {k: v for k, v in given.items() if v is not None}
    settings, grammar = Sampling(**{k: v for k, v in chosen.items() if k in sampling}), grammar_of(given)
    return Options(sampling=settings, grammar=grammar, **{k: v for k, v in chosen.items() if k in own})


@dataclass(frozen=True, kw_only=True)
class Ends:
    """What the model's folder says about where texts start and end."""

    eos_ids: frozenset[int] = frozenset()
    start_id: int | None = None  # of the decoder of an encoder-decoder
    never_ids: tuple[int, ...] = ()
    forced_first_id: int | None = None
    forced_last_id: int | None = None


@dataclass
class Token:
    """One new token of one row. `top`: the likeliest ids with their natural logarithms, under the model alone."""

    row: int
    id: int
    logprob: float = 0.0
    top: list[tuple[int, float]] = field(default_factory=list)
    finish: str = ""  # "stop" with an end token, "length" with the last one that was allowed


def generate_ids(
    network: LanguageModel,
    prompts: Sequence[Sequence[int]],
    options: Options,
    ends: Ends,
    guides: Sequence[Guide] = (),
) -> Generator[list[Token], list[int] | None, None]:
    """Yield for each step the new tokens of the rows still writing; row = prompt · n + sample.

    Send a list of rows into the generator to end them early (a stop string that the caller saw). guides: of each row,
    where options.grammar says what the texts must be.
    """
    rows = [list(p) for p in prompts for _ in range(options.n)]
    generators = generators_for(options.seed, len(prompts), options.n)
    texts: list[list[int]] = [[] for _ in rows]
    state = Start(network, rows, options, ends)
    active = [row for row in range(len(rows)) if state.limits[row] > 0]
    logits = state.logits.float()
    if len(active) < len(rows):
        logits = logits[torch.tensor(active, dtype=torch.long, device=logits.device)]
        state.keep(active)
    while active:
        written = [texts[row] for row in active]
        before = [counted(network, rows[row], ends) for row in active]
        limits, led = [state.limits[row] for row in active], [guides[row] for row in active] if guides else ()
        scores = scored(logits, before, written, limits, options.sampling, ends, led)
        ids = choose(scores, options.sampling, [generators[row] for row in active]).tolist()
        tokens = tokens_of(active, ids, logits, options.logprobs)
        for token in tokens:
            text = texts[token.row]
            text.append(token.id)
            token.finish = finish_of(text, state.limits[token.row], ends, guides[token.row] if guides else None)
        ended = yield tokens
        done = {t.row for t in tokens if t.finish} | set(ended or ())
        kept = [place for place, row in enumerate(active) if row not in done]
        if not kept:
            return
        if len(kept) < len(active):
            active, ids = [active[k] for k in kept], [ids[k] for k in kept]
            state.keep(kept)
        logits = state.step(ids).float()


class Start:
    """The memory and cache after the prompts; `step` feeds one token per row, and returns the next logits (B, V).

    watch: of an encoder-decoder, keep what the last token of each row attends to its source: `attended` (B, S), the
    mean of heads and layers, by the reference formula. room: columns beside the prompts' (None: all that may follow).
    """

    def __init__(
        self,
        network: LanguageModel,
        prompts: list[list[int]],
        options: Options,
        ends: Ends,
        *,
        watch: bool = False,
        room: int | None = None,
    ) -> None:
        self.network = network
        self._recorded: Step | None = None
        self.watch, self.attended = watch, None if not watch else torch.empty(0)
        self.device = next(network.parameters()).device  # type: ignore[attr-defined]
        self.memory = self.memory_mask = None
        ids, mask = pad(prompts, self.device)
        lengths = [len(p) for p in prompts]
        if network.config.kind == "encoder-decoder":
            self.memory, self.memory_mask = network.encode(ids, mask), mask
            if ends.start_id is None:
                raise InputError("the model does not say with which token its decoder starts (decoder_start_token_id)")
            ids = torch.full((len(prompts), 1), ends.start_id, device=self.device)
            mask, lengths = None, [1] * len(prompts)
        self.limits = [limit_of(network, n, options) for n in lengths]
        room = min(max(self.limits), 4096) if room is None else room
        self.cache: Any = network.new_cache(len(prompts), max(lengths) + room)
        self.logits = self._decode(ids, mask)

    def _decode(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        record: list[Tensor] = []
        known: dict[str, Any] = {"cache": self.cache} | ({"attended": record} if self.watch else {})
        hidden = self.network.decode(ids, mask, memory=self.memory, memory_mask=self.memory_mask, **known)
        if record:  # of each layer (B, H, T, S)
            self.attended = torch.stack([weights[:, :, -1].mean(1) for weights in record]).mean(0)
        if mask is None:
            last = hidden[:, -1]
        else:
            order = torch.arange(ids.shape[1], device=ids.device)
            column = torch.where(mask > 0, order, -1).amax(1)
            last = hidden[torch.arange(len(ids), device=ids.device), column]
        return self.network.logits(last)

    def step(self, ids: list[int]) -> Tensor:
        """Feed one id per row: a packed decoder in one native call (step.py), any other layer by layer."""
        if self._recorded is None and not self.watch and can_step(self.network):
            self._recorded = Step(self.network)  # type: ignore[arg-type]
        if self._recorded is not None and len(ids) <= self._recorded.most_rows:
            return self._recorded(torch.tensor(ids), self.cache)
        return self._decode(torch.tensor(ids, device=self.device)[:, None], None)

    def keep(self, places: list[int]) -> None:
        """Drop the rows that have ended."""
        rows = torch.tensor(places, dtype=torch.long, device=self.device)
        self.cache.select(rows)
        if self.memory is not None and self.memory_mask is not None:
            self.memory, self.memory_mask = self.memory[rows], self.memory_mask[rows]


def positions_held(network: LanguageModel) -> int:
    """How many tokens a text of the model can have; 0: no table of positions limits it."""
    config = network.config
    return config.max_positions if getattr(config, "position", "") in ("learned", "sinusoidal") else 0


def limit_of(network: LanguageModel, length: int, options: Options) -> int:
    """How many tokens may follow `length` tokens of a decoder; InputError where none can or nothing stands there."""
    if not length:
        raise InputError("an empty prompt, and a tokenizer without a token to begin with; write something")
    room = positions_held(network)
    if room and length >= room:
        raise InputError(f"the prompt has {length} tokens, the model has positions for {room}; shorten it")
    return min(options.new_tokens(length), room - length if room else 2**62)


def pad(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor | None]:
    """Return ids (B, T), shorter rows filled on the right with 0, and their mask (None where all are equally long)."""
    length = max((len(r) for r in rows), default=0)
    ids = torch.zeros((len(rows), length), dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for row, values in enumerate(rows):
        ids[row, : len(values)] = torch.tensor(list(values), dtype=torch.long)
        mask[row, : len(values)] = 1
    even = all(len(r) == length for r in rows)
    return ids.to(device), None if even else mask.to(device)


def counted(network: LanguageModel, prompt: list[int], ends: Ends) -> list[int]:
    """The tokens besides the text that a repetition penalty counts: a source may well be repeated."""
    if network.config.kind != "encoder-decoder":
        return prompt
    return [] if ends.start_id is None else [ends.start_id]


def finish_of(text: list[int], limit: int, ends: Ends, guide: Guide | None) -> str:
    """Why a text ends with its last token, or ""; Error where it would end before it is what it must be."""
    first = len(text) == 1 and text[0] == ends.forced_first_id
    if guide is not None and not first:
        guide.take(text[-1])
    finish = "stop" if text[-1] in ends.eos_ids or (guide and guide.done) else "length" if len(text) >= limit else ""
    if guide is not None and finish:
        guide.check(len(text))
    return finish


def scored(
    logits: Tensor,
    before: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    limits: Sequence[int],
    sampling: Sampling,
    ends: Ends,
    guides: Sequence[Guide | None] = (),
) -> Tensor:
    """The logits (B, V) after penalties, after what the model's folder forbids or forces, and what a grammar hides.

    before: see `counted`; texts: the new tokens of each row so far; limits: how many each may have.
    """
    scores = penalise(logits, before, texts, sampling) if sampling.penalises else logits
    if ends.never_ids:
        scores = scores.clone() if scores is logits else scores
        scores[:, list(ends.never_ids)] = -torch.inf
    if any(guides):
        scores = scores.clone() if scores is logits else scores
        for row, guide in zip(scores, guides):
            if guide is not None:
                guide.hide(row)
    for place, (text, limit) in enumerate(zip(texts, limits)):
        forced = None
        if ends.forced_first_id is not None and not text:
            forced = ends.forced_first_id
        elif ends.forced_last_id is not None and len(text) + 1 == limit:
            forced = ends.forced_last_id
        if forced is not None:
            scores = scores.clone() if scores is logits else scores
            scores[place] = -torch.inf
            scores[place, forced] = 0.0
    return scores


def tokens_of(rows: Sequence[int], ids: Sequence[int], logits: Tensor, logprobs: int | None) -> list[Token]:
    """The chosen ids of some rows with what is asked for of their logits (B, V)."""
    if logprobs is None:
        return [Token(row, id) for row, id in zip(rows, ids)]
    shares = logits.log_softmax(-1)
    chosen = shares.gather(1, torch.tensor(ids, device=shares.device)[:, None]).squeeze(1).tolist()
    top = shares.topk(min(logprobs, shares.shape[-1]), dim=-1)
    pairs = [list(zip(i, v)) for i, v in zip(top.indices.tolist(), top.values.tolist())]
    return [Token(row, id, p, best) for row, id, p, best in zip(rows, ids, chosen, pairs)]
