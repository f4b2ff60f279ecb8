"""The report of a tour, from its kept results alone."""

from __future__ import annotations

import json
import math
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from yanmo.tour.folder import Tour, open_tour
from yanmo.tour.report import next_steps, write_report

HOSTILE = "</code></p><script>alert(1)</script><img src=//evil.example/x> \x1b[2J \u202e 研墨"


def results(text: str = "The module provides access to") -> dict[str, dict[str, Any]]:
    """What the stages of a finished tour keep, small and with `text` wherever foreign text stands."""
    neural = {
        "seconds": 62.0,
        "bits_per_byte": 1.84,
        "parameters": 4_459_264,
        "train_seconds": 60.0,
        "tokens": 700_000,
        "epochs": 1.09,
        "layers": 4,
        "width": 256,
        "steps": 170,
        "flops": 2.0e13,
        "dtype": "bfloat16",
        "peak_memory": 900_000_000,
        "shape": "4 layers",
        "live_tokens": 8192,
        "train": [[float(i), i * 4096, 8 * math.exp(-i / 40) + 3] for i in range(100)],
        "valid": [[10.0, 100_000, 2.5], [30.0, 350_000, 2.1], [60.0, 700_000, 1.84]],
    }
    weights = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]
    return {
        "machine": {
            "seconds": 1.2,
            "name": text,
            "system": "Linux 6 x86_64",
            "torch": "2.13.0",
            "python": "3.11.7",
            "peak": {"float32": 1.0e11, "bfloat16": 1.6e12},
        },
        "corpus": {
            "seconds": 4.0,
            "source": text,
            "licenses": [[text, 700], ["not stated", 3]],
            "languages": [["en", 700], ["zh", 3]],
            "read": 703,
            "removed": [["duplicate", 2]],
            "failed": 0,
            "train_documents": 660,
            "train_bytes": 2_200_000,
            "valid_documents": 43,
            "valid_bytes": 124_000,
            "remarks": [text],
        },
        "tokens": {
            "seconds": 2.0,
            "vocab_size": 4096,
            "bytes_per_token": 3.52,
            "example": [text, "\n"],
            "valid_bytes": 124_000,
            "remarks": [text],
        },
        "ngram": {
            "seconds": 5.0,
            "bits_per_byte": 2.3,
            "parameters": 1_200_000,
            "train_seconds": 4.0,
            "tokens": 640_000,
            "shape": "order 5",
        },
        "plan": {"seconds": 3.0, "training_seconds": 60.0},
        "lstm": neural | {"bits_per_byte": 2.1},
        "transformer": neural,
        "samples": {
            "seconds": 3.0,
            "temperature": 0.7,
            "top_p": 0.95,
            "seed": 1,
            "texts": [{"prompt": text, "truth": text, "source": text, "transformer": text, "lstm": text, "ngram": text}]
            * 3,
        },
        "attention": {
            "seconds": 0.2,
            "sentence": text,
            "source": text,
            "tokens": [text, "b", "c"],
            "of": 16,
            "heads": [{"name": "layer 1, head 1", "weights": weights}] * 6,
        },
    }


def tour_of(folder: Path, text: str = "The module provides access to") -> Tour:
    tour = open_tour(folder, [], 3)
    tour.stages = results(text)
    tour.keep()
    return tour


def test_the_report_holds_every_part(tmp_path: Path) -> None:
    tour = tour_of(tmp_path / "t")
    write_report(tour)
    page = (tmp_path / "t" / "report.html").read_text("utf-8")
    for heading in ("Corpus", "Tokens", "Three models", "What it writes", "Attention of one sentence", "What it cost"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<svg") >= 10
    assert "1.840" in page and "2.300" in page
    assert "21%" in page  # 2e13 operations in 60 s of a peak of 1.6e12 a second


def test_foreign_text_stays_text(tmp_path: Path) -> None:
    tour = tour_of(tmp_path / "t", HOSTILE)
    write_report(tour)
    page = (tmp_path / "t" / "report.html").read_text("utf-8")
    tags: set[str] = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.add(tag)  # type: ignore[method-assign]
    parser.feed(page)
    assert not {"script", "img"} & tags
    assert "\x1b" not in page


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    write_report(tour_of(tmp_path / "t"))
    page = (tmp_path / "t" / "report.html").read_text("utf-8")
    assert not re.search(r"<[^>]+\s(src|href)\s*=", page)


@pytest.mark.parametrize("text", ['it\'s "quoted" $HOME `id` \\ %', HOSTILE])
def test_the_commands_quote_foreign_text(tmp_path: Path, text: str) -> None:
    tour = tour_of(tmp_path / "a tour's folder", text)
    for _, command in next_steps(tour):
        words = shlex.split(command)
        assert words[0] in ("yanmo", "python")
        if words[0] == "python":
            compile(words[2], "command", "exec")
    write = shlex.split(next_steps(tour)[0][1])
    assert write[2] == str(tour.out / "model") and json.dumps(write[3])
