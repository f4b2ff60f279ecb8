"""What every language model of Yanmo can do. Training, inference and tasks ask for nothing else.

B rows, T columns of this call, S columns of the memory, W width, V vocabulary
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from yanmo.models.config import RecurrentConfig, TransformerConfig


class State(Protocol):
    """What a model remembers between the calls that decode one text."""

    lengths: Tensor  # (B,) tokens held for each row

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in the given order; a row may be repeated."""
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """Ids → hidden → logits, in two steps, so that losses are chunked and tasks attach heads of their own."""

    @property
    def config(self) -> TransformerConfig | RecurrentConfig:
        """The definition of the model."""
        ...

    def encode(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the memory (B, S, W) of an encoder."""
        ...

    def decode(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Return the hidden (B, T, W) of a decoder; with a cache, of the tokens that follow those it holds."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores (…, V) over the vocabulary."""
        ...

    def new_cache(self, rows: int, length: int) -> State:
        """Return an empty cache for `rows` texts of about `length` tokens; it grows where a text is longer."""
        ...
