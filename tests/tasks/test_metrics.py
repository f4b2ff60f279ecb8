"""Each figure beside its reference implementation on random data, and by hand where there is none to install."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.errors import Error, InputError, MissingExtra
from yanmo.tasks import metrics, metrics_answers, metrics_classes, metrics_spans, metrics_text
from yanmo.tasks.examples import Answer, Example, Relation, Span

sklearn = pytest.importorskip("sklearn.metrics", reason="the extra [tasks] is not installed")
pytest.importorskip("seqeval")
sacrebleu = pytest.importorskip("sacrebleu")

SLOW = settings(max_examples=60, deadline=None)
LABELS = st.sampled_from(["a", "b", "c:d", "好"])


def labelled(labels):
    return [Example(str(i), f"f:{i}", "x", labels=(label,)) for i, label in enumerate(labels)]


# --- labels


@SLOW
@given(st.lists(st.tuples(LABELS, LABELS, st.floats(0, 1)), min_size=1, max_size=40))
def test_one_label_is_scored_as_scikit_learn_does(rows):
    truth, guess, sure = zip(*rows)
    figures = metrics.score(
        "classify",
        labelled(truth),
        [{"id": str(i), "label": g, "score": s} for i, (g, s) in enumerate(zip(guess, sure))],
    )
    report = sklearn.classification_report(truth, guess, output_dict=True, zero_division=0)
    assert figures["accuracy"] == pytest.approx(sklearn.accuracy_score(truth, guess))
    assert figures["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    assert figures["micro_f1"] == pytest.approx(sklearn.f1_score(truth, guess, average="micro"))
    for label in {*truth, *guess}:
        assert figures[f"precision:{label}"] == pytest.approx(report[label]["precision"])
        assert figures[f"support:{label}"] == report[label]["support"]
    right = np.array(truth) == np.array(guess)
    edges = np.linspace(0, 1, 16)
    gap = 0.0
    for low, high in zip(edges, edges[1:]):  # the definition, one bin at a time
        held = (np.array(sure) > low) & (np.array(sure) <= high) | ((low == 0) & (np.array(sure) == 0))
        if held.any():
            gap += held.mean() * abs(np.array(sure)[held].mean() - right[held].mean())
    assert figures["calibration_error"] == pytest.approx(gap, abs=1e-9)


@SLOW
@given(st.lists(st.tuples(st.sets(LABELS), st.sets(LABELS)), min_size=1, max_size=30))
def test_several_labels_are_scored_as_scikit_learn_does(rows):
    from sklearn.preprocessing import MultiLabelBinarizer

    truth, guess = [sorted(t) for t, _ in rows], [sorted(g) for _, g in rows]
    figures = metrics_classes.several(truth, guess)
    if not any(truth) and not any(guess):
        assert figures["exact"] == 1
        return
    coder = MultiLabelBinarizer().fit(truth + guess)
    t, g = coder.transform(truth), coder.transform(guess)
    if len(coder.classes_) == 1:  # scikit-learn takes a single column for one label, yes or no
        assert figures["micro_f1"] == figures["macro_f1"] == pytest.approx(sklearn.f1_score(t, g, zero_division=0))
    else:
        assert figures["micro_f1"] == pytest.approx(sklearn.f1_score(t, g, average="micro", zero_division=0))
        assert figures["macro_f1"] == pytest.approx(sklearn.f1_score(t, g, average="macro", zero_division=0))
        assert figures["hamming_loss"] == pytest.approx(sklearn.hamming_loss(t, g))
    assert figures["exact"] == pytest.approx(sklearn.accuracy_score(t, g))
    gold = [Example(str(i), "f", "", labels=tuple(row)) for i, row in enumerate(truth)]
    predictions = [{"id": str(i), "label": row} for i, row in enumerate(guess)]
    assert metrics.sums("classify", gold, predictions).value == pytest.approx(figures["micro_f1"])


@SLOW
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=30))
def test_values_are_scored_as_scipy_does(rows):
    from scipy import stats

    truth, guess = (np.array(side).round(3) for side in zip(*rows))
    gold = [Example(str(i), "f", "", value=value) for i, value in enumerate(truth)]
    predictions = [{"id": str(i), "value": value} for i, value in enumerate(guess)]
    figures = metrics.score("classify", gold, predictions)
    if np.ptp(truth) > 0.1 and np.ptp(guess) > 0.1:
        assert figures["pearson"] == pytest.approx(stats.pearsonr(truth, guess)[0], abs=1e-9)
        assert figures["spearman"] == pytest.approx(stats.spearmanr(truth, guess)[0], abs=1e-9)
        assert metrics.sums("classify", gold, predictions).value == pytest.approx(figures["pearson"], abs=1e-6)
    assert figures["mse"] == pytest.approx(sklearn.mean_squared_error(truth, guess))


def test_what_does_not_vary_has_no_correlation():
    figures = metrics_classes.values([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    assert figures["pearson"] == figures["spearman"] == 0 and figures["mse"] == pytest.approx(2 / 3)


# --- entities


def flat_spans(draw_from: random.Random, length: int) -> list[Span]:
    cuts = sorted(draw_from.sample(range(length + 1), draw_from.randrange(length + 1)))
    pairs = zip(cuts, cuts[1:])
    return [Span(draw_from.choice("XY") + "-1", a, b) for a, b in pairs if draw_from.random() < 0.6]


@pytest.mark.parametrize("seed", range(40))
def test_flat_entities_have_seqeval_s_strict_score(seed):
    from seqeval.metrics.v1 import precision_recall_fscore_support
    from seqeval.scheme import IOB2

    draw = random.Random(seed)
    lengths = [draw.randrange(1, 12) for _ in range(draw.randrange(1, 20))]
    gold = [flat_spans(draw, n) for n in lengths]
    guess = [[s for s in row if draw.random() < 0.7] or flat_spans(draw, n) for row, n in zip(gold, lengths)]

    def characters(rows):  # one tag a character, as it is usually done
        out = []
        for row, n in zip(rows, lengths):
            line = ["O"] * n
            for span in row:
                kind = span.type.replace("-1", "")
                line[span.start : span.end] = [f"B-{kind}"] + [f"I-{kind}"] * (span.end - span.start - 1)
            out.append(line)
        return out

    figures = metrics_spans.spans(gold, guess)
    assert figures.pop("nested") == 0
    if any(gold) or any(guess):
        kwargs = {"scheme": IOB2, "zero_division": 0}
        for average, name in (("micro", "f1"), ("macro", "macro_f1")):
            known = precision_recall_fscore_support(characters(gold), characters(guess), average=average, **kwargs)
            assert figures[name] == pytest.approx(known[2])
    counted = metrics_spans.counted(*([[(s.type, s) for s in row] for row in side] for side in (gold, guess)))
    assert figures == pytest.approx(counted)


def test_nested_entities_are_counted():
    gold = [[Span("ORG", 0, 10), Span("LOC", 0, 4)]]
    figures = metrics_spans.spans(gold, [[Span("ORG", 0, 10), Span("ORG", 0, 4), Span("LOC", 0, 4), Span("LOC", 0, 4)]])
    assert figures["nested"] == 1
    assert (figures["precision"], figures["recall"]) == (pytest.approx(2 / 3), 1)
    assert figures["f1:ORG"] == pytest.approx(2 / 3) and figures["f1:LOC"] == 1


def test_many_types_keep_their_names():
    gold = [[Span(f"T{i}", i, i + 1) for i in range(30)]]
    figures = metrics_spans.spans(gold, [[span for span in gold[0] if span.type != "T7"]])
    assert figures["recall:T7"] == 0 and all(figures[f"f1:T{i}"] == 1 for i in range(30) if i != 7)


# --- relations


def pair_rows(labels):
    both = (Span("e1", 0, 2), Span("e2", 4, 6))
    made = []
    for i, label in enumerate(labels):
        name, _, direction = label.partition("(")
        ends = (1, 0) if direction.startswith("e2") else (0, 1)
        made.append(Example(str(i), "f", "ab cd ef", entities=both, relations=(Relation(name, *ends),)))
    return made


def said(rows):
    return [
        {
            "id": e.id,
            "relations": [{"type": r.type, "head": r.head, "tail": r.tail} for r in e.relations if r.type != "Other"],
        }
        for e in rows
    ]


def official(seed, count=400):
    """Random answers and a key in SemEval's labels; the same draws gave OFFICIAL through its scorer."""
    names = [
        *("Cause-Effect", "Component-Whole", "Content-Container", "Entity-Destination", "Entity-Origin"),
        *("Instrument-Agency", "Member-Collection", "Message-Topic", "Product-Producer"),
    ]
    labels = [f"{name}({ends})" for name in names for ends in ("e1,e2", "e2,e1")] + ["Other"] * 3
    draw = random.Random(seed)
    key = [draw.choice(labels) for _ in range(count)]
    answers = [label if draw.random() < 0.6 else draw.choice(labels) for label in key]
    for i in range(0, count, 9):  # the right relation in the wrong direction
        answers[i] = key[i].replace("e1,e2", "@").replace("e2,e1", "e1,e2").replace("@", "e2,e1")
    return key, answers


