"""What the machine is: read from what a system says, within a container's limits, and measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from yanmo import __version__, machine, rates, system
from yanmo.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A machine of our own making: fake(path, text) writes one of its system files."""
    monkeypatch.setattr(system, "PROC", tmp_path / "proc")
    monkeypatch.setattr(system, "CGROUPS", tmp_path / "cgroup")

    def write(path: str, text: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")

    return write


# --- cores and instruction sets


def test_this_machine_has_cores_and_a_name():
    cores = system.cores()
    assert 1 <= cores.usable <= cores.allowed <= cores.logical
    assert cores.physical is None or 1 <= cores.physical <= cores.logical
    assert system.cpu_name()


def test_a_container_of_version_2_grants_a_quota(fake):
    fake("proc/self/cgroup", "0::/group/inner")
    fake("cgroup/group/inner/cpu.max", "max 100000")
    fake("cgroup/group/cpu.max", "150000 100000")
    assert system.cores().quota == 1.5


def test_a_container_of_version_1_grants_a_quota(fake):
    fake("proc/self/cgroup", "5:cpu,cpuacct:/a")
    fake("cgroup/cpu/a/cpu.cfs_quota_us", "20000")
    fake("cgroup/cpu/a/cpu.cfs_period_us", "50000")
    fake("cgroup/cpu/cpu.cfs_quota_us", "-1")
    fake("cgroup/cpu/cpu.cfs_period_us", "50000")
    assert system.cores().quota == 0.4
    assert system.cores().usable == 1


def test_usable_cores_are_the_least_of_mask_and_quota():
    assert system.Cores(4, 8, 6, None).usable == 6
    assert system.Cores(4, 8, 6, 2.5).usable == 3
    assert system.Cores(4, 8, 6, 64.0).usable == 6


@pytest.mark.parametrize(
    ("cpuinfo", "name", "sets"),
    [
        ("model name\t: A Chip\nflags\t\t: fpu avx2 avx512f avx512_vnni", "A Chip", ["avx2", "avx512f", "avx512_vnni"]),
        (
            "Features\t: fp asimd asimddp i8mm bf16\nModel\t\t: A Board",
            "A Board",
            ["neon_dotprod", "neon_bf16", "neon_i8mm"],
        ),
    ],
)
def test_linux_names_the_instruction_sets(fake, cpuinfo, name, sets):
    fake("proc/cpuinfo", cpuinfo)
    assert system.instruction_sets() == sets
    assert system.cpu_name() == name


@pytest.mark.skipif(not system.PROC.joinpath("cpuinfo").is_file(), reason="this system has no /proc/cpuinfo")
def test_torch_knows_what_linux_names(monkeypatch, tmp_path):
    named = system.instruction_sets()
    monkeypatch.setattr(system, "PROC", tmp_path)  # as on a system that names nothing
    assert set(named) <= set(system.instruction_sets())


# --- memory


def test_memory_without_a_container(fake):
    fake("proc/meminfo", "MemTotal:       1000 kB\nMemFree:         200 kB\nMemAvailable:    600 kB")
    assert system.memory() == system.Memory(1_024_000, 614_400, None)


def test_a_container_s_limit_is_the_total(fake):
    fake("proc/meminfo", "MemTotal:       1000 kB\nMemFree:         900 kB\nMemAvailable:    900 kB")
    fake("proc/self/cgroup", "0::/a/b")
    fake("cgroup/a/b/memory.max", "max")
    fake("cgroup/a/b/memory.current", "300000")
    fake("cgroup/a/b/memory.stat", "anon 5\ninactive_file 7")
    fake("cgroup/a/memory.max", "400000")
    fake("cgroup/a/memory.current", "300000")
    fake("cgroup/a/memory.stat", "anon 5\ninactive_file 50000")
    assert system.memory() == system.Memory(400_000, 150_000, 400_000)


def test_version_1_without_a_limit_says_a_very_large_number(fake):
    fake("proc/meminfo", "MemTotal:       1000 kB\nMemFree:         200 kB\nMemAvailable:    600 kB")
    fake("proc/self/cgroup", "4:memory:/a")
    fake("cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712")
    fake("cgroup/memory/a/memory.usage_in_bytes", "1000")
    fake("cgroup/memory/a/memory.stat", "total_inactive_file 10")
    assert system.memory().limit is None


def test_a_mac_s_memory(fake, monkeypatch):
    said = {
        (
            "vm_stat",
        ): "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:  10.\nPages active:  5.\n"
        "Pages inactive:  20.\nPages speculative:  2.",
        ("sysctl", "-n", "hw.memsize"): "8589934592",
    }
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(system, "_run", lambda *command: said[command])
    assert system.memory() == system.Memory(8589934592, 32 * 16384, None)


def test_what_the_system_does_not_say_is_none(fake, monkeypatch):
    monkeypatch.setattr(sys, "platform", "plan9")
    assert system.memory() == system.Memory(None, None, None)


def test_peak_memory_sees_an_allocation():
    code = (
        "from yanmo.machine import peak_memory; before = peak_memory(); block = b'x' * (64 * 2**20); del block;"
        "print(peak_memory() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 60 * 2**20 < int(done.stdout) < 70 * 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak can be counted anew on Linux alone")
def test_memory_in_use_counts_from_where_training_begins():
    code = (
        "from yanmo import machine; block = b'x' * (96 * 2**20); del block; before = machine.memory_in_use();"
        "assert machine.reset_memory_in_use('cpu'); begun = machine.memory_in_use();"
        "block = b'x' * (48 * 2**20); print(before - begun, machine.memory_in_use() - begun)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    forgotten, used = map(int, done.stdout.split())
    assert forgotten > 64 * 2**20 and 40 * 2**20 < used < 64 * 2**20


# --- speeds


@pytest.mark.parametrize("dtype", machine.DTYPES)
def test_a_matrix_product_has_a_speed(dtype):
    assert machine.measured_peak(dtype, seconds=0.01) > 1e6


def test_a_peak_takes_torch_s_own_dtype_too():
    import torch

    assert machine.measured_peak(torch.float32, seconds=0.01) > 1e6


def test_an_unknown_dtype_is_one_sentence():
    with pytest.raises(InputError, match="dtype 'float64': the peak is measured for float32, bfloat16, int8"):
        machine.measured_peak("float64")


def test_memory_has_a_speed(monkeypatch):
    monkeypatch.setattr(machine, "last_cache", lambda: 2**20)
    assert machine.measured_bandwidth(seconds=0.01) > 1e7


def test_the_best_run_counts_and_the_first_one_does_not(monkeypatch):
    clock, takes = [0.0], iter([0.5, 3.0, 1.0, 2.0])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: clock[0])

    def job():
        clock[0] += next(takes)

    assert machine.best_time(job, seconds=5.0) == 1.0
    assert next(takes, None) is None


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_rates_of_training_are_numbers_that_a_machine_can_have(precision):
    found = rates.measured_rates(precision, seconds=0.1)
    assert 1e8 < found.product < 1e15
    assert found.fresh <= found.stream
    assert 1e-8 < found.operation < 1e-2
    few, many = rates.COLUMNS
    assert found.attention_at(few) == pytest.approx(found.attention[few])
    between = sorted(found.attention.values())
    assert between[0] <= found.attention_at((few * many) ** 0.5) <= between[1]


def test_a_product_is_measured_on_a_device_by_name():
    assert 1e7 < rates.measured_product("cpu", seconds=0.01, size=64) < 1e15


# --- the report


def test_a_quick_report_is_json_and_says_that_it_did_not_measure():
    report = machine.doctor(quick=True)
    values = json.loads(json.dumps(report.as_dict()))
    assert values["cores"]["usable"] == system.cores().usable
    assert values["bandwidth"] is None
    assert values["peak"] == {}
    assert "speeds were not measured" in values["notes"]


def test_a_product_that_torch_lacks_is_a_note(monkeypatch):
    def product(name, n):
        def absent():
            raise RuntimeError("addmm_impl_cpu_ not implemented\nand a long tail")

        return absent if name == "int8" else lambda: None

    monkeypatch.setattr(machine, "_product", product)
    monkeypatch.setattr(machine, "measured_bandwidth", lambda seconds: 1e9)
    monkeypatch.setattr(machine, "measured_rates", lambda precision: rates.measured_rates(precision, seconds=0.05))
    monkeypatch.setattr(machine, "best_time", lambda job, seconds: job() or 1.0)
    report = machine.doctor()
    assert report.peak["float32"] == 2 * 256**3
    assert report.peak["int8"] is None
    assert [found["precision"] for found in report.rates] == ["float32", "bfloat16"]
    assert "int8: addmm_impl_cpu_ not implemented" in report.notes


@pytest.mark.skipif(not hasattr(os, "getloadavg"), reason="this system keeps no load")
def test_a_busy_machine_is_a_note(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (64.0, 0.0, 0.0))
    assert "load 64.0" in machine.busy()[0]
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.0, 0.0))
    assert machine.busy() == []


