"""Models and runs of the literature: what was published, and what this arithmetic makes of it."""

from __future__ import annotations

import pytest

from yanmo.plan import count
from yanmo.plan.making import plan, predicted_hours
from yanmo.plan.optimal import loss, optimal
from yanmo.plan.published import PUBLISHED


@pytest.mark.parametrize("name", [name for name, model in PUBLISHED.items() if model.parameters])
def test_published_models_have_their_published_size(name):
    model = PUBLISHED[name]
    assert count.parameters(model.config) == pytest.approx(model.parameters, rel=0.004)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("gpt3")])
def test_the_compute_of_gpt_3_is_that_of_its_table(name):
    """Brown et al. 2020, table D.1: 6 N D, attention left out; with it, a few per cent more, many in small models."""
    model = PUBLISHED[name]
    made = plan(name, device="a100", count=1024).as_dict()
    assert made["tokens"] == 300e9
    assert made["flops_6nd"] == pytest.approx(model.flops, rel=0.01)
    assert made["flops_6nd"] < made["flops"] < 1.3 * made["flops_6nd"]
    if name == "gpt3-175b":
        assert made["flops"] == pytest.approx(3.14e23, rel=0.03)


@pytest.mark.parametrize("name", [name for name, model in PUBLISHED.items() if model.hours])
def test_published_runs_take_their_published_device_hours(name):
    """BLOOM (arXiv 2211.05100, 2211.02001), Llama 2 (arXiv 2307.09288, table 2), TinyLlama (its repository)."""
    model = PUBLISHED[name]
    assert predicted_hours(model) == pytest.approx(model.hours, rel=0.16)
    made = plan(
        name,
        device=model.device,
        count=384,
        utilisation=model.utilisation,
        recompute=model.recompute,
        precision="bfloat16",
    )
    assert made.device_hours == pytest.approx(predicted_hours(model))


def test_gpt_3_on_1024_gpus_takes_the_month_that_was_estimated():
    """Narayanan et al. 2021, arXiv 2104.04473, §5.1: 34 days at 140 TFLOP/s per A100, recomputation counted."""
    made = plan("gpt3-175b", device="a100-80gb", count=1024, utilisation=140 / 312, recompute=True)
    assert made.seconds / 86400 == pytest.approx(34, rel=0.05)
    assert made.fits


def test_the_energy_of_bloom_is_what_was_reported():
    """Luccioni et al. 2022, table 1: 433,196 kWh at 400 W per GPU, and 1,082,990 GPU hours."""
    made = plan("bloom-176b", device="a100", count=384, tokens=366e9, utilisation=0.5, recompute=True)
    assert made.energy_kwh / made.device_hours == pytest.approx(433_196 / 1_082_990, rel=1e-3)


def test_chinchilla_s_size_follows_from_its_budget():
    """Hoffmann et al. 2022, table 3: 67 billion parameters and 1.5 trillion tokens for 5.76e23 FLOPs."""
    found = optimal(5.76e23)
    assert found.parameters == pytest.approx(67e9, rel=0.05)
    assert found.tokens == pytest.approx(1.5e12, rel=0.1)
    n, d = found.parametric_parameters, found.parametric_tokens
    assert 6 * n * d == pytest.approx(found.flops)
    assert loss(n, d) < min(loss(n * 1.1, d / 1.1), loss(n / 1.1, d * 1.1))
