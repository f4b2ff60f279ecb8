"""Small texts and records for tests of whole runs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = ["the", "ink", "is", "ground", "before", "one", "writes", "a", "line", "of", "text", "and", "paper", "drinks"]


def write_texts(folder: Path, documents: int = 40, lines: int = 8) -> Path:
    """A folder of small documents."""
    folder.mkdir()
    rng = random.Random(0)
    for number in range(documents):
        text = [" ".join(rng.choices(WORDS, k=12)).capitalize() + "." for _ in range(lines)]
        (folder / f"{number:02}.txt").write_text("\n".join(text) + "\n")
    return folder


def write_records(path: Path, kind: str, count: int = 120) -> Path:
    """Records of one kind: chats whose answer begins with ink, preferences for it, or pairs of a line and its words."""
    rng = random.Random(1)
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        words = rng.choices(WORDS, k=4)
        if kind == "chat":
            rows.append({"prompt": " ".join(words), "response": f"ink {words[0]}"})
        elif kind == "preference":
            rows.append({"prompt": " ".join(words), "chosen": f"ink {words[0]}", "rejected": f"paper {words[1]}"})
        else:
            rows.append({"source": " ".join(words), "target": words[0]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def metrics(run: Path) -> list[dict[str, Any]]:
    """What a run logged, without what the clock says."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "tokens_per_second", "memory")
    return [{key: value for key, value in line.items() if key not in clock} for line in found]
