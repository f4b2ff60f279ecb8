"""Devices: how fast, how large, how hungry, how dear. A table, and this machine as it measures itself.

In: a name, or "auto". Out: a Device.

    DEVICES      the table
    find         a name or its short form → Device
    this_machine the CPU or the first GPU here, with measured matrix products (yanmo.machine; imports torch)

Figures are those of the vendors' data sheets: products of dense matrices with sums in float32, memory bandwidth, the
board's largest power. A price is an assumption, not a fact: what one provider asks for an hour, see PRICES.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import Any

from yanmo.errors import InputError, nearest

T, G, GIB = 1e12, 1e9, 2**30

UTILISATION = {"cuda": 0.40, "mps": 0.30, "cpu": 0.50}
UTILISATION_SOURCE = {
    "cuda": "assumed; published runs reach 0.33 to 0.57 (llm.c, torchtitan, LLaMA, BLOOM, TinyLlama)",
    "mps": "assumed; no published run is known",
    "cpu": "assumed; small networks on small CPUs reach 0.3 to 0.7",
}
PRICES = "docs.runpod.io/serverless/pricing, always-on workers, per GPU, read in November 2026"
WATTS_PER_CORE = 10.0  # assumed for a machine whose power nobody has stated: a desktop under load, per usable core
USD_PER_KWH = 0.25  # assumed


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device. flops: by precision, per second. None: not known. measured: not from a data sheet."""

    name: str
    title: str
    kind: str  # "cuda", "mps" or "cpu"
    memory: float  # bytes
    flops: dict[str, float] = field(default_factory=dict)
    bandwidth: float | None = None  # bytes per second
    watts: float | None = None
    usd_per_hour: float | None = None
    source: str = ""
    cores: int = 0
    measured: bool = False
    here: bool = False  # so that a network can be tried on it

    def peak(self, precision: str) -> float:
        """FLOP/s in a precision; a precision that the device has not is an InputError."""
        if precision not in self.flops:
            known = ", ".join(self.flops)
            raise InputError(f"the device {self.name} has no {precision} products; choose one of {known}")
        return self.flops[precision]


_PRICES = {  # USD per hour: the listed price per second × 3600
    "a100-80gb": 0.00060 * 3600,
    "h100-sxm": 0.00093 * 3600,
    "h100-pcie": 0.00093 * 3600,
    "h200": 0.00124 * 3600,
    "b200": 0.00190 * 3600,
    "l40s": 0.00037 * 3600,
    "l4": 0.00013 * 3600,
    "rtx3090": 0.00013 * 3600,
    "rtx4090": 0.00021 * 3600,
}
# Name, title, GiB, GB/s, W, TFLOP/s in bfloat16 (0: it has none) and float32, source.
# Newer data sheets list products of sparse matrices, which are twice the dense ones here.
_NVIDIA: tuple[tuple[str, str, float, float, float, float, float, str], ...] = (
    ("v100", "NVIDIA V100 SXM2 32 GB", 32, 900, 300, 0, 15.7, "NVIDIA V100 data sheet, 2020"),
    ("t4", "NVIDIA T4", 16, 320, 70, 0, 8.1, "NVIDIA T4 data sheet, 2019"),
    ("a100-40gb", "NVIDIA A100 SXM 40 GB", 40, 1555, 400, 312, 19.5, "NVIDIA A100 data sheet, 2021"),
    ("a100-80gb", "NVIDIA A100 SXM 80 GB", 80, 2039, 400, 312, 19.5, "NVIDIA A100 data sheet, 2021"),
    ("l4", "NVIDIA L4", 24, 300, 72, 121, 30.3, "NVIDIA L4 data sheet, 2023"),
    ("l40s", "NVIDIA L40S", 48, 864, 350, 362, 91.6, "NVIDIA L40S data sheet, 2023"),
    ("h100-pcie", "NVIDIA H100 PCIe", 80, 2000, 350, 756, 51, "NVIDIA H100 data sheet, 2023"),
    ("h100-sxm", "NVIDIA H100 SXM", 80, 3350, 700, 989, 67, "NVIDIA H100 data sheet, 2023"),
    ("h200", "NVIDIA H200 SXM", 141, 4800, 700, 989, 67, "NVIDIA H200 data sheet, 2024"),
    ("b200", "NVIDIA B200 (HGX)", 180, 7700, 1000, 2250, 75, "NVIDIA HGX B200 data sheet, 2025"),
    ("rtx3090", "NVIDIA GeForce RTX 3090", 24, 936, 350, 71, 35.6, "NVIDIA Ampere GA102 whitepaper, 2020"),
    ("rtx4090", "NVIDIA GeForce RTX 4090", 24, 1008, 450, 165.2, 82.6, "NVIDIA Ada whitepaper, 2022"),
    ("rtx5090", "NVIDIA GeForce RTX 5090", 32, 1792, 575, 209.5, 104.8, "NVIDIA RTX Blackwell whitepaper, 2025"),
)
# Name, title, GiB, GB/s, TFLOP/s of the GPU in float32; Apple states no other figure and no power.
_APPLE = (
    ("m1-pro", "Apple M1 Pro 32 GB", 32, 200, 5.2, "Apple's announcement of 18 October 2021"),
    ("m1-max", "Apple M1 Max 64 GB", 64, 400, 10.4, "Apple's announcement of 18 October 2021"),
)


