"""Texts that keep to a JSON schema, a regular expression, a list or a grammar: which tokens may come next.

    V vocabulary

    Grammar        what a text must be; its constructors check what can be checked without a model
    guides_of      Grammar + the model's tokenizer → Guides, kept for the next request
    Guides         makes a Guide for each text
    Guide          of one text: hides what may not come, tells what must come

Which bytes may follow is decided by llguidance (extra: grammar), with limits of its own on time and size. Where the
bytes that follow are certain, their tokens are those of the tokenizer, and the network is not asked for them: an engine
reads them together. A text is whole, or its request ends with an error.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from yanmo.errors import Error, InputError, need
from yanmo.files import read_text

if TYPE_CHECKING:
    from yanmo.tokens.tokenizer import Tokenizer

KEPT = 16  # grammars that stay compiled for a tokenizer
WORDS = ("json_schema", "regex", "choices", "grammar")  # the options of `generate` that make a Grammar
SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # as Python writes JSON


@dataclass(frozen=True)
class Grammar:
    """kind: "json_schema" (the schema as JSON), "regex", "choices" (a JSON list) or "grammar" (in Lark's format)."""

    kind: str
    source: str

    @staticmethod
    def json_schema(schema: str | bool | dict[str, Any]) -> Grammar:
        """A JSON text that keeps to a schema, which is given as JSON or as what JSON becomes in Python; True: any."""
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except (ValueError, RecursionError) as error:
                raise InputError(f"the schema is not JSON ({error}); correct it") from None
        if not isinstance(schema, (dict, bool)):
            raise InputError(f"the schema is {schema!r:.60}, and must be an object, or true for any JSON")
        try:
            return Grammar("json_schema", json.dumps(schema if isinstance(schema, dict) else {}))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"the schema cannot be written as JSON ({error}); correct it") from None

    @staticmethod
    def regex(pattern: str) -> Grammar:
        """A text of which the whole matches a regular expression."""
        if not isinstance(pattern, str) or not pattern:
            raise InputError(f"regex is {pattern!r}, and must be a pattern that is not empty")
        return Grammar("regex", pattern)

    @staticmethod
    def choices(texts: Iterable[str]) -> Grammar:
        """One of several texts, none of them empty."""
        listed = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else [texts]
        if not listed or not all(isinstance(text, str) and text for text in listed):
            raise InputError(f"choices are {listed!r:.80}, and must be texts that are not empty, at least one")
        return Grammar("choices", json.dumps(listed))

    @staticmethod
    def lark(rules: str) -> Grammar:
        """A text of the rule `start` of a context-free grammar in Lark's format."""
        if not isinstance(rules, str) or not rules.strip():
            raise InputError(f"grammar is {rules!r:.60}, and must be rules in Lark's format")
        return Grammar("grammar", rules)

    @property
    def compiled(self) -> str:
        """What llguidance reads."""
        matcher = _library().LLMatcher
        if self.kind == "json_schema":
            return matcher.grammar_from_json_schema(self.source, overrides=SPACING)
        if self.kind == "regex":
            return matcher.grammar_from_regex(self.source)
        if self.kind == "choices":  # one string of JSON is one string of Lark
            texts = [json.dumps(text, ensure_ascii=False) for text in json.loads(self.source)]
            return matcher.grammar_from_lark("start: " + " | ".join(texts))
        return matcher.grammar_from_lark(self.source)


def grammar_of(given: dict[str, Any]) -> Grammar | None:
    """The one of WORDS that is given, as a Grammar; several are an InputError. A Grammar stays what it is."""
    found = {name: given[name] for name in WORDS if given.get(name) is not None}
    if len(found) > 1:
        raise InputError(f"{' and '.join(found)} both say what the text must be; give one of them")
    for name, value in found.items():
        if isinstance(value, Grammar):
            return value
        return (Grammar.lark if name == "grammar" else getattr(Grammar, name))(value)
    return None


def from_files(schema: str, rules: str) -> dict[str, Any]:
    """The options that the contents of these files are; an empty name is no file."""
    found: dict[str, Any] = {}
    for name, path in (("json_schema", schema), ("grammar", rules)):
        if path:
            found[name] = read_text(Path(path))
    return found


def _library() -> Any:
    return need("llguidance", "grammar", "a text that keeps to a grammar")