def test_the_table_of_extras_covers_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(machine.EXTRAS) == set(project["optional-dependencies"])


def test_an_extra_names_what_is_missing_and_the_command():
    extras = {extra.name: extra for extra in machine.extras()}
    assert "pytest" in extras["test"].present
    assert extras["corpus"].command == 'pip install "yanmo[corpus]"'
    names = {"pyarrow", "resiliparse", "ftfy", "pycld2", "py3langid", "brotli", "lz4"}
    assert {*extras["corpus"].present, *extras["corpus"].missing} == names
    assert {*extras["all"].present, *extras["all"].missing} >= {"pyarrow", "resiliparse"}


def test_extras_of_an_installed_package_come_from_its_metadata(monkeypatch, tmp_path):
    foreign = tmp_path / "pyproject.toml"  # some packages leave theirs in site-packages
    foreign.write_text('[project]\nname = "other"\n')
    rows = [
        "torch>=2.11",
        'pyarrow>=17; extra == "corpus"',
        'yanmo[corpus]; extra == "all"',
        'no-such-one; extra == "all"',
    ]
    monkeypatch.setattr(machine, "PYPROJECT", foreign)
    monkeypatch.setattr(machine.importlib.metadata, "requires", lambda name: rows)
    extras = {extra.name: extra for extra in machine.extras()}
    assert [*extras["corpus"].present, *extras["corpus"].missing] == ["pyarrow"]
    assert extras["all"].missing[-1] == "no-such-one"
    assert "pyarrow" in {*extras["all"].present, *extras["all"].missing}


def test_a_run_folder_records_where_it_ran():
    values = json.loads(json.dumps(machine.environment()))
    assert values["versions"]["yanmo"] == __version__
    assert values["versions"]["torch"]
    assert {"python", "system", "cpu", "cores", "instruction_sets", "threads", "memory", "gpus"} <= set(values)
