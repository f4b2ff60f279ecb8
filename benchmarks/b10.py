"""B10: an archive of real pages → clean documents without duplicates, one core: datatrove with its defaults, and ours.

The archive is made of the pages of the gold set (extraction.py), each as it is and once more with other words in it,
every record a gzip member. Both read it, find the main text, apply the rules of Gopher, and leave
out near duplicates. Seconds are those of a process from its start to its end, and the figure is MB of HTML a second.

    ROW        what is measured
    run        peer → Result; DATATROVE is the Python of an environment in which datatrove with its extras is installed
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import extraction
from benchmarks.frame import Result, Row, compare
from yanmo.errors import Error, InputError

ROW = Row(
    name="B10",
    job="an archive of web pages to clean documents without near duplicates, one core, process start included",
    unit="MB of HTML/s",
    goals={"datatrove": 1.5},
)
TIMES = 2  # how often a page is in the archive: as it is, and with other words in it
OURS = """
import sys
from pathlib import Path
from yanmo.corpus import clean, groups, quality, warc
from yanmo.corpus.documents import write_corpus
from yanmo.corpus.sources import Source
from yanmo.corpus.units import Loss

path, place = Path(sys.argv[1]), Path(sys.argv[2])
source = Source(path, path.name, "warc", True, path.stat().st_size)
kept = {}  # by id: the same text is the same document
for unit in warc.READER.split(source):
    for found in warc.READER.read(unit, {"careful": "on"}):
        if not isinstance(found, Loss):
            text = clean.clean(found.text)
            if clean.reject(text) is None and quality.judge(text)[1] is None:
                kept[found.id] = found
kept = list(kept.values())
writer = groups.Writer(place / "signatures")
for start in range(0, len(kept), 256):
    part = kept[start : start + 256]
    writer.add([d.id for d in part], [d.text for d in part])
writer.close()
removed = groups.group([place / "signatures"]).removed()
documents = [d for d in kept if d.id not in removed]
write_corpus(documents, place)
print(len(kept), len(documents))
"""
THEIRS = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.writers import JsonlWriter
import os
path, place = sys.argv[1], sys.argv[2]
folder, name = os.path.split(path)
steps = [
    [WarcReader(folder, glob_pattern=name), Trafilatura(), GopherRepetitionFilter(), GopherQualityFilter(),
     JsonlWriter(place + "/texts")],
    [JsonlReader(place + "/texts"), MinhashDedupSignature(place + "/signatures")],
    [MinhashDedupBuckets(place + "/signatures", place + "/buckets")],
    [MinhashDedupCluster(place + "/buckets", place + "/removed")],
    [JsonlReader(place + "/texts"), MinhashDedupFilter(place + "/removed"), JsonlWriter(place + "/kept")],
]
for number, pipeline in enumerate(steps):
    tasks = 14 if number == 2 else 1
    LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=place + f"/logs{number}").run()
"""

EXTRACT = """
import importlib.metadata, json, sys
from datatrove.pipeline.extractors import Trafilatura
tool = Trafilatura()
texts = [tool.extract(open(path, "rb").read().decode("utf-8", "replace")) or "" for path in sys.argv[1:]]
print(json.dumps([importlib.metadata.version("trafilatura"), importlib.metadata.version("datatrove"), texts]))
"""


def peer_score(python: str) -> str:
    """The token F of what the peer's extractor finds in the peer's environment, and its versions."""
    gold = extraction.load()
    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place) / str(number) for number in range(len(gold))]
        for path, (page, _, _) in zip(paths, gold):
            path.write_bytes(page)
        done = subprocess.run([python, "-c", EXTRACT, *map(str, paths)], capture_output=True, text=True)
    if done.returncode:
        raise Error(f"{ROW.name}: the peer's extractor ended with {done.returncode}: {done.stderr[-2000:]}")
    extractor, peer, texts = json.loads(done.stdout.splitlines()[-1])
    found = {page: text for (page, _, _), text in zip(gold, texts)}
    return f"{extraction.score(gold, found.__getitem__)['f']:.4f} (datatrove {peer} with trafilatura {extractor})"


def make_archive(path: Path) -> int:
    """Write the archive; returns the bytes of HTML in it."""
    total, number = 0, 0
    with open(path, "wb") as file:
        for page, _, _ in extraction.load():
            for turn in range(TIMES):
                html = page
                if turn:
                    html = page.replace(b" the ", b" the%d " % turn).replace(b" und ", b" u%d " % turn)
                block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + html
                header = (
                    f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
                    f"WARC-Target-URI: http://example.com/{number}\r\nWARC-Date: 2024-05-01T00:00:00Z\r\n"
                    f"WARC-Identified-Payload-Type: text/html\r\nContent-Type: application/http; msgtype=response\r\n"
                    f"Content-Length: {len(block)}\r\n\r\n"
                )
                file.write(gzip.compress(header.encode() + block + b"\r\n\r\n", 6, mtime=0))
                total, number = total + len(html), number + 1
    return total


def peer_python() -> str:
    """The Python that runs the peer."""
    python = os.environ.get("DATATROVE", "")
    if not Path(python).is_file():
        raise InputError("DATATROVE names no Python; install datatrove[io,processing] and spacy, and name their Python")
    return python


def timed(python: str, script: str, archive: Path, size: int) -> float:
    """MB of HTML a second of one process on one core."""
    with tempfile.TemporaryDirectory() as place:
        words = ["taskset", "-c", "0", python, "-c", script, str(archive), place]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        began = time.perf_counter()
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise Error(f"{ROW.name}: {python} ended with {done.returncode}: {done.stderr[-2000:]}")
        return size / seconds / 1e6


def run(peer: str, repeats: int) -> Result:
    """Measure against one of ROW.goals."""
    theirs = peer_python()
    with tempfile.TemporaryDirectory() as place:
        archive = Path(place) / "pages.warc.gz"
        size = make_archive(archive)
        f = extraction.score(extraction.load(), lambda page: extraction.ours(page, {"careful": "on"}))["f"]
        return compare(
            ROW,
            peer,
            lambda: timed(sys.executable, OURS, archive, size),
            lambda: timed(theirs, THEIRS, archive, size),
            equal=f"token F on the gold pages: ours {f:.4f}, the peer {peer_score(theirs)}",
            packages=("trafilatura", "resiliparse"),
            repeats=repeats,
        )
