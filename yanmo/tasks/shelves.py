"""A folder whose folders are named by their labels, a text in each file → examples of classify.

shelved      files → those that are texts under labels, and the others
examples     the texts → examples
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from yanmo.tasks import columns
from yanmo.tasks.examples import Bad, Example
from yanmo.tasks.reading_files import File, Reading, Refused, Rows, decode, fit, load

TEXTS = (".txt", ".text", ".md", "")
LEAST = 2.0  # files a folder, on average: fewer are parts of one set of data


def shelved(files: Sequence[File]) -> tuple[list[File], list[File]]:
    """The texts of two or more folders beside each other, each with some texts; and the others."""
    texts = [file for file in files if file.suffix in TEXTS or file.suffix[1:].isdecimal()]
    folders = Counter(file.path.parent for file in texts)
    beside = {folder.parent for folder in folders}
    if len(folders) < 2 or len(beside) > 1 or len(texts) < LEAST * len(folders) or len(texts) < len(files):
        return [], list(files)
    return texts, []


def examples(files: Sequence[File], reading: Reading) -> Rows:
    """Yield each file's text with the name of its folder as the label."""
    names = sorted({file.path.parent.name for file in files})
    reading.format("folders of texts")
    reading.note(f"{len(files):,} texts in {len(names):,} folders, whose names are the labels")
    for file in files:
        columns.ignored(file, reading)
        name = f"{file.path.parent.name}/{file.path.name}"
        where = f"{name}:1"
        try:
            text = fit(decode(file, load(file), reading), "text").strip()
            yield Example(name, where, text, labels=(file.path.parent.name,))
        except Refused as refused:
            yield Bad(where, str(refused))
