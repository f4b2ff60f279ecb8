"""Batches: every token is a target once, nothing leaks, and a position can be taken up again."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from yanmo.errors import FileError, InputError
from yanmo.tokens.batches import NO_TARGET, Batch, PackedBatches, validation_batches, validation_windows
from yanmo.tokens.shards import TokenShards, write_shards

START, END = 1, 2


def shards(folder: Path, sizes: list[int]) -> TokenShards:
    """Documents whose ids are all different, so that a target tells where it stood."""
    ids = iter(range(10, 60000))
    documents = [[next(ids) for _ in range(size)] for size in sizes]
    return write_shards(documents, folder, tokenizer_hash="h", vocab_size=60000, n_bytes=99, start_id=START, end_id=END)


def sizes(seed: int, count: int = 60) -> list[int]:
    rng = random.Random(seed)
    return [rng.choice([0, 1, 2, 5, 13, 40, 77]) for _ in range(count)]


def targets(batches: list[Batch]) -> Counter[int]:
    return Counter(int(t) for batch in batches for t in batch.targets.flatten() if t != NO_TARGET)


def follows(data: TokenShards, batch: Batch) -> None:
    """Each target is the id that follows its input in one document, and the mask changes exactly between documents."""
    before = {}
    for number in range(data.n_documents):
        document = data.document(number).tolist()
        before |= dict(zip(document[:-1], [START, *document[:-2]]))  # the end id is in every document
    ends = {data.document(n).tolist()[-2] for n in range(data.n_documents) if len(data.document(n)) > 1} | {START}
    for ids, wanted, mask in zip(batch.ids.tolist(), batch.targets.tolist(), batch.mask.tolist()):
        for column, (given, target, document) in enumerate(zip(ids, wanted, mask)):
            if document == 0:
                assert target == NO_TARGET
                continue
            if target not in (END, NO_TARGET):
                assert before[target] == given
            if target == END:
                assert given in ends
            if column:
                assert (mask[column - 1] == document) == (ids[column] == wanted[column - 1]) or NO_TARGET in wanted
                assert document - mask[column - 1] in (0, 1)
        assert mask[0] == 1


@pytest.mark.parametrize("seed", range(4))
def test_every_token_is_a_target_exactly_once_per_epoch(tmp_path: Path, seed: int) -> None:
    data = shards(tmp_path / "s", [*sizes(seed), 500])
    length = next(length for length in range(10, 60) if data.n_tokens % length == 0 or length == 59)
    rows = 3
    batches = PackedBatches(data, rows, length, seed)
    per_epoch = data.n_tokens // length
    drawn: list[torch.Tensor] = []
    while len(drawn) < 3 * per_epoch + rows:
        batch = next(batches)
        follows(data, batch)
        drawn += list(batch.targets)
    everything = Counter(data.ids.tolist())
    if data.n_tokens % length == 0:
        for epoch in range(3):
            rows_of_epoch = torch.stack(drawn[epoch * per_epoch : (epoch + 1) * per_epoch])
            assert Counter(rows_of_epoch.flatten().tolist()) == everything
    else:  # an epoch's last part of a row is drawn with the next epoch
        whole = Counter(torch.stack(drawn[: 3 * data.n_tokens // length]).flatten().tolist())
        missing = Counter({k: 3 * v for k, v in everything.items()})
        missing.subtract(whole)
        assert min(missing.values()) >= 0 and sum(missing.values()) == 3 * data.n_tokens % length


def test_rows_have_no_padding_and_every_position_has_a_target(tmp_path: Path) -> None:
    batches = PackedBatches(shards(tmp_path / "s", sizes(0)), 4, 32)
    for _ in range(40):
        batch = next(batches)
        assert batch.n_targets == 4 * 32 and int(batch.mask.min()) == 1
        assert all(tensor.dtype == torch.int64 and tensor.shape == (4, 32) for tensor in batch)


def test_epochs_differ_and_seeds_differ_and_the_same_seed_repeats(tmp_path: Path) -> None:
    data = shards(tmp_path / "s", [9] * 32)  # 320 tokens, 10 rows of 32

    def epochs(seed: int) -> list[list[int]]:
        batches = PackedBatches(data, 10, 32, seed)
        return [next(batches).targets.flatten().tolist() for _ in range(2)]

    first, second = epochs(0)
    assert first != second and sorted(first) == sorted(second)
    assert epochs(0) == [first, second] and epochs(1)[0] != first


def test_a_long_document_does_not_fill_a_batch_with_neighbouring_rows(tmp_path: Path) -> None:
    batch = next(PackedBatches(shards(tmp_path / "s", [3199]), 5, 32))
    steps = batch.targets[1:, 0] - batch.targets[:-1, 0]
    assert not (steps == 32).any()


@pytest.mark.parametrize("after", [0, 1, 7, 50])
def test_a_restored_position_goes_on_with_the_same_batches(tmp_path: Path, after: int) -> None:
    data = shards(tmp_path / "s", sizes(1))
    batches = PackedBatches(data, 3, 20, seed=5)
    for _ in range(after):
        next(batches)
    state = json.loads(json.dumps(batches.state()))
    expected = [next(batches) for _ in range(60)]
    again = PackedBatches(data, 3, 20, seed=5)
    again.restore(state)
    for batch, other in zip(expected, again):
        assert all(torch.equal(a, b) for a, b in zip(batch, other))


def test_a_position_of_other_data_or_settings_is_refused(tmp_path: Path) -> None:
    data = shards(tmp_path / "s", sizes(1))
    state = PackedBatches(data, 3, 20).state()
    for other in (PackedBatches(data, 3, 21), PackedBatches(data, 3, 20, seed=1)):
        with pytest.raises(FileError, match="the saved data position has"):
            other.restore(state)
    with pytest.raises(FileError, match="the saved data position has shards"):
        PackedBatches(shards(tmp_path / "t", sizes(2)), 3, 20).restore(state)
    with pytest.raises(FileError, match="no count of rows"):
        PackedBatches(data, 3, 20).restore(state | {"drawn": -1})


def test_a_corpus_smaller_than_one_batch_says_what_would_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="11 tokens are fewer than one batch of 2 rows x 6 tokens = 12; lower"):
        PackedBatches(shards(tmp_path / "s", [10]), 2, 6)
    next(PackedBatches(shards(tmp_path / "t", [11]), 2, 6))


@pytest.mark.parametrize("length", [2, 7, 16, 33])
@pytest.mark.parametrize("rows", [1, 4])
def test_validation_scores_every_token_once(tmp_path: Path, rows: int, length: int) -> None:
    data = shards(tmp_path / "s", sizes(3))
    batches = list(validation_batches(data, rows, length))
    for batch in batches:
        follows(data, batch)
    assert targets(batches) == Counter(data.ids.tolist())
    assert all(len(batch.ids) == rows for batch in batches[:-1]) and 0 < len(batches[-1].ids) <= rows


def test_validation_gives_half_a_row_of_context_to_all_but_the_first_row(tmp_path: Path) -> None:
    data = shards(tmp_path / "s", [99])
    batches = list(validation_batches(data, 4, 20))
    rows = [row for batch in batches for row in zip(*(tensor.tolist() for tensor in batch))]
    scored = sorted((next(i for i, t in enumerate(targets) if t != NO_TARGET), ids[0]) for ids, targets, _ in rows)
    assert scored[0] == (0, START)
    assert all(context >= 10 for context, _ in scored[1:])
    assert len(rows) == validation_windows(data, 20) == 9  # 20 tokens, then 80 more by 10


def test_short_validation_documents_share_rows(tmp_path: Path) -> None:
    data = shards(tmp_path / "s", [4] * 40)
    batches = list(validation_batches(data, 8, 25))
    assert sum(len(batch.ids) for batch in batches) == 8 and int(batches[0].mask.max()) == 5
