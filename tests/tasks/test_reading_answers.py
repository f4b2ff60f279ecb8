"""Questions on passages as people have them: trees and flat rows give the same examples; places are code points."""

from __future__ import annotations

import json

import pytest

from tests.tasks.test_reading import write
from yanmo.errors import FileError
from yanmo.tasks import reading
from yanmo.tasks.examples import Answer

CONTEXT = "𝔘nter der Linde 🙂 saß Åsa in Köln."


def squad(questions: list[dict], context: str = CONTEXT) -> str:
    return json.dumps(
        {"version": "x", "data": [{"title": "T", "paragraphs": [{"context": context, "qas": questions}]}]}
    )


def test_questions_have_offsets_in_code_points(tmp_path):
    place = CONTEXT.index("Åsa")
    utf16 = len(CONTEXT[:place].encode("utf-16-le")) // 2
    questions = [
        {"id": "1", "question": "Wer?", "answers": [{"text": "Åsa", "answer_start": place}]},
        {"id": "2", "question": "Wer?", "answers": [{"text": "Åsa", "answer_start": utf16}]},
        {"id": "3", "question": "Wann?", "answers": [], "is_impossible": True},
    ]
    data = reading.read("answer", write(tmp_path, "a.json", squad(questions)))
    answer = (Answer("Åsa", place),)
    assert [(e.id, e.answers, e.group) for e in data.examples] == [
        ("1", answer, "T"),
        ("2", answer, "T"),
        ("3", (), "T"),
    ]
    assert any("found nearby" in note for note in data.understood.notes)


def test_an_answer_in_other_words_is_kept_beside_one_that_has_a_place(tmp_path):
    answers = [{"text": "in Cologne", "answer_start": 3}] * 3 + [
        {"text": "Köln", "answer_start": CONTEXT.index("Köln")}
    ] * 2
    data = reading.read(
        "answer", write(tmp_path, "a.json", squad([{"id": "1", "question": "Wo?", "answers": answers}]))
    )
    assert data.examples[0].answers == (*[Answer("Köln", CONTEXT.index("Köln"))] * 2, Answer("in Cologne", -1))
    assert any(note.startswith("3 answers are not in their passage") for note in data.understood.notes)


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (
            {"id": "9", "question": "?", "answers": [{"text": "Paris", "answer_start": 3}]},
            "'Paris' is not in its passage",
        ),
        ({"id": "9", "question": "?", "answers": [{"text": "Paris", "answer_start": 900}]}, "begins at 900"),
        ({"id": "9", "question": "", "answers": []}, "the question is empty"),
        (
            {"id": "9", "question": "?", "answers": [{"text": "Köln", "answer_start": 3}], "is_impossible": True},
            "impossible",
        ),
        ({"id": "9", "question": "?", "answers": [{"text": "Köln", "answer_start": "x"}]}, "a whole number is needed"),
        ({"id": "9", "question": "?", "answers": 5}, "its answers are a number"),
    ],
)
def test_a_bad_question_is_named(tmp_path, question, sentence):
    with pytest.raises(FileError, match="a.json:1: question '9'") as caught:
        reading.read("answer", write(tmp_path, "a.json", squad([question])))
    assert sentence in str(caught.value)


def test_flat_questions(tmp_path):
    row = {"context": CONTEXT, "question": "Wo?", "answers": {"text": ["Köln"], "answer_start": [31]}, "title": "T"}
    none = row | {"answers": {"text": [], "answer_start": []}}
    data = reading.read("answer", write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, (row, none)))))
    assert [e.answers for e in data.examples] == [(Answer("Köln", CONTEXT.index("Köln")),), ()]
    assert data.examples[0].group == "T"
    impossible = row | {"answers": None, "is_impossible": True}
    assert reading.read("answer", write(tmp_path, "a.jsonl", json.dumps(impossible))).examples[0].answers == ()


def test_one_question_set_a_line(tmp_path):
    question = {"qid": "7", "question": "Who?", "answers": ["Ada"]}
    question["detected_answers"] = [{"text": "Ada", "char_spans": [[8, 10]]}]
    lines = [{"header": {"dataset": "x"}}]
    lines += [{"context": f"Ada and Ada ran {n} miles", "qas": [question | {"qid": f"q{n}"}]} for n in range(2)]
    data = reading.read("answer", write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, lines))))
    assert [(e.id, e.where, e.answers) for e in data.examples] == [
        ("q0", "a.jsonl:2", (Answer("Ada", 8),)),
        ("q1", "a.jsonl:3", (Answer("Ada", 8),)),
    ]
    assert len({e.group for e in data.examples}) == 2
    broken = "\n".join(map(json.dumps, [*lines, {"context": "no questions"}])) + '\n{"context"'
    with pytest.raises(FileError, match="a.jsonl:4: it has no context and qas"):
        reading.read("answer", write(tmp_path, "a.jsonl", broken))
    assert [bad.where for bad in reading.read("answer", tmp_path / "a.jsonl", skip_bad=True).bad] == [
        "a.jsonl:4",
        "a.jsonl:5",
    ]


def test_questions_are_found_by_ids_in_any_form(tmp_path):
    ids = ["问1", 'a"b', "a/b", 7, "7", "plain"]
    asked = [{"id": key, "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]} for key in ids]
    made = {"data": [{"paragraphs": [{"context": 'Ada said "id": "plain".', "qas": asked}]}]}
    text = json.dumps(made, indent=1).replace("a/b", r"a\/b")
    data = reading.read("answer", write(tmp_path, "a.json", text))
    lines = [number for number, line in enumerate(text.split("\n"), start=1) if line.strip().startswith('"id": ')]
    assert [example.where for example in data.examples] == [f"a.json:{line}" for line in lines]
    assert len({example.where for example in data.examples}) == len(ids)
