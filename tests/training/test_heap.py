"""Memory that training frees stays with the process until training ends, where the C library is glibc."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest
import torch

from yanmo.training import heap

COUNT, SIZE = 40, 1 << 20  # tensors of 4 MiB

pytestmark = pytest.mark.skipif(heap._glibc() is None, reason="another C library")


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_freed_memory_stays_and_goes_back_at_the_end() -> None:
    gc.collect()
    with heap.kept():
        for _ in range(2):
            held = [torch.ones(SIZE) for _ in range(COUNT)]
            full = resident()
            del held
        kept = resident()
        assert full - kept < 4 * SIZE * COUNT // 4
    assert kept - resident() > 4 * SIZE * COUNT * 3 // 4


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert heap._glibc() is None
    with heap.kept():
        pass
