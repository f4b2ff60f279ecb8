"""Several adapters on one network, and calls that choose one."""

from __future__ import annotations

import threading

import pytest
import torch

from tests.models.moved import IDS, labelled, logits, move, moved, names, near
from tests.training.small import network
from yanmo.errors import InputError
from yanmo.models.adapters import (
    AdapterConfig,
    add_adapter,
    drop_adapter,
    set_adapter,
)
from yanmo.models.lowrank import selected

ALL = ("all", "head")


def test_two_adapters_do_not_disturb_each_other() -> None:
    model = network()
    plain, expected = logits(model), {}
    for name, kind in (("one", "lora"), ("two", "dora")):
        alone = network()
        add_adapter(alone, AdapterConfig(rank=2, kind=kind, targets=ALL), name)  # type: ignore[arg-type]
        move(alone)
        expected[name] = logits(alone)
        add_adapter(model, AdapterConfig(rank=2, kind=kind, targets=ALL), name)  # type: ignore[arg-type]
        move(model)
    for name in ("one", "two", "one"):
        set_adapter(model, name)
        assert torch.equal(logits(model), expected[name])
        assert {n.split(".adapters.")[1].split(".")[0] for n in names(model)} == {name}
    set_adapter(model, None)
    assert torch.equal(logits(model), plain) and not names(model)
    drop_adapter(model, "one")
    set_adapter(model, "two")
    assert torch.equal(logits(model), expected["two"])
    with pytest.raises(InputError, match="no adapter 'one'; there are two"):
        set_adapter(model, "one")


def test_an_adapter_on_other_matrices_leaves_the_first_where_it_was() -> None:
    model = moved(config=AdapterConfig(targets=("query",)))
    expected = logits(model)
    add_adapter(model, AdapterConfig(targets=("up",)), "other")
    move(model)
    assert not torch.equal(logits(model), expected)
    set_adapter(model, "default")
    assert torch.equal(logits(model), expected)


def test_a_call_and_each_of_its_rows_can_choose() -> None:
    model = network()
    plain = logits(model)
    add_adapter(model, AdapterConfig(rank=2), "one")
    move(model)
    add_adapter(model, AdapterConfig(rank=3, kind="dora", modules_to_save=("embedding",)), "two")
    move(model, 2)
    two = logits(model)
    with selected(model, "one"):
        one = logits(model)
        with selected(model, None):
            assert torch.equal(logits(model), plain)
        assert torch.equal(logits(model), one)
    assert torch.equal(logits(model), two) and not torch.equal(one, two)
    for chosen in (["two", None, "one"], ["one", "two", "one"]):
        with selected(model, chosen):
            rows = logits(model)
        for row, name in enumerate(chosen):
            assert (rows[row] - {"one": one, "two": two, None: plain}[name][row]).abs().max() < 1e-6
    with selected(model, ["one"]), pytest.raises(InputError, match="chosen for 1 rows, and this call has 3"):
        logits(model)
    with pytest.raises(InputError, match="no adapter 'three'"), selected(model, ["one", "three"]):
        pass


def test_the_choice_of_a_call_is_its_thread_s_alone() -> None:
    model = moved()
    expected = logits(model)
    seen: list[torch.Tensor] = []
    with selected(model, None):
        thread = threading.Thread(target=lambda: seen.append(logits(model)))
        thread.start()
        thread.join()
        assert not torch.equal(logits(model), expected)
    assert torch.equal(seen[0], expected)


def test_an_adapter_does_not_break_a_compiled_graph() -> None:
    model = moved(config=AdapterConfig(rank=2, targets=ALL, kind="dora"))
    torch._dynamo.reset()
    run = torch.compile(lambda ids: model.logits(model.decode(ids)), backend="eager", fullgraph=True)
    with torch.no_grad():
        near(run(IDS), logits(model))
        set_adapter(model, None)
        near(run(IDS), logits(model))
    torch._dynamo.reset()


def test_label_heads_belong_to_their_adapter() -> None:
    model = labelled()
    expected = {}

    def scores() -> torch.Tensor:
        with torch.no_grad():
            return model.scores(model.encode(IDS), IDS)

    expected[None] = scores()
    for name in ("one", "two"):
        add_adapter(model, AdapterConfig(rank=2), name)
        move(model)
        expected[name] = scores()  # type: ignore[index]
    with selected(model, ["two", "one", None]):
        rows = scores()
    for row, name in enumerate(("two", "one", None)):
        assert (rows[row] - expected[name][row]).abs().max() < 1e-6  # type: ignore[index]


def test_generation_uses_the_adapter_with_its_cache() -> None:
    model = moved(config=AdapterConfig(rank=2, targets=ALL))
    cache = model.new_cache(3, 8)
    with torch.no_grad():
        steps = [model.logits(model.decode(IDS[:, i : i + 1], cache=cache)) for i in range(8)]
    near(torch.cat(steps, 1), logits(model))
