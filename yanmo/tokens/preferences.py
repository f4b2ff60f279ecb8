"""Which of two answers is better → batches for preference objectives.

In: prompts with a chosen and a rejected answer. Out: endless `PreferenceBatch`es that can be taken up again (rows.py).

    PreferenceBatch       packed rows in which documents 2k − 1 and 2k are the chosen and the rejected answer of a pair
    Preferences           pairs of examples in memory; what was left out is counted
    gather_preferences    conversations → Preferences, ids and targets as in chats.py
    preference_batches    Preferences → batches

The prompt stands before each of the two answers, and the tokens of the answers alone are targets.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from yanmo.errors import InputError
from yanmo.tokens.chats import Unusable, chat_examples, example_rows
from yanmo.tokens.rows import Draws, RowBatches, pack
from yanmo.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

Side = tuple[np.ndarray, np.ndarray]  # ids int32, targets bool


class PreferenceBatch(NamedTuple):
    """Rows of answers, int64, each (B, T), as in `Batch`; in `mask` 2k − 1 is chosen, 2k rejected, of the k-th pair."""

    ids: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor

    @property
    def n_targets(self) -> int:
        """The number of pairs: a preference is one target."""
        return int(self.mask.amax(1).sum()) // 2

    def to(self, device: torch.device | str) -> PreferenceBatch:
        return PreferenceBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


@dataclass(frozen=True)
class Preferences:
    """Pairs of (chosen, rejected) that fit together into rows of `length` columns."""

    pairs: list[tuple[Side, Side]]
    length: int
    left_out: int

    @property
    def sha256(self) -> str:
        """The fingerprint of all pairs; a data position is only valid for those that have it."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            for ids, targets in pair:
                digest.update(len(ids).to_bytes(8, "little") + ids.tobytes() + targets.tobytes())
        return digest.hexdigest()


def gather_preferences(
    tokenizer: Tokenizer,
    preferences: Iterable[Mapping[str, Any]],
    length: int,
    *,
    too_long: str = "skip",
    **options: Any,
) -> Preferences:
    """Keep the pairs of which both answers, each behind its prompt, fit into one row of `length` columns together.

    A preference is a mapping: `prompt` is a text or messages, `chosen` and `rejected` are texts or messages that follow
    it. Others are counted and said in a warning; with too_long="error" one that is too long is an InputError. options:
    of `chat_examples`.
    """
    if too_long not in ("skip", "error"):
        raise InputError(f"too_long is {too_long!r}; choose skip or error")
    pairs: list[tuple[Side, Side]] = []
    number, left_out = -1, 0
    for number, preference in enumerate(preferences):
        try:
            chosen, rejected = _sides(tokenizer, preference, options)
        except Unusable:
            left_out += 1
            continue
        except InputError as error:
            raise InputError(f"preference {number}: {error}") from None
        size = len(chosen[0]) + len(rejected[0]) - 2
        if size > length and too_long == "error":
            raise InputError(f"preference {number} has {size} tokens, rows hold {length}; lengthen the rows")
        if size > length:
            left_out += 1
        else:
            pairs.append((chosen, rejected))
    if not pairs:
        why = f"all {left_out:,} preferences are left out, being longer than {length} tokens or without an answer"
        raise InputError(f"{why}; lengthen the rows" if left_out else "there are no preferences; give at least one")
    if left_out:
        warnings.warn(
            f"{left_out:,} of {number + 1:,} preferences are left out, being longer than {length} tokens or without an "
            "answer that can be told from its prompt; lengthen the rows to keep more",
            stacklevel=2,
        )
    return Preferences(pairs, length, left_out)


def _sides(tokenizer: Tokenizer, preference: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Side, Side]:
    if not isinstance(preference, Mapping) or not {"prompt", "chosen", "rejected"} <= preference.keys():
        raise InputError("it is no {'prompt': …, 'chosen': …, 'rejected': …}; give all three")
    prompt = _messages(preference["prompt"], "user")
    found = []
    for name in ("chosen", "rejected"):
        talk = [*prompt, *_messages(preference[name], "assistant")]
        (example,) = chat_examples(tokenizer, talk, **{**options, "turns": "last"})
        found.append((np.array(example.ids, np.int32), np.array(example.targets)))
    return found[0], found[1]


def _messages(value: Any, role: str) -> list[Any]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, Sequence):
        raise InputError(f"a text or messages are needed, not {type(value).__name__}")
    return list(value)


def preference_batches(preferences: Preferences, rows: int, *, seed: int = 0) -> RowBatches[PreferenceBatch]:
    """Endless batches of `rows` packed rows; each pair is read once per epoch, its two answers in one row."""
    sizes = np.array([[len(chosen[0]) + len(rejected[0]) - 2] for chosen, rejected in preferences.pairs])

    def make(drawn: list[tuple[np.ndarray, Draws]]) -> PreferenceBatch:
        rows = [[side for number in items.tolist() for side in preferences.pairs[number]] for items, _ in drawn]
        return PreferenceBatch(*example_rows(rows))

    return RowBatches(
        lambda draws: pack(draws.order(len(preferences.pairs)), sizes, [preferences.length]),
        make,
        rows=rows,
        seed=seed,
        identity={"preferences": preferences.sha256, "length": preferences.length},
        source="preferences",
    )
