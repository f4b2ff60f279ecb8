"""The tutorial is run: every block of Python, in order, and both languages hold the same blocks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import yanmo

DOCS = Path(__file__).resolve().parents[1] / "docs"


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


def test_both_languages_show_the_same_code() -> None:
    assert blocks(DOCS / "tutorial.md") == blocks(DOCS / "zh" / "tutorial.md")


def test_the_tutorial_makes_a_model_that_transformers_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, code in enumerate(blocks(DOCS / "tutorial.md")):
        exec(compile(code, f"tutorial.md, block {number}", "exec"), names)
    assert names["result"].bits_per_byte < 4.5, "thirty steps are better than bytes drawn at random, which cost 8"
    ours = yanmo.load("my-model")
    theirs = AutoModelForCausalLM.from_pretrained("my-model")
    ids = ours.tokenizer.encode("Return the 先研墨。")
    assert AutoTokenizer.from_pretrained("my-model")("Return the 先研墨。").input_ids == ids
    with torch.no_grad():
        assert (theirs(torch.tensor([ids])).logits - ours.logits(ids)).abs().max() < 1e-4
