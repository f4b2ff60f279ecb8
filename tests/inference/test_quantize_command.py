"""`yanmo quantize`: what is measured, printed and saved."""

from __future__ import annotations

import json
import math

import pytest
import torch

import yanmo
from tests.inference.test_quantize import LLAMA, network
from yanmo import cli
from yanmo.errors import InputError
from yanmo.inference import calibrate, measured
from yanmo.inference.calibrate import ROW
from yanmo.inference.measured import compare, measure
from yanmo.inference.model import Model
from yanmo.tokens.train import train_tokenizer

TEXT = "The ink is ground before one writes; the stone is wet. 先研墨，后写字。" * 30


@pytest.fixture
def folder(tmp_path):
    tokenizer = train_tokenizer([TEXT], "bpe", 300)
    made = network(**LLAMA | {"vocab_size": tokenizer.vocab_size, "max_positions": 512})
    made.family = "llama"
    Model(made, tokenizer).save(tmp_path / "whole")
    return tmp_path / "whole"


def test_bits_per_byte_is_that_of_every_token_but_the_first_each_seen_after_those_of_its_row(folder):
    model = yanmo.load(folder)
    ids = model.tokenizer.encode(TEXT)[: ROW + 40]
    found = measure(model, ids)
    parts = []
    for row in (ids[: ROW + 1], ids[ROW:]):
        scores = model.logits([row[:-1]])[0].log_softmax(-1)
        parts += [-float(scores[i, token]) for i, token in enumerate(row[1:])]
    assert len(parts) == len(ids) - 1 == len(found.likeliest)
    n_bytes = len(model.tokenizer.decode(ids[1:], skip_special_tokens=False).encode())
    assert found.bits_per_byte == pytest.approx(sum(parts) / math.log(2) / n_bytes, rel=1e-5)
    assert found.nbytes == sum(p.nbytes for p in model.network.parameters())


def test_packing_is_compared_with_what_was_before(folder):
    found = compare(yanmo.load(folder), 8, TEXT)
    assert found.agreement == pytest.approx(1, abs=0.1)
    assert found.after.bits_per_byte == pytest.approx(found.before.bits_per_byte, rel=0.01)
    assert 0.2 < found.after.nbytes / found.before.nbytes < 0.4
    same = measure(yanmo.load(folder), [1, 2, 3])
    assert same.agreement(same) == 1
    rough = compare(yanmo.load(folder), 4, TEXT)
    assert rough.agreement < found.agreement


def test_a_text_that_calibrates_in_part_is_said_to(folder, tmp_path, capsys, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, "utf-8")
    count = len(yanmo.load(folder).tokenizer.encode(TEXT))
    for most, said in ((count, False), (count - 1, True)):
        monkeypatch.setattr(calibrate, "MOST_READ", most)
        monkeypatch.setattr(measured, "MOST_READ", most)
        with pytest.raises(SystemExit):
            cli.main(["quantize", str(folder), "--bits", "4", "--calibrate", str(path)])
        shown = " ".join(capsys.readouterr().out.split())
        assert (f"calibrated on the first {count - 1:,} of its text's {count:,} tokens" in shown) is said


def test_a_text_that_is_not_read_whole_is_said_to_be(folder, tmp_path, capsys, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, "utf-8")
    count = len(yanmo.load(folder).tokenizer.encode(TEXT))
    for most, said in ((count, False), (count - 1, True)):
        monkeypatch.setattr(measured, "MAX_TOKENS", most)
        with pytest.raises(SystemExit):
            cli.main(["quantize", str(folder), "--text", str(path)])
        assert (f"the first {count - 1:,} of the text's {count:,} tokens" in capsys.readouterr().out) is said


def test_the_command_prints_a_table_and_writes_a_folder_that_loads(folder, tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    out = tmp_path / "small"
    words = ["quantize", str(folder), "--bits", "4", "--out", str(out), "--text", str(tmp_path / "text.txt")]
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    said = capsys.readouterr().out
    assert end.value.code == 0
    for words in ("weights", "writing, one text", "bits per byte", "same likeliest token", "in 4 bits"):
        assert words in said
    assert yanmo.load(out).generate("The ink", max_new_tokens=5)
    with pytest.raises(SystemExit) as end:
        cli.main(["quantize", str(folder), "--json"])
    values = json.loads(capsys.readouterr().out)
    assert end.value.code == 0
    assert values["formats"].keys() == {"rows8"}
    assert values["before"]["bytes"] > values["after"]["bytes"]
    assert values["top1_agreement"] is None


def test_mistakes_are_one_sentence(folder, tmp_path, capsys):
    for more, words in (
        (["--bits", "5"], "4 or 8 bits"),
        (["--out", str(folder)], "exists already"),
        (["--text", str(tmp_path / "none.txt")], "none.txt"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(["quantize", str(folder), *more])
        assert end.value.code == 2
        assert words in capsys.readouterr().err
    with pytest.raises(InputError, match="at least 2"):
        compare(yanmo.load(folder), 8, "T")
    encoder = Model(network(decoder_layers=0, encoder_layers=1, head="none"), None)
    with pytest.raises(InputError, match="does not write"):
        compare(encoder)
    torch.manual_seed(0)
