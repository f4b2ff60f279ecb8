"""Documents → a corpus folder: clean, without duplicates, split into training and validation, with its card.

In: documents one by one. Out: a folder with train-*.parquet, valid-*.parquet, card.json, README.md and card.html,
complete or absent, and the same bytes for the same documents and settings.

    build_corpus              the steps of the engine (engine.py) in this process, over documents from anywhere
    Corpus, load_corpus       a corpus folder, opened again (folder.py)

The validation set is chosen by document, by a hash of its text and the seed: a document stays on its side when others
come or go.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from yanmo.corpus import engine_card, engine_models, engine_read
from yanmo.corpus.documents import Document
from yanmo.corpus.engine import do_rest, prepare_folders, take_place
from yanmo.corpus.engine_files import Plan, write_stage
from yanmo.corpus.folder import Corpus, check_place
from yanmo.corpus.folder import load_corpus as load_corpus
from yanmo.corpus.ledger import ReadReport
from yanmo.corpus.settings import CorpusRecipe, with_values
from yanmo.corpus.sources import Source
from yanmo.errors import FileError
from yanmo.files import PREFIX, reason

Progress = Callable[[int, int], None]


def build_corpus(
    documents: Iterable[Document],
    out: str | Path,
    recipe: CorpusRecipe | None = None,
    *,
    valid_share: float | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
    read_report: ReadReport | None = None,
) -> Corpus:
    """Write a corpus folder at `out` (an older corpus there is replaced) and open it.

    valid_share, seed: instead of those of the recipe. `progress(done, total)` is called after each document, in bytes
    of the input files where `read_report` is the one that the reader fills, else in bytes of text with a total of 0.
    Raises InputError where no document is left and FileError where `out` holds anything but a corpus.
    """
    out = Path(out)
    given = {f"out.{name}": v for name, v in (("valid_share", valid_share), ("seed", seed)) if v is not None}
    recipe = with_values(recipe or CorpusRecipe(), given)
    check_place(out)
    report = ReadReport() if read_report is None else read_report
    early = copy.deepcopy(report)  # what finding the sources lost; the rest is heard as it comes
    with _work_folder(out) as work:
        prepare_folders(work)
        engine_models.prepare(recipe, work)
        names = engine_read.take(str(work), _observed(documents, progress, report), recipe, report)
        sources = tuple(Source(Path(name), name, "documents", False, 0) for name in names)
        plan = Plan(recipe, sources, (), ((0, 0),))
        write_stage(work, 0, plan)
        do_rest(str(work), plan)
        early.inputs, early.skipped = report.inputs, report.skipped
        take_place(engine_card.close_books(str(work), plan, early), out, work)
    return Corpus(out)


@contextlib.contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """A folder beside the corpus that is gone afterwards."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=out.parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise FileError(f"{out}: cannot be written ({reason(error)}); choose another place") from None
    with folder as name:
        yield Path(name)


def _observed(documents: Iterable[Document], progress: Progress | None, report: ReadReport) -> Iterator[Document]:
    size = 0
    for document in documents:
        yield document
        size += len(document.text.encode("utf-8", "surrogatepass")) if progress and not report.bytes_total else 0
        if progress is not None:
            progress(report.bytes_read if report.bytes_total else size, report.bytes_total)
    if progress is not None and report.bytes_total:
        progress(report.bytes_total, report.bytes_total)
