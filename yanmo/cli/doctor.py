"""`yanmo doctor`: what this machine has and how fast it is.

In: the options. Out: a table for people, or the Report as JSON. `rows` turns a Report into label and value.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from yanmo.machine import Report

SLOWER = "models in 8 or 4 bits write slowly; install a C++ compiler, then Yanmo again"


def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Look only; measure no speeds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what this machine has: cores, memory, speeds measured in seven seconds, GPU, extras."""
    from rich.console import Console
    from rich.table import Table

    from yanmo import machine

    if sys.stderr.isatty() and not quick:
        print("measuring for about seven seconds …", file=sys.stderr)
    report = machine.doctor(quick)
    if as_json:
        print(json.dumps(report.as_dict() | {"kernels": _kernels()}, indent=2, ensure_ascii=False))
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", overflow="fold", max_width=14)
    table.add_column(overflow="fold")
    for label, value in rows(report):
        table.add_row(label, value)
    Console(markup=False, highlight=False).print(table)


def rows(report: Report) -> Iterator[tuple[str, str]]:
    """Label and value, in the order in which they are shown."""
    yield "system", report.system
    yield "Python", f"{report.python}, torch {report.torch}"
    yield "processor", report.cpu
    yield "cores", _cores(report)
    yield "instructions", " ".join(report.instruction_sets) or "none of those that Yanmo looks for"
    yield "memory", _memory(report)
    yield "disk", f"{_gigabytes(report.disk_free)} free in the current folder"
    if report.bandwidth is not None:
        yield "reading", f"{report.bandwidth / 1e9:.1f} GB/s from memory"
    for dtype, peak in report.peak.items():
        yield f"{dtype}", "not measured" if peak is None else f"{peak / 1e9:,.0f} GFLOP/s in a matrix product"
    for found in report.rates:
        yield (
            "training",
            (
                f"{found['precision']}: layers {found['product'] / 1e9:,.0f}, attention "
                f"{max(found['attention'].values()) / 1e9:,.0f} GFLOP/s; values {found['stream'] / 1e9:.0f} GB/s, "
                f"{found['fresh'] / 1e9:.0f} in new memory; {found['operation'] * 1e6:.1f} µs an operation"
            ),
        )
    for gpu in report.gpus:
        size = "memory shared with the processor" if gpu["memory"] is None else _gigabytes(gpu["memory"])
        yield gpu["device"], f"{gpu['name']}, {size}"
    if not report.gpus:
        yield "GPU", "none that torch can use"
    yield "C++ compiler", report.compiler or "none found"
    kernels = _kernels()
    if kernels["level"]:
        yield "kernels", f"{kernels['level']}, of {', '.join(kernels['levels'])}"
    else:
        yield "kernels", f"{kernels['why_absent']}: {SLOWER}"
    if kernels["text_absent"]:
        yield (
            "kernels of texts",
            f"{kernels['text_absent']}: tokenisation is many times slower; install a C++ compiler, then Yanmo again",
        )
    for note in report.notes:
        yield "note", note
    for extra in report.extras:
        yield f"[{extra.name}]", _extra(extra.missing, extra.gives, extra.command)


def _kernels() -> dict[str, Any]:
    """The native kernels: the level in use, those of this processor, or why there are none."""
    from yanmo import nativetext
    from yanmo.kernels import native

    found = {"level": native.level(), "levels": native.levels(), "why_absent": native.why_absent()}
    return found | {"text_absent": nativetext.why_absent()}


def _cores(report: Report) -> str:
    cores = report.cores
    physical = "" if cores.physical is None else f"{cores.physical} physical, "
    text = f"{physical}{cores.logical} logical; torch uses {report.threads} threads"
    if cores.allowed != cores.logical:
        text += f"; {cores.allowed} allowed to this process"
    if cores.quota is not None:
        text += f"; this container is granted the time of {cores.quota:g}"
    return text


def _memory(report: Report) -> str:
    memory = report.memory
    parts = [
        f"{_gigabytes(size)} {word}"
        for size, word in ((memory.total, "in all"), (memory.available, "available"))
        if size is not None
    ]
    limited = [] if memory.limit is None else ["this container's limit"]
    return ", ".join(parts + limited) or "unknown"


def _extra(missing: list[str], gives: str, command: str) -> str:
    return f"present: {gives}" if not missing else f"missing {', '.join(missing)}: {gives}. {command}"


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
