"""Masked tokens and source → target: packed equals separate, nothing leaks, one batch is learnt by heart."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from shapes import ENCODERS, PAIRS, SHAPES, VOCAB, documents, masked_row, pair_batch, shaped, some_pairs
from small import equal, weights
from test_objectives import assert_close, gradients
from torch.nn import functional as F

from yanmo.errors import InputError
from yanmo.runs import open_run
from yanmo.tokens.batches import NO_TARGET, Batch
from yanmo.tokens.corrupted import infilling_batches, masked_batches, span_batches
from yanmo.tokens.pairs import PairBatch, pair_rows
from yanmo.tokens.shards import write_shards
from yanmo.tokens.tokenizer import Tokenizer
from yanmo.tokens.train import train_tokenizer
from yanmo.training import chunked
from yanmo.training.chunked import chunked_sum, log_probs, targeted
from yanmo.training.language import encoded, masked, seq2seq, smoothed, translated
from yanmo.training.loop import Loop, Settings, train
from yanmo.training.objectives import evaluate

SIZES = ((5, 4), (9, 3), (1, 1), (7, 8))


def summed(objective: Callable[..., Any], model: torch.nn.Module, batches: list[Any]) -> tuple[float, int, list[Any]]:
    """Loss, targets and gradients over batches, as the loop adds them up."""
    total, count = 0.0, 0
    for batch in batches:
        loss, n = objective(model, batch)
        loss.backward()
        total, count = total + float(loss.detach()), count + n
        assert n == batch.n_targets
    return total, count, gradients(model)


# --- packed equals separate


@pytest.mark.parametrize("kind", ENCODERS)
def test_packed_masked_documents_equal_separate_ones_in_loss_and_gradients(kind: str) -> None:
    model, row = shaped(kind), masked_row((5, 9, 1, 8, 6))
    together = summed(masked, model, [row])
    apart = summed(masked, model, documents(row))
    assert together[1] == apart[1] > 5 and math.isclose(together[0], apart[0], rel_tol=1e-5)
    assert_close(together[2], apart[2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", PAIRS)
def test_packed_pairs_equal_separate_ones_in_loss_and_gradients(kind: str, smoothing: float) -> None:
    model, pairs = shaped(kind), some_pairs(SIZES)
    objective = partial(seq2seq, smoothing=smoothing)
    together = summed(objective, model, [pair_batch([pairs[:3], pairs[3:]], model)])  # with padding on both sides
    apart = summed(objective, model, [pair_batch([[pair]], model) for pair in pairs])
    assert together[1] == apart[1] == 16 and math.isclose(together[0], apart[0], rel_tol=1e-5)
    assert_close(together[2], apart[2])


@pytest.mark.parametrize("kind", ENCODERS)
def test_changing_one_document_leaves_the_others_logits_bit_equal(kind: str) -> None:
    model, row = shaped(kind), masked_row((5, 9, 1, 8))
    with torch.no_grad():
        before = model.logits(encoded(model, row))
        changed = row._replace(ids=torch.where(row.mask == 2, (row.ids + 1) % VOCAB, row.ids))
        after = model.logits(encoded(model, changed))
    others = row.mask != 2
    assert torch.equal(before[others], after[others]) and not torch.equal(before[~others], after[~others])


@pytest.mark.parametrize("side", ["source", "ids"])
@pytest.mark.parametrize("kind", PAIRS)
def test_changing_one_pair_leaves_the_others_logits_bit_equal(kind: str, side: str) -> None:
    model = shaped(kind)
    batch = pair_batch([some_pairs(SIZES)], model)
    mask = batch.source_mask if side == "source" else batch.mask
    given = getattr(batch, side)
    changed = batch._replace(**{side: torch.where(mask == 2, (given + 1) % 47, given)})
    with torch.no_grad():
        before, after = (model.logits(translated(model, rows)) for rows in (batch, changed))
    others = batch.mask != 2
    assert torch.equal(before[others], after[others]) and not torch.equal(before[~others], after[~others])


@pytest.mark.parametrize("kind", PAIRS)
def test_no_target_is_seen_by_the_position_that_predicts_it(kind: str) -> None:
    model = shaped(kind)
    batch = pair_batch([some_pairs(((4, 9),))], model)
    with torch.no_grad():
        before = model.logits(translated(model, batch))
        for column in range(1, 9):
            ids = batch.ids.clone()
            ids[0, column] = (ids[0, column] + 1) % 47
            after = model.logits(translated(model, batch._replace(ids=ids)))
            assert torch.equal(before[0, :column], after[0, :column])
            assert not torch.equal(before[0, column], after[0, column])
    assert batch.ids[0, 0] == model.config.decoder_start_id and torch.equal(batch.ids[0, 1:], batch.targets[0, :-1])


# --- sums


def window(kind: str) -> tuple[Callable[..., Any], list[Any], Any]:
    """An objective, micro-batches with unequal numbers of targets (one without any), and the big batch of them."""
    if kind in ENCODERS:
        parts = [masked_row((4, 8), seed, share) for seed, share in enumerate((0.9, 0.1, 0.0, 0.5))]
        return masked, parts, Batch(*(torch.cat(tensors) for tensors in zip(*parts)))
    model = shaped(kind)
    rows = [[pair] for pair in some_pairs(((6, 7), (6, 1), (6, 4), (6, 2)))]
    parts = [pair_batch([row], model) for row in rows]
    big = pair_batch(rows, model)
    parts[2].targets.fill_(NO_TARGET)
    big.targets[2] = NO_TARGET
    return partial(seq2seq, smoothing=0.1), parts, big


@pytest.mark.parametrize("kind", ["bert", "t5", "bart", "marian-2"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_accumulation_equals_the_big_batch(kind: str, precision: str) -> None:
    objective, parts, big = window(kind)
    results = []
    for batches in (parts, [big]):
        model = shaped(kind, scale=4.0)
        settings = Settings(steps=1, clip=0, precision=precision, accumulation=len(batches))
        loss, targets = Loop(model, [], objective, settings, None)._gradients(batches)
        results.append((loss, targets, [p.grad for p in model.parameters()]))
    (loss, targets, ours), (big_loss, big_targets, theirs) = results
    tolerance, noise = (1e-5, 1e-7) if precision == "float32" else (1e-1, 1e-4)  # as near as each is to float32
    assert targets == big_targets and math.isclose(loss, big_loss, rel_tol=tolerance)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert float((one - other).norm()) <= tolerance * float(other.norm()) + noise


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_a_batch_without_targets_has_loss_zero_and_no_gradient(kind: str) -> None:
    objective, parts, _ = window(kind)
    loss, count, found = summed(objective, shaped(kind), [parts[2]])
    assert loss == 0 and count == 0 and not any(gradient.any() for gradient in found)


@pytest.mark.parametrize("chunk", [1, VOCAB * 5, 10**9])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("tied", [True, False])
def test_label_smoothing_in_chunks_is_torch_s_own(chunk: int, smoothing: float, tied: bool) -> None:
    model = shaped("t5", tie_embeddings=tied)
    batch = pair_batch([some_pairs(SIZES), some_pairs(((3, 9),))], model)
    logits = model.logits(translated(model, batch)).flatten(0, 1)
    plain = F.cross_entropy(logits, batch.targets.flatten(), reduction="sum", label_smoothing=smoothing)
    (plain * 0.3).backward()
    expected = gradients(model)
    loss, count = smoothed(model, translated(model, batch), batch.targets, smoothing, chunk)
    (loss * 0.3).backward()
    assert torch.allclose(loss, plain, rtol=1e-5) and count == batch.n_targets
    assert_close(gradients(model), expected)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_smoothing_outside_its_range_is_refused(smoothing: float) -> None:
    model = shaped("t5")
    with pytest.raises(InputError, match="label smoothing is"):
        seq2seq(model, pair_batch([some_pairs(SIZES)], model), smoothing=smoothing)


def test_a_target_outside_the_vocabulary_is_one_sentence() -> None:
    row = masked_row((8,), share=1.0)
    row.targets[0, 3] = VOCAB
    with pytest.raises(InputError, match=f"a target is {VOCAB}, outside the vocabulary of {VOCAB} ids"):
        masked(shaped("bert"), row)


def test_the_head_computes_masked_positions_alone_and_no_more_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    model, row = shaped("bert"), masked_row((30, 30), share=0.3)
    sizes: list[int] = []
    logits = model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: sizes.append(hidden.numel() // 16) or logits(hidden))
    loss, count = masked(model, row)
    assert sizes == [count] and 5 < count < 40
    sizes.clear()
    smoothed(model, encoded(model, row), row.targets, 0.1, 4 * VOCAB)[0].backward()
    with torch.no_grad():
        smoothed(model, encoded(model, row), row.targets, 0.1, 4 * VOCAB)
    assert max(sizes) == 4 and sum(sizes) == 2 * count


@pytest.mark.parametrize("chunk", [1, VOCAB * 3, 10**9])
def test_log_probabilities_in_chunks_equal_plain_ones_with_any_weights(chunk: int) -> None:
    model, row = shaped("bert"), masked_row((9, 9), share=0.7)
    hidden, targets = targeted(model, encoded(model, row), row.targets)
    factors = torch.linspace(-1, 2, len(targets))
    plain = torch.log_softmax(model.logits(hidden), -1).gather(-1, targets[:, None])[:, 0]
    (plain * factors).sum().backward()
    expected = gradients(model)
    hidden, targets = targeted(model, encoded(model, row), row.targets)
    each = log_probs(model, hidden, targets, chunk)
    (each * factors).sum().backward()
    assert torch.allclose(each, plain, rtol=1e-5)
    assert_close(gradients(model), expected)
    assert len(log_probs(model, hidden[:0], targets[:0])) == 0


def test_a_chunked_sum_in_evaluation_equals_the_one_in_training() -> None:
    model, row = shaped("bert"), masked_row((9, 9), share=0.7)
    hidden, targets = targeted(model, encoded(model, row), row.targets)
    score = partial(F.cross_entropy, reduction="sum")
    with torch.no_grad():
        without = chunked_sum(model, hidden, (targets,), score, 3 * VOCAB)
    assert torch.allclose(without, chunked_sum(model, hidden, (targets,), score, 3 * VOCAB))
    assert chunked.CHUNK > VOCAB


# --- learning


@pytest.mark.parametrize("kind", ["bert", "t5", "bart", "marian"])
def test_one_batch_is_learnt_by_heart(kind: str) -> None:
    model = shaped(kind, scale=1.0, **({"logit_scale": 1.0} if kind == "t5" else {}))
    first: Any
    if kind == "bert":
        objective, first = masked, masked_row((8, 8), share=0.5)
    else:
        objective, first = seq2seq, pair_batch([some_pairs(((5, 4), (5, 4)))], model)
    settings = Settings(steps=150, learning_rate=0.02, weight_decay=0, schedule="cosine")
    steps = list(train(model, [first] * 150, objective, settings))
    assert abs(steps[0].loss - math.log(VOCAB)) < 0.6 and steps[-1].loss < 0.1


@pytest.mark.parametrize("kind", list(SHAPES))
def test_a_fresh_model_guesses_evenly(kind: str) -> None:
    model = shaped(kind, scale=1.0)
    if kind in ENCODERS:
        loss, count = masked(model, masked_row((60,), share=0.5))
    else:
        loss, count = seq2seq(model, pair_batch([some_pairs(((30, 30),))], model))
    size = 47 if kind == "marian-2" else VOCAB
    assert abs(float(loss.detach()) / count - math.log(size)) < 0.15


TEXT = "the ink is ground on the stone and the brush takes the ink to the paper"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    marks = ["<mask>", *(f"<extra_id_{number}>" for number in range(20))]
    return train_tokenizer([TEXT] * 20, "unigram", 60, special_tokens=marks)


def batches(kind: str, folder: Path, tokenizer: Tokenizer) -> tuple[Any, Any]:
    """An objective and its batches over real shards."""
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    texts = [ids[start:] for start in range(len(ids) - 3)] * 3
    end = tokenizer.eos_id
    assert end is not None
    values: dict[str, Any] = {"tokenizer_hash": tokenizer.hash, "vocab_size": tokenizer.vocab_size, "n_bytes": 99}
    data = write_shards(texts, folder, **values, start_id=end, end_id=end)
    if kind == "bert":
        return masked, masked_batches(data, tokenizer, 4, 48)
    make = span_batches if kind == "t5" else infilling_batches
    return partial(seq2seq, smoothing=0.1), make(data, tokenizer, 4, 48, start_id=0)


@pytest.mark.parametrize("kind", ["bert", "t5", "bart"])
def test_a_run_left_and_continued_equals_one_that_was_not(kind: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    results = []
    for stops in ((), (3, 8)):
        for stop in (*stops, 0):
            model = shaped(kind, scale=1.0, vocab_size=tokenizer.vocab_size, max_positions=64, dropout=0.2)
            objective, source = batches(kind, tmp_path / "s", tokenizer)
            settings = Settings(steps=16, accumulation=2, learning_rate=0.01)
            with open_run(tmp_path / f"run{len(stops)}", "", {}) as run:
                steps = []
                for step in train(model, source, objective, settings, run=run):
                    steps.append(step)
                    if step.step == stop:
                        break
        results.append((weights(model), steps[-1].loss, source.epoch))
    (one, loss, epoch), (other, other_loss, other_epoch) = results
    assert equal(one, other) and loss == other_loss and epoch == other_epoch > 1


@pytest.mark.parametrize("kind", ["bert", "t5", "bart"])
def test_hidden_text_is_learnt_and_evaluated(kind: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = shaped(kind, scale=1.0, vocab_size=tokenizer.vocab_size, max_positions=64)
    objective, source = batches(kind, tmp_path / "s", tokenizer)
    plain = masked if kind == "bert" else seq2seq
    before = evaluate(model, source.once(9), 99, plain).loss
    list(train(model, source, objective, Settings(steps=60, learning_rate=0.01)))
    after = evaluate(model, source.once(9), 99, plain).loss
    assert before > 3.5 and after < before - 0.8
    assert evaluate(model, source.once(9), 99, plain).loss == after


def test_a_pair_batch_counts_its_targets_and_moves() -> None:
    batch = pair_rows([some_pairs(((3, 4), (2, 2))), some_pairs(((2, 3),))], 0)
    assert isinstance(batch.to("cpu"), PairBatch) and batch.n_targets == 9
    assert [tensor.dtype for tensor in batch] == [torch.int64] * 5
