"""Rows of corrupted text and of pairs: nothing lost, nothing cut in silence, and a position can be taken up again."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yanmo.errors import FileError, InputError
from yanmo.tokens.batches import NO_TARGET
from yanmo.tokens.corrupted import infilling_batches, masked_batches, span_batches
from yanmo.tokens.masking import Masking, Spans
from yanmo.tokens.pairs import Pairs, encode_pairs, pair_batches
from yanmo.tokens.rows import Draws, RowBatches, pack
from yanmo.tokens.shards import TokenShards, write_shards
from yanmo.tokens.tokenizer import Tokenizer, load_tokenizer
from yanmo.tokens.train import train_tokenizer

START = 0  # of the decoder


@pytest.fixture(scope="module")
def tokenizer(corpus: list[str]) -> Tokenizer:
    """T5's frame, with sentinels and a mask."""
    marks = [f"<extra_id_{number}>" for number in range(40)]
    return train_tokenizer(corpus, "unigram", 500, special_tokens=[*marks, "<mask>"])


@pytest.fixture(scope="module")
def wordpiece(corpus: list[str]) -> Tokenizer:
    return train_tokenizer(corpus, "wordpiece", 400)


def shards(folder: Path, tokenizer: Tokenizer, documents: int = 50, seed: int = 0) -> TokenShards:
    """Documents of ordinary ids, some empty, some longer than a row."""
    rng = random.Random(seed)
    ordinary = [number for number in range(tokenizer.vocab_size) if number not in tokenizer.special_ids]
    sizes = [rng.choice([0, 1, 2, 5, 13, 40, 77, 150]) for _ in range(documents)]
    texts = [[rng.choice(ordinary) for _ in range(size)] for size in sizes]
    end = tokenizer.eos_id if tokenizer.eos_id is not None else tokenizer.sep_id
    assert end is not None
    return write_shards(
        texts,
        folder,
        tokenizer_hash=tokenizer.hash,
        vocab_size=tokenizer.vocab_size,
        n_bytes=99,
        start_id=end,
        end_id=end,
    )


def pairs(seed: int = 0, count: int = 300) -> Pairs:
    rng = random.Random(seed)
    return Pairs.gather(
        [
            tuple([[rng.randrange(3, 99) for _ in range(rng.randrange(1, 15))] + [1] for _ in range(2)])  # type: ignore[misc]
            for _ in range(count)
        ],
        24,
        20,
    )


def documents(row_ids: torch.Tensor, row_mask: torch.Tensor) -> list[list[int]]:
    return [row_ids[row_mask == number].tolist() for number in range(1, int(row_mask.max()) + 1)]


Make = Callable[..., RowBatches[Any]]


def kinds(folder: Path, tokenizer: Tokenizer, wordpiece: Tokenizer) -> dict[str, Make]:
    """A maker for each kind of batches; it takes rows and seed."""
    bert, text = shards(folder / "bert", wordpiece), shards(folder / "t5", tokenizer)
    plain = Masking(whole_words=True, chinese=False)
    return {
        "masked": lambda rows=3, seed=0: masked_batches(bert, wordpiece, rows, 64, seed=seed),
        "whole words": lambda rows=3, seed=0: masked_batches(bert, wordpiece, rows, 64, masking=plain, seed=seed),
        "spans": lambda rows=3, seed=0: span_batches(text, tokenizer, rows, 64, start_id=START, seed=seed),
        "infilling": lambda rows=3, seed=0: infilling_batches(text, tokenizer, rows, 64, start_id=START, seed=seed),
        "pairs": lambda rows=3, seed=0: pair_batches(pairs(), rows, start_id=START, seed=seed),
    }


KINDS = ["masked", "whole words", "spans", "infilling", "pairs"]


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, wordpiece: Tokenizer) -> dict[str, Make]:
    return kinds(tmp_path_factory.mktemp("shards"), tokenizer, wordpiece)


def equal(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- positions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [0, 1, 7, 40])
def test_a_restored_position_goes_on_with_the_same_batches(makers: dict[str, Make], kind: str, after: int) -> None:
    batches = makers[kind](seed=5)
    for _ in range(after):
        next(batches)
    state = json.loads(json.dumps(batches.state()))
    expected = [next(batches) for _ in range(60)]
    again = makers[kind](seed=5)
    again.restore(state)
    assert all(equal(batch, next(again)) for batch in expected)
    assert batches.epoch > 1 and again.state() == batches.state()


@pytest.mark.parametrize("kind", KINDS)
def test_a_position_of_other_data_or_settings_is_refused(makers: dict[str, Make], kind: str) -> None:
    state = makers[kind]().state()
    with pytest.raises(FileError, match="the saved data position has seed 0, this run 1"):
        makers[kind](seed=1).restore(state)
    for wrong in ({"epoch": -1}, {"row": "x"}, {"row": True}):
        with pytest.raises(FileError, match="is none; continue from another checkpoint"):
            makers[kind]().restore(state | wrong)
    other = makers["pairs" if kind != "pairs" else "spans"]()
    with pytest.raises(FileError, match="the saved data position has"):
        other.restore(state)


