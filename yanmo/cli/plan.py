"""`yanmo plan`: what a training run costs, and whether it fits, before it begins.

In: a recipe, a model or a published model's name, and options. Out: a table for people, or the plan as JSON.

    plan       the verb
    _optimal   --optimal: a budget → the compute-optimal size
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from yanmo.errors import InputError

NARROW = 60  # columns; below, each label stands on a line of its own


def plan(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE|MODEL", show_default=False, help="A recipe, a model folder, a hub id, or e.g. gpt3-175b."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SECTION.KEY=VALUE]...", show_default=False, help="Changes to a recipe."),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="A device by name (list: all of them); auto: this machine.")
    ] = "auto",
    count: Annotated[int, typer.Option("--count", metavar="N", help="Devices.")] = 1,
    tokens: Annotated[str | None, typer.Option("--tokens", help="Tokens in all, e.g. 300e9 or 2T.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Rows at once on each device.")] = None,
    context: Annotated[int | None, typer.Option("--context", help="Tokens in a row.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="float32, bfloat16 or auto.")] = None,
    utilisation: Annotated[float | None, typer.Option("--utilisation", help="Share of the peak, e.g. 0.4.")] = None,
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", metavar="KIND:RANK[:BITS]", help="Train an adapter alone: lora:8, dora:16:4."),
    ] = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Compute activations again in backward.")] = False,
    watts: Annotated[float | None, typer.Option("--watts", help="Power of one device.")] = None,
    usd_per_hour: Annotated[float | None, typer.Option("--usd-per-hour", help="Rent of one device.")] = None,
    usd_per_kwh: Annotated[float | None, typer.Option("--usd-per-kwh", help="Price of electricity.")] = None,
    optimal: Annotated[
        str | None,
        typer.Option("--optimal", metavar="BUDGET", help="The best size for FLOPs (1e21) or device hours (500h)."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="On this machine, do not time the network.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what training costs before it begins: parameters, FLOPs, memory, time, energy, money, and whether it fits."""
    from yanmo.plan import words

    if device == "list":
        _devices(as_json)
        return
    if optimal is not None:
        if subject is not None:
            raise InputError(
                f"--optimal finds a size itself, so {subject!r} has no place beside it; leave one of them out"
            )
        found = _optimal(optimal, device, precision, utilisation)
        _show(words.optimum(found), vars(found), as_json)
        return
    if subject is None:
        raise InputError(
            "nothing is named to plan; give a recipe, a model, or e.g. gpt3-175b, or --optimal with a budget"
        )
    from yanmo.plan.making import plan as make

    if sys.stderr.isatty() and device == "auto":
        print("measuring this machine …", file=sys.stderr)
    made = make(
        subject,
        device=device,
        count=count,
        tokens=None if tokens is None else _number(tokens, "--tokens"),
        batch=batch,
        context=context,
        precision=precision,
        utilisation=utilisation,
        **_adapter(adapter),
        recompute=recompute,
        watts=watts,
        usd_per_hour=usd_per_hour,
        usd_per_kwh=usd_per_kwh,
        measure=not quick,
        overrides=tuple(overrides or ()),
    )
    _show(words.rows(made), made.as_dict(), as_json)


def _show(rows: Iterable[tuple[str, str]], values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(values, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)
    if console.width < NARROW:
        for label, value in rows:
            console.print(f"{label}: {value}" if label else value)
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(label, value)
    console.print(table)


def _devices(as_json: bool) -> None:
    """Every row of the table of devices, with its source."""
    from yanmo.plan.devices import DEVICES
    from yanmo.plan.words import size

    values = {name: vars(row) for name, row in DEVICES.items()}
    lines = []
    for name, row in DEVICES.items():
        speeds = ", ".join(f"{precision} {rate / 1e12:g} TFLOP/s" for precision, rate in row.flops.items())
        price = "" if row.usd_per_hour is None else f", {row.usd_per_hour:.2f} USD/h"
        power = "" if row.watts is None else f", {row.watts:.0f} W"
        lines.append((name, f"{size(row.memory)}, {speeds}{power}{price}; {row.source}"))
    _show(lines, values, as_json)


def _optimal(budget: str, device: str, precision: str | None, utilisation: float | None) -> Any:
    from yanmo.plan import devices
    from yanmo.plan.optimal import optimal

    if not budget.lower().endswith("h"):
        return optimal(_number(budget, "--optimal"))
    place = devices.find(device)
    chosen = precision or ("bfloat16" if "bfloat16" in place.flops else "float32")
    share = utilisation or devices.UTILISATION[place.kind]
    return optimal(_number(budget[:-1], "--optimal") * 3600 * place.peak(chosen) * share)


def _number(text: str, option: str) -> float:
    """300e9, 2T, 1.5B, 20M, 7_000."""
    match = re.fullmatch(r"([0-9][0-9_,]*\.?[0-9]*(?:[eE][+-]?[0-9]{1,2})?)\s*([kKmMbBtT]?)", text.strip())
    if match is None:
        raise InputError(f"{option} is {text!r}, and must be a number such as 300e9, 20M, 1.5B or 2T")
    scale = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}[match[2].lower()]
    return float(match[1].replace("_", "").replace(",", "")) * scale


def _adapter(text: str | None) -> dict[str, Any]:
    """lora:8, or dora:16:4 over a base in 4 bits."""
    if text is None:
        return {}
    match = re.fullmatch(r"([a-z]+):([1-9][0-9]{0,5})(?::([0-9]))?", text.strip().lower())
    if match is None:
        raise InputError(f"--adapter is {text!r}, and must be KIND:RANK or KIND:RANK:BITS, e.g. lora:8 or lora:8:4")
    return {"adapter": match[1], "rank": int(match[2]), "bits": None if match[3] is None else int(match[3])}
