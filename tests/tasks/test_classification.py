"""Classification: labels as the examples have them, windows, class weights, a run through the one loop, predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import yanmo
from yanmo.errors import ConfigError, InputError
from yanmo.recipe import Recipe, read_recipe
from yanmo.tasks.classification import _temperature, open_labels, predict, settled
from yanmo.tasks.encoding import _parts, encode_rows
from yanmo.tasks.examples import Example
from yanmo.tasks.opening import open_task
from yanmo.tasks.stored import read_examples, write_examples
from yanmo.tasks.windows import windows

pytest.importorskip("sklearn")
WORDS = {"good": ("fine", "lovely", "great", "sun"), "bad": ("awful", "dull", "poor", "rain")}


def examples(count: int, seed: int = 0) -> list[Example]:
    """Texts of three words of their class among words that say nothing."""
    draw = np.random.RandomState(seed)
    found = []
    for number in range(count):
        label = ("good", "bad")[number % 2]
        words = [*draw.choice(WORDS[label], 3), *draw.choice(("a", "the", "film", "day", "was"), 4)]
        draw.shuffle(words)
        found.append(Example(str(number), f"f:{number + 1}", " ".join(words), labels=(label,)))
    return found


def recipe(folder: Path, train: list[Example], valid: list[Example], *changes: str) -> Recipe:
    write_examples(folder / "train.jsonl", train)
    write_examples(folder / "valid.jsonl", valid)
    texts = [example.text for example in train]
    yanmo.train_tokenizer(texts, "wordpiece", 200).save(folder / "tokenizer")
    said = [
        f"data.paths={folder}/train.jsonl",
        f"data.valid={folder}/valid.jsonl",
        f"tokenizer.path={folder}/tokenizer",
    ]
    base = "[data]\n[model]\nfamily='bert'\nwidth=32\nlayers=1\nheads=2\n[objective]\nkind='labels'\n"
    base += "[train]\nsteps=30\nrows=16\nlength=32\nlearning_rate=5e-3\neval_every=15\nprecision='float32'\n"
    return read_recipe(base, "recipe", [*said, *changes])


def test_a_run_learns_is_calibrated_and_predicts(tmp_path: Path) -> None:
    made = recipe(tmp_path, examples(160), examples(60, seed=1))
    folder = yanmo.finetune.run_recipe(made, tmp_path / "run")
    settings = json.loads((folder / "task.json").read_text())
    assert settings["task"] == "classify" and settings["problem"] == "single" and settings["temperature"] > 0
    model = yanmo.load(tmp_path / "run")
    rows = [{"text": example.text} for example in examples(40, seed=2)]
    found = predict(model, settings, rows)
    assert sum(row["label"] == e.labels[0] for row, e in zip(found, examples(40, seed=2)) if e.labels) >= 36
    for row, one in zip(found, rows, strict=True):
        alone = predict(model, settings, [one])[0]
        assert alone["label"] == row["label"] and alone["score"] == pytest.approx(row["score"], abs=1e-5)
        assert sum(row["scores"].values()) == pytest.approx(1, abs=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "valid_error" in line] == [15, 30]


def test_a_recurrent_network_learns_labels_too(tmp_path: Path) -> None:
    cells = ["model.kind=lstm", "model.family=qwen3", "model.heads=4", "train.steps=20"]
    made = recipe(tmp_path, examples(160), examples(40, seed=1), *cells)
    folder = yanmo.finetune.run_recipe(made, tmp_path / "lstm")
    model, settings = yanmo.load(folder), json.loads((folder / "task.json").read_text())
    assert model.config.bidirectional
    found = predict(model, settings, [{"text": example.text} for example in examples(40, seed=2)])
    assert sum(row["label"] == e.labels[0] for row, e in zip(found, examples(40, seed=2)) if e.labels) >= 34


def test_several_labels_and_numbers_are_learned(tmp_path: Path) -> None:
    both = [
        Example(e.id, e.where, e.text, labels=() if "film" not in e.text else (*(e.labels or ()), "film"))
        for e in examples(80)
    ]
    made = recipe(tmp_path, both, both[:20], "train.steps=3", "train.eval_every=3")
    folder = yanmo.finetune.run_recipe(made, tmp_path / "several")
    settings = json.loads((folder / "task.json").read_text())
    assert settings["problem"] == "multi"
    row = predict(yanmo.load(folder), settings, [{"text": "a fine film"}])[0]
    assert set(row["scores"]) == {"good", "bad", "film"} and isinstance(row["label"], list)
    numbers = [Example(e.id, e.where, e.text, value=float(e.labels == ("good",)) * 3) for e in examples(80)]
    made = recipe(tmp_path, numbers, numbers[:20], "train.steps=3", "train.eval_every=3")
    folder = yanmo.finetune.run_recipe(made, tmp_path / "numbers")
    row = predict(yanmo.load(folder), json.loads((folder / "task.json").read_text()), [{"text": "a fine film"}])[0]
    assert row["label"] is None and np.isfinite(row["score"])


def test_long_texts_are_read_through_windows(tmp_path: Path) -> None:
    made = recipe(tmp_path, examples(20), examples(6), "train.length=16", "objective.stride=4", "train.steps=1")
    tokenizer = yanmo.load_tokenizer(tmp_path / "tokenizer")
    text = " ".join(["fine", "dull", "day"] * 20)
    encoded = encode_rows(tokenizer, [("1", "fine day", None), ("2", text, None)], 16, 4, None)
    whole = tokenizer.encode(text, add_special_tokens=False)
    assert list(encoded.owners) == [0] + [1] * (len(encoded.windows) - 1) and len(encoded.windows) > 3
    seen = [id for ids, _ in encoded.windows[1:] for id in ids[1:-1]]
    assert set(whole) <= set(seen) and max(len(ids) for ids, _ in encoded.windows) <= 16
    opened = open_task(made)
    network = __import__("yanmo.training.build", fromlist=["x"]).build_network(
        made.model, tokenizer, length=16, top=opened.top
    )
    model = yanmo.Model(network.eval(), tokenizer)
    settings = {"problem": "single", "length": 16, "stride": 4}
    row = predict(model, settings, [{"text": text}])[0]
    scores = torch.stack(
        [network.scores(network.encode(i, token_types=0 * i), i, None)[0] for i in _ids(encoded.windows[1:])]
    ).mean(0)
    assert row["scores"]["bad"] == pytest.approx(float(scores.softmax(0)[0].detach()), abs=1e-5)


def test_pairs_of_two_long_texts_are_read_whole(tmp_path: Path) -> None:
    recipe(tmp_path, examples(20), examples(6))
    tokenizer = yanmo.load_tokenizer(tmp_path / "tokenizer")
    first, second = "fine dull day film awful poor " * 20, "rain sun great lovely the was a " * 7
    for pair in ((first, second), (second, first), (first, "a day"), (first, ""), ("", first)):
        for length in (12, 16, 33):
            encoded = encode_rows(tokenizer, [("1", *pair), ("2", "fine", "day")], length, 4, None)
            assert max(len(ids) for ids, _ in encoded.windows) <= length and list(encoded.owners)[-2:] == [0, 1]
    with pytest.raises(InputError, match="windows of 4 tokens leave no room for a pair"):
        encode_rows(tokenizer, [("1", first, second)], 4, 1, None)
    words = [[f"{side}{number}" for number in range(count)] for side, count in (("a", 50), ("b", 21))]
    places = [[(4 * n, 4 * n + len(word)) for n, word in enumerate(side)] for side in words]
    texts = ["".join(word.ljust(4) for word in side) for side in words]
    found = _parts((texts[0], texts[1]), places, [8, 6], 2)
    for side in (0, 1):
        read = [piece[side].split() for piece in found]
        assert list(dict.fromkeys(word for piece in read for word in piece)) == words[side]  # all, in their order
        assert {len(piece) for piece in read} == {(8, 6)[side]}


def _ids(parts: list[tuple[list[int], list[int]]]) -> list[torch.Tensor]:
    return [torch.tensor([ids]) for ids, _ in parts]


def test_windows_cover_every_token_and_share_some() -> None:
    for count, room, stride in ((0, 5, 2), (5, 5, 2), (6, 5, 2), (23, 7, 3), (100, 10, 0)):
        found = windows(count, room, stride)
        assert found[0][0] == 0 and found[-1][1] == count
        assert all(b - a <= room for a, b in found)
        assert all(before[1] - after[0] >= stride for before, after in zip(found, found[1:], strict=False))
    with pytest.raises(InputError, match="do not move"):
        windows(10, 4, 4)


def test_rare_classes_weigh_more_where_that_is_asked(tmp_path: Path) -> None:
    uneven = [e for e in examples(60) if e.labels == ("good",) or int(e.id) % 10 == 1]
    made = recipe(tmp_path, uneven, examples(8, seed=3), "objective.class_weights=balanced")
    tokenizer = yanmo.load_tokenizer(tmp_path / "tokenizer")
    opened = open_task(made)
    from yanmo.training.build import build_network
    from yanmo.training.distributed import ALONE

    network = build_network(made.model, tokenizer, length=32, top=opened.top)
    work = opened.work(tokenizer, network, ALONE)
    batch = next(iter(work.batches()))
    loss, count = work.objective(network, batch)
    with torch.no_grad():
        memory = network.encode(batch.ids, batch.mask, token_types=batch.token_types)
        scores = network.scores(memory, batch.ids, batch.mask)
    good = sum(e.labels == ("good",) for e in uneven)
    weight = torch.tensor([len(uneven) / (2 * (len(uneven) - good)), len(uneven) / (2 * good)])
    targets = batch.targets[batch.wanted]
    assert float(loss.detach()) == pytest.approx(
        float(F.cross_entropy(scores, targets, weight, reduction="sum")), rel=1e-5
    )
    assert count == len(targets)


def test_the_temperature_undoes_scores_that_are_too_sure() -> None:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(4000, 3, generator=draw)
    names = ("0", "1", "2")
    drawn = torch.multinomial(scores.softmax(1), 1, generator=draw).flatten().tolist()
    valid = [Example("", "", "", labels=(str(label),)) for label in drawn]
    assert _temperature(scores * 4, valid, "single", names) == pytest.approx(4, rel=0.15)
    assert _temperature(scores / 3, valid, "single", names) == pytest.approx(1 / 3, rel=0.15)


def test_mistakes_in_the_examples_are_one_sentence(tmp_path: Path) -> None:
    train = examples(20)
    strange = [Example("9", "dev.tsv:9", "fine", labels=("odd",))]
    with pytest.raises(InputError, match=r"dev\.tsv:9: the label 'odd' is not among"):
        open_task(recipe(tmp_path, train, strange))
    alone = [e for e in train if e.labels == ("good",)]
    with pytest.raises(InputError, match="1 labels"):
        open_task(recipe(tmp_path, alone, alone))
    made = recipe(tmp_path, train, train)
    with pytest.raises(ConfigError, match=r"needs data\.valid"):
        open_task(made.model_copy(update={"data": made.data.model_copy(update={"valid": []})}))


def test_labels_are_sorted_as_numbers_or_as_said() -> None:
    found = [Example("", "", "", labels=(str(n),)) for n in (10, 9, 2)]
    assert settled(found, "auto", ()) == ("single", ("2", "9", "10"))
    assert settled(found, "auto", ("9", "10", "2")) == ("single", ("9", "10", "2"))


def test_examples_are_stored_and_read_again(tmp_path: Path) -> None:
    from yanmo.tasks.examples import Answer, Relation, Span

    kept = [
        *examples(3),
        Example("x", "a:1", "张三在北京\U0001f600", entities=(Span("人", 0, 2),), relations=(Relation("in", 0, 0),)),
        Example("y", "a:2", "q", question="w", answers=()),
        Example("z", "a:3", "q", question="w", answers=(Answer("q", 0),), group="g"),
    ]
    write_examples(tmp_path / "e.jsonl", kept)
    assert read_examples(tmp_path / "e.jsonl") == kept
    (tmp_path / "e.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(yanmo.FileError, match=r"e\.jsonl:1"):
        read_examples(tmp_path / "e.jsonl")


def test_open_labels_takes_the_problem_of_the_recipe(tmp_path: Path) -> None:
    made = recipe(tmp_path, examples(8), examples(8), "objective.problem=multi")
    assert open_labels(made, examples(8), examples(8)).top.problem == "multi_label"
