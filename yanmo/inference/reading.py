"""Prompts → the first logits of their texts, a part at a time, from what is known of their beginnings.

    Reader.feed      read the next part of a prompt
    Reader.keep      remember a finished text for the one that begins with it

What a network computes for a token may depend on how many tokens are read at once: with rotary positions that stretch
with the length ("dynamic") it does, so such prompts are read whole and nothing of them is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yanmo.errors import InputError
from yanmo.inference.generate import Ends, positions_held
from yanmo.inference.prefixes import BLOCK, Prefixes
from yanmo.inference.requests import Row
from yanmo.inference.slots import given, given_memory, taken, taken_memory
from yanmo.models.protocol import LanguageModel


def reads_in_parts(network: LanguageModel) -> bool:
    """Whether reading a text in parts computes what reading it at once does."""
    scaling = getattr(network.config, "rope_scaling", None)
    return scaling is None or scaling.kind != "dynamic"


class Reader:
    """Owns no text: what has been read of one is in its row."""

    def __init__(self, network: LanguageModel, ends: Ends, prefixes: Prefixes) -> None:
        self.network, self._ends, self._prefixes = network, ends, prefixes
        self._device = network.device  # type: ignore[attr-defined]
        self._pair = network.config.kind == "encoder-decoder"
        self._parts = reads_in_parts(network)
        self._keeps = self._parts and prefixes.most > 0
        self._states = not hasattr(network.new_cache(0, 1), "keys")  # a state is known where reading stopped alone
        self.counts = {"prompt_tokens": 0, "reused_tokens": 0}

    def check_source(self, ids: Sequence[int]) -> None:
        """Refuse a source for which the encoder has no positions, or a model whose decoder has no beginning."""
        room = positions_held(self.network)
        if room and len(ids) > room:
            raise InputError(f"the prompt has {len(ids):,} tokens, the model has positions for {room:,}; shorten it")
        if not ids:
            raise InputError("an empty prompt, and a tokenizer without a token to begin with; write something")
        if self._ends.start_id is None:
            raise InputError("the model does not say with which token its decoder starts (decoder_start_token_id)")

    def feed(self, row: Row, budget: int, chunk: int) -> tuple[int, Tensor | None]:
        """Read at most `budget` tokens, `chunk` of which are a whole turn's.

        Returns how many were read (0: the rest cannot be parted and waits for a whole turn), and the logits (1, V) of
        what follows once all are.
        """
        whole = self._pair or not self._parts
        if whole and budget < min(len(row.ids), chunk):
            return 0, None
        if self._pair:
            return self._source(row)
        if row.cache is None:
            self._start(row)
        left = len(row.ids) - row.fed
        count = left if whole else min(left, budget)
        if self._states and self._keeps:  # stop where a block ends
            border = (row.fed + count) // BLOCK * BLOCK
            count = border - row.fed if border > row.fed else count
        part = torch.tensor([row.ids[row.fed : row.fed + count]], device=self._device)
        hidden = self.network.decode(part, cache=row.cache)
        row.fed += count
        self.counts["prompt_tokens"] += count
        done = row.fed == len(row.ids)
        if self._keeps and (self._states or done):
            self._keep(row.ids[: row.fed], row.cache, 0, row)
        return count, self.network.logits(hidden[:, -1]).float() if done else None

    def _start(self, row: Row) -> None:
        row.cache = self.network.new_cache(1, len(row.ids))
        if not self._keeps:
            return
        found = self._prefixes.find(row.ids[:-1], row.scope)  # the last token is always read, for its logits
        if self._states:
            while found and found[-1].data is None:
                found.pop()
            parts = [node.data for node in found[-1:]]
        else:
            parts = [node.data for node in found]
        if parts:
            row.fed = len(found) * BLOCK
            given(row.cache, [p for p in parts if p is not None], row.fed)
            self.counts["reused_tokens"] += row.fed

    def _source(self, row: Row) -> tuple[int, Tensor]:
        """Encode the source, once for all that ask for it, and begin the target."""
        row.cache = self.network.new_cache(1, 1)
        known = self._prefixes.find_whole(row.ids, row.scope) if self._keeps else None
        if known is None:
            memory = self.network.encode(torch.tensor([row.ids], device=self._device))
            self.counts["prompt_tokens"] += len(row.ids)
        else:
            given_memory(row.cache, known)
            memory = known.new_zeros((1, 0, 1))  # its keys and values are there, and it is not looked at
            self.counts["reused_tokens"] += len(row.ids)
        start = torch.tensor([[self._ends.start_id]], device=self._device)
        hidden = self.network.decode(start, memory=memory, cache=row.cache)
        if known is None and self._keeps:
            self._prefixes.add_whole(row.ids, taken_memory(row.cache), row.scope)
        row.fed = len(row.ids)
        return len(row.ids) if known is None else 1, self.network.logits(hidden[:, -1]).float()

    def keep(self, row: Row, cache: Any, place: int) -> None:
        """Keep the blocks of a finished text for the next that begins so; states are kept while prompts are read."""
        if self._keeps and not self._pair and not self._states:
            self._keep([*row.ids, *row.new[:-1]], cache, place, row)

    def _keep(self, ids: Sequence[int], cache: Any, place: int, row: Row) -> None:
        def read(start: int, stop: int) -> Tensor | None:
            if self._states and stop != len(ids):
                return None
            return taken(cache, place, start, stop)

        self._prefixes.add(ids, read, row.scope)
