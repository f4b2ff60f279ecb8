"""The last step of a corpus: the books are closed, and everything about it is written beside its shards.

In: the results of all tasks. Out, in WORK/out: card.json, README.md, card.html, quarantine.jsonl, and sources.jsonl
and inputs.jsonl where there are too many for the card.

    close_books       checks that in = kept + removed + failed, for every step and source, and writes
    Unbalanced        an imbalance: a defect, never a remark
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from yanmo.corpus import engine_group, engine_read, engine_write
from yanmo.corpus.card import MAX_LISTED, card_of, readme_of
from yanmo.corpus.cardpage import card_page
from yanmo.corpus.engine_files import Plan, finished, output
from yanmo.corpus.engine_parts import part_path
from yanmo.corpus.engine_write import OUT, TALLIES
from yanmo.corpus.folder import CUT, README, SPLITS
from yanmo.corpus.ledger import (
    EXAMPLE_CHARACTERS,
    EXAMPLES,
    MAX_PROBLEMS,
    Counts,
    Input,
    Ledger,
    ReadReport,
    sentence,
    total,
)
from yanmo.corpus.settings import files_of, for_card
from yanmo.corpus.sources import CARD
from yanmo.corpus.units import Loss
from yanmo.errors import FileError, need
from yanmo.files import reason, sha256_file, write_atomic, write_json

MIXED = (
    "Training documents are written as often as the mix draws them: `splits` counts each time, `kept` and `sizes` once."
)
QUARANTINE = "quarantine.jsonl"
PAGE = "card.html"
SIZES = ("documents", "bytes", "characters", "words")
_BYTE = re.compile(r"bytes? ([0-9,]+)")

Books = dict[str, Counts]  # by source


class Unbalanced(AssertionError):
    """What came in is not what was kept, removed and failed."""


def close_books(work: str, plan: Plan, report: ReadReport) -> Path:
    """The folder that is to become the corpus; InputError where no document is left.

    report: what finding the sources lost and passed over; its inputs, where they are no files of the plan.
    """
    out = Path(work) / OUT
    grouped = _result(work, engine_group.GROUP, 0)
    read, hashes, changes, examples = _read_books(work, plan, report)
    problems = _quarantine(out, report, total(read.values()).failed.total())
    if not grouped["kept"]:
        whole, first = _ledger(plan, read, grouped, work), problems[0]["what"] if problems else ""
        counts = {"removed": whole[0].total.removed, "failed": whole[0].total.failed}
        raise engine_group.nothing_left(counts, whole[0].total.offered, first)
    ledger, steps = _ledger(plan, read, grouped, work)
    ledger.examples = examples
    _examples(work, plan, ledger)
    tallies, shards, paragraphs = _written(work, out, grouped)
    inputs = report.inputs or [Input(s.name, s.size, hashes.get(k, "")) for k, s in enumerate(plan.sources)]
    documents = {kind: Counter({name: row[0] for name, row in tally.items()}) for kind, tally in tallies.items()}
    changes["paragraphs_removed"] = paragraphs
    made = ReadReport(
        skipped=report.skipped, inputs=inputs, problems=problems, encodings=Counter(dict(documents["encoding"]))
    )
    counted = {name: documents[name] for name in ("script", "language", "license")}
    notes = [CUT] if any(shard[3] for shard in grouped["shards"]) else []
    if grouped["mix"]:
        notes.append(MIXED)
    card = card_of(ledger, made, for_card(plan.recipe), counted, changes, notes)
    card |= {
        "steps": steps,
        "sizes": {kind: _sizes(tallies[kind]) for kind in ("language", "license", "script", "source")},
        "domains": {"different": len(documents["domain"]), "most": _most(documents["domain"], 100)},
        "years": dict(sorted(documents["year"].items())),
        "duplicates": {name: grouped[name] for name in ("candidates", "pairs")},
        "mix": grouped["mix"],
        "named_files": {Path(path).name: hash_of(path) for path in files_of(plan.recipe)},
        **shards,
    }
    _spill(out, card, ledger, inputs)
    write_json(out / CARD, card)
    write_atomic(out / README, readme_of(card))
    write_atomic(out / PAGE, card_page(card))
    return out


def hash_of(path: str) -> str:
    """SHA-256 of a file that a recipe names, or of a folder: that of its files' hashes and names; FileError."""
    try:
        if not Path(path).is_dir():
            return sha256_file(path)
        lines = [
            f"{sha256_file(each)}  {each.relative_to(path).as_posix()}\n"
            for each in sorted(Path(path).rglob("*"))
            if each.is_file()
        ]
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({reason(error)}); check what the recipe names") from None
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _result(work: str, step: str, number: int) -> dict[str, Any]:
    found = finished(work, step, number)
    assert found is not None, f"{step} {number} is not done"
    return found


