"""One step of all texts that are being written: the last token of each → the logits of the next.

B rows, T columns, V vocabulary

Writer.step      yields rows and the logits (rows, V) for the next token of each, again where a guess held
Columns          several tokens of one text through a recorded step of a packed one
stepper          ids (B,) and their slots → logits: the network itself, or a recorded step of a packed one
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from yanmo.inference.drafting import Drafter
from yanmo.inference.generate import pad
from yanmo.inference.reading import reads_in_parts
from yanmo.inference.requests import Limits, Row
from yanmo.inference.slots import Slots, StateSlots
from yanmo.inference.speculate import SHARE, Controller, Lookup
from yanmo.inference.step import Step, can_step
from yanmo.models.cache import Cache
from yanmo.models.protocol import LanguageModel

AnySlots = Slots | StateSlots
MOST_COLUMNS = 16  # of a recorded step
MOST_FORCED = 32  # tokens of a grammar that one step reads


class Columns:
    """Several tokens of one text through a recorded step: each is a row, and all rows are one row of the cache.

    A step writes the keys of all its rows before any of them attends, and a row attends up to its own column.
    """

    def __init__(self, network: LanguageModel) -> None:
        self._step = Step(network, most_rows=MOST_COLUMNS)  # type: ignore[arg-type]

    def __call__(self, ids: Tensor, cache: Cache) -> Tensor:
        """Feed ids (T,) to the only row of the cache, which has room for them → logits (T, V)."""
        rows = copy.copy(cache)
        shape = (len(ids), -1, -1, -1)
        rows.keys, rows.values = ([t.expand(shape) for t in held] for held in (cache.keys, cache.values))
        rows.lengths = cache.lengths + torch.arange(len(ids))
        rows.longest = cache.longest + len(ids) - 1
        return self._step(ids.contiguous(), rows)


def stepper(network: LanguageModel, rows: int) -> Callable[[Tensor, AnySlots], Tensor]:
    """What makes a step of the network, for at most so many rows: ids (B,) and their slots → logits (B, V)."""
    if can_step(network):
        recorded = Step(network, most_rows=rows)  # type: ignore[arg-type]
        return lambda ids, slots: recorded(ids, slots.cache)  # type: ignore[arg-type]

    def step(ids: Tensor, slots: AnySlots) -> Tensor:
        memory, mask = slots.memory, slots.memory_mask
        hidden = network.decode(ids[:, None], memory=memory, memory_mask=mask, cache=slots.cache)
        return network.logits(hidden[:, -1]).float()

    return step


class Writer:
    """Feeds the rows that stand in the slots."""

    def __init__(self, network: LanguageModel, slots: AnySlots, limits: Limits, drafter: Drafter | None = None) -> None:
        self._drafter = drafter
        self._network, self._slots = network, slots
        self._device = network.device  # type: ignore[attr-defined]
        self._step = stepper(network, limits.rows)
        self._draft = limits.draft if reads_in_parts(network) else 0
        self._columns: Columns | None = None
        if can_step(network):  # what `decode` computes of packed matrices is rounded otherwise than a recorded step
            self._draft = min(self._draft, MOST_COLUMNS - 1)
            self._columns = Columns(network)
        self.controller, self.of_draft = Controller(), Controller(0.5)
        self._forced = 0  # tokens that a grammar forces are read with the last one: so many at most
        if reads_in_parts(network):
            self._forced = MOST_FORCED if self._columns is None else MOST_COLUMNS - 1
        self._kind = ""  # of the guesses of the present step: lookup, draft, grammar or none
        self.counts = {"steps": 0, "drafted": 0, "accepted": 0}

    def step(self, rows: Sequence[Row]) -> Iterator[tuple[Sequence[Row], Tensor]]:
        """Feed the last token of each row, and guesses where they pay.

        Yields rows with the logits of their next token, which the caller appends to each before it goes on.
        """
        start = time.perf_counter()
        drafts = self._drafts(rows)
        self.counts["steps"] += 1
        columns = 1 + max(map(len, drafts), default=0)
        self._slots.ready([1 + len(draft) for draft in drafts], max(row.need for row in rows))
        if columns == 1:
            ids = torch.tensor([row.new[-1] for row in rows], device=self._device)
            logits = self._step(ids, self._slots)
            self._slots.stepped()
            yield rows, logits
            for controller in (self.controller, self.of_draft):
                controller.saw(len(rows), False, time.perf_counter() - start)
            return
        ids, mask = pad([[row.new[-1], *draft] for row, draft in zip(rows, drafts)], self._device)
        lengths = [int(n) + 1 for n in self._slots.cache.lengths.tolist()]
        every = self._every(ids, mask)
        going, held = list(range(len(rows))), [0] * len(rows)
        for column in range(columns):
            yield [rows[place] for place in going], every[going, column]
            going = [p for p in going if column < len(drafts[p]) and _holds(rows[p], drafts[p][column])]
            for place in going:
                held[place] += 1
            if not going:
                break
        self._slots.stepped([n + h for n, h in zip(lengths, held)], ids)
        if self._kind == "grammar":  # its tokens are no guesses
            return
        controller = self.controller if self._kind == "lookup" else self.of_draft
        extra = 0.0
        if self._drafter is not None and self._kind == "draft":
            extra, self._drafter.catching = self._drafter.catching, 0.0
        seconds = time.perf_counter() - start - extra
        controller.saw(len(rows), True, seconds, sum(held), extra)  # what was read again counts too
        for row, draft, count in zip(rows, drafts, held):
            if draft:
                self._learn(row, count / len(draft))
                self.counts["drafted"] += len(draft)
                self.counts["accepted"] += count

    def leave(self, rows: Sequence[Row]) -> None:
        """Texts that are written no more."""
        if self._drafter is not None:
            self._drafter.forget(rows)

    def _learn(self, row: Row, share: float) -> None:
        """What share of the guesses for a row held."""
        if self._kind == "draft":
            hope = self.of_draft.rate if row.held is None else row.held
            row.held = hope + SHARE * (share - hope)
            self.of_draft.learn(share)
        elif row.lookup is not None:
            row.lookup.learn(share)
            self.controller.learn(share)

    def _every(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Read ids (B, T) → the logits (B, T, V) after each."""
        slots = self._slots
        if self._columns is not None:
            assert len(ids) == 1 and isinstance(slots, Slots)
            return self._columns(ids[0], slots.cache)[None]
        memory, memory_mask, cache = slots.memory, slots.memory_mask, slots.cache
        hidden = self._network.decode(ids, mask, memory=memory, memory_mask=memory_mask, cache=cache)
        return self._network.logits(hidden).float()

    def _drafts(self, rows: Sequence[Row]) -> list[list[int]]:
        """The guesses for each row; none where checking them does not pay."""
        none: list[list[int]] = [[] for _ in rows]
        forced = self._certain(rows)
        if forced:
            self._kind = "grammar"
            return forced
        if not self._draft or (self._columns is not None and len(rows) > 1):
            return none
        drafts, expected = [], 0.0
        for row in rows:
            if row.lookup is None:
                row.lookup = Lookup(self.controller.rate)
                row.lookup.extend(row.ids)
            row.lookup.extend(row.new[len(row.lookup.tokens) - len(row.ids) :])
            draft = row.lookup.guess(min(self._draft, row.limit - len(row.new) - 1))
            expected += row.lookup.rate * len(draft)
            drafts.append(draft)
        self._kind = "lookup"
        if expected and self.controller.wants(len(rows), expected):
            return drafts
        return none if self._drafter is None else self._guessed(rows, self._drafter)

    def _certain(self, rows: Sequence[Row]) -> list[list[int]]:
        """The tokens that a grammar forces on each row, where there are at least as many as rows; else nothing."""
        if not self._forced or not any(row.guide for row in rows) or (self._columns is not None and len(rows) > 1):
            return []
        found = [r.guide.forced(min(self._forced, r.limit - len(r.new) - 1)) if r.guide else [] for r in rows]
        return found if sum(map(len, found)) >= len(rows) else []

    def _guessed(self, rows: Sequence[Row], drafter: Drafter) -> list[list[int]]:
        """The guesses of the draft model, the more the more of them held; none where they do not pay."""
        hopes = [self.of_draft.rate if row.held is None else row.held for row in rows]
        most = [min(1 + round(h * self._draft), self._draft, r.limit - len(r.new) - 1) for h, r in zip(hopes, rows)]
        expected = sum(hope * max(count, 0) for hope, count in zip(hopes, most))
        if not expected or not self.of_draft.wants(len(rows), expected):
            return [[] for _ in rows]
        self._kind = "draft"
        return drafter.guess(rows, most)


def _holds(row: Row, guess: int) -> bool:
    return row.new[-1] == guess and not row.text.finish and not row.over
