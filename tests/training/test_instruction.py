"""From conversations to a chat model: it learns its answers and where they end, and nothing of the prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small import equal, weights

from yanmo.models.config import TransformerConfig
from yanmo.models.initial import initialise
from yanmo.models.transformer import Transformer
from yanmo.runs import open_run
from yanmo.tokens.chat import chat_ids
from yanmo.tokens.chats import chat_batches, gather_chats
from yanmo.tokens.tokenizer import Tokenizer, load_tokenizer
from yanmo.tokens.train import train_tokenizer
from yanmo.training.loop import Settings, train
from yanmo.training.objectives import causal

CHATML = """{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
ANSWERS = {"red": "apple", "yellow": "banana", "green": "pear and lime", "blue": "plum"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("chat") / "t"
    texts = [f"{key} {value} system user assistant" for key, value in ANSWERS.items()] * 4
    train_tokenizer(texts, "bpe", 320, special_tokens=["<|im_start|>", "<|im_end|>"]).save(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | {"eos_token": "<|im_end|>", "chat_template": CHATML})
    )
    return load_tokenizer(folder)


def conversations() -> list[list[dict[str, str]]]:
    """Every order of two questions."""
    talks = []
    for first in ANSWERS:
        for second in ANSWERS:
            talk = []
            for question in (first, second):
                talk.append({"role": "user", "content": question})
                talk.append({"role": "assistant", "content": ANSWERS[question]})
            talks.append(talk)
    return talks


def model(tokenizer: Tokenizer) -> Transformer:
    sizes = {"width": 32, "n_heads": 2, "ffn_width": 64, "decoder_layers": 2}
    network = Transformer(TransformerConfig(vocab_size=tokenizer.vocab_size, position="rotary", **sizes))  # type: ignore[arg-type]
    initialise(network, torch.Generator().manual_seed(0))
    return network


def greedy(network: Transformer, ids: list[int], steps: int) -> list[int]:
    written: list[int] = []
    with torch.no_grad():
        for _ in range(steps):
            logits = network.eval().logits(network.decode(torch.tensor([ids + written]))[:, -1])
            written.append(int(logits.argmax()))
    return written


def test_answers_and_their_ends_are_learnt_in_one_turn_and_two(tokenizer: Tokenizer) -> None:
    network = model(tokenizer)
    chats = gather_chats(tokenizer, conversations(), 96)
    settings = Settings(steps=90, learning_rate=0.01)
    steps = list(train(network, chat_batches(chats, 4), causal, settings))
    assert steps[-1].loss < 0.05
    for talk in conversations()[1::3]:
        for turn in (1, 3):
            answer = [*tokenizer.encode(talk[turn]["content"]), tokenizer.eos_id]
            assert greedy(network, chat_ids(tokenizer, talk[:turn]), len(answer)) == answer


def test_the_prompts_are_not_learnt(tokenizer: Tokenizer) -> None:
    chats = gather_chats(tokenizer, conversations(), 96)
    network = model(tokenizer)
    list(train(network, chat_batches(chats, 4), causal, Settings(steps=40, learning_rate=0.01)))
    prompt = chat_ids(tokenizer, conversations()[0][:1])
    with torch.no_grad():
        chances = torch.log_softmax(network.eval().logits(network.decode(torch.tensor([prompt]))), -1)[0]
    assert tokenizer.token(prompt[0]) == "<|im_start|>"
    assert float(chances[:-1].gather(-1, torch.tensor(prompt)[1:, None]).mean()) < -4  # no better than chance


def test_a_run_left_and_continued_equals_one_that_was_not(tokenizer: Tokenizer, tmp_path: Path) -> None:
    results = []
    for stops in ((), (2, 5)):
        for stop in (*stops, 0):
            network = model(tokenizer)
            source = chat_batches(gather_chats(tokenizer, conversations(), 96), 3, seed=1)
            with open_run(tmp_path / f"run{len(stops)}", "", {}) as run:
                for step in train(network, source, causal, Settings(steps=9, learning_rate=0.01), run=run):
                    if step.step == stop:
                        break
        results.append(weights(network))
        assert source.epoch > 1
    assert equal(*results)
