"""Text for ids that arrive one by one.

In: ids. Out: pieces of text whose concatenation is what `decode` gives for all ids, and which never hold a part of a
character. Each id costs a constant number of tokens of work, however long the text becomes.

    StreamDecoder    the one for every tokenizer
    ByteStream       tokens that are bytes (byte-level BPE): an incremental UTF-8 decoder
    WindowStream     tokens whose text depends on being the first, or on a run of byte tokens: a window over the run
    HoldStream       decoders that need the whole text (GPT 1's word ends, CTC): all at the end

A run of byte tokens (Llama 2's <0xE4>…) that breaks off is shown as one U+FFFD for each byte, and whether it breaks
off is known at its end only; so a WindowStream holds a run until the next ordinary token.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from yanmo.tokens.tokenizer import Tokenizer


class Stream(Protocol):
    """What an engine gives for one text."""

    def push(self, number: int) -> str: ...

    def finish(self) -> str: ...

    def held(self) -> str: ...


class StreamDecoder:
    """Turn ids into text as they come; `finish` gives what was held back, and the decoder starts anew."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._begin()

    def prime(self, ids: Sequence[int]) -> None:
        """Take the ids of a prompt, whose text is known; what is pushed next continues it."""
        for number in self._tokenizer.checked(ids):
            self._stream.push(number)
        self._known = self._stream.held()

    def push(self, id: int) -> str:
        """The text that this id makes certain; often empty."""
        return self._new(self._stream.push(self._tokenizer.checked([id])[0]))

    def finish(self) -> str:
        """The rest; a character that stays incomplete is U+FFFD, as in `decode`."""
        rest = self._new(self._stream.finish())
        self._begin()
        return rest

    def _begin(self) -> None:
        self._stream = self._tokenizer.engine.stream(self._skip)
        self._known = ""

    def _new(self, text: str) -> str:
        """Without the end of the prompt that was still held when it was taken."""
        if text and self._known:
            text, self._known = text.removeprefix(self._known), ""
        return text


class ByteStream:
    """Tokens are bytes."""

    def __init__(self, id_bytes: Callable[[int], bytes], hidden: frozenset[int]) -> None:
        self._id_bytes = id_bytes
        self._hidden = hidden
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, number: int) -> str:
        return "" if number in self._hidden else self._utf8.decode(self._id_bytes(number))

    def finish(self) -> str:
        return self._utf8.decode(b"", True)

    def held(self) -> str:
        return ""


class WindowStream:
    """Tokens have a text each, except in runs of byte tokens; only the beginning of the text is special."""

    def __init__(
        self, decode: Callable[[Sequence[int]], str], hidden: frozenset[int], bytes_: frozenset[int], anchor: int
    ) -> None:
        self._decode = decode
        self._hidden = hidden
        self._bytes = bytes_
        self._anchor = anchor
        self._skip = len(decode([anchor]))
        self._run: list[int] = []
        self._lead: list[int] | None = []  # the ids so far, while they have given no text

    def push(self, number: int) -> str:
        if number in self._hidden:
            return ""
        self._run.append(number)
        if number in self._bytes:
            return ""
        return self.finish()

    def finish(self) -> str:
        run, self._run = self._run, []
        if not run:
            return ""
        if self._lead is None:
            return self._decode([self._anchor, *run])[self._skip :]
        self._lead += run
        text = self._decode(self._lead)
        if text:
            self._lead = None
        return text

    def held(self) -> str:
        """The text of a run of byte tokens, if it ended here."""
        return self._decode([self._anchor, *self._run])[self._skip :] if self._run else ""


class HoldStream:
    """Nothing is certain before the end."""

    def __init__(self, decode: Callable[[Sequence[int]], str], hidden: frozenset[int]) -> None:
        self._decode = decode
        self._hidden = hidden
        self._ids: list[int] = []

    def push(self, number: int) -> str:
        if number not in self._hidden:
            self._ids.append(number)
        return ""

    def finish(self) -> str:
        ids, self._ids = self._ids, []
        return self._decode(ids)

    def held(self) -> str:
        return self._decode(self._ids)