def test_a_position_of_other_masking_or_words_is_refused(tmp_path: Path, wordpiece: Tokenizer) -> None:
    data = shards(tmp_path / "s", wordpiece)
    state = masked_batches(data, wordpiece, 2, 64).state()
    for masking in (Masking(share=0.3), Masking(way="mask"), Masking(whole_words=True, chinese=False)):
        with pytest.raises(FileError, match="the saved data position has masking"):
            masked_batches(data, wordpiece, 2, 64, masking=masking).restore(state)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_epochs_differ_and_one_pass_repeats(makers: dict[str, Make], kind: str) -> None:
    batches = makers[kind]()
    first, again = (list(batches.once()) for _ in range(2))
    assert all(equal(a, b) for a, b in zip(first, again, strict=True)) and batches.state()["row"] == 0
    assert not equal(first[0], next(batches.once(1))) and not equal(first[0], next(makers[kind](seed=1)))
    rows = sum(len(batch.ids) for batch in first)
    assert rows == batches.rows_per_epoch and equal(first[0], next(batches))


def test_a_new_epoch_hides_other_tokens_of_the_same_text(tmp_path: Path, wordpiece: Tokenizer) -> None:
    data = shards(tmp_path / "s", wordpiece, documents=4, seed=3)
    batches = masked_batches(data, wordpiece, 1, 256)
    hidden = [next(batches).targets != NO_TARGET for _ in range(6)]
    assert len({row.numpy().tobytes() for row in hidden}) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_data_smaller_than_one_batch_say_so(makers: dict[str, Make], kind: str) -> None:
    with pytest.raises(InputError, match=r"fewer than one batch of 5000; set train\.rows to \d+ at most, .*add data"):
        makers[kind](rows=5000)


def test_draws_follow_from_their_place_alone() -> None:
    assert Draws(1, 2, 3, 4).uniform(3).tolist() == Draws(1, 2, 3, 4).uniform(3).tolist()
    places = [(1, 2, 3, 4), (2, 2, 3, 4), (1, 1, 3, 4), (1, 2, 4, 4), (1, 2, 3, 5), (-1, 2, 3, 4)]
    assert len({Draws(*place).uniform(1)[0] for place in places}) == len(places)
    assert sorted(Draws(0, 0, 0).order(50).tolist()) == list(range(50))
    # the numbers of Philox with this key and counter, whatever the version of numpy
    assert Draws(1, 2, 3, 4).below(10**6, 3).tolist() == [829678, 422302, 52058]


# --- what stands in the rows


def test_masked_rows_hold_every_token_once_in_frames_with_less_padding_than_a_frame(
    tmp_path: Path, wordpiece: Tokenizer
) -> None:
    data = shards(tmp_path / "s", wordpiece)
    for epoch in range(2):
        seen: Counter[int] = Counter()
        rows = 0
        for batch in masked_batches(data, wordpiece, 4, 64).once(epoch):
            original = torch.where(batch.targets == NO_TARGET, batch.ids, batch.targets)
            for ids, mask in zip(original, batch.mask):
                rows += 1
                for document in documents(ids, mask):
                    assert (document[0], document[-1]) == (wordpiece.cls_id, wordpiece.sep_id)
                    seen.update(document[1:-1])
            full = (batch.mask > 0).sum(1)
            assert ((full > 64 - 3) | (full == full.min())).all() and batch.ids.shape[1] == 64
        expected = Counter(data.ids.tolist())
        del expected[data.end_id]
        assert seen == expected and rows > 10


def test_span_corruption_loses_no_token_and_ends_in_the_end(tmp_path: Path, tokenizer: Tokenizer) -> None:
    data = shards(tmp_path / "s", tokenizer)
    marks = {tokenizer.id(f"<extra_id_{number}>") for number in range(40)}
    seen: Counter[int] = Counter()
    for batch in span_batches(data, tokenizer, 4, 64, start_id=START).once():
        assert batch.source.shape[1] <= 64
        for row in range(len(batch.ids)):
            sources = documents(batch.source[row], batch.source_mask[row])
            targets = documents(batch.targets[row], batch.mask[row])
            inputs = documents(batch.ids[row], batch.mask[row])
            assert len(sources) == len(targets)
            for source, target, given in zip(sources, targets, inputs):
                assert source[-1] == target[-1] == tokenizer.eos_id and given == [START, *target[:-1]]
                assert [t for t in source if t in marks] == [t for t in target if t in marks]
                seen.update(t for t in source[:-1] + target[:-1] if t not in marks)
    expected = Counter(data.ids.tolist())
    del expected[data.end_id]
    assert seen == expected


