"""Answers from documents: passages are found, places are those of the file, citations are those that were given."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import yanmo
from yanmo.cli import main
from yanmo.errors import FileError, InputError
from yanmo.inference.model import Model
from yanmo.recipe import ModelSection
from yanmo.tasks.documents import Answerer, cited, compose, extract, messages, open_answerer
from yanmo.tasks.library import Library, find, open_library, terms
from yanmo.tasks.spans import NONE
from yanmo.tokens.batches import NO_TARGET, Batch
from yanmo.tokens.chat import chat_ids, with_template
from yanmo.tokens.tokenizer import Tokenizer
from yanmo.tokens.train import train_tokenizer
from yanmo.training.build import Top, build_network
from yanmo.training.loop import Settings, train
from yanmo.training.objectives import causal

pytest.importorskip("bm25s")

FILES = {
    "rome.txt": "Ada wrote letters.\n\nShe lives in Rome, near the river.\nIt rains there.\n",
    "zh/北京.md": "# 城市\n\n李雷住在北京市。他喜欢散步🌊。\n\n韩梅梅住在杭州，常常喝茶。\n",
    "birds.txt": "Swallows fly south in autumn.\n\n"
    + "Geese follow them. " * 120
    + "\n\nA cuckoo stays till August.\n",
}
TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}A: {% endif %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    lines = [
        json.dumps({"text": f"Note {n}: the {word} is blue."}) for n, word in enumerate(("door", "roof", "sea"), 1)
    ]
    with gzip.open(tmp_path / "texts" / "notes.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\nno json\n")
    return tmp_path / "texts"


@pytest.fixture
def library(folder: Path) -> Library:
    return open_library([folder])


# --- passages and search


def test_passages_joined_are_the_documents_and_know_their_places(library: Library, folder: Path) -> None:
    for name, text in FILES.items():
        own = [one for one in library.passages if one.source == f"texts/{name}"]
        assert len(own) == (2 if name == "birds.txt" else 1)
        for one in own:
            assert text[one.start : one.start + len(one.text)] == one.text
            assert one.line == text.count("\n", 0, one.start) + 1
        assert sum(len(one.text) for one in own) == len(text)
    notes = [one for one in library.passages if one.source.endswith("notes.jsonl.gz")]
    assert [one.document for one in notes] == [1, 2, 3]
    assert library.report.failed["texts/notes.jsonl.gz"].total() == 1


@pytest.mark.parametrize(
    ("question", "source", "words"),
    [
        ("Who lives in Rome?", "texts/rome.txt", "Rome"),
        ("谁住在杭州？", "texts/zh/北京.md", "杭州"),
        ("When does a cuckoo go?", "texts/birds.txt", "cuckoo"),
        ("What about the roofs?", "texts/notes.jsonl.gz", "roof"),
    ],
)
def test_the_passage_that_speaks_of_it_is_found_first(question: str, source: str, words: str, library: Library) -> None:
    hits = find(library, [question], 3)[0]
    best = library.passages[hits[0].passage]
    assert best.source == source and words in best.text
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True) and hits[-1].score > 0


def test_a_question_of_other_words_finds_nothing_and_several_are_each_as_alone(library: Library) -> None:
    questions = ["Rome river", "xylophone", "", "杭州"]
    together = find(library, questions, 2)
    assert together == [find(library, [question], 2)[0] for question in questions]
    assert together[1] == together[2] == [] and find(library, [], 2) == []
    with pytest.raises(InputError, match="0 passages of a question are wanted"):
        find(library, ["Rome"], 0)


def test_a_long_file_that_reading_cuts_is_one_document(tmp_path: Path) -> None:
    text = "".join(f"Line {number} speaks of nothing much at all.\n" for number in range(30_000))
    (tmp_path / "long.txt").write_text(text + "The heron stands in the reeds.\n", "utf-8")
    library = open_library([tmp_path / "long.txt"], 5000)
    found = library.passages[find(library, ["Where is the heron?"], 1)[0][0].passage]
    place = found.place(found.text.index("heron"), found.text.index("heron") + 5)
    whole = text + "The heron stands"
    assert whole[place["start"] : place["end"]] == "heron" and place["line"] == 30_001
    assert place == {"source": "long.txt", "start": len(text) + 4, "end": len(text) + 9, "line": 30_001}
    assert "".join(one.text for one in library.passages).startswith(text[:100_000])


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80))
def test_terms_of_any_text_are_words_without_space_and_equal_for_equal_text(text: str) -> None:
    found = terms(text)
    assert all(term and not re.search(r"\s", term) for term in found) and found == terms(text)


def test_terms_are_words_without_the_plural_and_pairs_of_characters() -> None:
    assert terms("The Birds’ glass, ２cats") == ["the", "bird", "glass", "2cat"]
    assert terms("李雷walks去") == ["李", "雷", "李雷", "walk", "去"]


def test_folders_without_words_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("… — …\n", "utf-8")
    with pytest.raises(FileError, match="no text with a word in it; name documents to answer from"):
        open_library([tmp_path])
    with pytest.raises(yanmo.Error, match="nowhere"):
        open_library([tmp_path / "nowhere"])


# --- extracted


@pytest.fixture(scope="module")
def reader() -> tuple[Model, dict[str, Any]]:
    """One with first weights, whose answers are any words."""
    tokenizer = train_tokenizer(list(FILES.values()) * 3, "wordpiece", 300)
    section = ModelSection(family="bert", width=32, layers=1, heads=2)
    network = build_network(section, tokenizer, length=64, top=Top("span", ("start", "end")))
    return Model(network.eval(), tokenizer), {"length": 64, "stride": 16, "longest": 5, "no_answer": False}


def test_extracted_words_stand_where_their_place_says(reader: tuple[Model, dict[str, Any]], library: Library) -> None:
    questions = ["Who lives in Rome?", "谁住在杭州？", "Where do geese go?", "Which roof is blue?", "xylophone"]
    found = extract(*reader, library, questions)
    for one in found[:3]:
        text = FILES[one["source"].removeprefix("texts/")]
        assert one["answer"] and text[one["start"] : one["end"]] == one["answer"] and one["answer"] in one["passage"]
        assert one["line"] == text.count("\n", 0, one["start"]) + 1 and 0 < one["score"] <= 1
    assert found[3]["document"] in (1, 2, 3) and "document" not in found[0]
    assert found[4] == {"answer": "", "score": 1.0} | dict.fromkeys(("start", "end", "source", "line", "passage"))
    assert [extract(*reader, library, [question])[0]["answer"] for question in questions] == [
        o["answer"] for o in found
    ]


def test_answers_that_all_passages_withhold_are_none(reader: tuple[Model, dict[str, Any]], library: Library) -> None:
    model, known = reader
    none = extract(model, known | {"no_answer": True, "threshold": NONE}, library, ["Who lives in Rome?"])[0]
    assert none["answer"] == "" and none["source"] is None and 0 < none["score"] < 1
    some = extract(model, known | {"no_answer": True, "threshold": 1e9}, library, ["Who lives in Rome?"])[0]
    assert some["answer"]


def test_a_stream_keeps_order_and_ids_and_a_row_without_a_question_is_named(
    reader: tuple[Model, dict[str, Any]], library: Library
) -> None:
    answerer = Answerer(*reader, library)
    rows = [{"id": n, "question": question} for n, question in enumerate(["Rome?", "杭州？"] * 20)]
    found = list(answerer.stream(iter(rows)))
    assert [one["id"] for one in found] == list(range(40)) and found[0]["answer"] == found[2]["answer"]
    assert answerer.predict("Rome?") == {key: value for key, value in found[0].items() if key != "id"}
    with pytest.raises(InputError, match="row 'x' has no question"):
        answerer.predict([{"id": "x", "text": "Rome?"}])


# --- written


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab [【]】,，0123456789", max_size=40), st.integers(0, 12))
def test_no_invented_citation_is_left_in_an_answer(text: str, count: int) -> None:
    kept, known, invented = cited(text, count)
    assert all(1 <= number <= count for number in known) and not set(known) & set(invented)
    again = cited(kept, count)
    assert again[1] == known or set(again[1]) >= set(known)


def test_citations_of_several_kinds_are_read_and_invented_ones_taken_out() -> None:
    kept = cited("Rome [1]. It rains [2, 9][7]. 他住在北京【2】。Year [1984].", 3)
    assert kept == ("Rome [1]. It rains [2]. 他住在北京[2]。Year.", [1, 2], [9, 7, 1984])
    assert cited("a[0] list [x]", 3) == ("a list [x]", [], [0])


@pytest.fixture(scope="module")
def writer() -> Tokenizer:
    texts = [*FILES.values(), messages("q?", [])[0]["content"], messages("问？", [])[0]["content"]]
    return with_template(train_tokenizer(texts * 3, "bpe", 500), TEMPLATE)


def taught_to_write(tokenizer: Tokenizer, library: Library, question: str, text: str) -> Model:
    """A small model that has learned one answer by heart."""
    network = build_network(ModelSection(width=64, layers=2, heads=2), tokenizer, length=1024)
    passages = [library.passages[hit.passage] for hit in find(library, [question], 2)[0]]
    prompt = chat_ids(tokenizer, messages(question, passages))
    answer = tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_id or 0]
    ids = torch.tensor([prompt + answer])
    targets = torch.full_like(ids, NO_TARGET)
    targets[0, len(prompt) - 1 : -1] = torch.tensor(answer)
    batch = Batch(ids, targets, torch.ones_like(ids))
    for step in train(network, [batch] * 80, causal, Settings(steps=80, learning_rate=3e-3)):
        last = step.loss
    assert last < 0.1
    return Model(network.eval(), tokenizer)


def test_a_written_answer_cites_the_passages_that_it_was_given(writer: Tokenizer, library: Library) -> None:
    question = "Who lives in Rome, near the river?"
    model = taught_to_write(writer, library, question, "Ada [1], they say [8].")
    found = compose(model, library, [question], 2, max_new_tokens=30)[0]
    assert (found["answer"], found["invented"], found["passages"]) == ("Ada [1], they say.", [8], 2)
    source = found["sources"][0]
    assert len(found["sources"]) == 1 and source["number"] == 1 and source["source"] == "texts/rome.txt"
    assert FILES["rome.txt"][source["start"] : source["end"]] == source["passage"]
    assert Answerer(model, None, library, 2, {"max_new_tokens": 30}).predict({"id": 7, "question": question})["id"] == 7


def test_passages_that_do_not_fit_are_left_out_from_the_worst_on(writer: Tokenizer, library: Library) -> None:
    question = "Who lives in Rome, in August, with geese?"
    whole = len(chat_ids(writer, messages(question, [library.passages[find(library, [question], 1)[0][0].passage]])))
    model = Model(build_network(ModelSection(width=32, layers=1, heads=2), writer, length=whole + 12).eval(), writer)
    assert compose(model, library, [question], 4, max_new_tokens=8)[0]["passages"] == 1
    with pytest.raises(InputError, match="do not fit into the model's"):
        compose(model, library, [question], 4, max_new_tokens=40)


def test_the_prompt_speaks_the_language_of_the_question() -> None:
    assert "请只根据" in messages("谁？", [])[0]["content"] and "（没有找到段落）" in messages("谁？", [])[0]["content"]
    assert messages("Who?", [])[0]["content"].endswith("Question: Who?")


# --- opened


def test_a_reader_and_a_writer_are_told_apart_and_others_are_one_sentence(
    reader: tuple[Model, dict[str, Any]], writer: Tokenizer, folder: Path, tmp_path: Path
) -> None:
    reader[0].save(tmp_path / "reader", family="bert")
    small = build_network(ModelSection(width=32, layers=1, heads=2), writer, length=512)
    Model(small, writer).save(tmp_path / "writer", family="qwen3")
    assert open_answerer(tmp_path / "reader", [folder]).predict("Who lives in Rome?")["answer"]
    (tmp_path / "reader" / "task.json").write_text(json.dumps(reader[1] | {"task": "answer"}), "utf-8")
    assert open_answerer(tmp_path / "reader", [folder]).settings == reader[1] | {"task": "answer"}
    writes = open_answerer(tmp_path / "writer", [folder], max_new_tokens=4)
    assert writes.settings is None and set(writes.predict("Rome?")) == {"answer", "sources", "invented", "passages"}
    with pytest.raises(InputError, match="a reader writes nothing; leave out max_new_tokens"):
        open_answerer(tmp_path / "reader", [folder], max_new_tokens=4)


def ran(words: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def test_the_verb_answers_from_documents_one_question_or_a_file_that_is_gone_on_with(
    reader: tuple[Model, dict[str, Any]], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    reader[0].save(run, family="bert", files={"task.json": reader[1] | {"task": "answer"}})
    words = ["answer", str(run), "--documents", str(folder), "--passages", "2"]
    assert ran([*words, "谁住在杭州？"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    text = FILES[found["source"].removeprefix("texts/")]
    assert text[found["start"] : found["end"]] == found["answer"] != ""
    assert "passages of 4 files" in shown.err and "line 4 is not a JSON object" in shown.err
    rows = [{"id": f"q{n}", "question": question} for n, question in enumerate(("Rome?", "杭州？", "geese?"))]
    asked, out = tmp_path / "asked.jsonl", tmp_path / "out.jsonl"
    asked.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    assert ran([*words, "--in", str(asked), "--out", str(out)]) == 0
    lines = out.read_text("utf-8").splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines] == ["q0", "q1", "q2"]
    out.write_text(lines[0] + lines[1][:9], "utf-8")
    assert ran([*words, "--in", str(asked), "--out", str(out)]) == 0
    assert out.read_text("utf-8").splitlines(keepends=True) == lines
    capsys.readouterr()
    for wrong, sentence in (
        (["answer", str(run), "Who?"], "give --context, or --documents"),
        (["answer", str(run), "Who?", "--passages", "2"], "are about --documents"),
        ([*words, "Who?", "--context", "She."], "answered from one of them"),
    ):
        assert ran(wrong) == 2 and sentence in capsys.readouterr().err
