"""`Model.generate` and `Model.stream`: what a caller relies on."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import yanmo
from tests.models.tiny import BART, LLAMA, make
from yanmo.errors import InputError
from yanmo.inference.model import Generation, Model
from yanmo.models.checkpoint import load_network
from yanmo.models.config import RecurrentConfig
from yanmo.models.initial import initialise
from yanmo.models.recurrent import Recurrent
from yanmo.tokens.train import train_tokenizer

TEXTS = [
    "The ink is ground before one writes; the stone is wet, and the hand is slow.",
    "先研墨，后写字。磨墨的人不着急，写字的人也不着急。",
    "A model reads 123 tokens and writes the next. 🦙🖌️ Émile naïvely wrote ½ of it.",
] * 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random Llama over byte tokens: it writes nonsense, broken characters among it."""
    tokenizer = train_tokenizer(TEXTS, "bpe", 300)
    folder = tmp_path_factory.mktemp("model")
    make("LlamaForCausalLM", LLAMA | {"vocab_size": tokenizer.vocab_size, "eos_token_id": tokenizer.eos_id}, folder)
    return Model(load_network(folder), tokenizer)


def test_the_same_seed_writes_the_same_text_and_another_seed_another(model: Model) -> None:
    options = {"max_new_tokens": 20, "temperature": 1.0}
    before = torch.get_rng_state()
    one = model.generate("The ink", seed=1, **options)
    assert one == model.generate("The ink", seed=1, **options)
    assert one != model.generate("The ink", seed=2, **options)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is not touched"


def test_a_temperature_really_samples(model: Model) -> None:
    texts = {model.generate("The ink", max_new_tokens=8, temperature=1.0) for _ in range(6)}
    assert len(texts) > 1


@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "seed": 3, "top_p": 0.9}, {"repetition_penalty": 1.3}])
def test_each_row_of_a_batch_is_what_it_would_be_alone(model: Model, options: dict) -> None:
    prompts = ["The ink is ground before one", "先", "A model", "The ink is ground before one writes; the stone", "先"]
    together = model.generate(prompts, max_new_tokens=12, **options)
    assert together == [model.generate(p, max_new_tokens=12, **options) for p in prompts]


def test_several_texts_for_one_prompt(model: Model) -> None:
    texts = model.generate(["The", "先"], n=3, max_new_tokens=10, temperature=1.0, seed=0)
    assert [len(t) for t in texts] == [3, 3]
    assert len(set(texts[0])) == 3
    assert texts[0][0] == model.generate("The", max_new_tokens=10, temperature=1.0, seed=0)


@pytest.mark.parametrize("seed", range(8))
def test_pieces_of_a_stream_never_split_a_character_and_add_up(model: Model, seed: int) -> None:
    options = {"max_new_tokens": 40, "temperature": 1.5, "seed": seed}
    pieces = list(model.stream("先研墨🦙", **options))
    assert "".join(pieces) == model.generate("先研墨🦙", **options)
    whole = model.tokenizer.encode("先研墨🦙") + model.generations(["先研墨🦙"], **options)[0][0].ids
    assert model.tokenizer.decode(whole).startswith("先研墨🦙")


def test_a_stop_string_ends_the_text_and_is_left_out(model: Model) -> None:
    whole = model.generate("The ink", max_new_tokens=40, temperature=1.0, seed=4)
    for stop in (whole[10:13], whole[5:6], whole[20:28]):
        expected = whole[: whole.index(stop)]
        generation = model.generations(["The ink"], max_new_tokens=40, temperature=1.0, seed=4, stop=stop)[0][0]
        assert (generation.text, generation.finish) == (expected, "stop")
        assert len(generation.ids) <= 40
        pieces = list(model.stream("The ink", max_new_tokens=40, temperature=1.0, seed=4, stop=["zzz", stop]))
        assert "".join(pieces) == expected
    assert model.generate("The ink", max_new_tokens=40, temperature=1.0, seed=4, stop="never there") == whole


def test_an_end_token_ends_the_text_and_is_not_written(model: Model) -> None:
    ids = model.generations(["The"], max_new_tokens=30)[0][0].ids
    third = ids[2]
    ended = Model(model.network, model.tokenizer, yanmo.inference.generate.Ends(eos_ids=frozenset({third})))
    generation = ended.generations(["The"], max_new_tokens=30)[0][0]
    assert generation.finish == "stop" and generation.ids == ids[: ids.index(third) + 1]
    assert generation.text == model.tokenizer.decode(model.tokenizer.encode("The") + ids[: ids.index(third)])[3:]


def test_max_length_counts_the_prompt(model: Model) -> None:
    prompt = "The ink is ground"
    length = len(model.tokenizer.encode(prompt))
    assert len(model.generations([prompt], max_length=length + 5)[0][0].ids) == 5
    assert model.generations([prompt], max_length=length + 5)[0][0].finish == "length"
    with pytest.raises(InputError, match="max_length"):
        model.generate(prompt, max_length=length)


