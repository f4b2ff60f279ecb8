"""What a run of a task keeps of its examples: RUN/data, written by who holds the run, and found again after a move.

check_place    refuse a folder of something else, and one that is read from
keep           the parts' bytes → RUN/data; a run that has begun keeps its own
kept_test      the test part of a run that had one, where none is named now
unchanged      refuse a run whose data another command wrote after ours
follow         a run that was moved, or is named by another path, is the same run
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yanmo.errors import ConfigError, FileError
from yanmo.files import read_bytes, read_text, write_atomic
from yanmo.recipe import MAX_RECIPE, Recipe, identity, read_recipe
from yanmo.runs import is_run
from yanmo.tasks.examples import Example
from yanmo.tasks.reading import read
from yanmo.tasks.stored import LIMIT, read_examples

TEST = "test"


def place_of(folder: Path, part: str) -> Path:
    """The file of a part: train, valid or test."""
    return folder / "data" / f"{part}.jsonl"


def check_place(folder: Path, sources: Sequence[str | Path]) -> None:
    """Refuse to write beside what is no run, and over what is read."""
    place = (folder / "data").resolve()
    inside = next((path for path in sources if Path(path).resolve().is_relative_to(place)), None)
    if inside is not None:
        raise FileError(
            f"{inside}: lies in {folder / 'data'}, where the run keeps its own examples; choose another --out"
        )
    if folder.is_dir() and not is_run(folder):
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in ("data", "lock"))
        if foreign:
            raise FileError(f"{folder}: holds {foreign[0]}, not a run; choose an empty folder")
    elif folder.exists() and not folder.is_dir():
        raise FileError(f"{folder}: a file, and a run is a folder; choose another name")


def has_begun(folder: Path) -> bool:
    """Whether a run has trained: what it learns from and is judged by is settled."""
    return is_run(folder) and (folder / "checkpoints").is_dir()


def keep(parts: Mapping[str, bytes], folder: Path) -> None:
    """Write what a run learns from, by who holds the folder; a run that has begun refuses other data."""
    begun = has_begun(folder)
    for part, text in parts.items():
        path = place_of(folder, part)
        known = _is(path, text)
        if begun and not known:
            raise ConfigError(
                f"{folder}: holds a run of other data ({path.name}); give the same, or choose another folder"
            )
        if not known:
            if path.is_file():  # of a command that never began: its tokenizer is of other texts too
                shutil.rmtree(path.parent / "tokenizer", ignore_errors=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text)
    if not begun and TEST not in parts:  # of such a command too
        place_of(folder, TEST).unlink(missing_ok=True)


def kept_test(task: str, folder: Path) -> list[Example]:
    """The test examples with which a run began; [] where it has none."""
    path = place_of(folder, TEST)
    if not has_begun(folder) or not path.is_file():
        return []
    return read(task, path).examples if task == "generate" else read_examples(path)


def unchanged(parts: Mapping[str, bytes], folder: Path) -> None:
    """Refuse to train on what another command wrote between our writing and our holding of the run."""
    for part, text in parts.items():
        if not _is(place_of(folder, part), text):
            raise FileError(
                f"{folder}: another command wrote its own examples there ({part}.jsonl) at the same moment; call "
                "this one again, or choose another folder"
            )


def follow(folder: Path, recipe: Recipe) -> None:
    """Write the recipe of a run anew where it differs in the place of the run's own files alone."""
    path = folder / "recipe.toml"
    if not is_run(folder) or not path.is_file():
        return
    known = read_recipe(read_text(path, MAX_RECIPE), str(path))
    changed: dict[str, Any] = {}
    for section, name in (("data", "paths"), ("data", "valid"), ("tokenizer", "path")):
        part = changed.get(section, getattr(known, section))
        old, new = getattr(part, name), getattr(getattr(recipe, section), name)
        if old != new and _tails(old) == _tails(new):
            changed[section] = part.model_copy(update={name: new})
    if changed and identity(known.model_copy(update=changed)) == identity(recipe):
        write_atomic(path, identity(recipe))


def _tails(value: Any) -> list[tuple[str, ...]]:
    """The ends of paths inside a run: data/train.jsonl; of other paths the whole."""
    paths = [Path(one) for one in ([value] if isinstance(value, str) else value or [])]
    return [path.parts[-2:] if path.parts[-2:-1] == ("data",) else path.parts for path in paths]


def _is(path: Path, text: bytes) -> bool:
    return path.is_file() and read_bytes(path, LIMIT) == text