def test_one_relation_a_row_is_scored_as_semeval_does():
    for seed, (macro, micro) in OFFICIAL.items():
        key, answers = official(seed)
        figures = metrics.score("extract", pair_rows(key), said(pair_rows(answers)))
        assert round(100 * figures["semeval_f1"], 2) == macro
        assert round(100 * figures["semeval_micro_f1"], 2) == micro
        assert metrics.main("extract", figures) == ("semeval_f1", figures["semeval_f1"])


# by the organisers' scorer, version 1.2
OFFICIAL = {0: (52.53, 52.94), 1: (56.66, 56.93), 2: (53.34, 53.14)}


def test_relations_in_free_text_are_right_by_their_ends():
    entities = (Span("Per", 0, 2), Span("Loc", 4, 6), Span("Org", 8, 9))
    gold = [Example("1", "f", "ab cd ef g", entities=entities, relations=(Relation("in", 0, 1), Relation("of", 0, 2)))]
    predicted = [
        {
            "id": "1",
            "entities": [{"type": "Loc", "start": 4, "end": 6}, {"type": "Org", "start": 0, "end": 2}],
            "relations": [{"type": "in", "head": 1, "tail": 0}, {"type": "of", "head": 1, "tail": 0}],
        }
    ]
    figures = metrics.score("extract", gold, predicted)
    assert (figures["relation_precision"], figures["relation_recall"]) == (0.5, 0.5)
    assert figures["relation_strict_f1"] == 0  # the head's type is wrong
    assert figures["precision"] == 0.5 and "semeval_f1" not in figures
    predicted[0]["relations"][0]["head"] = 2
    with pytest.raises(InputError, match="relation to entity 2"):
        metrics.score("extract", gold, predicted)


