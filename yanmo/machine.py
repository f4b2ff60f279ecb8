"""What this machine is and how fast it is: for `yanmo doctor`, for shares of a measured peak, for run folders.

In: what the system says (system.py), torch, imported inside, for the measured speeds. Out: plain values.

    doctor                                everything in one Report
    measured_bandwidth, measured_peak     bytes/s of reading, FLOP/s of a matrix product: the best of several runs
    gpus, extras                          accelerators; optional packages and what a missing one would give
    environment                           what a run folder records
    memory_in_use, reset_memory_in_use    bytes that a run has held at most, on a CPU or an accelerator
    peak_memory                           bytes (from system.py)
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yanmo import __version__
from yanmo.errors import InputError
from yanmo.rates import best_time, measured_rates
from yanmo.system import (
    Cores,
    Memory,
    compiler,
    cores,
    cpu_name,
    instruction_sets,
    last_cache,
    memory,
    peak_memory,
    release_memory,
    reset_peak_memory,
)

if TYPE_CHECKING:
    import torch

__all__ = ["Report", "doctor", "environment", "measured_bandwidth", "measured_peak", "peak_memory"]

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"  # beside a checkout, absent once installed
DTYPES = ("float32", "bfloat16", "int8")

# what each extra of pyproject.toml gives, in the words of someone who lacks it
EXTRAS = {
    "corpus": "Parquet corpora, and clean text out of HTML pages and web archives",
    "chinese": "the words of Chinese text, for masking whole words",
    "extract": "the careful extractor of main text from pages; needs pip 24",
    "sevenzip": "Wikipedia dumps that are packed as .7z",
    "ray": "corpora made on the machines of a Ray cluster",
    "tasks": "metrics and baselines of tasks by their reference implementations, and BM25 for answers out of a folder",
    "grammar": "texts that keep to a JSON schema, a regular expression or a grammar",
    "tensorboard": "event files for TensorBoard, and TensorBoard itself",
    "all": "everything that a user of the README needs",
    "test": "the test suite: pytest -q",
    "bench": "the peers that `python -m benchmarks` measures against",
}


@dataclass(frozen=True)
class Extra:
    """One optional set of packages."""

    name: str
    gives: str
    present: dict[str, str]  # package → version
    missing: list[str]

    @property
    def command(self) -> str:
        """The command that installs it."""
        return f'pip install "yanmo[{self.name}]"'


@dataclass(frozen=True)
class Report:
    """What `doctor` found; speeds are None where they were not measured, and `notes` says why."""

    system: str
    python: str
    torch: str
    cpu: str
    cores: Cores
    threads: int  # that torch uses
    instruction_sets: list[str]
    memory: Memory
    disk_free: int  # bytes, in the current folder
    gpus: list[dict[str, Any]]
    compiler: str | None
    extras: list[Extra]
    bandwidth: float | None = None  # bytes/s
    peak: dict[str, float | None] = field(default_factory=dict)  # FLOP/s by dtype
    rates: list[dict[str, Any]] = field(default_factory=list)  # of what training consists of (rates.py), by precision
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = asdict(self)
        values["cores"]["usable"] = self.cores.usable
        return values


def doctor(quick: bool = False) -> Report:
    """Look at this machine and, unless `quick`, measure it for about seven seconds."""
    import torch

    notes: list[str] = []
    bandwidth: float | None = None
    peak: dict[str, float | None] = {}
    rates: list[dict[str, Any]] = []
    if quick:
        notes.append("speeds were not measured")
    else:
        notes += busy()
        bandwidth = measured_bandwidth(seconds=1.0)
        for dtype in DTYPES:
            try:
                peak[dtype] = measured_peak(dtype, seconds=1.0)
            except RuntimeError as error:  # torch has no such product for this processor
                peak[dtype] = None
                notes.append(f"{dtype}: {str(error).splitlines()[0]}")
        rates = [asdict(measured_rates(precision)) for precision in ("float32", "bfloat16")]
    return Report(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        cpu=cpu_name(),
        cores=cores(),
        threads=torch.get_num_threads(),
        instruction_sets=instruction_sets(),
        memory=memory(),
        disk_free=shutil.disk_usage(Path.cwd()).free,
        gpus=gpus(),
        compiler=compiler(),
        extras=extras(),
        bandwidth=bandwidth,
        peak=peak,
        rates=rates,
        notes=notes,
    )


# --- speeds


def measured_bandwidth(seconds: float = 1.0) -> float:
    """Bytes per second that all threads read from memory.

    The fastest of torch's dot product, sum and matrix-vector product over one float32 array that is larger than the
    last cache twice over (at most 1 GiB and a quarter of the free memory), each repeated for a third of `seconds`.
    """
    import torch

    free = memory().available or 2**30
    size = max(min(max(2 * last_cache(), 2**28), 2**30, free // 4), 2**22)
    x = torch.ones(size // 4096 * 1024)
    table, v = x.view(-1, 1024), torch.ones(1024)
    jobs = (lambda: torch.dot(x, x), x.sum, lambda: torch.mv(table, v))
    return x.nbytes / min(best_time(job, seconds / len(jobs)) for job in jobs)


def measured_peak(dtype: str | torch.dtype = "float32", seconds: float = 1.0) -> float:
    """FLOP/s of a square matrix product: "float32", "bfloat16", or "int8" with int32 sums.

    The best run at the largest of the sizes 256, 512, 1024, 2048 that `seconds` allows a few runs of. A multiplication
    and an addition count as two. RuntimeError where torch has no such product for this processor.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(f"dtype {name!r}: the peak is measured for {', '.join(DTYPES)}")
    start, best, shortest = time.perf_counter(), 0.0, 0.0
    for n in (256, 512, 1024, 2048):
        left = seconds - (time.perf_counter() - start)
        if 2 * 8 * shortest > left:  # eight times the work, once to warm up and once to measure
            break
        shortest = best_time(_product(name, n), left if n == 2048 else left / 8)
        best = max(best, 2 * n**3 / shortest)
    return best


