"""The public names: sorted, all there, told to type checkers as they are, and nothing heavy until one is used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import yanmo

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "numpy", "transformers", "tokenizers", "pydantic", "rich", "typer", "pyarrow", "huggingface_hub")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True
    )


def imported_by(statement: str) -> set[str]:
    """The packages that one statement imports, by Python's own account."""
    lines = python("-X", "importtime", "-c", statement).stderr.splitlines()
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines if line.startswith("import time:")}


def test_the_names_are_sorted_and_equal_to_the_table():
    assert yanmo.__all__ == sorted(yanmo.__all__)
    assert set(yanmo.__all__) == {*yanmo.PUBLIC, "__version__"}


@pytest.mark.parametrize("name", yanmo.__all__)
def test_every_name_resolves(name: str):
    value = getattr(yanmo, name)
    if yanmo.PUBLIC.get(name) == f"yanmo.{name}":
        assert value is importlib.import_module(yanmo.PUBLIC[name])
    elif name in yanmo.PUBLIC:
        assert value is getattr(importlib.import_module(yanmo.PUBLIC[name]), name)


def test_type_checkers_are_told_the_same():
    module = ast.parse(Path(yanmo.__file__).read_text("utf-8"))
    blocks = [item for item in module.body if isinstance(item, ast.If) and ast.unparse(item.test) == "TYPE_CHECKING"]
    told = {
        alias.name: item.module
        for block in blocks
        for item in block.body
        if isinstance(item, ast.ImportFrom)
        for alias in item.names
    }
    assert told == yanmo.PUBLIC


def test_importing_yanmo_imports_nothing_heavy():
    imported = imported_by("import yanmo")
    assert "yanmo" in imported
    assert not imported & set(HEAVY)


def test_the_command_line_imports_no_tensors():
    assert not imported_by("import yanmo.cli") & {"torch", "numpy", "transformers", "tokenizers", "pyarrow"}


def test_nothing_leaks():
    assert dir(yanmo) == yanmo.__all__
    code = "import yanmo; print(*sorted(n for n in vars(yanmo) if not n.startswith('_')))"
    seen = set(python("-c", code).stdout.split())
    assert seen <= {"PUBLIC", "TYPE_CHECKING", "Any", "annotations", "importlib"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'yanmo' has no attribute 'lod'"):
        yanmo.lod  # noqa: B018


@pytest.mark.parametrize("name", [name for name, module in yanmo.PUBLIC.items() if module == f"yanmo.{name}"])
@pytest.mark.parametrize("first", ["", "import yanmo.{0}; ", "from yanmo.{0} import {0}; "])
def test_a_file_of_the_same_name_does_not_hide_the_function(name: str, first: str):
    """`yanmo.pretrain(…)` works whatever was imported before: the module is called like its function."""
    code = "{0}import inspect, yanmo; print(inspect.signature(yanmo.{1}))"
    function = "import inspect; from yanmo.{0} import {0}; print(inspect.signature({0}))"
    assert python("-c", code.format(first.format(name), name)).stdout == python("-c", function.format(name)).stdout
