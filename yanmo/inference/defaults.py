"""What a model folder says about generation: where texts start and end, and tokens that must never be written.

In: generation_config.json, or in older folders config.json. Out: Ends. Sampling settings in these files are not read:
the caller of `generate` chooses them, so that the same call means the same for every model.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from yanmo.errors import FileError
from yanmo.files import read_json_object
from yanmo.gguf import read_header
from yanmo.inference.generate import Ends
from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.tokens.tokenizer import Tokenizer, load_tokenizer


def read_ends(folder: Path | None, config: TransformerConfig | RecurrentConfig) -> Ends:
    """Read the ends of texts; a value that is not a token of the model is a FileError."""
    values: dict[str, Any] = {}
    if folder is not None:
        for name in ("config.json", "generation_config.json"):  # the second one wins
            if (folder / name).is_file():
                values |= {k: v for k, v in read_json_object(folder / name).items() if v is not None}
    source = folder / "generation_config.json" if folder is not None else Path("generation_config.json")
    start = getattr(config, "decoder_start_id", None)
    eos = _ids(values.get("eos_token_id", list(config.eos_ids)), "eos_token_id", config.output_size, source)
    never = _ids(values.get("suppress_tokens", []), "suppress_tokens", config.output_size, source)
    if config.kind != "encoder-decoder":
        return Ends(eos_ids=frozenset(eos), never_ids=never + _bad_words(values, config.output_size, source))
    return Ends(
        eos_ids=frozenset(eos),
        start_id=_first(values.get("decoder_start_token_id", start), "decoder_start_token_id", config, source),
        never_ids=never + _bad_words(values, config.output_size, source),
        forced_first_id=_first(values.get("forced_bos_token_id"), "forced_bos_token_id", config, source),
        forced_last_id=_first(values.get("forced_eos_token_id"), "forced_eos_token_id", config, source),
    )


def _ids(value: Any, key: str, size: int, source: Path) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    for v in values:
        if isinstance(v, bool) or not isinstance(v, int) or not 0 <= v < size:
            raise FileError(f"{source}: {key} holds {v!r}, which is not one of the model's {size:,} tokens")
    return tuple(values)


def _first(value: Any, key: str, config: TransformerConfig | RecurrentConfig, source: Path) -> int | None:
    found = _ids([] if value is None else value, key, config.output_size, source)
    return found[0] if found else None


def _bad_words(values: dict[str, Any], size: int, source: Path) -> tuple[int, ...]:
    words = values.get("bad_words_ids", [])
    if not isinstance(words, list) or not all(isinstance(w, list) for w in words):
        raise FileError(f"{source}: bad_words_ids is {words!r}, and must be a list of lists of tokens")
    if any(len(w) != 1 for w in words):
        warnings.warn(f"{source}: bad_words_ids of several tokens are not applied", stacklevel=2)
    return tuple(i for w in words if len(w) == 1 for i in _ids(w, "bad_words_ids", size, source))


def generation_values(ends: Ends, config: TransformerConfig | RecurrentConfig) -> dict[str, Any]:
    """What generation_config.json says of a model."""
    values: dict[str, Any] = {
        "bos_token_id": config.bos_id,
        "eos_token_id": sorted(ends.eos_ids) if len(ends.eos_ids) > 1 else next(iter(ends.eos_ids), None),
        "pad_token_id": config.pad_id,
        "decoder_start_token_id": ends.start_id,
        "forced_bos_token_id": ends.forced_first_id,
        "forced_eos_token_id": ends.forced_last_id,
        "bad_words_ids": [[i] for i in ends.never_ids] or None,
    }
    return {k: v for k, v in values.items() if v is not None}


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The folder's tokenizer, or None where it holds no file of one (a damaged one is an error)."""
    if not folder.is_dir():
        return load_tokenizer(folder) if "tokenizer.ggml.tokens" in read_header(folder).metadata else None
    names = {p.name for p in folder.iterdir()}
    known = {"tokenizer.json", "vocab.json", "vocab.txt", "encoder.json"}
    if names & known or any(n.endswith((".model", ".spm")) for n in names):
        return load_tokenizer(folder)
    return None
