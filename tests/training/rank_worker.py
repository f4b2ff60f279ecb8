"""What one of several processes does in test_distributed.py: every case once, results in a file.

python rank_worker.py FOLDER JOB      with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import torch
from safetensors.torch import save_file
from shapes import pair_batch, shaped, some_pairs
from small import VOCAB, batch, equal, joined, network
from torch import nn

from yanmo.errors import Error, InputError
from yanmo.models.adapters import AdapterConfig, add_adapter
from yanmo.models.initial import initialise
from yanmo.tokens.batches import NO_TARGET, Batch
from yanmo.training import distributed
from yanmo.training.checkpoint import own_tensors
from yanmo.training.distributed import Ranks, hold_run
from yanmo.training.language import seq2seq
from yanmo.training.loop import Settings, train
from yanmo.training.objectives import causal, cross_entropy
from yanmo.training.sharded import local, whole
from yanmo.training.spread import evaluate, spread, sum_gradients, wrapped

ROWS, LENGTH, STEPS, ACCUMULATION = 4, 9, 4, 3


class Uneven(Iterator[Batch]):
    """Rows of which all, half, the first alone, or none have targets: some ranks have none, and some micro-batches."""

    def __init__(self) -> None:
        self.drawn = 0

    def __iter__(self) -> Uneven:
        return self

    def __next__(self) -> Any:
        self.drawn += 1
        rows = batch(ROWS, LENGTH, seed=self.drawn, targets=(1.0, 0.6)[self.drawn % 2])
        kept = (4, 1, 2, 0, 4)[self.drawn % 5]
        rows.targets[kept:] = NO_TARGET
        rows.targets[kept : kept + 1, 3] = rows.ids[kept : kept + 1, 3]  # never the same number on two ranks
        if not kept:
            rows.targets.fill_(NO_TARGET)
        return rows

    def state(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def restore(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]


class Pairs(Uneven):
    """Sources and targets for an encoder-decoder."""

    def __next__(self) -> Any:
        self.drawn += 1
        rows = [[pair] for pair in some_pairs(((3, 4), (5, 2), (4, 6), (2, 3)), seed=self.drawn)]
        return pair_batch(rows, shaped("t5"))


def in_chunks(model: Any, rows: Batch) -> tuple[torch.Tensor, int]:
    """The causal objective whose logits are made a few rows at a time."""
    return cross_entropy(model, model.decode(rows.ids, rows.mask), rows.targets, chunk=4 * VOCAB), rows.n_targets


def signalled(calls: Iterator[int], call: int, model: Any, rows: Batch) -> tuple[torch.Tensor, int]:
    """The causal objective, in one call of which a signal arrives."""
    if next(calls) == call:
        os.kill(os.getpid(), signal.SIGTERM)
    return causal(model, rows)


@dataclass(frozen=True)
class Case:
    """One training."""

    kind: str = "qwen3"
    shard: str = "none"
    tensor: int = 1
    optimizer: str = "adamw"
    precision: str = "float32"
    dropout: float = 0.0
    clip: float = 1.0
    chunks: bool = False
    ema: float = 0.0
    recompute: bool = False
    signal_step: int = 0  # in which rank 1 gets SIGTERM


CASES = {
    "replicated": Case(),
    "replicated-muon": Case(optimizer="muon", kind="gpt2", clip=0.1),
    "replicated-bfloat16": Case(precision="bfloat16", optimizer="muon"),
    "sharded": Case(shard="full", chunks=True),
    "sharded-untied": Case(shard="full", kind="untied", chunks=True),
    "sharded-muon": Case(shard="full", optimizer="muon", kind="gpt2", clip=0.1),
    "sharded-bfloat16": Case(shard="full", precision="bfloat16", optimizer="muon"),
    "sharded-lstm": Case(shard="full", kind="lstm"),
    "sharded-pairs": Case(shard="full", kind="t5"),
    "sharded-adapter": Case(shard="full", kind="adapter"),
    "sharded-average": Case(shard="full", ema=0.5, recompute=True),
    "cut": Case(shard="full", tensor=2, kind="heads"),
    "cut-gpt2": Case(shard="full", tensor=2, kind="gpt2", chunks=True),
    "cut-muon": Case(shard="full", tensor=2, kind="heads", optimizer="muon", ema=0.5, recompute=True),
    "cut-bfloat16": Case(shard="full", tensor=2, kind="heads", precision="bfloat16"),
}


def model(kind: str, dropout: float = 0.0) -> nn.Module:
    if kind == "t5":
        return shaped("t5", scale=1.0)
    if kind == "heads":  # what a llama or qwen3 has, with heads and inner vectors that two ranks can share
        return network("qwen3", dropout=dropout, n_kv_heads=2, ffn_width=22)
    if kind == "untied":
        return network("qwen3", dropout=dropout, tie_embeddings=False)
    if kind == "adapter":
        built = network("qwen3")
        add_adapter(built, AdapterConfig(rank=2), seed=1)
        return built
    return network(kind, dropout=dropout)


def go(case: Case, ranks: Ranks, folder: Path | None = None, **options: Any) -> dict[str, Any]:
    """Train, in a run folder from wherever it is; returns losses, norms and the whole weights."""
    built = model(case.kind, case.dropout)
    spread(built, ranks, case.precision)
    values: dict[str, Any] = {"steps": STEPS, "accumulation": ACCUMULATION, "learning_rate": 0.01}
    values |= {"optimizer": case.optimizer, "precision": case.precision, "clip": case.clip, "keep": 10}
    values |= {"warmup": 0.0, "decay": 0.0}
    settings = Settings(**values | {"ema": case.ema, "recompute": case.recompute} | options)
    pairs = case.kind == "t5"
    objective: Any = seq2seq if pairs else in_chunks if case.chunks else causal
    if case.signal_step and ranks.rank == 1:
        objective = functools.partial(signalled, iter(range(10**6)), case.signal_step * ACCUMULATION)
    run = None if folder is None else hold_run(ranks, folder, "", {})
    with contextlib.ExitStack() as stack:
        if run is not None:
            stack.enter_context(run)
        steps = list(train(built, Pairs() if pairs else Uneven(), objective, settings, run=run, ranks=ranks))
    result: dict[str, Any] = {"losses": [s.loss for s in steps], "norms": [s.gradient_norm for s in steps]}
    result["tokens"] = [s.tokens for s in steps]
    result["weights"] = weights(built)
    if steps and case.ema:
        with steps[-1].averaged():
            result["average"] = weights(built)
    return result


def weights(built: nn.Module) -> dict[str, torch.Tensor]:
    return {name: whole(tensor).detach().clone() for name, tensor in own_tensors(built).items()}


def keep(place: Path, name: str, result: dict[str, Any], ranks: Ranks) -> None:
    """Write a result where the test finds it: numbers of every rank, weights of the main one."""
    place.mkdir(parents=True, exist_ok=True)
    for part in ("weights", "average"):
        if ranks.is_main and part in result:
            save_file({k: v.contiguous() for k, v in result[part].items()}, place / f"{name}.{part}.safetensors")
    numbers = {key: value for key, value in result.items() if key not in ("weights", "average")}
    (place / f"{name}.{ranks.rank}.json").write_text(json.dumps(numbers))


# --- jobs

STORE: list[Any] = []  # where the processes met


def arrange(**options: Any) -> Ranks:
    return distributed.arrange(**options, store=STORE[0])


RESUMED = {
    "average": Case(shard="full", ema=0.9),
    "muon": Case(shard="full", optimizer="muon", kind="gpt2"),
    "cut": Case(shard="full", tensor=2, kind="heads"),
    "whole": Case(),
}
DROPPED = Case(shard="full", dropout=0.3, kind="gpt2", optimizer="muon", precision="bfloat16")


def cases(place: Path) -> None:
    """Every case on all ranks."""
    for name, case in CASES.items():
        ranks = arrange(shard=case.shard, tensor_parallel=case.tensor)
        keep(place / "cases", name, go(case, ranks), ranks)


def resumes(place: Path) -> None:
    """Go on from what other numbers of ranks left, and leave something to them."""
    for name, case in RESUMED.items():
        ranks = arrange(shard=case.shard, tensor_parallel=case.tensor)
        for source in sorted(place.glob(f"{name}-by-?")):
            folder = place / f"{source.name}-to-{ranks.count}"
            ranks.by_main(lambda source=source, folder=folder: str(shutil.copytree(source, folder)))  # type: ignore[misc]
            keep(place / "resumed", folder.name, go(case, ranks, folder), ranks)
        go(case, ranks, place / f"{name}-by-{ranks.count}", steps=2)


def same_again(place: Path) -> None:
    """With dropout: a whole run, and one that is left after two steps and taken up by as many ranks."""
    ranks = arrange(shard="full")
    keep(place / "again", "whole", go(DROPPED, ranks, place / "whole-run"), ranks)
    go(DROPPED, ranks, place / "parts-run", steps=2)
    keep(place / "again", "parts", go(DROPPED, ranks, place / "parts-run"), ranks)
    states = [ranks.random(3, step) for step in (0, 0, 1)]
    digests = [hashlib.sha256(bytes(s.torch_state.tolist())).hexdigest() for s in states if s is not None]
    keep(place / "again", "random", {"digests": digests}, ranks)


def loud(kind: str) -> nn.Module:
    """A model with matrices so large that every part of it matters."""
    built = model(kind)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(8.0 if parameter.ndim > 1 else 1.0)
    return built


def gradients_of(built: nn.Module, ranks: Ranks) -> dict[str, torch.Tensor]:
    """The loss and the whole gradients of one batch, summed over its targets."""
    loss, count = wrapped(causal, ranks)(built, ranks.share(batch(ROWS, LENGTH)))
    loss.backward()
    named = dict(built.named_parameters())
    sum_gradients(named, ranks)
    found = {name: whole(p.grad).detach().clone() for name, p in named.items() if p.grad is not None}
    return found | {"loss": torch.tensor(ranks.total([float(loss.detach())]))}


GRADIENTS = {"heads": 2, "gpt2": 2, "untied": 1}  # kind → neighbours that share matrices


def gradients(place: Path) -> None:
    """Gradients of networks that lie in parts."""
    for kind, tensor in GRADIENTS.items():
        ranks, built = arrange(shard="full", tensor_parallel=tensor), loud(kind)
        spread(built, ranks)
        keep(place / "gradients", kind, {"weights": gradients_of(built, ranks)}, ranks)


def filled(place: Path) -> None:
    """Networks that are spread out empty, and filled."""
    result = {}
    for name, kind, options in (
        ("replicated", "qwen3", {"shard": "none"}),
        ("sharded", "untied", {"shard": "full"}),
        ("lstm", "lstm", {"shard": "full"}),
        ("cut", "heads", {"shard": "full", "tensor_parallel": 2}),
        ("cut-biases", "gpt2", {"shard": "full", "tensor_parallel": 2}),
        ("small enough", "qwen3", {"shard": "auto"}),
    ):
        known = model(kind)
        with torch.device("meta"):
            built: Any = type(known)(known.config)
        ranks = arrange(**options)
        spread(built, ranks, draw=lambda net, part: initialise(net, torch.Generator().manual_seed(0), part))
        result[name] = [ranks.sharded, equal(weights(built), weights(known))]
    keep(place, "filled", result, ranks)


def agreements(place: Path) -> None:
    """Evaluation on uneven rows; a budget of time; a signal to one rank; one outcome of what may fail."""
    ranks = arrange(shard="full")
    built = model("qwen3")
    spread(built, ranks)
    parts = [joined([batch(1, LENGTH, seed=row) for row in range(rows)]) for rows in (5, 1, 4)]
    score = evaluate(ranks, built, parts, 100)
    result: dict[str, Any] = {"bits": score.bits_per_byte, "tokens": score.tokens}
    result["parts"] = [len(local(p)) for p in built.parameters() if p.ndim == 2][:2]  # in parts again after it
    result["budget"] = len(go(Case(shard="full"), ranks, steps=None, seconds=0.3)["losses"])
    try:
        folder = place / "signalled"
        go(Case(shard="full", signal_step=2), ranks, folder, steps=10**6)
    except KeyboardInterrupt:
        result["signalled"] = sorted(path.name for path in (folder / "checkpoints").iterdir())
    result["texts"] = ranks.exchange(f"字 {ranks.rank}")
    result["value"] = ranks.by_main(lambda: {"rank": ranks.rank})
    for name, action in (("one", _fail_on(ranks, 1)), ("main", lambda: hold_run(ranks, place, "", {}))):
        try:
            ranks.together(action)
        except Error as error:
            result[name] = [type(error).__name__, str(error)]
    keep(place, "agreements", result, ranks)


def _fail_on(ranks: Ranks, rank: int) -> Callable[[], None]:
    def act() -> None:
        if ranks.rank == rank:
            raise InputError("the second rank cannot")

    return act


def endless(place: Path) -> None:
    """Train until somebody ends it; a rank that is told to LEAVE raises between two steps."""
    ranks = arrange(shard="full")
    built = model("qwen3")
    spread(built, ranks)
    settings = Settings(steps=10**6, accumulation=ACCUMULATION, save_steps=1)
    with hold_run(ranks, place / "endless", "", {}) as run:
        for step in train(built, Uneven(), causal, settings, run=run, ranks=ranks):
            if step.step == 4 and os.environ.get("LEAVE") == os.environ["RANK"]:
                raise InputError("this rank leaves")


def main(folder: Path, job: str) -> None:
    torch.set_num_threads(1)
    with distributed.start() as ranks:
        STORE.append(ranks.store)
        for name in job.split(","):
            began = time.perf_counter()
            globals()[name](folder)
            if os.environ["RANK"] == "0":
                print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except Error as error:
        print(f"yanmo: {error}", file=sys.stderr)
        sys.exit(2)
