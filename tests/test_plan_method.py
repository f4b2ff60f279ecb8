"""What the sections of a recipe cost: objectives, adapters, averages, second networks, several devices."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from tests.plans import PLACE, SHAPES, SIZES
from yanmo.errors import Error, InputError
from yanmo.models.adapters import AdapterConfig, add_adapter, quantize_base
from yanmo.models.checkpoint import build
from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.plan import count, spreading
from yanmo.plan.devices import Device
from yanmo.plan.making import Plan, plan
from yanmo.plan.measure import measure
from yanmo.plan.method import Adapter, Method, usual
from yanmo.plan.running import plan_record, plan_run
from yanmo.plan.subject import Subject, read_subject
from yanmo.plan.wishes import Setting
from yanmo.recipe import Recipe, read_recipe
from yanmo.tokens.masking import Spans
from yanmo.training import spread

HERE = Device(name="auto", title="here", kind="cpu", memory=8e9, measured=True, here=True, flops={"float32": 1e11})
LARGE = dataclasses.replace(PLACE, memory=80e9)


def recipe(*overrides: str) -> Recipe:
    return read_recipe("[train]\nsteps = 10\n", overrides=["data.paths=[none]", *overrides])


def planned(*overrides: str, **options: Any) -> Plan:
    return plan(recipe(*overrides), **{"device": LARGE, **options})


# --- objectives


@pytest.mark.parametrize(
    ("family", "objective"),
    [("gpt2", "causal"), ("bert", "masked"), ("t5", "spans"), ("bart", "infilling"), ("bart", "seq2seq")]
    + [("qwen3", kind) for kind in ("chat", "dpo", "orpo")],
)
def test_every_objective_is_planned(family, objective):
    made = planned(f"model.family={family}", f"objective.kind={objective}")
    assert made.subject.method.objective == objective
    assert made.memory.total > 0
    other = "bert" if family in ("gpt2", "qwen3") else "llama"
    with pytest.raises(Error, match="trains an? "):
        planned(f"model.family={other}", f"objective.kind={objective}")


def test_only_what_is_hidden_has_logits():
    few, many = (planned("model.family=bert", "objective.kind=masked", f"objective.share={s}") for s in (0.1, 0.5))
    assert few.memory.kinds["logits"] < many.memory.kinds["logits"]
    assert few.flops_training < many.flops_training


@pytest.mark.parametrize(("share", "span"), [(0.15, 3.0), (0.3, 2.0), (0.5, 5.0)])
def test_targets_of_spans_are_as_long_as_the_batches_make_them(share, span):
    """tokens/corrupted.py: a source fills its row, and the target holds the noise and its marks, a quarter more."""
    length, spans = 2048, Spans(share=share, length=span)
    size = next(n for n in range(1, 2 * length) if n - spans.counts(n)[0] + spans.counts(n)[1] > length) - 1
    longest = 1.25 * sum(spans.counts(size))
    method = planned("model.family=t5", "objective.kind=spans", f"objective.share={share}", f"objective.span={span}")
    assert method.subject.method.target * length == pytest.approx(min(longest, length), rel=0.01)


def test_the_sides_of_an_encoder_decoder_are_counted_by_their_length():
    from torch.utils.flop_counter import FlopCounterMode

    config = TransformerConfig(**SIZES, **SHAPES["bart"])
    network = build(config)
    source, target = torch.zeros(2, 40, dtype=torch.long), torch.zeros(2, 10, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        memory = network.encode(source, record=[])
        network.logits(network.decode(target, memory=memory, record=[]))
    crossed = 2 * 2 * 2 * 3 * 10 * 40 * config.width  # cross-attention runs fused, which this counter does not see
    counted = 80 * count.forward_flops(config, 40, Method(target=0.25))
    assert counter.get_total_flops() in (pytest.approx(counted), pytest.approx(counted - crossed))


def test_a_second_network_costs_its_memory_and_its_forward_pass():
    alone, pair = planned("objective.kind=orpo"), planned("objective.kind=dpo")
    assert pair.memory.kinds["reference"] == 4 * pair.parameters
    assert pair.flops_training == alone.flops_training + alone.flops_forward
    low = plan(recipe("objective.kind=dpo"), device=LARGE, rank=8)  # the reference is the network without its adapter
    assert low.memory.kinds["reference"] == 0
    assert low.subject.method.twice


def test_a_teacher_is_held_and_asked(tmp_path):
    teacher = dataclasses.replace(read_subject(recipe()).config, decoder_layers=12, windows=())
    alone = planned()
    taught = plan_run(recipe(), alone.subject.config, device=LARGE, teacher=teacher)
    assert taught.memory.kinds["reference"] == 4 * count.parameters(teacher)
    assert taught.memory.kinds["logits"] > alone.memory.kinds["logits"]
    forward = count.forward_flops(teacher, 256)
    assert taught.flops_training == alone.flops_training + forward


@pytest.mark.parametrize("objective", ["dpo", "orpo", "chat"])
def test_preferences_and_answers_are_timed_with_their_own_objectives(objective):
    config = TransformerConfig(**SIZES, **SHAPES["qwen3"])
    methods = [Method(objective=objective, targets=0.5)]
    if objective == "dpo":
        methods = [
            Method(objective="dpo", twice=True, adapter=Adapter(rank=2)),
            Method(objective="dpo", reference=config),
        ]
    for method in methods:
        assert measure(_subject(config, method), _setting(), HERE).tokens_per_second > 0


@pytest.mark.parametrize("name", ["bert", "bart", "qwen3"])
def test_networks_are_timed_with_adapters_averages_and_teachers(name):
    config = TransformerConfig(**SIZES, **SHAPES[name])
    plain = usual(config)
    for method in (
        dataclasses.replace(plain, adapter=Adapter(rank=2), packed=True),
        dataclasses.replace(plain, reference=config, ema=True),
    ):
        assert measure(_subject(config, method), _setting(), HERE).tokens_per_second > 0


def _subject(config: Any, method: Method) -> Subject:
    return Subject(name="x", kind="model", config=config, context=16, method=method)


def _setting() -> Setting:
    return Setting(rows=2, accumulation=1, context=16, precision="float32", recompute=False, count=1)


# --- adapters


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "bert", "bart"])
@pytest.mark.parametrize(
    "targets", [("query", "down"), ("cross.*",), ("head",), ("decoder.layers.1.ffn.up",), ("all",)]
)
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_chosen_matrices_have_as_many_weights_as_real_ones(name, targets, kind):
    config = TransformerConfig(**SIZES, **SHAPES[name])
    network = build(config)
    adapter = Adapter(rank=4, kind=kind, targets=targets)
    try:
        add_adapter(network, AdapterConfig(rank=4, kind=kind, targets=targets))
    except InputError as error:
        with pytest.raises(InputError) as ours:
            count.adapter_parameters(config, adapter)
        assert str(ours.value) == str(error)
        return
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert count.adapter_parameters(config, adapter) == trained


@pytest.mark.parametrize("bits", [4, 8])
def test_a_base_in_few_bits_is_as_large_as_a_real_one(bits):
    config = TransformerConfig(**{**SIZES, "ffn_width": 150}, **SHAPES["qwen3"])  # 150: no multiple of a group
    network = build(config)
    quantised = quantize_base(network, bits, measure=False)
    assert count.packed_bytes(config, bits) == quantised.after


def test_few_bits_make_a_large_model_fit():
    whole, packed = (plan("llama2-7b", device="rtx4090", context=512, rank=8, bits=bits) for bits in (None, 4))
    assert not whole.fits
    assert packed.fits
    assert packed.memory.kinds["weights"] < whole.memory.kinds["weights"] / 4


def test_an_average_of_the_weights_is_one_more_copy():
    alone, averaged = planned(), planned("train.ema=0.99")
    assert averaged.memory.total - alone.memory.total == 4 * alone.parameters


@pytest.mark.parametrize(
    ("wishes", "sentence"),
    [
        ({"rank": 8, "adapter": "lara"}, "adapter is 'lara' .nearest: 'lora'."),
        ({"rank": 8, "bits": 3}, "bits are 3"),
        ({"bits": 4}, "needs a rank"),
    ],
)
def test_a_mistake_in_an_adapter_is_one_sentence(wishes, sentence):
    with pytest.raises(InputError, match=sentence):
        plan("gpt2", device="h100", **wishes)


def test_a_recurrent_network_takes_no_adapter():
    with pytest.raises(InputError, match="takes no adapter"):
        plan(RecurrentConfig(cell="lstm", vocab_size=61, width=32), device="h100", rank=8)


# --- several devices


def test_rows_of_a_recipe_are_those_of_all_devices():
    one, four = planned("train.rows=16"), planned("train.rows=16", count=4)
    assert four.setting.rows == 4
    assert four.tokens == one.tokens == 10 * 16 * 256
    assert four.seconds == pytest.approx(one.seconds / 4)
    given = planned("train.rows=16", count=4, batch=16)
    assert given.tokens == 4 * one.tokens
    with pytest.raises(InputError, match=r"train.rows is 16, which 3 devices cannot share evenly; set train.rows=18"):
        planned("train.rows=16", count=3)


def test_states_are_split_where_the_recipe_or_the_memory_says_so():
    alone = planned()
    for shard, share in (("none", 1), ("full", 4), ("auto", 1)):
        made = planned(f"scale.shard={shard}", count=4)
        assert made.memory.kinds["optimizer"] == alone.memory.kinds["optimizer"] / share
    tight = dataclasses.replace(LARGE, memory=alone.parameters * 18 * 2.9)
    assert planned("scale.shard=auto", count=4, device=tight).setting.sharded
    assert (spreading.STATE_BYTES, spreading.ROOM) == (spread.STATE_BYTES, spread.ROOM)


def test_shared_matrices_need_their_neighbours():
    whole = planned("scale.shard=full", "train.rows=8", count=4)
    cut = planned("scale.tensor_parallel=2", "train.rows=8", count=4)
    assert cut.setting.rows == 2 * whole.setting.rows
    assert cut.memory.kinds["activations"] < 2 * whole.memory.kinds["activations"]
    for words, sentence in (
        (("scale.tensor_parallel=2",), "give --count 2"),
        (("scale.tensor_parallel=3", "train.rows=15"), "model.heads is 4, which scale.tensor_parallel = 3"),
    ):
        with pytest.raises(Error, match=sentence):
            planned(*words, count=3 if "3" in words[0] else 1)


def test_what_would_fit_keeps_the_step_s_tokens():
    small = dataclasses.replace(PLACE, kind="mps", memory=1.0e9)
    made = planned("train.rows=64", "train.length=512", device=small)
    assert not made.fits
    assert made.nearest is not None
    assert made.nearest.setting.step_tokens == made.setting.step_tokens


# --- a run


def test_a_run_s_plan_holds_what_its_page_compares():
    text = recipe("train.steps=50")
    config = read_subject(text).config
    made = plan_run(text, config, device=HERE, precision="float32", tokens_per_second=1000.0)
    values = plan_record(made, {"train_tokens": 10_000, "valid_tokens": 500})
    assert values["tokens_per_second"] == pytest.approx(1000)
    assert values["seconds"] == pytest.approx(50 * 16 * 256 / 1000)
    assert values["steps"] == 50
    assert values["epochs"] == pytest.approx(50 * 16 * 256 / 10_000)
    assert values["precision"] == "float32"
    assert values["tokens_per_step"] == 16 * 256
    assert {"memory_bytes", "fits", "nearest", "utilisation", "vocab_size", "trainable"} <= set(values)


def test_a_run_that_does_not_fit_says_what_would():
    text = recipe("train.rows=256", "train.length=512")
    small = dataclasses.replace(HERE, memory=2e9)
    values = plan_record(plan_run(text, read_subject(text).config, device=small), {})
    assert not values["fits"]
    assert values["nearest"]["rows"] < 256
