"""Many texts at once, by one thread that owns the network.

    B rows, V vocabulary

    Engine      submit a prompt → Handle; stats; close
    Stats       what it holds and has done

A turn of the thread: drop what was cancelled, let waiting texts begin that fit, read at most `chunk` tokens of
prompts, write one token of every text (several where a draft holds). So texts join and leave between steps, a long
prompt holds the others for one chunk, and a cancelled one is gone after one turn. The plain twin is generate.py.

A text begins only when the cache of all that are being written, each counted up to its last allowed token, fits into
`cache_bytes`; the first in turn waits and lets nobody pass. A text that cannot fit alone is refused when it is
submitted, like every other mistake, so that no request meets another's.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from yanmo.errors import BusyError, Error, InputError
from yanmo.inference.drafting import Drafter, check_draft
from yanmo.inference.generate import Options, Token, counted, finish_of, limit_of, options_of, scored, tokens_of
from yanmo.inference.grammar import Guides, guides_of
from yanmo.inference.prefixes import Prefixes
from yanmo.inference.reading import Reader
from yanmo.inference.requests import Handle, Limits, Row, Waiting
from yanmo.inference.sampling import choose, generators_for
from yanmo.inference.slots import Cost, new_slots
from yanmo.inference.text import Generation, TextRow, stops_of
from yanmo.inference.writing import Writer

if TYPE_CHECKING:
    from yanmo.inference.model import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stats:
    """What an engine holds, and what it has done since it began."""

    waiting: int
    reading: int
    writing: int
    cache_bytes: int
    prefix_bytes: int
    prompt_tokens: int  # read by the network
    reused_tokens: int  # of prompts, found among the prefixes
    new_tokens: int
    steps: int
    drafted: int  # tokens that were guessed
    accepted: int  # of them, those that the network would have written
    ended: int
    cancelled: int
    failed: int


class Engine:
    """Write texts side by side. Use it in a `with` block, or call `close`."""

    def __init__(self, model: Model, limits: Limits | None = None, draft: Model | None = None) -> None:
        model.check_writes()
        if draft is not None:
            check_draft(model, draft)
        self.model, self.limits = model, limits or Limits()
        network = model.network
        self.cost = Cost.of(network)
        self._prefixes = Prefixes(self.limits.prefix_bytes)
        self._slots = new_slots(network, self.limits.cache_bytes)
        self._reader = Reader(network, model.ends, self._prefixes)
        size, rows = network.config.output_size, self.limits.rows
        drafter = None if draft is None else Drafter(draft.network, size, model.ends, rows)
        self._writer = Writer(network, self._slots, self.limits, drafter)
        self._waiting = Waiting()
        self._joining: deque[Row] = deque()
        self._running: list[Row] = []  # in the order of the slots
        self._room = 1  # rows for which the slots are to have room
        self._counts = dict.fromkeys(("new_tokens", "ended", "cancelled", "failed"), 0)
        self._news = threading.Condition()
        self._touched = False  # something was cancelled
        self._closing = ""  # "", "drain" or "now"
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="yanmo-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- for every thread

    def submit(
        self,
        prompt: str | Sequence[int],
        *,
        stop: str | Sequence[str] = (),
        client: Hashable = "",
        scope: Hashable = "",
        **options: Any,
    ) -> Handle:
        """Ask for the continuation of a prompt, text or ids, with the options of `Model.generate`.

        client: whose request it is; clients take turns. scope: only texts of the same scope share what was computed
        for their beginnings. Raises InputError for what cannot be written, BusyError where the queue is full.
        """
        rows = self._rows(prompt, options_of(options), stop)
        handle = Handle(len(rows), self._touch)
        for row in rows:
            row.handle, row.client, row.scope = handle, client, scope
        with self._news:
            self._open()
            if len(self._waiting) + len(rows) > self.limits.queue:
                raise BusyError(
                    f"{len(self._waiting)} texts wait and {self.limits.queue} may; try again later, or raise queue"
                )
            for row in rows:
                self._waiting.add(row)
            self._news.notify_all()
        return handle

    def stats(self) -> Stats:
        """What the engine holds and has done."""
        with self._news:
            return Stats(
                waiting=len(self._waiting),
                reading=len(self._joining),
                writing=len(self._running),
                cache_bytes=self._slots.nbytes,
                prefix_bytes=self._prefixes.nbytes,
                **self._reader.counts,
                **self._writer.counts,
                **self._counts,
            )

    def close(self, *, drain: bool = False) -> None:
        """End the thread and wait for it; `drain`: after all texts are written, otherwise they are cancelled."""
        with self._news:
            self._closing = self._closing or ("drain" if drain else "now")
            if not drain:
                self._closing = "now"
            self._news.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _open(self) -> None:
        if self._broken is not None:
            raise Error(f"the engine has stopped: {self._broken}") from self._broken
        if self._closing:
            raise Error("the engine is closed; make a new one")

    def _touch(self) -> None:
        with self._news:
            self._touched = True
            self._news.notify_all()

    def _rows(self, prompt: str | Sequence[int], options: Options, stop: str | Sequence[str]) -> list[Row]:
        """Check everything that can be checked before the engine's thread sees it."""
        model, network = self.model, self.model.network
        if options.n > self.limits.queue:  # before anything is made n times
            raise InputError(f"n is {options.n:,}, and at most {self.limits.queue:,} texts may wait; ask for fewer")
        ids, stops = model.prompt_ids(prompt), stops_of(stop)
        tokenizer = model.tokenizer if stops else model.tokenizer_or_none
        pair = network.config.kind == "encoder-decoder"
        start = 1 if pair else len(ids)
        if pair:
            self._reader.check_source(ids)
        limit = limit_of(network, start, options)
        need, source = start + limit, len(ids) if pair else 0
        held = self.cost.bytes(1, need, source) + self.cost.bytes(1, start, source)
        if held > self.limits.cache_bytes:
            raise InputError(
                f"the prompt has {len(ids):,} tokens and may get {limit:,} new ones: {held:,} bytes of cache, and the "
                f"engine has {self.limits.cache_bytes:,}; shorten it, lower max_new_tokens or raise cache_bytes"
            )
        rows, guides = [], self._guides(options, stops)
        for number, generator in enumerate(generators_for(options.seed, 1, options.n)):
            text = TextRow(tokenizer, ids, stops, primed=not pair)
            before = counted(network, ids, model.ends)
            rows.append(Row(None, number, ids, before, limit, options, generator, text, need, source))  # type: ignore[arg-type]
            rows[-1].guide = None if guides is None else guides.guide()
            if limit == 0 and rows[-1].guide is not None:
                rows[-1].guide.check(0)
        return rows

    def _guides(self, options: Options, stops: Sequence[str]) -> Guides | None:
        if options.grammar is None:
            return None
        if stops:
            raise InputError("stop would end a text before it is what its grammar asks for; give one of them")
        model = self.model
        return guides_of(options.grammar, model.tokenizer, model.config.output_size, model.ends.eos_ids)

    # --- the thread

    def _work(self) -> None:
        try:
            with torch.inference_mode():
                while self._turn():
                    pass
        except BaseException as error:
            with self._news:
                self._broken = error
            stopped = Error(f"the engine has stopped: {type(error).__name__}: {error}")
            stopped.__cause__ = error
            for row in self._all():
                row.handle.put_error(stopped)
        finally:
            with self._news:
                self._closing = "now"
                left = self._all()
            for row in left:
                self._finish(row, "cancelled")
            self._slots.clear()

    def _all(self) -> list[Row]:
        with self._news:
            return [*self._running, *self._joining, *self._waiting]

    def _turn(self) -> bool:
        """One turn; False ends the thread."""
        with self._news:
            while not (self._waiting or self._joining or self._running or self._closing or self._touched):
                self._news.wait()
            busy = self._waiting or self._joining or self._running
            if self._closing == "now" or (self._closing and not busy):
                return False
            self._touched = False
            gone = self._waiting.drop(lambda row: row.over)
        for row in gone:
            self._finish(row, "cancelled")
        self._drop()
        self._begin()
        self._read()
        self._step()
        return True

    def _drop(self) -> None:
        """Let go of texts that nobody waits for."""
        for row in [row for row in self._joining if row.over]:
            self._joining.remove(row)
            self._finish(row, "cancelled")
        self._leave([row for row in self._running if row.over], "cancelled")

    def _begin(self) -> None:
        """Take from the queue what fits."""
        while True:
            with self._news:
                row = self._waiting.first()
                if row is None or len(self._running) + len(self._joining) >= self.limits.rows or not self._fits(row):
                    return
                self._waiting.take()
                if row.limit:
                    self._joining.append(row)
            if not row.limit:
                self._finish(row, "length")

    def _fits(self, row: Row) -> bool:
        rows = [*self._running, *self._joining, row]
        columns, source = max(r.need for r in rows), max(r.source for r in rows)
        reading = max(self.cost.bytes(1, r.need - r.limit, r.source) for r in [*self._joining, row])
        for room in (min(1 << (len(rows) - 1).bit_length(), self.limits.rows), len(rows)):
            if self.cost.bytes(room, columns, source) + reading <= self.limits.cache_bytes:
                self._room = room
                return True
        return False

    def _read(self) -> None:
        """Read the prompts of the texts that begin, so many tokens as a chunk has."""
        budget = self.limits.chunk
        while self._joining and budget > 0:
            row = self._joining[0]
            try:
                used, logits = self._reader.feed(row, budget, self.limits.chunk)
            except Exception as error:  # whatever it is, it is this text's
                self._joining.popleft()
                self._fail(row, error)
                continue
            budget -= used
            if not used:
                return
            if logits is None:
                continue
            self._choose([row], logits)
            if row.text.finish:
                self._finish(row, row.text.finish)
            elif row.over or not row.new:
                self._finish(row, "cancelled")
            else:
                group = [*self._running, *self._joining]
                most = max(r.need for r in group), max(r.source for r in group)
                self._slots.join(row.cache, self._room, most)
                row.cache = None
                self._running.append(row)
            self._joining.popleft()  # not before: whatever happens here, the row is found

    def _step(self) -> None:
        """One token of every text, or several."""
        if not self._running:
            return
        for rows, logits in self._writer.step(self._running):
            self._choose(rows, logits)
        self._leave([row for row in self._running if row.text.finish], "")

    def _choose(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        """The next token of each row, by options of its own, into its text."""
        groups: dict[Any, list[int]] = {}
        for place, row in enumerate(rows):
            if not row.text.finish and not row.over:
                groups.setdefault((row.options.sampling, row.options.logprobs), []).append(place)
        for (sampling, logprobs), places in groups.items():
            some = [rows[place] for place in places]
            part = logits if len(some) == len(rows) else logits[torch.tensor(places, device=logits.device)]
            texts, limits = [r.new for r in some], [r.limit for r in some]
            guides = [r.guide for r in some]
            scores = scored(part, [r.before for r in some], texts, limits, sampling, self.model.ends, guides)
            ids = choose(scores, sampling, [r.generator for r in some]).tolist()
            for row, token in zip(some, tokens_of([r.number for r in some], ids, part, logprobs)):
                self._put(row, token)

    def _put(self, row: Row, token: Token) -> None:
        row.new.append(token.id)
        self._counts["new_tokens"] += 1
        try:
            token.finish = finish_of(row.new, row.limit, self.model.ends, row.guide)
            row.text.push(token, is_end=token.id in self.model.ends.eos_ids, rich=row.options.logprobs is not None)
            piece = row.text.take()
        except Exception as error:  # of the tokenizer or the grammar: this text's alone
            self._fail(row, error)
            return
        row.handle.put(token, piece)

    def _leave(self, rows: Sequence[Row], finish: str) -> None:
        if not rows:
            return
        places = [place for place, row in enumerate(self._running) if row in rows]
        for place in places:
            row = self._running[place]
            if not row.over:
                self._reader.keep(row, self._slots.cache, place)
        self._writer.leave(rows)
        order = self._slots.leave(places)
        with self._news:
            self._running = [self._running[place] for place in order]
        for row in rows:
            self._finish(row, finish or row.text.finish)

    def _finish(self, row: Row, finish: str) -> None:
        if row.handle.done:
            return
        row.cache = None
        if not row.text.finish:
            row.text.finish = finish
        try:
            row.text.close()
        except Exception as error:  # of the tokenizer: this text's alone
            self._fail(row, error)
            return
        self._counts["cancelled" if row.text.finish == "cancelled" else "ended"] += 1
        row.handle.put_end(row.number, row.text.generation(), row.text.take())

    def _fail(self, row: Row, error: BaseException) -> None:
        row.cache = None
        self._counts["failed"] += 1
        row.handle.put_error(error)


__all__ = ["Engine", "Generation", "Handle", "Limits", "Stats"]
