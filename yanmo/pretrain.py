"""Pretraining by a recipe: text → corpus → tokenizer → token shards → network → training → model folder.

In: a Recipe and a run folder. Out: RUN/model, an ordinary model folder; everything on the way stays in the run folder,
and what is finished is not made again when the same recipe is run again.

    pretrain           the whole way
    make_corpus        RUN/corpus, or the corpus folder that the recipe names
    make_tokenizer     RUN/tokenizer
    make_shards        RUN/tokens/train, valid, and live: the part of valid that is measured during training
    make_plan          RUN/plan.json: sizes, precision, time; before the first step
    fit                training with evaluations; returns the best step

`yanmo.pretrain(…)` is the function of that name: this module can be called, since one name is both.

`report(stage, values)` hears of everything: "corpus", "tokenizer", "tokens" with `share` and `text`, "note" with
`text`, "plan", "step", "evaluation", and "model" at the end.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from yanmo import __version__, machine
from yanmo.corpus.build import Corpus, build_corpus, load_corpus
from yanmo.corpus.ledger import ReadReport
from yanmo.corpus.text import read_documents
from yanmo.errors import ConfigError, Error, FileError, need
from yanmo.files import read_json_object, write_json
from yanmo.hub import resolve
from yanmo.inference.model import Model
from yanmo.models.checkpoint import Network
from yanmo.recipe import DataSection, Recipe, TokenizerSection, TrainSection, dump_recipe, read_recipe
from yanmo.runs import Run, open_run
from yanmo.tokens.batches import PackedBatches, validation_batches
from yanmo.tokens.shards import TokenShards, open_shards, start_and_end, write_shards
from yanmo.tokens.tokenizer import Tokenizer, load_tokenizer
from yanmo.tokens.train import train_tokenizer
from yanmo.training import build
from yanmo.training.checkpoint import load_weights, read_state
from yanmo.training.loop import train
from yanmo.training.objectives import Evaluation, causal, evaluate
from yanmo.training.precision import measured_speed, probe_precision

Report = Callable[[str, dict[str, Any]], None]

ENCODED_AT_ONCE = 64  # documents
LIVE_TOKENS = 1 << 14  # measured during training at least
LIVE_SHARE = (
    20  # and at most one token for each 20 that are trained between two evaluations: a few per cent of the time
)


def pretrain(recipe: Recipe, out: str | Path, *, report: Report | None = None) -> Path:
    """Train a model as the recipe says in the run folder `out` and return its model folder.

    Called again with the same recipe, it goes on where it was interrupted, and returns at once where it was finished.
    """
    say: Report = report or (lambda stage, values: None)
    check(recipe)
    need("pyarrow", "corpus", "yanmo pretrain")
    environment = machine.environment() | {"seed": recipe.train.seed}
    folder = Path(out)
    with open_run(out, dump_recipe(recipe), environment, lambda old: _adopt(folder, old, recipe)) as run:
        try:
            return _go(recipe, run, say)
        except Error:
            run.forget()
            raise


def _go(recipe: Recipe, run: Run, say: Report) -> Path:
    folder, settings = run.folder, recipe.train
    if (folder / "model").is_dir():
        say("model", read_json_object(folder / "plan.json").get("result", {}))
        return folder / "model"
    tokens = folder / "tokens"
    if not (tokens / "live").is_dir():
        corpus = make_corpus(recipe.data, folder / "corpus", say)
        tokenizer = make_tokenizer(recipe.tokenizer, corpus, folder / "tokenizer", say)
        write_json(tokens / "corpus.json", corpus.card)  # for the model card; a corpus elsewhere may be gone by then
        make_shards(corpus, tokenizer, tokens, _live_tokens(settings), say)
    tokenizer = load_tokenizer(folder / "tokenizer")
    train_shards, valid, live = (open_shards(tokens / name, tokenizer.hash) for name in ("train", "valid", "live"))
    batches = PackedBatches(train_shards, settings.rows, settings.length, settings.seed)
    network = build.build_network(
        recipe.model,
        vocab_size=train_shards.vocab_size,
        length=settings.length,
        start_id=train_shards.start_id,
        end_id=train_shards.end_id,
        seed=settings.seed,
    ).to(_device())
    plan = make_plan(recipe, run, network, train_shards)
    say("plan", plan)
    best = fit(recipe, run, network, batches, live, say)
    load_weights(network, run.checkpoint(best))
    score = _evaluate(network, valid, settings)
    result = {"model": str(folder / "model"), "step": best, "parameters": plan["parameters"]}
    result |= {"bits_per_byte": score.bits_per_byte, "valid_loss": score.loss, "valid_tokens": score.tokens}
    network.config = build.without_dropout(network.config)
    card = model_card(recipe, plan, result, read_json_object(tokens / "corpus.json"))
    family = build.public_family(network.config, recipe.model)
    write_json(folder / "plan.json", plan | {"result": result})
    Model(network.cpu().eval(), tokenizer).save(folder / "model", card=card, family=family)
    say("model", result)
    return folder / "model"


def check(recipe: Recipe) -> None:
    """Raise ConfigError for what can be known to be wrong before any text is read, and warn of what has no effect."""
    build.network_config(recipe.model, vocab_size=2, length=recipe.train.length, start_id=0, end_id=1)
    if recipe.train.length < 2:
        raise ConfigError("train.length is 1, at least 2 are needed: one token to read and one to predict")
    if recipe.tokenizer.kind == "wordpiece" and recipe.tokenizer.path is None:
        raise ConfigError(
            "tokenizer.kind is 'wordpiece', which has no token for the end of a text; choose bpe or unigram"
        )
    idle = {"family", "heads", "kv_heads", "head_width"} & recipe.model.model_fields_set
    if recipe.model.kind != "transformer" and idle:
        warnings.warn(f"model.{sorted(idle)[0]} has no effect on the kind {recipe.model.kind!r}", stacklevel=3)


def _adopt(folder: Path, old: str, recipe: Recipe) -> None:
    """Keep of a run that has not begun to train what the new recipe would make too."""
    known = read_recipe(old, str(folder / "recipe.toml"))
    stale = ["tokens/live", "plan.json"]
    if known.tokenizer != recipe.tokenizer:
        stale += ["tokens", "tokenizer"]
    if known.data != recipe.data:
        stale += ["tokens", "tokenizer", "corpus"]
    for name in stale:
        path = folder / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# --- text → tokens


def make_corpus(data: DataSection, folder: Path, say: Report) -> Corpus:
    """Read, clean and split the text; a corpus folder, made before or named alone by the recipe, is taken as it is."""
    if folder.is_dir():
        return load_corpus(folder)
    if len(data.paths) == 1 and (Path(data.paths[0]) / "card.json").is_file():
        return load_corpus(data.paths[0])
    found = ReadReport()

    def progress(done: int, total: int) -> None:
        say("corpus", {"share": done / total if total else None, "text": f"{done / 1e6:.1f} MB"})

    documents = read_documents(data.paths, found)
    corpus = build_corpus(documents, folder, valid_share=data.valid_share, progress=progress, read_report=found)
    for problem in found.problems:
        say("note", {"text": problem["what"]})
    for note in corpus.card["notes"]:
        say("note", {"text": note})
    return corpus


def make_tokenizer(section: TokenizerSection, corpus: Corpus, folder: Path, say: Report) -> Tokenizer:
    """Open the tokenizer that the recipe names, or train one on the training documents; a copy is kept in `folder`."""
    if folder.is_dir():
        return load_tokenizer(folder)
    if section.path is not None:
        tokenizer = load_tokenizer(resolve(section.path, want="tokenizer"))
    else:
        texts = (document.text for document in corpus.documents("train"))
        total = corpus.card["splits"]["train"]["bytes"]
        tokenizer = train_tokenizer(_watched(texts, total, "tokenizer", say), section.kind, section.vocab_size)
    start_and_end(tokenizer.bos_id, tokenizer.eos_id)
    tokenizer.save(folder)
    return tokenizer


def make_shards(corpus: Corpus, tokenizer: Tokenizer, folder: Path, live_tokens: int, say: Report) -> None:
    """Write the ids of both splits, and of about `live_tokens` of validation: documents evenly over the whole split."""
    for name in ("train", "valid"):
        if not (folder / name).is_dir():
            texts = (document.text for document in corpus.documents(name))
            total = corpus.card["splits"][name]["bytes"]
            _encode(_watched(texts, total, "tokens", say), tokenizer, folder / name)
    every = math.ceil(open_shards(folder / "valid", tokenizer.hash, verify=False).n_tokens / live_tokens)
    some = (document.text for document in itertools.islice(corpus.documents("valid"), 0, None, every))
    _encode(some, tokenizer, folder / "live")


def _live_tokens(train: TrainSection) -> int:
    return max(LIVE_TOKENS, train.eval_every * train.rows * train.length * train.accumulation // LIVE_SHARE)


def _encode(texts: Iterable[str], tokenizer: Tokenizer, folder: Path) -> TokenShards:
    n_bytes, texts = 0, iter(texts)

    def ids() -> Iterator[list[int]]:
        nonlocal n_bytes
        while block := list(itertools.islice(texts, ENCODED_AT_ONCE)):
            n_bytes += sum(len(text.encode()) for text in block)
            yield from tokenizer.encode_batch(block, add_special_tokens=False)

    start_id, end_id = start_and_end(tokenizer.bos_id, tokenizer.eos_id)
    return write_shards(
        ids(),
        folder,
        tokenizer_hash=tokenizer.hash,
        vocab_size=tokenizer.vocab_size,
        n_bytes=lambda: n_bytes,
        start_id=start_id,
        end_id=end_id,
    )


def _watched(texts: Iterable[str], total: int, stage: str, say: Report) -> Iterator[str]:
    done = 0
    for text in texts:
        done += len(text.encode())
        say(stage, {"share": done / max(total, 1), "text": f"{done / 1e6:.1f} MB"})
        yield text


# --- training


def make_plan(recipe: Recipe, run: Run, network: Network, shards: TokenShards) -> dict[str, Any]:
    """What the run will take: from plan.json, or computed and, where the precision is "auto", measured for a second."""
    path, train = run.folder / "plan.json", recipe.train
    if path.exists():
        return read_json_object(path)
    per_step = train.rows * train.length * train.accumulation
    plan: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "vocab_size": shards.vocab_size,
        "train_tokens": shards.n_tokens,
        "train_bytes": shards.n_bytes,
        "tokens_per_step": per_step,
        "steps": train.steps,
        "device": str(_device()),
    }
    # a batch of its own, so that the batches that train have not moved
    batch = next(PackedBatches(shards, train.rows, train.length, train.seed))
    network.train()
    if train.precision == "auto":
        probe = probe_precision(network, batch, causal)
        plan |= {"precision": probe.precision, "precision_reason": probe.reason}
        speed = probe.bfloat16 if probe.precision == "bfloat16" else probe.float32
    else:
        plan |= {"precision": train.precision, "precision_reason": "as the recipe says"}
        speed = measured_speed(network, batch, causal, train.precision)
    plan["tokens_per_second"] = speed
    seconds = train.minutes * 60 if train.minutes is not None else (train.steps or 0) * per_step / speed
    plan |= {"seconds": seconds, "epochs": seconds * speed / shards.n_tokens}
    write_json(path, plan)
    return plan


def fit(recipe: Recipe, run: Run, network: Network, batches: PackedBatches, live: TokenShards, say: Report) -> int:
    """Train to the end of the recipe and return the step with the best validation loss; it has a checkpoint."""
    settings = build.build_settings(recipe.train, read_json_object(run.folder / "plan.json")["precision"])

    def measure(step: int, tokens: int, seconds: float) -> None:
        score = _evaluate(network, live, recipe.train)
        line = {"step": step, "tokens": tokens, "seconds": seconds}
        line |= {"valid_loss": score.loss, "bits_per_byte": score.bits_per_byte}
        run.log(**line)
        say("evaluation", line)

    _catch_up(run, network, recipe.train.eval_every, measure)
    with contextlib.closing(train(network, batches, causal, settings, run=run)) as steps:
        for step in steps:
            done = step.seconds / settings.seconds if settings.seconds else step.step / (settings.steps or 1)
            say("step", step.record() | {"share": min(done, 1.0), "epoch": batches.epoch})
            if step.step % recipe.train.eval_every == 0:
                measure(step.step, step.tokens, step.seconds)
    last = run.checkpoints()[-1]
    if not any(line["step"] == last and "bits_per_byte" in line for line in run.metrics()):
        state = read_state(run.checkpoint(last))
        load_weights(network, run.checkpoint(last))
        measure(last, state["tokens"], state["seconds"])
    best = run.best_step()
    if best is None:
        raise Error(f"{run.folder}: no evaluation gave a finite loss; lower train.learning_rate and start a new run")
    return best


def _catch_up(run: Run, network: Network, every: int, measure: Callable[[int, int, float], None]) -> None:
    """Make the evaluation that an interruption came before: of the last checkpoint, where it was due."""
    steps = run.checkpoints()
    if not steps or steps[-1] % every:
        return
    if any(line["step"] == steps[-1] and "bits_per_byte" in line for line in run.metrics()):
        return
    with contextlib.suppress(FileError):  # a damaged checkpoint is the loop's to report
        state = read_state(run.checkpoint(steps[-1]))
        run.rewind(steps[-1])
        load_weights(network, run.checkpoint(steps[-1]))
        measure(steps[-1], state["tokens"], state["seconds"])


def _evaluate(network: Network, shards: TokenShards, train: TrainSection) -> Evaluation:
    return evaluate(network, validation_batches(shards, train.rows, train.length), shards.n_bytes)


# --- the card


def model_card(recipe: Recipe, plan: dict[str, Any], result: dict[str, Any], corpus: dict[str, Any]) -> str:
    """README.md of the model: what it is, what it learned from under which licence, how well, and its recipe."""
    licenses = "\n".join(f"| {_cell(name)} | {count:,} |" for name, count in corpus["license"].items())
    splits = corpus["splits"]
    return f"""---
