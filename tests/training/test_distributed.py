"""Several processes equal one: loss, weights, resume on other numbers of ranks; a lost rank ends the others."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_worker import CASES, GRADIENTS, LENGTH, RESUMED, STEPS, Case, go, gradients_of, loud, model
from safetensors.torch import load_file
from small import batch, equal, joined, network

from yanmo.errors import ConfigError, FileError, InputError
from yanmo.runs import open_run
from yanmo.training import distributed
from yanmo.training import spread as spreading
from yanmo.training.checkpoint import read_state
from yanmo.training.distributed import ALONE, Ranks
from yanmo.training.objectives import evaluate
from yanmo.training.spread import check_cut

HERE = Path(__file__).resolve().parent
COUNTS = [2, 4]
Numbers = dict[str, Any]


def launch(count: int, folder: Path, jobs: str, **environment: str) -> list[subprocess.Popen[str]]:
    """Start rank_worker.py in `count` processes, as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "rank_worker.py"), str(folder), jobs]
    processes = []
    for rank in range(count):
        own = os.environ | values | environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, env=own, stdout=pipe, stderr=pipe, text=True))
    return processes


def finish(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Wait, and return what each process wrote to standard error; none may fail."""
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)[-4000:]
    return said


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, then four, then two have trained here, each going on from what those before it left."""
    folder = tmp_path_factory.mktemp("ranks")
    for name, case in RESUMED.items():
        go(case, ALONE, folder / f"{name}-by-1", steps=2)
    (folder / "4").mkdir()
    (folder / "2").mkdir()
    finish(launch(4, folder, "cases,gradients,resumes,agreements,filled"))
    for made in ("cases", "gradients", "agreements.0.json", "filled.0.json"):
        shutil.move(folder / made, folder / "4" / made)
    for rank in (1, 2, 3):
        shutil.move(folder / f"agreements.{rank}.json", folder / "4")
    shutil.rmtree(folder / "signalled")
    finish(launch(2, folder, "cases,gradients,resumes,same_again,agreements,filled"))
    for made in ("cases", "gradients", "agreements.0.json", "agreements.1.json", "filled.0.json"):
        shutil.move(folder / made, folder / "2" / made)
    return folder


@functools.cache
def alone(case: Case) -> Numbers:
    return go(case, ALONE)


def numbers(folder: Path, name: str, rank: int = 0) -> Numbers:
    return json.loads((folder / f"{name}.{rank}.json").read_text())


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", CASES)
def test_ranks_equal_one_process(place: Path, count: int, name: str) -> None:
    known, folder = alone(CASES[name]), place / str(count) / "cases"
    found = numbers(folder, name)
    exact = CASES[name].precision == "float32"
    assert found["tokens"] == known["tokens"] and len(found["losses"]) == STEPS
    assert found["losses"] == pytest.approx(known["losses"], abs=1e-5 if exact else 5e-3)
    assert found["losses"][0] == pytest.approx(known["losses"][0], abs=1e-5 if exact else 2e-4)
    assert found["norms"] == pytest.approx(known["norms"], rel=1e-5 if exact else 1e-2)
    for part in ("weights", "average"):
        if part in known:
            given = load_file(folder / f"{name}.{part}.safetensors")
            assert given.keys() == known[part].keys()
            for key, tensor in known[part].items():
                # where a gradient is nothing but rounding, AdamW turns its sign into a whole update of 0.01 a step
                noise = key.endswith("key.bias")
                torch.testing.assert_close(given[key], tensor, atol=0.05 if noise or not exact else 1e-4, rtol=0)
    for rank in range(1, count):
        assert numbers(folder, name, rank) == found  # bit by bit, or ranks would drift apart


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", GRADIENTS)
def test_gradients_of_ranks_equal_those_of_one_process(place: Path, count: int, kind: str) -> None:
    known = gradients_of(loud(kind), ALONE)
    found = load_file(place / str(count) / "gradients" / f"{kind}.weights.safetensors")
    assert found.keys() == known.keys()
    for name, tensor in known.items():
        # a key's bias has no gradient but rounding: softmax does not see it
        size = float(tensor.abs().max()) if not name.endswith("key.bias") else 1.0
        torch.testing.assert_close(found[name].view_as(tensor), tensor, atol=2e-5 * size, rtol=0, msg=name)


def test_the_cases_are_what_they_say() -> None:
    norms = alone(CASES["sharded-muon"])["norms"]
    assert min(norms) > CASES["sharded-muon"].clip, "clipping would change nothing"
    assert alone(CASES["replicated"])["norms"][0] > 1


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("way", [(1, 4), (1, 2), (4, 2)], ids=lambda way: f"{way[0]} to {way[1]}")
def test_a_run_goes_on_with_another_number_of_ranks(place: Path, name: str, way: tuple[int, int]) -> None:
    known, found = alone(RESUMED[name]), numbers(place / "resumed", f"{name}-by-{way[0]}-to-{way[1]}")
    assert found["losses"] == pytest.approx(known["losses"][2:], abs=1e-5)
    assert found["tokens"] == known["tokens"][2:]
    given = load_file(place / "resumed" / f"{name}-by-{way[0]}-to-{way[1]}.weights.safetensors")
    for key, tensor in known["weights"].items():
        torch.testing.assert_close(given[key], tensor, atol=0.05 if key.endswith("key.bias") else 1e-4, rtol=0)


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("count", COUNTS)
def test_one_process_goes_on_from_several(place: Path, tmp_path: Path, name: str, count: int) -> None:
    folder = place / f"{name}-by-{count}"
    parts = sorted(path.name for path in (folder / "checkpoints" / "step-2").iterdir())
    whole = ["model.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"]
    in_parts = ["average"] * (name == "average") + ["model", "optimizer", "random.safetensors", "state.json"]
    assert parts == (whole if name == "whole" else in_parts)
    shutil.copytree(folder, tmp_path / "run")
    found, known = go(RESUMED[name], ALONE, tmp_path / "run"), alone(RESUMED[name])
    assert found["losses"] == pytest.approx(known["losses"][2:], abs=1e-5)
    if name == "average":
        for key, tensor in known["average"].items():
            torch.testing.assert_close(found["average"][key], tensor, atol=1e-4, rtol=0)


def test_as_many_ranks_resume_bit_by_bit_with_dropout(place: Path) -> None:
    whole, parts = (numbers(place / "again", name) for name in ("whole", "parts"))
    assert parts["losses"] == whole["losses"][2:]
    weights = [load_file(place / "again" / f"{name}.weights.safetensors") for name in ("whole", "parts")]
    assert equal(*weights)


def test_dropout_differs_between_ranks_and_steps(place: Path) -> None:
    first, second = (numbers(place / "again", "random", rank)["digests"] for rank in (0, 1))
    assert first[0] == first[1] != first[2]
    assert not {*first} & {*second}


@pytest.mark.parametrize("count", COUNTS)
def test_ranks_agree(place: Path, count: int) -> None:
    found = [numbers(place / str(count), "agreements", rank) for rank in range(count)]
    parts = [joined([batch(1, LENGTH, seed=row) for row in range(rows)]) for rows in (5, 1, 4)]
    score = evaluate(network(), parts, 100)
    for rank, one in enumerate(found):
        assert one["bits"] == pytest.approx(score.bits_per_byte, abs=1e-6) and one["tokens"] == score.tokens
        assert one["parts"] != [61, 16], "the network is whole after the evaluation"
        assert one["budget"] == found[0]["budget"] > 0
        assert one["signalled"] == found[0]["signalled"] == ["step-3"]
        assert one["texts"] == [f"字 {other}" for other in range(count)]
        assert one["value"] == {"rank": 0}
        assert one["one"] == ["InputError", "the second rank cannot"], rank
        assert one["main"][0] == "FileError" and "not a run" in one["main"][1]


@pytest.mark.parametrize("count", COUNTS)
def test_an_empty_network_is_filled_with_the_same_weights(place: Path, count: int) -> None:
    found = numbers(place / str(count), "filled")
    assert {name: sharded for name, (sharded, _) in found.items()} == {
        **dict.fromkeys(("replicated", "small enough"), False),
        **dict.fromkeys(("sharded", "lstm", "cut", "cut-biases"), True),
    }
    assert all(same for _, same in found.values()), found


@pytest.mark.parametrize("leave", [False, True], ids=["killed", "an error of its own"])
def test_where_a_rank_ends_the_others_end_with_a_sentence(tmp_path: Path, leave: bool) -> None:
    processes = launch(2, tmp_path, "endless", **({"LEAVE": "1"} if leave else {}))
    try:
        deadline = time.monotonic() + 120
        while not leave and not (tmp_path / "endless" / "checkpoints" / "step-3").is_dir():
            assert time.monotonic() < deadline and processes[0].poll() is None
            time.sleep(0.01)
        if not leave:
            processes[1].send_signal(signal.SIGKILL)
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert processes[0].returncode == 2, said[0]
    sentence = said[0].splitlines()[-1]  # torch may have warned before
    assert re.match(r"yanmo: rank 0 of 2 lost contact with the others \(.*Connection (closed|reset) by peer", sentence)
    assert "Traceback" not in said[0] and said[0].count("yanmo: ") == 1
    assert not leave or (processes[1].returncode == 2 and "this rank leaves" in said[1])
    with open_run(tmp_path / "endless", "", {}) as run:
        last = run.checkpoints()[-1]
        assert last >= 3 and read_state(run.checkpoint(last))["step"] == last


# --- without other processes


def test_a_process_alone_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.start() as ranks:
        assert ranks.alone and ranks.is_main and not torch.distributed.is_initialized()
        assert ranks.exchange("x") == ["x"] and ranks.total([1.5]) == [1.5] and ranks.by_main(lambda: 3) == 3


def test_rows_that_do_not_divide_are_refused() -> None:
    ranks = Ranks()
    ranks.parts = 4
    ranks.check_rows(8)
    with pytest.raises(ConfigError, match=r"train.rows is 6, which 4 ranks cannot share evenly; set train.rows=8"):
        ranks.check_rows(6)


def test_a_network_is_sharded_where_its_state_takes_a_third_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, built = Ranks(), network()
    ranks.count, ranks.shard = 2, "auto"
    needed = sum(parameter.numel() for parameter in built.parameters()) * spreading.STATE_BYTES
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for memory, sharded in ((needed * 6 - 60, True), (needed * 6 + 60, False)):
        monkeypatch.setattr(spreading, "usable_memory", lambda memory=memory: memory)
        assert spreading._needs_sharding(built, ranks) is sharded
    for asked, sharded in (("full", True), ("none", False)):
        ranks.shard = asked
        assert spreading._needs_sharding(built, ranks) is sharded


def test_what_cannot_be_arranged_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="tensor_parallel is 2, and there are 1 processes"):
        distributed.arrange(tensor_parallel=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(InputError, match="RANK is not set; start the processes with torchrun"),
        distributed.start(),
    ):
        pass


