"""Files of labelled rows as people have them: all forms give the same examples; what is bad is named by its line."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yanmo.errors import Error, FileError, InputError
from yanmo.tasks import reading, stored
from yanmo.tasks.examples import Data, Example

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
TEXTS = ["a fine film, really", "dull and long", "不错的酒店 🙂", "café\u0301 was cold"]
LABELS = ["pos", "neg", "pos", "neg"]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(data: Data) -> list[tuple[str, tuple[str, ...] | None]]:
    return [(example.text, example.labels) for example in data.examples]


EXPECTED = [(text, (label,)) for text, label in zip(TEXTS, LABELS)]
PLAIN = "".join(f"{text}\t{label}\n" for text, label in zip(TEXTS, LABELS))
CSV = "label,text\n" + "".join(f'{label},"{text}"\n' for text, label in zip(TEXTS, LABELS))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", PLAIN),
        ("a.txt", PLAIN),
        ("a.tsv", "sentence\tlabel\n" + PLAIN),
        ("a.tsv", PLAIN.replace("\n", "\r\n")),
        ("a.tsv", b"\xef\xbb\xbf" + PLAIN.encode()),
        ("a.tsv", PLAIN.encode("utf-16")),
        ("a.tsv.gz", gzip.compress(PLAIN.encode())),
        ("a.csv", CSV),
        (
            "a.csv",
            CSV.replace(",pos", ";pos")
            .replace("label,text", "label;text")
            .replace('pos,"', 'pos;"')
            .replace('neg,"', 'neg;"'),
        ),
        ("a.jsonl", "".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in zip(TEXTS, LABELS))),
        ("a.json", json.dumps([{"text": t, "label": y} for t, y in zip(TEXTS, LABELS)], indent=1)),
        ("a.json", json.dumps({"data": [{"sentence": t, "category": y} for t, y in zip(TEXTS, LABELS)]})),
        ("a.txt", "".join(f"__label__{y} {t}\n" for t, y in zip(TEXTS, LABELS))),
    ],
)
def test_every_form_of_a_table_gives_the_same_examples(tmp_path, name, content):
    data = reading.read("classify", write(tmp_path, name, content))
    assert rows(data) == EXPECTED
    assert data.examples[-1].where == f"{name}:{int(data.examples[0].where.split(':')[1]) + 3}" or name == "a.json"
    assert not data.bad


def test_parquet_gives_the_names_of_its_classes(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    features = {"features": {"text": {"_type": "Value"}, "label": {"_type": "ClassLabel", "names": ["neg", "pos"]}}}
    table = pyarrow.table({"text": TEXTS, "label": [1, 0, 1, 0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": features})})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert rows(reading.read("classify", tmp_path / "a.parquet")) == EXPECTED
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.parquet", "a.parquet")
    assert rows(reading.read("classify", tmp_path / "a.zip")) == EXPECTED


def test_a_cell_may_hold_lines_delimiters_and_quotation_marks(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\n"one, two\nthree ""four""",yes\nplain,no\n')
    assert rows(reading.read("classify", path)) == [('one, two\nthree "four"', ("yes",)), ("plain", ("no",))]


def test_what_was_understood_is_told(tmp_path):
    path = write(tmp_path, "a.csv", "review,stars,when\ngood stuff here,5,monday\nbad stuff there,1,friday\n")
    understood = reading.read("classify", path).understood
    assert understood.columns == {"text": "review", "label": "stars"}
    assert "the first line names them" in understood.notes[0]
    assert understood.notes[1] == "a.csv: not used: 'when'"


def test_columns_can_be_named_by_name_or_number(tmp_path):
    path = write(tmp_path, "a.tsv", "x\tone thing\tp\ny\ttwo things\tq\n")
    by_number = reading.read("classify", path, columns={"text": "2", "label": "1", "header": "no"})
    assert rows(by_number) == [("one thing", ("x",)), ("two things", ("y",))]
    with pytest.raises(InputError, match="no column 'labl'.*its columns are '1', '2', '3'"):
        reading.read("classify", path, columns={"label": "labl"})
    with pytest.raises(InputError, match="classify knows no column 'lable'.*nearest: 'label'"):
        reading.read("classify", path, columns={"lable": "1"})