def _table() -> dict[str, Device]:
    found = {}
    for name, title, gib, bandwidth, watts, bfloat16, float32, source in _NVIDIA:
        flops = {"float32": float32 * T} | ({"bfloat16": bfloat16 * T} if bfloat16 else {})
        found[name] = Device(
            name=name,
            title=title,
            kind="cuda",
            memory=gib * GIB,
            bandwidth=bandwidth * G,
            watts=watts,
            usd_per_hour=_PRICES.get(name),
            flops=flops,
            source=source,
        )
    for name, title, gib, bandwidth, rate, source in _APPLE:
        flops = {"float32": rate * T, "bfloat16": rate * T}
        found[name] = Device(
            name=name, title=title, kind="mps", memory=gib * GIB, bandwidth=bandwidth * G, flops=flops, source=source
        )
    return found


DEVICES: dict[str, Device] = _table()
SHORT = {"a100": "a100-80gb", "h100": "h100-sxm", "3090": "rtx3090", "4090": "rtx4090", "5090": "rtx5090"}


def find(name: str) -> Device:
    """The device of that name; "auto" is this machine."""
    if name == "auto":
        return this_machine()
    key = name.strip().lower().replace("_", "-")
    key = SHORT.get(key, key)
    if key not in DEVICES:
        raise InputError(
            f"there is no device {name!r}{nearest(key, [*DEVICES, *SHORT])}; there are auto, {', '.join(DEVICES)}"
        )
    return DEVICES[key]


def this_machine(seconds: float = 0.5) -> Device:
    """What training runs on here: the first CUDA GPU, from the table where it is in it, else the CPU.

    What is not in the table is measured, for about three times `seconds`.
    """
    from yanmo import machine
    from yanmo.system import cores, cpu_name, memory

    gpus = [gpu for gpu in machine.gpus() if str(gpu["device"]).startswith("cuda")]
    if gpus:
        known = _known(gpus[0])
        return replace(known, here=True) if known else _measured_gpu(gpus[0], seconds)
    found = memory()
    usable = cores().usable
    size = found.total if found.total is not None else found.available
    if size is None:
        raise InputError("this system does not say how much memory it has; name a device with --device")
    return Device(
        name="auto",
        title=f"this machine: {cpu_name()}, {usable:g} cores",
        kind="cpu",
        memory=size,
        bandwidth=machine.measured_bandwidth(seconds),
        flops={name: machine.measured_peak(name, seconds) for name in ("float32", "bfloat16")},
        source="matrix products and memory as `yanmo doctor` measures them",
        cores=max(1, round(usable)),
        measured=True,
        here=True,
    )


def _measured_gpu(gpu: dict[str, Any], seconds: float) -> Device:
    """A GPU that is not in the table, by its own products of matrices."""
    from yanmo.rates import measured_product

    flops = {}
    for precision in ("float32", "bfloat16"):
        with contextlib.suppress(RuntimeError):  # an old GPU has no such products
            flops[precision] = measured_product(str(gpu["device"]), precision, seconds)
    if gpu["memory"] is None or "float32" not in flops:
        raise InputError(f"the GPU {gpu['name']} does not say how large or fast it is; name a device with --device")
    return Device(
        name="auto",
        title=f"this machine: {gpu['name']}",
        kind="cuda",
        memory=float(gpu["memory"]),
        flops=flops,
        source="matrix products as this GPU computes them",
        measured=True,
        here=True,
    )


def _known(gpu: dict[str, Any]) -> Device | None:
    """The row of a GPU that torch names, by the words of its name and its memory."""
    name = str(gpu["name"]).lower().replace("-", " ")
    rows = [
        row for row in DEVICES.values() if row.name.split("-")[0].replace("rtx", "") in name.replace("rtx", "").split()
    ]
    if not rows or gpu["memory"] is None:
        return None
    return min(rows, key=lambda row: (abs(row.memory - gpu["memory"]) > 0.2 * row.memory, "pcie" in row.name))
