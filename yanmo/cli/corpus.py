"""`yanmo corpus`: raw texts, web archives and Wikipedia dumps → a corpus folder with its card.

In: paths and what is to be done with their documents. Out: the folder; counts for people, the card with --json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Files = list[Path] | None


def corpus(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE…", help="Texts, dumps, web archives, or folders of them.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write; an older corpus there is replaced.")],
    languages: Annotated[str, typer.Option(help="Keep these alone, such as en,zh.")] = "",
    identify: Annotated[bool, typer.Option(help="Find the language where none, or a wrong one, is stated.")] = False,
    quality: Annotated[bool, typer.Option(help="Leave out what breaks the rules of docs/quality.md.")] = False,
    boilerplate: Annotated[bool, typer.Option(help="Mend mojibake, take boilerplate lines out.")] = False,
    mask: Annotated[bool, typer.Option(help="Replace emails, phones, numbers of identity and accounts.")] = False,
    block_words: Annotated[Files, typer.Option(help="A file of words that no document may have.")] = None,
    block_domains: Annotated[Files, typer.Option(help="A file of domains.")] = None,
    block_urls: Annotated[Files, typer.Option(help="A file of addresses.")] = None,
    valid_share: Annotated[float, typer.Option(help="The share of documents kept for validation.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of the choice of these documents.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card.")] = False,
) -> None:
    """Turn raw text into a clean, deduplicated, documented corpus."""
    from yanmo.corpus import blocklist
    from yanmo.corpus.build import build_corpus
    from yanmo.corpus.ledger import ReadReport
    from yanmo.corpus.steps import Steps
    from yanmo.corpus.text import read_documents

    blocked = blocklist.load(block_words or (), block_domains or (), block_urls or ())
    wanted = tuple(code.strip().lower() for code in languages.split(",") if code.strip())
    steps = Steps(wanted, identify, boilerplate, quality, mask, blocked)
    report = ReadReport()
    documents = read_documents(sources, report)
    made = build_corpus(
        documents, out, valid_share=valid_share, seed=seed, progress=_progress(), read_report=report, steps=steps
    )
    for problem in report.problems:
        print(f"yanmo: {problem['what']}", file=sys.stderr)
    print(json.dumps(made.card, ensure_ascii=False, indent=1) if as_json else "\n".join(_lines(made.card, out)))


def _progress() -> Any:
    if not sys.stderr.isatty():
        return None
    last = -1

    def show(done: int, total: int) -> None:
        nonlocal last
        share = 100 * done // max(total, 1)
        if share != last:
            last = share
            print(f"\r{share:3d} % of {total / 1e6:,.1f} MB", end="\n" if share == 100 else "", file=sys.stderr)

    return show


def _lines(card: dict[str, Any], out: Path) -> list[str]:
    """What people read: the books in one table."""
    removed, failed = sum(card["removed"].values()), sum(card["failed"].values())
    rows = [("in", card["in"]), ("kept", card["kept"]), ("removed", removed)]
    rows += [(f"  {reason}", count) for reason, count in card["removed"].items()]
    rows += [("failed", failed), *[(f"  {reason}", count) for reason, count in card["failed"].items()]]
    rows += [(name.replace("_", " "), count) for name, count in card["changes"].items()]
    skipped = [(f"passed over: {why}", count) for why, count in card["skipped"].items()]
    width = max(len(name) for name, _ in rows + skipped)
    lines = [f"{name:<{width}}  {count:>12,}" for name, count in rows + skipped]
    sizes = ", ".join(f"{split['bytes'] / 1e6:,.2f} MB of {name}" for name, split in card["splits"].items())
    return [*lines, f"{out}: {sizes}; card.json and README.md say what was left out and why"]