def test_pairs_several_labels_values_and_flags(tmp_path):
    pairs = write(
        tmp_path, "p.tsv", "sentence1\tsentence2\tscore\n" + "".join(f"a b\tc d\t{n / 7:.3f}\n" for n in range(30))
    )
    data = reading.read("classify", pairs)
    assert (data.examples[1].text_pair, data.examples[1].value, data.examples[1].labels) == ("c d", 0.143, None)
    several = write(tmp_path, "s.csv", "text,labels\none,a|b\ntwo,b\nthree,a;c\nfour,\n")
    data = reading.read("classify", several, columns={"labels": "labels"})
    assert [e.labels for e in data.examples] == [("a", "b"), ("b",), ("a", "c"), ()]
    flags = write(tmp_path, "f.csv", "text,toxic,rude\none,1,0\ntwo,1,1\nthree,0,0\n")
    data = reading.read("classify", flags, columns={"labels": "toxic,rude"})
    assert [e.labels for e in data.examples] == [("toxic",), ("toxic", "rude"), ()]
    groups = write(tmp_path, "g.jsonl", '{"id": 7, "text": "t", "label": "x", "meta": {"page": "P"}}\n')
    assert reading.read("classify", groups, columns={"group": "meta.page"}).examples[0].group == "P"


def test_names_of_classes_replace_their_numbers(tmp_path):
    data = write(tmp_path, "a.tsv", "one\t0\ntwo\t1\n")
    names = write(tmp_path, "names.txt", "sport\nmoney\n")
    read = reading.read("classify", data, columns={"names": str(names)})
    assert [e.labels for e in read.examples] == [("sport",), ("money",)]
    with pytest.raises(FileError, match=r"a.tsv:2: the label '1' is not among the 1 named classes"):
        reading.read("classify", data, columns={"names": str(write(tmp_path, "n.txt", "sport\n"))})


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.tsv", "one\tx\ntwo\ty\nthree\n", "a.tsv:3: it has 1 columns, where 2 are expected; mend the row"),
        ("a.csv", "text,label\none,x\n,y\n", "a.csv:3: the text is empty"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"\n', "a.jsonl:2: it is not JSON"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n[1]\n', "a.jsonl:2: it is a list, where an object is needed"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": 3, "label": "x"}\n', "a.jsonl:2: the text is a number"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": null}\n', "a.jsonl:2: it has no label"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "\\ud83d", "label": "y"}\n', "half of a surrogate pair"),
        ("a.csv", 'text,label\n"one,x\ntwo,y\n', "quotation mark opened in line 2 is never closed"),
        ("a.tsv", "one\tx\n" + "z" * (2**22 + 1) + "\ty\n", "a.tsv:2: a cell of it has more than 4,194,304 characters"),
        ("a.csv", "text,label\none,x\n" + "z" * (2**22 + 1) + ",y\n", "a.csv:3: a cell of it has more than 4,194,304"),
        ("a.tsv", b"one\tx\n\0\0\0two\ty\n", "NUL"),
        ("a.tsv", "one\tx\n" * 30 + "t\0o\ty\n", "a.tsv:31: the text holds a NUL byte"),
        ("a.csv", "label,text\n" + "z" * 501 + ",one\n", "has 501 characters, and at most 500 are a label"),
        ("a.tsv", b"\xff\xfeone", "byte-order mark promises"),
        ("a.tsv", b"", "empty; name a file"),
        ("a.csv", "text,text\na,b\n", "names the column 'text' twice"),
        ("a.txt", "one line of prose\nand more\n", "no table: 0 of its first 2 lines hold a tab"),
    ],
)
def test_bad_input_is_one_sentence_with_its_line(tmp_path, name, content, sentence):
    with pytest.raises(Error) as caught:
        reading.read("classify", write(tmp_path, name, content))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_bad_rows_can_be_left_out_and_are_listed(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\none,x\n,y\nthree,x,z\nfour,y\n")
    data = reading.read("classify", path, skip_bad=True)
    assert [e.text for e in data.examples] == ["one", "four"]
    assert sorted(bad.where for bad in data.bad) == ["a.csv:3", "a.csv:4"]
    with pytest.raises(FileError, match="no usable example .1 bad rows.; the first: b.csv:2: the text is empty"):
        reading.read("classify", write(tmp_path, "b.csv", "text,label\n,y\n"), skip_bad=True)


def test_an_old_western_file_is_read_and_said(tmp_path):
    content = "".join(f"the caf\u00e9 has the number {n} \u2019twas\t{n % 2}\n" for n in range(20)).encode("cp1252")
    data = reading.read("classify", write(tmp_path, "a.tsv", content))
    assert data.examples[0].text == "the caf\u00e9 has the number 0 \u2019twas"
    assert any("read as Windows-1252" in note for note in data.understood.notes)
    damaged = "the caf\u00e9\tx\n".encode() * 10 + b"broken \xe9\ty\n"
    with pytest.raises(FileError, match="byte 127 is not UTF-8"):
        reading.read("classify", write(tmp_path, "b.tsv", damaged))


COUNTS = [
    ("classify", "classification/ChnSentiCorp-dev.tsv", 1200),
    ("classify", "classification/TREC.train.all", 5452),
    ("classify", "classification/ag_news-a.csv", 5692),
    ("classify", "classification/sms-spam-a.tsv", 4466),
    ("classify", "classification/sst2-dev.tsv", 872),
    ("classify", "classification/thucnews-dev.txt", 10000),
    ("classify", "fairness/hatecheck-test_suite_cases.csv", 3728),
    ("answer", "qa/DRCD_dev.json.gz", 3524),
    ("answer", "qa/squad-v2.0-cs224n-dev.json.gz", 6078),
    ("answer", "qa/xquad.zh-a.json", 352),
]


@pytest.mark.parametrize(("task", "name", "count"), COUNTS)
def test_real_files(task, name, count):
    if not (SHARED / name).exists():
        pytest.skip("the shared data are absent")
    data = reading.read(task, SHARED / name)
    assert len(data.examples) == count
    for example in data.examples:
        for answer in example.answers or ():
            assert answer.start < 0 or example.text.startswith(answer.text, answer.start)


TASKS = st.sampled_from(["classify", "extract", "answer", "translate", "generate"])
PIECES = st.sampled_from(
    [
        "\t",
        "\n",
        ",",
        '"',
        "{",
        "}",
        "[",
        "]",
        ":",
        "text",
        "label",
        "answers",
        "O",
        "B-X",
        "I-X",
        "\\",
        " ",
        "1",
        "é",
        "data",
    ]
    + [
        "paragraphs",
        "qas",
        "\ud83d\ude42".encode("utf-16", "surrogatepass").decode("utf-16"),
        "<e1>",
        "</e1>",
        "\ufeff",
    ]
)
BYTES = st.one_of(st.binary(max_size=400), st.lists(PIECES, max_size=80).map(lambda parts: "".join(parts).encode()))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    task=TASKS,
    content=BYTES,
    name=st.sampled_from(["a.csv", "a.tsv", "a.txt", "a.json", "a.conll"]),
    skip=st.booleans(),
)
def test_arbitrary_bytes_give_examples_or_an_error(tmp_path, task, content, name, skip):
    try:
        data = reading.read(task, write(tmp_path, name, content), skip_bad=skip)
    except Error as error:
        assert "\n" not in str(error)
    else:
        assert data.examples