def _writes(work: str, grouped: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return (_result(work, engine_write.STEP, number) for number in range(len(grouped["shards"])))


def _read_books(
    work: str, plan: Plan, report: ReadReport
) -> tuple[Books, dict[int, str], Counter[str], dict[str, list[dict[str, str]]]]:
    """The books of the first step, hashes of inputs, changes, examples: one pass over the results of its tasks."""
    books: Books = {source.name: Counts() for source in plan.sources}  # a file may hold nothing at all
    names = [source.name for source in plan.sources]
    hashes: dict[int, str] = {}
    changes: Counter[str] = Counter()
    examples: dict[str, list[dict[str, str]]] = {}
    for number in range(len(plan.tasks)):
        result = _result(work, engine_read.STEP, number)
        for source, count in result["found"].items():
            books[names[int(source)]].offered += count
        for source, count in result["kept"].items():
            books[names[int(source)]].kept += count
        for side in ("removed", "failed"):
            for source, reasons in result[side].items():
                getattr(books[names[int(source)]], side).update(reasons)
        hashes.update({int(source): sha for source, sha in result["inputs"].items()})
        changes.update(result["changes"])
        for why, shown in result["examples"].items():
            kept = examples.setdefault(why, [])
            kept += shown[: EXAMPLES - len(kept)]
    for side in ("failed", "removed"):  # what finding sources lost
        for name, reasons in getattr(report, side).items():
            counts = books.setdefault(name, Counts())
            counts.offered += reasons.total()
            getattr(counts, side).update(reasons)
    return books, hashes, changes, examples


def _ledger(plan: Plan, read: Books, grouped: dict[str, Any], work: str) -> tuple[Ledger, list[dict[str, Any]]]:
    """The books of the whole run by source, and those of each step; each is checked on its own."""
    names = [source.name for source in plan.sources]
    group = {name: Counts(counts.kept, counts.kept) for name, counts in read.items()}
    for why, numbers in grouped["removed"].items():
        for number, count in numbers.items():
            group[names[int(number)]].kept -= count
            group[names[int(number)]].removed[why] += count
    write = {name: Counts(counts.kept) for name, counts in group.items()}
    emptied = 0
    for result in _writes(work, grouped):
        emptied += len(result["emptied"])
        for name, row in result["tallies"]["source"].items():
            write[name].kept += row[0]
    for counts in write.values():
        if gone := counts.offered - counts.kept:
            counts.removed["only_repeated"] = gone
    if emptied != sum(counts.removed.total() for counts in write.values()):
        raise Unbalanced("documents were lost while shards were written")
    ledger = Ledger()
    for name, counts in read.items():
        removed = counts.removed + group[name].removed + write[name].removed
        ledger.sources[name] = Counts(counts.offered, write[name].kept, removed, counts.failed)
    stages = (("read", read), ("group", group), ("write", write))
    for step, books in (*stages, ("all", ledger.sources)):
        for name, counts in books.items():
            if not counts.balanced or counts.kept < 0:
                raise Unbalanced(f"{step}, {name}: {counts}")
    return ledger, [{"step": step, **total(books.values()).as_dict()} for step, books in stages]


def _quarantine(out: Path, report: ReadReport, failed: int) -> list[dict[str, str]]:
    """Write a line of JSON for everything that failed; the first sentences go into the card."""
    parquet = need("pyarrow.parquet", "corpus", "a corpus on disk")
    problems = list(report.problems)
    listed = 0
    with output(out / QUARANTINE) as partial, open(partial, "wb") as file:

        def write(row: dict[str, Any], count: int = 1) -> None:
            nonlocal listed
            listed += count
            file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

        shown: dict[tuple[str, str], int] = Counter((each["source"], each["reason"]) for each in problems)
        for each in problems:
            write({"source": each["source"], "where": "", "reason": each["reason"], "what": each["what"]})
        for source, reasons in report.failed.items():
            for why, count in reasons.items():
                if more := count - shown[source, why]:
                    write({"source": source, "where": "", "reason": why, "what": "not listed", "count": more}, more)
        for path in sorted((out / engine_write.FATES).glob("*.parquet")):
            with parquet.ParquetFile(path) as fates:
                for batch in fates.iter_batches(batch_size=1024):
                    for row in (row for row in batch.to_pylist() if row["fate"] == "failed"):
                        byte = _BYTE.search(row["where"])
                        offset = {"offset": int(byte.group(1).replace(",", ""))} if byte else {}
                        write({key: row[key] for key in ("source", "where", "reason", "what", "url", "id")} | offset)
                        if len(problems) < MAX_PROBLEMS:
                            what = sentence(row["source"], Loss(row["reason"], row["what"], row["where"]))
                            problems.append({"reason": row["reason"], "source": row["source"], "what": what})
    if listed != failed:
        raise Unbalanced(f"{failed:,} failed, {listed:,} are in quarantine")
    return problems


def _written(
    work: str, out: Path, grouped: Mapping[str, Any]
) -> tuple[dict[str, dict[str, list[int]]], dict[str, Any], int]:
    """Tallies of what was written, the part of the card about shards, and how many paragraphs went."""
    tallies: dict[str, dict[str, list[int]]] = {kind: {} for kind in TALLIES}
    splits = {name: dict.fromkeys(SIZES, 0) for name in SPLITS}
    shards, paragraphs = [], 0
    for result in _writes(work, grouped):
        for kind, tally in result["tallies"].items():
            for name, row in tally.items():
                old = tallies[kind].get(name, [0, 0, 0, 0])
                tallies[kind][name] = [a + b for a, b in zip(old, row)]
        for key in SIZES:
            splits[result["split"]][key] += result[key]
        paragraphs += result["paragraphs"]
        path = out / result["name"]
        shards.append(
            {"name": path.name, "split": result["split"], "bytes": path.stat().st_size, "sha256": sha256_file(path)}
        )
    return tallies, {"splits": splits, "shards": shards}, paragraphs


def _sizes(tally: dict[str, list[int]]) -> dict[str, dict[str, int]]:
    rows = sorted(tally.items(), key=lambda item: (-item[1][1], item[0]))
    return {name: dict(zip(SIZES, row)) for name, row in rows[:MAX_LISTED]}


def _most(counter: Counter[str], number: int) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:number])