@pytest.mark.parametrize(
    ("built", "tensor", "sentence"),
    [
        (lambda: network(), 2, r"model.kv_heads is 1, which scale.tensor_parallel = 2 does not divide"),
        (lambda: network("gpt2"), 4, r"model.heads is 2, which"),
        (lambda: network("lstm"), 2, "is for decoders"),
        (lambda: model("t5"), 2, "is for decoders"),
        (lambda: network("gpt2", dropout=0.1), 2, r"attention_dropout is 0.1"),
        (lambda: model("adapter"), 1, "has an adapter"),
    ],
)
def test_models_that_cannot_be_cut_are_refused(built: Any, tensor: int, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_cut(built(), tensor)


@pytest.mark.parametrize("harm", ["missing", "longer", "foreign"])
def test_a_damaged_part_is_seen(place: Path, tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "step-2"
    shutil.copytree(place / "average-by-4" / "checkpoints" / "step-2", folder)
    part = sorted((folder / "model").iterdir())[1]
    if harm == "missing":
        part.unlink()
    elif harm == "longer":
        part.write_bytes(part.read_bytes() + b"x")
    else:
        shutil.copy(part, folder / "model" / "shard-9.safetensors")
    with pytest.raises(FileError, match=r"cannot be read|not what was written|not of this checkpoint"):
        read_state(folder)


def test_no_file_of_a_checkpoint_in_parts_is_a_pickle(place: Path) -> None:
    for path in (place / "cut-by-4").rglob("*"):
        assert path.is_dir() or path.suffix in (".safetensors", ".json", ".jsonl", ".toml") or path.name == "lock"
    assert math.isfinite(load_file(next((place / "cut-by-4").rglob("shard-*.safetensors")))["embedding.weight"].sum())
