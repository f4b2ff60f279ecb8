"""Conversations → ids and targets: the model learns the answers, and that they end.

In: messages, a chat template (chat.py). Out: packed batches in which the tokens of the assistant's turns are targets.

    chat_examples    one conversation → its ids, equal to those at inference, and which of them are targets
    Chats            many of them in memory; what was left out is counted
    gather_chats     conversations → Chats
    chat_batches     Chats → endless batches that can be taken up again (rows.py)

**Where an answer stands in the text** is what the template says: between {% generation %} and {% endgeneration %} where
it has them. Else the conversation is rendered up to the answer, with the generation prompt, and up to its end; where
both are prefixes of the whole, the answer lies between them. A template that writes earlier turns differently once the
conversation goes on (some drop the reasoning) is refused: `turns="each"` trains each answer in the text that inference
would give it.

**Where it stands in the ids.** The ids are those of the whole text. The ids of the text before the answer must be their
beginning, as they are at inference; a conversation in which a token reaches over that border is left out.

**The end.** The answer's last target is the special token that ends it, inside the answer or right behind it; white
space after it is no target, since generation stops before. A template without one is refused.
"""

from __future__ import annotations

import functools
import hashlib
import re
import secrets
import warnings
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from yanmo.errors import ConfigError, InputError
from yanmo.tokens.batches import NO_TARGET, Batch
from yanmo.tokens.chat import check, render, template_of, text_ids, variables
from yanmo.tokens.rows import Draws, RowBatches, pack
from yanmo.tokens.tokenizer import Tokenizer

Messages = Sequence[Mapping[str, Any]]
Span = tuple[int, int]  # from, to: characters of a text or places in ids
TURNS = ("all", "last", "each")
TOO_LONG = ("skip", "cut", "error")
MARKS = re.compile(r"\{%([-+]?)\s*(generation|endgeneration)\s*([-+]?)%\}")
LONG, NO_ANSWER, BORDER = "longer than a row", "without an answer", "with a token over the border of an answer"


class Example(NamedTuple):
    """Ids, and for each whether it is a target; the last one is."""

    ids: list[int]
    targets: list[bool]


