"""A corpus made by many workers: the same bytes whatever their number, whoever dies, however often it is begun."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.corpus.made_sources import fingerprints, prose, sources
from yanmo.corpus import engine, engine_card
from yanmo.corpus.engine_local import Local
from yanmo.corpus.settings import load_settings
from yanmo.errors import FileError, InputError

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "duplicates.near=true",
    "out.shard_mb=0.02",
    "duplicates.paragraphs=true",
    "clean.boilerplate=true",
    "clean.mask=true",
]
RUN = """
import sys
from yanmo.corpus import engine
from yanmo.corpus.settings import load_settings
engine.TASK_BYTES = 4000
source, out, workers, *settings = sys.argv[1:]
engine.make_corpus([source], out, load_settings(None, settings), workers=int(workers))
"""


def make(source, out, workers=2, settings=SETTINGS, **more):
    return engine.make_corpus([source], out, load_settings(None, settings), workers=workers, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The sources, and the corpus of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("engine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "TASK_BYTES", 4000)
        corpus = make(sources(folder / "raw"), folder / "out", workers=2)
    return folder / "raw", folder / "out", corpus


def test_every_document_is_in_the_books(made):
    _, out, corpus = made
    card = corpus.card
    assert card["in"] == card["kept"] + sum(card["removed"].values()) + sum(card["failed"].values())
    for counts in [*card["sources"].values(), *card["steps"]]:
        assert counts["in"] == counts["kept"] + sum(counts["removed"].values()) + sum(counts["failed"].values())
    for before, after in zip(card["steps"], card["steps"][1:]):
        assert before["kept"] == after["in"]
    assert card["removed"]["duplicate"] >= 1 and card["removed"]["near_duplicate"] == 1
    assert card["sources"]["raw/rows.jsonl.gz"]["failed"] == {"line_not_json": 1, "line_without_text": 1}
    assert card["sources"]["raw/cut.jsonl.gz"]["failed"] == {"damaged": 1}
    assert card["sources"]["raw/binary.txt"] == {"in": 1, "kept": 0, "removed": {}, "failed": {"binary": 1}}
    assert card["sources"]["raw/table.csv.bz2"]["kept"] == 20
    assert card["encodings"]["gb18030"] == 1 and card["domains"]["different"] >= 3 and card["years"]["2003"] == 1
    texts = [document for split in ("train", "valid") for document in corpus.documents(split)]
    assert len(texts) == card["kept"] == sum(split["documents"] for split in card["splits"].values())
    assert sum(len(d.text.encode()) for d in texts) == sum(split["bytes"] for split in card["splits"].values())
    kept = next(d for d in texts if d.text.startswith(prose(2, 60)))
    assert kept.text.endswith("It ended.") and json.loads(kept.meta)["copies"] == 2
    failed = [json.loads(line) for line in (out / "quarantine.jsonl").read_text("utf-8").splitlines()]
    assert len(failed) == sum(card["failed"].values())
    assert {"source", "reason", "what", "where"} <= set(failed[0])
    assert str(out.parent) not in (out / "card.json").read_text("utf-8") + (out / "card.html").read_text("utf-8")
    assert not out.with_name("out.work").exists()


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_no_byte(made, tmp_path, monkeypatch, workers):
    raw, out, _ = made
    monkeypatch.setattr(engine, "TASK_BYTES", 4000)
    make(raw, tmp_path / "out", workers)
    assert fingerprints(tmp_path / "out") == fingerprints(out)


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
@pytest.mark.parametrize("whole", [True, False], ids=["with its workers", "alone"])
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(made, tmp_path, whole):
    raw, out, _ = made
    lot = random.Random(int(whole))
    words = [sys.executable, "-c", RUN, str(raw), str(tmp_path / "out"), "2", *SETTINGS]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    kills, pause = 0, 0.4
    while True:
        child = subprocess.Popen(words, env=environment, start_new_session=True)
        try:
            assert child.wait(timeout=pause + lot.random() * 0.3) == 0
            break
        except subprocess.TimeoutExpired:
            (os.killpg if whole else os.kill)(child.pid, signal.SIGKILL)
            child.wait()
            kills, pause = kills + 1, pause * 1.25
            assert kills < 40
    assert kills > 0
    assert fingerprints(tmp_path / "out") == fingerprints(out)


def test_workers_that_are_killed_are_replaced(made, tmp_path, monkeypatch):
    raw, out, _ = made
    monkeypatch.setattr(engine, "TASK_BYTES", 4000)
    killed = []

    class Hunted(Local):
        def submit(self, step, number):
            super().submit(step, number)
            if step == "read" and number in (3, 7) and number not in killed:
                killed.append(number)
                time.sleep(0.02)
                for pid in self.processes():  # all of them, in the middle of whatever they do
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    monkeypatch.setitem(engine.ENGINES, "local", Hunted)
    make(raw, tmp_path / "out")
    assert killed == [3, 7] and fingerprints(tmp_path / "out") == fingerprints(out)


POISON = """
import os
from yanmo.corpus import text
plain = text.TEXTS["text"]
def read(source, seen):
    data = source.path.read_bytes()
    if b"POISON" in data:
        os._exit(9)
    if b"DEFECT" in data:
        yield from plain(source, seen)
        raise ZeroDivisionError("a reader's mistake")
    yield from plain(source, seen)
