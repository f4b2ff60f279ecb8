"""Archives and pickles written by hand, as torch would write them or not."""

from __future__ import annotations

import zipfile
from pathlib import Path


def archive(path: Path, data: bytes, *, root: str = "archive", **more: bytes) -> Path:
    """A zip archive like torch's, around any bytes as its data.pkl."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr(f"{root}/data.pkl", data)
        file.writestr(f"{root}/byteorder", more.pop("byteorder", b"little"))
        file.writestr(f"{root}/data/0", more.pop("storage", bytes(64)))
        for name, content in more.items():
            file.writestr(f"{root}/{name}", content)
    return path


def tensor(
    storage: str = "FloatStorage",
    key: str = "0",
    numel: str = "K\x08",
    offset: str = "K\x00",
    shape: str = "K\x08\x85",
    strides: str = "K\x01\x85",
    end: str = "\x89ccollections\nOrderedDict\n)R",
) -> bytes:
    """A pickle of {"a": tensor}, opcode by opcode."""
    identity = f"(X\x07\0\0\0storagectorch\n{storage}\nX\x01\0\0\0{key}X\x03\0\0\0cpu{numel}tQ"
    text = f"\x80\x02}}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n({identity}{offset}{shape}{strides}{end}tRs."
    return text.encode("latin-1")