# --- answers

ENGLISH = ["the", "A", "an", "cat", "Cat", "cat's", "sat,", "sat", "(on)", "3.5", ".", "-", "mat  ", "Ａ"]
CHINESE = ["的", "猫", "北京", "。", "，", "GPT-4", " 3.5", "1,000", "ab.", "(cd)", "“", "”", "——", "50%", "it's", "龥"]


def answers_drawn(seed, pieces):
    """Random answers, predictions and doubts; the same draws went through the published scripts."""
    draw = random.Random(seed)
    rows = []
    for _ in range(200):
        answers = [" ".join(draw.choices(pieces, k=draw.randrange(1, 5))) for _ in range(draw.randrange(4))]
        near = draw.choice([*answers, ""]) + draw.choice(["", *pieces])
        rows.append((answers, draw.choice([near, "", "".join(draw.choices(pieces, k=2))]), draw.random()))
    return rows


# exact, F1, best F1 and its threshold by evaluate-v2.0's functions; exact and F1 of what has answers by CMRC's script
SQUAD = {0: (14.5, 21.2786, 24.8333, 0.0445), 1: (18.0, 23.6829, 32.6786, 0.0179), 2: (17.5, 24.175, 27.2083, 0.0306)}
CMRC = {0: (13.5922, 33.2673), 1: (14.9425, 36.98), 2: (10.7143, 30.7642)}


