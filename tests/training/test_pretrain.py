"""Pretraining by a recipe: from text to a model folder, again and again, without making anything twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

import yanmo.pretrain as door
from tests.training.texts import metrics, write_texts
from yanmo.cli.pretrain import pretrain as verb
from yanmo.errors import ConfigError, FileError, InputError
from yanmo.inference.model import load
from yanmo.pretrain import pretrain
from yanmo.recipe import Recipe, read_recipe
from yanmo.tokens import making
from yanmo.training import fit, work
from yanmo.training.objectives import Evaluation

pytest.importorskip("pyarrow")
SMALL = """
[model]
width = 16
layers = 2
heads = 2
[tokenizer]
vocab_size = 300
[data]
paths = [{text}]
valid_share = 0.2
[train]
steps = 6
rows = 2
length = 16
precision = "float32"
eval_every = 2
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small documents."""
    return write_texts(tmp_path_factory.mktemp("text") / "texts")


def recipe(text: Path, *overrides: str) -> Recipe:
    return read_recipe(SMALL.format(text=json.dumps(str(text))), overrides=overrides)


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
@pytest.mark.parametrize("tied", ["true", "false"])
def test_what_is_trained_opens_in_transformers_with_the_same_logits(
    family: str, tied: str, text: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    wanted = recipe(
        text, f"model.family={family}", "train.steps=2", "model.dropout=0.1", f"model.tie_embeddings={tied}"
    )
    folder = pretrain(wanted, tmp_path / "run")
    ids = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(0))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.allclose(load(folder).logits(ids), theirs(ids).logits, atol=1e-4)
    assert theirs.config.model_type == family
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.encode("The ink is.") == load(folder).tokenizer.encode("The ink is.")
    card = (folder / "README.md").read_text()
    assert "bits per byte" in card and "licence" in card and 'family = "' in card


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_recurrent_networks_take_the_same_way(kind: str, text: Path, tmp_path: Path) -> None:
    values = SMALL.format(text=json.dumps(str(text))).replace("heads = 2\n", f'kind = "{kind}"\ndropout = 0.1\n')
    model = load(pretrain(read_recipe(values), tmp_path / "run"))
    assert model.config.cell == kind and model.config.dropout == 0  # type: ignore[union-attr]


def test_the_best_evaluated_step_becomes_the_model(text: Path, tmp_path: Path) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    model = pretrain(recipe(text), tmp_path / "run", report=lambda stage, values: heard.append((stage, values)))
    stages = [stage for stage, _ in heard]
    assert stages.index("plan") < stages.index("step") and stages[-1] == "model"
    assert {"corpus", "tokenizer", "tokens", "plan", "step", "evaluation", "model"} <= set(stages)
    scores = {line["step"]: line["bits_per_byte"] for line in metrics(tmp_path / "run") if "bits_per_byte" in line}
    assert sorted(scores) == [2, 4, 6]
    result = heard[-1][1]
    assert result["step"] == min(scores, key=scores.__getitem__) and result["model"] == str(model)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["tokens_per_step"] == 32 and plan["result"] == result
    assert plan["parameters"] == sum(p.numel() for p in load(model).network.parameters())


def test_the_model_has_the_weights_of_the_best_step_not_of_the_last(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([100, 300, 200, 100])  # after steps 2, 4 and 6, and of the model
    monkeypatch.setattr(work, "evaluate", lambda *_: Evaluation(float(next(scores)), 100, 100))
    model = load(pretrain(recipe(text), tmp_path / "run"))
    saved = load_file(tmp_path / "run" / "checkpoints" / "step-2" / "model.safetensors")
    assert torch.equal(model.network.embedding.weight, saved["embedding.weight"])
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-2", "step-4", "step-6"]


def test_learning_from_text_beats_not_learning(text: Path, tmp_path: Path) -> None:
    wanted = recipe(text, "train.steps=60", "train.learning_rate=0.02", "train.eval_every=20", "train.rows=8")
    pretrain(wanted, tmp_path / "run")
    scores = [line["bits_per_byte"] for line in metrics(tmp_path / "run") if "bits_per_byte" in line]
    assert scores[0] > scores[-1] and scores[-1] < 1.8


@pytest.fixture(scope="module")
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    pretrain(recipe(text, "model.dropout=0.1"), run)
    return run


@pytest.mark.parametrize("stage", ["corpus", "tokenizer", "tokens", "step", "evaluation"])
def test_an_interrupted_run_goes_on_and_equals_a_whole_one(stage: str, whole: Path, text: Path, tmp_path: Path) -> None:
    for nth in (1, 1 if stage == "tokens" else 2):  # so small a text is one unit of each split
        count = 0

        def stop(name: str, values: dict[str, Any], nth: int = nth) -> None:
            nonlocal count
            count += name == stage
            if count == nth and name == stage:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pretrain(recipe(text, "model.dropout=0.1"), tmp_path / "run", report=stop)
        assert not (tmp_path / "run" / "model").exists()
    again = pretrain(recipe(text, "model.dropout=0.1"), tmp_path / "run")
    assert (whole / "model" / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert metrics(whole) == metrics(tmp_path / "run")


@pytest.mark.parametrize("nth", [1, 3])
def test_an_evaluation_that_was_interrupted_is_made_when_the_run_goes_on(
    nth: int, whole: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, count = work.evaluate, 0

    def stopped(*values: Any) -> Any:
        nonlocal count
        count += 1
        if count == nth:
            raise KeyboardInterrupt
        return measured(*values)

    monkeypatch.setattr(work, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe(text, "model.dropout=0.1"), tmp_path / "run")
    again = pretrain(recipe(text, "model.dropout=0.1"), tmp_path / "run")
    assert (whole / "model" / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert metrics(whole) == metrics(tmp_path / "run")


def test_finished_pieces_are_not_made_again(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(name: str, values: dict[str, Any]) -> None:
        if name == "step":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe(text), tmp_path / "run", report=stop)
    for name in ("make_folder", "train_tokenizer", "write_shards"):
        monkeypatch.delattr(making, name)
    monkeypatch.delattr(door, "probe_precision")
    model = pretrain(recipe(text), tmp_path / "run")
    monkeypatch.delattr(fit, "train")
    heard: list[str] = []
    assert pretrain(recipe(text), tmp_path / "run", report=lambda stage, values: heard.append(stage)) == model
    assert heard == ["model"]


def test_a_corpus_folder_and_a_tokenizer_can_be_given(text: Path, tmp_path: Path) -> None:
    pretrain(recipe(text, "train.steps=1"), tmp_path / "first")
    wanted = recipe(tmp_path / "first" / "corpus", f"tokenizer.path={tmp_path / 'first' / 'tokenizer'}")
    pretrain(wanted, tmp_path / "run")
    assert not (tmp_path / "run" / "corpus").exists()
    hashes = [json.loads((tmp_path / run / "tokens/train/meta.json").read_text())["sha256"] for run in ("first", "run")]
    assert hashes[0] == hashes[1]


def test_a_mistake_before_training_can_be_mended_in_the_same_folder(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(FileError):
        pretrain(recipe(tmp_path / "absent"), run)
    assert not run.exists()
    with pytest.raises(InputError, match="fewer than one batch of 2000 rows x 16 tokens"):
        pretrain(recipe(text, "train.rows=2000"), run)
    made = (run / "tokenizer" / "tokenizer.json").stat().st_mtime_ns
    pretrain(recipe(text, "train.steps=1"), run)
    assert (run / "tokenizer" / "tokenizer.json").stat().st_mtime_ns == made
    with pytest.raises(ConfigError, match="another recipe .*steps = 1 there, steps = 2 here"):
        pretrain(recipe(text, "train.steps=2"), run)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.heads=3", "model.width is 16, no multiple of model.heads 3"),
        ("tokenizer.kind=wordpiece", "no token for the end of a text; choose bpe or unigram"),
        ("train.length=1", "train.length is 1, at least 2 are needed"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_read(
    override: str, sentence: str, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        pretrain(recipe(text, override), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_family_that_cannot_say_grouped_heads_is_refused(text: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the family gpt2 has one key head per head"):
        pretrain(recipe(text, "model.family=gpt2", "model.kv_heads=1"), tmp_path / "run")


def test_a_setting_without_effect_warns(text: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="model.heads has no effect on the kind 'lstm'"):
        pretrain(recipe(text, "model.kind=lstm", "train.steps=1"), tmp_path / "run")


def test_the_command_prints_the_plan_evaluations_and_what_comes_next(text: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(verb)
    (tmp_path / "r.toml").write_text(SMALL.format(text=json.dumps(str(text))))
    arguments = [str(tmp_path / "r.toml"), "train.steps=2", "--out", str(tmp_path / "run")]
    said = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert said.exit_code == 0 and "parameters" in said.stdout.splitlines()[0]
    assert "bits per byte" in said.stdout and f"yanmo generate {tmp_path / 'run'}" in said.stdout
    said = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(said.stdout)["model"] == str(tmp_path / "run" / "model")
