"""Tensors as they lie in a file, copied out block by block.

In: an open file and where a tensor lies in it (offset, dtype, shape, strides). Out: its values in a tensor of the
caller, of any dtype, device and layout; or a FileError of one sentence.

    open_file        a regular file, opened for reading
    Stored           one tensor in a file
    check_stored     the claims of a foreign header, proven against the size of the place they point to
    copy_stored      Stored → a tensor that exists already
    map_window       bytes of a file as they lie there
    shown            a foreign value, cut to fit into a sentence

The file is mapped in windows of BLOCK bytes; a window is unmapped once it is copied, so the peak of resident memory
is the target and one window, whatever the size of the file.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from yanmo.errors import FileError
from yanmo.files import reason

BLOCK = 16 * 2**20  # bytes: large enough that a system call costs nothing, small beside any model
MAX_DIMS = 32  # torch iterates over at most 64; no public checkpoint has more than 6
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class OpenFile:
    """A regular file that is open for reading; `size` is its length in bytes when it was opened."""

    path: Path
    handle: int
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes at `offset`, else raise a FileError."""
        parts: list[bytes] = []
        while length:
            part = (
                os.pread(self.handle, length, offset) if hasattr(os, "pread") else self._seek_and_read(offset, length)
            )
            if not part:
                raise FileError(f"{self.path}: ends at byte {offset:,}, where more is needed; fetch the file again")
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)

    def _seek_and_read(self, offset: int, length: int) -> bytes:
        os.lseek(self.handle, offset, os.SEEK_SET)
        return os.read(self.handle, length)

    def close(self) -> None:
        """Close the file; tensors that were read stay valid, since they are copies."""
        os.close(self.handle)


@dataclass(frozen=True)
class Stored:
    """One tensor in a file: `offset` in bytes from its beginning, `strides` in elements; little-endian."""

    file: OpenFile
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of its values, each counted once."""
        return math.prod(self.shape) * self.dtype.itemsize


def shown(value: object, limit: int = 80) -> str:
    """A foreign value as it may stand in a sentence: short, printable, and for containers the type alone."""
    if not isinstance(value, str | int | float | bool | None):
        return f"a {type(value).__name__}"
    text = repr(value[: limit + 1] if isinstance(value, str) else value)
    return text if len(text) <= limit else text[:limit] + "…"


def open_file(path: str | Path) -> OpenFile:
    """Open a regular file; a folder, a device, a pipe, or the pointer that Git LFS leaves, is a FileError."""
    path = Path(path)
    if sys.byteorder != "little":
        raise FileError(f"{path}: weights are little-endian and this machine is not; use a little-endian machine")
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block for ever
            raise FileError(f"{path}: not a regular file; give the path of a file of weights")
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        file = OpenFile(path, handle, os.fstat(handle).st_size)
    except FileNotFoundError:
        raise FileError(f"{path}: no such file; check the path or fetch the file again") from None
    except FileError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: cannot be read ({reason(error)}); check the path and its permissions") from None
    if file.size < 1024 and file.read(0, min(file.size, len(LFS_POINTER))) == LFS_POINTER:
        file.close()
        raise FileError(f"{path}: a pointer of Git LFS, not the weights themselves; run `git lfs pull` in its folder")
    return file


def check_stored(stored: Stored, limit: int, where: str) -> None:
    """Prove that a tensor lies within the `limit` bytes of its place and that no two of its elements overlap.

    The second proof bounds the work: a small file cannot claim a large tensor. `where` opens the sentence.
    """
    shape, strides = stored.shape, stored.strides
    if len(shape) > MAX_DIMS:
        raise FileError(f"{where} has {len(shape)} dimensions, at most {MAX_DIMS} are read; do not trust the file")
    if len(shape) != len(strides):
        raise FileError(f"{where} has {len(shape)} dimensions and {len(strides)} strides; do not trust the file")
    for number in (*shape, *strides):
        if type(number) is not int or not 0 <= number < 2**48:
            raise FileError(f"{where} has the size or stride {shown(number)}; do not trust the file")
    span = 0 if 0 in shape else 1  # elements from the first to the last, both included
    for n, stride in sorted(zip(shape, strides), key=lambda pair: pair[1]):
        if n > 1 and span:
            if stride < span:
                raise FileError(
                    f"{where} overlaps itself (shape {shown(str(shape))}, strides {shown(str(strides))}); "
                    "save it again after .contiguous()"
                )
            span += (n - 1) * stride
    if span * stored.dtype.itemsize > limit:
        raise FileError(
            f"{where} needs {span * stored.dtype.itemsize:,} bytes and its place has {limit:,}; fetch the file again"
        )


def copy_stored(stored: Stored, target: torch.Tensor) -> None:
    """Copy a stored tensor into `target`: same shape; any dtype, strides and device; converted on the way."""
    assert tuple(target.shape) == stored.shape, f"target {tuple(target.shape)}, stored {stored.shape}"
    if target.numel() == 0:
        return
    # Along falling strides the file is read from front to back, whichever way the tensor was transposed.
    dims = [d for d, n in enumerate(stored.shape) if n > 1]
    dims.sort(key=lambda d: -stored.strides[d])
    ones = [d for d, n in enumerate(stored.shape) if n == 1]
    target = target.permute(dims + ones).view([stored.shape[d] for d in dims])
    with torch.no_grad():
        _copy(stored, stored.offset, [stored.strides[d] for d in dims], target)


def _copy(stored: Stored, offset: int, strides: list[int], target: torch.Tensor) -> None:
    """Copy what begins at `offset` bytes, splitting the leading dimension until a part fits into a block."""
    itemsize = stored.dtype.itemsize
    span = 1 + sum((n - 1) * stride for n, stride in zip(target.shape, strides))
    if span * itemsize <= BLOCK or not strides:
        source = map_window(stored.file, offset, span * itemsize, itemsize)
        target.copy_(source.view(stored.dtype).as_strided(target.shape, strides))
        return
    step = strides[0] * itemsize
    rows = BLOCK // step
    if rows == 0:
        for i in range(target.shape[0]):
            _copy(stored, offset + i * step, strides[1:], target[i])
    else:
        for i in range(0, target.shape[0], rows):
            _copy(stored, offset + i * step, strides, target[i : i + rows])


def map_window(file: OpenFile, start: int, length: int, itemsize: int) -> torch.Tensor:
    """Map `length` bytes as a uint8 tensor, for numbers of `itemsize` bytes; the pages go when the tensor goes."""
    if os.fstat(file.handle).st_size < start + length:  # touching pages beyond the end would kill the process
        raise FileError(f"{file.path}: became shorter while it was read; fetch the file again")
    skip = start % mmap.ALLOCATIONGRANULARITY
    try:
        # A private copy-on-write map: torch warns about read-only memory, and what is written stays out of the file.
        pages = mmap.mmap(file.handle, skip + length, access=mmap.ACCESS_COPY, offset=start - skip)
    except (OSError, ValueError) as error:
        raise FileError(f"{file.path}: cannot be mapped ({reason(error)}); copy it to a local disk") from None
    if hasattr(mmap, "MADV_WILLNEED"):
        pages.madvise(mmap.MADV_WILLNEED)
    window = torch.frombuffer(pages, dtype=torch.uint8, offset=skip, count=length)
    return window if start % itemsize == 0 else window.clone()  # a clone is aligned
