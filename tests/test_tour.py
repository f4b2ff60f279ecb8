"""A whole tour in seconds: interrupted, gone on with, opened by transformers, refused where it must be."""

from __future__ import annotations

import io
import json
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from rich.console import Console

import yanmo
from yanmo.cli import main
from yanmo.errors import Error, FileError, InputError, MissingExtra
from yanmo.tour import walk as walking
from yanmo.tour.folder import Tour, open_tour
from yanmo.tour.report import next_steps
from yanmo.tour.show import Progressing, Show
from yanmo.tour.walk import go, walk

MINUTES = 0.1  # far below what the command accepts: networks of a second
NOUNS = ["ink", "stone", "brush", "paper", "scroll", "table", "window", "garden", "river", "mountain", "lamp", "letter"]
VERBS = ["grinds", "holds", "follows", "writes", "carries", "finds", "leaves", "opens", "reads", "keeps"]
HAN = ["研墨", "写字", "读书", "画山", "看水", "听雨", "点灯", "开窗"]


def write_texts(folder: Path) -> Path:
    """About 100 kB of sentences in two languages, under names that are no fun."""
    draw = random.Random(0)
    folder.mkdir()
    for number in range(30):
        sentences = [
            f"The {draw.choice(NOUNS)} {draw.choice(VERBS)} the {draw.choice(NOUNS)} by the {draw.choice(NOUNS)}."
            for _ in range(70)
        ]
        (folder / f"tale {number}; rm -rf '$HOME' [bold].txt").write_text(" ".join(sentences), "utf-8")
    for number in range(5):
        text = "。".join("".join(draw.choices(HAN, k=4)) for _ in range(60))
        (folder / f"文章{number}.md").write_text(f"{text}。<script>alert(1)</script> \x1b[2J", "utf-8")
    return folder


def quiet() -> tuple[Show, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Show(Console(file=out, width=80, markup=False), Console(file=err, width=80, markup=False)), out, err


class Interrupted(Show):
    """A show that presses Ctrl-C once a bar has come as far as `share`."""

    def __init__(self, name: str, share: float) -> None:
        super().__init__(Console(file=io.StringIO()), Console(file=io.StringIO()))
        self.name, self.share = name, share

    @contextmanager
    def progress(self, name: str) -> Iterator[Progressing]:
        with super().progress(name) as bar:
            if name == self.name:
                show = self

                class Pressing(Progressing):
                    def update(self, share: float, text: str) -> None:
                        if share >= show.share:
                            raise KeyboardInterrupt

                bar = Pressing(self, name, None, bar.task)
            yield bar


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "my texts")


