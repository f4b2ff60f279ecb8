"""The directory of a zip archive as torch.save writes it, read with suspicion.

In: an open file. Out: where each entry's bytes lie in the file, so that they can be mapped in place; or a FileError
of one sentence.

    read_directory    the entries, by name; compressed, encrypted, overlapping or wandering ones are refused
    Entry             offset and size of the bytes of one entry, and their CRC-32 (0: the writer computed none)
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass

from yanmo.errors import FileError
from yanmo.files import reason
from yanmo.models.stored import OpenFile, shown

MAX_DIRECTORY_BYTES = 16 * 2**20  # about 200,000 entries; a shard of a public model has a few hundred
CONVERT = (
    "convert it once, where you trust it: AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers"
)
ENCRYPTED = 0x1 | 0x40
LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # signature, version, flags, method, time, date, crc, 2 sizes, 2 lengths


@dataclass(frozen=True)
class Entry:
    """Where the bytes of an entry lie in the archive."""

    offset: int
    size: int
    crc: int


class _Bounded(io.RawIOBase):
    """The file as zipfile reads it; a directory that claims to be huge is refused before it is read."""

    def __init__(self, file: OpenFile) -> None:
        self.file, self.position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.file.size}[whence]
        if position < 0:
            raise OSError("an offset before the beginning of the file")
        self.position = position
        return position

    def tell(self) -> int:
        return self.position

    def read(self, size: int = -1) -> bytes:
        size = max(0, self.file.size - self.position if size is None or size < 0 else size)
        size = min(size, max(0, self.file.size - self.position))
        if size > MAX_DIRECTORY_BYTES:
            raise FileError(
                f"{self.file.path}: a zip directory of {size:,} bytes, at most {MAX_DIRECTORY_BYTES:,} are read; "
                "do not trust the file"
            )
        data = self.file.read(self.position, size)
        self.position += size
        return data


def read_directory(file: OpenFile) -> dict[str, Entry]:
    """List the entries of a zip archive; each must be stored as it is, inside the file and beside the others."""
    try:
        with zipfile.ZipFile(_Bounded(file)) as archive:
            infos, end = archive.infolist(), archive.start_dir
    except FileError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, OverflowError, NotImplementedError) as error:
        raise FileError(f"{file.path}: a damaged zip archive ({reason(error)}); fetch the file again") from None
    if any(info.filename.partition("/")[2].startswith(("code/", "constants.pkl")) for info in infos):
        raise FileError(f"{file.path}: a TorchScript program, not a dictionary of tensors; {CONVERT}")
    entries: dict[str, Entry] = {}
    position = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        where = f"{file.path}: the entry {shown(info.filename)}"
        if info.flag_bits & ENCRYPTED:
            raise FileError(f"{where} is encrypted; save the weights again without a password")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise FileError(f"{where} is compressed, which torch.save never does; unpack and save the weights again")
        if _wanders(info.orig_filename):
            raise FileError(f"{where} has a name that leaves its folder; do not trust the file")
        if info.filename in entries:
            raise FileError(f"{where} stands in it twice; do not trust the file")
        if not position <= info.header_offset <= end - LOCAL_HEADER.size:
            raise FileError(f"{where} overlaps another part of the file; do not trust the file")
        offset = _data_offset(file, info, where)
        position = offset + info.file_size
        if position > end:
            raise FileError(f"{where} ends at byte {position:,}, beyond {end:,}; do not trust the file")
        entries[info.filename] = Entry(offset, info.file_size, info.CRC)
    return entries


def _wanders(name: str) -> bool:
    return name.startswith("/") or any(c in name for c in "\\\0") or ".." in name.split("/")


def _data_offset(file: OpenFile, info: zipfile.ZipInfo, where: str) -> int:
    """Where the bytes of an entry begin: behind its local header, which must agree with the directory."""
    fields = LOCAL_HEADER.unpack(file.read(info.header_offset, LOCAL_HEADER.size))
    signature, _, flags, method, *_, compressed, size, name_length, extra_length = fields
    begin = info.header_offset + LOCAL_HEADER.size
    sizes_later = bool(flags & 0x8) or 0xFFFFFFFF in (compressed, size)  # in a descriptor or in a zip64 field
    agree = (
        signature == b"PK\x03\x04"
        and method == info.compress_type
        and not flags & ENCRYPTED
        and (sizes_later or compressed == size == info.file_size)
        and begin + name_length + extra_length <= file.size
        and file.read(begin, name_length) == info.orig_filename.encode("utf-8" if flags & 0x800 else "cp437", "replace")
    )
    if not agree:
        raise FileError(f"{where} is described differently in two places; do not trust the file")
    return begin + name_length + extra_length
