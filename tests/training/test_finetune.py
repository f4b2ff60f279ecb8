"""Every objective and adapter by a recipe: from a model that exists to one that has learned, opens, and resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.training.texts import metrics, write_records, write_texts
from yanmo.cli import app
from yanmo.errors import ConfigError, FileError, InputError
from yanmo.files import read_json_object
from yanmo.finetune import finetune
from yanmo.inference.model import load
from yanmo.pretrain import pretrain
from yanmo.recipe import Recipe, read_recipe
from yanmo.tokens.chat import chat_ids
from yanmo.training.check import check

pytest.importorskip("pyarrow")
SMALL = """
[model]
width = 16
layers = 2
heads = 2
[tokenizer]
vocab_size = 300
[data]
paths = ["?"]
valid_share = 0.2
[train]
steps = 6
rows = 2
length = 96
precision = "float32"
eval_every = 2
"""
MORE = """
[model]
path = "?"
[data]
paths = ["?"]
valid_share = 0.2
[train]
steps = 30
rows = 4
length = 96
learning_rate = 0.01
precision = "float32"
eval_every = 10
"""
SHAPES = {  # overrides that pretrain each shape
    "causal": [],
    "masked": ["model.family=bert", "tokenizer.kind=wordpiece", "tokenizer.vocab_size=90"],
    "spans": ["model.family=t5", "model.tie_embeddings=false", "tokenizer.kind=unigram", "tokenizer.vocab_size=150"],
    "infilling": ["model.family=bart", "tokenizer.kind=unigram", "tokenizer.vocab_size=60"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, records, and one model of each shape."""
    folder = tmp_path_factory.mktemp("finetune")
    write_texts(folder / "texts")
    for kind in ("chat", "preference", "pairs"):
        write_records(folder / f"{kind}.jsonl", kind)
    for kind, overrides in SHAPES.items():
        pretrain(small(folder, f"objective.kind={kind}", *overrides), folder / kind)
    return folder


def small(place: Path, *overrides: str) -> Recipe:
    return read_recipe(SMALL, overrides=[f"data.paths={place / 'texts'}", *overrides])


def more(place: Path, base: str, data: str, kind: str, *overrides: str) -> Recipe:
    values = [f"model.path={place / base}", f"data.paths={place / data}", f"objective.kind={kind}", *overrides]
    return read_recipe(MORE, overrides=values)


