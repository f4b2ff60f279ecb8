"""Raw sources of any kind → a corpus folder, by many workers, killed and gone on with at will.

In: paths, a recipe, an engine. Out: the folder, complete or absent, the same bytes for any number of workers, either
engine, and however often it was interrupted.

    make_corpus       plan → read → group → write → card; what is done is never done again
    ENGINES           local processes, Ray, or this process alone

    1. plan           sources → units → tasks of some 8 MB, as they come; the job is named after all that the result
                      depends on                                                               (engine_stages.py)
    2. read           each task: documents, cleaned and judged; what the next step asks of them   (engine_read.py)
    3. group          here: which documents stay                                                 (engine_group.py)
    4. write          each shard, then the fates of what went                                    (engine_write.py)
    5. card           the books are closed, and the folder takes its place                        (engine_card.py)

Workers share nothing but the work folder beside the corpus (DIR.work), which is removed at the end. A unit at which
workers die three times is left out and counted.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from yanmo.corpus import engine_card, engine_group, engine_models, engine_read, engine_write
from yanmo.corpus.card import versions
from yanmo.corpus.documents import TEXT_COLUMNS
from yanmo.corpus.engine_files import Plan, finished, job_name, lock
from yanmo.corpus.engine_local import Ended, Here, Local
from yanmo.corpus.engine_ray import OnRay
from yanmo.corpus.engine_stages import Stages
from yanmo.corpus.folder import Corpus, check_place
from yanmo.corpus.ledger import ReadReport
from yanmo.corpus.lines import check_fields
from yanmo.corpus.readers import kind_by_content
from yanmo.corpus.settings import CorpusRecipe, files_of
from yanmo.corpus.sources import CARD, Source, find_sources
from yanmo.corpus.steps import steps_of
from yanmo.corpus.text import check_extras
from yanmo.errors import FileError, InputError, nearest
from yanmo.files import PREFIX, reason

TASK_BYTES = 8 * 2**20  # of files on the disk, some seconds of work; a larger unit is a task of its own
DEATHS = 3
POLL = 0.2  # seconds, while files are fetched
WORK = ".work"
IS_OURS = re.compile("lock|[0-9a-f]{20}").fullmatch  # in such a folder: `lock`, and jobs by `job_name`
Progress = Callable[[str, int, int], None]  # a step, bytes or tasks done, of how many


class Engine(Protocol):
    """Where tasks are done."""

    size: int

    def submit(self, step: str, number: int) -> None: ...
    def next(self, seconds: float | None = None) -> Ended | None: ...  # None: nothing ended within the seconds
    def close(self) -> None: ...


ENGINES: dict[str, Callable[[str, int], Engine]] = {"local": Local, "ray": OnRay, "here": Here}


def make_corpus(
    paths: Sequence[str | Path],
    out: str | Path,
    recipe: CorpusRecipe | None = None,
    *,
    engine: str = "local",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """Write a corpus folder at `out` (an older corpus there is replaced) and open it.

    workers: processes; as many as this process may use cores by default. Raises InputError where no document is left,
    FileError where `out` holds anything but a corpus, or the disk is full: the same call then goes on.
    """
    out, recipe = Path(os.path.abspath(out)), recipe or CorpusRecipe()
    if engine not in ENGINES:
        raise InputError(f"engine={engine!r}: must be one of {', '.join(ENGINES)}{nearest(engine, ENGINES)}")
    workers = cores() if workers is None else workers
    if workers < 1:
        raise InputError(f"workers={workers}: must be at least 1")
    check_place(out)
    report = ReadReport()
    beside = out.with_name(out.name + WORK)
    _check_work(beside)
    columns = tuple(recipe.sources.text_column) or TEXT_COLUMNS
    sources = _outside(find_sources(paths, report, kind_by_content, columns), (out, beside))
    check_extras(sources)
    named = set(map(Path, paths))  # within a folder, each is a loss
    check_fields([source for source in sources if source.published is None and source.path in named], columns)
    steps_of(recipe)  # a file that is missing is said now, not by a worker
    engine_group.check_old(recipe.duplicates)
    with lock(beside / "lock"):
        job = job_name(_identity(sources, recipe))
        work = beside / job
        for other in beside.iterdir():
            if other.name not in (job, "lock"):
                shutil.rmtree(other, ignore_errors=True)  # a worker of a run that was killed may still write there
        prepare_folders(work)
        try:
            engine_models.prepare(recipe, work)
            stages = Stages(work, sources, recipe, engine_read.STEP, TASK_BYTES)
            pool = ENGINES[engine](str(work), workers)
            try:
                _steps(pool, str(work), stages, progress or (lambda step, done, total: None))
            finally:
                stages.close()
                pool.close()
            made = engine_card.close_books(str(work), stages.plan, report)
        except InputError:  # nothing is left, or too little to be divided, and nothing would be another time
            shutil.rmtree(beside, ignore_errors=True)
            raise
        take_place(made, out, work)
        shutil.rmtree(beside, ignore_errors=True)
    return Corpus(out)


def _outside(sources: Sequence[Source], folders: Sequence[Path]) -> list[Source]:
    """The sources that are not in these folders, by whatever links either is named."""
    real = functools.cache(lambda folder: Path(os.path.realpath(folder)))
    inner = [real(folder) for folder in folders]

    def lies_there(source: Source) -> bool:
        return source.published is None and any(real(source.path.parent).is_relative_to(folder) for folder in inner)

    return [source for source in sources if not lies_there(source)]


def _check_work(beside: Path) -> None:
    """What lies in a work folder is removed, so it must be ours; FileError for anything else of this name."""
    if not beside.exists():
        return
    foreign = [each.name for each in beside.iterdir() if not IS_OURS(each.name)] if beside.is_dir() else [beside.name]
    if foreign:
        raise FileError(
            f"{beside}: holds {foreign[0]!r:.80}, which is of no work of Yanmo; move it, or choose another -o"
        )


def cores() -> int:
    """How many processes may run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _identity(sources: Sequence[Source], recipe: CorpusRecipe) -> dict[str, Any]:
    """Everything that a corpus depends on."""
    files = []
    for source in sources:
        if source.published is not None:  # the commit says what a file of the hub holds, offline too
            file = source.published.remote
            files.append([source.name, file.url, file.name, file.size, file.digest if source.published.folder else ""])
            continue
        try:
            status = source.path.stat()
        except OSError as error:
            raise FileError(f"{source.path}: cannot be read ({reason(error)}); run again") from None
        files.append([source.name, os.fsdecode(source.path), source.kind, status.st_size, status.st_mtime_ns])
    named = {path: engine_card.hash_of(path) for path in files_of(recipe)}
    old = {folder: engine_card.hash_of(os.path.join(folder, CARD)) for folder in recipe.duplicates.against}
    return {"recipe": recipe.model_dump(), "files": named, "old": old, "sources": files, "versions": versions()}


