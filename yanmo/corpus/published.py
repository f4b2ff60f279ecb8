"""Published corpora among the sources: their files, and each of them when it is wanted.

In: a name (remote.py). Out: sources whose files are fetched later; the same with their files.

    sources_of    a name → sources, of which nothing is fetched; [] for what is no such name
    fetched       sources → the same, one by one, each fetched when its turn comes
    leads         which of them are the first files of a data set
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from yanmo.corpus import remote
from yanmo.corpus.sources import EXPECTED, Source, kind_of, shown

Arrived = Callable[[Source, Path, bool], Source]  # a source, where it lies, whether its mistakes are errors


def sources_of(path: str | Path) -> list[Source]:
    """The files of a published corpus, in their order."""
    if not remote.is_remote(path):
        return []
    return [
        Source(
            Path(file.remote.name),
            shown(file.source),
            *(kind_of(file.remote.name) or ("text", False)),
            EXPECTED if file.remote.size is None else file.remote.size,
            file,
        )
        for file in remote.published(os.fspath(path))
    ]


def fetched(sources: Sequence[Source], ready: Arrived) -> Iterator[Source]:
    """Every source with its file; where that is asked, one that was fetched here is discarded behind it."""
    getter, strict = remote.Getter(), leads(sources)
    for number, source in enumerate(sources):
        if source.published is None:
            yield source
            continue
        was_here = remote.here(source.published) is not None
        try:
            yield ready(source, getter.get(source.published), number in strict)
        finally:
            if not was_here and not remote.keeps():
                remote.discard(source.published)


def leads(sources: Sequence[Source]) -> set[int]:
    """The numbers of sources that are the first files of a data set: a mistake in those is said, in others counted."""
    first: dict[str, int] = {}
    for number, source in enumerate(sources):
        if source.published is not None:
            first.setdefault(source.published.remote.url, number)
    return set(first.values())