def losses(run: Path) -> list[float]:
    return [line["valid_loss"] for line in metrics(run) if "valid_loss" in line]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("masked", "BertForMaskedLM"), ("spans", "T5ForConditionalGeneration")]
    + [("infilling", "BartForConditionalGeneration")],
)
def test_every_pretrained_shape_opens_in_transformers_with_the_same_logits(kind: str, name: str, place: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model, text = load(place / kind), "The ink is ground."
    theirs = getattr(transformers, name).from_pretrained(place / kind / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / kind / "model")
    assert tokenizer.encode(text) == model.tokenizer.encode(text)
    ids = torch.tensor([model.tokenizer.encode(text)])
    with torch.no_grad():
        if kind == "masked":
            ours, other = model.logits(ids), theirs(ids).logits
        else:
            ours, other = model.logits(ids, decoder_ids=ids), theirs(ids, decoder_input_ids=ids).logits
    assert torch.allclose(ours, other, atol=1e-4)
    assert losses(place / kind)[-1] < losses(place / kind)[0]
    assert "bits_per_byte" not in json.dumps(metrics(place / kind)), "a part of the text has no bits per byte"


CASES: dict[str, tuple[str, str, str, list[str]]] = {
    "more text": ("causal", "texts", "causal", []),
    "masked words": ("masked", "texts", "masked", ["objective.whole_words=true"]),
    "spans": ("spans", "texts", "spans", []),
    "infilling": ("infilling", "texts", "infilling", []),
    "pairs": ("spans", "pairs.jsonl", "seq2seq", ["objective.smoothing=0.1", "objective.prefix=first: "]),
    "chat": ("causal", "chat.jsonl", "chat", []),
    "dpo": ("causal", "preference.jsonl", "dpo", []),
    "orpo": ("causal", "preference.jsonl", "orpo", ["train.ema=0.5"]),
    "lora": ("causal", "chat.jsonl", "chat", ["adapter.kind=lora"]),
    "qlora": ("causal", "chat.jsonl", "chat", ["adapter.kind=rslora", "adapter.bits=8"]),
    "dora, dpo": ("causal", "preference.jsonl", "dpo", ["adapter.kind=dora", "train.learning_rate=0.05"]),
}


@pytest.mark.filterwarnings("ignore:the matrices take:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_every_objective_and_adapter_learns_and_what_it_made_opens(case: str, place: Path, tmp_path: Path) -> None:
    base, data, kind, overrides = CASES[case]
    folder = finetune(more(place, base, data, kind, *overrides), tmp_path / "run")
    found = losses(tmp_path / "run")
    assert len(found) == 3 and min(found) < found[0]
    model = load(folder)
    result = read_json_object(tmp_path / "run" / "plan.json")["result"]
    assert result["valid_loss"] == pytest.approx(min(found), rel=0.2)
    assert model.config.kind == load(place / base).config.kind
    if kind in ("dpo", "orpo"):
        assert result["accuracy"] == 1.0
    if "adapter.kind" in " ".join(overrides):
        assert (folder / "adapter_model.safetensors").is_file() and not (folder / "model.safetensors").exists()
    card = (folder / "README.md").read_text()
    assert f"base_model: {place / base}" in card and f"objective: {kind}" in card


def test_what_chats_teach_is_written_with_the_same_ids_and_ends(place: Path, tmp_path: Path) -> None:
    wanted = more(place, "causal", "chat.jsonl", "chat", "train.steps=120", "train.eval_every=40")
    model = load(finetune(wanted, tmp_path / "run"))
    assert model.tokenizer.chat_template is not None
    prompt = chat_ids(model.tokenizer, [{"role": "user", "content": "text of the ink"}])
    text = model.tokenizer.decode(prompt, skip_special_tokens=False)
    said = model.generations([text], max_new_tokens=20)[0][0]
    assert said.text.startswith("ink") and said.ids[-1] == model.tokenizer.eos_id, "the answer ends by itself"
    assert model.tokenizer.encode(text) == prompt


def test_a_teacher_teaches_and_one_with_another_tokenizer_is_refused(place: Path, tmp_path: Path) -> None:
    fast = ["train.learning_rate=0.02", "train.eval_every=60"]
    teacher = load(pretrain(small(place, "train.steps=60", *fast), tmp_path / "teacher"))
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((place / "texts").iterdir()))
    ids, far = torch.tensor(teacher.tokenizer.encode(text))[None, :64], []
    for steps in (1, 60):
        values = [f"objective.teacher={tmp_path / 'teacher'}", "objective.teacher_weight=1.0", f"train.steps={steps}"]
        values += [f"tokenizer.path={place / 'causal'}", "train.seed=5", *fast]
        student = load(pretrain(small(place, *values), tmp_path / str(steps)))
        far.append(float((student.logits(ids).softmax(-1) - teacher.logits(ids).softmax(-1)).abs().sum()))
    assert far[1] < 0.5 * far[0]
    wanted = more(place, "causal", "texts", "causal", f"objective.teacher={place / 'spans'}")
    with pytest.raises(ConfigError, match="has another tokenizer than the student"):
        finetune(wanted, tmp_path / "other")


def stopped_after(count: int) -> Callable[[str, dict[str, Any]], None]:
    seen = 0

    def stop(stage: str, values: dict[str, Any]) -> None:
        nonlocal seen
        seen += stage == "step"
        if seen == count:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("case", ["chat", "dpo", "pairs", "masked words", "lora", "orpo"])
def test_an_interrupted_finetuning_goes_on_and_equals_a_whole_one(case: str, place: Path, tmp_path: Path) -> None:
    base, data, kind, overrides = CASES[case]
    wanted = more(place, base, data, kind, *overrides, "train.steps=12", "train.eval_every=4", "model.dropout=0.1")
    whole = finetune(wanted, tmp_path / "whole")
    for count in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            finetune(wanted, tmp_path / "run", report=stopped_after(count))
    again = finetune(wanted, tmp_path / "run")
    name = "adapter_model.safetensors" if case == "lora" else "model.safetensors"
    assert (whole / name).read_bytes() == (again / name).read_bytes()
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "run")


