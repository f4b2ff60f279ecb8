"""The compiled library: find it, choose what of the processor it uses.

    library        the loaded library, or None where it was not built or YANMO_KERNELS is "off"
    why_absent     one sentence, for `yanmo doctor`
    levels, level, using     the levels of this processor, plainest first; the one in use; another one for a while

YANMO_KERNELS: "off" uses the twins alone; the name of a level (plain, avx2, avxvnni, avx512, amx, neon) goes no
further up.
It is read once, when a kernel is first used.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from yanmo.errors import InputError, nearest

VARIABLE = "YANMO_KERNELS"
VERSION = 4  # of the C interface (api.cpp)
FOLDER = Path(__file__).resolve().parent

_disabled = False


def _fields(*kinds: tuple[Any, str]) -> list[tuple[str, Any]]:
    """(type, "names") → the fields of a structure, in order."""
    return [(name, kind) for kind, names in kinds for name in re.split(r"\s+", names.strip())]


POINTER, SIZE, NUMBER, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


class AttendJob(ctypes.Structure):
    """AttendJob of common.h."""

    _fields_ = _fields(
        (POINTER, "query key value key_scale value_scale last out places"),
        (SIZE, "query_row query_head query_token key_row key_head key_column value_row value_head value_column"),
        (SIZE, "scale_row scale_head scale_column place_row out_row out_token out_head"),
        (SIZE, "rows kv_heads groups tokens head_width window"),
        (FLOAT, "scale"),
        (NUMBER, "type cached"),
        (POINTER, "failed"),
    )


class ActivateJob(ctypes.Structure):
    """ActivateJob of common.h."""

    _fields_ = _fields((POINTER, "x gated out"), (SIZE, "count"), (NUMBER, "activation type"))


class Matrix(ctypes.Structure):
    """YanmoMatrix of jobs.h."""

    _fields_ = _fields((POINTER, "panels scale sums bias"), (SIZE, "outputs inputs format"))


class Step(ctypes.Structure):
    """YanmoStep of step.cpp."""

    _fields_ = _fields(
        (SIZE, "kind"),
        (POINTER, "what more x out"),
        (SIZE, "stride out_stride width parts row part flag"),
        (FLOAT, "eps"),
    )


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and the reason."""
    wish = os.environ.get(VARIABLE, "").strip().lower()
    if wish == "off":
        return None, f"switched off by {VARIABLE}=off"
    found = [FOLDER / f"_native{suffix}" for suffix in EXTENSION_SUFFIXES if (FOLDER / f"_native{suffix}").is_file()]
    if not found:
        return None, "not compiled when Yanmo was installed"
    try:
        loaded = ctypes.CDLL(str(found[0]))
        if loaded.yanmo_version() != VERSION:
            return None, f"{found[0].name} is of another version of Yanmo"
    except (OSError, AttributeError) as error:
        return None, f"{found[0].name} cannot be loaded ({error})"
    loaded.yanmo_level_name.restype = ctypes.c_char_p
    loaded.yanmo_level.restype = ctypes.c_char_p
    matrix: list[Any] = [POINTER] * 4 + [SIZE] * 3
    rows: list[Any] = [POINTER, SIZE, SIZE, POINTER, SIZE, SIZE]
    loaded.yanmo_linear.argtypes = [*matrix, *rows, NUMBER]
    loaded.yanmo_attend.argtypes = loaded.yanmo_activate.argtypes = [POINTER, NUMBER]
    loaded.yanmo_activate.restype = None
    loaded.yanmo_run.argtypes = [POINTER, SIZE, SIZE, POINTER, POINTER, NUMBER]
    if wish:
        loaded.yanmo_use_level(_place(wish, _names(loaded)))
    return loaded, ""


def library() -> ctypes.CDLL | None:
    """The loaded library, or None where the twins do its work."""
    return None if _disabled else _load()[0]


def why_absent() -> str:
    """Why there is no library, or an empty string."""
    return _load()[1]


def levels() -> list[str]:
    """The levels that this processor has, from the plainest to the fastest; none without the library."""
    loaded = _load()[0]
    return [] if loaded is None else _names(loaded)


def level() -> str:
    """The level in use; "" where the twins do the work."""
    loaded = library()
    return "" if loaded is None else loaded.yanmo_level().decode()


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Use one level, or the twins ("off"), for a while, in the whole process."""
    global _disabled
    before, was_disabled = level(), _disabled
    loaded = _load()[0]
    try:
        _disabled = name == "off"
        if loaded is not None and not _disabled:
            loaded.yanmo_use_level(_place(name, _names(loaded)))
        elif not _disabled:
            raise InputError(f"the level {name!r} of the kernels cannot be used: they are {why_absent()}")
        yield
    finally:
        _disabled = was_disabled
        if loaded is not None and before:
            loaded.yanmo_use_level(_place(before, _names(loaded)))


def _names(loaded: ctypes.CDLL) -> list[str]:
    names: list[str] = []
    while (found := loaded.yanmo_level_name(len(names))) is not None:
        names.append(found.decode())
    return names


def _place(name: str, names: list[str]) -> int:
    if name not in names:
        close = nearest(name, [*names, "off"])
        raise InputError(f"{VARIABLE} is {name!r}{close}, and this processor has {', '.join(names)}; or say off")
    return names.index(name)
