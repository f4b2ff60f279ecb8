"""Memory that the C library keeps between steps of training, and gives back at the end.

In: nothing. Out: a process whose freed tensors stay at hand: a step frees and asks for the same memory again, and each
page that the system has taken meanwhile costs a fault and 4 KiB of zeros. Only glibc has these settings; elsewhere
nothing happens.

    kept    a context in which freed memory stays with the process
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST = 1 << 25  # bytes of one block that glibc lets come from the heap; larger ones are mapped one by one
DEFAULTS = {TRIM_THRESHOLD: 1 << 17, MMAP_THRESHOLD: 1 << 17}


@contextmanager
def kept() -> Iterator[None]:
    """Keep what is freed, until the end of the block; there it goes back to the system."""
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(TRIM_THRESHOLD, (1 << 31) - 1)
    library.mallopt(MMAP_THRESHOLD, LARGEST)
    try:
        yield
    finally:
        for setting, value in DEFAULTS.items():
            library.mallopt(setting, value)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL("libc.so.6")
        return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
    except OSError:  # another C library
        return None
