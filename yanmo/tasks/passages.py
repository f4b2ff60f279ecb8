"""Questions on passages → windows of ids: the question whole in each, and the passage through as many as it needs.

In: (name, question, passage) of each row, how many tokens a window has, how many of the passage two of them share.
Out: `Passages`: windows that know from which characters of the passage each of their ids comes.

    pair_frame        what a vocabulary puts before, between and behind two texts
    encode_passages   rows → Passages
    Passages          windows; `documents` makes their ids, `labelled` gives them targets

A passage that many questions share is encoded once; the ids of a window are put together when they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yanmo.errors import InputError
from yanmo.tasks.windows import windows
from yanmo.tokens.labelled import Document, Labelled
from yanmo.tokens.tokenizer import Tokenizer

AT_ONCE = 512  # texts that are encoded together
LEAST = 16  # tokens of a passage that a window must have room for
_SURROGATE = re.compile("[\ud800-\udfff]")
PROBES = ("a", "b", "1", "。", "的", ".")

Row = tuple[str, str, str]


@dataclass(frozen=True)
class PairFrame:
    """Ids before the first text, between the two, and behind the second; token types of the two sides with theirs."""

    before: list[int]
    between: list[int]
    behind: list[int]
    types: tuple[list[int], int, list[int], int, list[int]]  # of before, first text, between, second text, behind

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.behind)


@dataclass(frozen=True)
class Passages:
    """Windows in the order of their rows.

    texts: the passages, each once; ranges: characters (N, 2) of the ids of each; visible: whether they have one that is
    no white space; of_row: the passage of a row; windows: (W, 3), the row, and the first and the last token (exclusive)
    of its passage. null: the place in a window that stands for "no answer": its first id, or its last where a token
    sees only those before it.
    """

    frame: PairFrame
    questions: list[list[int]]
    texts: list[str]
    ids: list[np.ndarray]
    ranges: list[np.ndarray]
    visible: list[np.ndarray]
    of_row: np.ndarray
    windows: np.ndarray
    length: int
    typed: bool
    causal: bool

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def rows(self) -> int:
        return len(self.questions)

    def head(self, row: int) -> int:
        """Ids before the passage in every window of a row."""
        return len(self.frame.before) + len(self.questions[row]) + len(self.frame.between)

    def null(self, window: int) -> int:
        row, begin, end = self.windows[window].tolist()
        return self.head(row) + end - begin + len(self.frame.behind) - 1 if self.causal else 0

    def document(self, window: int) -> tuple[list[int], list[int]]:
        """(ids, token types) of a window; the types are empty where the model has none."""
        row, begin, end = self.windows[window].tolist()
        question, passage = self.questions[row], self.ids[self.of_row[row]][begin:end].tolist()
        frame, types = self.frame, self.frame.types
        ids = [*frame.before, *question, *frame.between, *passage, *frame.behind]
        if not self.typed:
            return ids, []
        first, second = [types[1]] * len(question), [types[3]] * len(passage)
        return ids, [*types[0], *first, *types[2], *second, *types[4]]

    def labelled(self, targets: np.ndarray | None = None) -> Labelled:
        """The windows as documents with (first, last) places as targets (W, 2); without them all are the null place."""

        def documents() -> Iterator[Document]:
            for window in range(len(self)):
                target = (self.null(window),) * 2 if targets is None else targets[window]
                ids, types = self.document(window)
                yield Document(ids, target, types)

        return Labelled.gather(documents(), self.length, kind="spans")

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """The windows of some rows, ascending."""
        return np.flatnonzero(np.isin(self.windows[:, 0], rows))


def pair_frame(tokenizer: Tokenizer) -> PairFrame:
    """The frame of a pair, found with two short texts; an InputError where the vocabulary shows none."""
    for first, second in zip(PROBES, PROBES[1:]):
        one, two = (tokenizer.encode(text, add_special_tokens=False) for text in (first, second))
        ids, types = tokenizer.encode_pair(first, second)
        if not one or not two:
            continue
        start = next((n for n in range(len(ids)) if ids[n : n + len(one)] == one), -1)
        last = next((n for n in range(len(ids) - len(two), -1, -1) if ids[n : n + len(two)] == two), -1)
        if start < 0 or last < start + len(one):
            continue
        middle, end = start + len(one), last + len(two)
        types = list(types) or [0] * len(ids)
        kinds = (types[:start], types[start], types[middle:last], types[last], types[end:])
        return PairFrame(ids[:start], ids[middle:last], ids[end:], kinds)
    raise InputError("the vocabulary has no frame for a question and a passage; use a tokenizer that encodes pairs")


def encode_passages(tokenizer: Tokenizer, rows: Sequence[Row], length: int, stride: int, config: Any) -> Passages:
    """Encode every row whole.

    An empty question or passage, and a question that leaves no room for its passage, are an InputError with the name
    of the row.
    """
    frame = pair_frame(tokenizer)
    numbers: dict[str, int] = {}
    for name, question, passage in rows:
        for what, text in (("question", question), ("passage", passage)):
            if not text.strip():
                raise InputError(f"{name}: the {what} is empty; fill it in, or leave the row out")
            if not text.isascii() and _SURROGATE.search(text):
                raise InputError(f"{name}: the {what} has half a character (a lone surrogate); mend or remove it")
        numbers.setdefault(passage, len(numbers))
    texts = list(numbers)
    questions = [ids for part in _parts([row[1] for row in rows]) for ids in tokenizer.encode_batch(part, False)]
    ids: list[np.ndarray] = []
    ranges: list[np.ndarray] = []
    visible: list[np.ndarray] = []
    for part in _parts(texts):
        for passage, (found, places) in zip(part, tokenizer.encode_offsets(part), strict=True):
            ids.append(np.array(found, np.int32))
            ranges.append(np.array(places, np.int32).reshape(-1, 2))
            visible.append(np.array([bool(passage[begin:end].strip()) for begin, end in places], bool))
    of_row = np.array([numbers[passage] for _, _, passage in rows], np.int64)
    cuts: list[tuple[int, int, int]] = []
    for row, ((name, _, _), asked) in enumerate(zip(rows, questions, strict=True)):
        room = length - frame.size - len(asked)
        if room < LEAST:
            raise InputError(
                f"{name}: the question has {len(asked)} tokens, and leaves {max(room, 0)} of {length} for the "
                f"passage, at least {LEAST} are needed; shorten it, or raise train.length"
            )
        count = len(ids[of_row[row]])
        if not count:
            raise InputError(f"{name}: the passage has no tokens; correct it, or leave the row out")
        cuts += [(row, begin, end) for begin, end in windows(count, room, min(stride, room // 2))]
    typed = getattr(config, "n_token_types", 0) > 0
    causal = getattr(config, "kind", "") == "decoder"
    table = np.array(cuts, np.int64).reshape(-1, 3)
    return Passages(frame, questions, texts, ids, ranges, visible, of_row, table, length, typed, causal)


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for begin in range(0, len(texts), AT_ONCE):
        yield texts[begin : begin + AT_ONCE]
