"""The card of a corpus as one HTML page: what came in, what became of it, what is left, with bars and examples.

card_page     card.json → the page; it loads nothing and runs nothing
"""

from __future__ import annotations

from typing import Any

from yanmo import page
from yanmo.charts import bar_chart
from yanmo.corpus.card import SHOWN, UNSTATED
from yanmo.corpus.readers import MEANINGS
from yanmo.corpus.steps import REASONS

BARS = 12


def card_page(card: dict[str, Any]) -> str:
    """The whole page."""
    splits = card["splits"]
    size = sum(split["bytes"] for split in splits.values())
    removed, failed = sum(card["removed"].values()), sum(card["failed"].values())
    lede = f"{card['kept']:,} documents, {page.nbytes(size)} of text, from {card['inputs']['n_files']:,} files."
    words = sum(split.get("words", 0) for split in splits.values())
    parts: list[object] = [
        page.cards(
            [
                ("came in", card["in"], "documents, and losses of reading"),
                ("kept", card["kept"], _share(card["kept"], card["in"])),
                ("removed", removed, _share(removed, card["in"])),
                ("failed", failed, _share(failed, card["in"])),
                ("words", words, "a Han character is one"),
            ]
        ),
        *[page.note(note) for note in card["notes"]],
        page.section("What came in and what became of it", *_books(card)),
        page.section("What is left", *_left(card)),
        page.section("What was left out", *_examples(card)),
        page.section("Where it comes from", *_sources(card)),
        page.section("How it was made", *_making(card)),
    ]
    return page.document("Corpus", parts, lede=lede, eyebrow="Data card", footer="Yanmo; all figures are in card.json.")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _books(card: dict[str, Any]) -> list[object]:
    rows = [
        (step["step"], step["in"], step["kept"], sum(step["removed"].values()), sum(step["failed"].values()))
        for step in card.get("steps", [])
    ]
    parts: list[object] = [page.table(("step", "in", "kept", "removed", "failed"), rows)] if rows else []
    reasons = sorted([*card["removed"].items(), *card["failed"].items()], key=lambda item: (-item[1], item[0]))
    if reasons:
        parts.append(bar_chart([(name.replace("_", " "), count) for name, count in reasons[:BARS]], "Reasons"))
        known = MEANINGS | REASONS
        told = [(name, count, known.get(name, "could not be read")) for name, count in reasons]
        parts.append(page.table(("reason", "documents", "meaning"), told))
    return parts


def _left(card: dict[str, Any]) -> list[object]:
    parts: list[object] = []
    for kind, title in (("language", "Languages"), ("license", "Licences"), ("script", "Scripts")):
        sizes = card.get("sizes", {}).get(kind, {})
        known = {name: row for name, row in sizes.items() if name != UNSTATED or len(sizes) > 1}
        if known:
            bars = [(name, row["bytes"] / 1e6) for name, row in list(known.items())[:BARS]]
            parts.append(bar_chart(bars, title, unit="MB", remark=_more(len(known))))
    rows = [
        (name, row["documents"], page.nbytes(row["bytes"]), row["characters"], row.get("words"))
        for name, row in [*card["splits"].items(), *card.get("sizes", {}).get("language", {}).items()][: SHOWN + 2]
    ]
    parts.append(page.table(("part", "documents", "text", "characters", "words"), rows))
    if card.get("years"):
        parts.append(bar_chart([(name, count) for name, count in list(card["years"].items())[-BARS:]], "Years"))
    if card.get("domains", {}).get("most"):
        most = list(card["domains"]["most"].items())[:BARS]
        remark = f"of {card['domains']['different']:,} different hosts"
        parts.append(bar_chart(most, "Hosts with most documents", remark=remark))
    return parts


def _more(number: int) -> str:
    return f"the {BARS} largest of {number:,}" if number > BARS else ""


def _examples(card: dict[str, Any]) -> list[object]:
    if not card["examples"]:
        return [page.note("Nothing was removed.")]
    shown = [
        page.sample(example["reason"].replace("_", " "), [(example["source"], example["text"])], label="reason")
        for example in card["examples"][: 2 * SHOWN]
    ]
    problems = [page.note(problem["what"]) for problem in card["problems"][:SHOWN]]
    return [*shown, *([page.heading("What failed"), *problems] if problems else [])]


def _sources(card: dict[str, Any]) -> list[object]:
    rows = [
        (name, counts["in"], counts["kept"], sum(counts["removed"].values()), sum(counts["failed"].values()))
        for name, counts in card["sources"].items()
    ]
    head = ("source", "in", "kept", "removed", "failed")
    left = len(rows) - 5 * SHOWN
    where = card.get("sources_file", "card.json")
    notes = [page.note(f"{left:,} more are in {where}")] if left > 0 else []
    if not rows:
        notes = [page.note(f"{card['n_sources']:,} sources are in {where}")]
    return [page.table(head, rows[: 5 * SHOWN]), *notes]


def _making(card: dict[str, Any]) -> list[object]:
    settings = {
        f"{section}.{key}": str(value)
        for section, table in card["settings"].items()
        for key, value in (table.items() if isinstance(table, dict) else {"": table}.items())
        if value not in ([], "", None)
    }
    changes = {name.replace("_", " "): count for name, count in card.get("changes", {}).items()}
    parts: list[object] = [page.heading("Changes in texts"), page.facts(changes)] if changes else []
    inputs = {"files": card["inputs"]["n_files"], "bytes": card["inputs"]["bytes"], "sha256": card["inputs"]["sha256"]}
    return [
        *parts,
        page.heading("Inputs"),
        page.facts(inputs),
        page.heading("Settings"),
        page.facts(settings),
        page.heading("Versions"),
        page.facts(card["versions"]),
    ]
