"""A folder of small sources of every kind, the same on every machine, and what a corpus made of it is compared by."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import os
import random
from pathlib import Path

from tests.corpus.test_warc import packed
from tests.corpus.test_wikipedia import PAGES
from yanmo.corpus.documents import new_document, write_corpus

NOUNS = ("ship", "harbour", "morning", "pier", "bridge", "engine", "hall", "tram", "city", "river", "garden", "window")
VERBS = ("left", "crossed", "painted", "opened", "carried", "watched", "followed", "lifted", "answered", "found")
汉字 = "今天天气很好我们一起去公园散步看见许多人在湖边钓鱼也有孩子草地上放风筝城市春夏秋冬山水书信朋友"


def prose(number: int, sentences: int = 12) -> str:
    """English sentences that nobody else says."""
    lot = random.Random(number)
    lines = []
    for k in range(sentences):
        words = [lot.choice(NOUNS), lot.choice(VERBS), "the", lot.choice(NOUNS), "and", lot.choice(VERBS), "a"]
        lines.append(f"The {' '.join(words)} {lot.choice(NOUNS)} of number {number * 100 + k}.")
    return " ".join(lines)


def 中文(number: int, characters: int = 200) -> str:
    lot = random.Random(number)
    return "".join(lot.choice(汉字) + ("，" if k % 12 == 11 else "") for k in range(characters)) + "。"


def sources(folder: Path, files: int = 24) -> Path:
    """Write the folder: texts, lines, a page, a corpus, a dump, archives, damage, duplicates."""
    folder.mkdir()
    for k in range(files):
        text = prose(k) if k % 3 else 中文(k)
        (folder / f"text-{k:03d}.txt").write_text(text, "utf-8")
    (folder / "again.txt").write_text(prose(1), "utf-8")
    (folder / "near.txt").write_text(prose(2, 60) + " It ended.", "utf-8")
    (folder / "nearer.txt").write_text(prose(2, 60), "utf-8")
    (folder / "old.txt").write_bytes(中文(1000).encode("gb18030"))
    rows = [
        {"text": prose(100 + k), "url": f"https://www.example{k % 3}.org/{k}", "date": f"20{k:02d}-01-01"}
        for k in range(30)
    ]
    lines = [json.dumps(row) for row in rows] + ["{broken", '{"title": "none"}']
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[:20]).encode(), mtime=0)[:-300])
    table = "text,license\n" + "".join(f'"{prose(200 + k)}",MIT\n' for k in range(20))
    (folder / "table.csv.bz2").write_bytes(bz2.compress(table.encode()))
    (folder / "page.html").write_text(f"<html><body><p>{prose(300)}</p></body></html>", "utf-8")
    head = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="zh"><siteinfo>'
    head += "<base>https://zh.wikipedia.org/wiki/Main</base></siteinfo>"
    (folder / "wiki.xml").write_text(head + "".join(PAGES[:5]) + "</mediawiki>", "utf-8")
    (folder / "web.warc.gz").write_bytes(b"".join(packed(8))[:-20])
    (folder / "binary.txt").write_bytes(bytes(2000))
    shards = folder / "shards"
    shards.mkdir()
    write_corpus([new_document(prose(400 + k), "elsewhere", language="en") for k in range(10)], shards)
    for path in sorted(folder.rglob("*")):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


def fingerprints(folder: Path) -> dict[str, str]:
    """The name and hash of every file of a folder."""
    found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}
