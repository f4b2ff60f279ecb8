"""Foreign bytes of every kind: books that balance or one sentence, never anything else."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.corpus.made_sources import prose
from tests.corpus.test_warc import packed
from tests.corpus.test_wikipedia import PAGES
from yanmo.corpus.engine import make_corpus
from yanmo.corpus.settings import load_settings

WARC = b"".join(packed(3))
DUMP = ("<mediawiki><siteinfo></siteinfo>" + "".join(PAGES[:3]) + "</mediawiki>").encode()
LINES = "\n".join(
    json.dumps({"text": prose(k), "date": "2020-01-01", "url": "http://a\x00b"}) for k in range(4)
).encode()
SEEDS = {
    "a.warc.gz": WARC,
    "b.xml": DUMP,
    "c.jsonl": LINES,
    "d.jsonl.gz": gzip.compress(LINES),
    "e.txt": prose(9).encode(),
    "f.csv": b"text,title\n" + prose(10).encode() + b",x\n",
    "g.html": b"<html><body><p>" + prose(11).encode(),
    "h.parquet": b"PAR1" + bytes(64) + b"PAR1",
    "i.bz2": b"BZh9" + bytes(99),
}
ALL = [
    "duplicates.near=true",
    "duplicates.paragraphs=true",
    "clean.boilerplate=true",
    "quality.on=true",
    "quality.min_words=5",
]


def made_of(raw: Path, out: Path) -> dict[str, Any]:
    """The card of a corpus, whose books balance."""
    card = make_corpus([raw], out, load_settings(None, ALL), engine="here").card
    for counts in [card, *card["sources"].values(), *card["steps"]]:
        assert counts["in"] == counts["kept"] + sum(counts["removed"].values()) + sum(counts["failed"].values())
    lines = (out / "quarantine.jsonl").read_text("utf-8").splitlines()
    assert len([json.loads(line) for line in lines]) == sum(card["failed"].values())
    return card


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(SEEDS)), damage=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=40)), max_size=4)
)
def test_any_damage_is_in_the_books(tmp_path, name, damage):
    data = bytearray(SEEDS[name])
    for place, wrong in damage:
        at = int(place * len(data))
        data[at : at + len(wrong)] = wrong
    raw = tmp_path / "raw"
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir()
    (raw / name).write_bytes(data)
    (raw / "good.txt").write_text(prose(20), "utf-8")
    card = made_of(raw, tmp_path / "out")  # whatever lies beside it, a good text stays, and no folder is refused
    assert card["sources"]["raw/good.txt"]["kept"] == 1


def test_a_folder_of_everything_that_is_wrong(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, data in SEEDS.items():
        (raw / name).write_bytes(data)
        (raw / f"cut-{name}").write_bytes(data[: len(data) // 2])
        (raw / f"zeros-{name}").write_bytes(data[:20] + bytes(2000) + data[20:])
    (raw / "empty.txt").write_bytes(b"")
    (raw / "empty.xml").write_bytes(b"")
    (raw / "empty.warc.gz").write_bytes(b"")
    (raw / "half.txt").write_bytes("中文".encode()[:-1] * 30)
    (raw / "bomb.txt.gz").write_bytes(gzip.compress(bytes(70 * 2**20)))
    (raw / "entities.xml").write_bytes(b'<!DOCTYPE m [<!ENTITY a "b">]><mediawiki>&a;</mediawiki>')
    (raw / "gone.txt").symlink_to("nowhere")
    (raw / "round").symlink_to(".")
    (raw / "line\nbreak.txt").write_text(prose(2), "utf-8")
    card = made_of(raw, tmp_path / "out")
    assert card["sources"]["raw/entities.xml"]["failed"] in ({"refused": 1}, {"not_a_dump": 1})
    assert card["sources"]["raw/bomb.txt.gz"]["kept"] == 0 and card["failed"]["unreadable"] >= 1
    assert card["kept"] >= 8 and all("\n" not in problem["what"] for problem in card["problems"])


def test_many_broken_links_are_all_in_quarantine(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text(prose(1) + "\n\n" + prose(2), "utf-8")
    for k in range(150):
        (tmp_path / "raw" / f"{k}.txt").symlink_to("nowhere")
    made_of(tmp_path / "raw", tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 150 and {line["reason"] for line in lines} == {"unreadable"}
    assert len({line["source"] for line in lines}) == 150


@pytest.mark.parametrize("name", ["card.json", "quarantine.jsonl"])
def test_a_corpus_says_nothing_of_where_its_sources_lay(tmp_path, name):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.parquet").write_bytes(b"PAR1" + bytes(64) + b"PAR1")
    (tmp_path / "raw" / "b.txt").write_text(prose(1) + "\n\n" + prose(2), "utf-8")
    make_corpus([tmp_path / "raw"], tmp_path / "out", engine="here")
    assert str(tmp_path) not in (tmp_path / "out" / name).read_text("utf-8")
