"""A smaller model guesses what a larger one will write; one step of the larger checks all (Leviathan et al. 2023).

    check_draft     whether a model can guess for another: a decoder with the same vocabulary
    Drafter         the tokens of several texts so far → guesses for each, chosen as the text's own tokens are
    Behind          what the smaller model has read of one text
    with_draft      prompts → handles of an engine that guesses so

A guess is checked by the larger model's own choice, so the text is the one that it would have written. Where the text
is drawn, the guess is drawn with the random number that the text will use, so that like distributions choose alike.
The smaller model reads the end of a text alone: what it has not read costs speed and nothing else. The texts of an
engine stand side by side in it, each with its own length, so a guess of all of them is one step of the smaller model.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from yanmo.errors import InputError
from yanmo.inference.generate import Ends, pad, positions_held, scored
from yanmo.inference.sampling import Sampling, choose
from yanmo.inference.slots import new_slots
from yanmo.inference.step import Step, can_step
from yanmo.models.protocol import LanguageModel

if TYPE_CHECKING:
    from yanmo.inference.model import Model
    from yanmo.inference.requests import Handle, Row

WINDOW = 256  # tokens of the end of a text that are read where nothing of it is known
ROOM = 1024  # tokens held of one text before it is begun anew


@dataclass
class Behind:
    """`count` tokens stand in the cache, which begin at the token `first` of the text."""

    first: int
    count: int


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
    """Guesses of the network `draft` for at most `rows` texts of another with `size` tokens."""

    def __init__(self, draft: LanguageModel, size: int, ends: Ends, rows: int) -> None:
        self.network, self._ends = draft, ends
        self._size = min(size, draft.config.output_size)
        self._room = min(ROOM, positions_held(draft) or ROOM)
        self._device = draft.device  # type: ignore[attr-defined]
        self._step = Step(draft, most_rows=rows) if can_step(draft) else None  # type: ignore[arg-type]
        self._slots = new_slots(draft, sys.maxsize)  # the limit is `rows` times `_room` tokens
        self._rows: list[Row] = []  # in the order of the slots
        self.catching = 0.0  # seconds in which it read texts that were written without it, since they were asked for

    def guess(self, rows: Sequence[Row], most: Sequence[int]) -> list[list[int]]:
        """For each row at most so many tokens that may follow its text."""
        most = [self._most(row, count) for row, count in zip(rows, most, strict=True)]
        wanted = [row for row, count in zip(rows, most) if count > 0]
        found: dict[int, list[int]] = {id(row): [] for row in rows}
        self.forget([row for row in self._rows if not any(row is one for one in wanted)])
        if wanted:
            logits = self._read(wanted, max(most))
            counts = {id(row): count for row, count in zip(rows, most)}
            found |= {id(row): [] for row in wanted}
            self._write(logits, [counts[id(row)] for row in self._rows], [found[id(row)] for row in self._rows])
        return [found[id(row)] for row in rows]

    def forget(self, rows: Sequence[Row]) -> None:
        """Let go of texts for which no more is guessed."""
        places = [place for place, row in enumerate(self._rows) if any(row is one for one in rows)]
        for place in places:
            self._rows[place].behind = None
        if places:
            self._rows = [self._rows[place] for place in self._slots.leave(places)]

    def _most(self, row: Row, most: int) -> int:
        most = min(most, self._room - 1)
        known = most > 0 and max([*row.ids[-self._room :], *row.new]) < self.network.config.vocab_size
        return most if known else 0

    def _read(self, wanted: Sequence[Row], most: int) -> Tensor:
        """Read what the texts have more than the slots, where there is room for `most` guesses of each then.

        Returns the logits (B, V) of what follows, in the order of the slots.
        """
        self.forget([row for row in self._rows if not self._goes_on(row, most)])
        for row in wanted:
            if row.behind is None:
                self._join(row, most, len(wanted))
        start = time.perf_counter()  # what joining took is counted there
        new = [self._text(row)[row.behind.first + row.behind.count :] for row in self._rows]
        self._slots.ready([len(ids) + most for ids in new], self._room)
        ids, mask = pad(new, self._device)
        hidden = self.network.decode(ids, mask, cache=self._slots.cache)
        last = torch.tensor([len(row) - 1 for row in new], device=self._device)
        logits = self.network.logits(hidden[torch.arange(len(new), device=self._device), last]).float()
        for row, ids_of in zip(self._rows, new):
            row.behind.count += len(ids_of)
        self._slots.stepped([row.behind.count for row in self._rows], ids)
        if max(map(len, new)) > 2 * most:
            self.catching += time.perf_counter() - start
        return logits

    def _goes_on(self, row: Row, most: int) -> bool:
        """Whether what is known of a text is worth going on from."""
        length, behind = len(row.ids) + len(row.new), row.behind
        return 0 < length - behind.first - behind.count <= WINDOW and length - behind.first + most <= self._room

    def _join(self, row: Row, most: int, rows: int) -> None:
        """Begin with the end of a text, but for its last token, which is read with those of the others."""
        start, text = time.perf_counter(), self._text(row)
        count = min(WINDOW, len(text), self._room - most) - 1
        row.behind = Behind(len(text) - count - 1, count)
        cache = self.network.new_cache(1, count)
        if count:
            ids = torch.tensor([text[-count - 1 : -1]], device=self._device)
            self.network.decode(ids, cache=cache)
        self._slots.join(cache, rows, (self._room, 0))  # type: ignore[arg-type]
        self._rows.append(row)
        self.catching += time.perf_counter() - start

    def _text(self, row: Row) -> list[int]:
        return [*row.ids, *row.new]

    def _write(self, logits: Tensor, most: Sequence[int], found: Sequence[list[int]]) -> None:
        """Guess into `found`, at most so many for each row of the slots, which stay as they are."""
        cache, generators = copy.copy(self._slots.cache), []  # what is written behind the texts is written over
        for row in self._rows:
            generators.append(torch.Generator())
            generators[-1].set_state(row.generator.get_state())
        going = list(range(len(found)))
        while True:
            groups: dict[Sampling, list[int]] = {}
            for place in going:
                groups.setdefault(self._rows[place].options.sampling, []).append(place)
            for sampling, places in groups.items():
                rows = [self._rows[place] for place in places]
                texts = [[*row.new, *found[place]] for row, place in zip(rows, places)]
                before, limits = [row.before for row in rows], [row.limit for row in rows]
                scores = scored(logits[places, : self._size], before, texts, limits, sampling, self._ends)
                for place, id in zip(places, choose(scores, sampling, [generators[p] for p in places]).tolist()):
                    found[place].append(id)
            going = [p for p in going if len(found[p]) < most[p] and found[p][-1] not in self._ends.eos_ids]
            if not going:
                return
            logits = self._one(torch.tensor([ids[-1] for ids in found]), cache)

    def _one(self, ids: Tensor, cache: Any) -> Tensor:
        if self._step is not None:
            return self._step(ids, cache)
        return self.network.logits(self.network.decode(ids[:, None].to(self._device), cache=cache)[:, -1]).float()


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
