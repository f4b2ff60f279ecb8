"""The compiled library for texts: found, or absent with its reason; what it does is also done without it.

In: bytes of text. Out: ids, or plain text out of wikitext. The library is built with the package (setup.py) from
kernels/text; it knows nothing of tensors, so the rooms that never import torch may use it.

    library        the loaded library, or None
    why_absent     one sentence
    FUNCTIONS      its C interface
    BpeParts       what a byte-level BPE is made of (kernels/text/bpe.h)

YANMO_KERNELS=off uses none of it. It is read once, when the library is first needed.
"""

from __future__ import annotations

import ctypes
import functools
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

VARIABLE = "YANMO_KERNELS"
VERSION = 2  # of the C interface
FOLDER = Path(__file__).resolve().parent / "kernels"
POINTER, SIZE, NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32

ASK = ctypes.CFUNCTYPE(SIZE, NUMBER, POINTER, SIZE)  # a question of the converter of wikitext
FUNCTIONS: tuple[tuple[str, list[Any], Any], ...] = (
    ("yanmo_wiki_new", [ASK], POINTER),
    ("yanmo_wiki_free", [POINTER], None),
    ("yanmo_wiki_answer", [POINTER, ctypes.c_char_p, SIZE], None),
    ("yanmo_wiki_plain", [POINTER, ctypes.c_char_p, SIZE, NUMBER], SIZE),
    ("yanmo_wiki_out", [POINTER], POINTER),
    ("yanmo_wiki_disambiguation", [POINTER, ctypes.c_char_p, SIZE], SIZE),
    ("yanmo_xml_text", [ctypes.c_char_p, SIZE, POINTER], SIZE),
    ("yanmo_utf8", [ctypes.c_char_p, SIZE], NUMBER),
    ("yanmo_bpe_new", [POINTER], POINTER),
    ("yanmo_bpe_free", [POINTER], None),
    ("yanmo_bpe_encode", [POINTER, ctypes.c_char_p, SIZE, POINTER], SIZE),
)


class BpeParts(ctypes.Structure):
    """BpeParts of bpe.h."""

    _fields_ = [
        *((name, POINTER) for name in ("classes", "byte_ids", "merges", "folds")),
        *((name, POINTER) for name in ("words", "word_ends", "word_ids", "added", "added_ends")),
        *((name, SIZE) for name in ("n_merges", "n_folds", "n_words", "n_added")),
        *((name, NUMBER) for name in ("style", "digits")),
    ]


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and the reason."""
    if os.environ.get(VARIABLE, "").strip().lower() == "off":
        return None, f"switched off by {VARIABLE}=off"
    found = [FOLDER / f"_text{suffix}" for suffix in EXTENSION_SUFFIXES if (FOLDER / f"_text{suffix}").is_file()]
    if not found:
        return None, "not compiled when Yanmo was installed"
    try:
        loaded = ctypes.CDLL(str(found[0]))
        if loaded.yanmo_text_version() != VERSION:
            return None, f"{found[0].name} is of another version of Yanmo"
        for name, given, returned in FUNCTIONS:
            function = getattr(loaded, name)
            function.argtypes, function.restype = given, returned
    except (OSError, AttributeError) as error:
        return None, f"{found[0].name} cannot be loaded ({error})"
    return loaded, ""


def library() -> ctypes.CDLL | None:
    """The loaded library, or None where the work is done without it."""
    return _load()[0]


def why_absent() -> str:
    """Why there is no library, or an empty string."""
    return _load()[1]
