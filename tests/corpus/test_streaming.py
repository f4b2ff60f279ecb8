"""Published corpora are fetched file by file while they are read: nothing more than is read, the same bytes always."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import hub_server
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.corpus.made_sources import fingerprints, prose
from tests.corpus.test_remote import CRAWL, ROOT, crawl
from yanmo.corpus import engine, remote
from yanmo.corpus.download import Published, Remote
from yanmo.corpus.engine_fetch import DEATHS, Fetcher
from yanmo.corpus.engine_files import Plan, load_plan, stage_path, write_stage
from yanmo.corpus.engine_stages import Stages
from yanmo.corpus.ledger import ReadReport
from yanmo.corpus.settings import CorpusRecipe
from yanmo.corpus.sources import Source, find_sources
from yanmo.corpus.text import read_documents
from yanmo.errors import FileError, InputError, NetworkError

NAME = f"cc:{CRAWL}:3"
LIST = f"/crawl-data/{CRAWL}/warc.paths.gz"
RUN = """
import sys
from yanmo.corpus import engine
engine.TASK_BYTES = 100
engine.make_corpus(sys.argv[2:], sys.argv[1], workers=1)
"""


def asked(server) -> list[str]:
    """The archives that were asked for, in order."""
    return [path.rpartition("/")[2] for path, _ in server.log if path != LIST]


def cached() -> set[str]:
    return {path.name for path in Path(os.environ["YANMO_CACHE"]).rglob("*.warc.gz")}


def of(paths) -> list[str]:
    return [path.rpartition("/")[2] for path in paths]


def make(names, out: Path, where: str = "here", **more):
    remote.published.cache_clear()
    return engine.make_corpus(names, out, engine=where, workers=1, **more)


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("local")
    for k in range(2):
        (folder / f"{k}.txt").write_text(prose(90 + k), "utf-8")
    return [folder / "0.txt", folder / "1.txt"]


def test_an_archive_is_fetched_when_its_turn_comes_and_none_behind_the_last_document(server) -> None:
    paths = of(crawl(server))
    documents = read_documents([NAME])
    assert asked(server) == []
    assert next(documents).url.endswith("/0") and asked(server) == paths[:1]
    assert next(documents).url.endswith("/1") and asked(server) == paths[:2]
    documents.close()
    assert asked(server) == paths[:2] == sorted(cached())


def test_workers_read_what_has_come_while_the_rest_is_fetched(server, tmp_path, monkeypatch) -> None:
    paths = crawl(server)
    monkeypatch.setenv("YANMO_DOWNLOAD_TIMEOUT", "60")
    server.faults["/" + paths[1]] = ["wait"]  # until the first has been read
    seen = []

    def progress(step: str, done: int, total: int) -> None:
        assert done <= total
        if step == "read" and done and not seen:
            seen.append(cached())
            server.gate.set()

    assert make([NAME], tmp_path / "out", "local", progress=progress).card["kept"] == 3
    assert seen == [set(of(paths)[:1])]


def test_the_bytes_do_not_depend_on_what_was_there_or_stays(server, tmp_path, monkeypatch, local) -> None:
    paths = of(crawl(server))
    names = [local[0], NAME, local[1]]
    fresh = make(names, tmp_path / "fresh")
    assert make(names, tmp_path / "again").card == fresh.card and asked(server) == paths[:3]
    assert fresh.card["kept"] == 5 and f"{CRAWL}/{paths[0]}" in fresh.card["sources"]
    for path in Path(os.environ["YANMO_CACHE"]).rglob(f"{paths[1]}*"):
        path.unlink()
    monkeypatch.setenv("YANMO_DOWNLOAD_KEEP", "0")
    make(names, tmp_path / "removed", "local")
    assert cached() == {paths[0], paths[2]}, "what was there before stays, what was fetched for this corpus goes"
    want = fingerprints(tmp_path / "fresh")
    assert fingerprints(tmp_path / "again") == fingerprints(tmp_path / "removed") == want


def test_where_files_are_removed_only_two_lie_on_the_disk(server, tmp_path, monkeypatch) -> None:
    paths = of(crawl(server))
    monkeypatch.setenv("YANMO_DOWNLOAD_KEEP", "0")
    most = []
    make([f"cc:{CRAWL}:8"], tmp_path / "out", progress=lambda *_: most.append(len(cached())))
    assert max(most) <= 2 and not cached() and asked(server) == paths[:8]
    assert [d.url[-1] for d in read_documents([f"cc:{CRAWL}:2"])] == ["0", "1"] and not cached()
    monkeypatch.setenv("YANMO_DOWNLOAD_KEEP", "never")
    with pytest.raises(InputError, match="YANMO_DOWNLOAD_KEEP is 'never'; give 1, or 0"):
        make([NAME], tmp_path / "out")


def test_no_third_file_is_fetched_before_one_is_read_and_removed(server, tmp_path, monkeypatch) -> None:
    paths = of(crawl(server))
    monkeypatch.setenv("YANMO_DOWNLOAD_KEEP", "0")
    engine.prepare_folders(tmp_path / "work")
    sources = find_sources([f"cc:{CRAWL}:4"], ReadReport())
    stages = Stages(tmp_path / "work", sources, CorpusRecipe(), "read", 100)

    def take(most: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while len(stages.plan.tasks) < most and time.monotonic() < deadline:
            stages.take(0.1)

    try:
        take(2, 60)
        take(3, 1)
        assert len(stages.plan.tasks) == 2 and cached() == set(paths[:2])
        stages.done(0)
        take(3, 60)
        assert len(stages.plan.tasks) == 3 and cached() == set(paths[1:3]) and not stages.ended
    finally:
        stages.close()


def test_a_file_that_two_names_share_is_read_once_and_not_removed_before(server, tmp_path, monkeypatch) -> None:
    paths = of(crawl(server))
    monkeypatch.setenv("YANMO_DOWNLOAD_KEEP", "0")
    names = [f"cc:{CRAWL}:2", f"cc:{CRAWL}:1-2"]
    card = make(names, tmp_path / "out").card
    assert (card["in"], card["kept"], asked(server)) == (3, 3, paths[:3])
    assert [document.url[-1] for document in read_documents(names)] == ["0", "1", "2"]


def test_a_stage_that_is_another_now_is_read_anew_by_whoever_knew_the_first(tmp_path) -> None:
    def stage(name: str) -> Plan:
        return Plan(CorpusRecipe(), (Source(tmp_path / name, name, "text", False, 1),), ((0, 0, None),), ((0, 1),))

    for number, name in enumerate("abc"):
        write_stage(tmp_path, number, stage(name))
    assert [source.name for source in load_plan(str(tmp_path)).sources] == ["a", "b", "c"]
    stage_path(tmp_path, 2).unlink()  # by another process
    assert not write_stage(tmp_path, 1, stage("new"))
    assert [source.name for source in load_plan(str(tmp_path)).sources] == ["a", "new"]
    write_stage(tmp_path, 2, stage("c"))
    assert [source.name for source in load_plan(str(tmp_path)).sources] == ["a", "new", "c"]


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_killed_while_it_fetches_it_goes_on_to_the_same_bytes(server, tmp_path, monkeypatch, local) -> None:
    paths = crawl(server)
    names = [str(local[0]), NAME, str(local[1])]
    monkeypatch.setattr(engine, "TASK_BYTES", 100)
    make(names, tmp_path / "want")
    for path in Path(os.environ["YANMO_CACHE"]).rglob("*.warc.gz*"):
        path.unlink()
    server.log.clear()
    monkeypatch.setenv("YANMO_DOWNLOAD_KEEP", "0")
    monkeypatch.setenv("YANMO_DOWNLOAD_TIMEOUT", "60")
    words = [sys.executable, "-c", RUN, str(tmp_path / "out"), *names]
    for number, stop in enumerate((signal.SIGKILL, signal.SIGINT), start=1):
        server.faults["/" + paths[1]] = ["wait"]
        default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a job behind & lacks
        child = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL, preexec_fn=default)
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "out.work").rglob("read/*.json"))) < 2 or asked(server).count(of(paths)[1]) < number:
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.05)
        child.send_signal(stop)
        assert child.wait(60) != 0
    time.sleep(1)
    server.gate.set()  # whoever still waits for the second has it now
    time.sleep(1)
    assert of(paths)[1] not in cached(), "a process that fetches has outlived its run"
    subprocess.run(words, cwd=ROOT, check=True)
    assert fingerprints(tmp_path / "out") == fingerprints(tmp_path / "want")
    assert asked(server).count(of(paths)[0]) == 1, "what has been read is not fetched again"
    assert not cached()


def test_a_file_that_does_not_arrive_ends_the_run_and_the_same_command_goes_on(server, tmp_path) -> None:
    paths = crawl(server)
    held = server.files.pop("/" + paths[2])
    with pytest.raises(NetworkError, match="HTTP 404"):
        make([NAME], tmp_path / "out")
    server.files["/" + paths[2]] = held
    asked_before = len(asked(server))
    assert make([NAME], tmp_path / "out").card["kept"] == 3
    assert asked(server)[asked_before:] == of(paths)[2:3]


def test_a_process_that_fetches_and_dies_is_begun_anew_but_not_for_ever(server) -> None:
    crawl(server)
    (file,) = remote.published(f"cc:{CRAWL}:1")
    for deaths in (1, DEATHS):
        fetcher = Fetcher()
        try:
            fetcher.begin(file)
            for _ in range(min(deaths, DEATHS - 1)):
                fetcher._child.kill()
                assert fetcher.poll(60) is None and fetcher.busy
            if deaths == DEATHS:
                fetcher._child.kill()
                with pytest.raises(NetworkError, match="died 3 times; run again"):
                    fetcher.poll(60)
            else:
                assert fetcher.poll(120).is_file()
            assert not fetcher.busy
        finally:
            fetcher.close()


# --- the hub

ASK = """
import json, sys, warnings
from yanmo.corpus.text import read_documents
from yanmo.errors import Error
warnings.simplefilter("always")
texts = []
try:
    with warnings.catch_warnings(record=True) as said:
        for document in read_documents([sys.argv[1]]):
            texts.append([document.source, document.text])
            if len(texts) == int(sys.argv[2]):
                break
    print(json.dumps({"texts": texts, "said": [str(each.message) for each in said]}))