text.TEXTS["text"] = read
"""


def test_a_unit_at_which_workers_die_thrice_is_left_out_and_counted(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(POISON, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    raw = tmp_path / "raw"
    raw.mkdir()
    for k in range(5):
        (raw / f"{k}.txt").write_text(prose(k), "utf-8")
    (raw / "2.txt").write_text(prose(2) + " POISON", "utf-8")
    (raw / "3.txt").write_text(prose(3) + " DEFECT", "utf-8")
    card = make(raw, tmp_path / "out").card
    assert card["sources"]["raw/2.txt"] == {"in": 1, "kept": 0, "removed": {}, "failed": {"worker_died": 1}}
    assert card["sources"]["raw/3.txt"] == {"in": 2, "kept": 1, "removed": {}, "failed": {"defect": 1}}
    assert card["kept"] == 4
    assert any("ZeroDivisionError: a reader's mistake" in problem["what"] for problem in card["problems"])


def test_changed_sources_and_recipes_begin_anew(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for k in range(4):
        (raw / f"{k}.txt").write_text(prose(k), "utf-8")
    assert make(raw, tmp_path / "out").card["kept"] == 4
    (raw / "0.txt").write_text(prose(0) + " More.", "utf-8")
    (raw / "9.txt").write_text(prose(9), "utf-8")
    assert make(raw, tmp_path / "out").card["kept"] == 5
    assert make(raw, tmp_path / "out", settings=["out.valid_share=0.5"]).card["settings"]["out"]["valid_share"] == 0.5


def test_one_document_is_cut_in_two(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(prose(k) for k in range(8)), "utf-8")
    corpus = make(tmp_path / "a.txt", tmp_path / "out")
    assert [len(list(corpus.documents(split))) for split in ("train", "valid")] == [1, 1]
    assert corpus.card["kept"] == 1 and "cut in two" in corpus.card["notes"][0]


def test_a_new_corpus_leaves_out_what_an_old_one_has(tmp_path):
    raw, more = tmp_path / "raw", tmp_path / "more"
    for folder, numbers in ((raw, range(6)), (more, range(4, 9))):
        folder.mkdir()
        for k in numbers:
            (folder / f"{k}.txt").write_text(prose(k, 60), "utf-8")
    (more / "near.txt").write_text(prose(0, 60) + " It ended, and was longer.", "utf-8")
    make(raw, tmp_path / "old", settings=["duplicates.near=true"])
    for path in (tmp_path / "old").glob("*.parquet"):
        path.unlink()  # what an old corpus is asked for is its index
    card = make(
        more, tmp_path / "new", settings=["duplicates.near=true", f"duplicates.against={tmp_path / 'old'}"]
    ).card
    assert card["removed"] == {"old_duplicate": 2, "old_near_duplicate": 1} and card["kept"] == 3
    assert card["settings"]["duplicates"]["against"] == ["old"]
    make(raw, tmp_path / "bare", settings=["duplicates.index=false"])
    with pytest.raises(FileError, match="keeps no index"):
        make(more, tmp_path / "new", settings=[f"duplicates.against={tmp_path / 'bare'}"])


def test_a_document_that_an_old_corpus_has_names_its_copy_there(tmp_path):
    kept, said = {}, []
    for name, numbers in (("one", range(4)), ("two", range(4, 9)), ("new", range(10))):
        (tmp_path / f"{name}-raw").mkdir()
        for k in numbers:
            (tmp_path / f"{name}-raw" / f"{k}.txt").write_text(prose(k), "utf-8")
        against = [f"duplicates.against={[str(tmp_path / 'one'), str(tmp_path / 'two')]}"] if name == "new" else []
        corpus = make(tmp_path / f"{name}-raw", tmp_path / name, 1, ["out.shard_mb=0.001", *against], engine="here")
        kept |= {document.id: document.text for split in ("train", "valid") for document in corpus.documents(split)}
    for path in (tmp_path / "new" / "fates").glob("*.parquet"):
        said += pq.read_table(path).to_pylist()
    assert len(said) == 9 and {row["reason"] for row in said} == {"old_duplicate"}
    for row in said:
        number = int(row["source"].removeprefix("new-raw/").removesuffix(".txt"))
        assert kept[row["what"].removeprefix("of ")] == prose(number).strip()


def test_nothing_left_is_one_sentence_and_the_old_corpus_stays(tmp_path):
    (tmp_path / "a.txt").write_text(prose(1), "utf-8")
    make(tmp_path / "a.txt", tmp_path / "out")
    (tmp_path / "a.txt").write_text("...", "utf-8")
    with pytest.raises(InputError, match=r"no text is left of 1 documents \(1 too_short\)"):
        make(tmp_path / "a.txt", tmp_path / "out")
    assert (tmp_path / "out" / "card.json").is_file()


def test_one_document_that_cannot_be_divided_leaves_no_work(tmp_path, monkeypatch):
    def too_short(document, share):
        raise InputError("too few characters for a validation set too; give more text")

    monkeypatch.setattr("yanmo.corpus.engine_write.cut_in_two", too_short)
    (tmp_path / "a.txt").write_text(prose(1), "utf-8")
    with pytest.raises(InputError, match="too few characters"):
        make(tmp_path / "a.txt", tmp_path / "out", engine="here")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_books_that_do_not_balance_are_an_error(made, tmp_path, monkeypatch):
    raw, _, _ = made
    real = engine_card.finished

    def lying(work, step, number):
        found = real(work, step, number)
        if step == "read" and found and number == 0:
            found["found"] = {key: count + 1 for key, count in found["found"].items()}
        return found

    monkeypatch.setattr(engine_card, "finished", lying)
    with pytest.raises(engine_card.Unbalanced):
        make(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_runs_at_once_are_refused(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "a.txt").write_text(prose(1), "utf-8")
    (tmp_path / "out.work").mkdir()
    with open(tmp_path / "out.work" / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FileError, match="another run works here"):
            make(tmp_path / "a.txt", tmp_path / "out")


def test_a_folder_that_is_no_corpus_is_not_replaced(tmp_path):
    (tmp_path / "a.txt").write_text(prose(1), "utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "card.json").write_text('{"format": "somebody-else"}', "utf-8")
    with pytest.raises(FileError, match="no corpus"):
        make(tmp_path / "a.txt", tmp_path / "mine")


@pytest.mark.skipif(os.name != "posix", reason="limits on the size of files are POSIX")
def test_a_file_that_cannot_grow_stops_with_one_sentence_and_the_same_command_goes_on(made, tmp_path):
    raw, out, _ = made
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    words = [str(raw), str(tmp_path / "out"), "2", *SETTINGS]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    limited = subprocess.run([sys.executable, "-c", limit + RUN, *words], env=environment, capture_output=True)
    said = limited.stderr.decode().strip().splitlines()[-1]
    assert limited.returncode == 1 and "FileError" in said and "cannot be written" in said
    assert not (tmp_path / "out").exists()
    subprocess.run([sys.executable, "-c", RUN, *words], env=environment, check=True)
    assert fingerprints(tmp_path / "out") == fingerprints(out)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_stops_with_one_sentence_and_goes_on_later(made, tmp_path):
    raw, out, _ = made
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        with pytest.raises(FileError, match="No space left|cannot be written") as caught:
            make(raw, disk / "out")
        assert "\n" not in str(caught.value) and not (disk / "out").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        corpus = make(raw, disk / "out")
        assert corpus.card["kept"] == json.loads((out / "card.json").read_text("utf-8"))["kept"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_folder_of_the_name_of_the_work_folder_is_not_emptied(tmp_path):
    (tmp_path / "a.txt").write_text(prose(1) + "\n\n" + prose(2), "utf-8")
    (tmp_path / "out.work").mkdir()
    (tmp_path / "out.work" / "mine.txt").write_text("precious", "utf-8")
    with pytest.raises(FileError, match="out.work: holds 'mine.txt'"):
        make(tmp_path / "a.txt", tmp_path / "out", 1)
    assert (tmp_path / "out.work" / "mine.txt").read_text("utf-8") == "precious"
    (tmp_path / "next.work").write_text("a file", "utf-8")
    with pytest.raises(FileError, match="next.work"):
        make(tmp_path / "a.txt", tmp_path / "next", 1)
    with pytest.raises(FileError, match="a.txt.*cannot be written"):
        make(tmp_path / "a.txt", tmp_path / "a.txt" / "below", 1)


def test_an_old_corpus_that_cannot_be_compared_is_said_before_anything_is_read(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text(prose(1) + "\n\n" + prose(2), "utf-8")
    for name, more in (("plain", []), ("near", ["duplicates.near=true"])):
        make(tmp_path / "a.txt", tmp_path / name, 1, more, engine="here")
    monkeypatch.setattr(engine, "_steps", lambda *_: pytest.fail("it was read"))
    for name, more, error, said in (
        ("plain", [], FileError, "no readable signatures"),
        ("near", ["duplicates.bands=7"], InputError, "asks for"),
    ):
        settings = ["duplicates.near=true", f"duplicates.against={tmp_path / name}", *more]
        with pytest.raises(error, match=said):
            make(tmp_path / "a.txt", tmp_path / "out", 1, settings, engine="here")


def test_a_corpus_within_its_sources_is_none_of_them_by_whatever_name(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.txt").write_text(prose(1) + "\n\n" + prose(2), "utf-8")
    (tmp_path / "link").symlink_to(raw)
    for source in (raw, tmp_path / "link", raw):
        assert make(source, raw / "out", 1, [], engine="here").card["in"] == 1


@pytest.mark.parametrize("setting", ["duplicates.against={}", "perplexity.models=en={}"])
def test_a_file_that_a_recipe_names_and_that_is_missing_is_one_sentence(tmp_path, setting):
    (tmp_path / "a.txt").write_text(prose(1) + "\n\n" + prose(2), "utf-8")
    make(tmp_path / "a.txt", tmp_path / "old", 1, [], engine="here")
    (tmp_path / "old" / "card.json").unlink()
    named = tmp_path / "old" if "against" in setting else tmp_path / "nothing"
    with pytest.raises(FileError, match="cannot be read"):
        make(tmp_path / "a.txt", tmp_path / "out", 1, [setting.format(named)], engine="here")


def test_a_worker_of_another_run_that_still_writes_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text(prose(1) + "\n\n" + prose(2), "utf-8")
    (tmp_path / "out.work" / ("0" * 20) / "read").mkdir(parents=True)
    remove, path = os.rmdir, os.path.join("0" * 20, "read")

    def late(folder, *more, **named):  # between the last look and the removal, a file came
        if str(folder).endswith(("read", path)):
            raise OSError(39, "Directory not empty", str(folder))
        remove(folder, *more, **named)

    monkeypatch.setattr(os, "rmdir", late)
    assert make(tmp_path / "a.txt", tmp_path / "out", 1, [], engine="here").card["kept"] == 1


def test_a_worker_that_cannot_be_started_ends_the_run(tmp_path, monkeypatch):
    def refuse(*_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("yanmo.corpus.engine_local.start", refuse)
    pool = Local(str(tmp_path), 1)
    pool.submit("read", 0)
    assert pool._ended.get(timeout=30).ending == "error"
    pool.close()
