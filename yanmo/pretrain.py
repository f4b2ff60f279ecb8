"""Training by a recipe: text → corpus → tokenizer → token shards → network → training → model folder.

In: a Recipe and a run folder. Out: RUN/model, an ordinary model folder or an adapter; everything on the way stays in
the run folder, and what is finished is not made again when the same recipe is run again.

    pretrain     a new model, from text or token shards
    run_recipe   the whole way, for finetune.py too: prepare → plan → fit → score → save
    make_plan    RUN/plan.json: sizes, precision, time; before the first step

`yanmo.pretrain(…)` is the function of that name: this module can be called, since one name is both.

`report(stage, values)` hears of everything: "corpus", "tokenizer", "tokens" with `share` and `text`, "note" with
`text`, "plan", "step", "evaluation", and "model" at the end.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from yanmo import machine
from yanmo.errors import ConfigError, Error, need
from yanmo.files import read_json_object, read_text, write_atomic, write_json
from yanmo.hub import resolve
from yanmo.inference.defaults import read_ends
from yanmo.inference.model import Model
from yanmo.kernels import native
from yanmo.models.adapterfiles import save_adapter
from yanmo.models.checkpoint import Network, load_config
from yanmo.models.sketch import public_family
from yanmo.plan.making import Plan
from yanmo.plan.running import plan_record, plan_run
from yanmo.plan.shortage import check_memory, memory_told
from yanmo.recipe import Recipe, TrainSection, identity, read_recipe
from yanmo.runpage.report import write_report
from yanmo.runs import Run
from yanmo.tasks.opening import SETTINGS, TASK_OF, Opened, open_task
from yanmo.tokens import making
from yanmo.tokens.chat import PLAIN, with_template
from yanmo.tokens.tokenizer import Tokenizer, load_tokenizer
from yanmo.training import build
from yanmo.training.card import model_card
from yanmo.training.check import TASKS, TEXT, check
from yanmo.training.distributed import ALONE, Ranks, hold_run, start
from yanmo.training.fit import fit, load_step
from yanmo.training.precision import DTYPES, probe_precision
from yanmo.training.spread import speed, spread
from yanmo.training.work import Work, first_batch, of_records, of_text, taught

Report = Callable[[str, dict[str, Any]], None]

LIVE_TOKENS = 1 << 14  # measured during training at least
LIVE_SHARE = 20  # and at most one token for each 20 trained between two evaluations: a few per cent of the time


def pretrain(recipe: Recipe, out: str | Path, *, report: Report | None = None) -> Path:
    """Train a model as the recipe says in the run folder `out` and return its model folder.

    Called again with the same recipe, it goes on where it was interrupted, and returns at once where it was finished.
    """
    if recipe.model.path is not None:
        raise ConfigError(
            f"model.path is {recipe.model.path}, a model that exists; use yanmo finetune with this recipe"
        )
    return run_recipe(recipe, out, report)


def run_recipe(
    recipe: Recipe, out: str | Path, report: Report | None = None, held: Callable[[], None] | None = None
) -> Path:
    """Train as the recipe says, whatever it starts from; under torchrun together with the other processes.

    held: called when the run is held, to refuse it before anything is done in it.
    """
    check(recipe)
    if recipe.objective.kind in TEXT:
        need("pyarrow", "corpus", "training on text")
    folder, scale = Path(out), recipe.scale
    with start(shard=scale.shard, tensor_parallel=scale.tensor_parallel) as ranks:
        ranks.check_rows(recipe.train.rows)
        say: Report = report if report is not None and ranks.is_main else _silence
        environment = machine.environment() | {"seed": recipe.train.seed, "ranks": ranks.count}
        environment["kernels"] = native.level() or f"none: {native.why_absent()}"
        with hold_run(ranks, folder, identity(recipe), environment, lambda old: _adopt(folder, old, recipe)) as run:
            try:
                ranks.by_main(held or (lambda: None))
                return _go(recipe, run, say, ranks)
            except Error:
                run.forget()
                raise


def _silence(stage: str, values: dict[str, Any]) -> None:
    """Who listens to nothing: no report was asked for, or another rank tells it."""


def _in_steps(recipe: Recipe, facts: dict[str, Any]) -> Recipe:
    """The recipe with its epochs as steps: of a task's windows, else of tokens."""
    train = recipe.train
    if train.epochs is None:
        return recipe
    batches = facts["windows"] / train.rows if "windows" in facts else facts["train_tokens"] / train.rows / train.length
    steps = max(1, math.ceil(train.epochs * batches / train.accumulation))
    return recipe.model_copy(update={"train": train.model_copy(update={"steps": steps, "epochs": None})})


