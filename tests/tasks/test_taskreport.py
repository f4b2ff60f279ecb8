"""The page of a task: what it must show is there, with the right numbers, in any language, and never as markup."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest

from yanmo.errors import InputError
from yanmo.tasks import baselines, metrics, taskreport, taskreport_errors, taskreport_parts, taskreport_slices
from yanmo.tasks.examples import Answer, Example, Relation, Span

pytest.importorskip("sklearn", reason="the extra [tasks] is not installed")
pytest.importorskip("seqeval")
pytest.importorskip("sacrebleu")

WORDS = {
    "pos": ["wonderful film", "很好看的电影"],
    "neg": ["dull film", "无聊的电影"],
    "<mid>": ["a film & so", "一部电影"],
}


def plain(page):
    """What a reader sees of a page's body."""
    text = page[page.index("<main>") :]
    return html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<style.*?</style>", "", text, flags=re.S)))


def reviews(count=60):
    names = list(WORDS)
    made = []
    for i in range(count):
        label = names[i % 3]
        made.append(Example(f"r{i}", f"f.tsv:{i + 1}", f"{WORDS[label][i // 3 % 2]} {i * 7}", labels=(label,)))
    return made


def judged(tmp_path):
    train, gold = reviews(90), reviews(61)[30:]
    rows = [
        {"id": e.id, "label": e.labels[0] if i % 4 else "pos", "score": 0.5 + i % 5 / 10} for i, e in enumerate(gold)
    ]
    run = tmp_path / "run"
    run.mkdir()
    lines = [
        {"step": s, "loss": 2 / s, "learning_rate": 1e-3, "tokens": s, "seconds": s, "memory": 5e8} for s in range(1, 9)
    ]
    lines += [{"step": 8, "valid_loss": 0.5, "accuracy": 0.75, "tokens": 8, "seconds": 8.0, "valid_targets": 31}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return taskreport.Judged(
        "classify", gold, rows, train, baselines.run("classify", train, gold), run, {"Predicting": "2 s"}
    )


def test_a_page_shows_all_that_is_asked_of_it(tmp_path):
    one = judged(tmp_path)
    shown = taskreport.write(tmp_path / "out", one)
    page = shown.path.read_text("utf-8")
    text = plain(page)
    assert shown.path.name == "report.html" and re.findall("<h2>(.*?)</h2>", page) == [
        "Beside the baselines", "All figures", "By class", "What is taken for what", "How sure, and how right",
        "Slices", "Seen in training", "The worst errors", "The course of training", "Cost",
    ]  # fmt: skip
    figures = metrics.score("classify", one.gold, one.predictions)
    low, high = metrics.main_interval("classify", one.gold, one.predictions)
    assert f"{figures['accuracy']:.4f}" in text and f"{low:.4f} to {high:.4f}" in text
    for name, rows in one.baselines.items():
        assert name in text and f"{metrics.score('classify', one.gold, rows)['accuracy']:.4f}" in text
    assert "<mid>" in text and "<mid>" not in page  # foreign text is text
    assert "很好看的电影" in text and "Chinese" in text
    assert "31 of the 31 texts are in training letter for letter" in text
    assert "8.0 s, 8 steps" in text and "500 MB" in text and "2 s" in text
    assert "http:" not in page.replace("http://www.w3.org", "") and "<script" not in page


def test_a_page_shows_itself_in_a_notebook(tmp_path):
    shown = taskreport.write(tmp_path, judged(tmp_path), name="task.html")
    framed = shown._repr_html_()
    inner = re.fullmatch(r'<iframe srcdoc="([^"]*)"[^>]*></iframe>', framed, re.S)
    assert inner and html.unescape(inner[1]) == shown.path.read_text("utf-8") and repr(shown).endswith("task.html")


def test_a_page_needs_neither_baselines_nor_training():
    gold = reviews(9)
    page = taskreport.report_html(
        taskreport.Judged("classify", gold, [{"id": e.id, "label": e.labels[0]} for e in gold])
    )
    text = plain(page)
    assert "There is no error." in text and "No baseline was run." in text and "Seen in training" not in text
    assert "How sure" not in text  # no confidences were given


@pytest.mark.parametrize("task", ["several", "regression", "extract", "relations", "answer", "translate", "generate"])
def test_every_task_has_its_page(task):
    gold, rows = MADE[task]()
    name = {"several": "classify", "regression": "classify", "relations": "extract"}.get(task, task)
    one = taskreport.Judged(name, gold, rows, gold[:3], baselines.run(name, gold, gold))
    text = plain(taskreport.report_html(one))
    assert "The worst errors" in text and "Beside the baselines" in text and "3 of the 8 texts" in text
    for expected in EXPECTED[task]:
        assert expected in text, expected


def test_a_baseline_with_another_figure_is_not_compared():
    gold, rows = reviews(20), [{"id": e.id, "label": e.labels[0]} for e in reviews(20)]
    lists = [row | {"label": [row["label"]]} for row in rows]
    text = plain(taskreport.report_html(taskreport.Judged("classify", gold, rows, (), {"lists": lists})))
    assert "lists, micro F1" in text and "The best baseline" not in text and "+0.0000" not in text
    with pytest.raises(InputError, match="one is judged by micro_f1, the other by accuracy; give both in the same"):
        metrics.difference("classify", gold, lists, rows)


def test_a_page_of_one_class_or_of_nothing_to_find_is_no_warning():
    one = [Example(str(i), "f", f"text {i}", labels=("only",)) for i in range(3)]
    rows = [{"id": e.id, "label": "only"} for e in one]
    assert "There is no error." in plain(taskreport.report_html(taskreport.Judged("classify", one, rows)))
    two = (Span("a", 0, 1), Span("b", 2, 3))
    none = [Example(str(i), "f", "x y", entities=two, relations=()) for i in range(3)]
    rows = [{"id": e.id, "relations": []} for e in none]
    page = taskreport.report_html(taskreport.Judged("extract", none, rows, (), {"none": rows}))
    assert "SemEval F1 0.0000, 95 % interval 0.0000 to 0.0000" in page and "There is no error." in page


def test_given_entities_are_not_judged():
    gold, rows = MADE["relations"]()
    given = [{"type": s.type, "start": s.start, "end": s.end, "score": 1.0} for s in gold[0].entities]
    rows = [row | {"entities": given} for row in rows]
    figures = metrics.score("extract", gold, rows)
    assert "f1" not in figures and figures["semeval_f1"] == pytest.approx(0.5)
    assert taskreport_parts.confidence_pairs("extract", gold, rows) == []
    given[0]["end"] = 2  # found, and not right
    assert metrics.score("extract", gold, rows)["f1"] == pytest.approx(0.5)


def test_a_relation_that_says_none_points_nowhere_and_a_wrong_place_is_one_sentence():
    gold, rows = MADE["relations"]()
    rows[0]["relations"] = [{"type": "Other", "head": 9, "tail": 0}]
    assert "no relation" in plain(taskreport.report_html(taskreport.Judged("extract", gold, rows)))
    gold, rows = MADE["extract"]()
    none = [row | {"relations": []} for row in rows]  # as every model of entities says
    assert "no relation" not in plain(taskreport.report_html(taskreport.Judged("extract", gold, none)))
    lost = [row | {"relations": [{"type": "on", "head": 9, "tail": 0}]} for row in rows]
    with pytest.raises(InputError, match="has a relation to entity 9; it has 2"):
        taskreport.report_html(taskreport.Judged("extract", gold, lost))


def several():
    gold = [Example(str(i), "f", f"text {i}", labels=("a", "b") if i % 2 else ()) for i in range(8)]
    return gold, [{"id": str(i), "label": ["a"]} for i in range(8)]


def regression():
    gold = [Example(str(i), "f", f"text {i}", "pair", value=float(i)) for i in range(8)]
    return gold, [{"id": str(i), "value": i + 0.5 * (i == 3)} for i in range(8)]


def extract():
    gold = [
        Example(str(i), "f", f"在北京的张三丰{i}", entities=(Span("LOC", 1, 3), Span("PER", 4, 7))) for i in range(8)
    ]
    spans = [{"type": "LOC", "start": 1, "end": 3, "score": 0.9}, {"type": "PER", "start": 4, "end": 6, "score": 0.4}]
    return gold, [{"id": str(i), "entities": spans} for i in range(8)]


def relations():
    ends = (Span("e1", 0, 3), Span("e2", 9, 12))
    gold = [
        Example(str(i), "f", f"cat on a mat {i}", entities=ends, relations=(Relation("on", 0, 1),)) for i in range(8)
    ]
    return gold, [{"id": str(i), "relations": [{"type": "on", "head": i % 2, "tail": 1 - i % 2}]} for i in range(8)]


def answer():
    gold = [
        Example(str(i), "f", f"塔建于1889年。{i}", question="何时？", answers=(Answer("1889年", 3),)) for i in range(7)
    ]
    gold.append(Example("7", "f", "Nothing is known of it.", question="When?", answers=()))
    return gold, [{"id": str(i), "answer": "1889", "start": 3, "end": 7, "score": 0.7} for i in range(8)]


def translate():
    gold = [Example(str(i), "f", f"a cat {i}", target=f"一只猫{i}") for i in range(8)]
    return gold, [{"id": str(i), "translation": f"一只狗{i}"} for i in range(8)]


def generate():
    gold = [Example(str(i), "f", f"say {i}", target=f"it is {i}") for i in range(8)]
    return gold, [{"id": str(i), "text": f"it was {i}"} for i in range(8)]


MADE = {f.__name__: f for f in (several, regression, extract, relations, answer, translate, generate)}
EXPECTED = {
    "several": ["micro F1", "hamming loss", "no label"],
    "regression": ["Pearson", "mean squared error", "3.5"],
    "extract": ["PER", "张三", "none", "confidence"],
    "relations": ["SemEval F1", "on 1→2", "mat —on→ cat"],
    "answer": ["Chinese", "no answer", "1889", "best threshold"],
    "translate": ["BLEU", "tok:zh", "一只狗"],
    "generate": ["chrF", "it was"],
}


# --- parts


def test_spans_are_marked_in_their_text_and_it_stays_whole():
    text = "a <b> 张三🙂丰 " + "x" * 900 + " end"
    marks = [
        (Span("PER", 6, 10), "right"),
        (Span("P&L", 6, 8), "false"),
        (Span("X", 905, 5000), "missed"),
        (Span("Y", 8, 8), "right"),
    ]
    made = taskreport_errors.marked(text, marks)
    assert '<mark class="right"><mark class="false">张三</mark></mark><span class="kind false">P&amp;L</span>' in made
    shown = html.unescape(re.sub("<[^>]+>", "", re.sub('<span class="kind.*?</span>', "", made)))
    before, count, after = re.split(r" … ([\d,]+) characters … ", shown)
    assert text.startswith(before) and text.endswith(after) and len(before) + int(count) + len(after) == len(text)
    twice = taskreport_errors.marked("ab cd", [(Span("X", 0, 5), "missed"), (Span("X", 3, 5), "missed")])
    assert twice.count('class="kind missed"') == 1  # answers that end at one place are named once
    assert taskreport_errors.cut("ab" * 500).count("ab") == 350 and "300 characters" in taskreport_errors.cut(
        "ab" * 500
    )


def test_the_worst_errors_come_first_and_right_ones_not_at_all():
    gold = reviews(4)
    sure = [0.6, 0.99, 0.9, 0.5]
    rows = [{"id": e.id, "label": "pos", "score": s} for e, s in zip(gold, sure)]
    assert taskreport_errors.worst("classify", gold, rows) == [1, 2]  # rows 0 and 3 are right
    assert taskreport_errors.worst("classify", gold, rows, 1) == [1]


def test_slices_are_the_rows_that_they_name():
    gold = [Example(str(i), "f", "x" * (1 + i), labels=("a",)) for i in range(40)]
    rows = [{"id": str(i), "label": "a" if i < 20 else "b"} for i in range(40)]
    sums = metrics.sums("classify", gold, rows)
    found = taskreport_slices.by_length(gold, sums)
    assert sum(s.count for s in found) == 40 and len(found) == 4
    assert found[0].value == 1 and found[-1].value == 0 and found[0].name.startswith("1 to")
    mixed = [
        Example(
            str(i),
            "f",
            ("The weather is nice today and we walk. ", "今天天气很好我们去散步吧。")[i % 2] * 3,
            labels=("a",),
        )
        for i in range(20)
    ]
    said = [{"id": str(i), "label": "ab"[i % 2]} for i in range(20)]
    spoken, told = taskreport_slices.by_language(mixed, metrics.sums("classify", mixed, said))
    assert {(s.name, s.value) for s in spoken} <= {
        ("English", 1.0),
        ("Chinese", 0.0),
        ("Chinese characters", 0.0),
        ("other letters", 1.0),
    }
    assert len(spoken) == 2 and told


def test_twins_are_found_by_the_whole_text_and_by_its_letters():
    train = [
        Example("a", "f", "Hello World"),
        Example("b", "f", "x", "y"),
        Example("c", "f", "12 34"),
        Example("d", "f", "ＡＢＣ，好"),
    ]
    gold = [
        Example("1", "f", "Hello World"),
        Example("2", "f", "hello, world 2!"),
        Example("3", "f", "xy"),
        Example("4", "f", "56"),
        Example("5", "f", "abc好"),
    ]
    found = taskreport_slices.twins(gold, train)
    assert (found.same, found.like, found.near) == ([0], [1, 4], [])
    assert found.pairs == [(0, 0, 1.0), (1, 0, 1.0), (4, 3, 1.0)]


def test_near_twins_are_found_in_words_and_in_characters():
    long = "the house by the river was sold in spring to a man who came from the north with two dogs and a cart"
    chinese = "这家酒店的房间很干净，早餐也不错，就是离地铁站有点远，下次还会再来住。"
    train = [Example("a", "f", long), Example("b", "f", chinese), Example("c", "f", "something else altogether")]
    gold = [
        Example("1", "f", long.replace("spring", "autumn")),
        Example("2", "f", chinese.replace("早餐", "晚餐")),
        Example("3", "f", "the house by the sea was bought in winter by a woman who came from the south with two cats"),
        Example("4", "f", long),
    ]
    found = taskreport_slices.twins(gold, train)
    assert (found.same, found.like, found.near) == ([3], [], [0, 1])
    assert [pair[:2] for pair in found.pairs] == [(3, 0), (0, 0), (1, 1)]
    assert all(0.7 <= share < 1 for _, _, share in found.pairs[1:])
    said = [{"id": example.id, "label": "x"} for example in gold]
    gold = [dataclasses.replace(example, labels=("xy"[n % 2],)) for n, example in enumerate(gold)]
    seen = plain(taskreport.report_html(taskreport.Judged("classify", gold, said, train)))
    assert "2 others are near one of training" in seen and "The nearest of the others" in seen


def test_a_matrix_folds_rare_classes():
    pairs = [(f"c{i}", f"c{i}") for i in range(30) for _ in range(40 - i)] + [("c0", "c1")] * 7
    square, confusions = taskreport_parts.matrix(pairs)
    assert square.count("<tr>") == taskreport_parts.SQUARE + 1 and "all others" in square
    cells = [int(c.replace(",", "")) for c in re.findall(r'style="[^"]*">([\d,]+)</td>', square)]
    assert sum(cells) == len(pairs)
    assert "c1" in confusions and ">7<" in confusions


def test_the_reliability_curve_has_its_points():
    parts = taskreport_parts.reliability([(0.9, True)] * 9 + [(0.9, False)])
    assert "0.0000" in parts[1] and "0.87 to 0.93" in parts[2]
    assert taskreport_parts.reliability([]) == []


def test_lengths_that_are_all_one_are_no_slices():
    gold = [Example(str(i), "f", "same", labels=("a",)) for i in range(9)]
    sums = metrics.sums("classify", gold, [{"id": str(i), "label": "a"} for i in range(9)])
    assert taskreport_slices.by_length(gold, sums) == []
    assert np.isclose(taskreport_slices.part("x", sums, np.array([1, 2])).value, 1)


@pytest.mark.parametrize("page", ["docs/taskreport.md", "docs/zh/taskreport.md"])
def test_the_example_of_the_page_runs(page, tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / page).read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    lines = [f"{WORDS[name][i % 2]} number {i}\t{name}" for i in range(40) for name in ("pos", "neg")]
    Path("reviews.tsv").write_text("text\tlabel\n" + "\n".join(lines) + "\n", "utf-8")
    names: dict[str, object] = {}
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], names)
    assert names["figures"]["accuracy"] == 1 and Path("out/report.html").is_file()
