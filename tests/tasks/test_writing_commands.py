"""The commands of translation and generation, from files to files: trained, asked, gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.test_generation import FIM, model_of
from tests.tasks.test_translation import PAIRS
from yanmo import cli
from yanmo.tokens.chat import PLAIN


def said(capsys: pytest.CaptureFixture[str], *args: object) -> list[dict[str, Any]]:
    """The lines of JSON that a command prints; it must succeed."""
    with pytest.raises(SystemExit) as end:
        cli.main([str(arg) for arg in args])
    out = capsys.readouterr()
    assert end.value.code == 0, out.err
    return [json.loads(line) for line in out.out.splitlines() if line.startswith("{")]


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main([str(arg) for arg in args])
    assert end.value.code == 2
    return capsys.readouterr().err


def test_a_translator_is_trained_and_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sacrebleu")
    pairs = [(f"{a} {n}", f"{b} {n}") for n in range(20) for a, b in PAIRS]
    (tmp_path / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    recipe = '[model]\nfamily = "marian"\nwidth = 16\nlayers = 1\nheads = 2\n'
    recipe += "[tokenizer]\nvocab_size = 150\nseparate = true\n"
    (tmp_path / "model.toml").write_text(recipe, encoding="utf-8")
    run = tmp_path / "run"
    said(capsys, "finetune", "translate", tmp_path / "model.toml", tmp_path / "pairs.tsv", "-o", run, "train.steps=2",
         "train.rows=2", "train.length=64", "train.precision=float32")  # fmt: skip
    assert {"source.spm", "target.spm", "task.json"} <= {path.name for path in (run / "model").iterdir()}
    assert "muon" in (run / "recipe.toml").read_text()
    (tmp_path / "terms.tsv").write_text("dog\tHund\n", encoding="utf-8")
    found = said(capsys, "translate", run, "A dog runs.\n\n - Two men", "--glossary", tmp_path / "terms.tsv", "--beams",
                 2, "--nbest", 2)[0]  # fmt: skip
    assert found["missed"] == [] and "Hund" in found["translation"] and "\n\n - " in found["translation"]
    assert len(found["translations"]) == 2
    assert "nbest is 0" in refused(capsys, "translate", run, "A dog.", "--nbest", 0)


def test_prompts_of_a_file_are_written_and_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model_of(tmp_path / "m", special=FIM, template=PLAIN)
    rows = [{"id": 1, "text": "The cat"}, {"id": 2, "prefix": "def ", "suffix": "\n"}, {"id": 3, "text": "A mat"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    command = ("generate", tmp_path / "m", "--in", tmp_path / "in.jsonl", "--out", out, "--max-new-tokens", 4)
    said(capsys, *command)
    whole = out.read_bytes()
    assert [json.loads(line)["id"] for line in whole.splitlines()] == [1, 2, 3]
    out.write_bytes(whole[: whole.index(b"\n") + 5])  # torn in the second line
    said(capsys, *command)
    assert out.read_bytes() == whole
    assert "--in and a prompt" in refused(capsys, "generate", tmp_path / "m", "x", "--in", tmp_path / "in.jsonl")


def test_labels_without_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model_of(tmp_path / "m")
    found = said(capsys, "classify", tmp_path / "m", "The cat sat.", "--labels", "cats, code", "--calibrate")[0]
    assert set(found["scores"]) == {"cats", "code"} and sum(found["scores"].values()) == pytest.approx(1)
    assert "two or more" in refused(capsys, "classify", tmp_path / "m", "x", "--labels", "one")
    assert "about --labels" in refused(capsys, "classify", tmp_path / "m", "x", "--calibrate")


def test_a_prompt_is_answered_as_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model_of(tmp_path / "m", template=PLAIN)
    (tmp_path / "in.jsonl").write_text('{"text": "The cat?"}\n')
    row = said(capsys, "generate", tmp_path / "m", "--in", tmp_path / "in.jsonl")[0]
    with pytest.raises(SystemExit):
        cli.main(["generate", str(tmp_path / "m"), "The cat?", "--chat"])
    assert capsys.readouterr().out.strip("\n") == row["text"].strip("\n")
    assert "--chat and --suffix" in refused(capsys, "generate", tmp_path / "m", "a", "--chat", "--suffix", "b")


def test_rows_and_gaps_obey_every_option_or_refuse_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, rows = tmp_path / "m", tmp_path / "in.jsonl"
    model_of(model, special=FIM)
    rows.write_text('{"text": "The cat"}\n')
    for given in (("--in", rows), ("a", "--suffix", "b")):
        command = ("generate", model, *given, "--max-new-tokens", 2)
        assert "dtype is 'float8'" in refused(capsys, *command, "--dtype", "float8")
        assert "device is 'nowhere', which cannot be used" in refused(capsys, *command, "--device", "nowhere")
        assert "cache is 'int4'" in refused(capsys, *command, "--cache", "int4")
        assert "--logprobs is about one prompt" in refused(capsys, *command, "--logprobs", 1)
        assert len(said(capsys, *command, "--json", "--n", 2)[0]["texts"]) == 2
    assert "no chat template" in refused(capsys, "generate", model, "--in", rows, "--chat")
    assert "--out needs --in" in refused(capsys, "generate", model, "a", "--out", tmp_path / "out.jsonl")
    with pytest.raises(SystemExit):
        cli.main(["generate", str(model), "a", "--suffix", "b", "--n", "2", "--max-new-tokens", "2", "--cache", "int8"])
    assert capsys.readouterr().out.count("----") == 1
