"""Plans of recipes, models and runs: what fits, what would fit, and what a user can get wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import tiny
from tests.plans import PLACE, SIZES
from yanmo.errors import Error, InputError
from yanmo.models.config import TransformerConfig
from yanmo.plan import devices
from yanmo.plan.budget import KINDS
from yanmo.plan.devices import DEVICES, Device
from yanmo.plan.making import plan
from yanmo.plan.words import rows

ROOT = Path(__file__).resolve().parents[1]


def test_a_recipe_is_planned_without_its_text():
    made = plan(ROOT / "recipes/gpt-tiny.toml", device="l4").as_dict()
    assert made["seconds"] == 600
    assert made["tokens"] == pytest.approx(600 * made["tokens_per_second"])
    assert made["fits"]
    assert made["settings"]["precision"] == "bfloat16"
    changed = plan(ROOT / "recipes/gpt-tiny.toml", device="l4", overrides=("train.steps=10", "model.width=128"))
    assert changed.tokens == 10 * 16 * 256
    assert changed.parameters < made["parameters"]


def test_json_has_what_was_agreed_on():
    made = plan("gpt2", device="h100", count=8).as_dict()
    agreed = "parameters flops seconds device_hours days memory_bytes energy_kwh money_usd fits"
    assert set(agreed.split()) <= set(made)
    assert set(KINDS) | {"total"} == set(made["memory_bytes"])
    assert json.loads(json.dumps(made)) == made
    assert made["device_hours"] == pytest.approx(8 * made["seconds"] / 3600)
    assert made["money_usd"] == pytest.approx(made["device_hours"] * 3.348)


def test_what_does_not_fit_comes_with_the_mildest_setting_that_does():
    config = TransformerConfig(**{**SIZES, "width": 256, "n_heads": 8, "ffn_width": 1024}, decoder_layers=6)
    made = plan(config, device=PLACE, batch=256, context=1024, tokens=1e9)
    assert not made.fits
    other = made.nearest
    assert other is not None
    assert other.fits
    assert other.setting.rows < 256
    assert other.setting.rows * other.setting.accumulation == 256  # the same tokens in a step
    assert (other.setting.context, other.setting.recompute, other.setting.count) == (1024, False, 1)
    assert plan(config, device=PLACE, batch=2 * other.setting.rows, context=1024).fits is False


def test_recomputation_comes_before_a_shorter_context_and_that_before_more_devices():
    config = TransformerConfig(**{**SIZES, "width": 256, "n_heads": 8, "ffn_width": 1024}, decoder_layers=40)
    small = Device(name="x", title="x", kind="mps", memory=1.55e9, flops={"bfloat16": 1e12, "float32": 1e12})
    found = plan(config, device=small, context=1024).nearest
    assert found is not None
    assert found.setting.recompute
    assert found.setting.context == 1024
    tight = Device(name="x", title="x", kind="mps", memory=0.8e9, flops={"float32": 1e12})
    found = plan(config, device=tight, context=1024).nearest
    assert found is not None
    assert found.setting.count > 1


def test_an_adapter_makes_a_large_model_fit():
    assert not plan("llama2-7b", device="h100", context=1024).fits
    assert plan("llama2-7b", device="h100", context=1024, rank=8).fits


def test_a_model_folder_is_planned_and_its_inference_too(tmp_path):
    transformers.GPT2Config(**tiny.GPT2).save_pretrained(tmp_path)
    made = plan(tmp_path, device="t4", tokens=1e6)
    assert made.setting.precision == "float32"
    assert made.setting.context == 40
    inference = made.as_dict()["inference"]
    assert inference["fits"]
    assert inference["memory_bytes"]["weights"] == 4 * made.parameters


def test_a_gpu_that_torch_names_is_found_in_the_table():
    for text, size, name in [
        ("NVIDIA A100-SXM4-80GB", 79.2, "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40gb"),
        ("NVIDIA H100 80GB HBM3", 79.1, "h100-sxm"),
        ("NVIDIA GeForce RTX 4090", 23.6, "rtx4090"),
        ("Tesla T4", 14.6, "t4"),
    ]:
        found = devices._known({"name": text, "memory": size * 2**30})
        assert found is not None
        assert found.name == name
    assert devices._known({"name": "GeForce GTX 1080", "memory": 8 * 2**30}) is None


def test_a_gpu_that_no_table_has_is_measured(monkeypatch):
    gpu = {"device": "cuda:0", "name": "GeForce GTX 1080", "memory": 8 * 2**30}
    monkeypatch.setattr("yanmo.machine.gpus", lambda: [{"device": "mps", "name": "x", "memory": None}, gpu])
    monkeypatch.setattr("yanmo.rates.measured_product", lambda device, precision, seconds: {"float32": 8e12}[precision])
    with pytest.raises(KeyError):  # only what torch refuses is left out
        devices.this_machine()

    def product(device, precision, seconds):
        assert device == "cuda:0"
        if precision == "bfloat16":
            raise RuntimeError("no such product")
        return 8e12

    monkeypatch.setattr("yanmo.rates.measured_product", product)
    found = devices.this_machine()
    assert (found.kind, found.memory, found.flops) == ("cuda", 8 * 2**30, {"float32": 8e12})
    assert plan("gpt2", device=found, measure=False).setting.precision == "float32"


def test_every_device_has_a_source_and_positive_figures():
    for device in DEVICES.values():
        assert device.source
        assert min(device.memory, device.bandwidth or 1, *device.flops.values()) > 0
        assert "float32" in device.flops


def test_the_module_is_called_like_its_function():
    import yanmo.plan

    assert yanmo.plan("gpt2", device="t4").parameters == 124_439_808  # type: ignore[operator]
    assert yanmo.plan.plan("gpt2", device="t4").parameters == 124_439_808


def test_planning_a_published_model_does_not_import_torch():
    code = (
        "import sys; from yanmo.plan.making import plan; plan('gpt2', device='h100'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- mistakes


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "h10"}, r"no device 'h10' \(nearest: 'h100'\)"),
        ({"count": 0}, "count is 0"),
        ({"utilisation": 40.0}, "above 0 and at most 1"),
        ({"tokens": 0.0}, "tokens is 0.0"),
        ({"tokens": float("nan")}, "tokens is nan"),
        ({"batch": 0}, "batch is 0"),
        ({"context": 4096}, "positions for 1,024"),
        ({"precision": "bf16"}, "choose one of auto, float32"),
        ({"device": "v100", "precision": "bfloat16"}, "no bfloat16 products"),
        ({"overrides": ("train.steps=1",)}, "gpt2 is not a recipe"),
        ({"token": 1}, r"no option 'token' \(nearest: 'tokens'\)"),
    ],
)
def test_a_mistake_is_one_sentence(options, sentence):
    with pytest.raises(InputError, match=sentence):
        plan("gpt2", **{"device": "h100", **options})


def test_a_foreign_folder_is_one_sentence(tmp_path):
    with pytest.raises(Error, match="config.json is missing"):
        plan(tmp_path, device="h100")
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(Error, match="model_type 'mamba' is not supported"):
        plan(tmp_path, device="h100")


def test_a_published_name_with_a_slip_is_pointed_out(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Error, match="nearest: 'gpt3-175b'"):
        plan("gpt3-175", device="h100")


@settings(max_examples=60, deadline=None)
@given(
    values=st.dictionaries(
        st.sampled_from(["model_type", "n_embd", "n_head", "n_layer", "vocab_size", "n_positions", "n_inner", "x"]),
        st.one_of(st.integers(-(2**70), 2**70), st.text(max_size=5), st.none(), st.floats(), st.just("gpt2")),
    )
)
def test_any_config_is_planned_or_refused_in_a_sentence(values, tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", **values}))
    try:
        made = plan(folder, device="h100", tokens=1e6)
    except Error:
        return
    json.dumps(made.as_dict())
    assert list(rows(made))
