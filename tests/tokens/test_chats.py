"""Conversations: the ids of inference, the answers as targets, one BOS, and the end of an answer is learnt."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from test_chat import CHATML, LLAMA3, MISTRAL

from yanmo.errors import ConfigError, FileError, InputError
from yanmo.tokens.batches import NO_TARGET
from yanmo.tokens.chat import chat_ids, check, render, variables
from yanmo.tokens.chats import MARKS, Example, chat_batches, chat_examples, gather_chats
from yanmo.tokens.preferences import gather_preferences, preference_batches
from yanmo.tokens.tokenizer import Tokenizer, load_tokenizer
from yanmo.tokens.train import train_tokenizer

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who are you? 你好"},
    {"role": "assistant", "content": "A model."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Still a model 模型."},
]
PAIR = [message for message in TALK if message["role"] != "system"]
PLAIN = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
MARKED = """{{- bos_token }}{% for message in messages %}
{% if message.role == 'assistant' %}
<|assistant|>
  {%- generation -%}
    {{ message.content + eos_token -}}
  {% endgeneration %}
{% else %}
<|{{ message.role }}|>
{{ message.content }}
{% endif %}
{% endfor %}"""
BARE_MARKED = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{{ eos_token }}{% else %}<|{{ m.role }}|>{{ m.content }}{% endif %}{% endfor %}"
)
# as Qwen 3 does: the last answer has its (empty) reasoning, earlier ones have not
FORGETFUL = """{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' and loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{{- m.content + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


@pytest.fixture(scope="module")
def bpe(corpus: list[str], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Qwen's way: no BOS, <|im_end|> ends a turn."""
    special = ["<|im_start|>", "<|im_end|>", "<|assistant|>", "<|user|>", "<|system|>"]
    folder = tmp_path_factory.mktemp("bpe") / "t"
    train_tokenizer(corpus, "bpe", 500, special_tokens=special).save(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"eos_token": "<|im_end|>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(folder)


@pytest.fixture
def with_bos(llama: Path) -> Tokenizer:
    """Llama's way: <s> before everything, </s> ends a turn."""
    return load_tokenizer(llama)


def learnt(tokenizer: Tokenizer, example: Example) -> list[str]:
    """Each run of targets as text, special tokens written out."""
    runs: list[list[int]] = []
    for place, (number, target) in enumerate(zip(*example)):
        if target and (place == 0 or not example.targets[place - 1]):
            runs.append([])
        if target:
            runs[-1].append(number)
    return [tokenizer.decode(run, skip_special_tokens=False) for run in runs]


# --- where the answers are


def test_answers_and_their_ends_are_the_targets_and_nothing_else(bpe: Tokenizer) -> None:
    (example,) = chat_examples(bpe, TALK)
    assert learnt(bpe, example) == ["A model.<|im_end|>", "Still a model 模型.<|im_end|>"]
    whole = chat_ids(bpe, TALK, add_generation_prompt=False)
    assert whole[: len(example.ids)] == example.ids
    assert bpe.decode(whole[len(example.ids) :], False) == "\n"  # behind the end, where generation has stopped


def test_each_answer_follows_the_ids_that_inference_gives(bpe: Tokenizer) -> None:
    (example,) = chat_examples(bpe, TALK)
    for place in (2, 4):
        prompt = chat_ids(bpe, TALK[:place])
        assert example.ids[: len(prompt)] == prompt
        assert not example.targets[len(prompt) - 1] and example.targets[len(prompt)]


def test_only_the_last_answer_where_that_is_asked(bpe: Tokenizer) -> None:
    (example,) = chat_examples(bpe, TALK, turns="last")
    assert learnt(bpe, example) == ["Still a model 模型.<|im_end|>"]


def test_each_answer_becomes_an_example_in_the_text_of_inference(bpe: Tokenizer) -> None:
    first, second = chat_examples(bpe, TALK, turns="each", template=FORGETFUL)
    assert learnt(bpe, first) == ["<think>\n\n</think>\n\nA model.<|im_end|>"]
    assert learnt(bpe, second) == ["<think>\n\n</think>\n\nStill a model 模型.<|im_end|>"]
    prompt = chat_ids(bpe, TALK[:4], template=FORGETFUL)
    assert second.ids[: len(prompt)] == prompt and "<think>" not in bpe.decode(prompt, False)


def test_a_template_that_rewrites_earlier_turns_is_refused(bpe: Tokenizer) -> None:
    with pytest.raises(ConfigError, match=re.escape("message 2 or those before it differently")):
        chat_examples(bpe, TALK, template=FORGETFUL)


@pytest.mark.parametrize("template", [MARKED, LLAMA3, BARE_MARKED], ids=["stripped", "llama3", "end outside"])
def test_marks_of_the_template_say_where_answers_are(bpe: Tokenizer, template: str) -> None:
    (example,) = chat_examples(bpe, TALK, template=template)
    found = [text.strip() for text in learnt(bpe, example)]
    assert found == ["A model.<|im_end|>", "Still a model 模型.<|im_end|>"]
    assert chat_ids(bpe, TALK, template=template, add_generation_prompt=False)[: len(example.ids)] == example.ids
    (last,) = chat_examples(bpe, TALK, template=template, turns="last")
    assert [text.strip() for text in learnt(bpe, last)] == found[-1:]


@pytest.mark.parametrize("template", [MARKED, LLAMA3, BARE_MARKED], ids=["stripped", "llama3", "end outside"])
def test_marks_are_those_that_transformers_finds(bpe: Tokenizer, template: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    bpe.save(tmp_path / "t")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "t")
    names = {f"{role}_token": name for role, name in variables(bpe).items() if role in ("bos", "eos") and name}
    result = theirs.apply_chat_template(
        check(TALK), chat_template=template, return_dict=True, return_assistant_tokens_mask=True, **names
    )
    (example,) = chat_examples(bpe, TALK, template=template)
    assert result["input_ids"][: len(example.ids)] == example.ids
    mask = result["assistant_masks"]
    for place, (ours, other) in enumerate(zip(example.targets, mask)):
        end_outside = template is BARE_MARKED and example.ids[place] == bpe.eos_id
        blank = not bpe.decode([example.ids[place]], False).strip()
        assert ours == bool(other) or end_outside or blank


def test_marks_in_the_messages_are_only_text(bpe: Tokenizer) -> None:
    talk = [{"role": "user", "content": "{% generation %} \ue000 x"}, {"role": "assistant", "content": "\ue000\ue001"}]
    (example,) = chat_examples(bpe, talk, template=MARKED)
    assert learnt(bpe, example) == ["\ue000\ue001<|im_end|>"]
    assert MARKS.search("{%-  generation +%}") is not None


def test_marks_that_are_not_in_order_are_refused(bpe: Tokenizer) -> None:
    nested = "{% generation %}a{% generation %}{{ messages[0].content }}{% endgeneration %}{% endgeneration %}"
    with pytest.raises(ConfigError, match="does not mark the answers in its text one after another"):
        chat_examples(bpe, TALK, template=nested)
    unused = "x{% if false %}{% generation %}{% endgeneration %}{% endif %}"
    with pytest.raises(ConfigError, match="does not mark the answers"):
        chat_examples(bpe, TALK, template=unused)


def test_a_tool_call_is_an_answer_and_the_tool_s_reply_is_none(bpe: Tokenizer) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": {"x": 1}}}]}
    talk = [TALK[1], call, {"role": "tool", "content": "42"}, {"role": "assistant", "content": "It is 42."}]
    (example,) = chat_examples(bpe, talk, tools=[{"type": "function", "function": {"name": "f"}}])
    first, second = learnt(bpe, example)
    assert "<tool_call>" in first and first.endswith("<|im_end|>") and second == "It is 42.<|im_end|>"


# --- beginnings and ends


@pytest.mark.parametrize("template", [MISTRAL, MARKED], ids=["mistral", "marked"])
@pytest.mark.parametrize("doubled", [False, True])
def test_there_is_exactly_one_bos_and_every_answer_ends_in_eos(
    with_bos: Tokenizer, template: str, doubled: bool
) -> None:
    source = "{{ bos_token }}" + template if doubled else template.replace("{{ bos_token }}", "")
    (example,) = chat_examples(with_bos, PAIR, template=source)
    assert example.ids.count(with_bos.bos_id or 0) == 1 and example.ids[0] == with_bos.bos_id
    ends = [place for place, number in enumerate(example.ids) if number == with_bos.eos_id]
    assert len(ends) == 2 and all(example.targets[place] for place in ends) and not example.targets[0]
    batch = next(chat_batches(gather_chats(with_bos, [PAIR], 256, template=source), 1))
    assert (batch.targets == with_bos.eos_id).sum() == 2 and (batch.ids == with_bos.bos_id).sum() == 1
    assert not (batch.targets == with_bos.bos_id).any()


def test_a_template_without_an_end_is_refused(bpe: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="no end token behind an answer, so the model would never learn to stop"):
        chat_examples(bpe, TALK[:3], template=PLAIN.replace("{{ bos_token }}", ""))
    with pytest.raises(ConfigError, match="no end token"):
        chat_examples(bpe, TALK, end_ids=[3])
    (example,) = chat_examples(bpe, TALK, end_ids=[bpe.eos_id or 0])
    assert example.ids[-1] == bpe.eos_id


def test_a_conversation_without_an_answer_says_so(bpe: Tokenizer) -> None:
    with pytest.raises(InputError, match="no assistant's answer"):
        chat_examples(bpe, TALK[:2])
    with pytest.raises(InputError, match="no assistant's answer at its end"):
        chat_examples(bpe, TALK[:4], turns="last")
    with pytest.raises(InputError, match="turns is 'first'; choose one of all, last, each"):
        chat_examples(bpe, TALK, turns="first")


# --- many


def talk(size: int, turns: int = 1) -> list[dict[str, str]]:
    part = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ab " * size}]
    return part * turns


def test_what_does_not_fit_is_counted_and_said(bpe: Tokenizer) -> None:
    given = [talk(2), talk(60), talk(3)[:1], talk(3, 6), {"messages": talk(4)}]
    with pytest.warns(
        UserWarning, match=re.escape("of 5 conversations 3 are left out (2 longer than a row, 1 without")
    ):
        chats = gather_chats(bpe, given, 64)
    assert len(chats) == 2 and chats.left_out == {"longer than a row": 2, "without an answer": 1} and not chats.cut
    with pytest.raises(InputError, match=r"conversation 1 has \d+ tokens, rows hold 64"):
        gather_chats(bpe, given, 64, too_long="error")
    with pytest.raises(InputError, match="all 1 conversations are left out: 1 longer than a row"):
        gather_chats(bpe, given[1:2], 64)
    with pytest.raises(InputError, match="there are no conversations"):
        gather_chats(bpe, [], 64)
    with pytest.raises(InputError, match=r"conversation 1: message 0 has the role 'usr' \(nearest: 'user'\)"):
        gather_chats(bpe, [talk(2), [{"role": "usr", "content": "x"}]], 64)
    with pytest.raises(InputError, match=r"conversation 0: it has the keys \['text'\], and no 'messages'"):
        gather_chats(bpe, [{"text": "x"}], 64)


def test_a_long_conversation_is_cut_behind_an_answer_where_that_is_asked(bpe: Tokenizer) -> None:
    with pytest.warns(UserWarning, match="1 cut behind an answer to fit"):
        chats = gather_chats(bpe, [talk(3, 6)], 64, too_long="cut")
    ids, targets = chats[0]
    turns = int((ids == bpe.eos_id).sum()) // 2
    assert 1 <= turns < 6 and len(ids) - 1 <= 64 and targets[-1] and chats.cut == 1
    (whole,) = chat_examples(bpe, talk(3, turns))
    assert ids.tolist() == whole.ids and targets.tolist() == whole.targets
    (more,) = chat_examples(bpe, talk(3, turns + 1))
    assert len(more.ids) - 1 > 64


def test_a_token_over_the_border_of_an_answer_leaves_it_out(bpe: Tokenizer) -> None:
    loose = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    joined = [{"role": "user", "content": "The tex"}, {"role": "assistant", "content": "t wrapper"}]
    apart = [{"role": "user", "content": "The text"}, {"role": "assistant", "content": " wrapper"}]
    with pytest.raises(InputError, match="a token reaches over the border of an answer at 'The tex'"):
        chat_examples(bpe, joined, template=loose)
    with pytest.warns(UserWarning, match="1 with a token over the border of an answer"):
        chats = gather_chats(bpe, [joined, apart], 64, template=loose)
    assert learnt(bpe, Example(*map(list, chats[0]))) == [" wrapper<|im_end|>"]


def test_rows_hold_each_conversation_once_and_predict_the_next_token(bpe: Tokenizer) -> None:
    chats = gather_chats(bpe, [talk(size % 7 + 1) for size in range(60)], 80)
    expected = Counter(tuple(chats[number][0].tolist()) for number in range(len(chats)))
    for epoch in range(2):
        seen: Counter[tuple[int, ...]] = Counter()
        filled = total = 0
        for batch in chat_batches(chats, 4).once(epoch):
            filled, total = filled + int((batch.mask > 0).sum()), total + batch.mask.numel()
            for ids, targets, mask in zip(batch.ids, batch.targets, batch.mask):
                for number in range(1, int(mask.max()) + 1):
                    given, wanted = ids[mask == number], targets[mask == number]
                    kept = wanted[:-1] != NO_TARGET
                    assert torch.equal(given[1:][kept], wanted[:-1][kept]) and wanted[-1] == bpe.eos_id
                    seen[*given.tolist(), int(wanted[-1])] += 1
        assert seen == expected and filled / total > 0.8


def test_positions_of_conversations_and_preferences_are_taken_up_again(bpe: Tokenizer) -> None:
    def chat(seed: int = 0) -> Any:
        return chat_batches(gather_chats(bpe, [talk(size % 9 + 1) for size in range(40)], 64), 2, seed=seed)

    def preference(seed: int = 0) -> Any:
        pairs = [{"prompt": "q", "chosen": "yes " * (n % 5 + 1), "rejected": "no"} for n in range(40)]
        return preference_batches(gather_preferences(bpe, pairs, 64), 2, seed=seed)

    for make in (chat, preference):
        batches, again = make(), make()
        for _ in range(5):
            next(batches)
        again.restore(json.loads(json.dumps(batches.state())))
        for _ in range(20):
            assert all(torch.equal(a, b) for a, b in zip(next(batches), next(again)))
        assert batches.epoch > 1
        with pytest.raises(FileError, match="the saved data position has seed"):
            make(1).restore(batches.state())


# --- preferences


def test_chosen_and_rejected_stand_side_by_side_behind_their_prompt(bpe: Tokenizer) -> None:
    given = [
        {"prompt": "Who?", "chosen": "A model.", "rejected": "Nobody knows it."},
        {"prompt": TALK[:4], "chosen": [TALK[4]], "rejected": [{"role": "assistant", "content": "No."}]},
    ]
    data = gather_preferences(bpe, given, 600)
    batch = next(preference_batches(data, 1))
    assert batch.n_targets == 2 and batch.mask.max() == 4
    texts = [bpe.decode(batch.ids[batch.mask == n].tolist(), False) for n in (1, 2, 3, 4)]
    wanted = [bpe.decode([t for t in batch.targets[batch.mask == n].tolist() if t != NO_TARGET], False) for n in (1, 2)]
    first = 0 if "Who?" in texts[0] else 1
    prompts = [render([{"role": "user", "content": "Who?"}], CHATML), render(TALK[:4], CHATML)]
    assert texts[0].startswith(prompts[first]) and texts[1].startswith(prompts[first])
    assert texts[2].startswith(prompts[1 - first]) and texts[3].startswith(prompts[1 - first])
    answers = [("A model.", "Nobody knows it."), ("Still a model 模型.", "No.")][first]
    assert wanted == [f"{answer}<|im_end|>" for answer in answers]


def test_preferences_that_cannot_be_used_are_counted_or_refused(bpe: Tokenizer) -> None:
    good = {"prompt": "q", "chosen": "yes", "rejected": "no"}
    long = good | {"chosen": "yes " * 99}
    with pytest.warns(UserWarning, match="1 of 2 preferences are left out"):
        assert len(gather_preferences(bpe, [good, long], 64).pairs) == 1
    with pytest.raises(InputError, match=r"preference 1 has \d+ tokens, rows hold 64"):
        gather_preferences(bpe, [good, long], 64, too_long="error")
    with pytest.raises(InputError, match="all 1 preferences are left out"):
        gather_preferences(bpe, [long], 64)
    with pytest.raises(InputError, match="preference 0: it is no {'prompt'"):
        gather_preferences(bpe, [{"chosen": "x"}], 64)
    with pytest.raises(InputError, match="preference 0: a text or messages are needed, not int"):
        gather_preferences(bpe, [good | {"chosen": 5}], 64)
    with pytest.raises(InputError, match="there are no preferences"):
        gather_preferences(bpe, [], 64)


# --- real data


def test_real_conversations_in_a_real_vocabulary_equal_those_of_inference(shared_data: Path, tmp_path: Path) -> None:
    files = shared_data / "generation/dolly_hhrlhf_train_small.jsonl.gz", shared_data / "tokenizers"
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(gzip.decompress((files[1] / "llama2-tokenizer.json.gz").read_bytes()))
    names = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    tokenizer = load_tokenizer(folder)
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
        "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
    )
    lines = [json.loads(line) for line in gzip.decompress(files[0].read_bytes()).decode().split("\n")[:150]]
    talks = [
        [{"role": "user", "content": line["prompt"]}, {"role": "assistant", "content": line["response"]}]
        for line in lines
    ]
    with pytest.warns(UserWarning, match="longer than a row"):
        chats = gather_chats(tokenizer, talks, 512, template=template)
    assert len(chats) + sum(chats.left_out.values()) == 150 and chats.left_out.keys() == {"longer than a row"}
    kept = {tuple(chats[number][0].tolist()) for number in range(len(chats))}
    for talk_ in talks:
        prompt = chat_ids(tokenizer, talk_[:1], template=template)
        (example,) = chat_examples(tokenizer, talk_, template=template)
        assert example.ids[: len(prompt)] == prompt and example.targets.index(True) == len(prompt)
        assert example.ids[-1] == tokenizer.eos_id and example.ids.count(tokenizer.bos_id or 0) == 1
        assert (tuple(example.ids) in kept) == (len(example.ids) - 1 <= 512)
