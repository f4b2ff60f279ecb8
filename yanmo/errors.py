"""Every error that Yanmo raises on purpose.

    Error                 one sentence: the value, the limit, the remedy
    ├── InputError        an argument, an option or a text that cannot be used
    ├── ConfigError       a config.json or recipe: an unknown key, a value outside its range, a contradiction
    ├── FileError         a file or folder that is missing, damaged, foreign or hostile
    ├── NetworkError      a download that was asked for and did not arrive
    ├── BusyError         a queue that is full; the same request may be taken later
    └── MissingExtra      an optional package is absent; the sentence names the pip command

The command line prints the sentence and ends with exit code 2. Anything else that escapes is a defect of Yanmo.

    try:
        model = yanmo.load("my-model")
    except yanmo.Error as error:
        print(error)
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class Error(Exception):
    """Base of all errors that a user can cause and mend."""


class InputError(Error, ValueError):
    """An argument, an option or a text that cannot be used."""


class ConfigError(Error, ValueError):
    """A configuration with an unknown key, a value outside its range, or a contradiction."""


class FileError(Error, OSError):
    """A file or folder that is missing, damaged, foreign or hostile."""


class NetworkError(Error, OSError):
    """A download that was asked for and did not arrive."""


class BusyError(Error, RuntimeError):
    """A queue that is full; the same request may be taken later."""


class MissingExtra(Error, ImportError):
    """An optional package is absent."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (nearest: 'x')" for a mistyped name, or an empty string where nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (nearest: {close[0]!r})" if close else ""


def need(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or raise MissingExtra naming the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise MissingExtra(
            f'{purpose} needs the package {package}, which is not installed: pip install "yanmo[{extra}]"'
        ) from None
