"""From raw text to a language model that works, on the computer that you have.

    import yanmo
    model = yanmo.load("gpt2")                    # hub id, model folder, run folder
    model.generate("Once upon a time", max_new_tokens=100, temperature=0.7)
    model.logits(ids)                             # (batch, position, vocabulary), float32

In: nothing; importing this package imports no other. Out: the public names below, each fetched from its room at first
use (PEP 562). PUBLIC says where each one lives; the TYPE_CHECKING block says the same to type checkers, and a test
holds the two equal.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

PUBLIC = {
    "ConfigError": "yanmo.errors",
    "Error": "yanmo.errors",
    "FileError": "yanmo.errors",
    "InputError": "yanmo.errors",
    "MissingExtra": "yanmo.errors",
    "NetworkError": "yanmo.errors",
    "doctor": "yanmo.machine",
}

__all__ = ["ConfigError", "Error", "FileError", "InputError", "MissingExtra", "NetworkError", "__version__", "doctor"]

if TYPE_CHECKING:
    from yanmo.errors import ConfigError, Error, FileError, InputError, MissingExtra, NetworkError
    from yanmo.machine import doctor


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'yanmo' has no attribute {name!r}")
    value = getattr(importlib.import_module(PUBLIC[name]), name)
    globals()[name] = value  # so that the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return __all__
