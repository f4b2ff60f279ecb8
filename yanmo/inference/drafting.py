"""A smaller model guesses what a larger one will write; one step of the larger checks all (Leviathan et al. 2023).

    check_draft     whether a model can guess for another: a decoder with the same vocabulary
    Drafter         the tokens of a text so far → guesses, chosen as the text's own tokens are
    Behind          what the smaller model has read of one text
    with_draft      prompts → handles of an engine that guesses so

A guess is checked by the larger model's own choice, so the text is the one that it would have written. Where the text
is drawn, the guess is drawn with the random number that the text will use, so that like distributions choose alike.
The smaller model reads the end of the text alone: what it has not read costs speed and nothing else.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from yanmo.errors import InputError
from yanmo.inference.generate import Ends, positions_held, scored
from yanmo.inference.sampling import choose
from yanmo.inference.step import Step, can_step
from yanmo.models.protocol import LanguageModel

if TYPE_CHECKING:
    from yanmo.inference.model import Model
    from yanmo.inference.requests import Handle, Row

WINDOW = 256  # tokens of the end of a text that are read where nothing of it is known
ROOM = 1024  # tokens held of one text before it is begun anew


@dataclass
class Behind:
    """The ids that stand in the cache, which begin at the token `first` of the text."""

    cache: Any
    first: int
    ids: list[int] = field(default_factory=list)


def check_draft(model: Model, draft: Model) -> None:
    """InputError where `draft` cannot guess for `model`."""
    if not isinstance(getattr(draft, "network", None), torch.nn.Module):
        raise InputError(f"draft is {draft!r}, and must be a model; open it first: draft=yanmo.load({draft!r})")
    if draft.config.kind != "decoder" or draft.config.head != "causal" or model.config.kind != "decoder":
        raise InputError(
            f"the draft is a {draft.config.kind} and the model a {model.config.kind}; both must be decoders that write"
        )
    one, other = model.tokenizer_or_none, draft.tokenizer_or_none
    if one is None or other is None:
        if model.config.output_size != draft.config.output_size:
            raise InputError(
                f"the draft has {draft.config.output_size:,} tokens and the model {model.config.output_size:,}; "
                "take a draft of the same vocabulary"
            )
    elif one.hash != other.hash and _words(one) != _words(other):
        raise InputError(
            f"the draft's tokenizer ({other.vocab_size:,} tokens) is not the model's ({one.vocab_size:,}); take a "
            "draft of the same vocabulary"
        )


def _words(tokenizer: Any) -> list[str | None]:
    return [tokenizer.engine.token(number) for number in range(tokenizer.vocab_size)]


class Drafter:
    """Guesses of the network `draft` for texts of another with `size` tokens."""

    def __init__(self, draft: LanguageModel, size: int, ends: Ends) -> None:
        self.network, self._ends = draft, ends
        self._size = min(size, draft.config.output_size)
        self._room = min(ROOM, positions_held(draft) or ROOM)
        self._device = draft.device  # type: ignore[attr-defined]
        self._step = Step(draft, most_rows=1) if can_step(draft) else None  # type: ignore[arg-type]
        self.catching = 0.0  # seconds in which it read texts that were written without it, since they were asked for

    def guess(self, row: Row, most: int) -> list[int]:
        """At most so many tokens that may follow the text of a row."""
        text = [*row.ids, *row.new]
        most = min(most, self._room - 1)
        if most < 1 or max(text[-self._room :]) >= self.network.config.vocab_size:
            return []
        behind = row.behind
        if behind is None or not 0 < self._left(behind, text) <= WINDOW or len(text) - behind.first + most > self._room:
            count = min(WINDOW, len(text), self._room - most)
            behind = row.behind = Behind(self.network.new_cache(1, count + most), len(text) - count)
        new = text[behind.first + len(behind.ids) :]
        start = time.perf_counter()
        logits = self._read(new, behind.cache)
        behind.ids += new
        if len(new) > 2 * most:
            self.catching += time.perf_counter() - start
        after, generator = copy.copy(behind.cache), torch.Generator()
        generator.set_state(row.generator.get_state())
        found: list[int] = []
        while True:
            sampling, now = row.options.sampling, [*row.new, *found]
            scores = scored(logits[:, : self._size], [row.before], [now], [row.limit], sampling, self._ends)
            found.append(int(choose(scores, sampling, [generator])))
            if len(found) == most or found[-1] in self._ends.eos_ids:
                break
            logits = self._one(found[-1], after)
        if hasattr(after, "keys"):  # they may have grown; what stands behind the text is written over
            behind.cache.keys, behind.cache.values = after.keys, after.values
        return found

    def _left(self, behind: Behind, text: Sequence[int]) -> int:
        return len(text) - behind.first - len(behind.ids)

    def _read(self, ids: list[int], cache: Any) -> Tensor:
        hidden = self.network.decode(torch.tensor([ids], device=self._device), cache=cache)
        return self.network.logits(hidden[:, -1]).float()

    def _one(self, id: int, cache: Any) -> Tensor:
        return self._read([id], cache) if self._step is None else self._step(torch.tensor([id]), cache)


@contextmanager
def with_draft(
    model: Model, draft: Model | None, prompts: Sequence[str], stop: str | Sequence[str], options: dict[str, Any]
) -> Iterator[list[Handle]]:
    """The requests of an engine, one for each prompt, whose texts `draft` guesses; they end with the block."""
    from yanmo.inference.engine import Engine
    from yanmo.inference.requests import Limits

    n = options.get("n") or 1
    count = len(prompts) * n if isinstance(n, int) else len(prompts)
    with Engine(model, Limits(queue=max(count, 256)), draft) as engine:
        yield [engine.submit(prompt, stop=stop, **options) for prompt in prompts]