@dataclass(frozen=True)
class Ready:
    """What training needs: the base is the folder that a fine-tuning starts from."""

    network: Network
    tokenizer: Tokenizer
    work: Work
    source: dict[str, Any]
    base: Path | None
    opened: Opened | None


def _go(recipe: Recipe, run: Run, say: Report, ranks: Ranks) -> Path:
    folder = run.folder
    if ranks.by_main((folder / "model").is_dir):
        say("model", read_json_object(folder / "plan.json").get("result", {}))
        return folder / "model"
    ready = _prepare(recipe, run, say, ranks)
    recipe = _in_steps(recipe, ready.work.facts)
    planned, plan = make_plan(recipe, run, ready, ranks)
    warning = ranks.together(lambda: _check_memory(recipe, planned))
    if warning:
        say("note", {"text": warning})
    say("plan", plan)
    settings = build.build_settings(recipe.train, plan["precision"])
    with memory_told(planned):
        best = fit(recipe, run, ready.network, ready.work, settings, say, ranks)
    load_step(ready.network, run, best, ranks)
    result = {"model": str(folder / "model"), "step": best, "parameters": plan["parameters"]}
    result |= ready.work.measure(ready.network, True)

    def save() -> None:
        write_json(folder / "plan.json", plan | {"result": result})
        network = ready.network
        if ranks.sharded:  # no rank has all of it, so a new one is filled
            network = _network(recipe, ready.tokenizer, ready.base, torch.device("cpu"), ready.opened)
            load_step(network, run, best)
        _save(recipe, ready, network, model_card(recipe, plan, result, ready.source), folder / "model")

    ranks.by_main(save)
    if ranks.is_main:
        write_report(folder)
    say("model", result)
    return folder / "model"


def _prepare(recipe: Recipe, run: Run, say: Report, ranks: Ranks) -> Ready:
    """Data, tokenizer, network and work, in the order in which one needs the other."""
    base = None if recipe.model.path is None else Path(ranks.by_main(lambda: str(resolve(str(recipe.model.path)))))
    if recipe.objective.kind in TEXT:
        ranks.by_main(lambda: _text(recipe, run.folder, base, say))
        tokenizer = load_tokenizer(run.folder / "tokenizer")
    else:
        tokenizer = _with_chat_template(recipe, _own_tokenizer(recipe, base), say)
    return ranks.together(lambda: _ready(recipe, run.folder / "tokens", tokenizer, base, ranks))


def _ready(recipe: Recipe, tokens: Path, tokenizer: Tokenizer, base: Path | None, ranks: Ranks) -> Ready:
    opened = open_task(recipe) if recipe.objective.kind in TASKS else None
    network = _network(recipe, tokenizer, base, None if base is None and not ranks.alone else _device(), opened)
    if opened is not None:
        work = opened.work(tokenizer, network, ranks)
        source = work.facts | {"files": opened.files}
    elif recipe.objective.kind in TEXT:
        work = of_text(recipe, tokens, tokenizer, getattr(network.config, "decoder_start_id", None), ranks)
        source = read_json_object(tokens / "corpus.json")
    else:
        again = recipe.objective.kind == "dpo" and recipe.adapter.kind == "none"
        reference = (lambda: _network(recipe, tokenizer, base, _device())) if again else None
        work = of_records(recipe, tokenizer, network, reference, ranks)
        source = work.facts
    work = taught(work, recipe.objective, tokenizer, lambda teacher: teacher.to(_device()))
    return Ready(network, tokenizer, work, source, base, opened)


def _text(recipe: Recipe, folder: Path, base: Path | None, say: Report) -> None:
    """Make RUN/tokens, its tokenizer and what it is made of, as far as it is not there."""
    tokens = folder / "tokens"
    if (tokens / "live").is_dir():
        return
    given = making.shard_folders(recipe.data.paths)
    corpus = None if given else making.make_corpus(recipe.data, folder / "corpus", say)
    section = recipe.tokenizer
    if base is not None:
        section = section.model_copy(update={"path": str(base)})
    elif given and section.path is None:
        beside = making.tokenizer_beside(given[0])
        if beside is None:
            raise ConfigError(f"{given[0]}: token shards belong to a tokenizer; give it by tokenizer.path")
        section = section.model_copy(update={"path": beside})
    special = making.SENTINELS if recipe.objective.kind == "spans" else ()
    special = ("<mask>",) if recipe.objective.kind == "infilling" else special
    tokenizer = making.make_tokenizer(section, corpus, folder / "tokenizer", say, special)
    making.write_source(tokens, corpus, given)
    if corpus is None:
        making.take_shards(given, tokenizer, tokens, recipe.data.valid_share, say)
    else:
        making.make_shards(corpus, tokenizer, tokens, say)
    making.make_live(corpus, tokens, tokenizer, _live_tokens(recipe.train))


