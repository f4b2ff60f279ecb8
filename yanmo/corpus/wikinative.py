"""Wikitext → plain text by the compiled library, with the words of wikitext.py: the same text, many times as fast.

In: a page's wikitext in UTF-8. Out: its text.

    plain               wikitext → text, by the library, or by wikitext.py where it is absent
    is_disambiguation   whether a page lists the meanings of a name
    check_utf8          whether bytes are UTF-8
    without_entities    XML's four named entities resolved

The library asks what a name means (of a template, a namespace, an entity) by a callback, once for each name.
"""

from __future__ import annotations

import ctypes
import functools
import html
import threading
from collections.abc import Callable

from yanmo import nativetext
from yanmo.corpus import wikitext
from yanmo.corpus.wikitext_templates import is_named, meaning
from yanmo.corpus.wikitext_variant import choose
from yanmo.corpus.wikitext_words import DISAMBIGUATION_TITLES

KINDS = ("", "first", "last", "convert", "date")  # the numbers of wikitext.cpp
SETS = 16  # of variant and prefixes that are kept: one for each wiki

_Answer = tuple[int, str]


def plain(data: bytes, variant: str = "zh-cn", prefixes: frozenset[str] = frozenset(), *, tables: bool = True) -> str:
    """The text of a page, as wikitext.plain gives it; `data` must be UTF-8."""
    found = _wiki(variant, prefixes)
    if found is None:
        return wikitext.plain(data.decode(), variant, prefixes, tables=tables)
    return found.plain(data, tables)


def is_disambiguation(data: bytes, title: str = "") -> bool:
    """Whether the page has a template of disambiguation pages, or a title in their form."""
    found = _wiki("zh-cn", frozenset())
    if found is None:
        return wikitext.is_disambiguation(data.decode(), title)
    return title.endswith(DISAMBIGUATION_TITLES) or found.is_disambiguation(data)


def check_utf8(data: bytes) -> None:
    """Raise UnicodeDecodeError where bytes are not UTF-8."""
    native = nativetext.library()
    if native is None or not native.yanmo_utf8(data, len(data)):
        data.decode("utf-8")


def without_entities(data: bytes) -> bytes | None:
    """XML's &lt; &gt; &quot; &amp; resolved; None where another entity stands, a number among them."""
    native = nativetext.library()
    if native is not None:
        room = ctypes.create_string_buffer(len(data))
        size = native.yanmo_xml_text(data, len(data), room)
        return ctypes.string_at(room, size) if size >= 0 else None
    named = [(b"&lt;", b"<"), (b"&gt;", b">"), (b"&quot;", b'"'), (b"&amp;", b"&")]
    if sum(data.count(name) for name, _ in named) != data.count(b"&"):
        return None
    for name, character in named:
        data = data.replace(name, character)
    return data


@functools.lru_cache(SETS)
def _wiki(variant: str, prefixes: frozenset[str]) -> _Wiki | None:
    native = nativetext.library()
    return None if native is None else _Wiki(native, variant, prefixes)


class _Wiki:
    """The library's converter for one variant and one wiki's prefixes, and the answers to its questions."""

    def __init__(self, native: ctypes.CDLL, variant: str, prefixes: frozenset[str]) -> None:
        hidden = wikitext.HIDDEN | prefixes
        self._native, self._free, self._lock = native, native.yanmo_wiki_free, threading.Lock()
        self._aside: list[str] = []
        self._error: BaseException | None = None
        self._answers: tuple[Callable[[str], _Answer], ...] = (
            lambda name: (KINDS.index(meaning(name)[0]), meaning(name)[1]),
            lambda prefix: (wikitext.prefix_kind(prefix, hidden), ""),
            lambda part: (int(is_named(part)), ""),
            lambda letters: (int(wikitext.is_magic(letters)), ""),
            lambda inside: (0, choose(inside, variant)),
            lambda entity: (0, html.unescape(entity)),
            lambda asked: (0, wikitext.set_aside(*self._of_element(asked))),
            lambda name: (int(wikitext.names_disambiguation(name)), ""),
        )
        self._callback = nativetext.ASK(self._ask)  # the library holds its address
        self._wiki = native.yanmo_wiki_new(self._callback)
        if not self._wiki:
            raise MemoryError

    def __del__(self) -> None:
        if getattr(self, "_wiki", None):
            self._free(self._wiki)

    def plain(self, data: bytes, tables: bool) -> str:
        with self._lock:
            self._aside = []
            size = self._done(self._native.yanmo_wiki_plain(self._wiki, data, len(data), tables))
            text = ctypes.string_at(self._native.yanmo_wiki_out(self._wiki), size).decode()
            return wikitext.put_back(text, self._aside)

    def is_disambiguation(self, data: bytes) -> bool:
        with self._lock:
            return self._done(self._native.yanmo_wiki_disambiguation(self._wiki, data, len(data))) == 1

    def _done(self, result: int) -> int:
        """What the library returned; what went wrong in an answer is raised here, since it cannot cross C++."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        if result < 0:
            raise MemoryError
        return result

    def _ask(self, what: int, text: int, size: int) -> int:
        try:
            number, answer = self._answers[what](ctypes.string_at(text, size).decode())
            if answer:
                data = answer.encode()
                self._native.yanmo_wiki_answer(self._wiki, data, len(data))
            return number
        except BaseException as error:
            self._error = self._error or error
            return 0

    def _of_element(self, asked: str) -> tuple[str, str, list[str]]:
        name, _, text = asked.partition(" ")
        return name, text, self._aside
