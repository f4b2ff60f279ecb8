"""Chat templates write what transformers writes, and a hostile one ends in an error, soon and in bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
from vocabularies import config

from yanmo.errors import ConfigError, InputError
from yanmo.tokens import chat
from yanmo.tokens.chat import chat_ids, render
from yanmo.tokens.tokenizer import load_tokenizer

CHATML = """{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}{{ '\\n' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == 'assistant' and message.reasoning_content is defined and loop.index0 > ns.last %}
        {%- set thought = message.reasoning_content.strip('\\n') %}
        {{- '<|im_start|>assistant\\n<think>\\n' + thought + '\\n</think>\\n' + content }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>' ~ call.function.arguments | tojson(indent=2) ~ '</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

LLAMA3 = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" + system_message + eos_token }}
{% for message in messages %}
    {% if message.role == 'assistant' %}
        {% generation %}
{{ message['content'] | trim }}{{ eos_token }}
        {% endgeneration %}
    {% else %}
<|{{ message['role'] }}|>
{{ message['content'] }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|assistant|>
{% endif %}"""

MISTRAL = """{{ bos_token }}{% for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Roles must alternate user/assistant/user') }}
{%- endif -%}
{%- if loop.index0 > 5 %}{% break %}{% endif -%}
{%- if message['role'] == 'user' %} [INST] {{ message['content'] }} [/INST]
{%- else %} {{ message['content'] }}{{ eos_token }}{% endif %}
{%- endfor %}"""

TALK = [
    {"role": "user", "content": 'Who <b>are</b> you & 你好 "quoted"?\n  indented'},
    {"role": "assistant", "content": "  A model.  ", "reasoning": "\nhm\n"},
    {"role": "user", "content": "And now 🙂?"},
]
SYSTEM = [{"role": "system", "content": " Be brief. "}, *TALK]
CALL = [
    *TALK,
    {
        "role": "assistant",
        "content": None,
        "thinking": "look",
        "tool_calls": [{"function": {"arguments": {"x": "é<"}}}],
    },
    {"role": "tool", "content": "42", "name": None},
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "<'é'>", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, vocab_text):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text(vocab_text, "utf-8")
    config(folder, tokenizer_class="BertTokenizer", bos_token="<s>", eos_token="</s>")
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("template", [CHATML, LLAMA3, MISTRAL], ids=["chatml", "llama3", "mistral"])
@pytest.mark.parametrize("messages", [TALK, SYSTEM, CALL], ids=["talk", "system", "call"])
@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
def test_the_text_is_that_of_transformers(theirs, template, messages, prompt, tools):
    def reference():
        return theirs.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=prompt, tools=tools, tokenize=False
        )

    try:
        expected = reference()
    except Exception:
        with pytest.raises((InputError, ConfigError)):
            render(messages, template, bos="<s>", eos="</s>", add_generation_prompt=prompt, tools=tools)
        return
    got = render(messages, template, bos="<s>", eos="</s>", add_generation_prompt=prompt, tools=tools)
    assert got == expected
    assert len(got) > 20


def test_the_words_of_raise_exception_reach_the_user():
    with pytest.raises(InputError, match="refuses these messages: Roles must alternate user/assistant/user"):
        render([TALK[0], TALK[0]], MISTRAL)


def test_strftime_now_writes_the_moment_that_is_given():
    moment = datetime(2024, 2, 29, 23, 5)
    assert render(TALK, "{{ strftime_now('%d %b %Y %H:%M') }}", now=moment) == "29 Feb 2024 23:05"
    assert render(TALK, "{{ strftime_now('%Y') }}") == datetime.now().strftime("%Y")


def test_further_variables_reach_the_template():
    assert render(TALK, "{{ enable_thinking }} {{ date_string }}", enable_thinking=False, date_string="x") == "False x"


HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a huge range": "{{ range(10**9) | list }}",
    "a long string": "{{ 'a' * 10**10 }}",
    "a power": "{{ 9 ** (9 ** 9) % 7 }}",
    "doubling": "{% set n = namespace(x='aa') %}{% for i in range(64) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "a width": "{{ '%999999999999d' % 1 }}",
    "a join": "{{ (['a' * 1000000] * 100000) | join }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "brackets": "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "endless output": "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "a class": "{{ ''.__class__.__mro__ }}",
    "globals": "{{ lipsum.__globals__['os'].system('id') }}",
    "init": "{{ cycler.__init__.__globals__ }}",
    "a namespace": "{% set n = namespace(_x=1) %}",
    "a later name": "{% set n = namespace() %}{% set n.__x__ = 1 %}",
    "an import": "{% include '/etc/passwd' %}",
    "a change of the messages": "{{ messages.append(1) }}",
    "no Jinja": "{% if %}",
    "an unknown filter": "{{ 1 | nonsense }}",
    "an undefined value": "{{ x.y.z }}",
}


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_template_is_a_config_error_soon(template, monkeypatch):
    monkeypatch.setattr(chat, "PATIENCE", 60)  # what ends it is the timer in the process, not the clock outside
    start = time.monotonic()
    with pytest.raises(ConfigError, match="the chat template") as caught:
        render(TALK, template)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 20  # one second of processor time, on a machine that may be busy


def test_a_process_that_is_silent_is_ended_by_the_clock(monkeypatch):
    monkeypatch.setattr(chat, "PATIENCE", 0.0)
    monkeypatch.setattr(chat, "SECONDS", 0.0)
    with pytest.raises(ConfigError, match="runs for more than"):
        render(TALK, HOSTILE["nested loops"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux bounds the memory of a process")
def test_a_template_has_half_a_gigabyte():
    assert render(TALK, "{{ ('a' * 10**8) | length }}") == "100000000"
    with pytest.raises(ConfigError, match="needs more memory"):
        render(TALK, "{{ ('a' * 10**9) | length }}")


def test_a_hostile_template_does_not_hold_other_threads():
    thread = threading.Thread(target=lambda: pytest.raises(ConfigError, render, TALK, HOSTILE["nested loops"]))
    thread.start()
    count = 0
    while thread.is_alive():
        assert render(TALK, "{{ messages | length }}") == "3"
        count += 1
    assert count > 3


def test_a_template_leaves_nothing_for_the_next(monkeypatch):
    monkeypatch.setattr(chat, "_POOLS", {})
    assert render(TALK, "{% set x = 1 %}{{ x }}") == "1"
    assert render(TALK, "{{ x }}") == ""
    processes = {worker.process.pid for _, worker in chat._pool()._idle}
    assert len(processes) == 2  # one for each template
    assert render(TALK, "{{ x }}") == ""
    assert {worker.process.pid for _, worker in chat._pool()._idle} == processes
    chat._pool().close()


def test_few_processes_wait(monkeypatch):
    monkeypatch.setattr(chat, "_POOLS", {})
    for number in range(chat.IDLE + 3):
        render(TALK, f"{number}")
    assert len(chat._pool()._idle) == chat.IDLE
    chat._pool().close()
    assert chat._pool()._idle == []


def test_the_processes_end_with_this_one():
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from yanmo.tokens import chat\n"
        "chat.render([{'role': 'user', 'content': 'x'}], '1')\n"
        "print(chat._pool()._idle[0][1].process.pid)\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, root], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert not Path(f"/proc/{done.stdout.strip()}").exists()


BAD = [
    ("hello", "messages are a list"),
    ({"role": "user"}, "messages are a list"),
    ([], "empty conversation"),
    (["hello"], "message 0 is a str"),
    ([{"content": "x"}], "message 0 has the role None"),
    ([{"role": "usr", "content": "x"}], "role 'usr'.*nearest: 'user'"),
    ([TALK[0], {"role": "assistant"}], "message 1 .assistant. has no content"),
    ([{"role": "user", "content": 5}], "content of message 0 is a int"),
    ([{"role": "user", "content": [{"type": "image"}]}], "part 0 of message 0"),
    ([{"role": "user", "content": "x", "more": {1, 2}}], "JSON values"),
]


@pytest.mark.parametrize(("messages", "why"), BAD)
def test_malformed_messages_are_named(messages, why):
    with pytest.raises(InputError, match=why):
        render(messages, "x")


@pytest.mark.parametrize("tools", ["f", {"a": 1}, [print]])
def test_malformed_tools_are_named(tools):
    with pytest.raises(InputError, match="tool"):
        render(TALK, "x", tools=tools)


def test_text_parts_are_passed_on():
    message = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    assert render([message], "{{ messages[0].content[0].text }}") == "hi"


@pytest.mark.parametrize(
    "template", ["{{ bos_token }}{{ text }}", "{{ text }}", "{{ bos_token }}{{ bos_token }}{{ text }}"]
)
def test_ids_begin_with_exactly_one_bos(llama, template):
    text = template.replace("text", "messages[0].content")
    value = json.loads((llama / "tokenizer_config.json").read_text("utf-8"))
    config(llama, **value, chat_template=text)
    tokenizer = load_tokenizer(llama)
    ids = chat_ids(tokenizer, [{"role": "user", "content": "the model"}])
    assert ids[0] == tokenizer.bos_id
    assert ids.count(tokenizer.bos_id) == 1
    assert tokenizer.decode(ids).strip() == "the model"


def test_a_vocabulary_without_bos_gets_none(pair):
    config(pair, tokenizer_class="Qwen2Tokenizer", chat_template="{{ messages[0].content }}{{ eos_token }}")
    tokenizer = load_tokenizer(pair)
    ids = chat_ids(tokenizer, [{"role": "user", "content": "the"}])
    assert ids == [*tokenizer.encode("the"), tokenizer.eos_id]


def test_the_template_of_a_folder_is_chosen_as_transformers_does(llama):
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    config(llama, tokenizer_class="LlamaTokenizer", chat_template=named)
    tokenizer = load_tokenizer(llama)
    message = [{"role": "user", "content": "x"}]
    assert tokenizer.decode(chat_ids(tokenizer, message)) == "plain"
    assert tokenizer.decode(chat_ids(tokenizer, message, tools=TOOLS)) == "tools"
    assert tokenizer.decode(chat_ids(tokenizer, message, template="mine")) == "mine"
    (llama / "chat_template.jinja").write_text("from the file", "utf-8")
    assert load_tokenizer(llama).chat_template == "from the file"


def test_a_folder_without_a_template_is_no_chat_model(bert):
    with pytest.raises(ConfigError, match="no chat template"):
        chat_ids(load_tokenizer(bert), [{"role": "user", "content": "x"}])
