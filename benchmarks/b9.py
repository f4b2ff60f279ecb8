"""B9: a Wikipedia dump to plain text, on one core: MB of XML a second.

wikiextractor is measured without templates, its fastest way and the closest to ours, which shows only the templates
that carry words; and as it comes, with templates expanded. Of its processes, which it has three of with --processes 1
(one extracts), the clock counts the whole. The dump is unpacked and its pages are repeated with changes until it has
SIZE bytes. Each side is a process of its own with one thread, timed from its start to its end, and writes what it
found to a file.

    ROW        what is measured
    run        peer → Result; DUMP is a .xml or .xml.bz2 file, WIKIEXTRACTOR the program's path (3.1.0, AGPL, separate)

Equality: tokens (words, Han characters) of the same pages; F1 of the counts, the median page, where the peer kept the
page too. The mwparserfromhell side is a script that takes references, tables, galleries, files and categories out, then
calls strip_code.
"""

from __future__ import annotations

import bz2
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.frame import Result, Row, compare
from yanmo.errors import Error, InputError

SIZE = {"wikiextractor": 24_000_000, "wikiextractor-templates": 3_000_000, "mwparserfromhell": 3_000_000}
ROW = Row(
    name="B9",
    job="Wikipedia dump (XML) to plain text, one process of one thread, process start included",
    unit="MB/s",
    goals={"wikiextractor": 3.0, "wikiextractor-templates": 3.0, "mwparserfromhell": 10.0},
)
TOKEN = re.compile(r"[\u3400-\u9fff]|\w+")
OURS = """
import json, sys
from pathlib import Path
from yanmo.corpus import wikipedia
from yanmo.corpus.documents import Document
from yanmo.corpus.sources import Source
path = Path(sys.argv[1])
source = Source(path, path.name, "wikipedia", False, path.stat().st_size)
with open(sys.argv[2], "w", encoding="utf-8") as out:
    for unit in wikipedia.split(source):
        for found in wikipedia.read(unit, {"tables": False}):
            if isinstance(found, Document):
                out.write(json.dumps({"id": json.loads(found.meta)["page"], "text": found.text}) + "\\n")
"""
PARSER = """
import json, sys
import xml.etree.ElementTree as tree
import mwparserfromhell
HIDDEN = ("file:", "image:", "category:")
def name(tag): return tag.rpartition("}")[2]
with open(sys.argv[2], "w", encoding="utf-8") as out:
    for _, page in tree.iterparse(sys.argv[1]):
        if name(page.tag) != "page":
            continue
        found = {name(part.tag): part.text or "" for part in reversed(list(page.iter()))}
        kept = found.get("ns", "0") == "0" and "redirect" not in found
        if kept and not found["text"].lower().startswith("#redirect"):
            code = mwparserfromhell.parse(found["text"])
            out_of = [l for l in code.filter_wikilinks() if str(l.title).strip().lower().startswith(HIDDEN)]
            out_of += code.filter_tags(matches=lambda t: str(t.tag).strip().lower() in ("ref", "table", "gallery"))
            for node in out_of:
                try:
                    code.remove(node)
                except ValueError:  # lies within one that is out already
                    pass
            out.write(json.dumps({"id": found["id"], "text": code.strip_code()}) + "\\n")
        page.clear()
"""


def run(peer: str, repeats: int) -> Result:
    """Measure against one of ROW.goals."""
    with tempfile.TemporaryDirectory() as place:
        dump, ours_out, peer_out = (Path(place) / name for name in ("dump.xml", "ours.jsonl", "peer.jsonl"))
        make(dump, SIZE[peer])
        size = dump.stat().st_size / 1e6
        theirs_command = [sys.executable, "-c", PARSER, str(dump), str(peer_out)]
        if peer != "mwparserfromhell":
            options = ["--json", "--processes", "1", "-q", "-b", "4G", "-o", f"{place}/extracted"]
            options += ["--no-templates"] if peer == "wikiextractor" else []
            theirs_command = [program(), *options, str(dump)]

        def ours() -> float:
            return size / seconds([sys.executable, "-c", OURS, str(dump), str(ours_out)])

        def theirs() -> float:
            return size / seconds(theirs_command)

        result = compare(ROW, peer, ours, theirs, equal="", repeats=repeats)
        paths = sorted(Path(place, "extracted").rglob("wiki_*")) if peer != "mwparserfromhell" else [peer_out]
        equal = agreement(texts([ours_out]), texts(paths))
    return Result(**{**vars(result), "equal": equal})


def program() -> str:
    """The path of wikiextractor."""
    found = shutil.which(os.environ.get("WIKIEXTRACTOR") or "wikiextractor")
    if found is None:
        raise InputError("no wikiextractor; install wikiextractor 3.1.0 apart and set WIKIEXTRACTOR to its program")
    return found


def make(path: Path, size: int) -> None:
    """Write a dump of about `size` bytes: DUMP's pages again and again, with other numbers and titles."""
    dump = Path(os.environ.get("DUMP") or "dump.xml.bz2")
    if not dump.is_file():
        raise InputError(f"{dump}: no such file; set DUMP to a .xml or .xml.bz2 dump of a Wikipedia")
    data = bz2.decompress(dump.read_bytes()) if dump.suffix == ".bz2" else dump.read_bytes()
    start = data.index(b"<page>")
    pages = re.findall(rb"<page>.*?</page>\s*", data[start:], re.DOTALL)
    with open(path, "wb") as out:
        out.write(data[:start])
        number = 0
        while out.tell() < size:
            page = pages[number % len(pages)]
            number += 1
            page = page.replace(b"</title>", b" %d</title>" % number, 1)
            out.write(re.sub(rb"<id>\d+</id>", b"<id>%d</id>" % number, page, count=1))
        out.write(b"</mediawiki>\n")


def seconds(command: list[str]) -> float:
    """How long a command takes, which must succeed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    if "-c" not in command:
        environment.pop("PYTHONPATH")
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    took = time.perf_counter() - started
    if done.returncode:
        raise Error(f"{ROW.name}: {Path(command[0]).name} ended with {done.returncode}: {done.stderr[-300:]}")
    return took


def texts(paths: list[Path]) -> dict[str, str]:
    """Page number → text."""
    rows = (json.loads(line) for path in paths for line in path.open(encoding="utf-8"))
    return {str(row["id"]): row["text"] for row in rows}


def agreement(ours: dict[str, str], peers: dict[str, str]) -> str:
    """How many pages both kept, and the token F1 of them."""
    both = [key for key in ours if peers.get(key, "").strip()]
    if not both:
        raise Error(f"{ROW.name}: no page is in both outputs, so nothing is measured")
    scores = [f1(ours[key], peers[key]) for key in both]
    return (
        f"{len(both):,} pages in both (ours {len(ours):,}, the peer {len(peers):,}); token F1 of the median page "
        f"{statistics.median(scores):.4f}, mean {statistics.fmean(scores):.4f}"
    )


def f1(one: str, other: str) -> float:
    """F1 of the counts of tokens."""
    first, second = Counter(TOKEN.findall(one)), Counter(TOKEN.findall(other))
    return 2 * (first & second).total() / max(first.total() + second.total(), 1)