KEYS = (
    "data paragraphs context qas question answers text answer_start id label entities tokens tags h t relation start "
    "end is_impossible type messages role content head tail target title subj_start obj_end token"
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=6),
    max_leaves=30,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(task=TASKS, value=VALUES, lines=st.booleans(), skip=st.booleans())
def test_arbitrary_json_gives_examples_or_an_error(tmp_path, task, value, lines, skip):
    content = json.dumps(value) if not lines else json.dumps(value) + "\n" + json.dumps([value]) + "\n"
    try:
        reading.read(task, write(tmp_path, "a.json", content), skip_bad=skip)
    except Error as error:
        assert "\n" not in str(error)


def test_files_of_lines_that_belong_together(tmp_path):
    text = write(tmp_path, "train_text.txt", "one, two\n\tthree\nfour\n")
    labels = write(tmp_path, "train_labels.txt", "0\n1\n0\n")
    names = write(tmp_path, "mapping.txt", "0\tjoy\n1\tanger\n")
    data = reading.read("classify", [labels, text], columns={"names": str(names)})
    assert rows(data) == [("one, two", ("joy",)), ("\tthree", ("anger",)), ("four", ("joy",))]
    assert data.examples[2].where == "train_text.txt:3"
    files = [write(tmp_path, name, content) for name, content in (("s1.dev", "a\nb\n"), ("s2.dev", "c\nd\n"))]
    pairs = reading.read("classify", [*files, write(tmp_path, "labels.dev", "x\ny\n")])
    assert [(e.text, e.text_pair, e.labels) for e in pairs.examples] == [("a", "c", ("x",)), ("b", "d", ("y",))]
    write(tmp_path, "train_labels.txt", "0\n1\n")
    with pytest.raises(FileError, match="have 2 and other numbers of lines .train_text.txt has 3"):
        reading.read("classify", [labels, text])


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.tsv", "".join(f"gj04\t{n % 2}\t{'*' * (n % 3 == 0)}\tsome words here\n" for n in range(20)), {"text": "4"}),
        ("a.csv", ",text,label\n" + "".join(f"{n},some words {n},{n % 2}\n" for n in range(20)), {"label": "label"}),
        (
            "a.csv",
            "".join(f'{n % 2},"1467{n:02d}","Mon Apr 06 22:19:{n:02d} PDT 2009","some words {n}"\n' for n in range(20)),
            {"label": "1", "text": "4"},
        ),
        ("a.csv", "text;klasse\n" + "".join(f"some, words;{'abc'[n % 3]}\n" for n in range(20)), {"label": "klasse"}),
        (
            "a.txt",
            "Quality\t#1 String\t#2 String\n" + "".join(f"{n % 2}\tsome words\tother words\n" for n in range(20)),
            {"label": "Quality", "text": "#1 String", "text_pair": "#2 String"},
        ),
    ],
)
def test_columns_of_well_known_kinds_are_told(tmp_path, name, content, columns):
    understood = reading.read("classify", write(tmp_path, name, content)).understood
    assert columns.items() <= understood.columns.items()