def test_infilling_targets_are_the_whole_text(tmp_path: Path, tokenizer: Tokenizer) -> None:
    data = shards(tmp_path / "s", tokenizer)
    mask_id, seen, hidden = tokenizer.id("<mask>"), Counter[int](), 0
    for batch in infilling_batches(data, tokenizer, 4, 64, start_id=START, spans=Spans(share=0.5)).once():
        assert batch.ids.shape[1] <= 64 and batch.source.shape[1] <= 64
        for row in range(len(batch.ids)):
            for source, target in zip(
                documents(batch.source[row], batch.source_mask[row]), documents(batch.targets[row], batch.mask[row])
            ):
                rest = iter(target)
                assert all(token in rest for token in source if token != mask_id)  # a subsequence
                assert source[-1] == target[-1] == tokenizer.eos_id and mask_id not in target
                seen.update(target[:-1])
                hidden += len(target) - sum(token != mask_id for token in source)
    expected = Counter(data.ids.tolist())
    del expected[data.end_id]
    assert seen == expected and abs(hidden / expected.total() - 0.5) < 0.02


def test_pairs_are_read_once_per_epoch_and_keep_together() -> None:
    data = pairs()
    known = Counter((tuple(source), tuple(target)) for source, target in (map(list, data[i]) for i in range(len(data))))
    for epoch in range(2):
        seen: Counter[Any] = Counter()
        filled = total = 0
        for batch in pair_batches(data, 8, start_id=START).once(epoch):
            assert batch.source.shape[1] <= 24 and batch.ids.shape[1] <= 20
            assert batch.n_targets == int((batch.mask > 0).sum())
            filled, total = filled + int((batch.source_mask > 0).sum()), total + batch.source_mask.numel()
            for row in range(len(batch.ids)):
                sources = documents(batch.source[row], batch.source_mask[row])
                targets = documents(batch.targets[row], batch.mask[row])
                seen.update((tuple(s), tuple(t)) for s, t in zip(sources, targets, strict=True))
        assert seen == known and filled / total > 0.75


def test_packing_fills_rows_and_passes_no_limit() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 30, (3000, 2))
    items, bounds = pack(np.arange(3000), sizes, [64, 50])
    assert sorted(items.tolist()) == list(range(3000))
    sums = np.add.reduceat(sizes[items], bounds[:-1])
    assert (sums <= [64, 50]).all() and sums[:, 1].mean() > 46
    items, bounds = pack(np.arange(3000), sizes[:, :1], [64])
    assert np.add.reduceat(sizes[items, 0], bounds[:-1]).mean() > 63


# --- what cannot be used


def test_pairs_that_are_too_long_are_counted_or_refused() -> None:
    given = [([5] * 4, [5] * 3), ([5] * 5, [5]), ([5], [5] * 4)]
    with pytest.warns(UserWarning, match="2 of 3 pairs are left out, being longer than 4 or 3 ids"):
        kept = Pairs.gather(given, 4, 3)
    assert len(kept) == 1 and kept.skipped == 2
    with pytest.raises(InputError, match="pair 1 has 5 and 1 ids, rows hold 4 and 3; lengthen"):
        Pairs.gather(given, 4, 3, too_long="error")
    with pytest.raises(InputError, match="all 2 pairs are longer than 4 and 3 ids"):
        Pairs.gather(given[1:], 4, 3)
    with pytest.raises(InputError, match="there are no pairs"):
        Pairs.gather([], 4, 3)
    with pytest.raises(InputError, match="pair 1 has 0 and 1 ids; both sides need at least one"):
        Pairs.gather([([1], [1]), ([], [1])], 4, 3)


def test_texts_are_encoded_as_at_inference_and_end(marian: Path) -> None:
    tokenizer = load_tokenizer(marian)
    texts = [("the text", "你好世界"), ("", "今天")] * 600
    data = encode_pairs(tokenizer, texts, 64, 64)
    assert len(data) == 1200
    for number in (0, 1, 1199):
        source, target = texts[number]
        assert data[number][0].tolist() == tokenizer.encode(source)
        assert data[number][1].tolist() == tokenizer.encode(target, target=True)
        assert data[number][1][-1] == tokenizer.eos_id


def test_a_vocabulary_that_ends_no_text_is_refused(corpus: list[str]) -> None:
    bare = train_tokenizer(corpus, "bpe", 300)
    with pytest.raises(InputError, match="would never learn to stop"):
        encode_pairs(bare, [("a", "b")], 9, 9)


def test_shards_of_another_tokenizer_are_refused(tmp_path: Path, tokenizer: Tokenizer, wordpiece: Tokenizer) -> None:
    data = shards(tmp_path / "s", tokenizer)
    with pytest.raises(FileError, match="its ids come from the tokenizer"):
        masked_batches(data, wordpiece, 2, 64)


def test_rows_too_short_or_with_more_spans_than_sentinels_are_refused(
    tmp_path: Path, tokenizer: Tokenizer, wordpiece: Tokenizer
) -> None:
    with pytest.raises(InputError, match="rows of 2 columns cannot hold one token in its frame"):
        masked_batches(shards(tmp_path / "s", wordpiece), wordpiece, 2, 2)
    data = shards(tmp_path / "t", tokenizer)
    with pytest.raises(InputError, match=re.escape("the vocabulary has 40 sentinels; shorten the rows")):
        span_batches(data, tokenizer, 2, 1000, start_id=START)
    with pytest.raises(InputError, match="cannot hold one token in its frame"):
        span_batches(data, tokenizer, 2, 64, start_id=START, target_length=2)
