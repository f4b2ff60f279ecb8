"""Published corpora by name: lists checked, files downloaded from a server that misbehaves, read as any other."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import hub_server
import pytest

from tests.corpus.made_sources import prose
from yanmo.corpus import remote
from yanmo.corpus.download import Manners, Remote, fetch, read
from yanmo.corpus.ledger import ReadReport
from yanmo.corpus.sources import find_sources
from yanmo.corpus.text import read_documents
from yanmo.errors import FileError, InputError, NetworkError

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
CRAWL = "CC-MAIN-2024-22"
BIG = bytes(range(256)) * 3000
QUICK = Manners(timeout=0.4, attempts=3, pause=0.01, least=50_000)


def big(server) -> Remote:
    server.files["/big"] = BIG
    return Remote(server.url + "/big", "big", len(BIG), "sha1:" + hashlib.sha1(BIG).hexdigest())


# --- one file from a server that misbehaves


@pytest.mark.parametrize(
    "fault", [(500, {}), (503, {"Retry-After": "0"}), (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})]
)
def test_an_answer_of_later_is_asked_again(server, tmp_path: Path, fault) -> None:
    wanted = big(server)
    server.faults["/big"] = [fault, fault]
    assert fetch(wanted, tmp_path, QUICK).read_bytes() == BIG


@pytest.mark.parametrize("fault", ["reset", "stall", "short", "says less", "says more"])
def test_a_connection_that_breaks_is_continued(server, tmp_path: Path, fault: str) -> None:
    wanted = big(server)
    if fault == "says less":  # the whole file as the server tells it is not what is published
        server.faults["/big"] = [fault]
        with pytest.raises(NetworkError, match="instead of"):
            fetch(wanted, tmp_path, QUICK)
    server.faults["/big"] = [] if fault == "says less" else [fault]
    assert fetch(wanted, tmp_path, QUICK).read_bytes() == BIG
    if fault in ("reset", "stall", "short"):
        assert any(asked and asked != "bytes=0-" for _, asked in server.log), "it began anew"


@pytest.mark.parametrize(
    "error", [OSError(errno.EHOSTUNREACH, "No route to host"), ssl.SSLError("bad record mac"), TimeoutError("slow")]
)
def test_a_network_that_breaks_is_not_a_full_disk(server, tmp_path: Path, monkeypatch, error) -> None:
    real, asked = http.client.HTTPResponse.read1, []

    def read1(self, *size):
        asked.append(size)
        if len(asked) == 2:
            raise error
        return real(self, *size)

    monkeypatch.setattr(http.client.HTTPResponse, "read1", read1)
    assert fetch(big(server), tmp_path, QUICK).read_bytes() == BIG and len(server.log) == 2
    monkeypatch.setattr(http.client.HTTPResponse, "begin", lambda self: (_ for _ in ()).throw(error))
    with pytest.raises(NetworkError, match="did not arrive"):
        fetch(Remote(server.url + "/big", "again"), tmp_path, QUICK)


def test_a_server_that_drips_is_left_after_some_attempts(server, tmp_path: Path) -> None:
    wanted = big(server)
    server.faults["/big"] = ["drip"] * 50
    start = time.monotonic()
    with pytest.raises(NetworkError, match="did not arrive"):
        fetch(wanted, tmp_path, QUICK)
    assert time.monotonic() - start < 30 and len(server.log) == QUICK.attempts


def test_a_drip_that_passes_loses_nothing(server, tmp_path: Path) -> None:
    wanted = big(server)
    server.faults["/big"] = ["drip"]
    assert fetch(wanted, tmp_path, QUICK).read_bytes() == BIG


def test_more_than_what_is_published_does_not_fill_the_disk(server, tmp_path: Path) -> None:
    wanted = big(server)
    server.faults["/big"] = ["endless"]
    server.files["/big"] = BIG + BIG
    with pytest.raises(NetworkError, match="instead of"):
        fetch(wanted, tmp_path, QUICK)
    assert not list(tmp_path.glob("big*.part"))


def test_a_file_that_was_changed_here_is_fetched_again(server, tmp_path: Path) -> None:
    wanted = big(server)
    path = fetch(wanted, tmp_path, QUICK)
    path.write_bytes(bytes(len(BIG)))  # the published size
    assert fetch(wanted, tmp_path, QUICK).read_bytes() == BIG and len(server.log) == 2
    assert fetch(wanted, tmp_path, QUICK).read_bytes() == BIG and len(server.log) == 2
    bare = Remote(wanted.url, "bare")
    fetch(bare, tmp_path, QUICK).write_bytes(b"cut")
    assert fetch(bare, tmp_path, QUICK).read_bytes() == BIG


def test_a_limit_of_bytes_a_second_is_kept(server, tmp_path: Path) -> None:
    start = time.monotonic()
    fetch(big(server), tmp_path, Manners(timeout=5, most=2_000_000))
    assert time.monotonic() - start > 0.9 * len(BIG) / 2_000_000 - 0.15


def test_killed_in_the_middle_it_goes_on_where_it_was(server, tmp_path: Path) -> None:
    wanted = big(server)
    server.faults["/big"] = ["stall"]
    code = (
        "import sys; from pathlib import Path; from yanmo.corpus.download import Remote, fetch; "
        "fetch(Remote(sys.argv[1], 'big', int(sys.argv[2]), sys.argv[3]), Path(sys.argv[4]))"
    )
    words = [sys.executable, "-c", code, wanted.url, str(wanted.size), str(wanted.digest), str(tmp_path)]
    child = subprocess.Popen(words, cwd=ROOT)
    deadline = time.monotonic() + 60
    while not ((tmp_path / "big.part").exists() and (tmp_path / "big.part").stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "big").exists()
    held = (tmp_path / "big.part").stat().st_size
    assert fetch(wanted, tmp_path, QUICK).read_bytes() == BIG
    assert server.log[-1] == ("/big", f"bytes={held}-")


def test_two_runs_do_not_write_one_file(server, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    wanted = big(server)
    with open(tmp_path / "big.part", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(FileError, match="another run downloads"):
            fetch(wanted, tmp_path, QUICK)
        assert not server.log
        answers = [read(wanted.url, tmp_path, QUICK) for _ in range(2)]
    assert answers == [BIG, BIG] and [each.name for each in tmp_path.iterdir()] == ["big.part"]
    assert fetch(wanted, tmp_path, QUICK).read_bytes() == BIG


# --- Common Crawl


def archive(number: int) -> bytes:
    """A WARC file of one page."""
    page = f"<html><title>P{number}</title><body><article><p>{prose(number, 20)}</p></article></body></html>".encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://example.org/{number}\r\n"
        f"WARC-Date: 2024-05-20T00:00:0{number % 10}Z\r\nWARC-Record-ID: <urn:uuid:{number:032x}>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(answer)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + answer + b"\r\n\r\n")


def crawl(server, number: int = 12, served: int = 12) -> list[str]:
    paths = [f"crawl-data/{CRAWL}/segments/17.1/warc/{CRAWL}-{n:05d}.warc.gz" for n in range(number)]
    server.files[f"/crawl-data/{CRAWL}/warc.paths.gz"] = gzip.compress("\n".join(paths).encode())
    server.files |= {"/" + path: archive(n) for n, path in enumerate(paths[:served])}
    return paths


def local_paths(names) -> list[Path]:
    """The files of published corpora, all of them fetched."""
    getter = remote.Getter()
    return [getter.get(file) for name in names for file in remote.published(name)]


def names(paths) -> list[str]:
    return [Path(path).name for path in paths]


@pytest.mark.parametrize(
    ("which", "numbers"), [(":2", [0, 1]), (":3-5", [3, 4, 5]), (":*-0001?.warc.gz", [10, 11]), ("", list(range(12)))]
)
def test_archives_of_a_crawl_are_chosen_by_number_range_or_pattern(server, which: str, numbers: list[int]) -> None:
    paths = crawl(server)
    assert names(local_paths([f"cc:{CRAWL}{which}"])) == names(paths[n] for n in numbers)


def test_a_crawl_is_read_as_archives_are_and_survives_faults(server) -> None:
    paths = crawl(server)
    server.faults |= {f"/crawl-data/{CRAWL}/warc.paths.gz": ["reset"], "/" + paths[1]: [(503, {}), "reset"]}
    found = list(read_documents([f"cc:{CRAWL}:3"], ReadReport()))
    assert [document.url for document in found] == [f"http://example.org/{n}" for n in range(3)]
    asked = len(server.log)
    remote.published.cache_clear()
    assert len(find_sources([Path(f"cc:{CRAWL}:3")], ReadReport())) == 3
    assert len(server.log) == asked, "what lies in the cache is not asked for again"


def test_a_whole_crawl_is_not_begun_for_want_of_a_number(server) -> None:
    crawl(server, number=900, served=0)
    with pytest.raises(InputError, match="900 archives .* say which"):
        local_paths([f"cc:{CRAWL}"])


@pytest.mark.parametrize(
    "line",
    ["part-00000-4dd72944.c000.gz.parquet", f"crawl-data/{CRAWL}/../x.warc.gz", "crawl-data/CC-MAIN-2023-01/x.warc.gz"],
)
def test_a_list_of_other_paths_is_refused(server, line: str) -> None:
    good = crawl(server)
    server.files[f"/crawl-data/{CRAWL}/warc.paths.gz"] = gzip.compress("\n".join([*good, line]).encode())
    with pytest.raises(NetworkError, match="check the mirror"):
        local_paths([f"cc:{CRAWL}:1"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared files are not here")
def test_the_shared_list_which_is_none_of_archives_is_refused(server) -> None:
    data = (SHARED / "webcrawl" / f"cc-{CRAWL}.warc.paths.gz").read_bytes()
    server.files[f"/crawl-data/{CRAWL}/warc.paths.gz"] = data
    with pytest.raises(NetworkError, match="lists 'part-00000"):
        local_paths([f"cc:{CRAWL}:1"])


@pytest.mark.parametrize(
    "data", [b"<html>", b"", gzip.compress(b"a" * 99)[:-9], gzip.compress(b"\xff\xfe"), b"\x1f\x8b"]
)
def test_a_list_that_is_none_is_one_sentence(server, data: bytes) -> None:
    server.files[f"/crawl-data/{CRAWL}/warc.paths.gz"] = data
    with pytest.raises(NetworkError):
        local_paths([f"cc:{CRAWL}:1"])


# --- Wikipedia


def dump(language: str = "zh", day: str = "20240601") -> dict[str, bytes]:
    page = (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="zh"><siteinfo>'
        '<dbname>zhwiki</dbname><namespaces><namespace key="0" /></namespaces></siteinfo>\n'
        "<page><title>数学</title><ns>0</ns><id>13</id><revision><id>7</id><timestamp>2024-05-01T00:00:00Z</timestamp>"
        "<model>wikitext</model><format>text/x-wiki</format>"
        f"<text>'''数学'''是研究数量、结构以及空间等概念的一门学科。{'它很古老。' * 20}</text></revision>"
        "</page></mediawiki>"
    )
    name = f"{language}wiki-{day}-pages-articles-multistream"
    return {f"{name}.xml.bz2": bz2.compress(page.encode()), f"{name}-index.txt.bz2": bz2.compress(b"0:13:x\n")}


def serve_dump(server, day: str, status: str = "done", **changes: object) -> dict[str, bytes]:
    files = dump(day=day)
    listed = {
        name: {"size": len(data), "url": f"/zhwiki/{day}/{name}", "sha1": hashlib.sha1(data).hexdigest()} | changes
        for name, data in files.items()
    }
    jobs = {"articlesmultistreamdump": {"status": status, "files": listed if status == "done" else {}}}
    server.files[f"/zhwiki/{day}/dumpstatus.json"] = json.dumps({"version": "0.8", "jobs": jobs}).encode()
    server.files |= {f"/zhwiki/{day}/{name}": data for name, data in files.items()}
    known = server.files.get("/zhwiki/", b"").decode()
    server.files["/zhwiki/"] = (known + f'<a href="{day}/">{day}/</a>\n<a href="latest/">latest/</a>').encode()
    return files


def test_the_last_complete_dump_is_taken(server) -> None:
    serve_dump(server, "20240501")
    serve_dump(server, "20240601")
    serve_dump(server, "20240620", "in-progress")
    server.files["/zhwiki/"] += b'<a href="20240701/">'  # nothing there yet
    found = local_paths(["wikipedia:zh"])
    assert names(found) == ["zhwiki-20240601-pages-articles-multistream.xml.bz2"]
    (document,) = read_documents(["wikipedia:zh"], ReadReport())
    assert document.title == "数学" and document.text.startswith("数学是研究")
    assert names(local_paths(["wikipedia:zh:20240501"])) == [found[0].name.replace("0601", "0501")]


def test_a_dump_that_is_not_done_or_not_there_is_one_sentence(server) -> None:
    serve_dump(server, "20240601", "in-progress")
    for name, what in (("zh:20240601", "in-progress"), ("zh:20240101", "404"), ("zh", "is complete"), ("xx", "404")):
        with pytest.raises(NetworkError, match=what):
            local_paths([f"wikipedia:{name}"])


@pytest.mark.parametrize("changes", [{"sha1": "0" * 40}, {"size": 5}])
def test_a_dump_with_another_checksum_or_size_is_removed(server, changes) -> None:
    serve_dump(server, "20240601", **changes)
    with pytest.raises(NetworkError, match="arrived damaged"):
        local_paths(["wikipedia:zh"])
    assert not list(Path(os.environ["YANMO_CACHE"]).rglob("*.bz2"))


@pytest.mark.parametrize(
    "status",
    [b"[]", b"{", b'{"jobs": 3}', b'{"jobs": {"articlesmultistreamdump": {"status": "done", "files": {"../x": {}}}}}']
    + [b'{"jobs": {"articlesmultistreamdump": {"status": "done", "files": {}}}}', b"[" * 99999],
)
def test_a_status_that_is_none_is_one_sentence(server, status: bytes) -> None:
    serve_dump(server, "20240601")
    server.files["/zhwiki/20240601/dumpstatus.json"] = status
    with pytest.raises((NetworkError, FileError), match="check the mirror"):
        local_paths(["wikipedia:zh"])


# --- names, and the hub


@pytest.mark.parametrize(
    "name", ["cc:CC-MAIN", "cc:../x", f"cc:{CRAWL}:1:2:3", "wikipedia:ZH", "wikipedia:zh:1", "hf:a/b/c", "hf:../x"]
)
def test_a_name_that_is_none_says_how_one_looks(server, name: str) -> None:
    with pytest.raises(InputError, match="write"):
        local_paths([name])


@pytest.mark.parametrize("name", ["YANMO_DOWNLOAD_RATE", "YANMO_DOWNLOAD_TIMEOUT", "YANMO_DOWNLOAD_PAUSE"])
@pytest.mark.parametrize("text", ["fast", "-1", "nan", "inf"])
def test_a_wrong_setting_of_downloads_is_one_sentence(server, monkeypatch, name: str, text: str) -> None:
    crawl(server)
    monkeypatch.setenv(name, text)
    with pytest.raises(InputError, match=f"{name} is '{text}'; give"):
        local_paths([f"cc:{CRAWL}:2"])


def test_files_keep_their_names(server, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cc:mine.txt").write_text("a text")
    assert not remote.is_remote("cc:mine.txt") and not remote.is_remote("C:/x.txt") and remote.is_remote("hf:a/b")
    assert [source.published for source in find_sources(["cc:mine.txt"], ReadReport())] == [None]


ASK = """
import json, sys
from yanmo.corpus.ledger import ReadReport
from yanmo.corpus.text import read_documents
from yanmo.errors import Error
try:
    print(json.dumps([document.text for document in read_documents([sys.argv[1]], ReadReport())]))