def test_folders_named_by_labels(tmp_path):
    for label in ("pos", "neg"):
        (tmp_path / label).mkdir()
        for number in range(2):
            write(tmp_path / label, f"{number}.txt", f"a {label} text\nof two lines, {number}\n")
    data = reading.read("classify", tmp_path)
    assert rows(data)[:2] == [("a neg text\nof two lines, 0", ("neg",)), ("a neg text\nof two lines, 1", ("neg",))]
    assert data.examples[3].id == "pos/1.txt"
    write(tmp_path / "neg", "2.txt", " \n")
    with pytest.raises(FileError, match="neg/2.txt:1: the text is empty"):
        reading.read("classify", tmp_path)
    for label in ("pos", "neg"):  # parts of one set of data are no labels
        write(tmp_path, f"{label}.tsv", PLAIN)
        for number in range(3):
            (tmp_path / label / f"{number}.txt").unlink(missing_ok=True)
    write(tmp_path, "README.md", "about the data")
    assert rows(reading.read("classify", tmp_path)) == EXPECTED * 2


ROWS = [
    ("classify", {"text": "Ada in Rome", "label": "x"}),
    ("extract", {"text": "Ada in Rome", "entities": [{"type": "P", "start": 0, "end": 3}]}),
    ("extract", {"tokens": ["Ada"], "tags": ["B-P"]}),
    ("extract", {"token": ["Ada", "Rome"], "h": ["Ada", "Q", [[0]]], "t": ["Rome", "Q", [[1]]], "relation": "in"}),
    ("extract", {"text": "Ada in Rome", "spo_list": [{"subject": "Ada", "object": "Rome", "predicate": "in"}]}),
    ("extract", {"sentence": "<e1>Ada</e1> in <e2>Rome</e2>", "relation": 0}),
    ("answer", {"context": "Ada in Rome", "question": "Who?", "answer": "Ada"}),
    ("translate", {"en": "Ada in Rome", "de": "Ada in Rom"}),
    ("generate", {"instruction": "Who?", "output": "Ada"}),
]


