"""The end of memory: known before the run, one sentence when it comes, and the setting that it names fits."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from yanmo import system
from yanmo.errors import ConfigError, Error
from yanmo.plan import shortage
from yanmo.plan.devices import Device
from yanmo.plan.making import Plan, plan
from yanmo.plan.shortage import bounded_memory, check_memory, explain_out_of_memory, fitting, memory_told, overrides
from yanmo.recipe import read_recipe

GB = 10**9
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")

# trains a small decoder with rows from the command line, under a limit of the process
CHILD = """
import resource, sys
import torch
from yanmo import system
from yanmo.errors import Error
from yanmo.models.checkpoint import build
from yanmo.plan.measure import random_batches
from yanmo.plan.shortage import memory_told
from yanmo.training.loop import Settings, train
from yanmo.training.objectives import causal
from test_shortage import planned

torch.set_num_threads(1)
kind, room, rows, accumulation = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
made = planned(rows=rows, accumulation=accumulation)
network = build(made.subject.config)
if kind == "as":
    limit = system.process_bytes("VmSize") - system.process_bytes("VmRSS") + room
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
else:
    system.memory = lambda: system.Memory(GB, room - system.process_bytes("VmRSS"), None)
    import yanmo.plan.shortage
    yanmo.plan.shortage.memory = system.memory
try:
    with memory_told(made):
        settings = Settings(steps=1, accumulation=accumulation)
        batches = random_batches(made.subject, rows, made.subject.context)
        print([step.step for step in train(network, batches, causal, settings)])
except Error as error:
    print("Error:", error)
""".replace("GB", str(GB))


def planned(
    rows: int = 4, accumulation: int = 1, memory: float = 100 * GB, kind: str = "cpu", length: int = 256
) -> Plan:
    """A plan of a decoder of 5.8 million parameters, nothing measured."""
    text = f"""
