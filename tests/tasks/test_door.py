"""The door of tasks: data as people have them → a run → a predictor, by Python and by the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import yanmo
from tests.tasks.test_classification import examples
from yanmo.cli import main
from yanmo.errors import ConfigError, FileError, InputError
from yanmo.tasks.predictor import load_predictor
from yanmo.tasks.preparing import Wishes, prepare
from yanmo.tokens.tokenizer import load_tokenizer

pytest.importorskip("sklearn")
SMALL = ["model.width=32", "model.layers=1", "model.heads=2", "train.precision=float32", "train.learning_rate=5e-3"]


def table(path: Path, count: int, seed: int = 0) -> Path:
    rows = [f"{example.text}\t{example.labels[0]}" for example in examples(count, seed) if example.labels]
    path.write_text("\n".join(["review\tkind", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("door")
    data = table(folder / "train.tsv", 120)
    columns = {"text": "review", "label": "kind"}
    predictor = yanmo.finetune(
        "classify", "new", data, out=folder / "run", columns=columns, rows=16, epochs=4, length=32, overrides=SMALL
    )
    assert predictor.result["main"]["value"] > 0.9
    return folder / "run"


def test_a_run_of_a_task_is_judged_beside_two_baselines(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    assert result["judged_by"] == "validation" and result["examples"] == len(lines(run / "data" / "valid.jsonl"))
    assert len(result["baselines"]) == 2
    for one in (result["main"], *result["baselines"].values()):
        assert one["low"] <= one["value"] <= one["high"]
    ids = [json.loads(line)["id"] for line in lines(run / "data" / "valid.jsonl")]
    assert [json.loads(line)["id"] for line in lines(run / "predictions.jsonl")] == ids
    texts = [
        {json.loads(line)["text"] for line in lines(run / "data" / name)} for name in ("train.jsonl", "valid.jsonl")
    ]
    assert not texts[0] & texts[1]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_a_finished_run_is_returned_and_other_data_are_refused(run: Path, tmp_path: Path) -> None:
    said = {"columns": {"text": "review", "label": "kind"}, "rows": 16, "epochs": 4, "length": 32, "overrides": SMALL}
    again = yanmo.finetune("classify", "new", run.parent / "train.tsv", out=run, **said)
    assert again.predict("a lovely day")["label"] == "good"
    with pytest.raises(ConfigError, match=r"a run of other data \(train\.jsonl\)"):
        yanmo.finetune("classify", "new", table(tmp_path / "other.tsv", 60, seed=5), out=run, **said)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(FileError, match=r"holds letter\.txt, not a run"):
        yanmo.finetune("classify", "new", run.parent / "train.tsv", out=tmp_path / "full", **said)


def test_files_are_predicted_in_order_and_gone_on_with(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [{"id": number, "text": example.text} for number, example in enumerate(examples(150, seed=7))]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = ["classify", str(run), "--in", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    assert exit_code(said) == 0
    whole = (tmp_path / "out.jsonl").read_bytes()
    found = [json.loads(line) for line in whole.splitlines()]
    assert [row["id"] for row in found] == list(range(150))
    assert np.mean([row["label"] == e.labels[0] for row, e in zip(found, examples(150, seed=7)) if e.labels]) > 0.9
    (tmp_path / "out.jsonl").write_bytes(whole[: len(whole) // 2])  # torn in the middle of a line
    capsys.readouterr()
    assert exit_code(said) == 0
    assert "went on after" in capsys.readouterr().err
    again = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [row["id"] for row in again] == list(range(150))
    assert all(abs(a["score"] - b["score"]) < 1e-5 for a, b in zip(found, again, strict=True))
    (tmp_path / "in.jsonl").write_text('{"id": "strange", "text": "day"}\n')
    assert exit_code(said) == 2
    assert "was not made of" in capsys.readouterr().err
    (tmp_path / "out.jsonl.source.json").unlink()
    assert exit_code(said) == 2
    assert "line 1 is not of" in capsys.readouterr().err
    for name in ("in.jsonl", "note"):  # neither the rows themselves nor a text of the user's is cut
        own = b'{"id": 1, "text": "day"}' if name == "in.jsonl" else b"my note, without an end of line"
        (tmp_path / name).write_bytes(own)
        assert exit_code([*said[:-1], str(tmp_path / name)]) == 2
        assert (tmp_path / name).read_bytes() == own


def test_a_judging_that_was_killed_keeps_the_page_of_the_training(run: Path) -> None:
    said = {"columns": {"text": "review", "label": "kind"}, "rows": 16, "epochs": 4, "length": 32, "overrides": SMALL}
    page = (run / "training.html").read_bytes()
    (run / "result.json").unlink()  # killed after the page of the task was written
    yanmo.finetune("classify", "new", run.parent / "train.tsv", out=run, **said)
    assert (run / "training.html").read_bytes() == page != (run / "report.html").read_bytes()


def test_data_of_a_command_that_never_began_take_their_tokenizer_along(run: Path, tmp_path: Path) -> None:
    wishes = Wishes(columns={"text": "review", "label": "kind"})
    other = tmp_path / "other.tsv"
    other.write_text("review\tkind\n" + "".join(f"雨{n}天\t{n % 2}\n" for n in range(40)))
    prepare("classify", "new", other, tmp_path / "run", wishes)
    prepare("classify", "new", run.parent / "train.tsv", tmp_path / "run", wishes)
    made = load_tokenizer(tmp_path / "run" / "data" / "tokenizer")
    assert made.id("day") is not None and made.id("雨") is None


def test_a_run_does_not_write_over_the_examples_it_reads(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = tmp_path / "data" / "train.jsonl"
    own = "".join(json.dumps({"text": e.text, "label": e.labels[0]}) + "\n" for e in examples(60) if e.labels)
    data.write_text(own)
    with pytest.raises(FileError, match="keeps its own examples"):
        prepare("classify", "new", data, tmp_path, Wishes())
    assert data.read_text() == own


def test_one_text_and_standard_input_are_predicted(
    run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exit_code(["classify", str(run), "a dull film"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == "bad"
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO('a lovely day\n\n{"id": 3, "text": "poor rain"}\n'))
    assert exit_code(["classify", str(run)]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["label"] == "good" and "id" not in first and second["id"] == 3 and second["label"] == "bad"
    monkeypatch.setattr("sys.stdin", io.StringIO('{"id": 3, "txt": "poor rain"}\n'))
    assert exit_code(["classify", str(run)]) == 2
    assert "row 3 has no 'text'" in capsys.readouterr().err
    assert exit_code(["classify", str(run), "--in", str(run / "nothing.jsonl")]) == 2
    assert "nothing.jsonl: cannot be read" in capsys.readouterr().err


def exit_code(args: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(args)
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["classify", "new"], "needs a model and data"),
        (["classify", "new", "{data}", "--column", "text"], "not of the form ROLE=NAME"),
        (["classify", "new", "{data}", "--text", "nothing"], "nothing"),
        (["classify", "no-such/model-here", "{data}", "--text", "review", "--label", "kind"], "no-such/model-here"),
        (["recipe.toml", "--epochs", "3"], "--epochs belongs to a task"),
        (["clasify", "new", "{data}"], "no recipe and no task 'clasify' (nearest: 'classify')"),
        (["translate", "new", "{data}"], "set train.rows to "),
        (["classify", "new", "{data}", "--rows", "0"], "--rows is 0, and a number above 0 is needed"),
        (["classify", "new", "{data}", "--epochs", "nan"], "--epochs is nan"),
        (["classify", "new", "{data}", "--learning-rate", "inf"], "--learning-rate is inf"),
        (["classify", "new", "{data}", "--length", "2"], "windows of 2 tokens leave no room for a text"),
        (["classify", "new", "{data}", "--text", "kind", "--label", "kind"], "'kind' cannot be both text and label"),
        (["classify", "new", "{few}"], "no training example has its label"),
        (["classify", "new", "{data}", "--valid", "{data}"], "train.tsv: is named as --valid, and learned from"),
        (
            ["classify", "new", "{data}", "--test", "{folder}"],
            "is named as --test, and learned from too; leave --test out",
        ),
        (["classify", "new", "{head}"], "no usable example (0 bad rows); name a file with some"),
        (["classify", "new", "{data}", "--test", "{odd}", "--skip-bad"], "no test example is left; leave the file out"),
    ],
)
def test_mistakes_are_told_before_any_training(
    words: list[str], said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    made = {"few": "a\tx\nb\ty\n", "head": "", "odd": "day\todd\n"}
    for name, rows in made.items():
        (tmp_path / f"{name}.tsv").write_text(f"review\tkind\n{rows}")
    (tmp_path / "held").mkdir()
    shutil.copyfile(run.parent / "train.tsv", tmp_path / "held" / "train.tsv")
    places = {name: tmp_path / f"{name}.tsv" for name in made}
    places |= {"data": tmp_path / "held" / "train.tsv", "folder": tmp_path / "held"}
    given = [word.format(**places) for word in words]
    assert exit_code(["finetune", *given, "-o", str(tmp_path / "new")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new" / "checkpoints").exists()


def test_labels_only_in_validation_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text("review\tkind\nfine\todd\n")
    with pytest.raises(InputError, match="odd"):
        yanmo.finetune("classify", "new", run.parent / "train.tsv", out=tmp_path / "x", valid=[tmp_path / "dev.tsv"])


def test_files_to_choose_and_judge_by_may_be_one_path(run: Path, tmp_path: Path) -> None:
    one = table(tmp_path / "one.tsv", 20, seed=3)
    wishes = Wishes(columns={"text": "review", "label": "kind"}, valid=str(one), test=one)
    prepared = prepare("classify", "new", run.parent / "train.tsv", tmp_path / "run", wishes)
    assert len(prepared.valid) == len(prepared.test) == 20 and len(prepared.train) == 120


def test_a_model_of_another_task_is_named(run: Path) -> None:
    with pytest.raises(FileError, match="made for the task 'classify', not 'extract'"):
        load_predictor(run, task="extract")


def test_an_adapter_of_a_task_brings_other_labels_than_its_base_has(run: Path, tmp_path: Path) -> None:
    names = {"good": "fine", "bad": "foul"}
    for count in (2, 3):  # the same number of labels under other names, and more of them
        rows = [(e.text, names[e.labels[0]]) for e in examples(60) if e.labels]
        rows = [
            (f"{text} zebra", "odd") if count == 3 and n % 3 == 0 else (text, label)
            for n, (text, label) in enumerate(rows)
        ]
        data = tmp_path / f"{count}.tsv"
        data.write_text("\n".join(["text\tlabel", *map("\t".join, rows)]) + "\n")
        said = {"rows": 16, "epochs": 1, "length": 32, "adapter": "lora", "overrides": ["train.precision=float32"]}
        made = yanmo.finetune("classify", run, data, out=tmp_path / f"run{count}", **said)
        assert set(made.predict("a lovely day")["scores"]) == {label for _, label in rows}
        assert len({label for _, label in rows}) == count
