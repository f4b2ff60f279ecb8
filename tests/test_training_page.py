"""docs/training.md is run: every command, in order, on small data and for two steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.training.texts import write_records, write_texts
from yanmo.cli import app

pytest.importorskip("pyarrow")
ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "docs" / "training.md", ROOT / "docs" / "zh" / "training.md"]
SMALL = ["train.steps=2", "train.rows=2", "train.length=96", "train.precision=float32", "data.valid_share=0.2"]
NEW = ["model.width=32", "model.layers=2", "model.ffn_width=64"]
VOCABULARY = {"gpt-tiny": 300, "lstm-small": 300, "bert-small": 90, "t5-small": 150}


def commands(page: Path) -> list[list[str]]:
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
        for line in block.splitlines()
    ]
    return [shlex.split(line)[1:] for line in lines]


def small(words: list[str]) -> list[str]:
    """The same command on a small network, for two steps."""
    if words[0] == "generate":
        return [*words, "--max-new-tokens", "4"]
    words = [str(ROOT / word) if word.startswith("recipes/") else word for word in words]
    extra = list(SMALL)
    if words[0] == "pretrain":
        extra += NEW + (["model.heads=2"] if "lstm" not in words[1] else [])
        if "tokenizer.path" not in " ".join(words):
            extra.append(f"tokenizer.vocab_size={VOCABULARY[Path(words[1]).stem]}")
    return [*words[:2], *extra, *words[2:]]


def test_both_languages_show_the_same_commands() -> None:
    assert commands(PAGES[0]) == commands(PAGES[1]) and len(commands(PAGES[0])) == 10


def test_every_command_of_the_page_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(Path("my-texts"))
    write_records(Path("chats.jsonl"), "chat")
    write_records(Path("preferences.jsonl"), "preference")
    for words in commands(PAGES[0]):
        said = CliRunner().invoke(app, small(words), catch_exceptions=False)
        assert said.exit_code == 0, " ".join(words)
        if "--out" in words:
            assert (Path(words[-1]) / "model").is_dir(), " ".join(words)
