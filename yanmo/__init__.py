"""From raw text to a language model that works, on the computer that you have.

    import yanmo
    model = yanmo.load("gpt2")                    # hub id, model folder, run folder
    model.generate("Once upon a time", max_new_tokens=100, temperature=0.7)
    model.logits(ids)                             # (batch, position, vocabulary), float32

In: nothing; importing this package imports no other. Out: the public names below, each fetched from its room at first
use (PEP 562). PUBLIC says where each one lives; the TYPE_CHECKING block says the same to type checkers, and a test
holds the two equal.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

PUBLIC = {
    "BusyError": "yanmo.errors",
    "ConfigError": "yanmo.errors",
    "Corpus": "yanmo.corpus.build",
    "Document": "yanmo.corpus.documents",
    "Engine": "yanmo.inference.engine",
    "Error": "yanmo.errors",
    "FileError": "yanmo.errors",
    "Generation": "yanmo.inference.text",
    "InputError": "yanmo.errors",
    "Limits": "yanmo.inference.requests",
    "MissingExtra": "yanmo.errors",
    "Model": "yanmo.inference.model",
    "NGram": "yanmo.corpus.ngram",
    "NetworkError": "yanmo.errors",
    "Predictor": "yanmo.tasks.predictor",
    "Recipe": "yanmo.recipe",
    "Recurrent": "yanmo.models.recurrent",
    "RecurrentConfig": "yanmo.models.config",
    "Tokenizer": "yanmo.tokens.tokenizer",
    "Transformer": "yanmo.models.transformer",
    "TransformerConfig": "yanmo.models.config",
    "build_corpus": "yanmo.corpus.build",
    "doctor": "yanmo.machine",
    "finetune": "yanmo.finetune",
    "load": "yanmo.inference.model",
    "load_corpus": "yanmo.corpus.build",
    "load_predictor": "yanmo.tasks.predictor",
    "load_recipe": "yanmo.recipe",
    "load_tokenizer": "yanmo.tokens.tokenizer",
    "plan": "yanmo.plan",
    "pretrain": "yanmo.pretrain",
    "read_documents": "yanmo.corpus.text",
    "train_tokenizer": "yanmo.tokens.train",
}

__all__ = [
    "BusyError",
    "ConfigError",
    "Corpus",
    "Document",
    "Engine",
    "Error",
    "FileError",
    "Generation",
    "InputError",
    "Limits",
    "MissingExtra",
    "Model",
    "NGram",
    "NetworkError",
    "Predictor",
    "Recipe",
    "Recurrent",
    "RecurrentConfig",
    "Tokenizer",
    "Transformer",
    "TransformerConfig",
    "__version__",
    "build_corpus",
    "doctor",
    "finetune",
    "load",
    "load_corpus",
    "load_predictor",
    "load_recipe",
    "load_tokenizer",
    "plan",
    "pretrain",
    "read_documents",
    "train_tokenizer",
]

if TYPE_CHECKING:
    from yanmo.corpus.build import Corpus, build_corpus, load_corpus
    from yanmo.corpus.documents import Document
    from yanmo.corpus.ngram import NGram
    from yanmo.corpus.text import read_documents
    from yanmo.errors import BusyError, ConfigError, Error, FileError, InputError, MissingExtra, NetworkError
    from yanmo.finetune import finetune
    from yanmo.inference.engine import Engine
    from yanmo.inference.model import Model, load
    from yanmo.inference.requests import Limits
    from yanmo.inference.text import Generation
    from yanmo.machine import doctor
    from yanmo.models.config import RecurrentConfig, TransformerConfig
    from yanmo.models.recurrent import Recurrent
    from yanmo.models.transformer import Transformer
    from yanmo.plan import plan
    from yanmo.pretrain import pretrain
    from yanmo.recipe import Recipe, load_recipe
    from yanmo.tasks.predictor import Predictor, load_predictor
    from yanmo.tokens.tokenizer import Tokenizer, load_tokenizer
    from yanmo.tokens.train import train_tokenizer


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'yanmo' has no attribute {name!r}")
    module = importlib.import_module(PUBLIC[name])
    if module.__name__ == f"{__name__}.{name}":
        return module  # it can be called; had it been imported before, its name would mean the module as well
    value = getattr(module, name)
    globals()[name] = value  # so that the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return __all__