def test_patience_ends_a_run_that_gets_no_better_and_it_stays_ended(place: Path, tmp_path: Path) -> None:
    wanted = more(place, "causal", "texts", "causal", "train.patience=2", "train.steps=200", "train.eval_every=1")
    wanted = wanted.model_copy(update={"train": wanted.train.model_copy(update={"learning_rate": 3.0})})
    notes: list[str] = []
    finetune(wanted, tmp_path / "run", report=lambda stage, v: notes.append(v["text"]) if stage == "note" else None)
    scores = [line["bits_per_byte"] for line in metrics(tmp_path / "run") if "bits_per_byte" in line]
    assert 3 <= len(scores) < 200 and min(scores[-2:]) >= min(scores[:-2])
    assert notes == ["no better score in 2 evaluations, so training ends here"]
    (tmp_path / "run" / "model").rename(tmp_path / "gone")
    finetune(wanted, tmp_path / "run")
    again = [line["bits_per_byte"] for line in metrics(tmp_path / "run") if "bits_per_byte" in line]
    assert again == scores


def test_token_shards_are_taken_as_they_are_or_shared_out(place: Path, tmp_path: Path) -> None:
    tokens = place / "causal" / "tokens"
    pretrain(small(place, f"data.paths={tokens}"), tmp_path / "split")
    assert metrics(tmp_path / "split") == metrics(place / "causal"), "the same documents in the same order"
    one = f"data.paths=[{tokens / 'train'}, {tokens / 'valid'}]"
    pretrain(small(place, one), tmp_path / "shared")
    counts = [read_json_object(tmp_path / "shared/tokens" / name / "meta.json") for name in ("train", "valid")]
    old = [read_json_object(tokens / name / "meta.json") for name in ("train", "valid")]
    for key in ("n_documents", "n_tokens", "n_bytes"):
        assert sum(meta[key] for meta in counts) == sum(meta[key] for meta in old)
    assert all(meta["n_documents"] for meta in counts)


def test_shards_of_another_tokenizer_and_shards_beside_text_are_refused(place: Path, tmp_path: Path) -> None:
    tokens = place / "causal" / "tokens"
    with pytest.raises(FileError, match="its ids come from the tokenizer .*, not from"):
        pretrain(small(place, f"data.paths={tokens}", f"tokenizer.path={place / 'spans'}"), tmp_path / "run")
    with pytest.raises(ConfigError, match="names token shards .* and text"):
        pretrain(small(place, f"data.paths=[{tokens / 'train'}, {place / 'texts'}]"), tmp_path / "run")
    assert not (tmp_path / "run" / "tokens" / "live").exists()