class Unusable(InputError):
    """One conversation that cannot be trained on; `kind` is what it is counted under."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def chat_examples(
    tokenizer: Tokenizer,
    messages: Messages,
    *,
    template: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    turns: str = "all",
    end_ids: Collection[int] | None = None,
    **kwargs: Any,
) -> list[Example]:
    """The examples that a conversation gives: one with all answers as targets, with the last alone, or one for each.

    end_ids: the tokens at which generation stops, by default every special token but unknown and mask. kwargs: further
    variables of the template. Raises ConfigError for a template in which answers cannot be found or do not end, and
    InputError for a conversation that cannot be used.
    """
    if turns not in TURNS:
        raise InputError(f"turns is {turns!r}; choose one of {', '.join(TURNS)}")
    checked = check(messages)
    answers = [place for place, message in enumerate(checked) if message["role"] == "assistant"]
    if not answers or (turns == "last" and answers[-1] != len(checked) - 1):
        raise Unusable(NO_ANSWER, "the conversation has no assistant's answer at its end; there is nothing to learn")
    if end_ids is None:
        end_ids = tokenizer.special_ids - {tokenizer.unk_id, tokenizer.mask_id}
    source = template_of(tokenizer, template, tools)
    names = variables(tokenizer) | kwargs

    def write(part: Messages, prompt: bool = False, with_template: str = source) -> str:
        return render(part, with_template, add_generation_prompt=prompt, tools=tools, **names)

    parts = [checked] if turns != "each" else [checked[: place + 1] for place in answers]
    examples = []
    for part in parts:
        whole, spans = _answers(part, source, write, every=turns == "all")
        examples.append(_example(tokenizer, whole, spans, end_ids))
    return examples


def _answers(messages: Messages, template: str, write: Callable[..., str], every: bool) -> tuple[str, list[Span]]:
    """The text of a conversation, and where in it the answers stand (all of them, or the last)."""
    if {match.group(2) for match in MARKS.finditer(template)} == {"generation", "endgeneration"}:
        whole, spans = _marked(messages, template, write)
        return whole, spans if every else spans[-1:]
    whole = write(messages)
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    spans = []
    for place in answers if every else answers[-1:]:
        before = write(messages[:place], prompt=True) if place else ""
        upto = write(messages[: place + 1]) if place + 1 < len(messages) else whole
        if not (upto.startswith(before) and whole.startswith(upto)):
            raise ConfigError(
                f"the chat template writes message {place} or those before it differently once the conversation goes "
                "on, so answers cannot be found in its text; train with turns='each', or give a template that marks "
                "them with {% generation %}"
            )
        spans.append((len(before), len(upto)))
    return whole, spans


def _marked(messages: Messages, template: str, write: Callable[..., str]) -> tuple[str, list[Span]]:
    """Render with a mark at each tag: `print` is a block tag too, so white space is treated as around the tag."""
    name = secrets.token_hex(8)
    marks = {"generation": f"\ue000{name}\ue001", "endgeneration": f"\ue002{name}\ue001"}
    printing = MARKS.sub(lambda match: f'{{%{match[1]} print "{marks[match[2]]}" {match[3]}%}}', template)
    whole, marked = write(messages), write(messages, with_template=printing)
    pieces = re.split(f"([\ue000\ue002]){name}\ue001", marked)
    texts, kinds = pieces[::2], pieces[1::2]
    if "".join(texts) != whole or kinds != ["\ue000", "\ue002"] * (len(kinds) // 2) or not kinds:
        raise ConfigError(
            "the chat template's {% generation %} does not mark the answers in its text one after another; correct "
            "it, or give a template without it"
        )
    ends = np.cumsum([len(text) for text in texts]).tolist()
    return whole, list(zip(ends[::2], ends[1::2]))


def _example(tokenizer: Tokenizer, whole: str, spans: Sequence[Span], end_ids: Collection[int]) -> Example:
    ids = text_ids(tokenizer, whole)
    targets = [False] * len(ids)
    for begin, end in spans:
        first, behind = (_border(tokenizer, ids, whole, place) for place in (begin, end))
        last = _end(tokenizer, ids, (first, behind), end_ids)
        targets[first : last + 1] = [True] * (last + 1 - first)
    if not any(targets):
        raise Unusable(NO_ANSWER, "the answers of the conversation are empty; there is nothing to learn")
    size = len(targets) - targets[::-1].index(True)
    return Example(ids[:size], targets[:size])


def _border(tokenizer: Tokenizer, ids: list[int], whole: str, place: int) -> int:
    """How many ids stand before a character of the text."""
    before = text_ids(tokenizer, whole[:place])
    if ids[: len(before)] != before:
        raise Unusable(
            BORDER,
            f"a token reaches over the border of an answer at {whole[max(place - 20, 0) : place]!r}; write the answer "
            "without white space around it",
        )
    return len(before)


def _end(tokenizer: Tokenizer, ids: list[int], span: Span, end_ids: Collection[int]) -> int:
    """The place of the token that ends an answer."""
    first, behind = span
    for place in range(behind - 1, first - 1, -1):
        if ids[place] in end_ids:
            return place
        if tokenizer.decode([ids[place]], skip_special_tokens=False).strip():
            break
    if behind < len(ids) and ids[behind] in end_ids:
        return behind
    raise ConfigError(
        "the chat template writes no end token behind an answer, so the model would never learn to stop; use one that "
        "ends answers with the eos token, or name the token in end_ids"
    )


# --- many


@dataclass(frozen=True)
class Chats:
    """Examples in one array each: `ids` int32 and `targets` bool, with the bounds of the examples.

    `left_out` counts conversations by the reason why they are not here, `cut` those that were cut behind an answer.
    """

    ids: np.ndarray
    targets: np.ndarray
    bounds: np.ndarray
    length: int
    left_out: Mapping[str, int]
    cut: int

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, targets)."""
        place = slice(self.bounds[number], self.bounds[number + 1])
        return self.ids[place], self.targets[place]

    @property
    def sha256(self) -> str:
        """The fingerprint of all examples; a data position is only valid for those that have it."""
        digest = hashlib.sha256()
        for data in (self.ids, self.targets, self.bounds):
            digest.update(data.tobytes())
        return digest.hexdigest()


