"""Zero-shot: the scores are those of plain formulas over the model's own logits, and what cannot be is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from yanmo.errors import InputError
from yanmo.inference.model import Model, load
from yanmo.recipe import ModelSection
from yanmo.tasks.zeroshot import NOTHING, TEMPLATES, entailing, predict
from yanmo.tokens.tokenizer import Tokenizer
from yanmo.tokens.train import train_tokenizer
from yanmo.training.build import build_network

TEXTS = ["The team won the match after extra time.", "Parliament votes on the budget.", "这场比赛非常精彩。"] * 8
LABELS = ["sport", "politics", "the stock market"]


def model_of(family: str, kind: str, folder: Path, **more: Any) -> Model:
    tokenizer: Tokenizer = train_tokenizer(TEXTS + LABELS, kind, 320)
    network = build_network(ModelSection(family=family, width=32, layers=2, heads=2), tokenizer, length=96, seed=5)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
    Model(network, tokenizer).save(folder, family=family)
    return load(folder, **more)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return model_of("gpt2", "bpe", tmp_path_factory.mktemp("writer") / "m")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Model:
    labels = ("contradiction", "neutral", "ENTAILMENT")
    torch.manual_seed(0)  # the head is drawn anew
    return model_of("bert", "wordpiece", tmp_path_factory.mktemp("judge") / "m", head="sequence", labels=labels)


def plain(model: Model, text: str, template: str) -> torch.Tensor:
    """log p of the tokens behind what all prompts share, per token, each text read whole."""
    wholes = [model.tokenizer.encode(template.format(text=text, label=label)) for label in LABELS]
    prompt = model.tokenizer.encode(template.partition("{label}")[0].format(text=text))
    shared = next(i for i, ids in enumerate(zip(prompt, *wholes)) if len(set(ids)) > 1 or i + 1 == len(prompt))
    shared += len({ids[shared] for ids in (prompt, *wholes)}) == 1
    scores = []
    for ids in wholes:
        logits = model.logits([ids])[0].double().log_softmax(-1)
        scores.append(sum(float(logits[i - 1, ids[i]]) for i in range(shared, len(ids))) / (len(ids) - shared))
    return torch.tensor(scores, dtype=torch.float64)


@pytest.mark.parametrize("template", ["", "Text: {text}\nTopic: {label}"])
def test_likelihoods_are_means_over_the_tokens_of_a_label(writer: Model, template: str) -> None:
    settings = {"candidates": LABELS, "template": template}
    used = template or TEMPLATES["latin"]
    for text in TEXTS[:2]:
        found = predict(writer, settings, [{"id": 1, "text": text}])[0]
        wanted = plain(writer, text, used).softmax(0).tolist()
        assert [found["scores"][label] for label in LABELS] == pytest.approx(wanted, abs=1e-4)
        assert found["label"] == LABELS[wanted.index(max(wanted))] and found["score"] == pytest.approx(
            max(wanted), abs=1e-4
        )


def test_calibration_takes_off_what_a_label_has_behind_nothing(writer: Model) -> None:
    settings = {"candidates": LABELS, "calibrate": True}
    found = predict(writer, settings, [{"text": TEXTS[0]}])[0]
    empty = torch.stack([plain(writer, nothing, TEMPLATES["latin"]) for nothing in NOTHING["latin"]])
    wanted = (plain(writer, TEXTS[0], TEMPLATES["latin"]) - empty.logsumexp(0)).softmax(0).tolist()
    assert list(found["scores"].values()) == pytest.approx(wanted, abs=1e-4)
    nothing = [predict(writer, settings, [{"text": text}])[0] for text in NOTHING["latin"]]
    assert max(max(n["scores"].values()) for n in nothing) < 0.9, "a text that says nothing has no sure label"


def test_entailment_is_that_of_the_models_own_scores(judge: Model) -> None:
    rows = [{"id": n, "text": text} for n, text in enumerate(TEXTS[:3])]
    hypothesis = "It is about {label}."
    found = predict(judge, {"candidates": LABELS, "template": hypothesis}, rows)
    several = predict(judge, {"candidates": LABELS, "template": hypothesis, "multi": True}, rows)
    for row, one, many in zip(rows, found, several):
        pairs = [judge.tokenizer.encode_pair(row["text"], hypothesis.format(label=label)) for label in LABELS]
        logits = torch.cat([judge.scores([ids], token_types=[types]) for ids, types in pairs]).double()
        assert list(one["scores"].values()) == pytest.approx(logits[:, 2].softmax(0).tolist(), abs=1e-4)
        alone = logits[:, [2, 0]].softmax(-1)[:, 0].tolist()
        assert list(many["scores"].values()) == pytest.approx(alone, abs=1e-4)
        assert many["labels"] == [label for label, p in zip(LABELS, alone) if p >= 0.5]


def test_a_long_premise_is_read_in_windows(judge: Model) -> None:
    long = " ".join(TEXTS[:2] * 20)
    found = predict(judge, {"candidates": LABELS, "calibrate": True}, [{"text": long}])[0]
    assert sum(found["scores"].values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "two or more"),
        ({"candidates": ["a"]}, "two or more"),
        ({"candidates": ["a", "a"]}, "two or more"),
        ({"candidates": ["a", " "]}, "two or more"),
        ({"candidates": ["a", "b"], "template": "{text}"}, "{text} and {label}"),
        ({"candidates": ["a", "b"], "template": "{label}: {text}"}, "behind the label"),
        ({"candidates": ["a", "b"], "multi": True}, "entailment"),
    ],
)
def test_what_cannot_be_is_one_sentence(writer: Model, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        predict(writer, settings, [{"text": "a text"}])


def test_a_text_too_long_for_a_writer_names_its_row(writer: Model) -> None:
    with pytest.raises(InputError, match="row 7 has"):
        predict(writer, {"candidates": LABELS}, [{"id": 7, "text": "word " * 300}])


def test_entailment_is_found_by_its_name() -> None:
    assert entailing(["CONTRADICTION", "NEUTRAL", "ENTAILMENT"]) == (2, 0)
    assert entailing(["entailment", "not_entailment"]) == (0, 1)
    with pytest.raises(InputError, match="none of them entailment"):
        entailing(["LABEL_0", "LABEL_1"])
