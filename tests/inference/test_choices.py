"""Several continuations of one text are scored as each would be by itself, and what they share is read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import yanmo
from benchmarks.b0 import make_model
from tests.inference.engines import WRITERS, writer
from tests.models.tiny import PAIRS, random_ids
from yanmo.errors import InputError
from yanmo.inference.choices import score_choices
from yanmo.inference.model import Model


def numbers(length: int, seed: int) -> list[int]:
    return random_ids(1, length, seed=seed)[0].tolist()


def by_itself(model: Model, shared: list[int], choice: list[int]) -> float:
    """One whole pass for one choice."""
    if model.config.kind == "encoder-decoder":
        logits = model.logits([shared], decoder_ids=[[model.ends.start_id, *choice[:-1]]])[0]
    else:
        logits = model.logits([[*shared, *choice]])[0][len(shared) - 1 : -1]
    return float(logits.double().log_softmax(-1).gather(1, torch.tensor(choice)[:, None]).sum())


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "llama-dynamic"])
def test_scores_are_those_of_one_pass_for_each_choice(name: str) -> None:
    model, shared = writer(name), numbers(9, 1)
    choices = [numbers(1 + i * 3 % 7, 20 + i) for i in range(40)]  # several side by side, more than once
    found = score_choices(model.network, shared, choices, model.ends)
    assert all(abs(a - by_itself(model, shared, c)) < 1e-4 * max(1, abs(a)) for a, c in zip(found, choices))


@pytest.mark.parametrize("name", ["llama", PAIRS[0]])
def test_what_is_shared_is_read_once_and_one_token_is_free(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = writer(name), []
    decode = model.network.decode

    def watched(ids: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
        read.append(tuple(ids.shape))
        return decode(ids, *given, **more)

    monkeypatch.setattr(model.network, "decode", watched)
    start = (1, 1) if name in PAIRS else (1, 12)
    score_choices(model.network, numbers(12, 1), [[3], [4], [5]], model.ends)
    assert read == [start]
    score_choices(model.network, numbers(12, 1), [[3], [4, 5], [5, 6, 7]], model.ends)
    assert read[1:] == [start, (2, 2)]


def test_texts_are_scored_as_they_stand_behind_the_prompt(tmp_path: Path) -> None:
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 256, "bos_token_id": 0, "eos_token_id": 0}
    make_model(pytest.importorskip("transformers"), tmp_path, **sizes)
    model = yanmo.load(tmp_path)
    found = model.choices("The ink is ", ["black", "white", "墨"])
    assert [c.text for c in found] == ["black", "white", "墨"] and [c.tokens for c in found] == [5, 5, 3]
    ids = model.tokenizer.encode("The ink is ")
    for choice in found:
        alone = by_itself(model, ids, model.tokenizer.encode(choice.text))
        assert abs(choice.logprob - alone) < 1e-4 * abs(alone)
    same = model.choices("The ink is ", ["black", "black or blue"])  # what is shared is longer than the prompt's tokens
    assert abs(same[0].logprob - found[0].logprob) < 1e-4 and same[1].tokens == 13
    assert model.choices("The ink is ", []) == []
    with pytest.raises(InputError, match="choice 1 has no tokens"):
        model.choices("The ink is ", ["black", ""])


def test_positions_that_end_are_said() -> None:
    model = writer("gpt2")
    assert score_choices(model.network, numbers(38, 1), [numbers(3, 2)], model.ends)
    with pytest.raises(InputError, match="4 tokens, and behind the prompt the model has positions for 2"):
        score_choices(model.network, numbers(38, 1), [numbers(4, 2)], model.ends)
