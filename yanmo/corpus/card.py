"""The card of a corpus: card.json for programs, README.md for people and for the Hugging Face hub.

In: the books, the reading report, tallies, the shards. Out: a dictionary, and a dataset card with a YAML header.

    card_of                   books and report → card.json without its shards
    readme_of                 card.json → README.md

Nothing in a card depends on the time or the machine, so that equal corpora have equal cards.
"""

from __future__ import annotations

import hashlib
import json
import platform
import unicodedata
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from yanmo import __version__
from yanmo.corpus.folder import FORMAT
from yanmo.corpus.ledger import Input, Ledger, ReadReport
from yanmo.corpus.readers import MEANINGS
from yanmo.corpus.steps import REASONS

UNSTATED = "unknown"
MAX_LISTED = 1000  # sources and inputs above are summed up
SHOWN = 20  # rows of a table in the README
PACKAGES = ("numpy", "pyarrow", "resiliparse", "trafilatura", "pycld2", "py3langid", "ftfy")
# Identifiers of the hub's list of licences that a text may carry; any other goes under "other" with its name.
HUB_LICENSES = (
    "apache-2.0 mit bsd-2-clause bsd-3-clause cc0-1.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-4.0 "
    "cc-by-nc-sa-4.0 cc-by-nd-4.0 gfdl gpl-2.0 gpl-3.0 lgpl-3.0 agpl-3.0 mpl-2.0 odc-by odbl pddl unlicense wtfpl"
)


def card_of(
    ledger: Ledger,
    report: ReadReport,
    settings: dict[str, Any],
    tallies: Mapping[str, Counter[str]],
    changes: Counter[str],
    notes: list[str],
) -> dict[str, Any]:
    """The card but for its shards; `tallies` count the kept documents by script, language and license.

    `changes` counts what the steps changed in documents, those that were left out later too.
    """
    few = len(ledger.sources) <= MAX_LISTED
    return {
        "format": FORMAT,
        **ledger.total.as_dict(),
        "skipped": dict(sorted(report.skipped.items())),
        "notes": notes,
        "settings": settings,
        **{
            name: dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))
            for name, counter in tallies.items()
        },
        "changes": {name: count for name, count in sorted(changes.items()) if count},
        "encodings": dict(sorted(report.encodings.items())),
        "sources": {name: counts.as_dict() for name, counts in sorted(ledger.sources.items())} if few else {},
        "n_sources": len(ledger.sources),
        "inputs": _inputs(report.inputs),
        "examples": [example for reason in sorted(ledger.examples) for example in ledger.examples[reason]],
        "problems": report.problems,
        "versions": versions(),
    }


def _inputs(inputs: list[Input]) -> dict[str, Any]:
    """The files that were read, with one fingerprint over all (as sha256sum prints them, sorted by name)."""
    listed = sorted((item.name, item.sha256, item.bytes) for item in inputs)
    lines = "".join(f"{sha256}  {name}\n" for name, sha256, _ in listed)
    files = [{"name": name, "sha256": sha256, "bytes": size} for name, sha256, size in listed]
    return {
        "n_files": len(listed),
        "bytes": sum(item.bytes for item in inputs),
        "sha256": hashlib.sha256(lines.encode("utf-8")).hexdigest(),
        "files": files if len(files) <= MAX_LISTED else [],
    }


def versions() -> dict[str, str]:
    """The versions of everything that has a say in what a text becomes."""
    found = {"yanmo": __version__, "python": platform.python_version(), "unicode": unicodedata.unidata_version}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def readme_of(card: dict[str, Any]) -> str:
    """A dataset card: YAML that the hub reads, then tables that people read."""
    splits = card["splits"]
    removed = [(name, count, (MEANINGS | REASONS).get(name, "")) for name, count in card["removed"].items()]
    failed = [(name, count, "could not be read") for name, count in card["failed"].items()]
    parts = [
        _header(card),
        "# Corpus",
        f"{splits['train']['documents']:,} documents for training and {splits['valid']['documents']:,} for validation. "
        f"Of {card['in']:,} that came in, {card['kept']:,} were kept, {sum(card['removed'].values()):,} removed, and "
        f"{sum(card['failed'].values()):,} failed.",
        *card["notes"],
        _table(
            ("split", "documents", "bytes", "characters"),
            [(name, split["documents"], split["bytes"], split["characters"]) for name, split in splits.items()],
        ),
        "## Licences",
        _table(("licence", "documents"), list(card["license"].items())),
        "## Scripts",
        "Counted by letters: a measure of writing, not of language.",
        _table(("script", "documents"), list(card["script"].items())),
    ]
    if removed or failed:
        parts += ["## What was left out", _table(("reason", "documents", "meaning"), removed + failed)]
    if card["changes"]:
        changes = [(name.replace("_", " "), count) for name, count in card["changes"].items()]
        parts += ["## What was changed", _table(("change", "times"), changes)]
    if card["sources"]:
        rows = [(name, counts["in"], counts["kept"]) for name, counts in card["sources"].items()]
        parts += ["## Sources", _table(("source", "documents", "kept"), rows)]
    parts.append("All counts, examples of what was left out, versions and fingerprints are in `card.json`.")
    return "\n\n".join(parts) + "\n"


def _header(card: dict[str, Any]) -> str:
    stated = [name for name in card["license"] if name != UNSTATED]
    hub = HUB_LICENSES.split()
    known = sorted({_hub_name(name) for name in stated if _hub_name(name) in hub})
    other = [name for name in stated if _hub_name(name) not in hub]
    licenses = known + (["other"] if other else []) or [UNSTATED]
    languages = [name for name in card["language"] if name != UNSTATED]
    lines = ["---", "license:", *[f"- {name}" for name in licenses]]
    if other:
        lines.append(f"license_name: {_quoted(', '.join(other))}")
    if languages:
        lines += ["language:", *[f"- {_quoted(name)}" for name in languages]]
    lines += [
        "task_categories:",
        "- text-generation",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: train-*.parquet",
        "  - split: validation",
        "    path: valid-*.parquet",
        "---",
    ]
    return "\n".join(lines)


def _hub_name(license: str) -> str:
    """A licence as the hub spells it: CC BY-SA 4.0 is cc-by-sa-4.0 there."""
    return license.lower().replace(" ", "-")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a YAML string


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A Markdown table of at most SHOWN rows; what is not shown is counted in the last one."""
    shown = [tuple(_cell(value) for value in row) for row in rows[:SHOWN]]
    if len(rows) > SHOWN:
        shown.append((f"and {len(rows) - SHOWN:,} more", *[""] * (len(head) - 1)))
    lines = [head, tuple("---" for _ in head), *shown]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|").replace("\n", " ")
