"""`python -m benchmarks`: list the rows, run some, write or check docs/benchmarks.md."""

from __future__ import annotations

import argparse
import sys

from benchmarks import b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b12, b13, corpus_steps, guesses, tokenisation
from benchmarks.frame import MIN_REPEATS, dump, load_all, save
from benchmarks.table import PAGE, page
from yanmo.errors import Error, InputError, nearest
from yanmo.files import write_atomic

MODULES = (b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b12, b13, corpus_steps, guesses, tokenisation)
ROWS = {row.ROW.name: row for row in MODULES}


def main(args: list[str] | None = None) -> int:
    """Do what the arguments say; the exit code is 2 for a mistake in them, 1 where a check fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ours and the peers, in one run.")
    parser.add_argument("rows", nargs="*", help="rows to run: B0, or B0.transformers-fp32 for one peer of it")
    parser.add_argument("--list", action="store_true", help="list the rows and their goals (so does no argument)")
    parser.add_argument("--all", action="store_true", help="run every row")
    parser.add_argument("--repeats", type=int, default=MIN_REPEATS, help=f"{MIN_REPEATS} and more are kept as a result")
    parser.add_argument("--table", action="store_true", help=f"write docs/{PAGE.name} from the results")
    parser.add_argument("--check", action="store_true", help=f"fail where docs/{PAGE.name} is not what --table writes")
    chosen = parser.parse_args(args)
    try:
        return _do(chosen)
    except Error as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


def _do(chosen: argparse.Namespace) -> int:
    jobs = [job for name in (ROWS if chosen.all else chosen.rows) for job in _jobs(name)]
    for row, peer in jobs:
        result = ROWS[row].run(peer, chosen.repeats)
        print(dump(result))
        if chosen.repeats >= MIN_REPEATS:
            print(f"kept in {save(result).name}", file=sys.stderr)
        else:
            print(f"not kept: {chosen.repeats} repeats, at least {MIN_REPEATS} are needed", file=sys.stderr)
    text = page(load_all(), [row.ROW for row in ROWS.values()])
    if chosen.table:
        write_atomic(PAGE, text)
    if chosen.check and (not PAGE.is_file() or PAGE.read_text("utf-8") != text):
        print(f"docs/{PAGE.name} is not what the results say: run python -m benchmarks --table", file=sys.stderr)
        return 1
    if chosen.list or not (jobs or chosen.table or chosen.check):
        for name, row in ROWS.items():
            for peer, goal in row.ROW.goals.items():
                print(f"{name}.{peer}: {row.ROW.job} ({row.ROW.unit}), goal {goal:g}")
    return 0


def _jobs(name: str) -> list[tuple[str, str]]:
    """A row's name with or without a peer → the pairs to run."""
    row, _, peer = name.partition(".")
    if row not in ROWS:
        raise InputError(f"there is no row {row!r}{nearest(row, ROWS)}; --list shows them")
    goals = ROWS[row].ROW.goals
    if peer and peer not in goals:
        raise InputError(f"row {row} has no peer {peer!r}{nearest(peer, goals)}; --list shows them")
    return [(row, other) for other in goals if peer in ("", other)]


if __name__ == "__main__":
    sys.exit(main())
