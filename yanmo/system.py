"""What the operating system says of this machine: processor, memory, compiler.

In: /proc, /sys, sysctl, the Windows API; where those are silent, torch's own look at the processor. Out: plain values.

    cores, cpu_name, instruction_sets, last_cache     the processor, within what this process may use of it
    memory, usable_memory, process_room               bytes; the limits of a container and of the process are respected
    process_bytes, peak_memory, reset_peak_memory     bytes that this process holds, and has held at once
    release_memory                                    give back what allocators keep for later
    compiler                                          the C++ compiler

What the system does not tell is None, never a guess.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")

# our name → what /proc/cpuinfo calls it (x86, then Arm), what torch.cpu.get_capabilities calls it
INSTRUCTION_SETS = {
    "avx2": ("avx2", "avx2"),
    "avx512f": ("avx512f", "avx512_f"),
    "avx512_vnni": ("avx512_vnni", "avx512_vnni"),
    "avx512_bf16": ("avx512_bf16", "avx512_bf16"),
    "avx_vnni": ("avx_vnni", "avx_vnni"),
    "amx_int8": ("amx_int8", "amx_int8"),
    "amx_bf16": ("amx_bf16", "amx_bf16"),
    "neon_dotprod": ("asimddp", "dot"),
    "neon_bf16": ("bf16", "bf16"),
    "neon_i8mm": ("i8mm", "i8mm"),
    "sve": ("sve", "sve"),
}


@dataclass(frozen=True)
class Cores:
    """Processor cores: in the machine, and those that this process may use."""

    physical: int | None
    logical: int
    allowed: int  # after the affinity mask
    quota: float | None  # cores' worth of time that the container grants; None without a limit

    @property
    def usable(self) -> int:
        """Threads that can run at once."""
        return self.allowed if self.quota is None else max(1, min(self.allowed, math.ceil(self.quota)))


@dataclass(frozen=True)
class Memory:
    """Bytes of memory, within the container's limit where there is one."""

    total: int | None
    available: int | None
    limit: int | None


# --- the processor


def cores() -> Cores:
    """Count the cores: physical, logical, allowed to this process, and the container's quota."""
    logical = os.cpu_count() or 1
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else logical
    quotas: list[float] = []
    periods = _cgroup("cpu", "cpu.max", "cpu.cfs_period_us")
    for text, period in zip(_cgroup("cpu", "cpu.max", "cpu.cfs_quota_us"), periods):
        quota = text.partition(" ")[0]  # version 2 holds both in one file: "200000 100000" or "max 100000"
        quotas += [int(quota) / int(period.split()[-1])] if quota.isdigit() else []
    return Cores(_physical_cores(), logical, allowed, min(quotas, default=None))


def _physical_cores() -> int | None:
    pairs = {
        (_read(folder / "physical_package_id"), _read(folder / "core_id"))
        for folder in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology")
    }
    if pairs:
        return len(pairs)
    if sys.platform == "darwin":
        return _int(_run("sysctl", "-n", "hw.physicalcpu"))
    return _capabilities().get("num_physical_cores")


