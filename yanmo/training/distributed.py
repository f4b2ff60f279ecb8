"""Ranks: the processes that train one network together. This file and spread.py are the only ones that know of them.

In: what torchrun set in the environment, [scale] of the recipe. Out: `Ranks`, which do nothing where one is alone.

    start       the environment → Ranks, in a with statement; a lost peer becomes one sentence
    arrange     the same from processes that are connected already
    Ranks       whose rows are whose, sums over ranks, one clock, one decision to stop, one outcome of what may fail
    hold_run    a run folder that the main rank writes and the others only read

**Rows.** Every rank reads the same batches at the same position and takes its rows of each, so `rows` of a recipe are
those of the whole run, a saved position holds for any number of ranks, and loss and gradients are those of one process:
sums over ranks, divided by the number of targets of all.

**Two ways to talk.** Tensors go through the fast backend of the device (NCCL, or gloo on a CPU). Words (errors, paths,
SHA-256) go through gloo as UTF-8 and JSON, which unlike torch's object collectives unpickles nothing. That second group
waits for days, since a corpus may be made meanwhile; a process that ends is noticed at once all the same.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from yanmo.errors import ConfigError, Error, InputError
from yanmo.files import reason
from yanmo.runs import Run, open_run
from yanmo.tokens.batches import NO_TARGET
from yanmo.training.randomness import RandomStates, seeded

T = TypeVar("T")
Batches = Any  # NamedTuples of tensors whose first dimension are rows (tokens/batches.py, pairs.py, preferences.py)

TIMEOUT = timedelta(minutes=30)  # of one exchange of tensors: the slowest step, or the writing of a checkpoint
PATIENCE = timedelta(days=7)  # of words: one rank may make a corpus while the others wait
GATHERING = 5.0  # seconds until the others must have come to save, where one rank leaves
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LOST = re.compile(r"closed by peer|[Cc]onnection (was )?(reset|refused|closed)|[Bb]roken pipe|gloo|NCCL|[Tt]imed out")


@contextlib.contextmanager
def start(*, shard: str = "auto", tensor_parallel: int = 1) -> Iterator[Ranks]:
    """Join the processes that torchrun started; without torchrun, or with one process, there is nothing to join.

    shard and tensor_parallel are [scale] of the recipe. Where a process ends, the others end with an Error.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield arrange(shard=shard, tensor_parallel=tensor_parallel)
        return
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise InputError(f"WORLD_SIZE is {count} and {missing[0]} is not set; start the processes with torchrun")
    device, rank = _device(), os.environ["RANK"]
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        store = _meeting()
        dist.init_process_group(backend, store=store, rank=int(rank), world_size=count, timeout=TIMEOUT)
    except RuntimeError as error:
        raise Error(
            f"rank {rank} of {count} cannot meet the others at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} "
            f"({_short(error)}); start all of them, with an address that all reach and a port that is free"
        ) from error
    try:
        yield arrange(shard=shard, tensor_parallel=tensor_parallel, store=store)
        dist.barrier()
    except RuntimeError as error:
        if not lost(error):
            raise
        if backend == "gloo":  # its threads may bring down a process that ends without this; NCCL would wait here
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()
        raise Error(
            f"rank {rank} of {count} lost contact with the others ({_short(error)}); the messages of the others say "
            "why; the last checkpoint is intact, and the same command goes on from it"
        ) from error
    dist.destroy_process_group()


def _meeting() -> Any:
    """The store where the processes find each other; addresses of an attempt that torchrun has given up are not seen.

    On one machine torchrun keeps one store for all attempts. On several it makes a new one for each, and counts on each
    machine by itself.
    """
    store = next(dist.rendezvous("env://", timeout=TIMEOUT))[0]
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        return store
    return dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def arrange(*, shard: str = "auto", tensor_parallel: int = 1, store: Any = None) -> Ranks:
    """The ranks of connected processes, neighbours sharing matrices; what cannot be arranged is a ConfigError.

    store: where the processes met; those of one `start` may be arranged several times.
    """
    count = dist.get_world_size() if dist.is_initialized() else 1
    if count % tensor_parallel:
        raise ConfigError(
            f"scale.tensor_parallel is {tensor_parallel}, and there are {count} processes; start a multiple of "
            f"{tensor_parallel} with torchrun, or set scale.tensor_parallel=1"
        )
    if shard == "none" and tensor_parallel > 1:
        raise ConfigError('scale.tensor_parallel shares matrices, and scale.shard is "none"; set scale.shard=full')
    return Ranks(count, shard if tensor_parallel == 1 else "full", tensor_parallel, store)