[data]
paths = ["none"]
[train]
steps = 10
rows = {rows}
accumulation = {accumulation}
length = {length}
precision = "float32"
"""
    flops = {"float32": 1e11, "bfloat16": 1e11}
    device = Device(name="test", title="a test", kind=kind, memory=memory, bandwidth=1e10, flops=flops, source="none")
    return plan(read_recipe(text), device=device, measure=False)


def holds(monkeypatch: pytest.MonkeyPatch, total: float, available: float) -> None:
    """Let this machine have so much memory."""
    found = system.Memory(int(total), int(available), None)
    monkeypatch.setattr(shortage, "memory", lambda: found)
    monkeypatch.setattr(system, "memory", lambda: found)


# --- before the first step


def test_a_run_that_fits_is_not_spoken_of(monkeypatch):
    holds(monkeypatch, 64 * GB, 60 * GB)
    assert check_memory(planned(rows=8)) is None


def test_a_run_that_the_machine_cannot_hold_is_refused_with_a_setting_that_fits(monkeypatch):
    holds(monkeypatch, 1 * GB, 0.9 * GB)
    made = planned(rows=256)
    with pytest.raises(ConfigError) as caught:
        check_memory(made, override="--force")
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "--force tries it all the same" in sentence
    rows, accumulation = (int(re.search(rf"train\.{key}=(\d+)", sentence)[1]) for key in ("rows", "accumulation"))
    assert rows * accumulation == 256
    assert check_memory(planned(rows=rows, accumulation=accumulation)) is None


def test_who_insists_is_warned(monkeypatch):
    holds(monkeypatch, 1 * GB, 0.9 * GB)
    assert "be stopped" in str(check_memory(planned(rows=256), allow=True))


def test_memory_that_others_hold_is_a_warning(monkeypatch):
    holds(monkeypatch, 16 * GB, 0.3 * GB)
    said = check_memory(planned(rows=64))
    assert said is not None and "free now; close other programs, or train with train.rows=" in said


def test_processes_on_one_machine_share_its_memory(monkeypatch):
    made = planned(rows=8)
    holds(monkeypatch, 3 * made.memory.total, 2.9 * made.memory.total)
    assert check_memory(made, ranks=2) is None
    with pytest.raises(ConfigError):
        check_memory(made, ranks=4)


def test_a_limit_of_the_process_counts_as_the_machine_s_memory(monkeypatch):
    holds(monkeypatch, 64 * GB, 60 * GB)
    monkeypatch.setattr(shortage, "process_room", lambda: 0.1 * GB)
    with pytest.raises(ConfigError):
        check_memory(planned(rows=256))


def test_nothing_fits_into_nothing(monkeypatch):
    assert fitting(planned(), 1e6) is None
    holds(monkeypatch, 1e6, 1e6)
    assert "no setting of this model fits" in str(explain_out_of_memory(MemoryError(), planned()))


def test_the_nearest_setting_is_told_as_a_user_writes_it():
    made = planned(rows=64)
    other = fitting(made, made.memory.total / 2)
    assert other is not None
    assert other.memory.total <= made.memory.total / 2
    assert overrides(made, other) == f"train.rows={other.setting.rows} train.accumulation={other.setting.accumulation}"
    assert other.setting.rows * other.setting.accumulation == 64


# --- when it ends


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: ..."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 2000 bytes."),
        RuntimeError("std::bad_alloc"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=lambda error: str(error)[:30] or "MemoryError",
)
def test_every_end_of_memory_is_known(error):
    told = explain_out_of_memory(error, planned(rows=8))
    assert isinstance(told, Error)
    assert "the plan said" in str(told) and "train.rows=" in str(told)
    assert "\n" not in str(told)
    assert "train.rows" in str(explain_out_of_memory(error, None))


@pytest.mark.parametrize(
    "error", [ValueError("memory"), RuntimeError("shapes differ"), KeyboardInterrupt(), OSError(2)]
)
def test_other_errors_stay_what_they_are(error):
    assert explain_out_of_memory(error, planned()) is None
    with pytest.raises(type(error)), memory_told(planned()):
        raise error


def test_what_was_asked_for_is_told():
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")
    assert "when 2.5 GiB were asked for" in str(explain_out_of_memory(error, planned()))
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 122880000 bytes.")
    assert "when 117 MiB were asked for" in str(explain_out_of_memory(error, planned()))


def test_the_frames_of_the_error_hold_no_tensor_any_more():
    held: list[weakref.ref[torch.Tensor]] = []

    def step() -> None:
        tensor = torch.ones(1000)
        held.append(weakref.ref(tensor))
        raise MemoryError

    with pytest.raises(Error), memory_told(planned()):
        step()
    assert held[0]() is None


def child(kind: str, room: float, rows: int, accumulation: int) -> str:
    here = Path(__file__).parent
    command = [sys.executable, "-c", CHILD, kind, str(int(room)), str(rows), str(accumulation)]
    environment = {"PYTHONPATH": f"{here.parent}:{here}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@LINUX
@pytest.mark.parametrize("kind", ["as", "free"])  # a hard limit of the address space; what the machine has free
def test_a_real_end_of_memory_names_a_setting_that_then_trains(kind):
    room = 0.9 * GB
    said = child(kind, room, 24, 1)
    assert said.startswith("Error: memory ran out when ")
    rows, accumulation = (int(re.search(rf"train\.{key}=(\d+)", said)[1]) for key in ("rows", "accumulation"))
    assert rows < 24 and rows * accumulation == 24
    assert child(kind, room, rows, accumulation) == "[1]"


@LINUX
def test_the_limit_is_gone_after_the_block():
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with bounded_memory(10 * GB) as bounded:
        assert bounded
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] < before[0] or before[0] == resource.RLIM_INFINITY
        with bounded_memory(20 * GB) as again:
            assert not again  # the lower one binds
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@LINUX
def test_the_peak_can_be_counted_anew():
    code = (
        "from yanmo import system; block = b'x' * (96 * 2**20); del block; high = system.peak_memory();"
        "assert system.reset_peak_memory(); print(high - system.peak_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 64 * 2**20


@LINUX
def test_what_was_freed_is_given_back():
    """Small blocks between others stay with the allocator until they are asked back."""
    code = (
        "from yanmo import system; blocks = [bytes(1000) for _ in range(100_000)]; kept = blocks[::1000]; del blocks;"
        "held = system.process_bytes('VmRSS'); system.release_memory(); print(held - system.process_bytes('VmRSS'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 40e6