library_name: {"transformers" if recipe.model.kind == "transformer" else "yanmo"}
pipeline_tag: text-generation
---

# A {recipe.model.kind} of {result["parameters"]:,} parameters

Trained from nothing by `yanmo pretrain` (Yanmo {__version__}).

## Corpus

{splits["train"]["documents"]:,} documents of {splits["train"]["bytes"]:,} bytes for training,
{splits["valid"]["documents"]:,} of {splits["valid"]["bytes"]:,} bytes kept apart for validation.

| licence of the text | documents |
| --- | --- |
{licenses}

A model can repeat parts of its training text, so the licences of the text bear on what it writes.

## Measured

{result["bits_per_byte"]:.4f} bits per byte of the validation documents ({result["valid_loss"]:.4f} nats per token)
after step {result["step"]:,} of {plan["tokens_per_step"]:,} tokens each.

## Recipe

```toml
{dump_recipe(recipe)}```
"""


def _cell(text: str) -> str:
    flat = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "|`*_[]<>#\\" else letter for letter in flat)


class _Callable(types.ModuleType):
    """A module that is called like its function `pretrain`."""

    def __call__(self, recipe: Recipe, out: str | Path, *, report: Report | None = None) -> Path:
        return pretrain(recipe, out, report=report)


sys.modules[__name__].__class__ = _Callable