def lost(error: BaseException) -> bool:
    """Whether an error means that another rank is gone, not that this one made a mistake."""
    return isinstance(error, (dist.DistNetworkError, dist.DistBackendError)) or bool(LOST.search(str(error)))


def _short(error: RuntimeError) -> str:
    """The first sentence of a library's message, without the place in its source."""
    return re.sub(r"^\[[^]]*\]\s*", "", reason(error)).partition(". ")[0]


def _device() -> torch.device:
    """The device of this process: on a machine with several, each process has its own."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


class Ranks:
    """This process among the others; without arguments, a process alone.

    rank, count: its number, how many there are. part, parts: its share of the rows, and how many shares there are;
    `tensor` neighbours have the same share, since they share the matrices. spread.py sets `sharded`, `treated` and
    `partial`.
    """

    def __init__(self, count: int = 1, shard: str = "none", tensor: int = 1, store: Any = None) -> None:
        self.count, self.shard, self.tensor = count, shard, tensor
        self.rank = dist.get_rank() if count > 1 else 0
        self.parts, self.part = count // tensor, self.rank // tensor
        self.sharded = False  # whether the network is
        self.treated: dict[str, list[str]] | None = None  # the optimizer's groups, by names of parameters
        self.partial: set[str] = set()  # parameters of which each tensor neighbour computes a part of the gradient
        self.asked = self.stopping = False  # to stop: this process, and any of them
        self.store = store  # where those are counted who have come to save
        self.mesh: Any = None
        self.words: Any = None
        if count > 1:
            if self.device.type == "cpu":  # gloo's way to exchange parts of matrices is slower, and logged as a warning
                logging.getLogger("torch.distributed.tensor._collective_utils").setLevel(logging.ERROR)
            names = ("data", "tensor")
            self.mesh = dist.init_device_mesh(self.device.type, (self.parts, tensor), mesh_dim_names=names)
            self.words = dist.new_group(backend="gloo", timeout=PATIENCE)

    @functools.cached_property
    def device(self) -> torch.device:
        """Where this process computes."""
        return _device()

    @property
    def alone(self) -> bool:
        return self.count == 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and folders."""
        return self.rank == 0

    # --- rows

    def check_rows(self, rows: int) -> None:
        """Refuse rows that the ranks cannot share evenly."""
        if rows % self.parts:
            more = rows + self.parts - rows % self.parts
            raise ConfigError(
                f"train.rows is {rows}, which {self.parts} ranks cannot share evenly; set train.rows={more}, "
                "or start another number of processes"
            )

    def share(self, batch: Batches) -> Batches:
        """This rank's rows of a batch; where a last batch has too few, the others compute a row without a target."""
        if self.parts == 1:
            return batch
        mine = type(batch)(*(tensor.tensor_split(self.parts)[self.part] for tensor in batch))
        if len(mine.ids):
            return mine
        idle = type(batch)(*(tensor[:1] for tensor in batch))
        idle = idle._replace(targets=torch.full_like(idle.targets, NO_TARGET))
        return idle._replace(mask=torch.zeros_like(idle.mask)) if idle.n_targets else idle  # pairs are counted by mask

    # --- numbers

    def total(self, values: list[float]) -> list[float]:
        """Sum over all shares of the rows, in float64; every rank gets the same."""
        if self.alone:
            return values
        mine = self.rank % self.tensor == 0  # neighbours have computed the same
        numbers = torch.tensor([v if mine else 0.0 for v in values], dtype=torch.float64, device=self.device)
        dist.all_reduce(numbers)
        return numbers.tolist()

    def settle(self, losses: list[float], counts: list[int], clock: float) -> tuple[list[float], list[int], float]:
        """One exchange for a window: losses and targets of each micro-batch, summed; the main clock; who must stop."""
        if self.alone:
            return losses, counts, clock
        asked = float(self.asked) if self.rank % self.tensor == 0 else 0.0
        numbers = self.total([*losses, *map(float, counts), clock if self.is_main else 0.0, asked])
        self.stopping = numbers[-1] > 0
        n = len(losses)
        return numbers[:n], [round(number) for number in numbers[n : 2 * n]], numbers[-2]

    def random(self, seed: int, step: int) -> RandomStates | None:
        """The random states of a step: others on each share of the rows; None for a process alone, which has one chain.

        They follow from (seed, step, share), so nothing must be saved for each rank. Tensor neighbours have the same,
        since what they drop must be the same.
        """
        if self.alone:
            return None
        digest = hashlib.sha256(f"{seed}/{step}/{self.part}".encode()).digest()
        return seeded(int.from_bytes(digest[:8], "big") >> 1, self.device)

    # --- words

    def exchange(self, text: str) -> list[str]:
        """Give a text to all ranks, and return those of all, in the order of the ranks."""
        if self.alone:
            return [text]
        data = torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        dist.all_gather(sizes, torch.tensor([len(data)]), group=self.words)
        longest = int(max(sizes))
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.count)]
        dist.all_gather(texts, nn.functional.pad(data, (0, longest - len(data))), group=self.words)
        return [bytes(t[: int(size) - 1].tolist()).decode() for t, size in zip(texts, sizes)]

    def together(self, action: Callable[[], T]) -> T:
        """Let every rank do something that may fail: where it fails on one, every rank raises the same Error."""
        if self.alone:
            return action()
        failure: Error | None = None
        try:
            result = action()
        except Error as error:
            failure = error
        told = self.exchange("" if failure is None else json.dumps([type(failure).__name__, str(failure)]))
        if failure is not None:
            raise failure
        first = next((text for text in told if text), None)
        if first is not None:
            raise _told(first)
        return result

    def by_main(self, action: Callable[[], T]) -> T:
        """Let the main rank do something while the others wait; its result, which JSON must hold, is everyone's."""
        if self.alone:
            return action()
        told = ""

        def act() -> None:
            nonlocal told
            told = json.dumps(action()) if self.is_main else ""

        self.together(act)
        return json.loads(self.exchange(told)[0])

    # --- stopping

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """Hear Ctrl-C and SIGTERM for a while without ending at once: all ranks end after the same step.

        torchrun sends both to every process, at moments when the others may be in the middle of an exchange. SIGTERM is
        what schedulers send before they take a machine away. A process alone is interrupted as ever.
        """
        if self.alone or threading.current_thread() is not threading.main_thread():
            yield
            return

        def heard(number: int, frame: Any) -> None:
            self.asked = True

        before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def all_here(self, point: str) -> bool:
        """Whether every rank comes to this point, so that they can save together: one may have left by an error."""
        if self.alone:
            return True
        key, deadline = f"yanmo/{point}", time.monotonic() + GATHERING
        try:
            self.store.add(key, 1)
            while self.store.add(key, 0) < self.count:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.02)
        except RuntimeError:  # the process that keeps the store has ended
            return False
        return True


