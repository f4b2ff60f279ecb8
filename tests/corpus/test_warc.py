"""Archives: whole ones, odd ones, and ones that are damaged on purpose."""

import gzip
import json
import zlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus import warc, warc_streams
from yanmo.corpus.sources import Source
from yanmo.corpus.units import Loss, Unit
from yanmo.corpus.warc_records import MAX_RECORD, Record, records

SHARED = Path(__file__).resolve().parents[3] / "shared/data/webcrawl"
FAST = {"careful": "off"}
EXPECTED = {
    "aut-example.txt.warc.gz": {"doc": 1, "media_type": 1, "request": 2, "warcinfo": 2},
    "cc-whirlwind.warc.gz": {"doc": 1, "metadata": 1, "request": 1, "warcinfo": 1},
    "cc-whirlwind.warc.wat.gz": {"metadata": 1, "warcinfo": 1},
    "cc-whirlwind.warc.wet.gz": {"doc": 1, "warcinfo": 1},
    "jwarc-cc.warc.gz": {"doc": 1},
    "jwarc-gzip_extra_sl.warc.gz": {"warcinfo": 1},
    "pywb-iana.warc.gz": {
        "doc": 16,
        "http_status": 4,
        "media_type": 28,
        "request": 171,
        "revisit": 123,
        "warcinfo": 1,
    },
    "resiliparse-clueweb-quirk.warc.gz": {"doc": 29, "warcinfo": 1},
    "cc_net-sample.warc.txt": {"doc": 2, "no_header!": 1, "warcinfo": 1},
    "warcio-example-trunc.warc": {"cut_packing!": 1, "no_header!": 1, "request": 1, "warcinfo": 2},
    "warcio-example-space-in-url.arc": {"doc": 1, "warcinfo": 1},
    "warcio-bad.arc": {"bad_length!": 3, "empty_page": 1},
    "warcio-example-bad-non-chunked.warc.gz": {"doc": 1, "request": 2, "revisit": 1, "warcinfo": 2},
    "warcio-example-iana.org-chunked.warc": {"doc": 1, "request": 1, "warcinfo": 1},
    "warcio-example-wget-bad-target-uri.warc.gz": {"doc": 3, "metadata": 1, "request": 1, "warcinfo": 1},
    "warcio-example-wrong-chunks.warc.gz": {"request": 1, "wrong_digest!": 1},
    "warcio-example.arc": {"doc": 1, "warcinfo": 1},
    "warcio-example.arc.gz": {"doc": 1, "warcinfo": 1},
    "warcio-example.warc": {"doc": 1, "request": 2, "revisit": 1, "warcinfo": 2},
    "warcio-example.warc.gz": {"doc": 1, "request": 2, "revisit": 1, "warcinfo": 2},
    "warcio-post-test.warc.gz": {"media_type": 3, "request": 3},
}


def read(path: Path, units: list[Unit] | None = None) -> list:
    source = Source(path, path.name, "warc", False, path.stat().st_size)
    return [found for unit in units or warc.READER.split(source) for found in warc.READER.read(unit, FAST)]


def counted(found: list) -> Counter:
    return Counter((f.reason + "!" * f.failed) if isinstance(f, Loss) else "doc" for f in found)


def page(number: int) -> bytes:
    words = " ".join(f"word{(number * 7919 + k * 31) % 9973}" for k in range(120))
    body = f"<p>Page {number} says {words}.</p>"
    return f"<html><head><title>Page {number}</title></head><body>{body}</body></html>".encode()


def response(number: int, body: bytes | None = None, header: bytes = b"", length: int | None = None) -> bytes:
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n" + header + b"\r\n" + (body or page(number))
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://example.com/{number}\r\n"
        f"WARC-Date: 2024-05-01T00:00:00Z\r\nContent-Length: {len(block) if length is None else length}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def packed(count: int) -> list[bytes]:
    return [gzip.compress(response(i), mtime=0) for i in range(count)]


@pytest.mark.parametrize("name", EXPECTED)
def test_every_archive_is_read_and_only_its_damaged_records_are_lost(name: str):
    path = SHARED / name
    if not path.is_file():
        pytest.skip("the archive is not here")
    assert warc.is_archive(path.read_bytes()[:4096])
    assert counted(read(path)) == EXPECTED[name]


def test_a_list_of_paths_is_no_archive():
    assert not warc.is_archive(gzip.compress(b"crawl-data/CC-MAIN-2024-22/segments/1/warc/a.warc.gz\n"))
    assert not warc.is_archive(b"")
    assert warc.is_archive(response(1)) and warc.is_archive(packed(1)[0])


def test_zeros_in_the_middle_lose_one_stretch(tmp_path: Path):
    members = packed(400)
    data = bytearray(b"".join(members))
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    path = tmp_path / "damaged.warc.gz"
    path.write_bytes(data)
    found = read(path)
    assert counted(found)["doc"] >= 0.99 * 400
    losses = [f for f in found if isinstance(f, Loss)]
    assert [f.reason for f in losses] == ["damaged"] and losses[0].where.startswith("byte ") and losses[0].failed


