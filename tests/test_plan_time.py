"""The time of a plan: the network tried for some steps, or its work counted over this machine's rates."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from tests.plans import SHAPES, SIZES
from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.plan import devices, making
from yanmo.plan.devices import Device
from yanmo.plan.making import plan
from yanmo.plan.measure import measure, network_of, objective_of, step_seconds
from yanmo.plan.method import Adapter, usual
from yanmo.plan.subject import Subject
from yanmo.plan.timing import counted_seconds, parts, update_seconds
from yanmo.plan.wishes import Setting
from yanmo.rates import Rates, measured_rates

HERE = Device(
    name="auto", title="here", kind="cpu", memory=8e9, cores=2, measured=True, here=True, flops={"float32": 1e11}
)
CONFIG = TransformerConfig(**SIZES, **SHAPES["qwen3"])
RATES = Rates(
    precision="float32", product=1e11, attention={128: 5e10, 512: 1e11}, stream=2e10, fresh=5e9, operation=5e-6
)


def subject(config: Any = CONFIG, **values: Any) -> Subject:
    method = dataclasses.replace(usual(config), **values)
    return Subject(name="x", kind="model", config=config, context=64, method=method)


def setting(**values: Any) -> Setting:
    first = {"rows": 4, "accumulation": 1, "context": 64, "precision": "float32", "recompute": False, "count": 1}
    return Setting(**first | values)


def test_the_real_network_is_tried(monkeypatch):
    monkeypatch.setattr(devices, "this_machine", lambda: HERE)
    made = plan(CONFIG, context=32, tokens=1e6, precision="float32")
    assert made.tokens_per_second > 0
    assert any("timed here" in note for note in made.assumptions)


def test_without_trying_the_work_is_counted(monkeypatch):
    monkeypatch.setattr(devices, "this_machine", lambda: HERE)
    monkeypatch.setattr("yanmo.rates.measured_rates", lambda precision: RATES)
    for options in ({"measure": False}, {"count": 2}):
        made = plan(CONFIG, context=32, tokens=1e6, precision="float32", **options)
        assert any("speeds measured here" in note for note in made.assumptions)
    alone = dataclasses.replace(made.setting, count=1, sharded=False)
    seconds = counted_seconds(made.subject, alone, RATES)
    assert made.tokens_per_second == pytest.approx(2 * alone.step_tokens / seconds)


def test_a_large_network_is_counted_not_made(monkeypatch):
    monkeypatch.setattr("yanmo.rates.measured_rates", lambda precision: RATES)
    monkeypatch.setattr(making, "MOST_TRIED", 1000)
    monkeypatch.setattr("yanmo.plan.measure.measure", lambda *a, **k: pytest.fail("the network was made"))
    assert plan(CONFIG, device=HERE, context=32, tokens=1e6, precision="float32").seconds > 0


@pytest.mark.parametrize("name", ["gpt2", "bert", "bart", "t5"])
def test_counted_and_real_seconds_are_of_one_size(name):
    """Small networks on a machine that may be busy: a factor, not per cent; the benchmark B12 says how good it is."""
    config = TransformerConfig(**{**SIZES, "width": 128, "ffn_width": 512}, **SHAPES[name])
    found, wanted = subject(config), setting(rows=8)
    network = network_of(found)
    real = step_seconds(network, objective_of(found, network), found, wanted, ("float32", 8))
    counted = counted_seconds(found, wanted, measured_rates("float32", seconds=0.4))
    assert 1 / 6 < counted / real < 6


def test_more_work_takes_longer():
    base = counted_seconds(subject(), setting(), RATES)
    for other in (
        counted_seconds(subject(), setting(rows=8), RATES),
        counted_seconds(subject(), setting(context=128), RATES),
        counted_seconds(subject(), setting(accumulation=2), RATES),
        counted_seconds(subject(), setting(recompute=True), RATES),
        counted_seconds(subject(optimizer="muon"), setting(), RATES),
        counted_seconds(subject(ema=True), setting(), RATES),
        counted_seconds(subject(reference=CONFIG), setting(), RATES),
        counted_seconds(subject(dataclasses.replace(CONFIG, decoder_layers=4, windows=())), setting(), RATES),
    ):
        assert other > base
    assert update_seconds(subject(adapter=Adapter(rank=2)), setting(), 1e10, 1e11) < update_seconds(
        subject(), setting(), 1e10, 1e11
    )


def test_rows_of_several_documents_run_column_by_column_in_a_recurrent_network():
    config = RecurrentConfig(cell="lstm", vocab_size=61, width=64, layers=2)
    whole, packed = (parts(subject(config, packed=p), setting(), RATES)["cells"] for p in (False, True))
    assert whole == 0 < packed


def test_attention_s_rate_lies_between_the_measured_ones():
    assert RATES.attention_at(256) == pytest.approx(math.sqrt(5e10 * 1e11))
    assert RATES.attention_at(10**6) == pytest.approx(1e11)  # it does not go on rising
    assert RATES.attention_at(1) == pytest.approx(2.5e10)


def test_a_step_of_many_rows_follows_from_steps_of_few():
    """Three micro-batches of eight rows, tried with four rows: about six micro-batches of four, and one update."""
    found, wanted = subject(), setting(rows=8, accumulation=3)
    network = network_of(found)
    objective = objective_of(found, network)
    few = step_seconds(network, objective, found, setting(rows=4), ("float32", 4))
    many = step_seconds(network, objective, found, wanted, ("float32", 4))
    assert many > 1.4 * few


def test_the_faster_precision_is_chosen_as_training_does():
    here = dataclasses.replace(HERE, flops={"float32": 1e11, "bfloat16": 1e11})
    speed = measure(subject(), setting(rows=2), here, choose=True)
    assert speed.precision in ("float32", "bfloat16")
    assert speed.utilisation == pytest.approx(
        making.share_of_peak(subject(), here, setting(rows=2, precision=speed.precision), speed.tokens_per_second)
    )
