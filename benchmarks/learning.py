"""Our side of B6 and B7: a training in a process of its own, which prints the validation as nanoGPT does.

In: a folder of token shards, `train` and `valid`; a model and a training, as in a recipe. Out: printed lines.

    command      the words that start it
    windows      the validation of the peer over the whole split
    learn        train, validate, print
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yanmo.tokens.shards import TokenShards, open_shards


def command(folder: str | Path, seed: int, model: dict[str, Any], train: dict[str, Any]) -> list[str]:
    """The words for a process that learns; to be run in this checkout."""
    return [sys.executable, "-m", "benchmarks.learning", str(folder), str(seed), json.dumps([model, train])]


def windows(shards: TokenShards, width: int, rows: int = 64) -> Iterator[Any]:
    """Windows side by side, each token predicted from those before it in its own window; the last part is left out."""
    import torch

    from yanmo.tokens.batches import Batch

    ids = torch.from_numpy(shards.ids[:-1].astype("int64"))  # without the last end, which the peer's text has not
    count = (len(ids) - 1) // width
    inputs, targets = (ids[shift : shift + count * width].view(count, width) for shift in (0, 1))
    for part, wanted in zip(inputs.split(rows), targets.split(rows)):
        yield Batch(part, wanted, torch.ones_like(part))


def learn(folder: Path, seed: int, model: dict[str, Any], train: dict[str, Any]) -> None:
    """Train as the sections of a recipe say, validate once at the end, and print a line as the peer does."""
    import torch

    from yanmo.models.checkpoint import build
    from yanmo.models.initial import initialise
    from yanmo.models.sketch import network_config
    from yanmo.recipe import ModelSection, TrainSection
    from yanmo.tokens.batches import PackedBatches
    from yanmo.training.build import build_settings
    from yanmo.training.loop import train as steps_of
    from yanmo.training.objectives import causal, evaluate
    from yanmo.training.precision import probe_precision

    recipe = TrainSection(**train, seed=seed)
    shards, valid = (open_shards(folder / name) for name in ("train", "valid"))
    network = build(
        network_config(ModelSection(**model), vocab_size=shards.vocab_size, length=recipe.length, start_id=0, end_id=0)
    )
    initialise(network, torch.Generator().manual_seed(seed))
    batches = PackedBatches(shards, recipe.rows, recipe.length, seed)
    probe = probe_precision(network, next(PackedBatches(shards, recipe.rows, recipe.length, seed)), causal, seconds=0)
    for step in steps_of(network, batches, causal, build_settings(recipe, probe.precision)):
        if step.step == recipe.steps:
            network.to(
                getattr(torch, probe.precision)
            )  # nothing is trained after this, and float32 takes twice the time
            loss = evaluate(network, windows(valid, recipe.length), valid.n_bytes).loss
            print(f"step {step.step}: train loss {step.loss:.4f}, val loss {loss:.4f}", flush=True)
            print(json.dumps({"precision": probe.precision, "tokens": step.tokens, "seconds": step.seconds}))


if __name__ == "__main__":
    learn(Path(sys.argv[1]), int(sys.argv[2]), *json.loads(sys.argv[3]))
