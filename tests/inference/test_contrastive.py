"""Contrastive search takes what equation 5 of Su et al. (2022) says, computed here plainly and without a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.inference.engines import plain, writer
from yanmo.errors import FileError, InputError
from yanmo.inference.contrastive import Contrast, contrastive_ids
from yanmo.inference.generate import Ends, Options
from yanmo.inference.model import Model

PROMPT = [5, 9, 3, 7]


def by_the_book(model: Model, prompt: list[int], alpha: float, k: int, new: int) -> list[int]:
    """x_t = argmax over the k likeliest v of (1 − α) p(v | x) − α max_j cos(h_v, h_j), each text read anew."""
    encoder = model.config.kind == "encoder-decoder"
    text = [model.ends.start_id] if encoder else list(prompt)

    def hidden(ids: list[int]) -> torch.Tensor:
        if encoder:
            return model.hidden([prompt], decoder_ids=[ids])[0]
        return model.hidden([ids])[0]

    def logits(ids: list[int]) -> torch.Tensor:
        if encoder:
            return model.logits([prompt], decoder_ids=[ids])[0, -1]
        return model.logits([ids])[0, -1]

    start = len(text)
    for _ in range(new):
        shares = logits(text).softmax(-1)
        values = {}
        for v in shares.topk(k).indices.tolist():
            h = hidden([*text, v])
            likest = max(float(torch.cosine_similarity(h[-1], h[j], dim=0)) for j in range(len(text)))
            values[v] = (1 - alpha) * float(shares[v]) - alpha * likest
        text.append(max(values, key=values.__getitem__))
    return text[start:]


def found(model: Model, alpha: float, k: int, new: int, ends: Ends | None = None) -> list[Any]:
    ends = ends or Ends(start_id=model.ends.start_id)
    return list(contrastive_ids(model.network, PROMPT, Contrast(alpha=alpha, k=k), Options(max_new_tokens=new), ends))


@pytest.mark.parametrize("name", ["llama", "gpt2", "lstm", "marian", "t5"])
@pytest.mark.parametrize(("alpha", "k"), [(0.6, 4), (0.3, 7), (1.0, 3)])
def test_the_tokens_are_those_of_the_definition(name: str, alpha: float, k: int) -> None:
    model = writer(name)
    assert [t.id for t in found(model, alpha, k, 6)] == by_the_book(model, PROMPT, alpha, k, 6)


@pytest.mark.parametrize("name", ["llama", "marian"])
def test_without_the_penalty_and_with_one_candidate_it_is_greedy(name: str) -> None:
    model = writer(name)
    bare = Model(model.network, None, Ends(start_id=model.ends.start_id))
    greedy = plain(bare, PROMPT, Options(max_new_tokens=8))[0]
    assert [t.id for t in found(model, 0.0, 5, 8)] == greedy
    assert [t.id for t in found(model, 0.9, 1, 8)] == greedy


def test_ends_and_forced_tokens_are_kept() -> None:
    model = writer("llama")
    free = [t.id for t in found(model, 0.6, 4, 6)]
    stopped = found(model, 0.6, 4, 6, Ends(eos_ids=frozenset({free[2]})))
    assert [t.id for t in stopped] == free[: free.index(free[2]) + 1] and stopped[-1].finish == "stop"
    assert found(model, 0.6, 4, 6)[-1].finish == "length"
    forced = found(model, 0.6, 4, 3, Ends(forced_first_id=11, never_ids=(free[1],)))
    assert forced[0].id == 11 and free[1] not in [t.id for t in forced]
    assert found(model, 0.6, 4, 0) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"penalty_alpha": 1.5}, "penalty_alpha is 1.5"),
        ({"penalty_alpha": "x"}, "penalty_alpha is 'x'"),
        ({"penalty_alpha": 0.5, "temperature": 0.7}, "no temperature"),
        ({"penalty_alpha": 0.5, "n": 2}, "no temperature, other penalties or n"),
    ],
)
def test_what_contradicts_it_is_one_sentence(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        writer("llama").generations(["a"], **options)
    with pytest.raises(InputError, match=says):
        list(writer("llama").stream("a", **options))


def test_what_has_no_effect_is_refused_and_none_is_as_if_not_said() -> None:
    model = writer("llama")
    with pytest.raises(InputError, match="no option 'draft'"):
        list(model.stream("a", penalty_alpha=0.5, draft=model))
    with pytest.raises(FileError, match="no tokenizer"):
        model.generate("a", penalty_alpha=None)
