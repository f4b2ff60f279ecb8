"""Matrices of a Transformer by name: which ones a user means, and which ones an adapter takes by itself. No torch.

In: the names of a network's matrices, and targets. Out: the names that are meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from yanmo.errors import InputError, nearest

# all layers of a decoder (Dettmers et al. 2023, §4), query and value of the others (Hu et al. 2021, §7.1)
DEFAULT_TARGETS = {"decoder": ("all",), "encoder": ("query", "value"), "encoder-decoder": ("query", "value")}


def chosen(names: Sequence[str], targets: Iterable[str]) -> set[str]:
    """The names of the matrices that `targets` name; one that names nothing is an InputError."""
    found: set[str] = set()
    for target in targets:
        matched = [name for name in names if _matches(name, target)]
        if not matched:
            known = {name.split(".")[-1] for name in names if not name.startswith("head")} | {"all", "cross.*"}
            known |= {name for name in names if name.startswith("head")} | {"head"}
            raise InputError(
                f"{target!r} is no matrix of this network{nearest(target, known)}; it has {', '.join(sorted(known))}"
            )
        found.update(matched)
    return found


def _matches(name: str, target: str) -> bool:
    if name.startswith("head"):
        return name == target or (target == "head" and name == "head.out")
    if target.endswith(".*"):
        return f".{target[:-1]}" in f".{name}"
    return target == "all" or name == target or name.endswith(f".{target}")
