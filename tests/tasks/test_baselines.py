"""Baselines learn from training rows alone, and their predictions are scored as a model's are."""

from __future__ import annotations

import random

import pytest

from yanmo.errors import InputError
from yanmo.tasks import baselines, baselines_answers, baselines_spans, metrics
from yanmo.tasks.examples import Answer, Example, Relation, Span

pytest.importorskip("sklearn", reason="the extra [tasks] is not installed")


def reviews(count, seed, words=(("good", "fine"), ("bad", "awful"))):
    draw = random.Random(seed)
    made = []
    for i in range(count):
        side = draw.randrange(3) > 0
        text = f"{draw.choice(['it', 'this'])} was {draw.choice(words[1 - side])} {draw.choice(['food', 'film', '.'])}"
        made.append(Example(f"r{i}", f"f:{i}", text, labels=("yes" if side else "no",)))
    return made


@pytest.mark.parametrize("words", [(("good", "fine"), ("bad", "awful")), (("很好吃", "非常棒"), ("真难吃", "太差了"))])
def test_words_or_characters_tell_labels(words):
    train, dev = reviews(80, 0, words), reviews(30, 1, words)
    found = baselines.run("classify", train, dev)
    figures = {name: metrics.score("classify", dev, rows) for name, rows in found.items()}
    share = sum(e.labels == ("yes",) for e in dev) / len(dev)
    assert figures["majority"]["accuracy"] == pytest.approx(share) and figures["TF-IDF"]["accuracy"] == 1
    assert found["TF-IDF"] == baselines.run("classify", train, dev)["TF-IDF"]  # the same each time
    assert sum(found["TF-IDF"][0]["scores"].values()) == pytest.approx(1)


def test_several_labels_and_values_have_two_each():
    train = [
        Example(str(i), "f", "red" if i % 2 else "blue sky", labels=("r",) if i % 2 else ("b", "s")) for i in range(40)
    ]
    found = baselines.run("classify", train, train[:9])
    assert [sorted(row["label"]) for row in found["TF-IDF"]][:2] == [["b", "s"], ["r"]]
    assert metrics.score("classify", train[:9], found["majority"])["exact"] == pytest.approx(5 / 9)
    numbers = [Example(str(i), "f", "hot" if i % 2 else "cold", "x", value=float(30 * (i % 2))) for i in range(40)]
    found = baselines.run("classify", numbers, numbers[:6])
    assert found["mean"][0]["value"] == 15
    assert metrics.score("classify", numbers[:6], found["TF-IDF"])["pearson"] > 0.99


def test_one_label_alone_is_no_error():
    rows = [Example(str(i), "f", "x", labels=("only",)) for i in range(5)]
    assert all(row["label"] == "only" for found in baselines.run("classify", rows, rows).values() for row in found)
    empty = [Example("0", "f", "", labels=("a",)), Example("1", "f", " ", labels=("b",))]
    assert len(baselines.run("classify", empty, empty)["TF-IDF"]) == 2
    with pytest.raises(InputError, match="give at least one"):
        baselines.run("classify", [], rows)


def test_texts_that_share_no_word_are_no_error():
    rows = [Example(str(i), "f", f"name{i}", labels=("ab"[i % 2],)) for i in range(baselines.RARE + 1)]
    found = baselines.run("classify", rows, rows[:10])["TF-IDF"]
    assert metrics.score("classify", rows[:10], found)["accuracy"] == 1


def named(text, *names):
    spans = tuple(Span(kind, text.index(name), text.index(name) + len(name)) for name, kind in names)
    return Example(text, "f", text, entities=spans)


def test_names_are_matched_longest_first_and_at_borders():
    train = [
        named("New York is big", ("New York", "LOC")),
        named("New saw York", ("New", "PER")),
        named(
            "北京大学好",
            ("北京大学", "ORG"),
        ),
    ]
    dev = [Example("1", "f", "In New York, Newer New. 我去北京大学了"), Example("2", "f", "")]
    found = baselines_spans.names(train, dev)
    assert [(e["type"], e["text"]) for e in found[0]["entities"]] == [
        ("LOC", "New York"),
        ("PER", "New"),
        ("ORG", "北京大学"),
    ]
    assert found[1]["entities"] == []
    entity = found[0]["entities"][0]
    assert dev[0].text[entity["start"] : entity["end"]] == "New York"


