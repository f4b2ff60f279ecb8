"""The mix of a corpus: how many times each training document is written, by source or language.

In: decisions, rows, the section [mix] of a recipe. Out: turns.npy, one uint16 a document, and what each group got.

    draw          decides for every training document; one that is drawn no time is NOT_DRAWN
    wanted        does a recipe ask for a mix?

The size of a group is its bytes of training text. A document is drawn as often whatever other documents of its group
come or go, as long as the group's epochs are the same (mix.py). Validation documents take no part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from yanmo.corpus import mix
from yanmo.corpus.card import UNSTATED
from yanmo.corpus.engine_files import Plan, array_on_disk
from yanmo.corpus.settings import CorpusRecipe, pairs

Block = tuple[int, np.ndarray]  # the place of the first document, and the rows of a part


def wanted(recipe: CorpusRecipe) -> bool:
    """Whether any document may be drawn another number of times than once."""
    return bool(recipe.mix.weights) or recipe.mix.temperature != 1 or recipe.mix.epochs != 1


def draw(
    path: Path, decision: np.ndarray, blocks: list[Iterable[Block]], plan: Plan, codes: tuple[int, int], held: set[int]
) -> dict[str, Any]:
    """Write the turns of all documents into `path`; those of `held` are drawn once at least.

    blocks: the rows twice, for two passes; codes: of training documents, and of those that are not drawn. Returns
    group → bytes, epochs, and its share of the bytes that are drawn. ConfigError where a weight names no group.
    """
    asked, seed = plan.recipe.mix, plan.recipe.out.seed
    train, not_drawn = codes
    sizes: Counter[str] = Counter()
    for start, rows in blocks[0]:
        mine = np.flatnonzero(decision[start : start + len(rows)] == train)
        names, numbers = _groups(rows[mine], plan)
        sizes.update(dict(zip(names, np.bincount(numbers, rows["bytes"][mine], len(names)).astype(int).tolist())))
    sizes = Counter({name: size for name, size in sorted(sizes.items()) if size})
    weights = {name: float(weight) for name, weight in pairs(asked.weights)} or mix.temper(sizes, asked.temperature)
    times = mix.epochs(sizes, weights, max(round(asked.epochs * sizes.total()), 1))
    turns = array_on_disk(path, np.uint16, len(decision))
    drawn: Counter[str] = Counter(dict.fromkeys(sizes, 0))
    for start, rows in blocks[1]:
        mine = np.flatnonzero(decision[start : start + len(rows)] == train)
        names, numbers = _groups(rows[mine], plan)
        for at, number in zip(mine.tolist(), numbers.tolist()):
            name, row = names[number], start + at
            count = mix.copies(times[name], name, rows["id"][at].tobytes().hex(), seed)
            turns[row] = count = max(count, int(row in held))
            drawn[name] += count * int(rows["bytes"][at])
            if not count:
                decision[row] = not_drawn
    shares = mix.obtained(drawn)
    return {
        name: {"bytes": size, "epochs": round(times[name], 6), "share": round(shares[name], 6)}
        for name, size in sizes.items()
    }


def _groups(rows: np.ndarray, plan: Plan) -> tuple[list[str], np.ndarray]:
    """The names of the groups that occur, and the number of each row's."""
    if plan.recipe.mix.by == "language":
        known, numbers = np.unique(rows["language"], return_inverse=True)
        named = [code.decode("ascii", "replace").partition("-")[0] or UNSTATED for code in known.tolist()]
    else:
        known, numbers = np.unique(rows["source"], return_inverse=True)
        named = [plan.sources[number].name.partition("/")[0] for number in known.tolist()]
    names = sorted(set(named))
    return names, np.array([names.index(name) for name in named], np.int64)[numbers.reshape(-1)]