def _examples(work: str, plan: Plan, ledger: Ledger) -> None:
    """The first documents that were left out as duplicates."""
    parquet = need("pyarrow.parquet", "corpus", "a corpus on disk")
    found = engine_write.decided(work)
    folder = Path(work) / engine_read.STEP
    for number, (task, part) in enumerate(found.parts):
        here = found.decision[found.starts[number] : found.starts[number + 1]]
        for code, why in engine_group.REASONS.items():
            shown = ledger.examples.setdefault(why, [])
            rows = (here == code).nonzero()[0][: EXAMPLES - len(shown)].tolist()
            if not rows:
                continue
            sources = engine_group.rows_of(part_path(folder, task, part, ".rows.npy"))["source"]
            path = part_path(folder, task, part, ".parquet")
            texts = parquet.read_table(path, columns=["text"], use_threads=False).column("text")
            for row in rows:
                text, source = texts[row].as_py()[:EXAMPLE_CHARACTERS], plan.sources[sources[row]].name
                shown.append({"reason": why, "source": source, "text": text})


def _spill(out: Path, card: dict[str, Any], ledger: Ledger, inputs: Iterable[Input]) -> None:
    """Lists that are too long for a card go into files of their own, which it names."""
    lists = {
        "sources": [{"source": name, **counts.as_dict()} for name, counts in sorted(ledger.sources.items())],
        "inputs": [vars(item) for item in sorted(inputs, key=lambda item: item.name)],
    }
    for name, rows in lists.items():
        path = out / f"{name}.jsonl"
        path.unlink(missing_ok=True)  # of a run that was killed
        if len(rows) > MAX_LISTED:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_atomic(path, text.encode("utf-8", "replace"))
            card[f"{name}_file"] = path.name
