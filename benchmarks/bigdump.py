"""The memory of `yanmo corpus` on a dump of any size, made of a small one by repetition with changes.

    python -m benchmarks.bigdump DUMP.xml.bz2 GIGABYTES FOLDER [WORKERS] [OPTION…]

In: a small dump; a folder with room for twice the size. Out: one line of JSON: documents, seconds, and the peaks of the
resident and of the anonymous memory of the whole run, workers included, in MB. A dump that lies in the folder is taken
again. Each copy of a page has a quarter of its longer words reversed, other ones each time, so that copies are no near
duplicates: with near duplicates the second step has the most to compare and to keep. Linux: memory is read in /proc.
"""

from __future__ import annotations

import bz2
import json
import re
import subprocess
import sys
import time
import zlib
from pathlib import Path

WORD = re.compile(r"\b[a-z]{5,}\b")
OPTIONS = ("--near", "--paragraphs", "--boilerplate", "--mask")


def make_dump(small: Path, size: int, path: Path) -> None:
    """Write a dump of about `size` bytes."""
    data = bz2.decompress(small.read_bytes()).decode("utf-8")
    pages = [page for page in re.findall(r"<page>.*?</page>", data, re.S) if "<redirect" not in page]
    parts = [re.split(r"(<text[^>]*>|</text>)", page, maxsplit=2) for page in pages]
    parts = [part for part in parts if len(part) == 5]
    cut = [[*WORD.split(part[2])] for part in parts]
    words = [[*WORD.findall(part[2]), ""] for part in parts]
    hashes = [[zlib.crc32(word.encode()) + 7919 * k for k, word in enumerate(each)] for each in words]
    written = turn = 0
    partial = path.with_suffix(".partial")
    with open(partial, "w", encoding="utf-8") as file:
        written += file.write(data[: data.index("<page>")])
        while written < size:
            for part, between, said, hashed in zip(parts, cut, words, hashes):
                lot = turn * 2654435761
                changed = [w if ((h ^ lot) * 2246822519 >> 13) & 3 else w[::-1] for w, h in zip(said, hashed)]
                text = "".join(piece for pair in zip(between, changed) for piece in pair)
                head = part[0].replace("<title>", f"<title>{turn} ", 1)
                written += file.write(f"{head}{part[1]}{text}{part[3]}{part[4]}\n")
                if written >= size:
                    break
            turn += 1
        file.write("</mediawiki>\n")
    partial.rename(path)


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for each in found:
        for task in Path("/proc", str(each), "task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def memory(pid: int) -> tuple[int, int]:
    """Resident and anonymous kB of a process; what is mapped from files is only in the first."""
    lines = dict(line.split(":", 1) for line in Path("/proc", str(pid), "status").read_text().splitlines())
    return tuple(int(lines.get(name, "0 kB").split()[0]) for name in ("VmRSS", "RssAnon"))  # type: ignore[return-value]


def watch(words: list[str]) -> dict[str, float]:
    """Run a command; its seconds and the peaks of its memory."""
    began = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    peaks = [0, 0]
    while process.poll() is None:
        sums = [0, 0]
        for pid in tree(process.pid):
            try:
                sums = [one + more for one, more in zip(sums, memory(pid))]
            except (OSError, ValueError):
                continue
        peaks = [max(pair) for pair in zip(peaks, sums)]
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return {"seconds": time.monotonic() - began, "resident_mb": peaks[0] / 1e3, "anonymous_mb": peaks[1] / 1e3}


def main() -> None:
    small, size, folder = Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
    workers, options = (sys.argv[4] if len(sys.argv) > 4 else "2"), sys.argv[5:] or list(OPTIONS)
    dump, out = folder / f"big-{size:g}.xml", folder / f"big-{size:g}"
    if not dump.exists():
        make_dump(small, int(size * 1e9), dump)
    words = [sys.executable, "-m", "yanmo", "corpus", str(dump), "-o", str(out), "--workers", workers, *options]
    found = watch(words)
    card = json.loads((out / "card.json").read_text("utf-8"))
    books = {"in": card["in"], "kept": card["kept"], "bytes": sum(s["bytes"] for s in card["splits"].values())}
    print(json.dumps({"dump_bytes": dump.stat().st_size, **books, **{k: round(v, 1) for k, v in found.items()}}))


if __name__ == "__main__":
    main()
