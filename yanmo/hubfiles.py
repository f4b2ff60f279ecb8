"""Which files of a repository or folder make a model, a tokenizer or an adapter.

In: names of files. Out: those that are needed, or a FileError of one sentence.

    needed          of the files of a repository, those that are downloaded
    gguf_files      of them, the one .gguf file (or all its parts) that is meant
    find_weights    of the files of a model folder, the one that holds its weights
    shard_names     of an index of shards, the file of each tensor
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from yanmo.errors import FileError
from yanmo.files import inside, read_json_object

Want = Literal["model", "tokenizer", "config"]

CONFIG = ("config.json", "generation_config.json")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
    "chat_template.json",
)
TOKENIZER_SUFFIXES = (".model", ".spm")  # SentencePiece
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"
FOREIGN = {
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".ckpt": "TensorFlow or Lightning",
    ".gguf": "llama.cpp",
    ".onnx": "ONNX",
    ".ot": "Rust",
}  # formats of weights that are not read as a model folder's
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")  # PEFT
PART = re.compile(r"-\d{5}-of-(\d{5})(?=\.gguf$)")  # of a .gguf file in parts
SHARD = re.compile(r".*-\d+-of-\d+\.\w+")


def find_weights(names: Iterable[str], where: str) -> str:
    """Choose the file of a model folder that holds its weights, or the index of its shards.

    `where` names the folder in the error, which lists what the folder holds instead.
    """
    names = sorted(names)
    for name in (SAFETENSORS, SAFETENSORS + INDEX):
        if name in names:
            return name
    others = [name for name in names if name.endswith(".safetensors") and not SHARD.fullmatch(name)]
    if len(others) == 1:
        return others[0]
    for name in (PICKLE, PICKLE + INDEX):
        if name in names:
            return name
    shards = [name for name in names if SHARD.fullmatch(name)]
    if others:
        found, remedy = others, f"rename the one that you mean to {SAFETENSORS}"
    elif shards:
        found, remedy = shards, f"fetch the index of these shards ({SAFETENSORS}{INDEX} or {PICKLE}{INDEX}) too"
    elif names and any(name.endswith(".gguf") for name in names) and "config.json" not in names:
        found, remedy = [name for name in names if name.endswith(".gguf")], "give the path of the .gguf file itself"
    else:
        found = [name for name in names if os.path.splitext(name)[1] in FOREIGN]
        remedy = f"not read here are {', '.join(FOREIGN)}: convert once with save_pretrained() of transformers"
        if any(name.endswith(".gguf") for name in found):
            remedy += "; or give the .gguf file itself: its path, or owner/name:FILE on a hub"
        found = found or names
    listed = ", ".join(map(repr, found[:5])) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    raise FileError(f"{where}: no {SAFETENSORS} and no {PICKLE}, but {listed or 'nothing'}; {remedy}")


def needed(names: Iterable[str], want: Want, where: str, file: str = "") -> list[str]:
    """Choose the files to download of those at the root of a repository; the shards that an index names come later.

    file: of .gguf files, the one that is meant, see `gguf_files`; a repository of such files alone needs no folder.
    """
    everything = sorted(names)
    names = [name for name in everything if "/" not in name]
    adapter = ADAPTER[0] in names and "config.json" not in names
    if file or ("config.json" not in names and not adapter and any(map(_is_gguf, everything))):
        return gguf_files(everything, file, where)
    chosen = [name for name in names if name in CONFIG or (adapter and name == ADAPTER[0])]
    if want != "tokenizer" and "config.json" not in chosen and not adapter:
        raise FileError(f"{where}: no config.json in it, so not a model in the Hugging Face layout; choose another id")
    if want != "config":
        chosen += [name for name in names if is_tokenizer(name)]
    if want == "model":
        chosen += [name for name in names if name == "README.md"]
        chosen += _adapter_weights(names, where) if adapter else [find_weights(names, where)]
    if not chosen:
        raise FileError(f"{where}: no tokenizer in it; choose another id")
    return chosen


def _adapter_weights(names: list[str], where: str) -> list[str]:
    found = [name for name in ADAPTER[1:] if name in names][:1]
    if not found:
        raise FileError(f"{where}: an adapter without {' or '.join(ADAPTER[1:])}; choose another id")
    return found + [name for name in names if name == "labels.json"]


def gguf_files(names: Iterable[str], wanted: str, where: str) -> list[str]:
    """The .gguf file that `wanted` names, by its path, its name, or what stands last in it (Q4_K_M); "": the only one.

    A model in parts is all of its parts, the first of them first.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(filter(_is_gguf, names)):
        groups.setdefault(PART.sub("", name), []).append(name)
    if wanted:
        last = re.compile(rf"(^|[-._/]){re.escape(wanted.removesuffix('.gguf'))}$", re.IGNORECASE)
        exact = [key for key, parts in groups.items() if wanted in (key, *parts)]
        plain = [key for key, parts in groups.items() if wanted in [part.rpartition("/")[2] for part in (key, *parts)]]
        found = exact or plain or [key for key in groups if last.search(key.removesuffix(".gguf"))]
    else:
        found = list(groups)
    if len(found) != 1:
        listed = ", ".join(map(repr, (found or list(groups))[:8])) + (" …" if len(found or groups) > 8 else "")
        what = f"{len(found)} .gguf files" if found else f"no .gguf file {wanted!r}"
        raise FileError(f"{where}: {what} in it ({listed or 'nothing'}); name one behind a colon: owner/name:FILE")
    parts = groups[found[0]]
    match = PART.search(parts[0])
    if match is not None and len(parts) != int(match[1]):
        raise FileError(f"{where}: {found[0]} has {int(match[1])} parts, and {len(parts)} are there; fetch the others")
    return parts


def _is_gguf(name: str) -> bool:
    """Of a model: not the part that sees pictures, nor statistics for quantising."""
    base = name.rpartition("/")[2].lower()
    return base.endswith(".gguf") and not base.startswith(("mmproj", "imatrix"))


def is_tokenizer(name: str) -> bool:
    return name in TOKENIZER or name.endswith(TOKENIZER_SUFFIXES)


def shard_names(index: Path) -> dict[str, str]:
    """Read an index of shards: the name of each tensor → the plain name of the file beside the index that holds it."""
    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise FileError(f"{index}: no weight_map that gives the file of each tensor; fetch the file again")
    return {name: inside(index.parent, file, index).name for name, file in places.items()}