def test_log_probabilities_are_those_of_the_model_alone(model: Model) -> None:
    generation = model.generate("The ink", max_new_tokens=6, temperature=1.0, seed=5, top_k=40, logprobs=3)
    assert isinstance(generation, Generation) and generation.logprobs is not None and generation.top is not None
    prompt = model.tokenizer.encode("The ink")
    shares = model.logits([prompt + generation.ids])[0].log_softmax(-1)
    for i, (token, logprob) in enumerate(zip(generation.ids, generation.logprobs)):
        assert math.isclose(shares[len(prompt) - 1 + i, token], logprob, abs_tol=1e-4)
        assert len(generation.top[i]) == 3 and generation.top[i][0][1] >= logprob - 1e-6


def test_nothing_to_write_is_an_empty_text(model: Model) -> None:
    assert model.generate("The", max_new_tokens=0) == ""
    assert model.generate([], max_new_tokens=3) == []
    assert model.generate(["The", "先"], max_new_tokens=0) == ["", ""]


@pytest.mark.parametrize(
    "options, named",
    [
        ({"max_new_token": 3}, "nearest: 'max_new_tokens'"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"max_new_tokens": 3, "max_length": 9}, "give one"),
        ({"n": 0}, "n is 0"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"logprobs": -1}, "logprobs"),
        ({"seed": -3}, "seed"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_a_wrong_option_is_one_sentence(model: Model, options: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        model.generate("The", **options)


@pytest.mark.parametrize("ids", [[], [[]], [0.5], [-1], [10**6], [[1, 2], [3]], "text", [[[1]]], [2**70]])
def test_ids_that_are_not_the_models_are_one_sentence(model: Model, ids: object) -> None:
    with pytest.raises(InputError):
        model.logits(ids)  # type: ignore[arg-type]


def test_logits_are_float32_whatever_the_weights_are(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    half = yanmo.load(tmp_path / "m", dtype="bfloat16")
    assert half.network.dtype == torch.bfloat16
    logits = half.logits([5, 6, 7])
    assert logits.shape == (1, 3, model.config.vocab_size) and logits.dtype == torch.float32
    assert (logits - model.logits([5, 6, 7])).abs().max() < 0.3
    assert yanmo.load(tmp_path / "m").network.dtype == torch.float32


def test_attention_weights_are_those_of_the_pass_that_was_made(model: Model) -> None:
    maps = model.attentions([5, 6, 7, 8])
    assert [m.shape for m in maps] == [(1, 6, 4, 4)] * 3
    assert all(torch.allclose(m.sum(-1), torch.ones(1, 6, 4)) and m.triu(1).abs().max() == 0 for m in maps)


def test_a_recurrent_model_writes_through_the_same_calls(model: Model) -> None:
    tokenizer = model.tokenizer
    network = Recurrent(RecurrentConfig(cell="lstm", vocab_size=tokenizer.vocab_size, width=16)).eval()
    initialise(network, torch.Generator().manual_seed(0))
    lstm = Model(network, tokenizer)
    prompts = ["The ink is ground before", "先", "A"]
    assert lstm.generate(prompts, max_new_tokens=9) == [lstm.generate(p, max_new_tokens=9) for p in prompts]
    assert "".join(lstm.stream("A", max_new_tokens=9, temperature=1.0, seed=1))


def test_an_encoder_decoder_writes_what_each_source_gives_alone(model: Model, tmp_path: Path) -> None:
    tokenizer = model.tokenizer
    make("BartForConditionalGeneration", BART | {"vocab_size": tokenizer.vocab_size, "eos_token_id": 0}, tmp_path)
    tokenizer.save(tmp_path)
    pair = yanmo.load(tmp_path)
    prompts = ["The ink is ground", "先研墨", "A"]
    assert pair.generate(prompts, max_new_tokens=9) == [pair.generate(p, max_new_tokens=9) for p in prompts]
    with pytest.raises(InputError, match="decoder_ids"):
        pair.logits([1, 2])


def test_learned_positions_end_the_text_and_refuse_a_longer_prompt(model: Model, tmp_path: Path) -> None:
    settings = {"vocab_size": model.tokenizer.vocab_size, "n_positions": 12, "n_embd": 12, "n_layer": 1, "n_head": 2}
    make("GPT2LMHeadModel", settings | {"eos_token_id": 0}, tmp_path)
    model.tokenizer.save(tmp_path)
    small = yanmo.load(tmp_path)
    start = len(small.tokenizer.encode("The ink"))
    assert len(small.generations(["The ink"], max_new_tokens=100)[0][0].ids) == 12 - start
    with pytest.raises(InputError, match="12"):
        small.generate("The ink is ground before one writes; the stone is wet, and the hand is slow.")
    with pytest.raises(InputError, match="12"):
        small.logits([[5] * 13])


def test_a_copy_keeps_the_card_and_the_advice_that_the_model_came_with(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "one", card="# A card with a licence\n")
    advice = tmp_path / "one" / "generation_config.json"
    advice.write_text(advice.read_text().replace("{", '{"top_p": 0.8,', 1))
    yanmo.load(tmp_path / "one").save(tmp_path / "two")
    assert (tmp_path / "two" / "README.md").read_text() == "# A card with a licence\n"
    assert '"top_p": 0.8' in (tmp_path / "two" / "generation_config.json").read_text()


def test_a_mask_must_number_documents_from_left_to_right(model: Model) -> None:
    with pytest.raises(InputError, match="falling order"):
        model.logits([5, 6, 7], [2, 1, 1])
    with pytest.raises(InputError, match="mask is"):
        model.logits([5, 6, 7], [1, 1])
