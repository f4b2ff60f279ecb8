"""Extraction: entities and relations through the one loop, exact characters, windows, with and without a chain."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as trials
from hypothesis import strategies as st

import yanmo
from yanmo.errors import ConfigError, InputError
from yanmo.recipe import Recipe, read_recipe
from yanmo.tasks import finding, nested
from yanmo.tasks.crf import legal_chain
from yanmo.tasks.examples import Example, Relation, Span
from yanmo.tasks.extraction import open_tokens, predict
from yanmo.tasks.preparing import Wishes, prepare
from yanmo.tasks.stored import write_examples
from yanmo.tasks.tagging import Cell, Tags
from yanmo.tasks.tokenrows import Frame, Text, framed, merged, read_texts, windowed
from yanmo.training.build import build_network

NAMES = {"PER": ("Ana Cruz", "Bo", "Élodie Roy", "王小明"), "LOC": ("Rome", "New Oslo", "上海")}
PLAIN = ("went", "saw", "the", "old", "house", "with", "joy", "then")


def example(number: int, draw: np.random.RandomState, related: bool = False) -> Example:
    """A person, plain words, a place; `related`: a place before "hosts", or a person before "likes"."""
    text, spans = "", []
    kinds = ("PER", "LOC") if draw.rand() < 0.5 else ("LOC", "PER")
    for place, kind in enumerate(kinds):
        words = " ".join(draw.choice(PLAIN, 2))
        name = str(draw.choice(NAMES[kind]))
        verb = "" if place == 0 or not related else ("likes " if draw.rand() < 0.5 else "then ")
        text += ("" if place == 0 else " ") + words + " " + verb
        spans.append(Span(kind, len(text), len(text) + len(name)))
        text += name
    relations = None
    if related:
        likes = "likes" in text
        relations = (Relation("likes", *((0, 1) if kinds[0] == "PER" else (1, 0))),) if likes else ()
        text, third = text + " near Rome", len(text) + 6
        spans.append(Span("LOC", third, third + 4))
    return Example(str(number), f"f:{number + 1}", text, entities=tuple(spans), relations=relations)


def examples(count: int, seed: int = 0, related: bool = False) -> list[Example]:
    draw = np.random.RandomState(seed)
    return [example(number, draw, related) for number in range(count)]


def recipe(folder: Path, train: list[Example], valid: list[Example], *changes: str) -> Recipe:
    write_examples(folder / "train.jsonl", train)
    write_examples(folder / "valid.jsonl", valid)
    if not (folder / "tokenizer").exists():
        yanmo.train_tokenizer([example.text for example in train], "wordpiece", 300).save(folder / "tokenizer")
    said = [
        f"data.paths={folder}/train.jsonl",
        f"data.valid={folder}/valid.jsonl",
        f"tokenizer.path={folder}/tokenizer",
    ]
    base = "[data]\n[model]\nfamily='bert'\nwidth=32\nlayers=1\nheads=2\n[objective]\nkind='tokens'\nstride=8\n"
    base += "[train]\nsteps=60\nrows=16\nlength=64\nlearning_rate=1e-2\neval_every=60\nprecision='float32'\n"
    return read_recipe(base, "recipe", [*said, *changes])


def run(folder: Path, made: Recipe, rows: list[dict]) -> tuple[dict, list[dict]]:
    """Train; the settings of the finished model and what it says of rows."""
    out = yanmo.finetune.run_recipe(made, folder / "run")
    settings = json.loads((out / "task.json").read_text())
    return settings, predict(yanmo.load(folder / "run"), settings, rows)


def gold(one: Example) -> set[tuple[str, int, int]]:
    return {(span.type, span.start, span.end) for span in one.entities or ()}


def told(row: dict) -> set[tuple[str, int, int]]:
    return {(found["type"], found["start"], found["end"]) for found in row["entities"]}


@pytest.mark.parametrize("way", ["plain", "objective.crf=true", "objective.nested=true"])
def test_a_run_learns_entities_and_gives_their_characters(tmp_path: Path, way: str) -> None:
    made = recipe(tmp_path, examples(160), examples(40, 1), *([way] if "=" in way else []))
    asked = examples(40, 2)
    rows = [{"id": one.id, "text": one.text} for one in asked]
    settings, found = run(tmp_path, made, rows)
    assert settings["task"] == "extract" and (settings["chain"] is not None) == ("crf" in way)
    right = sum(gold(one) == told(row) for one, row in zip(asked, found))
    assert right > 30, right
    for one, row in zip(asked, found):
        assert row["relations"] == []
        for entity in row["entities"]:
            assert entity["text"] == one.text[entity["start"] : entity["end"]] == entity["text"].strip()
            assert 0 < entity["score"] <= 1
    model = yanmo.load(tmp_path / "run")
    for row, alone in zip(found, (predict(model, settings, [row])[0] for row in rows)):
        assert told(row) == told(alone)
        scores = [[entity["score"] for entity in one["entities"]] for one in (row, alone)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_the_recipe_of_an_lstm_learns_entities(tmp_path: Path) -> None:
    """recipes/lstm-tags.toml as it is, but for its length and width."""
    write_examples(tmp_path / "train.jsonl", examples(160))
    write_examples(tmp_path / "valid.jsonl", examples(40, 1))
    said = ["objective.crf=true", "model.width=32", "model.ffn_width=32", "train.learning_rate=2e-2", "train.ema=0.9"]
    predictor = yanmo.finetune(
        "extract",
        Path(__file__).resolve().parents[2] / "recipes" / "lstm-tags.toml",
        tmp_path / "train.jsonl",
        out=tmp_path / "run",
        valid=[tmp_path / "valid.jsonl"],
        epochs=12,
        overrides=[*said, "train.precision=float32"],
    )
    made = yanmo.recipe.read_recipe((tmp_path / "run" / "recipe.toml").read_text())
    assert (made.model.kind, made.model.layers, made.model.dropout, made.train.rows) == ("lstm", 1, 0.5, 16)
    asked = examples(40, 2)
    found = predictor.predict([one.text for one in asked])
    assert sum(gold(one) == told(row) for one, row in zip(asked, found)) > 30


def test_a_run_learns_entities_and_relations_together_as_a_graph(tmp_path: Path) -> None:
    made = recipe(
        tmp_path, examples(240, related=True), examples(40, 1, True), "train.steps=180", "train.eval_every=180"
    )
    asked = examples(40, 2, True)
    settings, found = run(tmp_path, made, [{"text": one.text} for one in asked])
    assert settings["job"]["types"] == ["LOC", "PER"]
    right = 0
    for one, row in zip(asked, found):
        ends = [(row["entities"][r["head"]], row["entities"][r["tail"]], r["type"]) for r in row["relations"]]
        graph = {(head["start"], tail["start"], kind) for head, tail, kind in ends}
        entities = one.entities or ()
        right += graph == {(entities[r.head].start, entities[r.tail].start, r.type) for r in one.relations or ()}
    assert right > 28, right
    one = next(one for one in asked if one.relations)
    named = [{"type": span.type, "start": span.start, "end": span.end} for span in one.entities or ()]
    (row,) = predict(yanmo.load(tmp_path / "run"), settings, [{"text": one.text, "entities": named}])
    assert told(row) == gold(one) and all(entity["score"] == 1 for entity in row["entities"])


def test_relations_alone_are_learned_where_each_example_gives_a_pair(tmp_path: Path) -> None:
    draw = np.random.RandomState(0)
    pairs = []
    for number in range(160):
        verb, kind, ends = [("likes", "like", (0, 1)), ("fears", "like", (1, 0)), ("sees", "", (0, 1))][draw.randint(3)]
        first, second = draw.choice(["cat", "dog", "fox", "owl"], 2)
        text = f"the {first} {verb} the {second}"
        spans = (Span("entity", 4, 4 + len(first)), Span("entity", len(text) - len(second), len(text)))
        relations = (Relation(kind, *ends),) if kind else ()
        pairs.append(Example(str(number), f"f:{number}", text, entities=spans, relations=relations))
    made = recipe(
        tmp_path, pairs[:120], pairs[120:], "train.steps=60", "train.eval_every=60", "train.learning_rate=3e-3"
    )
    rows = [{"text": one.text, "entities": [vars(span) for span in one.entities or ()]} for one in pairs[120:]]
    settings, found = run(tmp_path, made, rows)
    assert settings["job"]["types"] == []
    wanted = [[(r.type, r.head, r.tail) for r in one.relations or ()] for one in pairs[120:]]
    right = sum([(r["type"], r["head"], r["tail"]) for r in row["relations"]] == one for row, one in zip(found, wanted))
    assert right > 30, right
    with pytest.raises(InputError, match="the row 'x' has no entities"):
        predict(yanmo.load(tmp_path / "run"), settings, [{"id": "x", "text": "the cat sees the dog"}])


def test_entities_of_a_row_must_lie_in_its_text(tmp_path: Path) -> None:
    model, settings = untrained(tmp_path)
    for wrong in (
        [{"start": 2, "end": 9}],
        [{"start": "0", "end": 1}],
        [{"type": 3, "start": 0, "end": 1}],
        "PER",
        [3],
    ):
        with pytest.raises(InputError, match="row 'r'"):
            predict(model, settings, [{"id": "r", "text": "Bo", "entities": wrong}])
    assert predict(model, settings, [{"text": ""}, {"text": " \n"}]) == [{"entities": [], "relations": []}] * 2


def untrained(folder: Path):
    """A model with weights as they are drawn, and the settings that it would be saved with."""
    made = recipe(folder, examples(8), examples(4, 1), "train.length=24")
    opened = open_tokens(made, examples(8), examples(4, 1))
    tokenizer = yanmo.load_tokenizer(folder / "tokenizer")
    network = build_network(made.model, tokenizer, length=64, top=opened.top)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    from yanmo.inference.model import Model

    return Model(network.eval(), tokenizer, None, None), opened.settings(network, tokenizer)


def test_a_long_text_is_read_in_windows_and_whole_offsets_stay(tmp_path: Path) -> None:
    model, settings = untrained(tmp_path)
    text = " ".join(one.text for one in examples(12, 3))
    around = framed(model.tokenizer, settings["length"], settings["stride"])
    (held,) = read_texts(model.tokenizer, [text], settings["job"]["words"])
    assert len(windowed(held, around)) > 3
    (row,) = predict(model, settings, [{"text": text}])
    assert row["entities"] and max(entity["end"] for entity in row["entities"]) > len(text) // 2
    assert all(text[e["start"] : e["end"]] == e["text"] for e in row["entities"])


def test_a_cell_has_its_scores_from_the_window_that_sees_most_around_it(tmp_path: Path) -> None:
    model, _ = untrained(tmp_path)
    (held,) = read_texts(model.tokenizer, ["then " * 10], True)
    around = Frame([1], [2], 6, 4)
    spans = windowed(held, around)
    assert spans == [(0, 6), (2, 8), (4, 10)]
    parts = [torch.full((8, 1), float(number)) for number in range(3)]
    assert merged(held, around, parts)[:, 0].tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]


def test_an_entity_that_a_window_cuts_has_no_target_there(tmp_path: Path) -> None:
    model, settings = untrained(tmp_path)
    job = finding.job_from(settings["job"])
    (held,) = read_texts(model.tokenizer, ["then " * 10], True)
    rows, lost = finding.entity_documents(job, held, [("PER", 4, 6)], Frame([1], [2], 6, 4))
    begin = 1 + 4 * job.types.index("PER")
    assert lost == 0 and [row.label.tolist() for row in rows] == [
        [-100, 0, 0, 0, 0, -100, -100, -100],
        [-100, 0, 0, begin, begin + 1, begin + 2, 0, -100],
        [-100, begin, begin + 1, begin + 2, 0, 0, 0, -100],
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"entities": None}, "f:9: has no entities"),
        ({"entities": (Span("GPE", 0, 2),)}, "f:9: the entity type 'GPE' is not among"),
    ],
)
def test_contradictions_are_named_by_file_and_line(tmp_path: Path, change: dict, said: str) -> None:
    wrong = Example(**{"id": "9", "where": "f:9", "text": "Bo went", **change})
    with pytest.raises(InputError, match=said):
        open_tokens(recipe(tmp_path, examples(4), examples(4)), examples(4), [wrong])


def test_overlapping_entities_need_nested_spans(tmp_path: Path) -> None:
    over = [Example("1", "f:1", "New Oslo", entities=(Span("LOC", 0, 8), Span("PER", 4, 8)))]
    with pytest.raises(InputError, match=r"f:1: entities share characters .* objective.nested=true"):
        open_tokens(recipe(tmp_path, over, over), over, over)
    with pytest.raises(ConfigError, match="crf"):
        open_tokens(recipe(tmp_path, over, over, "objective.nested=true", "objective.crf=true"), over, over)


# --- nested spans


def test_spans_of_one_cell_are_told_by_its_number_and_a_fourth_is_counted():
    types = ("A", "B")
    found = [("A", 0, 2), ("B", 0, 0), ("A", 0, 0), ("B", 2, 2)]
    codes, lost = nested.encode([*found, ("B", 0, 1)], 3, types)
    assert lost == 1
    rows = nested._spans(torch.from_numpy(codes)).tolist()
    assert sorted(rows) == sorted([types.index(kind), first, last] for kind, first, last in found)


def test_the_worth_of_a_span_is_the_same_in_blocks_and_moves_with_it():
    scores = torch.randn(9, 2 * nested.WIDTH + 4, generator=torch.Generator().manual_seed(0))
    whole = nested.worth(scores)
    part = nested.worth(scores, 3, 5, 2)
    assert torch.allclose(whole[:, 3:5, 3:7], part, atol=1e-5)
    moved = nested.worth(torch.cat([scores[:2], scores]))
    assert torch.allclose(moved[:, 2:, 2:], whole, atol=1e-4)


def test_nested_spans_are_kept_and_crossing_ones_are_not(monkeypatch):
    values = torch.full((1, 5, 5), -9.0)
    values[0, 0, 3], values[0, 1, 2], values[0, 2, 4], values[0, 4, 4], values[0, 3, 1] = 5.0, 3.0, 4.0, 1.0, 8.0
    monkeypatch.setattr(nested, "worth", lambda *_: values)
    found = nested.decode(torch.zeros(5, 2 * nested.WIDTH + 2), ("A",), 5)
    assert [row[:3] for row in found] == [("A", 0, 3), ("A", 1, 2), ("A", 4, 4)]
    assert found[0][3] == pytest.approx(1 / (1 + np.exp(-5)))


def test_without_a_learned_chain_the_loss_is_the_mean_over_cells(tmp_path: Path) -> None:
    model, settings = untrained(tmp_path)
    job = finding.job_from(settings["job"])
    from yanmo.tokens.labelled import Labelled, labelled_rows

    around = framed(model.tokenizer, 24, 8)
    texts = read_texts(model.tokenizer, ["Bo went", "then Rome"], True)
    documents = [finding.entity_documents(job, text, [], around)[0][0] for text in texts]
    data = Labelled.gather(documents, 24, kind="tokens")
    batch, _ = labelled_rows(data, np.arange(2))
    with torch.no_grad():
        loss, count = finding.task_loss(model.network, batch, job, legal_chain(Tags(job.types).legal()))
        cells = finding.cell_scores(model.network, job, texts, around)
    wanted = -torch.cat(cells).log_softmax(-1)[:, 0].sum()
    assert count == 4 and float(loss) == pytest.approx(float(wanted), rel=1e-4)


@trials(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            ["王小明", "e\u0301", "👩\u200d👧", " ", "\n", "\u3000", "\u200b", "Bo ", "Rome", "\u0301", "\u0000", "🇩🇪"]
        )
        | st.text(max_size=5),
        max_size=12,
    ).map("".join)
)
def test_whatever_the_text_entities_are_characters_of_it_without_white_space_around(drawn, text: str) -> None:
    model, known = drawn
    try:
        (row,) = predict(model, known, [{"text": text}])
    except InputError as error:
        assert "surrogate" in str(error)
        return
    ends = 0
    for entity in row["entities"]:
        assert ends <= entity["start"] < entity["end"] <= len(text)
        assert entity["text"] == text[entity["start"] : entity["end"]] == entity["text"].strip()
        ends = entity["end"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory):
    return untrained(tmp_path_factory.mktemp("drawn"))


def test_a_model_of_other_tags_finds_by_the_best_legal_sequence_of_them() -> None:
    labels = ("I-PER", "O", "B-LOC", "I-LOC")
    job = finding.job_of(labels, 32, 8)
    assert job.types == ("LOC", "PER") and job.columns == (1, 2, 3, 3, 2, 0, 0, 0, 0)
    assert finding.job_from(json.loads(json.dumps(job.as_dict()))) == job
    with pytest.raises(InputError, match="LABEL_0"):
        finding.job_of(("LABEL_0", "LABEL_1"), 32, 8)


def test_posteriors_of_other_tags_are_those_of_their_own_legal_sequences() -> None:
    """B and I of one type: of two cells legal are OO, OB, BO, BB, BI."""
    job = finding.job_of(("O", "B-X", "I-X"), 32, 8)
    text = Text("ab", [1, 2], [(0, 1), (1, 2)], [Cell(0, 0, 1), Cell(1, 1, 2)])
    scores = torch.tensor([[0.1, 0.9, 0.4], [0.2, 0.3, 1.5]]).log_softmax(-1)
    (row,) = finding.decoded(job, [text], [scores[:, list(job.columns)]], legal_chain(Tags(job.types).legal()))
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    worth = {pair: float(scores[0, pair[0]] + scores[1, pair[1]]) for pair in pairs}
    share = np.exp(worth[1, 2]) / sum(map(np.exp, worth.values()))
    assert [found.span for found in row] == [Span("X", 0, 2)] and row[0].score == pytest.approx(float(share), rel=1e-4)


def test_a_folder_without_settings_is_read_by_its_labels(drawn) -> None:
    model, known = drawn
    rows = [{"text": one.text} for one in examples(6, 5)]
    ours, theirs = predict(model, known, rows), predict(model, {"length": 24, "stride": 8}, rows)
    assert [told(row) for row in ours] == [told(row) for row in theirs] and any(row["entities"] for row in ours)


def test_a_new_model_of_few_texts_has_dropout_and_averaged_weights(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    lines = [json.dumps({"text": one.text, "entities": [vars(s) for s in one.entities or ()]}) for one in examples(40)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines) + "\n")
    made = prepare("extract", "new", tmp_path / "texts.jsonl", tmp_path / "run", Wishes()).recipe
    assert (made.objective.kind, made.model.dropout, made.train.ema) == ("tokens", 0.3, 0.99)
    again = prepare("extract", "new", tmp_path / "texts.jsonl", tmp_path / "run", Wishes(overrides=["train.ema=0.0"]))
    assert again.recipe.train.ema == 0
