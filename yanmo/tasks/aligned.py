"""Files whose lines belong together (texts in one, labels in another) → examples of classify.

    groups     files → groups of two or three that belong together, and the others
    rows       a group → the names and rows of a table

Files belong together where their names differ only in what they hold (train_text.txt, train_labels.txt) or where they
are the only ones named, and all have as many lines. The name says which holds the labels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from yanmo.errors import FileError
from yanmo.tasks.columns import Row
from yanmo.tasks.reading_files import File, Reading, decode, load

HELD = re.compile(r"(?:^|[_.-])(labels?|texts?|sentences?|s1|s2|premises?|hypothes[ie]s|data|y|x)(?=$|[_.-])")
LABEL = re.compile(r"(?:^|[_.-])(labels?|y)(?=$|[_.-])")
TABLES = (".tsv", ".csv", ".json", ".jsonl", ".parquet")


def groups(files: Sequence[File]) -> tuple[list[list[File]], list[File]]:
    """Groups of files whose names say that they belong together, each with one of labels; and the other files."""
    plain = [file for file in files if file.suffix not in TABLES and not file.bare.endswith((".conll", ".ann"))]
    by_name: dict[tuple[str, str], list[File]] = {}
    for file in plain:
        by_name.setdefault((file.stem[0], HELD.sub("", file.bare)), []).append(file)
    found = [held for held in by_name.values() if len(held) in (2, 3) and sum(map(_named, held)) == 1]
    if not found and len(files) == len(plain) and len(files) in (2, 3) and sum(map(_named, plain)) == 1:
        found = [plain]
    used = {id(file) for held in found for file in held}
    return found, [file for file in files if id(file) not in used]


def _named(file: File) -> bool:
    return LABEL.search(file.bare) is not None


def rows(held: Sequence[File], reading: Reading) -> tuple[File, list[str], list[Row]]:
    """The file of texts, the names of the columns and their rows, by line; raises FileError where lengths differ."""
    sides: dict[str, list[str]] = {}
    texts = [file for file in held if not _named(file)]
    names = ["text", "text_pair"][: len(texts)]
    for name, file in [("label", next(file for file in held if _named(file))), *zip(names, texts)]:
        lines = decode(file, load(file), reading).split("\n")
        sides[name] = lines[:-1] if lines and not lines[-1] else lines
        reading.note(f"{file.name}: each line is a {name.replace('text_pair', 'second text')}")
    sizes = {name: len(lines) for name, lines in sides.items()}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{file.name} has {sizes[name]:,}" for name, file in zip(names, texts))
        raise FileError(
            f"the files of labels and texts have {sizes['label']:,} and other numbers of lines ({said}); each needs "
            "its line in the others"
        )
    order = ["label", *names]
    return (
        texts[0],
        order,
        [(n, dict(zip(order, row))) for n, row in enumerate(zip(*(sides[s] for s in order)), start=1)],
    )
