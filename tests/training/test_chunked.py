"""The commonest score, made in few passes, against what autograd composes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from yanmo.training.chunked import negative_log_likelihood


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_the_loss_of_tokens_equals_cross_entropy_in_value_and_gradient(
    dtype: torch.dtype, tolerance: float, factor: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = 5 * torch.randn(7, 23, generator=generator), torch.randint(0, 23, (7,), generator=generator)
    logits[2, targets[2]] = -300.0  # so unlikely that its probability is 0 in float32
    one, other = (logits.to(dtype).requires_grad_() for _ in range(2))
    expected = F.cross_entropy(one.float(), targets, reduction="sum")
    found = negative_log_likelihood(other, targets)
    assert found.dtype == torch.float32 and torch.allclose(found, expected)
    (factor * expected).backward()
    (factor * found).backward()
    assert other.grad is not None and one.grad is not None and other.grad.dtype == dtype
    assert (other.grad.float() - one.grad.float()).abs().max() <= tolerance


def test_its_gradient_is_made_once() -> None:
    logits = torch.randn(2, 5, requires_grad=True)
    loss = negative_log_likelihood(logits, torch.tensor([1, 2]))
    loss.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="once"):
        loss.backward()
