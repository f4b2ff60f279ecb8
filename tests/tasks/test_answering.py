"""Answers: windows hold all of a passage, spans are the best ones, answers are exact pieces of the original text."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.errors import InputError
from yanmo.inference.model import Model
from yanmo.recipe import ModelSection, Recipe, read_recipe
from yanmo.tasks.answering import _place, _threshold, open_answers, predict
from yanmo.tasks.examples import Answer, Example
from yanmo.tasks.passages import encode_passages, pair_frame
from yanmo.tasks.spans import Choice, _best, cut, targets
from yanmo.tokens.tokenizer import Tokenizer
from yanmo.tokens.train import train_tokenizer
from yanmo.training.build import Top, build_network
from yanmo.training.distributed import ALONE
from yanmo.training.loop import Settings, train

PEOPLE = ("Ada", "Ben", "Chloé", "Dörte", "李雷", "韩梅梅", "Zoe\u0301")
PLACES = ("Rome", "Oslo", "San José", "北京市", "杭州", "the 🌊 coast", "Zu\u0308rich")
FILLING = ("It rains. ", "天气很好。", "Nothing is said here. ")
OBJECTS = {"config": type("Config", (), {"n_token_types": 2, "kind": "encoder"})()}


def example(number: int, rng: random.Random, unanswerable: bool = True, fill: int = 1) -> Example:
    """One sentence of who is where, between others; nothing says when."""
    person, place = rng.choice(PEOPLE), rng.choice(PLACES)
    chinese = "\u4e00" <= person[0] <= "\u9fff"
    front, middle, back = ("", "住在", "。") if chinese else ("", " lives in ", ". ")
    before = "".join(rng.choice(FILLING) for _ in range(rng.randrange(fill + 1)))
    after = "".join(rng.choice(FILLING) for _ in range(fill))
    kind = rng.choice(("Where", "Who", "When") if unanswerable else ("Where", "Who"))
    starts = {"Who": (person, len(before)), "Where": (place, len(before + person + middle))}
    answers = (Answer(*starts[kind]),) if kind in starts else ()
    text = before + front + person + middle + place + back + after
    return Example(str(number), f"f:{number}", text, question=f"{kind}?", answers=answers)


def examples(count: int, seed: int = 0, unanswerable: bool = True, fill: int = 1) -> list[Example]:
    rng = random.Random(seed)
    return [example(number, rng, unanswerable, fill) for number in range(count)]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    texts = [row.text + (row.question or "") for row in examples(300)]
    return {
        "wordpiece": train_tokenizer(texts, "wordpiece", 400),
        "bpe": train_tokenizer(texts, "bpe", 400),
        "unigram": train_tokenizer(texts, "unigram", 120),
    }


def recipe(length: int = 64, stride: int = 8, **values: Any) -> Recipe:
    text = (
        f'[data]\npaths=["a"]\nvalid=["b"]\n[objective]\nkind="answers"\nstride={stride}\n'
        f"[train]\nsteps=1\nrows=16\nlength={length}\n"
    )
    return read_recipe(text, "test", [f"{key}={value}" for key, value in values.items()])


# --- windows


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_a_pair_that_fits_is_one_window_of_the_ids_that_the_vocabulary_gives(
    kind: str, tokenizers: dict[str, Tokenizer]
) -> None:
    tokenizer, rows = tokenizers[kind], [(e.id, e.question or "", e.text) for e in examples(20)]
    passages = encode_passages(tokenizer, rows, 300, 8, OBJECTS["config"])
    assert len(passages) == 20
    for number, (_, question, text) in enumerate(rows):
        assert passages.document(number) == tokenizer.encode_pair(question, text)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_windows_hold_every_token_share_the_stride_and_teach_the_answer_where_it_is_whole(
    kind: str, tokenizers: dict[str, Tokenizer]
) -> None:
    rows = examples(30, fill=9)
    passages = encode_passages(
        tokenizers[kind], [(e.id, e.question or "", e.text) for e in rows], 36, 8, OBJECTS["config"]
    )
    answers = [(e.answers[0].start, e.answers[0].start + len(e.answers[0].text)) if e.answers else None for e in rows]
    wanted = targets(passages, answers)
    taught = set()
    assert len(passages) > 50
    for window, (row, begin, end) in enumerate(passages.windows.tolist()):
        ids, types = passages.document(window)
        assert len(ids) == len(types) <= 36
        head = passages.head(row)
        assert ids[head : head + end - begin] == passages.ids[passages.of_row[row]][begin:end].tolist()
        if (wanted[window] == passages.null(window)).all():
            continue
        start, stop = cut(passages, window, *wanted[window].tolist())
        answer = answers[row]
        assert answer is not None and start <= answer[0] and answer[1] <= stop
        if kind == "wordpiece":  # the pieces of the others may hold more than the answer
            assert rows[row].text[start:stop].strip("。.") == rows[row].answers[0].text  # type: ignore[index]
        taught.add(row)
    assert taught == {row for row, answer in enumerate(answers) if answer is not None}
    for row in range(30):
        seen = [range(b, e) for r, b, e in passages.windows.tolist() if r == row]
        assert sorted({n for part in seen for n in part}) == list(range(len(passages.ids[passages.of_row[row]])))
        assert all(left.stop - right.start >= 8 for left, right in zip(seen, seen[1:]))


def test_a_causal_model_says_no_answer_at_the_last_place(tokenizers: dict[str, Tokenizer]) -> None:
    config = type("Config", (), {"kind": "decoder"})()
    passages = encode_passages(tokenizers["bpe"], [("a", "Where?", "Ada lives in Rome.")], 64, 8, config)
    ids, types = passages.document(0)
    assert passages.null(0) == len(ids) - 1 and types == []


@pytest.mark.parametrize(
    ("row", "sentence_"),
    [
        (("7", " ", "text"), "7: the question is empty; fill it in"),
        (("7", "Who?", "\n "), "7: the passage is empty; fill it in"),
        (
            ("7", "Who? " * 60, "text"),
            "7: the question has 120 tokens, and leaves 0 of 64 for the passage, at least 16",
        ),
    ],
)
def test_rows_without_room_or_text_are_one_sentence(
    row: tuple[str, str, str], sentence_: str, tokenizers: dict[str, Tokenizer]
) -> None:
    tokenizer = train_tokenizer(["who? text"] * 9, "wordpiece", 60) if "120" in sentence_ else tokenizers["wordpiece"]
    with pytest.raises(InputError, match=re.escape(sentence_)):
        encode_passages(tokenizer, [row], 64, 8, OBJECTS["config"])


def test_the_frame_of_a_pair_is_that_of_bert(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["wordpiece"]
    frame = pair_frame(tokenizer)
    assert (frame.before, frame.between, frame.behind) == ([tokenizer.cls_id], [tokenizer.sep_id], [tokenizer.sep_id])
    assert frame.types == ([0], 0, [0], 1, [1])


# --- spans


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(2, 12),
    longest=st.integers(1, 14),
    seed=st.integers(0, 2**31),
    share=st.sampled_from([0.0, 0.4, 1]),
)
def test_the_best_span_is_that_of_trying_all(size: int, longest: int, seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(3, size, 2, generator=generator).double()
    allowed = torch.rand(3, size, generator=generator) < share
    nulls, wanted = torch.zeros(3, dtype=torch.long), torch.zeros(3, 2, dtype=torch.long)
    first, last, total, null, margin, loss = _best(scores, allowed, nulls, wanted, longest)
    for row in range(3):
        chances = scores[row].log_softmax(0)
        spans = {
            (i, j): float(chances[i, 0] + chances[j, 1])
            for i in range(size)
            for j in range(i, min(size, i + longest))
            if allowed[row, i] and allowed[row, j]
        }
        assert float(null[row]) == pytest.approx(float(chances[0].sum()))
        assert float(loss[row]) == pytest.approx(-float(null[row]) / 2)
        if not spans:
            assert (int(first[row]), int(last[row]), float(total[row])) == (-1, -1, -np.inf)
            continue
        assert float(total[row]) == pytest.approx(max(spans.values()))
        assert spans[int(first[row]), int(last[row])] == pytest.approx(max(spans.values()))
        assert float(margin[row]) == pytest.approx(float(total[row] - null[row]))


# --- learning and predicting


def taught(tokenizer: Tokenizer, rows: list[Example], steps: int, length: int = 48) -> tuple[Model, dict[str, Any]]:
    made = recipe(length)
    opened = open_answers(made, rows, rows[:60])
    section = ModelSection(family="bert", width=64, layers=2, heads=4)
    network = build_network(section, tokenizer, length=length, top=opened.top)
    work = opened.work(tokenizer, network, ALONE)
    before = work.measure(network, True)
    for _ in train(network, work.batches(), work.objective, Settings(steps=steps, learning_rate=3e-3)):
        pass
    after = work.measure(network, True)
    assert after["valid_loss"] < before["valid_loss"] and after["valid_error"] == pytest.approx(1 - after["f1"])
    assert after["f1"] > 0.8 > before["f1"]
    return Model(network.eval(), tokenizer), opened.settings(network, tokenizer)


@pytest.fixture(scope="module")
def model(tokenizers: dict[str, Tokenizer]) -> tuple[Model, dict[str, Any]]:
    return taught(tokenizers["wordpiece"], examples(400), 250)


def asked(rows: list[Example]) -> list[dict[str, Any]]:
    return [{"id": e.id, "question": e.question, "context": e.text} for e in rows]


def test_answers_are_learned_and_are_pieces_of_the_original_text(model: tuple[Model, dict[str, Any]]) -> None:
    rows = examples(60, seed=1)
    found = predict(*model, asked(rows))
    right = 0
    for row, answer in zip(rows, found, strict=True):
        assert set(answer) == {"answer", "start", "end", "score"} and 0 <= answer["score"] <= 1 + 1e-9
        if answer["answer"]:
            assert row.text[answer["start"] : answer["end"]] == answer["answer"] == answer["answer"].strip()
        else:
            assert answer["start"] is None and answer["end"] is None
        right += answer["answer"] == (row.answers[0].text if row.answers else "")
    assert right > 45
    assert {"", "Zu\u0308rich", "the 🌊 coast"} & {answer["answer"] for answer in found}


def test_a_row_of_a_batch_equals_the_row_alone_and_long_passages_are_read_whole(
    model: tuple[Model, dict[str, Any]],
) -> None:
    rows = asked(examples(10, seed=2) + examples(6, seed=3, fill=9))
    together = predict(*model, rows)
    for row, answer in zip(rows, together, strict=True):
        alone = predict(*model, [row])[0]
        assert alone["score"] == pytest.approx(answer["score"], rel=1e-4)
        assert {**alone, "score": 0} == {**answer, "score": 0}
    assert predict(*model, []) == []


def test_a_saved_reader_opens_in_transformers_and_reads_the_same(
    model: tuple[Model, dict[str, Any]], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    model[0].save(tmp_path / "reader", family="bert")
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "reader").eval()
    row = examples(1, seed=5)[0]
    ids, types = (torch.tensor([part]) for part in model[0].tokenizer.encode_pair(row.question or "", row.text))
    with torch.no_grad():
        out = theirs(input_ids=ids, token_type_ids=types)
    ours = model[0].scores(ids, token_types=types)[0]
    assert torch.allclose(ours, torch.stack([out.start_logits[0], out.end_logits[0]], 1), atol=1e-4)


def test_a_span_is_found_behind_the_first_window(model: tuple[Model, dict[str, Any]]) -> None:
    sure = [(row, one) for row in examples(60, seed=4) for one in predict(*model, asked([row])) if one["answer"]]
    row, answer = max(sure, key=lambda pair: pair[1]["score"])
    before = "Nothing is said here. " * 12
    held, settings_ = model
    found = predict(
        held, {**settings_, "no_answer": False}, [{"question": row.question, "context": before + row.text}]
    )[0]
    assert found["answer"] == answer["answer"] and found["start"] >= len(before)


def test_without_unanswerable_examples_an_answer_is_always_given(tokenizers: dict[str, Tokenizer]) -> None:
    rows = examples(12, unanswerable=False)
    opened = open_answers(recipe(), rows, rows)
    section = ModelSection(family="bert", width=32, layers=1, heads=2)
    network = build_network(section, tokenizers["wordpiece"], length=64, top=opened.top).eval()
    found = opened.settings(network, tokenizers["wordpiece"])
    assert found["no_answer"] is False and "threshold" not in found and found["longest"] >= 2
    assert all(answer["answer"] for answer in predict(Model(network, tokenizers["wordpiece"]), found, asked(rows)))


@pytest.fixture(scope="module")
def untaught(tokenizers: dict[str, Tokenizer]) -> list[Model]:
    section, top = ModelSection(family="bert", width=32, layers=1, heads=2), Top("span", ("start", "end"))
    made = {name: build_network(section, one, length=40, top=top).eval() for name, one in tokenizers.items()}
    return [Model(network, tokenizers[name]) for name, network in made.items()]


ANY = st.text(alphabet=st.characters(), max_size=60) | st.text(
    alphabet="Ada 李e\u0301🌊👩‍👧\ud83c\ud800\n\x00\u200d", max_size=60
)


@settings(max_examples=150, deadline=None)
@given(context=ANY, question=st.text(max_size=8) | ANY, longest=st.integers(1, 9))
def test_any_texts_give_a_piece_of_the_context_or_one_sentence(
    untaught: list[Model], context: str, question: str, longest: int
) -> None:
    for model in untaught:
        said = {"length": 40, "stride": 8, "longest": longest, "no_answer": False}
        try:
            found = predict(model, said, [{"id": "r1", "question": question, "context": context}])[0]
        except InputError as error:
            assert str(error).startswith("r1: ") and "\n" not in str(error)
            continue
        if found["answer"]:
            assert context[found["start"] : found["end"]] == found["answer"] == found["answer"].strip()


@pytest.mark.parametrize(
    ("change", "sentence_"),
    [
        ({"question": None}, "f:1: the example '1' has no question; add it"),
        ({"answers": None}, "f:1: the example '1' has no answers (an empty list says that there is none)"),
        ({"answers": (Answer("Nowhere", 3),)}, "f:1: the answer 'Nowhere' does not stand at character 3"),
        ({"answers": (Answer("", 3),)}, "f:1: the answer '' does not stand"),
    ],
)
def test_examples_that_cannot_be_learned_from_are_one_sentence(change: dict[str, Any], sentence_: str) -> None:
    rows = [example(number, random.Random(0), False) for number in range(3)]
    rows[1] = dataclasses.replace(rows[1], **change)
    with pytest.raises(InputError, match=re.escape(sentence_)):
        open_answers(recipe(), rows, rows[:1])


def test_of_several_answers_the_most_frequent_is_taught_and_one_without_an_offset_is_found() -> None:
    text = "Oslo, Rome, Oslo"
    first, second = Answer("Oslo", 0), Answer("Oslo", 12)
    row = Example("1", "f:1", text, question="Where?", answers=(first, second, second))
    assert _place(row) == (12, 16)
    assert _place(dataclasses.replace(row, answers=(Answer("Rome", -1),))) == (6, 10)
    assert _place(dataclasses.replace(row, answers=())) is None
    other = Answer("a town in Italy", -1)
    assert _place(dataclasses.replace(row, answers=(Answer("Rome", 6), other, other))) == (6, 10)
    with pytest.raises(InputError, match="f:1: no answer of the example '1' stands in its passage, such as 'a town"):
        _place(dataclasses.replace(row, answers=(other,)))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 50), st.sampled_from([0.0, 0.4, 1.0]), st.booleans()), min_size=1, max_size=9))
def test_the_threshold_gives_the_best_f1_that_any_gives(rows: list[tuple[float, float, bool]]) -> None:
    rows = list({round(margin, 3): (round(margin, 3), f1, can) for margin, f1, can in rows}.values())
    margins, f1, can = (np.array(column) for column in zip(*rows))
    zeros = np.zeros(len(rows))
    best, limit = _threshold(np.where(can, f1, 0.0), Choice(zeros, zeros, margins, zeros), can.tolist())

    def reached(limit: float) -> float:
        return float(np.where(-margins <= limit, np.where(can, f1, 0.0), ~can).mean())

    assert best == pytest.approx(reached(limit))
    assert best == pytest.approx(max(reached(one) for one in [-100.0, *(-margins)]))


def test_examples_without_any_answer_and_rows_without_a_question_are_one_sentence(
    model: tuple[Model, dict[str, Any]],
) -> None:
    rows = [dataclasses.replace(row, answers=()) for row in examples(4)]
    with pytest.raises(InputError, match="none of the 4 questions to train on has an answer"):
        open_answers(recipe(), rows, rows)
    for bad in ({"id": "x", "context": "text"}, {"id": "x", "question": 3, "context": "text"}):
        with pytest.raises(InputError, match="the row x has no question"):
            predict(*model, [bad])


def test_real_questions_are_cut_and_taught_as_they_stand(shared_data: Path, tokenizers: dict[str, Tokenizer]) -> None:
    from yanmo.tasks.reading import read

    rows = read("answer", [shared_data / "qa" / "xquad.zh-a.json"], columns={}).examples[:40]
    tokenizer = train_tokenizer([row.text for row in rows], "wordpiece", 3000)
    passages = encode_passages(
        tokenizer, [(e.where, e.question or "", e.text) for e in rows], 128, 32, OBJECTS["config"]
    )
    places = [(e.answers[0].start, e.answers[0].start + len(e.answers[0].text)) for e in rows if e.answers]
    wanted = targets(passages, list(places))
    whole = 0
    for window in range(len(passages)):
        if wanted[window, 0]:
            row = int(passages.windows[window, 0])
            start, end = cut(passages, window, *wanted[window].tolist())
            assert start <= places[row][0] and places[row][1] <= end
            whole += (start, end) == places[row]
    assert whole >= 40
