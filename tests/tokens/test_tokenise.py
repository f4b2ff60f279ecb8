"""A corpus becomes token shards: the same bytes with any number of workers and after any kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from yanmo.corpus import engine_files
from yanmo.corpus.build import Corpus, build_corpus, load_corpus
from yanmo.corpus.documents import new_document
from yanmo.corpus.engine_files import lock
from yanmo.errors import Error, FileError, InputError
from yanmo.tokens import encoders as encoders_module
from yanmo.tokens import tokenise as module
from yanmo.tokens.encoders import Encoders
from yanmo.tokens.making import ends
from yanmo.tokens.shards import open_shards, write_shards
from yanmo.tokens.tokenise import MARK, tokenise, units_of
from yanmo.tokens.tokenizer import Tokenizer, load_tokenizer
from yanmo.tokens.train import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = 240
RUN = """
import sys
from pathlib import Path
from yanmo.corpus.build import load_corpus
from yanmo.tokens.making import ends
from yanmo.tokens.tokenise import tokenise
from yanmo.tokens.tokenizer import load_tokenizer
place, workers = Path(sys.argv[1]), int(sys.argv[2])
tokenizer = load_tokenizer(place / "tokenizer")
print("begun", flush=True)
def told(done, total): print(done, flush=True)
both = ends(tokenizer)
tokenise(load_corpus(place / "corpus"), "train", tokenizer, place / "out", ends=both, workers=workers, progress=told)
"""


def texts() -> list[str]:
    line = "a ship lies in the harbour 红楼 梦 中 的 人 and 7 more; they're here\n"
    words = line.split(" ")
    return [" ".join(words[(i * k) % len(words)] for k in range(20 + i % 200)) + f" {i}" for i in range(DOCUMENTS)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `corpus`, in many row groups, and `tokenizer`."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_files, "GROUP_BYTES", 4000)
        build_corpus((new_document(text, "made") for text in texts()), place / "corpus")
    train_tokenizer(texts(), "bpe", 600).save(place / "tokenizer")
    return place


@pytest.fixture(scope="module")
def corpus(made: Path) -> Corpus:
    return load_corpus(made / "corpus")


@pytest.fixture(scope="module")
def tokenizer(made: Path) -> Tokenizer:
    return load_tokenizer(made / "tokenizer")


def run(corpus: Corpus, tokenizer: Tokenizer, out: Path, workers: int = 1, **options):
    return tokenise(corpus, "train", tokenizer, out, ends=ends(tokenizer), workers=workers, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(corpus: Corpus, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "out"
    run(corpus, tokenizer, out)
    return content(out)


def test_the_shards_are_those_of_the_documents_one_by_one(corpus, tokenizer, whole, tmp_path: Path) -> None:
    found = list(corpus.documents("train"))
    wanted = write_shards(
        tokenizer.encode_batch((document.text for document in found), add_special_tokens=False),
        tmp_path / "s",
        tokenizer_hash=tokenizer.hash,
        vocab_size=tokenizer.vocab_size,
        n_bytes=sum(len(document.text.encode()) for document in found),
        start_id=ends(tokenizer)[0],
        end_id=ends(tokenizer)[1],
    )
    assert len(units_of(corpus, "train")) > 5
    for name in ("ids.bin", "bounds.bin"):
        assert whole[name] == (tmp_path / "s" / name).read_bytes()
    meta = json.loads(whole["meta.json"])
    assert {**meta, "corpus": 0} == {**wanted.meta, "corpus": 0}


def test_two_workers_write_the_same_bytes_and_say_how_far_they_are(corpus, tokenizer, whole, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    run(corpus, tokenizer, tmp_path / "out", workers=2, progress=lambda *values: told.append(values))
    assert content(tmp_path / "out") == whole
    assert told == sorted(told) and told[-1][0] == told[-1][1]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("workers", "lines"), [(1, 1), (2, 0), (2, 3)])
def test_killed_and_run_again_it_writes_the_same_bytes(made: Path, whole, tmp_path: Path, workers, lines) -> None:
    for name in ("corpus", "tokenizer"):
        (tmp_path / name).symlink_to(made / name)
    words = [sys.executable, "-c", RUN, str(tmp_path), str(workers)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert child.stdout is not None
    for _ in range(lines + 1):
        assert child.stdout.readline()
    killed(child)
    assert not (tmp_path / "out").exists()
    subprocess.run(words, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    assert content(tmp_path / "out") == whole


def killed(child: subprocess.Popen[str]) -> None:
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


class Stop(Exception):
    pass


def stopped_after(number: int, corpus, tokenizer, out: Path) -> Path:
    """The folder of work that stops after some units."""
    seen = 0

    def progress(*_: int) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            raise Stop

    with pytest.raises(Stop):
        run(corpus, tokenizer, out, progress=progress)
    return out.parent / f"{MARK}{out.name}"


@pytest.mark.parametrize("damage", ["torn line", "more ids", "no line", "other id", "short bounds", "odd state"])
def test_a_half_written_folder_is_mended(corpus, tokenizer, whole, tmp_path: Path, damage: str) -> None:
    place = stopped_after(3, corpus, tokenizer, tmp_path / "out")
    journal, ids = place / "journal", place / "ids.bin"
    if damage == "torn line":
        journal.write_bytes(journal.read_bytes() + b'{"documents": 3, "to')
    if damage == "more ids":
        ids.write_bytes(ids.read_bytes() + b"\1" * 999)
    if damage == "no line":
        journal.write_bytes(b"")
    if damage == "other id":
        ids.write_bytes(ids.read_bytes()[:-2] + b"\7\0")
    if damage == "short bounds":
        (place / "bounds.bin").write_bytes(b"")
    if damage == "odd state":
        (place / "state.json").write_text("[")
    run(corpus, tokenizer, tmp_path / "out")
    assert content(tmp_path / "out") == whole


def test_finished_units_are_not_encoded_again(corpus, tokenizer, tmp_path: Path, monkeypatch) -> None:
    stopped_after(3, corpus, tokenizer, tmp_path / "out")
    asked = []
    encode = module.encode_unit
    monkeypatch.setattr(module, "encode_unit", lambda unit, *rest: asked.append(unit) or encode(unit, *rest))
    run(corpus, tokenizer, tmp_path / "out")
    assert asked == units_of(corpus, "train")[3:]


def test_another_tokenizer_begins_anew_and_never_takes_a_finished_folder(corpus, tokenizer, tmp_path: Path) -> None:
    other = train_tokenizer(texts(), "bpe", 290)
    stopped_after(2, corpus, tokenizer, tmp_path / "out")
    run(corpus, other, tmp_path / "out")
    assert open_shards(tmp_path / "out").meta["tokenizer"] == other.hash
    with pytest.raises(FileError, match="another tokenizer|from the tokenizer"):
        run(corpus, tokenizer, tmp_path / "out")


def test_a_finished_folder_of_another_corpus_is_refused(corpus, tokenizer, tmp_path: Path) -> None:
    small = build_corpus((new_document(text, "made") for text in texts()[:9]), tmp_path / "small")
    run(small, tokenizer, tmp_path / "out")
    assert run(small, tokenizer, tmp_path / "out").n_documents < 9
    with pytest.raises(FileError, match="another corpus"):
        run(corpus, tokenizer, tmp_path / "out")


def test_a_worker_that_dies_is_started_again(corpus, tokenizer, whole, tmp_path: Path, monkeypatch) -> None:
    mark = tmp_path / "died"
    code = (
        "import os, sys; from yanmo.tokens import tokenise as t; e = t.encode_unit\n"
        "def once(unit, *rest):\n"
        f"    if unit.group == 4 and not os.path.exists({str(mark)!r}):\n"
        f"        open({str(mark)!r}, 'w'); os.kill(os.getpid(), 9)\n"
        "    return e(unit, *rest)\n"
        "t.encode_unit = once; t.serve(*sys.argv[1:], sys.stdin.buffer, sys.stdout.buffer)"
    )
    monkeypatch.setattr(encoders_module, "CODE", code)
    run(corpus, tokenizer, tmp_path / "out", workers=2)
    assert mark.exists() and content(tmp_path / "out") == whole
    monkeypatch.setattr(encoders_module, "CODE", code.replace("and not os.path.exists", "and os.path.exists"))
    with pytest.raises(Error, match="fewer workers"):
        run(corpus, tokenizer, tmp_path / "again", workers=2)


def test_a_worker_that_cannot_be_started_is_one_sentence(corpus, tokenizer, tmp_path: Path, monkeypatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", none)
    with pytest.raises(Error, match=r"cannot be started \(Resource.*fewer workers"):
        run(corpus, tokenizer, tmp_path / "out", workers=2)


def test_ctrl_c_is_for_the_run_and_not_for_its_workers(made: Path, corpus, tokenizer) -> None:
    unit = units_of(corpus, "train")[0]
    request = {"path": str(unit.path), "group": unit.group}
    with Encoders(made / "tokenizer", tokenizer.hash, ends(tokenizer)[1]) as encoders:
        first = encoders.ask(request)
        encoders._all[0].send_signal(signal.SIGINT)
        assert encoders.ask(request) == first and len(encoders._all) == 1


def test_a_worker_whose_run_was_killed_ends_without_a_word(made: Path, corpus, tokenizer) -> None:
    unit, code = units_of(corpus, "train")[0], encoders_module.CODE
    words = [sys.executable, "-c", code, str(made / "tokenizer"), str(ends(tokenizer)[1])]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(words, cwd=ROOT, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.readline()
        child.stdout.close()
        child.stdin.write(json.dumps({"path": str(unit.path), "group": unit.group}).encode() + b"\n")
        child.stdin.close()
        assert child.stderr.read() == b"" and child.wait(30) == 0


def test_two_runs_do_not_work_in_one_folder(corpus, tokenizer, whole, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    place = stopped_after(2, corpus, tokenizer, tmp_path / "out")
    with lock(place.with_name(f"{place.name}.lock")), pytest.raises(FileError, match="another run works here"):
        run(corpus, tokenizer, tmp_path / "out")
    run(corpus, tokenizer, tmp_path / "out")
    assert content(tmp_path / "out") == whole and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_worker_outlives_its_parent(made: Path, tmp_path: Path) -> None:
    for name in ("corpus", "tokenizer"):
        (tmp_path / name).symlink_to(made / name)
    words = [sys.executable, "-c", RUN, str(tmp_path), "2"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert child.stdout is not None
    child.stdout.readline(), child.stdout.readline()
    workers = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    if not workers.exists():
        killed(child)
        pytest.skip("this system has no list of a process's children")
    found = [int(number) for path in workers.parent.parent.glob("*/children") for number in path.read_text().split()]
    killed(child)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{number}").exists() for number in found) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found and not [number for number in found if Path(f"/proc/{number}").exists()]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_shard_is_one_sentence(tokenizer, tmp_path: Path, workers: int, monkeypatch) -> None:
    monkeypatch.setattr(engine_files, "GROUP_BYTES", 4000)
    corpus = build_corpus((new_document(text, "made") for text in texts()), tmp_path / "corpus")
    shard = next((tmp_path / "corpus").glob("train-*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    shard.write_bytes(data)
    with pytest.raises(FileError, match="Parquet"):
        run(corpus, tokenizer, tmp_path / "out", workers=workers)
    shard.unlink()
    with pytest.raises(FileError, match="Parquet"):
        run(corpus, tokenizer, tmp_path / "out", workers=workers)


def test_a_file_in_the_way_and_no_worker_are_refused(corpus, tokenizer, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileError, match="another folder"):
        run(corpus, tokenizer, tmp_path / "out")
    with pytest.raises(InputError, match="at least 1"):
        run(corpus, tokenizer, tmp_path / "other", workers=0)
