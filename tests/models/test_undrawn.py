"""A network that a file fills draws no weights, and torch's compiler is not imported for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.models.tiny import GPT2, make
from yanmo.models.checkpoint import build, load_config
from yanmo.models.undrawn import undrawn, with_memory

LOAD = """
import sys, torch
before = set(sys.modules)
from yanmo.models.checkpoint import load_network
load_network(sys.argv[1])
print(sorted({"torch._dynamo", "sympy"} & (set(sys.modules) - before)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("gpt2")
    make("GPT2LMHeadModel", GPT2, place)
    return place


def test_what_is_built_undrawn_has_the_shapes_of_what_is_drawn(folder: Path) -> None:
    config = load_config(folder)[1]
    drawn = {name: p.shape for name, p in build(config).named_parameters()}
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    with undrawn():
        network = build(config)
    assert torch.equal(torch.randn(4), expected), "the random state is left as it was"
    assert {name: p.shape for name, p in network.named_parameters()} == drawn
    assert all(p.is_meta for p in network.parameters())
    with_memory(network, "cpu")
    assert {name: p.shape for name, p in network.named_parameters()} == drawn
    assert not any(t.is_meta for t in (*network.parameters(), *network.buffers()))
    assert float(build(config).embedding.weight.detach().std()) > 0, "drawing works again"  # type: ignore[union-attr, arg-type]


def test_opening_a_folder_imports_no_compiler(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LOAD, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
