"""What every task gives for a row, by its command: exact keys, the id as it was, each row as it would be alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tasks.test_zeroshot import TEXTS
from yanmo import cli
from yanmo.inference.model import Model, load
from yanmo.recipe import ModelSection
from yanmo.tasks.predictor import Predictor, load_predictor
from yanmo.tokens.train import train_tokenizer
from yanmo.training.build import build_network

IDS = [0, "x", None, 1.5, True, [1, {"a": 2}], {"k": "v"}, 10**20, "", "é\u0000"]
HEADS: dict[str, tuple[str, tuple[str, ...]]] = {
    "classify": ("sequence", ("a", "b")),
    "extract": ("token", ("O", "B-X", "I-X")),
    "answer": ("span", ("start", "end")),
}
WRITERS = {"translate": ("bart", "unigram"), "generate": ("gpt2", "bpe")}
KEYS = {
    "classify": {"label", "score", "scores"},
    "extract": {"entities", "relations"},
    "answer": {"answer", "start", "end", "score"},
    "translate": {"translation", "score"},
    "generate": {"text"},
}
SHORT = {"translate": ["--beams", "1"], "generate": ["--max-new-tokens", "4"]}
ODD = ["👩\u200d👩\u200d👧 e\u0301 ＡＢ\u3000ｃ", "x", "a\u0000b", " two\t words \n"]
EMPTY = ["", "   \n", "\u3000"]


def saved(task: str, folder: Path) -> Path:
    family, kind = WRITERS.get(task, ("bert", "wordpiece"))
    tokenizer = train_tokenizer(TEXTS, kind, 320)
    network = build_network(ModelSection(family=family, width=16, layers=1, heads=2), tokenizer, length=64, seed=5)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
    Model(network, tokenizer).save(folder / "base", family=family)
    if task not in HEADS:
        return folder / "base"
    torch.manual_seed(0)  # the head is drawn anew
    head, labels = HEADS[task]
    load(folder / "base", head=head, labels=labels).save(folder / "model", family=family)  # type: ignore[arg-type]
    return folder / "model"


def row(task: str, text: str) -> dict[str, Any]:
    return {"question": "who?", "context": text} if task == "answer" else {"text": text}


def alike(one: Any, other: Any) -> bool:
    """Equal up to the rounding of numbers with a point."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == pytest.approx(other, abs=1e-4) if isinstance(one, float) else one == other


@pytest.mark.parametrize("task", KEYS)
def test_rows_have_exact_keys_their_ids_and_what_they_have_alone(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(task, tmp_path)
    texts = [*ODD, *TEXTS[:3], *([] if task == "answer" else EMPTY)]  # an empty passage is an error that names its row
    rows = [{"id": IDS[n], **row(task, text), "more": {"a": 1}} for n, text in enumerate(texts)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    given = [task, str(folder), "--in", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    with pytest.raises(SystemExit) as end:
        cli.main([*given, *SHORT.get(task, [])])
    assert end.value.code == 0, capsys.readouterr().err
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [json.dumps(one["id"]) for one in found] == [json.dumps(one["id"]) for one in rows], "true is not 1"
    predictor: Predictor = load_predictor(folder, task=task)
    predictor.options |= {"translate": {"beams": 1}, "generate": {"max_new_tokens": 4}}.get(task, {})
    for text, one in zip(texts, found, strict=True):
        assert one.keys() - {"id"} == KEYS[task], "keys of the row that are not known are left out"
        alone = predictor.predict(row(task, text))
        assert "id" not in alone and alike({"id": one["id"]} | alone, one)
        for entity in one.get("entities", ()):
            assert entity.keys() == {"type", "start", "end", "text", "score"}
            assert entity["text"] == text[entity["start"] : entity["end"]]
        if task == "answer" and one["start"] is not None:
            assert one["answer"] == text[one["start"] : one["end"]]


def test_an_empty_passage_names_its_row(tmp_path: Path) -> None:
    from yanmo.errors import InputError

    predictor = load_predictor(saved("answer", tmp_path))
    with pytest.raises(InputError, match="seven: the passage is empty"):
        predictor.predict([{"id": "seven", "question": "who?", "context": " "}])
