"""`yanmo corpus`: raw texts, web archives and Wikipedia dumps → a corpus folder with its card; and looks at one.

In: paths and what is to be done with their documents. Out: the folder; counts for people, JSON with --json.

    build     sources → a folder; the word may be left out: yanmo corpus SOURCE… -o DIR
    show      figures and random documents of a folder, or what became of one document
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from yanmo.corpus.build import Corpus
    from yanmo.corpus.documents import Document

Files = list[Path] | None
EXCERPT = 600  # characters of a document that is shown


class _Buildable(TyperGroup):
    """A group in which one verb may be left out: what names none is a source."""

    left_out = "build"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = [self.left_out, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Buildable,
    no_args_is_help=True,
    help="Turn raw text into a clean, deduplicated, documented corpus: yanmo corpus SOURCE… -o DIR",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def build(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE…", help="Texts, dumps, web archives, or folders of them."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write; an older corpus there is replaced.")],
    recipe: Annotated[Path | None, typer.Option(help="A TOML file such as recipes/corpus.toml.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change the recipe; may be repeated.")
    ] = None,
    text_column: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="The column of texts; may be repeated: the first counts.")
    ] = None,
    languages: Annotated[str, typer.Option(help="Keep these alone, such as en,zh.")] = "",
    identify: Annotated[bool, typer.Option(help="Find the language where none, or a wrong one, is stated.")] = False,
    quality: Annotated[bool, typer.Option(help="Leave out what breaks the rules of docs/quality.md.")] = False,
    boilerplate: Annotated[bool, typer.Option(help="Mend mojibake, take boilerplate lines out.")] = False,
    mask: Annotated[bool, typer.Option(help="Replace emails, phones, numbers of identity and accounts.")] = False,
    block_words: Annotated[Files, typer.Option(help="A file of words that no document may have.")] = None,
    block_domains: Annotated[Files, typer.Option(help="A file of domains.")] = None,
    block_urls: Annotated[Files, typer.Option(help="A file of addresses.")] = None,
    near: Annotated[bool, typer.Option(help="Leave out near duplicates but the longest.")] = False,
    paragraphs: Annotated[bool, typer.Option(help="Take out paragraphs that came before.")] = False,
    against: Annotated[Files, typer.Option(help="A corpus folder; what it has is left out.")] = None,
    contamination: Annotated[Files, typer.Option(help="An evaluation set; what holds its items is left out.")] = None,
    trusted: Annotated[
        list[str] | None, typer.Option(metavar="LANGUAGE=PATH", help="Trusted text; what is unlike it is left out.")
    ] = None,
    valid_share: Annotated[float | None, typer.Option(help="The share held back for validation.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the choice of these documents.")] = None,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    workers: Annotated[int | None, typer.Option(help="Processes; as many as cores.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card.")] = False,
) -> None:
    """Make a corpus folder; the word build may be left out. Interrupted, the same command goes on."""
    from yanmo.corpus.engine import make_corpus
    from yanmo.corpus.settings import load_settings, with_values

    wanted = [code.strip() for code in languages.split(",") if code.strip()]
    given: dict[str, Any] = {
        "sources.text_column": text_column or [],
        "languages.keep": wanted,
        "languages.identify": identify,
        "quality.on": quality,
        "clean.boilerplate": boilerplate,
        "clean.mask": mask,
        "blocklist.words": list(map(str, block_words or ())),
        "blocklist.domains": list(map(str, block_domains or ())),
        "blocklist.urls": list(map(str, block_urls or ())),
        "duplicates.near": near,
        "duplicates.paragraphs": paragraphs,
        "duplicates.against": list(map(str, against or ())),
        "contamination.sets": list(map(str, contamination or ())),
        "perplexity.models": trusted or [],
    }
    given = {name: value for name, value in given.items() if value}
    given |= {f"out.{name}": v for name, v in (("valid_share", valid_share), ("seed", seed)) if v is not None}
    chosen = with_values(load_settings(recipe, settings or ()), given)
    made = make_corpus(sources, out, chosen, engine=engine, workers=workers, progress=_progress())
    for problem in made.card["problems"][:20]:
        print(f"yanmo: {problem['what']}", file=sys.stderr)
    if (more := sum(made.card["failed"].values()) - 20) > 0:
        print(f"yanmo: {more:,} more are in {out / 'quarantine.jsonl'}", file=sys.stderr)
    print(json.dumps(made.card, ensure_ascii=False, indent=1) if as_json else "\n".join(_books(made.card, out)))


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A corpus folder.")],
    documents: Annotated[int, typer.Option(help="How many random documents.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    why: Annotated[str, typer.Option(metavar="ID_OR_URL", help="Say what became of this document.")] = "",
    as_json: Json = False,
) -> None:
    """Show figures and random documents of a corpus, or what became of one document."""
    from yanmo.corpus import show as looking
    from yanmo.corpus.build import load_corpus

    corpus = load_corpus(folder)
    if why:
        found = looking.why(corpus, why)
        print(json.dumps(found, ensure_ascii=False, indent=1) if as_json else "\n".join(_fates(found, why)))
        raise typer.Exit(0 if found else 2)
    drawn = looking.draw(corpus, documents, seed)
    if as_json:
        print(json.dumps({"card": corpus.card, "documents": [vars(d) for d in drawn]}, ensure_ascii=False, indent=1))
        return
    print("\n".join([*_books(corpus.card, folder), *_figures(corpus)]))
    for document in drawn:
        print("\n".join(["", *_document(document)]))


def _progress() -> Any:
    if not sys.stderr.isatty():
        return None
    last: tuple[str, int] = ("", -1)

    def show(step: str, done: int, total: int) -> None:
        nonlocal last
        share = 100 * done // max(total, 1)
        if (step, share) != last:
            last = (step, share)
            print(f"\r{step:<6} {share:3d} %", end="\n" if share == 100 else "", file=sys.stderr, flush=True)

    return show


def _books(card: dict[str, Any], out: Path) -> list[str]:
    """What people read: the books in one table."""
    removed, failed = sum(card["removed"].values()), sum(card["failed"].values())
    rows = [("in", card["in"]), ("kept", card["kept"]), ("removed", removed)]
    rows += [(f"  {reason}", count) for reason, count in card["removed"].items()]
    rows += [("failed", failed), *[(f"  {reason}", count) for reason, count in card["failed"].items()]]
    rows += [(name.replace("_", " "), count) for name, count in card.get("changes", {}).items()]
    rows += [(f"passed over: {why}", count) for why, count in card["skipped"].items()]
    sizes = ", ".join(f"{split['bytes'] / 1e6:,.2f} MB of {name}" for name, split in card["splits"].items())
    return [*_aligned(rows), f"{out}: {sizes}; card.html, card.json and README.md say where each document came from"]


def _aligned(rows: list[tuple[str, int]]) -> list[str]:
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}  {count:>14,}" for name, count in rows]


def _figures(corpus: Corpus) -> list[str]:
    lines: list[str] = []
    for kind in ("language", "license", "script"):
        counts = list(corpus.card.get(kind, {}).items())
        if counts:
            more = [(f"  and {len(counts) - 10:,} more", sum(n for _, n in counts[10:]))] if len(counts) > 10 else []
            lines += [f"{kind}:", *_aligned([(f"  {name}", count) for name, count in counts[:10]] + more)]
    return lines


def _document(document: Document) -> list[str]:
    named = [document.title, document.url, document.language, document.license, document.date]
    excerpt = document.text if len(document.text) <= EXCERPT else document.text[:EXCERPT].rstrip() + " …"
    head = f"── {document.id} · {document.source} · {len(document.text):,} characters"
    return [head, " · ".join(filter(None, named)), textwrap.indent(excerpt, "   ")]


def _fates(found: list[dict[str, str]], name: str) -> list[str]:
    if not found:
        return [f"{name}: nothing of this id, address or title came in"]
    lines = []
    for fate in found:
        place = " · ".join(filter(None, (fate["source"], fate["where"], fate["title"], fate["url"])))
        said = ", ".join(filter(None, (fate["reason"].replace("_", " "), fate["meaning"], fate["what"])))
        lines.append(f"{fate['fate']}: {said} ({place})")
    return lines