@pytest.fixture(scope="module")
def done(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Tour:
    """A tour that was interrupted while reading, in the middle of both trainings, and then finished."""
    out = tmp_path_factory.mktemp("tours") / "a tour"
    for name, share in (("reading", 0.5), ("LSTM", 0.3), ("Transformer", 0.3)):
        with pytest.raises(KeyboardInterrupt):
            go(open_tour(out, [texts], MINUTES), Interrupted(name, share))
    finished = open_tour(out, [texts], MINUTES)
    go(finished, quiet()[0])
    return finished


def test_the_three_models_are_measured_on_the_same_text(done: Tour) -> None:
    scores = [done.stages[name]["bits_per_byte"] for name in ("ngram", "lstm", "transformer")]
    assert all(0 < score < 8 for score in scores)
    assert (done.out / "report.html").stat().st_size > 20_000


def test_training_goes_on_from_its_checkpoint(done: Tour) -> None:
    for name in ("lstm", "transformer"):
        lines = [json.loads(line) for line in (done.out / "runs" / name / "metrics.jsonl").read_text().splitlines()]
        steps = [line["step"] for line in lines if "loss" in line]
        assert steps == list(range(1, len(steps) + 1))
        assert done.stages[name]["steps"] == steps[-1]


def test_what_is_done_is_not_done_again(done: Tour, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (done.out / "tour.json").read_text("utf-8")
    monkeypatch.setattr(Tour, "do", lambda *_: pytest.fail("a stage of a finished tour was done again"))
    show, out, _ = quiet()
    report = go(open_tour(done.out, [texts], MINUTES), show)
    assert "This tour is finished. Its report:" in out.getvalue()
    assert report == done.out / "report.html"
    assert (done.out / "tour.json").read_text("utf-8") == before


def test_a_lost_report_is_written_again(done: Tour, texts: Path) -> None:
    (done.out / "report.html").unlink()
    go(open_tour(done.out, [texts], MINUTES), quiet()[0])
    assert (done.out / "report.html").is_file()


def test_transformers_opens_the_model_with_the_same_logits(done: Tour) -> None:
    transformers = pytest.importorskip("transformers")
    folder = str(done.out / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ours = yanmo.load(folder, device="cpu")
    for text in ("The ink follows the river.", "研墨写字。"):
        ids = ours.tokenizer.encode(text)
        assert tokenizer(text)["input_ids"] == ids
        with torch.inference_mode():
            torch.testing.assert_close(ours.logits([ids]), theirs(torch.tensor([ids])).logits, atol=1e-4, rtol=1e-4)


def test_the_model_card_names_the_corpus_and_its_licence(done: Tour, texts: Path) -> None:
    card = (done.out / "model" / "README.md").read_text("utf-8")
    assert "my texts" in card and "not stated" in card
    assert f"{done.stages['transformer']['bits_per_byte']:.4f}" in card


def test_the_lstm_writes_too(done: Tour) -> None:
    model = yanmo.load(done.out / "runs" / "lstm", device="cpu")
    assert isinstance(model.generate("The ink", max_new_tokens=5), str)


def test_the_first_command_to_go_on_works(done: Tour, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(next_steps(done)[0][1])
    with pytest.raises(SystemExit) as end:
        main(words[1:])
    assert end.value.code == 0
    assert capsys.readouterr().out.strip()


def test_the_python_to_go_on_works(done: Tour, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    for _, command in next_steps(done):
        words = shlex.split(command)
        if words[0] == "python":
            exec(compile(words[2], "command", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_a_killed_tour_goes_on(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "t"
    code = (
        "import sys; from yanmo.tour.folder import open_tour; from yanmo.tour.walk import go; "
        f"from yanmo.tour.show import Show; go(open_tour(sys.argv[1], [sys.argv[2]], {MINUTES}), Show())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(out), str(texts)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[1],
    )
    metrics = out / "runs" / "lstm" / "metrics.jsonl"
    end = time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < end and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.wait()
    tour = open_tour(out, [texts], MINUTES)
    assert "plan" in tour.stages and "lstm" not in tour.stages
    go(tour, quiet()[0])
    assert open_tour(out, [texts], MINUTES).finished


def test_foreign_text_cannot_steer_the_terminal(done: Tour, texts: Path) -> None:
    (done.out / "report.html").unlink()
    done.stages.pop("samples")
    show, out, err = quiet()
    go(done, show)
    assert "\x1b" not in out.getvalue() + err.getvalue()


def test_progress_without_a_terminal_is_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    show, out, err = quiet()
    with show.progress("Transformer") as bar:
        bar.said -= 100
        bar.update(0.5, "1.90 bits/byte")
        bar.update(0.6, "not yet")
    assert err.getvalue() == "  Transformer: 50%  1.90 bits/byte\n"
    assert out.getvalue() == ""


# --- what is refused


def refused(paths: list[Path], out: Path, **options: float) -> str:
    with pytest.raises(Error) as caught:
        walk(paths, out=out, show=quiet()[0], **options)  # type: ignore[arg-type]
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_too_little_text_names_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A short text, but a text all the same.\n" * 3, "utf-8")
    (tmp_path / "b.txt").write_text("Another one, which is not much longer than the first.", "utf-8")
    sentence = refused([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "t")
    assert "a tour needs 20,000" in sentence and "name more text as PATH" in sentence
    assert not (tmp_path / "t").exists()


def test_a_path_that_is_not_there_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    assert "nowhere.txt" in refused([tmp_path / "nowhere.txt"], tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_no_readable_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"\x89PNG")
    assert "nothing to read" in refused([tmp_path / "pictures"], tmp_path / "t")
    (tmp_path / "broken.txt").write_bytes(b"\xff\x00\xfe\x80" * 10_000)
    refused([tmp_path / "broken.txt"], tmp_path / "t2")


def test_a_python_without_its_documentation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sysconfig

    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "lib")})
    sentence = refused([], tmp_path / "t")
    assert "PATH" in sentence


def test_a_missing_package_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r'yanmo tour needs the package pyarrow.*pip install "yanmo\[corpus\]"'):
        walk([], out=tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_minutes_and_folders_are_checked_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="from 0.5"):
        walk([], out=tmp_path / "t", minutes=0.1)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileError, match="holds something else"):
        walk([], out=tmp_path)
    assert walking.TITLES[0].startswith("1/")
