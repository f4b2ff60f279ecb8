"""Messages → the text and the ids that a chat model was trained on.

In: messages ({"role": …, "content": …}) and a chat template, which comes from a model folder and is not trusted.
Out: text, or ids with exactly one BOS where the vocabulary has one.

    render         messages and template → text
    chat_ids       messages and tokenizer → ids; in three steps: template_of, render, text_ids
    variables      what a template is told of a vocabulary
    check          messages as plain dictionaries, or an InputError that names the message

A template is a program, and a sandbox inside this process cannot stop it: one multiplication of strings or one power
of numbers runs in C for hours and holds every thread, and a doubled string fills the memory in forty steps. So
templates run in a process of their own (render_worker.py), where Jinja's immutable sandbox guards the objects and the
system guards time and memory: a timer of processor time, a limit of address space, and the clock here as the last
word. This works from every thread. The process stays for the next render of the same template (a millisecond), and is
never shared between two templates.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import importlib.util
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from yanmo.errors import ConfigError, InputError, nearest
from yanmo.tokens.settings import MAX_TEMPLATE
from yanmo.tokens.tokenizer import Tokenizer

CHAT_ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
SECONDS = 1.0  # of processor time, and one more for each 10 MB of messages
PATIENCE = 10.0  # seconds on the clock, which a busy machine may need for one second of work
OUTPUT = 4 * 2**20  # characters that a template may write beyond eight times its input
MAX_INPUT = 64 * 2**20  # bytes of messages as JSON
IDLE = 4  # processes that wait for their template to be used again
PLAIN = (  # for a vocabulary that has no template of its own: names, line ends, and the eos token behind an answer
    "{% for message in messages %}{{ message['role'] | capitalize + ':\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif %}"
)
REASONING = ("reasoning_content", "thinking", "reasoning")


def render(
    messages: Sequence[Mapping[str, Any]],
    template: str,
    *,
    bos: str | None = None,
    eos: str | None = None,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    now: datetime | None = None,
    **kwargs: Any,
) -> str:
    """The text of a conversation, as transformers' apply_chat_template writes it.

    tools: JSON schemas. now: the moment that strftime_now writes (by default the local time). kwargs: further variables
    of the template. Raises ConfigError for a template that is broken, forbidden or without end, and InputError for
    messages that are malformed or that the template refuses.
    """
    if not isinstance(template, str) or len(template) > MAX_TEMPLATE:
        raise ConfigError(
            f"a chat template is a text of at most {MAX_TEMPLATE:,} characters; check tokenizer_config.json"
        )
    values = {
        "messages": check(messages),
        "tools": _tools(tools),
        "documents": None,
        "add_generation_prompt": bool(add_generation_prompt),
        **{name: token for name, token in (("bos_token", bos), ("eos_token", eos)) if token is not None},
        **kwargs,
    }
    try:
        size = len(json.dumps(values))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"messages, tools and variables of a template are JSON values ({error}); convert them"
        ) from None
    if size > MAX_INPUT:
        raise InputError(f"messages of {size:,} bytes, at most {MAX_INPUT:,} are rendered; shorten the conversation")
    request = {
        "template": template,
        "values": values,
        "now": (now or datetime.now()).isoformat(),
        "seconds": SECONDS + size / 10e6,
        "size": OUTPUT + 8 * size,
    }
    return _text(_pool().ask(template, request))


def chat_ids(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    template: str | None = None,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    **kwargs: Any,
) -> list[int]:
    """The ids of a conversation, with one BOS at the beginning if the tokenizer or the template puts one there.

    template: by default the tokenizer's own (the one named tool_use where tools are given and it has one).
    """
    template = template_of(tokenizer, template, tools)
    names = variables(tokenizer) | kwargs
    return text_ids(
        tokenizer, render(messages, template, add_generation_prompt=add_generation_prompt, tools=tools, **names)
    )


def template_of(tokenizer: Tokenizer, template: str | None = None, tools: object = None) -> str:
    """The template for a conversation: the given one, or the tokenizer's own; none at all is a ConfigError."""
    if template is None:
        templates = tokenizer.chat_templates
        template = templates.get("tool_use") if tools else None
        template = template or tokenizer.chat_template
    if template is None:
        raise ConfigError(
            f"{tokenizer.settings.source}: no chat template in it, so it is no chat model; give a template, or "
            "continue plain text instead"
        )
    return template


def with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    """The same vocabulary with another chat template, which is saved with it."""
    return Tokenizer(tokenizer.engine, dataclasses.replace(tokenizer.settings, templates={"default": template}))