def prepare_folders(work: Path) -> None:
    """Make a place for each step; rests of a run that was killed are removed."""
    try:
        for folder in (engine_read.STEP, engine_group.GROUP, engine_write.STEP, engine_write.FATES):
            (work / folder).mkdir(parents=True, exist_ok=True)
        for folder in (engine_group.INDEX, engine_write.FATES):
            (work / engine_write.OUT / folder).mkdir(parents=True, exist_ok=True)
        for rest in [*work.rglob("*.tmp-*"), *work.rglob(f"{PREFIX}*")]:
            rest.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"{work}: cannot be written ({reason(error)}); free some space or choose another -o") from None


def _steps(pool: Engine, work: str, stages: Stages, progress: Progress) -> None:
    _run(pool, work, engine_read.STEP, stages, progress)
    plan = stages.plan
    progress("group", 0, 1)
    shards = engine_group.decide(work, plan)["shards"]
    progress("group", 1, 1)
    _run(pool, work, engine_write.STEP, len(shards), progress)
    _run(pool, work, engine_write.FATES, engine_write.files_of_fates(plan), progress)


def do_rest(work: str, plan: Plan) -> None:
    """All steps behind the first, in this process."""
    shards = engine_group.decide(work, plan)["shards"]
    for number in range(len(shards)):
        engine_write.run(work, number)
    for number in range(engine_write.files_of_fates(plan)):
        engine_write.fates(work, number)


def _run(pool: Engine, work: str, step: str, tasks: Stages | int, progress: Progress) -> None:
    """Do every task of a step that is not done, or tasks as they come; raises what stops the run."""
    coming = tasks if isinstance(tasks, Stages) else None
    sizes = [] if isinstance(tasks, Stages) else [1] * tasks
    waiting: deque[int] = deque()
    deaths: Counter[tuple[int, int | None]] = Counter()
    known = running = done = 0
    while True:
        if coming is not None:
            sizes += coming.take(0.0 if waiting or running else 1.0)
        for number in range(known, len(sizes)):
            if finished(work, step, number) is None:
                waiting.append(number)
            else:
                done += _done(number, sizes, coming)
        known = len(sizes)
        progress(step, done, sum(sizes) if coming is None else max(coming.expected, done))
        while waiting and running < pool.size:
            pool.submit(step, waiting.popleft())
            running += 1
        if not running:
            if coming is None or coming.ended:
                return
            continue
        ended = pool.next(None if coming is None or coming.ended else POLL)
        if ended is None:
            continue
        running -= 1
        if ended.ending == "died":
            _died(work, step, ended, deaths)
            waiting.appendleft(ended.number)
        elif ended.ending == "done":
            done += _done(ended.number, sizes, coming)
        elif ended.ending in ("refused", "error"):  # texts that cannot be written will not be another time
            raise (InputError if ended.ending == "refused" and step == engine_write.STEP else FileError)(ended.text)
        else:
            raise RuntimeError(f"{step} {ended.number}: {ended.text}")


def _done(number: int, sizes: Sequence[int], coming: Stages | None) -> int:
    if coming is not None:
        coming.done(number)
    return sizes[number]


def _died(work: str, step: str, ended: Ended, deaths: Counter[tuple[int, int | None]]) -> None:
    """Count a worker's death; a unit at which DEATHS of them died is left out."""
    at = engine_read.unit_at(work, ended.number) if step == engine_read.STEP else None
    deaths[ended.number, at] += 1
    if deaths[ended.number, at] < DEATHS:
        return
    if at is None:
        raise FileError(
            f"{work}: workers died {DEATHS} times at {step} {ended.number} ({ended.text}), perhaps for want of memory; "
            "try fewer --workers: the same command goes on"
        )
    engine_read.quarantine(work, ended.number, at)


def take_place(made: Path, out: Path, work: Path) -> None:
    """The folder that is done becomes the corpus; an older one stays until then."""
    try:
        if out.exists():
            old = work / "old"
            shutil.rmtree(old, ignore_errors=True)
            os.rename(out, old)
        os.rename(made, out)
        if os.name == "posix":
            handle = os.open(out.parent, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
    except OSError as error:
        raise FileError(f"{out}: cannot be written ({reason(error)}); the same command goes on") from error
