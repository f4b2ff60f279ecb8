"""Contrastive search: the token that is likely and unlike what stands there already, so that texts do not circle.

    T tokens so far, k candidates, W width

    Contrast            alpha and k, checked
    contrastive_ids     a prompt's ids → its new tokens

Of the k likeliest tokens v the one with the largest (1 − α) p(v) − α max_j cos(h_v, h_j) is taken, where h are the last
hidden vectors of v and of all tokens before it, the prompt's included (Su et al. 2022, equation 5; of an
encoder-decoder those of the decoder). A step reads its k candidates side by side; what the chosen one has left in the
cache is the beginning of the next step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from yanmo.errors import InputError
from yanmo.inference.generate import Ends, Options, Token, limit_of, options_of, scored, tokens_of
from yanmo.inference.sampling import Sampling
from yanmo.inference.text import Generation, TextRow, stops_of
from yanmo.models.protocol import LanguageModel

if TYPE_CHECKING:
    from yanmo.inference.model import Model

TOP_K = 4  # where none is said; Su et al. use 3 to 10


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """alpha: 0 is greedy, 1 looks at the likeness alone; k: candidates of each step."""

    alpha: float = 0.6
    k: int = TOP_K

    def __post_init__(self) -> None:
        number = isinstance(self.alpha, (int, float)) and not isinstance(self.alpha, bool)
        if not number or not math.isfinite(self.alpha) or not 0 <= self.alpha <= 1:
            raise InputError(f"penalty_alpha is {self.alpha!r}, and must be a number from 0 to 1")
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise InputError(f"top_k is {self.k!r}, and contrastive search needs a whole number, at least 1")


def contrast_of(alpha: Any, options: Options) -> Contrast:
    """The Contrast of penalty_alpha and of top_k in `options`, which may say nothing else about the choice."""
    top_k = options.sampling.top_k
    if options.sampling not in (Sampling(), Sampling(top_k=top_k)) or options.n != 1 or options.grammar is not None:
        raise InputError(
            "contrastive search (penalty_alpha) takes top_k, and no temperature, other penalties or n, and no grammar"
        )
    return Contrast(alpha=alpha, k=top_k or TOP_K)


def contrastive_ids(
    network: LanguageModel, prompt: Sequence[int], contrast: Contrast, options: Options, ends: Ends
) -> Iterator[Token]:
    """The new tokens of one prompt, one after the other, the last of them with its reason to end."""
    with torch.inference_mode():
        run = _Run(network, prompt, ends)
    limit = limit_of(network, run.length, options)
    text: list[int] = []
    k = min(contrast.k, network.config.output_size)
    while len(text) < limit:
        with torch.inference_mode():  # a generator that has yielded holds it no longer
            logits = run.logits.float()
            shares = scored(logits, [[]], [text], [limit], Sampling(), ends).softmax(-1)
            p, ids = shares[0].topk(k)
            real = p > 0  # a forced token leaves nothing beside it
            p, ids = p[real], ids[real]
            hidden = run.read(ids)
            value = (1 - contrast.alpha) * p - contrast.alpha * likeness(hidden.float(), run.seen)
            best = int(value.argmax())
            token = tokens_of([0], [int(ids[best])], logits, options.logprobs)[0]
            run.keep(best, hidden)
        text.append(token.id)
        token.finish = "stop" if token.id in ends.eos_ids else "length" if len(text) >= limit else ""
        yield token
        if token.finish:
            return


def likeness(hidden: Tensor, seen: Tensor) -> Tensor:
    """The largest cosine of each of hidden (k, W) to one of seen (T, W), (k,)."""
    return (F.normalize(hidden, dim=-1) @ F.normalize(seen, dim=-1).T).amax(-1)


class _Run:
    """One text: its cache, the hidden vectors of all its tokens `seen` (T, W), and the logits (1, V) after the last."""

    def __init__(self, network: LanguageModel, prompt: Sequence[int], ends: Ends) -> None:
        self.network = network
        self.device = next(network.parameters()).device  # type: ignore[attr-defined]
        ids = torch.tensor([list(prompt)], device=self.device)
        self.memory: Tensor | None = None
        if network.config.kind == "encoder-decoder":
            if ends.start_id is None:
                raise InputError("the model does not say with which token its decoder starts (decoder_start_token_id)")
            self.memory = network.encode(ids, None)
            ids = torch.tensor([[ends.start_id]], device=self.device)
        self.length = ids.shape[1]
        limit_of(network, self.length, Options(max_new_tokens=0))  # an empty prompt, or one too long
        self.cache: Any = network.new_cache(1, self.length + 256)
        hidden = self._decode(ids)
        self.seen = hidden[0].float()
        self.logits = network.logits(hidden[:, -1])

    def _decode(self, ids: Tensor) -> Tensor:
        memory = None if self.memory is None else self.memory.expand(len(ids), -1, -1)
        return self.network.decode(ids, None, memory=memory, memory_mask=None, cache=self.cache)

    def read(self, ids: Tensor) -> Tensor:
        """The hidden vectors (k, W) of candidates, each on a copy of the cache."""
        self.cache.select(torch.zeros(len(ids), dtype=torch.long, device=self.device))
        return self._decode(ids[:, None])[:, 0]

    def keep(self, place: int, hidden: Tensor) -> None:
        """Go on with one of the candidates."""
        self.cache.select(torch.tensor([place], device=self.device))
        self.seen = torch.cat([self.seen, hidden[place : place + 1].float()])
        self.logits = self.network.logits(hidden[place : place + 1])


def contrastive(
    model: Model, prompts: Sequence[str], stop: str | Sequence[str], alpha: Any, given: dict[str, Any]
) -> list[list[Generation]]:
    """`Model.generations` by contrastive search: `given` are its other options."""
    options = options_of(given)
    contrast, stops = contrast_of(alpha, options), stops_of(stop)
    model.check_writes()
    found = []
    for prompt in prompts:
        ids = model.prompt_ids(prompt)
        row = TextRow(model.tokenizer, ids, stops, primed=model.config.kind == "decoder")
        for token in contrastive_ids(model.network, ids, contrast, options, model.ends):
            row.push(token, is_end=token.id in model.ends.eos_ids, rich=options.logprobs is not None)
            if row.finish:
                break
        row.close()
        found.append([row.generation()])
    return found