def _product(name: str, n: int) -> Callable[[], Any]:
    """One product of two n × n matrices, ready to run."""
    import torch

    if name == "int8":
        a = torch.arange(n * n, dtype=torch.int32).remainder(255).sub(127).to(torch.int8).view(n, n)
        return lambda: torch._int_mm(a, a)
    b = torch.linspace(-1, 1, n * n).view(n, n).to(getattr(torch, name))
    out = torch.empty_like(b)
    return lambda: torch.mm(b, b, out=out)


def busy() -> list[str]:
    """A note where other programs take much of the processor: the speeds measured beside them are too low."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # Windows keeps no such figure
    if load <= cores().usable / 2:
        return []
    return [f"other programs keep the processor busy (load {load:.1f}): measure again when it is quiet"]


# --- what else is here


def gpus() -> list[dict[str, Any]]:
    """Accelerators that torch can use: device, name, and bytes of memory (None where it is shared with the CPU)."""
    import torch

    found: list[dict[str, Any]] = []
    for kind in ("cuda", "xpu"):
        module: Any = getattr(torch, kind)
        for index in range(module.device_count() if module.is_available() else 0):
            properties = module.get_device_properties(index)
            found.append({"device": f"{kind}:{index}", "name": properties.name, "memory": properties.total_memory})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": cpu_name(), "memory": None})
    return found


def memory_in_use(device: str | torch.device = "cpu") -> int:
    """The most bytes that training has held on a device since `reset_memory_in_use`, or since the process began.

    On CUDA those of torch's allocator, without the driver's own; elsewhere those of the process. It takes about 50 µs.
    """
    kind = str(device).partition(":")[0]
    if kind == "cuda":
        import torch

        return torch.cuda.max_memory_reserved(device)
    return peak_memory()


def reset_memory_in_use(device: str | torch.device = "cpu") -> bool:
    """Count from now on, so that what was made before training is no part of it; False where the system cannot.

    What is free is given back to the system first. Outside Linux the peak of a process is one for its whole life.
    """
    release_memory()
    kind = str(device).partition(":")[0]
    if kind == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return True
    return reset_peak_memory()


def extras() -> list[Extra]:
    """Every optional extra of this installation: which packages are present, which are missing."""
    packages: dict[str, list[str]] = {}
    for extra, package in _optional_requirements():
        packages.setdefault(extra, []).append(package)
    result = []
    for extra, gives in EXTRAS.items():
        present, missing = {}, []
        for package in packages.get(extra, []):
            try:
                present[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                missing.append(package)
        result.append(Extra(extra, gives, present, missing))
    return result


def _optional_requirements() -> Iterator[tuple[str, str]]:
    """Yield (extra, package) from a checkout's pyproject.toml or the installed metadata, `yanmo[x]` spelled out."""
    project = tomllib.loads(PYPROJECT.read_text("utf-8")).get("project", {}) if PYPROJECT.is_file() else {}
    if project.get("name") == "yanmo":
        table = project["optional-dependencies"]
        pairs = [(extra, requirement) for extra, rows in table.items() for requirement in rows]
    else:
        pairs = []
        for row in importlib.metadata.requires("yanmo") or []:
            requirement, _, marker = row.partition(";")
            pairs += [(extra, requirement) for extra in re.findall(r"extra == ['\"]([\w-]+)['\"]", marker)]
    for extra, requirement in pairs:
        inner = re.match(r"yanmo\[([^]]+)\]", requirement)
        names = [name.strip() for name in inner[1].split(",")] if inner else []
        rows = [text for other, text in pairs if other in names] if inner else [requirement]
        for row in rows:
            yield extra, re.split(r"[^\w.-]", row.strip(), maxsplit=1)[0]


def environment() -> dict[str, Any]:
    """What a run folder records of where it ran: versions, system, processor, memory, threads, accelerators."""
    import torch

    names = ("torch", "numpy", "tokenizers", "sentencepiece", "safetensors", "huggingface_hub")
    versions = {"yanmo": __version__} | {name: importlib.metadata.version(name) for name in names}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": versions,
        "cpu": cpu_name(),
        "cores": asdict(cores()),
        "instruction_sets": instruction_sets(),
        "threads": torch.get_num_threads(),
        "memory": asdict(memory()),
        "gpus": gpus(),
    }