def test_the_window_finds_names_it_has_not_seen():
    draw = random.Random(0)
    first, last = ["Mr.", "Mrs.", "Dr."], ["Li", "Wang", "Smith", "Jones", "Chen"]
    train = [
        named(t, (n, "PER"))
        for i in range(150)
        for n in [draw.choice(last) + str(i)]
        for t in [f"{draw.choice(first)} {n} said so"]
    ]
    dev = [named("then Dr. Nobody9 said so", ("Nobody9", "PER"))]
    found = baselines.run("extract", train, dev)
    assert metrics.score("extract", dev, found["names"])["f1"] == 0
    assert metrics.score("extract", dev, found["window"])["f1"] == 1


def related(i, verb, kind, turned=False):
    text = f"The cup{i} {verb} the tea{i} today"
    spans = (Span("e1", 4, 4 + len(f"cup{i}")), Span("e2", text.index("tea"), text.index("tea") + len(f"tea{i}")))
    ends = (1, 0) if turned else (0, 1)
    return Example(f"{i}{verb}", "f", text, entities=spans, relations=(Relation(kind, *ends),) if kind else ())


def test_words_between_tell_relations_with_their_direction():
    kinds = [("holds", "in", False), ("is held by", "in", True), ("beside", "", False)]
    train = [related(i, *kind) for i in range(20) for kind in kinds]
    dev = [related(i, *kind) for i in range(100, 105) for kind in kinds]
    found = baselines.run("extract", train, dev)
    assert metrics.score("extract", dev, found["TF-IDF"])["semeval_f1"] == 1
    assert all("entities" not in row for row in found["TF-IDF"])
    wholly = baselines.run("extract", train, dev, find_entities=True)
    assert all("entities" in row for row in wholly["majority"])
    alone = Example("alone", "f", "a cup", entities=(Span("e1", 2, 5),), relations=())  # so no model is given them
    assert all("entities" in row for row in baselines.run("extract", [*train, alone], dev)["majority"])


def test_answers_come_from_the_passage():
    text = "The tower is old. The red bridge was built by John Smith in 1890. Nobody lives there."
    one = Example("1", "f", text, question="Who built the red bridge?", answers=(Answer("John Smith", 45),))
    two = Example("2", "f", "塔很旧。这座桥由李春在隋朝建造。无人居住。", question="谁建造了这座桥？", answers=())
    found = baselines.run("answer", [one, two], [one, two, Example("3", "f", "", question="?", answers=())])
    for rows in found.values():
        for example, row in zip((one, two), rows):
            assert example.text[row["start"] : row["end"]] == row["answer"]
    assert found["sentence"][0]["answer"].startswith("The red bridge") and "桥" in found["sentence"][1]["answer"]
    assert found["sliding window"][0]["answer"] in ("John Smith", "1890", "built")
    assert [row["answer"] for row in found["no answer"]] == ["", "", ""]
    assert "no answer" not in baselines.run("answer", [one], [one])


def test_sentences_hold_every_word_once():
    text = 'Mr. Li went. "He came back!" said I.\n3.5 metres 高。好'
    passage = baselines_answers.tokens(text)
    lines = baselines_answers.sentences(text, passage)
    assert [i for a, b in lines for i in range(a, b)] == list(range(len(passage)))


def test_translations_are_copied_and_remembered():
    train = [
        Example(str(i), "f", f"a {w} dog", target=f"ein {w}er Hund") for i, w in enumerate(("rot", "klein", "alt"))
    ]
    found = baselines.run("translate", train, [Example("9", "f", "the klein dog", target="x")])
    assert (
        found["copy"][0]["translation"] == "the klein dog" and found["nearest"][0]["translation"] == "ein kleiner Hund"
    )
    with pytest.raises(InputError, match="no training example has a text to write"):
        baselines.run("translate", [Example("1", "f", "a")], train)
