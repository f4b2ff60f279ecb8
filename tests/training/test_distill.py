"""Distillation: equal to the plain formula, in chunks, and the student comes to think as the teacher."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from shapes import masked_row, pair_batch, shaped, some_pairs
from small import NETWORKS, VOCAB, batch, equal, network, weights
from test_objectives import assert_close, gradients

from yanmo.errors import InputError
from yanmo.tokens.batches import NO_TARGET
from yanmo.training.distill import distillation
from yanmo.training.language import encoded, translated
from yanmo.training.loop import Settings, train
from yanmo.training.objectives import causal


def plain(student: Any, teacher: Any, rows: Any, temperature: float, weight: float) -> torch.Tensor:
    """The formula with all logits at once."""
    wanted = rows.targets != NO_TARGET
    own = student.logits(student.decode(rows.ids, rows.mask))[wanted]
    with torch.no_grad():
        soft = teacher.logits(teacher.decode(rows.ids, rows.mask))[wanted]
    taught = torch.softmax(soft / temperature, -1)
    kl = (taught * (taught.log() - torch.log_softmax(own / temperature, -1))).sum()
    hard = -torch.log_softmax(own, -1).gather(-1, rows.targets[wanted][:, None]).sum()
    return weight * temperature**2 * kl + (1 - weight) * hard


@pytest.mark.parametrize("chunk", [1, 7 * VOCAB, 10**9])
@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 1.0), (2.0, 0.5), (4.0, 0.9), (2.0, 0.0)])
def test_distillation_is_its_formula_in_loss_and_gradients(chunk: int, temperature: float, weight: float) -> None:
    student, teacher, rows = network(), network("gpt2", seed=3), batch(3, 11, targets=0.6)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(5)
    expected = plain(student, teacher, rows, temperature, weight)
    (expected * 0.5).backward()
    wanted = gradients(student)
    objective = distillation(teacher, temperature=temperature, weight=weight, chunk=chunk)
    loss, count = objective(student, rows)
    (loss * 0.5).backward()
    assert torch.allclose(loss, expected, rtol=1e-5) and count == rows.n_targets
    assert_close(gradients(student), wanted)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_no_more_logits_than_a_chunk_exist_on_either_side(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, rows = network(), network("gpt2"), batch(4, 20)
    sizes: dict[str, list[int]] = {"student": [], "teacher": []}
    for name, model in (("student", student), ("teacher", teacher)):
        logits = model.logits
        monkeypatch.setattr(model, "logits", lambda hidden, l=logits, n=name: sizes[n].append(len(hidden)) or l(hidden))
    distillation(teacher, chunk=5 * VOCAB)(student, rows)[0].backward()
    assert max(sizes["student"]) == max(sizes["teacher"]) == 5 and sum(sizes["teacher"]) == 80


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_student_comes_to_think_as_the_teacher(kind: str) -> None:
    teacher = network("gpt2", seed=3, dropout=0.4).train()
    rows = batch(4, 12)
    list(train(teacher, [rows] * 40, causal, Settings(steps=40, learning_rate=0.02)))
    before, student = weights(teacher), network(kind)
    count, rate = (500, 0.05) if kind == "lstm" else (120, 0.02)
    settings = Settings(steps=count, learning_rate=rate, weight_decay=0, schedule="cosine")
    steps = list(train(student, [rows] * count, distillation(teacher, temperature=1.0, weight=1.0), settings))
    assert steps[-1].loss < 0.1 * steps[0].loss and steps[-1].loss < 0.15
    assert equal(before, weights(teacher)) and teacher.training


def test_packed_equals_separate_and_a_batch_without_targets_is_nothing() -> None:
    from test_objectives import packed_and_separate

    student, teacher = network(), network("gpt2", seed=3)
    objective = distillation(teacher)
    packed, parts = packed_and_separate()
    loss, count = objective(student, packed)
    alone = [objective(student, part) for part in parts]
    assert math.isclose(float(loss.detach()), sum(float(part.detach()) for part, _ in alone), rel_tol=1e-5)
    assert count == sum(n for _, n in alone)
    empty, count = objective(student, packed._replace(targets=torch.full_like(packed.targets, NO_TARGET)))
    empty.backward()
    assert float(empty.detach()) == count == 0


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_encoders_and_encoder_decoders_are_distilled_too(kind: str) -> None:
    student, teacher = shaped(kind), shaped(kind, seed=1, width=20, head_width=10)
    rows: Any = masked_row((5, 7)) if kind == "bert" else pair_batch([some_pairs(((4, 5), (3, 2)))], student)
    objective = distillation(teacher, hidden=encoded if kind == "bert" else translated)
    loss, count = objective(student, rows)
    loss.backward()
    assert count == rows.n_targets and float(loss.detach()) > 0 and any(g.any() for g in gradients(student))
    same, _ = distillation(student, weight=1.0, hidden=encoded if kind == "bert" else translated)(student, rows)
    assert abs(float(same.detach())) < 1e-4


def test_a_teacher_of_another_vocabulary_and_settings_outside_their_range_are_refused() -> None:
    with pytest.raises(InputError, match=f"a vocabulary of 53 ids, the student one of {VOCAB}"):
        distillation(shaped("bert"))(network(), batch(1, 4))
    for values, sentence in (
        ({"temperature": 0.0}, "the temperature is 0.0"),
        ({"weight": 1.5}, "of the teacher is 1.5"),
    ):
        with pytest.raises(InputError, match=sentence):
            distillation(network(), **values)
