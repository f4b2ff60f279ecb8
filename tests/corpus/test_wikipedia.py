"""Dumps: every page is a document or a counted loss, whatever the packing, the units and the damage."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import zlib
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus import wikipedia, wikipedia_streams
from yanmo.corpus.documents import Document
from yanmo.corpus.sources import Source
from yanmo.corpus.units import Loss, Unit

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "wiki"
HEAD = (
    '<mediawiki xml:lang="zh"><siteinfo><sitename>维基百科</sitename><dbname>zhwiki</dbname>'
    "<base>https://zh.wikipedia.org/wiki/Wikipedia:%E9%A6%96%E9%A1%B5</base><namespaces>"
    '<namespace key="0" case="first-letter" /><namespace key="1" case="first-letter">Talk</namespace>'
    "</namespaces></siteinfo>\n"
)


def page(number: int, text: str, namespace: int = 0) -> str:
    return (
        f"<page><title>题目 {number}</title><ns>{namespace}</ns><id>{number}</id><revision><id>{number + 1000}</id>"
        f"<timestamp>2024-01-02T03:04:05Z</timestamp><model>wikitext</model>"
        f'<text xml:space="preserve">{text}</text></revision></page>\n'
    )


PAGES = [page(n, f"第 {n} 页的文字 &lt;b&gt;粗&lt;/b&gt; &amp;amp; [[甲|乙]]。" * 20) for n in range(40)]
XML = (HEAD + "".join(PAGES) + "</mediawiki>\n").encode()


def source(path: Path, data: bytes) -> Source:
    path.write_bytes(data)
    return Source(path, path.name, "wikipedia", False, len(data))


def everything(source: Source) -> list[Document | Loss]:
    return [found for unit in wikipedia.split(source) for found in wikipedia.read(unit, {})]


def counts(found: list[Document | Loss]) -> Counter[str]:
    return Counter("kept" if isinstance(one, Document) else one.reason for one in found)


def test_a_document_keeps_what_the_dump_says_of_it(tmp_path: Path) -> None:
    first = everything(source(tmp_path / "a.xml", XML))[0]
    assert isinstance(first, Document)
    assert first.title == "题目 0" and first.language == "zh" and first.license == "CC BY-SA 4.0"
    assert unquote(first.url) == "https://zh.wikipedia.org/wiki/题目_0" and first.date == "2024-01-02T03:04:05Z"
    assert '"revision": "1000"' in first.meta and first.text.startswith("第 0 页的文字 粗 & 乙。")


def test_two_pages_of_one_text_are_two_documents(tmp_path: Path) -> None:
    xml = HEAD + page(1, "同一段文字。") + page(2, "同一段文字。") + "</mediawiki>"
    one, other = everything(source(tmp_path / "a.xml", xml.encode()))
    assert isinstance(one, Document) and isinstance(other, Document)
    assert one.text == other.text and one.id != other.id
    again = everything(source(tmp_path / "a.xml", xml.encode()))[0]
    assert isinstance(again, Document) and again.id == one.id


def test_the_head_of_a_file_is_unpacked_once_for_its_units_and_again_when_it_changed(tmp_path, monkeypatch) -> None:
    asked = []
    read_site = wikipedia.read_site
    monkeypatch.setattr(wikipedia, "read_site", lambda head: asked.append(1) or read_site(head))
    made = source(tmp_path / "a.xml", XML)
    units = [Unit(made, 0, 900), Unit(made, 900, 2000), Unit(made, 2000, None)]
    assert sum(isinstance(one, Document) for unit in units for one in wikipedia.read(unit, {})) == 40
    assert len(asked) == 1
    made.path.write_bytes(XML.replace(b"zhwiki", b"enwiki"))
    os.utime(made.path, ns=(1, 1))
    list(wikipedia.read(units[0], {}))
    assert len(asked) == 2


def test_a_real_dump_in_7z_reads_as_the_plain_one(tmp_path: Path) -> None:
    py7zr = pytest.importorskip("py7zr")
    given = DATA / "aawiki-20260101-pages-meta-current.xml.bz2"
    if not given.is_file():
        pytest.skip("the shared dumps are not here")
    xml = bz2.decompress(given.read_bytes())
    plain = everything(source(tmp_path / "aawiki.xml", xml))
    with py7zr.SevenZipFile(tmp_path / "aawiki.xml.7z", "w") as archive:
        archive.write(tmp_path / "aawiki.xml", "aawiki.xml")
    packed = everything(source(tmp_path / "aawiki.xml.7z", (tmp_path / "aawiki.xml.7z").read_bytes()))

    def shown(found: list[Document | Loss]) -> list[tuple[str, str]]:
        return [(one.title, one.text) if isinstance(one, Document) else (one.reason, one.where) for one in found]

    assert shown(packed) == shown(plain) and len(plain) > 100
    cut = (tmp_path / "aawiki.xml.7z").read_bytes()[:-900]
    broken = everything(source(tmp_path / "cut.xml.7z", cut))
    assert [one.reason for one in broken if isinstance(one, Loss)][-1] in ("damaged", "truncated")


@pytest.mark.parametrize("suffix, pack", [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_packed_dumps_read_as_plain_ones(tmp_path: Path, suffix: str, pack) -> None:  # type: ignore[no-untyped-def]
    plain = [one.text for one in everything(source(tmp_path / "a.xml", XML)) if isinstance(one, Document)]
    packed = everything(source(tmp_path / f"a.xml.{suffix}", pack(XML)))
    assert [one.text for one in packed if isinstance(one, Document)] == plain and len(packed) == 40


@pytest.mark.parametrize("step", [1, 37, 997, 5000])
def test_streams_that_cut_anywhere_lose_and_repeat_nothing(tmp_path: Path, step: int, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    data = XML if step > 1 else XML[: 3 * 900]
    packed = b"".join(bz2.compress(data[at : at + step]) for at in range(0, len(data), step))
    whole = source(tmp_path / "a.xml.bz2", packed)
    monkeypatch.setattr(wikipedia_streams, "UNIT_BYTES", 1 << 30)
    alone = everything(whole)
    monkeypatch.setattr(wikipedia_streams, "UNIT_BYTES", 200)
    units = wikipedia.split(whole)
    assert len(units) > 2
    assert [f for unit in units for f in wikipedia.read(unit, {}) if isinstance(f, Document)] == [
        f for f in alone if isinstance(f, Document)
    ]
    assert step == 1 or counts(alone) == {"kept": 40}


@given(st.integers(0, len(XML)), st.integers(0, len(XML)))
@settings(max_examples=60, deadline=None)
def test_plain_units_partition_the_pages(tmp_path_factory, one: int, other: int) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.getbasetemp() / "partition.xml"
    whole = source(path, XML)
    first, second = sorted((one, other))
    units = [Unit(whole, 0, first), Unit(whole, first, second), Unit(whole, second, None)]
    found = [f for unit in units if unit.start != unit.end for f in wikipedia.read(unit, {})]
    assert [f.title for f in found if isinstance(f, Document)] == [f"题目 {n}" for n in range(40)]


def test_a_damaged_page_is_lost_and_the_next_go_on(tmp_path: Path) -> None:
    broken = PAGES[:3] + [PAGES[3][:200]] + PAGES[4:6] + [PAGES[6].replace("粗", "\0")] + PAGES[7:]
    found = everything(source(tmp_path / "a.xml", (HEAD + "".join(broken) + "</mediawiki>").encode()))
    assert counts(found) == {"kept": 38, "damaged": 2}
    invalid = XML.replace("第 5 页".encode(), b"\xff\xfe")
    assert counts(everything(source(tmp_path / "b.xml", invalid))) == {"kept": 39, "invalid_bytes": 1}


def test_a_truncated_dump_says_so(tmp_path: Path) -> None:
    middle = XML.index("题目 20".encode())
    assert counts(everything(source(tmp_path / "a.xml", XML[:middle]))) == {"kept": 20, "truncated": 1}
    between = XML.index("<page><title>题目 20".encode())
    assert counts(everything(source(tmp_path / "b.xml", XML[:between]))) == {"kept": 20, "truncated": 1}
    packed = gzip.compress(XML)
    assert counts(everything(source(tmp_path / "c.xml.gz", packed[:-300])))["truncated"] >= 1


def test_a_dump_cut_in_its_first_block_is_called_truncated(tmp_path: Path) -> None:
    for name, pack in (("a.bz2", bz2.compress), ("a.gz", gzip.compress), ("a.xz", lzma.compress)):
        (found,) = everything(source(tmp_path / name, pack(XML)[:30]))
        assert isinstance(found, Loss) and found.reason == "truncated" and found.failed, name


def test_a_damaged_stream_costs_its_own_pages(tmp_path: Path) -> None:
    streams = [bz2.compress(part.encode()) for part in (HEAD, *("".join(PAGES[n : n + 10]) for n in range(0, 40, 10)))]
    streams[2] = streams[2][:60] + bytes(40) + streams[2][100:]
    found = everything(source(tmp_path / "a.bz2", b"".join([*streams, bz2.compress(b"</mediawiki>")])))
    assert counts(found) == {"kept": 30, "damaged": 1}


def test_hostile_files_are_refused(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    bomb = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb">]>' + XML
    assert counts(everything(source(tmp_path / "a.xml", bomb))) == {"refused": 1}
    assert counts(everything(source(tmp_path / "b.xml", XML.replace(b"&amp;amp;", b"&b;", 1)))) == {
        "kept": 39,
        "damaged": 1,
    }
    assert counts(everything(source(tmp_path / "c.xml", b"nothing"))) == {"not_a_dump": 1}
    assert counts(everything(source(tmp_path / "d.xml", b""))) == {"not_a_dump": 1}
    monkeypatch.setattr(wikipedia_streams, "GRACE", 2 << 20)
    monkeypatch.setattr(wikipedia_streams, "EXPANSION", 2)
    for name, pack in (("e.bz2", bz2.compress), ("e.gz", gzip.compress), ("e.xz", lzma.compress)):
        large = pack(HEAD.encode() + b" " * (8 << 20) + XML)
        assert counts(everything(source(tmp_path / name, large)))["expansion"] == 1, name


def test_an_endless_page_is_dropped_and_the_next_read(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("yanmo.corpus.wikipedia_pages.MAX_PAGE", 3 << 20)
    large = HEAD + page(1, "a" * (5 << 20)) + page(2, "text") + "</mediawiki>"
    assert counts(everything(source(tmp_path / "a.xml", large.encode()))) == {"kept": 1, "too_large": 1}


@given(st.binary(max_size=300), st.integers(0, 2000))
@settings(max_examples=80, deadline=None)
def test_any_bytes_are_documents_or_losses(tmp_path_factory, noise: bytes, at: int) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.getbasetemp() / "noise"
    for data in (bz2.compress(XML), zlib.compress(XML, wbits=31), lzma.compress(XML), XML):
        place = at % len(data)
        found = everything(source(path, data[:place] + noise + data[place + len(noise) :]))
        assert found, "forty pages are never lost without a word"


REASONS = [
    (page(1, "#重定向 [[别处]]"), "redirect"),
    (page(1, "#REDIRECT [[x]]"), "redirect"),
    (page(1, "甲可以指：{{消歧义}}"), "disambiguation"),
    (page(1, "x {{Disambig}}"), "disambiguation"),
    (page(1, "talk", 1), "namespace"),
    (page(1, "{{only}}"), "empty"),
    (page(1, "a{}").replace("wikitext", "css"), "not_wikitext"),
]


@pytest.mark.parametrize("xml, reason", REASONS)
def test_pages_that_are_no_articles_are_removed_with_their_reason(tmp_path: Path, xml: str, reason: str) -> None:
    (found,) = everything(source(tmp_path / "a.xml", (HEAD + xml + "</mediawiki>").encode()))
    assert isinstance(found, Loss) and found.reason == reason and not found.failed


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the real dumps")
def test_all_real_dumps_give_each_page_once() -> None:
    openers = {".bz2": bz2.open, ".gz": gzip.open, ".xz": lzma.open}
    paths = sorted(path for path in DATA.iterdir() if ".tar" not in path.name)
    assert len(paths) == 13
    for path in paths:
        with openers.get(path.suffix, open)(path, "rb") as file:
            data = file.read()
        assert wikipedia.is_dump(data[:4096])
        pages = len(re.findall(rb"</page>", data.replace(b"\0", b"")))
        found = everything(Source(path, path.name, "wikipedia", False, path.stat().st_size))
        assert len(found) == pages, path.name
        assert not any(one.failed for one in found if isinstance(one, Loss)), path.name