ALONE = Ranks()


def _told(text: str) -> Error:
    """The error that another rank had."""
    name, sentence = json.loads(text)
    kinds: list[type[Error]] = [Error]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    return next((kind for kind in kinds if kind.__name__ == name), Error)(sentence)


# --- the run


class Reader(Run):
    """A run folder as the other ranks see it: they read what the main rank writes, and write nothing."""

    def log(self, **record: Any) -> None:
        """Remember the score alone."""
        known, self._log = self._log, open(os.devnull, "ab", buffering=0)  # noqa: SIM115 (closed below)
        try:
            super().log(**record)
        finally:
            self._log.close()
            self._log = known

    def rewind(self, step: int) -> None:
        """Leave the metrics to the main rank."""
        self._scores = None

    def prune(self, keep: int) -> None:
        """Leave the checkpoints to the main rank."""

    def forget(self) -> None:
        """Leave the folder to the main rank."""


def hold_run(
    ranks: Ranks, folder: Path, recipe: str, environment: dict[str, Any], adopt: Callable[[str], None] | None = None
) -> Run:
    """`open_run` (runs.py) for several ranks: the main one holds the folder, the others get a `Reader`."""
    if ranks.alone:
        return open_run(folder, recipe, environment, adopt)
    opened: Run | None = None

    def act() -> None:
        nonlocal opened
        opened = open_run(folder, recipe, environment, adopt) if ranks.is_main else None

    ranks.together(act)
    return Reader(Path(folder), open(os.devnull, "rb")) if opened is None else opened