@pytest.mark.parametrize(
    ("base", "data", "kind", "overrides", "sentence"),
    [
        ("spans", "chat.jsonl", "chat", [], "trains a decoder .* is an encoder-decoder"),
        ("causal", "texts", "masked", [], "trains an encoder .bert., and the model .* is a decoder"),
        ("causal", "texts", "causal", ["train.length=4096"], "reads 96 tokens at most; set train.length=96"),
        ("causal", "pairs.jsonl", "chat", [], "pairs.jsonl:1: no conversation in it: its fields are source, target"),
        ("causal", "chat.jsonl", "dpo", [], "chat.jsonl:1: no preference in it"),
        ("spans", "chat.jsonl", "seq2seq", [], "chat.jsonl:1: no field 'source'"),
        ("causal", "absent.jsonl", "chat", [], "no such file or folder"),
        ("causal", "chat.jsonl", "chat", ["train.rows=500"], "fewer than one batch of 500"),
        ("causal", "chat.jsonl", "chat", ["tokenizer.vocab_size=99"], "brings its own tokenizer; leave out"),
        ("causal", "preference.jsonl", "dpo", ["objective.too_long=cut"], "nothing that may be cut"),
        ("causal", "chat.jsonl", "chat", ["adapter.kind=lora", "adapter.targets=quary"], "quary"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(
    base: str, data: str, kind: str, overrides: list[str], sentence: str, place: Path, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, FileError, InputError), match=sentence) as caught:
        finetune(more(place, base, data, kind, *overrides), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run" / "checkpoints").exists()


def test_the_two_doors_send_to_each_other(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use yanmo finetune"):
        pretrain(more(place, "causal", "texts", "causal"), tmp_path / "run")
    with pytest.raises(ConfigError, match="use yanmo pretrain"):
        finetune(small(place), tmp_path / "run")
    with pytest.raises(ConfigError, match="an adapter needs a model to lie on"):
        pretrain(small(place, "adapter.kind=lora"), tmp_path / "run")
    with pytest.raises(ConfigError, match="an encoder needs the frame of a wordpiece vocabulary"):
        pretrain(small(place, "objective.kind=masked", "model.family=bert"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("objective.beta=0.3", "objective.beta has no effect on the kind 'causal'"),
        ("objective.temperature=3", "objective.temperature has no effect without objective.teacher"),
        ("adapter.rank=3", "adapter.rank has no effect without adapter.kind"),
        ("data.valid=x.jsonl", "data.valid has no effect on the objective 'causal'"),
    ],
)
def test_a_setting_without_effect_warns(override: str, sentence: str, place: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=sentence):
        pretrain(small(place, "train.steps=1", override), tmp_path / "run")


@pytest.mark.parametrize(
    ("kind", "key", "sentence"),
    [
        (
            "chat",
            "text_column=['body']",
            "data.text_column has no effect on the objective 'chat', which learns from rec",
        ),
        ("labels", "text_column=['body']", "data.text_column has no effect on the objective 'labels', which learns fr"),
        ("labels", "valid_share=0.2", "data.valid_share has no effect on the objective 'labels'"),
    ],
)
def test_columns_of_texts_have_no_effect_on_what_is_no_text(kind: str, key: str, sentence: str) -> None:
    recipe = read_recipe(
        f"[data]\npaths=['a']\n{key}\n[objective]\nkind='{kind}'\n[model]\npath='m'\n[train]\nsteps=1\n"
    )
    with pytest.warns(UserWarning, match=sentence):
        check(recipe)


def test_another_base_under_the_same_adapter_run_is_refused(place: Path, tmp_path: Path) -> None:
    wanted = more(place, "causal", "chat.jsonl", "chat", "adapter.kind=lora")
    with pytest.raises(KeyboardInterrupt):
        finetune(wanted, tmp_path / "run", report=stopped_after(3))
    model = load(place / "causal")
    with torch.no_grad():
        model.network.embedding.weight[5] += 1
    model.save(tmp_path / "base")
    text = (tmp_path / "run" / "recipe.toml").read_text().replace(str(place / "causal"), str(tmp_path / "base"))
    (tmp_path / "run" / "recipe.toml").write_text(text)
    with pytest.raises(FileError, match="made with other frozen weights"):
        finetune(read_recipe(text), tmp_path / "run")


def test_the_command_finetunes_and_says_how_good_it_is(place: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(MORE)
    arguments = ["finetune", str(tmp_path / "r.toml"), f"model.path={place / 'causal'}", "objective.kind=dpo"]
    arguments += [f"data.paths={place / 'preference.jsonl'}", "train.steps=4", "--out", str(tmp_path / "run")]
    said = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert said.exit_code == 0 and "validation loss" in said.stdout and "accuracy" in said.stdout
    said = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(said.stdout)["model"] == str(tmp_path / "run" / "model")