def cpu_name() -> str:
    """The processor's name as its maker gives it."""
    match = re.search(r"^(?:model name|Model|Hardware)\s*: *(.+)$", _read(PROC / "cpuinfo"), re.M)
    if match:
        return match[1].strip()
    if sys.platform == "darwin":
        return _run("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    if sys.platform == "win32":
        import winreg

        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
            return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    return _capabilities().get("cpu_name") or platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Those of INSTRUCTION_SETS that this processor has and its system lets programs use."""
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", _read(PROC / "cpuinfo"), re.M)
    if match:
        words = set(match[1].split())
        return [name for name, (linux, _) in INSTRUCTION_SETS.items() if linux in words]
    known = _capabilities()
    return [name for name, (_, other) in INSTRUCTION_SETS.items() if known.get(other) is True]


def _capabilities() -> dict[str, Any]:
    """What torch knows of the processor, on every system; older releases of torch do not say."""
    import torch

    return dict(getattr(torch.cpu, "get_capabilities", dict)())


def last_cache() -> int:
    """Bytes of the largest cache; 64 MiB, more than most have, where the system does not say."""
    sizes = [
        int(match[1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[match[2]]
        for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
        if (match := re.match(r"(\d+)([KMG])", _read(file)))
    ]
    return max(sizes, default=2**26)


# --- memory


def memory() -> Memory:
    """Total and available bytes of memory, within the container's limit."""
    total, available = _system_memory()
    levels = zip(
        _cgroup("memory", "memory.max", "memory.limit_in_bytes"),
        _cgroup("memory", "memory.current", "memory.usage_in_bytes"),
        _cgroup("memory", "memory.stat", "memory.stat"),
    )
    limits: list[int] = []
    for limit_text, used_text, stat in levels:
        limit, used = _int(limit_text), _int(used_text) or 0
        if limit is None or (total is not None and limit >= total):  # "max", or version 1's very large number
            continue
        cached = re.search(r"^(?:total_)?inactive_file (\d+)$", stat, re.M)  # given back when memory is asked for
        free = limit - used + (int(cached[1]) if cached else 0)
        limits.append(limit)
        available = free if available is None else min(available, free)
    lowest = min(limits, default=None)
    return Memory(total if lowest is None else lowest, available, lowest)


def _system_memory() -> tuple[int | None, int | None]:
    """Total and available bytes, by /proc/meminfo, sysctl and vm_stat, or GlobalMemoryStatusEx."""
    rows = dict(re.findall(r"^(\w+): +(\d+) kB$", _read(PROC / "meminfo"), re.M))
    if rows:
        return int(rows["MemTotal"]) * 1024, int(rows.get("MemAvailable") or rows["MemFree"]) * 1024
    if sys.platform == "win32":
        status = (ctypes.c_uint64 * 8)()  # dwLength and dwMemoryLoad share the first; then ullTotalPhys, ullAvailPhys
        status[0] = ctypes.sizeof(status)
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return status[1], status[2]
    if sys.platform == "darwin":
        pages = _run("vm_stat")
        size = _int("".join(re.findall(r"page size of (\d+)", pages))) or 4096
        free = sum(int(n) for n in re.findall(r"^Pages (?:free|inactive|speculative): +(\d+)", pages, re.M))
        return _int(_run("sysctl", "-n", "hw.memsize")), free * size or None
    return None, None


def usable_memory() -> int | None:
    """The most bytes that this process can hold now: its own, and what is free within every limit that binds it."""
    available, held = memory().available, process_bytes("VmRSS")
    if available is None or held is None:
        return available
    return held + max(int(min(available, process_room())), 0)


def process_room() -> float:
    """Bytes that the process's own limits (setrlimit) leave it to ask for; infinite without one, or outside Linux."""
    room = math.inf
    for name, field in (("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData")):  # the field is what the limit counts
        used = process_bytes(field)
        if used is not None:
            import resource

            soft = resource.getrlimit(getattr(resource, name))[0]
            room = room if soft == resource.RLIM_INFINITY else min(room, soft - used)
    return room


def process_bytes(field: str) -> int | None:
    """A size of this process by proc(5): VmRSS is what it holds, VmData and VmSize what it asked for; else None."""
    match = re.search(rf"^{field}:\s+(\d+) kB", _read(PROC / "self/status"), re.M)
    return int(match[1]) * 1024 if match else None


def release_memory() -> None:
    """Give back to the system what was freed and is kept for later, as a tokenizer's training leaves behind."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
    arrow = sys.modules.get("pyarrow")  # only where it was used
    if arrow is not None:
        arrow.default_memory_pool().release_unused()


def reset_peak_memory() -> bool:
    """Let `peak_memory` count from now on; False where the system keeps one peak for the life of a process."""
    try:
        (PROC / "self/clear_refs").write_text("5")  # proc(5): the peak becomes what is resident now
    except OSError:
        return False
    return True


def peak_memory() -> int:
    """The most memory, in bytes, that this process has held at once."""
    peak = process_bytes("VmHWM")
    if peak is not None:
        return peak
    if sys.platform == "win32":
        counters = (ctypes.c_size_t * 9)()  # cb and PageFaultCount share the first; then PeakWorkingSetSize
        kernel = ctypes.windll.kernel32
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        process = ctypes.c_void_p(kernel.GetCurrentProcess())
        kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), ctypes.sizeof(counters))
        return int(counters[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere


# --- the compiler


def compiler() -> str | None:
    """The C++ compiler's own first line of version, or None."""
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        if name and shutil.which(name):
            return _run(name, "--version").partition("\n")[0] or name
    return "MSVC cl" if shutil.which("cl") else None


# --- reading the system


def _cgroup(controller: str, name: str, name_1: str) -> list[str]:
    """One control file in the process's own group and in every group above it; `name_1` is its name in version 1."""
    found = []
    for line in _read(PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        file = name_1 if controllers else name
        root = CGROUPS / controller if controllers else CGROUPS
        group = root.joinpath(*[part for part in path.split("/") if part not in ("", "..")])
        for folder in (group, *group.parents):
            if (folder / file).is_file():
                found.append(_read(folder / file))
            if folder == root:
                break
    return found


def _read(path: Path) -> str:
    """A system file's text, empty where this system has no such file."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _run(*command: str) -> str:
    """A system tool's output, empty where it is absent or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _int(text: str) -> int | None:
    return int(text) if text.isdigit() else None
