"""`yanmo quantize`: a model in 8 or 4 bits, and what that gives and costs.

In: a model, bits, where to save it, a text. Out: a folder, and a table before and after (or JSON).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yanmo.errors import InputError

if TYPE_CHECKING:
    from yanmo.inference.measured import Comparison

FORMATS = {
    "rows8": "8 bits, a scale for each row",
    "groups8": "8 bits, a scale for each 32 weights",
    "groups4": "4 bits, a scale for each 32 weights",
}


def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, a run folder, or a hub id.")],
    bits: Annotated[int, typer.Option(help="Bits of a weight: 8 or 4.")] = 8,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write; without it the model is measured alone.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            help="A text that the model is measured on; in 4 bits its last quarter, and what is before it calibrates."
        ),
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Another text than --text, by which 4 bits are rounded; --text is then whole.")
    ] = None,
    most_loss: Annotated[
        float, typer.Option(help="Percent of bits per byte that 4 bits may lose of the text that calibrates.")
    ] = 2.0,
    words: Annotated[int, typer.Option(help="Bits of the matrix of the words: 8 or 4.")] = 8,
    layout: Annotated[
        str, typer.Option(help="Of 8 bits: rows, one scale for each; or groups, one for each 32 weights.")
    ] = "rows",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Pack the matrices of a model in 8 or 4 bits; measure size, speed and what is lost; save it."""
    from yanmo.files import read_text
    from yanmo.inference.measured import compare
    from yanmo.inference.model import load
    from yanmo.inference.quantize import Bits

    chosen = Bits(weights=bits, words=words, layout=layout)  # type: ignore[arg-type]
    if out is not None and out.exists():
        raise InputError(f"{out}: exists already; give another folder")
    read = "" if text is None else read_text(text)
    near = "" if calibrate is None else read_text(calibrate)
    if calibrate is not None and (bits != 4 or not near.strip() or near == read):
        raise InputError(f"{calibrate}: calibrating takes --bits 4 and a text that is not that of --text")
    loaded = load(model, device="cpu")
    found = compare(loaded, chosen, read, near, most_loss / 100)
    if out is not None:
        loaded.save(out)
    if as_json:
        print(json.dumps(values(found), indent=2))
        return
    _show(found)
    if out is not None:
        print(f"saved in {out}", file=sys.stderr)


def values(found: Comparison) -> dict[str, Any]:
    """The figures as JSON."""
    sides = {
        name: {"bytes": f.nbytes, "tokens_per_second": f.speed, "bits_per_byte": f.bits_per_byte}
        for name, f in (("before", found.before), ("after", found.after))
    }
    rest: dict[str, Any] = {"top1_agreement": found.agreement, "formats": found.formats}
    rest |= {"tokens": found.tokens, "text_tokens": found.given}
    rest |= {"calibration_tokens": found.calibrated, "calibration_text_tokens": found.to_calibrate}
    if found.outcome is not None:
        outcome = found.outcome
        loss = {"in_4_bits": outcome.rounded, "now": outcome.lost, "at_most": outcome.at_most}
        rest |= {"calibration_loss": loss | {"in_8_bits": outcome.raised}}
    return {"parameters": found.parameters, **sides, **rest}


def _show(found: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    before, after = found.before, found.after
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "before", "after", "change"):
        table.add_column(name, justify="left" if not name else "right")
    sizes = [f"{f.nbytes / 2**20:,.1f} MiB" for f in (before, after)]
    table.add_row("weights", *sizes, f"{after.nbytes / before.nbytes:.2f} x")
    speeds = [f"{f.speed:,.1f} token/s" for f in (before, after)]
    table.add_row("writing, one text", *speeds, f"{after.speed / before.speed:.2f} x")
    if before.bits_per_byte is not None and after.bits_per_byte is not None:
        losses = [f"{f.bits_per_byte:.4f}" for f in (before, after)]
        table.add_row("bits per byte", *losses, f"{after.bits_per_byte / before.bits_per_byte - 1:+.2%}")
        table.add_row("same likeliest token", "", f"{found.agreement:.1%}", f"of {found.tokens - 1:,}")
    console = Console(markup=False, highlight=False)
    console.print(table)
    for line in _read(found):
        console.print(line)
    for name, count in sorted(found.formats.items()):
        console.print(f"{count} {'matrix' if count == 1 else 'matrices'} in {FORMATS[name]}")


def _read(found: Comparison) -> list[str]:
    """What of the texts was read, and what calibrating gave."""
    lines = []
    if found.split:
        lines.append(f"measured on the last {found.tokens:,} of the text's {found.given:,} tokens")
    elif found.tokens < found.given:
        lines.append(f"measured on the first {found.tokens:,} of the text's {found.given:,} tokens")
    if found.split or found.calibrated < found.to_calibrate:
        whose = "those before them" if found.split else f"its text's {found.to_calibrate:,} tokens"
        lines.append(f"calibrated on the first {found.calibrated:,} of {whose}")
    outcome = found.outcome
    if outcome is not None:
        line = f"of what was kept of the text that calibrates, 4 bits lose {outcome.rounded:.2%}"
        if outcome.raised:
            line += f", and {outcome.lost:.2%} with {len(outcome.raised)} matrices of layers back in 8 bits"
        line += f"; other text of the kind loses at most {outcome.at_most:.2%} (95 %)"
        if outcome.at_most > outcome.limit:
            line += f", above the {outcome.limit:.2%} of --most-loss; more text tells that more closely"
        lines.append(line)
    elif found.given and "groups4" in found.formats:
        lines.append("the text is too short to calibrate 4 bits, which are rounded plainly")
    return lines
