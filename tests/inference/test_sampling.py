"""The choice of the next token: against transformers' processors, OpenAI's formula, and the laws of chance."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from yanmo.errors import InputError
from yanmo.inference.sampling import Sampling, choose, generators_for, penalise, restrict

LOGITS = 3 * torch.randn(4, 37, generator=torch.Generator().manual_seed(0))
NO_IDS = torch.zeros(4, 1, dtype=torch.long)


@pytest.mark.parametrize(
    "settings, theirs",
    [
        ({"temperature": 0.7}, []),
        ({"top_k": 5}, [TopKLogitsWarper(5)]),
        ({"top_k": 500}, [TopKLogitsWarper(37)]),
        ({"top_p": 0.6}, [TopPLogitsWarper(0.6)]),
        ({"top_p": 0.01}, [TopPLogitsWarper(0.01)]),
        ({"min_p": 0.2}, [MinPLogitsWarper(0.2)]),
        ({"typical_p": 0.4}, [TypicalLogitsWarper(0.4)]),
        (
            {"top_k": 20, "top_p": 0.8, "min_p": 0.05},
            [TopKLogitsWarper(20), TopPLogitsWarper(0.8), MinPLogitsWarper(0.05)],
        ),
    ],
)
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
def test_what_is_kept_is_what_transformers_keeps(settings: dict, theirs: list, temperature: float) -> None:
    found = restrict(LOGITS, Sampling(**settings | {"temperature": temperature}))
    expected = TemperatureLogitsWarper(temperature)(NO_IDS, LOGITS)
    for warper in theirs:
        expected = warper(NO_IDS, expected)
    assert torch.equal(found.isinf(), expected.isinf())
    assert torch.allclose(found, expected)


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    before = [[1, 2, 2], [5], [], [36, 0]]
    after = [[3], [5], [7], []]
    found = penalise(LOGITS, before, after, Sampling(repetition_penalty=1.4))
    for row in range(4):
        ids = torch.tensor([before[row] + after[row]])
        expected = RepetitionPenaltyLogitsProcessor(1.4)(ids, LOGITS[row : row + 1].clone())[0]
        assert torch.allclose(found[row], expected)


def test_presence_counts_once_and_frequency_each_time_over_the_new_text_alone() -> None:
    s = Sampling(presence_penalty=0.5, frequency_penalty=0.25)
    found = penalise(LOGITS[:1], [[9, 9, 9]], [[3, 4, 3, 3]], s)[0]
    expected = LOGITS[0].clone()
    expected[3] -= 0.5 + 3 * 0.25
    expected[4] -= 0.5 + 0.25
    assert torch.allclose(found, expected)


def test_draws_follow_the_distribution() -> None:
    s = Sampling(temperature=1.0)
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(20000, 4)
    generator = torch.Generator().manual_seed(3)
    drawn = choose(logits, s, [generator] * 20000)
    share = torch.bincount(drawn, minlength=4) / 20000
    assert (share - logits[0].softmax(0)).abs().max() < 0.015


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = torch.full((1, 50), -torch.inf)
    logits[0, [7, 31]] = 0.0
    generators = generators_for(0, 1, 1)
    drawn = {int(choose(logits, Sampling(temperature=1.0), generators)) for _ in range(200)}
    assert drawn == {7, 31}


def test_greedy_takes_the_likeliest_and_needs_no_random_number() -> None:
    assert torch.equal(choose(LOGITS, Sampling(), []), LOGITS.argmax(-1))


def test_a_seed_gives_its_own_stream_to_each_sample_and_the_same_to_each_prompt() -> None:
    first = [torch.rand((), generator=g).item() for g in generators_for(5, 2, 3)]
    assert first[:3] == first[3:] and len(set(first[:3])) == 3
    before = torch.get_rng_state()
    generators_for(None, 1, 1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 1.5},
        {"top_p": 0.0},
        {"min_p": -0.1},
        {"typical_p": 0.0},
        {"repetition_penalty": 0.0},
        {"temperature": True},
        {"temperature": "hot"},
    ],
)
def test_a_setting_outside_its_range_is_one_sentence_with_its_name(settings: dict) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        Sampling(**settings)


@pytest.mark.parametrize("seed", [-1, 2**64, "one", 1.5, True])
def test_a_seed_outside_its_range_is_refused(seed: object) -> None:
    with pytest.raises(InputError, match="seed"):
        generators_for(seed, 1, 1)  # type: ignore[arg-type]
