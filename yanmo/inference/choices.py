"""How likely a model finds each of several continuations of one text; what they share is read once.

    C choices, T their tokens, V vocabulary

    Choice            a continuation with its log probability
    score_choices     ids of what is shared, and of each choice → log probabilities
    choices           the same with text

A choice of one token costs nothing beyond the shared text. Choices are scored side by side on copies of its cache, and
a source of an encoder-decoder is encoded once for all.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from yanmo.errors import InputError
from yanmo.inference.generate import Options, Start, limit_of, pad
from yanmo.models.protocol import LanguageModel

if TYPE_CHECKING:
    from yanmo.inference.generate import Ends
    from yanmo.inference.model import Model

SIDE_BY_SIDE = 16  # choices that are scored at once


@dataclass(frozen=True)
class Choice:
    """A continuation. logprob: natural logarithm of its probability; tokens: how many it has, for a mean."""

    text: str
    logprob: float
    tokens: int


@torch.inference_mode()
def score_choices(
    network: LanguageModel, shared: Sequence[int], choices: Sequence[Sequence[int]], ends: Ends
) -> list[float]:
    """The log probability of each choice after the ids that all share (the source, of an encoder-decoder)."""
    if not all(choices):
        raise InputError(f"choice {[bool(c) for c in choices].index(False)} has no tokens of its own; write something")
    start = 1 if network.config.kind == "encoder-decoder" else len(shared)
    longest = max(map(len, choices), default=0)
    limit = limit_of(network, start, Options(max_new_tokens=longest))
    if limit < longest - 1:  # the last token is scored and not read
        raise InputError(
            f"a choice has {longest} tokens, and behind the prompt the model has positions for {limit}; shorten it"
        )
    state = Start(network, [list(shared)], Options(max_new_tokens=longest), ends)
    first = state.logits.double().log_softmax(-1)[0]  # (V,)
    scores = [float(first[choice[0]]) for choice in choices]
    longer = [place for place, choice in enumerate(choices) if len(choice) > 1]
    longer.sort(key=lambda place: -len(choices[place]))  # so that those of one call are about as long
    for begin in range(0, len(longer), SIDE_BY_SIDE):
        places = longer[begin : begin + SIDE_BY_SIDE]
        for place, score in zip(places, _rest(state, [choices[place] for place in places])):
            scores[place] += score
    return scores


def _rest(state: Start, choices: list[Sequence[int]]) -> Iterator[float]:
    """The log probabilities of all tokens but the first, which are read on copies of the shared cache."""
    device, rows = state.device, torch.zeros(len(choices), dtype=torch.long, device=state.device)
    cache = copy.copy(state.cache)
    cache.select(rows)
    memory: Tensor | None = None if state.memory is None else state.memory[rows]
    mask: Tensor | None = None if state.memory_mask is None else state.memory_mask[rows]
    ids, real = pad([choice[:-1] for choice in choices], device)
    hidden = state.network.decode(ids, real, memory=memory, memory_mask=mask, cache=cache)
    for row, choice in enumerate(choices):  # one after the other, so that logits of one alone are held
        after = torch.tensor(list(choice[1:]), device=device)
        logits = state.network.logits(hidden[row, : len(after)]).double()
        yield float(logits.log_softmax(-1).gather(1, after[:, None]).sum())


def choices(model: Model, prompt: str, texts: Sequence[str]) -> list[Choice]:
    """Score texts as continuations of a prompt, in their order.

    Tokens are those of prompt and text together. Where a text changes how the end of the prompt is cut into tokens,
    that end is scored with it, for all texts alike.
    """
    model.check_writes()
    if not texts:
        return []
    if model.config.kind == "encoder-decoder":
        shared, rests = model.prompt_ids(prompt), [model.tokenizer.encode(text) for text in texts]
        size = model.config.output_size
        if any(max(rest, default=0) >= size for rest in rests):
            raise InputError(f"a choice has a token beyond the model's {size:,}; tokenizer and model do not match")
    else:
        wholes = [model.prompt_ids(prompt), *(model.prompt_ids(prompt + text) for text in texts)]
        length = next((i for i, ids in enumerate(zip(*wholes)) if len(set(ids)) > 1), min(map(len, wholes)))
        shared, rests = wholes[0][:length], [ids[length:] for ids in wholes[1:]]
    scores = score_choices(model.network, shared, rests, model.ends)
    return [Choice(text, score, len(rest)) for text, score, rest in zip(texts, scores, rests)]
