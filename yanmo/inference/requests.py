"""What an engine is asked for, and what the one who asked holds in hand.

    Limits     what an engine may hold and do at once
    Handle     one request: stream it, wait for it, cancel it, from any thread or from asyncio
    Row        one text of a request, as the engine's thread sees it
    Waiting    the queue: clients in turn, each one's requests in their order

Only the engine's thread calls the methods of Handle that begin with `put`, and only it touches rows.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Generator, Hashable, Iterator
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import Any

import torch

from yanmo.errors import InputError, nearest
from yanmo.inference.generate import Options, Token
from yanmo.inference.grammar import Guide
from yanmo.inference.speculate import Lookup
from yanmo.inference.text import Generation, TextRow

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an engine may hold and do at once."""

    rows: int = 16  # texts that are written side by side
    queue: int = 256  # texts that wait
    chunk: int = 256  # tokens of prompts that are read between two steps of the others
    cache_bytes: int = GIB  # of the texts being written, counted up to their last allowed token before they start
    prefix_bytes: int = GIB // 4  # of the beginnings of texts that are kept for the next; 0: none
    draft: int = 8  # tokens that are looked up in a text and checked in one step where that pays; 0: none

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            value, low = getattr(self, name), 0 if name in ("prefix_bytes", "draft") else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"{name} is {value!r}, and must be a whole number, at least {low}")


def limits_of(given: dict[str, int]) -> Limits:
    """Checked Limits from keywords; an unknown one is an InputError."""
    known = Limits.__dataclass_fields__
    for name in given:
        if name not in known:
            raise InputError(f"an engine has no limit {name!r}{nearest(name, known)}")
    return Limits(**given)


class Handle:
    """A request that was submitted; it has ended once every text has a `finish` or an error.

    Iterating gives pieces of the text as they become certain, `result` the whole. `cancel` ends it within one step of
    the engine: what was written stays, with the finish "cancelled". In a `with` block it is cancelled at the end.
    """

    def __init__(self, count: int, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._news = threading.Condition()
        self._events: list[tuple[Token, str]] = []
        self._generations: list[Generation | None] = [None] * count
        self._error: BaseException | None = None
        self._listeners: list[Callable[[], None]] = []
        self.cancelled = False

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self._error is not None or all(g is not None for g in self._generations)

    def cancel(self) -> None:
        """End it; nothing where it has ended."""
        if not self.done:
            self.cancelled = True
            self._wake()

    def generations(self, timeout: float | None = None) -> list[Generation]:
        """Wait for all n texts; raises what ended the request, and TimeoutError after `timeout` seconds."""
        with self._news:
            if not self._news.wait_for(lambda: self.done, timeout):
                raise TimeoutError(f"the request has not ended within {timeout:g} s")
        if self._error is not None:
            raise self._error
        return [g for g in self._generations if g is not None]

    def result(self, timeout: float | None = None) -> Generation:
        """Wait for the first text (the only one where n is 1)."""
        return self.generations(timeout)[0]

    def events(self) -> Iterator[tuple[Token, str]]:
        """Yield each token with the text that it makes certain, as they come; the last text has the id −1."""
        place = 0
        while True:
            with self._news:
                while place == len(self._events) and not self.done:
                    self._news.wait()
                new = self._events[place:]
                ended = self.done
            yield from new
            place += len(new)
            if ended and place == len(self._events):
                if self._error is not None:
                    raise self._error
                return

    def __iter__(self) -> Iterator[str]:
        return (piece for _, piece in self.events() if piece)

    async def __aiter__(self) -> AsyncIterator[str]:
        place, news, loop = 0, asyncio.Event(), asyncio.get_running_loop()

        def tell() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.set)

        self._listeners.append(tell)
        try:
            while True:
                news.clear()
                with self._news:
                    new, ended = self._events[place:], self.done
                place += len(new)
                for _, piece in new:
                    if piece:
                        yield piece
                if ended and place == len(self._events):
                    break
                await news.wait()
        finally:
            self._listeners.remove(tell)
        if self._error is not None:
            raise self._error

    def __await__(self) -> Generator[Any, None, Generation]:
        return self._ended().__await__()

    async def _ended(self) -> Generation:
        async for _ in self:
            pass
        return self.result()

    # --- the engine's side

    def put(self, token: Token, piece: str) -> None:
        """One more token of one of the texts."""
        with self._news:
            self._events.append((token, piece))
            self._tell()

    def put_end(self, number: int, generation: Generation, rest: str = "") -> None:
        """A text has ended; `rest` is what only its end made certain."""
        with self._news:
            if rest:
                self._events.append((Token(number, -1), rest))
            self._generations[number] = generation
            self._tell()

    def put_error(self, error: BaseException) -> None:
        """The request has ended with an error."""
        with self._news:
            if not self.done:
                self._error = error
            self._tell()

    def _tell(self) -> None:
        self._news.notify_all()
        for tell in list(self._listeners):
            tell()


@dataclass(eq=False)
class Row:
    """One text: number `number` of its request. `need` and `source`: columns of the cache and of its memory."""

    handle: Handle
    number: int
    ids: list[int]  # the prompt, or the source of an encoder-decoder
    before: list[int]  # see generate.counted
    limit: int
    options: Options
    generator: torch.Generator
    text: TextRow
    need: int
    source: int
    client: Hashable = ""
    scope: Hashable = ""
    new: list[int] = field(default_factory=list)
    fed: int = 0  # tokens of the prompt that were read
    cache: Any = None  # while the prompt is read
    lookup: Lookup | None = None  # its tokens, where guesses are made from them
    behind: Any = None  # what a draft model has read of it
    guide: Guide | None = None  # what its text must be
    held: float | None = None  # share of the guesses of that model that are likely to hold, once it has made some

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.handle.cancelled or self.handle.done


class Waiting:
    """Clients take turns, so that a thousand requests of one do not stand before the first of another."""

    def __init__(self) -> None:
        self._clients: OrderedDict[Hashable, deque[Row]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def __iter__(self) -> Iterator[Row]:
        return (row for rows in self._clients.values() for row in rows)

    def add(self, row: Row) -> None:
        """Put a row behind the others of its client."""
        self._clients.setdefault(row.client, deque()).append(row)

    def first(self) -> Row | None:
        """The next in turn."""
        return next(iter(self._clients.values()))[0] if self._clients else None

    def take(self) -> Row:
        """Take the next in turn out; its client goes to the end."""
        client, rows = self._clients.popitem(last=False)
        row = rows.popleft()
        if rows:
            self._clients[client] = rows
        return row

    def drop(self, gone: Callable[[Row], bool]) -> list[Row]:
        """Take out and return the rows that are gone."""
        found = [row for row in self if gone(row)]
        if found:
            out = set(map(id, found))  # asked once: a row may be cancelled in between
            kept = [(c, deque(r for r in rows if id(r) not in out)) for c, rows in self._clients.items()]
            self._clients = OrderedDict((c, rows) for c, rows in kept if rows)
        return found
