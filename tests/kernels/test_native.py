"""The library itself: which level is used, what happens without it, and its threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from kernels.test_linear import twin
from kernels.test_matrix import weights

from yanmo.errors import InputError
from yanmo.kernels import native, ops
from yanmo.kernels.matrix import pack_groups, pack_rows

ROOT = Path(__file__).resolve().parents[2]
needs_library = pytest.mark.skipif(native.library() is None, reason=f"the native kernels are {native.why_absent()}")

ASK = "from yanmo.kernels import native; print(native.level(), native.levels(), native.why_absent(), sep='|')"


def ask(wish: str, code: str = ASK) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "YANMO_KERNELS": wish},
        capture_output=True,
        text=True,
    )


@needs_library
def test_the_fastest_level_is_used_unless_another_is_wished_for():
    levels = native.levels()
    assert levels[0] == "plain"
    assert ask("").stdout.startswith(f"{levels[-1]}|")
    assert ask(" Plain ").stdout.startswith("plain|")


def test_switched_off_it_is_absent_and_says_why():
    assert ask("off").stdout == "|[]|switched off by YANMO_KERNELS=off\n"


@needs_library
def test_a_level_that_this_processor_lacks_is_refused():
    before = native.level()
    error = ask(
        "avx513", "from yanmo.kernels import native\ntry: native.level()\nexcept ValueError as e: print(e)"
    ).stdout
    assert "YANMO_KERNELS is 'avx513'" in error
    assert "plain" in error
    with pytest.raises(InputError, match="plane"), native.using("plane"):
        pass
    assert native.level() == before, "a refused level changes nothing"


@needs_library
def test_a_level_holds_for_its_block_alone():
    before = native.level()
    with native.using("plain"):
        assert native.level() == "plain"
        with native.using("off"):
            assert native.library() is None
            assert native.level() == ""
        assert native.level() == "plain"
    assert native.level() == before


def test_a_library_of_another_version_or_a_broken_one_is_not_used(monkeypatch, tmp_path):
    suffix = native.EXTENSION_SUFFIXES[0]
    (tmp_path / f"_native{suffix}").write_bytes(b"no library")
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    native._load.cache_clear()
    try:
        assert native.library() is None
        assert "cannot be loaded" in native.why_absent()
        (tmp_path / f"_native{suffix}").unlink()
        native._load.cache_clear()
        assert native.why_absent() == "not compiled when Yanmo was installed"
        matrix = pack_rows(weights(5, 40))
        assert torch.equal(ops.linear(torch.ones(1, 40), matrix), twin(torch.ones(1, 40), matrix))
    finally:
        native._load.cache_clear()


def test_matrices_packed_with_the_library_are_computed_with_without_it():
    matrix, x = pack_rows(weights(20, 70)), torch.randn(3, 70)
    with_library = ops.linear(x, matrix)
    with native.using("off"):
        assert torch.equal(ops.linear(x, matrix), with_library)
        plain = pack_rows(weights(20, 70))
    assert torch.equal(ops.linear(x, plain), with_library)


def test_any_number_of_threads_gives_the_same():
    matrix, x = pack_groups(weights(3000, 256), 4), torch.randn(40, 256)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            found += [ops.linear(x, matrix) for _ in range(20)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(y, found[0]) for y in found)


def test_callers_in_several_threads_do_not_disturb_each_other():
    matrix = pack_rows(weights(2000, 256))
    xs = [torch.randn(3, 256) for _ in range(4)]
    expected = [ops.linear(x, matrix) for x in xs]
    wrong: list[int] = []

    def call(which: int) -> None:
        for _ in range(100):
            if not torch.equal(ops.linear(xs[which], matrix), expected[which]):
                wrong.append(which)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        callers = [threading.Thread(target=call, args=(which,)) for which in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        torch.set_num_threads(before)
    assert not wrong


@needs_library
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_threads_of_its_own():
    code = """
import os, torch, warnings
warnings.simplefilter("ignore")
from yanmo.kernels import ops
from yanmo.kernels.matrix import pack_rows
torch.set_num_threads(2)
matrix, x = pack_rows(torch.randn(4000, 256)), torch.randn(2, 256)
before = ops.linear(x, matrix)
child = os.fork()
if child == 0:
    torch.set_num_threads(1); torch.set_num_threads(2)
    os._exit(0 if all(torch.equal(ops.linear(x, matrix), before) for _ in range(50)) else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), torch.equal(ops.linear(x, matrix), before))
"""
    assert ask("", code).stdout == "0 True\n"
