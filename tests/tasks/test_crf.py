"""Chains of tags against the sum over every sequence."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from yanmo.tasks.crf import (
    RATE,
    Chain,
    Transitions,
    best,
    chain_loss,
    legal_chain,
    log_partition,
    plain_partition,
    shared_partition,
)
from yanmo.tasks.tagging import Tags

TAGS = Tags(("A", "B"))


def drawn(seed: int, lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, Chain]:
    maker = torch.Generator().manual_seed(seed)
    count = len(TAGS.names)
    scores = torch.randn(len(lengths), max(lengths), count, generator=maker) * 2
    learned = Transitions(count)
    with torch.no_grad():
        learned.ends.copy_(torch.randn(2, count, generator=maker) / RATE)
        learned.steps.copy_(torch.randn(count, count, generator=maker) / RATE)
        return scores, torch.tensor(lengths), learned.on(legal_chain(TAGS.legal()))


def worth(scores: torch.Tensor, path: tuple[int, ...], chain: Chain) -> float:
    total = float(chain.first[path[0]] + chain.last[path[-1]])
    total += sum(float(scores[place, tag]) for place, tag in enumerate(path))
    return total + sum(float(chain.step[one, two]) for one, two in itertools.pairwise(path))


@pytest.mark.parametrize("seed", range(3))
def test_partition_best_sequence_and_posteriors_are_those_of_all_sequences(seed):
    lengths = (4, 1, 3)
    scores, sizes, chain = drawn(seed, lengths)
    totals = log_partition(scores, sizes, chain)
    paths = best([scores[row, :length] for row, length in enumerate(lengths)], chain)
    for row, length in enumerate(lengths):
        every = {p: worth(scores[row], p, chain) for p in itertools.product(range(len(TAGS.names)), repeat=length)}
        total = math.log(math.fsum(math.exp(value) for value in every.values()))
        assert float(totals[row]) == pytest.approx(total, abs=1e-3)
        path = paths[row]
        assert path is not None and tuple(path.tags) == max(every, key=every.__getitem__)
        for first in range(length):
            for last in range(first, length):
                same = [v for p, v in every.items() if p[first : last + 1] == tuple(path.tags[first : last + 1])]
                share = math.fsum(math.exp(value - total) for value in same)
                assert path.posterior(first, last) == pytest.approx(share, abs=1e-3)


def test_the_loss_is_minus_the_log_of_the_share_of_the_sequence():
    scores, sizes, chain = drawn(5, (3, 2))
    tags = torch.tensor([[0, 4, 0], [1, 3, 0]])
    wanted = 0.0
    for row, length in enumerate((3, 2)):
        every = [worth(scores[row], p, chain) for p in itertools.product(range(len(TAGS.names)), repeat=length)]
        own = worth(scores[row], tuple(tags[row, :length].tolist()), chain)
        wanted += math.log(math.fsum(map(math.exp, every))) - own
    assert float(chain_loss(scores, tags, sizes, chain)) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("scale, shared", [(1.0, True), (8.0, True), (80.0, False)])
def test_the_fast_partition_and_its_gradients_are_those_of_the_plain_one_or_give_way_to_it(scale, shared):
    lengths = torch.tensor([40, 1, 17, 40])
    _, _, chain = drawn(2, (1,))
    found = []
    for partition in (plain_partition, log_partition):
        maker = torch.Generator().manual_seed(3)
        scores = (torch.randn(4, 40, len(TAGS.names), generator=maker) * scale).requires_grad_()
        parts = Chain(*(part.clone().requires_grad_() for part in chain))
        total = partition(scores, lengths, parts)
        total.sum().backward()
        found.append((total.detach(), scores.grad, *(part.grad for part in parts)))
    assert shared_partition(scores, lengths, parts)[1] is shared
    for plain, fast in zip(*found, strict=True):
        assert torch.allclose(plain, fast, rtol=1e-5, atol=1e-3)


def test_a_sum_too_small_for_float32_to_hold_all_its_digits_gives_way_to_logarithms():
    """B-A is certain at the first cell and O at the second, which may not follow it."""
    scores = torch.zeros(1, 2, len(TAGS.names))
    scores[0, 0, 1] = scores[0, 1, 0] = 70.0
    sizes, chain = torch.tensor([2]), legal_chain(TAGS.legal())
    assert not shared_partition(scores, sizes, chain)[1]
    assert torch.equal(log_partition(scores, sizes, chain), plain_partition(scores, sizes, chain))


def test_the_best_sequence_is_legal_whatever_the_scores():
    maker = torch.Generator().manual_seed(1)
    first, last, step = TAGS.legal()
    scores = [torch.randn(length, len(TAGS.names), generator=maker) * 50 for length in range(1, 40)] + [
        torch.zeros(0, len(TAGS.names))
    ]
    paths = best(scores, legal_chain(TAGS.legal()))
    assert paths.pop() is None
    for path in paths:
        assert path is not None and first[path.tags[0]] and last[path.tags[-1]]
        assert all(step[one, two] for one, two in itertools.pairwise(path.tags))


def test_transitions_learn_that_tags_alternate():
    """Scores say nothing, so only steps can tell: after S-A comes S-B."""
    learned = Transitions(len(TAGS.names))
    legal, scores = legal_chain(TAGS.legal()), torch.zeros(1, 6, len(TAGS.names))
    tags, lengths = torch.tensor([[4, 8, 4, 8, 4, 8]]), torch.tensor([6])
    optimizer = torch.optim.Adam(learned.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = chain_loss(scores, tags, lengths, learned.on(legal))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
    with torch.no_grad():
        (path,) = best([scores[0]], learned.on(legal))
    assert path is not None and path.tags.tolist() == [4, 8, 4, 8, 4, 8]