def test_an_archive_that_ends_early_says_so(tmp_path: Path):
    path = tmp_path / "cut.warc.gz"
    path.write_bytes(b"".join(packed(20))[:-40])
    assert counted(read(path)) == {"doc": 19, "truncated!": 1}
    plain = tmp_path / "cut.warc"
    plain.write_bytes(b"".join(map(response, range(20)))[:-40])
    assert counted(read(plain)) == {"doc": 19, "truncated!": 1}


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_wrong_lengths_lose_the_record_that_states_them(tmp_path: Path, pack):
    odd = [response(90, length=10**7), response(91, length=2 * 2**30), response(92, length=-1)]
    parts = [response(0), odd[2], response(1), odd[0], response(2), response(3), odd[1]]
    path = tmp_path / "lengths.warc"
    path.write_bytes(b"".join(map(pack, parts)))
    found = read(path)
    assert counted(found)["doc"] == 4 and sum(counted(found).values()) == 7
    assert {f.url for f in found if isinstance(f, Loss)} >= {f"http://example.com/{n}" for n in (90, 91, 92)}


def test_a_record_too_large_is_passed_by_without_being_held(tmp_path: Path):
    path = tmp_path / "large.warc.gz"
    large = response(5, body=b"\0" * (MAX_RECORD + 1))
    path.write_bytes(gzip.compress(response(1)) + gzip.compress(large, 1) + gzip.compress(response(2)))
    found = read(path)
    assert counted(found)["doc"] == 2 and sum(counted(found).values()) == 3


def test_ranges_of_one_file_give_what_the_whole_file_gives(tmp_path: Path):
    members = packed(200)
    data = bytearray(b"".join(members))
    at = sum(map(len, members[:100]))
    data[at + 30 : at + 60] = bytes(30)
    path = tmp_path / "ranges.warc.gz"
    path.write_bytes(data)
    source = Source(path, path.name, "warc", False, len(data))
    whole = read(path, [Unit(source)])
    for edges in ([at], [at + 1], [at + 31], [at - 1], [5000, at, at + 40, 50000]):
        places = [0, *sorted(edges), None]
        cut = read(path, [Unit(source, a, b) for a, b in zip(places, places[1:])])
        assert [f for f in cut if not isinstance(f, Loss)] == [f for f in whole if not isinstance(f, Loss)]
        assert counted(cut)["damaged!"] == 1


def test_one_gzip_of_many_records_and_lz4_are_read(tmp_path: Path):
    path = tmp_path / "one.warc.gz"
    path.write_bytes(gzip.compress(b"".join(map(response, range(50)))))
    assert counted(read(path)) == {"doc": 50}
    lz4 = pytest.importorskip("lz4.frame")
    path.write_bytes(b"".join(lz4.compress(response(i)) for i in range(50)))
    assert counted(read(path)) == {"doc": 50}


def test_a_wrong_checksum_loses_its_member(tmp_path: Path):
    members = packed(5)
    members[2] = members[2][:-8] + bytes(4) + members[2][-4:]
    path = tmp_path / "crc.warc.gz"
    path.write_bytes(b"".join(members))
    assert counted(read(path)) == {"doc": 4, "damaged!": 1}


def test_robots_licences_and_truncation_are_kept(tmp_path: Path):
    html = (
        b'<html><head><meta name="robots" content="noindex, NOARCHIVE"></head><body><p>A text that is long enough to '
        b'stay here.</p><a rel="license" href="https://creativecommons.org/licenses/by/4.0/">CC</a></body></html>'
    )
    record = response(1, html).replace(b"WARC-Date", b"WARC-Truncated: length\r\nWARC-Date")
    path = tmp_path / "one.warc"
    path.write_bytes(record)
    (document,) = read(path)
    meta = json.loads(document.meta)
    assert meta["robots"] == "noindex, noarchive" and meta["truncated"] == "length"
    assert document.license == "https://creativecommons.org/licenses/by/4.0/"
    assert document.url == "http://example.com/1" and document.date == "2024-05-01T00:00:00Z"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**30), st.binary(min_size=1, max_size=60), st.booleans())
def test_any_damage_is_survived_and_counted(place: int, junk: bytes, plain: bool):
    parts = [response(i) for i in range(8)] if plain else packed(8)
    data = bytearray(b"".join(parts))
    at = place % len(data)
    data[at : at + len(junk)] = junk
    data = data[: sum(map(len, parts))]
    kind = "plain" if plain else "gzip"
    if not plain and at < 3:
        return  # the mark of the file itself
    found = list(records(warc_streams.blocks(bytes(data), kind, 0, len(data)), plain))
    whole = sum(isinstance(f, Record) for f in found)
    assert whole >= 6
    assert whole == 8 or any(isinstance(f, Loss) and f.failed for f in found)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000))
def test_foreign_bytes_are_losses(data: bytes):
    for kind in ("plain", "gzip"):
        for found in records(warc_streams.blocks(data, kind, 0, len(data)), kind == "plain"):
            assert isinstance(found, Loss | Record)


def test_a_member_that_grows_without_end_is_left(tmp_path: Path):
    squeeze = zlib.compressobj(9, wbits=31)
    bomb = b"".join(squeeze.compress(bytes(2**20)) for _ in range(200)) + squeeze.flush()
    path = tmp_path / "bomb.warc.gz"
    path.write_bytes(packed(1)[0] + bomb + gzip.compress(response(2)))
    assert counted(read(path))["doc"] == 2
