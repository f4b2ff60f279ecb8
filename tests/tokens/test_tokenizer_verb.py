"""`yanmo tokenizer` trains, encodes, decodes and shows."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner
from vocabularies import CHINESE

from yanmo.cli.tokenizer import app
from yanmo.errors import FileError, InputError


def run(*args: object, given: str | None = None) -> str:
    done = CliRunner().invoke(app, list(map(str, args)), input=given)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def trained(tmp_path, corpus):
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.txt").write_text("\n".join(corpus), "utf-8")
    (tmp_path / "text/b.txt").write_text(CHINESE, "utf-8")
    return tmp_path


def test_train_encode_decode_show(trained):
    out = trained / "out"
    result = json.loads(run("train", trained / "text", "--out", out, "--vocab-size", 500, "--special", "<x>", "--json"))
    assert (result["ids"], result["documents"], result["failed"]) == (500, 2, 0)
    assert result["bytes"] > 50_000 and result["bytes_per_token"] > 1.5
    text = "the model 你好<x>"
    ids = run("encode", out, text).split()
    assert run("decode", out, *ids) == "the model 你好\n"
    assert run("decode", out, *ids, "--special") == text + "\n"
    assert json.loads(run("encode", out, "-", "--json", given=text))["ids"] == [int(number) for number in ids]
    shown = json.loads(run("show", out, "--json"))
    assert (shown["ids"], shown["eos_id"], shown["hash"]) == (500, 0, result["hash"])
    assert "<|endoftext|> <x>" in run("show", out)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_the_other_kinds_are_trained_too(trained, kind):
    out = trained / kind
    assert kind in run("train", trained / "text", "--out", out, "--kind", kind, "--vocab-size", 400)
    assert len(run("encode", out, "the model").split()) > len(run("encode", out, "the model", "--no-special").split())


def test_a_folder_with_something_in_it_is_left_alone(trained):
    with pytest.raises(FileError, match="is not empty"):
        run("train", trained / "text", "--out", trained / "text")


def test_nothing_is_written_when_training_fails(trained):
    with pytest.raises(InputError, match="at least 257"):
        run("train", trained / "text", "--out", trained / "out", "--vocab-size", 100)
    assert not (trained / "out").exists()


def test_an_id_without_a_token_is_an_error(trained):
    run("train", trained / "text", "--out", trained / "out", "--vocab-size", 300)
    with pytest.raises(InputError, match="no token has the id 300"):
        run("decode", trained / "out", 300)


def test_a_hostile_name_cannot_steer_the_terminal(bert):
    value = json.loads((bert / "tokenizer_config.json").read_text("utf-8"))
    value["additional_special_tokens"] = ["\x1b[2J"]
    (bert / "tokenizer_config.json").write_text(json.dumps(value), "utf-8")
    assert "\x1b" not in run("show", bert)