def gather_chats(
    tokenizer: Tokenizer,
    conversations: Iterable[Messages | Mapping[str, Any]],
    length: int,
    *,
    too_long: str = "skip",
    **options: Any,
) -> Chats:
    """Keep what fits into rows of `length` columns; everything else is counted and said in a warning.

    A conversation is a list of messages, or a mapping with `messages` and `tools`. too_long: "skip" leaves a longer one
    out, "cut" keeps it up to the last answer that fits whole, "error" is an InputError. options: of `chat_examples`.
    """
    if too_long not in TOO_LONG:
        raise InputError(f"too_long is {too_long!r}; choose one of {', '.join(TOO_LONG)}")
    ids, targets, bounds = array("i"), array("b"), array("q", [0])
    left_out: Counter[str] = Counter()
    given = cut = 0
    for number, conversation in enumerate(conversations):
        try:
            examples = _examples(tokenizer, conversation, options)
        except Unusable as error:
            left_out[error.kind] += 1
            given += 1
            continue
        except InputError as error:
            raise InputError(f"conversation {number}: {error}") from None
        given += len(examples)
        for example in examples:
            kept = _fitting(example, length, too_long)
            if kept is None and too_long == "error":
                raise InputError(
                    f"conversation {number} has {len(example.ids) - 1} tokens, rows hold {length}; lengthen the rows, "
                    "or skip or cut such conversations"
                )
            if kept is None:
                left_out[LONG] += 1
                continue
            cut += len(kept.ids) < len(example.ids)
            ids.extend(kept.ids)
            targets.extend(kept.targets)
            bounds.append(len(ids))
    _report(given, left_out, cut, length)
    arrays = np.frombuffer(ids, np.int32), np.frombuffer(targets, np.int8).astype(bool), np.frombuffer(bounds, np.int64)
    return Chats(*arrays, length, dict(left_out), cut)


def _examples(tokenizer: Tokenizer, conversation: Any, options: Mapping[str, Any]) -> list[Example]:
    if not isinstance(conversation, Mapping):
        return chat_examples(tokenizer, conversation, **options)
    if "messages" not in conversation:
        raise InputError(f"it has the keys {sorted(map(str, conversation))}, and no 'messages'")
    tools = {"tools": conversation["tools"]} if conversation.get("tools") else {}
    return chat_examples(tokenizer, conversation["messages"], **{**options, **tools})


def _fitting(example: Example, length: int, too_long: str) -> Example | None:
    """The example, or its beginning up to the last answer that fits whole, or None."""
    if len(example.ids) - 1 <= length:
        return example
    ends = np.flatnonzero(np.array(example.targets[: length + 1]) & ~np.array(example.targets[1 : length + 2]))
    if too_long != "cut" or not len(ends):
        return None
    return Example(example.ids[: ends[-1] + 1], example.targets[: ends[-1] + 1])


def _report(given: int, left_out: Mapping[str, int], cut: int, length: int) -> None:
    lost = sum(left_out.values())
    parts = [f"{count:,} {reason}" for reason, count in left_out.items()]
    if lost == given:
        why = f"all {given:,} conversations are left out: {', '.join(parts)}" if given else "there are no conversations"
        raise InputError(f"{why} (rows hold {length} tokens); lengthen the rows or give other conversations")
    if lost or cut:
        parts += [f"{cut:,} cut behind an answer to fit"] if cut else []
        warnings.warn(
            f"of {given:,} conversations {lost:,} are left out ({', '.join(parts)}; rows hold {length} tokens); "
            "lengthen the rows to keep more",
            stacklevel=3,
        )


def chat_batches(chats: Chats, rows: int, *, seed: int = 0) -> RowBatches[Batch]:
    """Endless batches of `rows` packed rows for a decoder; each example is read once per epoch, whole."""
    sizes = np.diff(chats.bounds)[:, None] - 1
    return RowBatches(
        lambda draws: pack(draws.order(len(chats)), sizes, [chats.length]),
        functools.partial(_batch, chats),
        rows=rows,
        seed=seed,
        identity={"chats": chats.sha256, "length": chats.length},
        source="conversations",
    )


def _batch(chats: Chats, drawn: list[tuple[np.ndarray, Draws]]) -> Batch:
    return example_rows([[chats[number] for number in items.tolist()] for items, _ in drawn])


def example_rows(rows: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]) -> Batch:
    """The batch of rows of (ids, targets): each id predicts the next one, where that is a target."""
    import torch

    width = max(sum(len(ids) - 1 for ids, _ in row) for row in rows)
    cells = np.zeros((3, len(rows), width), np.int64)
    cells[1] = NO_TARGET
    for place, row in enumerate(rows):
        column = 0
        for number, (ids, targets) in enumerate(row, start=1):
            end = column + len(ids) - 1
            cells[0, place, column:end], cells[2, place, column:end] = ids[:-1], number
            cells[1, place, column:end] = np.where(targets[1:], ids[1:], NO_TARGET)
            column = end
    return Batch(*torch.from_numpy(cells))
