"""Models of trusted text that a recipe names: trained once, before any worker judges by them.

In: [perplexity] models and reference of a recipe. Out: WORK/models/LANGUAGE.npz for each that is not a model already.

    prepare       trains what is not there
    model_paths   language → the file of its model
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from yanmo.corpus import perplexity
from yanmo.corpus.settings import CorpusRecipe, pairs
from yanmo.corpus.text import read_documents

FOLDER = "models"
TRAINED_ON = 2**25  # characters; the first of a trusted text
SET_BY = 2**22  # characters of reference texts


def prepare(recipe: CorpusRecipe, work: str | Path) -> None:
    """Train the models that a recipe names by text; InputError for a text without words."""
    reference = dict(pairs(recipe.perplexity.reference))
    for language, named in pairs(recipe.perplexity.models):
        path = Path(work) / FOLDER / f"{language}.npz"
        if _is_model(named) or path.exists():
            continue
        others = list(_texts(reference[language], SET_BY)) if language in reference else []
        model = perplexity.train(_texts(named, TRAINED_ON), others)
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)


def model_paths(recipe: CorpusRecipe, work: str | Path) -> dict[str, Path]:
    """Where the model of each language lies."""
    return {
        language: Path(named) if _is_model(named) else Path(work) / FOLDER / f"{language}.npz"
        for language, named in pairs(recipe.perplexity.models)
    }


def _is_model(path: str) -> bool:
    return path.endswith(".npz")


def _texts(path: str, most: int) -> Iterator[str]:
    for document in read_documents([path]):
        yield document.text
        most -= len(document.text)
        if most <= 0:
            return
