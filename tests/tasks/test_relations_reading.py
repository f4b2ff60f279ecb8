"""Entities and relations in all their files: exact characters, directions, and one sentence for what does not fit."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from yanmo.errors import FileError
from yanmo.tasks import reading
from yanmo.tasks.examples import Data, Example, Relation

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "relation"


def read(folder: Path, content: str | list, name: str = "a.jsonl", **options) -> Data:
    path = folder / name
    rows = (
        content if isinstance(content, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    )
    path.write_text(rows, "utf-8", newline="")
    return reading.read("extract", path, **options)


def shown(example: Example) -> list[tuple[str, str]]:
    return [(span.type, example.text[span.start : span.end]) for span in example.entities or ()]


TEXT = "🙂 In Köln besuchte Ada Lovelace das 博物馆."
AT = TEXT.index("Ada")
SPANS = [("LOC", "Köln"), ("PER", "Ada Lovelace"), ("LOC", "博物馆")]


def units(place: int) -> int:
    return len(TEXT[:place].encode("utf-16-le")) // 2


def form(name: str) -> dict:
    places = [(kind, TEXT.index(word), TEXT.index(word) + len(word), word) for kind, word in SPANS]
    forms = {
        "spans": [{"type": kind, "start": start, "end": end} for kind, start, end, _ in places],
        "surfaces": [{"label": kind, "start_offset": a, "end_offset": b, "text": word} for kind, a, b, word in places],
        "inclusive": [{"type": kind, "start_idx": a, "end_idx": b - 1, "entity": word} for kind, a, b, word in places],
        "utf16": [{"type": kind, "start": units(a), "end": units(b), "text": word} for kind, a, b, word in places],
        "triples": [[start, end, kind] for kind, start, end, _ in places],
        "typed": [[kind, start, end] for kind, start, end, _ in places],
        "cluener": {"LOC": {"Köln": [list(places[0][1:3])], "博物馆": [list(places[2][1:3])]}},
    }
    if name == "cluener":  # ends are inclusive there
        held = {kind: {} for kind, _ in SPANS}
        for kind, start, end, word in places:
            held[kind][word] = [[start, end - 1]]
        return {"text": TEXT, "label": held}
    return {"text": TEXT, "entities": forms[name]}


@pytest.mark.parametrize("name", ["spans", "surfaces", "inclusive", "utf16", "triples", "typed", "cluener"])
def test_all_forms_of_spans_give_the_same_characters(tmp_path, name):
    data = read(tmp_path, [form(name)])
    assert sorted(shown(data.examples[0])) == sorted(SPANS)
    assert any("last character" in note for note in data.understood.notes) == (name in ("inclusive", "cluener"))
    assert any("UTF-16" in note for note in data.understood.notes) == (name == "utf16")


def test_spacy_pairs_and_one_object_over_many_lines(tmp_path):
    pairs = [[TEXT, {"entities": [[AT, AT + 3, "PER"]]}]]
    assert shown(read(tmp_path, json.dumps(pairs), "a.json").examples[0]) == [("PER", "Ada")]
    pretty = "\n".join(json.dumps(form("spans"), indent=2) for _ in range(3))
    assert len(read(tmp_path, pretty, "a.json").examples) == 3


@pytest.mark.parametrize(
    ("entity", "sentence"),
    [
        (
            {"type": "X", "start": 30, "end": 90},
            "the entity of type 'X' from 30 to 90 is outside; the text has 40 characters",
        ),
        ({"type": "X", "start": -1, "end": 4}, "from -1 to 4 is outside"),
        ({"type": "X", "start": 4, "end": 4}, "from 4 to 4 has no characters"),
        (
            {"type": "X", "start": 0, "end": 4, "text": "Köln"},
            "the text has '🙂 In' from 0 to 4, where 'Köln' is stated",
        ),
        ({"type": "X", "start": "a", "end": 4}, "is 'a', where a whole number is needed"),
        ({"type": "", "start": 0, "end": 4}, "the type of an entity is empty"),
        ("Köln", "the entity 'Köln' is no object with type, start and end"),
    ],
)
def test_a_bad_entity_is_one_sentence(tmp_path, entity, sentence):
    with pytest.raises(FileError) as caught:
        read(tmp_path, [form("spans"), {"text": TEXT, "entities": [entity]}])
    assert str(caught.value).startswith("a.jsonl:2: ") and sentence in str(caught.value)
    assert len(read(tmp_path, [form("spans"), {"text": TEXT, "entities": [entity]}], skip_bad=True).bad) == 1


def test_relations_of_objects(tmp_path):
    row = form("spans") | {
        "relations": [{"type": "visited", "head": 1, "tail": 2}, {"type": "NA", "head": 0, "tail": 1}]
    }
    assert read(tmp_path, [row]).examples[0].relations == (Relation("visited", 1, 2),)
    named = {"text": TEXT, "entities": [{"id": n + 5, **e} for n, e in enumerate(form("spans")["entities"])]}
    named["relations"] = [{"type": "visited", "from_id": 6, "to_id": 7}]
    assert read(tmp_path, [named]).examples[0].relations == (Relation("visited", 1, 2),)
    with pytest.raises(FileError, match="a relation names the entity 3, which is none of the row's 3"):
        read(tmp_path, [form("spans") | {"relations": [{"type": "x", "head": 3, "tail": 0}]}])
    twice = {"text": TEXT, "entities": [{"id": 5, **e} for e in form("spans")["entities"]], "relations": []}
    assert read(tmp_path, [twice]).examples[0].relations == ()
    with pytest.raises(FileError, match="names the entity '5', and several of the row have this id"):
        read(tmp_path, [twice | {"relations": [{"type": "x", "from_id": 5, "to_id": 5}]}])


def test_semeval(tmp_path):
    content = (
        '1\t"The <e1>author</e1> of a \xe9 "key" uses <e2>a tool</e2>."\r\nInstrument-Agency(e2,e1)\r\nComment:\r\n\r\n'
        '2\t"A <e2>b</e2> c <e1>d</e1>"\r\nOther\r\nComment:\r\n\r\n'
        '3\t"A <e1>b</e1> c <e2>d</e2>"\r\nCause-Effect(e1,e2)\r\n'
    )
    examples = read(tmp_path, content, "a.txt").examples
    assert examples[0].text == 'The author of a \xe9 "key" uses a tool.'
    assert shown(examples[0]) == [("entity", "author"), ("entity", "a tool")]
    assert [e.relations for e in examples] == [
        (Relation("Instrument-Agency", 1, 0),),
        (),
        (Relation("Cause-Effect", 0, 1),),
    ]
    assert [word for _, word in shown(examples[1])] == ["d", "b"]  # e1 first, wherever it stands
    unlabelled = read(tmp_path, '1\t"A <e1>b</e1> <e2>c</e2>."\n2\t"D <e1>e</e1> <e2>f</e2>."\n', "a.txt").examples
    assert [e.relations for e in unlabelled] == [None, None]
    with pytest.raises(FileError, match="a.txt:1: it needs <e1>, </e1>, <e2> and </e2>, each once"):
        read(tmp_path, '1\t"A <e1>b</e1> c."\nOther\n', "a.txt")


def test_conll04_relates_the_last_tokens(tmp_path):
    content = (
        "#doc 9\n0\tAda\tB-Peop\t['N']\t[0]\n1\tByron\tI-Peop\t['Live_In', 'Work_For']\t[3, 4]\n2\tin\tO\t['N']\t[2]\n"
        "3\tLondon\tB-Loc\t['N']\t[3]\n4\tBBC\tB-Org\t['N']\t[4]\n"
    )
    example = read(tmp_path, content, "a.txt").examples[0]
    assert (example.id, example.text) == ("9", "Ada Byron in London BBC")
    assert example.relations == (Relation("Live_In", 0, 1), Relation("Work_For", 0, 2))
    with pytest.raises(FileError, match="a.txt:1: line 3 relates token 1 to token 2, and one of them is in no entity"):
        read(tmp_path, content.replace("[3, 4]", "[2, 4]"), "a.txt")


def test_tokens_with_subject_and_object(tmp_path):
    tacred = {"id": "x", "docid": "d", "token": ["Ada", "Byron", "wrote", "code"], "subj_start": 0, "subj_end": 1}
    tacred |= {"obj_start": 3, "obj_end": 3, "subj_type": "PERSON", "obj_type": "WORK", "relation": "per:wrote"}
    data = read(tmp_path, [tacred, tacred | {"relation": "no_relation"}])
    assert shown(data.examples[0]) == [("PERSON", "Ada Byron"), ("WORK", "code")]
    assert [e.relations for e in data.examples] == [(Relation("per:wrote", 0, 1),), ()]
    assert data.examples[0].group == "d"
    with pytest.raises(FileError, match="a.jsonl:1: an entity reaches from token 3 to 10; it has 4 tokens"):
        read(tmp_path, [tacred | {"obj_end": 9}])
    row = {"tokens": ["北京", "is", "in", "中国"], "h": ["北京", "Q1", [[0]]], "t": ["中国", "Q2", [[3]]]}
    data = read(tmp_path, json.dumps({"P17": [row], "P36": [row]}), "a.json")
    assert shown(data.examples[0]) == [("entity", "北京"), ("entity", "中国")]
    assert [e.relations for e in data.examples] == [(Relation("P17", 0, 1),), (Relation("P36", 0, 1),)]


def test_triples_and_tables(tmp_path):
    triple = {"subject": "Ada", "predicate": "mother", "object": {"@value": "Anna"}, "subject_type": "P"}
    data = read(tmp_path, [{"text": "Anna was Ada's mother", "spo_list": [triple]}])
    assert shown(data.examples[0]) == [("P", "Ada"), ("entity", "Anna")]
    assert data.examples[0].relations == (Relation("mother", 0, 1),)
    table = "张三\t李四\t父母\t张三是李四的父亲\n王五\t赵六\tunknown\t王五和赵六是同学\n" * 3
    data = read(tmp_path, table, "a.txt")
    assert [e.relations for e in data.examples[:2]] == [(Relation("父母", 0, 1),), ()]
    with pytest.raises(FileError, match="a.txt:7: the entity '马' is not in the text"):
        read(tmp_path, table + "马\t李\t父母\t没有\n", "a.txt")


@pytest.mark.parametrize(
    ("name", "count", "relations"),
    [
        ("SemEval2010_task8_TRAIN_FILE.TXT", 8000, {"Cause-Effect": 1003, "Component-Whole": 941}),
        ("CoNLL04-dev.txt", 243, {"OrgBased_In": 106, "Work_For": 83, "Kill": 18}),
        ("zh-people-relation-train.txt", 1000, {"夫妻": 174}),
    ],
)
def test_real_files(name, count, relations):
    if not (SHARED / name).exists():
        pytest.skip("the shared data are absent")
    data = reading.read("extract", SHARED / name)
    assert len(data.examples) == count
    assert relations.items() <= Counter(r.type for e in data.examples for r in e.relations).items()


STANDOFF = (
    "T1\tPER 0 12\tAda Lovelace\nT2\tLOC 22 30\tgreat\nLondon\nR1\tlives Arg1:T1 Arg2:T2\n"
    "*\tEquiv T1 T2\n#1\tNote T1\tx\nT3\tPER 0 3;4 12\tAda Lovelace\n"
)


def test_annotations_beside_their_texts(tmp_path):
    text = "Ada Lovelace lived in g\nLondon 🙂."
    (tmp_path / "a.txt").write_text(text, "utf-8")
    (tmp_path / "a.ann").write_text(STANDOFF.replace("great\n", "g\n"), "utf-8")
    (tmp_path / "annotation.conf").write_text("x")
    for named in (tmp_path, tmp_path / "a.ann"):
        data = reading.read("extract", named)
        assert (data.examples[0].id, data.examples[0].text) == ("a", text)
        assert shown(data.examples[0]) == [("PER", "Ada Lovelace"), ("LOC", "g\nLondon"), ("PER", "Ada Lovelace")]
        assert data.examples[0].relations == (Relation("lives", 0, 1),)
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "a.txt", "d/a.txt")
        archive.add(tmp_path / "a.ann", "d/a.ann")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as packed:
        packed.write(tmp_path / "a.txt", "d/a.txt")
        packed.write(tmp_path / "a.ann", "d/a.ann")
    for name in ("all.tar.gz", "all.zip"):
        assert reading.read("extract", tmp_path / name).examples[0].relations == (Relation("lives", 0, 1),)


def test_line_ends_of_two_characters_are_counted_as_their_annotations_do(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\r\nthree")
    for place in ("10 15", "8 13"):
        (tmp_path / "a.ann").write_text(f"T1\tN {place}\tthree\n")
        assert shown(reading.read("extract", tmp_path).examples[0]) == [("N", "three")]


@pytest.mark.parametrize(
    ("annotation", "sentence"),
    [
        ("T1\tPER 0 99\tAda", "a.ann:1: the entity from 0 to 99 is outside; the text has 3 characters"),
        ("T1\tPER 0 3\tEve", "a.ann:1: the text has 'Ada' from 0 to 3, where 'Eve' is stated"),
        ("T1\tPER 0 3\tAda\nR1\tx Arg1:T1 Arg2:T9", "a.ann:2: a relation names the entity T9, which is not there"),
        ("nothing of that kind", "a.ann:1: 'nothing of that kind' is no annotation"),
    ],
)
def test_bad_annotations_are_one_sentence(tmp_path, annotation, sentence):
    (tmp_path / "a.txt").write_text("Ada")
    (tmp_path / "a.ann").write_text(annotation)
    with pytest.raises(FileError) as caught:
        reading.read("extract", tmp_path)
    assert sentence in str(caught.value)


def test_a_damaged_archive_is_one_sentence(tmp_path):
    for name in ("a.zip", "a.tar.gz"):
        (tmp_path / name).write_bytes(b"no archive")
        with pytest.raises(FileError, match="no archive that can be read"):
            reading.read("extract", tmp_path / name)


def test_entities_counted_in_tokens(tmp_path):
    spert = {"tokens": ["Ada", "Byron", "in", "London"], "orig_id": 5}
    spert |= {"entities": [{"type": "P", "start": 0, "end": 2}, {"type": "L", "start": 3, "end": 4}]}
    spert |= {"relations": [{"type": "lives", "head": 0, "tail": 1}]}
    example = read(tmp_path, json.dumps([spert]), "a.json").examples[0]
    assert (example.id, shown(example)) == ("5", [("P", "Ada Byron"), ("L", "London")])
    assert example.relations == (Relation("lives", 0, 1),)
    with pytest.raises(FileError, match="a.json:1: an entity reaches from token 3 to 9; there are 4 tokens"):
        read(tmp_path, json.dumps([spert | {"entities": [{"type": "P", "start": 3, "end": 9}]}]), "a.json")
    document = {"doc_key": "d", "sentences": [["Ada", "ran"], ["To", "London", "she", "ran"]]}
    document |= {"ner": [[[0, 0, "P"]], [[3, 3, "L"], [4, 4, "P"]]], "relations": [[], [[4, 4, 3, 3, "to"]]]}
    examples = read(tmp_path, [document]).examples
    assert [(e.text, shown(e), e.group) for e in examples] == [
        ("Ada ran", [("P", "Ada")], "d"),
        ("To London she ran", [("L", "London"), ("P", "she")], "d"),
    ]
    assert [e.relations for e in examples] == [(), (Relation("to", 1, 0),)]
    with pytest.raises(FileError, match="a.jsonl:1: its ner are not one list for each of its 2 sentences"):
        read(tmp_path, [document | {"ner": [[]]}])


def test_marked_sentences_in_tables_and_characters_of_heads_and_tails(tmp_path):
    row = {"sentence": "An <e1>egg</e1> in <e2>milk</e2>", "relation": "Content-Container(e1,e2)"}
    table = 'sentence,relation\n"An <e1>egg</e1> in <e2>milk</e2>","Content-Container(e1,e2)"\n'
    for data in (read(tmp_path, [row]), read(tmp_path, table, "a.csv")):
        assert shown(data.examples[0]) == [("entity", "egg"), ("entity", "milk")]
        assert data.examples[0].relations == (Relation("Content-Container", 0, 1),)
    held = {
        "text": "鲁迅写了呐喊",
        "h": {"name": "鲁迅", "pos": [0, 2]},
        "t": {"name": "呐喊", "pos": [4, 6]},
        "relation": "作品",
    }
    example = read(tmp_path, [held]).examples[0]
    assert example.text == "鲁迅写了呐喊" and shown(example) == [("entity", "鲁迅"), ("entity", "呐喊")]


@pytest.mark.parametrize("form", ["{{%s:%s}}", "[{1}]({0})", "<{0}>{1}</{0}>"])
def test_marks_inside_texts(tmp_path, form):
    marked = [form % pair if "%" in form else form.format(*pair) for pair in (("PER", "Ada 🙂"), ("LOC", "伦敦"))]
    data = read(tmp_path, f"Yes, {marked[0]} is in {marked[1]}.\nNothing here.\n", "a.txt")
    assert [e.text for e in data.examples] == ["Yes, Ada 🙂 is in 伦敦.", "Nothing here."]
    assert shown(data.examples[0]) == [("PER", "Ada 🙂"), ("LOC", "伦敦")] and data.examples[1].entities == ()
    with pytest.raises(FileError, match="a.txt:2: it has .* outside of any mark"):
        read(tmp_path, f"{marked[0]}\n{marked[0]} {marked[0].replace('PER', 'not a type')}\n", "a.txt")