def _live_tokens(train: TrainSection) -> int:
    return max(LIVE_TOKENS, train.eval_every * train.rows * train.length * train.accumulation // LIVE_SHARE)


def _own_tokenizer(recipe: Recipe, base: Path | None) -> Tokenizer:
    """The tokenizer for records: the model's own, or the one that a new model is named."""
    if base is not None:
        return load_tokenizer(base)
    if recipe.tokenizer.path is None:
        raise ConfigError(
            f"objective.kind {recipe.objective.kind!r} trains no tokenizer; give model.path, or tokenizer.path for a "
            "new model"
        )
    return load_tokenizer(resolve(recipe.tokenizer.path, want="tokenizer"))


def _with_chat_template(recipe: Recipe, tokenizer: Tokenizer, say: Report) -> Tokenizer:
    """The tokenizer with the template in which conversations are written, which is saved with the model."""
    wanted = recipe.objective.template
    if recipe.objective.kind in ("seq2seq", *TASKS) or (wanted is None and tokenizer.chat_template is not None):
        return tokenizer
    if wanted not in (None, "plain"):
        return with_template(tokenizer, read_text(str(wanted)))
    if wanted is None:
        say("note", {"text": "the model has no chat template, so conversations are written plainly: User:, Assistant:"})
    return with_template(tokenizer, PLAIN)


def _network(
    recipe: Recipe,
    tokenizer: Tokenizer,
    base: Path | None,
    device: torch.device | None,
    opened: Opened | None = None,
) -> Network:
    """The network on a device; without one it is empty, for several ranks to fill their parts."""
    train, top = recipe.train, None if opened is None else opened.top
    if base is None:
        sizes = {"length": train.length, "seed": train.seed, "empty": device is None}
        network = build.build_network(recipe.model, tokenizer, **sizes, top=top)  # type: ignore[arg-type]
    else:
        network = build.open_network(recipe, base, top)
        if tokenizer.vocab_size > network.config.vocab_size:
            raise ConfigError(
                f"{base}: its tokenizer has {tokenizer.vocab_size:,} ids, its network {network.config.vocab_size:,}; "
                "use the tokenizer that belongs to the model"
            )
    network = network if device is None else network.to(device)
    build.adapt(network, recipe.adapter, train.seed)
    if opened is not None and opened.prepare is not None:
        opened.prepare(network)
    return network


def _save(recipe: Recipe, ready: Ready, network: Network, card: str, folder: Path) -> None:
    network = network.cpu().eval()
    task = {"task": TASK_OF.get(recipe.objective.kind)}
    files = {} if ready.opened is None else {SETTINGS: task | ready.opened.settings(network, ready.tokenizer)}
    if recipe.adapter.kind != "none":
        assert ready.base is not None, "an adapter lies on a model that exists"
        here = Path(str(recipe.model.path)).expanduser().exists()  # else a hub id, which others can resolve too

        def beside(partial: Path) -> None:
            ready.tokenizer.save(partial)
            write_atomic(partial / "README.md", card)
            for name, value in files.items():
                write_json(partial / name, value)

        save_adapter(network, folder, base=ready.base if here else str(recipe.model.path), beside=beside)
        return
    config = build.saved_config(network, ready.base)
    network.config = config
    ends = None if ready.base is None else read_ends(ready.base, config)
    family = public_family(config, recipe.model) if ready.base is None else network.family
    Model(network, ready.tokenizer, ends, ready.base).save(folder, card=card, family=family, files=files)


def _adopt(folder: Path, old: str, recipe: Recipe) -> None:
    """Keep of a run that has not begun to train what the new recipe would make too."""
    known = read_recipe(old, str(folder / "recipe.toml"))
    stale = ["tokens/live", "plan.json"]
    if (known.tokenizer, known.objective.kind, known.model.path) != (
        recipe.tokenizer,
        recipe.objective.kind,
        recipe.model.path,
    ):
        stale += ["tokens", "tokenizer"]
    if known.data != recipe.data:
        stale += ["tokens", "tokenizer", "corpus"]
    for name in stale:
        path = folder / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _device() -> torch.device:
    return ALONE.device


# --- the plan


def make_plan(recipe: Recipe, run: Run, ready: Ready, ranks: Ranks) -> tuple[Plan, dict[str, Any]]:
    """What the run will take, and RUN/plan.json: read if it is there, else arithmetic and a second of measuring.

    The network is spread out over the ranks as soon as its precision is known; its speed is that of all together.
    """
    path, train, network = run.folder / "plan.json", recipe.train, ready.network
    known = ranks.by_main(lambda: read_json_object(path) if path.exists() else None)
    batch = first_batch(ready.work)
    chosen = known or _precision(recipe, ready, batch, ranks)
    spread(network, ranks, chosen["precision"], lambda net, whole: build.first_weights(net, train.seed, whole))
    timed = chosen.get("timed_tokens_per_second")
    if timed is None:
        timed = speed(network, ranks, batch, ready.work.objective, DTYPES[chosen["precision"]])
    teacher = recipe.objective.teacher
    plan = plan_run(
        _as_read(recipe, batch),
        network.config,
        count=ranks.count,
        precision=chosen["precision"],
        tokens_per_second=timed,
        targets=_targets(recipe, batch),
        teacher=None if teacher is None else load_config(resolve(teacher))[1],
    )
    if known is not None:
        return plan, known
    facts = {key: value for key, value in ready.work.facts.items() if key != "files"}
    if "windows" in facts and train.steps:  # of a task: rows are so many windows, whatever their tokens
        facts["epochs"] = train.steps * train.accumulation * train.rows / facts["windows"]
    chosen |= {"timed_tokens_per_second": timed, "parameters": sum(p.numel() for p in network.parameters())}
    record = plan_record(plan, facts) | chosen
    ranks.by_main(lambda: write_json(path, record))
    return plan, record


def _as_read(recipe: Recipe, batch: Any) -> Recipe:
    """The recipe with the tokens that a step reads: rows of a task are documents, which share the rows of a batch."""
    if recipe.objective.kind not in TASKS:
        return recipe
    rows, columns = batch.ids.shape
    length = min(columns, recipe.train.length)  # a packed row may be wider than the longest document
    train = recipe.train.model_copy(update={"rows": -(-rows * columns // length), "length": length})
    return recipe.model_copy(update={"train": train})


def _targets(recipe: Recipe, batch: Any) -> float | None:
    """The share of the tokens that the loss looks at, where the objective alone does not say it."""
    return batch.n_targets / batch.ids.numel() if recipe.objective.kind in ("masked", "chat") else None


def _check_memory(recipe: Recipe, plan: Plan) -> str | None:
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes on this machine
    return check_memory(plan, ranks=here, allow=not recipe.scale.check_memory, override="scale.check_memory=false")


def _precision(recipe: Recipe, ready: Ready, batch: Any, ranks: Ranks) -> dict[str, Any]:
    """The precision and why; where it was probed by a process alone, its speed too."""
    if recipe.train.precision != "auto":
        return {"precision": recipe.train.precision, "precision_reason": "as the recipe says"}
    if ranks.alone:
        ready.network.train()
        probe = probe_precision(ready.network, batch, ready.work.objective)
        rate = probe.bfloat16 if probe.precision == "bfloat16" else probe.float32
        return {"precision": probe.precision, "precision_reason": probe.reason, "timed_tokens_per_second": rate}
    if ranks.device.type == "cuda":
        return {"precision": "bfloat16", "precision_reason": "GPUs are faster in it"}

    def probed() -> dict[str, Any]:
        network = _network(recipe, ready.tokenizer, ready.base, ranks.device, ready.opened).train()
        probe = probe_precision(network, ranks.share(batch), ready.work.objective)
        return {"precision": probe.precision, "precision_reason": probe.reason}

    return ranks.by_main(probed)


class _Callable(types.ModuleType):
    """A module that is called like its function `pretrain`."""

    def __call__(self, recipe: Recipe, out: str | Path, *, report: Report | None = None) -> Path:
        return pretrain(recipe, out, report=report)


sys.modules[__name__].__class__ = _Callable