except Error as error:
    print(json.dumps({"error": str(error)}))
"""


def ask(name: str, home: Path, url: str, offline: str = "0"):
    values = {"HF_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_OFFLINE": offline, "HF_HUB_ETAG_TIMEOUT": "2"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK, name], env=kept | values, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_data_set_of_the_hub_is_read_cached_and_read_offline(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": f"document {n}"}) + "\n" for n in range(3)).encode()
    files = {"train.jsonl": lines, "README.md": b"card", "more.txt": b"plain words", "model.bin": b"\1\2"}
    with hub_server.serve(hub_server.Hub("owner/set", files)) as hub:
        hub.faults = {"train.jsonl": ["corrupt"]}
        assert "arrived damaged" in ask("hf:owner/set", tmp_path, hub.url)["error"]
        found = ask("hf:owner/set", tmp_path, hub.url)
        assert found == ["plain words", "document 0", "document 1", "document 2"]
        assert ask("hf:owner/set@main:*.txt", tmp_path, hub.url) == ["plain words"]
        assert "no files that match" in ask("hf:owner/set:*.csv", tmp_path, hub.url)["error"]
        assert "check the spelling" in ask("hf:nobody/other", tmp_path, hub.url)["error"]
        url = hub.url
    assert ask("hf:owner/set", tmp_path, url, "1") == found
    assert "has no copy" in ask("hf:owner/other", tmp_path, url, "1")["error"]