@pytest.mark.parametrize("seed", range(3))
def test_english_answers_are_scored_as_squad_does(seed):
    rows = answers_drawn(seed, ENGLISH)
    scored = [metrics_answers.english(answers, predicted) for answers, predicted, _ in rows]
    can = [any(map(metrics_answers.normal, answers)) for answers, _, _ in rows]
    given = [bool(predicted) for _, predicted, _ in rows]
    best = metrics_answers.best_threshold([f1 for _, f1 in scored], [doubt for *_, doubt in rows], given, can)
    exact, f1 = np.mean(scored, axis=0)
    assert (100 * exact, 100 * f1, 100 * best[0], best[1]) == pytest.approx(SQUAD[seed], abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_chinese_answers_are_scored_as_cmrc_s_script_does(seed):
    rows = [row for row in answers_drawn(seed, CHINESE) if row[0] and row[1]]
    exact, f1 = np.mean([metrics_answers.chinese(answers, predicted) for answers, predicted, _ in rows], axis=0)
    assert (100 * exact, 100 * f1) == pytest.approx(CMRC[seed], abs=1e-4)


def test_chinese_answers_are_scored_as_cmrc_does():
    assert metrics_answers.chinese(["“光荣和ω-force”"], "光荣和ω-force") == (1, 1)  # signs are dropped
    assert metrics_answers.chinese(["在1998年5月"], "1998年") == (0, pytest.approx(2 * 2 / (5 + 2)))
    assert metrics_answers.chinese(["北京市", "上海"], "上海") == (1, 1)
    assert metrics_answers.chinese(["北京市"], "京北") == (0, pytest.approx(2 * 1 / 5))  # a run, not a bag
    assert metrics_answers.chinese(["北京"], "") == (0, 0) and metrics_answers.chinese([], "") == (1, 1)
    assert metrics_answers.segments("用 Deep Learning 3.5 版。") == ["用", "deep", "learning", "3.5", "版"]


def test_answers_are_scored_by_the_language_of_their_passage():
    gold = [
        Example("1", "f", "The tower is old.", question="?", answers=(Answer("the old tower", 0),)),
        Example("2", "f", "这座塔很古老。", question="?", answers=(Answer("很古老", 3),)),
        Example("3", "f", "Nothing here.", question="?", answers=()),
    ]
    rows = [
        {"id": "1", "answer": "Old Tower!", "score": 0.9},
        {"id": "2", "answer": "古老", "score": 0.8},
        {"id": "3", "answer": "here", "score": 0.2},
    ]
    figures = metrics.score("answer", gold, rows)
    assert figures["exact"] == pytest.approx(100 / 3) and figures["f1"] == pytest.approx(100 * 1.8 / 3)
    assert figures["has_answer_f1"] == pytest.approx(90) and figures["no_answer_exact"] == 0
    assert figures["best_f1"] == pytest.approx(100 * 2.8 / 3) and figures["best_threshold"] == pytest.approx(0.8)
    assert "1 Chinese" in metrics.notes("answer", gold, figures)[0]


# --- texts

WORDS = ["the", "cat", "sat", "on", "a", "mat", ".", "的", "猫", "坐", "x"]


@pytest.mark.parametrize("seed", range(12))
def test_bleu_and_chrf_of_sums_are_sacrebleu_s(seed):
    draw = random.Random(seed)
    some = WORDS[:7] if seed % 2 else WORDS[7:]
    references = [" ".join(draw.choices(some, k=draw.randrange(0, 9))) for _ in range(draw.randrange(1, 25))]
    written = [" ".join(draw.choices(some, k=draw.randrange(0, 9))) if draw.random() < 0.6 else r for r in references]
    tokens = metrics_text.tokenizer(references)
    for (rows, formula), metric in (
        (metrics_text.counted(references, written), sacrebleu.BLEU(tokenize=tokens)),
        (metrics_text.counted_chrf(references, written), sacrebleu.CHRF()),
    ):
        assert float(formula(rows.sum(0))[()]) == pytest.approx(metric.corpus_score(written, [references]).score)
        part = [0] + [draw.randrange(len(references)) for _ in range(6)]  # a resample
        known = metric.corpus_score([written[i] for i in part], [[references[i] for i in part]]).score
        assert formula(rows[[part, part]].sum(1))[1] == pytest.approx(known)


def test_texts_have_their_language_s_tokenizer_and_a_signature():
    assert metrics_text.tokenizer(["The cat, 猫, sat there for a while."]) == "13a"
    assert metrics_text.tokenizer(["这只猫坐在垫子上。"]) == "zh"
    assert metrics_text.tokenizer(["猫がマットの上に座っている。"]) == "char"
    gold = [Example("1", "f", "a", target="这只猫坐在垫子上。")]
    figures = metrics.score("translate", gold, [{"id": "1", "translation": "这只猫坐在垫子上。"}])
    assert figures == {"bleu": pytest.approx(100), "chrf": pytest.approx(100), "exact": 1}
    notes = metrics.notes("translate", gold, figures)
    assert "tok:zh" in notes[0] and "version:" in notes[0] and "nc:6" in notes[1]


# --- what can be wrong


def test_predictions_are_matched_by_id():
    gold = labelled("ab")
    rows = [{"id": "1", "label": "b"}, {"id": "0", "label": "a"}]
    assert metrics.score("classify", gold, rows)["accuracy"] == 1
    assert metrics.score("classify", gold, [{"label": "a"}, {"label": "b"}])["accuracy"] == 1
    for bad, message in (
        (rows[:1], "1 of 2 examples have no prediction, the first is '0'"),
        ([rows[0], rows[0]], "1 predictions have the id of another"),
        ([{"id": "0"}, {"id": "1"}], "has no 'label'"),
    ):
        with pytest.raises(InputError, match=message):
            metrics.score("classify", gold, bad)
    with pytest.raises(InputError, match="no examples"):
        metrics.score("classify", [], [])
    with pytest.raises(InputError, match="'sing' is not known"):
        metrics.score("sing", gold, rows)
    with pytest.raises(InputError, match="has no text to compare"):
        metrics.score("translate", gold, [{"id": e.id, "translation": ""} for e in gold])


def test_without_the_extra_one_sentence_names_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(MissingExtra, match=r'pip install "yanmo\[tasks\]"'):
        metrics.score("classify", labelled("a"), [{"label": "a"}])


PART = ["type", "head", "tail", "start", "end"]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PART), inner, max_size=5),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["id", "label", "labels", "score", "value", "answer", "entities", "relations", "translation", "text"]
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["classify", "extract", "answer", "translate"]), st.dictionaries(FIELDS, JUNK, max_size=8))
def test_foreign_predictions_bring_figures_or_one_sentence(task, row):
    gold = Example("0", "f", "ab cd", labels=("a",), entities=(Span("X", 0, 2), Span("Y", 3, 5)),
                   relations=(Relation("r", 0, 1),), answers=(Answer("ab", 0),), target="x")  # fmt: skip
    try:
        figures = metrics.score(task, [gold], [row])
        assert metrics.sums(task, [gold], [row]).value == pytest.approx(metrics.main(task, figures)[1])
    except Error as error:
        assert len(str(error)) < 400
