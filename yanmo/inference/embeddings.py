"""One vector of each text, as the model's folder says how: the format of sentence-transformers.

In: a model with an encoder, texts. Out: (n, width) in float32, in the order of the texts.

    Pooling         how the vectors of a text's tokens become one, whether its length is made 1, what stands before it
    read_pooling    modules.json, 1_Pooling/config.json, config_sentence_transformers.json → Pooling
    embed           texts → vectors, computed as encode.py does: sorted, packed without padding
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from yanmo.errors import FileError, InputError, nearest
from yanmo.files import read_json, read_json_object
from yanmo.inference.encode import POOLS, encode

if TYPE_CHECKING:
    from yanmo.inference.model import Model

KINDS = {"cls": "first", "mean": "mean", "lasttoken": "last"}  # of sentence-transformers → POOLS
OLD = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "lasttoken"}
OTHERS = ("pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")


@dataclass(frozen=True)
class Pooling:
    """pool: first, last or mean; normalize: vectors of length 1; prompt: what stands before each text."""

    pool: str = "mean"
    normalize: bool = False
    prompt: str = ""


def read_pooling(folder: Path | None) -> Pooling:
    """What a folder says; the mean where it says nothing. FileError for a step that is not known here."""
    if folder is None or not (folder / "modules.json").is_file():
        return Pooling()
    modules = read_json(folder / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise FileError(f"{folder / 'modules.json'}: not a list of steps; copy the file of the model again")
    pool, normalize = "mean", False
    for module in modules:
        kind, path = str(module.get("type", "")).rpartition(".")[2], module.get("path")
        if kind == "Pooling":
            parts = Path(str(path)).parts
            if len(parts) != 1 or parts[0] in ("..", "/", "\\"):
                raise FileError(f"{folder / 'modules.json'}: the path {path!r} is no folder in it; name one")
            pool = _pool(folder / parts[0] / "config.json")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise FileError(f"{folder / 'modules.json'}: the step {kind!r} is not known; choose pool and normalize")
    return Pooling(pool, normalize, _prompt(folder / "config_sentence_transformers.json"))


def _pool(path: Path) -> str:
    values = read_json_object(path)
    found: Any = values.get("pooling_mode")
    if found is None:
        kinds = [kind for key, kind in OLD.items() if values.get(key)]
        kinds += [key for key in OTHERS if values.get(key)]
        found = kinds[0] if len(kinds) == 1 else kinds or "mean"
    if not isinstance(found, str) or found not in KINDS:
        raise FileError(f"{path}: pools by {found!r}, and known are {', '.join(KINDS)}; choose pool yourself")
    if values.get("include_prompt") is False:
        raise FileError(f"{path}: leaves the prompt out of the pool, which is not known here; choose pool yourself")
    return KINDS[found]


def _prompt(path: Path) -> str:
    if not path.is_file():
        return ""
    values = read_json_object(path)
    name, prompts = values.get("default_prompt_name"), values.get("prompts")
    if name is None:
        return ""
    found = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    if not isinstance(found, str):
        raise FileError(f"{path}: default_prompt_name is {name!r}, and prompts has no text of that name; correct it")
    return found


def embed(
    model: Model, texts: Iterable[str], *, pool: str | None = None, normalize: bool | None = None, budget: int
) -> Tensor:
    """The vectors of texts, (n, W); what is None is as the folder says, and what it says is not read if both are set.

    Raises InputError for a text longer than the model's positions (nothing is cut), with its number.
    """
    if pool is not None and (pool not in POOLS or not pool):
        raise InputError(f"pool is {pool!r}{nearest(pool, POOLS)}, and must be first, last or mean")
    said = Pooling() if pool is not None and normalize is not None else read_pooling(model.folder)
    chosen = said.pool if pool is None else pool
    if isinstance(texts, str):
        raise InputError("texts are several strings, and this is one; put it into a list")
    given = (said.prompt + text for text in texts) if said.prompt else texts
    rows = list(encode(model, given, pool=chosen, budget=budget))
    width = model.config.width
    found = torch.stack(rows) if rows else torch.zeros(0, width)
    return (
        torch.nn.functional.normalize(found, dim=-1) if (said.normalize if normalize is None else normalize) else found
    )