except Error as error:
    print(json.dumps({"texts": texts, "error": str(error)}))
"""


def ask(name: str, most: int, home: Path, url: str, offline: str = "0"):
    values = {"HF_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_OFFLINE": offline, "HF_HUB_ETAG_TIMEOUT": "2"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    words = [sys.executable, "-c", ASK, name, str(most)]
    done = subprocess.run(words, env=kept | values, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_data_set_of_the_hub_comes_file_by_file_and_offline_says_what_is_missing(tmp_path) -> None:
    files = {f"{code}/train.jsonl": json.dumps({"text": f"in {code}"}).encode() for code in ("de", "en", "zh")}
    with hub_server.serve(hub_server.Hub("owner/set", files)) as hub:
        assert ask("hf:owner/set", 1, tmp_path, hub.url)["texts"] == [["set/de/train.jsonl", "in de"]]
        got = [path for verb, path, _ in hub.log if verb == "GET" and "resolve" in path]
        assert len(got) == 1 and got[0].endswith("de/train.jsonl")
        assert "2 of 3 files are not in the cache, such as en/" in ask("hf:owner/set", 9, tmp_path, "", "1")["error"]
        assert ask("hf:owner/set:de/*", 9, tmp_path, "", "1")["texts"] == [["set/de/train.jsonl", "in de"]]
        whole = ask("hf:owner/set", 9, tmp_path, hub.url)
        assert [text for _, text in whole["texts"]] == ["in de", "in en", "in zh"]
        assert [path for verb, path, _ in hub.log if verb == "GET" and path.endswith("de/train.jsonl")] == got
    assert ask("hf:owner/set", 9, tmp_path, "", "1") == whole | {"said": []}
    for path in tmp_path.rglob(".yanmo/*.json"):
        path.unlink()  # as if another program had downloaded it
    (said,) = ask("hf:owner/set", 9, tmp_path, "", "1")["said"]
    assert "3 in the cache are taken for all" in said


def test_the_first_file_of_a_data_set_must_have_texts_and_another_is_a_loss(tmp_path) -> None:
    pq.write_table(pa.table({"n": [1, 2]}), tmp_path / "none.parquet")
    none = (tmp_path / "none.parquet").read_bytes()
    good = json.dumps({"text": "good"}).encode()
    with hub_server.serve(hub_server.Hub("owner/set", {"a.jsonl": good, "b.parquet": none})) as hub:
        assert ask("hf:owner/set", 9, tmp_path, hub.url)["texts"] == [["set/a.jsonl", "good"]]
    with hub_server.serve(hub_server.Hub("owner/new", {"a.parquet": none, "b.jsonl": good})) as hub:
        said = ask("hf:owner/new", 9, tmp_path, hub.url)["error"]
    assert "no column 'text' or 'content' that holds text, its columns are n" in said


@pytest.mark.skipif(os.name != "posix", reason="the cache has links there")
def test_bytes_that_two_names_of_the_hub_have_go_with_the_last(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    blob = tmp_path / "datasets--owner--set" / "blobs" / "same"
    files = []
    for commit, name in (("1" * 40, "a.txt"), ("1" * 40, "b/c.txt"), ("2" * 40, "a.txt")):
        link = blob.parents[1] / "snapshots" / commit / name
        for path in (link, blob):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_text("text")
        link.symlink_to(blob)
        files.append(Published(Remote(f"hf:owner/set@{commit}", name, 4), f"set/{name}"))
    for number, file in enumerate(files):
        remote.discard(file)
        assert [remote.here(each) is not None for each in files] == [k > number for k in range(3)]
    assert not blob.exists()


def test_a_corpus_is_made_of_a_data_set_and_files_here(tmp_path, local) -> None:
    files = {f"{k}.jsonl": json.dumps({"text": prose(10 + k)}).encode() for k in range(3)}
    code = "import sys; from yanmo.corpus.engine import make_corpus; make_corpus(sys.argv[2:], sys.argv[1], workers=1)"
    with hub_server.serve(hub_server.Hub("owner/set", files)) as hub:
        values = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url, "YANMO_DOWNLOAD_KEEP": "0"}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        words = [sys.executable, "-c", code, str(tmp_path / "out"), "hf:owner/set", str(local[0])]
        subprocess.run(words, env=kept | values, cwd=ROOT, check=True, capture_output=True)
    corpus = engine.Corpus(tmp_path / "out")
    assert set(corpus.card["sources"]) == {"set/0.jsonl", "set/1.jsonl", "set/2.jsonl", "0.txt"}
    assert corpus.card["kept"] == 4 and not list((tmp_path / "hf").rglob("*.jsonl"))


def test_a_damaged_first_file_is_an_error_of_the_run(tmp_path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(FileError, match="not a readable Parquet file"):
        read_documents([tmp_path / "a.parquet"])
