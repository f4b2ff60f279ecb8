"""RNN, GRU and LSTM: the protocol, padding, packing, caches, saving."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from yanmo.errors import ConfigError, InputError
from yanmo.models.checkpoint import load_network, save_network
from yanmo.models.config import RecurrentConfig
from yanmo.models.initial import initialise
from yanmo.models.protocol import LanguageModel
from yanmo.models.recurrent import FILLED, Recurrent
from yanmo.plan.count import parameters

KINDS = [
    {"cell": "rnn"},
    {"cell": "gru", "hidden_width": 13},
    {"cell": "lstm", "layers": 2},
    {"cell": "lstm", "hidden_width": 13, "tie_embeddings": False},
]


@pytest.fixture(params=KINDS, ids=lambda k: "-".join(str(v) for v in k.values()))
def network(request: pytest.FixtureRequest) -> Recurrent:
    network = Recurrent(RecurrentConfig(vocab_size=31, width=10, **request.param)).eval()
    initialise(network, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(5)
    return network


IDS = torch.randint(0, 31, (3, 8), generator=torch.Generator().manual_seed(1))


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    assert one.shape == other.shape and (one - other).abs().max() < 1e-5


@torch.no_grad()
def test_a_recurrent_network_is_a_language_model_like_any_other(network: Recurrent) -> None:
    assert isinstance(network, LanguageModel)
    assert network.logits(network.decode(IDS)).shape == (3, 8, 31)


@torch.no_grad()
def test_padding_and_packing_change_nothing(network: Recurrent) -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 2, 2, 2, 0, 3, 3]])
    hidden = network.decode(IDS, mask)
    for row, number in ((0, 1), (1, 1), (2, 1), (2, 2), (2, 3)):
        part = mask[row] == number
        close(hidden[row, part], network.decode(IDS[row : row + 1, part])[0])


@pytest.mark.parametrize("ways", [{}, {"head": "token", "labels": ("a", "b"), "bidirectional": True}])
@torch.no_grad()
def test_documents_of_an_lstm_are_filled_up_or_packed_as_their_lengths_ask_with_equal_hidden(ways) -> None:
    network = Recurrent(RecurrentConfig(cell="lstm", vocab_size=31, width=10, layers=2, **ways)).eval()
    ids = torch.randint(0, 31, (2, 40), generator=torch.Generator().manual_seed(1))
    even = torch.arange(40).expand(2, 40) // 8 + 1
    uneven = torch.where(torch.arange(40) < 25, 1, torch.arange(40) - 23).expand(2, 40)
    for mask, filled in ((even, True), (uneven, False)):
        sizes = torch.bincount(mask[0])[1:]
        assert (int(sizes.max()) * len(sizes) <= FILLED * 40) is filled
        hidden = network.decode(ids, mask)
        for number in range(1, len(sizes) + 1):
            part = mask[0] == number
            close(hidden[:, part], network.decode(ids[:, part]))


@torch.no_grad()
def test_a_cache_goes_on_where_it_stopped_for_rows_of_any_length(network: Recurrent) -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    cache = network.new_cache(3, 8)
    network.decode(IDS[:, :5], mask, cache=cache)
    assert cache.lengths.tolist() == [3, 5, 1]
    later = network.decode(IDS[:, 5:], cache=cache)
    for row in range(3):
        whole = torch.cat([IDS[row, :5][mask[row] > 0], IDS[row, 5:]])[None]
        close(later[row], network.decode(whole)[0, -3:])
    cache.select(torch.tensor([2, 2]))
    assert cache.lengths.tolist() == [4, 4] and cache.rows == 2


@torch.no_grad()
def test_a_saved_network_opens_with_equal_weights(network: Recurrent, tmp_path: Path) -> None:
    save_network(network, tmp_path)
    again = load_network(tmp_path)
    assert again.config == network.config
    assert torch.equal(again.decode(IDS), network.decode(IDS))


def test_the_same_seed_draws_the_same_weights() -> None:
    networks = [Recurrent(RecurrentConfig(cell="lstm", vocab_size=31, width=10)) for _ in range(3)]
    for network, seed in zip(networks, (7, 7, 8)):
        initialise(network, torch.Generator().manual_seed(seed))
    one, same, other = (torch.cat([p.flatten() for p in n.parameters()]) for n in networks)
    assert torch.equal(one, same) and not torch.equal(one, other)


LABELS = [
    {"cell": "lstm", "head": "sequence", "bidirectional": True, "layers": 2},
    {"cell": "gru", "head": "token", "hidden_width": 5, "bidirectional": True},
    {"cell": "rnn", "head": "sequence", "problem": "multi_label"},
]


@pytest.mark.parametrize("sizes", LABELS, ids=lambda s: f"{s['cell']}-{s['head']}")
@torch.no_grad()
def test_a_head_of_labels_sees_each_document_alone_and_is_saved(sizes: dict[str, object], tmp_path: Path) -> None:
    config = RecurrentConfig(vocab_size=31, width=10, labels=("a", "b", "c"), **sizes)  # type: ignore[arg-type]
    network = Recurrent(config).eval()
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 2, 2, 2, 0, 3, 3]])
    scores = network.scores(network.decode(IDS, mask), IDS, mask)
    parts = [IDS[row : row + 1, mask[row] == n] for row, n in ((0, 1), (1, 1), (2, 1), (2, 2), (2, 3))]
    alone = [network.scores(network.decode(part), part)[0] for part in parts]
    if config.head == "sequence":
        close(scores, torch.stack(alone))
    else:
        close(scores[mask > 0], torch.cat(alone))
    assert sum(p.numel() for p in network.parameters()) == parameters(config)
    save_network(network, tmp_path)
    again = load_network(tmp_path)
    assert again.config == config
    close(again.scores(again.decode(IDS, mask), IDS, mask), scores)
    with pytest.raises(InputError, match="predicts no words"):
        network.logits(network.decode(IDS))


def test_words_are_predicted_in_one_direction_alone() -> None:
    with pytest.raises(ConfigError, match="bidirectional"):
        RecurrentConfig(cell="lstm", vocab_size=31, width=10, bidirectional=True)
    with pytest.raises(ConfigError, match="labels"):
        RecurrentConfig(cell="lstm", vocab_size=31, width=10, head="sequence")
