"""The loss: chunked equals plain, packed equals separate, nothing leaks, a fresh model knows nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import NETWORKS, VOCAB, batch, corpus, network
from torch.nn import functional as F

from yanmo.errors import InputError
from yanmo.tokens.batches import NO_TARGET, Batch, PackedBatches, validation_batches
from yanmo.tokens.shards import write_shards
from yanmo.training.objectives import causal, cross_entropy, evaluate


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


def assert_close(one: Iterable[torch.Tensor], other: Iterable[torch.Tensor], tolerance: float = 1e-5) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("targets", [1.0, 0.3])
@pytest.mark.parametrize("chunk", [1, VOCAB * 7, 10**9])
@pytest.mark.parametrize("options", [{}, {"tie_embeddings": False}])
def test_chunked_loss_and_gradients_equal_the_plain_ones(chunk: int, targets: float, options: dict[str, bool]) -> None:
    model, rows = network(**options), batch(3, 11, targets=targets)
    logits = model.logits(model.decode(rows.ids, rows.mask))
    plain = F.cross_entropy(logits.flatten(0, 1), rows.targets.flatten(), ignore_index=NO_TARGET, reduction="sum")
    (plain * 0.25).backward()
    expected = gradients(model)
    loss = cross_entropy(model, model.decode(rows.ids, rows.mask), rows.targets, chunk)
    (loss * 0.25).backward()
    assert torch.allclose(loss, plain, rtol=1e-6)
    assert_close(gradients(model), expected)


def test_no_more_logits_than_one_chunk_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = network(), batch(4, 20)
    sizes: list[int] = []
    logits = model.logits

    def counted(hidden: torch.Tensor) -> torch.Tensor:
        scores = logits(hidden)
        sizes.append(scores.numel())
        return scores

    monkeypatch.setattr(model, "logits", counted)
    cross_entropy(model, model.decode(rows.ids, rows.mask), rows.targets, 5 * VOCAB).backward()
    with torch.no_grad():
        cross_entropy(model, model.decode(rows.ids, rows.mask), rows.targets, 5 * VOCAB)
    assert max(sizes) == 5 * VOCAB and sum(sizes) >= 2 * 80 * VOCAB


def test_a_batch_without_targets_has_loss_zero_and_no_gradient() -> None:
    model, rows = network(), batch(2, 5, targets=0.0)
    loss, count = causal(model, rows)
    loss.backward()
    assert float(loss.detach()) == 0 and count == 0
    assert all(not gradient.any() for gradient in gradients(model))


@pytest.mark.parametrize("wrong", [VOCAB, -1])
def test_a_target_outside_the_vocabulary_is_one_sentence(wrong: int) -> None:
    model, rows = network(), batch(2, 5)
    rows.targets[1, 3] = wrong
    with pytest.raises(InputError, match=f"a target is {wrong}, outside the vocabulary of {VOCAB} ids"):
        causal(model, rows)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_fresh_model_guesses_evenly(kind: str) -> None:
    loss, count = causal(network(kind), batch(8, 32))
    assert abs(float(loss.detach()) / count - math.log(VOCAB)) < 0.05


def packed_and_separate() -> tuple[Batch, list[Batch]]:
    parts = [batch(1, length, seed=length) for length in (5, 9, 1, 8)]
    row = [torch.cat([getattr(part, name)[0] for part in parts])[None] for name in ("ids", "targets")]
    mask = torch.cat([torch.full((part.ids.shape[1],), number) for number, part in enumerate(parts, start=1)])[None]
    return Batch(row[0], row[1], mask), parts


@pytest.mark.parametrize("kind", NETWORKS)
def test_packed_documents_equal_separate_ones_in_loss_and_gradients(kind: str) -> None:
    model = network(kind)
    packed, separate = packed_and_separate()
    loss, count = causal(model, packed)
    loss.backward()
    together = gradients(model)
    total = 0.0
    for part in separate:
        alone, n = causal(model, part)
        alone.backward()
        total += float(alone.detach())
        count -= n
    assert count == 0 and math.isclose(float(loss.detach()), total, rel_tol=1e-6)
    assert_close(together, gradients(model))


@pytest.mark.parametrize("kind", NETWORKS)
def test_changing_one_document_leaves_the_others_logits_bit_equal(kind: str) -> None:
    model = network(kind)
    packed, _ = packed_and_separate()
    with torch.no_grad():
        before = model.logits(model.decode(packed.ids, packed.mask))
        changed = torch.where(packed.mask == 2, (packed.ids + 1) % VOCAB, packed.ids)
        after = model.logits(model.decode(changed, packed.mask))
    others = packed.mask != 2
    assert torch.equal(before[others], after[others]) and not torch.equal(before[~others], after[~others])


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_target_can_be_seen_by_the_position_that_predicts_it(kind: str, tmp_path: Path) -> None:
    model = network(kind)
    rows = next(PackedBatches(corpus(tmp_path / "s"), 2, 24))
    inputs = model.embedding(rows.ids).detach().requires_grad_()
    hook = model.embedding.register_forward_hook(lambda *_: inputs)
    hidden = model.decode(rows.ids, rows.mask)
    hook.remove()
    for column in (0, 7, 15):
        (reach,) = torch.autograd.grad((hidden[:, column] @ torch.arange(16.0)).sum(), inputs, retain_graph=True)
        seen = reach.abs().sum(-1) > 0
        allowed = (rows.mask == rows.mask[:, column : column + 1]) & (torch.arange(24) <= column)
        assert not (seen & ~allowed).any() and seen[:, column].all()


def test_evaluation_counts_every_token_and_ignores_how_it_is_batched(tmp_path: Path) -> None:
    model, data = network("lstm").train(), corpus(tmp_path / "s")
    results = [evaluate(model, validation_batches(data, rows, 64), data.n_bytes) for rows in (1, 5)]
    assert model.training and all(result.tokens == data.n_tokens for result in results)
    assert math.isclose(results[0].nats, results[1].nats, rel_tol=1e-6)
    bits = results[0].nats / math.log(2) / data.n_bytes
    assert results[0].bits_per_byte == bits and math.isclose(results[0].loss * data.n_tokens, results[0].nats)


def test_evaluation_is_without_dropout(tmp_path: Path) -> None:
    data = corpus(tmp_path / "s")
    nats = {evaluate(network(dropout=d).train(), validation_batches(data, 4, 32), 1).nats for d in (0.0, 0.5)}
    assert len(nats) == 1


def test_evaluation_equals_the_documents_read_one_by_one(tmp_path: Path) -> None:
    model, data = network(), corpus(tmp_path / "s")
    nats = 0.0
    for number in range(data.n_documents):
        ids = torch.tensor(data.document(number).astype("int64"))[None]
        given = torch.cat([torch.tensor([[data.start_id]]), ids[:, :-1]], dim=1)
        nats += float(causal(model, Batch(given, ids, torch.ones_like(ids)))[0].detach())
    result = evaluate(model, validation_batches(data, 4, 40), data.n_bytes)
    assert math.isclose(result.nats, nats, rel_tol=1e-5)


def test_evaluation_holds_one_batch_at_a_time(tmp_path: Path) -> None:
    model, data = network(), corpus(tmp_path / "s")
    alive = most = 0

    class Counted(Batch):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def counted():  # type: ignore[no-untyped-def]
        nonlocal alive, most
        for rows in validation_batches(data, 1, 32):
            alive += 1
            most = max(most, alive)
            yield Counted(*rows)

    evaluate(model, counted(), data.n_bytes)
    assert most <= 2 and alive == 0


def test_an_empty_validation_set_is_refused(tmp_path: Path) -> None:
    data = write_shards([], tmp_path / "s", tokenizer_hash="", vocab_size=9, n_bytes=0, start_id=1, end_id=2)
    with pytest.raises(InputError, match="the validation set has no text"):
        evaluate(network(), validation_batches(data, 2, 8), data.n_bytes)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux")
def test_evaluation_takes_the_memory_of_one_batch_however_many_there_are() -> None:
    model, used = network("gpt2", n_heads=4, ffn_width=2048), []

    def watched(net: Any, rows: Batch) -> tuple[torch.Tensor, int]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        used.append(pages * os.sysconf("SC_PAGE_SIZE"))
        return causal(net, rows)

    rows = batch(16, 128)
    one = 16 * 128 * 2048 * 4  # bytes of one feed-forward's inner vectors: 16 MiB
    evaluate(model, (rows for _ in range(30)), 1, watched)
    assert used[-1] - used[3] < 2 * one  # 30 batches remembered would be more than 60 times as much