class Words:
    """A vocabulary as llguidance asks for it."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, size: int, eos: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        count = min(tokenizer.vocab_size, size)
        self.tokens = [tokenizer.id_bytes(id) for id in range(count)] + [b""] * (size + 1 - count)
        self.none = size  # an end that the network cannot write, for a model without one
        self.eos_token_id = eos[0] if eos else self.none
        self.bos_token_id = None
        self.special_token_ids = sorted({id for id in tokenizer.special_ids if id < size} | set(eos) | {self.none})
        self.tokens[self.none] = b"<none>"

    def __call__(self, text: str | bytes) -> list[int]:
        """Ids that write these bytes and nothing more."""
        data = text.encode() if isinstance(text, str) else text
        whole = data.decode("utf-8", "replace")
        for before in ("", "\n", "a"):  # some tokenizers set a space before the first word
            ids = self._tokenizer.encode(before + whole, add_special_tokens=False)
            for start in range(len(ids) + 1):
                if b"".join(self.tokens[id] for id in ids[start:]) == data:
                    return ids[start:]
        raise Error(f"the tokenizer has no tokens that write {whole[:40]!r}")


class Guides:
    """A grammar for one vocabulary; raises InputError where it is none."""

    def __init__(self, grammar: Grammar, library: Any, vocabulary: Any, eos: Sequence[int]) -> None:
        try:
            compiled = grammar.compiled
            wrong, words = library.LLMatcher.validate_grammar_with_warnings(compiled, vocabulary)
        except ValueError as error:  # half a surrogate pair, a number that JSON has not
            raise InputError(f"{grammar.kind}: {_sentence(str(error))}; correct it") from None
        if wrong:
            raise InputError(f"{grammar.kind}: {_sentence(words[0])}; correct it")
        self.grammar, self._eos = grammar, frozenset(eos)
        self._first = library.LLMatcher(vocabulary, compiled, log_level=0)
        if self._first.is_error():
            raise InputError(f"{grammar.kind}: {_sentence(self._first.get_error())}; correct it")

    def guide(self) -> Guide:
        """For a text that has not begun."""
        return Guide(self._first.deep_copy(), self.grammar.kind, self._eos)


class Guide:
    """How far one text has come. After a mistake `failed` says what is wrong, and nothing is hidden any more."""

    def __init__(self, matcher: Any, kind: str, eos: frozenset[int]) -> None:
        self._matcher, self._kind, self._eos = matcher, kind, eos
        self._ended = False
        self.failed = ""

    @property
    def done(self) -> bool:
        """Whether nothing may follow."""
        return self._ended or bool(self._matcher.is_stopped())

    @property
    def whole(self) -> bool:
        """Whether the text may end here."""
        return not self.failed and (self._ended or bool(self._matcher.is_accepting()))

    def forced(self, most: int) -> list[int]:
        """At most so many ids that must follow."""
        return [] if self.failed or self.done or most < 1 else self._matcher.compute_ff_tokens()[:most]

    def hide(self, scores: Tensor) -> None:
        """Set the scores (V,) of what may not follow to −∞, in place."""
        if self.failed or self.done:
            return
        forced = self.forced(1)
        if forced:
            allowed = np.array(forced)
        else:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
            allowed = allowed[allowed < len(scores)]
        if self._matcher.is_error():
            self.failed = _sentence(self._matcher.get_error())
        elif not len(allowed):
            self.failed = "no token of the model can follow"
        else:
            kept = torch.from_numpy(allowed).to(scores.device)
            values = scores[kept]
            if bool((values == -torch.inf).all()):  # what the folder of the model forbids
                self.failed = "what may follow are tokens that this model must not write"
                return
            scores.fill_(-torch.inf)
            scores[kept] = values

    def take(self, id: int) -> None:
        """One more id of the text."""
        if self.failed:
            raise Error(f"{self._kind}: {self.failed}")
        if id in self._eos:
            self._ended = self.whole
        elif not self._matcher.consume_token(id):
            raise Error(f"{self._kind}: {_sentence(self._matcher.get_error())}")

    def check(self, count: int) -> None:
        """Raise Error where a text that ends after `count` tokens is not whole."""
        if not self.whole:
            raise Error(
                f"the text ends after {count:,} tokens, before it is what {self._kind} asks for; raise max_new_tokens"
            )


def _sentence(message: str) -> str:
    """The first line of a message that shows where in the grammar the mistake is on further lines."""
    return message.partition("\n")[0].strip().rstrip(".:;") or "unknown mistake"


_vocabularies: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()
_turn = threading.Lock()  # an engine is asked from any thread


def guides_of(grammar: Grammar, tokenizer: Tokenizer, size: int, eos: Iterable[int]) -> Guides:
    """The Guides of a grammar for a network with `size` outputs and these end tokens."""
    library, ends = _library(), tuple(sorted(id for id in eos if id < size))
    with _turn:
        kept = _vocabularies.setdefault(tokenizer, {})
        if (size, ends) not in kept:
            words = Words(tokenizer, size, ends)
            known: list[int] = list(ends) or [words.none]
            kept[size, ends] = library.LLTokenizer(words, n_vocab=size + 1, eos_token=known)
        key = (size, ends, grammar)
        if key not in kept:
            for old in [one for one in kept if len(one) == 3][: -KEPT + 1 or None]:
                del kept[old]
            kept[key] = Guides(grammar, library, kept[size, ends], ends)
        return kept[key]
