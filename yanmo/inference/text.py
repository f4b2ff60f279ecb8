"""New ids of one row → text: whole characters, up to a stop string.

In: the tokens of `generate_ids`. Out: `take` gives what is certain so far, `generation` the whole with its reasons.
A piece that could be the beginning of a stop string waits until it is known not to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from yanmo.errors import InputError
from yanmo.inference.generate import Token
from yanmo.tokens.stream import StreamDecoder
from yanmo.tokens.tokenizer import Tokenizer


@dataclass
class Generation:
    """One text that a model wrote.

    finish: "stop" (an end token or a stop string), "length", or from an engine "cancelled". logprobs: natural logarithm
    of each token's probability under the model alone; top: for each token the likeliest (text, logprob), as many as
    asked for.
    """

    text: str
    ids: list[int]
    finish: str
    logprobs: list[float] | None = None
    top: list[list[tuple[str, float]]] | None = field(default=None, repr=False)


def stops_of(stop: str | Sequence[str]) -> tuple[str, ...]:
    """Checked stop strings."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(s, str) and s for s in stops):
        raise InputError(f"stop is {stop!r}, and must be a string or several, none of them empty")
    return stops


class TextRow:
    """The text of one row as it grows; without a tokenizer its ids alone."""

    def __init__(
        self, tokenizer: Tokenizer | None, prompt: list[int], stops: tuple[str, ...], *, primed: bool = True
    ) -> None:
        self.prompt = prompt
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.top: list[list[tuple[str, float]]] = []
        self.finish = ""
        self._tokenizer = tokenizer
        self._stops = stops
        self._stream = None if tokenizer is None else StreamDecoder(tokenizer)
        self._text = ""
        self._taken = 0
        self._cut = False  # a stop string was found
        # the first piece depends on what stands before it: a space, half a character
        if primed and self._stream is not None:
            self._stream.prime(prompt)

    def push(self, token: Token, *, is_end: bool, rich: bool) -> None:
        """Add a token; an end token is counted and not written."""
        self.ids.append(token.id)
        if rich:
            self.logprobs.append(token.logprob)
            self.top.append([(self._name(id), p) for id, p in token.top])
        if not is_end and self._stream is not None:
            self._add(self._stream.push(token.id))
        if token.finish and not self.finish:
            self.finish = token.finish

    def close(self) -> None:
        """Write what is left of a character that never became whole."""
        self._add("" if self._stream is None else self._stream.finish())
        self.finish = self.finish or "length"

    def _name(self, id: int) -> str:
        return f"<{id}>" if self._tokenizer is None else self._tokenizer.decode([id], skip_special_tokens=False)

    def _add(self, piece: str) -> None:
        if self._cut or not piece:
            return
        longest = max((len(s) for s in self._stops), default=0)
        start = max(len(self._text) - longest, 0)
        self._text += piece
        found = [place for s in self._stops if (place := self._text.find(s, start)) >= 0]
        if found:
            self._text = self._text[: min(found)]
            self._cut, self.finish = True, "stop"

    def take(self) -> str:
        """What is certain and was not taken before."""
        end = len(self._text)
        if not self.finish:
            end -= max((_overlap(self._text, s) for s in self._stops), default=0)
        piece = self._text[self._taken : end]
        self._taken = max(end, self._taken)
        return piece

    def generation(self) -> Generation:
        """The whole text and its reasons."""
        rich = bool(self.logprobs)
        return Generation(
            self._text, self.ids, self.finish, self.logprobs if rich else None, self.top if rich else None
        )


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