@pytest.mark.parametrize(("task", "row"), ROWS)
def test_numbers_name_groups_and_rows_too(tmp_path, task, row):
    columns = {"group": "page", "id": "number"}
    path = write(tmp_path, "a.jsonl", json.dumps(row | {"page": 0, "number": 0}))
    example = reading.read(task, path, columns=columns).examples[0]
    assert (example.group, example.id) == ("0", "0")
    write(tmp_path, "a.jsonl", json.dumps(row | {"page": "\ud83d", "number": 0}))
    with pytest.raises(FileError, match="a.jsonl:1: the group holds half of a surrogate pair"):
        reading.read(task, path, columns=columns)


def test_a_table_of_relations_has_groups(tmp_path):
    path = write(tmp_path, "a.csv", "head,tail,relation,text,page,no\nAda,Rome,in,Ada in Rome,3,7\n")
    example = reading.read("extract", path, columns={"group": "page", "id": "no"}).examples[0]
    assert (example.group, example.id) == ("3", "7")


def test_kept_examples_that_are_damaged_are_told_by_their_line(tmp_path):
    examples = [Example(str(n), f"f:{n}", "caf\u00e9", labels=("x",)) for n in range(2)]
    stored.write_examples(tmp_path / "a.jsonl", examples)
    whole = (tmp_path / "a.jsonl").read_bytes()
    assert stored.read_examples(tmp_path / "a.jsonl") == examples
    for line, damaged in ((1, whole.replace(b"\xc3\xa9", b"\xe9")), (2, whole[:-20])):
        path = write(tmp_path, "b.jsonl", damaged)
        with pytest.raises(FileError, match=f"b.jsonl:{line}: no example of a task"):
            stored.read_examples(path)


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    places = ["a/x/part.tsv", "b/x/part.tsv", "b/y/part.tsv", "b/y/other.tsv"]
    for place in places:
        (tmp_path / "d" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / place).write_text(PLAIN)
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for place in places:
            archive.write(tmp_path / "d" / place, place)
    for path in (tmp_path / "d", tmp_path / "d.zip"):
        ids = [example.id for example in reading.read("classify", path).examples]
        assert len(set(ids)) == len(ids)
        assert {key.partition(":")[0] for key in ids} == {"a/x/part.tsv", "b/x/part.tsv", "y/part.tsv", "other.tsv"}
    both = reading.read("classify", [tmp_path / "d.zip", tmp_path / "d" / "b" / "y" / "other.tsv"]).examples
    assert len({example.id for example in both}) == len(both)


def test_documents_of_one_name_are_told_apart_and_keep_their_own_annotations(tmp_path):
    for place, text in (("a/1.a", "Ada ran."), ("a/1.b", "Bob ran."), ("b/1.a", "Eve ran.")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / f"{place}.txt").write_text(text)
        (tmp_path / f"{place}.ann").write_text(f"T1\tPER 0 3\t{text[:3]}\n")
    data = reading.read("extract", tmp_path)
    assert [(e.id, e.group, e.text) for e in data.examples] == [
        ("a/1.a", "a/1.a", "Ada ran."), ("1.b", "1.b", "Bob ran."), ("b/1.a", "b/1.a", "Eve ran.")
    ]  # fmt: skip
    found = reading.read("extract", [tmp_path / "a" / "1.a.ann", tmp_path / "b" / "1.a.ann"])
    assert [e.id for e in found.examples] == ["a/1.a", "b/1.a"]
