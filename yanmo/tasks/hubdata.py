"""hf:owner/name → the data files of a data set of the hub: those of one split of one configuration.

In: "hf:owner/name", with "@revision", "/configuration" and ":split" behind it where wanted (train else), or the name or
pattern of files in place of a split ("data/*.csv"). Out: paths in the cache, downloaded unless they are there
(corpus/hubsource.py).

    is_hub      whether a user means the hub
    files       the paths of the files
    choose      names of a data set's files → those of a split
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from pathlib import Path

from yanmo.corpus import hubsource
from yanmo.errors import FileError, InputError, nearest

PREFIX = "hf:"
SPEC = re.compile(
    r"hf:(?P<name>[A-Za-z0-9_][\w.-]{0,95}(?:/[A-Za-z0-9_][\w.-]{0,95})?)(?:@(?P<revision>[\w.-]{1,100}))?"
    r"(?:/(?P<config>[\w.-]{1,100}))?(?::(?P<split>[\w.*?/\[\]-]{1,200}))?",
    re.ASCII,
)
FORMS = (".parquet", ".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".txt", ".conll")  # the first that is there counts
PACKED = (".gz", ".bz2", ".xz")
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}
OTHER = ("readme", "license", "dataset_info", "dataset_infos", ".gitattributes", "requirements")


def is_hub(path: object) -> bool:
    """Whether a path names a data set of the hub."""
    return isinstance(path, (str, Path)) and str(path).startswith(PREFIX)


def files(spec: str) -> list[Path]:
    """The paths of a split's files; raises FileError or InputError where they cannot be told."""
    found = SPEC.fullmatch(spec)
    if found is None:
        raise InputError(
            f"{spec[:100]!r} names no data set of the hub; write hf:owner/name, and behind it /configuration or :split"
        )
    name = found["name"] + (f"@{found['revision']}" if found["revision"] else "")
    config, split = found["config"], found["split"] or "train"
    return hubsource.fetch(name, lambda names: choose(names, config, split, found["name"]))


def choose(names: Iterable[str], config: str | None, split: str, where: str) -> list[str]:
    """The files of a split: by "train", "validation" or "test" in their names, in the folder of a configuration."""
    names = sorted(names)
    if re.search(r"[*?\[/]", split) or split in names:
        matching = [name for name in names if fnmatch.fnmatchcase(name, split)]
        if not matching:
            raise InputError(f"{where} has no file {split!r}{nearest(split, names)}; it has {', '.join(names[:8])}")
        return matching
    data = [name for name in names if _form(name) is not None and not name.lower().rpartition("/")[2].startswith(OTHER)]
    if not data:
        raise FileError(f"{where}: no data in this data set that can be read; needed are {', '.join(FORMS)}")
    configs = sorted({found for name in data if (found := _config(name)) is not None})
    if config is None and len(configs) > 1 and not any(_config(name) is None for name in data):
        config = "default" if "default" in configs else None
        if config is None:
            raise InputError(
                f"{where} has these configurations: {', '.join(configs[:12])}; name one: hf:{where}/{configs[0]}"
            )
    if config is not None:
        if config not in configs:
            listed = ", ".join(configs[:12]) or "none"
            raise InputError(f"{where} has no configuration {config!r}{nearest(config, configs)}; there are {listed}")
        data = [name for name in data if _config(name) == config]
    there = {name: _split(name) for name in data}
    known = sorted({found for found in there.values() if found is not None})
    wanted = next((name for name, words in SPLITS.items() if split in words), split)
    if known and wanted not in known:
        raise InputError(f"{where} has no split {split!r}{nearest(split, known)}; there are {', '.join(known)}")
    data = [name for name in data if not known or there[name] == wanted]
    form = min((_form(name) or 0) for name in data)
    return [name for name in data if _form(name) == form]


def _form(name: str) -> int | None:
    small = name.lower()
    for packing in PACKED:
        small = small.removesuffix(packing)
    return next((place for place, form in enumerate(FORMS) if small.endswith(form)), None)


def _words(name: str) -> list[str]:
    return re.split(r"[/_.-]+", name.lower())


def _split(name: str) -> str | None:
    """The split that the name of a file says, the last part of it first."""
    for part in reversed(name.split("/")):
        words = _words(part)
        for split, known in SPLITS.items():
            if any(word in known for word in words):
                return split
    return None


def _config(name: str) -> str | None:
    """The folder of a configuration: the first that is neither "data" nor a split."""
    folders = [part for part in name.split("/")[:-1] if part.lower() != "data" and _split(part) is None]
    return folders[0] if folders else None
