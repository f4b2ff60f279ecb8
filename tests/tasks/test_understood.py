"""What is shown before training, and what is refused before it: one sentence each."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from yanmo.errors import InputError
from yanmo.tasks import reading, understood
from yanmo.tasks.checks import check
from yanmo.tasks.examples import Data


def read(folder: Path, content: str, task: str = "classify", name: str = "a.tsv", **options) -> Data:
    path = folder / name
    path.write_text(content, "utf-8")
    return reading.read(task, path, **options)


def rows(labels: str, name: str = "text") -> str:
    return "".join(f"{name} number {n}\t{label}\n" for n, label in enumerate(labels.split()))


def test_the_table_tells_format_columns_counts_lengths_and_three_examples(tmp_path):
    data = read(tmp_path, rows("x y x y x") + "\tz\n", skip_bad=True)
    facts = understood.facts(data)
    assert dict(facts) == {
        "data": "a.tsv: table",
        "columns": "text is 1, label is 2",
        "examples": "5",
        "labels": "x 3, y 2",
        "characters": "text: half up to 13, 95 of 100 up to 13, longest 13",
        "note": "a.tsv: 2 columns between tabs, without quotation marks, no header",
        "left out": "1 rows: a.tsv:6: the text is empty",
        "example 1": "text number 0 → x",
        "example 2": "text number 1 → y",
        "example 3": "text number 2 → x",
    }


def test_the_table_shows_foreign_text_without_markup_and_control(tmp_path):
    from rich.console import Console

    data = read(tmp_path, "[bold]one\x1b[31m two\tx\n" + rows("x y y"))
    held = io.StringIO()
    Console(file=held, width=120, force_terminal=False).print(understood.table(data, "training"))
    assert "[bold]one [31m two → x" in held.getvalue() and "\x1b" not in held.getvalue()
    assert held.getvalue().startswith("training")


@pytest.mark.parametrize(
    ("task", "name", "content", "line"),
    [
        ("extract", "a.conll", "Ada\tB-PER\nran\tO\n\n" * 3, "Ada ran → Ada [PER]"),
        (
            "extract",
            "a.txt",
            '1\t"An <e1>egg</e1> in <e2>milk</e2>."\nContent-Container(e2,e1)\n',
            "An egg in milk. → egg [entity], milk [entity] ; Content-Container(milk, egg)",
        ),
        ("answer", "a.csv", "context,question,answer\nAda ran,Who?,Ada\n", "Ada ran | Who? → Ada"),
        ("translate", "a.tsv", "one two\teins zwei\n", "one two → eins zwei"),
        ("generate", "a.jsonl", '{"prompt": "Hi", "response": "Hello"}\n', "Hi → Hello"),
    ],
)
def test_examples_of_every_task_are_one_line(tmp_path, task, name, content, line):
    assert understood.shown(read(tmp_path, content, task, name).examples[0]) == line


def test_a_label_only_in_validation(tmp_path):
    train = read(tmp_path, rows("x y x y"))
    dev = read(tmp_path, rows("x z y z", "other"), name="d.tsv")
    with pytest.raises(
        InputError, match=r"d.tsv:2: no training example has its label 'z' \(2 rows here have it; training"
    ):
        check(train, dev)
    check(train, dev, skip_bad=True)
    assert len(dev.examples) == 2 and [bad.where for bad in dev.bad] == ["d.tsv:2", "d.tsv:4"]


def test_a_type_only_in_validation(tmp_path):
    train = read(tmp_path, "Ada\tB-PER\nran\tO\n\n" * 3, "extract", "a.conll")
    dev = read(tmp_path, "Rome\tB-LOC\nis\tO\n\n" * 3, "extract", "d.conll")
    with pytest.raises(InputError, match="d.conll:1: no training example has its entity type 'LOC'"):
        check(train, dev)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (rows("x x x"), "all 3 have the label 'x'; at least two classes are needed"),
        (rows("a b c d"), "each of the 4 training examples has a label of its own, as a.tsv:1 has 'a'"),
    ],
)
def test_classes_that_cannot_be_learnt(tmp_path, content, sentence):
    data = read(tmp_path, content, columns={"text": "1", "label": "2", "header": "no"})
    with pytest.raises(InputError) as caught:
        check(data)
    assert sentence in str(caught.value)


def test_an_empty_class(tmp_path):
    (tmp_path / "names.txt").write_text("sport\nmoney\nart\n")
    data = read(tmp_path, rows("0 1 0 1"), columns={"names": str(tmp_path / "names.txt")})
    with pytest.raises(InputError, match="the class 'art' has no training example"):
        check(data)


def test_values_beside_labels_and_tags_without_entities(tmp_path):
    values = read(tmp_path, "".join(f"text {n} here\t{n / 3:.2f}\n" for n in range(40)))
    assert values.examples[1].value == 0.33
    check(values)
    labels = read(tmp_path, rows("x y x y"), name="d.tsv")
    with pytest.raises(InputError, match="a.tsv:1 has a number to predict and d.tsv:1 has a label"):
        check(values, labels)
    with pytest.raises(InputError, match="no entity is in any of the 3 training examples"):
        check(read(tmp_path, "a\tO\nb\tO\n\n" * 3, "extract", "a.conll"))