def variables(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a template is told of the vocabulary: `bos` and `eos` as `render` takes them, and the other tokens."""
    names = {f"{role}_token": name for role, name in tokenizer.engine.names.items() if name is not None}
    return {"bos": names.pop("bos_token", None), "eos": names.pop("eos_token", None), **names}


def text_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a rendered text, with one BOS at the beginning if the tokenizer or the text puts one there."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    first = tokenizer.bos_id
    if first is None:
        return ids
    count = next((place for place, number in enumerate(ids) if number != first), len(ids))
    if count > 1:
        return ids[count - 1 :]
    framed = tokenizer.encode("")[:1] == [first]
    return [first, *ids] if count == 0 and framed else ids


def check(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as plain dictionaries: known roles, content as text or a list of text parts, no keys that are None."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InputError(f"messages are a list of {{'role': …, 'content': …}}, not {type(messages).__name__}")
    if not messages:
        raise InputError("an empty conversation; give at least one message")
    return [_message(place, message) for place, message in enumerate(messages)]


def _message(place: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InputError(f"message {place} is a {type(message).__name__}; a message is {{'role': …, 'content': …}}")
    plain = {key: value for key, value in message.items() if value is not None}
    role = plain.get("role")
    if role not in CHAT_ROLES:
        hint = nearest(role, CHAT_ROLES) if isinstance(role, str) else ""
        raise InputError(f"message {place} has the role {role!r}{hint}; roles are {', '.join(CHAT_ROLES)}")
    content = plain.get("content")
    if isinstance(content, (list, tuple)):
        for number, part in enumerate(content):
            good = isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
            if not good:
                raise InputError(
                    f"part {number} of message {place} is no {{'type': 'text', 'text': …}}; only text is read here"
                )
    elif content is None:
        if not any(key in plain for key in ("tool_calls", "function_call", *REASONING)):
            raise InputError(f"message {place} ({role}) has no content; give it a text")
    elif not isinstance(content, str):
        raise InputError(f"the content of message {place} is a {type(content).__name__}; give it a text")
    thought = next((plain[key] for key in REASONING if key in plain), None)
    if thought is not None:  # servers name it in three ways, templates read the first two
        plain = {"thinking": thought, **plain, "reasoning_content": thought}
    return plain


def _tools(tools: Any) -> list[Any] | None:
    if tools is None:
        return None
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Sequence):
        raise InputError(f"tools are a list of JSON schemas, not {type(tools).__name__}")
    for place, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise InputError(f"tool {place} is a {type(tool).__name__}; give its JSON schema")
    return list(tools)


def _text(answer: dict[str, Any]) -> str:
    """The text of an answer, or the error that it stands for."""
    if "text" in answer:
        return answer["text"]
    kind, message = answer["error"], " ".join(str(answer.get("message") or "").split())
    where = f" in line {answer['line']}" if answer.get("line") else ""
    if kind == "refused":
        raise InputError(f"the chat template refuses these messages: {message}")
    text = {
        "security": f"does what no template may do ({message})",
        "syntax": f"is no valid Jinja{where} ({message})",
        "memory": "needs more memory than a template may use",
        "size": "writes more text than a template may write",
        "time": f"runs for more than {SECONDS:g} s, which is the limit",
        "died": "ends the process in which it runs",
    }.get(kind, f"fails{where} ({message})")
    raise ConfigError(f"the chat template {text}; use another template")


class Worker:
    """One process for one template."""

    def __init__(self) -> None:
        folders = []
        for name in ("jinja2", "markupsafe"):
            found = importlib.util.find_spec(name)
            if found is None or found.origin is None or not sys.executable:
                raise ConfigError(f"chat templates need Python and the package {name}: pip install {name}")
            folders.append(str(Path(found.origin).parents[1]))
        script = Path(__file__).with_name("render_worker.py")
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), *dict.fromkeys(folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=os.name == "posix",  # Ctrl-C is for this process, which then ends the other
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One answer; a process that is silent for too long is ended, from another thread since reading blocks."""
        source, sink = self.process.stdout, self.process.stdin
        assert source is not None and sink is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            self.process.kill()

        clock = threading.Timer(request["seconds"] + (PATIENCE if os.name == "posix" else 2.0), end)
        clock.daemon = True
        clock.start()
        try:
            body = json.dumps(request).encode()
            sink.write(struct.pack(">I", len(body)) + body)
            sink.flush()
            head = source.read(4)
            body = source.read(struct.unpack(">I", head)[0]) if len(head) == 4 else b""
            return json.loads(body)
        except (OSError, ValueError):
            self.close()
            timed = late.is_set() or self.process.returncode in _TIMED
            return {"error": "time" if timed else "died"}
        except BaseException:  # Ctrl-C: what the process would still write belongs to nobody
            self.close()
            raise
        finally:
            clock.cancel()

    def close(self) -> None:
        """End the process and its pipes."""
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        if self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)
        self.process.kill()
        self.process.wait()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


class Pool:
    """Processes that wait, each for the template that it has run before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[tuple[str, Worker]] = []
        atexit.register(self.close)

    def ask(self, template: str, request: dict[str, Any]) -> dict[str, Any]:
        worker = self._take(template) or Worker()
        answer = worker.ask(request)
        if worker.alive:
            self._give(template, worker)
        return answer

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for _, worker in idle:
            worker.close()

    def _take(self, template: str) -> Worker | None:
        with self._lock:
            for place, (known, worker) in enumerate(self._idle):
                if known == template:
                    del self._idle[place]
                    return worker if worker.alive else None
        return None

    def _give(self, template: str, worker: Worker) -> None:
        with self._lock:
            self._idle.append((template, worker))
            oldest = self._idle.pop(0)[1] if len(self._idle) > IDLE else None
        if oldest is not None:
            oldest.close()


_TIMED = (-27, -14)  # SIGPROF on Linux and macOS; SIGALRM
_POOLS: dict[int, Pool] = {}


def _pool() -> Pool:
    """The pool of this process: one that was forked has pipes of its own."""
    pool = _POOLS.get(os.getpid())
    return pool if pool is not None else _POOLS.setdefault(os.getpid(), Pool())
