"""The plan of a corpus as its sources come: units and tasks of each stage, in the order of the sources.

In: sources, some of them files of published corpora that are not here yet. Out: stages of the plan in the work folder,
the same whatever was here before, and the sizes of their tasks.

    Stages        take(seconds) → the sizes of further tasks; done(task); close()

A stage is a run of sources that are here, or one file that is fetched, by a process of its own and in the order of the
sources, while workers read what has come. What an earlier run has read is not fetched again. Where YANMO_DOWNLOAD_KEEP
is 0, a file that was fetched for this corpus is removed once its tasks are done, and the next but one waits for that.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yanmo.corpus.documents import TEXT_COLUMNS
from yanmo.corpus.engine_files import Plan, finished, forget, load_plan, stage_path, write_stage
from yanmo.corpus.settings import CorpusRecipe
from yanmo.corpus.sources import Source
from yanmo.corpus.text import READERS, checked

if TYPE_CHECKING:  # what speaks HTTP is loaded where it is wanted
    from yanmo.corpus.engine_fetch import Fetcher

TASK_UNITS = 512
AHEAD = 2  # files that are fetched but not read, where they are removed afterwards

Units = list[tuple[int, int, int | None]]


class Stages:
    """What there is to read, as it comes; `plan` is all that has come."""

    def __init__(self, work: Path, sources: Sequence[Source], recipe: CorpusRecipe, step: str, task_bytes: int) -> None:
        self.work, self.step, self.task_bytes = work, step, task_bytes
        self.columns = tuple(recipe.sources.text_column) or TEXT_COLUMNS
        self.plan = Plan(recipe, (), (), ())
        self.expected = sum(source.size for source in sources)  # bytes
        self._coming = list(_stages(sources))
        self._stage = 0
        self._left: dict[int, set[int]] = {}  # tasks of a stage that are not done
        self._fetched: dict[int, Source] = {}
        self._strict: set[int] = set()
        self._keeps = True
        self._fetcher: Fetcher | None = None
        if any(source.published for source in sources):
            self._prepare_fetching(sources)

    def _prepare_fetching(self, sources: Sequence[Source]) -> None:
        from yanmo.corpus import published, remote  # what speaks HTTP is loaded where it is wanted
        from yanmo.corpus.engine_fetch import Fetcher

        self._strict, self._keeps, self._fetcher = published.leads(sources), remote.keeps(), Fetcher()

    @property
    def ended(self) -> bool:
        return self._stage == len(self._coming)

    def take(self, seconds: float) -> list[int]:
        """The sizes in bytes of tasks that can be done now; waits for some at most `seconds`, while files are fetched.

        Raises NetworkError where a file does not arrive, FileError where the first of a data set holds no texts.
        """
        before = len(self.plan.tasks)
        while not self.ended:
            here = self._coming[self._stage]
            if here[0].published is None:
                self._add(here)
                continue
            if self._is_read(here[0]):
                continue
            path = self._arrive(here[0], seconds if len(self.plan.tasks) == before else 0.0)
            if path is None:
                break
            number = len(self.plan.sources)
            self._add([checked(here[0], path, self.columns, number in self._strict)], here[0])
        return [self._size(task) for task in range(before, len(self.plan.tasks))]

    def done(self, task: int) -> None:
        """Hear that a task is done."""
        for stage, left in list(self._left.items()):
            left.discard(task)
            if not left:
                del self._left[stage]
                self._discard(stage)

    def close(self) -> None:
        """Fetch nothing more."""
        if self._fetcher is not None:
            self._fetcher.close()

    def _arrive(self, source: Source, seconds: float) -> Path | None:
        from yanmo.corpus import remote

        assert source.published is not None and self._fetcher is not None
        if self._fetcher.busy:
            return self._fetcher.poll(seconds)
        if path := remote.here(source.published):
            return path
        if not self._keeps and len(self._fetched) >= AHEAD:
            return None
        self._mark(self._stage).touch()
        self._fetcher.begin(source.published)
        return self._fetcher.poll(seconds)

    def _add(self, sources: Sequence[Source], fetched: Source | None = None) -> None:
        """Plan the next stage."""
        first, plan = len(self.plan.sources), self.plan
        units: Units = []
        for number, source in enumerate(sources, start=first):
            try:
                units += [(number, unit.start, unit.end) for unit in READERS[source.kind].split(source)]
            except OSError:  # its reader says what is wrong, as a loss
                units.append((number, 0, None))
        sizes = [_bytes(sources[source - first], start, end) for source, start, end in units]
        at = len(plan.units)
        tasks = [(at + a, at + b) for a, b in _tasks(sizes, self.task_bytes)]
        stage = Plan(plan.recipe, tuple(sources), tuple(units), tuple(tasks))
        if not write_stage(self.work, self._stage, stage):  # a file that is another now
            forget(self.work, self.step, len(plan.tasks), self._stage)
        self._follow(stage, fetched)

    def _follow(self, stage: Plan, fetched: Source | None) -> None:
        """The plan grows by a stage."""
        tasks = set(range(len(self.plan.tasks), len(self.plan.tasks) + len(stage.tasks)))
        self.plan = self.plan.with_stage(stage)
        self.expected += sum(source.size for source in stage.sources)
        self.expected -= sum(source.size for source in self._coming[self._stage])
        if fetched is not None and self._mark(self._stage).exists():
            self._fetched[self._stage] = fetched
            self._left[self._stage] = tasks
        self._stage += 1

    def _is_read(self, source: Source) -> bool:
        """Whether an earlier run has done all tasks of the next stage, which then follows."""
        if not stage_path(self.work, self._stage).exists():
            return False
        whole, plan = load_plan(str(self.work)), self.plan
        first, at = len(plan.sources), len(plan.units)
        if len(whole.sources) <= first:
            return False
        units = tuple(itertools.takewhile(lambda unit: unit[0] == first, whole.units[at:]))
        tasks = tuple(t for t in whole.tasks[len(plan.tasks) :] if t[0] < at + len(units))
        numbers = range(len(plan.tasks), len(plan.tasks) + len(tasks))
        if any(finished(self.work, self.step, number) is None for number in numbers):
            return False
        self._follow(Plan(plan.recipe, (whole.sources[first],), units, tasks), source)
        return True

    def _discard(self, stage: int) -> None:
        source = self._fetched.pop(stage)
        if not self._keeps and source.published is not None:
            from yanmo.corpus import remote

            remote.discard(source.published)

    def _mark(self, stage: int) -> Path:
        """Says that a file was not here before this corpus was begun."""
        return self.work / f"fetched-{stage:06d}"

    def _size(self, task: int) -> int:
        plan = self.plan
        return sum(
            _bytes(plan.sources[source], start, end) for source, start, end in plan.units[slice(*plan.tasks[task])]
        )


def _stages(sources: Sequence[Source]) -> Iterator[list[Source]]:
    for is_here, group in itertools.groupby(sources, key=lambda source: source.published is None):
        if is_here:
            yield list(group)
        else:
            yield from ([source] for source in group)


def _bytes(source: Source, start: int, end: int | None) -> int:
    return (source.size if end is None else end) - start


def _tasks(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Ranges of units that are done together: small files by the hundred, a large unit alone."""
    tasks, first, size = [], 0, 0
    for number, mine in enumerate(sizes):
        if number > first and (size + mine > most or number - first >= TASK_UNITS):
            tasks.append((first, number))
            first, size = number, 0
        size += mine
    return [*tasks, (first, len(sizes))] if sizes else []
